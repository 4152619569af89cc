"""Downloads from a real HTTP server: whole ones, and every way in which one goes wrong."""

import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from tests.training.published_files import Made, all_made, cifar, remote
from training.__main__ import main
from training.data import download
from training.data.download import RemoteFile, fetch
from training.data.published import PUBLISHED
from training.data.raw import Cifar
from training.data.sources import DataConfig, load_data

CONTENT = np.random.default_rng(1).bytes(100_000)
FILE = remote("images.tar.gz", CONTENT)


class Server:
    """Files by path; what it was asked for is counted."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.truncated: set[str] = set()
        self.asked: list[str] = []
        self.encodings: list[str] = []
        self.address = ""


@contextmanager
def serving() -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            served.asked.append(name)
            served.encodings.append(self.headers["Accept-Encoding"])
            content = served.files.get(name)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in served.truncated else content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as served:
        yield served


def at(server: Server, file: RemoteFile = FILE) -> RemoteFile:
    return replace(file, url=f"{server.address}/{file.name}")


def refused(file: RemoteFile, folder: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        fetch(file, folder, lambda _done, _total: None)
    for part in (file.name, file.url, file.sha256, f"{file.size:,} bytes", f"put it into {folder}", "--data-dir"):
        assert part in str(raised.value)
    assert {path.name for path in folder.iterdir()} <= {f".{file.name}.lock"}, "nothing half is left"


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT
    told: list[tuple[int, int]] = []
    path = fetch(at(server), tmp_path / "new", lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(at(server), tmp_path / "new", lambda _done, _total: None) == path
    assert server.asked == [FILE.name]
    assert server.encodings == ["identity"], "what is compressed on the way has another digest"


def test_of_many_that_want_it_one_downloads(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT
    wanting = [
        threading.Thread(target=fetch, args=(at(server), tmp_path, lambda _done, _total: None)) for _ in range(6)
    ]
    for thread in wanting:
        thread.start()
    for thread in wanting:
        thread.join()
    assert server.asked == [FILE.name]


def test_other_content(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT[:-1] + b"x"
    refused(at(server), tmp_path, "what came has another digest")


def test_a_file_that_is_short(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT[:-5]
    refused(at(server), tmp_path, "what came has another digest")


def test_a_connection_that_ends_early(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT
    server.truncated.add(FILE.name)
    refused(at(server), tmp_path, "the connection ended before the file did")
    server.truncated.clear()
    assert fetch(at(server), tmp_path, lambda _done, _total: None).read_bytes() == CONTENT


def test_a_file_that_is_too_long_is_not_read_to_its_end(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT * 200
    refused(at(server), tmp_path, "it is longer than 100,000 bytes")


def test_a_file_that_is_not_there(server: Server, tmp_path: Path) -> None:
    refused(at(server), tmp_path, "the server answered 404")


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as gone:
        pass
    refused(at(gone), tmp_path, "the server cannot be reached")


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"could not be downloaded.*Not a directory"):
        fetch(at(server), tmp_path / "file" / "below", lambda _done, _total: None)


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands for a disk without room")
def test_a_disk_without_room(server: Server, tmp_path: Path) -> None:
    server.files[FILE.name] = CONTENT
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        refused(at(server), tmp_path, "the disk has no room for it")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fetch(at(server), tmp_path, lambda _done, _total: None).read_bytes() == CONTENT


def test_the_cache_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache() == Path(pooch.os_cache("reslens")) == tmp_path / "reslens"


@pytest.mark.parametrize("made", all_made(), ids=lambda made: str(made.key))
def test_every_published_set_comes_from_its_server(
    made: Made, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files |= made.files
    monkeypatch.setitem(PUBLISHED, made.key, made.at(server.address))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key: Any = made.key
    for _ in range(2):
        data = load_data(DataConfig(data=key))
        np.testing.assert_array_equal(data.training.pixels, made.training[0])
        np.testing.assert_array_equal(data.held_out.pixels, made.held_out[0])
        assert data.training.labels.tolist() == made.training[1]
    assert sorted(server.asked) == sorted(made.files)


def test_a_folder_is_filled_before_it_is_taken_offline(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cifar("cifar10")
    server.files |= made.files
    monkeypatch.setitem(PUBLISHED, made.key, made.at(server.address))
    config = DataConfig(data="cifar10", data_dir=str(tmp_path))
    load_data(config)
    server.files.clear()
    assert len(load_data(config).training) == 20


def test_offline_the_command_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        # Nobody listens on the port of "discard": no download leaves this machine.
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["training", "train", "--data", "cifar10", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    files = PUBLISHED["cifar10"].files
    assert isinstance(files, Cifar)
    assert said.count("\n") == 1
    assert "cifar-10-binary.tar.gz could not be downloaded from https://www.cs.toronto.edu/~kriz/" in said
    assert f"SHA-256 {files.archive.sha256}" in said
    assert f"put it into {tmp_path}" in said
    assert not (tmp_path / "runs").exists()
