"""Parts of networks that are not of He 2015 and 2016, written again from their papers; and their graphs."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.opset import DOMAIN
from tests.training.small import classifier, randomise
from training.activations.entry import ActivationModule
from training.export import export
from training.resnet.network import NetworkConfig, ResNet, build_network
from training.resnet.variants import VARIANTS, Variant, cifar, dense, plain

State = dict[str, Tensor]

# Two blocks in the second stage, so that one keeps its shape.
BOTTLENECKS = Variant("cifar", "bottleneck", (1, 2), (4, 8), "projection", "linear")
SMALL = {
    "squeezed": replace(BOTTLENECKS, squeeze=2),
    "grouped": replace(BOTTLENECKS, groups=2, inner_width=1.5),
    "widened": replace(BOTTLENECKS, branch="basic", entry=3),
    "first": replace(BOTTLENECKS, branch="bottleneck_a"),
    "tweaked": replace(BOTTLENECKS, stem="deep", shortcut="average"),
    "without": plain(BOTTLENECKS),
    "dense": replace(dense(10, 3), depths=(2, 2, 1)),
}


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variant in SMALL.items():
        monkeypatch.setitem(VARIANTS, name, variant)


class Reference:
    """Networks in their published arrangement, with CReLU, which shows where channels are counted wrong."""

    def __init__(self, state: State, variant: Variant, training: bool) -> None:
        self.state, self.variant, self.training = state, variant, training

    def activate(self, x: Tensor) -> Tensor:
        return torch.cat([x.clamp(min=0), (-x).clamp(min=0)], 1)

    def convolve(self, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        # A group is a convolution of its own (Krizhevsky 2012).
        outputs = [
            F.conv2d(part, own, stride=stride, padding=weight.shape[-1] // 2)
            for part, own in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        ]
        return torch.cat(outputs, 1)

    def normalise(self, name: str, x: Tensor) -> Tensor:
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        normal = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
        return self.state[f"{name}.weight"][:, None, None] * normal + self.state[f"{name}.bias"][:, None, None]

    def squeeze(self, block: str, x: Tensor) -> Tensor:
        """Hu 2018, equations 2 to 4; W₁ and W₂ are matrices."""
        w1, b1, w2, b2 = (
            self.state[f"{block}.se.{part}"] for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
        )
        z = x.mean((2, 3))
        s = 1 / (1 + torch.exp(-((z @ w1.flatten(1).T + b1).clamp(min=0) @ w2.flatten(1).T + b2)))
        return s[:, :, None, None] * x

    def shortcut(self, block: str, x: Tensor, stride: int) -> Tensor:
        if self.variant.shortcut == "projection":
            return self.normalise(f"{block}.downsample.1", self.convolve(f"{block}.downsample.0", x, stride))
        if stride == 2:
            # The mean of what there is of each 2×2 square.
            height, width = x.shape[2] % 2, x.shape[3] % 2
            sums = F.pad(x, (0, width, 0, height)).unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5))
            count = F.pad(torch.ones_like(x), (0, width, 0, height)).unfold(2, 2, 2).unfold(3, 2, 2).sum((4, 5))
            x = sums / count
        return self.normalise(f"{block}.downsample.2", self.convolve(f"{block}.downsample.1", x))

    def block(self, block: str, x: Tensor, stride: int) -> Tensor:
        where = {"basic": 0, "bottleneck": 1, "bottleneck_a": 0}[self.variant.branch]
        count = 2 if self.variant.branch == "basic" else 3
        y = x
        for index in range(count):
            groups = self.variant.groups if count == 3 and index == 1 else 1
            y = self.convolve(f"{block}.conv{index + 1}", y, stride if index == where else 1, groups)
            y = self.normalise(f"{block}.bn{index + 1}", y)
            if index < count - 1:
                y = self.activate(y)
        if self.variant.squeeze:
            y = self.squeeze(block, y)
        if self.variant.stage == "residual":
            y = y + (x if x.shape == y.shape else self.shortcut(block, x, stride))
        return self.activate(y)

    def stem(self, x: Tensor) -> Tensor:
        if self.variant.stem == "cifar":
            return self.convolve("conv1", x)
        x = self.activate(self.normalise("conv1.1", self.convolve("conv1.0", x, 2)))
        x = self.activate(self.normalise("conv1.4", self.convolve("conv1.3", x)))
        return self.convolve("conv1.6", x)

    def residual(self, x: Tensor) -> Tensor:
        x = self.activate(self.normalise("bn1", self.stem(x)))
        if self.variant.stem == "deep":
            x = F.max_pool2d(x, 3, 2, 1)
        for stage, depth in enumerate(self.variant.depths, 1):
            for index in range(depth):
                x = self.block(f"layer{stage}.{index}", x, 2 if stage > 1 and index == 0 else 1)
        return x

    def dense(self, x: Tensor) -> Tensor:
        """Huang 2017, section 3: x_l = H_l([x_0, …, x_{l−1}]), with bottlenecks and compression."""
        x = self.convolve("conv1", x)
        for stage, depth in enumerate(self.variant.depths, 1):
            if stage > 1:
                name = f"transition{stage - 1}"
                x = self.convolve(f"{name}.conv", self.activate(self.normalise(f"{name}.bn", x)))
                x = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
            outputs = [x]
            for index in range(depth):
                y, name = torch.cat(outputs, 1), f"layer{stage}.{index}"
                for part in (1, 2):
                    y = self.convolve(f"{name}.conv{part}", self.activate(self.normalise(f"{name}.bn{part}", y)))
                outputs.append(y)
            x = torch.cat(outputs, 1)
        return self.activate(self.normalise("final_bn", x))

    def logits(self, x: Tensor) -> Tensor:
        x = self.dense(x) if self.variant.stage == "dense" else self.residual(x)
        return x.mean((2, 3)) @ self.state["linear.weight"].T + self.state["linear.bias"]


def arrangement(network: str) -> str:
    return "full_preactivation" if network == "dense" else "original"


def build(network: str, activation: str = "crelu") -> ResNet:
    module = build_network(NetworkConfig(network, activation, arrangement(network), classes=6))
    randomise(module)
    return module


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("size", [(16, 16), (23, 18)])
@pytest.mark.parametrize("network", SMALL)
def test_parts_equal_their_papers(network: str, size: tuple[int, int], training: bool) -> None:
    module = build(network).double().train(training)
    x = torch.randn(3, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = {name: value.clone() for name, value in module.state_dict().items()}
        expected = Reference(state, SMALL[network], training).logits(x)
        actual = module(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("activation", ["relu", "glu"])
@pytest.mark.parametrize("network", SMALL)
def test_graphs_have_their_sites_and_the_ends_of_residual_blocks(network: str, activation: str) -> None:
    """The export itself checks that logits equal PyTorch's."""
    given = classifier(network, activation, arrangement(network))
    graph = export(given, activation, (3, 17, 22))
    modules = {name.removeprefix("network."): part for name, part in given.named_modules()}
    sites = {name for name, part in modules.items() if isinstance(part, ActivationModule)}
    assert {site.name for site in graph.sites} == sites
    assert {node.name for node in graph.model.graph.node if node.domain == DOMAIN} == sites
    blocks = {"layer1.0", "layer2.0", "layer2.1"} if SMALL[network].stage == "residual" else set()
    assert {block.name for block in graph.blocks} == blocks


def test_the_gate_keeps_its_relu() -> None:
    """Whatever the network's activation, and it is no site."""
    gates = [part for name, part in build("squeezed", "tanh").named_modules() if name.endswith(".se.relu")]
    assert len(gates) == 3
    assert all(isinstance(gate, torch.nn.ReLU) for gate in gates)


def test_narrow_networks_squeeze_to_one_channel() -> None:
    assert build_network(NetworkConfig("se_resnet20")).get_submodule("layer1.0.se.fc1").out_channels == 1


def test_every_stem_branch_and_shortcut_of_the_catalogue_is_shown() -> None:
    """With those of He in test_network_function.py and of reversible networks in test_reversible.py."""
    shown = {part for variant in SMALL.values() for part in (variant.stem, variant.branch, variant.shortcut)}
    shown |= {part for variant in (cifar(20), VARIANTS["resnet18"]) for part in (variant.stem, variant.shortcut)}
    stages = [variant for variant in VARIANTS.values() if variant.stage != "reversible"]
    assert {part for variant in stages for part in (variant.stem, variant.branch, variant.shortcut)} <= shown
