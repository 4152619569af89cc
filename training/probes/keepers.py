"""Where readings go while a network is trained: a file beside the run, TensorBoard, and the eyes of whoever waits."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.loop.watch import Moment
from training.probes.columns import OF_LAYERS, OF_WEIGHTS, columns
from training.probes.reading import NetworkReading
from training.probes.warnings import new

PROBES = "probes.jsonl"
"""In the folder of a run."""


class Keeper:
    """Who wants to know; of what it does not override, nothing."""

    def begin(self, step: int) -> None:
        """Before `step`, the first that is made now: what is known of later ones is told once more."""

    def keep(self, moment: Moment, reading: NetworkReading, found: dict[str, str]) -> None:
        """One reading, with the warnings that it gives rise to by their kind."""

    def tell(self, series: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, none of a layer: `steps` or `epochs`."""


class ProbeFile(Keeper):
    """A line of JSON for each reading."""

    def __init__(self, path: Path, say: Callable[[str], None] = print) -> None:
        self.path, self._say = path, say
        self._failed = False

    def begin(self, step: int) -> None:
        """Without those after the checkpoint, or a last one that is not whole: each step is there once."""
        if not self.path.exists():
            return
        kept = [line for line in _lines(self.path) if _before(line, step)]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(self.path)

    def keep(self, moment: Moment, reading: NetworkReading, found: dict[str, str]) -> None:
        line = {"step": moment.step, "epoch": moment.epoch, "learning_rate": moment.learning_rate, "warnings": found}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({**line, **columns(reading)}) + "\n")
        except OSError as error:
            if not self._failed:
                self._say(f"warning: {self.path} cannot be written ({error.strerror}): training goes on")
            self._failed = True

    def summary(self) -> dict[str, Any] | None:
        """Of each kind of trouble the first sentence and the steps at which it was found; None without readings."""
        lines = [json.loads(line) for line in _lines(self.path) if _before(line, math.inf)]
        if not lines:
            return None
        found: dict[str, dict[str, Any]] = {}
        for line in lines:
            told = line["warnings"]
            # Older runs have sentences alone.
            for kind, sentence in (told if isinstance(told, dict) else dict(zip(told, told, strict=True))).items():
                found.setdefault(kind, {"sentence": sentence, "steps": []})["steps"].append(line["step"])
        return {"readings": len(lines), "last_step": lines[-1]["step"], "warnings": found}


class Spoken(Keeper):
    """Says each kind of trouble once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: set[str] = set()

    def keep(self, moment: Moment, reading: NetworkReading, found: dict[str, str]) -> None:  # noqa: ARG002
        for sentence in new(found, self._told):
            self._say(f"warning: step {moment.step + 1}: {sentence}")


class TensorBoard(Keeper):
    """Scalars by figure and layer: `gradient_rms/layer1.0.conv1`."""

    def __init__(self, folder: Path) -> None:
        """Raises `ValueError` when TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ValueError(f"--tensorboard needs it ({error}): pip install 'reslens[tensorboard]'") from error
        self._make = SummaryWriter
        self._folder = str(folder)
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """TensorBoard then shows none of the later steps that files of before have."""
        self._writer = self._make(self._folder, purge_step=step)

    def keep(self, moment: Moment, reading: NetworkReading, found: dict[str, str]) -> None:
        for tag, value in scalars(reading).items():
            self._writer.add_scalar(tag, value, moment.step)
        for kind, sentence in found.items():
            self._writer.add_text(f"warnings/{kind}", sentence, moment.step)
        self._writer.flush()

    def tell(self, series: str, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


def scalars(reading: NetworkReading) -> dict[str, float]:
    """Every number of a reading by figure and layer."""
    kept = columns(reading)
    found: dict[str, float | None] = {}
    for names, figures in (("layers", OF_LAYERS), ("weights", OF_WEIGHTS)):
        for figure in figures:
            found |= {f"{figure}/{name}": value for name, value in zip(kept[names], kept.get(figure, ()), strict=False)}
    for parameter, values in kept["learned"].items():
        for name, summary in zip(kept["layers"], values, strict=True):
            found[f"learned/{name}.{parameter}"] = summary[0] if summary else None
    return {tag: value for tag, value in found.items() if value is not None}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _before(line: str, step: float) -> bool:
    try:
        return int(json.loads(line)["step"]) < step
    except (ValueError, KeyError, TypeError):
        return False
