"""Layers as functions of a network's state, and what stands for a normalisation."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.formulas import formula
from training.activations.entry import Activation
from training.resnet.network import NetworkConfig
from training.resnet.variants import Variant


class State(dict[str, Tensor]):
    """A state that knows which of it was used."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__({name: value.clone() for name, value in values.items() if "num_batches" not in name})
        self.unused = set(self)

    def __getitem__(self, name: str) -> Tensor:
        self.unused.discard(name)
        return super().__getitem__(name)

    def below(self, name: str) -> dict[str, Tensor]:
        """All of one module."""
        return {key.removeprefix(f"{name}."): self[key] for key in [*self] if key.startswith(f"{name}.")}


class Layers:
    """What all parts of a network are made of."""

    def __init__(
        self, state: State, variant: Variant, config: NetworkConfig, activation: Activation, training: bool
    ) -> None:
        self.state, self.variant, self.config, self.training = state, variant, config, training
        self.activation, self.formula = activation, formula(config.activation)

    def activate(self, name: str, x: Tensor) -> Tensor:
        learned = {key: value.numpy() for key, value in self.state.below(name).items()}
        return torch.from_numpy(self.formula(x.numpy(), {**self.activation.parameters, **learned}))

    def convolve(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        # A group is a convolution of its own (Krizhevsky 2012).
        parts = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        y = torch.cat([F.conv2d(part, own, stride=stride, padding=weight.shape[-1] // 2) for part, own in parts], 1)
        if self.config.normaliser in ("none", "skipinit"):
            return y + self.state[f"{name}.bias"][:, None, None]
        return y

    def normalise(self, name: str, x: Tensor) -> Tensor:
        return NORMALISERS[self.config.normaliser](self, name, x)

    def project(self, name: str, numbers: tuple[int, int], x: Tensor, stride: int) -> Tensor:
        """A 1×1 convolution and a normalisation, of which Zhang 2019 has none on a shortcut."""
        y = self.convolve(f"{name}.{numbers[0]}", x, stride)
        return y if self.config.normaliser == "fixup" else self.normalise(f"{name}.{numbers[1]}", y)


def batch(net: Layers, name: str, x: Tensor) -> Tensor:
    """Ioffe & Szegedy 2015."""
    mean, variance = net.state[f"{name}.running_mean"], net.state[f"{name}.running_var"]
    if net.training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    normal = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
    return net.state[f"{name}.weight"][:, None, None] * normal + net.state[f"{name}.bias"][:, None, None]


NORMALISERS: dict[str, Callable[[Layers, str, Tensor], Tensor]] = {
    "batch": batch,
    "none": lambda _net, _name, x: x,
    # Zhang 2019.
    "fixup": lambda net, name, x: x + net.state[f"{name}.bias"],
    # De & Smith 2020.
    "skipinit": lambda _net, _name, x: x,
}
