"""The commands of docs/training.md on published checkpoints, run as they stand, and the service that has them."""

import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.service.processes import process
from tests.training.layouts import CifarLayout, trained
from training.data.classes import CLASS_NAMES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"
# As its authors normalised images of CIFAR-10.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def commands() -> str:
    section = PAGE.read_text().partition("\n## Published checkpoints\n")[2].partition("\n## ")[0]
    (block, *_) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return str(block)


@pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")
def test_a_published_checkpoint_is_imported_and_served(tmp_path: Path) -> None:
    network = trained(CifarLayout(3), 32)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.73}, tmp_path / "resnet20.th")
    random = np.random.default_rng(0)
    for name in CLASS_NAMES["cifar10"]:
        (tmp_path / "cifar10" / "test" / name).mkdir(parents=True)
        pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cifar10" / "test" / name / "0.png")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "published cifar10-resnet20 version 1 in" in done.stdout
    content = BytesIO()
    Image.fromarray(pixels).save(content, "png")
    with process(tmp_path / "models") as address:
        url = f"http://{address}/v1/models/cifar10-resnet20/classify?statistics=layers&top_k=10"
        answer = httpx.post(url, files={"file": ("photo.png", content.getvalue())}, timeout=60)
    assert answer.status_code == 200, answer.text
    (image,) = answer.json()["images"]
    normalised = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        expected = network(torch.from_numpy(normalised).float().permute(2, 0, 1)[None]).softmax(1)[0]
    for ranked in image["classes"]:
        assert ranked["label"] == CLASS_NAMES["cifar10"][ranked["index"]]
        assert ranked["probability"] == pytest.approx(float(expected[ranked["index"]]), abs=1e-4)
    assert len(image["statistics"]["layers"]) == 19
