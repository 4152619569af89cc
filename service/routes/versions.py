"""Labels of versions, and the way back to the version before: for people, and for what rolls out models."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from models.choice import Label, Version
from service.routes.answers import Chosen, Labels
from service.routes.context import Context, Here
from service.routes.small_json import documented, read_small_json

router = APIRouter(prefix="/v1/models/{name}", tags=["versions"])

LabelName = Annotated[Label, Path()]
VersionNumber = Annotated[Version, Path()]


class LabelRequest(BaseModel):
    """Body of a label that is set."""

    model_config = ConfigDict(extra="forbid")

    version: Version
    share: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Percentage of the inferences that name no version."""


@router.get("/labels")
async def labels(request: Request, here: Here, name: str) -> Labels:
    """The labels of a model, each with its version: what can be named instead of a version; their shares, and what is
    withheld.
    """
    await here.model(request, name)
    return _labels(here, name)


@router.put("/labels/{label}", openapi_extra=documented(LabelRequest))
async def set_label(request: Request, here: Here, name: str, label: LabelName) -> Labels:
    """Give a version a label, or take it from another one, once the version is loaded and warmed up everywhere.

    With a `share` it answers that percentage of the inferences that name no version, until the label is set without
    one or taken away, or the default changes.
    """
    here.check_control()
    asked = await read_small_json(request, LabelRequest)
    await here.control.label(name, label, asked.version, asked.share)
    return _labels(here, name)


@router.delete("/labels/{label}", status_code=204, response_class=Response)
async def remove_label(here: Here, name: str, label: LabelName) -> Response:
    """Take a label away; without it the request changes nothing."""
    here.check_control()
    await here.control.label(name, label, None)
    return Response(status_code=204)


@router.post("/rollback")
async def rollback(here: Here, name: str) -> Chosen:
    """Serve the default version before the present one, and hold it, also over a restart, until the next `load`.

    The present one is withheld: a `load` without a version does not serve it, one that names it does.
    """
    here.check_control()
    return Chosen(name=name, version=await here.control.rollback(name))


@router.put("/withheld/{version}")
async def withhold(here: Here, name: str, version: VersionNumber) -> Labels:
    """Never serve a version by default until it is loaded by its number; it may be the one that is published next."""
    here.check_control()
    await here.control.withhold(name, version)
    return _labels(here, name)


@router.delete("/withheld/{version}", status_code=204, response_class=Response)
async def release(here: Here, name: str, version: VersionNumber) -> Response:
    """Treat a version as any other again; one that is not withheld stays so."""
    here.check_control()
    await here.control.withhold(name, version, withheld=False)
    return Response(status_code=204)


def _labels(here: Context, name: str) -> Labels:
    serving = here.shelf.serving(name)
    return Labels(labels=serving.labels, shares=serving.shares, withheld=list(serving.withheld))
