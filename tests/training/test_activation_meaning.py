"""What the catalogue says an activation's output means, against the formula: saturation, range, dead units, moments."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from models.manifest import Saturation
from tests.training.cases import CASES, ELEMENTWISE, WIDTH, Case
from tests.training.formulas import Array, curve, slope
from training.activations.entry import NEVER
from training.activations.meaning import NormalMoments, normal_moments, saturated_inputs

over_elementwise = pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
over_cases = pytest.mark.parametrize("case", CASES, ids=str)
CONFIGURED = [case for case in ELEMENTWISE if case.learned == "initial"]


def first_channel(case: Case) -> dict[str, Any]:
    """What the formula takes, cut to the first channel: one function of x."""
    known = case.known(case.build())
    return {name: value[:1] if isinstance(value, np.ndarray) else value for name, value in known.items()}


def relative_slope(case: Case) -> tuple[Array, Array, Array]:
    """x away from kinks, f(x), and |f′| relative to its maximum; absolute where it has none."""
    known = first_channel(case)
    x = np.arange(-60, 60, 1e-3) + 3.7e-4
    steep = np.abs(slope(case.key, known, x))
    assert case.entry.slopes is not None
    if math.inf in case.entry.slopes:
        return x, curve(case.key, known, x), np.where(steep > 1e-9, 1.0, 0.0)
    # Close to 0, where many a slope is largest.
    largest = max(steep.max(), np.abs(slope(case.key, known, np.array([-1e-5, 1e-5]))).max())
    # A step has no slope but at one point.
    return x, curve(case.key, known, x), steep / (largest or 1)


@pytest.mark.parametrize("case", CONFIGURED, ids=str)
class TestSaturation:
    """Where |f′| is below 1 % of its maximum; where it has no maximum, where it is 0."""

    def test_region_of_the_output(self, case: Case) -> None:
        region = case.build().saturation
        x, y, steep = relative_slope(case)
        if case.key == "step":
            assert region is not None
            assert np.all((y <= region.below) | (y >= region.above)), "flat everywhere"
            return
        saturated, certain = steep < 0.01, np.abs(steep - 0.01) > 1e-6
        if region is None:
            assert output_cannot_tell(y[saturated & certain], y[~saturated & certain])
            return
        inside = np.zeros_like(saturated)
        if region.below is not None:
            inside |= y <= region.below
        if region.above is not None:
            inside |= y >= region.above
        wrong = x[certain & (inside != saturated)]
        assert not len(wrong), f"wrong for x from {wrong.min()} to {wrong.max()}"

    def test_intervals_of_the_input(self, case: Case) -> None:
        x, _, steep = relative_slope(case)
        intervals = saturated_inputs(case.entry)
        inside = np.any([(low < x) & (x < high) for low, high in intervals], axis=0) if intervals else np.zeros(len(x))
        edges = np.array([edge for interval in intervals for edge in interval])
        near = np.abs(x[:, None] - edges).min(1, initial=math.inf) < 2e-5
        certain = (np.abs(steep - 0.01) > 1e-4) & ~near
        assert certain.mean() > 0.4
        wrong = x[certain & (inside.astype(bool) != (steep < 0.01))]
        assert not len(wrong), f"wrong for x from {wrong.min()} to {wrong.max()}: {intervals}"


def output_cannot_tell(saturated: Array, others: Array) -> bool:
    """Next to the value of every saturated point lies that of a point which is not."""
    assert len(saturated)
    near = np.abs(saturated[:, None][::50] - others[None, ::5]).min(1).max() < 0.05
    low = others[np.abs(others) < np.abs(saturated).max()][::50]
    return bool(near and any(np.abs(saturated - value).min() < 1e-3 for value in low))


# Edges by hand from f′: of sigmoids by y(1 − y) and 1 − y², of softsign by (1 + |x|)⁻², of exponentials by eˣ.
EDGES: dict[Case, list[tuple[float, float]]] = {
    Case("identity"): [],
    Case("relu"): [(-math.inf, 0)],
    Case("relu6"): [(-math.inf, 0), (6, math.inf)],
    Case("squared_relu"): [(-math.inf, 0)],
    Case("leaky_relu"): [],
    Case("leaky_relu", (("alpha", 0.005),)): [(-math.inf, 0)],
    Case("leaky_relu", (("alpha", 0.0),)): [(-math.inf, 0)],
    Case("elu"): [(-math.inf, math.log(0.01))],
    Case("elu", (("alpha", 0.5),)): [(-math.inf, math.log(0.02))],
    Case("elu", (("alpha", 2.0),)): [(-math.inf, math.log(0.01))],
    Case("celu", (("alpha", 3.0),)): [(-math.inf, 3 * math.log(0.01))],
    Case("celu", (("alpha", 0.3),)): [(-math.inf, 0.3 * math.log(0.01))],
    Case("selu"): [(-math.inf, math.log(0.01))],
    Case("softplus"): [(-math.inf, math.log(0.01 / 0.99))],
    Case("soft_relu"): [(-math.inf, math.log(0.01 / 0.99)), (40, math.inf)],
    Case("soft_relu", (("threshold", 2.0),)): [(-math.inf, -2), (2, math.inf)],
    Case("tanh"): [(-math.inf, -math.atanh(math.sqrt(0.99))), (math.atanh(math.sqrt(0.99)), math.inf)],
    Case("sigmoid"): [(-math.inf, -2 * math.atanh(math.sqrt(0.99))), (2 * math.atanh(math.sqrt(0.99)), math.inf)],
    Case("hard_tanh"): [(-math.inf, -1), (1, math.inf)],
    Case("hard_sigmoid"): [(-math.inf, -3), (3, math.inf)],
    Case("hard_sigmoid_02"): [(-math.inf, -2.5), (2.5, math.inf)],
    Case("softsign"): [(-math.inf, -9), (9, math.inf)],
}


@pytest.mark.parametrize(("case", "expected"), EDGES.items(), ids=str)
def test_edges_by_hand(case: Case, expected: list[tuple[float, float]]) -> None:
    found = np.array(saturated_inputs(case.entry)).reshape(-1, 2)
    np.testing.assert_allclose(found, np.array(expected).reshape(-1, 2), rtol=2e-5, atol=2e-5)


@over_cases
def test_saturation_is_untold_only_where_the_output_cannot_tell(case: Case) -> None:
    region = case.build().saturation
    if case in CONFIGURED:
        # The regions are checked above. What is not monotonic comes back to the values of its tails.
        assert (region is not None) == bool(np.all(np.diff(relative_slope(case)[1]) >= 0))
    elif case.key == "glu":
        assert region is None, "the gate shows only together with what it gates"
    elif case.key in ("crelu", "maxout", "frelu"):
        assert region == NEVER, "one piece always has slope 1"
    if case not in ELEMENTWISE:
        with pytest.raises(ValueError, match="more than one input"):
            saturated_inputs(case.entry)


def test_step_saturates_everywhere_and_the_leaky_limit_is_one_percent() -> None:
    assert Case("step").build().saturation == Saturation(below=0.0, above=1.0)
    assert saturated_inputs(Case("step").entry) == [(-math.inf, math.inf)]
    # Exactly 1 % is not below it.
    for alpha, expected in [(0.01, NEVER), (0.0099, Saturation(below=0.0)), (0.2, NEVER)]:
        assert Case("leaky_relu", (("alpha", alpha),)).build().saturation == expected


@over_cases
def test_output_range_is_reached_and_never_left(case: Case) -> None:
    module = case.build()
    low, high = module.output_range
    assert module.signed == (low < 0)
    y = outputs(case)
    assert y.min() >= low - 1e-12
    assert y.max() <= high + 1e-12
    for bound, extreme in [(low, y.min()), (high, y.max())]:
        # A minimum lies between points that are 1e-4 apart; softsign comes within 1e-6 of its bounds at ±1e6.
        near = 1e-8 if bound not in (-1.0, 1.0) else 2e-6
        reached = abs(extreme) > 1e3 if math.isinf(bound) else abs(extreme - bound) < near
        # The range of what learns is that of all that it can learn.
        assert reached or list(module.parameters()), f"{extreme} is far from {bound}"


def outputs(case: Case) -> Array:
    """Of inputs dense near 0 and up to ±1e6; for those of many inputs, of random images of every scale."""
    if case in ELEMENTWISE:
        x = np.concatenate([np.arange(-60, 60, 1e-4), np.logspace(1, 6, 50), -np.logspace(1, 6, 50)])
        return curve(case.key, first_channel(case), x)
    random = np.random.default_rng(0)
    scales = np.logspace(-2, 6, 50).reshape(-1, 1, 1, 1)
    return case.expected(case.build(), scales * random.normal(0, 1, (50, case.channels, 6, 6)))


@pytest.mark.parametrize("case", CONFIGURED, ids=str)
def test_zero_is_dead_where_no_input_that_gives_zero_has_a_gradient(case: Case) -> None:
    """{x: f(x) = 0} is nothing, a point, or an interval; only on an interval can a whole unit stay."""
    x = np.arange(-10, 10, 2**-7) + 2**-8
    zero = x[curve(case.key, first_channel(case), x) == 0]
    points = torch.tensor(zero, dtype=torch.float64, requires_grad=True)
    case.entry.build(1).double().eval()(points.reshape(1, 1, 1, -1)).sum().backward()
    assert points.grad is not None
    dead = len(zero) > 0 and not bool(points.grad.any())
    assert case.build().zero_is_dead == dead


@over_cases
def test_zero_is_not_dead_where_there_is_more_than_one_input(case: Case) -> None:
    """One half, one piece or the window may still pass a gradient."""
    if case not in ELEMENTWISE:
        assert not case.build().zero_is_dead


@over_cases
def test_normal_moments_equal_an_adaptive_quadrature(case: Case) -> None:
    actual = normal_moments(case.entry, case.build())
    expected = expected_moments(case)
    if expected is None:
        assert actual is None
        return
    assert actual is not None
    assert (actual.mean, actual.variance) == pytest.approx((expected.mean, expected.variance), rel=1e-8, abs=1e-10)


def expected_moments(case: Case) -> NormalMoments | None:
    """By scipy.integrate.quad on the formula, or in closed form; the channels' average of mean and mean square."""
    if case.entry.reach == "image" or (case.key == "maxout" and case.entry.parameters["k"] > 2):
        return None
    if case.key == "maxout":
        # E max(X, Y) = 1/√π, E max² = 1.
        return NormalMoments(1 / math.sqrt(math.pi), 1 - 1 / math.pi)
    if case.key == "glu":
        # E[a]·E[σ(b)] = 0, E[a²]·E[σ(b)²] = E[σ²].
        return NormalMoments(0.0, integral(Case("sigmoid"), 0, 2))
    if case.key == "crelu":
        case = Case("relu")
    first, second = (np.mean([integral(case, channel, power) for channel in range(WIDTH)]) for power in (1, 2))
    return NormalMoments(float(first), float(second - first**2))


def integral(case: Case, channel: int, power: int) -> float:
    """∫ f(x)^power φ(x) dx, between the points where f may have a kink."""
    known = case.known(case.build())
    known = {name: value[channel :][:1] if isinstance(value, np.ndarray) and value.size > 1 else value
             for name, value in known.items()}  # fmt: skip

    def weighted(x: float) -> float:
        value = float(curve(case.key, known, np.array([x]))[0])
        return value**power * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    inner = [sign * abs(value) for value in case.entry.parameters.values() for sign in (-1, 1)]
    kinks = [kink for kink in {*case.entry.kinks, *inner} if abs(kink) < 12]
    ends = sorted({-12.0, -3.0, -1.0, 0.0, 1.0, 3.0, 12.0, *kinks})
    return sum(quad(weighted, low, high, epsabs=1e-13, epsrel=1e-12)[0] for low, high in pairwise(ends))


def test_normal_moments_in_closed_form() -> None:
    root = math.sqrt(2 * math.pi)
    for key, mean, square in [
        ("identity", 0, 1), ("relu", 1 / root, 0.5), ("crelu", 1 / root, 0.5), ("squared_relu", 0.5, 1.5),
        ("selu", 0, 1), ("step", 0.5, 0.5), ("leaky_relu", 0.99 / root, (1 + 1e-4) / 2),
        ("prelu", 0.75 / root, (1 + 1 / 16) / 2), ("gelu", 1 / (2 * math.sqrt(math.pi)), None),
        ("maxout", 1 / math.sqrt(math.pi), 1),
    ]:  # fmt: skip
        moments = normal_moments(Case(key).entry, Case(key).build())
        assert moments is not None
        assert moments.mean == pytest.approx(mean, abs=1e-12), key
        if square is not None:
            assert moments.variance + moments.mean**2 == pytest.approx(square, rel=1e-10), key


def test_asking_changes_nothing() -> None:
    for case in (Case("prelu"), Case("swish_beta"), Case("rrelu")):
        module = case.build().train()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        normal_moments(case.entry, module)
        assert module.training
        after = module.state_dict()
        assert all(
            torch.equal(value, before[name]) and value.dtype == before[name].dtype for name, value in after.items()
        )
