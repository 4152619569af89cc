"""Schedulers in an event loop, and a real model that notes its runs."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
import uvloop
from numpy.typing import NDArray

from service.batching.scheduler import Scheduler
from service.runtime.model import LoadedModel, Tensors
from tests.service import watched

LOGITS = ("logits",)
# Of CPU runs whatever the batch: bit-identical in every model tried, here and in the documentation.
BOUND = 1e-5


class Spied:
    """A loaded model that notes its runs; `before` may fail or wait."""

    def __init__(self, model: LoadedModel, before: Callable[[NDArray], None] = lambda _: None) -> None:
        self.model = model
        self.before = before
        self.runs: list[tuple[int, tuple[str, ...]]] = []
        self.threads: list[str] = []
        self.run_seconds = 0.001

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def run(self, tensor: NDArray[np.float32], outputs: Sequence[str]) -> Tensors:
        self.runs.append((len(tensor), tuple(outputs)))
        self.threads.append(threading.current_thread().name)
        self.before(tensor)
        return self.model.run(tensor, outputs)

    @property
    def batches(self) -> list[int]:
        return [images for images, _ in self.runs]


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return watched.images(count, seed).astype(np.float32)


def scheduler(short: float = 0.005, **changes: Any) -> Scheduler:
    options: dict[str, Any] = {"queue_images": 64, "batching": "on", "short_work_seconds": 0.001, **changes}
    return Scheduler(short_run_seconds=short, **options)


# Short runs on the event loop's thread, and long ones in threads.
PLACES = pytest.mark.parametrize("short", [0.005, 0.0], ids=["turns", "threads"])


def run(coroutine: Callable[[], Awaitable[Any]]) -> Any:
    """In the event loop that the service runs in."""

    async def whole() -> Any:
        return await coroutine()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


async def all_of(*awaitables: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*awaitables, return_exceptions=True)
