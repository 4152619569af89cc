"""The facts of an activation in words: the same in the terminal and in the documentation."""

from collections.abc import Iterable, Mapping

from models.manifest import Saturation
from models.opset import DOMAIN
from training.activations.facts import WIDTH, Bounds, Facts, NodeFacts

NOTHING = "–"

REACH = {
    "element": "the input at its place",
    "channels": "all channels at its position",
    "image": "other positions too",
}


def summary(facts: Facts) -> dict[str, str]:
    """One row of the overview."""
    return {
        "key": facts.key,
        "formula": facts.formula,
        "parameters": assignments(facts.parameters),
        "learns": str(facts.learned_numbers or NOTHING),
        "channels": channels(facts),
        "saturates where": saturated(facts),
        "zero = dead": "yes" if facts.zero_is_dead else "no",
        "mean": number(facts.normal.mean) if facts.normal else NOTHING,
        "variance": number(facts.normal.variance) if facts.normal else NOTHING,
        "use": facts.use,
    }


def details(facts: Facts) -> dict[str, str]:
    """Everything, by subject."""
    node = facts.node
    rows = {
        "use": facts.use,
        "formula": facts.formula,
        "parameters": assignments(facts.parameters),
        "learns": _learned(facts),
        "channels": channels(facts),
        "an output depends on": REACH[facts.reach],
        "f′ at the kinks": _kinks(facts),
        "f′ at −∞, +∞": _slopes(facts.slopes),
        "gradient": facts.gradient,
        "range": f"{_bound(facts.output_range[0], '−∞')} to {_bound(facts.output_range[1], '∞')}",
        "saturates where": saturated(facts),
        "shown by an output": _region(facts.saturation),
        "zero = dead": "yes: a unit of nothing but zeros has no gradient" if facts.zero_is_dead else "no",
        "N(0, 1) becomes": _normal(facts),
        "ONNX node": _node(node),
        "ONNX body": arrows(node.body),
        **{f"ONNX body on {provider}": arrows(body) for provider, body in node.overloads.items()},
        "source": facts.source,
    }
    return {subject: text for subject, text in rows.items() if text}


def number(value: float) -> str:
    """Four significant digits, with a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


def assignments(values: Mapping[str, float]) -> str:
    """`alpha = 0.01, …`"""
    return ", ".join(f"{name} = {number(value)}" for name, value in values.items()) or NOTHING


def channels(facts: Facts) -> str:
    """`C → 2C`: what enters and what leaves, for a nominal width of C."""
    return " → ".join(f"{'' if factor == 1 else factor}C" for factor in (facts.takes, facts.gives))


def saturated(facts: Facts) -> str:
    """The intervals of x."""
    if facts.saturated_inputs is None:
        return NOTHING
    return ", ".join(_interval(interval) for interval in facts.saturated_inputs) or "never"


def arrows(operators: Iterable[str]) -> str:
    """`Exp → Add → Div`"""
    return " → ".join(operators)


def _interval(interval: Bounds) -> str:
    low, high = interval
    if low is None:
        return "everywhere" if high is None else f"x < {number(high)}"
    return f"x > {number(low)}" if high is None else f"{number(low)} < x < {number(high)}"


def _bound(value: float | None, infinity: str) -> str:
    return infinity if value is None else number(value)


def _kinks(facts: Facts) -> str:
    if facts.kinks or facts.slopes is None:
        return ", ".join(f"f′({number(x)}) = {number(slope)}" for x, slope in facts.kinks)
    return "no kinks"


def _slopes(slopes: Bounds | None) -> str:
    # Only the magnitude can be infinite upwards: no activation falls ever more steeply.
    return "" if slopes is None else ", ".join(_bound(slope, "∞") for slope in slopes)


def _region(saturation: Saturation | None) -> str:
    if saturation is None:
        return "cannot be told: the values of the saturated region occur outside it too"
    below = [] if saturation.below is None else [f"y ≤ {number(saturation.below)}"]
    above = [] if saturation.above is None else [f"y ≥ {number(saturation.above)}"]
    return " or ".join(below + above) or "never"


def _normal(facts: Facts) -> str:
    if facts.normal is None:
        return ""
    return f"mean {number(facts.normal.mean)}, variance {number(facts.normal.variance)}"


def _learned(facts: Facts) -> str:
    if not facts.learned:
        return NOTHING
    numbers = "1 number" if facts.learned_numbers == 1 else f"{facts.learned_numbers} numbers"
    return f"{_shapes(facts.learned)}: {numbers} at a width of {WIDTH}"


def _shapes(tensors: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} ({'×'.join(map(str, shape))})" for name, shape in tensors.items())


def _node(node: NodeFacts) -> str:
    parts = [f"{DOMAIN}::{node.operator}"]
    if node.attributes:
        parts.append(assignments(node.attributes))
    if node.inputs:
        parts.append(f"inputs beside x: {_shapes(node.inputs)}")
    return "; ".join(parts)
