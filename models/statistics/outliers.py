"""Is this image like those that the network knows? Scores of one image, as p-values against held-out images.

Half of the held-out images say what is usual, the other half calibrates: an image of the same kind is exchangeable with
these, so that its p is uniform. Hence nothing is fitted to the calibration half, not even how layers are combined.

No detector dominates (Yang et al. 2022, OpenOOD, arXiv 2210.07242): the layers see changed textures and contrast, the
head's scores see classes that the network was not taught.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.statistics.features import Features
from models.statistics.head import LinearHead
from models.statistics.moments import Moments
from models.statistics.ranks import Values, p_values

Outputs = Mapping[str, NDArray[np.float32]]

HEAD_SCORES = ("energy", "react", "mahalanobis")
REACT_QUANTILE = 0.9
# Logits computed from features in float64 against the graph's in float32, at a scale of 10.
HEAD_TOLERANCE = 1e-3
# Of the trace of the tied covariance, added to its diagonal: a feature that never varies must not decide alone.
RIDGE = 1e-3
# A standard deviation below this share of the mean is what float32 rounds.
ROUNDING = 1e-5
QUANTILES = 1000
CHUNK = 256
"""Images that are judged at a time, so that the channels of many need little memory."""


class Outlierness(NamedTuple):
    """p-values of a batch, small for the unusual: `combined` and each of `head` by image, `layers` by image × layer."""

    combined: Values
    layers: Values
    head: dict[str, Values]


@dataclass(frozen=True)
class HeadModel:
    """What the scores of the head need beside the logits."""

    linear: LinearHead
    clip: float
    """ReAct: features above are cut off here, their 90 % quantile. Sun et al. 2021, arXiv 2111.12797."""
    class_means: Values
    """Of features of length 1, by predicted class, whitened."""
    whitening: Values
    """W with W Wᵀ the inverse of the covariance that the classes share."""

    @classmethod
    def fitted(cls, features: Values, classes: NDArray[np.intp], linear: LinearHead) -> Self:
        """Fit to images × features and their predicted classes."""
        unit = _normalised(features)
        means = np.array(
            [unit[classes == k].mean(0) if (classes == k).any() else unit.mean(0) for k in range(len(linear.bias))]
        )
        centred = unit - means[classes]
        covariance = centred.T @ centred / len(unit)
        covariance += np.eye(len(covariance)) * RIDGE * max(np.trace(covariance), np.finfo(np.float64).tiny)
        whitening = np.linalg.cholesky(np.linalg.inv(covariance))
        clip = float(np.quantile(features, REACT_QUANTILE))
        linear = LinearHead(_single(linear.weights), _single(linear.bias))
        return cls(linear, clip, _single(means @ whitening), _single(whitening))

    def scores(self, features: Values) -> dict[str, Values]:
        """ReAct energy, and the squared Mahalanobis distance of the ℓ2-normalised features to the nearest class.

        Mueller & Hein 2025, Mahalanobis++, arXiv 2505.18032.
        """
        white = _normalised(features) @ self.whitening
        # ‖a − b‖² = ‖a‖² − 2ab + ‖b‖²: images × classes × features would not fit into memory.
        squares = (white**2).sum(1)[:, None] - 2 * white @ self.class_means.T + (self.class_means**2).sum(1)
        return {
            "react": _energy(self.linear.logits(np.minimum(features, self.clip))),
            "mahalanobis": squares.min(1),
        }


@dataclass(frozen=True)
class OutlierModel:
    """What is usual for one model, and the scores of images that calibrate.

    All scores are rounded to float32, as they are stored: equal images stay equal, in whatever batch they come.
    """

    starts: NDArray[np.intp]
    """First channel of each layer."""
    mean: Values
    """Of the channel means over images, by channel."""
    std: Values
    """0 where a channel never varies: it is left out then."""
    known_scores: Values
    """Of the images fitted to, quantiles of each layer's D, ascending: at most `QUANTILES` × layers."""
    head: HeadModel | None
    layer_scores: Values
    """Sorted calibration scores: images × layers."""
    combined_scores: Values
    """Sorted calibration scores of all layers together."""
    head_scores: dict[str, Values]
    """Sorted calibration scores by name."""

    @classmethod
    def fitted(cls, known: Features, manifest: ModelManifest, linear: LinearHead | None) -> Self:
        """Fit to every other image and calibrate with the rest; raises `ValueError` for fewer than 4 images."""
        if len(known.logits) < 4:
            raise ValueError(f"{len(known.logits)} images cannot say what is usual: give at least 4, better 2000")
        fit, calibrate = known[0::2], known[1::2]
        channels = [site.channels for site in manifest.sites]
        starts = np.cumsum([0, *channels[:-1]]).astype(np.intp)
        mean, std = _usual(fit.means)
        head = _fit_head(fit, linear, starts)
        draft = cls(starts, mean, std, np.empty((0, 0)), head, np.empty((0, 0)), np.empty(0), {})
        known_scores = np.sort(draft._layer_scores(fit), 0)
        kept = np.linspace(0, len(known_scores) - 1, min(len(known_scores), QUANTILES)).round().astype(np.intp)
        draft = replace(draft, known_scores=known_scores[kept])
        layers = draft._layer_scores(calibrate)
        return replace(
            draft,
            layer_scores=np.sort(layers, 0),
            combined_scores=np.sort(draft._combined(layers)),
            head_scores={name: np.sort(scores) for name, scores in draft._head_scores(calibrate).items()},
        )

    @property
    def calibrated_with(self) -> int:
        """Images behind each p-value: none is smaller than 1/(this + 1)."""
        return len(self.combined_scores)

    def judge(self, seen: Features) -> Outlierness:
        """p-values of images; one with anything not finite gets the smallest there is."""
        layers = self._layer_scores(seen)
        by_layer = [p_values(layers[:, k], self.layer_scores[:, k]) for k in range(layers.shape[1])]
        return Outlierness(
            combined=p_values(np.where(seen.finite, self._combined(layers), np.nan), self.combined_scores),
            layers=np.column_stack(by_layer),
            head={
                name: p_values(np.where(seen.finite, scores, np.nan), self.head_scores[name])
                for name, scores in self._head_scores(seen).items()
            },
        )

    def combined(self, seen: Features) -> Values:
        """`judge`, but nothing more than its combined p-values."""
        scores = self._combined(self._layer_scores(seen))
        return p_values(np.where(seen.finite, scores, np.nan), self.combined_scores)

    def _layer_scores(self, seen: Features) -> Values:
        """D = mean over the channels of ((m − μ)/σ)², by image and layer; NaN where a layer is not finite."""
        parts = [self._distances(seen.means[at : at + CHUNK]) for at in range(0, len(seen.means), CHUNK)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.starts)))

    def _distances(self, means: NDArray[np.floating]) -> Values:
        varies = self.std > 0
        with np.errstate(all="ignore"):
            z = np.where(np.isfinite(means), (means - self.mean) / np.where(varies, self.std, np.inf), np.nan)
            totals = np.add.reduceat(z**2, self.starts, axis=1)
            return _single(totals / np.maximum(np.add.reduceat(varies.astype(np.float64), self.starts), 1))

    def _combined(self, layers: Values) -> Values:
        """−ln of the smallest of the layers' p-values, these against the images fitted to.

        Interpolated between their scores, and falling as 1/D beyond the largest, so that there are no ties.
        """
        count = len(self.known_scores)
        levels = np.arange(count, 0, -1) / (count + 1)
        within = np.column_stack(
            [np.interp(layers[:, k], self.known_scores[:, k], levels) for k in range(layers.shape[1])]
        )
        largest = self.known_scores[-1]
        with np.errstate(all="ignore"):
            p = np.where(layers > largest, within * (largest / layers), within)
            return _single(-np.log(p.min(1)))

    def _head_scores(self, seen: Features) -> dict[str, Values]:
        with np.errstate(all="ignore"):
            scores = {"energy": _energy(seen.logits)}
            if self.head is not None:
                scores |= self.head.scores(seen.means[:, self.starts[-1] :].astype(np.float64))
            return {name: _single(values) for name, values in scores.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """To store it: arrays by name."""
        stored: dict[str, NDArray[Any]] = {
            "starts": self.starts.astype(np.int64),
            "mean": self.mean,
            "std": self.std,
            "known_scores": self.known_scores.astype(np.float32),
            "layer_scores": self.layer_scores.astype(np.float32),
            "combined_scores": self.combined_scores.astype(np.float32),
            **{f"head_scores/{name}": scores.astype(np.float32) for name, scores in self.head_scores.items()},
        }
        if self.head is not None:
            stored |= {
                "head/weights": self.head.linear.weights.astype(np.float32),
                "head/bias": self.head.linear.bias.astype(np.float32),
                "head/clip": np.array(self.head.clip),
                "head/class_means": self.head.class_means.astype(np.float32),
                "head/whitening": self.head.whitening.astype(np.float32),
            }
        return stored

    @classmethod
    def from_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave; raises `KeyError` where something is missing."""
        head = None
        if "head/weights" in stored:
            weights, bias, class_means, whitening = (
                stored[f"head/{name}"].astype(np.float64) for name in ("weights", "bias", "class_means", "whitening")
            )
            head = HeadModel(LinearHead(weights, bias), float(stored["head/clip"]), class_means, whitening)
        return cls(
            starts=stored["starts"].astype(np.intp),
            mean=stored["mean"],
            std=stored["std"],
            known_scores=stored["known_scores"].astype(np.float64),
            head=head,
            layer_scores=stored["layer_scores"].astype(np.float64),
            combined_scores=stored["combined_scores"].astype(np.float64),
            head_scores={
                name: stored[f"head_scores/{name}"].astype(np.float64)
                for name in HEAD_SCORES
                if f"head_scores/{name}" in stored
            },
        )


def _usual(means: NDArray[np.floating]) -> tuple[Values, Values]:
    """Mean and standard deviation by channel; the latter 0 where nothing but rounding errors vary."""
    chunks = (means[at : at + CHUNK] for at in range(0, len(means), CHUNK))
    moments = reduce(Moments.merged, map(Moments.of, chunks))
    std = np.sqrt(moments.m2 / moments.count)
    return moments.mean, np.where(std > ROUNDING * np.abs(moments.mean), std, 0)


def _fit_head(fit: Features, linear: LinearHead | None, starts: NDArray[np.intp]) -> HeadModel | None:
    """None when the logits are not made from the last layer's channel means."""
    features = fit.means[:, starts[-1] :].astype(np.float64)
    if linear is None or not np.allclose(linear.logits(features), fit.logits, HEAD_TOLERANCE, HEAD_TOLERANCE):
        return None
    return HeadModel.fitted(features, fit.logits.argmax(1), linear)


def _single(values: NDArray[np.floating]) -> Values:
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


def _energy(logits: NDArray[np.floating]) -> Values:
    """−ln Σ exp(logit): low where the network is sure. Liu et al. 2020, arXiv 2010.03759."""
    values = logits.astype(np.float64)
    largest = values.max(1)
    energy: Values = -(largest + np.log(np.exp(values - largest[:, None]).sum(1)))
    return energy


def _normalised(features: Values) -> Values:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Values = features / np.where(lengths > 0, lengths, 1)
    return unit
