"""Small requests that would become large objects: refused before they do."""

import json
import subprocess
import sys
import threading
import time
import tracemalloc

import httpx
import pytest

from models.manifest import TensorSpec
from service.errors import BadRequestError
from service.protocol.envelope import parse_json
from service.protocol.inference import read_request

COUNT = 300_000
CLASSIFY = "/v1/models/tiny/classify"
INFER = "/v2/models/tiny/infer"
# A model whose tensors are so large that as many numbers would be welcome.
PHOTOS = TensorSpec(name="images", datatype="FP32", shape=(-1, 3, 224, 224))


def many(element: str, count: int = COUNT) -> str:
    return "[" + ",".join([element] * count) + "]"


def tensor(shape: str) -> str:
    return '{"inputs": [{"name": "images", "datatype": "FP32", "data": [0], "shape": ' + shape + "}]%s}"


KEYS = json.dumps({f"{key:x}": 0 for key in range(90_000)})
FLOODS = {
    "inputs": (INFER, '{"inputs": ' + many("{}") + "}"),
    "numbers as inputs": (INFER, '{"inputs": ' + many("1") + "}"),
    "lists as inputs": (INFER, '{"inputs": ' + many("[]") + "}"),
    "sizes": (INFER, tensor(many("1.5", 200_000)) % ""),
    "outputs": (INFER, tensor("[1]") % (', "outputs": ' + many("1"))),
    "keys of a V2 request": (INFER, KEYS),
    "images": (CLASSIFY, '{"images": ' + many("1") + "}"),
    "empty images": (CLASSIFY, '{"images": ' + many('""') + "}"),
    "options": (CLASSIFY, KEYS),
    "index": ("/v2/repository/index", many("0")),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_refused_at_once(client: httpx.Client, name: str) -> None:
    path, body = FLOODS[name]
    started = time.perf_counter()
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 413)
    assert len(response.text) < 1000
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "body",
    [FLOODS["numbers as inputs"][1], FLOODS["sizes"][1], FLOODS["outputs"][1]],
    ids=["inputs", "sizes", "outputs"],
)
def test_wrong_elements_are_not_collected(body: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequestError, match="should have at most"):
            read_request(body.encode(), PHOTOS, ["logits"], [], max_batch=32)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def test_what_a_model_can_take_is_not_a_flood() -> None:
    row = [[0.5] * 7] * 5
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 3, 5, 7], "data": [[row] * 3] * 4}]})
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 5, 7))
    assert read_request(body.encode(), spec, ["logits"], [], max_batch=4).input.shape == (4, 3, 5, 7)


def test_a_flood_of_60_megabytes_needs_no_more_than_its_own_memory() -> None:
    program = (
        "from service.errors import BadRequestError\n"
        "from service.protocol.envelope import parse_json\n"
        "import resource\n"
        "body = b'{\"inputs\":[' + b'{},' * 20_000_000 + b'{}]}'\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))\n"
        "try: parse_json(body, 10**9)\n"
        "except BadRequestError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "20,000,002 objects" in result.stdout


def test_json_uploads_are_read_beside_the_event_loop(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noting(body: bytes, max_values: int) -> object:
        threads.append(threading.current_thread().name)
        return parse_json(body, max_values)

    monkeypatch.setattr("service.routes.upload.parse_json", noting)
    client.post(CLASSIFY, json={"image": "eA=="})
    (name,) = threads
    assert name.startswith("AnyIO worker thread")
