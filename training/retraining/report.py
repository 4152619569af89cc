"""What became of a job: as JSON for programs, and as a table for people."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.retraining.outcome import EXIT_CODES
from training.retraining.state import JobState


def make_report(state: JobState | None) -> dict[str, Any]:
    """What the steps found; nothing where a job could not begin."""
    if state is None:
        return {}
    done: Mapping[str, Any] = state.done
    report = {
        "champion": done.get("champion", {}).get("version"),
        "challenger": done.get("publish", {}).get("version"),
        "data": done.get("material"),
        "training": done.get("train", {}).get("record"),
        "gates": done.get("examine", {}).get("gates", []),
        "watch": done.get("watch"),
        "steps": list(done),
        "options": state.options,
    }
    if state.outcome is not None:
        report |= {"outcome": state.outcome, "exit_code": EXIT_CODES[state.outcome], "message": reason_of(state)}
    return report


def reason_of(state: JobState) -> str:
    """Why a job that is over ended as it did; empty for one that promoted."""
    refused = [f"{gate['name']}: {gate['sentence']}" for gate in _gates(state) if not gate["passed"]]
    diverged = state.done.get("train", {}).get("diverged", "")
    return diverged or "; ".join(refused) or str(state.done.get("conclude", {}).get("reason", ""))


def draw(state: JobState) -> None:
    """Print the gates, and what the service said of the canary."""
    console = Console()
    if not console.is_terminal:
        # A file or a pipe: each row is one line, of any length.
        console.width = 10_000
    if gates := _gates(state):
        console.print(_table(gates))
    if (watched := state.done.get("watch")) and "sent" in watched:
        agreed = "" if (share := watched["agreement"]) is None else f", {share:.1%} of them classified as published"
        console.print(
            Text(
                f"canary: {watched['images']} images watched, {watched['shared']} of them by its share; "
                f"{watched['sent']} sent{agreed}; {len(watched['findings'])} findings"
            )
        )
        told = (
            f"{who} {each['failed']} of {each['failed'] + each['answered']}"
            for who, each in watched["answering"].items()
        )
        console.print(Text(f"  requests that failed: {', '.join(told)}"))
        for line in watched["findings"]:
            console.print(Text(f"  {line}"))


def _table(gates: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("gate", "", "value", "bound", "what was found"):
        table.add_column(column, no_wrap=column != "what was found", justify="right" if "u" in column[1:3] else "left")
    for gate in gates:
        verdict = Text("passed", "green") if gate["passed"] else Text("refused", "bold red")
        values = (_number(gate["value"]), _number(gate["bound"]))
        table.add_row(Text(gate["name"]), verdict, *values, Text(gate["sentence"]))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _gates(state: JobState) -> list[dict[str, Any]]:
    gates: list[dict[str, Any]] = state.done.get("examine", {}).get("gates", [])
    return gates
