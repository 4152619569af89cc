import logging
import re
import socket
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.monitor.meters import Meters
from tests import bundles
from tests.service.conftest import eventually, png, serving, settled

IMAGE = png(np.zeros((3, 8, 8), np.uint8))


def value(text: str, name: str, **labels: str) -> float:
    """The one sample with this name and (among others) these labels; 0 if there is none."""
    found = [
        float(number)
        for sample, inside, number in re.findall(r"^(\w+)(?:{(.*)})? (\S+)$", text, re.MULTILINE)
        if sample == name and set(labels.items()) <= set(re.findall(r'(\w+)="(.*?)"', inside))
    ]
    assert len(found) <= 1, found
    return found[0] if found else 0.0


def test_requests_images_and_models_are_counted(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path) as client:
        client.post("/v1/models/tiny/classify", content=IMAGE)
        client.post("/v1/models/tiny/classify", files=[("file", IMAGE)] * 3, params={"statistics": "layers"})
        client.post("/v1/models/tiny/classify", content=b"text")
        client.post("/v2/models/tiny/infer", content=b"{")
        # The last to be answered.
        last = {"route": "/v2/models/{name}/infer", "status": "400"}
        eventually(lambda: value(client.get("/metrics").text, "reslens_requests_total", **last) == 1)
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    text = response.text
    route = "/v1/models/{name}/classify"
    assert value(text, "reslens_requests_total", route=route, model="tiny", status="200") == 2
    assert value(text, "reslens_requests_total", route=route, model="tiny", status="422") == 1
    assert value(text, "reslens_requests_total", route="/v2/models/{name}/infer", status="400") == 1
    assert value(text, "reslens_request_seconds_count", route=route, method="POST") == 3
    assert value(text, "reslens_decode_seconds_count", model="tiny") == 3
    assert value(text, "reslens_inference_seconds_count", model="tiny", statistics="false") == 1
    assert value(text, "reslens_inference_seconds_count", model="tiny", statistics="true") == 1
    assert value(text, "reslens_inference_images_sum", model="tiny") == 4
    assert value(text, "reslens_model_loaded", model="tiny", version="1", provider="CPUExecutionProvider") == 1
    assert value(text, "reslens_failed_images_total", model="tiny") == 1
    assert value(text, "reslens_requests_in_flight") == 1  # the scrape itself
    assert value(text, "process_resident_memory_bytes") > 1e6
    assert value(text, "reslens_models_failed") == 0


def test_clients_cannot_make_series(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with serving(tmp_path) as client:

        def series() -> int:
            return len(client.get("/metrics").text.splitlines())

        def strange_requests(turn: int) -> None:
            client.get(f"/nowhere/{turn}")
            client.get(f"/v1/models/absent{turn}")
            client.post(f"/v2/models/absent{turn}/infer")
            client.get(f"/v2/models/tiny/versions/{turn + 2}")
            client.request(f"METHOD{turn}", "/metrics")

        series()
        strange_requests(0)
        before = settled(series)
        for turn in range(1, 20):
            strange_requests(turn)
        assert settled(series) == before


def test_two_applications_do_not_share_metrics() -> None:
    first, second = Meters(), Meters()
    first.decoded("tiny", 1.0)
    assert value(first.exposition([], 0).decode(), "reslens_decode_seconds_count", model="tiny") == 1
    assert value(second.exposition([], 0).decode(), "reslens_decode_seconds_count", model="tiny") == 0


@pytest.mark.parametrize("failed", [0, 3])
def test_failures_are_a_gauge(failed: int) -> None:
    assert value(Meters().exposition([], failed).decode(), "reslens_models_failed") == failed


def test_an_internal_error_is_counted_as_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("service.routes.inference.read_request", fail)
    bundles.publish(tmp_path)
    with serving(tmp_path) as client:
        response = client.post("/v2/models/tiny/infer", content=b"{}")
        assert (response.status_code, set(response.json())) == (500, {"error"})
        # On new connections: the server closes the one of a request that failed.
        url = f"{client.base_url}/metrics"
        failed = {"route": "/v2/models/{name}/infer", "status": "500"}
        eventually(lambda: value(httpx.get(url).text, "reslens_requests_total", **failed) == 1)
        text = httpx.get(url).text
    assert 'status="499"' not in text
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("content_type", ["image/png", "application/json", "multipart/form-data; boundary=b"])
def test_a_client_that_leaves_is_counted_as_499(
    tmp_path: Path, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    bundles.publish(tmp_path)
    with caplog.at_level(logging.WARNING), serving(tmp_path) as client:
        address = (client.base_url.host, client.base_url.port or 80)
        with socket.create_connection(address, timeout=20) as connection:
            head = f"POST /v1/models/tiny/classify HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n--b".encode())
            eventually(lambda: value(client.get("/metrics").text, "reslens_requests_in_flight") == 2)
        left = {"route": "/v1/models/{name}/classify", "status": "499"}
        eventually(lambda: value(client.get("/metrics").text, "reslens_requests_total", **left) == 1)
        text = client.get("/metrics").text
    assert 'status="500"' not in text
    assert caplog.records == []
