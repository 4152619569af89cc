"""A run in MLflow, by its client; nothing else of MLflow is used."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient, get_tracking_uri

from training.tracking.limits import METRICS, PARAMETER, PARAMETERS, TAG, cut, named, portions, short, without_secrets
from training.tracking.outbox import Line

KEY = "reslens.key"
"""Tag that tells runs apart before the store's own name of one is known."""
MISTAKES = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""What will not be taken another time either."""


class RefusedError(ValueError):
    """The store will not take something, however often it is asked."""


class Store:
    """The store of MLFLOW_TRACKING_URI, and the experiment of MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID."""

    def __init__(self) -> None:
        self.client = MlflowClient()
        self.experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
        self.address = without_secrets(get_tracking_uri())

    @property
    def name(self) -> str:
        """Address and experiment."""
        return f"{self.address} {self.experiment}"

    def begin(self, run: str, key: str, line: Line) -> tuple[str, str]:
        """Have the run go on, or make it if there is none, with parameters and tags.

        Returns what it is called, and what is wrong with parameters that were not taken.
        """
        found = self._found(run, key)
        if found is None:
            tags = {KEY: key}
            found = self.client.create_run(self._experiment(), line["begin"], tags, line["name"]).info.run_id
        else:
            self.client.update_run(found, "RUNNING")
        self.tag(found, line["tags"])
        there = self.client.get_run(found).data.params
        given = {named(name): cut(str(value), PARAMETER) for name, value in line["parameters"].items()}
        new = [Param(name, value) for name, value in given.items() if name not in there]
        try:
            for some in portions(new, PARAMETERS):
                self._ask(found, params=some)
        except RefusedError as error:
            return found, str(error)
        return found, ""

    def points(self, run: str, lines: Iterable[Line]) -> None:
        """Of several steps; raises `RefusedError` where they are not taken."""
        metrics = [
            Metric(named(name), value, line["time"], line["step"])
            for line in lines
            for name, value in line["values"].items()
        ]
        for some in portions(metrics, METRICS):
            self._ask(run, metrics=some)

    def tag(self, run: str, tags: Mapping[str, Any]) -> None:
        """In words."""
        for some in portions(tags.items(), PARAMETERS):
            self.client.log_batch(run, tags=[RunTag(named(name), cut(str(value), TAG)) for name, value in some])

    def end(self, run: str, status: str, time: int | None = None) -> None:
        """FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run, status, time)

    def keep(self, run: str, files: Iterable[str]) -> list[str]:
        """Put files that are there beside the run; returns what was wrong with those that could not be."""
        wrong = []
        for file in files:
            # Whatever a store of artifacts raises: it may want packages, rights or disks that are not here.
            try:
                if Path(file).exists():
                    self.client.log_artifact(run, file)
            except Exception as error:
                wrong.append(f"{Path(file).name} ({short(error)})")
        return wrong

    def _ask(self, run: str, **batch: Any) -> None:
        try:
            self.client.log_batch(run, **batch)
        except MlflowException as error:
            if error.error_code in MISTAKES:
                raise RefusedError(short(error)) from error
            raise

    def _found(self, run: str, key: str) -> str | None:
        for known in (run, os.environ.get("MLFLOW_RUN_ID", "")):
            if known and (found := self._alive(known)):
                return found
        # One that was made just before this program was killed.
        made = self.client.search_runs([self._experiment()], f"tags.`{KEY}` = '{key}'", max_results=1)
        return made[0].info.run_id if made else None

    def _alive(self, run: str) -> str | None:
        try:
            info = self.client.get_run(run).info
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", *MISTAKES):
                return None
            raise
        return str(info.run_id) if info.lifecycle_stage == "active" else None

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name:
            return self.experiment
        found: Experiment | None = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name))
        except MlflowException:
            # Another run may have been quicker.
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)
