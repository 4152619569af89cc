"""The documentation names what there is."""

import ast
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from service.app import ROUTERS
from service.settings import Settings

ROOT = Path(__file__).parents[2]


def docstrings() -> dict[str, str]:
    """Of the settings, each the string below it."""
    (written,) = (
        node
        for node in ast.parse((ROOT / "service/settings.py").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    return {
        field.target.id: str(below.value.value)
        for field, below in pairwise(written.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }


DOCSTRINGS = docstrings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    (row,) = (
        line for line in (ROOT / "docs/serving.md").read_text().splitlines() if f"| `RESLENS_{name.upper()}` |" in line
    )
    assert DOCSTRINGS[name] in row
    if name != "model_repository" and field.default is not None:
        assert f"| `{str(field.default).lower()}` |" in row


def test_every_path_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for router in ROUTERS:
        for route in router.routes:
            fixed = [part for part in route.path.split("/") if part and "{" not in part]  # type: ignore[attr-defined]
            last = fixed[-1] if fixed else "/"
            assert last in readme, route


def test_the_readme_and_the_architecture_stay_short() -> None:
    for name in ("README.md", "ARCHITECTURE.md"):
        assert len((ROOT / name).read_text().splitlines()) <= 150, name


def test_onnx_runtime_sends_no_telemetry() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    program = "import service.runtime.provider, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "1"


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/serving.md", "docs/training.md"]
)
def test_no_placeholder_is_left(name: str) -> None:
    assert not re.findall(r"^[A-Z]{4,}$", (ROOT / name).read_text(), re.MULTILINE)
