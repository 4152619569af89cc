"""Who hears of findings: which messages are believed, and that one job runs at a time."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from models.diagnosis.finding import Finding
from models.signing import SIGNATURE, signature
from service.monitor.webhook import Webhook
from tests.service.conftest import eventually
from training.retraining.receiver import MAX_BODY_BYTES, Judge, Retraining, make_server

SECRET = "of both"


def finding(rule: str = "drift") -> Finding:
    return Finding(
        rule=rule, part="act1", severity="warning", cause="act1: drifted", value=1.0, baseline=0.5, interval=None,
        images=500, evidence={},
    )  # fmt: skip


class Jobs:
    """Jobs that last until they are let go."""

    def __init__(self, *codes: int) -> None:
        self.begun: list[int | None] = []
        self.at_once = 0
        self.may_end = threading.Semaphore(0)
        self._codes = list(codes)
        self._running = 0

    def __call__(self, version: int | None) -> int:
        self._running += 1
        self.at_once = max(self.at_once, self._running)
        self.begun.append(version)
        self.may_end.acquire(timeout=20)
        self._running -= 1
        return self._codes.pop(0) if self._codes else 0


@contextmanager
def receiving(run: Callable[[int | None], int], wait: float = 0.01, attempts: int = 3) -> Iterator[str]:
    retraining = Retraining(run, wait, attempts)
    retraining.start()
    server = make_server(("127.0.0.1", 0), Judge("digits", SECRET), retraining)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        retraining.close(5)
        server.server_close()


def message(**changed: Any) -> bytes:
    said = {"event": "findings.confirmed", "id": "1", "timestamp": datetime.now(UTC).isoformat(), "model": "digits"}
    return json.dumps({**said, "version": 3, "findings": [finding().model_dump()], **changed}).encode()


def post(url: str, body: bytes, secret: str = SECRET) -> httpx.Response:
    return httpx.post(url, content=body, headers={SIGNATURE: signature(secret, body)}, timeout=10)


def test_the_webhook_of_the_service_is_understood() -> None:
    jobs = Jobs()
    with receiving(jobs) as url:
        webhook = Webhook(url, SECRET, first_wait=0.02)
        webhook.start()
        webhook.tell("digits", 3, [finding()])
        eventually(lambda: jobs.begun == [3])
        jobs.may_end.release()
        webhook.close(5)
        assert webhook.deliveries == (1, 0, 0)
        eventually(lambda: httpx.get(url).json() == {"running": False, "waiting": False, "last_exit_code": 0})


def test_what_is_not_genuine_or_no_reason_begins_nothing() -> None:
    jobs = Jobs()
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    with receiving(jobs) as url:
        statuses = {
            "another secret": post(url, message(), "another").status_code,
            "no signature": httpx.post(url, content=message()).status_code,
            "no JSON": post(url, b"{").status_code,
            "no version": post(url, message(version=None)).status_code,
            "no object": post(url, b"[]").status_code,
            "no time": post(url, message(timestamp="yesterday")).status_code,
            "no time zone": post(url, message(timestamp="2026-01-01T00:00:00")).status_code,
            "old": post(url, message(timestamp=old)).status_code,
            "too long": post(url, b" " * (MAX_BODY_BYTES + 1)).status_code,
            "another model": post(url, message(model="others")).status_code,
            "another rule": post(url, message(findings=[finding("dead_channels").model_dump()])).status_code,
        }
        assert statuses == {
            "another secret": 401, "no signature": 401, "no JSON": 400, "no version": 400, "no object": 400,
            "no time": 400, "no time zone": 400, "old": 400, "too long": 413, "another model": 200, "another rule": 200,
        }  # fmt: skip
        assert httpx.get(url).json() == {"running": False, "waiting": False, "last_exit_code": None}
    assert jobs.begun == []


def test_one_job_runs_and_the_newest_that_came_meanwhile_after_it() -> None:
    jobs = Jobs()
    with receiving(jobs) as url:
        assert post(url, message()).status_code == 202
        eventually(lambda: jobs.begun == [3])
        # The same one again, then two others.
        assert post(url, message()).status_code == 200
        for identity, version in (("2", 4), ("3", 5)):
            assert post(url, message(id=identity, version=version)).status_code == 202
        assert httpx.get(url).json()["waiting"]
        for _ in range(2):
            jobs.may_end.release()
        eventually(lambda: jobs.begun == [3, 5])
        eventually(lambda: not httpx.get(url).json()["running"])
    assert (jobs.begun, jobs.at_once) == ([3, 5], 1)


@pytest.mark.parametrize(("codes", "tries"), [((5, 5, 0), 3), ((5, 5, 5, 0), 3), ((4,), 1)])
def test_a_service_that_does_not_answer_is_tried_again(codes: tuple[int, ...], tries: int) -> None:
    jobs = Jobs(*codes)
    for _ in range(tries):
        jobs.may_end.release()
    with receiving(jobs) as url:
        post(url, message())
        eventually(lambda: httpx.get(url).json()["last_exit_code"] == codes[tries - 1])
    assert jobs.begun == [3] * tries
