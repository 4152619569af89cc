"""A loaded model as it is on a GPU, where what is meant for it runs on the CPU: all but the device is real."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.manifest import HalfPrecision, Metrics
from models.repository import Bundle, ModelRepository
from service.runtime import bound, direct, sessions
from service.runtime.cuda import CudaOptions
from service.runtime.maps import LayerMaps
from service.runtime.model import LoadedModel
from service.runtime.provider import CPU, CUDA
from tests import bundles
from tests.service.test_half_precision import half, pixels

Asked = list[dict[str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """The options that ONNX Runtime was asked for a session with, on a device that is the CPU."""
    found: Asked = []
    real = onnxruntime.InferenceSession

    def opened(
        graph: object, options: object = None, *, providers: list, **arguments: object
    ) -> onnxruntime.InferenceSession:
        session = real(graph, options, providers=[CPU], **arguments)
        if providers[0] != CPU:
            found.append(providers[0][1])
            session.get_providers = lambda: [CUDA, CPU]
        return session

    allocate, run_options = bound._allocate, direct.run_options
    monkeypatch.setattr(sessions.onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(bound, "_allocate", lambda shape, _: allocate(shape, ("cpu", 0)))
    monkeypatch.setattr(bound, "run_options", lambda shrink=None, graph=None: run_options(shrink and "cpu:0", graph))
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundles.publish(tmp_path)
    return ModelRepository(tmp_path).open("tiny")


def loaded(bundle: Bundle, **options: object) -> LoadedModel:
    return LoadedModel(bundle, CUDA, threads=1, max_batch=6, cuda=CudaOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("graphs", ["auto", "on", "off"])
def test_any_batch_gives_what_the_cpu_gives(bundle: Bundle, asked: Asked, graphs: str) -> None:
    model, expected = loaded(bundle, graphs=graphs, device=3), LoadedModel(bundle, CPU, threads=1)
    assert (model.buckets, model.provider, model.device, model.precision) == ((1, 2, 4, 6), CUDA, "cuda:3", "fp32")
    assert model.run_seconds > 0
    # The plain and the instrumented session.
    assert [options["enable_cuda_graph"] for options in asked] == ["0" if graphs == "off" else "1"] * 2
    assert all(options["device_id"] == "3" for options in asked)
    for number in (1, 3, 6, 2, 13):
        for names in (model.output_names, (*model.statistics_names, "logits")):
            actual, values = (one.run(pixels(number), names) for one in (model, expected))
            assert list(actual) == list(names)
            for name in names:
                np.testing.assert_allclose(actual[name], values[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_sizes_without_room_are_those_of_no_session(
    bundle: Bundle, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[..., list] = bound.Slot.run

    def limited(self: bound.Slot, names: list, images: np.ndarray, options: object) -> list:
        # Statistics take more.
        if self.batch > (2 if len(self.names) > 1 else 4):
            raise RuntimeError("BFCArena: Available memory of 10 is smaller than requested bytes of 20")
        return run(self, names, images, options)

    monkeypatch.setattr(bound.Slot, "run", limited)
    model = loaded(bundle)
    assert model.buckets == (1, 2)
    names = (*model.output_names, *model.statistics_names)
    expected = LoadedModel(bundle, CPU, threads=1).run(pixels(7), names)
    actual = model.run(pixels(7), names)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert len(asked) == 2


@pytest.mark.parametrize("asked_for", ["auto", "fp16"])
def test_the_graph_in_half_precision_is_what_runs(tmp_path: Path, asked: Asked, asked_for: str) -> None:
    metrics = Metrics(images=1, accuracy=1.0, loss=0.0, data="none")
    halved = half(1 / 255).SerializeToString()
    described = HalfPrecision(tolerance=0.02, difference=0.001, metrics=metrics)
    files = {"model.onnx": bundles.Tiny.random().graph().SerializeToString(), "model.fp16.onnx": halved}
    repository = ModelRepository(tmp_path)

    def describe(version: int, digests: dict[str, str]) -> object:
        plain = bundles.manifest("tiny", version, {"model.onnx": digests["model.onnx"]})
        return plain.model_copy(update={"half": described, "digests": digests})

    repository.publish("tiny", files, describe)  # type: ignore[arg-type]
    both = repository.open("tiny")
    model, single = loaded(both, precision=asked_for), loaded(both, precision="fp32")
    assert (model.precision, single.precision) == ("fp16", "fp32")
    expected, actual = (one.run(pixels(5), ("logits",))["logits"] for one in (single, model))
    assert 0 < np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()
    assert len(asked) == 4
    # A layer's map is of the graph that runs.
    maps = [LayerMaps(repository, threads=1).map(one, "act1", pixels(1)) for one in (model, single)]
    assert maps[0].dtype == np.float32
    assert 0 < np.abs(maps[0] - maps[1]).max() < 0.02 * maps[1].max()
