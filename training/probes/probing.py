"""Whether and where probes are kept while a network is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.activations.entry import Activation
from training.probes.keepers import Keeper, ProbeFile, Spoken, TensorBoard
from training.probes.watch import ProbeWatch


@dataclass(frozen=True)
class Probing:
    """What goes on in the layers while they learn."""

    probe_every: int = 0
    """Steps from one reading of all layers to the next, kept in probes.jsonl of the run's folder; 0: none."""
    tensorboard: Path | None = None
    """Folder for TensorBoard to read them from, too."""

    def __post_init__(self) -> None:
        if self.probe_every < 0:
            raise ValueError(f"probe_every={self.probe_every} is not allowed: use 0 or more")
        if self.tensorboard and not self.probe_every:
            raise ValueError("--tensorboard shows what probes read: give --probe-every, say 100")

    def watches(self, activation: Activation, folder: Path, say: Callable[[str], None]) -> list[ProbeWatch]:
        """For a run in `folder`; raises `ValueError` when TensorBoard is asked for and not installed."""
        if not self.probe_every:
            return []
        keepers: list[Keeper] = [ProbeFile(folder / "probes.jsonl"), Spoken(say)]
        if self.tensorboard:
            keepers.append(TensorBoard(self.tensorboard))
        return [ProbeWatch(activation, self.probe_every, keepers)]
