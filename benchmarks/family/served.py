"""All published models in one service, each asked over a socket for what it saw."""

import io
import json
import math
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.server import running
from models.repository import ModelRepository
from training.data import digits


def served(root: Path) -> dict[str, dict[str, Any]]:
    """For each model: how many layers its answer tells of, whether all of their figures are numbers, and the class."""
    file = io.BytesIO()
    Image.fromarray(digits.load().held_out.pixels[0, 0]).save(file, "PNG")
    names = ModelRepository(root).names()
    with running(root, WORKERS=0) as server:
        return {name: _ask(server.port, name, file.getvalue()) for name in names}


def _ask(port: int, name: str, image: bytes) -> dict[str, Any]:
    url = f"http://127.0.0.1:{port}/v1/models/{name}/classify?statistics=layers"
    request = urllib.request.Request(url, image, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=120) as response:
        (found,) = json.load(response)["images"]
    layers = found["statistics"]["layers"]
    figures = [value for layer in layers for value in layer.values() if isinstance(value, float)]
    return {
        "layers": len(layers),
        "finite": all(map(math.isfinite, figures)),
        "label": found["classes"][0]["label"],
    }
