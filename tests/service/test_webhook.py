"""New critical findings, told to a real receiver."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.diagnosis.finding import Diagnosis, Finding, Severity
from models.diagnosis.thresholds import Thresholds
from service.monitor.answers import DiagnosisAnswer
from service.monitor.buckets import Span
from service.monitor.judging import Judge
from service.monitor.webhook import Webhook
from service.settings import Settings
from tests.service import watched
from tests.service.conftest import eventually, serving
from tests.service.test_metrics import value

SECRET = "a secret"


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets, and answers with the statuses it was told, then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        time.sleep(self.server.delay)
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


def finding(rule: str = "dead_channels", part: str = "act1", severity: str = "critical") -> Finding:
    return Finding(
        rule=rule,
        part=part,
        severity=severity,  # type: ignore[arg-type]
        cause=f"{part}: 41 of 64 channels dead (baseline 3)",
        value=41,
        baseline=3,
        interval=None,
        images=5000,
        evidence={"channels": [1, 2]},
    )


def started(receiver: Receiver, **options: float) -> Webhook:
    webhook = Webhook(receiver.url, SECRET, **{"first_wait": 0.02, **options})  # type: ignore[arg-type]
    webhook.start()
    return webhook


def test_a_message_is_signed_and_says_what_was_found(receiver: Receiver) -> None:
    webhook = started(receiver)
    webhook.tell("tiny", 2, [finding()])
    webhook.close(5)
    ((headers, body),) = receiver.received
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-ResLens-Signature"] == f"sha256={digest}"
    assert headers["Content-Type"] == "application/json"
    message = json.loads(body)
    assert abs(datetime.fromisoformat(message["timestamp"]).timestamp() - time.time()) < 60
    assert (message["model"], message["version"], message["event"]) == ("tiny", 2, "findings.confirmed")
    assert [Finding.model_validate(found) for found in message["findings"]] == [finding()]
    assert webhook.deliveries == (1, 0, 0)


@pytest.mark.parametrize(
    ("statuses", "attempts", "deliveries"),
    [
        ([500, 503, 429], 4, (1, 0, 0)),
        ([400], 1, (0, 0, 1)),
        ([302], 1, (0, 0, 1)),
        ([500] * 9, 5, (0, 0, 1)),
    ],
)
def test_what_may_help_is_tried_again(
    receiver: Receiver, statuses: list[int], attempts: int, deliveries: tuple[int, int, int]
) -> None:
    receiver.statuses = statuses
    webhook = started(receiver, attempts=5)
    webhook.tell("tiny", 1, [finding()])
    eventually(lambda: not webhook.deliveries.pending)
    webhook.close(5)
    assert webhook.deliveries == deliveries
    assert len(receiver.received) == attempts
    # A receiver can tell a repetition from a new message.
    assert len({json.loads(body)["id"] for _, body in receiver.received}) == 1


def test_nobody_waits_for_a_receiver(receiver: Receiver) -> None:
    receiver.delay = 0.5
    webhook = started(receiver, timeout=0.1, attempts=2)
    began = time.perf_counter()
    for _ in range(150):
        webhook.tell("tiny", 1, [finding()])
    assert time.perf_counter() - began < 0.2
    assert (webhook.deliveries.pending, webhook.deliveries.given_up) == (100, 50)
    webhook.close(0.3)
    assert time.perf_counter() - began < 2


def test_a_receiver_that_is_not_there_is_given_up() -> None:
    webhook = Webhook("http://127.0.0.1:1/", SECRET, first_wait=0.01, attempts=3)
    webhook.start()
    webhook.tell("tiny", 1, [finding()])
    eventually(lambda: webhook.deliveries.given_up == 1)
    webhook.close(5)


def test_an_address_needs_a_secret() -> None:
    with pytest.raises(ValueError, match="needs RESLENS_WEBHOOK_SECRET"):
        Settings(webhook_url="http://127.0.0.1/")
    with pytest.raises(ValueError, match="use http://"):
        Settings(webhook_url="example.org", webhook_secret=SECRET)


# When it is told


class Scripted:
    """Finds what it is told to."""

    def __init__(self, script: list[list[Finding]]) -> None:
        self.script = script

    def diagnose(self, _: object) -> Diagnosis:
        return Diagnosis(images=5000, findings=self.script.pop(0), unjudged=[])


def test_a_finding_is_new_when_it_is_confirmed_and_again_after_it_went_away() -> None:
    dead, drift, warning = finding(), finding("drift", "model"), finding("rank", "act1", "warning")
    script = [
        [dead, warning], [dead, warning], [dead, warning],  # confirmed now
        [dead, warning, drift], [drift], [drift], [drift], [], [],
        [], [], [dead], [dead], [dead],
    ]  # fmt: skip
    judge = Judge(watched.MANIFEST, None, Thresholds())
    judge._diagnostician = Scripted(list(script))  # type: ignore[assignment]
    told = [judge.judge(Span(60 * index, 60 * index + 60, watched.READER.empty())) for index in range(len(script))]
    assert [[found.rule for found in new] for new in told] == [
        [], [], ["dead_channels"], [], [], ["drift"], [], [], [], [], [], [], [], ["dead_channels"],
    ]  # fmt: skip
    assert [judgement.end for judgement in judge.recent] == [60 * index + 60 for index in range(len(script))]


@pytest.mark.parametrize(("told", "rules"), [("critical", ["dead"]), ("warning", ["dead", "drift"])])
def test_what_is_told_depends_on_the_least_severity(told: Severity, rules: list[str]) -> None:
    script = [[finding("dead"), finding("drift", "act1", "warning"), finding("mix", "model", "info")]] * 3
    judge = Judge(watched.MANIFEST, None, Thresholds(), told)
    judge._diagnostician = Scripted(list(script))  # type: ignore[assignment]
    new = [judge.judge(Span(60 * index, 60 * index + 60, watched.READER.empty())) for index in range(3)]
    assert [found.rule for found in new[-1]] == rules


def test_activations_that_overflow_in_live_traffic_are_reported(receiver: Receiver, tmp_path: Path) -> None:
    watched.publish(tmp_path)
    tensor = {"name": "images", "datatype": "FP32", "shape": [4, 3, 8, 8], "data": [3e38] * 768}
    settings = {"webhook_url": receiver.url, "webhook_secret": SECRET, "diagnosis_minutes": 1}
    with serving(tmp_path, bucket_seconds=1, statistics_sample=1, **settings) as client:

        def told() -> bool:
            client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
            return bool(receiver.received)

        eventually(told, 30)
        answer = DiagnosisAnswer.model_validate(client.get("/v1/models/tiny/diagnosis").json())
        alone = DiagnosisAnswer.model_validate(client.get("/v1/models/tiny/diagnosis?window=5m").json())
        delivered = "reslens_webhook_messages_delivered_total"
        eventually(lambda: value(client.get("/metrics").text, delivered) >= 1)
        text = client.get("/metrics").text
    message = json.loads(receiver.received[0][1])
    critical = [found for found in answer.confirmed if found.severity == "critical"]
    assert {found["part"] for found in message["findings"]} <= {found.part for found in critical}
    assert message["findings"]
    assert len(answer.judged) >= 3
    assert alone.current.images > answer.current.images
    assert answer.thresholds.expected_hours_between_false_alarms == 720
    rule = critical[0].rule
    expected = sum(found.rule == rule for found in critical)
    assert value(text, "reslens_findings", model="tiny", severity="critical", rule=rule) == expected


def test_the_verification_in_the_documentation_works() -> None:
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (program,) = (
        block.partition("```")[0] for block in text.split("```python\n")[1:] if "X-ResLens-Signature" in block
    )
    names: dict[str, object] = {}
    exec(program, names)
    genuine = names["genuine"]
    assert callable(genuine)
    body = b'{"timestamp": "now"}'
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert genuine(body, {"X-ResLens-Signature": signature}, SECRET)
    assert not genuine(body + b" ", {"X-ResLens-Signature": signature}, SECRET)
    assert not genuine(body, {"X-ResLens-Signature": signature}, "another")
