"""How messages of the webhook are signed, for the service that sends them and for whoever gets them."""

import hashlib
import hmac

SIGNATURE = "X-ResLens-Signature"
"""The header that holds it."""


def signature(secret: str, body: bytes) -> str:
    """`sha256=` and the HMAC-SHA256 of the body in hexadecimal."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def genuine(secret: str, body: bytes, given: str) -> bool:
    """Whether `given` is the signature of the body; compared in constant time."""
    return hmac.compare_digest(signature(secret, body).encode(), given.encode())
