"""What the settings mean for ONNX Runtime. A device is not needed to see which options its CUDA provider knows."""

import mmap
from pathlib import Path

import httpx
import onnxruntime
import pytest
from pydantic import ValidationError

from models.manifest import HalfPrecision, Metrics
from service.app import create_app
from service.errors import StartupError
from service.protocol.config import model_config
from service.runtime.cuda import CudaOptions
from service.runtime.precision import choose_precision
from service.runtime.provider import CPU, CUDA
from service.settings import Settings
from tests import bundles

LIBRARY = Path(onnxruntime.__file__).parent / "capi/libonnxruntime_providers_cuda.so"
METRICS = Metrics(images=10, accuracy=0.9, loss=0.3, data="held out")
HALF = HalfPrecision(tolerance=0.02, difference=0.001, metrics=METRICS)


@pytest.mark.skipif(not LIBRARY.exists(), reason="this ONNX Runtime has no CUDA provider")
@pytest.mark.parametrize("arena", ["double", "exact"])
@pytest.mark.parametrize("search", ["heuristic", "exhaustive", "default"])
def test_the_provider_knows_every_option_and_value(arena: str, search: str) -> None:
    options = CudaOptions(memory_megabytes=100, arena=arena, search=search)  # type: ignore[arg-type]
    given = options.provider_options(capture=True)
    words = [*given, given["arena_extend_strategy"], given["cudnn_conv_algo_search"]]
    with LIBRARY.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert [word for word in words if content.find(word.encode()) < 0] == []
        assert content.find(b"no_such_option") < 0


def test_settings_become_options() -> None:
    assert CudaOptions.of(Settings()) == CudaOptions()
    settings = Settings(
        device=3,
        gpu_memory_megabytes=2048,
        gpu_arena="exact",
        gpu_arena_shrink=True,
        tf32=True,
        cudnn_search="exhaustive",
        cuda_graphs="off",
        precision="fp32",
    )
    assert CudaOptions.of(settings).provider_options() == {
        "device_id": "3",
        "gpu_mem_limit": str(2 * 1024**3),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": "1",
        "enable_cuda_graph": "0",
    }


def test_tf32_and_graphs_are_off_where_they_were_not_asked_for() -> None:
    options = CudaOptions().provider_options()
    assert options["use_tf32"] == options["enable_cuda_graph"] == "0"
    assert CudaOptions().provider_options(capture=True)["enable_cuda_graph"] == "1"
    assert "gpu_mem_limit" not in options


def test_memory_cannot_be_kept_for_graphs_and_given_back() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        Settings(gpu_arena_shrink=True, cuda_graphs="on")
    assert not CudaOptions.of(Settings(gpu_arena_shrink=True)).captures


def test_half_precision_needs_cuda(tmp_path: Path) -> None:
    settings = Settings(model_repository=tmp_path, provider="cpu", precision="fp16")
    with pytest.raises(StartupError, match="RESLENS_PRECISION=fp16 needs CUDA"):
        create_app(settings)


@pytest.mark.parametrize(
    ("half", "provider", "asked", "chosen"),
    [
        (True, CPU, "auto", "fp32"),
        (True, CPU, "fp32", "fp32"),
        (True, CUDA, "auto", "fp16"),
        (True, CUDA, "fp32", "fp32"),
        (True, CUDA, "fp16", "fp16"),
        (False, CUDA, "auto", "fp32"),
        (False, CUDA, "fp32", "fp32"),
        (False, CUDA, "fp16", None),
    ],
)
def test_which_precision_is_served(half: bool, provider: str, asked: str, chosen: str | None) -> None:
    manifest = bundles.manifest("tiny", 1, {"model.onnx": "0" * 64})
    manifest = manifest.model_copy(update={"half": HALF if half else None})
    if chosen is None:
        with pytest.raises(ValueError, match="no graph in half precision: publish it with one"):
            choose_precision(manifest, provider, asked)  # type: ignore[arg-type]
    else:
        assert choose_precision(manifest, provider, asked) == chosen  # type: ignore[arg-type]


def test_a_gpu_is_named_to_clients() -> None:
    config = model_config(bundles.manifest("tiny", 1, {"model.onnx": "0" * 64}), 8, CUDA, "cuda:3", "fp16")
    (group,) = config.instance_group
    assert (group.kind, group.gpus) == ("KIND_GPU", [3])
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "execution_provider": CUDA,
        "precision": "fp16",
    }


def test_the_cpu_is_named_to_people(client: httpx.Client) -> None:
    model = client.get("/v1/models/tiny").json()
    assert (model["device"], model["precision"]) == ("cpu", "fp32")
