"""Residual networks against the papers: sizes, shapes and names; their function is in test_network_function.py."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from training.activations.catalogue import find_activation
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.counts import count_network
from training.resnet.heads import HEADS
from training.resnet.network import NetworkConfig, assemble, build_network
from training.resnet.variants import SERIES, VARIANTS, Variant, cifar, find_variant, plain, wide

# Millions of parameters as the papers print them. He 2015, table 6; He 2016, table 4; Zagoruyko 2016, table 4;
# Xie 2017, table 7; Huang 2017, table 2.
PAPERS = {
    "resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7, "resnet1202": 19.4,
    "resnet164": 1.7, "wrn_16_8": 11.0, "wrn_28_10": 36.5, "wrn_40_4": 8.9, "resnext29_8x64d": 34.4,
    "densenet_bc_100_12": 0.8,
}  # fmt: skip
# The documentation of torchvision's models, and of timm's for those that torchvision does not have; for 1000 classes.
LIBRARIES = {
    "resnet18": 11.69, "resnet34": 21.80, "resnet50": 25.56, "resnet101": 44.55, "resnet152": 60.19,
    "resnext50_32x4d": 25.03, "resnext101_32x8d": 88.79, "wide_resnet50_2": 68.88, "wide_resnet101_2": 126.89,
    "resnet18d": 11.71, "resnet34d": 21.82, "resnet50c": 25.58, "resnet50d": 25.58, "resnet101d": 44.57,
    "resnet152d": 60.21, "se_resnet18": 11.78, "se_resnet34": 21.96, "se_resnet50": 28.09, "se_resnet101": 49.33,
    "se_resnet152": 66.82,
}  # fmt: skip
# Millions of multiply-adds for one image: torchvision's documentation at 224×224; common counts at 32×32.
MULTIPLY_ADDS = {
    "resnet18": 1814, "resnet34": 3664, "resnet50": 4089, "resnet101": 7801, "resnet152": 11514,
    "resnext50_32x4d": 4230, "resnext101_32x8d": 16414, "wide_resnet50_2": 11398, "wide_resnet101_2": 22753,
    "resnet20": 41, "resnet56": 126, "resnet110": 253,
}  # fmt: skip
# One of each kind, for what need not be shown of every depth.
KINDS = ("resnet20", "resnet18", "resnet50", "plain20", "wrn_16_8", "resnext50_32x4d", "se_resnet20", "resnet50d")
ARRANGED = [(network, arrangement) for network in KINDS for arrangement in ARRANGEMENTS]
ARRANGED += [("densenet_bc_40_12", "full_preactivation"), ("revnet38", "full_preactivation")]


def usual(network: str) -> str:
    """An arrangement that the network takes."""
    return "original" if VARIANTS[network].stage in ("residual", "plain") else "full_preactivation"


def on_paper(network: str, activation: str = "relu", arrangement: str = "original", classes: int = 10) -> nn.Module:
    """Shapes without memory or arithmetic."""
    with torch.device("meta"):
        return build_network(NetworkConfig(network, activation, arrangement, classes))


def shallow(network: str, arrangement: str, classes: int = 10) -> nn.Module:
    """With no more than two blocks in a stage: the first, and one of those that are all alike."""
    variant = VARIANTS[network]
    with torch.device("meta"):
        fewer = replace(variant, depths=tuple(min(depth, 2) for depth in variant.depths))
        return assemble(fewer, NetworkConfig(network, arrangement=arrangement, classes=classes))


@pytest.mark.parametrize(("network", "published"), PAPERS.items())
def test_published_size(network: str, published: float) -> None:
    counted = count_network(NetworkConfig(network, arrangement=usual(network))).parameters / 1e6
    if network == "wrn_40_4":
        # 8.950: the paper cuts off where the others round.
        counted -= 0.05
    assert round(counted, len(str(published).partition(".")[2])) == published


def test_published_size_of_1001_layers() -> None:
    """He 2016: 10.2 M, which are the weights of convolutions and of the linear layer."""
    network = on_paper("resnet1001", arrangement="full_preactivation")
    weights = [part.weight.numel() for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert round(sum(weights) / 1e6, 1) == 10.2


@pytest.mark.parametrize(("network", "published"), LIBRARIES.items())
def test_published_size_of_imagenet_networks(network: str, published: float) -> None:
    assert round(count_network(NetworkConfig(network, classes=1000)).parameters / 1e6, 2) == published


@pytest.mark.parametrize(("network", "published"), MULTIPLY_ADDS.items())
def test_published_multiply_adds(network: str, published: float) -> None:
    config = NetworkConfig(network, classes=VARIANTS[network].classes)
    counted = count_network(config).multiply_adds / 1e6
    assert counted == pytest.approx(published, abs=0.6)


@pytest.mark.parametrize("network", ["resnet32", "plain34", "resnet50d", "resnext29_8x64d", "densenet_bc_40_12"])
@pytest.mark.parametrize("size", [32, 47])
def test_counts_are_those_of_every_block(network: str, size: int) -> None:
    """The counts take one block for all that are alike; here each convolution is asked."""
    config = NetworkConfig(network, arrangement=usual(network), classes=7)
    found = {"multiply_adds": 0}

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        weight = module.get_parameter("weight")
        found["multiply_adds"] += output.numel() * weight[0].numel()

    with torch.device("meta"):
        module = build_network(config).eval()
    weighted = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    for part in weighted:
        part.register_forward_hook(hook)
    module(torch.empty(1, 3, size, size, device="meta"))
    counts = count_network(config, size)
    assert counts.multiply_adds == found["multiply_adds"]
    assert counts.parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_counted(head: str) -> None:
    config = NetworkConfig("resnet8", head=head)
    plain = count_network(replace(config, head="linear"))
    counts = count_network(config)
    assert counts.parameters == sum(parameter.numel() for parameter in build_network(config).parameters())
    assert (counts.multiply_adds > plain.multiply_adds) == (head != "linear")


@pytest.mark.parametrize("network", VARIANTS)
def test_name_counts_the_layers(network: str) -> None:
    (named, *_) = map(int, re.findall(r"[0-9]+", network))
    if network.startswith("wrn"):
        # Its name counts three shortcuts, and not the linear layer.
        named += 1 - 3
    elif network.endswith(("c", "d")) and network.startswith("resnet"):
        # Three convolutions for a stem.
        named += 2
    assert count_network(NetworkConfig(network, arrangement=usual(network))).layers == named


EXPANSIONS = {
    "basic": 1, "quartered": 1, "bottleneck": 4, "bottleneck_a": 4,
}  # fmt: skip


SIZES = [(1, 1), (2, 2), (4, 4), (5, 7), (33, 47), (64, 48), (197, 224), (224, 224)]


@pytest.mark.parametrize("network", VARIANTS)
def test_stages_halve_images_of_any_size_and_logits_have_one_column_a_class(network: str) -> None:
    variant = VARIANTS[network]
    module = shallow(network, usual(network), classes=7).eval()
    sizes: dict[str, list[int]] = {}
    for name, child in module.named_children():
        child.register_forward_hook(lambda _m, _i, out, name=name: sizes.update({name: list(out.shape[1:])}))
    for size in SIZES:
        images = torch.empty(3, 3, *size, device="meta")
        halves = 2 ** (len(variant.depths) - 1)
        cut = variant.shortcut == "space_to_depth" and any(side % halves for side in size)
        if min(size) < variant.smallest or cut:
            with pytest.raises(ValueError, match=r"are too small|cannot be cut into squares"):
                module(images)
            continue
        assert module(images).shape == (3, 7)
        # The stem of the ImageNet family has made a quarter of the image already.
        first = 1 if variant.image == 32 else 4
        for number, width in enumerate(variant.widths):
            channels, *rest = sizes[f"layer{number + 1}"]
            side = first * 2**number
            # Padded convolutions round up, the averages of dense networks down.
            assert rest == [each // side if variant.stage == "dense" else -(-each // side) for each in size]
            if variant.stage != "dense":
                assert channels == width * EXPANSIONS[variant.branch] * variant.streams


@pytest.mark.parametrize(("size", "fine"), [((4, 4), True), ((5, 9), True), ((3, 8), False), ((8, 1), False)])
def test_images_too_small_are_refused(size: tuple[int, int], fine: bool) -> None:
    module = shallow("densenet_bc_40_12", "full_preactivation").eval()
    images = torch.empty(2, 3, *size, device="meta")
    if fine:
        assert module(images).shape == (2, 10)
    else:
        with pytest.raises(ValueError, match=f"images of {size[0]}×{size[1]} are too small .* needs 4×4"):
            module(images)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_of_any_number_of_channels(channels: int) -> None:
    network = build_network(NetworkConfig("resnet8", channels=channels)).eval()
    assert network(torch.zeros(2, channels, 8, 8)).shape == (2, 10)


def test_where_bottlenecks_shrink() -> None:
    def strides(network: str) -> list[int]:
        block = on_paper(network).get_submodule("layer2.0")
        convolutions = (block.get_submodule(f"conv{index}") for index in (1, 2, 3))
        return [part.stride[0] for part in convolutions if isinstance(part, nn.Conv2d)]

    assert strides("resnet50a") == [2, 1, 1]
    assert strides("resnet50") == strides("resnet50b") == strides("resnet50d") == [1, 2, 1]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_plain_network_is_the_residual_one_without_shortcuts(arrangement: str) -> None:
    with torch.device("meta"):
        without = build_network(NetworkConfig("resnet20", arrangement=arrangement, shortcut="none"))
    plain = on_paper("plain20", arrangement=arrangement)
    assert str(plain) == str(without)
    assert not [name for name, _ in plain.named_modules() if name.endswith("downsample")]


@pytest.mark.parametrize(
    ("name", "same"), [("resnet20", cifar(20)), ("plain20", plain(cifar(20))), ("wrn_28_10", wide(28, 10))]
)
def test_entries_of_a_series_are_of_it(name: str, same: Variant) -> None:
    assert find_variant(name) == same


def test_any_depth_has_a_name() -> None:
    assert find_variant("resnet26").depths == (4, 4, 4)
    assert find_variant("plain62").stage == "plain"
    assert find_variant("se_resnet26").squeeze == 16
    assert find_variant("wrn_22_3").widths == (48, 96, 192)
    assert find_variant("resnext29_16x4d").groups == 16
    assert find_variant("densenet_bc_22_8").widths == (8, 8, 8)
    # These have two forms, and the catalogue decides.
    assert find_variant("resnet50").image == 224
    assert find_variant("resnet164").branch == "bottleneck"


@pytest.mark.parametrize(("network", "arrangement"), ARRANGED)
def test_every_activation_site_is_a_module_of_its_own(network: str, arrangement: str) -> None:
    kind = type(find_activation("relu").build(1))
    calls: dict[str, int] = {}
    module = shallow(network, arrangement)
    for name, site in module.named_modules(remove_duplicate=False):
        if isinstance(site, kind):
            calls[name] = 0
            site.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    module(torch.empty(2, 3, 64, 64, device="meta"))
    assert calls
    assert set(calls.values()) == {1}


DENSE: dict[str, Any] = {"network": "densenet_bc_40_12", "arrangement": "full_preactivation"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            NetworkConfig(network="resnet19"),
            ["unknown network 'resnet19' (19 layers are not 6n + 2)", *VARIANTS, *SERIES],
        ),
        (NetworkConfig(network="resnet2"), ["unknown network 'resnet2' (2 layers are not 6n + 2)"]),
        (NetworkConfig(network="resnet020"), ["unknown network 'resnet020'; choose from"]),
        (NetworkConfig(network="wrn_26_2"), ["(26 layers are not 6n + 4)"]),
        (NetworkConfig(network="resnet100000"), ["unknown network 'resnet100000'; choose from"]),
        (NetworkConfig("plain20", shortcut="conv_1x1"), ["network 'plain20' has no shortcuts", "'conv_1x1'"]),
        (NetworkConfig("plain20", shortcut="sideways"), ["'sideways'"]),
        (NetworkConfig("densenet_bc_40_12"), ["arrangement 'original'", "choose 'full_preactivation'"]),
        (NetworkConfig(**DENSE, shortcut="none"), ["adds nothing", "'none'"]),
        (NetworkConfig(**DENSE, normaliser="skipinit"), ["'skipinit'", "choose 'batch'"]),
        (NetworkConfig(**DENSE, regularisers={"dropout": 0.1}), ["'dropout'", "leave it out"]),
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
