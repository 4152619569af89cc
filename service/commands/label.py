"""`python -m service label`: name a version, in the repository; a service that polls it follows."""

import argparse
from pathlib import Path

from service.commands.repository import choosing_in


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("model", help="name of the model")
    parser.add_argument("label", help="`stable`, `canary`, …: at most 32 of a-z, 0-9, _ and -, starting with a letter")
    parser.add_argument("version", type=int, nargs="?", help="which it is to name; not given, the label is removed")
    parser.add_argument("--share", type=float, default=0.0, help="percentage of the requests that name no version")
    parser.add_argument("--repository", type=Path, help="the one that the service reads if not given")


def run(arguments: argparse.Namespace) -> None:
    """Set or remove a label; raises `ValueError` for a model, a version or a label that cannot be."""
    name, label, version = arguments.model, arguments.label, arguments.version
    repository = choosing_in(arguments.repository)
    repository.resolve(name, version)
    repository.choose(name, repository.choice(name).labelled(label, version, arguments.share))
    share = f", with {arguments.share:g} % of the requests that name none" if arguments.share else ""
    print(f"{label} is version {version} of {name}{share}" if version else f"{name} has no label {label}")
