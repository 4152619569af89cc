"""The job against a real service: killed between all steps, refused, rolled back, and with nobody there."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.parity import SAMPLE, ParitySample
from models.repository import ModelRepository
from service.runtime.shares import Shares
from tests import bundles
from tests.training.drifted import DIGITS, inverted, shelf_of_digits, write_inverted
from tests.training.retrained import (
    BOUNDS,
    KEY,
    OTHER_KEY,
    RECIPE,
    VERSION,
    WATCHING,
    Asking,
    ask,
    change,
    config,
    default,
    killed,
    labels,
    run,
    service,
)
from training.commands.retrain import retrain as command
from training.data.sources import DataConfig
from training.retraining import steps
from training.retraining.canary import Watched, watch
from training.retraining.material import parse_data
from training.retraining.remote import Remote
from training.retraining.state import JobFolder
from training.retraining.steps import STEPS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a shelf, and in `examined` the folder of a job that was killed after its gates had been asked."""
    folder = tmp_path_factory.mktemp("home")
    write_inverted(folder / "inverted", training=640)
    shelf_of_digits(folder / "shelf")
    with service(folder) as address:
        for step in ("champion", "material", "train"):
            killed(folder, address, folder / "examined", step, written=False)
        killed(folder, address, folder / "examined", "examine", written=True)
    return folder


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """The same, of one's own; the images are where the job knows them."""
    for name in ("shelf", "examined"):
        shutil.copytree(home / name, tmp_path / name)
    (tmp_path / "inverted").symlink_to(home / "inverted")
    return tmp_path


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLENS_CONTROL_KEY", KEY)


def test_killed_at_every_step_it_ends_as_if_it_never_was(copied: Path, home: Path) -> None:
    job = copied / "examined"
    with service(copied) as address:
        for step in ("publish", "canary", "watch", "conclude"):
            killed(copied, address, job, step, written=False)
        state = run(copied, address, job)
        assert (state.outcome, list(state.done)) == ("promoted", list(STEPS))
        # Published, labelled, watched and promoted twice each, and there is one version.
        assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]
        assert (labels(address), default(address)) == ({"stable": VERSION + 1}, VERSION + 1)
        assert state.done["watch"]["images"] >= WATCHING.watch_images
        assert state.done["watch"]["agreement"] == 1
        # Asked again, with nothing new, nothing is done.
        assert run(copied, address, job) == state
        code, report = ask(copied, address, job)
        assert (code, report["outcome"], report["challenger"]) == (0, "promoted", VERSION + 1)
        assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]
        # A finding in a version that is not served any more is no reason to begin.
        code, report = ask(copied, address, copied / "other", found_in=VERSION)
        assert (code, report["outcome"]) == (0, "outdated")
        # What somebody rolls back after all is not promoted again by the next run.
        rollback = f"http://{address}/v1/models/digits/rollback"
        httpx.post(rollback, headers={"X-API-Key": KEY}, timeout=30).raise_for_status()
        for _ in range(2):
            code, report = ask(copied, address, job)
            assert (code, report["outcome"], default(address)) == (4, "rolled_back", VERSION)
            assert "rolled back since" in report["message"]
    manifest = ModelRepository(copied / "shelf").open("digits").manifest
    assert manifest.training is not None
    assert manifest.training.options["retrained_from"] == VERSION
    assert manifest.training.training_images == 640
    original = ModelRepository(home / "shelf").open("digits", VERSION)
    assert original.manifest == ModelRepository(copied / "shelf").open("digits", VERSION).manifest


def test_what_a_gate_refuses_is_not_published(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = copied / "examined"
    state = json.loads((job / "state.json").read_text())
    state["done"]["examine"]["gates"][0] |= {"passed": False, "sentence": "accuracy 3 % (champion 99 %)"}
    (job / "state.json").write_text(json.dumps(state))
    with service(copied) as address:
        for _ in range(2):
            code, report = ask(copied, address, job)
            assert (code, report["outcome"]) == (3, "refused")
            assert report["message"] == "accuracy_new: accuracy 3 % (champion 99 %)"
            assert [gate["name"] for gate in report["gates"]][-1] == "statistics"
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)
    assert ModelRepository(copied / "shelf").versions("digits") == [VERSION]
    assert "refused: accuracy_new" in capsys.readouterr().out


def test_a_canary_that_nobody_could_watch_is_rolled_back(copied: Path) -> None:
    job, watching = copied / "examined", replace(WATCHING, watch_seconds=0.5)
    change(job, watching=config(copied, watching).options()["watching"])
    with service(copied, STATISTICS_SAMPLE=0) as address:
        code, report = ask(copied, address, job, watching=watching)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert "watched 0 of 300 images" in report["message"]
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)
    # The version is there, and a service that starts anew serves the champion all the same.
    assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]
    with service(copied) as address:
        assert default(address) == VERSION


def test_a_canary_with_findings_is_rolled_back(copied: Path, tmp_path: Path) -> None:
    """Traffic that is not what it learned."""
    shutil.copytree(copied / "inverted" / "test" / "1", tmp_path / "ones")
    job, watching = copied / "examined", replace(WATCHING, watch_severity="warning", traffic=tmp_path / "ones")
    change(job, watching=config(copied, watching).options()["watching"])
    with service(copied) as address:
        code, report = ask(copied, address, job, watching=watching)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert report["watch"]["findings"]
        assert labels(address) == {"stable": VERSION}


def test_a_canary_is_judged_by_its_share_of_the_requests(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, watching = copied / "examined", replace(WATCHING, share=50)
    change(job, watching=config(copied, watching).options()["watching"])
    with service(copied) as address:
        # What ends the job in the midst of it ends the share: nobody knows when it goes on.
        shares = []

        def interrupted(remote: Remote, *_: object) -> None:
            shares.append(httpx.get(f"http://{address}/v1/models/digits/labels").json()["shares"])
            remote.max_batch("digits", VERSION)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(steps, "watch", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask(copied, address, job, watching=watching)
        shares.append(httpx.get(f"http://{address}/v1/models/digits/labels").json()["shares"])
        assert shares == [{"canary": 50}, {}]
        with Asking(address, inverted(DIGITS.held_out.pixels[:32])) as asking:
            code, report = ask(copied, address, job, watching=watching)
        assert (code, report["outcome"]) == (0, "promoted")
        # Enough was seen of what others asked; of its own the job sent one batch, to compare.
        assert report["watch"]["shared"] >= WATCHING.watch_images
        assert (report["watch"]["sent"], report["watch"]["agreement"]) == (32, 1)
        assert [each["failed"] for each in report["watch"]["answering"].values()] == [0, 0]
        assert asking.versions == {str(VERSION), str(VERSION + 1)}
        found = httpx.get(f"http://{address}/v1/models/digits/labels").json()
        assert found == {"labels": {"stable": VERSION + 1}, "shares": {}, "withheld": []}


def test_what_is_grave_in_real_requests_ends_the_share_at_once(copied: Path) -> None:
    job = copied / "examined"
    watching = replace(WATCHING, share=50, watch_images=10_000, watch_severity="warning")
    change(job, watching=config(copied, watching).options()["watching"])
    with service(copied) as address:
        ones = inverted(DIGITS.held_out.pixels[DIGITS.held_out.labels == 1][:32])
        with Asking(address, ones):
            code, report = ask(copied, address, job, watching=watching)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert report["watch"]["findings"]
        assert (report["watch"]["sent"], report["watch"]["agreement"]) == (0, None)
        found = httpx.get(f"http://{address}/v1/models/digits/labels").json()
        assert found == {"labels": {"stable": VERSION}, "shares": {}, "withheld": [VERSION + 1]}
        # Nobody gets it by default, not even who asks for the newest.
        load = f"http://{address}/v2/repository/models/digits/load"
        loaded = httpx.post(load, headers={"X-API-Key": KEY}, timeout=30).raise_for_status()
        assert loaded.json()["version"] == str(VERSION)


def test_a_canary_that_fails_more_often_than_the_champion_is_rolled_back(copied: Path) -> None:
    """What fails are requests that nobody could answer, and that the canary alone gets."""
    job, watching = copied / "examined", replace(WATCHING, share=50, watch_images=100_000)
    change(job, watching=config(copied, watching).options()["watching"])
    drawn = Shares("digits", {VERSION + 1: 50.0})
    names = [name for number in range(60) if drawn.draw(name := f"order-{number}") == VERSION + 1]
    end = threading.Event()

    def fail(address: str) -> None:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            while not end.wait(0.02):
                for name in names:
                    answer = client.post("/v2/models/digits/infer", content=b"{}", headers={"X-Request-Id": name})
                    assert answer.status_code == 400

    with service(copied) as address, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fail, address)
        try:
            with Asking(address, inverted(DIGITS.held_out.pixels[:32])):
                code, report = ask(copied, address, job, watching=watching)
        finally:
            end.set()
        failing.result()
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert "of the champion's" in report["message"]
        answering = report["watch"]["answering"]
        assert (answering["champion"]["failed"], answering["champion"]["answered"] > 0) == (0, True)
        assert answering["canary"]["failed"] >= 20
        assert httpx.get(f"http://{address}/v1/models/digits/labels").json()["shares"] == {}


def test_a_canary_that_somebody_ends_is_not_promoted(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(remote: Remote, name: str, *given: Any) -> Watched:
        watched = watch(remote, name, *given)
        remote.remove_label(name, "canary")
        return watched

    monkeypatch.setattr(steps, "watch", ended)
    with service(copied) as address:
        code, report = ask(copied, address, copied / "examined")
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert "somebody else ended" in report["message"]
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)
        # A share that a job left which nobody goes on with ends with the next one.
        label = f"http://{address}/v1/models/digits/labels/canary"
        left = {"version": VERSION + 1, "share": 5}
        httpx.put(label, json=left, headers={"X-API-Key": KEY}, timeout=30).raise_for_status()
        killed(copied, address, copied / "another", "champion", written=True)
        assert labels(address) == {"stable": VERSION}


def test_a_canary_that_does_not_load_is_rolled_back(copied: Path) -> None:
    job = copied / "examined"
    manifest = ModelRepository(copied / "shelf").open("digits").manifest
    file = job / "candidate" / SAMPLE
    sample = ParitySample.from_bytes(file.read_bytes(), manifest.preprocessing, 10)
    file.write_bytes(replace(sample, logits=sample.logits + np.float32(1)).to_bytes())
    with service(copied) as address:
        code, report = ask(copied, address, job)
        assert (code, report["outcome"]) == (4, "rolled_back")
        assert "cannot load it" in report["message"]
        assert "parity sample" in report["message"]
        assert (labels(address), default(address)) == ({"stable": VERSION}, VERSION)


def test_who_may_not_control_is_told_before_any_training(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(copied) as address:
        before = labels(address)
        for key in (OTHER_KEY, ""):
            monkeypatch.setenv("RESLENS_CONTROL_KEY", key)
            code, report = ask(copied, address, copied / "job")
            assert (code, report["outcome"], report["steps"]) == (6, "forbidden", [])
            assert "401" in report["message"]
        assert labels(address) == before


def test_a_service_that_is_not_there_is_asked_again_for_a_while(copied: Path) -> None:
    job = copied / "examined"
    before = json.loads((job / "state.json").read_text())["done"]
    code, report = ask(copied, "127.0.0.1:9", job, patience=0.3)
    assert (code, report["outcome"]) == (5, "unreachable")
    # What was done stays done; and nothing is published that the service could serve before it is told not to.
    assert report["steps"] == [*before]
    assert ModelRepository(copied / "shelf").versions("digits") == [VERSION]


def test_a_full_disk_is_said_and_the_job_goes_on(copied: Path) -> None:
    """What is written to this device never fits."""
    job = copied / "examined"
    before = (job / "state.json").read_text()
    (job / "state.partial").symlink_to("/dev/full")
    with service(copied) as address:
        code, report = ask(copied, address, job)
        assert (code, report["outcome"]) == (8, "not written")
        assert "No space left" in report["message"]
        assert (job / "state.json").read_text() == before
        (job / "state.partial").unlink()
        # What was published before the disk was full is found again.
        assert ask(copied, address, job)[0] == 0
    assert ModelRepository(copied / "shelf").versions("digits") == [VERSION, VERSION + 1]


def test_one_job_at_a_time_and_of_one_kind(copied: Path) -> None:
    job = copied / "examined"
    with JobFolder(job).alone():
        code, report = ask(copied, "127.0.0.1:9", job)
    assert (code, report["outcome"]) == (7, "busy")
    with pytest.raises(ValueError, match=r"not over .*epochs was 1, now 2.*--fresh"):
        command("digits", config(copied).new, replace(RECIPE, epochs=2), BOUNDS, WATCHING, job=job, url="http://x")


def test_what_cannot_be_begun_changes_nothing(copied: Path) -> None:
    shutil.copytree(copied / "shelf" / "digits" / str(VERSION), copied / "shelf" / "digits" / "2")
    manifest = copied / "shelf" / "digits" / "2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"version": {VERSION}', '"version": 2'))
    bundles.publish(copied / "shelf", "foreign")
    given = {"data": config(copied).new, "recipe": RECIPE, "job": copied / "job", "repository": copied / "shelf"}
    with service(copied) as address:
        label = f"http://{address}/v1/models/digits/labels/stable"
        httpx.put(label, json={"version": 2}, headers={"X-API-Key": KEY}, timeout=30).raise_for_status()
        with pytest.raises(ValueError, match=r"'stable' is of version 2, and version 3 is served"):
            command("digits", url=f"http://{address}", threads=1, **given)
        # Its network is not known.
        with pytest.raises(ValueError, match="it cannot be trained on"):
            command("foreign", url=f"http://{address}", threads=1, fresh=True, **given)
    assert not (copied / "shelf" / "foreign" / "serving.json").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "folder"}, "needs --data-dir"),
        ({"data": "nothing"}, "data"),
        ({"folder": "here"}, "unknown folder"),
        ({"data": "folder", "data_dir": "x", "image_size": "large"}, "image_size"),
    ],
)
def test_old_data_that_is_none_is_a_mistake(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_data(given)


def test_old_data_is_named_as_options_are() -> None:
    expected = DataConfig("folder", "x", image_size=32)
    assert parse_data({"data": "folder", "--data-dir": "x", "image-size": "32"}) == expected


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read .*--fresh"):
        JobFolder(tmp_path).read()
    # Whoever waits for the lock gets it when the other one is gone.
    with JobFolder(tmp_path).alone():
        pass
    with JobFolder(tmp_path).alone():
        JobFolder(tmp_path).start({})
