"""One inference request as the bytes that go through a socket."""

import io
import json
import random
from typing import Literal, NamedTuple
from urllib.parse import quote, urlsplit

from PIL import Image

Kind = Literal["binary", "json", "jpeg"]


class Input(NamedTuple):
    """The input of a model: its name, and the channels, height and width of one image."""

    model: str
    name: str
    shape: tuple[int, int, int]


def message(url: str, key: str | None, given: Input, kind: Kind) -> bytes:
    """A request to classify one image: a V2 tensor of uint8, binary or JSON, or a JPEG of the size of the input."""
    if kind == "jpeg":
        return _post(url, key, f"/v1/models/{quote(given.model, safe='')}/classify", _jpeg(given), "image/jpeg")
    channels, height, width = given.shape
    pixels = random.Random(0).randbytes(channels * height * width)
    tensor: dict[str, object] = {"name": given.name, "datatype": "UINT8", "shape": [1, *given.shape]}
    path = f"/v2/models/{quote(given.model, safe='')}/infer"
    if kind == "json":
        body = json.dumps({"inputs": [{**tensor, "data": list(pixels)}]}, separators=(",", ":")).encode()
        return _post(url, key, path, body, "application/json")
    tensor["parameters"] = {"binary_data_size": len(pixels)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    return _post(url, key, path, head + pixels, "application/octet-stream", length)


def _post(url: str, key: str | None, path: str, body: bytes, content_type: str, *fields: str) -> bytes:
    parts = urlsplit(url)
    head = [
        f"POST {parts.path.rstrip('/')}{path} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *([] if key is None else [f"Authorization: Bearer {key}"]),
        *fields,
    ]
    return "\r\n".join((*head, "", "")).encode() + body


def _jpeg(given: Input) -> bytes:
    """Smooth, as photographs are: noise would make it several times larger."""
    channels, height, width = given.shape
    mode = "L" if channels == 1 else "RGB"
    coarse = Image.frombytes(mode, (4, 4), random.Random(0).randbytes(16 * len(mode)))
    file = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
