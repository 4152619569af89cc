"""TLS, and pages of other origins."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from pydantic import ValidationError

from service.certificate import Certificate
from service.errors import StartupError
from service.settings import Settings
from tests import bundles
from tests.service.conftest import eventually, serving
from tests.service.operated import operated
from tests.service.processes import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="certificates are made by openssl")


class Files(NamedTuple):
    chain: Path
    key: Path


def make(folder: Path, *more: str) -> Files:
    """A certificate for 127.0.0.1, signed by itself, in place of the one before."""
    new = Files(folder / "new.pem", folder / "new.key")
    encryption = () if "-passout" in more else ("-nodes",)
    subject = ("-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1")
    algorithm = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    command = ["openssl", "req", "-x509", "-days", "2", *algorithm, *encryption, *subject, *more]
    subprocess.run([*command, "-keyout", new.key, "-out", new.chain], check=True, capture_output=True)
    return Files(new.chain.rename(folder / "chain.pem"), new.key.rename(folder / "key.pem"))


def trusting(chain: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(chain))


def healthy(url: str, **environment: str) -> bool:
    """What the container's health check says."""
    image = (ROOT / "Dockerfile").read_text()
    found = re.search(r'HEALTHCHECK.*? CMD \["python", "(.*?)"\]\n', image)
    assert found
    copied = re.search(rf"COPY (\S+) {found[1]}\n", image)
    assert copied
    environment |= {"PORT": url.rpartition(":")[2]}
    ended = subprocess.run([sys.executable, ROOT / copied[1]], env=environment, capture_output=True, check=False)
    assert b"Traceback" not in ended.stderr
    return not ended.returncode


def test_it_is_https_and_a_renewed_certificate_is_taken(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    files = make(tmp_path)
    settings = {"TLS_CERTIFICATE": files.chain, "TLS_KEY": files.key, "LOG_FORMAT": "json"}
    with operated(tmp_path / "shelf", tmp_path / "log", verify=trusting(files.chain), **settings) as service:
        assert service.url.startswith("https://")
        assert service.client.get("/v2/health/ready").status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(service.url)
        with pytest.raises(httpx.HTTPError):
            httpx.get(service.url.replace("https", "http"))
        assert healthy(service.url, RESLENS_TLS_CERTIFICATE=str(files.chain))
        assert not healthy(service.url)
        before = trusting(files.chain)
        files.chain.write_text("broken")
        eventually(lambda: "the certificate of before stays" in service.log.read_text())
        assert httpx.get(service.url, verify=before).status_code == 200
        make(tmp_path)
        eventually(lambda: "read the certificate again" in service.log.read_text())
        assert httpx.get(f"{service.url}/v2", verify=trusting(files.chain)).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(service.url, verify=before)


def test_old_versions_of_tls_are_not_spoken(tmp_path: Path) -> None:
    assert Certificate(*make(tmp_path)).context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    files = make(tmp_path)
    files.chain.write_text(files.chain.read_text() + files.key.read_text())
    Certificate(files.chain, None)


def test_what_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "encrypted").mkdir()
    files, other = make(tmp_path), make(tmp_path / "other")
    with pytest.raises(StartupError, match="RESLENS_TLS_KEY"):
        Certificate(files.chain, other.key)
    with pytest.raises(StartupError, match="No such file"):
        Certificate(tmp_path / "nowhere", None)
    encrypted = make(tmp_path / "encrypted", "-passout", "pass:secret")
    with pytest.raises(StartupError, match="the key is encrypted"):
        Certificate(*encrypted)
    with pytest.raises(ValidationError, match="RESLENS_TLS_KEY needs RESLENS_TLS_CERTIFICATE"):
        Settings(tls_key=files.key)


# Pages of other origins

PAGE = "https://page.example"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving(
        tmp_path_factory.mktemp("shelf"), cors_origins=f"{PAGE}, http://localhost:3000", inference_keys=""
    ) as it:
        yield it


def test_a_page_that_is_named_may_ask_with_a_key(client: httpx.Client) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    allowed = client.options("/v2/models/tiny/infer", headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == PAGE
    assert "x-api-key" in allowed.headers["Access-Control-Allow-Headers"].lower()
    refused = client.post("/v2/models/tiny/infer", headers={"Origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE  # so the page can read why
    assert "X-Request-Id" in refused.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin", ["https://other.example", "http://page.example", "https://page.example.evil", "null"]
)
def test_other_pages_may_not(client: httpx.Client, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert client.options("/v2/models/tiny/infer", headers=asked).status_code == 400
    assert "Access-Control-Allow-Origin" not in client.get("/v2", headers={"Origin": origin}).headers


def test_no_page_may_where_none_is_named(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        assert "Access-Control-Allow-Origin" not in client.get("/v2", headers={"Origin": PAGE}).headers


@pytest.mark.parametrize(
    "origins", ["page.example", "https://page.example/", "https://*.example", "ftp://page.example"]
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=origins)


def test_a_handshake_that_never_comes_holds_up_no_end(tmp_path: Path) -> None:
    bundles.publish(tmp_path / "shelf")
    files = make(tmp_path)
    settings = {"TLS_CERTIFICATE": files.chain, "TLS_KEY": files.key, "WORKERS": 2, "ANNOUNCE_SECONDS": 0}
    with operated(tmp_path / "shelf", tmp_path / "log", verify=trusting(files.chain), **settings) as service:
        assert service.client.get("/v2/health/ready").status_code == 200
        base = service.client.base_url
        with socket.create_connection((base.host, base.port or 443)):
            time.sleep(0.3)
            began = time.monotonic()
            assert service.stopped() == 0
            assert time.monotonic() - began < 10
        assert "killed" not in service.log.read_text()
