"""Graphs of networks in which each key of the catalogues stands beside others; the export checks their logits."""

import numpy as np
import pytest
import torch

from models.instrument import instrument
from models.opset import DOMAIN
from models.statistics import layout
from tests.training.combinations import AXES, KINDS, Combination
from tests.training.exports import Case, Exported, assert_close, manifest, observed, run
from tests.training.small import calibrate, randomise, unsettle
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.export.graph import export
from training.resnet.block import ResidualBlock

COMBINATIONS = [
    Combination(
        stem="imagenet",
        branch="quartered",
        shape="average",
        stage="reversible",
        activation="mish",
        arrangement="relu_only_preactivation",
        normaliser="none",
    ),
    Combination(
        stem="padding",
        branch="bottleneck_a",
        shape="projection",
        squeeze=2,
        groups=2,
        activation="relu",
        arrangement="relu_before_addition",
        shortcut="shortcut_only_gating",
        normaliser="fixup",
        head="birnn",
    ),
    Combination(
        stem="imagenet",
        branch="bottleneck",
        stage="plain",
        squeeze=2,
        arrangement="bn_after_addition",
        shortcut="none",
        head="deep_birnn",
    ),
    Combination(
        stem="deep",
        branch="bottleneck",
        shape="space_to_depth",
        squeeze=2,
        arrangement="original",
        shortcut="constant_scaling",
        normaliser="skipinit",
        head="attention",
    ),
    Combination(
        shape="projection", activation="relu", shortcut="conv_1x1", normaliser="skipinit", head="deep_birnn_gru"
    ),
    Combination(branch="quartered", shape="average", stage="dense", groups=2, activation="crelu", head="birnn"),
    Combination(
        stem="imagenet",
        branch="quartered",
        shape="space_to_depth",
        groups=2,
        activation="mish",
        shortcut="exclusive_gating",
        normaliser="skipinit",
        head="birnn_gru",
    ),
    Combination(
        stem="padding",
        shape="projection",
        groups=2,
        arrangement="original",
        shortcut="dropout",
        normaliser="fixup",
        head="birnn",
    ),
]
EXPORTED = ("stem", "branch", "shape", "stage", "squeeze", "groups", "arrangement", "shortcut", "normaliser", "head")


def test_every_key_is_exported() -> None:
    for axis in EXPORTED:
        assert {getattr(combination, axis) for combination in COMBINATIONS} == set(AXES[axis]), axis


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_graphs_have_their_sites_blocks_and_statistics(combination: Combination) -> None:
    torch.manual_seed(0)
    parameters = KINDS.get(combination.activation, {})
    network = combination.build(parameters)
    randomise(network)
    unsettle(network)
    given = PixelClassifier(network, [110.0, 120.0, 130.0], [50.0, 57.0, 64.0]).eval()
    size = 24 if combination.stem in ("imagenet", "deep") else 8
    calibrate(given, size)
    graph = export(given, combination.activation, (3, size, size), parameters)
    assert graph.parity <= 1e-4
    modules = dict(network.named_modules())
    sites = {name for name, part in modules.items() if isinstance(part, ActivationModule)}
    assert {site.name for site in graph.sites} == sites
    assert {node.name for node in graph.model.graph.node if node.domain == DOMAIN} == sites
    blocks = {name for name, part in modules.items() if isinstance(part, ResidualBlock) and part.downsample is not None}
    assert {block.name for block in graph.blocks} == blocks
    exported = Exported(Case("", combination.activation, combination.arrangement, size), given, given, graph)
    pixels = exported.pixels(2)
    instrumented = run(instrument(graph.model, manifest(exported)), pixels)
    plain = run(graph.model, pixels)["logits"]
    np.testing.assert_allclose(instrumented["logits"], plain, rtol=1e-5, atol=1e-5)
    seen = observed(given, pixels)
    means = [seen[site.name][1].double().numpy().mean((2, 3)) for site in graph.sites]
    assert_close(np.concatenate(means, 1), instrumented[layout.MEAN], "means")
