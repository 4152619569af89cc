"""Client libraries that other people wrote, unchanged, over a socket to a server process."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.service.conftest import png

http = pytest.importorskip("tritonclient.http", reason="has no wheel for this platform")
aio = pytest.importorskip("tritonclient.http.aio")

ROOT = Path(__file__).parents[2]
Pixels = NDArray[np.uint8]
Form = dict[str, str]
NUMPY = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}
FORMS: list[Form] = [{}, {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}]
FORMS.append({"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny: bundles.Tiny) -> Iterator[str]:
    """Host and port of `python -m service` over `tiny` in two versions."""
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", bundles.Tiny.random(1))
    bundles.publish(root, "tiny", tiny)
    settings = {"MODEL_REPOSITORY": root, "PORT": 0, "PROVIDER": "cpu", "HISTORY_URL": "", "MAX_BATCH": 4}
    environment = {**os.environ, **{f"RESLENS_{name}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"http://([0-9.:]+)", line):
                    yield found[1]
                    break
        finally:
            process.terminate()
            process.communicate(timeout=30)


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
    assert {entry["name"] for entry in triton.get_model_repository_index()} == {"tiny"}


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
