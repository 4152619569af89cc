"""What `torchrun` starts for test_world.py: trains in each way, then loses its second process."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tests.training.small import SilentBar, problem
from training.data.images import DataSet
from training.loop.checkpoint import Saving, save_checkpoint
from training.loop.step import Step
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.loop.world import ALONE, World, joined
from training.outcomes import LostProcessError
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

CPU = torch.device("cpu")
NETWORK = NetworkConfig("resnet8", "prelu", classes=3, channels=1)
DROPPING = NetworkConfig("resnet8", classes=3, channels=1, regularisers={"dropout": 0.2})
# 40 images: batches of 15, 15 and 10, shared as 8 and 7, or in parts of 8 and 7.
LONG = Recipe(epochs=2, batch_size=15)
WAYS: dict[str, Recipe] = {
    "sgd": LONG,
    "adamw": Recipe(
        epochs=2,
        batch_size=15,
        accumulation=2,
        optimiser="adamw",
        learning_rate=0.003,
        mixup_alpha=0.4,
        cutmix_alpha=1.0,
        random_erasing=0.5,
        rand_augment=1,
        clip_norm=0.5,
        averaging="swa",
        averaging_start=0.0,
    ),
    "muon": Recipe(epochs=2, batch_size=15, optimiser="muon", learning_rate=0.003),
}
DIES_AFTER = 4


def data() -> DataSet:
    """Whose images do not come in multiples of what processes share, and whose classes weigh unlike."""
    whole = problem(held_out=21)
    return DataSet(
        whole.name, whole.training, whole.held_out, whole.class_names, whole.preprocessing, True, (0.5, 1.0, 1.55)
    )


class DoubleTrainer(Trainer):
    """In float64, from the weights of single precision: sums in another order are then equal to 15 digits."""

    def _make_step(self) -> Step:
        for model in (self.model, self.averaged.module):
            model.double().register_forward_pre_hook(lambda _, given: (given[0].double(),))
        step = super()._make_step()
        weights = step.class_weights
        return replace(step, class_weights=None if weights is None else weights.double())

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in super()._batches():
            yield images, targets.double() if targets.is_floating_point() else targets


def trained(recipe: Recipe, folder: Path, world: World = ALONE, kind: type[Trainer] = Trainer) -> Trainer:
    run = kind(NETWORK, recipe, data(), CPU, world)
    run.train(folder / "checkpoint.pt", SilentBar())
    return run


class Death(Watch):
    """Of the second process, in the backward pass of a step that others are in."""

    def __init__(self, world: World) -> None:
        self.world = world

    def before_step(self, moment: Moment) -> None:
        if moment.step == DIES_AFTER and not self.world.first:
            os.kill(os.getpid(), signal.SIGKILL)


# Muon computes in bfloat16 anyway.
KINDS: dict[str, type[Trainer]] = {"sgd": DoubleTrainer, "adamw": DoubleTrainer, "muon": Trainer}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # The launcher ends the others when one is lost; what they say of it themselves is what is looked at.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with joined(CPU) as world:
        for name, recipe in WAYS.items():
            run = trained(recipe, folder, world, KINDS[name])
            if world.first:
                states = {"state": run.model.state_dict(), "averaged": run.averaged.state_dict()}
                save_checkpoint(folder / f"{name}.pt", states | {"history": run.history})
        # One that draws random numbers, until the middle of its first epoch.
        run = Trainer(DROPPING, LONG, data(), CPU, world)
        run.saving = Saving(checkpoint_steps=1)
        run.train(folder / "dropping.pt", SilentBar())
        run = Trainer(NETWORK, LONG, data(), CPU, world)
        run.saving = Saving(checkpoint_steps=1)
        run.watches.append(Death(world))
        try:
            run.train(folder / "lost.pt", SilentBar())
        except LostProcessError as error:
            (folder / "error").write_text(str(error))
            os._exit(error.code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
