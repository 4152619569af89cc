"""The family in small, by our own commands: trained on digits, published into one repository, served, looked into."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.service.conftest import png
from tests.service.processes import process
from training.__main__ import main
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.data import digits
from training.publication.bundle import restore_classifier
from training.resnet.block import ResidualBlock
from training.resnet.reversible import features, invert
from training.resnet.variants import VARIANTS, Variant, grouped, irevnet, revnet, squeezed
from training.run import Run, RunConfig

DATA = digits.load()
PIXELS = DATA.held_out.pixels[:4]
# What has a name only in the sizes that were published.
SMALL: dict[str, Variant] = {
    "irevnet10": irevnet(10),
    "revnet14": revnet(14, (8, 8, 8)),
    "se_resnext": squeezed(
        grouped(Variant("cifar", "bottleneck", (1, 1), (16, 32), "projection", "linear"), groups=2, group_width=4)
    ),
}
# By name: network, head, and images a step.
MODELS: dict[str, tuple[str, str, int]] = {
    "irevnet-attention": ("irevnet10", "attention", 128),
    "revnet": ("revnet14", "linear", 128),
    "dense-gru": ("densenet_bc_10_4", "birnn_gru", 128),
    "grouped-se-lstm": ("se_resnext", "deep_birnn", 128),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, variant in SMALL.items():
            patch.setitem(VARIANTS, name, variant)
        for name, (network, head, batch) in MODELS.items():
            run = home / "runs" / name
            parts = f"--network {network} --head {head} --arrangement full_preactivation --device cpu"
            for command in (
                f"train --run {run} {parts} --epochs 1 --batch-size {batch}",
                f"publish {run} --name {name} --repository {home / 'shelf'}",
            ):
                patch.setattr(sys, "argv", ["training", *shlex.split(command)])
                main()
        yield home


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with process(home / "shelf") as address, httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        yield client


def outputs(classifier: PixelClassifier, kind: type[nn.Module]) -> dict[str, Tensor]:
    """PyTorch's: what every module of a kind puts out for the images, in their order, and the probabilities."""
    seen: dict[str, Tensor] = {}
    for name, module in classifier.network.named_modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        seen["probabilities"] = classifier(torch.from_numpy(PIXELS).float()).double().softmax(1)
    return seen


def test_a_trained_network_still_gives_the_images_back(home: Path) -> None:
    """Within what is stated of random weights."""
    run = Run(home / "runs" / "irevnet-attention", RunConfig.read(home / "runs" / "irevnet-attention"))
    classifier = restore_classifier(run, DATA)
    x = (torch.from_numpy(DATA.held_out.pixels).float() - classifier.mean) * classifier.scale
    with torch.no_grad():
        error = (invert(classifier.network, features(classifier.network, x)) - x).abs().max() / x.abs().max()
    assert error <= 1e-4


def test_all_are_served(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    assert {model["name"]: model["attention"] for model in answer["models"]} == {
        name: head == "attention" for name, (_, head, _) in MODELS.items()
    }
    assert answer["failed"] == []


@pytest.mark.parametrize("name", MODELS)
def test_answers_and_statistics_of_every_layer_are_pytorchs(client: httpx.Client, home: Path, name: str) -> None:
    run = Run(home / "runs" / name, RunConfig.read(home / "runs" / name))
    classifier = restore_classifier(run, DATA)
    expected = outputs(classifier, ActivationModule)
    probabilities = expected.pop("probabilities")
    blocks = [path for path, module in classifier.network.named_modules() if isinstance(module, ResidualBlock)]
    files = [("file", (f"{index}.png", png(pixels.repeat(3, 0)))) for index, pixels in enumerate(PIXELS)]
    answer = client.post(f"/v1/models/{name}/classify", params={"statistics": "layers", "top_k": 10}, files=files)
    assert answer.status_code == 200, answer.text
    for index, image in enumerate(answer.json()["images"]):
        for ranked in image["classes"]:
            assert abs(ranked["probability"] - float(probabilities[index, ranked["index"]])) <= 1e-5
        layers, ends = image["statistics"]["layers"], image["statistics"]["blocks"]
        assert [layer["layer"] for layer in layers] == list(expected)
        for layer in layers:
            y = expected[layer["layer"]][index].double()
            measured = [layer[key] for key in ("mean", "rms", "active_fraction", "maximum")]
            by_hand = [y.mean(), y.square().mean().sqrt(), (y > 0).double().mean(), y.max()]
            np.testing.assert_allclose(measured, by_hand, rtol=1e-4, atol=1e-5, err_msg=layer["layer"])
        assert [end["block"] for end in ends] == blocks
        # Beside the image the stem of an i-RevNet puts zeros, which have no share.
        unknown = [end["block"] for end in ends if end["residual_share"] is None]
        assert unknown == (["layer1.0"] if name.startswith("irevnet") else [])
        assert image["outlier"] is not None
