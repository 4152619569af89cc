"""`python -m training import`"""

from pathlib import Path

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.adoption import adopt as adopt_weights
from training.adoption import load_images
from training.commands.publish import Precision, print_publication
from training.data.classes import CLASS_NAMES, find_classes
from training.data.inputs import InputConfig
from training.resnet.network import NetworkConfig


def adopt(
    inputs: InputConfig,
    architecture: str,
    weights: Path,
    name: str,
    classes: str | None = None,
    activation: str = "relu",
    activation_parameters: dict[str, float] | None = None,
    arrangement: str = "original",
    data_dir: Path | None = None,
    data_name: str | None = None,
    repository: Path = SHIPPED_MODELS,
    description: str = "",
    precision: Precision = "fp32",
) -> None:
    """Publish weights that were trained elsewhere: a state dictionary of torchvision's layout, or of the CIFAR one.

    Args:
        inputs: What the weights take: a preset, or mean, standard deviation and size.
        architecture: Key of the network catalogue.
        weights: File of the state dictionary: .pth, .pt, .th, .tar, .bin, .ckpt or .safetensors.
        name: Name of the model in the repository.
        classes: File of class names (one a line, a JSON list, or the JSON index of ids and names), or `cifar10`.
        activation: Key of the activation catalogue that the weights were trained with.
        activation_parameters: Parameters of the activation by name, for example `alpha 0.5`.
        arrangement: Key of the arrangement catalogue.
        data_dir: Images for accuracy and baseline: test/<class>/*, or <class>/* alone; neither is known without.
        data_name: What the manifest calls these images; the folder's name if not given.
        repository: Folder of the model repository; the one that the service reads by default if not given.
        description: What the model is; made from architecture and file if not given.
        precision: both publishes the graph in half precision too, for CUDA; the service chooses.
    """
    chosen = classes or inputs.preset
    if classes is None and chosen not in CLASS_NAMES:
        raise ValueError("--classes is missing: give a file of class names in the order of the outputs")
    known = find_classes(chosen or "")
    config = NetworkConfig(
        architecture, activation, arrangement, len(known.names), inputs.channels, activation_parameters or {}
    )
    images = load_images(data_dir, inputs, known, data_name) if data_dir else None
    done = adopt_weights(
        ModelRepository(repository), name, weights, config, inputs, known, images, description, precision == "both"
    )
    print_publication(done, repository, "PyTorch's")
    if images is None:
        print("no baseline: give --data-dir to have live traffic compared with one")
