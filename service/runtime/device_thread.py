"""The one thread of a process that runs models on its GPU.

ONNX Runtime keeps what it needs of cuDNN, and the graphs that it has captured, for each thread that calls: runs that
come from a pool of threads would capture everything again in each of them. And while a graph is captured, no other
thread of the process may allocate on the device or copy to it. So all runs are made here, one after another, as the
device would make them anyway; sessions may be opened elsewhere, but not during a capture.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, get_ident
from typing import TypeVar

_T = TypeVar("_T")
_STARTING = Lock()


class DeviceThread:
    """Runs what it is given, in the order in which it came. Safe to call from any thread, itself included."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "device")
        self._ident = self._pool.submit(get_ident).result()
        self.quiet = Lock()
        """Held while a graph is captured, and by whoever allocates on the device elsewhere."""

    def call(self, function: Callable[[], _T]) -> _T:
        """Run `function` there; return what it returns and raise what it raises."""
        if get_ident() == self._ident:
            return function()
        return self._pool.submit(function).result()


def device_thread() -> DeviceThread:
    """That of this process, started when it is first needed."""
    with _STARTING:
        return _started()


@functools.cache
def _started() -> DeviceThread:
    return DeviceThread()
