"""`python -m training study`"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from training.activations.catalogue import activation_keys
from training.data.images import digest
from training.data.sources import DataConfig, load_data
from training.progress import progress_bar
from training.studies.baseline import Baseline
from training.studies.grid import ALL, Grid, choose, choose_rates, divide
from training.studies.records import Records
from training.studies.results import Group, gather, results
from training.studies.study import Study


def study(
    out: Path,
    data: DataConfig = DataConfig(),  # noqa: B008  (frozen)
    networks: tuple[str, ...] = ("resnet8",),
    activations: tuple[str, ...] = ("relu",),
    arrangements: tuple[str, ...] = ("original",),
    initialisers: tuple[str, ...] = ("he",),
    normalisers: tuple[str, ...] = ("batch",),
    learning_rates: tuple[float, ...] = (0.1,),
    seeds: int = 3,
    epochs: int = 8,
    batch_size: int = 64,
    baseline: str | None = None,
    title: str | None = None,
    jobs: int = 1,
    report_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train every combination of some choices with several seeds, and compare them in one report.

    Ends with exit code 6 when runs failed, and 0 when all ended; a run that diverged has ended.

    Args:
        out: Folder of the study: every finished run, and the report. The same command again goes on where it ended.
        data: What to learn from.
        networks: Keys of the network catalogue.
        activations: Keys of the activation catalogue, or all.
        arrangements: Keys of the arrangement catalogue, or all.
        initialisers: Keys of the initialiser catalogue, or all.
        normalisers: Keys of the normaliser catalogue, or all.
        learning_rates: Peaks of the schedule.
        seeds: Runs of each combination, with seeds 0, 1, …
        epochs: Passes over the training images.
        batch_size: Images a step.
        baseline: What the others are compared with, seed by seed: a value of one of the lists, as `relu`, or
            `initialiser=fixup` where two lists have it.
        title: Heading of the report; the folder's name if not given.
        jobs: Processes, of one thread each.
        report_only: Make no run, and report on those that are there.
    """
    if seeds < 1:
        raise ValueError(f"seeds={seeds} is not allowed: use at least 1")
    if jobs < 1:
        raise ValueError(f"jobs={jobs} is not allowed: use at least 1")
    grid = Grid(
        networks=choose("networks", networks),
        activations=choose("activations", activations),
        arrangements=choose("arrangements", arrangements),
        initialisers=choose("initialisers", initialisers),
        normalisers=choose("normalisers", normalisers),
        learning_rates=choose_rates(learning_rates),
        epochs=epochs,
        batch_size=batch_size,
        seeds=seeds,
    )
    cases, skipped = divide(grid)
    against = Baseline.parse(baseline, cases) if baseline else None
    for reason, those in skipped.items():
        print(f"skipped {len(those)}: {reason}")
    loaded = load_data(data)
    records = Records(out)
    records.prepare(loaded.name, digest(loaded))
    write_report = _reporter()
    this = Study(out, data, cases)
    if not report_only:
        with progress_bar("study") as bar:
            this.run(jobs, bar)
    made = this.found()
    if not made:
        raise ValueError(f"{out} holds no run of this study: leave --report-only out")
    about = {
        "title": title or out.resolve().name,
        "command": _command(grid, data, baseline, seeds),
        "data": {"name": loaded.name, "training": len(loaded.training), "held_out": len(loaded.held_out)},
        "machine": records.machine(),
        "asked": len(cases),
        **asdict(grid),
    }
    groups = gather(cases, made)
    write_report(out, groups, results(groups, against, skipped, about))
    finished = sum(map(records.finished, cases))
    print(f"{finished} of {len(cases)} runs finished; report: {out / 'report.html'}")
    this.check()


def _reporter() -> Callable[[Path, Sequence[Group], Mapping[str, Any]], None]:
    """What draws the report; asked before the first run, so that hours of them do not end without one."""
    try:
        from training.studies.report import write_report
    except ImportError as error:
        raise ValueError(f"reports are drawn by matplotlib ({error}): pip install 'reslens[studies]'") from error
    return write_report


def _command(grid: Grid, data: DataConfig, baseline: str | None, seeds: int) -> str:
    """What makes the same study: what is not at its default of the lists and numbers, but for folders and processes."""
    given: dict[str, object] = {
        "networks": grid.networks,
        "activations": ALL if set(grid.activations) == set(activation_keys()) else grid.activations,
        "arrangements": grid.arrangements,
        "initialisers": grid.initialisers,
        "normalisers": grid.normalisers,
        "learning_rates": grid.learning_rates,
        "seeds": seeds,
        "epochs": grid.epochs,
        "batch_size": grid.batch_size,
        "baseline": baseline,
        "data": data.data,
        "image_size": data.image_size,
    }
    words = ["python -m training study --out DIR", *(["--data-dir DIR"] if data.data_dir else [])]
    for name, value in given.items():
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{name.replace('_', '-')} {text}")
    return " ".join(words)
