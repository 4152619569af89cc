"""The commands of the README, run as a newcomer types them."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import skimage.data
from PIL import Image

README = Path(__file__).parents[2] / "README.md"


def _block(containing: str) -> str:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if containing in block)
    return block


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")
def test_train_publish_serve_and_ask(tmp_path: Path) -> None:
    port = str(_free_port())
    commands = _block("training publish").replace("8080", port).replace("source .venv/bin/activate\n", "")
    # The answer has no newline of its own, and the service in the background keeps the pipe open.
    commands += "echo\n"
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "photo.jpg")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    shell = subprocess.Popen(
        ["bash", "-euc", commands],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert shell.stdout is not None
        lines = iter(shell.stdout.readline, "")
        answer = next((line for line in lines if line.startswith('{"model"')), None)
        assert answer is not None, shell.stderr.read() if shell.stderr else ""
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.communicate(timeout=60)
    body = orjson.loads(answer)
    assert body["model"] == "mine"
    assert body["version"] == 1
    (image,) = body["images"]
    assert [ranked["probability"] for ranked in image["classes"]] == sorted(
        (ranked["probability"] for ranked in image["classes"]), reverse=True
    )
    layers = [layer["layer"] for layer in image["statistics"]["layers"]]
    assert layers == [
        *(f"layer{stage}.0.act{number}" for stage in (1, 2, 3) for number in (1, 2)),
        "final_act",
    ]
    assert all(layer["activation"] == "mish" for layer in image["statistics"]["layers"])


def test_the_commands_of_make_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)`?", README.read_text())) - {"are"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_the_readme_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link
