"""The files of docs/ that are written by program, as they should be now."""

from pathlib import Path

from docs.activation_page import activation_page
from docs.block_drawing import draw_arrangement, draw_merge
from docs.block_plot import block_sheet
from docs.costs import read_costs
from docs.drawing import draw
from docs.family_page import family_page
from docs.network_page import network_page
from docs.plot import contact_sheet, plot
from training.activations.catalogue import ACTIVATIONS
from training.activations.facts import gather
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.facts import gather as gather_network
from training.resnet.merges import MERGES
from training.resnet.variants import VARIANTS

DOCS = Path(__file__).parent
PLOTS = DOCS / "activations"
BLOCKS = DOCS / "networks"
FAMILY = DOCS.parent / "benchmarks" / "results" / "family-digits.json"
MEASURED = DOCS.parent / "benchmarks" / "results" / "activations-cpu.json"


def generated(measured: Path = MEASURED) -> dict[Path, str]:
    """Text by path: the pages and their plots."""
    return {**_activations(measured), **_networks()}


def _activations(measured: Path) -> dict[Path, str]:
    """The page, a plot of each activation, and one of all."""
    # The catalogue of this repository, without what other installed packages bring.
    facts = {key: gather(key, activation) for key, activation in ACTIVATIONS.items()}
    drawings = {key: draw(activation, facts[key]) for key, activation in ACTIVATIONS.items()}
    return {
        DOCS / "activations.md": activation_page(list(facts.values()), drawings, read_costs(measured)),
        PLOTS / "overview.svg": contact_sheet(drawings),
        **{PLOTS / f"{key}.svg": plot(drawing) for key, drawing in drawings.items()},
    }


def _networks() -> dict[Path, str]:
    """The page, and a drawing of the arrangements and of the shortcuts."""
    return {
        DOCS / "networks.md": network_page([gather_network(key) for key in VARIANTS]),
        DOCS / "family.md": family_page(FAMILY),
        BLOCKS / "arrangements.svg": block_sheet({key: draw_arrangement(key) for key in ARRANGEMENTS}),
        BLOCKS / "shortcuts.svg": block_sheet({key: draw_merge(key) for key in MERGES}),
    }
