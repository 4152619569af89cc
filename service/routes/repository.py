"""The repository extension of the Open Inference Protocol V2."""

from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from service.control.serving import WHOLE, State
from service.errors import BadRequestError, BodyTooLargeError, ControlError, explain
from service.protocol.envelope import ControlRequest, IndexEntry, IndexRequest, parse_json
from service.routes.context import Context, Here

MAX_BODY_BYTES = 4096

router = APIRouter(prefix="/v2/repository", tags=["Open Inference Protocol"])

Asked = TypeVar("Asked", bound=BaseModel)


@router.post("/index")
async def index(request: Request, here: Here) -> list[IndexEntry]:
    """Every version on the shelf, its state, and why it cannot be served. Body: nothing, or `{"ready": true}`."""
    asked = await _read(request, IndexRequest)
    states = await here.control.states()
    return [_entry(state) for state in states if state.state == "READY" or not asked.ready]


@router.post("/models/{name}/load")
async def load(request: Request, here: Here, name: str) -> IndexEntry:
    """Read the repository again and serve the newest version of a model that loads; the old one answers until then.

    An error says why a version did not load, and which one is served instead.
    """
    _check_control(here)
    asked = await _read(request, ControlRequest)
    if asked.parameters:
        raise BadRequestError(
            f"parameters {', '.join(asked.parameters)[:80]} are not possible: what a model is and how it runs is in "
            "its published version; publish another one"
        )
    version = await here.control.load(name)
    return IndexEntry(name=name, version=str(version), state="READY", reason="")


@router.post("/models/{name}/unload", response_class=Response)
async def unload(request: Request, here: Here, name: str) -> Response:
    """Serve a model no longer, until it is loaded again. Requests that have begun are answered."""
    _check_control(here)
    await _read(request, ControlRequest)
    await here.control.unload(name)
    return Response()


async def _read(request: Request, kind: type[Asked]) -> Asked:
    """The small JSON object of a request; nothing is an empty one."""
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(
            f"the request body has more than {MAX_BODY_BYTES:,} bytes: send nothing, or the few parameters there are"
        )
    try:
        return kind.model_validate(parse_json(body, MAX_BODY_BYTES) if body else {})
    except ValidationError as error:
        raise BadRequestError(explain(error)) from error


def _check_control(here: Context) -> None:
    if here.settings.model_control != "explicit":
        raise ControlError(
            "explicit model load / unload is not allowed: start the service with RESLENS_MODEL_CONTROL=explicit"
        )


def _entry(state: State) -> IndexEntry:
    version = "" if state.version == WHOLE else str(state.version)
    idle = "not loaded: a request that names this version loads it" if state.state == "UNAVAILABLE" else ""
    return IndexEntry(name=state.name, version=version, state=state.state, reason=state.reason or idle)
