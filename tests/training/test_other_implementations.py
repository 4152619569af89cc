"""Networks of torchvision and timm with random weights: imported here, they give the same logits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.layouts import trained
from training.resnet.network import NetworkConfig, build_network
from training.weights.file import read_weights
from training.weights.importing import load_weights

pytestmark = pytest.mark.others

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
)
# Ours → timm's. Its squeeze-and-excitation rounds to 8 channels, which narrower networks than these feel.
TIMM = {
    "resnet50c": "resnet50c",
    "resnet18d": "resnet18d",
    "resnet34d": "resnet34d",
    "resnet50d": "resnet50d",
    "resnet101d": "resnet101d",
    "resnet152d": "resnet152d",
    "se_resnet50": "seresnet50",
    "se_resnet101": "seresnet101",
    "se_resnet152": "seresnet152",
}
SIZE = 64


def check(name: str, other: nn.Module, tmp_path: Path) -> None:
    """Logits equal within 1e-5 of the largest."""
    published = trained(other, SIZE)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    ours = build_network(NetworkConfig(name, classes=10))
    load_weights(ours, read_weights(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = published(images), ours.eval()(images)
    assert (actual - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    check(name, models.get_model(name, weights=None, num_classes=10), tmp_path)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    check(name, timm.create_model(TIMM[name], pretrained=False, num_classes=10), tmp_path)
