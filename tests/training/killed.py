"""What test_exactness.py starts: trains until it kills itself in the middle of a step, as when power fails."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.training.small import SilentBar, problem
from training.loop.checkpoint import Saving
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

CPU = torch.device("cpu")
# Draws inside of the network, on a schedule over all of training; batch statistics inside of the activation.
NETWORK = NetworkConfig(
    "resnet8", "frelu", classes=3, channels=1, regularisers={"dropblock": 0.3, "stochastic_depth": 0.2}
)
MIXED = Recipe(epochs=3, batch_size=12, accumulation=2, mixup_alpha=0.4, cutmix_alpha=1.0, clip_norm=1.0, seed=7)
WAYS: dict[str, Recipe] = {
    "sgd": MIXED,
    "adamw": replace(
        MIXED,
        optimiser="adamw",
        learning_rate=0.003,
        schedule="one_cycle",
        rand_augment=2,
        random_erasing=0.5,
        precision="bf16",
    ),
    "muon": replace(MIXED, optimiser="muon", learning_rate=0.003, averaging="swa", averaging_start=0.3),
    "half": replace(MIXED, precision="fp16", averaging="none", schedule="multi_step", channels_last=True),
}
# 40 images in batches of 12, 12, 12 and 4.
STEPS = 3 * 4


class Death(Watch):
    """After the gradients of a step, before the weights have moved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_backward(self, moment: Moment) -> None:
        if moment.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer(way: str, every: int = 0) -> Trainer:
    run = Trainer(NETWORK, WAYS[way], problem(), CPU)
    run.saving = Saving(checkpoint_steps=every)
    return run


def main(folder: Path, deaths: list[str]) -> None:
    """Of each way one process, so that PyTorch is loaded once."""
    torch.set_num_threads(1)
    for way, step, every in (death.split(":") for death in deaths):
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        run = trainer(way, int(every))
        run.watches.append(Death(int(step)))
        run.train(folder / f"{way}.pt", SilentBar())
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
