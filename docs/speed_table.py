"""The table of the speed of training in docs/training.md, from what `python -m benchmarks training` measured."""

import json
import re
from pathlib import Path

from docs.markdown import table

MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "training-cpu.json"
RATIO = "× plain loop, clock"
REFERENCE = "plain loop"


def speed_table(measured: Path = MEASURED) -> str:
    """One row for each way of training, a column for each network, in Markdown."""
    rows = [row for row in json.loads(measured.read_text())["results"]["training"] if row[RATIO] != "–"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    cells = {(row["arm"], row["network"]): _cell(row) for row in rows}
    return table([["", *networks], *([arm, *(cells[arm, network] for network in networks)] for arm in arms)])


def _cell(row: dict[str, str]) -> str:
    """Images a second of the loop that others are compared with; of those the ratio."""
    if row["arm"] == REFERENCE:
        return f"{row['images/s, clock']} images/s"
    return re.sub(r"\d+\.\d+", lambda found: f"{float(found[0]):.2f}", row[RATIO])
