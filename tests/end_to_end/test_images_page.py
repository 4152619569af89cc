"""The commands of docs/serving.md about images and the client, run as they stand against the models that ship."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from models.shelf import SHIPPED_MODELS
from tests.service.processes import ROOT, process

PAGE = (ROOT / "docs" / "serving.md").read_text()
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("shelf")
    shutil.copytree(SHIPPED_MODELS / "digits", root / "digits")
    with process(root) as address:
        yield address


def answers(section: str, address: str, folder: Path) -> list[dict[str, object]]:
    """What the commands of a section print, a line of JSON each."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    Image.fromarray(skimage.data.chelsea()).save(folder / "photo.jpg")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "RESLENS_URL": f"http://{address}"}
    printed = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        program = re.sub(r"^(curl|python)", r"echo; \1", block, flags=re.MULTILINE).replace("127.0.0.1:8000", address)
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", program],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        printed += [json.loads(line) for line in result.stdout.splitlines() if line]
    return printed


def test_images(address: str, tmp_path: Path) -> None:
    classified, inferred = answers("Images", address, tmp_path)
    assert len(classified["images"]) == 2  # type: ignore[arg-type]
    assert inferred["outputs"][0]["shape"] == [1, 10]  # type: ignore[index]


def test_the_client_and_the_bench(address: str, tmp_path: Path) -> None:
    models, layers, first, second, statistics, diagnosis, bench = answers("Command-line client", address, tmp_path)
    assert [model["name"] for model in models["models"]] == ["digits"]  # type: ignore[attr-defined]
    assert layers["images"][0]["statistics"]["layers"]  # type: ignore[index]
    assert first["images"] == second["images"]
    assert statistics["window"] == "15m"
    assert "confirmed" in diagnosis
    assert [row["callers"] for row in bench["rows"]] == [1, 8]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["client", "client classify", "client models", "client statistics", "bench"])
def test_every_option_is_documented(command: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "service", *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    section = PAGE.partition("## Command-line client\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"--[a-z-]+", shown)) - {"--help"} <= set(re.findall(r"--[a-z-]+", section))
