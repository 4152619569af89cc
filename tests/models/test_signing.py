"""Signatures against those of another program."""

import subprocess

from models.signing import genuine, signature


def test_a_signature_is_that_of_openssl() -> None:
    body = b'{"model": "digits"}'
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", "secret"], input=body, capture_output=True, check=True, timeout=30
    )
    assert signature("secret", body) == "sha256=" + done.stdout.decode().split()[-1]


def test_only_the_signature_of_the_body_is_genuine() -> None:
    body = b"message"
    assert genuine("secret", body, signature("secret", body))
    for secret, given in (("other", signature("secret", body)), ("secret", ""), ("secret", "sha256=ü")):
        assert not genuine(secret, body, given)
    assert not genuine("secret", body + b" ", signature("secret", body))
