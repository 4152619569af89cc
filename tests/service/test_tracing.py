"""Traces, as a receiver of OTLP gets them over a socket from a real process."""

import gzip
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import tracing
from service.errors import StartupError
from tests import bundles
from tests.service.conftest import eventually, png
from tests.service.messages import INFER, message
from tests.service.operated import Operated, operated
from tests.service.processes import ROOT

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra 'otel' is not installed"
)

IMAGE = png(np.zeros((3, 8, 8), np.uint8))
CLASSIFY = "/v1/models/tiny/classify"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, UNSET = 2, 0
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True)
class Span:
    """What is read of a span; times in ns since 1970."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    start: int
    end: int
    status: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass
class Receiver:
    """A server that takes spans as a collector does."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    def of(self, attribute: str, value: object) -> list[Span]:
        """The spans of the request whose own span has this attribute; waits until it has come."""
        found: list[Span] = []

        def came() -> bool:
            found[:] = [span for span in self.spans if span.kind == SERVER and span.attributes.get(attribute) == value]
            return bool(found)

        eventually(came)
        (request,) = found
        return [request, *(span for span in self.spans if span.parent == request.id)]


def attributes_of(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            export = trace_service.ExportTraceServiceRequest.FromString(body)
            for group in export.resource_spans:
                resource = attributes_of(group.resource.attributes)
                received.spans += [read(span, resource) for scope in group.scope_spans for span in scope.spans]
            received.paths.add(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        received.url = f"http://127.0.0.1:{server.server_port}"
        yield received
        server.shutdown()


def read(span: Any, resource: Mapping[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=span.status.code,
        attributes=attributes_of(span.attributes),
        resource=resource,
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    log = tmp_path_factory.mktemp("log") / "log.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT, receiver.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        with operated(root, log, LOG_FORMAT="json", ACCESS_LOG="true") as service:
            yield service


def test_a_request_is_a_span_that_continues_the_trace_it_came_with(service: Operated, receiver: Receiver) -> None:
    before = time.time_ns()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = service.client.post(f"{CLASSIFY}?top_k=3", content=IMAGE, headers=headers)
    after = time.time_ns()
    assert answer.status_code == 200
    assert not {"traceparent", "tracestate"} & set(answer.headers)
    request, *_ = receiver.of("url.query", "top_k=3")
    assert (request.trace, request.parent) == (TRACE, PARENT)
    assert request.name == "POST /v1/models/{name}/classify"
    # It ends once the answer is on its way.
    assert before <= request.start < request.end <= after + 1_000_000_000
    assert request.status == UNSET
    assert request.attributes["http.request.method"] == "POST"
    assert request.attributes["http.route"] == "/v1/models/{name}/classify"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["url.path"] == CLASSIFY
    assert request.attributes["url.scheme"] == "http"
    assert request.resource["service.name"] == "reslens"
    assert request.resource["deployment.environment.name"] == "test"
    assert receiver.paths == {"/v1/traces"}


STEPS = ["decode", "queue", "compute", "respond"]
OF_MODEL = {"reslens.model": "tiny", "reslens.version": 1}


def steps_of(receiver: Receiver, query: str) -> dict[str, Span]:
    """By name, in the order of time; each lies within its request and they do not overlap."""
    request, *steps = receiver.of("url.query", query)
    steps.sort(key=lambda step: step.start)
    assert {step.trace for step in steps} == {request.trace}
    moments = [moment for step in steps for moment in (step.start, step.end)]
    # Each is measured by a clock of its own, which is set against the other's once a step.
    assert all(later - earlier > -50_000 for earlier, later in pairwise([request.start, *moments, request.end]))
    return {step.name: step for step in steps}


@pytest.mark.parametrize("statistics", ["none", "layers"])
def test_the_steps_of_a_classification(service: Operated, receiver: Receiver, statistics: str) -> None:
    query = f"top_k=2&statistics={statistics}"
    assert service.client.post(f"{CLASSIFY}?{query}", content=IMAGE).status_code == 200
    steps = steps_of(receiver, query)
    assert list(steps) == STEPS
    assert {name: value for name, value in steps["compute"].attributes.items() if name not in OF_MODEL} == {
        "reslens.batch": 1,
        "reslens.provider": "CPUExecutionProvider",
        "reslens.statistics": statistics == "layers",
    }
    for step in steps.values():
        assert step.attributes.items() >= OF_MODEL.items()


@pytest.mark.parametrize("outputs", [["logits"], ["logits", "statistics.active"]])
def test_the_steps_of_an_inference(service: Operated, receiver: Receiver, outputs: list[str]) -> None:
    body, headers = message(bytes(3 * 3 * 8 * 8), 3, 3, 8, 8, outputs=[{"name": name} for name in outputs])
    query = f"steps={len(outputs)}"
    assert service.client.post(f"{INFER}?{query}", content=body, headers=headers).status_code == 200
    steps = steps_of(receiver, query)
    assert list(steps) == STEPS
    assert steps["compute"].attributes["reslens.batch"] == 3
    assert steps["compute"].attributes["reslens.statistics"] == (len(outputs) > 1)
    assert steps["compute"].end > steps["compute"].start


def test_without_a_trace_a_new_one_begins(service: Operated, receiver: Receiver) -> None:
    service.client.get("/v2/models/tiny?new")
    request, *_ = receiver.of("url.query", "new=")
    assert request.parent == ""
    assert re.fullmatch("[0-9a-f]{32}", request.trace)
    assert request.trace != TRACE


@pytest.mark.parametrize("given", [{"traceparent": f"00-{TRACE}-{PARENT}-01"}, {}], ids=["continued", "new"])
def test_the_ids_of_the_log_are_those_of_the_span(service: Operated, receiver: Receiver, given: dict[str, str]) -> None:
    name = f"logged-{len(given)}"
    service.client.get(f"/v2?{name}", headers={"X-Request-Id": name, **given})
    request, *_ = receiver.of("url.query", f"{name}=")
    eventually(lambda: any(line.get("request_id") == name for line in service.lines()))
    (line,) = (line for line in service.lines() if line.get("request_id") == name)
    assert (line["trace_id"], line["span_id"]) == (request.trace, request.id)
    assert line.get("parent_span_id", "") == request.parent


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [("/nowhere?missing", 404, None), ("/v2/models/absent/infer?missing", 404, "/v2/models/{name}/infer")],
)
def test_what_the_client_did_wrong_is_no_error_of_the_service(
    service: Operated, receiver: Receiver, path: str, status: int, route: str | None
) -> None:
    service.client.post(path, content=b"{}")
    request, *_ = receiver.of("url.path", path.partition("?")[0])
    assert request.attributes["http.response.status_code"] == status
    assert request.attributes.get("http.route") == route
    assert request.name == (f"POST {route}" if route else "POST")
    assert request.status == UNSET


def test_a_trace_that_is_not_sampled_is_not_sent(service: Operated, receiver: Receiver) -> None:
    service.client.get("/v2?unsampled", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    service.client.get("/v2?sampled")
    receiver.of("url.query", "sampled=")
    assert not [span for span in receiver.spans if span.attributes.get("url.query") == "unsampled="]


def test_what_waits_is_sent_at_the_end(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.publish(tmp_path)
    monkeypatch.setenv(ENDPOINT, receiver.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with operated(tmp_path, tmp_path / "log") as service:
        service.client.get("/v2/health/live?last")
        service.stopped()
        assert "Traceback" not in service.log.read_text()
    request, *_ = receiver.of("url.query", "last=")
    assert request.resource["service.name"] == "named"


def test_every_worker_sends_its_own(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.publish(tmp_path)
    monkeypatch.setenv(ENDPOINT, receiver.url)
    with operated(tmp_path, tmp_path / "log", WORKERS=2) as service:
        service.client.get("/v2?worker")
        service.stopped()
        assert "Traceback" not in service.log.read_text()
    request, *_ = receiver.of("url.query", "worker=")
    assert request.resource["process.pid"] != service.process.pid


def test_a_receiver_that_is_not_there_slows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles.publish(tmp_path)
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with operated(tmp_path, tmp_path / "log") as service:
        for _ in range(20):
            assert service.client.post(CLASSIFY, content=IMAGE).status_code == 200
        started = time.monotonic()
        service.stopped()
        assert time.monotonic() - started < tracing.CLOSE_SECONDS + 8


def test_where_no_endpoint_is_set_nothing_is_imported_and_nothing_recorded(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from service import tracing
from service.app import create_app
from service.settings import Settings
app = create_app(Settings(model_repository=Path(sys.argv[1]), provider="cpu", history_url=""))
assert not app._native_telemetry.enabled()
assert tracing.span("queue") is tracing.span("compute")
tracing.record("queue", 0, 1)
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    output = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout == "[]\n"


OFF: list[dict[str, str]] = [
    {},
    {ENDPOINT: ""},
    {ENDPOINT: "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
    {ENDPOINT: "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
]


@pytest.mark.parametrize("environment", OFF)
def test_it_is_off_unless_it_is_asked_for(environment: dict[str, str]) -> None:
    assert tracing.tracing_of(environment) is None


def test_another_protocol_is_refused() -> None:
    with pytest.raises(StartupError, match="OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not possible"):
        tracing.tracing_of({ENDPOINT: "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_without_the_extra_the_service_does_not_start(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # A finder that hides the SDK, as if it were not installed.
    (hidden / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'opentelemetry.sdk':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(hidden), ENDPOINT: "http://127.0.0.1:9", "RESLENS_PORT": "0"}
    command = [sys.executable, "-m", "service"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "pip install 'reslens[otel]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_batches_of_the_binary_protocol_are_traced_too(service: Operated, receiver: Receiver) -> None:
    body, headers = message(bytes(2 * 3 * 8 * 8), 2, 3, 8, 8)
    assert service.client.post(f"{INFER}?binary", content=body, headers=headers).status_code == 200
    request, *_ = receiver.of("url.query", "binary=")
    assert request.name == "POST /v2/models/{name}/infer"


def test_a_client_that_leaves_ends_its_span(service: Operated, receiver: Receiver) -> None:
    base = service.client.base_url
    with socket.create_connection((base.host, base.port or 80), timeout=20) as connection:
        connection.sendall(f"POST {CLASSIFY}?top_k=9 HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nhalf".encode())
    request, *_ = receiver.of("url.query", "top_k=9")
    assert request.attributes["http.response.status_code"] == 499
    assert request.status == UNSET
