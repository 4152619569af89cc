"""docs/family.md: what each part of the residual family learned, from the figures of `python -m benchmarks.family`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.markdown import table

OPENING = """<!-- Written by `make docs` from benchmarks/results/family-digits.json: do not edit. -->
# What each part of the family learns

Every row of the catalogues in [networks.md](networks.md), trained for real: {network} on the handwritten digits of
scikit-learn (1,437 images of 8×8 to train on, 360 held out), {epochs} epochs of the default recipe, and what the row
names in place of its default. Errors are in per cent of the averaged weights, mean (least–most) over seeds 0, 1, 2.
The networks of seed 0 were exported and published (**parity**: the largest difference of a logit from PyTorch's),
then served by one process and asked for an image with `statistics=layers` (**layers**: how many the answer tells of,
all figures finite). So few epochs of so small images say what works and what fails, not which of two good parts is
better: a difference of less than a per cent is one of seeds.

```sh
python -m benchmarks.family --folder DIR    # resumable; then `make docs`
```

Measured on {machine}.
"""

# What to read in each table.
NOTES = {
    "variant": "One seed; arrangement `original`, and `full_preactivation` where it is the only one.",
    "shortcut": """`exclusive_gating` has its default bias of −6: gates that let 0.2 % of a branch through at first
open slowly. With a bias of 0 it learns at once.""",
    "head": "`deep_birnn`, three layers of LSTM, has only begun to learn.",
    "normaliser": """20 epochs, for branches that start from 0 take longer until they do something; `fixup` with its
initialiser.""",
    "initialiser": """With `zeros` all units stay equal: nothing is learned. Batch normalisation makes the scale of the
others all the same. `fixup` with its normaliser, 20 epochs.""",
    "depth": """What fails in the papers fails: without shortcuts 56 layers are worse than 20 on the *training* images,
and with them they learn; shortcuts scaled by 0 or 0.5, or gated with a bias of 0, lose the way to the first layers; and
dropout on them makes activations grow so far that logits of the graph could not be compared with PyTorch's
(**refused**).""",
}

FAILED = "diverged"


def family_page(measured: Path) -> str:
    """The whole page as Markdown."""
    stored = json.loads(measured.read_text())
    machine = ", ".join(f"{key} {stored['machine'][key]}" for key in ("processor", "cores", "python", "torch"))
    parts = [OPENING.format(network="a ResNet-8", epochs=stored["epochs"], machine=machine)]
    for kind, rows in _by_kind(stored["runs"]).items():
        parts += [f"## By {kind}\n", f"{NOTES[kind]}\n" if kind in NOTES else "", _table(rows, stored["served"])]
    return "\n".join(filter(None, parts))


def _by_kind(runs: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Runs of all seeds by kind and name."""
    found: dict[str, dict[str, list[Any]]] = {}
    for key, run in runs.items():
        kind, name, _ = key.split("/")
        found.setdefault(kind, {}).setdefault(name, []).append(run)
    return found


def _table(rows: Mapping[str, Sequence[Any]], served: Mapping[str, Any]) -> str:
    head = ("", "training error", "held-out error", "parameters", "parity", "layers")
    return table([head, *(_row(name, runs, served) for name, runs in rows.items())])


def _row(name: str, runs: Sequence[Any], served: Mapping[str, Any]) -> tuple[str, ...]:
    errors = [_spread(runs, figure) for figure in ("training_error", "held_out_error")]
    first = runs[0]
    if "model" not in first:
        return (f"`{name}`", *errors, f"{first['parameters']:,}" if "parameters" in first else "", "refused", "")
    answer = served[first["model"]]
    assert answer["finite"], f"{name}: a figure of its statistics is no number"
    return (f"`{name}`", *errors, f"{first['parameters']:,}", f"{first['parity']:.0e}", str(answer["layers"]))


def _spread(runs: Sequence[Any], figure: str) -> str:
    values = [100 * run[figure] for run in runs if figure in run]
    diverged = len(runs) - len(values)
    if not values:
        return FAILED
    spread = f"{sum(values) / len(values):.1f}"
    if len(values) > 1:
        spread += f" ({min(values):.1f}–{max(values):.1f})"
    return f"{spread}, {diverged} {FAILED}" if diverged else spread
