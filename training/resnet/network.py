"""Assembles a residual network from the catalogues. Shapes: images N×C×H×W, logits N×K."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from training.activations.catalogue import find_activation
from training.activations.entry import Activation
from training.resnet.arrangements import ARRANGEMENTS, ResidualBlock
from training.resnet.branches import BRANCHES
from training.resnet.shortcuts import SHORTCUTS
from training.resnet.stems import STEMS
from training.resnet.variants import VARIANTS, Variant


@dataclass(frozen=True)
class NetworkConfig:
    """What names a network completely: the same configuration builds the same modules."""

    network: str = "resnet20"
    """Key of the variants catalogue."""
    activation: str = "relu"
    """Key of the activation catalogue, used at every site."""
    arrangement: str = "original"
    """Key of the arrangement catalogue."""
    classes: int = 10
    channels: int = 3
    """Channels of the input image."""
    activation_parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the activation that are not at their default, by name."""


class ResNet(nn.Module):
    """logits = classifier(mean over H×W of head(stages(stem(images))))."""

    def __init__(
        self, variant: Variant, activation: Activation, arrangement: type[ResidualBlock], channels: int, classes: int
    ) -> None:
        super().__init__()
        width = variant.widths[0]
        stem = STEMS[variant.stem](channels, width, activation, arrangement.preactivated)
        stages = _build_stages(variant, activation, arrangement)
        width = variant.widths[-1] * BRANCHES[variant.branch].expansion
        before = activation.width_before(width)
        closing = (
            {"final_bn": nn.BatchNorm2d(before), "final_act": activation.build(before)}
            if arrangement.preactivated
            else {}
        )
        head = {
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            variant.classifier: nn.Linear(activation.width_after(width), classes),
        }
        parts = stem | stages | closing | head
        for name, part in parts.items():
            self.add_module(name, part)
        self.order = tuple(parts)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def _build_stages(variant: Variant, activation: Activation, arrangement: type[ResidualBlock]) -> dict[str, nn.Module]:
    branch = BRANCHES[variant.branch]
    width_in = variant.widths[0]
    stages: dict[str, nn.Module] = {}
    for number, (depth, width) in enumerate(zip(variant.depths, variant.widths, strict=True), start=1):
        blocks = []
        for index in range(depth):
            stride = 2 if number > 1 and index == 0 else 1
            width_out = width * branch.expansion
            # Every convolution, a shortcut's too, reads what an activation gave and writes what one takes; a block of
            # pre-activated ones is entered by a sum.
            activated, summed = activation.width_after(width_in), activation.width_before(width_out)
            entering = activation.width_before(width_in) if arrangement.preactivated else activated
            unchanged = entering == summed and stride == 1
            shortcut = nn.Identity() if unchanged else SHORTCUTS[variant.shortcut](activated, summed, stride)
            convolutions = branch.convolutions(activated, width, stride, activation)
            blocks.append(arrangement(entering, convolutions, shortcut, activation))
            width_in = width_out
        stages[f"layer{number}"] = nn.Sequential(*blocks)
    return stages


def build_network(config: NetworkConfig) -> ResNet:
    """Build the network that `config` names, with PyTorch's default initialisation.

    Raises `ValueError` for an unknown name or an impossible number, naming what is allowed.
    """
    if config.network not in VARIANTS:
        raise ValueError(f"unknown network {config.network!r}; choose from {', '.join(VARIANTS)}")
    if config.arrangement not in ARRANGEMENTS:
        raise ValueError(f"unknown arrangement {config.arrangement!r}; choose from {', '.join(ARRANGEMENTS)}")
    if config.classes < 2:
        raise ValueError(f"classes={config.classes} is not allowed: a classifier needs at least 2")
    if config.channels < 1:
        raise ValueError(f"channels={config.channels} is not allowed: an image has at least 1")
    activation = find_activation(config.activation, config.activation_parameters)
    return ResNet(
        VARIANTS[config.network], activation, ARRANGEMENTS[config.arrangement], config.channels, config.classes
    )
