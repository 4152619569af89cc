"""The published digits model: p-values uniform on digits it has not seen, photographs told from digits."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
from PIL import Image

from models.instrument import instrument
from models.manifest import ModelManifest
from models.preprocessing import image_to_pixels
from models.repository import Bundle, ModelRepository
from models.statistics.baseline import Baseline
from models.statistics.features import Features
from models.statistics.head import LinearHead, linear_head
from models.statistics.outliers import OutlierModel
from tests.models import graphs
from training.data import digits

SPLITS = 60
CALIBRATING, JUDGED = 119, 122


@pytest.fixture(scope="module")
def bundle(shelf: Path) -> Bundle:
    return ModelRepository(shelf).open("digits")


def features(bundle: Bundle, pixels: np.ndarray) -> Features:
    instrumented = instrument(onnx.load_from_string(bundle.graph), bundle.manifest)
    return Features.of(graphs.run(instrumented, pixels.astype(np.float32)), bundle.manifest)


def head(bundle: Bundle) -> LinearHead:
    found = linear_head(onnx.load_from_string(bundle.graph), bundle.manifest)
    assert found is not None
    return found


def judged(known: Features, manifest: ModelManifest, linear: LinearHead, order: np.ndarray) -> np.ndarray:
    """images × all p-values of those that neither fit nor calibrate."""
    model = OutlierModel.fitted(known[order[: 2 * CALIBRATING]], manifest, linear)
    assert model.calibrated_with == CALIBRATING
    values = model.judge(known[order[2 * CALIBRATING :]])
    return np.column_stack([values.combined, values.layers, *values.head.values()])


def test_p_values_of_held_out_digits_are_uniform(bundle: Bundle) -> None:
    """Which digits calibrate is drawn at random, so that whatever the digits are every draw has P(p ≤ α) = α exactly.

    A share over one draw has a variance of at most α(1 − α)(1/n + 1/m + 1/n·m); the bound is four standard deviations.
    """
    known = features(bundle, digits.load().held_out.pixels)
    random = np.random.default_rng(0)
    orders = [random.permutation(len(known.logits)) for _ in range(SPLITS)]
    values = np.stack([judged(known, bundle.manifest, head(bundle), order) for order in orders])
    assert values.shape[:2] == (SPLITS, JUDGED)
    for alpha in (1 / 120, 0.05, 0.1, 0.25, 0.5, 0.75):
        shares = (values <= alpha + 1e-9).mean((0, 1))
        bound = 4 * (alpha * (1 - alpha) * (1 / CALIBRATING + 1 / JUDGED + 1e-4) / SPLITS) ** 0.5
        assert np.abs(shares - alpha).max() < bound, (alpha, shares)


def test_photographs_are_told_from_digits(bundle: Bundle) -> None:
    assert bundle.baseline is not None
    usual = Baseline.from_bytes(bundle.baseline, bundle.manifest).outliers
    assert usual.calibrated_with == 180
    photographs = [getattr(skimage.data, name)() for name in ("chelsea", "coffee", "rocket")]
    patches = [photo[top : top + 40, 100:140] for photo in photographs for top in range(0, 240, 40)]
    pixels = np.array([image_to_pixels(Image.fromarray(patch), bundle.manifest.preprocessing) for patch in patches])
    assert np.median(usual.combined(features(bundle, pixels))) == 1 / 181
