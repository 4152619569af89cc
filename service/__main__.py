"""`python -m service`: serve the models until SIGTERM or Ctrl-C; `add` publishes one, `key` makes a key."""

import argparse
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.processes.nursery import importing, nursery

if TYPE_CHECKING:
    from pathlib import Path

    from service.settings import Settings

# What serving and each command need is imported when they run: every process of the service imports this module too.
COMMANDS = {
    "add": "publish an ONNX file",
    "bench": "measure how fast a service answers",
    "client": "ask a service about photos, its models and their traffic",
    "key": "make an API key",
    "label": "give a version of a model a name",
    "sample": "publish a model again with a parity sample",
    "rollback": "serve the version of a model before",
}
"""Modules of `service.commands`, and what each does."""


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m service", description="Serve the models of the repository; settings come from RESLENS_*."
    )
    commands = parser.add_subparsers(dest="command", title="instead of serving")
    for name, text in COMMANDS.items():
        subparser = commands.add_parser(name, help=text)
        if name in arguments[:1]:
            command = importlib.import_module(f"service.commands.{name}")
            subparser.description = command.__doc__
            command.configure(subparser)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s: %(message)s")
    return _run(chosen) if chosen.command else serve()


def _run(chosen: argparse.Namespace) -> int:
    try:
        importlib.import_module(f"service.commands.{chosen.command}").run(chosen)
    except (ValueError, OSError) as error:
        print(f"error: {_explained(error)}", file=sys.stderr)
        return 2
    return 0


def serve() -> int:
    """Serve until told to stop; returns the exit code."""
    try:
        return _serve()
    except Exception as error:
        from pydantic import ValidationError

        from service.errors import StartupError

        if not isinstance(error, StartupError | ValidationError):
            raise
        print(f"error: {_explained(error)}", file=sys.stderr)
        return 2


def _serve() -> int:
    with contextlib.ExitStack() as stack:
        # It imports what the processes need while this one reads the settings, which may say that none are needed.
        directory = None if os.environ.get("RESLENS_WORKERS") == "0" else stack.enter_context(nursery())
        with importing():
            settings, workers = _settings()
        if workers:
            return _supervise(settings, workers, directory or stack.enter_context(nursery()))
    return _serve_alone(settings)


def _settings() -> "tuple[Settings, int]":
    """The settings, and how many workers they ask for; the lines of the log are as they say from now on."""
    from service import logs
    from service.processes.size import gpus, workers_of
    from service.runtime.cpus import available_cpus
    from service.settings import Settings

    settings = Settings()
    logs.configure(settings.log_format, settings.access_log)
    return settings, workers_of(settings, available_cpus(), gpus())


def _supervise(settings: "Settings", workers: int, directory: "Path") -> int:
    with importing():
        from service.processes.supervisor import supervise
    return supervise(settings, workers, directory)


def _serve_alone(settings: "Settings") -> int:
    with importing():
        from service.app import create_app
        from service.server import Server

        server = Server(create_app(settings))
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean end
        server.run()
    return 0 if server.started else 3


def _explained(error: Exception) -> str:
    from pydantic import ValidationError

    from service.errors import explain

    return explain(error) if isinstance(error, ValidationError) else str(error)


if __name__ == "__main__":
    sys.exit(main())
