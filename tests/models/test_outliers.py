"""p-values are uniform for images like the calibration's, small for others, and survive being stored."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.statistics import outliers
from models.statistics.features import Features
from models.statistics.head import LinearHead
from models.statistics.outliers import OutlierModel
from tests.models import graphs

MANIFEST = graphs.manifest("rectifier")
CHANNELS = 3 * graphs.WIDTH
HEAD = LinearHead(np.random.default_rng(9).normal(0, 1, (graphs.WIDTH, graphs.CLASSES)), np.arange(graphs.CLASSES) / 4)


def images(count: int, random: np.random.Generator, scale: float = 1) -> Features:
    """Channel means that are skewed, and correlated within and between layers."""
    together = random.normal(0, 0.5, (count, 1))
    means = np.exp(scale * (together + random.normal(0, 0.5, (count, CHANNELS)))).astype(np.float32)
    return Features(means, HEAD.logits(means[:, -graphs.WIDTH :]).astype(np.float32))


def fitted(count: int, seed: int = 0, linear: LinearHead | None = HEAD) -> OutlierModel:
    return OutlierModel.fitted(images(count, np.random.default_rng(seed)), MANIFEST, linear)


def p_values(model: OutlierModel, seen: Features) -> NDArray[np.float64]:
    """images × all p-values: combined, layers, head."""
    judged = model.judge(seen)
    assert set(judged.head) == {"energy", "react", "mahalanobis"}
    return np.column_stack([judged.combined, judged.layers, *judged.head.values()])


TRIALS = 1500
CALIBRATING = 19


def null(scale: float) -> NDArray[np.float64]:
    """In every trial another model, and one image that it judges: independent draws."""
    random = np.random.default_rng(0)
    models = [OutlierModel.fitted(images(2 * CALIBRATING, random), MANIFEST, HEAD) for _ in range(TRIALS)]
    return np.concatenate([p_values(model, images(1, random, scale)) for model in models])


def furthest(ranks: NDArray[np.float64]) -> float:
    """Largest distance between the distribution of p and that of the uniform on {1, …, n + 1}/(n + 1)."""
    levels = np.arange(1, CALIBRATING + 2) / (CALIBRATING + 1)
    return max(abs(float((ranks <= level + 1e-9).mean()) - level) for level in levels)


def test_uniform_for_images_of_the_same_kind() -> None:
    """Kolmogorov–Smirnov at 10⁻⁴, 2.23/√trials; and the smallest p, where layers that were combined carelessly fail."""
    values = null(scale=1)
    for column in values.T:
        assert furthest(column) < 2.23 / TRIALS**0.5
        smallest = 1 / (CALIBRATING + 1)
        bound = 3.9 * (smallest * (1 - smallest) / TRIALS) ** 0.5
        assert abs(float((column <= smallest + 1e-9).mean()) - smallest) < bound


def test_not_uniform_for_images_of_another_kind() -> None:
    values = null(scale=1.3)
    assert furthest(values[:, 0]) > 2 * 2.23 / TRIALS**0.5


def test_strange_images_have_the_smallest_p() -> None:
    model = fitted(400)
    random = np.random.default_rng(5)
    strange = images(10, random)
    strange.means[:, :16] += 50
    judged = model.judge(strange)
    assert model.calibrated_with == 200
    assert judged.combined.tolist() == judged.layers[:, 0].tolist() == [1 / 201] * 10
    assert judged.layers[:, 1:].min() > 1 / 201


def test_layer_scores_by_their_formula() -> None:
    known = images(60, np.random.default_rng(1))
    seen = images(5, np.random.default_rng(2))
    judged = OutlierModel.fitted(known, MANIFEST, None).judge(seen)
    fit, calibrating = (known.means[start::2].astype(np.float64) for start in (0, 1))
    for layer in range(3):
        here = slice(16 * layer, 16 * layer + 16)
        mean, std = fit[:, here].mean(0), fit[:, here].std(0)
        score, others = (
            (((x[:, here] - mean) / std) ** 2).mean(1).astype(np.float32)
            for x in (seen.means.astype(float), calibrating)
        )
        expected = [(1 + sum(other >= one for other in others)) / 31 for one in score]
        assert judged.layers[:, layer].tolist() == pytest.approx(expected)


def test_head_scores_by_their_formulas() -> None:
    known, seen = images(200, np.random.default_rng(1)), images(6, np.random.default_rng(2), 1.5)
    judged = OutlierModel.fitted(known, MANIFEST, HEAD).judge(seen)
    fit = known.means[0::2, -16:].astype(np.float64)
    unit = fit / np.sqrt((fit**2).sum(1))[:, None]
    classes = known.logits[0::2].argmax(1)
    centres = {label: unit[classes == label].mean(0) for label in set(classes.tolist())}
    covariance = np.mean(
        [np.outer(u - centres[c], u - centres[c]) for u, c in zip(unit, classes.tolist(), strict=True)], 0
    )
    inverse = np.linalg.inv(covariance + outliers.RIDGE * np.trace(covariance) * np.eye(16))
    clip = np.quantile(fit, 0.9)

    def scores(images: Features) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"energy": [], "react": [], "mahalanobis": []}
        for means, logits in zip(images.means[:, -16:].astype(float), images.logits.astype(float), strict=True):
            found["energy"].append(-np.log(np.exp(logits).sum()))
            found["react"].append(-np.log(np.exp(HEAD.logits(np.minimum(means, clip)[None])).sum()))
            u = means / np.linalg.norm(means)
            # A class without an image has the mean of all.
            candidates = [centres.get(label, unit.mean(0)) for label in range(graphs.CLASSES)]
            found["mahalanobis"].append(min((u - c) @ inverse @ (u - c) for c in candidates))
        return found

    calibrating, given = scores(known[1::2]), scores(seen)
    for name, values in judged.head.items():
        # Two scores that are as good as equal may change places by rounding.
        low, high = (
            [(1 + sum(o >= one + slack for o in calibrating[name])) / 101 for one in given[name]]
            for slack in (1e-5, -1e-5)
        )
        assert all(a <= value <= b for a, value, b in zip(low, values.tolist(), high, strict=True)), name


def test_round_trip_ranks_alike_ties_included() -> None:
    """Stored in float32: the very images that calibrated have scores equal to the stored ones, not beside them."""
    known = images(300, np.random.default_rng(3))
    model = OutlierModel.fitted(known, MANIFEST, HEAD)
    stored = model.arrays()
    read = OutlierModel.from_arrays({name: values.copy() for name, values in stored.items()})
    before, after = p_values(model, known), p_values(read, known)
    assert after.tolist() == before.tolist()
    calibrating = np.sort(before[1::2], 0)
    # Every image is counted among those as extreme as itself: ranks 2 … n + 1, each once.
    expected = np.arange(2, 152) / 151
    for column in calibrating.T:
        np.testing.assert_allclose(column, expected)
    assert {values.dtype for name, values in stored.items() if "scores" in name} == {np.dtype(np.float32)}


def test_an_image_is_judged_alike_in_every_batch() -> None:
    model, seen = fitted(300), images(600, np.random.default_rng(4))
    together = p_values(model, seen)
    alone = np.concatenate([p_values(model, seen[row : row + 1]) for row in range(600)])
    assert alone.tolist() == together.tolist()
    assert model.combined(seen).tolist() == together[:, 0].tolist()
    assert p_values(model, seen[:0]).shape == (0, together.shape[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["first layer", "last layer", "constant channel", "logits"])
def test_what_is_not_finite_is_as_unusual_as_can_be(value: float, where: str) -> None:
    known = images(100, np.random.default_rng(0))
    known.means[:, 3] = 0.1
    model = OutlierModel.fitted(known, MANIFEST, HEAD)
    seen = images(4, np.random.default_rng(1))
    seen.means[:, 3] = 0.1
    usual = p_values(model, seen)
    if where == "logits":
        seen.logits[2, 1] = value
    else:
        seen.means[2, {"first layer": 0, "last layer": -1, "constant channel": 3}[where]] = value
    judged = p_values(model, seen)
    assert judged[[0, 1, 3]].tolist() == usual[[0, 1, 3]].tolist()
    assert judged[2, [0, 4, 5, 6]].tolist() == [1 / 51] * 4
    assert model.combined(seen)[2] == 1 / 51
    broken = {"first layer": 1, "constant channel": 1, "last layer": 3}.get(where)
    for layer in (1, 2, 3):
        assert judged[2, layer] == (1 / 51 if layer == broken else usual[2, layer])


def test_rounding_errors_of_a_constant_channel_are_not_unusual() -> None:
    known = images(100, np.random.default_rng(0))
    known.means[:, 3] = np.float32(0.1)
    model = OutlierModel.fitted(known, MANIFEST, None)
    seen = images(5, np.random.default_rng(1))
    seen.means[:, 3] = np.float32(0.1)
    before = model.judge(seen)
    seen.means[:, 3] = np.nextafter(np.float32(0.1), np.float32(1))
    assert model.judge(seen).combined.tolist() == before.combined.tolist()


def test_a_layer_that_never_varies_says_nothing() -> None:
    known, seen = images(100, np.random.default_rng(0)), images(5, np.random.default_rng(1))
    known.means[:, :16] = seen.means[:, :16] = 0
    judged = OutlierModel.fitted(known, MANIFEST, None).judge(seen)
    assert judged.layers[:, 0].tolist() == [1] * 5
    assert judged.combined.min() > 1 / 51


@pytest.mark.parametrize("linear", [None, LinearHead(2 * HEAD.weights, HEAD.bias)], ids=["none", "of something else"])
def test_no_scores_of_a_head_that_does_not_give_the_logits(linear: LinearHead | None) -> None:
    model = fitted(50, linear=linear)
    judged = OutlierModel.from_arrays(model.arrays()).judge(images(3, np.random.default_rng(1)))
    assert set(judged.head) == {"energy"}


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="3 images cannot say what is usual: give at least 4, better 2000"):
        fitted(3)
    assert fitted(4).calibrated_with == 2


def test_something_missing() -> None:
    stored = fitted(10).arrays()
    for name in ("mean", "layer_scores", "known_scores", "head/bias"):
        with pytest.raises(KeyError, match=name):
            OutlierModel.from_arrays({key: values for key, values in stored.items() if key != name})
