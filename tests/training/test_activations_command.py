"""`python -m training activations`, as people and programs run it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.activations.catalogue import ACTIVATIONS, ENTRY_POINTS, find_activation
from training.activations.facts import WIDTH, Facts, gather
from training.activations.wording import details, saturated, summary
from training.commands.activations import activations


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", "activations", *arguments], capture_output=True, text=True, encoding="utf-8"
    )


def _facts(key: str) -> Facts:
    return gather(key, find_activation(key))


def test_the_list_is_whole_in_a_pipe() -> None:
    listed = _run()
    assert listed.returncode == 0
    for key in ACTIVATIONS:
        expected = list(summary(_facts(key)).values())
        (line,) = (line for line in listed.stdout.splitlines() if line.split()[:1] == [key])
        assert [cell.strip() for cell in _cells(line, listed.stdout)] == expected
    assert "…" not in listed.stdout.replace("λ = 1.0507…", "")


def _cells(line: str, table: str) -> list[str]:
    """The line cut where the columns of the head start."""
    head = next(row for row in table.splitlines() if row.strip().startswith("key"))
    starts = [head.index(column) for column in summary(_facts("relu"))]
    return [line[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def test_one_is_shown_in_full() -> None:
    shown = _run("elu")
    assert shown.returncode == 0
    for subject, text in details(_facts("elu")).items():
        assert any(line.startswith(subject) and line.rstrip().endswith(text) for line in shown.stdout.splitlines()), (
            subject
        )
    assert "Raises `ValueError` for α ≤ 0." in shown.stdout


def test_an_unknown_name_is_one_line() -> None:
    refused = _run("selu2")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: unknown activation 'selu2'; choose from identity, relu")
    assert len(refused.stderr.splitlines()) == 1


BROKEN = {
    "absent": ("import no_such_package", "cannot be loaded: No module named 'no_such_package'"),
    "torn": ("OTHER = 1", "cannot be loaded: .* no attribute 'IT'"),
    "raising": ("raise RuntimeError('no licence')", "cannot be loaded: RuntimeError: no licence"),
    "misspelt": ("def (:", "cannot be loaded: SyntaxError: "),
    "foreign": ("IT = 1", "is of type int, not Activation"),
    "relu": ("IT = 1", "activation key 'relu' is taken more than once"),
    "unfinished": (
        "from training.activations.entry import Activation, ActivationModule\n"
        "class Unfinished(ActivationModule): pass\n"
        "IT = Activation(formula='x', module=Unfinished, source='s', use='u', slopes=(1.0, 1.0))",
        "activation 'unfinished' raises TypeError: .*abstract",
    ),
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_broken_package_is_named_and_the_others_are_listed(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, complaint = BROKEN[key]
    (tmp_path / f"their_{key}.py").write_text(content)
    information = tmp_path / "theirs-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{key} = their_{key}:IT\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    activations(json=True)
    printed, complained = capsys.readouterr()
    assert list(json.loads(printed)) == [name for name in ACTIVATIONS if name != key]
    assert re.fullmatch(f"left out: .*{complaint}.*\n", complained), complained


def test_json_is_for_programs() -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    printed = json.loads(_run("--json").stdout, parse_constant=refuse)
    assert list(printed) == list(ACTIVATIONS)
    relu6 = printed["relu6"]
    assert relu6["output_range"] == [0, 6]
    assert relu6["saturated_inputs"] == [[None, 0], [6, None]]
    assert relu6["saturation"] == {"below": 0, "above": 6}
    assert relu6["slopes"] == [0, 0]
    assert printed["squared_relu"]["slopes"] == [0, None]
    assert printed["glu"]["slopes"] is None
    assert printed["prelu"]["learned"] == {"weight": [WIDTH]}
    assert (printed["crelu"]["takes"], printed["crelu"]["gives"]) == (1, 2)
    assert (printed["maxout"]["takes"], printed["maxout"]["gives"]) == (2, 1)


@pytest.mark.parametrize("key", ACTIVATIONS)
def test_the_body_that_is_shown_computes_and_prepares_no_constants(key: str) -> None:
    node = _facts(key).node
    module = find_activation(key).build(find_activation(key).width_before(WIDTH))
    operators = [step.op_type for step in module.node().body.to_function_proto().node]
    remaining = iter(operators)
    assert all(operator in remaining for operator in node.body), "not in the order of the body"
    assert node.body
    assert "Constant" not in node.body
    assert node.operator == module.node().body.name


@pytest.mark.parametrize(
    ("key", "where"),
    [("identity", "never"), ("step", "everywhere"), ("relu6", "x < 0, x > 6"), ("glu", "–")],
)
def test_saturation_in_words(key: str, where: str) -> None:
    assert saturated(_facts(key)) == where
