"""Residual networks against the papers: sizes, shapes and names; their function is in test_network_function.py."""

import re

import pytest
import torch
from torch import nn

from training.activations.catalogue import find_activation
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.network import NetworkConfig, build_network
from training.resnet.variants import VARIANTS

# He 2015, table 6, in millions; for 10 classes.
CIFAR_MILLIONS = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7}
# The documentation of torchvision's models; for 1000 classes.
IMAGENET_MILLIONS = {"resnet18": 11.69, "resnet34": 21.80, "resnet50": 25.56, "resnet101": 44.55, "resnet152": 60.19}


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
