"""One run of a study, from its first weights to what it learned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.activations.catalogue import find_activation
from training.data.images import DataSet
from training.loop.checkpoint import previous
from training.loop.evaluation import evaluate
from training.loop.trainer import Trainer
from training.outcomes import DivergedError
from training.probes.columns import columns, number
from training.probes.probe import look
from training.probes.reading import NetworkReading
from training.progress import Bar
from training.studies.case import Case

PROBED = 128
"""Images of the training set that layers are read on, the same ones in all runs."""

Measured = dict[str, Any]


def measure(case: Case, data: DataSet, checkpoint: Path, bar: Bar) -> Measured:
    """Train and read the layers before and after; a run that diverges is a result too.

    Goes on from `checkpoint` if there is one, and removes it at the end. Raises `ValueError` for what cannot be built.
    """
    config = case.network_config(len(data.class_names), data.preprocessing.channels)
    trainer = Trainer(config, case.recipe(), data, torch.device("cpu"))
    found: Measured = {
        "parameters": sum(parameter.numel() for parameter in trainer.model.network.parameters()),
        "initial": columns(probe(trainer, case)),
    }
    if checkpoint.exists():
        trainer.restore(checkpoint)
    try:
        trainer.train(checkpoint, bar)
    except DivergedError as error:
        found |= {"diverged": str(error)}
    else:
        held_out, training = trainer.evaluate(), evaluate(_prediction(trainer), data.training)
        found |= {
            "accuracy": held_out.accuracy,
            "loss": number(held_out.loss),
            "training_error": 1 - training.accuracy,
            "training_loss": number(trainer.history[-1]["loss"]),
        }
    found |= {"final": columns(probe(trainer, case)), "seconds": round(trainer.seconds, 1)}
    for file in (checkpoint, previous(checkpoint)):
        file.unlink(missing_ok=True)
    return found


def probe(trainer: Trainer, case: Case) -> NetworkReading:
    """The layers as the weights are now, in training mode: normalised by the batch, as the next step would see them."""
    pixels, labels = trainer.data.training.pixels, trainer.data.training.labels
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:PROBED])
    images = torch.from_numpy(pixels[chosen]).float().to(trainer.device)
    targets = torch.from_numpy(labels[chosen]).to(trainer.device)
    return look(trainer.model, trainer.model.network, find_activation(case.activation), images, targets)


def _prediction(trainer: Trainer) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    @torch.inference_mode()
    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = trainer.averaged.eval()(torch.from_numpy(pixels).float()).numpy()
        return logits

    return predict
