"""What an activation does in training that it does not in evaluation, and what it learns."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tests.training.cases import CASES, ENTRIES, Case
from tests.training.formulas import frelu
from tests.training.small import problem
from training.activations.entry import ActivationModule
from training.initialisers import initialise
from training.loop.trainer import Trainer
from training.recipes.recipe import Recipe
from training.resnet.network import NetworkConfig, build_network

LEARNING = [key for key in ENTRIES if list(Case(key).build().parameters())]
RANDOM = {"rrelu"}
BATCH_DEPENDENT = {"frelu"}


def test_those_that_learn_are_known() -> None:
    assert set(LEARNING) == {
        "prelu", "prelu_shared", "swish_beta", "dynamic_relu_a", "dynamic_relu_b", "dynamic_relu_c", "frelu"
    }, "write the initial values of a new activation's parameters into a test here"  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_and_evaluation_are_the_same_but_for_the_random_and_those_that_normalise(case: Case) -> None:
    module = case.build()
    x = torch.randn(3, case.channels, 4, 5)
    evaluated, trained = module.eval()(x), module.train()(x)
    degenerate = dict(case.parameters).get("lower", 0) == dict(case.parameters).get("upper", 1)
    differs = case.key in RANDOM | BATCH_DEPENDENT and not degenerate
    assert torch.equal(evaluated, trained) != differs


class TestRandomisedRelu:
    """Xu 2015: in training the slope of each negative element is drawn, in evaluation it is the mean."""

    @staticmethod
    def drawn(lower: float, upper: float, count: int = 20_000, seed: int = 1) -> torch.Tensor:
        module = Case("rrelu", (("lower", lower), ("upper", upper))).build().train()
        torch.manual_seed(seed)
        return -module(torch.full((1, 1, 1, count), -1.0)).ravel()

    @pytest.mark.parametrize(("lower", "upper"), [(1 / 8, 1 / 3), (0.0, 0.5), (0.3, 0.31)])
    def test_slopes_are_uniform(self, lower: float, upper: float) -> None:
        slopes = self.drawn(lower, upper).double().numpy()
        assert slopes.min() >= np.float32(lower)
        assert slopes.max() <= np.float32(upper)
        spread = upper - lower
        # The mean of n draws has a standard deviation of spread/√(12 n).
        assert slopes.mean() == pytest.approx((lower + upper) / 2, abs=5 * spread / np.sqrt(12 * len(slopes)))
        assert stats.kstest(slopes, stats.uniform(lower, spread).cdf).pvalue > 0.01

    def test_every_element_has_a_draw_of_its_own(self) -> None:
        torch.manual_seed(0)
        slopes = -Case("rrelu").build().train()(-torch.ones(2, 4, 8, 8))
        assert slopes.unique().numel() > 0.99 * slopes.numel()

    def test_gradient_is_the_slope_that_was_drawn(self) -> None:
        x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
        x[0, 0, 0, 0] = 0.0
        x.requires_grad_()
        y = Case("rrelu").build().train()(x)
        y.sum().backward()
        assert x.grad is not None
        expected = torch.where(x == 0, 1.0, y / x).detach()
        torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0)
        assert torch.equal(y[x >= 0], x[x >= 0])
        assert (x.grad[x < 0] < 0.34).all()

    def test_the_seed_decides(self) -> None:
        first, again, other = (self.drawn(0.1, 0.3, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_evaluation_draws_nothing(self) -> None:
        module = Case("rrelu").build()
        state = torch.get_rng_state()
        assert module(torch.full((1, 1, 1, 1), -1.0, dtype=torch.float64)).item() == pytest.approx(-11 / 48)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [False, True])
def test_funnel_normalises_by_the_batch_in_training_and_by_what_it_saw_in_evaluation(training: bool) -> None:
    case = Case("frelu", learned="any")
    module = case.build().double().train(training)
    x = torch.randn(3, case.channels, 5, 6, dtype=torch.float64) * 2 + 0.5
    known = {name: value.copy() for name, value in case.known(module).items()}
    expected = frelu(x.numpy(), known, training)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert np.abs(expected - frelu(x.numpy(), known, not training)).max() > 0.1
    # Running ones move by a tenth, and only in training.
    after = module.state_dict()["bn.running_mean"].numpy()
    assert np.array_equal(after, known["bn.running_mean"]) != training
    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: module(x), (leaf, *module.parameters()))


class TestStart:
    def test_slopes_and_scales(self) -> None:
        assert all((value == 0.25).all() for value in Case("prelu").build().parameters())
        assert [value.tolist() for value in Case("prelu_shared").build().parameters()] == [[0.25]]
        assert [value.tolist() for value in Case("swish_beta").build().parameters()] == [[1.0] * 4]
        assert [value.shape for value in Case("prelu").build().parameters()] == [(4,)]

    @pytest.mark.parametrize(
        ("key", "share"), [("dynamic_relu_a", 1.0), ("dynamic_relu_b", 1.0), ("dynamic_relu_c", 3.0)]
    )
    def test_dynamic_relu_is_relu_at_first(self, key: str, share: float) -> None:
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(Case(key).build().double()(x), torch.relu(x) / share)

    def test_funnel_starts_with_neutral_normalisation(self) -> None:
        state = Case("frelu").build().state_dict()
        assert state["window.weight"].shape == (4, 1, 3, 3)
        # A convolution of nine inputs starts within ±1/√9.
        assert 0.05 < state["window.weight"].abs().max() <= 1 / 3
        for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            assert (state[f"bn.{name}"] == value).all()


def sites(network: nn.Module) -> dict[str, ActivationModule]:
    return {name: module for name, module in network.named_modules() if isinstance(module, ActivationModule)}


@pytest.mark.parametrize("key", LEARNING)
class TestLearning:
    def test_initialiser_leaves_it_alone(self, key: str) -> None:
        network = build_network(NetworkConfig("resnet8", key, classes=3))
        before = {name: value.clone() for name, value in network.state_dict().items()}
        initialise(network)
        own = {f"{site}.{name}" for site, module in sites(network).items() for name in module.state_dict()}
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        assert own
        assert not own & changed
        assert "conv1.weight" in changed

    def test_slopes_do_not_decay(self, key: str) -> None:
        config = NetworkConfig("resnet8", key, classes=3, channels=1)
        trainer = Trainer(config, Recipe(weight_decay=0.25), problem(), torch.device("cpu"))
        decays = {id(p): group["weight_decay"] for group in trainer.optimiser.param_groups for p in group["params"]}
        for module in sites(trainer.model.network).values():
            for name, parameter in module.named_parameters():
                assert decays[id(parameter)] == (0.25 if parameter.ndim > 1 else 0.0), name

    def test_a_step_moves_every_parameter_and_steps_lower_the_loss(self, key: str) -> None:
        module = Case(key).build().train()
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, 4, 6, 6, generator=generator)
        target = torch.where(x > 0, 1.5 * x + x.mean((2, 3), keepdim=True), -0.6 * x)
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
        losses = []
        for _ in range(20):
            loss = (module(x) - target).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.98 * losses[0]
        # A shift of the attention's logits cancels in its softmax.
        still = {name for name, value in module.named_parameters() if torch.equal(value, before[name])}
        assert still <= {"attention.bias"}


@pytest.mark.parametrize("key", ENTRIES)
def test_a_network_trains_with_it(key: str) -> None:
    """A few steps on eight images lower the loss; every parameter that can has a gradient."""
    torch.manual_seed(0)
    # Squares of squares overflow unless the sums are bare and the steps small.
    arrangement, rate = ("full_preactivation", 1e-3) if key == "squared_relu" else ("original", 0.02)
    network = build_network(NetworkConfig("resnet8", key, arrangement, classes=3, channels=1))
    initialise(network)
    data = problem(training=24, mirrored=False)
    images = torch.from_numpy(data.training.pixels).float() / 128 - 1
    labels = torch.from_numpy(data.training.labels)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # For squared_relu, whose gradients have no bound.
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.9 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())
