"""The names and shapes of weights are those of published checkpoints."""

import re

import pytest
import torch

from training.resnet.network import NetworkConfig, build_network


def published_shapes(network: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = build_network(NetworkConfig(network)).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


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
        ("wide_resnet50_2", (3, 4, 6, 3), 3, "fc", {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}),
        ("resnext50_32x4d", (3, 4, 6, 3), 3, "fc", {"layer1.0", "layer2.0", "layer3.0", "layer4.0"}),
        ("resnet20", (3, 3, 3), 2, "linear", set()),
        ("plain20", (3, 3, 3), 2, "linear", set()),
        ("plain34", (3, 4, 6, 3), 2, "fc", set()),
        ("resnet56", (9, 9, 9), 2, "linear", set()),
    ],
)
def test_state_has_the_names_of_published_checkpoints(
    network: str, depths: tuple[int, ...], convolutions: int, head: str, projected: set[str]
) -> None:
    assert set(published_shapes(network)) == published_keys(depths, convolutions, head, projected)


def test_tweaked_networks_have_the_names_of_published_checkpoints() -> None:
    """timm's resnet50d and seresnet50."""
    plain, tweaked = (set(published_shapes(network)) for network in ("resnet50", "resnet50d"))
    stem = {"conv1.0.weight", "conv1.3.weight", "conv1.6.weight"} | norm_keys("conv1.1") | norm_keys("conv1.4")
    around = {key for key in plain if "downsample" in key}
    # The pooling is first.
    moved = {re.sub(r"downsample\.(\d)", lambda number: f"downsample.{int(number[1]) + 1}", key) for key in around}
    assert tweaked == (plain - around - {"conv1.weight"}) | stem | moved
    gates = {f"se.{part}.{kind}" for part in ("fc1", "fc2") for kind in ("weight", "bias")}
    blocks = {key.rpartition(".conv1")[0] for key in plain if re.fullmatch(r"layer.*\.conv1\.weight", key)}
    squeezed = set(published_shapes("se_resnet50"))
    assert squeezed == plain | {f"{block}.{gate}" for block in blocks for gate in gates}


@pytest.mark.parametrize(
    ("network", "name", "shape"),
    [
        # Shapes of torchvision's weights.
        ("resnext50_32x4d", "layer1.0.conv2.weight", (128, 4, 3, 3)),
        ("resnext50_32x4d", "layer4.2.conv2.weight", (1024, 32, 3, 3)),
        ("resnext101_32x8d", "layer1.0.conv2.weight", (256, 8, 3, 3)),
        ("wide_resnet50_2", "layer1.0.conv2.weight", (128, 128, 3, 3)),
        ("wide_resnet50_2", "layer4.2.conv3.weight", (2048, 1024, 1, 1)),
        # Hu 2018: a reduction of 16.
        ("se_resnet50", "layer1.0.se.fc1.weight", (16, 256, 1, 1)),
        # Zagoruyko 2016, table 1.
        ("wrn_28_10", "conv1.weight", (16, 3, 3, 3)),
        ("wrn_28_10", "layer1.0.downsample.0.weight", (160, 16, 1, 1)),
        # Xie 2017: 8 groups of 64 channels.
        ("resnext29_8x64d", "layer1.0.conv2.weight", (512, 64, 3, 3)),
    ],
)
def test_published_shapes_of_weights(network: str, name: str, shape: tuple[int, ...]) -> None:
    assert published_shapes(network)[name] == shape
