"""The function of residual networks against the papers: written again from the text, on the network's own weights."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.small import randomise
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.merges import MERGES, Gating
from training.resnet.network import NetworkConfig, ResNet, build_network
from training.resnet.normalisers import NORMALISERS, Multiplier, ScalarBias
from training.resnet.variants import VARIANTS, Variant

State = dict[str, Tensor]

# Published networks with every combination of parts that is published.
PUBLISHED = ("resnet8", "resnet14", "resnet20", "resnet18", "resnet34", "resnet50")
STEMS, BRANCHES, SHORTCUTS = ("cifar", "imagenet"), ("basic", "bottleneck"), ("padded", "projection")
# Every stem of He's with every branch and every shortcut, small: of two blocks in the second stage one keeps its shape.
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

    def __init__(self, state: State, variant: Variant, kind: Kind, config: NetworkConfig, training: bool) -> None:
        self.state, self.variant, self.config, self.training = state, variant, config, training
        _, _, self.function, _, _ = kind

    def activate(self, name: str, x: Tensor) -> Tensor:
        return self.function(self.state, name, x)

    def convolve(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        if self.config.normaliser in ("none", "skipinit"):
            return y + self.state[f"{name}.bias"][:, None, None]
        return y

    def normalise(self, name: str, x: Tensor) -> Tensor:
        """Ioffe & Szegedy 2015, written out; Zhang 2019 has a scalar in its place, De & Smith 2020 nothing."""
        if self.config.normaliser == "fixup":
            return x + self.state[f"{name}.bias"]
        if self.config.normaliser in ("none", "skipinit"):
            return x
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        normal = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
        return self.state[f"{name}.weight"][:, None, None] * normal + self.state[f"{name}.bias"][:, None, None]

    def shortcut(self, block: str, x: Tensor, channels: int, stride: int) -> Tensor:
        """Identity where the shape stays; options A and B of He 2015 where it changes; A cannot take channels away."""
        added = channels - x.shape[1]
        everywhere = self.config.shortcut == "conv_1x1"
        if added == 0 and stride == 1 and not everywhere:
            return x
        if self.variant.shortcut == "projection" or added < 0 or everywhere:
            y = self.convolve(f"{block}.downsample.0", x, stride)
            return y if self.config.normaliser == "fixup" else self.normalise(f"{block}.downsample.1", y)
        assert not [name for name in self.state if name.startswith(f"{block}.downsample")], "padding learns nothing"
        small = x[:, :, ::stride, ::stride]
        zeros = torch.zeros_like(small[:, :1]).expand(-1, added // 2, -1, -1)
        return torch.cat([zeros, small, zeros], 1)

    def weigh(self, block: str, index: int, x: Tensor, strides: list[int]) -> Tensor:
        """A convolution of the branch; in Zhang 2019 a scalar bias before it, and the last one times a scalar."""
        if self.config.normaliser != "fixup":
            return self.convolve(f"{block}.conv{index}", x, strides[index - 1])
        y = self.convolve(f"{block}.conv{index}", x + self.state[f"{block}.bias{index}.bias"], strides[index - 1])
        return y * self.state[f"{block}.scale.scale"] if index == len(strides) else y

    def join(self, block: str, branch: Tensor, x: Tensor, first: Tensor, stride: int) -> Tensor:
        """He 2016, section 3.1; where the shape changes, the shortcut starts from `first`, what the branch reads."""
        key, given = self.config.shortcut, self.config.shortcut_parameters
        if self.config.normaliser == "skipinit":
            branch = self.state[f"{block}.scale.scale"] * branch
        if key == "none":
            return branch
        if x.shape == branch.shape and key != "conv_1x1":
            around = x
        else:
            if self.config.normaliser == "fixup":
                first = first + self.state[f"{block}.bias1.bias"]
            around = self.shortcut(block, first, branch.shape[1], stride)
        if key == "constant_scaling":
            return given.get("shortcut", 0.5) * around + given.get("branch", 0.5) * branch
        if key == "dropout":
            return branch + F.dropout(around, given.get("rate", 0.5), self.training)
        if key in ("exclusive_gating", "shortcut_only_gating"):
            weight, bias = (self.state[f"{block}.merge.gate.{part}"] for part in ("weight", "bias"))
            product = torch.einsum("oi,nihw->nohw", weight[:, :, 0, 0], around)
            gate = 1 / (1 + torch.exp(-(product + bias[:, None, None])))
            return (gate * branch if key == "exclusive_gating" else branch) + (1 - gate) * around
        return branch + around

    def original(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """He 2015, figures 2 and 5; He 2016, figure 4(a): weights, BN, activation, …, addition, activation."""
        y, last = x, len(strides)
        for index in range(1, last + 1):
            y = self.normalise(f"{block}.bn{index}", self.weigh(block, index, y, strides))
            if index < last:
                y = self.activate(f"{block}.act{index}", y)
        return self.activate(f"{block}.act{last}", self.join(block, y, x, x, max(strides)))

    def bn_after_addition(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """Figure 4(b): …, weights, addition, BN, activation."""
        y, last = x, len(strides)
        for index in range(1, last):
            y = self.normalise(f"{block}.bn{index}", self.weigh(block, index, y, strides))
            y = self.activate(f"{block}.act{index}", y)
        y = self.join(block, self.weigh(block, last, y, strides), x, x, max(strides))
        return self.activate(f"{block}.act{last}", self.normalise(f"{block}.bn{last}", y))

    def relu_before_addition(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """Figure 4(c): weights, BN, activation, …, weights, BN, activation, addition."""
        y = x
        for index in range(1, len(strides) + 1):
            y = self.normalise(f"{block}.bn{index}", self.weigh(block, index, y, strides))
            y = self.activate(f"{block}.act{index}", y)
        return self.join(block, y, x, x, max(strides))

    def relu_only_preactivation(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """Figure 4(d): activation, weights, BN, …, activation, weights, BN, addition."""
        y, first = x, x
        for index in range(1, len(strides) + 1):
            y = self.activate(f"{block}.act{index}", y)
            first = y if index == 1 else first
            y = self.normalise(f"{block}.bn{index}", self.weigh(block, index, y, strides))
        return self.join(block, y, x, first, max(strides))

    def full_preactivation(self, block: str, x: Tensor, strides: list[int]) -> Tensor:
        """Figure 4(e): BN, activation, weights, …, BN, activation, weights, addition."""
        y, first = x, x
        for index in range(1, len(strides) + 1):
            y = self.activate(f"{block}.act{index}", self.normalise(f"{block}.bn{index}", y))
            first = y if index == 1 else first
            y = self.weigh(block, index, y, strides)
        return self.join(block, y, x, first, max(strides))

    def logits(self, x: Tensor) -> Tensor:
        """The first and the last activation of pre-activated networks are as in the appendix of He 2016."""
        arrangement = self.config.arrangement
        imagenet = self.variant.stem == "imagenet"
        x = self.convolve("conv1", x, 2 if imagenet else 1)
        if arrangement != "full_preactivation":
            x = self.normalise("bn1", x)
        if not arrangement.endswith("preactivation"):
            x = self.activate("act1", x)
        if imagenet:
            x = F.max_pool2d(x, 3, 2, 1)
        convolutions = {"basic": 2, "bottleneck": 3}[self.variant.branch]
        for stage, depth in enumerate(self.variant.depths, 1):
            for index in range(depth):
                strides = [1] * convolutions
                # The bottleneck shrinks in its 3×3 convolution (ResNet "v1.5", torchvision's).
                strides[convolutions - 2] = 2 if stage > 1 and index == 0 else 1
                x = getattr(self, arrangement)(f"layer{stage}.{index}", x, strides)
        if arrangement == "full_preactivation":
            x = self.normalise("final_bn", x)
        if arrangement.endswith("preactivation"):
            x = self.activate("final_act", x)
        head = self.variant.classifier
        mean = x.mean((2, 3))
        if self.config.normaliser == "fixup":
            mean = mean + self.state["final_bias.bias"]
        return mean @ self.state[f"{head}.weight"].T + self.state[f"{head}.bias"]


def build(network: str, kind: Kind, arrangement: str) -> ResNet:
    return randomised(NetworkConfig(network, kind[0], arrangement, classes=6, activation_parameters=kind[1]))


def randomised(config: NetworkConfig) -> ResNet:
    """Nothing is as it starts: neither scalars nor biases."""
    module = build_network(config)
    randomise(module)
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, ScalarBias | Multiplier):
            for parameter in part.parameters():
                parameter.data.uniform_(0.2, 0.9, generator=generator)
        elif isinstance(part, torch.nn.Conv2d) and part.bias is not None:
            part.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return module


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variant in SMALL.items():
        monkeypatch.setitem(VARIANTS, name, variant)


def assert_equals_the_paper(network: str, arrangement: str, kind: Kind, training: bool) -> None:
    config = NetworkConfig(network, kind[0], arrangement, classes=6, activation_parameters=kind[1])
    assert_equals_the_reference(config, kind, training)


def assert_equals_the_reference(config: NetworkConfig, kind: Kind, training: bool) -> None:
    module = randomised(config).double().train(training)
    size = 16 if VARIANTS[config.network].stem == "cifar" else 32 if config.network in SMALL else 64
    x = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = {name: value.clone() for name, value in module.state_dict().items()}
        torch.manual_seed(3)
        expected = Reference(state, VARIANTS[config.network], kind, config, training).logits(x)
        torch.manual_seed(3)
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


# Each with what differs from the defaults.
SCALED = ("constant_scaling", {"shortcut": 0.25, "branch": 1.5})
OVER_MERGES = [*((key, dict[str, float]()) for key in MERGES), SCALED, ("dropout", {"rate": 0.2})]


@over_modes
@over_arrangements
@pytest.mark.parametrize(("shortcut", "parameters"), OVER_MERGES)
@pytest.mark.parametrize("network", ["cifar-basic-padded", "cifar-bottleneck-projection"])
def test_every_shortcut(
    network: str, shortcut: str, parameters: dict[str, float], arrangement: str, training: bool
) -> None:
    config = NetworkConfig(network, "prelu", arrangement, 6, shortcut=shortcut, shortcut_parameters=parameters)
    assert_equals_the_reference(config, KINDS["prelu"], training)
    if VARIANTS[network].shortcut == "padded":
        assert_equals_the_reference(replace(config, activation="crelu"), KINDS["crelu"], training)


@over_arrangements
@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("shortcut", ["identity", "conv_1x1", "shortcut_only_gating", "none"])
@pytest.mark.parametrize("network", ["cifar-basic-padded", "imagenet-bottleneck-projection"])
def test_every_normaliser(network: str, shortcut: str, normaliser: str, arrangement: str) -> None:
    config = NetworkConfig(network, "prelu", arrangement, 6, shortcut=shortcut, normaliser=normaliser)
    if normaliser in ("none", "skipinit") and arrangement == "bn_after_addition":
        with pytest.raises(ValueError, match=f"normaliser '{normaliser}' has none: choose"):
            build_network(config)
    elif normaliser in ("fixup", "skipinit") and shortcut == "none":
        with pytest.raises(ValueError, match="starts from branches that put out 0"):
            build_network(config)
    else:
        assert_equals_the_reference(config, KINDS["prelu"], training=True)
        assert_equals_the_reference(replace(config, activation="glu"), KINDS["glu"], training=False)


def test_gates_start_where_the_parameter_says() -> None:
    for bias in (-6.0, 0.0, -7.0):
        given = {} if bias == -6 else {"bias": bias}
        for key in ("exclusive_gating", "shortcut_only_gating"):
            config = NetworkConfig("resnet8", shortcut=key, shortcut_parameters=given)
            gates = [part.gate for part in build_network(config).modules() if isinstance(part, Gating)]
            assert len(gates) == 3
            assert all((gate.bias == bias).all() for gate in gates if gate.bias is not None)


def test_dropout_keeps_half_of_the_shortcut_and_its_mean() -> None:
    merge = MERGES["dropout"].build
    assert merge is not None
    branch, ones = torch.zeros(4, 8, 16, 16), torch.ones(4, 8, 16, 16)
    torch.manual_seed(0)
    _, around = merge(8, {"rate": 0.25}).train()(branch, ones)
    assert around.unique().tolist() == [0, pytest.approx(4 / 3)]
    # Of 8192 draws: five standard deviations.
    assert (around == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 8192) ** 0.5)


@pytest.mark.parametrize(
    ("shortcut", "parameters", "message"),
    [
        ("sideways", {}, "unknown shortcut 'sideways'; choose from identity"),
        ("dropout", {"rate": 1.0}, "rate=1.0 of shortcut 'dropout' is not allowed: use 0 to below 1"),
        ("constant_scaling", {"branch": float("nan")}, "branch=nan of shortcut 'constant_scaling' is not allowed"),
        ("identity", {"rate": 0.5}, "shortcut 'identity' has no parameter 'rate'; it has: none"),
    ],
)
def test_impossible_shortcuts(shortcut: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(NetworkConfig("resnet8", shortcut=shortcut, shortcut_parameters=parameters))


def test_the_reference_covers_every_arrangement() -> None:
    assert all(callable(getattr(Reference, name, None)) for name in ARRANGEMENTS)


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
        config = NetworkConfig("resnet14", "prelu", arrangement, classes=6)
        expected = Reference(state, VARIANTS["resnet14"], kind, config, training=False).logits(x.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
