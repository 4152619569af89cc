"""A published graph back into the network that it was made of."""

import numpy as np
import pytest
import torch

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from tests.training import small
from training.classifier import PixelClassifier
from training.data import digits
from training.export.graph import check_parity, export
from training.resnet.network import NetworkConfig, build_network
from training.retraining.champion import Champion, network_of
from training.retraining.unfolding import read_back

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), np.uint8)


def test_weights_come_back_from_the_graph() -> None:
    """Normalisations that were folded and such that were not, slopes, and the normalisation of the pixels."""
    published = small.classifier("resnet8", "prelu", "full_preactivation")
    exported = export(published, "prelu", (3, 8, 8))
    network = build_network(NetworkConfig("resnet8", "prelu", "full_preactivation"))
    fresh = PixelClassifier(network, [0.0] * 3, [1.0] * 3)
    read_back(fresh, exported.model, PIXELS)
    assert check_parity(exported.model, fresh, (3, 8, 8)) <= 2e-5
    torch.testing.assert_close(fresh.mean, published.mean)
    slopes = [name for name in dict(fresh.named_parameters()) if "act" in name]
    assert slopes
    for name in slopes:
        torch.testing.assert_close(fresh.get_parameter(name), published.get_parameter(name))


def test_the_models_that_ship_can_be_trained_on() -> None:
    champion = Champion.of(ModelRepository(SHIPPED_MODELS).open("digits"))
    assert champion.network == NetworkConfig("resnet8", "relu", "original", 10, 1)
    pixels = digits.load().training.pixels[:300]
    classifier = champion.classifier(pixels)
    assert check_parity(champion.model, classifier, (1, 8, 8)) <= 2e-5
    # In training a normalisation uses the moments of its batch: of these images they are the ones that it has.
    images = torch.from_numpy(pixels).float()
    with torch.no_grad():
        evaluated, trained = classifier.eval()(images), classifier.train()(images)
    assert (evaluated - trained).abs().max() <= 0.01 * evaluated.abs().max()


def test_options_of_the_network_are_in_the_record() -> None:
    manifest = ModelRepository(SHIPPED_MODELS).open("digits").manifest
    record = manifest.training
    assert record is not None
    options = {"shortcut": "exclusive_gating", "shortcut.bias": -7.0, "head": "attention", "regularisers.dropout": 0.2}
    changed = manifest.model_copy(
        update={"training": record.model_copy(update={"options": {**record.options, **options}})}
    )
    network = network_of(changed)
    assert (network.shortcut, network.shortcut_parameters) == ("exclusive_gating", {"bias": -7.0})
    assert (network.head, network.normaliser, network.regularisers) == ("attention", "batch", {"dropout": 0.2})


def test_a_graph_of_others_cannot_be_trained_on() -> None:
    manifest = ModelRepository(SHIPPED_MODELS).open("digits").manifest
    with pytest.raises(ValueError, match="its network is not known"):
        network_of(manifest.model_copy(update={"training": None}))


def test_weights_that_cannot_be_read_back_are_refused() -> None:
    bundle = ModelRepository(SHIPPED_MODELS).open("digits")
    champion = Champion.of(bundle)
    for initializer in champion.model.graph.initializer:
        if initializer.name == "layer2.0.conv1.weight":
            # The graph computes the same under another name, but it is not found.
            initializer.name = "elsewhere"
    for node in champion.model.graph.node:
        node.input[:] = ["elsewhere" if name == "layer2.0.conv1.weight" else name for name in node.input]
    with pytest.raises(ValueError, match=r"cannot be read back from its graph .* give the run"):
        champion.classifier(PIXELS[:, :1])
