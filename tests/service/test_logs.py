"""Lines of the log, and the ids of requests."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import CURRENT, JsonLines, RequestIdentity, TextLines
from tests import bundles
from tests.service.conftest import eventually, png
from tests.service.operated import Operated, operated

IMAGE = png(np.zeros((3, 8, 8), np.uint8))
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    bundles.publish(root, "broken", graph=b"broken")
    log = tmp_path_factory.mktemp("log") / "log.jsonl"
    with operated(root, log, LOG_FORMAT="json", ACCESS_LOG="true") as service:
        yield service


def line_of(service: Operated, request_id: str) -> dict[str, object]:
    found: list[dict[str, object]] = []

    def appeared() -> bool:
        found[:] = [line for line in service.lines() if line.get("request_id") == request_id]
        return bool(found)

    eventually(appeared)
    (line,) = found
    return line


def test_a_request_has_one_line_with_its_id_and_trace(service: Operated) -> None:
    headers = {"X-Request-Id": "order-66/a", "traceparent": f"00-{TRACE}-{SPAN}-01"}
    answer = service.client.post("/v1/models/tiny/classify?top_k=1", content=IMAGE, headers=headers)
    assert answer.headers["X-Request-Id"] == "order-66/a"
    line = line_of(service, "order-66/a")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", str(line.pop("time")))
    assert 0 < float(str(line.pop("seconds"))) < 30
    assert str(line.pop("message")).startswith("POST /v1/models/tiny/classify 200 ")
    assert line == {
        "level": "info",
        "logger": "reslens.access",
        "request_id": "order-66/a",
        "trace_id": TRACE,
        "parent_span_id": SPAN,
        "method": "POST",
        "path": "/v1/models/tiny/classify",
        "status": 200,
        "client": "127.0.0.1",
        "model": "tiny",
    }


def test_the_start_is_one_line_of_the_log(service: Operated) -> None:
    (start,) = (line for line in service.lines() if line["message"] == "listening")
    assert start["url"] == service.url
    assert start["serving"] == ["tiny version 1"]
    assert start["failed"][0]["name"] == "broken"


@pytest.mark.parametrize("path", ["/nowhere", "/v2/models/none", "/v1/models/tiny/classify"])
def test_errors_carry_an_id_too(service: Operated, path: str) -> None:
    made = service.client.get(path).headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert line_of(service, made)["path"] == path


def test_a_path_cannot_forge_a_line(service: Operated) -> None:
    answer = service.client.get("/v2/%0A%7B%22level%22%3A%22error%22%7D")
    assert line_of(service, answer.headers["X-Request-Id"])["path"] == "/v2/%0A%7B%22level%22%3A%22error%22%7D"


@pytest.mark.parametrize("chosen", ["", "a b", "a" * 129, 'quote"', "tab\ttab", "ünicode", "semi;colon"])
def test_an_id_that_is_not_fit_is_replaced(service: Operated, chosen: str) -> None:
    answer = service.client.get("/v2", headers=[(b"X-Request-Id", chosen.encode())])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_ids_that_are_made_differ(service: Operated) -> None:
    assert len({service.client.get("/v2").headers["X-Request-Id"] for _ in range(20)}) == 20


def test_every_line_is_json(service: Operated) -> None:
    assert all({"time", "level", "logger", "message"} <= set(line) for line in service.lines())


def test_text_lines_name_the_request(tmp_path: Path) -> None:
    bundles.publish(tmp_path)
    with operated(tmp_path, tmp_path / "log", ACCESS_LOG="true") as service:
        service.client.get("/v2/health/live", headers={"X-Request-Id": "seven"})
        eventually(lambda: "GET /v2/health/live 200 " in service.log.read_text())
        assert re.search(r" INFO: GET /v2/health/live 200 \d+\.\d ms \[request seven\]\n", service.log.read_text())


def test_a_failure_of_the_service_is_logged_with_the_id_that_the_client_got(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.routes.health.server_metadata", lambda: 1 / 0)
    caplog.handler.setFormatter(JsonLines())
    answer = client.get("/v2", headers={"X-Request-Id": "boom"})
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (500, "boom")
    lines = [orjson.loads(line) for line in caplog.text.splitlines()]
    (line,) = (line for line in lines if line["logger"] == "reslens")
    assert line["request_id"] == "boom"
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN[:-1]}-01",
    ],
)
def test_a_trace_that_is_not_valid_is_none(header: str) -> None:
    assert RequestIdentity("id", header).trace() == {}


def test_a_trace_of_a_later_version_may_say_more() -> None:
    assert RequestIdentity("id", f"01-{TRACE}-{SPAN}-01-more").trace() == {"trace_id": TRACE, "parent_span_id": SPAN}


@given(st.binary(), st.binary())
def test_any_header_gives_an_id_of_one_word(chosen: bytes, traceparent: bytes) -> None:
    identity = RequestIdentity.of([(b"x-request-id", chosen), (b"traceparent", traceparent)])
    assert re.fullmatch(r"[A-Za-z0-9_.:/=+-]{1,128}", identity.id)
    identity.trace()


@given(st.text(), st.text())
def test_any_message_is_one_line_of_json(message: str, field: str) -> None:
    record = logging.LogRecord("reslens", logging.INFO, "", 0, "%s", (message,), None)
    record.fields = {"field": field}
    line = orjson.loads(JsonLines().format(record))
    assert (line["message"], line["field"]) == (message, field)
    record.msg = "\ud800%s"  # what orjson refuses
    assert "\\ud800" in orjson.loads(JsonLines().format(record))["message"]


def test_no_request_no_id() -> None:
    record = logging.LogRecord("reslens", logging.INFO, "", 0, "text", (), None)
    assert CURRENT.get() is None
    assert "request_id" not in orjson.loads(JsonLines().format(record))
    assert TextLines("%(message)s").format(record) == "text"
