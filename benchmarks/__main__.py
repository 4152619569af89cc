"""`python -m benchmarks [NAME …] [--activation KEY …] [--folder DIR] [--save FILE]` runs those named, or all.

It prints tables.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.activation_networks import activation_networks
from benchmarks.activations import activations
from benchmarks.cuda import cuda
from benchmarks.decoding import decoding
from benchmarks.depth import depth
from benchmarks.machine import describe_machine
from benchmarks.memory import memory
from benchmarks.probed_runs import probed_runs
from benchmarks.probes import probes
from benchmarks.reversible import reversible
from benchmarks.serving import serving
from benchmarks.statistics_cost import statistics_cost
from benchmarks.training import training
from service.errors import StartupError
from service.runtime.provider import choose_provider
from training.activations.catalogue import catalogue

Rows = list[dict[str, str]]

BENCHMARKS: dict[str, tuple[str, Callable[[], Rows]]] = {
    "serving": ("requests/s of the service against bare session.run, one image a request", serving),
    "statistics": ("time with layer statistics against the plain run, one thread", statistics_cost),
    "decoding": ("decoding JPEGs to a model's pixels, one thread", decoding),
    "depth": ("what deeper networks cost: seconds of the processor, and memory", depth),
    "probes": ("what reading all layers adds to a step of training, batch of 32 images of 32×32", probes),
    "probed_runs": ("what probes, TensorBoard and MLflow add to whole runs of 200 steps, by default", probed_runs),
    "reversible": ("what a training step adds to resident memory by depth, batch of 64 images of 32×32", reversible),
    "memory": ("resident memory of a plain session, and what the instrumented one adds", memory),
}
OF_ACTIVATIONS: dict[str, tuple[str, Callable[[Sequence[str]], Rows]]] = {
    "activations": (
        "each activation alone, one thread: ns an element, and worst |y − f(x)| / (1 + |f(x)|)",
        activations,
    ),
    "activation_networks": ("ResNet-20 with each activation, one thread", activation_networks),
}
OF_IMAGES: dict[str, tuple[str, Callable[[Path | None], Rows]]] = {
    "training": ("images/s of our training loop against a plain one, and of the data alone, one thread", training),
}
ON_A_GPU: dict[str, tuple[str, Callable[[], Rows]]] = {
    "cuda": ("ways of running a network on a GPU, images from and logits to the host; only when named", cuda),
}
NAMES = (*BENCHMARKS, *OF_ACTIVATIONS, *OF_IMAGES)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = (*NAMES, *ON_A_GPU)
    parser.add_argument(
        "names", nargs="*", help=f"any of {', '.join(names)}; all but {', '.join(ON_A_GPU)} if none is named"
    )
    parser.add_argument(
        "--activation",
        action="append",
        choices=list(catalogue()),
        metavar="KEY",
        help="measure this one in the benchmarks of activations, not the whole catalogue; may be repeated",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="images to train on, train/<class>/* and test/<class>/*; scikit-learn's digits if not given",
    )
    parser.add_argument("--save", type=Path, help="write figures, machine and versions to this JSON file")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
    if not ON_A_GPU.keys().isdisjoint(arguments.names):
        try:
            choose_provider("cuda")
        except StartupError as error:
            parser.error(str(error))
    machine = describe_machine()
    console = Console(width=160)
    console.print(" · ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    console.print("Ratios: median of rounds [95 % bootstrap interval].", highlight=False)
    results: dict[str, Rows] = {}
    for name in arguments.names or NAMES:
        title, results[name] = _run(name, arguments.activation or list(catalogue()), arguments.folder)
        console.print(_table(title, results[name]))
    if arguments.save:
        measured = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "results": results}
        arguments.save.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


def _run(name: str, keys: Sequence[str], folder: Path | None) -> tuple[str, Rows]:
    if name in OF_IMAGES:
        title, on = OF_IMAGES[name]
        return title, on(folder)
    if name in OF_ACTIVATIONS:
        title, run = OF_ACTIVATIONS[name]
        return title, run(keys)
    title, measure = (BENCHMARKS | ON_A_GPU)[name]
    return title, measure()


def _table(title: str, rows: Sequence[dict[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    return table


if __name__ == "__main__":
    main()
