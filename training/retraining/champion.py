"""The model that is served, as a network that can be trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from models.manifest import ModelManifest
from models.repository import Bundle
from training.activations.catalogue import find_activation
from training.classifier import PixelClassifier
from training.export.graph import ExportParityError, check_parity
from training.loop.checkpoint import load_checkpoint
from training.resnet.network import NetworkConfig, build_network
from training.retraining.unfolding import read_back
from training.run import Run, RunConfig

MOMENT_IMAGES = 512
"""For the moments of normalisations that the graph does not have any more."""


@dataclass(frozen=True)
class Champion:
    """A published version, and what it was made of."""

    manifest: ModelManifest
    model: onnx.ModelProto
    network: NetworkConfig

    @classmethod
    def of(cls, bundle: Bundle) -> "Champion":
        """Raises `ValueError` for a graph that was not made here."""
        return cls(bundle.manifest, onnx.load_from_string(bundle.graph), network_of(bundle.manifest))

    def classifier(self, pixels: NDArray[np.uint8], run: Path | None = None) -> PixelClassifier:
        """The network with the published weights: those of the run that it came from, if given, else of the graph.

        `pixels` N×C×H×W are training images. Raises `ValueError` when its logits are not those of the graph.
        """
        classifier = PixelClassifier(build_network(self.network), *self._normalisation())
        if run is None:
            read_back(classifier, self.model, pixels[:MOMENT_IMAGES])
        else:
            _load_run(classifier, run, self.network)
        self._check(classifier, run)
        return classifier

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """One that is overwritten."""
        ones = (1.0,) * self.network.channels
        return ones, ones

    def _check(self, classifier: PixelClassifier, run: Path | None) -> None:
        preprocessing = self.manifest.preprocessing
        shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
        continuous = find_activation(self.network.activation, self.network.activation_parameters).continuous
        name = f"model {self.manifest.name!r} version {self.manifest.version}"
        try:
            check_parity(self.model, classifier.eval(), shape, continuous)
        except ExportParityError as error:
            if run is not None:
                raise ValueError(f"the run in {run} is not what {name} was published from: {error}") from error
            raise ValueError(
                f"the weights of {name} cannot be read back from its graph ({error}): give the run that it was "
                "published from, --run FOLDER"
            ) from error


def network_of(manifest: ModelManifest) -> NetworkConfig:
    """The configuration that a manifest tells of; raises `ValueError` where it tells of none."""
    classes, channels = len(manifest.class_names), manifest.preprocessing.channels
    if (origin := manifest.origin) is not None:
        parameters = dict(origin.activation_parameters)
        return NetworkConfig(origin.architecture, origin.activation, origin.arrangement, classes, channels, parameters)
    if (record := manifest.training) is None:
        raise ValueError(
            f"model {manifest.name!r} version {manifest.version} was not trained or imported here: "
            "its network is not known, so it cannot be trained on"
        )
    options = record.options
    defaults = NetworkConfig()
    chosen = {key: str(options.get(key, getattr(defaults, key))) for key in ("shortcut", "normaliser", "head")}
    return NetworkConfig(
        record.network,
        record.activation,
        record.arrangement,
        classes,
        channels,
        dict(record.activation_parameters),
        shortcut_parameters=_below("shortcut.", options),
        regularisers=_below("regularisers.", options),
        **chosen,
    )


def _below(prefix: str, options: dict[str, str | int | float | bool | None]) -> dict[str, float]:
    return {
        key.removeprefix(prefix): float(value)
        for key, value in options.items()
        if key.startswith(prefix) and isinstance(value, int | float)
    }


def _load_run(classifier: PixelClassifier, folder: Path, network: NetworkConfig) -> None:
    """The averaged weights of a run; raises `ValueError` when they are of another network."""
    run = Run(folder, RunConfig.read(folder))
    averaged = load_checkpoint(run.checkpoint)["averaged"]
    prefix = "module."
    state = {name.removeprefix(prefix): value for name, value in averaged.items() if name.startswith(prefix)}
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the run in {folder} is not of {network.network}: give the run of the champion") from error
