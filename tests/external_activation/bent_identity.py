"""The bent identity, an activation that ResLens does not bring."""

import torch
from onnxscript import opset20 as op
from onnxscript import script
from onnxscript.values import Opset
from torch import Tensor

from models.opset import DOMAIN, DOMAIN_VERSION
from training.activations.entry import Activation, ActivationModule, ActivationNode


@script(Opset(DOMAIN, DOMAIN_VERSION), default_opset=op)
def bent_identity(x, bend: float):
    # √(x² + 1), without the square that overflows in float16: s²(1 − 2|x|/s²) for s = |x| + 1.
    s = op.Abs(x) + 1.0
    root = s * op.Sqrt(1.0 - 2.0 * (op.Abs(x) / s / s))
    return bend * (root - 1.0) + x


class BentIdentity(ActivationModule):
    """f(x) = b·(√(x² + 1) − 1) + x. Raises `ValueError` unless 0 ≤ b ≤ 0.8: towards 1 its left side goes flat."""

    def __init__(self, channels: int, bend: float = 0.5) -> None:
        super().__init__(channels)
        if not 0 <= bend <= 0.8:
            raise ValueError(f"bend={bend} of bent_identity is not allowed: use 0 to 0.8")
        self.bend = bend

    def formula(self, x: Tensor) -> Tensor:
        return self.bend * (torch.sqrt(x**2 + 1) - 1) + x

    def node(self) -> ActivationNode:
        return ActivationNode(bent_identity, attributes={"bend": self.bend})


BENT_IDENTITY = Activation(
    formula="b·(√(x² + 1) − 1) + x",
    module=BentIdentity,
    parameters={"bend": 0.5},
    source="Wikipedia, Activation function",
    use="A bend without a flat side: units cannot die, but outputs are not bounded either.",
    slopes=(0.5, 1.5),
)
