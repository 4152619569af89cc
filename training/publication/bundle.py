"""A finished run → a published bundle: exported, checked, measured on held-out images, written atomically."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.instrument import instrument
from models.manifest import HalfPrecision, Metrics, ModelManifest, Preprocessing, TensorSpec, TrainingRecord, plain_name
from models.parity import IMAGES, SAMPLE, ParitySample, sample_pixels
from models.preprocessing import pixels_to_tensor
from models.repository import ModelRepository
from models.statistics.baseline import Baseline
from models.statistics.head import linear_head
from training.activations.catalogue import find_activation
from training.classifier import PixelClassifier
from training.data.card import data_card
from training.data.images import DataSet, channel_moments
from training.data.sources import load_data
from training.export.graph import INPUT, OUTPUT, ExportedGraph, export, open_session
from training.export.half import check_half, halve
from training.loop.checkpoint import load_checkpoint
from training.loop.evaluation import evaluate
from training.resnet.network import build_network
from training.run import Run, RunConfig

BASELINE_BATCH = 64


@dataclass(frozen=True)
class Publication:
    """What was published."""

    name: str
    version: int
    metrics: Metrics | None
    """None where there were no held-out images."""
    parity: float
    half: HalfPrecision | None
    """What was found of the graph in half precision, where there is one."""


def publish(
    run_folder: Path, repository: ModelRepository, name: str, description: str = "", half: bool = False
) -> Publication:
    """Export the averaged weights of a finished run and publish them as the next version of `name`.

    With `half`, the graph is published in half precision too. Raises `ValueError` when the run is not finished or its
    images have changed, and `ExportParityError` when the graph does not match PyTorch, or the one in half precision
    does not match it; nothing is published then.
    """
    plain_name(name)
    config = RunConfig.read(run_folder)
    run = Run(run_folder, config)
    if not run.record.is_file():
        raise ValueError(f"the run in {run_folder} is not finished: go on with `train --resume --run {run_folder}`")
    stored = json.loads(run.record.read_text())
    record = TrainingRecord.model_validate({key: stored[key] for key in TrainingRecord.model_fields if key in stored})
    data = load_data(config.data)
    run.check_data(data)
    classifier = restore_classifier(run, data)
    network = config.network
    exported = export(classifier, network.activation, data.held_out.pixels.shape[1:], network.activation_parameters)
    said = description or _describe(record)
    draft = draft_manifest(name, said, data.class_names, data.preprocessing, exported)
    draft = draft.model_copy(update={"training": record})
    sample = make_sample(classifier, network.activation, data.preprocessing)
    return publish_measured(repository, draft, exported.model, sample, data, exported.parity, half)


def publish_measured(
    repository: ModelRepository,
    draft: ModelManifest,
    model: onnx.ModelProto,
    sample: ParitySample,
    data: DataSet,
    parity: float,
    half: bool,
) -> Publication:
    """Publish a checked graph with what held-out images say of it, which is what its manifest lacks in `draft`."""
    metrics, baseline = measure(model, draft, data)
    files = {"model.onnx": model.SerializeToString(), "baseline.npz": baseline.to_bytes(), SAMPLE: sample.to_bytes()}
    found = None
    if half:
        halved = halve(model)
        found = check_half(model, halved, data)
        files[found.graph] = halved.SerializeToString()

    def describe(version: int, digests: dict[str, str]) -> ModelManifest:
        measured = {"metrics": metrics, "half": found, "data_card": data_card(data)}
        return draft.model_copy(update={"version": version, "digests": digests} | measured)

    return Publication(draft.name, repository.publish(draft.name, files, describe), metrics, parity, found)


def make_sample(classifier: PixelClassifier, activation: str, preprocessing: Preprocessing) -> ParitySample:
    """Its logits are PyTorch's."""
    pixels = sample_pixels(preprocessing)
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(pixels_to_tensor(pixels, preprocessing))).numpy()
    return ParitySample(pixels, logits, agreeing(activation))


def agreeing(activation: str) -> int:
    """How many images of a sample must give the same logits elsewhere."""
    return IMAGES if find_activation(activation).continuous else IMAGES // 2


def restore_classifier(run: Run, data: DataSet) -> PixelClassifier:
    """The averaged weights of a run's newest checkpoint, in evaluation mode."""
    state: dict[str, Any] = load_checkpoint(run.checkpoint)["averaged"]
    mean, std = channel_moments(data.training.pixels)
    classifier = PixelClassifier(build_network(run.config.network), mean, std)
    prefix = "module."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    classifier.load_state_dict(weights)
    return classifier.eval()


def measure(model: onnx.ModelProto, manifest: ModelManifest, data: DataSet) -> tuple[Metrics, Baseline]:
    """Run the instrumented graph over all held-out images once, for its accuracy and its baseline statistics."""
    session = open_session(instrument(model, manifest))
    names = [output.name for output in session.get_outputs()]
    logits: list[NDArray[np.float32]] = []

    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, len(data.held_out), BASELINE_BATCH):
            pixels = data.held_out.pixels[start : start + BASELINE_BATCH]
            values = session.run(names, {INPUT: pixels_to_tensor(pixels, data.preprocessing)})
            outputs = dict(zip(names, values, strict=True))
            logits.append(outputs[OUTPUT])
            yield outputs

    graph = hashlib.sha256(model.SerializeToString()).hexdigest()
    baseline = Baseline.of(batches(), manifest, linear_head(model, manifest), graph)
    all_logits = np.concatenate(logits)
    result = evaluate(lambda _: all_logits, data.held_out, batch_size=len(data.held_out))
    held_out = f"{data.name}, held out"
    return Metrics(images=result.images, accuracy=result.accuracy, loss=result.loss, data=held_out), baseline


def draft_manifest(
    name: str,
    description: str,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    exported: ExportedGraph,
    baseline: bool = True,
) -> ModelManifest:
    """The manifest but for what is only known later: version, digests, metrics, and where its weights came from."""
    files = ("model.onnx", "baseline.npz", SAMPLE) if baseline else ("model.onnx", SAMPLE)
    shape = (-1, preprocessing.channels, preprocessing.height, preprocessing.width)
    return ModelManifest(
        name=name,
        version=1,
        created=datetime.now(UTC),
        description=description,
        baseline="baseline.npz" if baseline else None,
        digests=dict.fromkeys(files, "0" * 64),
        inputs=(TensorSpec(name=INPUT, datatype="FP32", shape=shape),),
        outputs=exported.outputs,
        class_names=class_names,
        preprocessing=preprocessing,
        sites=exported.sites,
        blocks=exported.blocks,
        metrics=None,
        training=None,
        sample=SAMPLE,
    )


def _describe(record: TrainingRecord) -> str:
    return f"{record.network}, {record.arrangement}, {record.activation}, trained on {record.data}"
