"""A model that computes something else here than where it was published is not served."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.parity import SAMPLE, ParitySample, sample_pixels
from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from service.__main__ import main
from tests import bundles
from tests.service.conftest import serving

PREPROCESSING = bundles.manifest("tiny", 1, {"model.onnx": "0" * 64}).preprocessing
PIXELS = sample_pixels(PREPROCESSING)


def published(root: Path, sample: bytes, seed: int = 0) -> None:
    def describe(version: int, digests: Mapping[str, str]) -> ModelManifest:
        changes = {"sample": SAMPLE, "digests": digests}
        return bundles.manifest("tiny", version, {"model.onnx": "0" * 64}).model_copy(update=changes)

    graph = bundles.Tiny.random(seed).graph().SerializeToString()
    ModelRepository(root).publish("tiny", {"model.onnx": graph, SAMPLE: sample}, describe)


def logits(seed: int = 0) -> NDArray[np.float32]:
    return bundles.Tiny.random(seed).logits(PIXELS).astype(np.float32)


def test_images_of_a_sample_are_always_the_same_and_differ() -> None:
    assert PIXELS.shape == (4, 3, bundles.SIZE, bundles.SIZE)
    np.testing.assert_array_equal(PIXELS, sample_pixels(PREPROCESSING))
    assert len({image.tobytes() for image in PIXELS}) == 4


def test_the_service_checks_the_sample(tmp_path: Path) -> None:
    """The logits that are expected come from plain NumPy in float64."""
    published(tmp_path, ParitySample(PIXELS, logits()).to_bytes())
    published(tmp_path, ParitySample(PIXELS, logits(seed=1)).to_bytes())
    with serving(tmp_path, history_url="") as client:
        assert client.get("/v1/models/tiny").json()["version"] == 1
        (failed,) = client.get("/v1/models").json()["failed"]
        assert failed["version"] == 2
        assert "the logits of its parity sample differ by" in failed["reason"]


@pytest.mark.parametrize(
    "sample",
    [
        b"no archive",
        ParitySample(PIXELS[:, :1], logits()).to_bytes(),
        ParitySample(PIXELS, logits()[:, :2]).to_bytes(),
        ParitySample(PIXELS, logits()[:2]).to_bytes(),
        ParitySample(PIXELS[:0], logits()[:0]).to_bytes(),
        ParitySample(PIXELS, logits(), agreeing=0).to_bytes(),
        ParitySample(PIXELS, logits(), agreeing=5).to_bytes(),
        ParitySample(PIXELS, np.full_like(logits(), np.nan)).to_bytes(),
        ParitySample(PIXELS.astype(np.float32), logits()).to_bytes(),  # type: ignore[arg-type]
    ],
)
def test_samples_that_are_none_are_refused(sample: bytes) -> None:
    with pytest.raises(ValueError, match=r"sample\.npz"):
        ParitySample.from_bytes(sample, PREPROCESSING, len(bundles.LABELS))


@pytest.mark.parametrize(
    ("factor", "agrees"), [(0.0, True), (0.9, True), (1.1, False), (np.inf, False), (np.nan, False)]
)
def test_the_bound_is_relative_to_the_largest_logit(factor: float, agrees: bool) -> None:
    expected = logits()
    sample = ParitySample(PIXELS, expected)
    actual = expected.copy()
    actual[3, 1] += np.float32(factor * 0.01 * (1 + np.abs(expected).max()))
    if agrees:
        sample.check(actual, 0.01)
    else:
        with pytest.raises(ValueError, match="computes something else"):
            sample.check(actual, 0.01)


def test_an_activation_that_steps_may_disagree_for_half_of_the_images() -> None:
    actual = logits()
    actual[:2] += 1
    sample = ParitySample(PIXELS, logits(), agreeing=2)
    sample.check(actual, 1e-3)
    actual[2] += 1
    with pytest.raises(ValueError, match="computes something else"):
        sample.check(actual, 1e-3)


def test_a_bundle_without_a_sample_gets_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles.publish(tmp_path, "tiny", bundles.Tiny.random(0))
    assert main(["sample", "tiny", "--repository", str(tmp_path)]) == 0
    assert "published tiny version 2" in capsys.readouterr().out
    before, after = (ModelRepository(tmp_path).open("tiny", version) for version in (1, 2))
    assert after.graph == before.graph
    assert after.sample is not None
    sample = ParitySample.from_bytes(after.sample, PREPROCESSING, len(bundles.LABELS))
    np.testing.assert_allclose(sample.logits, logits(), rtol=1e-4, atol=1e-4)
    assert main(["sample", "tiny", "--repository", str(tmp_path)]) == 2
    assert "has a parity sample already" in capsys.readouterr().err
    with serving(tmp_path, history_url="") as client:
        assert client.get("/v1/models/tiny").json()["version"] == 2


@pytest.mark.parametrize("name", ModelRepository(SHIPPED_MODELS).names())
def test_every_model_that_ships_has_a_sample(name: str) -> None:
    assert ModelRepository(SHIPPED_MODELS).open(name).sample is not None
