"""V2 messages with binary tensors, written and read by hand as the protocol says."""

import json
from typing import Any

import httpx

HEADER = "Inference-Header-Content-Length"
INFER = "/v2/models/tiny/infer"


def message(content: bytes, *shape: int, datatype: str = "UINT8", **more: Any) -> tuple[bytes, dict[str, str]]:
    given = {"name": "images", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(content)}}
    header = json.dumps({"inputs": [given], **more}).encode()
    return header + content, {HEADER: str(len(header))}


def post(client: httpx.Client, body: bytes, headers: dict[str, str], path: str = INFER) -> httpx.Response:
    return client.post(path, content=body, headers=headers)


def read(response: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of an answer, and the bytes of each output behind it."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[HEADER])
    answer, rest = json.loads(response.content[:length]), response.content[length:]
    contents = {}
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        contents[output["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    return answer, contents


def error(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])
