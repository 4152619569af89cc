"""Keys for inference and for control, over a socket to a process."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.keys import Key, KeyRing, digest_of, new_key, parse_keys
from service.access.purpose import purpose_of
from service.app import ROUTERS, create_app
from service.errors import StartupError
from service.settings import Settings
from tests import bundles
from tests.service.conftest import eventually, png
from tests.service.operated import Operated, operated
from tests.service.processes import ROOT

IMAGE = png(np.zeros((3, 8, 8), np.uint8))
USER, OPERATOR, BOTH = (new_key(name) for name in ("user", "operator", "both"))
STRANGER = new_key("stranger")[0]

INFER = ("POST", "/v1/models/tiny/classify")
READ = ("GET", "/v1/models")
INDEX = ("POST", "/v2/repository/index")
LOAD = ("POST", "/v2/repository/models/tiny/load")
HEALTH = ("GET", "/v2/health/ready")
METRICS = ("GET", "/metrics")
EVERYTHING = (INFER, READ, INDEX, LOAD, HEALTH, METRICS)


class Files(NamedTuple):
    """The key files of the service; both are read again when they change."""

    inference: Path
    control: Path


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("keys")
    files = Files(folder / "inference", folder / "control")
    files.inference.write_text(f"# who may ask\n{USER[1].line()}\n\n{BOTH[1].line()}  # and more\n")
    files.control.write_text(f"{OPERATOR[1].line()}\n{BOTH[1].line()}\n")
    return files


@pytest.fixture(scope="module")
def service(shelf: Path, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    settings = {"INFERENCE_KEYS_FILE": files.inference, "CONTROL_KEYS_FILE": files.control}
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(shelf, log, LOG_FORMAT="json", ACCESS_LOG="true", **settings) as service:
        yield service


def ask(client: httpx.Client, what: tuple[str, str], secret: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    content = IMAGE if what == INFER else b"{}"
    return client.request(*what, content=content, headers=headers)


def statuses(client: httpx.Client, secret: str | None) -> list[int]:
    return [ask(client, what, secret).status_code for what in EVERYTHING]


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (None, [401, 401, 401, 401, 200, 401]),
        (STRANGER, [401, 401, 401, 401, 200, 401]),
        (USER[0], [200, 200, 200, 403, 200, 200]),
        (OPERATOR[0], [403, 200, 200, 200, 200, 200]),
        (BOTH[0], [200, 200, 200, 200, 200, 200]),
        (USER[0][:-1], [401, 401, 401, 401, 200, 401]),
    ],
    ids=["nobody", "stranger", "user", "operator", "both", "a letter short"],
)
def test_each_key_opens_its_own(service: Operated, secret: str | None, expected: list[int]) -> None:
    assert statuses(service.client, secret) == expected


def test_refusals_say_what_to_do(service: Operated) -> None:
    nobody = ask(service.client, INFER)
    assert nobody.headers["WWW-Authenticate"] == 'Bearer realm="reslens"'
    assert "`X-API-Key: <key>`" in nobody.json()["error"]
    assert ask(service.client, INFER, STRANGER).json()["error"].startswith("the key is not known")
    assert "use one for control" in ask(service.client, LOAD, USER[0]).json()["error"]
    assert "use one for inference" in ask(service.client, INFER, OPERATOR[0]).json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": USER[0]},
        {"authorization": f"bearer {USER[0]}"},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": USER[0]},
        {"Authorization": f"Bearer {USER[0]}", "X-API-Key": STRANGER},
    ],
)
def test_a_key_comes_in_either_header(service: Operated, headers: dict[str, str]) -> None:
    assert service.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{"Authorization": USER[0]}, {"Authorization": "Bearer"}, {"X-API-Key": ""}])
def test_a_key_without_its_scheme_is_none(service: Operated, headers: dict[str, str]) -> None:
    assert service.client.get("/v1/models", headers=headers).status_code == 401


def test_nothing_is_told_of_paths_to_those_without_a_key(service: Operated) -> None:
    for path in ("/v2/models/none", "/nowhere", "/v2//repository/models/tiny/load", "/v2/repository/models/tiny/load/"):
        assert service.client.get(path).status_code == 401
        assert service.client.post(path).status_code == 401
    assert service.client.get("/openapi.json").status_code == 200


def test_a_body_is_not_waited_for(service: Operated) -> None:
    address = (service.client.base_url.host, service.client.base_url.port or 80)
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(f"POST {INFER[1]} HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_the_log_names_the_caller_and_never_the_key(service: Operated) -> None:
    ask(service.client, READ, USER[0])
    eventually(lambda: any(line.get("caller") == "user" for line in service.lines()))
    for secret in (USER[0], OPERATOR[0], STRANGER):
        assert secret not in service.log.read_text()


def test_a_file_that_changes_is_read_again_and_a_broken_one_is_not(service: Operated, files: Files) -> None:
    before = files.inference.read_text()
    secret, key = new_key("guest")

    def still_good() -> bool:
        return ask(service.client, READ, secret).status_code == 200

    def complained(message: str) -> int:
        return sum(message in line["message"] for line in service.lines())

    assert ask(service.client, READ, secret).status_code == 401
    files.inference.write_text(before + key.line())
    eventually(still_good)
    files.inference.write_text("broken")
    eventually(lambda: still_good() and complained("the keys of before stay: line 1 of"))
    files.inference.unlink()
    eventually(lambda: still_good() and complained("No such file"))
    time.sleep(1.2)  # it is looked for once more
    assert still_good()
    assert complained("No such file") == 1
    files.inference.write_text(before)
    eventually(lambda: ask(service.client, READ, secret).status_code == 401)
    assert ask(service.client, READ, USER[0]).status_code == 200


def test_inference_keys_alone_close_control(shelf: Path, tmp_path: Path) -> None:
    with operated(shelf, tmp_path / "log", INFERENCE_KEYS=USER[1].line(), OPEN_METRICS="true") as service:
        assert statuses(service.client, USER[0]) == [200, 200, 200, 403, 200, 200]
        assert "RESLENS_CONTROL_KEYS_FILE" in ask(service.client, LOAD, USER[0]).json()["error"]
        assert statuses(service.client, None) == [401, 401, 401, 401, 200, 200]


def test_control_keys_alone_leave_inference_open(shelf: Path, tmp_path: Path) -> None:
    lines = f"{OPERATOR[1].line()},{BOTH[1].line()}"
    with operated(shelf, tmp_path / "log", CONTROL_KEYS=lines, OPEN_HEALTH="false") as service:
        assert statuses(service.client, None) == [200, 200, 200, 401, 200, 200]
        assert statuses(service.client, BOTH[0]) == [200] * 6


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys").touch()
    with operated(tmp_path, tmp_path / "log", INFERENCE_KEYS_FILE=tmp_path / "keys", OPEN_HEALTH="false") as service:
        assert [ask(service.client, what, USER[0]).status_code for what in (READ, HEALTH, LOAD)] == [401] * 3


def test_clients_of_triton_send_keys(service: Operated) -> None:
    http = pytest.importorskip("tritonclient.http", reason="has no wheel for this platform")
    client = http.InferenceServerClient(service.url.removeprefix("http://"))
    assert client.get_model_metadata("tiny", headers={"Authorization": f"Bearer {USER[0]}"})["name"] == "tiny"
    with pytest.raises(http.InferenceServerException, match="a key is needed"):
        client.get_model_metadata("tiny")
    client.load_model("tiny", headers={"X-API-Key": OPERATOR[0]})
    client.close()


# Every path


def test_whatever_changes_state_is_control() -> None:
    asking = {"classify", "map", "infer", "index"}
    for router in ROUTERS:
        for route in router.routes:
            path, methods = route.path, route.methods  # type: ignore[attr-defined]
            for method in methods - {"GET", "HEAD", "OPTIONS"}:
                expected = {"control"} if path.rpartition("/")[2] not in asking else {"inference", "read"}
                assert purpose_of(method, path) in expected, (method, path)


@given(st.sampled_from(["POST", "PUT", "DELETE", "PATCH", "post", "X"]), st.text())
def test_what_is_not_known_is_control(method: str, path: str) -> None:
    assert purpose_of(method, f"/v2/repository/models/{path}/load") == "control"
    assert purpose_of(method, f"/{path}.") == "control"


# Files and the command


@pytest.mark.parametrize(
    "line",
    [
        "secret",
        "name md5:00",
        f"two words sha256:{'0' * 64}",
        f"name sha256:{'0' * 63}",
        f"name sha256:{'0' * 64} rate=0",
        f"name sha256:{'0' * 64} rate=1.2.3",
        f"name sha256:{'0' * 64} 5",
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{USER[1].line()}\n{line}\n")
    with pytest.raises(StartupError, match=r"line 2 of .*python -m service key NAME") as caught:
        create_app(Settings(model_repository=tmp_path, provider="cpu", inference_keys_file=file))
    assert line not in str(caught.value)


def test_a_missing_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"keys cannot be read: .*nowhere"):
        create_app(Settings(model_repository=tmp_path, provider="cpu", control_keys_file=tmp_path / "nowhere"))


@given(st.from_regex(r"[A-Za-z0-9_.@-]{1,64}", fullmatch=True), st.none() | st.integers(1, 10**6))
def test_a_key_is_what_its_line_says(name: str, rate: int | None) -> None:
    secret, key = new_key(name, rate)
    assert parse_keys(key.line(), "here") == (key,)
    assert KeyRing(key.line(), None).holder(digest_of(secret.encode())) == Key(name, key.digest, rate)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "key", *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )


def test_the_command_prints_the_line_and_says_the_key_once() -> None:
    made = command("alice", "--rate", "2.5")
    secret = made.stderr.split()[-1]
    (key,) = parse_keys(made.stdout, "the command")
    assert (key.name, key.digest, key.rate) == ("alice", digest_of(secret.encode()), 2.5)
    assert secret not in made.stdout


def test_the_command_refuses_a_name_that_is_no_word() -> None:
    refused = command("two words")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stdout == ""
