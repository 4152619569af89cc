"""What lies in deploy/retrain/ asks for options that exist."""

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from training.commands.retrain import retrain
from training.commands.watch import watch
from training.data.sources import DataConfig
from training.retraining.material import parse_data

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "retrain"


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command, and what it is given by these arguments; the others are at their defaults."""
    called: list[tuple[str, dict[str, Any]]] = []

    def recording(command: Any) -> Any:
        @functools.wraps(command)
        def record(**given: Any) -> None:
            called.append((command.__name__, given))

        return record

    commands = {"retrain": recording(retrain), "watch": recording(watch)}
    config = (tyro.conf.OmitArgPrefixes,)
    tyro.extras.subcommand_cli_from_dict(commands, args=arguments, config=config)
    return called[0]


def run_script(name: str, folder: Path, *options: str) -> list[str]:
    """What a script gives to `python -m training`, which is recorded by a program in its place."""
    python = folder / "python"
    python.write_text('#!/bin/sh\nfor each in "$@"; do printf "%s\\n" "$each"; done > "$RECORD"\n')
    python.chmod(0o755)
    record = folder / "record"
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}", "RECORD": str(record),
        "MODEL": "digits", "DATA": "new images", "OLD": "old",
    }  # fmt: skip
    subprocess.run(["sh", str(DEPLOY / name), *options], env=environment, check=True, cwd=folder, timeout=30)
    first, second, *arguments = record.read_text().splitlines()
    assert (first, second) == ("-m", "training")
    return arguments


def check(given: dict[str, Any], folder: str, old: str) -> None:
    assert (given["name"], given["replay"]) == ("digits", 1)
    assert given["data"] == DataConfig("folder", folder)
    assert parse_data(given["old"]) == DataConfig("folder", old)


def test_the_command_by_hand_and_that_of_cron(tmp_path: Path) -> None:
    command, given = parsed(run_script("by-hand.sh", tmp_path, "--share", "5"))
    assert (command, given["watching"].share) == ("retrain", 5)
    check(given, "new images", "old")
    (line,) = [each for each in (DEPLOY / "crontab").read_text().splitlines() if not each.startswith("#")]
    assert line.split()[:5] == ["0", "2", "*", "*", "*"]
    assert "deploy/retrain/by-hand.sh" in line


def test_the_receiver_passes_options_of_the_job_on(tmp_path: Path) -> None:
    command, given = parsed(run_script("webhook.sh", tmp_path))
    assert (command, given["name"], given["listen"]) == ("watch", "digits", "127.0.0.1:9000")
    command, of_job = parsed(["retrain", "--name", "digits", "--found-in", "3", *given["options"]])
    assert command == "retrain"
    check(of_job, "new images", "old")
    assert of_job["found_in"] == 3


@pytest.mark.parametrize("name", ["by-hand.sh", "webhook.sh"])
def test_scripts_say_what_they_lack(name: str) -> None:
    done = subprocess.run(
        ["sh", str(DEPLOY / name)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "name of the model" in done.stderr


def test_the_job_of_kubernetes_has_an_image_that_the_dockerfile_makes() -> None:
    document = yaml.safe_load((DEPLOY / "cronjob.yaml").read_text())
    pod = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    _, stage = (ROOT / "Dockerfile").read_text().split("FROM ${BASE} AS training\n")
    stage = stage.partition("\nFROM")[0]
    assert "docker build --target training -t reslens-training" in (ROOT / "Dockerfile").read_text()
    assert pod["containers"][0]["image"] == "reslens-training:latest"
    assert f"USER {pod['securityContext']['runAsUser']}\n" in stage
    # The root is read-only: where else anything is written is a volume.
    home = next(word.removeprefix("HOME=") for word in stage.split() if word.startswith("HOME="))
    assert home in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}


def test_the_job_of_kubernetes() -> None:
    document = yaml.safe_load((DEPLOY / "cronjob.yaml").read_text())
    (container,) = document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    command, given = parsed([*container["command"][3:], *container["args"]])
    assert container["command"][:3] == ["python", "-m", "training"]
    assert command == "retrain"
    check(given, "/images/new", "/images/old")
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for path in (given["repository"], given["job"], given["report"], Path(given["data"].data_dir)):
        assert mounted & {str(parent) for parent in (path, *path.parents)}, path
