"""A remote that stops in the midst of an answer: whoever waits for it gives up in time, or at once when told to."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import anyio
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from models.choice import Choice
from models.remote import RemoteRepository
from models.repository import ModelRepository
from service.control.control import Control
from tests import bundles


class StallingFileSystem(MemoryFileSystem):
    """Files in memory, whose graphs never come, until `released`."""

    protocol = "stalling"
    store: ClassVar[dict[str, Any]] = {}
    released: ClassVar[threading.Event] = threading.Event()
    reached: ClassVar[threading.Event] = threading.Event()
    stalls: ClassVar[str] = "read"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("stalling://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        if path.endswith("model.onnx") and mode == "rb":
            if self.stalls == "open":
                self._stall()
            file.read = lambda _: self._stall()
        return file

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        if path.endswith("serving.json"):
            self._stall()
        super().pipe_file(path, value, **options)

    def _stall(self) -> bytes:
        self.reached.set()
        self.released.wait(60)
        return b""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    fsspec.register_implementation("stalling", StallingFileSystem, clobber=True)
    StallingFileSystem.released, StallingFileSystem.reached = threading.Event(), threading.Event()
    base = f"/{secrets.token_hex(8)}"
    bundles.publish(tmp_path / "origin")
    for file in (tmp_path / "origin" / "tiny" / "1").iterdir():
        StallingFileSystem().pipe_file(f"{base}/tiny/1/{file.name}", file.read_bytes())
    yield f"stalling:/{base}"
    StallingFileSystem.released.set()


def fetch(repository: RemoteRepository) -> None:
    repository.fetch("tiny", 1)


def choose(repository: RemoteRepository) -> None:
    repository.choose("tiny", Choice(default=1))


@pytest.mark.parametrize(("stalls", "work"), [("read", fetch), ("open", fetch), ("read", choose)])
def test_whoever_waits_gives_up_in_time(
    url: str, tmp_path: Path, stalls: str, work: Callable[[RemoteRepository], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StallingFileSystem, "stalls", stalls)
    repository = RemoteRepository(url, tmp_path / "kept", 100_000_000, seconds=0.3)
    repository.refresh()
    began = time.monotonic()
    with pytest.raises(OSError, match=r"no answer within 0\.3 s"):
        work(repository)
    assert 0.3 <= time.monotonic() - began < 5
    assert ModelRepository(tmp_path / "kept").names() == []
    assert not list((tmp_path / "kept").rglob("model.onnx"))


def test_what_waits_ends_when_it_is_closed(url: str, tmp_path: Path) -> None:
    repository = RemoteRepository(url, tmp_path / "kept", 100_000_000, seconds=60)
    repository.refresh()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetch, repository)
        assert StallingFileSystem.reached.wait(10)
        repository.close()
        with pytest.raises(OSError, match="the service ends"):
            waiting.result(timeout=5)


def test_a_control_that_closes_waits_for_no_download(url: str, tmp_path: Path) -> None:
    async def scenario() -> float:
        control = Control(RemoteRepository(url, tmp_path / "kept", 100_000_000, seconds=60))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.start)
            assert await anyio.to_thread.run_sync(StallingFileSystem.reached.wait, 10)
            began = time.monotonic()
            await control.close()
        return time.monotonic() - began

    assert anyio.run(scenario) < 5
