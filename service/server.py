"""The server: what it listens with, what it says when it does, and how it ends."""

import asyncio
import gc
import logging
import signal
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service import greeting
from service.certificate import Certificate
from service.express import Express
from service.plain import limited, nothing
from service.routes.context import Context
from service.settings import Settings
from service.writing import CLOSE

logger = logging.getLogger("reslens")

# Ticks of uvicorn's, of a tenth of a second, after which the certificate is looked at again.
CERTIFICATE_TICKS = 20
# New objects after which the garbage collector looks through them.
YOUNG_OBJECTS = 20_000


class Server(uvicorn.Server):
    """Says where to look once it listens, and that it will end before it does.

    Raises `StartupError` if the certificate cannot be used.
    """

    def __init__(self, app: FastAPI) -> None:
        self._context: Context = app.state.context
        settings = self._context.settings
        self._signals: list[int] = []
        self._certificate = _certificate(settings)
        front = app.state.front
        find = front.plain if isinstance(front, Express) else nothing
        config = uvicorn.Config(
            front,
            proxy_headers=front is app,
            host=settings.host,
            port=settings.port,
            http=limited(settings.max_header_bytes, settings.header_seconds, settings.body_seconds, find),
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,  # the service writes its own
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        config.load()
        if self._certificate:
            config.ssl = self._certificate.context
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _spare_collector()
            self.greet()

    async def on_tick(self, counter: int) -> bool:
        try:
            self._context.tally.settle()
            self._context.meters.tick(self._context.scheduler.pending)
        except OSError:  # a full disk: the service is there for its answers
            logger.exception("requests could not be counted")
        if self._certificate and counter % CERTIFICATE_TICKS == 0:
            self._certificate.refresh()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._context.lifetime.ends = True
        self._signals.append(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._announce()
        await super().shutdown(sockets)

    async def _announce(self) -> None:
        """Serve on, but say that it will end: until then others may not have heard of it, and still send requests.

        Not after Ctrl-C, nor after a second signal.
        """
        self._context.lifetime.ends = True
        self.close_connections()
        end = time.monotonic() + self._context.settings.announce_seconds
        while time.monotonic() < end and self._signals == [signal.SIGTERM]:
            await asyncio.sleep(0.05)

    def close_connections(self) -> None:
        """Close each after its next answer: whoever keeps one is to make the next one elsewhere."""
        if CLOSE not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]

    def greet(self) -> None:
        """Say where the service is, and what it serves."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self._certificate else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        if self._context.settings.log_format == "json":
            logger.info("listening", extra={"fields": greeting.fields(url, shelved(self._context))})
        else:
            print(greeting.text(url, shelved(self._context)), flush=True)


def _spare_collector() -> None:
    """What is there now stays: the garbage collector need not look through it, nor so often.

    Requests leave next to no cycles; with its usual threshold the collector takes 3 % of the time of small ones.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def shelved(context: Context) -> greeting.Shelved:
    """The models as they are now."""
    return greeting.Shelved(
        served=[
            greeting.Served(
                name=model.manifest.name,
                version=model.manifest.version,
                provider=model.provider,
                weights=model.memory.weights,
                statistics=model.memory.statistics,
            )
            for model in context.shelf.served()
        ],
        failed=[greeting.Failed(**failure._asdict()) for failure in context.shelf.failures],
        repository=str(context.settings.model_repository),
    )


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_certificate is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)
