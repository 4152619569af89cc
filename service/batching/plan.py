"""How the runs of one model are cut; measured, because whether a larger batch helps depends on model and device."""

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from service.runtime.model import LoadedModel
from service.runtime.provider import CPU

Batching = Literal["auto", "on", "off"]

# Sizes tried on the CPU: beyond, the activations leave the cache.
CPU_SIZES = (1, 2, 4, 8)
# A batch must save this share of an image's time, for who comes first has to wait for the others: two that take 3/4 of
# their time together end when on average they would have one after the other, after (1 + 2)/2 = 2 · 3/4 of it.
WORTHWHILE = 0.25
# …unless runs are so short that what is done between them counts: then merged ones need only not be far slower, and
# little is made of times that other processes disturb while this one loads.
# Measured with a ResNet-20 of 1.2 ms and 32 callers: merged to eight, requests take 0.81 of the processors' time.
NOT_SLOWER = -0.3
# What a merged run on the event loop's own thread may take: so long nothing else is heard.
LONGEST_TURN = 0.02
ROUNDS = 5
# Most seconds that measuring one model may add to its load.
MEASURING_SECONDS = 0.25


class Plan(NamedTuple):
    """How long one image takes, and how many images go into one run."""

    seconds: float
    """Of a run of one image."""
    sizes: tuple[int, ...]
    """What images of several requests are merged to, smallest first; (1,) merges nothing."""
    most: int
    """Images in one run, of one request or several; a request of more is split."""
    plain: frozenset[str] = frozenset()
    """The outputs that need no instrumented session."""
    pads: bool = False
    """Whether the model itself fills a run up to the next size."""

    def size(self, waiting: int) -> int:
        """How many images to run of those that wait."""
        return self.sizes[-1] if self.pads else max(size for size in self.sizes if size <= waiting)


ALONE = Plan(seconds=0.0, sizes=(1,), most=1)
"""Of what is no run."""


def plan(model: LoadedModel, batching: Batching, max_batch: int, short_seconds: float) -> Plan:
    """Decide by measuring how the model is run, which takes a fraction of a second and belongs before its traffic.

    Runs of up to `short_seconds` are short: merged, they take at most `LONGEST_TURN`.
    """
    plain = frozenset(model.output_names)
    if model.provider != CPU:
        sizes = (1,) if batching == "off" else tuple(size for size in model.buckets if size <= max_batch)
        return Plan(model.run_seconds, sizes, min(max_batch, model.buckets[-1]), plain, pads=True)
    seconds = min([model.run_seconds, *_least_seconds(model, (1,), model.run_seconds)])
    short = seconds <= short_seconds
    most = int(max(LONGEST_TURN, short_seconds) / seconds) if short else max_batch
    sizes = tuple(size for size in CPU_SIZES if size <= min(most, max_batch))
    if batching == "off":
        sizes = (1,)
    elif batching == "auto":
        measured = _least_seconds(model, sizes, seconds)
        sizes = _worthwhile(sizes, measured, NOT_SLOWER if short else WORTHWHILE) if measured else (1,)
    return Plan(seconds, sizes, max_batch, plain)


def unmeasured(model: LoadedModel, max_batch: int) -> Plan:
    """The plan of a model that nobody has measured: nothing is merged."""
    return Plan(model.run_seconds, (1,), max_batch, frozenset(model.output_names))


def _worthwhile(sizes: tuple[int, ...], seconds: Sequence[float], least: float) -> tuple[int, ...]:
    """The sizes up to the largest at which an image saves such a share of the time that it takes alone."""
    saving = [size for size, each in zip(sizes, seconds, strict=True) if each <= (1 - least) * seconds[0]]
    return tuple(size for size in sizes if size <= max(saving, default=1))


def _least_seconds(model: LoadedModel, sizes: Sequence[int], seconds: float) -> list[float]:
    """What an image takes in a run of each size: the least of several, for other work makes runs longer, none shorter.

    Nothing of a model that takes too long to measure, by the seconds of a run of one image.
    """
    if ROUNDS * sum(sizes) * seconds > MEASURING_SECONDS:
        return []
    rounds = [[_seconds_an_image(model, size) for size in sizes] for _ in range(ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _seconds_an_image(model: LoadedModel, size: int) -> float:
    tensor = np.zeros((size, *model.manifest.inputs[0].shape[1:]), np.float32)
    started = time.perf_counter()
    model.run(tensor, model.output_names)
    return (time.perf_counter() - started) / size
