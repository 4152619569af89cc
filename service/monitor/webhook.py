"""Tells another program of new findings, in a thread of its own."""

import logging
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import httpx
import orjson

from models.diagnosis.finding import Finding
from models.signing import SIGNATURE, signature

logger = logging.getLogger("reslens")

TIMEOUT_SECONDS = 5.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
ATTEMPTS = 8
MAX_PENDING = 100
# The receiver is asked again after these; other refusals are final.
TRY_AGAIN = (408, 425, 429)


class Deliveries(NamedTuple):
    """What became of the messages so far."""

    delivered: int
    pending: int
    given_up: int


class Webhook:
    """Posts messages in order, each until it is taken or was tried `attempts` times; whoever tells never waits."""

    def __init__(
        self,
        url: str,
        secret: str,
        first_wait: float = FIRST_WAIT,
        attempts: int = ATTEMPTS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._url = url
        self._secret = secret
        self._first_wait = first_wait
        self._attempts = attempts
        self._timeout = timeout
        self._pending: deque[bytes] = deque()
        self._delivered = self._given_up = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, model: str, version: int, findings: Sequence[Finding]) -> None:
        """Queue one message; when too many wait, the oldest is given up."""
        body = orjson.dumps(
            {
                "event": "findings.confirmed",
                "id": secrets.token_hex(16),
                "timestamp": datetime.now(UTC).isoformat(),
                "model": model,
                "version": version,
                "findings": [finding.model_dump() for finding in findings],
            }
        )
        with self._changed:
            self._pending.append(body)
            if len(self._pending) > MAX_PENDING:
                self._pending.popleft()
                self._given_up += 1
            self._changed.notify_all()

    @property
    def deliveries(self) -> Deliveries:
        with self._changed:
            return Deliveries(self._delivered, len(self._pending), self._given_up)

    def close(self, seconds: float) -> None:
        """Deliver what waits, for at most so long; what failed before is not tried again."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        with httpx.Client(timeout=self._timeout) as client:
            while (body := self._next()) is not None:
                delivered = self._deliver(client, body)
                with self._changed:
                    if self._pending and self._pending[0] is body:
                        self._pending.popleft()
                        self._delivered += delivered
                        self._given_up += not delivered

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or bool(self._pending))
            return self._pending[0] if self._pending else None

    def _deliver(self, client: httpx.Client, body: bytes) -> bool:
        wait, reason = self._first_wait, ""
        for attempt in range(self._attempts):
            if attempt and not self._sleep(wait):
                break
            wait = min(wait * (2 if attempt else 1), LONGEST_WAIT)
            try:
                status = self._post(client, body)
            # A malformed address is no HTTPError.
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if 200 <= status < 300:
                return True
            reason = f"status {status}"
            if status < 500 and status not in TRY_AGAIN:
                break
        logger.warning("a message of the webhook is given up: %s", reason)
        return False

    def _post(self, client: httpx.Client, body: bytes) -> int:
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: signature(self._secret, body),
        }
        # The answer is not read: only its status says something, and it may be of any length.
        with client.stream("POST", self._url, content=body, headers=headers) as response:
            return response.status_code

    def _sleep(self, seconds: float) -> bool:
        """False when there is no more time."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closing, seconds)
