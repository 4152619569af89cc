"""A service somewhere else, asked over HTTP."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

SECONDS = 60
DEFAULT_URL = "http://127.0.0.1:8000"
# Statuses by which a service refuses one image, not the request for it.
IMAGE_REFUSED = (413, 422)


class RemoteError(Exception):
    """What a service answered instead of what it was asked, or why it did not answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Remote:
    """The service at `url`, asked with a key if there is one.

    Its answers are JSON, as text. Raises `ValueError` for a URL that is none, and `RemoteError` when asked.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not the URL of a service: write one like {DEFAULT_URL}")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError("the key has characters that no key has: write it as `python -m service key` printed it")
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            self._client = httpx.Client(base_url=url, headers=headers, timeout=SECONDS)
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is not the URL of a service: {error}") from error
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def get(self, path: str, **parameters: str | int | None) -> str:
        """What the service answers at a path; parameters that are None are left out."""
        return self._ask("GET", path, parameters)

    def of(self, model: str, what: str = "", **parameters: str | int | None) -> str:
        """What the service knows about a model: its description, or one part of it."""
        return self.get(f"/v1/models/{quote(model, safe='')}{what and f'/{what}'}", **parameters)

    def classify(self, model: str, file: str, content: bytes, **options: str | int | None) -> str:
        """What the service says about the bytes of one image."""
        return self._ask("POST", f"/v1/models/{quote(model, safe='')}/classify", options, {"file": (file, content)})

    def model(self, named: str | None) -> str:
        """The name of the model to ask: the one named, or the only one; raises `ValueError` where there are others."""
        if named is not None:
            return named
        names = [model["name"] for model in json.loads(self.get("/v1/models"))["models"]]
        if len(names) != 1:
            raise ValueError(f"{self._url} serves {len(names)} models: name one by --model, {', '.join(names)}")
        return str(names[0])

    def _ask(
        self,
        method: str,
        path: str,
        parameters: dict[str, str | int | None],
        files: dict[str, tuple[str, bytes]] | None = None,
    ) -> str:
        given = {name: value for name, value in parameters.items() if value is not None}
        try:
            response = self._client.request(method, path, params=given, files=files)
        except httpx.HTTPError as error:
            raise RemoteError(f"{self._url} does not answer ({error}): is a service there?") from error
        if response.status_code != 200:
            raise RemoteError(_complaint(response), response.status_code)
        return response.text


def read_key(file: Path | None, environment: str | None) -> str | None:
    """The key in a file, else in the environment; raises `OSError` for a file that cannot be read."""
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return environment.strip() if environment else None


def _complaint(response: httpx.Response) -> str:
    """What went wrong, in the words of the service if it is one."""
    try:
        answer: Any = response.json()
        message = str(answer["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered {response.status_code} {response.reason_phrase}: that is no ResLens service"
    if response.status_code == 401:
        return f"{message}; here by RESLENS_KEY or --key-file"
    if seconds := response.headers.get("Retry-After"):
        return f"{message} ({seconds} s)"
    return message
