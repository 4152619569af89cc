"""Numbers of versions that no version can have, asked of one process and of several."""

from collections.abc import Iterator

import httpx
import pytest

from tests import bundles
from tests.service.operated import operated

# The largest number that a version may have, one that 64 bits hold, and one that they do not.
LARGEST, LARGER, HUGE = 10**9 - 1, 10**15, 10**20 - 1


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two workers"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root)
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, WORKERS=request.param) as service:
        yield service.client
        assert "Traceback" not in log.read_text()


QUERIES = ["", "/statistics", "/diagnosis", "/baseline"]


@pytest.mark.parametrize("path", QUERIES)
@pytest.mark.parametrize(("number", "status"), [(LARGEST, 404), (LARGER, 422), (HUGE, 422), (0, 422)])
def test_in_a_query(client: httpx.Client, path: str, number: int, status: int) -> None:
    response = client.get(f"/v1/models/tiny{path}", params={"version": number})
    assert response.status_code == status
    assert "version" in response.json()["error"]


@pytest.mark.parametrize("number", [LARGEST, LARGER, HUGE])
def test_in_a_path(client: httpx.Client, number: int) -> None:
    path = f"/v2/models/tiny/versions/{number}"
    body = {"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [""]}]}
    for response in (client.get(path), client.get(f"{path}/ready"), client.post(f"{path}/infer", json=body)):
        assert response.status_code == 404
        assert "no version" in response.json()["error"]
        assert str(number) in response.json()["error"]


@pytest.mark.parametrize("form", ["query", "form", "json"])
@pytest.mark.parametrize("number", [LARGER, HUGE])
def test_of_a_classification(client: httpx.Client, number: int, form: str) -> None:
    path, fields = "/v1/models/tiny/classify", {"version": str(number)}
    response = {
        "query": lambda: client.post(path, params=fields, content=b"image"),
        "form": lambda: client.post(path, data=fields, files={"file": b"image"}),
        "json": lambda: client.post(path, json={"version": number, "image": ""}),
    }[form]()
    assert response.status_code == (422 if form == "query" else 400)
    assert "version" in response.json()["error"]


@pytest.mark.parametrize("number", [LARGER, HUGE])
def test_to_be_loaded_or_labelled(client: httpx.Client, number: int) -> None:
    load = "/v2/repository/models/tiny/load"
    for version in (number, str(number)):
        response = client.post(load, json={"parameters": {"version": version}})
        assert (response.status_code, "from 1 to 999999999" in response.json()["error"]) == (400, True)
    assert client.post(load, json={"parameters": {"version": LARGEST}}).status_code == 404
    response = client.put("/v1/models/tiny/labels/canary", json={"version": number})
    assert (response.status_code, "version" in response.json()["error"]) == (400, True)


def test_of_a_layer_map(client: httpx.Client) -> None:
    response = client.post("/v1/models/tiny/layers/act1/map", params={"version": HUGE}, content=b"image")
    assert response.status_code == 422
