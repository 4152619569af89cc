"""Small problems and networks with nothing left at its default, for tests that need the real thing quickly."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from models.manifest import Preprocessing
from tests.training.cases import learn
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.data.images import DataSet, LabelledImages
from training.loop.watch import Moment, Watch
from training.resnet.attention import AttentionWeights
from training.resnet.block import ResidualBlock
from training.resnet.network import NetworkConfig, build_network
from training.resnet.normalisers import Multiplier, ScalarBias

SIZE = 8


class SilentBar:
    """A progress bar that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def advance(self, done: int, total: int, note: str = "") -> None:  # noqa: ARG002
        self.steps.append((done, total))

    def line(self, text: str) -> None:
        self.lines.append(text)


class Crash(Watch):
    """Something that nobody thought of, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, moment: Moment) -> None:
        if moment.step == self.step:
            raise RuntimeError("power failure")


def problem(
    training: int = 40, held_out: int = 20, classes: int = 3, channels: int = 1, mirrored: bool = True
) -> DataSet:
    """Noise whose brightness grows with the class: can be learned, and no two images are equal."""
    random = np.random.default_rng(0)
    classes = 3

    def part(count: int) -> LabelledImages:
        labels = np.arange(count) % classes
        noise = random.integers(0, 100, (count, channels, SIZE, SIZE))
        return LabelledImages((noise + 70 * labels[:, None, None, None]).astype(np.uint8), labels)

    preprocessing = Preprocessing(channels=channels, height=SIZE, width=SIZE, resize=SIZE)
    names = tuple(f"class{index}" for index in range(classes))
    return DataSet("brightness", part(training), part(held_out), names, preprocessing, mirrored)


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Weights, slopes and running statistics that no default could equal, scaled so that values stay moderate."""
    generator = torch.Generator().manual_seed(seed)
    learning = [module for module in network.modules() if isinstance(module, ActivationModule)]
    for number, module in enumerate(learning):
        # Slopes of dynamic ReLU that grow from block to block would amplify rounding as much as they do values.
        learn(module, -0.5, 1.2, seed + number, spread=0.15)
    learned = {part for module in learning for part in module.modules()}
    for module in network.modules():
        if module in learned:
            continue
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)


def unsettle(network: nn.Module, seed: int = 2) -> None:
    """Nothing else is as it starts either: neither scalars nor biases nor queries."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, ScalarBias | Multiplier):
            for parameter in part.parameters():
                parameter.data.uniform_(0.2, 0.9, generator=generator)
        elif isinstance(part, nn.Conv2d) and part.bias is not None:
            part.bias.data.uniform_(-0.5, 0.5, generator=generator)
        elif isinstance(part, AttentionWeights):
            part.query.data.normal_(0, 3, generator=generator)


def classifier(
    network: str,
    activation: str,
    arrangement: str,
    channels: int = 3,
    classes: int = 10,
    seed: int = 0,
    parameters: Mapping[str, float] | None = None,
    shortcut: str = "identity",
    normaliser: str = "batch",
) -> PixelClassifier:
    """A random network behind a normalisation that differs from channel to channel, in evaluation mode."""
    torch.manual_seed(seed)
    config = NetworkConfig(network, activation, arrangement, classes, channels, parameters or {})
    module = build_network(replace(config, shortcut=shortcut, normaliser=normaliser))
    randomise(module, seed)
    mean = [110.0 + 10 * channel for channel in range(channels)]
    std = [50.0 + 7 * channel for channel in range(channels)]
    return PixelClassifier(module, mean, std).eval()


def calibrate(model: PixelClassifier, size: int, gain: float = 1.0) -> None:
    """Running statistics of random images, as after training, and weights of the blocks' normalisations × `gain`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    for norm in {norm for block in blocks for norm in block.modules() if isinstance(norm, nn.BatchNorm2d)}:
        norm.weight.data *= gain
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (16, 3, size, size), generator=generator).float()
    with torch.no_grad():
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
