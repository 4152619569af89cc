"""The commands of docs/training.md on data, run as they stand on small files."""

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.training.published_files import cifar, idx
from training.__main__ import main
from training.data.published import PUBLISHED
from training.data.sources import SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
RANDOM = np.random.default_rng(0)


def section() -> str:
    return PAGE.read_text().partition("\n## Data\n")[2].partition("\n## ")[0]


def encoded() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (40, 30, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def fill(home: Path) -> None:
    for name in ("cat", "dog"):
        (home / "photographs" / name).mkdir(parents=True)
        for number in range(10):
            (home / "photographs" / name / f"{number}.jpg").write_bytes(encoded())
    (home / "photographs" / "cat" / "10.jpg").write_bytes(encoded()[:-100])
    np.savez(home / "things.npz", images=RANDOM.integers(0, 256, (40, 8, 8), np.uint8), labels=np.arange(40) % 2)
    (home / "names.txt").write_text("ant\nbee\n")
    (home / "things").mkdir()
    table = pa.table({"image": [encoded() for _ in range(20)], "label": ["cat"] * 15 + ["dog"] * 5})
    pq.write_table(table, home / "things" / "all.parquet")
    idx("mnist").write(home / "downloads")
    cifar("cifar10").write(home / "cache" / "reslens")


def test_every_source_is_on_the_page() -> None:
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", section(), re.MULTILINE) for name in re.findall("`(.*?)`", row)
    }
    assert named - {"--data"} == set(SOURCES)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    for made in (idx("mnist"), cifar("cifar10")):
        made.write(tmp_path / "downloads" if made.key == "mnist" else tmp_path / "cache" / "reslens")
        monkeypatch.setitem(PUBLISHED, made.key, made.published)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", section(), re.DOTALL)
    printed = []
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "training"]
        monkeypatch.setattr("sys.argv", words[2:])
        main()
        printed.append(capsys.readouterr())
    folder, npz, parquet, cifar10, mnist = printed
    assert "image folder" in folder.out
    assert re.search(r"^skipped cat/10.jpg: .*truncated", folder.err, re.MULTILINE)
    assert "32 to train on, 8 held out" in npz.out
    assert re.search(r"^ ant +16 +4", npz.out, re.MULTILINE)
    # 17 / (2·4): of 15 and 5 images 13 and 4 are left to train on.
    assert re.search(r"^ dog +4 +1 +2.125", parquet.out, re.MULTILINE)
    assert "CIFAR-10, https://www.cs.toronto.edu/~kriz/cifar.html" in cifar10.out
    card = json.loads(mnist.out)
    assert (card["name"], card["training_images"], card["held_out_images"]) == ("MNIST", 20, 10)
