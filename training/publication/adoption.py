"""Weights that others published → a bundle: loaded, exported, checked, measured on images if there are any."""

from pathlib import Path

from models.manifest import ModelManifest, Origin, plain_name
from models.parity import SAMPLE
from models.repository import ModelRepository
from training.classifier import PixelClassifier
from training.data.classes import Classes
from training.data.folder import load_held_out
from training.data.images import DataSet
from training.data.inputs import InputConfig
from training.export.graph import export
from training.progress import progress_bar
from training.publication.bundle import Publication, draft_manifest, make_sample, publish_measured
from training.resnet.network import NetworkConfig, build_network
from training.weights.file import Weights
from training.weights.importing import load_weights


def load_images(folder: Path, inputs: InputConfig, classes: Classes, name: str | None = None) -> DataSet:
    """Images that accuracy and baseline are measured on, as `load_held_out` finds them."""
    with progress_bar("reading images") as bar:
        return load_held_out(folder, inputs.preprocessing, classes, name, bar.advance)


def adopt(
    repository: ModelRepository,
    name: str,
    weights: Weights,
    network: NetworkConfig,
    inputs: InputConfig,
    classes: Classes,
    images: DataSet | None = None,
    description: str = "",
    half: bool = False,
) -> Publication:
    """Publish weights of others, which are of `network`, as the next version of `name`.

    Without `images` the bundle has neither accuracy nor baseline. Raises `ValueError` when the weights do not fit,
    as `load_weights` does, and `ExportParityError` when the graph does not match PyTorch; nothing is published then.
    """
    plain_name(name)
    if half and images is None:
        raise ValueError("half precision is checked on held-out images: give --data-dir, or --precision fp32")
    module = build_network(network)
    load_weights(module, weights)
    classifier = PixelClassifier(module, *inputs.moments()).eval()
    preprocessing = inputs.preprocessing
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    exported = export(classifier, network.activation, shape, network.activation_parameters)
    origin = _origin(weights, network, sum(parameter.numel() for parameter in module.parameters()))
    said = description or f"{origin.architecture}, {origin.arrangement}, {origin.activation}, weights of {origin.file}"
    draft = draft_manifest(name, said, classes.names, preprocessing, exported, baseline=images is not None)
    draft = draft.model_copy(update={"origin": origin})
    sample = make_sample(classifier, network.activation, preprocessing)
    if images is not None:
        return publish_measured(repository, draft, exported.model, sample, images, exported.parity, half)
    files = {"model.onnx": exported.model.SerializeToString(), SAMPLE: sample.to_bytes()}

    def describe(version: int, digests: dict[str, str]) -> ModelManifest:
        return draft.model_copy(update={"version": version, "digests": digests})

    return Publication(name, repository.publish(name, files, describe), None, exported.parity, None)


def _origin(weights: Weights, network: NetworkConfig, parameters: int) -> Origin:
    return Origin(
        file=weights.path.name,
        sha256=weights.digest,
        entry=weights.entry,
        architecture=network.network,
        activation=network.activation,
        activation_parameters=dict(network.activation_parameters),
        arrangement=network.arrangement,
        shortcut=network.shortcut,
        shortcut_parameters=dict(network.shortcut_parameters),
        normaliser=network.normaliser,
        head=network.head,
        parameters=parameters,
    )
