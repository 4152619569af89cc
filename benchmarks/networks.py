"""Untrained networks to time: speed depends on the scale of values at most, not on what the weights have learned."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import onnx
import torch
from torch import nn

from models.manifest import ModelManifest, Preprocessing, TensorSpec
from training.classifier import PixelClassifier
from training.export.graph import INPUT, OUTPUT, ExportedGraph, export
from training.resnet.network import NetworkConfig, build_network

CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Case:
    """What is timed: a network for size × size images, at these batch sizes."""

    config: NetworkConfig
    size: int
    batches: tuple[int, ...]
    rounds: int
    """At batch 1; some benchmarks take fewer for larger ones."""


def untrained(config: NetworkConfig, size: int) -> tuple[onnx.ModelProto, ModelManifest]:
    """Export a network with random weights for size × size images."""
    classifier = untrained_classifier(config)
    exported = export(classifier, config.activation, (config.channels, size, size), config.activation_parameters)
    return exported.model, described(exported, config, size)


def described(exported: ExportedGraph, config: NetworkConfig, size: int) -> ModelManifest:
    """The manifest of a network that was exported without training."""
    return ModelManifest(
        name=f"{config.network}-{config.activation}",
        version=1,
        created=datetime.now(UTC),
        description="untrained",
        baseline=None,
        digests={"model.onnx": "0" * 64},
        inputs=(TensorSpec(name=INPUT, datatype="FP32", shape=(-1, config.channels, size, size)),),
        outputs=(TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, config.classes)),),
        class_names=tuple(str(index) for index in range(config.classes)),
        preprocessing=Preprocessing(channels=3, height=size, width=size, resize=size),
        sites=exported.sites,
        blocks=exported.blocks,
        metrics=None,
        training=None,
    )


def untrained_classifier(config: NetworkConfig) -> PixelClassifier:
    """The network that `untrained` exports."""
    torch.manual_seed(0)
    return PixelClassifier(build_network(config), (127.5,) * config.channels, (64.0,) * config.channels).eval()


def calibrated(config: NetworkConfig, size: int, gain: float) -> PixelClassifier:
    """A network with random weights, whose normalisations know the statistics of random images and multiply by `gain`.

    So values have about the scale that they have in a trained network, and both signs at every activation.
    """
    torch.manual_seed(0)
    classifier = PixelClassifier(build_network(config), (127.5,) * config.channels, (64.0,) * config.channels)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The statistics of the one batch that follows, not a mixture with the initial ones.
            module.momentum = None
            nn.init.constant_(module.weight, gain)
    with torch.no_grad():
        classifier.train()(torch.from_numpy(random_pixels(CALIBRATION_IMAGES, size)))
    return classifier.eval()


def random_pixels(batch: int, size: int) -> np.ndarray:
    """A float32 batch of uniformly random pixel values."""
    return np.random.default_rng(0).integers(0, 256, (batch, 3, size, size)).astype(np.float32)
