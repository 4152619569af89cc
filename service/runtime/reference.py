"""What the traffic of a model is compared with: its baseline, or why there is none."""

from dataclasses import dataclass
from typing import Self

from models.repository import Bundle
from models.statistics.baseline import Baseline


@dataclass(frozen=True)
class Reference:
    """The baseline of one bundle. A model is served without one too."""

    baseline: Baseline | None
    reason: str = ""
    """Why there is no baseline that can be used; empty when there is."""

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Read the bundle's baseline; whatever is wrong with it becomes the reason."""
        name, version = bundle.manifest.name, bundle.manifest.version
        if bundle.baseline is None:
            return cls(None, f"model {name!r} version {version} was published without a baseline")
        try:
            return cls(Baseline.from_bytes(bundle.baseline, bundle.manifest))
        except ValueError as error:
            return cls(None, str(error))
