"""What there is to know of an activation, gathered in one place for the command line and the documentation."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

from models.manifest import Saturation
from training.activations.entry import Activation, ActivationModule, ActivationNode, FunctionBody
from training.activations.meaning import NormalMoments, normal_moments, saturated_inputs

WIDTH = 64
"""Nominal width at which shapes of learned parameters are stated."""

Bounds = tuple[float | None, float | None]
"""From, to; None where it is infinite."""


@dataclass(frozen=True)
class NodeFacts:
    """The node of an exported graph that stands for the activation."""

    operator: str
    attributes: Mapping[str, float | int]
    inputs: Mapping[str, tuple[int, ...]]
    """Shapes of the learned tensors beside the activation's input."""
    body: tuple[str, ...]
    """Operators of the function body in order; what only prepares constants is left out."""
    overloads: Mapping[str, tuple[str, ...]]
    """Operators of the bodies for other execution providers."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """An activation with its parameters at their defaults and what it learns at its initial value."""

    key: str
    formula: str
    description: str
    parameters: Mapping[str, float]
    learned: Mapping[str, tuple[int, ...]]
    """Shapes of the learned parameters at the nominal width `WIDTH`."""
    takes: int
    """Channels that enter for each channel of the nominal width."""
    gives: int
    reach: str
    slopes: Bounds | None
    """f′ towards −∞ and +∞, None where that is infinite; no pair where f has more than one input."""
    kinks: tuple[tuple[float, float], ...]
    """Points where f is not differentiable, with the f′ that training uses."""
    gradient: str
    output_range: Bounds
    saturated_inputs: tuple[Bounds, ...] | None
    """Intervals of x; None where f has more than one input."""
    saturation: Saturation | None
    """The region of the output; None where the output cannot show it."""
    zero_is_dead: bool
    normal: NormalMoments | None
    node: NodeFacts
    source: str
    use: str

    @property
    def learned_numbers(self) -> int:
        """How many numbers are learned at each site of width `WIDTH`."""
        return sum(math.prod(shape) for shape in self.learned.values())


def gather(key: str, activation: Activation) -> Facts:
    """Build the activation and compute what is not written in its entry."""
    module = activation.build(activation.width_before(WIDTH))
    return Facts(
        key=key,
        formula=activation.formula,
        description=inspect.cleandoc(type(module).__doc__ or ""),
        parameters=activation.parameters,
        learned={name: tuple(parameter.shape) for name, parameter in module.named_parameters()},
        takes=activation.width_before(1),
        gives=activation.width_after(1),
        reach=activation.reach,
        slopes=None if activation.slopes is None else _bounds(activation.slopes),
        kinks=tuple(activation.kinks.items()),
        gradient=activation.gradient,
        output_range=_bounds(module.output_range),
        saturated_inputs=_saturated_inputs(activation),
        saturation=module.saturation,
        zero_is_dead=module.zero_is_dead,
        normal=_normal(activation, module),
        node=_node(module.node()),
        source=activation.source,
        use=activation.use,
    )


def _bounds(pair: tuple[float, float]) -> Bounds:
    low, high = (value if math.isfinite(value) else None for value in pair)
    return low, high


def _saturated_inputs(activation: Activation) -> tuple[Bounds, ...] | None:
    if activation.reach != "element" or activation.slopes is None:
        return None
    intervals = saturated_inputs(activation)
    return tuple(_bounds((_rounded(low, 4), _rounded(high, 4))) for low, high in intervals)


def _normal(activation: Activation, module: ActivationModule) -> NormalMoments | None:
    moments = normal_moments(activation, module)
    return moments and NormalMoments(_rounded(moments.mean, 6), _rounded(moments.variance, 6))


def _rounded(value: float, digits: int) -> float:
    """Without the digits that the computation does not have, and without −0."""
    return round(value, digits) + 0.0


def _node(node: ActivationNode) -> NodeFacts:
    return NodeFacts(
        operator=node.body.name,
        attributes=dict(node.attributes),
        inputs={name: tuple(tensor.shape) for name, tensor in node.inputs.items()},
        body=_operators(node.body),
        overloads={provider: _operators(body) for provider, body in node.overloads.items()},
    )


def _operators(body: FunctionBody) -> tuple[str, ...]:
    operators: list[str] = []
    constants: set[str] = set()
    for step in body.to_function_proto().node:
        prepares_constant = step.op_type == "CastLike" and step.input[0] in constants
        # A Constant has no inputs.
        if prepares_constant or constants.issuperset(step.input):
            constants.update(step.output)
        else:
            operators.append(step.op_type)
    return tuple(operators)
