"""The repository extension of the Open Inference Protocol V2."""

from fastapi import APIRouter, Request, Response

from models.publishing import VERSION
from service.control.serving import WHOLE, State
from service.errors import BadRequestError
from service.protocol.envelope import ControlRequest, IndexEntry, IndexRequest
from service.routes.context import Context, Here
from service.routes.small_json import read_small_json

router = APIRouter(prefix="/v2/repository", tags=["Open Inference Protocol"])


@router.post("/index")
async def index(request: Request, here: Here) -> list[IndexEntry]:
    """Every version in the repository, its state, and why it cannot be served. Body: nothing, or `{"ready": true}`."""
    asked = await read_small_json(request, IndexRequest)
    states = await here.control.states()
    return [_entry(here, state) for state in states if state.state == "READY" or not asked.ready]


@router.post("/models/{name}/load")
async def load(request: Request, here: Here, name: str) -> IndexEntry:
    """Read the repository again and serve its newest version; the old one answers until it is loaded everywhere.

    With `{"parameters": {"version": 3}}`, serve that one, and hold it, also over a restart, until the next `load`.
    When the version does not load, the error says why, and all stays as it was.
    """
    here.check_control()
    asked = (await read_small_json(request, ControlRequest)).parameters
    wanted = asked.pop("version", None)
    if asked:
        raise BadRequestError(
            f"parameters {', '.join(asked)[:80]} are not possible: what a model is and how it runs is in "
            "its published version; publish another one"
        )
    version = await here.control.load(name, None if wanted is None else _version(wanted))
    return IndexEntry(name=name, version=str(version), state="READY", reason="")


@router.post("/models/{name}/unload", response_class=Response)
async def unload(request: Request, here: Here, name: str) -> Response:
    """Serve a model no longer, until it is loaded again. Requests that have begun are answered."""
    here.check_control()
    await read_small_json(request, ControlRequest)
    await here.control.unload(name)
    return Response()


def _version(wanted: object) -> int:
    text = str(wanted)
    if isinstance(wanted, bool) or not VERSION.fullmatch(text):
        raise BadRequestError(f"version {text[:80]!r} is no version: give a number from 1 to 999999999")
    return int(text)


def _entry(here: Context, state: State) -> IndexEntry:
    version = "" if state.version == WHOLE else str(state.version)
    withheld = state.version in here.shelf.serving(state.name).withheld
    how = (
        "withheld, so only what names this version loads it"
        if withheld
        else "a request that names this version loads it"
    )
    idle = f"not loaded: {how}" if state.state == "UNAVAILABLE" else ""
    return IndexEntry(name=state.name, version=version, state=state.state, reason=state.reason or idle)
