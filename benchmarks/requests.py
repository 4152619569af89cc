"""What callers send to the service: one image, in each of the forms that it takes."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.manifest import ModelManifest


@dataclass(frozen=True)
class Post:
    """A request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def message(self) -> bytes:
        """As it goes over the wire, in HTTP/1.1."""
        headers = {"Host": "127.0.0.1", **self.headers, "Content-Length": str(len(self.body))}
        lines = (f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()))
        return "\r\n".join((*lines, "", "")).encode() + self.body


def requests(manifest: ModelManifest) -> dict[str, Post]:
    """One of each kind, by its name."""
    infer = f"/v2/models/{manifest.name}/infer"
    classify = f"/v1/models/{manifest.name}/classify"
    pixels = np.random.default_rng(0).integers(0, 256, (1, *manifest.inputs[0].shape[1:])).astype("<f4")
    tensor = {"name": manifest.inputs[0].name, "datatype": "FP32", "shape": pixels.shape}
    head = _json(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": pixels.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    )
    lengths = {"Inference-Header-Content-Length": str(len(head))}
    jpeg = _jpeg(manifest)
    return {
        "V2 binary": Post(infer, lengths, head + pixels.tobytes()),
        "V2 JSON": Post(
            infer, {"Content-Type": "application/json"}, _json({"inputs": [tensor | {"data": pixels.ravel().tolist()}]})
        ),
        "JPEG": Post(classify, {"Content-Type": "image/jpeg"}, jpeg),
        "JPEG, layers": Post(f"{classify}?statistics=layers", {"Content-Type": "image/jpeg"}, jpeg),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _jpeg(manifest: ModelManifest) -> bytes:
    """A photograph of the network's own size if that is small, else a larger one, to be resized."""
    size = manifest.preprocessing.width
    width, height = (size, size) if size < 100 else (2 * size, 3 * size // 2)
    # Smooth, as photographs are: noise would make a JPEG several times larger.
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
