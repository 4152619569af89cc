"""`python -m service bench URL`: how fast a service answers callers each of whom waits for the answer.

Each number of callers is measured in turn: requests a second, and the time from request to answer. JSON where stdout is
a pipe. The key, where one is needed, is read from RESLENS_KEY. Exits with 1 if nothing was answered.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from service.commands import drawing
from service.commands.load import Address, Measured, combined, measure
from service.commands.message import Input, Kind, message
from service.commands.remote import Remote, RemoteError, read_key

QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
# A process of callers that uses more of its core than this cannot be said to wait for the service.
BUSY = 0.7
# A process that had to wait longer than this share of the time measures the machine too.
WAITED = 0.1
CALLERS_A_PROCESS = 32
Row = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("url", metavar="URL", help="of the service, like http://127.0.0.1:8000")
    parser.add_argument("--model", help="its name, if the service has several")
    parser.add_argument("--callers", type=_numbers, default=(1, 8, 32), help="how many at a time: 1,8,32")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="that each number of callers is counted: %(default)s"
    )
    parser.add_argument("--kind", choices=get_args(Kind), default="binary", help="V2 with uint8 pixels, or classify")
    parser.add_argument("--processes", type=int, help="that the callers run in; one for every 32 callers if not given")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="file of the key, instead of RESLENS_KEY")
    parser.add_argument("--json", action="store_true", help="JSON on a terminal too")


def run(arguments: argparse.Namespace) -> None:
    """Measure and print; raises `ValueError` for what is wrong here, and exits with 1 for what is wrong there."""
    if arguments.seconds <= 0 or (arguments.processes is not None and arguments.processes < 1):
        raise ValueError("--seconds and --processes have to be more than 0")
    key = read_key(arguments.key_file, os.environ.get("RESLENS_KEY"))
    try:
        given = _input(arguments.url, key, arguments.model)
    except RemoteError as error:
        raise SystemExit(f"error: {drawing.printable(str(error))}") from error
    request = message(arguments.url, key, given, arguments.kind)
    rows = []
    for callers in arguments.callers:
        processes = min(callers, arguments.processes or -(-callers // CALLERS_A_PROCESS))
        # Spawned, because asyncio and what httpx has started do not survive a fork.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_ready, range(processes)))
            parts = measure(pool, processes, _address(arguments.url), request, callers, arguments.seconds)
        rows.append(_row(callers, processes, combined(parts), arguments.seconds))
    about = {"url": arguments.url, "model": given.model, "kind": arguments.kind, "seconds": arguments.seconds}
    if arguments.json or not sys.stdout.isatty():
        print(json.dumps({**about, "rows": rows}), flush=True)
    else:
        draw(Console(highlight=False), f"{given.model}, {arguments.kind}, {arguments.seconds:g} s each", rows)
    if not all(row["requests"] for row in rows):
        raise SystemExit(1)


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers of callers, from `1,8,32`."""
    numbers = tuple(int(number) for number in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has a number of callers below 1")
    return numbers


def _ready(number: int) -> int:
    """So that a process has started, and imported what it needs, before time counts."""
    return number


def _input(url: str, key: str | None, named: str | None) -> Input:
    with Remote(url, key) as remote:
        model = remote.model(named)
        described = json.loads(remote.of(model))["manifest"]["inputs"][0]
    channels, height, width = described["shape"][1:]
    return Input(model, described["name"], (channels, height, width))


def _address(url: str) -> Address:
    parts = urlsplit(url)
    encrypted = parts.scheme == "https"
    return Address(parts.hostname or "", parts.port or (443 if encrypted else 80), encrypted)


def _row(callers: int, processes: int, measured: Measured, seconds: float) -> Row:
    latencies, count = measured.latencies, len(measured.latencies)
    return {
        "callers": callers,
        "requests": count,
        "per_second": round(count / seconds, 1),
        **{
            name: round(latencies[int(share * (count - 1))] * 1e3, 3) if count else None
            for name, share in QUANTILES.items()
        },
        "errors": measured.errors,
        "client_processes": processes,
        "client_cpu": round(measured.busy, 3),
        "client_waited_for_cpu": round(measured.waited, 3),
        "client_is_the_bottleneck": measured.busy > BUSY,
    }


def draw(console: Console, title: str, rows: Sequence[Row]) -> None:
    """The rows as a table, with what went wrong below it, and whether the callers themselves were too slow."""
    console.print(Text(drawing.printable(title), "bold"))
    headers = ("Callers", "Requests/s", "p50 ms", "p90 ms", "p99 ms", "Errors", "Client CPU")
    drawing.table(console, headers, [_cells(row) for row in rows], "p90 ms", "Client CPU")
    reasons = {reason: count for row in rows for reason, count in row["errors"].items()}
    for reason, count in reasons.items():
        console.print(Text(drawing.printable(f"{count} × {reason}"), "red"))
    for notice in _notices(rows):
        console.print(Text(notice, "yellow"))


def _notices(rows: Sequence[Row]) -> Iterator[str]:
    """What keeps the numbers from being those of the service alone."""
    if any(row["client_is_the_bottleneck"] for row in rows):
        yield (
            "The callers themselves were busy: the service may be faster than this. "
            "Use more --processes, or another machine."
        )
    waited = max(row["client_waited_for_cpu"] for row in rows)
    if waited > WAITED:
        yield (
            f"The callers waited for a processor {waited:.0%} of the time: they share this machine with the service, "
            "or with others, and the times include that. Call from another one."
        )


def _cells(row: Row) -> list[Text]:
    errors = sum(row["errors"].values())
    milliseconds = ("–" if row[name] is None else f"{row[name]:.2f}" for name in QUANTILES)
    return [
        Text(str(row["callers"])),
        Text(f"{row['per_second']:,.0f}"),
        *map(Text, milliseconds),
        Text(str(errors), "red" if errors else ""),
        Text(f"{row['client_cpu']:.0%}", "yellow" if row["client_is_the_bottleneck"] else ""),
    ]
