"""Everything that can go wrong with a request, and the one answer: `{"error": "<what, expected what, do what>"}`."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from models.repository import BrokenBundleError, UnknownModelError, UnknownVersionError, UnreadableModelError
from service.logs import REQUEST_ID

if TYPE_CHECKING:
    from fastapi.exceptions import RequestValidationError

logger = logging.getLogger("reslens")

# Nobody reads this status; it is what the metrics count, as nginx does.
CLIENT_LEFT = 499


class StartupError(RuntimeError):
    """The service cannot start with these settings."""


class ServiceError(Exception):
    """Base of the errors that a client is told about."""

    status = 500
    retry_after: int | None = None
    """Seconds after which the same request may be answered, where that is known."""


class BadRequestError(ServiceError):
    status = 400


class UnauthorizedError(ServiceError):
    """No key came, or one that is not known."""

    status = 401


class ForbiddenError(ServiceError):
    """The key is known, and is not for this."""

    status = 403


class TooManyRequestsError(ServiceError):
    """The caller asks too often; after `retry_after` seconds it may again."""

    status = 429

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(TooManyRequestsError):
    """More waits already than this service will let wait; after `retry_after` seconds that is worked off."""


class DeadlineError(ServiceError):
    """The request waited until its deadline, and was not computed."""

    status = 504


class ClientLeftError(ServiceError):
    """The client left while its request waited, which was not computed: nobody reads this."""

    status = CLIENT_LEFT


class EndingError(ServiceError):
    """The process ends, and begins nothing more."""

    status = 503


class BodyTimeoutError(ServiceError):
    """The body stopped, or came too slowly."""

    status = 408


class BodyTooLargeError(ServiceError):
    status = 413


class ImageTooLargeError(ServiceError):
    status = 413


class MediaTypeError(ServiceError):
    status = 415


class UnusableImageError(ServiceError):
    """The request is well formed, but its image cannot be decoded."""

    status = 422


class ModelFaultError(ServiceError):
    """The model was given good input and did not give a good answer."""

    status = 500


class DeviceMemoryError(ModelFaultError):
    """The device had no memory for the batch; the model is as usable as before."""

    status = 503


class NotFoundError(ServiceError):
    """A part of a model, or something of it, that is not there; the message lists what is."""

    status = 404


class UnloadedError(ServiceError):
    """The model is on the shelf and was unloaded."""

    status = 404


class ControlError(ServiceError):
    """The repository may not be controlled by requests."""

    status = 503


class ConflictError(ServiceError):
    """It cannot be done as things are; the message says what stands against it."""

    status = 409


class HistoryUnavailableError(ServiceError):
    """The database does not answer."""

    status = 503


class ModelUnavailableError(ServiceError):
    """The model is on the shelf and cannot be used; the message says why."""

    status = 503


class LoadRefusedError(ModelUnavailableError):
    """The system would not let the model be loaded (no memory, no disk); the same files may load another time."""

    retry_after = 10


STATUS_OF_REPOSITORY_ERRORS = {
    UnknownModelError: 404,
    UnknownVersionError: 404,
    UnreadableModelError: 503,
    BrokenBundleError: 503,
}


async def answer(request: Request, error: Exception) -> Response:
    """The one exception handler of the application."""
    # Takes longer to import than all else that a supervisor needs, which has these errors and no application.
    from fastapi.exceptions import RequestValidationError

    if isinstance(error, ServiceError):
        return error_response(error.status, str(error), retry_after(error))
    if status := STATUS_OF_REPOSITORY_ERRORS.get(type(error)):
        return error_response(status, str(error))
    if isinstance(error, ClientDisconnect):
        return error_response(CLIENT_LEFT, "the client left before its request was whole")
    if isinstance(error, RequestValidationError):
        return error_response(422, explain(error))
    if isinstance(error, HTTPException):
        return error_response(error.status_code, _explain_http(request, error), error.headers)
    logger.error("request %s %s failed", request.method, request.url.path, exc_info=error)
    # Sent from outside of the middleware that would add the header.
    headers = {"X-Request-Id": request.scope.get(REQUEST_ID, "")}
    return error_response(500, "internal error: the service has logged it; report it with its X-Request-Id", headers)


def retry_after(error: ServiceError) -> dict[str, str]:
    """The header that says when to come again, if that is known."""
    return {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}


def describe(error: Exception) -> tuple[int, str, int | None]:
    """Status, text, and seconds to wait if any, of an error that is told to another process of the service."""
    status = error.status if isinstance(error, ServiceError) else STATUS_OF_REPOSITORY_ERRORS.get(type(error), 500)
    return status, str(error) or repr(error), getattr(error, "retry_after", None)


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"error": message}), status, headers, media_type="application/json")


def explain(error: "ValidationError | RequestValidationError") -> str:
    """Say in one line which fields are wrong, what was expected of them, and what came instead."""
    return "; ".join(_explain_field(dict(problem)) for problem in error.errors()[:5])


def _explain_field(problem: Mapping[str, object]) -> str:
    location = problem["loc"]
    assert isinstance(location, tuple)
    field = ".".join(str(part) for part in location if part not in ("query", "path", "body"))
    message = str(problem["msg"])
    value = problem.get("input")
    # A long or nested value would drown the message.
    got = f", got {value!r}" if isinstance(value, str | int | float | bool | None) and len(repr(value)) < 80 else ""
    return f"{field or 'request'}: {message[:1].lower()}{message[1:]}{got}"


def _explain_http(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is nothing at {request.url.path}: see /docs for every path"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} is not possible at {request.url.path}: use {allowed}"
    return str(error.detail)
