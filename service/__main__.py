"""`python -m service`: serve the models until SIGTERM or Ctrl-C; `add` publishes one, `key` makes a key."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from service import logs
from service.app import create_app
from service.commands import add, key
from service.errors import StartupError, explain
from service.server import Server
from service.settings import Settings


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
        server = Server(create_app(settings))
    except (StartupError, ValidationError) as error:
        print(f"error: {explain(error) if isinstance(error, ValidationError) else error}", file=sys.stderr)
        return 2
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean end
        server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
