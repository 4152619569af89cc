"""`python -m training import`"""

from pathlib import Path

import torch

from models.repository import ModelRepository
from models.shelf import SHIPPED_MODELS
from training.commands.parts import Parts
from training.commands.publish import Precision, print_publication
from training.data.classes import CLASS_NAMES, find_classes, number_classes
from training.data.inputs import InputConfig
from training.publication.adoption import adopt as adopt_weights
from training.publication.adoption import load_images
from training.resnet.network import build_network
from training.weights.file import read_weights
from training.weights.importing import count_classes


def adopt(
    inputs: InputConfig,
    architecture: str,
    weights: Path,
    name: str,
    parts: Parts = Parts(),  # noqa: B008  (frozen)
    classes: str | None = None,
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
        parts: What the network of the weights is made of.
        classes: File of class names (one a line, a JSON list, or the JSON index of ids and names), the names with
            commas between them, or `cifar10`; that preset implies them. Classes that nobody names are numbered.
        data_dir: Images for accuracy and baseline: test/<class>/*, or <class>/* alone; neither is known without.
        data_name: What the manifest calls these images; the folder's name if not given.
        repository: Folder of the model repository; the one that the service reads by default if not given.
        description: What the model is; made from architecture and file if not given.
        precision: both publishes the graph in half precision too, for CUDA; the service chooses.
    """
    read = read_weights(weights)
    chosen = classes or inputs.preset
    if classes is None and chosen not in CLASS_NAMES:
        with torch.device("meta"):
            network = build_network(parts.network(architecture, 2, inputs.channels))
        known = number_classes(count_classes(network, read))
    else:
        known = find_classes(chosen or "")
    config = parts.network(architecture, len(known.names), inputs.channels)
    images = load_images(data_dir, inputs, known, data_name) if data_dir else None
    done = adopt_weights(
        ModelRepository(repository), name, read, config, inputs, known, images, description, precision == "both"
    )
    print_publication(done, repository, "PyTorch's")
    if classes is None and chosen not in CLASS_NAMES:
        print(f"its {len(known.names)} classes are numbered: give --classes to name them")
    if images is None:
        print("no baseline: give --data-dir to have live traffic compared with one")
