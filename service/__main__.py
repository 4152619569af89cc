"""`python -m service`: serve the models until SIGTERM or Ctrl-C; `add` publishes one, `key` makes a key."""

import argparse
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn
from pydantic import ValidationError

from service import logs
from service.app import create_app
from service.commands import add, key
from service.errors import StartupError, explain
from service.routes.context import Context
from service.settings import Settings

logger = logging.getLogger("reslens")

# How long requests may still run after SIGTERM.
DRAIN_SECONDS = 30


class Server(uvicorn.Server):
    """Says where to look once it listens."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            if self._context.settings.log_format == "json":
                logger.info("listening", extra={"fields": summary(url, self._context)})
            else:
                print(greeting(url, self._context), flush=True)


def greeting(url: str, context: Context) -> str:
    """What a person wants to know first: where, which models, and what to type."""
    lines = ["", f"ResLens is at {url}   documentation: {url}/docs   metrics: {url}/metrics"]
    for model in context.shelf.served():
        weights, more = (size / 1e6 for size in model.memory)
        lines.append(
            f"  serving {model.manifest.name} version {model.manifest.version} on {model.provider}: "
            f"{weights:.1f} MB of weights, {more:.1f} MB more for statistics"
        )
    for name, version, reason in context.shelf.failures:
        lines.append(f"  NOT serving {name}{f' version {version}' if version else ''}: {reason}")
    if served := context.shelf.served():
        name = served[0].manifest.name
        lines.append(f"  try: curl -F file=@photo.jpg '{url}/v1/models/{name}/classify?statistics=layers'")
    else:
        lines.append(f"  no model to serve in {context.settings.model_repository}: publish one and start again")
    return "\n".join(lines)


def summary(url: str, context: Context) -> dict[str, object]:
    """The same for machines."""
    return {
        "url": url,
        "serving": [f"{model.manifest.name} version {model.manifest.version}" for model in context.shelf.served()],
        "failed": [failure._asdict() for failure in context.shelf.failures],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Serve the models of the repository; settings come from RESLENS_*."
    )
    commands = parser.add_subparsers(dest="command", title="instead of serving")
    add.configure(commands.add_parser("add", help="publish an ONNX file", description=add.__doc__))
    key.configure(commands.add_parser("key", help="make an API key", description=key.__doc__))
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s: %(message)s")
    return _run(COMMANDS[chosen.command], chosen) if chosen.command else serve()


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"add": add.run, "key": key.run}


def _run(command: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    try:
        command(arguments)
    except (ValueError, OSError) as error:
        message = explain(error) if isinstance(error, ValidationError) else error
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0


def serve() -> int:
    """Serve until told to stop; returns the exit code."""
    try:
        settings = Settings()
        logs.configure(settings.log_format, settings.access_log)
        app = create_app(settings)
    except (StartupError, ValidationError) as error:
        print(f"error: {explain(error) if isinstance(error, ValidationError) else error}", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",
        access_log=False,  # the service writes its own
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = Server(config, app.state.context)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean end
        server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
