"""The files of docs/ that are written by program, as they should be now."""

from pathlib import Path

from docs.activation_page import activation_page
from docs.costs import read_costs
from docs.drawing import draw
from docs.plot import contact_sheet, plot
from training.activations.catalogue import ACTIVATIONS
from training.activations.facts import gather

DOCS = Path(__file__).parent
PLOTS = DOCS / "activations"
MEASURED = DOCS.parent / "benchmarks" / "results" / "activations-cpu.json"


def generated(measured: Path = MEASURED) -> dict[Path, str]:
    """Text by path: the page, a plot of each activation, and one of all."""
    # The catalogue of this repository, without what other installed packages bring.
    facts = {key: gather(key, activation) for key, activation in ACTIVATIONS.items()}
    drawings = {key: draw(activation, facts[key]) for key, activation in ACTIVATIONS.items()}
    return {
        DOCS / "activations.md": activation_page(list(facts.values()), drawings, read_costs(measured)),
        PLOTS / "overview.svg": contact_sheet(drawings),
        **{PLOTS / f"{key}.svg": plot(drawing) for key, drawing in drawings.items()},
    }
