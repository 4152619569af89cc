"""Is this image like those that the network knows? Scores of one image, as p-values against held-out images.

Half of the held-out images say what is usual, the other half calibrates, so that p is uniform for an image of the same
kind. No detector dominates (Yang et al. 2022, OpenOOD, arXiv 2210.07242): the layers see changed textures and
contrast, the head's scores see classes that the network was not taught.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.statistics import layout
from models.statistics.head import LinearHead
from models.statistics.ranks import Values, p_values

Outputs = Mapping[str, NDArray[np.float32]]

HEAD_SCORES = ("energy", "react", "mahalanobis")
REACT_QUANTILE = 0.9
# Logits computed from features in float64 against the graph's in float32, at a scale of 10.
HEAD_TOLERANCE = 1e-3
# Of the trace of the tied covariance, added to its diagonal: a feature that never varies must not decide alone.
RIDGE = 1e-3


class Outlierness(NamedTuple):
    """p-values of a batch, small for the unusual: `combined` and each of `head` by image, `layers` by image × layer."""

    combined: Values
    layers: Values
    head: dict[str, Values]


@dataclass(frozen=True)
class Features:
    """What is kept of images to judge them: channel means (images × ΣC) and logits."""

    means: Values
    logits: Values

    @classmethod
    def of(cls, outputs: Outputs, manifest: ModelManifest) -> Self:
        """From the outputs of an instrumented run."""
        return cls(outputs[layout.MEAN].astype(np.float64), outputs[manifest.outputs[0].name].astype(np.float64))

    @classmethod
    def joined(cls, parts: Iterable["Features"]) -> "Features":
        """All images together."""
        parts = list(parts)
        return Features(np.concatenate([p.means for p in parts]), np.concatenate([p.logits for p in parts]))

    def __getitem__(self, rows: slice) -> "Features":
        return Features(self.means[rows], self.logits[rows])


@dataclass(frozen=True)
class HeadModel:
    """What the scores of the head need beside the logits."""

    linear: LinearHead
    clip: float
    """ReAct: features above are cut off here, their 90 % quantile. Sun et al. 2021, arXiv 2111.12797."""
    class_means: Values
    """Of features of length 1, by predicted class."""
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
        return cls(linear, float(np.quantile(features, REACT_QUANTILE)), means, whitening)

    def scores(self, features: Values) -> dict[str, Values]:
        """ReAct energy, and the squared Mahalanobis distance of the ℓ2-normalised features to the nearest class.

        Mueller & Hein 2025, Mahalanobis++, arXiv 2505.18032.
        """
        distances = (_normalised(features)[:, None, :] - self.class_means) @ self.whitening
        return {
            "react": _energy(self.linear.logits(np.minimum(features, self.clip))),
            "mahalanobis": (distances**2).sum(2).min(1),
        }


@dataclass(frozen=True)
class OutlierModel:
    """What is usual for one model, and the scores of images that calibrate."""

    starts: NDArray[np.intp]
    """First channel of each layer."""
    mean: Values
    """Of the channel means over images, by channel."""
    std: Values
    """0 where a channel never varies: it is left out then."""
    head: HeadModel | None
    layer_scores: Values
    """Sorted calibration scores: images × layers."""
    combined: Values
    """Sorted calibration values of −min p."""
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
        head = _fit_head(fit, linear, starts)
        draft = cls(starts, fit.means.mean(0), fit.means.std(0), head, np.empty((0, 0)), np.empty(0), {})
        layers = draft._layer_scores(calibrate)
        ordered = np.sort(layers, 0)
        smallest = _by_layer(layers, ordered).min(1)
        scores = draft._head_scores(calibrate)
        return cls(
            starts, draft.mean, draft.std, head, ordered, np.sort(-smallest), {n: np.sort(s) for n, s in scores.items()}
        )

    @property
    def calibrated_with(self) -> int:
        """Images behind each p-value: none is smaller than 1/(this + 1)."""
        return len(self.combined)

    def judge(self, seen: Features) -> Outlierness:
        """p-values of images; one with anything not finite gets the smallest there is."""
        layers = _by_layer(self._layer_scores(seen), self.layer_scores)
        head = {name: p_values(scores, self.head_scores[name]) for name, scores in self._head_scores(seen).items()}
        return Outlierness(p_values(-layers.min(1), self.combined), layers, head)

    def _layer_scores(self, seen: Features) -> Values:
        """D = mean over the channels of ((m − μ)/σ)², by image and layer."""
        varies = self.std > 0
        with np.errstate(all="ignore"):
            z = np.where(varies, (seen.means - self.mean) / np.where(varies, self.std, 1), 0)
            totals = np.add.reduceat(z**2, self.starts, axis=1)
        scores: Values = totals / np.maximum(np.add.reduceat(varies.astype(np.float64), self.starts), 1)
        return scores

    def _head_scores(self, seen: Features) -> dict[str, Values]:
        with np.errstate(all="ignore"):
            scores = {"energy": _energy(seen.logits)}
            if self.head is not None:
                scores |= self.head.scores(seen.means[:, self.starts[-1] :])
        return scores

    def arrays(self) -> dict[str, NDArray[Any]]:
        """To store it: arrays by name."""
        stored: dict[str, NDArray[Any]] = {
            "starts": self.starts.astype(np.int64),
            "mean": self.mean,
            "std": self.std,
            "layer_scores": self.layer_scores.astype(np.float32),
            "combined": self.combined,
            **{f"head_scores/{name}": scores for name, scores in self.head_scores.items()},
        }
        if self.head is not None:
            stored |= {
                "head/weights": self.head.linear.weights,
                "head/bias": self.head.linear.bias,
                "head/clip": np.array(self.head.clip),
                "head/class_means": self.head.class_means,
                "head/whitening": self.head.whitening,
            }
        return stored

    @classmethod
    def from_arrays(cls, stored: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave; raises `KeyError` where something is missing."""
        head = None
        if "head/weights" in stored:
            linear = LinearHead(stored["head/weights"], stored["head/bias"])
            head = HeadModel(linear, float(stored["head/clip"]), stored["head/class_means"], stored["head/whitening"])
        return cls(
            starts=stored["starts"].astype(np.intp),
            mean=stored["mean"],
            std=stored["std"],
            head=head,
            layer_scores=stored["layer_scores"].astype(np.float64),
            combined=stored["combined"],
            head_scores={
                name: stored[f"head_scores/{name}"] for name in HEAD_SCORES if f"head_scores/{name}" in stored
            },
        )


def _fit_head(fit: Features, linear: LinearHead | None, starts: Sequence[int] | NDArray[np.intp]) -> HeadModel | None:
    """None when the logits are not made from the last layer's channel means."""
    features = fit.means[:, starts[-1] :]
    if linear is None or not np.allclose(linear.logits(features), fit.logits, HEAD_TOLERANCE, HEAD_TOLERANCE):
        return None
    return HeadModel.fitted(features, fit.logits.argmax(1), linear)


def _by_layer(scores: Values, calibration: Values) -> Values:
    return np.column_stack([p_values(scores[:, k], calibration[:, k]) for k in range(scores.shape[1])])


def _energy(logits: Values) -> Values:
    """−ln Σ exp(logit): low where the network is sure. Liu et al. 2020, arXiv 2010.03759."""
    largest = logits.max(1)
    energy: Values = -(largest + np.log(np.exp(logits - largest[:, None]).sum(1)))
    return energy


def _normalised(features: Values) -> Values:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Values = features / np.where(lengths > 0, lengths, 1)
    return unit
