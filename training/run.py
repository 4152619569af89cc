"""One training run on disk: what was asked for, the newest checkpoint, and the record of what happened."""

import contextlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from models.manifest import TrainingRecord
from training.data.card import data_card
from training.data.images import DataSet, digest
from training.data.sources import DataConfig
from training.loop import Trainer
from training.progress import progress_bar
from training.recipe import Recipe
from training.resnet.network import NetworkConfig

RECORDED_PACKAGES = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "reslens")


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    network: NetworkConfig
    data: DataConfig
    recipe: Recipe

    @classmethod
    def read(cls, folder: Path) -> "RunConfig":
        """The configuration stored in a run's folder; raises `ValueError` when there is none."""
        path = folder / "run.json"
        if not path.is_file():
            raise ValueError(f"{folder} holds no run (run.json is missing): give the folder that `train` printed")
        try:
            stored = json.loads(path.read_text())
            return cls(NetworkConfig(**stored["network"]), DataConfig(**stored["data"]), Recipe(**stored["recipe"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not describe a run ({error!r}): train again in another folder") from error


@dataclass(frozen=True)
class Run:
    """A folder with `run.json`, `checkpoint.pt` and, once finished, `record.json`."""

    folder: Path
    config: RunConfig

    @property
    def checkpoint(self) -> Path:
        """The newest state of the run."""
        return self.folder / "checkpoint.pt"

    @property
    def record(self) -> Path:
        """Written when the last epoch is done."""
        return self.folder / "record.json"

    def prepare(self, resume: bool, data_digest: str) -> None:
        """Make the folder, or check that what it holds may be resumed; raises `ValueError` otherwise."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "run.json"
        wanted = {**asdict(self.config), "data_digest": data_digest}
        if not path.exists():
            _write_json(path, wanted)
            return
        if not resume:
            raise ValueError(
                f"{self.folder} already holds a run: use --resume to go on with it, or another --run folder"
            )
        # Read as a configuration first, so that what older runs do not mention has its default.
        stored = {**asdict(RunConfig.read(self.folder)), "data_digest": self._data_digest()}
        differing = _differences(stored, wanted)
        if differing:
            raise ValueError(
                f"{self.folder} holds another run ({'; '.join(differing)}): resume it as it was or use another --run"
            )

    def _data_digest(self) -> str | None:
        digest: str | None = json.loads((self.folder / "run.json").read_text()).get("data_digest")
        return digest

    def check_data(self, data: DataSet) -> None:
        """Raise `ValueError` when `data` is not what the run was trained and evaluated on."""
        if self._data_digest() != digest(data):
            raise ValueError(
                f"the images of {data.name} are not those that the run in {self.folder} saw: "
                "bring the old ones back, or train again"
            )

    def train(self, data: DataSet, device: torch.device, resume: bool) -> Trainer:
        """Train to the last epoch, from the newest checkpoint if there is one, and write the record."""
        # First what may be refused: a run that cannot be built leaves no folder behind.
        trainer = Trainer(self.config.network, self.config.recipe, data, device)
        self.prepare(resume, digest(data))
        if self.checkpoint.exists():
            trainer.restore(self.checkpoint)
        with progress_bar("training") as bar:
            trainer.train(self.checkpoint, bar)
        evaluation = trainer.evaluate()
        record = training_record(self.config, trainer).model_dump(mode="json")
        measured = {"held_out": asdict(evaluation), "history": trainer.history}
        _write_json(self.record, record | measured | {"data_card": data_card(data).model_dump(mode="json")})
        return trainer


def training_record(config: RunConfig, trainer: Trainer) -> TrainingRecord:
    """What the manifest keeps of a run."""
    recipe = asdict(config.recipe)
    if recipe["pretrained"]:
        # Where it was on this machine is nobody's business.
        recipe["pretrained"] = Path(recipe["pretrained"]).name
    parameters: dict[str, dict[str, float]] = {
        "initialiser": recipe.pop("initialiser_parameters"),
        "shortcut": dict(config.network.shortcut_parameters),
        "regularisers": dict(config.network.regularisers),
    }
    chosen = {option: getattr(config.network, option) for option in ("shortcut", "normaliser", "head")}
    flat = {f"{kind}.{name}": value for kind, given in parameters.items() for name, value in given.items()}
    return TrainingRecord(
        network=config.network.network,
        activation=config.network.activation,
        activation_parameters=dict(config.network.activation_parameters),
        arrangement=config.network.arrangement,
        parameters=sum(parameter.numel() for parameter in trainer.model.network.parameters()),
        data=trainer.data.name,
        training_images=len(trainer.data.training),
        epochs=recipe.pop("epochs"),
        batch_size=recipe.pop("batch_size"),
        seed=recipe.pop("seed"),
        optimiser="SGD with Nesterov momentum, warmed cosine schedule",
        options=recipe | chosen | flat,
        seconds=round(trainer.seconds, 1),
        device=device_name(trainer.device),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        # Which of the two builds of ONNX Runtime is installed depends on the platform.
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def device_name(device: torch.device) -> str:
    """The hardware in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    # Parameters that the stored run has and this one lacks count as much as the other way round.
    for key in {**wanted, **stored}:
        was, asked = stored.get(key), wanted.get(key)
        if isinstance(asked, Mapping) and isinstance(was, Mapping):
            found += _differences(was, asked, f"{prefix}{key}.")
        elif was != asked:
            found.append(f"{prefix}{key} was {was!r}, now {asked!r}")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
