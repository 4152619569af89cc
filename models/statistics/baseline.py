"""What the layers do on held-out images: the reference that live traffic is compared with.

It is computed from the exported, instrumented graph on pre-processed images, by the code that watches live traffic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.statistics import layout
from models.statistics.archive import below, pack, unpack, with_prefix
from models.statistics.features import Features, ThinnedFeatures
from models.statistics.head import LinearHead
from models.statistics.outliers import OutlierModel
from models.statistics.scalars import Scalar, Scalars
from models.statistics.window import Window, WindowReader

FORMAT = 2
SAMPLED_IMAGES = 2000
"""Images whose scalars are kept one by one, so that null windows of any size can be drawn."""
FEATURE_BYTES = 512 << 20
"""Of the channel means of images, from which it is learned what is usual: 5,900 images of a ResNet-50."""


@dataclass(frozen=True)
class Baseline:
    """A window over all held-out images, the scalars of single images, and what is usual for one image."""

    window: Window
    names: tuple[Scalar, ...]
    """Of the columns of `samples`."""
    samples: NDArray[np.float32]
    """Sampled images × scalars."""
    predicted: NDArray[np.int64]
    """The class predicted for each sampled image."""
    outliers: OutlierModel
    graph: str
    """SHA-256 of the graph that it was computed with."""

    @classmethod
    def of(
        cls,
        batches: Iterable[Mapping[str, NDArray[np.float32]]],
        manifest: ModelManifest,
        linear: LinearHead | None = None,
        graph: str = "",
    ) -> "Baseline":
        """Reduce the outputs of an instrumented graph over batches of images.

        Raises `ValueError` if any statistic is not finite: such a model is broken before it is served; and for fewer
        than 4 images.
        """
        reader, scalars = WindowReader(manifest), Scalars(manifest)
        window = reader.empty()
        rows, predicted = [], []
        known = ThinnedFeatures(FEATURE_BYTES)
        for batch in batches:
            _refuse_not_finite(batch, manifest)
            window = window.merged(reader.of(batch))
            rows.append(scalars.of(batch).astype(np.float32))
            predicted.append(batch[manifest.logits.name].argmax(1))
            known.add(Features.of(batch, manifest))
        if not rows:
            raise ValueError("no images for a baseline: give at least 4, better 2000")
        chosen = np.linspace(0, window.images - 1, min(window.images, SAMPLED_IMAGES)).astype(np.intp)
        return cls(
            window=window,
            names=scalars.names,
            samples=np.concatenate(rows)[chosen],
            predicted=np.concatenate(predicted)[chosen],
            outliers=OutlierModel.fitted(known.features, manifest, linear),
            graph=graph,
        )

    @property
    def images(self) -> int:
        """Held-out images behind the window."""
        return self.window.images

    def samples_of(self, part: str, statistic: str) -> NDArray[np.float32]:
        """One scalar of every sampled image; raises `ValueError` for one that this model does not have."""
        if (scalar := Scalar(part, statistic)) not in self.names:
            raise ValueError(f"{statistic!r} of {part!r} is not measured in this model")
        return self.samples[:, self.names.index(scalar)]

    def check(self, manifest: ModelManifest) -> None:
        """Raise `ValueError` when this is the baseline of another graph."""
        _check_graph(self.graph, manifest)

    def to_bytes(self) -> bytes:
        """As a compressed NumPy archive without pickled objects."""
        return pack(
            {
                "format": np.array(FORMAT),
                "graph": np.array(self.graph),
                "names": np.array([list(name) for name in self.names]),
                "samples": self.samples,
                "predicted": self.predicted.astype(np.int32),
                **with_prefix("window", self.window.arrays()),
                **with_prefix("outliers", self.outliers.arrays()),
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes, manifest: ModelManifest) -> "Baseline":
        """Read what `to_bytes` wrote; raises `ValueError` for anything else, and for the baseline of another model."""
        stored = unpack(content, "the baseline")
        if "format" in stored and "graph" in stored:
            _check_graph(str(stored["graph"]), manifest)
        # The first format did not say so.
        if str(found := stored.get("format", 1)) != str(FORMAT):
            raise ValueError(
                f"the baseline of {manifest.name!r} version {manifest.version} has the format {found}, expected "
                f"{FORMAT}: publish the model again, or `python -m training refresh {manifest.name}`"
            )
        reader = WindowReader(manifest)
        window = reader.from_arrays(below("window", stored))
        try:
            return cls._from_arrays(stored, window, reader.names)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the baseline cannot be read ({type(error).__name__}: {error})") from error

    @classmethod
    def _from_arrays(
        cls, stored: Mapping[str, NDArray[Any]], window: Window, expected: tuple[Scalar, ...]
    ) -> "Baseline":
        names = tuple(Scalar(str(part), str(statistic)) for part, statistic in stored["names"])
        if names != expected:
            raise ValueError(f"it has samples of {sorted(set(names) ^ set(expected))} or in another order")
        samples, predicted = stored["samples"].astype(np.float32), stored["predicted"].astype(np.int64)
        if samples.shape != (len(predicted), len(names)):
            raise ValueError(f"{len(names)} names and {len(predicted)} classes for samples of shape {samples.shape}")
        outliers = OutlierModel.from_arrays(below("outliers", stored))
        return cls(window, names, samples, predicted, outliers, str(stored["graph"]))


def _check_graph(found: str, manifest: ModelManifest) -> None:
    expected = manifest.digests[manifest.graph]
    if found not in ("", expected):
        raise ValueError(
            f"the baseline of {manifest.name!r} version {manifest.version} was computed with another graph "
            f"(SHA-256 {found[:12]}…, expected {expected[:12]}…): compute it again with "
            f"`python -m training refresh {manifest.name}`"
        )


def _refuse_not_finite(batch: Mapping[str, NDArray[np.float32]], manifest: ModelManifest) -> None:
    for output in (*layout.output_widths(manifest), manifest.logits.name):
        if not np.isfinite(batch[output]).all():
            raise ValueError(f"{output} is not finite on the baseline images: the model overflows or divides by 0")
