"""Models in an S3 bucket: a server that speaks S3 over a socket, the service in processes of its own."""

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from service.__main__ import main
from tests import bundles
from tests.service.conftest import eventually, serving
from tests.service.processes import process

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Store:
    """A bucket with `tiny`, and where the service keeps what it has of it."""

    server: ThreadedMotoServer
    bucket: str
    files: s3fs.S3FileSystem
    folder: Path

    def publish(self, seed: int) -> None:
        version = bundles.publish(self.folder / "origin", "tiny", bundles.Tiny.random(seed))
        for file in (self.folder / "origin" / "tiny" / str(version)).iterdir():
            self.files.pipe_file(f"{self.bucket}/models/tiny/{version}/{file.name}", file.read_bytes())

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/models"

    @property
    def kept(self) -> Path:
        (place,) = (self.folder / "cache").iterdir()
        return place

    @property
    def settings(self) -> dict[str, object]:
        return {"cache_directory": self.folder / "cache", "history_url": "", "remote_seconds": 10.0}

    def service(self) -> AbstractContextManager[httpx.Client]:
        return serving(self.url, **self.settings)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # it knows the server of another test
    files = s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True, use_listings_cache=False)
    # What moto holds is of the process, not of the server.
    bucket = secrets.token_hex(8)
    files.mkdir(bucket)
    store = Store(server, bucket, files, tmp_path)
    store.publish(1)
    try:
        yield store
    finally:
        server.stop()


def version(client: httpx.Client) -> object:
    return client.get("/v1/models/tiny").json().get("version")


def problem(client: httpx.Client) -> str:
    return str(client.get("/v1/models").json()["repository_problem"])


def index(client: httpx.Client) -> dict[str, str]:
    return {entry["version"]: entry["reason"] for entry in client.post("/v2/repository/index").json()}


def test_a_bucket_is_served_followed_and_labelled(store: Store) -> None:
    settings = {name.upper(): value for name, value in store.settings.items()}
    with (
        process(store.url, **settings, MODEL_CONTROL="poll", POLL_SECONDS=0.2) as address,
        httpx.Client(base_url=f"http://{address}", timeout=30) as client,
    ):
        assert version(client) == 1
        store.publish(2)
        eventually(lambda: version(client) == 2)
        label = client.put("/v1/models/tiny/labels/stable", json={"version": 1})
        assert label.json()["labels"] == {"stable": 1}
        assert b'"stable": 1' in store.files.cat_file(f"{store.bucket}/models/tiny/serving.json")
        store.files.pipe_file(f"{store.bucket}/models/tiny/3/manifest.json", b"{")
        eventually(lambda: "manifest.json is not JSON" in index(client).get("3", ""))
        store.files.rm(f"{store.bucket}/models/tiny/2", recursive=True)
        eventually(lambda: version(client) == 1)


def test_the_command_line_labels_what_is_in_a_bucket(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLENS_MODEL_REPOSITORY", store.url)
    monkeypatch.setenv("RESLENS_CACHE_DIRECTORY", str(store.folder / "cache"))
    assert main(["label", "tiny", "stable", "1"]) == 0
    assert b'"stable": 1' in store.files.cat_file(f"{store.bucket}/models/tiny/serving.json")
    assert main(["label", "tiny", "stable", "2"]) == 2
    assert main(["sample", "tiny"]) == 2
    store.server.stop()
    assert main(["label", "tiny", "stable"]) == 2


def test_what_is_kept_is_verified_and_serves_while_the_store_is_down(store: Store) -> None:
    store.publish(2)
    with store.service() as client:
        assert version(client) == 2
        assert client.get("/v2/models/tiny/versions/1/ready").status_code == 200
    graph = store.kept / "tiny" / "2" / "model.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:1000])
    with store.service() as client:
        assert version(client) == 2
        assert graph.read_bytes() == content
    graph.write_bytes(content[:1000])
    store.server.stop()
    with store.service() as client:
        assert version(client) == 1
        assert f"s3://{store.bucket}/models cannot be listed" in problem(client)
        assert client.get("/v2/models/tiny/versions/2/ready").status_code == 503
        assert client.get("/v2/health/ready").status_code == 200


def test_a_store_that_is_down_at_first_is_served_once_it_answers(store: Store) -> None:
    with serving(f"s3://{store.bucket}-2/models", **store.settings) as client:
        assert client.get("/v2/health/ready").status_code == 503
        assert f"s3://{store.bucket}-2/models cannot be listed" in problem(client)
        store.files.mkdir(f"{store.bucket}-2")
        store.files.pipe_file(f"{store.bucket}-2/models/x", b"")
        assert client.post("/v2/repository/models/tiny/load").status_code == 404
        assert problem(client) == ""
