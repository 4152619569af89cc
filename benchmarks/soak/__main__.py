"""`python -m benchmarks.soak`: what became of requests of every kind, and how memory went; 1 if anything is wrong.

A second, shorter run is of a service that leaks, on purpose, twice as much as is allowed: if that is not found, nothing
that the first run says is worth anything.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.soak.memory import MEGABYTE, Growth, growth
from benchmarks.soak.run import Outcome, Plan, service, soak
from models.shelf import SHIPPED_MODELS

# Of the control: enough to judge by, and its leak is the same in all.
CONTROL_SHARE = 0.2
LEAK_OF_BOUND = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1800.0, help="at most so long (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=16, help="at the same time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="in so many rounds (default: %(default)s)")
    parser.add_argument("--bound", type=float, default=64.0, help="MiB that memory may grow (default: %(default)s)")
    parser.add_argument("--workers", default="", help="processes of the service (default: as the service chooses)")
    chosen = parser.parse_args()
    bound = chosen.bound * MEGABYTE
    plan = Plan(chosen.requests, chosen.seconds, chosen.callers, chosen.rounds)
    settings = {"RESLENS_WORKERS": chosen.workers} if chosen.workers else {}
    console = Console()
    outcome, grown = _soaked("the service", "service", plan, bound, settings)
    _print(console, outcome, grown)
    control = plan._replace(requests=max(600, round(plan.requests * CONTROL_SHARE)))
    leak = {"SOAK_LEAK_BYTES": round(LEAK_OF_BOUND * bound / control.requests)}
    _, leaked = _soaked("one that leaks", "benchmarks.soak.leaking", control, bound, leak)
    console.print(
        f"A service that keeps {leak['SOAK_LEAK_BYTES']:,} bytes for each of {control.requests:,} requests: "
        f"{_said(leaked)}"
    )
    return int(bool(outcome.tally.wrong) or not grown.within or leaked.within)


def _soaked(name: str, module: str, plan: Plan, bound: float, settings: dict[str, object]) -> tuple[Outcome, Growth]:
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as directory, Progress(*columns, console=Console(stderr=True)) as progress:
        root = Path(directory) / "models"
        shutil.copytree(SHIPPED_MODELS, root)
        task = progress.add_task(name, total=plan.requests)
        with service(root, module, RESLENS_DATA_DIRECTORY=directory, **settings) as (process, port):
            outcome = asyncio.run(
                soak(root, process.pid, port, plan, lambda done: progress.update(task, completed=done))
            )
    return outcome, growth(outcome.samples, bound)


def _print(console: Console, outcome: Outcome, grown: Growth) -> None:
    tally = outcome.tally
    table = Table("kind", "answered as expected", "caller left", "lost or wrong")
    for kind in sorted(tally.right | tally.wrong | tally.left):
        table.add_row(kind, *(f"{counts[kind]:,}" for counts in (tally.right, tally.left, tally.wrong)))
    table.add_section()
    totals = (tally.right, tally.left, tally.wrong)
    table.add_row("all", *(f"{counts.total():,}" for counts in totals))
    console.print(table)
    for complaint in tally.complaints:
        console.print(complaint, markup=False)
    changes = ", ".join(f"{count} × {change}" for change, count in outcome.changes.items())
    console.print(f"{tally.sent:,} requests in {outcome.seconds:.0f} s; {changes}")
    course = " ".join(f"{sample.bytes / MEGABYTE:.0f}" for sample in outcome.samples[::4])
    console.print(f"Memory of all processes in MiB, from the start on: {course}")
    console.print(_said(grown))


def _said(grown: Growth) -> str:
    before, after, more, bound = (f"{size / MEGABYTE:.1f}" for size in (*grown[:2], grown.bytes, grown.bound))
    verdict = "within" if grown.within else "beyond"
    return f"{before} MiB after warm-up, {after} at the end: {more} more, {verdict} the bound of {bound}"


if __name__ == "__main__":
    sys.exit(main())
