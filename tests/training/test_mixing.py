"""Mixup and CutMix against their papers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.small import SilentBar, problem
from training.augmentations.mixing import cut, mix
from training.loop.trainer import Trainer
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

CPU = torch.device("cpu")
COUNT, CLASSES, HEIGHT, WIDTH = 8, 8, 9, 14
LABELS = torch.arange(COUNT)


def images() -> Tensor:
    """Every pixel of image n is 10ⁿ⁻³, so that sums of two tell which two, and what share of each."""
    return (10.0 ** (torch.arange(COUNT, dtype=torch.float64) - 3))[:, None, None, None].expand(-1, 3, HEIGHT, WIDTH)


def mixed(mixup: float, cutmix: float, seed: int) -> tuple[Tensor, Tensor]:
    return mix(images(), LABELS, CLASSES, mixup, cutmix, torch.Generator().manual_seed(seed))


def shares(targets: Tensor) -> Tensor:
    """How much of each image is still itself; of one that is its own partner it is all."""
    return targets.diagonal()


def own(targets: Tensor) -> float:
    """λ, which all images of a batch have that were mixed with another."""
    values = {round(value, 9) for value in shares(targets).tolist()} - {1.0}
    assert len(values) <= 1
    return values.pop() if values else 1.0


@pytest.mark.parametrize("seed", range(20))
def test_mixup_mixes_images_as_it_mixes_labels(seed: int) -> None:
    pixels, targets = mixed(0.8, 0.0, seed)
    torch.testing.assert_close(targets.sum(1), torch.ones(COUNT, dtype=torch.float64))
    assert ((targets > 0).sum(1) <= 2).all()
    torch.testing.assert_close(pixels, torch.einsum("nk,kchw->nchw", targets, images()))
    assert (targets > 0).sum(0).max() <= 2, "each image is the partner of one"
    own(targets)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_takes_a_box_from_the_partner(seed: int) -> None:
    pixels, targets = mixed(0.0, 1.0, seed)
    share = own(targets)
    for number in range(COUNT):
        foreign = pixels[number] != images()[number]
        partner = targets[number].clone()
        partner[number] = 0
        if partner.max() == 0:
            assert not foreign.any()
            continue
        assert foreign.double().mean().item() == pytest.approx(1 - share)
        rows, columns = foreign[0].any(1), foreign[0].any(0)
        box = rows[:, None] & columns[None, :]
        assert (foreign == box).all()
        assert all(len(np.flatnonzero(np.diff(side.int().numpy()))) <= 2 for side in (rows, columns)), "in one piece"
        assert (pixels[number][foreign] == images()[int(partner.argmax()), 0, 0, 0]).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_beta(alpha: float) -> None:
    """Mean 1/2, variance 1/(4(2α + 1)); the fourth moment of what is between 0 and 1 bounds the variance's error."""
    drawn = np.array([own(mixed(alpha, 0.0, seed)[1]) for seed in range(1500)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(drawn.mean() - 0.5) <= 5 * math.sqrt(variance / len(drawn))
    assert abs(((drawn - 0.5) ** 2).mean() - variance) <= 5 * 0.25 / math.sqrt(12 * len(drawn)) + 1e-3


def test_boxes_are_of_the_share_and_anywhere() -> None:
    draw = np.random.default_rng(0)
    covered = np.zeros((40, 60))
    for _ in range(3000):
        rows, columns = cut(40, 60, 0.75, draw)
        # √0.25 of each side; less only where the image ends.
        assert (rows.stop - rows.start == 20) or rows.start == 0 or rows.stop == 40
        assert (columns.stop - columns.start == 30) or columns.start == 0 or columns.stop == 60
        covered[rows, columns] += 1 / 3000
    assert covered.min() > 0.03
    assert covered[20, 30] == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 3000))
    rows, columns = cut(40, 60, 1.0, draw)
    assert rows.start == rows.stop, "nothing is cut where all is to be left"
    assert columns.start == columns.stop


def test_with_both_each_batch_is_mixed_in_one_way() -> None:
    cutting = [bool(((pixels := mixed(1.0, 1.0, seed)[0])[:, :, :1, :1] != pixels).any()) for seed in range(400)]
    # A box may also be empty or cover all, so a few that were cut do not show it.
    assert 0.35 <= np.mean(cutting) <= 0.6


def trainer(recipe: Recipe) -> Trainer:
    network = NetworkConfig("resnet8", "relu", "original", classes=3, channels=1)
    return Trainer(network, recipe, problem(mirrored=False), CPU)


@pytest.mark.parametrize("way", [{"mixup_alpha": 0.5}, {"cutmix_alpha": 1.0}])
def test_batches_are_mixed_by_the_seed_and_the_epoch(way: dict[str, float]) -> None:
    recipe = Recipe(batch_size=16, **way)  # type: ignore[arg-type]
    runs = [trainer(recipe) for _ in range(3)]
    runs[2].epoch = 1
    first, again, other = (list(run._batches()) for run in runs)
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0][1], other[0][1])
    assert [targets.shape for _, targets in first] == [(16, 3), (16, 3), (8, 3)]


def test_images_are_the_same_up_to_the_mixing() -> None:
    """Order and augmentation of the first batch do not depend on it."""
    plain, tiny = (next(trainer(Recipe(batch_size=64, mixup_alpha=alpha))._batches()) for alpha in (0.0, 1e-6))
    # Beta(α, α) with a tiny α is 0 or 1.
    labels = tiny[1].argmax(1)
    assert sorted(labels.tolist()) == sorted(plain[1].tolist())
    torch.testing.assert_close(tiny[0].sum(), plain[0].sum())


def test_the_loss_is_the_weighted_cross_entropy(tmp_path: Path) -> None:
    """λ·CE(y) + (1 − λ)·CE(y′), each with its label smoothing."""
    recipe = Recipe(epochs=1, batch_size=64, label_smoothing=0.2, mixup_alpha=1.0)
    pixels, targets = next(trainer(recipe)._batches())
    run = trainer(recipe)
    with torch.no_grad():
        logits = run.model.train()(pixels)
    labels = torch.arange(3)
    columns = [
        F.cross_entropy(logits, label.expand(len(logits)), reduction="none", label_smoothing=0.2) for label in labels
    ]
    each = torch.stack(columns, 1)
    expected = (targets * each).sum(1).mean().item()
    fresh = trainer(recipe)
    fresh.train(tmp_path / "c.pt", SilentBar())
    assert fresh.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_without_it_batches_are_as_they_were() -> None:
    _, labels = next(trainer(Recipe(batch_size=16))._batches())
    assert labels.shape == (16,)
    assert not labels.is_floating_point()


def test_a_network_learns_from_mixed_images(tmp_path: Path) -> None:
    recipe = Recipe(epochs=5, batch_size=8, mixup_alpha=0.4, cutmix_alpha=1.0)
    run = Trainer(NetworkConfig("resnet8", classes=3, channels=1), recipe, problem(training=120), CPU)
    run.train(tmp_path / "c.pt", SilentBar())
    assert run.evaluate().accuracy >= 0.9
