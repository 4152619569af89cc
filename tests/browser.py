"""A real Chromium without a window, driven through its own protocol over a pair of pipes."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Where Chromium reads commands and writes answers: each is JSON with a zero byte behind it.
COMMANDS, ANSWERS = 3, 4
SECONDS = 60.0


class Browser:
    """One tab. What it complains of in its console is kept in `complaints`."""

    def __init__(self, commands: int, answers: int) -> None:
        self.complaints: list[str] = []
        self._commands, self._answers = commands, answers
        self._sent, self._unread, self._session = 0, b"", ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to a page; what its scripts do later has to be waited for."""
        self._call("Page.navigate", url=url)
        self.until('location.href !== "about:blank" && document.readyState === "complete"')

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        result = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, f"it never was so: {expression}; {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file where the page asks for one."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, object] = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") == "Log.entryAdded":
                self.complaints.append(answer["params"]["entry"]["text"])
            if answer.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(answer["params"]["exceptionDetails"]["text"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            assert ready, "Chromium says nothing"
            more = os.read(self._answers, 1 << 16)
            assert more, "Chromium has ended"
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A Chromium that keeps what it has to keep in the folder `profile`."""
    assert CHROMIUM is not None
    ends = [end for _ in range(2) for end in os.pipe()]
    # Away from the numbers that Chromium wants.
    read_command, command, read_answer, answer = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}")
    actions = [
        (os.POSIX_SPAWN_DUP2, read_command, COMMANDS),
        (os.POSIX_SPAWN_DUP2, answer, ANSWERS),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    process = os.posix_spawn(CHROMIUM, [CHROMIUM, *options], os.environ, file_actions=actions)
    os.close(read_command)
    os.close(answer)
    try:
        yield Browser(command, read_answer)
    finally:
        # Without anybody who could command it, it ends.
        os.close(command)
        os.close(read_answer)
        os.waitpid(process, 0)
