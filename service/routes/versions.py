"""Labels of versions, and the way back to the version before: for people, and for what rolls out models."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from models.choice import Label, Version
from service.routes.answers import Chosen, Labels
from service.routes.context import Here
from service.routes.small_json import documented, read_small_json

router = APIRouter(prefix="/v1/models/{name}", tags=["versions"])

LabelName = Annotated[Label, Path()]


class LabelRequest(BaseModel):
    """Body of a label that is set."""

    model_config = ConfigDict(extra="forbid")

    version: Version


@router.get("/labels")
async def labels(request: Request, here: Here, name: str) -> Labels:
    """The labels of a model, each with its version: what can be named instead of a version."""
    await here.model(request, name)
    return Labels(labels=here.shelf.serving(name).labels)


@router.put("/labels/{label}", openapi_extra=documented(LabelRequest))
async def set_label(request: Request, here: Here, name: str, label: LabelName) -> Labels:
    """Give a version a label, or take it from another one, once the version is loaded and warmed up everywhere."""
    here.check_control()
    asked = await read_small_json(request, LabelRequest)
    await here.control.label(name, label, asked.version)
    return Labels(labels=here.shelf.serving(name).labels)


@router.delete("/labels/{label}", status_code=204, response_class=Response)
async def remove_label(here: Here, name: str, label: LabelName) -> Response:
    """Take a label away; without it the request changes nothing."""
    here.check_control()
    await here.control.label(name, label, None)
    return Response(status_code=204)


@router.post("/rollback")
async def rollback(here: Here, name: str) -> Chosen:
    """Serve the default version before the present one, and hold it, also over a restart, until the next `load`."""
    here.check_control()
    return Chosen(name=name, version=await here.control.rollback(name))
