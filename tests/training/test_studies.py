"""A study through the real command: killed, resumed, and its report held against its figures."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.training.small import SilentBar
from training.commands.study import study
from training.data import digits
from training.data.images import digest
from training.data.sources import DataConfig
from training.outcomes import UnwritableError
from training.studies.case import Case
from training.studies.crew import Crew
from training.studies.grid import Grid, choose, divide
from training.studies.measurement import measure
from training.studies.records import Records, write
from training.studies.results import gather
from training.studies.study import RunsFailedError, Study
from training.studies.wording import columns

OPTIONS = (
    "--networks plain8 --activations relu prelu --initialisers he fixup --normalisers none --learning-rates 0.05 1e30 "
    "--seeds 2 --epochs 1 --batch-size 512 --baseline relu --jobs 1 --out"
)
COMMAND = [sys.executable, "-m", "training", "study", *OPTIONS.split()]
CASE = Case("plain8", "relu", "original", "he", "none", 0.05, 1, 512, 0)
WHOLE = 2 * 2 * 2
"""Runs: activations × rates × seeds; fixup has no meaning without shortcuts."""


class Cells(HTMLParser):
    """The rows of the one table, and whatever an element asks for from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self._in = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag in ("th", "td")
        if tag == "tr":
            self.rows.append([])
        if self._in:
            self.rows[-1].append("")
        asked = ("src", "href", "xlink:href", "srcset", "data", "action")
        self.links += [value or "" for name, value in attrs if name in asked]
        if tag in ("script", "link", "iframe", "object"):
            self.links.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in = self._in and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._in:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, float]]:
    """A folder of a study that was killed after some of its runs and made again; what the second said, and when what
    was kept of the first was written."""
    folder = tmp_path_factory.mktemp("study")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([*COMMAND, str(folder)], stdout=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 240
    while not (kept := list((folder / "runs").glob("*.json"))):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    written = {path.name: path.stat().st_mtime for path in kept}
    assert len(kept) < WHOLE
    second = subprocess.run([*COMMAND, str(folder)], capture_output=True, text=True, env=environment, timeout=240)
    assert second.returncode == 0, second.stderr
    return folder, second.stdout, written


def test_what_was_finished_before_a_kill_is_not_made_again(resumed: tuple[Path, str, dict[str, float]]) -> None:
    folder, said, written = resumed
    assert all((folder / "runs" / name).stat().st_mtime == then for name, then in written.items())
    assert "of 8 runs are finished already" in said
    assert f"8 of 8 runs finished; report: {folder / 'report.html'}" in said
    assert len(list((folder / "runs").glob("*.json"))) == WHOLE
    assert not list((folder / "runs").glob("*.pt"))


def test_a_run_is_the_same_alone(resumed: tuple[Path, str, dict[str, float]], tmp_path: Path) -> None:
    folder, _, _ = resumed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = measure(CASE, digits.load(), tmp_path / "checkpoint.pt", SilentBar())
    finally:
        torch.set_num_threads(threads)
    kept = Records(folder).find(CASE)
    assert kept is not None
    different = ("seconds", "case")
    assert {name: value for name, value in kept.items() if name not in different} == {
        name: value for name, value in found.items() if name not in different
    }


def test_what_has_no_meaning_and_what_diverges_is_said(resumed: tuple[Path, str, dict[str, float]]) -> None:
    folder, said, _ = resumed
    found = json.loads((folder / "results.json").read_text())
    (skipped,) = found["skipped"]
    assert len(skipped["cases"]) == 4
    assert f"skipped 4: {skipped['reason']}" in said
    assert {row["learning_rate"]: (row["runs"], len(row["diverged"])) for row in found["rows"]} == {
        "0.05": (2, 0),
        "1e+30": (2, 2),
    }
    page = (folder / "report.html").read_text()
    assert skipped["reason"].split(":")[0].replace("'", "&#x27;") in page
    assert page.count("<li>diverged, ") == 4


def test_the_table_is_what_the_json_says(resumed: tuple[Path, str, dict[str, float]]) -> None:
    folder, _, _ = resumed
    found = json.loads((folder / "results.json").read_text())
    page = Cells()
    page.feed((folder / "report.html").read_text())
    rows = columns(found["rows"], compared=True)
    assert page.rows == [list(rows[0]), *(list(row.values()) for row in rows)]
    # And what the JSON says of groups is what it says of runs.
    runs = [run for run in found["runs"] if run["case"]["activation"] == "prelu" and "accuracy" in run]
    (row,) = (row for row in found["rows"] if row["activation"] == "prelu" and row["learning_rate"] == "0.05")
    mean = sum(run["accuracy"] for run in runs) / 2
    assert row["accuracy"]["mean"] == pytest.approx(mean)
    baseline = sum(
        run["accuracy"] for run in found["runs"] if run["case"]["activation"] == "relu" and "accuracy" in run
    )
    assert row["comparison"]["difference"] == pytest.approx(mean - baseline / 2)
    cells = next(cells for cells in rows if cells["activation"] == "prelu" and cells["learning rate"] == "0.05")
    assert cells["held-out accuracy, %"].startswith(f"{100 * mean:.2f} ± ")


def test_the_report_needs_nothing_else(resumed: tuple[Path, str, dict[str, float]]) -> None:
    folder, _, _ = resumed
    text = (folder / "report.html").read_text()
    page = Cells()
    page.feed(text)
    assert [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))] == []
    assert not re.search(r"url\((?!#)|@import", text)
    for title in ("Accuracy", "Dead units", "Mean shift", "Gradient through depth", "Learned slopes"):
        assert f"<h2>{title}</h2><figure><svg" in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    with Image.open(folder / "report.png") as picture:
        assert picture.width > 800


def test_other_images_are_not_mixed_in(resumed: tuple[Path, str, dict[str, float]]) -> None:
    folder, _, _ = resumed
    with pytest.raises(ValueError, match=r"choose another --out"):
        Records(folder).prepare("others", "0" * 64)


@pytest.mark.skipif(sys.platform != "linux", reason="children are found by a file of Linux alone")
def test_workers_end_with_a_study_that_is_killed_in_the_middle_of_their_runs(tmp_path: Path) -> None:
    """Of thousands of epochs: they would go on for minutes beside those of whoever goes on with the study."""
    options = [*COMMAND, str(tmp_path), "--epochs", "5000", "--jobs", "2"]
    study = subprocess.Popen(options, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "runs").glob("*.pt"))) < 2:
        assert study.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()
    assert len(children) >= 2
    study.send_signal(signal.SIGKILL)
    study.wait()
    deadline = time.monotonic() + 20
    while left := [child for child in children if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_process_that_dies_loses_its_run_alone(tmp_path: Path) -> None:
    data = digits.load()
    records = Records(tmp_path)
    records.prepare(data.name, digest(data))
    long, other = replace(CASE, epochs=100_000), replace(CASE, seed=3)
    told: dict[Case, dict[str, Any]] = {}

    def kill() -> None:
        while not records.checkpoint(long).exists():
            time.sleep(0.02)
        (process,) = active_children()
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    Crew(tmp_path, DataConfig(), 1).run([long, other], told.__setitem__)
    killer.join()
    assert told[long] == {"failed": "its process ended with signal 9"}
    assert "accuracy" in told[other]
    assert not active_children()
    # It is tried again, from where it was.
    assert not records.finished(long)
    assert records.finished(other)
    assert records.checkpoint(long).exists()
    with pytest.raises(RunsFailedError, match="1 runs failed"):
        Study(tmp_path, DataConfig(), [long, other]).check()
    (first, _) = gather([long, other], Study(tmp_path, DataConfig(), [long, other]).found())
    assert "failed" in first.runs[0]


def test_all_is_the_whole_catalogue_and_names_are_checked() -> None:
    assert "mish" in choose("activations", ("all",))
    assert choose("activations", ("relu", "relu")) == ("relu",)
    with pytest.raises(ValueError, match=r"unknown activations rellu; choose from identity, .*, or all"):
        choose("activations", ("relu", "rellu"))
    with pytest.raises(ValueError, match="unknown network"):
        choose("networks", ("resnet9",))
    with pytest.raises(ValueError, match="--normalisers is empty"):
        choose("normalisers", ())


def test_every_seed_comes_before_the_next() -> None:
    grid = Grid(("resnet8",), ("relu", "mish"), ("original",), ("he", "pretrained"), ("batch",), (0.1,), 1, 64, 2)
    cases, skipped = divide(grid)
    assert [(case.seed, case.activation) for case in cases] == [(0, "relu"), (0, "mish"), (1, "relu"), (1, "mish")]
    ((reason, those),) = skipped.items()
    assert "needs a file of weights" in reason
    assert {case.initialiser for case in those} == {"pretrained"}
    with pytest.raises(ValueError, match="no combination has a meaning"):
        divide(replace(grid, initialisers=("pretrained",)))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"seeds": 0}, "seeds=0 is not allowed"),
        ({"jobs": 0}, "jobs=0 is not allowed"),
        ({"epochs": 0}, "epochs=0 is not allowed"),
        ({"learning_rates": ()}, "--learning-rates is empty"),
        ({"baseline": "gelu"}, "in no run of this study"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_run(given: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        study(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.prepare("digits", "0")
    records.keep(CASE, {"accuracy": 1.0})
    (path,) = (tmp_path / "runs").iterdir()
    path.write_text(path.read_text()[:20])
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged"):
        records.finished(CASE)


def test_without_room_the_old_file_stays(tmp_path: Path) -> None:
    write(tmp_path / "kept.json", b"old")
    with pytest.raises(UnwritableError, match="No such file or directory"):
        write(tmp_path / "missing" / "kept.json", b"new")
    assert (tmp_path / "kept.json").read_bytes() == b"old"
