"""Activations that change the number of channels: the layers around them ask `width_before` and `width_after`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.activations import bodies
from training.activations.entry import Activation, ActivationModule, ActivationNode


def _two(**_: float) -> int:
    return 2


def _pieces(k: float) -> int:
    if not (k >= 2 and float(k).is_integer()):
        raise ValueError(f"k={k} of maxout is not allowed: use a whole number of pieces, at least 2")
    return int(k)


class ConcatenatedReluActivation(ActivationModule):
    """f(x) = concat(max(0, x), max(0, −x)) on channels: C channels enter, 2C leave; f′(0) = 0. Shang 2016."""

    output_range = (0.0, math.inf)

    def output_channels(self) -> int:
        return 2 * self.channels

    def formula(self, x: Tensor) -> Tensor:
        return torch.cat((F.relu(x), F.relu(-x)), dim=1)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.ConcatenatedRelu, {"minus": -torch.ones(self.channels, 1, 1)})


class MaxoutActivation(ActivationModule):
    """f(x)_c = max over j of x_{c + jC/k}: the k pieces are contiguous groups of channels; C enter, C/k leave.

    Raises `ValueError` for k that is not a whole number of at least 2, and for channels that k does not divide.
    Goodfellow 2013.
    """

    def __init__(self, channels: int, k: float = 2) -> None:
        super().__init__(channels)
        self.pieces = _pieces(k)
        if channels % self.pieces:
            raise ValueError(f"channels={channels} of maxout is not allowed: k={self.pieces} must divide it")

    def output_channels(self) -> int:
        return self.channels // self.pieces

    def formula(self, x: Tensor) -> Tensor:
        return torch.stack(x.chunk(self.pieces, dim=1)).amax(0)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.Maxout(self.pieces), attributes={"k": self.pieces})


class GatedLinearActivation(ActivationModule):
    """f(a, b) = a·σ(b), a and b the first and the second half of the channels; C enter, C/2 leave. Dauphin 2016.

    Raises `ValueError` for an odd number of channels.
    """

    # The gate shows only together with what it gates.
    saturation = None

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        if channels % 2:
            raise ValueError(f"channels={channels} of glu is not allowed: it takes pairs, use an even number")

    def output_channels(self) -> int:
        return self.channels // 2

    def formula(self, x: Tensor) -> Tensor:
        return F.glu(x, dim=1)

    def node(self) -> ActivationNode:
        return ActivationNode(bodies.GatedLinear)


GROUPINGS: dict[str, Activation] = {
    "crelu": Activation(
        formula="concat(max(0, x), max(0, −x)) on channels",
        module=ConcatenatedReluActivation,
        source="Shang et al. 2016, Understanding and improving CNNs via concatenated ReLU (arXiv 1603.05201)",
        use="Keeps both signs, so that nothing dies; the next layer has twice the channels to read.",
        slopes=None,
        kinks={0.0: 0.0},
        gradient="that of ReLU for each half: 0 or ±1",
        gives=_two,
    ),
    "maxout": Activation(
        formula="max over k pieces of the channels",
        module=MaxoutActivation,
        parameters={"k": 2},
        source="Goodfellow et al. 2013, Maxout networks (arXiv 1302.4389)",
        use="Learns a convex function of its own; the layer before must be k times as wide.",
        slopes=None,
        gradient="1 for the largest piece, 0 for the others; pieces that tie share it evenly",
        reach="channels",
        takes=_pieces,
    ),
    "glu": Activation(
        formula="a·σ(b); a, b the halves of the channels",
        module=GatedLinearActivation,
        source="Dauphin et al. 2016, Language modeling with gated convolutional networks (arXiv 1612.08083)",
        use="A linear path with a learned gate; the layer before must be twice as wide. Saturates for |b| > 6.",
        slopes=None,
        gradient="σ(b) for a, a·σ(b)(1 − σ(b)) for b",
        reach="channels",
        takes=_two,
    ),
}
