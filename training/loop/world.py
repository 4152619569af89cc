"""The processes that train one network together, as `torchrun` starts them; usually there is one."""

import datetime
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.loop.synchronised import synchronise
from training.outcomes import LostProcessError

# A process that says nothing for so long is taken for lost; one that is gone is noticed at once.
PATIENCE = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class World:
    """Which of `size` processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes and talks."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """Which of `length` things in a row are this process's: shares differ by one at most."""
        share, rest = divmod(length, self.size)
        start = self.rank * share + min(self.rank, rest)
        return slice(start, start + share + (self.rank < rest))

    def sum(self, values: Tensor) -> Tensor:
        """Added up over all processes; raises `LostProcessError` when one is gone."""
        if self.size == 1:
            return values
        with present(self):
            distributed.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """Those of each process, all of one shape, in order."""
        if self.size == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.size)]
        with present(self):
            distributed.all_gather(found, values)
        return found

    def check_alike(self, place: list[int], device: torch.device) -> None:
        """Wait for all others to come here; raise `ValueError` if they go on from another epoch or step."""
        places = [each.tolist() for each in self.gather(torch.tensor(place, device=device))]
        if any(each != place for each in places):
            raise ValueError(
                f"processes go on from unlike places (epoch and step {places}): every node must see the run's folder"
            )

    def wait(self) -> None:
        """For all others to come here."""
        if self.size > 1:
            with present(self):
                distributed.barrier()

    def share(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model` with gradients averaged, and batches normalised, over all processes."""
        if self.size == 1:
            return model
        synchronise(model, device)
        devices = [device.index] if device.type == "cuda" else None
        # Buffers are equal in all processes: batch statistics are those of the whole batch.
        return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False)


ALONE = World()


@contextmanager
def present(world: World) -> Iterator[None]:
    """Errors of what needs all processes become `LostProcessError`."""
    try:
        yield
    except RuntimeError as error:
        # Gloo and NCCL raise many kinds, all of them RuntimeErrors, and say what of in their own words.
        if world.size == 1 or not _lost(error):
            raise
        # Without the place in Gloo's sources, and without its advice.
        reason = re.sub(r"^\[[^]]*\] *", "", str(error).splitlines()[0]).split(". ")[0]
        raise LostProcessError(
            f"process {world.rank} of {world.size} lost another one ({reason}): start the job again with --resume"
        ) from error


def _lost(error: RuntimeError) -> bool:
    words = ("gloo", "nccl", "connection", "peer", "timed out", "timeout", "broken pipe")
    return isinstance(error, distributed.DistBackendError) or any(word in str(error).lower() for word in words)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes that `torchrun` started, talking by NCCL on GPUs and by gloo elsewhere; else this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    # A convolution of one channel has strides of either kind, which costs nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def only_first(world: World) -> Iterator[None]:
    """Of several processes, what they print is printed by the first one alone."""
    if world.first:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        yield


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, where several are on one machine."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own
