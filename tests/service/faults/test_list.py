"""The list of faults names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

from tests.service.processes import ROOT

HERE = Path(__file__).parent
LIST = (ROOT / "docs/faults.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", LIST)
# What starts a process: one of these stands in every file that is named.
STARTERS = ("tests.service.operated", "tests.service.processes", "benchmarks.soak.run", "subprocess")


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_is_named_is_a_test_of_a_process(file: str, name: str) -> None:
    path = ROOT / file if "/" in file else HERE / file
    assert name.startswith("test_")
    assert name in functions_of(path)
    assert any(starter in path.read_text() for starter in STARTERS), path


def test_every_test_of_a_fault_is_named() -> None:
    named = {name for file, name in NAMED if "/" not in file}
    written = {name for file in HERE.glob("test_*.py") for name in functions_of(file) if name.startswith("test_")}
    about_the_judge = {"test_the_judge_looks_at_what_comes_after_warm_up", "test_too_few_samples_are_no_judgement"}
    of_this_file = {"test_what_is_named_is_a_test_of_a_process", "test_every_test_of_a_fault_is_named"}
    assert written - about_the_judge - of_this_file == named
    assert len(re.findall(r"^\| .* \| .* \| `", LIST, re.MULTILINE)) >= 30
