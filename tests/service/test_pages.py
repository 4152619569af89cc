import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from service.access.keys import new_key
from tests import bundles
from tests.service.conftest import serving

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "link", "input", "img", "br"}


class Outline(HTMLParser):
    """Collects what a page loads, what it labels, and whether its tags balance."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.labelled: set[str] = set()
        self.loaded: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if name == "for":
                self.labelled.add(value or "")
            if name == "src" or (tag == "link" and name == "href"):
                self.loaded.append(value or "")
            if name.startswith("on") or name == "style":
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    assert parsed.open == []
    return parsed


def test_the_page_is_whole_and_loads_nothing(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = outline(response.text)
    assert page.loaded == ["data:,"]
    assert {"model", "version", "file", "key"} <= page.labelled <= page.ids
    used = set(re.findall(r'element\("(\w+)"\)', response.text))
    assert used <= page.ids


def test_the_policy_allows_this_script_and_style_alone(client: httpx.Client) -> None:
    response = client.get("/")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for element in ("script", "style"):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"
    # What the policy would block must not be there.
    assert outline(response.text).handlers == []


def test_the_page_writes_no_html(client: httpx.Client) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", client.get("/").text)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_in_a_browser_the_page_offers_models_and_versions_or_asks_for_a_key(tmp_path: Path) -> None:
    for version in (1, 2):
        bundles.publish(tmp_path / "shelf", "tiny", bundles.Tiny.random(version))
    _, key = new_key("somebody")
    keys: dict[str, object] = {"inference_keys": key.line()}
    for given, shown in (({}, True), (keys, False)):
        with serving(tmp_path / "shelf", **given) as client:
            page = browsed(str(client.base_url), tmp_path / "profile")
        assert ('<option value="tiny">tiny</option>' in page) == shown
        assert ('<option value="version=1"' in page) == shown
        assert ('<form id="locked" hidden="">' in page) == shown
        assert ("a key is needed" in page) != shown


def browsed(url: str, profile: Path) -> str:
    """The page as HTML, after its script has run."""
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=5000",
    )
    return subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_openapi_describes_every_path(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert {
        "/v1/models",
        "/v1/models/{name}",
        "/v1/models/{name}/classify",
        "/v1/models/{name}/statistics",
        "/v1/models/{name}/diagnosis",
        "/v1/models/{name}/baseline",
        "/v1/models/{name}/labels",
        "/v1/models/{name}/labels/{label}",
        "/v1/models/{name}/rollback",
        "/v1/models/{name}/withheld/{version}",
        "/v1/models/{name}/layers/{layer}/map",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models",
        "/v2/models/stats",
        *(
            f"/v2/models/{{name}}{version}{part}"
            for version in ("", "/versions/{version}")
            for part in ("", "/ready", "/infer", "/config", "/stats")
        ),
        "/v2/repository/index",
        "/v2/repository/models/{name}/load",
        "/v2/repository/models/{name}/unload",
        "/metrics",
    } == set(schema["paths"])
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (path, method)
    assert client.get("/docs").status_code == 200


def test_errors_of_every_kind_have_one_shape(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/absent", 404),
        ("GET", "/v1/models/tiny?version=0", 422),
        ("PUT", "/v1/models/tiny/classify", 405),
        ("POST", "/v2/health/ready", 405),
        ("POST", "/v1/models/tiny/classify", 422),
    ):
        response = client.request(method, path)
        assert response.status_code == status, (method, path)
        assert list(response.json()) == ["error"]
        assert response.json()["error"]
