"""Hears of findings from the service's webhook, and has the model retrained: one job at a time."""

import json
import threading
from collections import deque
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from models.signing import SIGNATURE, genuine
from training.retraining.outcome import ServiceUnreachableError

MAX_BODY_BYTES = 1 << 20
READ_SECONDS = 10.0
OLDEST_SECONDS = 900.0
"""Of a message: the service tries for some minutes, and older ones may be somebody's who replays them."""
REMEMBERED = 1000
DRIFT = ("drift", "out_of_distribution")


class Verdict(NamedTuple):
    """What is answered to a message."""

    status: int
    text: str
    version: int | None = None
    """The version to retrain from; None where nothing is to be done."""


class Judge:
    """Says which messages are reason to retrain a model."""

    def __init__(self, name: str, secret: str, rules: Collection[str] = DRIFT) -> None:
        self._name, self._secret, self._rules = name, secret, rules
        self._seen: deque[str] = deque(maxlen=REMEMBERED)

    def judge(self, body: bytes, given: str) -> Verdict:
        """Of one message and its signature."""
        if not genuine(self._secret, body, given):
            return Verdict(401, "the signature is not that of the secret")
        try:
            message = json.loads(body)
            identity, version = str(message["id"]), int(message["version"])
            age = (datetime.now(UTC) - datetime.fromisoformat(message["timestamp"])).total_seconds()
            rules = {finding["rule"] for finding in message["findings"]}
        except (ValueError, KeyError, TypeError) as error:
            return Verdict(400, f"no message of the webhook ({type(error).__name__}: {error})")
        if abs(age) > OLDEST_SECONDS:
            return Verdict(400, f"the message is {age:.0f} s old")
        if message.get("model") != self._name or not rules & set(self._rules):
            return Verdict(200, f"nothing to do: only {', '.join(self._rules)} of {self._name!r} are reason to retrain")
        if identity in self._seen:
            return Verdict(200, "nothing to do: this message came before")
        self._seen.append(identity)
        return Verdict(202, f"{self._name!r} will be retrained", version)


class Retraining:
    """Runs jobs in a thread, one at a time; of what comes meanwhile the newest is done after."""

    def __init__(self, run: Callable[[int | None], int], wait_seconds: float, attempts: int) -> None:
        """`run(version)` does a job and returns its exit code; None goes on with one that is not over."""
        self._run, self._wait_seconds, self._attempts = run, wait_seconds, attempts
        self._asked: deque[int | None] = deque(maxlen=1)
        self._changed = threading.Condition()
        self._closing = self._busy = False
        self._last: int | None = None
        self._thread = threading.Thread(target=self._work, name="retraining", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, version: int | None) -> None:
        """Have a job done, soon."""
        with self._changed:
            self._asked.append(version)
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Begin no other job."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)

    @property
    def state(self) -> dict[str, Any]:
        """Whether a job runs, one waits, and how the last one ended."""
        with self._changed:
            return {"running": self._busy, "waiting": bool(self._asked), "last_exit_code": self._last}

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._asked))
                if self._closing:
                    return
                version = self._asked.popleft()
                self._busy = True
            code = self._try(version)
            with self._changed:
                self._busy, self._last = False, code

    def _try(self, version: int | None) -> int:
        """A service that does not answer is tried again later: the job goes on where it was."""
        code = ServiceUnreachableError.code
        for _ in range(self._attempts):
            code = self._run(version)
            if code != ServiceUnreachableError.code:
                break
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, self._wait_seconds):
                    break
        return code


def make_server(address: tuple[str, int], judge: Judge, retraining: Retraining) -> ThreadingHTTPServer:
    """Listens there: POST takes messages, GET says what is being done."""

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_SECONDS

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
                self._answer(413 if length.isdecimal() else 411, {"error": f"at most {MAX_BODY_BYTES} bytes are read"})
                return
            verdict = judge.judge(self.rfile.read(int(length)), self.headers.get(SIGNATURE, ""))
            if verdict.version is not None:
                retraining.ask(verdict.version)
            self._answer(verdict.status, {"error" if verdict.status >= 400 else "message": verdict.text})

        def do_GET(self) -> None:
            self._answer(200, retraining.state)

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            print(f"{self.address_string()} {format % arguments}", flush=True)

    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    return server
