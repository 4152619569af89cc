"""The heads of image files, as far as they tell what decoding will take: of plain JPEGs and PNGs, and of no others.

A file can make decoding dear in many ways that its size does not tell: thousands of scans or segments, text that
unfolds to a thousand times its length. So what is plain is listed here, and whatever is not counts as unknown.
"""

import struct
from typing import NamedTuple

JPEG = b"\xff\xd8"
PNG = b"\x89PNG\r\n\x1a\n"
# Pillow reads each segment with some microseconds of Python, and what cameras write into them with more.
MAX_SEGMENTS = 32
MAX_HEAD_BYTES = 4096
# Encoders of PNG write chunks of 8 KiB and more.
USUAL_CHUNK_BYTES = 4096

# As many pixels are decoded in the time that Pillow takes for a byte of EXIF where that is nothing but short entries.
PIXELS_A_BYTE_OF_EXIF = 40

FRAME = struct.Struct(">BHHB")
SOF0, DHT, SOS, DQT, DRI, APP1, COM = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD, 0xE1, 0xFE
# Baseline: one scan that is decoded as it comes. Every other kind may have thousands, each over all of the image.
BASELINE = frozenset({SOF0, DHT, DQT, DRI, COM, *range(0xE0, 0xF0)})
# A side of a JPEG is decoded in blocks, of 8 pixels or, where there are fewer colours than pixels, mostly of 16.
BLOCK = 16

# Not compressed by themselves, and no frames. IHDR is read apart: a second one would replace the first.
CHUNKS = frozenset(
    {
        b"PLTE",
        b"tRNS",
        b"IDAT",
        b"IEND",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"sBIT",
        b"bKGD",
        b"pHYs",
        b"tIME",
        b"tEXt",
        b"eXIf",
    }
)
IHDR = struct.Struct(">IIBBBBB")
TRUECOLOUR_ALPHA, GREY_ALPHA = 6, 4
# As many pixels without alpha are decoded in the time of one with alpha, which is laid on black. Measured: 2.5.
ALPHA = 3


class Head(NamedTuple):
    size: tuple[int, int]
    """Width and height."""
    work: int
    """Pixels of the plainest kind that are decoded in the same time."""


def read_head(content: bytes) -> Head | None:
    """What the head of a plain JPEG or PNG tells, None for anything else; raises nothing."""
    if content.startswith(PNG):
        return _read_png(content)
    if content.startswith(JPEG):
        return _read_jpeg(content)
    return None


def _read_jpeg(content: bytes) -> Head | None:
    position, frame, exif = len(JPEG), 0, 0
    end = min(len(content), MAX_HEAD_BYTES) - 6  # enough for a frame without a body and the head of a scan
    for _ in range(MAX_SEGMENTS):
        if position > end or content[position] != 0xFF:
            return None
        marker = content[position + 1]
        if marker == SOS:
            return _jpeg_head(content, frame, position, exif) if frame else None
        if marker not in BASELINE or (marker == SOF0 and frame):
            return None
        if marker == SOF0:
            frame = position
        length = content[position + 2] << 8 | content[position + 3]
        if marker == APP1:
            exif += length
        position += 2 + length
    return None


def _jpeg_head(content: bytes, frame: int, scan: int, exif: int) -> Head | None:
    """From where its frame and its first scan begin; the scan must be the only one: have all colours."""
    bits, height, width, colours = FRAME.unpack_from(content, frame + 4)
    if bits != 8 or colours not in (1, 3) or content[scan + 4] != colours or not width or not height:
        return None
    blocks = (width + -width % BLOCK) * (height + -height % BLOCK)
    return Head((width, height), blocks + PIXELS_A_BYTE_OF_EXIF * exif)


def _read_png(content: bytes) -> Head | None:
    position = len(PNG) + 12 + IHDR.size
    if len(content) < position or content[len(PNG) : len(PNG) + 8] != b"\0\0\0\x0dIHDR":
        return None
    width, height, bits, colours, _, _, interlaced = IHDR.unpack_from(content, len(PNG) + 8)
    if bits > 8 or interlaced or not width or not height:
        return None
    alpha = colours in (TRUECOLOUR_ALPHA, GREY_ALPHA)
    other_bytes = exif = 0
    for _ in range(MAX_SEGMENTS + len(content) // USUAL_CHUNK_BYTES):
        name, length = content[position + 4 : position + 8], int.from_bytes(content[position : position + 4])
        if name == b"IEND":
            work = width * height * (ALPHA if alpha else 1)
            return Head((width, height), work + PIXELS_A_BYTE_OF_EXIF * exif)
        other_bytes += 0 if name == b"IDAT" else length
        if name not in CHUNKS or other_bytes > MAX_HEAD_BYTES:
            return None
        alpha = alpha or name == b"tRNS"
        exif += length if name in (b"eXIf", b"tEXt") else 0  # programs hide it in text
        position += 12 + length
    return None
