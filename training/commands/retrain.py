"""`python -m training retrain`"""

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from models.manifest import plain_name
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.commands.report import reported
from training.commands.train import choose_device
from training.data.sources import DataConfig
from training.outcomes import Failure, UnwritableError
from training.recipes.fine_tune import fine_tune
from training.recipes.recipe import Recipe
from training.retraining.bounds import Bounds
from training.retraining.canary import Watching
from training.retraining.config import JobConfig
from training.retraining.job import retrain as do_job
from training.retraining.material import parse_data
from training.retraining.outcome import EXIT_CODES, NotWrittenError
from training.retraining.remote import Remote
from training.retraining.report import draw, make_report, reason_of
from training.retraining.state import JobFolder, JobState

FULL = (errno.ENOSPC, errno.EDQUOT)
CONTROL_KEY, INFERENCE_KEY = "RESLENS_CONTROL_KEY", "RESLENS_INFERENCE_KEY"


def retrain(
    name: str,
    data: DataConfig = DataConfig(),  # noqa: B008  (frozen)
    recipe: Recipe = fine_tune(),  # noqa: B008  (frozen)
    bounds: Bounds = Bounds(),  # noqa: B008  (frozen)
    watching: Watching = Watching(),  # noqa: B008  (frozen)
    old: dict[str, str] | None = None,
    replay: float = 0.0,
    url: str = "http://127.0.0.1:8000",
    repository: Path = SHIPPED_MODELS,
    job: Path | None = None,
    run: Path | None = None,
    report: Path | None = None,
    canary: str = "canary",
    stable: str = "stable",
    found_in: int | None = None,
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    patience: float = 30.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> None:
    """Train the served version of a model on with new data, judge it, try it as a canary, and promote it or not.

    Exit codes: 0 promoted; 2 a mistake; 3 refused by a gate; 4 rolled back; 5 the service does not answer; 6 it
    refuses (a key, control that is not allowed); 7 another process is at the job; 8 the disk is full. Whatever ended
    it, the same command again goes on where it was. Keys are read from RESLENS_CONTROL_KEY, and RESLENS_INFERENCE_KEY
    if that is another.

    Args:
        name: Name of the model, in the service and in the repository.
        data: New images to learn from; files of images are read with the pre-processing of the model.
        recipe: How.
        bounds: What the gates ask for.
        watching: How the canary is watched.
        old: The data that the model was trained on before, judged by too: `data folder data_dir DIR`.
        replay: Old training images for each new one, as far as there are so many; needs --old.
        url: Address of the service.
        repository: Folder of the model repository; the one that the service reads.
        job: Folder of the job; runs/retrain-<name> if not given.
        run: Run that the served version was published from; its weights are read from its graph if not given.
        report: File for a report in JSON; `-` for standard output.
        canary: Label of the version while it is tried.
        stable: Label of the version that is served.
        found_in: Version that a finding is about: nothing is done if another one is served by now.
        fresh: Begin anew, whatever became of the job before.
        patience: Seconds in which the service must answer a request, which is made again until then.
        device: Where to train; auto takes CUDA where there is one.
        threads: CPU threads; one for each core if not given.
    """
    with reported(report) as told:
        told["model"] = plain_name(name)
        parsed = parse_data(old).resolved() if old else None
        config = JobConfig(name, data.resolved(), parsed, replay, recipe, bounds, watching, run, canary, stable)
        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        folder = JobFolder(job or Path("runs") / f"retrain-{name}")
        control, inference = (os.environ.get(variable, "") for variable in (CONTROL_KEY, INFERENCE_KEY))
        try:
            with Remote(url, control, inference, patience) as remote:
                state = do_job(config, folder, ModelRepository(repository), remote, chosen, fresh, found_in, _say)
        except (Failure, ValueError, OSError) as error:
            told |= make_report(_known(folder))
            if isinstance(error, UnwritableError) or getattr(error, "errno", None) in FULL:
                raise NotWrittenError(str(error)) from error
            raise
        told |= make_report(state)
        draw(state)
        reason = reason_of(state)
        outcome = str(state.outcome)
        print(f"{outcome.replace('_', ' ')}{': ' if reason else ''}{reason}")
    if code := EXIT_CODES[outcome]:
        sys.exit(code)


def _known(folder: JobFolder) -> JobState | None:
    """What is known of a job that did not come to its end."""
    try:
        state = folder.read()
    except ValueError:
        return None
    # One that is over is not this one.
    return state if state is None or state.outcome is None else None


def _say(line: str) -> None:
    print(line, flush=True)
