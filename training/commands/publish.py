"""`python -m training publish`"""

from pathlib import Path
from typing import Annotated

import tyro

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.publication import publish as publish_run


def publish(
    run: Annotated[Path, tyro.conf.Positional],
    name: str,
    repository: Path = SHIPPED_MODELS,
    description: str = "",
) -> None:
    """Export a finished run to ONNX, check it against PyTorch, and publish it as the next version of a model.

    Args:
        run: Folder of the run, as `train` printed it.
        name: Name of the model in the repository.
        repository: Folder of the model repository; the one that the service reads by default if not given.
        description: What the model is; made from the training record if not given.
    """
    done = publish_run(run, ModelRepository(repository), name, description)
    print(f"published {done.name} version {done.version} in {repository.resolve()}")
    print(f"accuracy {done.metrics.accuracy:.2%} on {done.metrics.images} images ({done.metrics.data})")
    print(f"logits differ from PyTorch's by at most {done.parity:.1e}")
