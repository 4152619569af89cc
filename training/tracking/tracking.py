"""Whether a run is told to MLflow, and what."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro

from training.data.images import DataSet, digest
from training.run import Run, versions
from training.tracking.keeper import About, MLflow
from training.tracking.limits import flat, without_secrets

PATHS = ("data_dir", "classes", "pretrained")
"""Of which only the last part is told: where it was on this machine is nobody's business."""


@dataclass(frozen=True)
class Tracking:
    """Who else is told how it goes."""

    mlflow: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[URI]")] = None
    """Tell MLflow: the server or database of this address, or if none is given that of MLFLOW_TRACKING_URI, in the
    experiment MLFLOW_EXPERIMENT_NAME. User, password and token are those of the environment (MLFLOW_TRACKING_…)."""

    def __post_init__(self) -> None:
        if self.mlflow is None:
            return
        given = " ".join(self.mlflow)
        if len(self.mlflow) > 1:
            raise ValueError(f"--mlflow {without_secrets(given)}: give one address, or none")
        if without_secrets(given) != given:
            raise ValueError(
                "--mlflow with a user or password is seen by everybody on this machine: put the address into "
                "MLFLOW_TRACKING_URI, or both into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if find_spec("mlflow") is None:
            raise ValueError("--mlflow needs a package that is not installed: pip install 'reslens[mlflow]'")

    def of(self, run: Run, data: DataSet, say: Callable[[str], None], **tags: str) -> MLflow | None:
        """Who tells of `run`, if anybody."""
        if self.mlflow is None:
            return None
        files = (run.record, run.folder / "run.json", run.folder / "probes.jsonl")
        about = About(run.folder.resolve().name, parameters(run), tags | described(data), files)
        return MLflow(run.folder / "mlflow", about, next(iter(self.mlflow), None), say)


def parameters(run: Run) -> dict[str, str]:
    """The configuration by dotted names."""
    config: dict[str, dict[str, Any]] = asdict(run.config)
    for part in config.values():
        part |= {name: Path(part[name]).name for name in PATHS if isinstance(part.get(name), str)}
    return flat(config)


def described(data: DataSet) -> dict[str, str]:
    """Which images, and which programs."""
    return {"data": data.name, "data_digest": digest(data)} | {
        f"version.{package}": version for package, version in versions().items()
    }
