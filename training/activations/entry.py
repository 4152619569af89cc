"""What an entry of the activation catalogue is, and how its module becomes one node of an exported graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from onnx import FunctionProto
from torch import Tensor, nn

from models.manifest import Saturation
from models.opset import DOMAIN, DOMAIN_VERSION


class FunctionBody(Protocol):
    """An ONNX function of the project's domain, as `onnxscript.script` makes it."""

    @property
    def name(self) -> str: ...

    def to_function_proto(self) -> FunctionProto: ...


@dataclass(frozen=True)
class ActivationNode:
    """The node that stands for one activation site in an exported graph."""

    body: FunctionBody
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """Learned tensors beside the activation's input, in the body's order; stored as initializers under these names."""
    attributes: dict[str, float] = field(default_factory=dict)


class ActivationModule(nn.Module, ABC):
    """Base of every activation: evaluates its formula in PyTorch, and becomes a single node when exported.

    A subclass defines `formula` (elementwise, keeps the shape N×C×H×W) and `node`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frozen: ActivationNode | None = None

    @abstractmethod
    def formula(self, x: Tensor) -> Tensor:
        """The activation itself, differentiable."""

    @abstractmethod
    def node(self) -> ActivationNode:
        """The ONNX node for the parameters as they are now; the body may depend on their values."""

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
            shape=x.shape,
            version=DOMAIN_VERSION,
        )


@dataclass(frozen=True)
class Activation:
    """One entry of the catalogue: how to build the activation, and what its output means to the statistics."""

    formula: str
    build: Callable[[int], ActivationModule]
    """Makes the module for a given number of channels."""
    signed: bool
    """Whether the output can be negative."""
    saturation: Saturation | None
    """Where the output shows that |f′| < 1 % of its maximum; None where the output cannot show it."""
    source: str
