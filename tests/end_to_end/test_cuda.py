"""CUDA against the CPU: for every activation, and for every way in which a batch can be run."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from benchmarks.networks import random_pixels, untrained
from models.instrument import instrument
from models.manifest import HalfPrecision, Metrics, ModelManifest
from models.overloads import choose_overload
from models.repository import Bundle
from models.statistics.layout import output_widths
from service.errors import DeviceMemoryError
from service.runtime.cuda import CudaOptions
from service.runtime.device_thread import device_thread
from service.runtime.direct import DirectSession
from service.runtime.model import OVERLOADS, LoadedModel, Tensors
from service.runtime.provider import CPU, CUDA
from service.runtime.sessions import Sessions
from tests import bundles
from tests.service.processes import process
from tests.training.cases import CASES, Case, grid
from tests.training.test_activation_bodies import TOLERANCE, bodies, one_node_model
from training.activations.catalogue import ACTIVATIONS
from training.export.graph import INPUT, OUTPUT
from training.export.half import halve
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.network import NetworkConfig

pytestmark = pytest.mark.gpu

WITHOUT_GRAPHS = CudaOptions(graphs="off")
WITH_GRAPHS = CudaOptions(graphs="on")
SIZE = 32
MAX_BATCH = 8
# All sizes, filled up and not, in parts, and each after others.
NUMBERS = (1, 2, 3, 4, 8, 5, 1, 7, 6, 8, 2, 11, 1, 24, 3)


def served(graph: onnx.ModelProto, provider: str) -> onnxruntime.InferenceSession:
    """A session as the service opens it: each activation with its body for the provider."""
    return Sessions(provider, threads=1).open(choose_overload(graph, OVERLOADS[provider]).SerializeToString())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_and_statistics_equal_the_cpu(activation: str, arrangement: str) -> None:
    if activation == "squared_relu" and arrangement == "original":
        pytest.skip("squares that follow squares leave float32 in a network without training")
    graph, manifest = untrained(NetworkConfig("resnet8", activation, arrangement), SIZE)
    names = [OUTPUT, *output_widths(manifest)]
    feed = {INPUT: random_pixels(4, SIZE)}
    instrumented = instrument(graph, manifest)
    sessions = [served(instrumented, provider) for provider in (CPU, CUDA)]
    expected, actual = (dict(zip(names, session.run(names, feed), strict=True)) for session in sessions)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_equals_the_formula(case: Case) -> None:
    module = case.build()
    overload = "cuda" if "cuda" in bodies(module.node()) else ""
    session = Sessions(CUDA, threads=1).open(one_node_model(module, overload).SerializeToString())
    x = grid(case)
    actual = session.run(None, {"x": x})[0]
    assert np.isfinite(actual).all()
    error = np.abs(actual - case.expected(module, x)) / case.size(module, x)
    assert error.max() <= TOLERANCE, f"{error.max():.1e}"


@pytest.fixture(scope="module")
def network() -> tuple[onnx.ModelProto, ModelManifest]:
    return untrained(NetworkConfig("resnet20", "relu"), SIZE)


@pytest.fixture(scope="module")
def bundle(network: tuple[onnx.ModelProto, ModelManifest]) -> Bundle:
    """With a graph in half precision, of which nothing was measured."""
    graph, manifest = network
    metrics = Metrics(images=1, accuracy=1.0, loss=0.0, data="none")
    half = HalfPrecision(tolerance=0.02, difference=0.0, metrics=metrics)
    halved = halve(graph).SerializeToString()
    return Bundle(Path(), manifest.model_copy(update={"half": half}), graph.SerializeToString(), None, halved)


def loaded(bundle: Bundle, options: CudaOptions, max_batch: int = MAX_BATCH) -> LoadedModel:
    return LoadedModel(bundle, CUDA, threads=1, max_batch=max_batch, cuda=options)


def single(**options: object) -> CudaOptions:
    return CudaOptions(precision="fp32", **options)  # type: ignore[arg-type]


def images(number: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, 256, (number, 3, SIZE, SIZE)).astype(np.float32)


def run_all(model: LoadedModel, numbers: tuple[int, ...] = NUMBERS) -> list[Tensors]:
    names = (*model.output_names, *model.statistics_names)
    # Plain and with statistics in turn: they share the device's memory.
    return [
        model.run(images(number, seed), names if seed % 2 else model.output_names)
        for seed, number in enumerate(numbers)
    ]


def assert_close(actual: list[Tensors], expected: list[Tensors], relative: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            bound = relative * (1 + np.abs(other[name]).max())
            assert values.shape == other[name].shape, name
            assert np.abs(values - other[name]).max() <= bound, name


def test_bound_memory_gives_what_the_cpu_gives(bundle: Bundle) -> None:
    model = loaded(bundle, single(graphs="off"))
    assert model.buckets == (1, 2, 4, 8)
    expected = run_all(LoadedModel(bundle, CPU, threads=1))
    assert_close(run_all(model), expected, 1e-3)


def test_graphs_change_no_bit(bundle: Bundle) -> None:
    model = loaded(bundle, single(graphs="on"))
    assert model._plain.captured
    assert model._instrumented.captured  # type: ignore[union-attr]
    assert model.buckets == (1, 2, 4, 8)
    for one, other in zip(run_all(model), run_all(loaded(bundle, single(graphs="off"))), strict=True):
        for name, values in one.items():
            assert np.array_equal(values, other[name]), name


def test_images_that_fill_a_batch_up_have_no_influence(bundle: Bundle) -> None:
    model = loaded(bundle, single(graphs="on"))
    names = (*model.output_names, *model.statistics_names)
    alone = model.run(images(3), names)
    poisoned = images(8)
    poisoned[3:] = np.nan
    model.run(poisoned, names)
    again = model.run(images(3), names)
    assert all(np.array_equal(again[name], alone[name]) for name in names)
    assert all(np.isfinite(again[name]).all() for name in names)


def test_many_threads_are_answered_each_for_itself(bundle: Bundle) -> None:
    model = loaded(bundle, single(graphs="on"))
    batches = [images(1 + seed % 9, seed) for seed in range(200)]
    expected = [model.run(batch, model.output_names)["logits"] for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda batch: model.run(batch, model.output_names)["logits"], batches))
    assert all(np.array_equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_models_load_while_others_answer(bundle: Bundle) -> None:
    """No graph is captured while others allocate, and none of them fails because of a capture."""
    model = loaded(bundle, single(graphs="on"))
    expected = model.run(images(5), model.output_names)["logits"]
    with ThreadPoolExecutor(4) as pool:
        loading = [pool.submit(loaded, bundle, single(graphs="on")) for _ in range(3)]
        while not all(task.done() for task in loading):
            assert np.array_equal(model.run(images(5), model.output_names)["logits"], expected)
        for task in loading:
            assert np.array_equal(task.result().run(images(5), model.output_names)["logits"], expected)


def test_a_graph_with_nodes_that_cuda_does_not_have_is_not_captured(
    network: tuple[onnx.ModelProto, ModelManifest], caplog: pytest.LogCaptureFixture
) -> None:
    """The determinant of 1×1 matrices has no CUDA kernel, and changes nothing."""
    graph, manifest = network
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    last = changed.graph.node[-1]
    last.output[0] = "before"
    axes = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "last_axes")
    changed.graph.initializer.append(axes)
    changed.graph.node.extend(
        [
            onnx.helper.make_node("Unsqueeze", ["before", "last_axes"], ["matrices"]),
            onnx.helper.make_node("Det", ["matrices"], [OUTPUT]),
        ]
    )
    given = Bundle(Path(), manifest, changed.SerializeToString(), None)
    with caplog.at_level(logging.WARNING):
        model = loaded(given, CudaOptions(graphs="auto"))
    assert not model._plain.captured
    assert "runs without CUDA graphs" in caplog.text
    assert_close(run_all(model), run_all(LoadedModel(given, CPU, threads=1)), 1e-3)
    with pytest.raises(Exception, match=r"."):
        loaded(given, WITH_GRAPHS)


@pytest.mark.parametrize("graphs", ["on", "off"])
def test_half_precision_is_close_and_says_so(bundle: Bundle, graphs: str) -> None:
    model = loaded(bundle, CudaOptions(precision="fp16", graphs=graphs))  # type: ignore[arg-type]
    assert (model.precision, loaded(bundle, single()).precision) == ("fp16", "fp32")
    assert loaded(bundle, CudaOptions()).precision == "fp16"
    expected = run_all(LoadedModel(bundle, CPU, threads=1))
    actual = run_all(model)
    assert all(values.dtype == np.float32 for one in actual for values in one.values())
    logits = [[one["logits"] for one in answers] for answers in (actual, expected)]
    assert any(not np.array_equal(one, other) for one, other in zip(*logits, strict=True))
    scale = max(float(np.abs(one).max()) for one in logits[1])
    assert all(np.abs(one - other).max() <= 0.02 * scale for one, other in zip(*logits, strict=True))
    for one, other in zip(actual, expected, strict=True):
        for name in set(one) - {"logits"}:
            assert np.isfinite(one[name]).all(), name
            assert np.abs(one[name] - other[name]).mean() <= 0.02 * (1 + np.abs(other[name]).max()), name


def test_half_precision_that_is_not_there_is_an_error(network: tuple[onnx.ModelProto, ModelManifest]) -> None:
    graph, manifest = network
    with pytest.raises(ValueError, match="no graph in half precision"):
        loaded(Bundle(Path(), manifest, graph.SerializeToString(), None), CudaOptions(precision="fp16"))


def test_tf32_is_close_and_off_unless_asked_for(bundle: Bundle) -> None:
    expected = LoadedModel(bundle, CPU, threads=1).run(images(8), (OUTPUT,))[OUTPUT]
    exact = loaded(bundle, single()).run(images(8), (OUTPUT,))[OUTPUT]
    coarse = loaded(bundle, single(tf32=True)).run(images(8), (OUTPUT,))[OUTPUT]
    scale = np.abs(expected).max()
    assert np.abs(exact - expected).max() <= 1e-4 * (1 + scale)
    # Devices older than Ampere have no TF32, and give the same.
    assert np.abs(coarse - expected).max() <= 2e-2 * scale


@pytest.mark.parametrize("search", ["heuristic", "exhaustive", "default"])
def test_every_search_of_algorithms_gives_the_same(bundle: Bundle, search: str) -> None:
    expected = run_all(LoadedModel(bundle, CPU, threads=1))
    assert_close(run_all(loaded(bundle, single(search=search))), expected, 2e-3)


def test_memory_can_be_given_back_after_every_run(bundle: Bundle) -> None:
    model = loaded(bundle, single(arena_shrink=True, arena="exact"))
    assert not model._plain.captured
    assert_close(run_all(model), run_all(loaded(bundle, single(graphs="off"))), 1e-4)


def test_batches_without_room_are_run_in_parts(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """A ResNet-20 needs 64 KiB an image for one activation: 64 MiB hold no 2,048 of them with all that is beside."""
    with caplog.at_level(logging.WARNING):
        model = loaded(bundle, single(memory_megabytes=64, arena="exact", graphs="off"), max_batch=2048)
    assert 1 <= model.buckets[-1] < 2048
    assert "there is no memory for" in caplog.text
    names = (*model.output_names, *model.statistics_names)
    many = images(600)
    expected = LoadedModel(bundle, CPU, threads=1)
    assert_close([model.run(many, names)], [expected.run(many, names)], 1e-3)


def test_memory_that_runs_out_is_named_and_survived(bundle: Bundle) -> None:
    """Beside what is bound at load, a session takes any batch: one that is too large must leave it as it was."""
    sessions = Sessions(CUDA, threads=1, cuda=CudaOptions(memory_megabytes=64, arena="exact"))
    session = DirectSession(sessions.open(bundle.graph), device_thread())
    model = loaded(bundle, single(graphs="off"))
    model._plain = session  # type: ignore[assignment]
    before = model.run(images(4), (OUTPUT,))[OUTPUT]
    for _ in range(3):
        with pytest.raises(DeviceMemoryError, match="on 4096 images at once: send fewer"):
            model.run(images(4096), (OUTPUT,))
        assert np.array_equal(model.run(images(4), (OUTPUT,))[OUTPUT], before)


def test_a_model_that_has_no_room_at_all_is_not_loaded(bundle: Bundle) -> None:
    with pytest.raises(Exception, match=r"(?i)memory"):
        loaded(bundle, single(memory_megabytes=1, arena="exact"))


def test_the_service_says_what_it_runs_on(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    settings: Mapping[str, object] = {"PROVIDER": "cuda", "WORKERS": 1, "MAX_BATCH": 4, "CUDA_GRAPHS": "on"}
    with process(tmp_path, **settings) as address, httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        model = client.get("/v1/models/tiny").json()
        assert (model["provider"], model["device"], model["precision"]) == (CUDA, "cuda:0", "fp32")
        (group,) = client.get("/v2/models/tiny/config").json()["instance_group"]
        assert (group["kind"], group["gpus"]) == ("KIND_GPU", [0])
        assert f'provider="{CUDA}"' in client.get("/metrics").text
        pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8))
        tensor = {"name": "images", "datatype": "FP32", "shape": pixels.shape, "data": pixels.ravel().tolist()}
        answer = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).json()
    logits = np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"])
    np.testing.assert_allclose(logits, bundles.Tiny.random().logits(pixels), rtol=1e-4, atol=1e-4)
