"""Client libraries that other people wrote, unchanged, over a socket."""

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles

http = pytest.importorskip("tritonclient.http", reason="has no wheel for this platform")


@pytest.fixture
def triton(client: httpx.Client):
    with http.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}") as triton:
        yield triton


def test_triton_reads_health_metadata_and_index(triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", "1")
    assert triton.get_server_metadata()["name"] == "reslens"
    metadata = triton.get_model_metadata("tiny")
    assert metadata["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, bundles.SIZE, bundles.SIZE]}]
    assert {entry["name"] for entry in triton.get_model_repository_index()} == {"tiny", "loud"}


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_triton_infers_logits_and_statistics(
    triton, tiny: bundles.Tiny, pixels: NDArray[np.uint8], datatype: str
) -> None:
    tensor = http.InferInput("images", list(pixels.shape), datatype)
    values = pixels if datatype == "UINT8" else pixels.astype(np.float32)
    tensor.set_data_from_numpy(values, binary_data=False)
    outputs = [http.InferRequestedOutput(name, binary_data=False) for name in ("logits", "statistics.active")]
    answer = triton.infer("tiny", [tensor], outputs=outputs, request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "2"
    np.testing.assert_allclose(answer.as_numpy("logits"), tiny.logits(pixels), rtol=1e-4, atol=1e-4)
    assert answer.as_numpy("statistics.active").shape == (len(pixels), 2 * bundles.CHANNELS)


def test_triton_is_told_what_was_wrong(triton, pixels: NDArray[np.uint8]) -> None:
    tensor = http.InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=False)
    outputs = [http.InferRequestedOutput("logits", binary_data=False)]
    with pytest.raises(http.InferenceServerException, match="unknown model 'nope'"):
        triton.infer("nope", [tensor], outputs=outputs)
    with pytest.raises(http.InferenceServerException, match="binary_data=False"):
        triton.infer("tiny", [tensor])
