"""The function of residual networks against the papers: written again from the text, on the network's own weights."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.small import randomise
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.branches import BRANCHES
from training.resnet.network import NetworkConfig, ResNet, build_network
from training.resnet.shortcuts import SHORTCUTS
from training.resnet.stems import STEMS
from training.resnet.variants import VARIANTS, Variant

State = dict[str, Tensor]

# Published networks with every combination of parts that is published.
PUBLISHED = ("resnet8", "resnet14", "resnet20", "resnet18", "resnet34", "resnet50")
# Every stem with every branch and every shortcut, small: two blocks in the second stage, so that one keeps its shape.
SMALL = {
    f"{stem}-{branch}-{shortcut}": Variant(stem, branch, (1, 2), (4, 8), shortcut, "linear")
    for stem, branch, shortcut in product(STEMS, BRANCHES, SHORTCUTS)
}


def prelu(state: State, name: str, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, state[f"{name}.weight"][:, None, None] * x)


def crelu(_: State, __: str, x: Tensor) -> Tensor:
    return torch.cat([x * (x > 0), -x * (x < 0)], 1)


def maxout(pieces: int) -> Callable[[State, str, Tensor], Tensor]:
    def largest(_: State, __: str, x: Tensor) -> Tensor:
        width = x.shape[1] // pieces
        y = x[:, :width]
        for piece in range(1, pieces):
            other = x[:, piece * width : (piece + 1) * width]
            y = torch.where(other > y, other, y)
        return y

    return largest


def glu(_: State, __: str, x: Tensor) -> Tensor:
    width = x.shape[1] // 2
    return x[:, :width] / (1 + torch.exp(-x[:, width:]))


# Key, parameters, function, channels that one channel of the nominal width takes and gives.
Kind = tuple[str, dict[str, float], Callable[[State, str, Tensor], Tensor], int, int]
KINDS: dict[str, Kind] = {
    "prelu": ("prelu", {}, prelu, 1, 1),
    "crelu": ("crelu", {}, crelu, 1, 2),
    "maxout2": ("maxout", {}, maxout(2), 2, 1),
    "maxout3": ("maxout", {"k": 3}, maxout(3), 3, 1),
    "glu": ("glu", {}, glu, 2, 1),
}


class Reference:
    """A network of He 2015 or He 2016 as a function of its state."""

    def __init__(self, state: State, variant: Variant, kind: Kind, training: bool) -> None:
        self.state, self.variant, self.training = state, variant, training
        _, _, self.function, _, _ = kind

    def activate(self, name: str, x: Tensor) -> Tensor:
        return self.function(self.state, name, x)

    def convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def normalise(self, name: str, x: Tensor) -> Tensor:
        """Ioffe & Szegedy 2015, written out."""
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        normal = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
        return self.state[f"{name}.weight"][:, None, None] * normal + self.state[f"{name}.bias"][:, None, None]

    def shortcut(self, block: str, x: Tensor, channels: int, stride: int) -> Tensor:
        """Identity where the shape stays; options A and B of He 2015 where it changes; A cannot take channels away."""
        added = channels - x.shape[1]
        if added == 0 and stride == 1:
            return x
        if self.variant.shortcut == "projection" or added < 0:
            return self.normalise(f"{block}.downsample.1", self.convolve(f"{block}.downsample.0", x, stride))
        assert not [name for name in self.state if name.startswith(f"{block}.downsample")], "padding learns nothing"
        small = x[:, :, ::stride, ::stride]
        zeros = torch.zeros_like(small[:, :1]).expand(-1, added // 2, -1, -1)
        return torch.cat([zeros, small, zeros], 1)

    def original(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """He 2015, figure 2 and 5: weights, BN, activation, …, weights, BN, addition, activation."""
        y = x
        for index, stride in enumerate(strides, 1):
            y = self.normalise(f"{block}.bn{index}", self.convolve(f"{block}.conv{index}", y, stride))
            if index < len(strides):
                y = self.activate(f"{block}.act{index}", y)
        y = y + self.shortcut(block, x, y.shape[1], max(strides))
        return self.activate(f"{block}.act{len(strides)}", y)

    def full_preactivation(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """He 2016, figure 4(e); where the shape changes, the shortcut starts from the activated input (their code)."""
        y = first = self.activate(f"{block}.act1", self.normalise(f"{block}.bn1", x))
        y = self.convolve(f"{block}.conv1", y, strides[0])
        for index, stride in enumerate(strides[1:], 2):
            y = self.activate(f"{block}.act{index}", self.normalise(f"{block}.bn{index}", y))
            y = self.convolve(f"{block}.conv{index}", y, stride)
        return y + (x if x.shape == y.shape else self.shortcut(block, first, y.shape[1], max(strides)))

    def logits(self, arrangement: str, x: Tensor) -> Tensor:
        block = {"original": self.original, "full_preactivation": self.full_preactivation}[arrangement]
        imagenet = self.variant.stem == "imagenet"
        x = self.convolve("conv1", x, 2 if imagenet else 1)
        if arrangement == "original":
            x = self.activate("act1", self.normalise("bn1", x))
        if imagenet:
            x = F.max_pool2d(x, 3, 2, 1)
        convolutions = {"basic": 2, "bottleneck": 3}[self.variant.branch]
        for stage, depth in enumerate(self.variant.depths, 1):
            for index in range(depth):
                strides = [1] * convolutions
                # The bottleneck shrinks in its 3×3 convolution (ResNet "v1.5", torchvision's).
                strides[convolutions - 2] = 2 if stage > 1 and index == 0 else 1
                x = block(f"layer{stage}.{index}", x, strides)
        if arrangement == "full_preactivation":
            x = self.activate("final_act", self.normalise("final_bn", x))
        head = self.variant.classifier
        return x.mean((2, 3)) @ self.state[f"{head}.weight"].T + self.state[f"{head}.bias"]


def build(network: str, kind: Kind, arrangement: str) -> ResNet:
    module = build_network(NetworkConfig(network, kind[0], arrangement, classes=6, activation_parameters=kind[1]))
    randomise(module)
    return module


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variant in SMALL.items():
        monkeypatch.setitem(VARIANTS, name, variant)


def assert_equals_the_paper(network: str, arrangement: str, kind: Kind, training: bool) -> None:
    module = build(network, kind, arrangement).double().train(training)
    size = 64 if VARIANTS[network].stem == "imagenet" else 16
    x = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = {name: value.clone() for name, value in module.state_dict().items()}
        expected = Reference(state, VARIANTS[network], kind, training).logits(arrangement, x)
        actual = module(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


over_modes = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
over_arrangements = pytest.mark.parametrize("arrangement", ARRANGEMENTS)


@over_modes
@over_arrangements
@pytest.mark.parametrize("network", PUBLISHED)
def test_published_networks(network: str, arrangement: str, training: bool) -> None:
    assert_equals_the_paper(network, arrangement, KINDS["prelu"], training)


@over_modes
@over_arrangements
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", SMALL)
def test_every_combination_of_parts_with_every_kind_of_channel_rule(
    network: str, kind: str, arrangement: str, training: bool
) -> None:
    assert_equals_the_paper(network, arrangement, KINDS[kind], training)


def test_the_reference_covers_every_kind_of_part() -> None:
    assert set(ARRANGEMENTS) == {"original", "full_preactivation"}, "write a new arrangement's block into Reference"
    parts = {(variant.stem, variant.branch, variant.shortcut) for variant in VARIANTS.values()}
    assert {(VARIANTS[n].stem, VARIANTS[n].branch, VARIANTS[n].shortcut) for n in (*PUBLISHED, *SMALL)} == parts


@over_arrangements
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", SMALL)
def test_convolutions_put_out_what_the_activation_takes_and_take_what_it_gives(
    network: str, kind: str, arrangement: str
) -> None:
    _, _, _, takes, gives = KINDS[kind]
    module, variant = build(network, KINDS[kind], arrangement), VARIANTS[network]
    expansion = 4 if variant.branch == "bottleneck" else 1
    last, width = ("conv3" if expansion == 4 else "conv2"), variant.widths[1]
    shapes = {name: tuple(value.shape[:2]) for name, value in module.state_dict().items() if value.ndim > 1}
    assert shapes["conv1.weight"] == (takes * variant.widths[0], 3)
    assert shapes["layer2.1.conv1.weight"] == (takes * width, gives * width * expansion)
    assert shapes[f"layer2.1.{last}.weight"] == (takes * width * expansion, gives * width)
    assert shapes["linear.weight"] == (6, gives * width * expansion)


def test_a_padded_shortcut_that_narrows_is_a_projection() -> None:
    """He 2015's option A can only add channels; crelu puts out twice what a sum of the same width holds."""
    state = build("cifar-basic-padded", KINDS["crelu"], "original").state_dict()
    shape = {name: tuple(state[f"{name}.downsample.0.weight"].shape) for name in ("layer1.0", "layer2.1")}
    assert shape == {"layer1.0": (4, 8, 1, 1), "layer2.1": (8, 16, 1, 1)}
    # Twice 4 channels leave the first stage, and 8 are summed in the second: nothing to add, nothing to take away.
    assert not [name for name in state if name.startswith("layer2.0.downsample")]
    plain = build("cifar-basic-padded", KINDS["prelu"], "original").state_dict()
    assert not [name for name in plain if "downsample" in name]


@over_arrangements
def test_single_precision_is_close(arrangement: str) -> None:
    kind = KINDS["prelu"]
    module = build("resnet14", kind, arrangement).eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    state = {name: value.double() for name, value in module.state_dict().items()}
    with torch.no_grad():
        actual = module(x)
        expected = Reference(state, VARIANTS["resnet14"], kind, training=False).logits(arrangement, x.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
