"""Whether a loaded model computes here what it computed where it was published."""

import numpy as np
from numpy.typing import NDArray

from models.parity import ParitySample
from models.preprocessing import pixels_to_tensor
from models.repository import Bundle
from service.runtime.model import LoadedModel

# Relative to 1 + the largest logit: float32, which kernels add up in different orders.
BOUND = 1e-3
# TF32 and half precision have 11 bits of mantissa.
COARSE_BOUND = 3e-2


def check_sample(bundle: Bundle, model: LoadedModel) -> None:
    """Raise `ValueError` unless the model gives the logits of its sample; a bundle without one says nothing."""
    manifest = bundle.manifest
    if bundle.sample is None:
        return
    sample = ParitySample.from_bytes(bundle.sample, manifest.preprocessing, len(manifest.class_names))
    sample.check(logits_of(model, sample.pixels), bound_of(model))


def logits_of(model: LoadedModel, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One image at a time: a batch size that is warmed up everywhere."""
    tensor = pixels_to_tensor(pixels, model.manifest.preprocessing)
    output = model.logits_name
    return np.concatenate([model.run(tensor[index : index + 1], (output,))[output] for index in range(len(tensor))])


def bound_of(model: LoadedModel) -> float:
    """How much of a difference is rounding."""
    half = any(site.datatype == "FP16" for site in model.manifest.sites) or model.precision == "fp16"
    if not half and not model.cuda.tf32:
        return BOUND
    tolerance = model.manifest.half.tolerance if model.manifest.half else 0.0
    return max(COARSE_BOUND, tolerance)
