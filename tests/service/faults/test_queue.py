"""Requests that share runs, in a process that batches: what is mixed, and who leaves, changes no answer of others."""

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import bundles
from tests.service.conftest import eventually, png, settled
from tests.service.faults.slow import Slow
from tests.service.messages import message, read
from tests.service.operated import Operated, operated

TINY = {name: bundles.Tiny.random(seed) for seed, name in enumerate(("one", "two"))}
RUNS = re.compile(r'reslens_batch_images_(?:sum|count)\{model="one"\} ([0-9.]+)')


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    for name, tiny in TINY.items():
        bundles.publish(root, name, graph=Slow(tiny, layers=1).content())
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, BATCHING="on", MAX_BATCH=8, STATISTICS_SAMPLE=0) as service:
        yield service
        assert "Traceback" not in log.read_text()


class Asked(NamedTuple):
    """One inference: of which model, on which pixels N×3×8×8, and whether with statistics."""

    model: str
    pixels: NDArray[np.uint8]
    statistics: bool

    @classmethod
    def random(cls, seed: int) -> "Asked":
        random = np.random.default_rng(seed)
        shape = (int(random.integers(1, 4)), 3, bundles.SIZE, bundles.SIZE)
        return cls(("one", "two")[seed % 2], random.integers(0, 256, shape, dtype=np.uint8), seed % 3 == 0)

    def message(self) -> tuple[bytes, dict[str, str]]:
        names = ["logits", "statistics.active"] if self.statistics else ["logits"]
        more: dict[str, Any] = {
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": name} for name in names],
        }
        # Some in another type, which is another tensor to the model.
        pixels = self.pixels.astype(np.float32 if len(self.pixels) == 2 else np.uint8)
        datatype = "FP32" if pixels.dtype == np.float32 else "UINT8"
        return message(pixels.tobytes(), *pixels.shape, datatype=datatype, **more)

    def check(self, response: httpx.Response) -> None:
        """The answer is that of these very pixels."""
        answer, contents = read(response)
        assert answer["model_name"] == self.model
        assert len(contents) == 1 + self.statistics
        logits = np.frombuffer(contents["logits"], "<f4").reshape(len(self.pixels), -1)
        np.testing.assert_allclose(logits, TINY[self.model].logits(self.pixels), rtol=1e-4, atol=1e-4)


def asked(service: Operated, what: Asked) -> httpx.Response:
    body, headers = what.message()
    return service.client.post(f"/v2/models/{what.model}/infer", content=body, headers=headers)


def runs(service: Operated) -> tuple[float, float]:
    """Images in all runs of the model `one`, and the number of runs."""
    found = sorted(float(value) for value in RUNS.findall(service.client.get("/metrics").text))
    return (found[1], found[0]) if found else (0, 0)


def test_what_is_mixed_gets_its_own_answers(service: Operated) -> None:
    everything = [Asked.random(seed) for seed in range(24)]
    images, before = settled(lambda: runs(service))
    with ThreadPoolExecutor(16) as pool:
        for what, response in zip(everything, pool.map(lambda what: asked(service, what), everything), strict=True):
            what.check(response)
    expected = images + sum(len(what.pixels) for what in everything if what.model == "one")
    eventually(lambda: runs(service)[0] == expected)
    assert runs(service)[1] - before < 12, "no runs were shared: nothing was tested"


def test_whoever_leaves_a_run_leaves_the_others_their_answers(service: Operated) -> None:
    """Half of the callers go away while their images wait, or are computed with those of others."""
    staying, leaving = ([Asked("one", Asked.random(seed).pixels, False) for seed in seeds]
                        for seeds in (range(8), range(100, 116)))  # fmt: skip
    base = service.client.base_url
    connections = []
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda what: asked(service, what), staying)
        for number, what in enumerate(leaving):
            body, headers = what.message()
            lines = [f"{name}: {value}" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
            head = "\r\n".join(("POST /v2/models/one/infer HTTP/1.1", "Host: here", *lines, "", "")).encode()
            connection = socket.create_connection((base.host, base.port or 80), timeout=20)
            connection.sendall(head + body)
            connections.append(connection)
            time.sleep(0.005 * (number % 4))
        for connection in connections:
            connection.close()
        for what, response in zip(staying, answers, strict=True):
            what.check(response)
    eventually(lambda: "reslens_requests_in_flight 1.0" in service.client.get("/metrics").text)
    image = png(staying[0].pixels[0])
    assert service.client.post("/v1/models/one/classify", content=image).status_code == 200
