"""The answers of a service, drawn on a terminal: tables with bars and colours, as wide as it is."""

from collections.abc import Container, Iterable, Sequence
from typing import Any, Literal

from rich import box
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]
Row = Sequence[RenderableType]
WIDE_BAR, NARROW_BAR = 30, 10
# Predicted classes that are shown, the most frequent ones.
CLASSES = 10
# Of a terminal that has room for everything.
WIDEST = 1000
# Columns of words, which may be broken.
WORDS = frozenset(
    {"Class", "Labels", "Layer", "Model", "Not judged", "Others", "Provider", "Rule", "Severity", "What", "Why"}
)
SEVERITIES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
UNUSUAL, RARE = 0.01, 0.05


def classification(console: Console, answer: Json) -> None:
    """The ranked classes of each image and, if they were asked for, what its layers did."""
    for image in answer["images"]:
        console.print(_text(f"{image['file'] or 'image'} · {answer['model']} version {answer['version']}", "bold"))
        if "error" in image:
            console.print(_text(image["error"], "red"))
            continue
        _classes(console, image["classes"])
        if image["statistics"]:
            _layers(console, image)
            _certainty(console, image)


def models(console: Console, answer: Json) -> None:
    """The models that are served, and what failed."""
    rows = []
    for model in answer["models"]:
        others = [str(state["version"]) for state in model["versions"] if state["version"] != model["version"]]
        labels = [f"{label} {version}" for label, version in model.get("labels", {}).items()]
        cells = (str(model["version"]), ", ".join(others), ", ".join(labels), str(model["classes"]))
        rows.append(
            (_text(model["name"], "bold"), *map(_text, cells), _share(model["accuracy"]), _text(model["provider"]))
        )
    headers = ("Model", "Version", "Others", "Labels", "Classes", "Accuracy", "Provider")
    table(console, headers, rows, "Provider", "Others", "Classes", "Labels")
    for failed in answer["failed"]:
        version = "" if failed["version"] is None else f" version {failed['version']}"
        console.print(_text(f"{failed['name']}{version} is not served: {failed['reason']}", "red"))
    if problem := answer.get("repository_problem"):
        console.print(_text(problem, "red"))


def diagnosis(console: Console, answer: Json) -> None:
    """The findings that are confirmed, those of the one window, and the rules that could not be applied."""
    current = answer["current"]
    console.print(_text(f"{answer['model']} version {answer['version']}", "bold"))
    _findings(console, "Confirmed by several windows", answer["confirmed"])
    _findings(console, f"In {answer['window'] or 'the last window'}, {current['images']:,} images", current["findings"])
    if current["unjudged"]:
        rows = [(_text(rule["rule"]), _text(rule["reason"], "dim")) for rule in current["unjudged"]]
        table(console, ("Not judged", "Why"), rows)


def statistics(console: Console, answer: Json) -> None:
    """The layers over a window, each mean beside that of the baseline, and the classes that were predicted."""
    title = f"{answer['model']} version {answer['version']}, {answer['window']}: {answer['images']:,} images"
    console.print(_text(title, "bold"))
    if reason := answer["baseline_reason"]:
        console.print(_text(reason, "dim"))
    layers = []
    for layer in answer["layers"]:
        active, usual = _mean(layer, "active_fraction"), layer["baseline"]
        layers.append(
            (
                _text(layer["layer"]),
                _beside(_share(active), _share(_mean(usual, "active_fraction"))),
                _bar(console, active, NARROW_BAR),
                _beside(_number(_mean(layer, "rms")), _number(_mean(usual, "rms"))),
                _silent(layer["never_fired"]),
                _number(layer["rank"]),
            )
        )
    headers = ("Layer", "Active (usual)", "", "RMS (usual)", "Never fired", "Rank")
    table(console, headers, layers, "", "Rank", "RMS (usual)")
    classes = []
    for predicted in sorted(answer["predicted"], key=lambda one: -one["images"])[:CLASSES]:
        share, usual = predicted["share"], predicted["baseline"]
        shares = _beside(_share(share), _share(usual and usual["share"]))
        classes.append((_text(predicted["label"]), shares, _bar(console, share, WIDE_BAR)))
    table(console, ("Class", "Share (usual)", ""), classes, "")


def table(console: Console, headers: Sequence[str], rows: Sequence[Row], *spare: str) -> None:
    """Print a table, without the columns that say nothing and, while there is no room, without the next of `spare`."""
    said = {header for column, header in enumerate(headers) if any(_says(row[column]) for row in rows)}
    anywhere = console.options.update(max_width=WIDEST)
    drawn = _table(headers, rows, said)
    for header in spare:
        if Measurement.get(console, anywhere, drawn).maximum <= console.width:
            break
        said.discard(header)
        drawn = _table(headers, rows, said)
    console.print(drawn)


def printable(text: str) -> str:
    """Text of others without what a terminal would obey."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _classes(console: Console, classes: Iterable[Json]) -> None:
    rows: list[Row] = []
    for ranked in classes:
        style, share = "" if rows else "bold", ranked["probability"]
        rows.append((_text(ranked["label"], style), _text(f"{share:.1%}", style), _bar(console, share, WIDE_BAR)))
    table(console, ("Class", "Probability", ""), rows, "")


def _layers(console: Console, image: Json) -> None:
    outliers = (image["outlier"] or {}).get("layers", {})
    rows = [
        (
            _text(layer["layer"]),
            _share(layer["active_fraction"]) if layer["finite"] else Text("NaN or infinity", "bold red"),
            _bar(console, layer["active_fraction"], NARROW_BAR),
            _share(layer["saturated_fraction"]),
            _silent(layer["silent_channels"]),
            _number(layer["rms"]),
            _p(outliers.get(layer["layer"])),
        )
        for layer in image["statistics"]["layers"]
    ]
    headers = ("Layer", "Active", "", "Saturated", "Dead", "RMS", "Outlier p")
    table(console, headers, rows, "", "RMS", "Saturated")


def _certainty(console: Console, image: Json) -> None:
    """How sure the network is, and how unlike what it knows the image is."""
    if certain := image["prediction"]:
        parts = (f"{name} {value:.3g}" for name, value in certain.items() if value is not None)
        console.print(_text(", ".join(parts), "dim"))
    if outlier := image["outlier"]:
        console.print(Text.assemble("unlike the images that the network knows: p ", _p(outlier["p"])))


def _findings(console: Console, title: str, findings: Iterable[Json]) -> None:
    rows = [
        (
            _text(finding["severity"], SEVERITIES.get(finding["severity"], "")),
            *map(_text, (finding["rule"], finding["cause"])),
        )
        for finding in findings
    ]
    console.print(_text(title if rows else f"{title}: nothing found", "" if rows else "green"))
    if rows:
        table(console, ("Severity", "Rule", "What"), rows)


def _table(headers: Sequence[str], rows: Sequence[Row], chosen: Container[str]) -> Table:
    """Words on the left, which give way where there is no room, numbers on the right, which do not."""
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for header in headers:
        if header in chosen:
            words = header in WORDS
            justify: Literal["left", "right"] = "left" if words or not header else "right"
            drawn.add_column(header, justify=justify, no_wrap=not words, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell for header, cell in zip(headers, row, strict=True) if header in chosen))
    return drawn


def _says(cell: RenderableType) -> bool:
    return not isinstance(cell, Text) or bool(cell)


def _text(value: str, style: str = "") -> Text:
    return Text(printable(value), style)


def _bar(console: Console, share: float | None, widest: int) -> RenderableType:
    """A bar of at most a quarter of the terminal; nothing for no share."""
    return Text() if share is None else Bar(1, 0, share, width=min(widest, console.width // 4), color="cyan")


def _share(share: float | None) -> Text:
    return Text("–", "dim") if share is None else Text(f"{share:.1%}")


def _number(value: float | None) -> Text:
    return Text("–", "dim") if value is None else Text(f"{value:.3g}")


def _beside(value: Text, usual: Text) -> Text:
    return Text.assemble(value, " (", usual, ")")


def _silent(count: int | None) -> Text:
    return Text("–", "dim") if count is None else Text(str(count), "yellow" if count else "")


def _p(value: float | None) -> Text:
    if value is None:
        return Text("–", "dim")
    return Text(f"{value:.3f}", "bold red" if value <= UNUSUAL else "yellow" if value <= RARE else "")


def _mean(layer: Json | None, name: str) -> float | None:
    mean: float | None = layer["scalars"].get(name, {}).get("mean") if layer else None
    return mean
