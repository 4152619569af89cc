"""The repository extension of the Open Inference Protocol V2."""

from fastapi import APIRouter, Request
from pydantic import ValidationError

from service.errors import BadRequestError, BodyTooLargeError, explain
from service.protocol.envelope import IndexEntry, IndexRequest, parse_json
from service.routes.context import Here
from service.runtime.shelf import State

MAX_BODY_BYTES = 4096

router = APIRouter(prefix="/v2/repository", tags=["Open Inference Protocol"])


@router.post("/index")
async def index(request: Request, here: Here) -> list[IndexEntry]:
    """Every version on the shelf, its state, and why it cannot be served. Body: nothing, or `{"ready": true}`."""
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(
            f'the request body has more than {MAX_BODY_BYTES:,} bytes: send at most {{"ready": true}}'
        )
    try:
        asked = IndexRequest.model_validate(parse_json(body, MAX_BODY_BYTES) if body else {})
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error
    entries = [_entry(state) for state in await here.shelf.states() if state.loaded or not asked.ready]
    if not asked.ready:
        unreadable = (failure for failure in here.shelf.failures if failure.version is None)
        entries += [IndexEntry(name=name, version="", state="UNAVAILABLE", reason=why) for name, _, why in unreadable]
    return entries


def _entry(state: State) -> IndexEntry:
    return IndexEntry(
        name=state.entry.name,
        version=str(state.entry.version),
        state="READY" if state.loaded else "UNAVAILABLE",
        reason=state.reason or ("" if state.loaded else "not loaded: a request that names this version loads it"),
    )
