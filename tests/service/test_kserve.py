"""KServe's own client, where it is installed: it asks for older packages than the rest of the tests."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.service.conftest import png
from tests.service.processes import process

kserve = pytest.importorskip("kserve", reason="pip install kserve, in an environment of its own")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny: bundles.Tiny) -> Iterator[str]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", tiny)
    with process(root) as address:
        yield f"http://{address}"


def test_kserve_reads_health(address: str) -> None:
    async def scenario() -> None:
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0)) as client:
            assert await client.is_server_ready(address)
            assert await client.is_server_live(address)
            assert await client.is_model_ready(address, "tiny")

    asyncio.run(scenario())


@pytest.mark.parametrize("binary_out", [None, True, False])
@pytest.mark.parametrize(("datatype", "binary_in"), [("FP32", True), ("FP16", True), ("UINT8", True), ("FP32", False)])
def test_kserve_infers(
    address: str, tiny: bundles.Tiny, pixels: NDArray[np.uint8], datatype: str, binary_in: bool, binary_out: bool | None
) -> None:
    tensor = kserve.InferInput("images", list(pixels.shape), datatype)
    kinds = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}
    tensor.set_data_from_numpy(pixels.astype(kinds[datatype]), binary_data=binary_in)
    outputs = ["logits", "statistics.mean"]
    parameters = None if binary_out is None else {"binary_data_output": binary_out}
    request = kserve.InferRequest(
        "tiny",
        [tensor],
        request_id="seven",
        parameters=parameters,
        request_outputs=[kserve.protocol.infer_type.RequestedOutput(name) for name in outputs],
    )
    answer = infer(address, request)
    assert answer.id == "seven"
    assert answer.model_name == "tiny"
    assert [output.name for output in answer.outputs] == outputs
    np.testing.assert_allclose(answer.outputs[0].as_numpy(), tiny.logits(pixels), rtol=1e-4, atol=1e-4)
    assert answer.outputs[1].as_numpy().shape == (4, 2 * bundles.CHANNELS)


def test_kserve_sends_encoded_images(address: str, tiny: bundles.Tiny, pixels: NDArray[np.uint8]) -> None:
    tensor = kserve.InferInput("images", [4], "BYTES")
    tensor.set_data_from_numpy(np.array([png(image) for image in pixels], np.object_), binary_data=True)
    (output,) = infer(address, kserve.InferRequest("tiny", [tensor])).outputs
    np.testing.assert_allclose(output.as_numpy(), tiny.logits(pixels), rtol=1e-4, atol=1e-4)


def test_kserve_is_told_what_was_wrong(address: str, pixels: NDArray[np.uint8]) -> None:
    tensor = kserve.InferInput("pictures", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=True)
    with pytest.raises(Exception, match="unknown input 'pictures'; choose from images"):
        infer(address, kserve.InferRequest("tiny", [tensor]))


def infer(address: str, request: "kserve.InferRequest") -> "kserve.InferResponse":
    async def scenario() -> "kserve.InferResponse":
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=0)) as client:
            return await client.infer(address, request, model_name="tiny")

    return asyncio.run(scenario())
