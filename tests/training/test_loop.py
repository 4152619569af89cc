"""One training run against the same steps written by hand."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.training.small import SilentBar, problem
from training.augmentations.crop import RandomCrop
from training.data.images import DataSet
from training.loop.trainer import Trainer
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

CPU = torch.device("cpu")
NETWORK = NetworkConfig("resnet8", "prelu", "original", classes=3, channels=1)


def trainer(recipe: Recipe, data: DataSet | None = None, network: NetworkConfig = NETWORK) -> Trainer:
    return Trainer(network, recipe, data or problem(), CPU)


def state(run: Trainer) -> dict[str, Tensor]:
    """Everything that training changes, by name."""
    return {
        **{f"model.{name}": value.clone() for name, value in run.model.state_dict().items()},
        **{f"averaged.{name}": value.clone() for name, value in run.averaged.state_dict().items()},
    }


def assert_identical(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    assert not differing


def trained(recipe: Recipe, folder: Path, data: DataSet | None = None, network: NetworkConfig = NETWORK) -> Trainer:
    run = trainer(recipe, data, network)
    run.train(folder / "checkpoint.pt", SilentBar())
    return run


def test_same_seed_same_weights_bit_for_bit(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_size=16, seed=5)
    first = trained(recipe, tmp_path)
    # The state of the global generator must not matter.
    torch.manual_seed(99)
    torch.rand(17)
    again = trained(recipe, tmp_path)
    assert_identical(state(first), state(again))
    assert first.history == again.history


def test_random_slopes_are_drawn_anew_every_epoch_and_by_the_seed() -> None:
    """Two epochs that start from the same weights and see the same images differ by their slopes alone."""
    network = replace(NETWORK, activation="rrelu")
    runs = [trainer(Recipe(batch_size=64, crop_padding=0), problem(mirrored=False), network) for _ in range(3)]
    runs[2].epoch = 1
    losses = [run._train_epoch(SilentBar()) for run in runs]
    assert losses[0] == losses[1] != losses[2]
    # Of one batch of all images; without the draws the order would not matter.
    still = replace(network, activation_parameters={"lower": 0.2, "upper": 0.2})
    runs = [trainer(Recipe(batch_size=64, crop_padding=0), problem(mirrored=False), still) for _ in range(2)]
    runs[1].epoch = 1
    assert runs[0]._train_epoch(SilentBar()) == pytest.approx(runs[1]._train_epoch(SilentBar()), rel=1e-5)


def test_another_seed_other_weights(tmp_path: Path) -> None:
    first, other = (trained(Recipe(epochs=1, seed=seed), tmp_path) for seed in (0, 1))
    assert not torch.equal(first.model.network.conv1.weight, other.model.network.conv1.weight)


# Slopes drawn inside of the network; statistics and small networks inside of the activations.
@pytest.mark.parametrize("activation", ["prelu", "rrelu", "frelu", "dynamic_relu_c"])
def test_resumed_after_every_epoch_gives_the_same_weights(activation: str, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=16)
    network = replace(NETWORK, activation=activation)
    whole = trained(recipe, tmp_path, network=network)

    class Stop(Exception):  # noqa: N818
        pass

    class StoppingBar(SilentBar):
        def line(self, text: str) -> None:
            raise Stop(text)

    path = tmp_path / "resumed.pt"
    for number in range(recipe.epochs):
        # Another process has drawn other numbers before.
        torch.manual_seed(number)
        torch.rand(number + 1)
        part = trainer(recipe, network=network)
        if path.exists():
            part.restore(path)
        with pytest.raises(Stop):
            part.train(path, StoppingBar())
    last = trainer(recipe, network=network)
    last.restore(path)
    assert last.epoch == recipe.epochs
    assert_identical(state(last), state(whole))
    assert last.history == whole.history
    assert last.evaluate() == whole.evaluate()


def recorded(recipe: Recipe) -> tuple[Trainer, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """A trained run, its whole state before the first and after every step, and the gradients of every step."""
    run = trainer(recipe)
    states = [state(run)]
    gradients: list[dict[str, Tensor]] = []
    run.optimiser.register_step_pre_hook(
        lambda *_: gradients.append({name: value.grad.clone() for name, value in run.model.named_parameters()})
    )
    run.optimiser.register_step_post_hook(lambda *_: states.append(state(run)))
    return run, states, gradients


def test_steps_are_nesterov_sgd_on_a_warmed_cosine(tmp_path: Path) -> None:
    """Sutskever 2013 as in PyTorch's documentation, written out; decay only on what has two or more dimensions."""
    recipe = Recipe(
        epochs=3,
        batch_size=16,
        learning_rate=0.05,
        momentum=0.8,
        weight_decay=0.1,
        warmup_epochs=1.0,
        averaging_epochs=0,
    )
    run, states, gradients = recorded(recipe)
    run.train(tmp_path / "checkpoint.pt", SilentBar())
    per_epoch = 3  # 40 images in batches of 16, 16 and 8
    steps = 3 * per_epoch
    assert len(gradients) == steps
    names = [name for name, _ in run.model.named_parameters()]
    velocity = {name: torch.zeros_like(states[0][f"model.{name}"]) for name in names}
    for step in range(steps):
        if step < per_epoch:
            rate = 0.05 * (step + 1) / per_epoch
        else:
            rate = 0.05 * (1 + math.cos(math.pi * (step - per_epoch) / (steps - per_epoch))) / 2
        for name in names:
            before, after = states[step][f"model.{name}"], states[step + 1][f"model.{name}"]
            decay = 0.1 if before.ndim > 1 else 0.0
            gradient = gradients[step][name] + decay * before
            velocity[name] = 0.8 * velocity[name] + gradient
            expected = before - rate * (gradient + 0.8 * velocity[name])
            torch.testing.assert_close(
                after, expected, rtol=1e-5, atol=1e-6, msg=lambda m, n=name, s=step: f"{n} {s}: {m}"
            )


@pytest.mark.parametrize("averaging_epochs", [0.0, 0.5, 2.0])
def test_weight_averaging(averaging_epochs: float, tmp_path: Path) -> None:
    """avg ← decay·avg + (1 − decay)·weights after every step, buffers too, starting from the first step's weights."""
    recipe = Recipe(epochs=2, batch_size=16, averaging_epochs=averaging_epochs)
    run, states, _ = recorded(recipe)
    run.train(tmp_path / "checkpoint.pt", SilentBar())
    decay = math.exp(-1 / (averaging_epochs * 3)) if averaging_epochs else 0.0
    for name in run.model.state_dict():
        history = [values[f"model.{name}"].double() for values in states[1:]]
        average = history[0]
        for weights in history[1:]:
            average = decay * average + (1 - decay) * weights
        actual = state(run)[f"averaged.module.{name}"]
        if actual.is_floating_point():
            torch.testing.assert_close(actual.double(), average, rtol=1e-5, atol=1e-6)


def test_evaluation_uses_the_averaged_weights(tmp_path: Path) -> None:
    run = trained(Recipe(epochs=2, batch_size=16, averaging_epochs=1.0), tmp_path)
    averaged = copy.deepcopy(run.averaged.module).eval()
    pixels = torch.from_numpy(run.data.held_out.pixels).float()
    labels = torch.from_numpy(run.data.held_out.labels)
    with torch.no_grad():
        logits = averaged(pixels)
        plain = copy.deepcopy(run.model).eval()(pixels)
    result = run.evaluate()
    assert result.images == len(labels)
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert result.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert result.loss != pytest.approx(F.cross_entropy(plain, labels).item(), rel=1e-5)


def test_loss_is_smoothed_cross_entropy(tmp_path: Path) -> None:
    """Szegedy 2016, section 7: targets (1 − ε)·one-hot + ε/K; one batch holds every image, so order does not matter."""
    data = problem(mirrored=False)
    recipe = Recipe(epochs=1, batch_size=64, label_smoothing=0.3, crop_padding=0)
    run = trainer(recipe, data)
    model = copy.deepcopy(run.model).train()
    with torch.no_grad():
        logits = model(torch.from_numpy(data.training.pixels).float()).double().numpy()
    run.train(tmp_path / "checkpoint.pt", SilentBar())
    targets = np.full((len(data.training), 3), 0.3 / 3)
    targets[np.arange(len(data.training)), data.training.labels] += 0.7
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(targets * log_probabilities).sum(1).mean()
    assert run.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_every_image_is_seen_once_an_epoch() -> None:
    """Images carry their number; no augmentation moves it."""
    count = 37
    data = problem(training=count, mirrored=False)
    data.training.pixels[:] = np.arange(count)[:, None, None, None]
    run = trainer(Recipe(batch_size=8, crop_padding=0), data)
    orders = []
    for epoch in (0, 1):
        run.epoch = epoch
        batches = [(images[:, 0, 0, 0].int().tolist(), labels.tolist()) for images, labels in run._batches()]
        assert [len(numbers) for numbers, _ in batches] == [8, 8, 8, 8, 5]
        seen = [number for numbers, _ in batches for number in numbers]
        assert sorted(seen) == list(range(count))
        assert [label for _, labels in batches for label in labels] == data.training.labels[seen].tolist()
        orders.append(seen)
    assert orders[0] != orders[1]


def test_a_last_batch_of_one_image_is_left_out() -> None:
    run = trainer(Recipe(batch_size=8), problem(training=17))
    assert [len(labels) for _, labels in run._batches()] == [8, 8]


@pytest.mark.parametrize(("given", "expected"), [(None, 1), (0, 0), (3, 3)])
def test_crop_padding_is_an_eighth_of_the_image_unless_given(given: int | None, expected: int) -> None:
    crop = trainer(Recipe(crop_padding=given)).batches.augmentations[0]
    assert isinstance(crop, RandomCrop)
    assert crop.padding == expected


def test_input_is_normalised_by_the_training_images() -> None:
    data = problem()
    run = trainer(Recipe(), data)
    seen: list[Tensor] = []
    run.model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        run.model(torch.from_numpy(data.training.pixels).float())
    assert seen[0].mean().item() == pytest.approx(0, abs=1e-5)
    assert seen[0].std(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_convolutions_start_from_he_initialisation() -> None:
    """He 2015: N(0, 2 / fan_out); the estimate of a standard deviation from n values errs by about 1/√(2n)."""
    network = Trainer(NetworkConfig("resnet20", classes=3, channels=1), Recipe(), problem(), CPU).model.network
    for name, weight in network.named_parameters():
        if ".conv" in name:
            expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            assert weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * weight.numel())), name


def test_progress_and_history(tmp_path: Path) -> None:
    run = trainer(Recipe(epochs=2, batch_size=16))
    bar = SilentBar()
    run.train(tmp_path / "checkpoint.pt", bar)
    assert bar.steps == [(step, 6) for step in range(1, 7)]
    assert len(bar.lines) == 2
    assert [entry["epoch"] for entry in run.history] == [1, 2]
    assert run.history[-1]["held_out_accuracy"] == run.evaluate().accuracy
    assert run.seconds > 0


def test_a_diverging_run_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+, in epoch 1; .*: lower .*1e\+20"):
        trained(Recipe(epochs=3, batch_size=8, learning_rate=1e20, warmup_epochs=0), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_network_learns(tmp_path: Path) -> None:
    run = trained(Recipe(epochs=6, batch_size=8), tmp_path, problem(training=120))
    assert run.evaluate().accuracy >= 0.9


@pytest.mark.gpu
def test_training_on_cuda(tmp_path: Path) -> None:
    recipe = Recipe(epochs=6, batch_size=8)
    run = Trainer(NETWORK, recipe, problem(training=120), torch.device("cuda"))
    run.train(tmp_path / "checkpoint.pt", SilentBar())
    assert run.evaluate().accuracy >= 0.9
    resumed = Trainer(NETWORK, recipe, problem(training=120), torch.device("cuda"))
    resumed.restore(tmp_path / "checkpoint.pt")
    assert_identical(state(run), state(resumed))
