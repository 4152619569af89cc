"""`python -m service client`, in a process of its own, against a service in another."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from rich.cells import cell_len

from service.__main__ import main
from service.access.keys import new_key
from tests import bundles
from tests.service.conftest import png
from tests.service.operated import operated
from tests.service.processes import ROOT, process
from tests.service.test_tls import make, trusting

PHOTO = png(np.random.default_rng(0).integers(0, 256, (3, bundles.SIZE, bundles.SIZE), dtype=np.uint8))
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3[0-7](?:;\d+)*m")
Complaint = Callable[..., str]
STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("shelf")
    for version in (1, 2):
        bundles.publish(root, "tiny", bundles.Tiny.random(version))
    with process(root, STATISTICS_SAMPLE=1, WORKERS=0) as address:
        yield f"http://{address}"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    path.write_bytes(PHOTO)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "service", "client", *map(str, arguments)]


def environment(url: str, **more: str) -> dict[str, str]:
    # It needs no models: there are none where it is told to look.
    given = {"RESLENS_URL": url, "RESLENS_MODEL_REPOSITORY": "/nowhere", "TERM": "xterm-256color", **more}
    unwanted = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "RESLENS_KEY")
    return {name: value for name, value in os.environ.items() if name not in unwanted} | given


def client(url: str, *arguments: object, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with its output in pipes."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(url, **more), input=stdin, capture_output=True, timeout=60
    )


def on_terminal(url: str, width: int, *arguments: object, **more: str) -> str:
    """What the command draws on a terminal."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    drawn = b""
    with subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(url, **more), stdin=subprocess.DEVNULL, stdout=its
    ) as running:
        os.close(its)
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(ours, 65536):
                drawn += chunk
    os.close(ours)
    assert running.returncode == 0
    return drawn.decode().replace("\r\n", "\n")


def answer(done: subprocess.CompletedProcess[bytes]) -> Any:
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture
def complaint(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Complaint:
    """Runs the command in this process, where it must exit with the status given, and returns what it complains of."""

    def run(status: int, *arguments: object, **more: str) -> str:
        for name, value in {"RESLENS_URL": url, **more}.items():
            monkeypatch.setenv(name, value)
        try:
            ended: object = main(["client", *map(str, arguments)])
        except SystemExit as error:  # with a message it is printed, and the status is 1
            ended = 1 if isinstance(error.code, str) else error.code
            print(error.code, file=sys.stderr)
        out, err = capsys.readouterr()
        assert (ended, out) == (status, "")
        return err

    return run


def test_in_a_pipe_the_answer_is_that_of_the_service(url: str, photo: Path) -> None:
    options: dict[str, str | int] = {"top_k": 2, "statistics": "layers", "version": 1}
    expected = httpx.post(f"{url}/v1/models/tiny/classify", files={"file": (str(photo), PHOTO)}, params=options).json()
    given = answer(client(url, "classify", photo, "--top-k", 2, "--statistics", "layers", "--version", 1))
    assert given.pop("timing").keys() == expected.pop("timing").keys()
    assert given == expected


def test_a_photo_from_stdin(url: str) -> None:
    assert answer(client(url, "classify", "-", "--model", "tiny", stdin=PHOTO))["images"][0]["classes"]


@pytest.mark.parametrize("width", [40, 80, 140])
def test_on_a_terminal_a_table_fits_its_width(url: str, photo: Path, width: int) -> None:
    drawn = on_terminal(url, width, "classify", photo, "--statistics", "layers")
    plain = STYLE.sub("", drawn)
    for label in bundles.LABELS:
        assert label in plain
    assert "█" in plain
    assert "layer1.0" in plain
    assert COLOUR.search(drawn)
    assert all(cell_len(line) <= width for line in plain.splitlines())
    if width > 80:
        assert all(header in plain for header in ("Active", "Saturated", "Dead", "RMS", "Outlier p"))


def test_no_colour_where_it_is_unwanted(url: str, photo: Path) -> None:
    assert not COLOUR.search(on_terminal(url, 80, "classify", photo, NO_COLOR="1"))


def test_json_on_a_terminal_when_asked_for(url: str, photo: Path) -> None:
    assert json.loads(on_terminal(url, 80, "classify", photo, "--json"))["model"] == "tiny"


def test_models(url: str) -> None:
    assert answer(client(url, "models"))["models"][0]["name"] == "tiny"
    drawn = STYLE.sub("", on_terminal(url, 80, "models"))
    assert re.search(r"tiny +2 +1 ", drawn)


@pytest.mark.parametrize("action", ["diagnosis", "statistics"])
def test_traffic(url: str, photo: Path, action: str) -> None:
    answer(client(url, "classify", photo))
    expected = httpx.get(f"{url}/v1/models/tiny/{action}", params={"window": "15m"}).json()
    assert answer(client(url, action, "--window", "15m")).keys() == expected.keys()
    drawn = STYLE.sub("", on_terminal(url, 100, action, "--window", "15m"))
    assert "tiny version 2" in drawn
    assert {"diagnosis": "Not judged", "statistics": "layer1.0.act2"}[action] in drawn


def test_one_photo_that_is_refused_does_not_keep_the_others(url: str, photo: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("this is not an image")
    done = client(url, "classify", photo, text, photo.parent / "photo.png")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["images"][0]["classes"]
    assert f"{text}: these 20 bytes are not an image" in done.stderr.decode()


def test_what_the_service_refuses(complaint: Complaint, photo: Path, tmp_path: Path) -> None:
    assert "choose from tiny" in complaint(1, "classify", photo, "--model", "absent")
    assert "choose from 1, 2" in complaint(1, "classify", photo, "--version", 9)
    (tmp_path / "empty.jpg").touch()
    assert "empty" in complaint(1, "classify", tmp_path / "empty.jpg")
    assert "is a service there?" in complaint(1, "models", "--url", "http://127.0.0.1:1")


def test_what_is_wrong_here(complaint: Complaint, photo: Path, tmp_path: Path) -> None:
    assert "absent.jpg" in complaint(2, "classify", tmp_path / "absent.jpg")
    assert "http://127.0.0.1:8000" in complaint(2, "models", "--url", "ftp://127.0.0.1")
    assert "--top-k" in complaint(2, "classify", photo, "--top-k", "many")
    assert "required" in complaint(2)
    assert "no key has" in complaint(2, "models", RESLENS_KEY="a\nb")


def test_what_answers_is_no_service(complaint: Complaint, tmp_path: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.handle_request).start()
        message = complaint(1, "models", "--url", f"http://127.0.0.1:{server.server_port}")
    assert "404" in message
    assert "no ResLens service" in message


def test_the_key(photo: Path, tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf", "one", bundles.Tiny.random(1))
    bundles.publish(tmp_path / "shelf", "two", bundles.Tiny.random(2))
    secret, key = new_key("somebody")
    (tmp_path / "key").write_text(f"{secret}\n")
    with process(tmp_path / "shelf", INFERENCE_KEYS=key.line(), WORKERS=0) as address:
        url = f"http://{address}"
        refused = client(url, "models")
        assert (refused.returncode, refused.stdout) == (1, b"")
        assert b"RESLENS_KEY" in refused.stderr
        assert len(answer(client(url, "models", RESLENS_KEY=secret))["models"]) == 2
        assert answer(client(url, "classify", photo, "--model", "one", "--key-file", tmp_path / "key"))
        unnamed = client(url, "classify", photo, RESLENS_KEY=secret)
        assert unnamed.returncode == 2
        assert b"--model, one, two" in unnamed.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="certificates are made by openssl")
def test_https(photo: Path, tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf", "tiny", bundles.Tiny.random(1))
    files = make(tmp_path)
    settings = {"TLS_CERTIFICATE": files.chain, "TLS_KEY": files.key, "WORKERS": 0}
    with operated(tmp_path / "shelf", tmp_path / "log", verify=trusting(files.chain), **settings) as service:
        refused = client(service.url, "models")
        assert refused.returncode == 1
        assert b"CERTIFICATE_VERIFY_FAILED" in refused.stderr
        trusted = {"SSL_CERT_FILE": str(files.chain)}
        assert answer(client(service.url, "classify", photo, **trusted))["model"] == "tiny"
        benched = subprocess.run(
            [sys.executable, "-m", "service", "bench", service.url, "--callers", "1", "--seconds", "0.3"],
            cwd=ROOT,
            env=environment(service.url, **trusted),
            capture_output=True,
            timeout=60,
        )
        assert answer(benched)["rows"][0]["requests"] > 0


def test_what_others_wrote_does_not_steer_the_terminal(url: str, tmp_path: Path) -> None:
    photo = tmp_path / "\x1b[2J[red]photo.png"
    photo.write_bytes(PHOTO)
    drawn = on_terminal(url, 200, "classify", photo)
    assert "\x1b[2J" not in drawn
    assert "[red]photo.png" in drawn


def test_it_imports_little(url: str) -> None:
    program = (
        "import sys; from service.__main__ import main; main(['client', 'models']); "
        "print([name for name in ('fastapi', 'numba', 'numpy', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(url), capture_output=True, check=True, text=True
    )
    assert output.stdout.splitlines()[-1] == "[]"
