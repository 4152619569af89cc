"""What all tests share. Nothing here needs PyTorch: tests of models/ and service/ run without it."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

# Tests run side by side, one process a core: threads inside each would only fight, and spinning ones starve the rest.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Tests leave nothing behind and watch nothing but what they say.
os.environ["RESLENS_HISTORY_URL"] = ""
os.environ["RESLENS_STATISTICS_SAMPLE"] = "0"
# No load is balanced here: servers that are told to end need not wait.
os.environ["RESLENS_ANNOUNCE_SECONDS"] = "0"
# Tests send nothing anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

TESTS = Path(__file__).parent


def _cuda_devices() -> int:
    """Devices that the CUDA driver finds; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if found else 0


# Here real processes are started, called and killed, while the machine does other work too. What fails is run once
# more, and the summary tells of it: what fails twice is no accident.
PROCESSES = ("service", "end_to_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(TESTS).parts[0] in PROCESSES:
            item.add_marker(pytest.mark.flaky(reruns=1))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _cuda_devices():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
