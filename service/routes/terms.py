"""On what terms a request waits, by what it asks for and what the settings allow."""

import asyncio

from fastapi import Request

from service.batching.terms import Terms, never
from service.connections import GONE
from service.settings import Settings


def terms_of(request: Request, settings: Settings, priority: int = 0, timeout_seconds: float = 0.0) -> Terms:
    """0 stands for the default of each; a timeout that is too long is cut."""
    seconds = min(timeout_seconds or settings.timeout_seconds, settings.max_timeout_seconds)
    return Terms(priority, asyncio.get_running_loop().time() + seconds, request.scope.get(GONE, never))
