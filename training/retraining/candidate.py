"""The files of a challenger: made once, judged as they are, and published as they are."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from models.manifest import ModelManifest, TrainingRecord
from models.parity import SAMPLE
from models.publishing import MANIFEST
from models.repository import ModelRepository, parse_manifest
from models.statistics.baseline import Baseline
from training.classifier import PixelClassifier
from training.data.card import data_card
from training.data.images import DataSet
from training.export.graph import export
from training.export.half import check_half, halve
from training.publication.bundle import draft_manifest, make_sample, measure
from training.retraining.champion import Champion

FINGERPRINT = "retraining"
"""In the record of training: what determines the challenger."""
FROM = "retrained_from"
"""There too: the version of the champion."""
GRAPH, BASELINE = "model.onnx", "baseline.npz"


@dataclass(frozen=True)
class Candidate:
    """What is in the folder of a candidate."""

    folder: Path

    @property
    def manifest(self) -> ModelManifest:
        """But for version and digests."""
        return parse_manifest((self.folder / MANIFEST).read_bytes())

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load_from_string((self.folder / GRAPH).read_bytes())

    def publish(self, repository: ModelRepository, announce: Callable[[int], None]) -> int:
        """The version that has these files: the one that was published before, or a new one.

        `announce` is told its number before anybody can see it; again where another publisher took the number.
        """
        draft = self.manifest
        assert draft.training is not None
        found = find_published(repository, draft.name, str(draft.training.options[FINGERPRINT]))
        if found is not None:
            announce(found)
            return found
        files = {file: (self.folder / file).read_bytes() for file in draft.digests}

        def describe(version: int, digests: dict[str, str]) -> ModelManifest:
            announce(version)
            return draft.model_copy(update={"version": version, "digests": digests})

        return repository.publish(draft.name, files, describe)


def make_candidate(
    folder: Path, champion: Champion, classifier: PixelClassifier, record: TrainingRecord, data: DataSet
) -> tuple[float, Baseline]:
    """Export a challenger, measure it on what is held out, and write its files; returns its parity and its baseline.

    Raises `ExportParityError`, a `ValueError`, when the graph does not compute what PyTorch computes, and `ValueError`
    when its statistics are not finite; nothing is written then.
    """
    network, preprocessing = champion.network, champion.manifest.preprocessing
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    exported = export(classifier, network.activation, shape, network.activation_parameters)
    said = f"{champion.manifest.name} version {champion.manifest.version}, trained on with {data.name}"
    draft = draft_manifest(champion.manifest.name, said, data.class_names, preprocessing, exported)
    draft = draft.model_copy(update={"training": record})
    metrics, baseline = measure(exported.model, draft, data)
    sample = make_sample(classifier, network.activation, preprocessing)
    files = {
        GRAPH: exported.model.SerializeToString(),
        BASELINE: baseline.to_bytes(),
        SAMPLE: sample.to_bytes(),
    }
    half = None
    if champion.manifest.half is not None:
        halved = halve(exported.model)
        half = check_half(exported.model, halved, data)
        files[half.graph] = halved.SerializeToString()
    digests = dict.fromkeys(files, "0" * 64)
    measured = {"metrics": metrics, "half": half, "data_card": data_card(data)}
    draft = draft.model_copy(update={**measured, "digests": digests})
    _write(folder, files | {MANIFEST: draft.model_dump_json(indent=2).encode()})
    return exported.parity, baseline


def find_published(repository: ModelRepository, name: str, fingerprint: str) -> int | None:
    """The newest version whose record has the fingerprint, if it is whole."""
    for version in reversed(repository.versions(name)):
        try:
            manifest = parse_manifest((repository.root / name / str(version) / MANIFEST).read_bytes())
            if manifest.training and manifest.training.options.get(FINGERPRINT) == fingerprint:
                repository.open(name, version)
                return version
        except (ValueError, OSError):
            # Not one that could be served.
            continue
    return None


def _write(folder: Path, files: dict[str, bytes]) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, content in files.items():
        (partial / name).write_bytes(content)
    partial.rename(folder)
