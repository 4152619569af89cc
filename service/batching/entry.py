"""What waits in a queue: images to run, or other work, of one request."""

from asyncio import Future
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.batching.plan import Plan
from service.batching.terms import Terms
from service.runtime.model import LoadedModel, Tensors
from service.runtime.observation import Observer

Payload = TypeVar("Payload")


class Inference(NamedTuple):
    """Images of one request that are in one run."""

    model: LoadedModel
    tensor: NDArray[np.float32]
    outputs: Sequence[str]
    observer: Observer | None


class Ran(NamedTuple):
    """What a run gave to one of those who were in it."""

    values: Tensors
    queue_ns: int
    infer_ns: int
    """Of the whole run."""
    batch: int
    """Images in the run, those of others included."""
    runs: int = 1
    """0 for all but one of those who shared a run: the sum over requests is the number of runs."""


@dataclass(slots=True, eq=False)
class Entry(Generic[Payload]):
    """Something that waits, and somebody who waits for it."""

    payload: Payload
    key: Hashable
    """Only entries of one key may share a run."""
    images: int
    plan: Plan
    seconds: float
    """How long it is expected to take."""
    terms: Terms
    came_ns: int
    future: Future[Any]
