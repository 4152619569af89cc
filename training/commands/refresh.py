"""`python -m training refresh`"""

from pathlib import Path
from typing import Annotated

import tyro

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.commands.publish import Precision, print_publication
from training.data.sources import DataConfig
from training.publication.refresh import refresh as refresh_model


def refresh(
    name: Annotated[str, tyro.conf.Positional],
    data: DataConfig = DataConfig(),  # noqa: B008  (frozen)
    repository: Path = SHIPPED_MODELS,
    precision: Precision = "fp32",
) -> None:
    """Publish a model again with the present ONNX bodies, site descriptions and baseline; its weights stay as they are.

    Args:
        name: Name of the model in the repository; its newest version is taken.
        data: The data that the model was trained on: its held-out images are measured again.
        repository: Folder of the model repository; the one that the service reads by default if not given.
        precision: both publishes the graph in half precision too, as it does where the model was.
    """
    done = refresh_model(ModelRepository(repository), name, data.resolved(), half=precision == "both")
    print_publication(done, repository, "those of the version before")
