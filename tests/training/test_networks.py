"""Residual networks against the papers: sizes, shapes, names, and their function written again from the text."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.small import randomise
from training.activations.catalogue import find_activation
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.network import NetworkConfig, build_network
from training.resnet.variants import VARIANTS

State = dict[str, Tensor]

# He 2015, table 6, in millions; for 10 classes.
CIFAR_MILLIONS = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7}
# The documentation of torchvision's models; for 1000 classes.
IMAGENET_MILLIONS = {"resnet18": 11.69, "resnet34": 21.80, "resnet50": 25.56, "resnet101": 44.55, "resnet152": 60.19}
# He 2015, table 1 and section 4.2: blocks in each stage, convolutions in each branch.
DEPTHS = {
    "resnet8": ((1, 1, 1), 2),
    "resnet14": ((2, 2, 2), 2),
    "resnet20": ((3, 3, 3), 2),
    "resnet18": ((2, 2, 2, 2), 2),
    "resnet34": ((3, 4, 6, 3), 2),
    "resnet50": ((3, 4, 6, 3), 3),
}


def on_paper(network: str, activation: str = "relu", arrangement: str = "original", classes: int = 10) -> nn.Module:
    """Shapes without memory or arithmetic."""
    with torch.device("meta"):
        return build_network(NetworkConfig(network, activation, arrangement, classes))


def millions(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize(("network", "published"), CIFAR_MILLIONS.items())
def test_published_size_of_cifar_networks(network: str, published: float) -> None:
    digits = 1 if network == "resnet110" else 2
    assert round(millions(on_paper(network)), digits) == published


@pytest.mark.parametrize(("network", "published"), IMAGENET_MILLIONS.items())
def test_published_size_of_imagenet_networks(network: str, published: float) -> None:
    assert round(millions(on_paper(network, classes=1000)), 2) == published


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_name_counts_the_weighted_layers(network: str, arrangement: str) -> None:
    weighted = [
        name
        for name, module in on_paper(network, arrangement=arrangement).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in name
    ]
    assert len(weighted) == int(re.sub(r"\D", "", network))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_stages_halve_the_image_and_logits_have_one_column_a_class(network: str, arrangement: str) -> None:
    module = on_paper(network, arrangement=arrangement, classes=7)
    sizes: dict[str, tuple[int, ...]] = {}
    for name, child in module.named_children():
        child.register_forward_hook(lambda _m, _i, out, name=name: sizes.update({name: tuple(out.shape)}))
    logits = module(torch.empty(3, 3, 64, 64, device="meta"))
    assert logits.shape == (3, 7)
    if VARIANTS[network].stem == "cifar":
        expected = {"layer1": (3, 16, 64, 64), "layer2": (3, 32, 32, 32), "layer3": (3, 64, 16, 16)}
    else:
        wide = 1 if network in ("resnet18", "resnet34") else 4
        expected = {f"layer{n}": (3, wide * 32 * 2**n, 32 // 2**n, 32 // 2**n) for n in (1, 2, 3, 4)}
    assert {name: size for name, size in sizes.items() if name.startswith("layer")} == expected


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_of_any_number_of_channels(channels: int) -> None:
    network = build_network(NetworkConfig("resnet8", channels=channels)).eval()
    assert network(torch.zeros(2, channels, 8, 8)).shape == (2, 10)


def batch_norm(state: State, name: str, x: Tensor, training: bool) -> Tensor:
    """Ioffe & Szegedy 2015, written out."""
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    normal = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
    return state[f"{name}.weight"][:, None, None] * normal + state[f"{name}.bias"][:, None, None]


def activate(state: State, name: str, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, state[f"{name}.weight"][:, None, None] * x)


def convolve(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def shortcut(state: State, block: str, x: Tensor, channels: int, stride: int, training: bool) -> Tensor:
    """Identity where the shape stays; options B and A of He 2015 where it changes."""
    if x.shape[1] == channels and stride == 1:
        return x
    if f"{block}.downsample.0.weight" in state:
        projected = convolve(state, f"{block}.downsample.0", x, stride)
        return batch_norm(state, f"{block}.downsample.1", projected, training)
    small = x[:, :, ::stride, ::stride]
    zeros = torch.zeros_like(small[:, : (channels - x.shape[1]) // 2])
    return torch.cat([zeros, small, zeros], 1)


def original(state: State, block: str, x: Tensor, strides: list[int], training: bool) -> Tensor:
    """He 2015, figure 2 and 5: weights, BN, activation, …, weights, BN, addition, activation."""
    y = x
    for index, stride in enumerate(strides, 1):
        y = batch_norm(state, f"{block}.bn{index}", convolve(state, f"{block}.conv{index}", y, stride), training)
        if index < len(strides):
            y = activate(state, f"{block}.act{index}", y)
    y = y + shortcut(state, block, x, y.shape[1], max(strides), training)
    return activate(state, f"{block}.act{len(strides)}", y)


def full_preactivation(state: State, block: str, x: Tensor, strides: list[int], training: bool) -> Tensor:
    """He 2016, figure 4(e); where the shape changes, the shortcut starts from the activated input (authors' code)."""
    y = first = activate(state, f"{block}.act1", batch_norm(state, f"{block}.bn1", x, training))
    y = convolve(state, f"{block}.conv1", y, strides[0])
    for index, stride in enumerate(strides[1:], 2):
        y = activate(state, f"{block}.act{index}", batch_norm(state, f"{block}.bn{index}", y, training))
        y = convolve(state, f"{block}.conv{index}", y, stride)
    same = x.shape == y.shape
    return y + (x if same else shortcut(state, block, first, y.shape[1], max(strides), training))


BLOCKS: dict[str, Callable[[State, str, Tensor, list[int], bool], Tensor]] = {
    "original": original,
    "full_preactivation": full_preactivation,
}


def reference(state: State, network: str, arrangement: str, x: Tensor, training: bool) -> Tensor:
    depths, convolutions = DEPTHS[network]
    imagenet = len(depths) == 4
    x = convolve(state, "conv1", x, 2 if imagenet else 1)
    if arrangement == "original":
        x = activate(state, "act1", batch_norm(state, "bn1", x, training))
    if imagenet:
        x = F.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for index in range(depth):
            strides = [1] * convolutions
            # The bottleneck shrinks in its 3×3 convolution (ResNet "v1.5", torchvision's).
            strides[convolutions - 2] = 2 if stage > 1 and index == 0 else 1
            x = BLOCKS[arrangement](state, f"layer{stage}.{index}", x, strides, training)
    if arrangement == "full_preactivation":
        x = activate(state, "final_act", batch_norm(state, "final_bn", x, training))
    head = "fc" if imagenet else "linear"
    return x.mean((2, 3)) @ state[f"{head}.weight"].T + state[f"{head}.bias"]


def test_the_reference_covers_every_arrangement_and_kind_of_part() -> None:
    assert set(BLOCKS) == set(ARRANGEMENTS), "write a new arrangement's block into BLOCKS"
    kinds = {(variant.stem, variant.branch, variant.shortcut) for variant in VARIANTS.values()}
    assert {(VARIANTS[n].stem, VARIANTS[n].branch, VARIANTS[n].shortcut) for n in DEPTHS} == kinds


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("network", DEPTHS)
def test_function_equals_the_paper(network: str, arrangement: str, training: bool) -> None:
    module = build_network(NetworkConfig(network, "prelu", arrangement, classes=6))
    randomise(module)
    module = module.double().train(training)
    size = 64 if len(DEPTHS[network][0]) == 4 else 16
    x = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference(dict(module.state_dict()), network, arrangement, x, training)
        actual = module(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_single_precision_is_close(arrangement: str) -> None:
    module = build_network(NetworkConfig("resnet14", "prelu", arrangement))
    randomise(module)
    module.eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        actual = module(x)
        expected = reference(
            {name: value.double() for name, value in module.state_dict().items()},
            "resnet14",
            arrangement,
            x.double(),
            training=False,
        )
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def norm_keys(name: str) -> set[str]:
    return {f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}


def published_keys(depths: tuple[int, ...], convolutions: int, head: str, projected: set[str]) -> set[str]:
    """Names of torchvision's ResNet, which the common CIFAR implementations share but for the head."""
    keys = {"conv1.weight", f"{head}.weight", f"{head}.bias"} | norm_keys("bn1")
    for stage, depth in enumerate(depths, 1):
        for block in (f"layer{stage}.{index}" for index in range(depth)):
            for index in range(1, convolutions + 1):
                keys |= {f"{block}.conv{index}.weight"} | norm_keys(f"{block}.bn{index}")
            if block in projected:
                keys |= {f"{block}.downsample.0.weight"} | norm_keys(f"{block}.downsample.1")
    return keys


@pytest.mark.parametrize(
    ("network", "depths", "convolutions", "head", "projected"),
    [
        ("resnet18", (2, 2, 2, 2), 2, "fc", {"layer2.0", "layer3.0", "layer4.0"}),
        ("resnet50", (3, 4, 6, 3), 3, "fc", {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}),
        ("resnet20", (3, 3, 3), 2, "linear", set()),
        ("resnet56", (9, 9, 9), 2, "linear", set()),
    ],
)
def test_state_has_the_names_of_published_checkpoints(
    network: str, depths: tuple[int, ...], convolutions: int, head: str, projected: set[str]
) -> None:
    assert set(on_paper(network).state_dict()) == published_keys(depths, convolutions, head, projected)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("network", VARIANTS)
def test_every_activation_site_is_a_module_of_its_own(network: str, arrangement: str) -> None:
    kind = type(find_activation("relu").build(1))
    calls: dict[str, int] = {}
    module = on_paper(network, arrangement=arrangement)
    for name, site in module.named_modules(remove_duplicate=False):
        if isinstance(site, kind):
            calls[name] = 0
            site.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    module(torch.empty(2, 3, 64, 64, device="meta"))
    assert calls
    assert set(calls.values()) == {1}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NetworkConfig(network="resnet19"), ["unknown network 'resnet19'", *VARIANTS]),
        (NetworkConfig(arrangement="sideways"), ["unknown arrangement 'sideways'", *ARRANGEMENTS]),
        (NetworkConfig(activation="gleu"), ["unknown activation 'gleu'", "relu", "mish"]),
        (NetworkConfig(classes=1), ["classes=1"]),
        (NetworkConfig(channels=0), ["channels=0"]),
    ],
)
def test_impossible_networks(config: NetworkConfig, message: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(message[0])) as caught:
        build_network(config)
    assert all(part in str(caught.value) for part in message)
