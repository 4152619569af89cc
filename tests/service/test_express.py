"""The short way answers as the long way does, header by header."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.errors import ModelFaultError
from service.runtime.model import LoadedModel
from tests import bundles
from tests.service.conftest import eventually, png
from tests.service.operated import operated

IMAGE = png(np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8))
TENSOR: dict[str, Any] = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": list(range(192))}
INFER, CLASSIFY = "/v2/models/tiny/infer", "/v1/models/tiny/classify"
# A header that sends a request the long way, and asks for nothing.
LONG = {"Origin": "http://elsewhere.example"}
OF_ONE_ANSWER = {"date", "x-request-id"}

REQUESTS: dict[str, dict[str, Any]] = {
    "tensor": {"url": INFER, "json": {"inputs": [TENSOR]}},
    "id, priority": {"url": INFER, "json": {"id": "a", "parameters": {"priority": 1}, "inputs": [TENSOR]}},
    "version": {"url": "/v2/models/tiny/versions/1/infer", "json": {"inputs": [TENSOR]}},
    "compressed answer": {"url": INFER, "json": {"inputs": [TENSOR]}, "headers": {"Accept-Encoding": "gzip"}},
    "no JSON": {"url": INFER, "content": b"{"},
    "nothing": {"url": INFER, "content": b""},
    "wrong shape": {"url": INFER, "json": {"inputs": [{**TENSOR, "shape": [1, 3, 8, 9]}]}},
    "unknown model": {"url": "/v2/models/nobody/infer", "json": {"inputs": [TENSOR]}},
    "unknown version": {"url": "/v2/models/tiny/versions/9/infer", "json": {"inputs": [TENSOR]}},
    "quoted name": {"url": "/v2/models/t%69ny/infer", "json": {"inputs": [TENSOR]}},
    "no name": {"url": "/v2/models//infer", "json": {"inputs": [TENSOR]}},
    "long name": {"url": f"/v2/models/{'x' * 2000}/infer", "json": {"inputs": [TENSOR]}},
    "slash at the end": {"url": INFER + "/", "json": {"inputs": [TENSOR]}},
    "other method": {"url": INFER, "method": "PUT", "content": b"{}"},
    "image": {"url": CLASSIFY, "content": IMAGE, "headers": {"Content-Type": "image/png"}},
    "form": {"url": CLASSIFY, "files": {"file": ("a.png", IMAGE)}},
    "no image": {"url": CLASSIFY, "content": b"text", "headers": {"Content-Type": "image/png"}},
    "wrong query": {"url": CLASSIFY + "?top_k=none", "content": IMAGE},
    "unknown label": {"url": CLASSIFY + "?label=nothing", "content": IMAGE},
    "statistics": {"url": CLASSIFY + "?statistics=layers", "content": IMAGE},
}


def asked(client: httpx.Client, request: dict[str, Any], more: dict[str, str]) -> httpx.Response:
    request = {"method": "POST", **request, "headers": {**request.get("headers", {}), **more}}
    if "files" in request:
        request["headers"]["Content-Type"] = "multipart/form-data; boundary=frontier"
    return client.request(**request)


def without_times(answer: httpx.Response) -> Any:
    """Its body, but what was measured."""
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return answer.content
    body = answer.json()
    body.pop("timing", None)
    return body


@pytest.mark.parametrize("name", REQUESTS)
def test_all_ways_give_the_same_answer(client: httpx.Client, name: str) -> None:
    # The second time its head is known.
    short, known, long = (asked(client, REQUESTS[name], more) for more in ({}, {}, LONG))
    for answer in (short, known):
        assert answer.status_code == long.status_code
        assert without_times(answer) == without_times(long)
        names = {*answer.headers} - OF_ONE_ANSWER
        assert names == {*long.headers} - OF_ONE_ANSWER
        for header in names - {"content-length"}:
            assert answer.headers[header] == long.headers[header]
    assert len({answer.headers["x-request-id"] for answer in (short, known, long)}) == 3


def test_both_ways_are_counted_logged_and_guarded(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    settings = {"ACCESS_LOG": True, "LOG_FORMAT": "json", "INFERENCE_KEYS": f"someone sha256:{'0' * 64}"}
    key = {"X-API-Key": "wrong", "X-Request-Id": "mine"}
    with operated(tmp_path / "shelf", tmp_path / "log", OPEN_METRICS=True, **settings) as service:
        answers = [asked(service.client, REQUESTS["tensor"], key | more) for more in ({}, LONG)]
        known = [asked(service.client, REQUESTS["tensor"], {"X-API-Key": "wrong"}) for _ in range(3)]
        assert {answer.status_code for answer in (*answers, *known)} == {401}
        assert {answer.content for answer in (*answers, *known)} == {answers[0].content}
        assert {answer.headers["www-authenticate"] for answer in (*answers, *known)} == {'Bearer realm="reslens"'}
        assert {answer.headers["x-request-id"] for answer in answers} == {"mine"}

        def lines() -> list[tuple[int, str]]:
            return [(line["status"], line["request_id"]) for line in service.lines() if line.get("path") == INFER]

        eventually(lambda: len(lines()) == 5)  # each is written after its answer
        ids = [answer.headers["x-request-id"] for answer in known]
        assert sorted(lines()) == sorted([(401, "mine"), (401, "mine"), *((401, identity) for identity in ids)])
        counted = 'reslens_requests_total{method="POST",model="",route="unmatched",status="401"} 5.0'
        eventually(lambda: counted in service.client.get("/metrics").text)


def test_a_body_that_comes_in_parts_is_answered(client: httpx.Client) -> None:
    content = json.dumps({"inputs": [TENSOR]}).encode()
    parts = (content[start : start + 100] for start in range(0, len(content), 100))
    answer = client.post(INFER, content=parts, headers={"Content-Length": str(len(content))})
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["shape"] == [1, 3]


def test_a_model_that_fails_is_answered_with_the_id_of_the_request(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelFaultError("it failed on purpose")

    monkeypatch.setattr(LoadedModel, "run", fail)
    answers = [asked(client, REQUESTS["tensor"], more) for more in ({}, {}, LONG)]
    assert [answer.status_code for answer in answers] == [500, 500, 500]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert {answer.text for answer in answers} == {'{"error":"it failed on purpose"}'}
