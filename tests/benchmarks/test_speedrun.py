"""The time to an accuracy: told where it is reached, said where it is not, the same after an interruption."""

import json
from pathlib import Path

import pytest

from benchmarks.speedrun import Case, Epoch, Finished, main
from training.loop.checkpoint import previous

CASE = "speedrun:resnet8"


def test_the_whole_way_on_the_cpu(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a target that any accuracy reaches, and with one that none does."""
    saved, runs = tmp_path / "speedrun.json", tmp_path / "runs"
    given = [str(pictures), "--epochs", "2", "--device", "cpu", "--runs", str(runs), "--save", str(saved)]
    main([*given, "--case", f"{CASE}:2", "--target", "0.0"])
    found = json.loads(saved.read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert [run["reached"]["epoch"] for run in found["runs"]] == [1, 1]
    assert found["machine"]["device"] == "cpu"
    assert found["data"] == {"name": pictures.name, "training": 24, "held_out": 8}

    # Killed between the checkpoint of the first epoch and that of the second, whose line was written already.
    checkpoint = runs / "speedrun-resnet8-2-0-cpu.pt"
    previous(checkpoint).replace(checkpoint)
    main([*given, "--case", CASE, "--target", "1.01"])
    (resumed,) = json.loads(saved.read_text())["runs"]
    before = found["runs"][0]["epochs"]
    assert resumed["reached"] is None
    assert [(each["epoch"], each["accuracy"]) for each in resumed["epochs"]] == [
        (each["epoch"], each["accuracy"]) for each in before
    ]
    assert resumed["epochs"][0] == before[0]
    assert "not reached" in capsys.readouterr().out


def test_the_first_epoch_that_is_there_counts() -> None:
    epochs = [Epoch(1, 0.5, 10.0), Epoch(2, 0.941, 20.0), Epoch(3, 0.93, 30.0)]
    row = Finished(Case.parse("he2015:resnet20"), 0, 0.94, epochs).row()
    assert row["to 94%"] == "20.0 s, epoch 2"
    assert (row["at the end"], row["best epoch"], row["seconds"]) == ("93.00%", "94.10%", "30.0")


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("he2016:resnet20", "unknown recipe 'he2016'"),
        ("he2015:resnet21", "unknown network 'resnet21'"),
        ("he2015:resnet20:none", "'none' is no number of seeds"),
    ],
)
def test_what_is_not_there_is_named(
    case: str, wrong: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(pictures), "--case", case, "--device", "cpu", "--runs", str(tmp_path)])
    assert wrong in capsys.readouterr().err
