"""`python -m service client`: ask a service about photos, its models and their traffic; JSON where stdout is a pipe.

The key, where one is needed, is read from RESLENS_KEY. Exits with 1 if the service refuses, with 2 if it was not asked.
"""

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from service.commands import drawing
from service.commands.remote import DEFAULT_URL, IMAGE_REFUSED, Remote, RemoteError, read_key

Draw = Callable[[Console, dict[str, Any]], None]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", default=os.environ.get("RESLENS_URL", DEFAULT_URL), help="of the service: %(default)s")
    common.add_argument("--key-file", type=Path, metavar="FILE", help="file of the key, instead of RESLENS_KEY")
    common.add_argument("--json", action="store_true", help="JSON on a terminal too")
    of_model = argparse.ArgumentParser(add_help=False)
    of_model.add_argument("--model", help="its name, if the service has several")
    of_model.add_argument("--version", type=int, help="of the model, if not the one that is served by default")
    of_model.add_argument("--label", help="of a version, instead of its number")
    actions = parser.add_subparsers(dest="action", required=True, title="what to ask")
    classify = actions.add_parser("classify", parents=[common, of_model], help="what is on photos")
    classify.add_argument("photos", nargs="+", metavar="photo.jpg", help="a file; - is stdin")
    classify.add_argument("--top-k", type=int, default=5, help="how many classes to rank: %(default)s")
    classify.add_argument(
        "--statistics",
        choices=("none", "layers", "channels"),
        default="none",
        help="what the layers did; the values of every channel are in the JSON alone",
    )
    classify.add_argument(
        "--attention",
        type=Path,
        metavar="FOLDER",
        help="where the model looked: a picture of each photo, <photo>.attention.png, into this folder",
    )
    actions.add_parser("models", parents=[common], help="which models there are")
    for name, text in (("diagnosis", "what is wrong with the traffic"), ("statistics", "what the layers did to it")):
        traffic = actions.add_parser(name, parents=[common, of_model], help=text)
        traffic.add_argument("--window", help="1m, 5m, 15m, 1h, 6h, 1d, 7d or 30d")


def run(arguments: argparse.Namespace) -> None:
    """Ask and show the answer; raises `ValueError` or `OSError` for what is wrong here, and exits with 1 otherwise."""
    with Remote(arguments.url, read_key(arguments.key_file, os.environ.get("RESLENS_KEY"))) as remote:
        try:
            ACTIONS[arguments.action](remote, arguments)
        except RemoteError as error:
            raise SystemExit(f"error: {drawing.printable(str(error))}") from error


def _classify(remote: Remote, arguments: argparse.Namespace) -> None:
    """One request a photo, so that any number of them can be sent; one that is refused does not keep the rest."""
    absent = [name for name in arguments.photos if name != "-" and not Path(name).exists()]
    if absent:
        raise ValueError(f"there is no file {', '.join(absent)}: nothing was asked")
    model = remote.model(arguments.model)
    refused = 0
    for name in arguments.photos:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        try:
            answer = remote.classify(
                model,
                name,
                content,
                top_k=arguments.top_k,
                statistics=arguments.statistics,
                attention="true" if arguments.attention else None,
                version=arguments.version,
                label=arguments.label,
            )
        except RemoteError as error:
            if error.status not in IMAGE_REFUSED or len(arguments.photos) == 1:
                raise
            print(f"error: {drawing.printable(f'{name}: {error}')}", file=sys.stderr)
            refused += 1
        else:
            _show(arguments, answer, drawing.classification)
            if arguments.attention:
                _write_attention(arguments.attention, name, json.loads(answer))
    if refused:
        raise SystemExit(1)


def _write_attention(folder: Path, photo: str, answer: dict[str, Any]) -> None:
    (image,) = answer["images"]
    folder.mkdir(parents=True, exist_ok=True)
    name = "stdin" if photo == "-" else Path(photo).name
    content = image["attention"]["heat_map"].partition(",")[2]
    (folder / f"{name}.attention.png").write_bytes(base64.b64decode(content))


def _models(remote: Remote, arguments: argparse.Namespace) -> None:
    _show(arguments, remote.get("/v1/models"), drawing.models)


def _diagnosis(remote: Remote, arguments: argparse.Namespace) -> None:
    _show(arguments, _of_traffic(remote, arguments, "diagnosis"), drawing.diagnosis)


def _statistics(remote: Remote, arguments: argparse.Namespace) -> None:
    _show(arguments, _of_traffic(remote, arguments, "statistics"), drawing.statistics)


def _of_traffic(remote: Remote, arguments: argparse.Namespace, what: str) -> str:
    model = remote.model(arguments.model)
    return remote.of(model, what, window=arguments.window, version=arguments.version, label=arguments.label)


def _show(arguments: argparse.Namespace, answer: str, draw: Draw) -> None:
    """Draw the answer on a terminal; anywhere else it is one line of JSON, as the service wrote it."""
    if arguments.json or not sys.stdout.isatty():
        print(answer, flush=True)
    else:
        draw(Console(highlight=False), json.loads(answer))


ACTIONS: dict[str, Callable[[Remote, argparse.Namespace], None]] = {
    "classify": _classify,
    "models": _models,
    "diagnosis": _diagnosis,
    "statistics": _statistics,
}
