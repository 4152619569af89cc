"""The report of a study: one page that needs nothing else, one picture, one JSON file."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.studies.comparison import smallest_exact
from training.studies.figures import Picture, draw, stack
from training.studies.records import write
from training.studies.results import Group
from training.studies.wording import columns

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
th { position: sticky; top: 0; background: Canvas; white-space: normal; vertical-align: bottom; }
figure { margin: 1.5rem 0; } figure svg { width: 100%; height: auto; } figcaption, .quiet { color: #7d8590; }
code { font-size: 13px; overflow-wrap: anywhere; }
"""


def write_report(folder: Path, groups: Sequence[Group], found: Mapping[str, Any]) -> None:
    """`report.html`, `report.png` and `results.json` in `folder`, each whole or not at all."""
    pictures = draw(groups)
    write(folder / "results.json", _compact(found).encode() + b"\n")
    write(folder / "report.html", page(found, pictures).encode() + b"\n")
    write(folder / "report.png", stack(pictures))


def page(found: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """The whole page."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(found['title'])}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(found['title'])}</h1>",
        *_introduction(found),
        "<h2>Results</h2>",
        _table(columns(found["rows"], bool(found["baseline"]))),
        *_notes(found),
        *(_figure(picture) for picture in pictures),
        *_left_out(found),
        *_meanings(found),
        "</body></html>",
    ]
    return "\n".join(parts)


def _introduction(found: Mapping[str, Any]) -> list[str]:
    data, machine = found["data"], ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    made, asked = len(found["runs"]), found["asked"]
    missing = f" {asked - made} of {asked} runs are not there yet." if made < asked else ""
    return [
        f"<p>{escape(data['name'])}: {data['training']} images to train on, {data['held_out']} held out. "
        f"{made} runs of {found['epochs']} epochs in batches of {found['batch_size']}.{missing}</p>",
        f"<p><code>{escape(found['command'])}</code></p>",
        f'<p class="quiet">{escape(machine)}</p>',
    ]


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in rows[0])
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _notes(found: Mapping[str, Any]) -> list[str]:
    seeds = found["seeds"]
    notes = [
        "Mean ± standard deviation over seeds (n − 1). What differs between seeds is first weights, order and "
        "augmentation: the held-out images are the same, so nothing is said of other images."
    ]
    if found["baseline"]:
        notes.append(f"Compared with {found['baseline']}, all else alike: {found['test']}.")
        notes.append(
            f"The t test takes differences for normal; one that does not, by their signs, could not go below "
            f"{smallest_exact(seeds):.3g} with {seeds} seeds."
        )
    notes.append(
        "Layers are read on 128 training images, the same in all runs, in training mode; figures of layers are means "
        "over all layers after the last epoch, the two ratios are from before the first step."
    )
    return [f'<p class="quiet">{escape(" ".join(notes))}</p>']


def _figure(picture: Picture) -> str:
    return (
        f"<h2>{escape(picture.title)}</h2><figure>{picture.svg()}"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _left_out(found: Mapping[str, Any]) -> list[str]:
    """What has no row or no accuracy, and why."""
    reasons = [f"skipped, {_named(each['cases'])}: {each['reason']}" for each in found["skipped"]]
    for run in found["runs"]:
        for what in ("diverged", "failed"):
            if what in run:
                case = run["case"]
                reasons.append(f"{what}, {_named([case])}, seed {case['seed']}: {run[what]}")
    if not reasons:
        return []
    lines = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return [f"<h2>Left out</h2><details><summary>{len(reasons)} reasons</summary><ul>{lines}</ul></details>"]


def _named(cases: Sequence[Mapping[str, Any]]) -> str:
    kinds = ("network", "activation", "arrangement", "initialiser", "normaliser")
    shown = [" ".join(str(case[kind]) for kind in kinds) for case in cases[:3]]
    more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
    return ", ".join(shown) + more


def _meanings(found: Mapping[str, Any]) -> list[str]:
    lines = "".join(
        f"<li>{escape(name.replace('_', ' '))}: {escape(text)}</li>" for name, text in found["meaning"].items()
    )
    return [f"<h2>What the figures are</h2><ul>{lines}</ul>"]


def _compact(found: Mapping[str, Any]) -> str:
    """Indented but for the runs, which are a line each."""
    runs = ",\n".join(json.dumps(run, ensure_ascii=False, separators=(",", ":")) for run in found["runs"])
    rest = json.dumps({**found, "runs": []}, indent=1, ensure_ascii=False)
    return rest.replace('"runs": []\n}', f'"runs": [\n{runs}\n]\n}}')
