"""What the service says when it listens: where, which models, and what to type."""

from pydantic import BaseModel


class Served(BaseModel):
    name: str
    version: int
    provider: str
    weights: int
    statistics: int
    """Bytes of weights, and of what the session that computes statistics adds."""


class Failed(BaseModel):
    name: str
    version: int | None
    reason: str


class Shelved(BaseModel):
    """The models as they are when the service starts."""

    served: list[Served]
    failed: list[Failed]
    repository: str


def text(url: str, shelved: Shelved) -> str:
    """For people."""
    lines = ["", f"ResLens is at {url}   documentation: {url}/docs   metrics: {url}/metrics"]
    for model in shelved.served:
        lines.append(
            f"  serving {model.name} version {model.version} on {model.provider}: "
            f"{model.weights / 1e6:.1f} MB of weights, {model.statistics / 1e6:.1f} MB more for statistics"
        )
    for failed in shelved.failed:
        version = f" version {failed.version}" if failed.version else ""
        lines.append(f"  NOT serving {failed.name}{version}: {failed.reason}")
    if shelved.served:
        name = shelved.served[0].name
        lines.append(f"  try: curl -F file=@photo.jpg '{url}/v1/models/{name}/classify?statistics=layers'")
    else:
        lines.append(f"  no model to serve in {shelved.repository}: publish one and start again")
    return "\n".join(lines)


def fields(url: str, shelved: Shelved) -> dict[str, object]:
    """For machines."""
    return {
        "url": url,
        "serving": [f"{model.name} version {model.version}" for model in shelved.served],
        "failed": [failed.model_dump() for failed in shelved.failed],
    }
