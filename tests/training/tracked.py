"""Stores of MLflow to write to and to read back from."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient, set_tracking_uri

from tests.training.conftest import Once
from training.tracking.sender import DEFAULTS

EXPERIMENT = "tests"


@pytest.fixture(scope="session")
def empty_store(once: Once) -> Path:
    """A database with all its tables: making them takes seconds."""

    def fill(folder: Path) -> None:
        MlflowClient(f"sqlite:///{folder}/store.db").search_experiments()

    return once("mlflow-store", fill) / "store.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database, which the environment names too."""
    shutil.copy(empty_store, tmp_path / "store.db")
    address = f"sqlite:///{tmp_path}/store.db"
    # A server that ran in this process leaves its own store as the address of all.
    set_tracking_uri(None)  # type: ignore[arg-type]
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    MlflowClient(address).create_experiment(EXPERIMENT, str(tmp_path / "artifacts"))
    return address


def only_run(address: str) -> Run:
    """The one run that there is."""
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def history(address: str, run: str) -> dict[str, list[tuple[int, float]]]:
    """Every point of a run, by name."""
    client = MlflowClient(address)
    names = client.get_run(run).data.metrics
    return {name: sorted((point.step, point.value) for point in client.get_metric_history(run, name)) for name in names}


class Front:
    """Stands before the tracking server: passes requests on, answers 500, or not at all."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.mode = "well"
        self.asked = 0
        self.over = threading.Event()

    def __call__(self, environment: dict[str, Any], respond: Callable[..., Any]) -> Any:
        self.asked += 1
        if self.mode == "hanging":
            self.over.wait(60)
        if self.mode != "well":
            respond("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"out of order"]
        return self.application(environment, respond)


@contextmanager
def tracking_server(store: str) -> Iterator[tuple[str, Front]]:
    """MLflow's own server, on a socket of this process."""
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = store
    from mlflow.server import app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    front = Front(app)
    server = make_server("127.0.0.1", 0, front, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", front
    finally:
        front.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
