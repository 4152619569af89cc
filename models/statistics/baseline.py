"""What the layers do on held-out images: the reference that live traffic is compared with.

It is computed from the exported, instrumented graph on pre-processed images, by the definitions of live statistics.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.statistics import layout
from models.statistics.layers import StatisticsReader
from models.statistics.moments import Moments

SAMPLED_IMAGES = 1000
"""Images whose layer values are kept one by one, so that null distributions of any window size can be drawn."""


@dataclass(frozen=True)
class Baseline:
    """Moments of every per-image, per-channel statistic over held-out images, and samples of the layer values."""

    images: int
    moments: dict[str, Moments]
    """By statistics output; one column a channel (or block), in the manifest's order."""
    fired: NDArray[np.int64]
    """For each channel, the number of images in which it was active anywhere."""
    predicted: NDArray[np.int64]
    """Images by predicted class."""
    samples: dict[str, NDArray[np.float32]]
    """By statistic: sampled images × layers, NaN where a layer does not have it; `residual_share`: × blocks."""

    @classmethod
    def of(cls, batches: Iterable[Mapping[str, NDArray[np.float32]]], manifest: ModelManifest) -> "Baseline":
        """Reduce the outputs of an instrumented graph over batches of images.

        Raises `ValueError` if any statistic is not finite: such a model is broken before it is served.
        """
        logits = manifest.outputs[0].name
        reader = StatisticsReader(manifest)
        moments: dict[str, Moments] = {}
        fired = np.zeros(sum(site.channels for site in manifest.sites), np.int64)
        predicted = np.zeros(len(manifest.class_names), np.int64)
        rows: dict[str, list[NDArray[np.float32]]] = {}
        for batch in batches:
            for output in layout.output_widths(manifest):
                if not np.isfinite(batch[output]).all():
                    raise ValueError(
                        f"{output} is not finite on the baseline images: the model overflows or divides by 0"
                    )
                added = Moments.of(batch[output])
                moments[output] = moments[output].merged(added) if output in moments else added
            fired += (batch[layout.ACTIVE] > 0).sum(0)
            predicted += np.bincount(batch[logits].argmax(1), minlength=len(predicted))
            for name, values in (reader.layers(batch) | {"residual_share": reader.blocks(batch)}).items():
                rows.setdefault(name, []).append(values.astype(np.float32))
        images = int(predicted.sum())
        chosen = np.linspace(0, images - 1, min(images, SAMPLED_IMAGES)).astype(np.intp)
        samples = {name: np.concatenate(parts)[chosen] for name, parts in rows.items()}
        return cls(images, moments, fired, predicted, samples)

    def to_bytes(self) -> bytes:
        """As a compressed NumPy archive without pickled objects."""
        arrays: dict[str, NDArray[np.generic]] = {"images": np.array(self.images), "fired": self.fired}
        arrays["predicted"] = self.predicted
        for output, moments in self.moments.items():
            arrays[f"moments/{output}/mean"] = moments.mean
            arrays[f"moments/{output}/m2"] = moments.m2
        for name, values in self.samples.items():
            arrays[f"samples/{name}"] = values
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Baseline":
        """Read what `to_bytes` wrote; raises `ValueError` for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return cls._from_arrays({name: archive[name] for name in archive.files})
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, TypeError, ValueError) as error:
            # One error for the caller, whatever NumPy and zipfile stumble over.
            raise ValueError(f"the baseline cannot be read ({type(error).__name__}: {error})") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Baseline":
        images = int(arrays["images"])
        outputs = [name.split("/")[1] for name in arrays if name.startswith("moments/") and name.endswith("/mean")]
        moments = {
            output: Moments(images, arrays[f"moments/{output}/mean"], arrays[f"moments/{output}/m2"])
            for output in outputs
        }
        samples = {name.removeprefix("samples/"): arrays[name] for name in arrays if name.startswith("samples/")}
        return cls(images, moments, arrays["fired"], arrays["predicted"], samples)
