"""Lets requests in: by key, and not too many of one caller."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.keys import Key, KeyRing, digest_of
from service.access.purpose import Purpose, purpose_of
from service.access.rates import Rates
from service.access.slots import Slots
from service.errors import (
    ForbiddenError,
    ServiceError,
    StartupError,
    TooManyRequestsError,
    UnauthorizedError,
    error_response,
    retry_after,
)
from service.logs import CALLER
from service.settings import Settings

Kind = Literal["inference", "control"]

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="reslens"'}


class Access:
    """The keys for inference and for control, what is open without one, and the rates.

    Where there are keys for inference, reading needs a key of either kind, and control one of its own: without any
    it is refused. Raises `StartupError`.
    """

    def __init__(self, settings: Settings, slots: Slots | None = None) -> None:
        """`slots` are those that several processes share."""
        try:
            self._inference = _ring(settings.inference_keys, settings.inference_keys_file)
            self._control = _ring(settings.control_keys, settings.control_keys_file)
        except (OSError, ValueError) as error:
            raise StartupError(f"keys cannot be read: {error}") from error
        self._rates = Rates(settings.rate_limit, settings.rate_burst, slots=slots)
        self._open: set[Purpose] = {"open"}
        if settings.open_health:
            self._open.add("health")
        if settings.open_metrics:
            self._open.add("metrics")

    @property
    def limited(self) -> bool:
        """Whether there is anything to ask of a request."""
        return bool(self._inference or self._control or self._rates.limited)

    @property
    def keyed(self) -> bool:
        """Whether anything needs a key."""
        return self._inference is not None or self._control is not None

    def kinds(self, purpose: Purpose) -> tuple[Kind, ...]:
        """The kinds of keys of which any is enough; none where no key is asked."""
        asked = self._control if purpose == "control" else self._inference
        if purpose in self._open or (asked is None and self._inference is None):
            return ()
        if purpose in ("inference", "control"):
            return (purpose,)
        return ("inference", "control") if self._control else ("inference",)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that may not be made; None if it may, and then its scope says whose it is."""
        address = (scope.get("client") or ("",))[0]
        try:
            purpose = purpose_of(scope["method"], scope["path"])
            scope[CALLER] = self.admit(purpose, _secret(scope["headers"]), address)
        except ServiceError as error:
            return error_response(error.status, str(error), _headers(error))
        return None

    def admit(self, purpose: Purpose, secret: bytes | None, address: str) -> str | None:
        """The name of the key's holder, None where no key is asked.

        Raises `UnauthorizedError`, `ForbiddenError` or `TooManyRequestsError`.
        """
        if purpose in self._open:
            return None
        key = self._key(purpose, secret)
        # An address cannot be mistaken for a name: names have no space.
        wait = self._rates.wait(key.name, key.rate) if key else self._rates.wait(f"address {address}")
        if wait:
            raise TooManyRequestsError("too many requests: wait as long as Retry-After says", math.ceil(wait))
        return key.name if key else None

    def _key(self, purpose: Purpose, secret: bytes | None) -> Key | None:
        if not self.kinds(purpose):
            return None
        if secret is None:
            raise UnauthorizedError("a key is needed: send `Authorization: Bearer <key>` or `X-API-Key: <key>`")
        digest = digest_of(secret)
        inference = self._inference.holder(digest) if self._inference else None
        control = self._control.holder(digest) if self._control else None
        if purpose != "control" and inference:
            return inference
        if purpose != "inference" and control:
            return control
        if not inference and not control:
            raise UnauthorizedError("the key is not known: it is wrong, or was taken back")
        if purpose == "inference":
            raise ForbiddenError("this key is for control alone: use one for inference")
        reason = "" if self._control else ", of which there are none: see RESLENS_CONTROL_KEYS_FILE"
        raise ForbiddenError(f"this key is for inference alone: to change what is served use one for control{reason}")


def _ring(given: str | None, file: Path | None) -> KeyRing | None:
    """No ring if there is no setting; one without keys, which lets nobody in, if the setting is empty."""
    return None if given is None and file is None else KeyRing(given or "", file)


class Gate:
    """ASGI middleware: a request that may not be made is refused before its body is read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if refusal := self._access.refusal(scope):
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _headers(error: ServiceError) -> dict[str, str]:
    return CHALLENGE if isinstance(error, UnauthorizedError) else retry_after(error)


def _secret(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key that came; the one in `Authorization` if there are two."""
    secret = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            secret = value
    return secret
