"""Memory that runs out, for real: what is said, and that the model answers as before."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.repository import Bundle, ModelRepository
from service.errors import DeviceMemoryError, LoadRefusedError, ModelFaultError, ModelUnavailableError
from service.runtime.failures import fault, is_out_of_memory
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU
from service.runtime.shelf import ModelShelf
from tests import bundles

ROOT = Path(__file__).parents[2]
# In a process of its own, which nothing that is short of memory here can harm: 4,096 images of a network that has 16
# channels of 8×8 need 16 MiB for one activation.
RUN = """
import resource, sys
from pathlib import Path
import numpy as np
import onnxruntime
from models.repository import ModelRepository
from service.errors import DeviceMemoryError
from service.runtime import sessions
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU

how, root, statistics = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "statistics"
if how == "arena":
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    limits = onnxruntime.OrtArenaCfg({"max_mem": 8 << 20, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(place, limits)
    options = sessions.Sessions._options

    def limited(self):
        made = options(self)
        made.add_session_config_entry("session.use_env_allocators", "1")
        return made

    sessions.Sessions._options = limited
model = LoadedModel(ModelRepository(root).open("tiny"), CPU, threads=1)
outputs = model.output_names + (model.statistics_names if statistics else ())
few, many = np.ones((2, 3, 8, 8), np.float32), np.ones((16384, 3, 8, 8), np.float32)
before = model.run(few, outputs)
if how == "system":
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), resource.RLIM_INFINITY))
for _ in range(3):
    try:
        model.run(many, outputs)
    except DeviceMemoryError as error:
        print(error)
    after = model.run(few, outputs)
    assert all(np.array_equal(after[name], before[name]) for name in outputs)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limit of a process's memory")
@pytest.mark.parametrize(("how", "outputs"), [("arena", "plain"), ("system", "plain"), ("system", "statistics")])
def test_memory_that_runs_out_is_named_and_survived(how: str, outputs: str, tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    command = [sys.executable, "-c", RUN, how, str(tmp_path), outputs]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3, done.stdout
    assert set(lines) == {"there is no memory to run model 'tiny' on 16384 images at once: send fewer"}
    # For those who run the service.
    assert done.stderr.count("has no memory for 16384 images at once: ") == 3


@pytest.mark.parametrize(
    "message",
    [
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824",
        "bfc_arena.cc:376 Available memory of 5975296 is smaller than requested bytes of 50331648",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc((void**)&p, size)",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
        "Status Message: std::bad_alloc",
    ],
)
def test_words_of_missing_memory(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    error = fault("tiny", 8, RuntimeError(message))
    assert isinstance(error, DeviceMemoryError)
    assert error.status == 503
    assert str(error) == "there is no memory to run model 'tiny' on 8 images at once: send fewer"


def test_other_failures_are_the_models(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    model = LoadedModel(ModelRepository(tmp_path).open("tiny"), CPU, threads=1)
    with pytest.raises(ModelFaultError, match="failed while it ran") as caught:
        model.run(np.zeros((1, 3, 9, 9), np.float32), ("logits", "statistics.mean"))
    assert not isinstance(caught.value, DeviceMemoryError)
    assert caught.value.status == 500
    assert isinstance(fault("tiny", 1, MemoryError()), DeviceMemoryError)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", LoadRefusedError),
        ("Load model failed: invalid graph", ModelUnavailableError),
    ],
)
def test_a_load_that_finds_no_device_memory_says_nothing_about_the_files(
    message: str, error: type[Exception], tmp_path: Path
) -> None:
    bundles.publish(tmp_path)

    def load(_: Bundle) -> LoadedModel:
        raise RuntimeError(message)

    with pytest.raises(error) as caught:
        asyncio.run(ModelShelf(ModelRepository(tmp_path), load).prepare("tiny", 1))
    assert type(caught.value) is error


GROWTH = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
from models.repository import ModelRepository
from service.runtime.direct import DirectSession
from service.runtime.provider import CPU
from service.runtime.sessions import Sessions

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

sessions = Sessions(CPU, threads=1)
graph = ModelRepository(Path(sys.argv[1])).open("tiny").graph
session = DirectSession(sessions.open(graph), shrink=sys.argv[2] or None)
few, many = np.ones((1, 3, 8, 8), np.float32), np.ones((16384, 3, 8, 8), np.float32)
session.run(["logits"], few)
before = resident()
for _ in range(3):
    session.run(["logits"], many)
    session.run(["logits"], few)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process where Linux says it")
def test_memory_of_a_large_batch_is_given_back(tmp_path: Path) -> None:
    """16,384 images take 67 MB for each activation; without giving back they stay."""
    bundles.publish(tmp_path)
    grown = {}
    for shrink in ("", "cpu:0"):
        command = [sys.executable, "-c", GROWTH, str(tmp_path), shrink]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        grown[shrink] = float(done.stdout)
    assert grown[""] > 67
    assert grown["cpu:0"] < 20
