"""Whether and where probes are kept while a network is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.activations.entry import Activation
from training.loop.watch import Watch
from training.probes.course import CourseWatch
from training.probes.keepers import PROBES, Keeper, ProbeFile, Spoken, TensorBoard
from training.probes.watch import ProbeWatch


@dataclass(frozen=True)
class Probing:
    """What goes on in the layers while they learn."""

    probe_every: int = 100
    """Steps from one reading of all layers to the next, kept in probes.jsonl of the run's folder; 0: none."""
    tensorboard: Path | None = None
    """Folder for TensorBoard to read them from, with losses and accuracy."""

    def __post_init__(self) -> None:
        if self.probe_every < 0:
            raise ValueError(f"probe_every={self.probe_every} is not allowed: use 0 or more")

    def watches(
        self, activation: Activation, folder: Path, say: Callable[[str], None], others: Sequence[Keeper] = ()
    ) -> list[Watch]:
        """For a run in `folder`, and others who want to know.

        Raises `ValueError` when TensorBoard is asked for and not installed.
        """
        keepers = list(others)
        if self.tensorboard:
            keepers.append(TensorBoard(self.tensorboard))
        if self.probe_every:
            keepers += [ProbeFile(folder / PROBES, say), Spoken(say)]
        watches: list[Watch] = [CourseWatch(keepers)] if keepers else []
        if self.probe_every:
            watches.append(ProbeWatch(activation, self.probe_every, keepers))
        return watches
