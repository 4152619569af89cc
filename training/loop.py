"""The training loop: from a configuration and images to averaged weights, resumable after every epoch."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.checkpoint import load_checkpoint, save_checkpoint
from training.classifier import PixelClassifier
from training.data.augmentation import augment
from training.data.images import DataSet, channel_moments
from training.data.mixing import mix
from training.evaluation import Evaluation, evaluate
from training.groups import parameter_groups
from training.initialisers import initialise
from training.progress import Bar
from training.recipe import Recipe
from training.regularisers.rate import set_progress
from training.resnet.network import NetworkConfig, build_network
from training.resnet.normalisers import NORMALISERS
from training.schedule import warmed_cosine

INITIAL_IMAGES = 128
"""Training images that an initialiser may look at."""


class Trainer:
    """One run: its model, optimiser and averages, and how far it has come.

    The same configuration, recipe and data give the same weights on the same kind of machine, in one go or resumed:
    every random draw of an epoch comes from a generator seeded with (seed, epoch).
    """

    def __init__(self, config: NetworkConfig, recipe: Recipe, data: DataSet, device: torch.device) -> None:
        self.recipe, self.data, self.device = recipe, data, device
        torch.manual_seed(recipe.seed)
        network = build_network(config)
        mean, std = channel_moments(data.training.pixels)
        self.model = PixelClassifier(network, mean, std).to(device)
        self._initialise()
        # A last batch of a single image is left out: batch normalisation cannot use it.
        self.steps_per_epoch = (len(data.training) + recipe.batch_size - 2) // recipe.batch_size
        self.averaged = _averaged(self.model, recipe.averaging_epochs * self.steps_per_epoch)
        groups = parameter_groups(network, recipe.weight_decay, NORMALISERS[config.normaliser].learning_share)
        self.shares = [group.share for group in groups]
        self.optimiser = torch.optim.SGD(
            [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=True,
        )
        height, width = data.training.pixels.shape[2:]
        self.padding = min(height, width) // 8 if recipe.crop_padding is None else recipe.crop_padding
        self.epoch = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    def train(self, checkpoint: Path, bar: Bar) -> None:
        """Run the epochs that are left, saving a checkpoint after each; raises `ValueError` when the loss diverges."""
        while self.epoch < self.recipe.epochs:
            started = time.monotonic()
            loss = self._train_epoch(bar)
            self.epoch += 1
            held_out = self.evaluate()
            self.seconds += time.monotonic() - started
            self.history.append(
                {
                    "epoch": self.epoch,
                    "loss": loss,
                    "held_out_loss": held_out.loss,
                    "held_out_accuracy": held_out.accuracy,
                }
            )
            save_checkpoint(checkpoint, self.state())
            bar.line(
                f"epoch {self.epoch}/{self.recipe.epochs}  loss {loss:.4f}  held-out loss {held_out.loss:.4f}  "
                f"held-out accuracy {held_out.accuracy:.2%}  {self.seconds:.0f} s"
            )

    def evaluate(self) -> Evaluation:
        """The averaged weights on the held-out images."""
        return evaluate(self._predict, self.data.held_out)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, checkpoint: Path) -> None:
        """Go on from where `checkpoint` was written."""
        state = load_checkpoint(checkpoint)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.seconds, self.history = state["epoch"], state["seconds"], state["history"]

    def _initialise(self) -> None:
        recipe, model = self.recipe, self.model
        chosen = np.random.default_rng(recipe.seed).permutation(len(self.data.training))[:INITIAL_IMAGES]
        pixels = torch.from_numpy(self.data.training.pixels[np.sort(chosen)]).to(self.device)
        images = (pixels.float() - model.mean) * model.scale
        weights = Path(recipe.pretrained) if recipe.pretrained else None
        initialise(model.network, recipe.initialiser, recipe.initialiser_parameters, images, weights)

    def _train_epoch(self, bar: Bar) -> float:
        self.model.train()
        # For the draws of the network itself (rrelu, regularisers): an epoch that is resumed to must see the same.
        torch.manual_seed(self._epoch_seed())
        total = torch.zeros((), dtype=torch.float64)
        seen = 0
        for index, (images, targets) in enumerate(self._batches()):
            step = self.epoch * self.steps_per_epoch + index
            self._set_learning_rate(step)
            set_progress(self.model, step / (self.recipe.epochs * self.steps_per_epoch))
            loss = F.cross_entropy(self.model(images), targets, label_smoothing=self.recipe.label_smoothing)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.averaged.update_parameters(self.model)
            total += loss.detach().double().cpu() * len(targets)
            seen += len(targets)
            bar.advance(
                step + 1, self.recipe.epochs * self.steps_per_epoch, f"epoch {self.epoch + 1} loss {loss.item():.3f}"
            )
        mean = float(total) / seen
        if not math.isfinite(mean):
            raise ValueError(
                f"the loss is {mean} after epoch {self.epoch + 1}: lower learning_rate={self.recipe.learning_rate} "
                "in another --run"
            )
        return mean

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, and their labels; of mixed images how much they are of each class."""
        mixup, cutmix = self.recipe.mixup_alpha, self.recipe.cutmix_alpha
        generator = torch.Generator().manual_seed(self._epoch_seed())
        order = torch.randperm(len(self.data.training), generator=generator).numpy()
        for step in range(self.steps_per_epoch):
            start = step * self.recipe.batch_size
            chosen = np.sort(order[start : start + self.recipe.batch_size])
            images = torch.from_numpy(self.data.training.pixels[chosen]).to(self.device)
            labels = torch.from_numpy(self.data.training.labels[chosen]).to(self.device)
            images = augment(images, self.padding, self.data.mirrored, generator).float()
            if mixup or cutmix:
                yield mix(images, labels, len(self.data.class_names), mixup, cutmix, generator)
            else:
                yield images, labels

    def _epoch_seed(self) -> int:
        return self.recipe.seed * 1_000_003 + self.epoch

    def _set_learning_rate(self, step: int) -> None:
        steps = self.recipe.epochs * self.steps_per_epoch
        warmup = int(self.recipe.warmup_epochs * self.steps_per_epoch)
        rate = warmed_cosine(step, steps, min(warmup, steps - 1), self.recipe.learning_rate)
        for group, share in zip(self.optimiser.param_groups, self.shares, strict=True):
            group["lr"] = share * rate

    @torch.inference_mode()
    def _predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.averaged.eval()
        logits: NDArray[np.float32] = (
            self.averaged(torch.from_numpy(pixels).to(self.device).float()).float().cpu().numpy()
        )
        return logits


def _averaged(model: PixelClassifier, steps: float) -> AveragedModel:
    """Exponential moving average of parameters and buffers with a time constant of `steps`; 0 follows the model."""
    decay = math.exp(-1 / steps) if steps > 0 else 0.0
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
