"""Networks as functions of their state, written again from the papers: what the code under test is held against.

Each catalogue of `training.resnet` has its twin here or in `parts` and `layers`, by the same keys.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.reading import logits_by_hand
from tests.training.reference.layers import Layers
from tests.training.reference.parts import BRANCHES, MERGES, SHORTCUTS, STEMS


class Reference(Layers):
    """logits(x) of a network with this state."""

    def logits(self, x: Tensor) -> Tensor:
        """The first and the last activation of pre-activated networks are as in the appendix of He 2016."""
        key, state = self.config.arrangement, self.state
        x, pooled = STEMS[self.variant.stem](self, x)
        if key != "full_preactivation":
            x = self.normalise("bn1", x)
        if not key.endswith("preactivation"):
            x = self.activate("act1", x)
        if pooled:
            x = F.max_pool2d(x, 3, 2, 1)
        x = STAGES[self.variant.stage](self, x)
        if key == "full_preactivation":
            x = self.normalise("final_bn", x)
        if key.endswith("preactivation"):
            x = self.activate("final_act", x)
        if self.config.normaliser == "fixup":
            x = x + state["final_bias.bias"]
        return HEADS[self.config.head](self, x)

    def block(self, name: str, x: Tensor, width: int, stride: int, around: Tensor | None = None) -> Tensor:
        """`around`: where the shortcut comes from, if not from x."""
        inner = round(width * self.variant.inner_width)
        convolutions = BRANCHES[self.variant.branch](width, inner)

        def weigh(index: int, y: Tensor) -> Tensor:
            if self.config.normaliser == "fixup":
                y = y + self.state[f"{name}.bias{index}.bias"]
            own = convolutions[index - 1]
            groups = self.variant.groups if own.grouped else 1
            assert self.state[f"{name}.conv{index}.weight"].shape == (
                self.activation.width_before(own.channels), y.shape[1] // groups, own.kernel, own.kernel,
            )  # fmt: skip
            y = self.convolve(f"{name}.conv{index}", y, stride if own.shrinks else 1, groups)
            if self.config.normaliser == "fixup" and own is convolutions[-1]:
                y = y * self.state[f"{name}.scale.scale"]
            return y

        def join(branch: Tensor, first: Tensor) -> Tensor:
            if self.variant.squeeze:
                branch = self.squeeze(f"{name}.se", branch)
            if self.config.normaliser == "skipinit":
                branch = self.state[f"{name}.scale.scale"] * branch
            return self.join(name, branch, x, first, stride, around)

        return ARRANGEMENTS[self.config.arrangement](self, name, x, len(convolutions), weigh, join)

    def join(self, name: str, branch: Tensor, x: Tensor, first: Tensor, stride: int, around: Tensor | None) -> Tensor:
        """He 2016, section 3.1; where the shape changes, the shortcut starts from `first`, what the branch reads."""
        key = "none" if self.variant.stage == "plain" else self.config.shortcut
        if key == "none":
            return branch
        if around is not None:
            around = self.lift(name, around, branch.shape[1], stride)
        elif x.shape == branch.shape and key != "conv_1x1":
            around = x
        else:
            if self.config.normaliser == "fixup":
                first = first + self.state[f"{name}.bias1.bias"]
            shape = "projection" if key == "conv_1x1" else self.variant.shortcut
            around = SHORTCUTS[shape](self, f"{name}.downsample", first, branch.shape[1], stride)
        return MERGES[key](self, f"{name}.merge", branch, around)

    def lift(self, name: str, x: Tensor, channels: int, stride: int) -> Tensor:
        """What goes around a branch of a reversible stage."""
        if x.shape[1] == channels and stride == 1:
            return x
        return SHORTCUTS[self.variant.shortcut](self, f"{name}.downsample", x, channels, stride)

    def squeeze(self, name: str, x: Tensor) -> Tensor:
        """Hu 2018, equations 2 to 4; W₁ and W₂ are matrices."""
        w1, b1, w2, b2 = (self.state[f"{name}.{part}"] for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"))
        z = x.mean((2, 3))
        s = 1 / (1 + torch.exp(-((z @ w1.flatten(1).T + b1).clamp(min=0) @ w2.flatten(1).T + b2)))
        return s[:, :, None, None] * x

    def read_out(self, x: Tensor) -> Tensor:
        """Of N×C."""
        head = self.variant.classifier
        return x @ self.state[f"{head}.weight"].T + self.state[f"{head}.bias"]


Weigh = Callable[[int, Tensor], Tensor]
"""A convolution of the branch by its number, from 1."""
Join = Callable[[Tensor, Tensor], Tensor]
"""The branch and what its first convolution reads → their sum with the shortcut."""


def original(net: Reference, block: str, x: Tensor, last: int, weigh: Weigh, join: Join) -> Tensor:
    """He 2015, figures 2 and 5; He 2016, figure 4(a): weights, BN, activation, …, addition, activation."""
    y = x
    for index in range(1, last + 1):
        y = net.normalise(f"{block}.bn{index}", weigh(index, y))
        if index < last:
            y = net.activate(f"{block}.act{index}", y)
    return net.activate(f"{block}.act{last}", join(y, x))


def bn_after_addition(net: Reference, block: str, x: Tensor, last: int, weigh: Weigh, join: Join) -> Tensor:
    """Figure 4(b): …, weights, addition, BN, activation."""
    y = x
    for index in range(1, last):
        y = net.activate(f"{block}.act{index}", net.normalise(f"{block}.bn{index}", weigh(index, y)))
    return net.activate(f"{block}.act{last}", net.normalise(f"{block}.bn{last}", join(weigh(last, y), x)))


def relu_before_addition(net: Reference, block: str, x: Tensor, last: int, weigh: Weigh, join: Join) -> Tensor:
    """Figure 4(c): weights, BN, activation, …, weights, BN, activation, addition."""
    y = x
    for index in range(1, last + 1):
        y = net.activate(f"{block}.act{index}", net.normalise(f"{block}.bn{index}", weigh(index, y)))
    return join(y, x)


def relu_only_preactivation(net: Reference, block: str, x: Tensor, last: int, weigh: Weigh, join: Join) -> Tensor:
    """Figure 4(d): activation, weights, BN, …, activation, weights, BN, addition."""
    y, first = x, x
    for index in range(1, last + 1):
        y = net.activate(f"{block}.act{index}", y)
        first = y if index == 1 else first
        y = net.normalise(f"{block}.bn{index}", weigh(index, y))
    return join(y, first)


def full_preactivation(net: Reference, block: str, x: Tensor, last: int, weigh: Weigh, join: Join) -> Tensor:
    """Figure 4(e): BN, activation, weights, …, BN, activation, weights, addition."""
    y, first = x, x
    for index in range(1, last + 1):
        y = net.activate(f"{block}.act{index}", net.normalise(f"{block}.bn{index}", y))
        first = y if index == 1 else first
        y = weigh(index, y)
    return join(y, first)


ARRANGEMENTS: dict[str, Callable[[Reference, str, Tensor, int, Weigh, Join], Tensor]] = {
    "original": original,
    "bn_after_addition": bn_after_addition,
    "relu_before_addition": relu_before_addition,
    "relu_only_preactivation": relu_only_preactivation,
    "full_preactivation": full_preactivation,
}


def residual(net: Reference, x: Tensor) -> Tensor:
    """He 2015, table 1."""
    for stage, (depth, width) in enumerate(zip(net.variant.depths, net.variant.widths, strict=True), 1):
        for index in range(depth):
            x = net.block(f"layer{stage}.{index}", x, width, 2 if stage > 1 and index == 0 else 1)
    return x


def reversible(net: Reference, x: Tensor) -> Tensor:
    """Gomez 2017, equation 6, a block at a time; Jacobsen 2018, section 3: both streams are lifted."""
    a, b = x.chunk(2, 1)
    for stage, (depth, width) in enumerate(zip(net.variant.depths, net.variant.widths, strict=True), 1):
        for index in range(depth):
            name, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = net.block(name, b, width, stride, around=a)
            a, b = net.lift(name, b, y.shape[1], stride), y
    return torch.cat([a, b], 1)


def dense(net: Reference, x: Tensor) -> Tensor:
    """Huang 2017, section 3: x_l = H_l([x_0, …, x_{l−1}]), with bottlenecks and compression."""
    for stage, depth in enumerate(net.variant.depths, 1):
        if stage > 1:
            name = f"transition{stage - 1}"
            x = net.convolve(f"{name}.conv", net.activate(f"{name}.act", net.normalise(f"{name}.bn", x)))
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        outputs = [x]
        for index in range(depth):
            y, name = torch.cat(outputs, 1), f"layer{stage}.{index}"
            for part in (1, 2):
                y = net.activate(f"{name}.act{part}", net.normalise(f"{name}.bn{part}", y))
                y = net.convolve(f"{name}.conv{part}", y)
            outputs.append(y)
        x = torch.cat(outputs, 1)
    return x


STAGES: dict[str, Callable[[Reference, Tensor], Tensor]] = {
    "residual": residual,
    "plain": residual,
    "dense": dense,
    "reversible": reversible,
}


def attention(net: Reference, x: Tensor) -> Tensor:
    """Positions weigh e^{q·x / √C}."""
    positions = x.flatten(2).transpose(1, 2)
    exponentials = (positions @ net.state["attention.weights.query"].flatten() / x.shape[1] ** 0.5).exp()[:, :, None]
    return net.read_out((positions * exponentials).sum(1) / exponentials.sum(1))


def recurrent(net: Reference, x: Tensor, cell: str, layers: int) -> Tensor:
    return logits_by_hand(x, net.state, cell, layers)


HEADS: dict[str, Callable[[Reference, Tensor], Tensor]] = {
    "linear": lambda net, x: net.read_out(x.mean((2, 3))),
    "attention": attention,
    "birnn": partial(recurrent, cell="lstm", layers=1),
    "birnn_gru": partial(recurrent, cell="gru", layers=1),
    "deep_birnn": partial(recurrent, cell="lstm", layers=3),
    "deep_birnn_gru": partial(recurrent, cell="gru", layers=3),
}
