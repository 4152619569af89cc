"""One process for the tests of a file, looked at again after each of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import bundles
from tests.service.messages import message, post, read
from tests.service.operated import Operated, operated

TINY = bundles.Tiny.random(2)
PIXELS = np.random.default_rng(5).integers(0, 256, (1, 3, bundles.SIZE, bundles.SIZE), dtype=np.uint8)
CONTENT = PIXELS.tobytes()
BINARY: dict[str, Any] = {"parameters": {"binary_data_output": True}}
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    root = tmp_path_factory.mktemp("shelf")
    bundles.publish(root, "tiny", TINY)
    log = tmp_path_factory.mktemp("log") / "log"
    with operated(root, log, MAX_BODY_BYTES=MEGABYTE, MAX_PIXELS=200_000, MAX_BATCH=4) as service:
        yield service


@pytest.fixture
def client(service: Operated) -> Iterator[httpx.Client]:
    """Of a service that answers as before whatever the test has sent, and has nothing to complain of."""
    yield service.client
    answer, contents = read(post(service.client, *message(CONTENT, *PIXELS.shape, **BINARY)))
    assert answer["model_name"] == "tiny"
    np.testing.assert_allclose(np.frombuffer(contents["logits"], "<f4"), TINY.logits(PIXELS)[0], rtol=1e-4, atol=1e-4)
    assert service.process.poll() is None
    assert "Traceback" not in service.log.read_text()


def memory(service: Operated) -> int:
    """The largest amount of memory that the process ever had, in bytes."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
