"""One training run on disk: what was asked for, the newest checkpoint, and the record of what happened."""

import contextlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.manifest import TrainingRecord
from training.data.card import data_card
from training.data.images import DataSet, digest
from training.data.sources import DataConfig
from training.loop.checkpoint import Saving, any_checkpoint, previous
from training.loop.differences import differences
from training.loop.stopping import stop_signals
from training.loop.trainer import Trainer
from training.loop.watch import Watch
from training.loop.world import ALONE, World
from training.outcomes import UnwritableError
from training.probes.keepers import PROBES, ProbeFile
from training.progress import progress_bar
from training.recipes.recipe import Recipe
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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableError(f"{self.folder} cannot be made ({error.strerror}): choose another --run") from error
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
        differing = differences(stored, wanted)
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

    def train(
        self,
        data: DataSet,
        device: torch.device,
        resume: bool,
        saving: Saving = Saving(),  # noqa: B008  (frozen)
        world: World = ALONE,
        watches: Sequence[Watch] = (),
        start: Mapping[str, Tensor] | None = None,
    ) -> Trainer:
        """Train to the last epoch, from the newest checkpoint if there is one, and write the record.

        Without one it begins with the weights `start` of the whole classifier, if given, else as the recipe says. Of
        several processes the first one alone writes and shows progress. Raises what `Trainer.train` raises.
        """
        # First what may be refused: a run that cannot be built leaves no folder behind.
        trainer = Trainer(self.config.network, self.config.recipe, data, device, world)
        if start is not None:
            trainer.begin_from(start)
        trainer.saving = saving
        trainer.watches.extend(watches)
        if world.first:
            self.prepare(resume, trainer.data_digest)
        world.wait()
        with progress_bar("training", shown=world.first) as bar, stop_signals() as trainer.stop:
            if any_checkpoint(self.checkpoint) and (note := trainer.restore(self.checkpoint)):
                bar.line(note)
            # Nobody writes before all have read.
            world.check_alike(trainer.place, trainer.device)
            trainer.train(self.checkpoint, bar)
        evaluation = trainer.evaluate()
        if world.first:
            record = training_record(self.config, trainer).model_dump(mode="json")
            probes = ProbeFile(self.folder / PROBES).summary()
            measured = {"held_out": asdict(evaluation), "history": trainer.history, "probes": probes}
            _write_json(self.record, record | measured | {"data_card": data_card(data).model_dump(mode="json")})
            previous(self.checkpoint).unlink(missing_ok=True)
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
    recipe |= {"processes": trainer.world.size}
    del recipe["epochs"], recipe["optimiser"]
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
        epochs=trainer.epochs,
        batch_size=recipe.pop("batch_size"),
        seed=recipe.pop("seed"),
        optimiser=_optimiser(config.recipe),
        options={name: _plain(value) for name, value in recipe.items()} | chosen | flat,
        seconds=round(trainer.seconds, 1),
        device=device_name(trainer.device),
        versions=versions(),
    )


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _optimiser(recipe: Recipe) -> str:
    """In words."""
    name = {"sgd": "SGD with Nesterov momentum" if recipe.nesterov else "SGD with momentum", "adamw": "AdamW"}
    schedule = {"cosine": "warmed cosine"}.get(recipe.schedule, recipe.schedule.replace("_", " "))
    return f"{name.get(recipe.optimiser, 'Muon and AdamW')}, {schedule} schedule"


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
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


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    try:
        with partial.open("w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UnwritableError(
            f"{path} cannot be written ({error.strerror}): make room, then go on with --resume"
        ) from error
