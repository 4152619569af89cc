"""Which graph of a model runs: in single precision, or in half precision where a device is faster with it."""

from typing import Literal

from models.manifest import ModelManifest
from service.runtime.provider import CPU

Precision = Literal["fp32", "fp16"]


def choose_precision(manifest: ModelManifest, provider: str, asked: Literal["auto", "fp32", "fp16"]) -> Precision:
    """On the CPU always `fp32`; on CUDA `auto` is `fp16` for a model that was published in half precision too.

    Raises ValueError when `fp16` is asked for and the model has no such graph.
    """
    if provider == CPU or asked == "fp32":
        return "fp32"
    if manifest.half is not None:
        return "fp16"
    if asked == "fp16":
        raise ValueError("it has no graph in half precision: publish it with one, or set RESLENS_PRECISION=auto")
    return "fp32"
