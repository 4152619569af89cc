"""What an entry of the activation catalogue is, and how its module becomes one node of an exported graph."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from onnx import FunctionProto
from torch import Tensor, nn

from models.manifest import Saturation
from models.opset import DOMAIN, DOMAIN_VERSION

NEVER = Saturation()
"""The saturation region of an activation that never saturates."""


class FunctionBody(Protocol):
    """An ONNX function of the project's domain, as `onnxscript.script` makes it."""

    @property
    def name(self) -> str: ...

    def to_function_proto(self) -> FunctionProto: ...


@dataclass(frozen=True)
class ActivationNode:
    """The node that stands for one activation site in an exported graph."""

    body: FunctionBody
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """Learned tensors beside the activation's input, in the body's order; stored as initializers under these names.

    A name must not be that of a parameter or submodule."""
    attributes: Mapping[str, float | int] = field(default_factory=dict)
    overloads: Mapping[str, FunctionBody] = field(default_factory=dict)
    """Bodies with the same signature, in the same order, that are faster on an execution provider: `cpu`, `cuda`."""

    def functions(self) -> list[FunctionProto]:
        """The body and its overloads, as a model carries them: one name, told apart by `overload`."""
        functions = []
        for overload, body in {"": self.body, **self.overloads}.items():
            function = body.to_function_proto()
            function.name, function.overload = self.body.name, overload
            functions.append(function)
        return functions


class ActivationModule(nn.Module, ABC):
    """Base of every activation: evaluates its formula in PyTorch, and becomes a single node when exported.

    A subclass takes the number of channels that enter it and its parameters, defines `formula` and `node`, and says
    what its output means: class attributes, or set in `__init__` where they depend on parameters.
    """

    output_range: tuple[float, float] = (-math.inf, math.inf)
    """Infimum and supremum of the output."""
    saturation: Saturation | None = NEVER
    """Where the output shows that |f′| < 1 % of its maximum; None where the output cannot show it."""
    zero_is_dead: bool = False
    """Whether a unit that puts out nothing but zeros has no gradient either."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels={channels} is not allowed: an activation needs at least 1")
        self.channels = channels
        self._frozen: ActivationNode | None = None

    @abstractmethod
    def formula(self, x: Tensor) -> Tensor:
        """The activation itself, differentiable; N×C×H×W."""

    @abstractmethod
    def node(self) -> ActivationNode:
        """The ONNX node for the parameters as they are now; the body may depend on their values."""

    def output_channels(self) -> int:
        """Channels that leave; those that enter, unless the activation changes their number."""
        return self.channels

    @property
    def signed(self) -> bool:
        """Whether the output can be negative."""
        return self.output_range[0] < 0

    def freeze(self) -> None:
        """Fix the node before tracing: while a graph is traced, learned values cannot be read any more."""
        self._frozen = self.node()
        for name, tensor in self._frozen.inputs.items():
            self.register_buffer(name, tensor.detach().clone(), persistent=False)

    def frozen_node(self) -> ActivationNode:
        """The node fixed by `freeze`."""
        assert self._frozen is not None, "freeze() every activation before exporting"
        return self._frozen

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return self.formula(x)
        node = self.frozen_node()
        inputs = (x, *(self.get_buffer(name) for name in node.inputs))
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{node.body.name}",
            inputs,
            dict(node.attributes),
            dtype=x.dtype,
            shape=(x.shape[0], self.output_channels(), *x.shape[2:]),
            version=DOMAIN_VERSION,
        )


def _one(**_: float) -> int:
    return 1


@dataclass(frozen=True, kw_only=True)
class Activation:
    """One entry of the catalogue: how to build the activation, and what people want to know of it.

    What depends on parameters is said for the defaults.
    """

    formula: str
    module: Callable[..., ActivationModule]
    """Makes the module: the number of channels that enter, then the parameters by name."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Names and values of the parameters; those of the catalogue are the defaults."""
    source: str
    use: str
    """One line: when to take it, and what to watch out for."""
    slopes: tuple[float, float] | None
    """f′ towards −∞ and +∞; None where the function has more than one input."""
    kinks: Mapping[float, float] = field(default_factory=dict)
    """The points where f is not differentiable, and the f′ that training uses there."""
    gradient: str = ""
    """What else is to be known of the gradient."""
    reach: Literal["element", "channels", "image"] = "element"
    """What one output depends on: the input at its place, all channels at its position, or other positions too."""
    continuous: bool = True
    """False where a rounding error in the input may change the output by much more: exports are judged with that."""
    takes: Callable[..., int] = _one
    """Channels that enter for each channel of the layer's nominal width, from the parameters."""
    gives: Callable[..., int] = _one
    """Channels that leave for each channel of the layer's nominal width, from the parameters."""

    def configured(self, key: str, parameters: Mapping[str, float]) -> "Activation":
        """The same activation with other parameters; raises `ValueError` for a name that it does not have."""
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "no parameters"
            raise ValueError(f"unknown parameter {', '.join(unknown)} of activation {key}; it has {known}")
        # A whole number in place of a float would become another kind of attribute in the graph.
        given = {name: float(v) if isinstance(self.parameters[name], float) else v for name, v in parameters.items()}
        return replace(self, parameters={**self.parameters, **given})

    def build(self, channels: int) -> ActivationModule:
        """The module for `channels` channels that enter; raises `ValueError` for an impossible parameter or number."""
        return self.module(channels, **self.parameters)

    def width_before(self, width: int) -> int:
        """Channels that the layer before must put out, for a nominal width."""
        return width * self.takes(**self.parameters)

    def width_after(self, width: int) -> int:
        """Channels that the layer after must take, for a nominal width."""
        return width * self.gives(**self.parameters)


def positive(activation: str, name: str, value: float) -> float:
    """`value` if it is finite and above 0; raises `ValueError` otherwise."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}={value} of {activation} is not allowed: use a finite number above 0")
    return value
