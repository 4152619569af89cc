"""What probes read, against loops over every value, and that reading changes nothing."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.small import classifier
from training.activations.catalogue import find_activation
from training.activations.entry import ActivationModule
from training.probes.probe import LayerProbe, look, measure, participation_ratio, saturation_intervals
from training.probes.reading import LayerReading

CHANNELS, SIZE = 1, 8


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (6, CHANNELS, SIZE, SIZE), generator=torch.Generator().manual_seed(3)).float()


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2])


def test_a_site_is_read_as_a_loop_reads_it() -> None:
    x = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] = -x[:, 1].abs()
    x[:, 2, 0, 0] = 0.0
    found = measure(x, x.relu(), saturation_intervals(find_activation("relu")))
    y = np.maximum(x.double().numpy(), 0)
    dead = [[[all(y[n, c, i, j] == 0 for n in range(5)) for j in range(2)] for i in range(2)] for c in range(3)]
    assert found["mean"].item() == pytest.approx(y.mean(), rel=1e-6)
    assert found["std"].item() == pytest.approx(y.std(), rel=1e-6)
    assert found["saturated"].item() == pytest.approx((y == 0).mean())
    assert found["dead_units"].item() == pytest.approx(np.mean(dead))
    assert found["dead_channels"].item() == pytest.approx(1 / 3)
    covariance = np.cov(y.mean((2, 3)).T)
    expected = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert found["rank"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("key", "x", "share"),
    [
        ("sigmoid", [-7.0, -5.0, 0.0, 7.0], 0.5),
        ("leaky_relu", [-50.0, -1.0, 0.0, 50.0], 0.0),
        ("gelu", [-4.0, -3.0, 0.0, 9.0], 0.25),
        ("relu6", [-1.0, 0.0, 3.0, 6.5], 0.75),
    ],
)
def test_what_is_saturated_is_known_of_the_input(key: str, x: list[float], share: float) -> None:
    activation = find_activation(key)
    values = torch.tensor(x).reshape(1, 1, 1, -1)
    assert measure(values, activation.build(1)(values), saturation_intervals(activation))["saturated"].item() == share


def test_of_what_is_no_number_no_share_is_told() -> None:
    x = torch.full((2, 3, 2, 2), float("nan"))
    assert measure(x, x.relu(), saturation_intervals(find_activation("relu")))["dead_units"].isnan()


@pytest.mark.parametrize("key", ["glu", "maxout", "dynamic_relu_b", "step"])
def test_where_it_is_no_matter_of_one_input_nothing_is_said(key: str) -> None:
    assert saturation_intervals(find_activation(key)) is None


def test_the_participation_ratio_is_the_number_of_equal_directions() -> None:
    directions = torch.cat([torch.eye(4), -torch.eye(4)])
    assert participation_ratio(directions).item() == pytest.approx(4)
    assert participation_ratio(directions.T[:, :3]).item() > 0
    assert participation_ratio(torch.ones(5, 3)).item() == 0


def test_the_mean_shift_of_a_constant_is_no_number() -> None:
    assert LayerReading("act1", 1.0, 0.0, None, None, None, 0.0, {}).mean_shift is None
    assert LayerReading("act1", float("nan"), 1.0, None, None, None, 0.0, {}).mean_shift is None
    assert LayerReading("act1", -1.0, 2.0, None, None, None, 0.0, {}).mean_shift == 0.5


def test_gradients_and_activations_are_those_of_a_step(images: Tensor, labels: Tensor) -> None:
    model = classifier("resnet8", "prelu", "original", CHANNELS, classes=3)
    found = look(model, model.network, find_activation("prelu"), images, labels)
    outputs: dict[str, Tensor] = {}
    twin = copy.deepcopy(model).train()
    for name, module in twin.network.named_modules():
        if isinstance(module, ActivationModule):
            module.register_forward_hook(lambda _, __, y, name=name: outputs.__setitem__(name, y.detach()))
    loss = F.cross_entropy(twin(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    assert found.loss == pytest.approx(loss.item(), rel=1e-6)
    # In the order in which they are run.
    assert [layer.name for layer in found.layers] == list(outputs)
    for layer in found.layers:
        assert layer.mean == pytest.approx(outputs[layer.name].mean().item(), rel=1e-4, abs=1e-6)
        slopes = twin.network.get_submodule(layer.name).weight
        assert isinstance(slopes, Tensor)
        assert layer.learned["weight"] == pytest.approx(
            (slopes.mean().item(), slopes.min().item(), slopes.max().item())
        )
    for weight in found.weights:
        module = twin.network.get_submodule(weight.name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        assert module.weight.grad is not None
        gradient = module.weight.grad.double().numpy()
        assert weight.gradient_rms == pytest.approx(np.sqrt(np.mean(gradient**2)), rel=1e-4)


def test_looking_changes_nothing(images: Tensor, labels: Tensor) -> None:
    model = classifier("resnet8", "rrelu", "original", CHANNELS, classes=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    look(model, model.network, find_activation("rrelu"), images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_dead_channel_is_seen(images: Tensor, labels: Tensor) -> None:
    model = classifier("resnet8", "relu", "original", CHANNELS, classes=3)
    bias = model.network.get_submodule("layer1.0.bn1").bias
    assert isinstance(bias, Tensor)
    bias.data[:4] = -1e4
    found = look(model, model.network, find_activation("relu"), images, labels)
    (layer,) = (layer for layer in found.layers if layer.name == "layer1.0.act1")
    assert layer.dead_channels is not None
    assert layer.dead_channels >= 4 / 16
    assert layer.dead_units is not None
    assert layer.dead_units >= layer.dead_channels


def test_what_a_reversible_stage_runs_again_counts_once(images: Tensor, labels: Tensor) -> None:
    model = classifier("revnet38", "relu", "full_preactivation", CHANNELS, classes=3).train()
    probe = LayerProbe(model.network, find_activation("relu"))
    with probe:
        loss = F.cross_entropy(model(images), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    names = [layer.name for layer in probe.read().layers]
    assert len(names) == len(set(names)) == sum(isinstance(part, ActivationModule) for part in model.modules())
