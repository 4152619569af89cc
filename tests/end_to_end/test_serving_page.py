"""The V2 commands of docs/serving.md, run as they stand against the models that ship."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
import skimage.data
from PIL import Image

from models.shelf import SHIPPED_MODELS
from tests.service.conftest import eventually
from tests.service.processes import process

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("shelf")
    shutil.copytree(SHIPPED_MODELS / "digits", root / "digits")
    with process(root) as address:
        yield address


def run(command: list[str], address: str, tmp_path: Path) -> str:
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "photo.jpg")
    command = [part.replace("127.0.0.1:8000", address) for part in command]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def blocks(language: str, heading: str = "Open Inference Protocol V2") -> list[str]:
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_shell_commands(address: str, tmp_path: Path) -> None:
    json, others = blocks("sh")
    assert orjson.loads(run(["bash", "-euc", json], address, tmp_path))["outputs"][0]["shape"] == [1, 10]
    # Answers have no newline of their own.
    answers = run(["bash", "-euo", "pipefail", "-c", others.replace("\ncurl", "\necho\ncurl")], address, tmp_path)
    classes, config, stats, loaded = map(orjson.loads, answers.splitlines())
    assert classes["outputs"][0]["shape"] == [1, 3]
    assert config["input"][0]["dims"] == [1, 8, 8]
    (counted,) = stats["model_stats"]
    url = f"http://{address}/v2/models/{counted['name']}/stats"
    eventually(lambda: httpx.get(url).json()["model_stats"][0]["inference_count"] >= 3)
    assert loaded["state"] == "READY"
    raw = orjson.loads((tmp_path / "answer.bin").read_bytes()[: -10 * 4])
    assert raw["outputs"][0]["parameters"] == {"binary_data_size": 10 * 4}


def test_the_commands_that_choose_versions(address: str, tmp_path: Path) -> None:
    commands, shares = blocks("sh", "Versions, labels, policies, remote storage")
    answers = run(["bash", "-euo", "pipefail", "-c", commands.replace("\ncurl", "\necho\ncurl")], address, tmp_path)
    pinned, labelled, ready, classified, removed, loaded = answers.split("\n")[:6]
    (version,) = [path.name for path in (SHIPPED_MODELS / "digits").iterdir()]
    assert orjson.loads(pinned) == orjson.loads(loaded)
    assert orjson.loads(loaded)["version"] == version
    assert orjson.loads(labelled)["labels"] == {"stable": int(version)}
    assert orjson.loads(ready)["ready"]
    assert orjson.loads(classified)["version"] == int(version)
    assert removed == ""
    here = shares.replace('"version": 4', f'"version": {version}')
    answers = run(["bash", "-euo", "pipefail", "-c", here.replace("\ncurl", "\necho\ncurl")], address, tmp_path)
    shared = answers.split("\n")[1]
    assert orjson.loads(shared) == {"labels": {"canary": int(version)}, "shares": {"canary": 5.0}, "withheld": []}
    httpx.delete(f"http://{address}/v1/models/digits/labels/canary").raise_for_status()


def test_the_client(address: str, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.http", reason="has no wheel for this platform")
    (program,) = blocks("python")
    assert "(2, " in run([sys.executable, "-c", program], address, tmp_path)
