"""`python -m training publish`"""

from pathlib import Path
from typing import Annotated

import tyro

from models.repository import ModelRepository
from training.publication import publish as publish_run


def publish(
    run: Annotated[Path, tyro.conf.Positional],
    name: str,
    repository: Path = Path("models/store"),
    description: str = "",
) -> None:
    """Export a finished run to ONNX, check it against PyTorch, and publish it as the next version of a model.

    Args:
        run: Folder of the run, as `train` printed it.
        name: Name of the model in the repository.
        repository: Folder of the model repository.
        description: What the model is; made from the training record if not given.
    """
    done = publish_run(run, ModelRepository(repository), name, description)
    print(f"published {done.name} version {done.version} in {repository}")
    print(f"accuracy {done.metrics.accuracy:.2%} on {done.metrics.images} images ({done.metrics.data})")
    print(f"logits differ from PyTorch's by at most {done.parity:.1e}")
