"""`python -m training publish`"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.publication.bundle import Publication
from training.publication.bundle import publish as publish_run

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
    print_publication(done, repository, "PyTorch's")


def print_publication(done: Publication, repository: Path, compared: str) -> None:
    """Say what was published, and from whose logits its own differ by how much."""
    print(f"published {done.name} version {done.version} in {repository.resolve()}")
    if done.metrics:
        print(f"accuracy {done.metrics.accuracy:.2%} on {done.metrics.images} images ({done.metrics.data})")
    print(f"logits differ from {compared} by at most {done.parity:.1e}")
    if done.half:
        print(
            f"half precision: accuracy {done.half.metrics.accuracy:.2%}, logits differ by at most "
            f"{done.half.difference:.2%} of the largest"
        )
