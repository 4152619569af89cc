"""Averages, precision, frozen stages, class weights, watches: what else a recipe and its callers can ask for."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.small import SilentBar, problem
from training.activations.catalogue import find_activation
from training.data.images import DataSet
from training.loop.trainer import Trainer
from training.loop.watch import Moment, Watch
from training.probes.probing import Probing
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig

CPU = torch.device("cpu")
NETWORK = NetworkConfig("resnet8", "relu", classes=3, channels=1)


def trainer(recipe: Recipe, network: NetworkConfig = NETWORK, data: DataSet | None = None) -> Trainer:
    return Trainer(network, recipe, data or problem(), CPU)


class Recorder(Watch):
    """Weights at the end of each epoch, and what it is called with."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.calls: list[tuple[str, int]] = []
        self.epochs: list[dict[str, Tensor]] = []
        self.entries: list[dict[str, float]] = []
        self.gradients: list[bool] = []

    def before_step(self, moment: Moment) -> None:
        self.calls.append(("before", moment.step))

    def after_backward(self, moment: Moment) -> None:
        self.calls.append(("backward", moment.step))
        self.gradients.append(all(each.grad is not None for each in moment.model.parameters()))

    def after_step(self, moment: Moment) -> None:
        self.calls.append(("step", moment.step))

    def after_epoch(self, moment: Moment, entry: dict[str, float]) -> None:
        self.epochs.append({name: each.clone() for name, each in moment.model.state_dict().items()})
        self.entries.append(entry)


def watched(run: Trainer, folder: Path, every: int = 1) -> Recorder:
    recorder = Recorder(every)
    run.watches.append(recorder)
    run.train(folder / "c.pt", SilentBar())
    return recorder


def test_a_watch_sees_the_steps_it_asks_for(tmp_path: Path) -> None:
    run = trainer(Recipe(epochs=2, batch_size=16))
    recorder = watched(run, tmp_path, every=2)
    assert recorder.calls == [(what, step) for step in (0, 2, 4) for what in ("before", "backward", "step")]
    assert recorder.entries == run.history
    assert all(recorder.gradients)


def test_who_looks_on_changes_nothing(tmp_path: Path) -> None:
    watching, alone = trainer(Recipe(epochs=1, batch_size=16)), trainer(Recipe(epochs=1, batch_size=16))
    watched(watching, tmp_path)
    alone.train(tmp_path / "c.pt", SilentBar())
    assert all(map(torch.equal, watching.model.state_dict().values(), alone.model.state_dict().values()))


def test_swa_is_the_mean_of_the_last_epochs(tmp_path: Path) -> None:
    """Izmailov 2018: of epochs 3 and 4 here; before that the last weights."""
    run = trainer(Recipe(epochs=4, batch_size=16, averaging="swa", averaging_start=0.5))
    recorder = watched(run, tmp_path)
    for name, value in run.averaged.module.state_dict().items():
        if value.is_floating_point():
            expected = (recorder.epochs[2][name] + recorder.epochs[3][name]) / 2
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_without_averaging_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = trainer(Recipe(epochs=2, batch_size=16, averaging="none"))
    run.train(tmp_path / "c.pt", SilentBar())
    assert all(map(torch.equal, run.averaged.module.state_dict().values(), run.model.state_dict().values()))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_weights_stay_single(precision: Any, tmp_path: Path) -> None:
    runs = [trainer(Recipe(epochs=2, batch_size=16, precision=each)) for each in ("fp32", precision)]
    seen: list[torch.dtype] = []
    runs[1].model.network.get_submodule("layer1").register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    for run in runs:
        run.train(tmp_path / "c.pt", SilentBar())
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert {each.dtype for each in runs[1].model.parameters()} == {torch.float32}
    assert runs[1].history[0]["loss"] == pytest.approx(runs[0].history[0]["loss"], rel=0.05)
    assert runs[1].history[0]["loss"] != runs[0].history[0]["loss"]


def test_fp16_leaves_out_a_step_that_overflows(tmp_path: Path) -> None:
    run = trainer(Recipe(epochs=1, batch_size=64, precision="fp16", averaging="none"))
    run._step.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copy.deepcopy(dict(run.model.named_parameters()))
    run.train(tmp_path / "c.pt", SilentBar())
    assert all(torch.equal(each, before[name]) for name, each in run.model.named_parameters())
    assert run._step.precision.scaler.get_scale() == 2.0**39


def test_channels_last_changes_the_layout_alone(tmp_path: Path) -> None:
    runs = [trainer(Recipe(epochs=1, batch_size=16, channels_last=each)) for each in (False, True)]
    for run in runs:
        run.train(tmp_path / "c.pt", SilentBar())
    assert runs[1].model.network.get_parameter("layer2.0.conv2.weight").is_contiguous(memory_format=torch.channels_last)
    assert runs[1].history[0]["loss"] == pytest.approx(runs[0].history[0]["loss"], rel=1e-4)


def test_frozen_stages_stay_as_they_are_with_their_statistics(tmp_path: Path) -> None:
    run = trainer(Recipe(epochs=2, batch_size=16, freeze=("stem", "layer1")), replace(NETWORK, activation="prelu"))
    before = copy.deepcopy(run.model.state_dict())
    run.train(tmp_path / "c.pt", SilentBar())
    frozen = ("network.conv1", "network.bn1", "network.act1", "network.layer1.", "mean", "scale")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name
    optimised = {id(each) for group in run.optimiser.param_groups for each in group["params"]}
    assert optimised == {id(each) for name, each in run.model.named_parameters() if not name.startswith(frozen)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("layer9",), r"there is no 'layer9' to freeze; choose from stem, layer1, layer2, layer3"),
        (("stem", "layer1", "layer2", "layer3", "linear"), "leaves nothing to learn"),
    ],
)
def test_what_cannot_be_frozen(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(Recipe(freeze=names))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_classes_weigh_in_the_loss(mixup: float, smoothing: float, tmp_path: Path) -> None:
    """The mean over images of Σₖ wₖ·tₖ·(−log pₖ), t with (1 − ε)·t + ε/K in its place, in float64."""
    weights = (0.4, 1.0, 1.6)
    data = replace(problem(mirrored=False), class_weights=weights)
    recipe = Recipe(epochs=1, batch_size=64, label_smoothing=smoothing, mixup_alpha=mixup)
    run = trainer(recipe, data=data)
    pixels, targets = next(run._batches())
    with torch.no_grad():
        logs = F.log_softmax(copy.deepcopy(run.model).train()(pixels).double(), 1)
    wanted = targets.double() if mixup else F.one_hot(targets, 3).double()
    wanted = (1 - smoothing) * wanted + smoothing / 3
    expected = -(wanted * logs * torch.tensor(weights, dtype=torch.float64)).sum(1).mean().item()
    run.train(tmp_path / "c.pt", SilentBar())
    assert run.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_what_would_be_compiled_anew_is_not_compiled(tmp_path: Path) -> None:
    """The short last batch and the steps that hooks look on, of 16, 16 and 8 images; the compiler is left out."""
    run = trainer(Recipe(epochs=2, batch_size=16))
    sizes: list[int] = []

    class Compiled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return run.model(images)

    run._step = replace(run._step, forward=Compiled())
    bar = SilentBar()
    # Who only reads the loss needs no hooks.
    run.watches.extend(Probing(probe_every=4).watches(find_activation("relu"), tmp_path, bar.lines.append))
    run.watches.append(Recorder(1))
    run.train(tmp_path / "c.pt", bar)
    assert sizes == [16, 16], "of steps 0 to 5, 0 and 4 are probed, 2 and 5 are short"
    run = trainer(Recipe(epochs=1, batch_size=64))
    # Who is told beforehand, not the compiler.
    run.recipe = replace(run.recipe, compile=True)
    run.train(tmp_path / "c.pt", bar := SilentBar())
    assert bar.lines[0].startswith("the first step compiles the network")


def test_a_rate_of_every_step_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile annealed_dropout anew for the rate of every step"):
        trainer(Recipe(compile=True), replace(NETWORK, regularisers={"annealed_dropout": 0.2}))


def test_iterations_are_rounded_up_to_epochs(tmp_path: Path) -> None:
    run = trainer(Recipe(iterations=7, batch_size=16))
    bar = SilentBar()
    run.train(tmp_path / "c.pt", bar)
    assert bar.steps[-1] == (9, 9)
