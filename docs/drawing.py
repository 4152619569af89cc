"""What is drawn of an activation: its curves, each computed by the module itself in float64."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.activations.dynamic import DynamicReluActivation, FunnelReluActivation
from training.activations.entry import Activation, ActivationModule
from training.activations.facts import Bounds, Facts


@dataclass(frozen=True)
class Curve:
    """y = function(x), with its name in the plot; x is a vector of float64."""

    name: str
    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """Curves over one variable, to be drawn beside their derivatives."""

    curves: tuple[Curve, ...]
    variable: str = "x"
    saturated: tuple[Bounds, ...] = ()
    caption: str = ""

    @property
    def window(self) -> tuple[float, float]:
        """From where to where it is drawn: kinks and edges of saturation are well inside."""
        kinks = [kink for curve in self.curves for kink in curve.kinks]
        points = [*kinks, *(edge for interval in self.saturated for edge in interval if edge is not None)]
        return min(-4.0, 1.25 * min(points, default=0.0)), max(4.0, 1.25 * max(points, default=0.0))


def draw(activation: Activation, facts: Facts) -> Drawing:
    """The drawing of one activation: of f itself, or an example where f has more than one input."""
    if facts.key in EXAMPLES:
        return EXAMPLES[facts.key](activation)
    kinks = tuple(x for x, _ in facts.kinks)
    curve = Curve("f", _through(activation.build(1)), kinks)
    return Drawing((curve,), saturated=facts.saturated_inputs or ())


def _through(
    module: ActivationModule, assemble: Callable[[Tensor], Tensor] = lambda x: x[None], output: int = 0
) -> Callable[[Tensor], Tensor]:
    """One output channel of the module, evaluated along a row of pixels whose channels `assemble` makes from x."""
    module = module.double().eval()

    def function(x: Tensor) -> Tensor:
        y: Tensor = module(assemble(x)[None, :, None, :])[0, output, 0]
        return y

    return function


def _crelu(activation: Activation) -> Drawing:
    halves = {"max(0, x)": 0, "max(0, −x)": 1}
    curves = [Curve(name, _through(activation.build(1), output=half), (0.0,)) for name, half in halves.items()]
    return Drawing(tuple(curves), caption="Both halves of the output.")


def _maxout(activation: Activation) -> Drawing:
    def pieces(u: Tensor) -> Tensor:
        return torch.stack((-u / 2, u - 1.5))

    curve = Curve("f", _through(activation.build(2), pieces), (1.0,))
    return Drawing((curve,), "u", caption="An example: two affine pieces of one variable, x₁ = −u/2 and x₂ = u − 3/2.")


def _glu(activation: Activation) -> Drawing:
    def gated(a: float) -> Callable[[Tensor], Tensor]:
        return _through(activation.build(2), lambda b: torch.stack((torch.full_like(b, a), b)))

    curves = (Curve("a = 1", gated(1.0)), Curve("a = −1", gated(-1.0)))
    return Drawing(
        curves, "b", caption="f(a, b) over the gate's input b; the curve of a = 1 is σ(b), the slope towards a."
    )


def _frelu(activation: Activation) -> Drawing:
    def funnel(t: float) -> Callable[[Tensor], Tensor]:
        module = activation.build(1)
        assert isinstance(module, FunnelReluActivation)
        nn.init.zeros_(module.window.weight)
        nn.init.constant_(module.bn.bias, t)
        return _through(module)

    curves = (Curve("t = 1", funnel(1.0), (1.0,)), Curve("t = −1", funnel(-1.0), (-1.0,)))
    return Drawing(curves, caption="An example: max(x, t), where the window around x gives t = 1 and t = −1.")


def _dynamic(activation: Activation) -> Drawing:
    start = Curve("start", _dynamic_with(activation, 1.0, 0.0, 0.0, 0.0), (0.0,))
    # Equal b₁ and b₂, so that the pieces tie at 0 in spite of rounding.
    example = Curve("example", _dynamic_with(activation, 1.5, -0.5, 0.25, 0.25), (0.0,))
    return Drawing(
        (start, example),
        caption="As it starts, and with a₁ = 1.5, a₂ = −0.5, b₁ = b₂ = 0.25, as an image may bring.",
    )


def _spatial(activation: Activation) -> Drawing:
    drawing = _dynamic(activation)
    return Drawing(drawing.curves, caption=f"{drawing.caption} Attention is even, π = 1/3.")


def _dynamic_with(activation: Activation, a1: float, a2: float, b1: float, b2: float) -> Callable[[Tensor], Tensor]:
    """The coefficients come from the bias of the last layer, whose weights start at zero."""
    # In float64 before the coefficients are set, so that the pieces meet where they should.
    module = activation.build(1).double()
    assert isinstance(module, DynamicReluActivation)
    a, b = module.lambda_a, module.lambda_b
    residuals = [(a1 - 1) / a, a2 / a, b1 / b, b2 / b]
    with torch.no_grad():
        module.excite.bias.copy_(
            torch.tensor([2 * math.atanh(residual) for residual in residuals], dtype=torch.float64)
        )
    return _through(module)


EXAMPLES: Mapping[str, Callable[[Activation], Drawing]] = {
    "crelu": _crelu,
    "maxout": _maxout,
    "glu": _glu,
    "frelu": _frelu,
    "dynamic_relu_a": _dynamic,
    "dynamic_relu_b": _dynamic,
    "dynamic_relu_c": _spatial,
}
