"""What a request is for, by its method and path: before its body is read, and whether or not there is such a path."""

from typing import Literal

Purpose = Literal["open", "health", "metrics", "read", "inference", "control"]

# The same everywhere: nothing of what is served here.
OPEN = frozenset({"/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
HEALTH = frozenset({"/v2/health/live", "/v2/health/ready"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})


def purpose_of(method: str, path: str) -> Purpose:
    """The purpose of a request. What is not known to change nothing is `control`."""
    if method in READING:
        if path in HEALTH:
            return "health"
        if path == "/metrics":
            return "metrics"
        return "open" if path in OPEN else "read"
    if method == "POST":
        if path.startswith(("/v1/models/", "/v2/models/")) and path.endswith(("/infer", "/classify", "/map")):
            return "inference"
        if path == "/v2/repository/index":
            return "read"
    return "control"
