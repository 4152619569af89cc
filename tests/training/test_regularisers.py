"""Each regulariser against its formula: rate, scaling, expectation, schedule; and nothing at all in evaluation.

Statistical bounds are five standard errors of fixed draws: an honest mask passes, a rate that is wrong by a few per
cent does not.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.regularising import RATE, UNITS, build, draw, features, within
from training.regularisers.catalogue import REGULARISERS
from training.regularisers.convolution import RegularisedConvolution
from training.regularisers.rate import Rate
from training.regularisers.regularisation import choose_regularisers
from training.regularisers.schedules import constant
from training.regularisers.standout import Standout
from training.regularisers.targeted_dropout import TargetedDropout


@pytest.mark.parametrize("name", REGULARISERS)
def test_evaluation_is_exactly_the_identity(name: str) -> None:
    module = build(name, 0.9).eval()
    x = torch.randn(3, 4, 8, 8)
    state = torch.random.get_rng_state()
    assert module(x) is x
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is drawn either"


@pytest.mark.parametrize("name", REGULARISERS)
def test_nothing_is_disturbed_at_rate_0_and_much_at_the_full_rate(name: str) -> None:
    x = features()
    torch.testing.assert_close(build(name, 0.0)(x), x)
    assert not torch.equal(build(name)(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.5, 1 - 1e-7])
@pytest.mark.parametrize("name", REGULARISERS)
def test_the_smallest_maps_and_the_extreme_rates_give_numbers(name: str, rate: float, dtype: torch.dtype) -> None:
    """Of one unit there is no spread, of a row no square; at 0 it is the identity to the bit."""
    sizes = [{"size": size} for size in (1, 2, 4, 100)] if "size" in REGULARISERS[name].parameters else [{}]
    for shape in ((1, 1, 1, 1), (2, 3, 1, 5), (2, 3, 2, 2), (4, 3, 5, 1)):
        x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        for parameters in sizes:
            y = build(name, rate, **parameters)(x)
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
            assert torch.isfinite(y).all()
            assert rate > 0 or torch.equal(y, x)


@pytest.mark.parametrize("name", REGULARISERS)
def test_it_has_no_state(name: str) -> None:
    assert build(name).state_dict() == {}
    assert list(build(name).parameters()) == []


@pytest.mark.parametrize("name", REGULARISERS)
def test_gradients_flow(name: str) -> None:
    """Each unit's gradient is what it was multiplied with; of Disout that of what was kept."""
    torch.manual_seed(0)
    x = features().requires_grad_()
    y = build(name)(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if name == "disout":
        kept_units = x.grad > 0
        torch.testing.assert_close((x.grad * x)[kept_units], y[kept_units])
        assert 0 < kept_units.double().mean() < 1
    else:
        torch.testing.assert_close(x.grad * x, y)


@pytest.mark.parametrize("name", ["dropout", "annealed_dropout", "dropconnect", "stochastic_depth"])
def test_units_are_dropped_at_the_rate_and_the_others_scaled(name: str) -> None:
    x = features()
    y = draw(build(name), x, 40)
    if name == "stochastic_depth":
        whole = (y == 0).flatten(2)
        assert torch.equal(whole.all(2), whole.any(2)), "an image's branch is kept or dropped as a whole"
        dropped = whole.all(2).double()
    else:
        dropped = (y == 0).double()
    assert within(dropped.mean().item(), RATE, dropped.numel())
    torch.testing.assert_close(y, torch.where(y == 0, 0.0, x / (1 - RATE)))


@pytest.mark.parametrize("name", [name for name in REGULARISERS if name != "targeted_dropout"])
def test_the_expectation_is_the_input(name: str) -> None:
    """Of all units together, and of each; but of regions not of each: at the border fewer squares cover one."""
    x = features((8, 4, 12, 12))
    regions = name in ("dropblock", "disout")
    y = draw(build(name, **({"size": 3} if regions else {})), x, 400)
    means = (y - x).mean((1, 2, 3, 4))
    # The mean of a quotient is not quite the quotient of means.
    assert abs(means.mean()) <= 5 * means.std() / math.sqrt(len(means)) + (1e-3 if regions else 0)
    assert abs(means.mean()) <= 0.02
    if not regions:
        error = (y.mean(0) - x) / (y.std(0) / math.sqrt(len(y)))
        assert error.abs().max() <= 6


class TestStandout:
    def test_each_unit_is_kept_with_its_own_probability(self) -> None:
        """Ba & Frey 2013: σ(α·x + β), with σ(β) = 1 − rate."""
        alpha, beta = 2.0, math.log((1 - RATE) / RATE)
        module = build("standout", alpha=alpha)
        for value in (-3.0, 0.0, 0.4, 1.5):
            x = torch.full(UNITS, value) if value else torch.full(UNITS, 1e-12)
            y = draw(module, x, 10)
            keep = 1 / (1 + math.exp(-(alpha * max(value, 0) + beta)))
            assert within((y != 0).double().mean().item(), keep, y.numel()), value
            torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], x.flatten()[0] / keep))

    def test_the_mask_is_drawn_without_gradient(self) -> None:
        """What a unit is multiplied with is a constant of its gradient."""
        torch.manual_seed(0)
        x = features().requires_grad_()
        module = build("standout")
        y = module(x)
        y.sum().backward()
        keep = 1 / (1 + RATE / (1 - RATE) * torch.exp(-x.detach()))
        torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, 1 / keep))

    @pytest.mark.parametrize("alpha", [-1.0, math.inf, math.nan])
    def test_impossible_alpha(self, alpha: float) -> None:
        with pytest.raises(ValueError, match=r"standout\.alpha=.* is not allowed: use "):
            Standout(Rate(0.1, constant), alpha)


class TestTargetedDropout:
    def test_the_smallest_weights_of_each_output_are_dropped_at_the_rate(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(6, 5, 3, 3, generator=generator)
        share = 0.4
        draws = draw(build("targeted_dropout", share=share), weight, 3000)
        frequency = (draws == 0).double().mean(0).flatten(1)
        for row, sizes in zip(frequency, weight.abs().flatten(1).tolist(), strict=True):
            ranked = sorted(range(45), key=lambda index, sizes=sizes: sizes[index])
            targets, others = ranked[: int(share * 45)], ranked[int(share * 45) :]
            assert (row[others] == 0).all(), "no other weight is ever dropped"
            assert ((row[targets] - RATE).abs() <= 5 * math.sqrt(RATE * (1 - RATE) / 3000)).all()
        assert torch.equal(draws, torch.where(draws == 0, 0.0, weight)), "nothing is scaled"

    def test_equal_weights_are_not_all_targets(self) -> None:
        dropped = build("targeted_dropout", 0.999999, share=0.5)(torch.ones(4, 10, 1, 1)) == 0
        assert dropped.flatten(1).sum(1).tolist() == [5, 5, 5, 5]

    @pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
    def test_impossible_shares(self, share: float) -> None:
        with pytest.raises(ValueError, match=r"targeted_dropout\.share=.* is not allowed: use a number from 0 to 1"):
            TargetedDropout(Rate(0.1, constant), share)


class TestConvolution:
    @pytest.mark.parametrize("bias", [False, True])
    def test_it_is_the_convolution_with_other_weights(self, bias: bool) -> None:
        class Halved(nn.Module):
            def forward(self, weight: Tensor) -> Tensor:
                return weight / 2

        torch.manual_seed(0)
        plain = nn.Conv2d(4, 6, (3, 1), stride=2, padding=1, groups=2, bias=bias)
        state = torch.random.get_rng_state()
        module = RegularisedConvolution(plain, Halved())
        assert torch.equal(torch.random.get_rng_state(), state), "later weights are what they would have been"
        assert module.weight is plain.weight
        assert list(module.state_dict()) == list(plain.state_dict())
        x = torch.randn(2, 4, 7, 8)
        offset = plain.bias[:, None, None] if plain.bias is not None else 0
        torch.testing.assert_close(module(x), (plain(x) - offset) / 2 + offset)

    def test_gradients_reach_the_weights_that_are_kept(self) -> None:
        torch.manual_seed(0)
        module = RegularisedConvolution(nn.Conv2d(4, 6, 3, bias=False), build("dropconnect", 0.5))
        module(torch.ones(2, 4, 5, 5)).sum().backward()
        assert module.weight.grad is not None
        assert within((module.weight.grad == 0).double().mean().item(), 0.5, module.weight.numel())


class TestSchedules:
    @pytest.mark.parametrize(
        ("name", "formula"),
        {
            "dropout": lambda t: 0.4,  # noqa: ARG005
            "annealed_dropout": lambda t: 0.4 * max(0, 1 - t),
            "standout": lambda t: 0.4,  # noqa: ARG005
            "dropblock": lambda t: 1 - (1 - 0.4 * t),
            "disout": lambda t: 0.4 * t,
            "dropconnect": lambda t: 0.4,  # noqa: ARG005
            "targeted_dropout": lambda t: 0.4,  # noqa: ARG005
            "stochastic_depth": lambda t: 0.4,  # noqa: ARG005
        }.items(),
    )
    def test_rates_over_training(self, name: str, formula) -> None:  # type: ignore[no-untyped-def]
        for tenth in range(11):
            module = build(name, 0.4, progress=tenth / 10)
            assert module.rate.now == pytest.approx(formula(tenth / 10))

    def test_every_entry_has_a_formula(self) -> None:
        (parametrised,) = (mark for mark in self.test_rates_over_training.pytestmark if mark.name == "parametrize")
        assert {name for name, _ in parametrised.args[1]} == set(REGULARISERS)

    @pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.4), (0.25, 0.3), (0.75, 0.1), (1.0, 0.0)])
    def test_masks_follow(self, progress: float, expected: float) -> None:
        y = draw(build("annealed_dropout", 0.4, progress=progress), features(), 10)
        share = (y == 0).double().mean().item()
        assert within(share, expected, y.numel()) if expected else share == 0


class TestChoice:
    @pytest.mark.parametrize(
        ("named", "message"),
        [
            ({"dropuot": 0.1}, "unknown regulariser 'dropuot'; choose from dropout, "),
            ({"dropout": 1.0}, "rate 1 of regulariser 'dropout' is not allowed: use a number from 0 to below 1"),
            ({"dropout": -0.1}, "rate -0.1 of regulariser 'dropout' is not allowed"),
            ({"dropout": math.nan}, "rate nan of regulariser 'dropout' is not allowed"),
            ({"dropout": 0.1, "dropblock": 0.1}, "'dropout' and 'dropblock' would disturb the same values"),
            ({"targeted_dropout": 0.1, "dropconnect": 0.1}, "'targeted_dropout' and 'dropconnect' would disturb"),
            ({"dropblock.size": 3}, "'dropblock.size' is a parameter of regulariser 'dropblock', which is not chosen"),
            ({"dropout": 0.1, "nothing.size": 3}, "a parameter of regulariser 'nothing', which is not chosen"),
            ({"dropblock": 0.1, "dropblock.alpha": 3}, "'dropblock' has no parameter 'alpha'; it has: size"),
            ({"dropout": 0.1, "dropout.size": 3}, "'dropout' has no parameter 'size'; it has: none"),
            ({"dropblock": 0.1, "dropblock.size": 2.5}, r"dropblock\.size=2\.5 is not allowed"),
        ],
    )
    def test_refused(self, named: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            choose_regularisers(named, joined=True)

    def test_blocks_cannot_be_left_out_without_shortcuts(self) -> None:
        with pytest.raises(ValueError, match=r"'stochastic_depth' needs shortcuts: .* choose another"):
            choose_regularisers({"stochastic_depth": 0.5}, joined=False)
        choose_regularisers({"dropout": 0.5}, joined=False)

    def test_parameters_reach_the_module(self) -> None:
        inner = choose_regularisers({"disout.alpha": 0.25, "disout": 0.1, "disout.size": 5}, joined=True).inner(1.0)
        assert inner is not None
        module = inner(16)
        assert (module.alpha, module.size, module.rate.full) == (0.25, 5, 0.1)
