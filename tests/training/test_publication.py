"""What is published is what was trained: its numbers against PyTorch's on all held-out images."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.manifest import ModelManifest, TrainingRecord
from models.parity import ParitySample
from models.preprocessing import pixels_to_tensor
from models.repository import Bundle, ModelRepository
from models.statistics import layout
from models.statistics.baseline import Baseline
from tests.models import graphs
from tests.training.conftest import Once
from tests.training.small import problem
from training.activations.entry import ActivationModule
from training.classifier import PixelClassifier
from training.data import digits, sources
from training.data.images import channel_moments
from training.data.sources import DataConfig
from training.loop.checkpoint import load_checkpoint
from training.publication.bundle import publish
from training.recipes.recipe import Recipe
from training.resnet.block import ResidualBlock
from training.resnet.network import NetworkConfig, build_network
from training.run import Run, RunConfig

SIGNED = NetworkConfig("resnet8", "tanh", "full_preactivation", classes=10, channels=1)


@pytest.fixture(scope="session")
def signed_home(once: Once) -> Path:
    """A run and a repository with a network that is signed, saturates on both sides and is pre-activated."""

    def fill(folder: Path) -> None:
        config = RunConfig(SIGNED, DataConfig(), Recipe(epochs=1, batch_size=128))
        Run(folder / "run", config).train(digits.load(), torch.device("cpu"), resume=False)
        publish(folder / "run", ModelRepository(folder / "shelf"), "digits", "signed")

    return once("signed", fill)


@dataclass(frozen=True)
class Published:
    bundle: Bundle
    run: Path
    network: NetworkConfig

    @property
    def manifest(self) -> ModelManifest:
        return self.bundle.manifest

    def classifier(self) -> PixelClassifier:
        """The averaged weights of the checkpoint, put together here."""
        mean, std = channel_moments(digits.load().training.pixels)
        model = PixelClassifier(build_network(self.network), mean, std)
        averaged = load_checkpoint(self.run / "checkpoint.pt")["averaged"]
        model.load_state_dict({name[7:]: value for name, value in averaged.items() if name.startswith("module.")})
        return model.eval()


@pytest.fixture(params=["default", "signed"])
def published(request: pytest.FixtureRequest) -> Published:
    if request.param == "default":
        shelf, run = request.getfixturevalue("shelf"), request.getfixturevalue("default_run")
        network = NetworkConfig("resnet8", "relu", "original", classes=10, channels=1)
    else:
        home = request.getfixturevalue("signed_home")
        shelf, run, network = home / "shelf", home / "run", SIGNED
    return Published(ModelRepository(shelf).open("digits"), run, network)


def raw_statistics(published: Published) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Every statistic as held-out images × columns, and the logits: from forward hooks in PyTorch, in float64."""
    model = published.classifier()
    outputs: dict[str, NDArray[np.float64]] = {}
    inputs: dict[str, NDArray[np.float64]] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name] = arguments[0].double().numpy()
            outputs[name] = output.double().numpy()

        module.register_forward_hook(hook)

    modules = dict(model.network.named_modules())
    for name, module in modules.items():
        keep(name, module)
    with torch.no_grad():
        logits = model(torch.from_numpy(digits.load().held_out.pixels).float()).double().numpy()
    names = [site.name for site in published.manifest.sites]
    assert set(names) == {name for name, module in modules.items() if isinstance(module, ActivationModule)}
    raw = [outputs[name] for name in names]
    values = {
        layout.MEAN: [x.mean((2, 3)) for x in raw],
        layout.MEAN_SQUARE: [(x**2).mean((2, 3)) for x in raw],
        layout.ACTIVE: [(x > 0).mean((2, 3)) for x in raw],
        layout.MAXIMUM: [x.max((2, 3)) for x in raw],
    }
    if published.network.activation == "relu":
        values[layout.SATURATED] = [(x <= 0).mean((2, 3)) for x in raw]
    else:
        values[layout.MINIMUM] = [x.min((2, 3)) for x in raw]
        # |tanh′| = 1 − y² below one percent.
        values[layout.SATURATED] = [(1 - x**2 <= 0.01).mean((2, 3)) for x in raw]
    blocks = [name for name, module in modules.items() if isinstance(module, ResidualBlock)]
    assert [block.name for block in published.manifest.blocks] == blocks
    ends = []
    for name in blocks:
        unchanged = isinstance(modules[name].downsample, nn.Identity)
        ends.append((outputs[name], inputs[name] if unchanged else outputs[f"{name}.downsample"]))
    values[layout.BRANCH_ENERGY] = [((y - s) ** 2).mean((1, 2, 3))[:, None] for y, s in ends]
    values[layout.SHORTCUT_ENERGY] = [(s**2).mean((1, 2, 3))[:, None] for _, s in ends]
    return {name: np.concatenate(parts, 1) for name, parts in values.items()}, logits


class TestBundle:
    def test_baseline_equals_pytorch(self, published: Published) -> None:
        assert published.bundle.baseline is not None
        baseline = Baseline.from_bytes(published.bundle.baseline, published.manifest)
        expected, logits = raw_statistics(published)
        assert baseline.images == 360
        assert set(baseline.window.moments) == set(expected) - {layout.MAXIMUM, layout.MINIMUM}
        for output, moments in baseline.window.moments.items():
            values = expected[output]
            assert set(moments.count.tolist()) == {360}
            # One value that rounding moves across zero or a bound changes a share by 1/(64·360).
            slack = 1e-4 if output in (layout.ACTIVE, layout.SATURATED) else 1e-5
            np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-4, atol=slack, err_msg=output)
            np.testing.assert_allclose(moments.variance, values.var(0, ddof=1), rtol=1e-3, atol=slack, err_msg=output)
        fired = (expected[layout.ACTIVE] > 0).sum(0)
        assert np.abs(baseline.window.fired - fired).max() <= 1
        np.testing.assert_allclose(baseline.window.maximum, expected[layout.MAXIMUM].max(0), rtol=1e-4)
        assert baseline.predicted.tolist() == logits.argmax(1).tolist()
        assert baseline.window.predicted.tolist() == np.bincount(logits.argmax(1), minlength=10).tolist()
        assert baseline.graph == published.manifest.digests["model.onnx"]
        share = np.sqrt(expected[layout.BRANCH_ENERGY] / expected[layout.SHORTCUT_ENERGY])
        kept = [baseline.samples_of(block.name, "residual_share") for block in published.manifest.blocks]
        np.testing.assert_allclose(np.stack(kept, 1), share, rtol=1e-4)

    def test_its_sample_has_the_logits_of_pytorch(self, published: Published) -> None:
        assert published.bundle.sample is not None
        manifest = published.manifest
        sample = ParitySample.from_bytes(published.bundle.sample, manifest.preprocessing, len(manifest.class_names))
        with torch.inference_mode():
            expected = published.classifier()(torch.from_numpy(sample.pixels.astype(np.float32))).numpy()
        np.testing.assert_array_equal(sample.logits, expected)
        assert sample.agreeing == len(sample.pixels) == 4

    def test_metrics_equal_an_evaluation_by_pytorch(self, published: Published) -> None:
        held_out = digits.load().held_out
        _, logits = raw_statistics(published)
        metrics = published.manifest.metrics
        assert metrics is not None
        assert metrics.images == 360
        assert metrics.accuracy == (logits.argmax(1) == held_out.labels).mean()
        expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(held_out.labels)).item()
        assert metrics.loss == pytest.approx(expected, rel=1e-4)

    def test_graph_is_the_averaged_network(self, published: Published) -> None:
        pixels = digits.load().held_out.pixels[:50]
        tensor = pixels_to_tensor(pixels, published.manifest.preprocessing)
        actual = graphs.run(onnx.load_from_string(published.bundle.graph), tensor)["logits"]
        with torch.no_grad():
            expected = published.classifier()(torch.from_numpy(pixels).float()).numpy()
        assert np.abs(actual - expected).max() <= 1e-4

    def test_manifest_tells_what_a_server_needs(self, published: Published) -> None:
        manifest = published.manifest
        assert (manifest.name, manifest.version) == ("digits", 1)
        assert manifest.class_names == tuple("0123456789")
        assert manifest.inputs[0].shape == (-1, 1, 8, 8)
        assert manifest.outputs[0].shape == (-1, 10)
        assert manifest.preprocessing == digits.load().preprocessing
        assert manifest.description
        stored = json.loads((published.run / "record.json").read_text())
        assert manifest.training == TrainingRecord.model_validate(
            {name: stored[name] for name in TrainingRecord.model_fields}
        )
        for file, digest in manifest.digests.items():
            assert hashlib.sha256((published.bundle.path / file).read_bytes()).hexdigest() == digest


def test_command_says_what_it_published(shelf: Path, default_home: Path) -> None:
    printed = (shelf.parent / "output").read_text()
    trained = re.search(r"held-out accuracy ([0-9.]+%) on", (default_home / "output").read_text())
    assert trained
    assert "published digits version 1 in" in printed
    assert f"accuracy {trained[1]} on 360 images" in printed
    assert re.search(r"differ from PyTorch's by at most \d\.\de-\d\d", printed)
    assert (shelf.parent / "errors").read_text() == ""


def test_published_again_is_the_next_version(signed_home: Path, tmp_path: Path) -> None:
    shutil.copytree(signed_home / "shelf", tmp_path / "shelf")
    repository = ModelRepository(tmp_path / "shelf")
    first = repository.open("digits", 1)
    done = publish(signed_home / "run", repository, "digits")
    assert (done.name, done.version) == ("digits", 2)
    assert repository.versions("digits") == [1, 2]
    again = repository.open("digits", 2)
    assert again.graph == first.graph, "the same weights give the same file"
    assert again.baseline == first.baseline
    assert again.manifest.metrics == done.metrics == first.manifest.metrics
    assert first.manifest.description == "signed"
    assert "resnet8" in again.manifest.description


def test_an_unfinished_run_is_not_published(tmp_path: Path, signed_home: Path) -> None:
    shutil.copytree(signed_home / "run", tmp_path / "run")
    (tmp_path / "run" / "record.json").unlink()
    repository = ModelRepository(tmp_path / "shelf")
    with pytest.raises(ValueError, match="is not finished: go on with `train --resume"):
        publish(tmp_path / "run", repository, "digits")
    assert repository.entries() == []
    assert not (tmp_path / "shelf").exists()


def test_a_run_whose_images_have_changed_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(replace(SIGNED, classes=3), DataConfig(), Recipe(epochs=1, batch_size=16))
    Run(tmp_path / "run", config).train(problem(), torch.device("cpu"), resume=False)
    changed = problem()
    changed.training.labels[:2] = changed.training.labels[1::-1]
    monkeypatch.setitem(sources.SOURCES, "digits", lambda *_: changed)
    with pytest.raises(ValueError, match="the images of brightness are not those that the run"):
        publish(tmp_path / "run", ModelRepository(tmp_path / "shelf"), "digits")
    assert not (tmp_path / "shelf").exists()


def test_a_name_that_is_no_name_is_refused(tmp_path: Path, signed_home: Path) -> None:
    with pytest.raises(ValueError, match=r"name '\.\./escape' is not allowed"):
        publish(signed_home / "run", ModelRepository(tmp_path / "shelf"), "../escape")
    assert list(tmp_path.rglob("*")) == []
