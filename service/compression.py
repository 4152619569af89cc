"""gzip and deflate: bodies that come compressed, within a limit, and answers for those who ask."""

import gzip
import zlib
from collections.abc import Callable

from service.errors import BadRequestError, BodyTooLargeError

_GZIP = 31
_ZLIB = 15
_RAW = -15
WINDOWS = {"gzip": _GZIP, "deflate": _ZLIB}
# Below it the headers of another packet are more than what is saved.
WORTHWHILE_BYTES = 1024
# Fast: on numbers the higher levels gain nothing.
_LEVEL = 1

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, _LEVEL, mtime=0),
    "deflate": lambda content: zlib.compress(content, _LEVEL),
}


def decompress(content: bytes, encoding: str, limit: int) -> bytes:
    """The body that was compressed with `encoding`, a key of `WINDOWS`.

    Never makes more than `limit` bytes and one: then raises `BodyTooLargeError`; for what is damaged, cut short, or
    followed by something else, `BadRequestError`.
    """
    window = WINDOWS[encoding]
    # Some clients send deflate without the head of zlib that belongs before it.
    if encoding == "deflate" and not _has_zlib_head(content):
        window = _RAW
    stream = zlib.decompressobj(window)
    try:
        whole = stream.decompress(content, limit + 1)
    except zlib.error as error:
        raise BadRequestError(f"the body is not {encoding}, as its Content-Encoding says: {error}") from error
    if len(whole) > limit:
        raise BodyTooLargeError(f"the request body has more than {limit:,} bytes once it is decompressed")
    # Also of a gzip file's further members: each would copy all that follow it, and clients send one.
    if not stream.eof or stream.unused_data:
        raise BadRequestError(f"the {encoding} body does not end where its data does: send all of it, and only that")
    return whole


def asked(accept_encoding: str) -> str | None:
    """The compression that an `Accept-Encoding` asks for.

    Only one that names nothing else counts. Client libraries send lists of all that they know on their own, and some
    of their users do not expect to be taken at their word; compressing also takes longer than it saves on most wires.
    """
    encoding = accept_encoding.strip().lower()
    return encoding if encoding in COMPRESSORS else None


def _has_zlib_head(content: bytes) -> bool:
    return len(content) >= 2 and content[0] & 15 == 8 and int.from_bytes(content[:2], "big") % 31 == 0
