"""Images that are odd, broken or meant to harm: seen as they look, or refused, and the next one as before."""

import zlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import bundles
from tests.service.conftest import encoded, png
from tests.service.faults.conftest import BINARY, MEGABYTE, PIXELS, TINY, memory
from tests.service.messages import INFER, message, read
from tests.service.operated import Operated

CLASSIFY = "/v1/models/tiny/classify"


def sent(client: httpx.Client, content: bytes) -> list[httpx.Response]:
    """The same image as a body, in a form, and as an element of a BYTES tensor."""
    element = len(content).to_bytes(4, "little") + content
    body, headers = message(element, 1, datatype="BYTES", **BINARY)
    return [
        client.post(CLASSIFY, content=content, params={"top_k": 3}),
        client.post(CLASSIFY, files={"file": ("photo.jpg", content, "image/jpeg")}),
        client.post(INFER, content=body, headers=headers),
    ]


def probabilities(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    (image,) = response.json()["images"]
    return [entry["probability"] for entry in sorted(image["classes"], key=lambda entry: entry["index"])]


def expected(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    return TINY.probabilities(pixels_HWC.transpose(2, 0, 1)[None])[0]


PHOTO = np.random.default_rng(6).integers(0, 256, (bundles.SIZE, bundles.SIZE, 3), dtype=np.uint8)
GREY = np.repeat(PHOTO[:, :, :1], 3, axis=2)


def alpha() -> tuple[bytes, NDArray[np.uint8]]:
    """Half of it transparent: laid on black."""
    mask = np.zeros((bundles.SIZE, bundles.SIZE, 1), np.uint8)
    mask[:4] = 255
    return encoded(Image.fromarray(np.concatenate([PHOTO, mask], 2)), "PNG"), PHOTO * (mask // 255)


def palette() -> tuple[bytes, NDArray[np.uint8]]:
    image = Image.fromarray(PHOTO).quantize(64)
    return encoded(image, "PNG"), np.asarray(image.convert("RGB"))


def sixteen_bits() -> tuple[bytes, NDArray[np.uint8]]:
    return encoded(Image.fromarray(GREY[:, :, 0].astype(np.uint16) * 257), "PNG"), GREY


def rotated() -> tuple[bytes, NDArray[np.uint8]]:
    """Orientation 6: to be turned a quarter to the right before it is looked at."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(PHOTO), "PNG", exif=exif), np.rot90(PHOTO, -1)


def animated() -> tuple[bytes, NDArray[np.uint8]]:
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), PHOTO


def cmyk() -> tuple[bytes, NDArray[np.uint8]]:
    image = Image.fromarray(PHOTO).convert("CMYK")
    return encoded(image, "TIFF"), np.asarray(image.convert("RGB"))


def one_bit() -> tuple[bytes, NDArray[np.uint8]]:
    image = Image.fromarray(PHOTO).convert("1")
    return encoded(image, "PNG"), np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("make", [alpha, palette, sixteen_bits, rotated, animated, cmyk, one_bit])
def test_odd_images_are_seen_as_they_look(
    client: httpx.Client, make: Callable[[], tuple[bytes, NDArray[np.uint8]]]
) -> None:
    content, pixels_HWC = make()
    raw, form, tensors = sent(client, content)
    np.testing.assert_allclose(probabilities(raw), expected(pixels_HWC), atol=1e-5)
    np.testing.assert_allclose(probabilities(form), expected(pixels_HWC), atol=1e-5)
    logits = np.frombuffer(read(tensors)[1]["logits"], "<f4")
    np.testing.assert_allclose(logits, TINY.logits(pixels_HWC.transpose(2, 0, 1)[None])[0], rtol=1e-4, atol=1e-4)


def test_a_jpeg_of_four_inks(client: httpx.Client) -> None:
    grey = Image.new("RGB", (64, 64), (120, 120, 120))
    raw, form, tensors = sent(client, encoded(grey.convert("CMYK"), "JPEG", quality=95))
    for response in (raw, form):
        np.testing.assert_allclose(probabilities(response), expected(np.full((8, 8, 3), 120, np.uint8)), atol=0.05)
    assert tensors.status_code == 200


def truncated() -> bytes:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    return content[: len(content) // 2]


def bomb() -> bytes:
    """A file of some kilobytes that would be 100 million pixels."""
    return encoded(Image.new("1", (10_000, 10_000)), "PNG")


def lying_bomb() -> bytes:
    """A header that claims more pixels than there can be, and no pixels."""
    content = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    content[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


UNUSABLE: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "truncated JPEG": (truncated(), (422,)),
    "pixel bomb": (bomb(), (413,)),
    "pixel bomb that lies": (lying_bomb(), (413, 422)),
    "empty file": (b"", (422,)),
    "text named .jpg": (b"This is not an image, whatever its name.\n" * 20, (422,)),
    "a JPEG's first bytes": (b"\xff\xd8\xff\xe0", (422,)),
    "HTML": (b"<!doctype html><svg onload=alert(1)>", (422,)),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_files_that_are_no_image_one_can_use(service: Operated, client: httpx.Client, name: str) -> None:
    content, statuses = UNUSABLE[name]
    before = memory(service)
    for response in sent(client, content):
        assert response.status_code in statuses, response.text
        assert response.json()["error"]
    assert memory(service) - before < 64 * MEGABYTE


def test_an_image_that_cannot_be_used_fails_alone(client: httpx.Client) -> None:
    good = png(PIXELS[0])
    contents = [good, *(content for content, _ in UNUSABLE.values()), good]
    answers = [
        client.post(CLASSIFY, files=[("file", (f"{index}.jpg", content)) for index, content in enumerate(part)])
        for part in (contents[:5], contents[-4:])
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
    first, last = (answer.json()["images"] for answer in answers)
    assert "classes" in first[0]
    assert "classes" in last[-1]
    assert all("error" in image for image in first[1:] + last[:-1])
