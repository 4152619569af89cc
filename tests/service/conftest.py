"""Real servers on free ports, over shelves of tiny models."""

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

from service.app import create_app
from service.plain import limited
from service.settings import Settings
from tests import bundles

Value = TypeVar("Value")


@contextlib.contextmanager
def serving(root: Path | str, bucket_seconds: int = 60, **settings: object) -> Iterator[httpx.Client]:
    """A service over the models below `root`, and a client that talks to it through a socket."""
    app = create_app(Settings(model_repository=root, provider="cpu", threads=1, **settings), bucket_seconds)
    connection = limited(32768, 10, 30, app.state.front.plain)
    config = uvicorn.Config(app.state.front, http=connection, ws="none", log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def eventually(ready: Callable[[], object], seconds: float = 20, every: float = 0.02) -> None:
    """Wait until something is so, and ask every so many seconds."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(every)


def settled(read: Callable[[], Value], seconds: float = 0.4) -> Value:
    """What is read once it has stayed the same for so long: counts come a moment after their answers."""
    value = read()
    started = changed = time.monotonic()
    while time.monotonic() < changed + seconds:
        assert time.monotonic() < started + 20, f"it never stays the same, and is {value} now"
        time.sleep(0.05)
        if (now := read()) != value:
            value, changed = now, time.monotonic()
    return value


@pytest.fixture(scope="session")
def tiny() -> bundles.Tiny:
    """The model that is version 2, the latest, of `tiny`."""
    return bundles.Tiny.random(2)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory, tiny: bundles.Tiny) -> Iterator[httpx.Client]:
    """A service with `tiny` in two versions and `loud`, which overflows where `tiny` does not."""
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", bundles.Tiny.random(1))
    bundles.publish(root, "tiny", tiny)
    bundles.publish(root, "loud", bundles.Tiny.random(3, scale=1.0))
    with serving(root, max_body_bytes=1 << 20, max_pixels=200_000, max_images=5, max_batch=4) as client:
        yield client


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    """Four images that pre-processing leaves as they are, N×3×8×8."""
    return np.random.default_rng(0).integers(0, 256, (4, 3, bundles.SIZE, bundles.SIZE), dtype=np.uint8)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own, with a path that is short enough for sockets in it."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


def png(pixels_CHW: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(pixels_CHW.transpose(1, 2, 0)), "PNG")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
