"""The optimisers against PyTorch's own, and Muon against its definition."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.small import SilentBar, problem
from training.loop.trainer import Trainer
from training.optimisers.catalogue import OPTIMISERS, find_optimiser
from training.optimisers.groups import parameter_groups
from training.optimisers.muon import MuonWithAdamW, as_matrix, hidden_matrices
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig, build_network

CPU = torch.device("cpu")
NETWORK = NetworkConfig("resnet8", "prelu", classes=3, channels=1)


def networks(count: int) -> list[nn.Module]:
    torch.manual_seed(0)
    first = build_network(NETWORK)
    found = [build_network(NETWORK) for _ in range(count)]
    for each in found:
        each.load_state_dict(first.state_dict())
    return list(found)


def give_gradients(models: list[nn.Module], seed: int) -> None:
    for model in models:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def stepped(name: str, recipe: Recipe, reference: type[torch.optim.Optimizer], **options: object) -> None:
    ours, theirs = networks(2)
    groups = parameter_groups(ours, recipe.weight_decay)
    optimiser = find_optimiser(name).build(groups, ours, recipe)
    of_decay = [{"params": [], "weight_decay": 0.3}, {"params": [], "weight_decay": 0.0}]
    for parameter in theirs.parameters():
        of_decay[0 if parameter.ndim > 1 else 1]["params"].append(parameter)  # type: ignore[attr-defined]
    expected = reference(of_decay, **options)  # type: ignore[arg-type]
    for seed in range(3):
        give_gradients([ours, theirs], seed)
        optimiser.step()
        expected.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_sgd_with_and_without_nesterov() -> None:
    for nesterov in (True, False):
        recipe = Recipe(learning_rate=0.02, momentum=0.7, weight_decay=0.3, nesterov=nesterov)
        stepped("sgd", recipe, torch.optim.SGD, lr=0.02, momentum=0.7, nesterov=nesterov)


def test_adamw() -> None:
    recipe = Recipe(optimiser="adamw", learning_rate=0.02, momentum=0.8, weight_decay=0.3)
    stepped("adamw", recipe, torch.optim.AdamW, lr=0.02, betas=(0.8, 0.999))


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """U·S′·Vᵀ: five iterations of Newton and Schulz, whose quintic moves each singular value on its own."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return np.asarray(left * values @ right)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_convolutions_by_orthogonal_matrices(layout: torch.memory_format) -> None:
    """Jordan 2024 in float64 by singular values; PyTorch iterates in bfloat16, which errs by a percent."""
    model = networks(1)[0].to(memory_format=layout)  # type: ignore[call-overload]
    groups = parameter_groups(model, 0.3)
    optimiser = MuonWithAdamW(groups, hidden_matrices(model), learning_rate=0.02, momentum=0.9)
    weight: Tensor = model.get_parameter("layer2.0.conv2.weight")
    before = weight.detach().clone().double().flatten(1).numpy()
    give_gradients([model], 4)
    assert weight.grad is not None
    gradient = weight.grad.double().flatten(1).numpy()
    # At first the momentum is the gradient's share, and Nesterov's look ahead leaves its direction.
    expected = -0.02 * 0.2 * np.sqrt(max(gradient.shape)) * orthogonalised(gradient)
    optimiser.step()
    change = weight.detach().double().flatten(1).numpy() - before * (1 - 0.02 * 0.3)
    assert np.linalg.norm(change - expected) < 0.03 * np.linalg.norm(expected)


def test_muon_has_what_is_inside_and_adamw_the_rest() -> None:
    model = networks(1)[0]
    names = {id(each): name for name, each in model.named_parameters()}
    inside = {names[id(each)] for each in hidden_matrices(model)}
    convolutions = {name for name, each in model.named_parameters() if each.ndim == 4}
    assert inside == convolutions - {"conv1.weight"}
    optimiser = MuonWithAdamW(parameter_groups(model, 0.1), hidden_matrices(model), 0.01, 0.9)
    everything = [names[id(each)] for group in optimiser.param_groups for each in group["params"]]
    assert sorted(everything) == sorted(names.values())


@pytest.mark.parametrize("normaliser", ["batch", "none"])
def test_muon_where_no_matrix_inside_learns(normaliser: str, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=16, optimiser="muon", freeze=("stem", "layer1", "layer2", "layer3"))
    run = Trainer(replace(NETWORK, normaliser=normaliser), recipe, problem(), CPU)
    before = run.model.network.get_parameter("linear.weight").detach().clone()
    run.train(tmp_path / "c.pt", SilentBar())
    assert not torch.equal(run.model.network.get_parameter("linear.weight"), before)
    resumed = Trainer(replace(NETWORK, normaliser=normaliser), recipe, problem(), CPU)
    resumed.restore(tmp_path / "c.pt")


def test_a_matrix_of_a_convolution_is_its_own_memory() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(4, 3, 2, 2).to(memory_format=layout)
        assert as_matrix(weight).data_ptr() == weight.data_ptr()
        assert as_matrix(weight).shape == (4, 12)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_network_learns(name: str, tmp_path: Path) -> None:
    entry = OPTIMISERS[name]
    recipe = Recipe(
        epochs=5, batch_size=8, optimiser=name, learning_rate=entry.learning_rate, weight_decay=entry.weight_decay
    )
    run = Trainer(NETWORK, recipe, problem(training=120), CPU)
    run.train(tmp_path / "c.pt", SilentBar())
    assert run.evaluate().accuracy >= 0.9


def test_an_unknown_optimiser() -> None:
    with pytest.raises(ValueError, match="unknown optimiser 'lamb'; choose from sgd, adamw, muon"):
        Trainer(NETWORK, Recipe(optimiser="lamb"), problem(), CPU)


def test_gradients_are_shortened_to_the_norm_of_all_together(tmp_path: Path) -> None:
    moved = []
    for clip in (0.0, 0.01):
        recipe = Recipe(epochs=1, batch_size=64, weight_decay=0.0, warmup_epochs=0.0, clip_norm=clip)
        run = Trainer(NETWORK, recipe, problem(), CPU)
        before = nn.utils.parameters_to_vector(run.model.parameters()).detach().clone()
        run.train(tmp_path / f"{clip}.pt", SilentBar())
        moved.append(nn.utils.parameters_to_vector(run.model.parameters()).detach() - before)
    # Nesterov's first step is 1.9 times the gradient.
    assert moved[1].norm().item() == pytest.approx(0.1 * 1.9 * 0.01, rel=1e-3)
    assert torch.cosine_similarity(moved[0], moved[1], dim=0).item() == pytest.approx(1, abs=1e-5)


def test_parts_of_a_batch_have_the_gradient_of_the_whole() -> None:
    """Without normalisation of batches, in which images meet."""
    network = replace(NETWORK, normaliser="none")
    gradients = []
    for accumulation in (1, 3):
        recipe = Recipe(batch_size=16, accumulation=accumulation, learning_rate=0.01)
        run = Trainer(network, recipe, problem(), CPU)
        images, targets = next(run._batches())
        run._step.gradients(images, targets, run.batches.shares(0), 16)
        gradients.append([each.grad.clone() for each in run.model.parameters() if each.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
