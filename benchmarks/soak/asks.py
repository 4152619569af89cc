"""Requests of every kind, good and bad, written once and sent often: the callers are not to be what is slow."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

HEADER = "Inference-Header-Content-Length"
OK = frozenset({200})


class Target(NamedTuple):
    """A model to ask, and the channels, height and width of its images."""

    name: str
    shape: tuple[int, int, int]


class Ask(NamedTuple):
    """One request as it is sent, and the statuses that are right answers to it."""

    kind: str
    message: bytes
    statuses: frozenset[int]


def asks(targets: list[Target], count: int, seed: int = 0) -> list[Ask]:
    """`count` requests of all kinds in turn, shapes and sizes drawn by chance."""
    random = np.random.default_rng(seed)
    makers = list(KINDS.items())
    made = []
    for index in range(count):
        kind, make = makers[index % len(makers)]
        message, statuses = make(random, targets[int(random.integers(len(targets)))])
        made.append(Ask(kind, message, frozenset(statuses)))
    return made


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: soak", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join((*lines, "", "")).encode() + body


Made = tuple[bytes, frozenset[int]]


def _pixels(random: Generator, target: Target) -> np.ndarray:
    return random.integers(0, 256, (int(random.integers(1, 9)), *target.shape), dtype=np.uint8)


def _image(random: Generator, target: Target) -> bytes:
    """A picture of any size, as a JPEG or a PNG."""
    height, width = (int(side) for side in random.integers(8, 160, 2))
    coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    if target.shape[0] == 1:
        image = image.convert("L")
    file = io.BytesIO()
    image.save(file, "JPEG" if random.random() < 0.7 else "PNG")
    return file.getvalue()


def _infer(target: Target, tensor: Mapping[str, object], content: bytes = b"", **more: object) -> bytes:
    path = f"/v2/models/{target.name}/infer"
    header = json.dumps({"inputs": [{"name": "images", **tensor}], **more}).encode()
    return request("POST", path, header + content, {HEADER: str(len(header))} if content else None)


def _json(random: Generator, target: Target) -> Made:
    pixels = _pixels(random, target)[:2]
    datatype = "UINT8" if random.random() < 0.5 else "FP32"
    tensor = {"datatype": datatype, "shape": pixels.shape, "data": pixels.ravel().tolist()}
    return _infer(target, tensor), OK


def _binary(random: Generator, target: Target) -> Made:
    pixels = _pixels(random, target).astype(random.choice(["uint8", "float16", "float32"]))
    datatype = {"uint8": "UINT8", "float16": "FP16", "float32": "FP32"}[str(pixels.dtype)]
    content = pixels.tobytes()
    tensor = {"datatype": datatype, "shape": pixels.shape, "parameters": {"binary_data_size": len(content)}}
    return _infer(target, tensor, content, parameters={"binary_data_output": bool(random.random() < 0.5)}), OK


def _statistics(random: Generator, target: Target) -> Made:
    content = _pixels(random, target).tobytes()
    shape = (len(content) // int(np.prod(target.shape)), *target.shape)
    tensor = {"datatype": "UINT8", "shape": shape, "parameters": {"binary_data_size": len(content)}}
    outputs = [{"name": "logits", "parameters": {"classification": 2}}, {"name": "statistics.active"}]
    return _infer(target, tensor, content, outputs=outputs), OK


def _raw(random: Generator, target: Target) -> Made:
    content = random.integers(0, 256, target.shape, dtype=np.uint8).tobytes()
    return request("POST", f"/v2/models/{target.name}/infer", content, {HEADER: "0"}), OK


def _encoded(random: Generator, target: Target) -> Made:
    images = [_image(random, target) for _ in range(int(random.integers(1, 4)))]
    content = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    tensor = {"datatype": "BYTES", "shape": [len(images)], "parameters": {"binary_data_size": len(content)}}
    return _infer(target, tensor, content), OK


def _classify(random: Generator, target: Target) -> Made:
    chosen = random.choice(["none", "none", "layers", "channels"])
    path = f"/v1/models/{target.name}/classify?top_k=2&statistics={chosen}"
    return request("POST", path, _image(random, target), {"Content-Type": "image/jpeg"}), OK


def _form(random: Generator, target: Target) -> Made:
    parts = b"".join(
        b'--part\r\nContent-Disposition: form-data; name="file"; filename="%d.jpg"\r\n\r\n%b\r\n'
        % (number, _image(random, target))
        for number in range(int(random.integers(1, 4)))
    )
    headers = {"Content-Type": "multipart/form-data; boundary=part"}
    return request("POST", f"/v1/models/{target.name}/classify", parts + b"--part--\r\n", headers), OK


def _base64(random: Generator, target: Target) -> Made:
    images = [base64.b64encode(_image(random, target)).decode() for _ in range(int(random.integers(1, 3)))]
    body = json.dumps({"images": images, "statistics": "layers"}).encode()
    return request("POST", f"/v1/models/{target.name}/classify", body, {"Content-Type": "application/json"}), OK


def _read(random: Generator, target: Target) -> Made:
    paths = (
        "/v2/health/ready",
        f"/v2/models/{target.name}",
        f"/v2/models/{target.name}/stats",
        f"/v2/models/{target.name}/config",
        "/v1/models",
        f"/v1/models/{target.name}/statistics?window=5m",
    )
    return request("GET", str(random.choice(paths))), OK


def _bad(random: Generator, target: Target) -> Made:
    infer, classify = f"/v2/models/{target.name}/infer", f"/v1/models/{target.name}/classify"
    size = int(random.integers(1, 2000))
    choices: list[tuple[bytes, set[int]]] = [
        (request("POST", infer, b'{"inputs": [' * size), {400}),
        (request("POST", infer, b"{}" + bytes(size), {HEADER: "-1"}), {400}),
        (request("POST", infer, bytes(size), {HEADER: str(10**12)}), {400}),
        (_infer(target, {"datatype": "FP32", "shape": [size, 3], "data": [1.0]}), {400}),
        (request("POST", "/v2/models/nobody/infer", b"{}"), {404}),
        (request("POST", f"/v2/models/{target.name}/versions/{10**6 + size}/infer", b"{}"), {404}),
        (request("POST", classify, b"text " * size, {"Content-Type": "image/jpeg"}), {422}),
        (request("POST", classify, _image(random, target)[:60], {"Content-Type": "image/jpeg"}), {422}),
        (request("POST", classify, b"{", {"Content-Type": "application/json"}), {400}),
        (request("POST", classify, b"x", {"Content-Encoding": "gzip"}), {400}),
        (request("PUT", infer, b"x"), {405}),
        (request("GET", f"/{size}"), {404}),
    ]
    message, statuses = choices[int(random.integers(len(choices)))]
    return message, frozenset(statuses)


KINDS: dict[str, Callable[[Generator, Target], Made]] = {
    "V2, JSON": _json,
    "V2, binary": _binary,
    "V2, statistics": _statistics,
    "V2, one raw tensor": _raw,
    "V2, encoded images": _encoded,
    "classify, an image": _classify,
    "classify, a form": _form,
    "classify, base64": _base64,
    "reading": _read,
    "bad requests": _bad,
}
