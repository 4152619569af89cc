"""The training loop: from a configuration and images to averaged weights, resumable after every step."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from training.classifier import PixelClassifier
from training.data.images import DataSet, channel_moments, digest
from training.initialisers import initialise
from training.loop.averaging import Averaging
from training.loop.batches import Batches, Position
from training.loop.checkpoint import Saving, load_newest, save_checkpoint
from training.loop.divergence import check_weights, diverged_in_evaluation, diverged_in_step, first_not_finite
from training.loop.evaluation import Evaluation, evaluate_together
from training.loop.freezing import freeze
from training.loop.losses import Losses
from training.loop.pace import Pace
from training.loop.precision import Precision
from training.loop.random_state import RandomState
from training.loop.resumption import check_draws, check_state
from training.loop.step import Step
from training.loop.stopping import Stop
from training.loop.watch import Moment, Together, Watch
from training.loop.world import ALONE, World
from training.optimisers.catalogue import find_optimiser
from training.optimisers.groups import parameter_groups
from training.outcomes import StoppedError
from training.progress import Bar
from training.recipes.recipe import Recipe
from training.regularisers.rate import find_rates, set_progress
from training.resnet.network import NetworkConfig, build_network
from training.resnet.normalisers import NORMALISERS

INITIAL_IMAGES = 128
"""Training images that an initialiser may look at."""


class Trainer:
    """One run: its model, optimiser and averages, and how far it has come.

    The same configuration, recipe and data give the same weights on the same kind of machine, in one go or resumed:
    every random draw of an epoch comes from generators seeded with (seed, epoch), whose states a checkpoint holds.
    """

    def __init__(
        self, config: NetworkConfig, recipe: Recipe, data: DataSet, device: torch.device, world: World = ALONE
    ) -> None:
        self.config, self.recipe, self.data, self.device, self.world = config, recipe, data, device, world
        self.batches = Batches(data, recipe, device, world)
        self.epochs = recipe.whole_epochs(self.batches.steps)
        self.random = RandomState(device)
        torch.manual_seed(recipe.seed)
        network = build_network(config)
        mean, std = channel_moments(data.training.pixels)
        self.model = PixelClassifier(network, mean, std).to(device)
        self._initialise()
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = freeze(network, recipe.freeze)
        self._rates = find_rates(network)
        self.averaging = Averaging(
            self.model, recipe.averaging, recipe.averaging_epochs * self.batches.steps, recipe.averaging_start
        )
        groups = parameter_groups(network, recipe.weight_decay, NORMALISERS[config.normaliser].learning_share)
        self.optimiser = find_optimiser(recipe.optimiser).build(groups, network, recipe)
        self._pace = Pace(self.optimiser, recipe, self.batches.steps, self.epochs * self.batches.steps)
        self._step = self._make_step()
        self.epoch = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.watches: list[Watch] = []
        """Who looks on; see `training.loop.watch`."""
        self.stop = Stop()
        """Asked after each step."""
        self.saving = Saving()
        self._began: tuple[Position, float, int, Tensor | None] | None = None
        self._clock = time.monotonic()

    @cached_property
    def data_digest(self) -> str:
        """Of all images, labels and names of classes."""
        return digest(self.data)

    @property
    def place(self) -> list[int]:
        """Whole epochs that are done, and steps of the one that was begun."""
        return [self.epoch, self._began[0].done if self._began else 0]

    @property
    def averaged(self) -> AveragedModel:
        """The weights that are evaluated and published."""
        return self.averaging.average

    def begin_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights, with running statistics and the normalisation of the pixels, for those of the first step."""
        self.model.load_state_dict(weights)
        self.averaged.module.load_state_dict(weights)

    def train(self, checkpoint: Path, bar: Bar) -> None:
        """Run the epochs that are left, saving a checkpoint after each, and in between as `saving` says.

        Raises `DivergedError`, a `ValueError`, when the loss is no number any more, `StoppedError` when `stop` asks for
        it, `UnwritableError` when a checkpoint cannot be written, and `LostProcessError` when another process is gone.
        """
        Together(self.watches).before_training(self.epoch * self.batches.steps + self.place[1])
        if self.recipe.compile and self.epoch < self.epochs:
            bar.line("the first step compiles the network, which takes a minute, and minutes where it is deep")
        while self.epoch < self.epochs:
            self._clock = time.monotonic()
            loss = self._train_epoch(bar, checkpoint)
            self.epoch += 1
            self._began = None
            last = self.epoch * self.batches.steps - 1
            check_weights(self.model, last, self.epoch - 1, self.recipe.learning_rate, checkpoint)
            self.averaging.after_epoch(self.model, self.epoch / self.epochs)
            held_out = self.evaluate()
            if not math.isfinite(held_out.loss):
                raise diverged_in_evaluation(held_out.loss, self.epoch, self.recipe.learning_rate, checkpoint)
            self._tick()
            entry = {
                "epoch": self.epoch,
                "loss": loss,
                "held_out_loss": held_out.loss,
                "held_out_accuracy": held_out.accuracy,
            }
            self.history.append(entry)
            Together(self.watches).after_epoch(self._moment(last), entry)
            self._save(checkpoint, self.state())
            bar.line(
                f"epoch {self.epoch}/{self.epochs}  loss {loss:.4f}  held-out loss {held_out.loss:.4f}  "
                f"held-out accuracy {held_out.accuracy:.2%}  {self.seconds:.0f} s"
            )

    def evaluate(self) -> Evaluation:
        """The averaged weights on the held-out images, each process on its share of them."""
        return evaluate_together(self.averaged, self.data.held_out, self.device, self.world)

    def state(self, within: dict[str, Any] | None = None) -> dict[str, Any]:
        """Everything that `restore` needs; `within` an epoch, its position and sums too. All processes must ask."""
        now = self.random.now()
        return {
            "network": asdict(self.config),
            "recipe": asdict(self.recipe),
            "data_digest": self.data_digest,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self._step.precision.scaler.state_dict(),
            "epoch": self.epoch,
            "within": within,
            "random": [each.cpu() for each in self.world.gather(now.to(self.device))] if within else [],
            "drawn": self.random.drawn(),
            "seconds": self.seconds,
            "history": self.history,
        }

    def restore(self, checkpoint: Path) -> str:
        """Go on from where `checkpoint` was written, or the one before it if that is damaged; says so if it is so.

        Raises `ValueError` for the state of another network, recipe or data set, naming what differs, and for one that
        would not go on as it began: of another number of processes where the network draws random numbers.
        """
        state, note = load_newest(checkpoint)
        check_state(state, self.config, self.recipe, self.data_digest, self.model, checkpoint)
        check_draws(state, self.random, self.world.size, checkpoint)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._step.precision.scaler.load_state_dict(state.get("scaler", {}))
        self.epoch, self.seconds, self.history = state["epoch"], state["seconds"], state["history"]
        if within := state.get("within"):
            position = Position(within["done"], within["generator"])
            own = state["random"][self.world.rank] if len(state["random"]) == self.world.size else None
            self._began = (position, within["total"], within["seen"], own)
        return note

    def _make_step(self) -> Step:
        recipe, weights = self.recipe, self.data.class_weights
        if recipe.compile and "annealed_dropout" in self.config.regularisers:
            raise ValueError("--compile would compile annealed_dropout anew for the rate of every step: leave one out")
        parallel = self.world.share(self.model, self.device)
        forward: Any = torch.compile(parallel) if recipe.compile else parallel
        factors = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=self.device)
        precision = Precision(recipe.precision, self.device)
        return Step(forward, parallel, self.optimiser, precision, recipe, self.world, factors)

    def _initialise(self) -> None:
        recipe, model = self.recipe, self.model
        chosen = np.random.default_rng(recipe.seed).permutation(len(self.data.training))[:INITIAL_IMAGES]
        pixels = torch.from_numpy(self.data.training.pixels[np.sort(chosen)]).to(self.device)
        images = (pixels.float() - model.mean) * model.scale
        weights = Path(recipe.pretrained) if recipe.pretrained else None
        initialise(model.network, recipe.initialiser, recipe.initialiser_parameters, images, weights)

    def _train_epoch(self, bar: Bar, checkpoint: Path | None = None) -> float:
        self._begin_epoch()
        steps, all_steps = self.batches.steps, self.epochs * self.batches.steps
        losses = Losses(self.world, self.device)
        if self._began:
            losses.total, losses.seen = self._began[1], self._began[2]
        for index, (images, targets) in enumerate(self._batches(), start=self.place[1]):
            step = self.epoch * steps + index
            looking = [watch for watch in self.watches if step % watch.every == 0]
            watching = Together(looking)
            self._pace.set(step)
            set_progress(self._rates, step / all_steps)
            watching.before_step(self._moment(step))
            count = self.batches.count(index)
            compiled = not any(watch.hooks for watch in looking) and count == self.batches.count(0)
            shares = self.batches.shares(index)
            losses.add(step, self._step.gradients(images, targets, shares, count, compiled), count)
            saved, stopped = self._read(losses, index, images, checkpoint, bar)
            watching.after_backward(self._moment(step))
            self._step.update()
            self.averaging.after_step(self.model)
            watching.after_step(self._moment(step))
            if checkpoint and (saved or stopped):
                self._save_within(checkpoint, index + 1, losses)
            if stopped:
                self._end(index + 1, checkpoint)
        return losses.mean

    def _begin_epoch(self) -> None:
        self.model.train()
        for module in self.frozen:
            module.eval()
        # For the draws of the network itself (rrelu, regularisers): an epoch that is resumed to must see the same.
        self.random.seed(self._epoch_seed() + (self.world.rank << 40))
        if self._began and self._began[3] is not None:
            self.random.restore(self._began[3])
        self._saved = time.monotonic()

    def _read(self, losses: Losses, index: int, images: Tensor, checkpoint: Path | None, bar: Bar) -> tuple[bool, bool]:
        """Whether to save after the step `index` of the epoch, and whether to stop, in all processes alike."""
        last = index + 1 == self.batches.steps
        every = self.saving.checkpoint_steps
        due = bool(every) and (index + 1) % every == 0
        if not (due or last or (index + 1) % losses.interval == 0):
            return False, False
        seconds = self.saving.checkpoint_seconds
        late = self.world.first and seconds > 0 and time.monotonic() - self._saved >= seconds
        (late, stopped), bad = losses.read([late, self.stop.signal is not None])
        Together(self.watches).after_losses(losses.known)
        if bad is not None:
            self._diverged(*bad, images, checkpoint)
        step = self.epoch * self.batches.steps + index
        bar.advance(step + 1, self.epochs * self.batches.steps, f"epoch {self.epoch + 1} loss {losses.newest:.3f}")
        # After the last step the epoch itself is saved.
        return (due or late) and not last, stopped

    def _diverged(self, step: int, loss: float, images: Tensor, checkpoint: Path | None) -> None:
        with self._step.precision.cast():
            where = first_not_finite(self.model, images)
        raise diverged_in_step(loss, step, self.epoch, where, self.recipe.learning_rate, checkpoint)

    def _end(self, done: int, checkpoint: Path | None) -> None:
        signal = self.stop.signal
        where = f"after step {done} of {self.batches.steps} of epoch {self.epoch + 1}"
        kept = "the state is saved, go on with --resume" if checkpoint else "nothing is saved"
        # Another process may have been asked, and this one not.
        raise StoppedError(f"stopped {where}: {kept}", 15 if signal is None else signal)

    def _save_within(self, checkpoint: Path, done: int, losses: Losses) -> None:
        self._tick()
        step = self.epoch * self.batches.steps + done - 1
        check_weights(self.model, step, self.epoch, self.recipe.learning_rate, checkpoint)
        self.averaging.catch_up(self.model)
        position = self.batches.position(done)
        within = {"done": done, "generator": position.generator, "total": losses.total, "seen": losses.seen}
        self._save(checkpoint, self.state(within))

    def _save(self, checkpoint: Path, state: dict[str, Any]) -> None:
        if self.world.first:
            save_checkpoint(checkpoint, state, keep=True)
        self._saved = time.monotonic()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches.epoch(self._epoch_seed(), self._began[0] if self._began else None)

    def _epoch_seed(self) -> int:
        return self.recipe.seed * 1_000_003 + self.epoch

    def _moment(self, step: int) -> Moment:
        return Moment(step, self.epoch, self.model, self.optimiser, self.optimiser.param_groups[0]["lr"])

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
