"""Bodies of a few parameters, as the clients of the protocol send them: perhaps nothing, and with no Content-Type."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.errors import BadRequestError, BodyTooLargeError, explain
from service.protocol.envelope import parse_json

MAX_BODY_BYTES = 4096

Asked = TypeVar("Asked", bound=BaseModel)


async def read_small_json(request: Request, kind: type[Asked]) -> Asked:
    """The JSON object of a request; nothing is an empty one. Raises `BadRequestError` or `BodyTooLargeError`."""
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(
            f"the request body has more than {MAX_BODY_BYTES:,} bytes: send nothing, or the few parameters there are"
        )
    try:
        return kind.model_validate(parse_json(body, MAX_BODY_BYTES) if body else {})
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error


def documented(kind: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of such a body."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
