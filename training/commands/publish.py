"""`python -m training publish`"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.publication import Publication
from training.publication import publish as publish_run

Precision = Literal["fp32", "both"]


def publish(
    run: Annotated[Path, tyro.conf.Positional],
    name: str,
    repository: Path = SHIPPED_MODELS,
    description: str = "",
    precision: Precision = "fp32",
) -> None:
    """Export a finished run to ONNX, check it against PyTorch, and publish it as the next version of a model.

    Args:
        run: Folder of the run, as `train` printed it.
        name: Name of the model in the repository.
        repository: Folder of the model repository; the one that the service reads by default if not given.
        description: What the model is; made from the training record if not given.
        precision: both publishes the graph in half precision too, for CUDA; the service chooses.
    """
    done = publish_run(run, ModelRepository(repository), name, description, half=precision == "both")
    print(f"published {done.name} version {done.version} in {repository.resolve()}")
    print(f"accuracy {done.metrics.accuracy:.2%} on {done.metrics.images} images ({done.metrics.data})")
    print(f"logits differ from PyTorch's by at most {done.parity:.1e}")
    print_half(done)


def print_half(done: Publication) -> None:
    """Say what was found of the graph in half precision, if there is one."""
    if done.half:
        print(
            f"half precision: accuracy {done.half.metrics.accuracy:.2%}, logits differ by at most "
            f"{done.half.difference:.2%} of the largest"
        )
