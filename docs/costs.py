"""What activations cost, as `make bench` measured it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Row = Mapping[str, str]

ABSENT = "–"


@dataclass(frozen=True)
class Costs:
    """The figures of one run of the benchmarks; rows by activation."""

    measured: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    alone: Mapping[str, Row] = field(default_factory=dict)
    networks: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    """One row a batch size."""


def read_costs(path: Path) -> Costs:
    """The file that `python -m benchmarks --save` wrote; no figures where there is no file."""
    if not path.exists():
        return Costs()
    saved = json.loads(path.read_text())
    alone: list[Row] = saved["results"]["activations"]
    networks: list[Row] = saved["results"]["activation_networks"]
    keys = {row["activation"] for row in networks}
    return Costs(
        saved["measured"],
        saved["machine"],
        {row["activation"]: row for row in alone},
        {key: tuple(row for row in networks if row["activation"] == key) for key in keys},
    )


def cost_columns(costs: Costs, key: str) -> dict[str, str]:
    """Cells of the overview; nothing where nothing was measured."""
    if not costs.alone:
        return {}
    row = costs.alone.get(key, {})
    return {
        "× ReLU": _median(row.get("ours / relu", ABSENT)),
        "plain export × ReLU": _median(row.get("plain / relu", ABSENT)),
    }


def cost_details(costs: Costs, key: str) -> dict[str, str]:
    """Sentences on one activation, by subject."""
    found = {}
    if row := costs.alone.get(key):
        found["cost alone"] = f"{row['ours ns']} ns an element, {row['ours / relu']} × ReLU; {_plain_alone(row)}"
    if rows := costs.networks.get(key):
        found[f"cost in a ResNet-20, {rows[0]['arrangement']}"] = "; ".join(_in_network(row) for row in rows)
    return found


def _plain_alone(row: Row) -> str:
    if row["plain ns"] == ABSENT:
        return f"no plain export ({row['failure']})"
    return f"plain export {row['plain ns']} ns, {row['plain / relu']} × ReLU"


def _in_network(row: Row) -> str:
    return f"batch {row['batch']}: {row['ours ms']} ms, plain export {row['plain ms']} ms, ReLU {row['relu ms']} ms"


def _median(ratio: str) -> str:
    """Without the interval."""
    return ratio.split(" [")[0]
