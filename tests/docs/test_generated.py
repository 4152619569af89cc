"""What is written by program in docs/ is what the program would write now."""

import json
import re
from pathlib import Path

import pytest

from docs.activation_page import activation_page
from docs.block_drawing import draw_arrangement, draw_merge
from docs.costs import Costs, read_costs
from docs.drawing import draw
from docs.extension import EXAMPLE
from docs.generated import BLOCKS, DOCS, MEASURED, PLOTS, generated
from docs.plot import plot
from training.activations.catalogue import ACTIVATIONS, find_activation
from training.activations.facts import gather
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.merges import MERGES


@pytest.fixture
def page() -> str:
    return (DOCS / "activations.md").read_text(encoding="utf-8")


def test_page_and_plots_are_up_to_date() -> None:
    files = generated()
    stale = {path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text}
    stale |= {*PLOTS.glob("*.svg"), *BLOCKS.glob("*.svg")} - files.keys()
    assert not stale, f"run `make docs`: {', '.join(str(path.relative_to(DOCS)) for path in stale)}"


def test_every_activation_has_its_section_and_its_plot(page: str) -> None:
    sections = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert sections == list(ACTIVATIONS)
    links = re.findall(r"\]\((activations/[^)]+)\)", page)
    assert links == ["activations/overview.svg", *(f"activations/{key}.svg" for key in ACTIVATIONS)]
    assert set(re.findall(r"\]\(#(\w+)\)", page)) == set(ACTIVATIONS)


def test_a_row_has_as_many_cells_as_its_head(page: str) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) == 1 + len(ACTIVATIONS)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


def test_the_example_is_the_package_that_is_tested(page: str) -> None:
    for name in ("bent_identity.py", "pyproject.toml"):
        assert (EXAMPLE / name).read_text(encoding="utf-8") in page


def test_every_arrangement_and_shortcut_is_drawn() -> None:
    for name, catalogue in (("arrangements", ARRANGEMENTS), ("shortcuts", MERGES)):
        drawn = (BLOCKS / f"{name}.svg").read_text(encoding="utf-8")
        assert all(f">{key}</text>" in drawn for key in catalogue)


def test_a_block_is_drawn_as_it_is_built() -> None:
    drawing = draw_arrangement("bn_after_addition")
    assert drawing.branch == ("3×3 convolution", "BN", "activation", "3×3 convolution")
    assert drawing.closing == ("BN", "activation")
    assert draw_merge("constant_scaling").shortcut == ("0.5 · x",)
    assert not draw_merge("none").joins


@pytest.mark.parametrize("key", ["selu", "dynamic_relu_c"])
def test_a_plot_is_the_same_on_every_day_and_machine(key: str) -> None:
    activation = find_activation(key)
    # Text is text, not glyphs of a font that another machine may not have.
    first, again = (plot(draw(activation, gather(key, activation))) for _ in range(2))
    assert first == again
    assert ">f′(x)</text>" in first
    assert "dc:date" not in first


def test_kinks_are_drawn_where_they_are() -> None:
    activation = find_activation("hard_swish")
    drawing = draw(activation, gather("hard_swish", activation))
    (curve,) = drawing.curves
    assert curve.kinks == (-3.0, 3.0)
    low, high = drawing.window
    assert low < -3
    assert high > 3


def _page_of_mish(costs: Costs) -> str:
    activation = find_activation("mish")
    facts = gather("mish", activation)
    return activation_page([facts], {"mish": draw(activation, facts)}, costs)


def test_costs_are_told_with_where_they_were_measured(tmp_path: Path) -> None:
    saved = tmp_path / "activations.json"
    saved.write_text(json.dumps(MEASUREMENT))
    page = _page_of_mish(read_costs(saved))
    assert "2026-01-02: processor of a test" in page
    assert (
        "| cost alone | 0.8 ns an element, 2.5 [2.4, 2.6] × ReLU; plain export 3.2 ns, 10.0 [9.0, 11.0] × ReLU |"
        in page
    )
    assert "| cost in a ResNet-20, original | batch 1: 2.10 ms, plain export 3.10 ms, ReLU 1.90 ms |" in page
    (row,) = re.findall(r"^\| \[`mish`.*$", page, re.MULTILINE)
    assert row.endswith("| 2.5 | 10.0 |")


def test_without_figures_no_cost_is_told(tmp_path: Path) -> None:
    page = _page_of_mish(read_costs(tmp_path / "none.json"))
    assert "cost alone" not in page
    assert "× ReLU" not in page


@pytest.mark.skipif(not MEASURED.exists(), reason="nothing was measured")
def test_every_activation_was_measured() -> None:
    costs = read_costs(MEASURED)
    assert costs.alone.keys() == ACTIVATIONS.keys()
    assert costs.networks.keys() == ACTIVATIONS.keys()


MEASUREMENT = {
    "measured": "2026-01-02T03:04:05+00:00",
    "machine": {"processor": "of a test", "onnxruntime": "1"},
    "results": {
        "activations": [
            {
                "activation": "mish",
                "ours ns": "0.8",
                "plain ns": "3.2",
                "ours / relu": "2.5 [2.4, 2.6]",
                "plain / relu": "10.0 [9.0, 11.0]",
                "failure": "",
            }
        ],
        "activation_networks": [
            {
                "activation": "mish",
                "arrangement": "original",
                "batch": "1",
                "ours ms": "2.10",
                "plain ms": "3.10",
                "relu ms": "1.90",
            }
        ],
    },
}
