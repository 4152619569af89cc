"""The benchmark of training measures what it says; speed itself is nothing to test."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.plain_loop import Extras, plain_loop
from benchmarks.training import DATA, FILES, OURS, PLAIN, Case, load, training
from training.data.folder import list_images
from training.loop.trainer import Trainer
from training.progress import progress_bar
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

CASE = Case("resnet8", 4, 2)


def test_every_arm_is_compared_with_the_plain_loop(pictures: Path) -> None:
    rows = {row["arm"]: row for row in training(pictures, cases=(CASE,), rounds=2)}
    assert {PLAIN, OURS, DATA, FILES} <= rows.keys()
    for name, row in rows.items():
        assert float(row["images/s, clock"].replace(",", "")) > 0
        assert float(row["images/s, processor"].replace(",", "")) > 0
        for kind in ("clock", "processor"):
            assert (row[f"× {PLAIN}, {kind}"] == "–") == (name == FILES)
    assert rows[PLAIN][f"× {PLAIN}, clock"] == "1.000 [1.000, 1.000]"
    # Making batches alone, without a network, is no tenth of training.
    assert float(rows[DATA][f"× {PLAIN}, processor"].split()[0]) > 5


def test_images_are_of_every_class_and_enough(pictures: Path) -> None:
    data = load(pictures, 40)
    assert len(data.training) == 40
    assert set(data.training.labels) == set(list_images(pictures).labels) == {0, 1, 2, 3}


@pytest.mark.parametrize("extras", [Extras(), Extras(channels_last=True, loss_read=True, averaged=True)], ids=str)
def test_the_plain_loop_learns_what_ours_learns(extras: Extras, tmp_path: Path) -> None:
    """From the same first weights, on the same images in another order."""
    data = load(None, 480)
    recipe = Recipe(epochs=1, batch_size=32, learning_rate=0.02, averaging="none", warmup_epochs=0.0)
    config = NetworkConfig("resnet8", classes=10, channels=1)
    losses = [loss.item() for loss in plain_loop(config, recipe, data, extras)]
    trainer = Trainer(config, recipe, data, torch.device("cpu"))
    with progress_bar("training", shown=False) as bar:
        trainer.train(tmp_path / "checkpoint.pt", bar)
    assert len(losses) == trainer.batches.steps == 15
    assert np.mean(losses) == pytest.approx(trainer.history[0]["loss"], rel=0.02)
    assert np.mean(losses[-3:]) < 0.95 * losses[0]
