"""Client libraries that other people wrote, unchanged, over a socket to a server process."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.service.conftest import eventually, png, settled
from tests.service.operated import operated

http = pytest.importorskip("tritonclient.http", reason="has no wheel for this platform")
aio = pytest.importorskip("tritonclient.http.aio")

Pixels = NDArray[np.uint8]
Form = dict[str, str]
NUMPY = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}
FORMS: list[Form] = [{}, {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}]
FORMS.append({"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"})


class Service(NamedTuple):
    address: str
    """Host and port."""
    root: Path


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two workers"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: bundles.Tiny
) -> Iterator[Service]:
    """`python -m service` over `tiny` in two versions: alone, and with several workers, as users start it."""
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", bundles.Tiny.random(1))
    bundles.publish(root, "tiny", tiny)
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, WORKERS=request.param, MAX_BATCH=4) as service:
        yield Service(service.url.removeprefix("http://"), root)
        assert "Traceback" not in log.read_text()


@pytest.fixture
def root(service: Service) -> Path:
    return service.root


@pytest.fixture
def address(service: Service) -> str:
    return service.address


@pytest.fixture
def triton(address: str):
    with http.InferenceServerClient(address) as triton:
        yield triton


def given(values: NDArray, datatype: str, binary: bool = True):
    tensor = http.InferInput("images", list(values.shape), datatype)
    return [tensor.set_data_from_numpy(values, binary_data=binary)]


def test_triton_reads_health_metadata_and_index(triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", "1")
    assert not triton.is_model_ready("nope")
    assert triton.get_server_metadata()["name"] == "reslens"
    metadata = triton.get_model_metadata("tiny")
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, bundles.SIZE, bundles.SIZE]}]
    assert "tiny" in {entry["name"] for entry in triton.get_model_repository_index()}


@pytest.mark.parametrize(
    ("datatype", "binary"), [("FP32", True), ("FP16", True), ("UINT8", True), ("FP32", False), ("UINT8", False)]
)
def test_triton_infers_logits_and_statistics(
    triton, tiny: bundles.Tiny, pixels: Pixels, datatype: str, binary: bool
) -> None:
    values = pixels.astype(NUMPY[datatype])
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "statistics.active")]
    answer = triton.infer("tiny", given(values, datatype, binary), outputs=outputs, request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "2"
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(pixels), rtol=1e-4, atol=1e-4)
    assert answer.as_numpy("statistics.active").shape == (len(pixels), 2 * bundles.CHANNELS)


@pytest.mark.parametrize("form", FORMS, ids=["plain", "gzip, deflate", "deflate, gzip"])
def test_triton_infers_by_default_and_compressed(triton, tiny: bundles.Tiny, pixels: Pixels, form: Form) -> None:
    answer = triton.infer("tiny", given(pixels, "UINT8"), **form)
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(pixels), rtol=1e-4, atol=1e-4)
    # Long enough to be worth compressing.
    outputs = [http.InferRequestedOutput(f"statistics.{name}") for name in ("mean", "active")]
    answer = triton.infer("tiny", given(pixels, "UINT8"), outputs=outputs, **form)
    assert answer.as_numpy("statistics.mean").shape == (len(pixels), 2 * bundles.CHANNELS)


def test_triton_sends_encoded_images_and_reads_classes(triton, tiny: bundles.Tiny, pixels: Pixels) -> None:
    images = np.array([png(image) for image in pixels], dtype=np.object_)
    outputs = [http.InferRequestedOutput("logits", class_count=2)]
    classes = triton.infer("tiny", given(images, "BYTES"), outputs=outputs).as_numpy("logits")
    assert classes.shape == (len(pixels), 2)
    for row, logits in zip(classes, tiny.logits(pixels), strict=True):
        value, index, label = row[0].decode().split(":")
        assert int(index) == logits.argmax()
        assert label == bundles.LABELS[logits.argmax()]
        assert float(value) == pytest.approx(logits.max(), abs=1e-3)


def test_triton_may_send_parameters_that_mean_nothing_here(triton, tiny: bundles.Tiny, pixels: Pixels) -> None:
    more = {"priority": 1, "timeout": 10_000_000, "sequence_id": 7, "sequence_start": True, "parameters": {"mine": 1}}
    answer = triton.infer("tiny", given(pixels, "UINT8"), **more)
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(pixels), rtol=1e-4, atol=1e-4)


def test_triton_infers_in_the_background(triton, tiny: bundles.Tiny, pixels: Pixels) -> None:
    waiting = [triton.async_infer("tiny", given(pixels[:1], "UINT8"), model_version=version) for version in ("1", "2")]
    first, second = (answer.get_result().as_numpy("logits") for answer in waiting)
    np.testing.assert_allclose(first, bundles.Tiny.random(1).logits(pixels[:1]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(second, tiny.logits(pixels[:1]), rtol=1e-4, atol=1e-4)


def test_triton_makes_bodies_to_be_sent_by_others(address: str, tiny: bundles.Tiny, pixels: Pixels) -> None:
    body, length = http.InferenceServerClient.generate_request_body(given(pixels, "UINT8"))
    headers = {"Inference-Header-Content-Length": str(length)}
    response = httpx.post(f"http://{address}/v2/models/tiny/infer", content=body, headers=headers)
    answer = http.InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(pixels), rtol=1e-4, atol=1e-4)


def test_triton_reads_configuration_and_counts(triton, pixels: Pixels) -> None:
    config = triton.get_model_config("tiny")
    assert (config["name"], config["max_batch_size"]) == ("tiny", 4)
    assert config["input"] == [{"name": "images", "data_type": "TYPE_FP32", "dims": [3, bundles.SIZE, bundles.SIZE]}]
    assert config["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": [len(bundles.LABELS)]}]

    def counts() -> tuple[int, int]:
        (counted,) = triton.get_inference_statistics("tiny", "2")["model_stats"]
        return counted["inference_count"], counted["execution_count"]

    images, runs = settled(counts)
    for _ in range(3):
        triton.infer("tiny", given(pixels[:2], "UINT8"))
    eventually(lambda: counts() == (images + 6, runs + 3))
    assert "tiny" in {entry["name"] for entry in triton.get_inference_statistics()["model_stats"]}


def test_triton_loads_and_unloads(triton, root: Path, pixels: Pixels) -> None:
    bundles.publish(root, "coming", bundles.Tiny.random(3))
    triton.load_model("coming")
    first = triton.infer("coming", given(pixels, "UINT8")).as_numpy("logits")
    bundles.publish(root, "coming", bundles.Tiny.random(4))
    triton.load_model("coming")
    second = triton.infer("coming", given(pixels, "UINT8")).as_numpy("logits")
    for seed, logits in ((3, first), (4, second)):
        np.testing.assert_allclose(logits, bundles.Tiny.random(seed).logits(pixels), rtol=1e-4, atol=1e-4)
    triton.unload_model("coming", unload_dependents=True)
    assert not triton.is_model_ready("coming")
    with pytest.raises(http.InferenceServerException, match=r"\[404\] model 'coming' was unloaded"):
        triton.infer("coming", given(pixels, "UINT8"))
    states = [entry["state"] for entry in triton.get_model_repository_index() if entry["name"] == "coming"]
    assert states == ["UNAVAILABLE"] * 2
    with pytest.raises(http.InferenceServerException, match="unknown model 'nope'"):
        triton.load_model("nope")
    with pytest.raises(http.InferenceServerException, match="parameters config are not possible"):
        triton.load_model("tiny", config="{}")


def test_triton_is_told_what_was_wrong(triton, pixels: Pixels) -> None:
    with pytest.raises(http.InferenceServerException, match=r"\[404\] unknown model 'nope'"):
        triton.infer("nope", given(pixels, "UINT8"))
    with pytest.raises(http.InferenceServerException, match=r"\[400\] unknown output 'softmax'"):
        triton.infer("tiny", given(pixels, "UINT8"), outputs=[http.InferRequestedOutput("softmax")])


@pytest.mark.parametrize("form", FORMS, ids=["plain", "gzip, deflate", "deflate, gzip"])
def test_triton_with_asyncio(address: str, tiny: bundles.Tiny, pixels: Pixels, form: Form) -> None:
    async def scenario() -> None:
        async with aio.InferenceServerClient(address) as triton:
            assert await triton.is_server_live()
            assert await triton.is_server_ready()
            assert await triton.is_model_ready("tiny")
            assert (await triton.get_model_metadata("tiny"))["name"] == "tiny"
            assert (await triton.get_server_metadata())["name"] == "reslens"
            assert (await triton.get_model_config("tiny"))["max_batch_size"] == 4
            assert (await triton.get_inference_statistics("tiny"))["model_stats"]
            assert await triton.get_model_repository_index()
            await triton.load_model("tiny")
            calls = [triton.infer("tiny", given(pixels[: 1 + n % 4], "UINT8"), **form) for n in range(20)]
            for n, answer in enumerate(await asyncio.gather(*calls)):
                expected = tiny.logits(pixels[: 1 + n % 4])
                np.testing.assert_allclose(answer.as_numpy("logits"), expected, rtol=1e-4, atol=1e-4)
            outputs = [http.InferRequestedOutput("statistics.mean"), http.InferRequestedOutput("statistics.active")]
            answer = await triton.infer("tiny", given(pixels, "UINT8"), outputs=outputs, **form)
            assert answer.as_numpy("statistics.mean").shape == (len(pixels), 2 * bundles.CHANNELS)
            with pytest.raises(http.InferenceServerException, match="unknown model 'nope'"):
                await triton.infer("nope", given(pixels, "UINT8"))

    asyncio.run(scenario())
