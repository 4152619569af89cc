import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from service.protocol.envelope import InferenceResponse
from tests import bundles

INFER = "/v2/models/tiny/infer"
SHAPE = [1, 3, bundles.SIZE, bundles.SIZE]
COUNT = 3 * bundles.SIZE**2
STATISTICS = ["statistics.mean", "statistics.branch_energy"]
Pixels = NDArray[np.uint8]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "images", "shape": SHAPE, "datatype": "FP32", "data": [0.0] * COUNT, **changes}


def outputs(response: httpx.Response) -> dict[str, NDArray[np.float64]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = InferenceResponse.model_validate(response.json())
    return {output.name: np.array(output.data).reshape(output.shape) for output in answer.outputs}


def error(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_infers(
    client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels, datatype: str, nested: bool, batch: int
) -> None:
    images = pixels[:batch].astype(np.uint8 if datatype == "UINT8" else np.float32)
    data = images.tolist() if nested else images.ravel().tolist()
    given = tensor(shape=list(images.shape), datatype=datatype, data=data)
    response = client.post(INFER, json={"id": "a/ü", "inputs": [given]})
    np.testing.assert_allclose(outputs(response)["logits"], tiny.logits(images), rtol=1e-4, atol=1e-4)
    answer = response.json()
    assert {key: answer[key] for key in ("model_name", "model_version", "id", "parameters")} == {
        "model_name": "tiny",
        "model_version": "2",
        "id": "a/ü",
        "parameters": {"provider": "CPUExecutionProvider"},
    }


def test_fractions_of_pixel_values_are_kept(client: httpx.Client, tiny: bundles.Tiny) -> None:
    images = np.random.default_rng(1).uniform(0, 255, SHAPE)
    response = client.post(INFER, json={"inputs": [tensor(data=images.tolist())]})
    np.testing.assert_allclose(outputs(response)["logits"], tiny.logits(images), rtol=1e-4, atol=1e-4)
    assert "id" not in response.json()


def test_a_named_version_answers(client: httpx.Client, pixels: Pixels) -> None:
    given = tensor(data=pixels[0].tolist(), shape=SHAPE, datatype="UINT8")
    given["data"] = pixels[0].ravel().tolist()
    response = client.post("/v2/models/tiny/versions/1/infer", json={"inputs": [given]})
    expected = bundles.Tiny.random(1).logits(pixels[:1])
    np.testing.assert_allclose(outputs(response)["logits"], expected, rtol=1e-4, atol=1e-4)
    assert response.json()["model_version"] == "1"


def test_statistics_outputs_come_when_named(client: httpx.Client, tiny: bundles.Tiny, pixels: Pixels) -> None:
    given = tensor(shape=[2, *SHAPE[1:]], data=pixels[:2].ravel().tolist())
    request = {"inputs": [given], "outputs": [{"name": name} for name in (*STATISTICS, "logits")]}
    response = client.post(INFER, json=request)
    values = outputs(response)
    assert list(values) == [*STATISTICS, "logits"]
    first, last = tiny.activations(pixels[:2])
    means = np.concatenate([first.mean((2, 3)), last.mean((2, 3))], axis=1)
    np.testing.assert_allclose(values["statistics.mean"], means, rtol=1e-4, atol=1e-5)
    energy = ((last - first) ** 2).mean((1, 2, 3))[:, None]
    np.testing.assert_allclose(values["statistics.branch_energy"], energy, rtol=1e-4)
    plain = outputs(client.post(INFER, json={"inputs": [given]}))
    assert list(plain) == ["logits"]
    np.testing.assert_array_equal(plain["logits"], values["logits"])


@pytest.mark.parametrize("content_type", [None, "application/octet-stream", "application/json"])
def test_the_body_is_json_whatever_its_type(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    outputs(client.post(INFER, content=json.dumps({"inputs": [tensor()]}), headers=headers))


BAD_REQUESTS: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{", "not JSON"),
    "empty": (b"", "not JSON"),
    "NaN": (b'{"inputs": [NaN]}', "not JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "not JSON"),
    "too deep": (b"[" * 10_000, "not JSON"),
    "a list": ([], "request"),
    "no inputs": ({}, "inputs"),
    "empty inputs": ({"inputs": []}, "inputs"),
    "number as id": ({"id": 1, "inputs": [tensor()]}, "id"),
    "unknown input": ({"inputs": [tensor(name="pictures")]}, "unknown input 'pictures'; choose from images"),
    "repeated input": ({"inputs": [tensor(), tensor()]}, "more than once"),
    "unknown output": ({"inputs": [tensor()], "outputs": [{"name": "x"}]}, "choose from logits, statistics.mean"),
    "repeated output": ({"inputs": [tensor()], "outputs": [{"name": "logits"}] * 2}, "more than once"),
    "wrong rank": ({"inputs": [tensor(shape=SHAPE[1:])]}, "expected [1…4, 3, 8, 8]"),
    "wrong size": ({"inputs": [tensor(shape=[1, 3, 8, 9])]}, "expected [1…4, 3, 8, 8]"),
    "no batch": ({"inputs": [tensor(shape=[0, 3, 8, 8], data=[])]}, "expected [1…4, 3, 8, 8]"),
    "negative batch": ({"inputs": [tensor(shape=[-1, 3, 8, 8])]}, "expected [1…4, 3, 8, 8]"),
    "large batch": ({"inputs": [tensor(shape=[5, 3, 8, 8], data=[0] * 5 * COUNT)]}, "expected [1…4, 3, 8, 8]"),
    "overflowing size": ({"inputs": [tensor(shape=[2**63, 2**63, 8, 8])]}, ""),
    "text as size": ({"inputs": [tensor(shape=["1", 3, 8, 8])]}, "inputs.0.shape.0"),
    "too few numbers": ({"inputs": [tensor(data=[0] * (COUNT - 1))]}, f"has {COUNT - 1} numbers"),
    "too many numbers": ({"inputs": [tensor(data=[0] * (COUNT + 1))]}, f"has {COUNT + 1} numbers"),
    "wrongly nested": ({"inputs": [tensor(data=[[0] * COUNT])]}, "nested as"),
    "ragged": ({"inputs": [tensor(data=[[0] * 3, [0] * 4])]}, "evenly nested list"),
    "very nested": (b'{"inputs": [{"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": '
                    + b"[" * 200 + b"]" * 200 + b"}]}", "evenly nested list"),
    "no data": ({"inputs": [tensor(data=None)]}, "list of numbers"),
    "number as data": ({"inputs": [tensor(data=1)]}, "list of numbers"),
    "text as data": ({"inputs": [tensor(data=["1"] * COUNT)]}, "list of numbers"),
    "null as data": ({"inputs": [tensor(data=[None] * COUNT)]}, "list of numbers"),
    "booleans as data": ({"inputs": [tensor(data=[True] * COUNT)]}, "list of numbers"),
    "booleans among numbers": ({"inputs": [tensor(data=[True, 2] * (COUNT // 2))]}, "list of numbers"),
    "objects as data": ({"inputs": [tensor(data=[{}] * COUNT)]}, "list of numbers"),
    "beyond FP32": ({"inputs": [tensor(data=[1e300] * COUNT)]}, "beyond the range of FP32"),
    "huge integers": ({"inputs": [tensor(data=[2**64 - 1, -1] * (COUNT // 2))], "outputs": [{"name": "x"}]}, ""),
    "unknown datatype": ({"inputs": [tensor(datatype="INT64")]}, "expected FP32 or UINT8"),
    "FP16 in JSON": ({"inputs": [tensor(datatype="FP16")]}, "expected FP32 or UINT8"),
    "fraction as UINT8": ({"inputs": [tensor(datatype="UINT8", data=[0.5] * COUNT)]}, "whole numbers from 0 to 255"),
    "256 as UINT8": ({"inputs": [tensor(datatype="UINT8", data=[256] * COUNT)]}, "whole numbers from 0 to 255"),
    "-1 as UINT8": ({"inputs": [tensor(datatype="UINT8", data=[-1] * COUNT)]}, "whole numbers from 0 to 255"),
    "binary input": ({"inputs": [tensor(parameters={"binary_data_size": 768})]}, "both data and binary_data_size"),
    "binary input without bytes": (
        {"inputs": [tensor(data=None, parameters={"binary_data_size": 768})]},
        "0 bytes are left behind the JSON: send them all, and the length of the JSON in the header Inference-Header-",
    ),
    "text as binary size": ({"inputs": [tensor(data=None, parameters={"binary_data_size": "9"})]}, "binary_data_size"),
    "negative binary size": ({"inputs": [tensor(data=None, parameters={"binary_data_size": -1})]}, "binary_data_size"),
    "binary perhaps": (
        {"inputs": [tensor()], "outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]},
        "binary_data",
    ),
    "negative classes": (
        {"inputs": [tensor()], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
        "classification",
    ),
    "shared input": ({"inputs": [tensor(data=None, parameters={"shared_memory_region": "a"})]}, "shared memory"),
    "shared output": (
        {"inputs": [tensor()], "outputs": [{"name": "logits", "parameters": {"shared_memory_region": "a"}}]},
        "shared memory",
    ),
    "BYTES of the shape of pixels": ({"inputs": [tensor(datatype="BYTES", data=["eA=="])]}, "expected [1…4] or"),
    "too many BYTES": ({"inputs": [tensor(datatype="BYTES", shape=[5], data=["eA=="] * 5)]}, "expected [1…4] or"),
    "fewer BYTES": ({"inputs": [tensor(datatype="BYTES", shape=[2], data=["eA=="])]}, "not 2 strings"),
    "numbers as BYTES": ({"inputs": [tensor(datatype="BYTES", shape=[1], data=[1])]}, "not 1 strings"),
    "no base64": ({"inputs": [tensor(datatype="BYTES", shape=[1], data=["ü"])]}, "not base64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request(client: httpx.Client, name: str) -> None:
    body, complaint = BAD_REQUESTS[name]
    assert complaint in error(client.post(INFER, content=body if isinstance(body, bytes) else json.dumps(body)))
    outputs(client.post(INFER, json={"inputs": [tensor()]}))


def test_asking_for_json_in_words_is_fine(client: httpx.Client) -> None:
    request = {
        "inputs": [tensor()],
        "outputs": [{"name": "logits", "parameters": {"binary_data": False}}],
        "parameters": {"binary_data_output": False, "priority": 1},
    }
    outputs(client.post(INFER, json=request))


def test_infinite_outputs_are_an_error_and_never_null(client: httpx.Client) -> None:
    message = error(client.post("/v2/models/loud/infer", json={"inputs": [tensor(data=[3e38] * COUNT)]}))
    assert "'logits' holds NaN or infinity" in message
    assert "binary" in message


@pytest.mark.parametrize("path", ["/v2/models/absent", "/v2/models/absent/versions/1"])
def test_unknown_model(client: httpx.Client, path: str) -> None:
    message = "unknown model 'absent'; choose from loud, tiny"
    assert error(client.get(path), 404) == message
    assert error(client.get(f"{path}/ready"), 404) == message
    assert error(client.post(f"{path}/infer", json={"inputs": [tensor()]}), 404) == message


@pytest.mark.parametrize("version", ["0", "3", "01", "-1", "latest", "1.0", "9" * 5000, "%C2%B9"])
def test_unknown_version(client: httpx.Client, version: str) -> None:
    path = f"/v2/models/tiny/versions/{version}"
    for response in (client.get(path), client.get(f"{path}/ready"), client.post(f"{path}/infer", content=b"{}")):
        assert "choose from 1, 2" in error(response, 404)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..%2fetc", "tiny%2f1", "%00", ".staging-0", "tiny%5c1"])
def test_names_never_reach_outside_the_shelf(client: httpx.Client, name: str) -> None:
    assert error(client.get(f"/v2/models/{name}/ready"), 404)


# Metadata, health, index


def test_metadata(client: httpx.Client) -> None:
    server = client.get("/v2").json()
    assert set(server) == {"name", "version", "extensions"}
    expected = {
        "name": "tiny",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 8, 8]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert client.get("/v2/models/tiny").json() == expected
    assert client.get("/v2/models/tiny/versions/1").json() == expected


def test_health(client: httpx.Client) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"ready": True, "live": True})
    for path in ("/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"name": "tiny", "ready": True})


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/metrics"])
def test_probes_may_ask_for_the_head_alone(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}'])
def test_index(client: httpx.Client, body: bytes) -> None:
    client.get("/v2/models/tiny/versions/1/ready")
    assert client.post("/v2/repository/index", content=body).json() == [
        {"name": name, "version": version, "state": "READY", "reason": ""}
        for name, version in (("loud", "1"), ("tiny", "1"), ("tiny", "2"))
    ]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": "perhaps"}'])
def test_bad_index_request(client: httpx.Client, body: bytes) -> None:
    error(client.post("/v2/repository/index", content=body))
