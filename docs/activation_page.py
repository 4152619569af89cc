"""docs/activations.md: every activation of the catalogue."""

from collections.abc import Iterable, Mapping, Sequence

from docs.costs import Costs, cost_columns, cost_details
from docs.drawing import Drawing
from docs.extension import add_your_own
from docs.markdown import table, text
from training.activations.facts import WIDTH, Facts
from training.activations.wording import details, number, summary

OPENING = """<!-- Written by `make docs` from the catalogue in training/activations/: do not edit. -->
# Activations

Every activation can stand in every network: it is named by its key when a network is trained, and becomes one node of
the published graph, with a function body of standard ONNX operators.

```sh
python -m training activations              # this list; --json for programs
python -m training activations elu          # everything about one
python -m training train --activation elu --activation-parameters alpha 0.5
```

[Add your own](#add-your-own) without touching this repository.

![Every activation, blue, with its derivative, orange, from −4 to 4](activations/overview.svg)
"""

READING = f"""How to read this. **Blue** is the function, **orange** its derivative as training uses it; dots are values
at kinks, rings are limits that are not taken, **grey** is where it saturates. All is said for the parameters named, and
for learned ones at their initial values.

- **Saturates where**: |f′| is below 1 % of its maximum (where f′ has no maximum: it is 0), computed from f in float64;
  the surroundings of a minimum are among it.
- **Shown by an output**: the values of the output from which the layer statistics tell saturation.
- **Range**: from the infimum to the supremum of the output; of those that learn, over all that they can learn.
- **Zero = dead**: a unit that puts out nothing but zeros has no gradient either.
- **Mean, variance**: of the output when inputs are drawn from N(0, 1).
- **Channels**: what enters and what leaves a site, for a layer of nominal width C.
- **Learns**: how many numbers at each site, at a width of {WIDTH}.
"""


def activation_page(facts: Sequence[Facts], drawings: Mapping[str, Drawing], costs: Costs) -> str:
    """The whole page as Markdown."""
    parts = [OPENING, "## All\n", _overview(facts, costs), READING, *_measurement(costs), "## One by one\n"]
    parts += [_section(each, drawings[each.key], costs) for each in facts]
    return "\n".join([*parts, add_your_own()])


def _overview(facts: Iterable[Facts], costs: Costs) -> str:
    rows = []
    for each in facts:
        cells = {name: text(cell) for name, cell in (summary(each) | cost_columns(costs, each.key)).items()}
        # The note is with the plot.
        del cells["use"]
        rows.append(cells | {"key": f"[`{each.key}`](#{each.key})", "formula": f"`{each.formula}`"})
    return table([list(rows[0]), *(list(row.values()) for row in rows)])


def _section(facts: Facts, drawing: Drawing, costs: Costs) -> str:
    rows = details(facts)
    for told_above in ("use", "formula"):
        del rows[told_above]
    if facts.parameters:
        name, value = next(iter(facts.parameters.items()))
        rows["parameters"] += f"; set by `--activation-parameters {name} {number(value)}`"
    rows = {name: f"`{value}`" if name.startswith("ONNX") else value for name, value in rows.items()}
    rows |= cost_details(costs, facts.key)
    parts = [
        f"### {facts.key}\n",
        f"`{facts.formula}`\n",
        f"{text(facts.use)}\n",
        f"![{facts.key} and its derivative](activations/{facts.key}.svg)\n",
        f"{text(drawing.caption)}\n" if drawing.caption else "",
        f"{text(facts.description)}\n",
        table([["", ""], *([subject, text(value)] for subject, value in rows.items())]),
    ]
    return "\n".join(part for part in parts if part)


def _measurement(costs: Costs) -> list[str]:
    if not costs.machine:
        return []
    machine = ", ".join(f"{name} {value}" for name, value in costs.machine.items())
    return [
        "- **Cost**, as `make bench` measured it with ONNX Runtime on one thread, interleaved and paired: alone, on a "
        "tensor in the cache, and in a ResNet-20 on images of 32×32; medians, ratios with [95 % bootstrap interval]. "
        "Plain export is what PyTorch's exporter writes without our bodies. Figures of "
        f"{costs.measured[:10]}: {text(machine)}.\n"
    ]
