"""Every activation's definition: its values and its gradient against the formula, its entry and its documentation."""

import inspect
import math

import numpy as np
import pytest
import torch

from tests.training.cases import CASES, ELEMENTWISE, ENTRIES, KEYS, WIDTH, Case, grid
from tests.training.formulas import FORMULAS, WRITE_IT, curve, slope
from training.activations.entry import ActivationModule

FAR = 1e4


def test_every_activation_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(KEYS), WRITE_IT


def test_every_parameter_is_tried_away_from_its_default() -> None:
    for key, entry in ENTRIES.items():
        tried = {name for case in CASES if case.key == key for name, _ in case.parameters}
        assert tried == set(entry.parameters), f"{key}: write the values of a new parameter into VARIED of cases.py"


@pytest.mark.parametrize("case", CASES, ids=str)
class TestValues:
    def test_module_equals_the_formula(self, case: Case) -> None:
        module = case.build()
        x = grid(case).astype(np.float64)
        expected = case.expected(module, x)
        actual = module.double()(torch.from_numpy(x)).detach().numpy()
        assert np.isfinite(actual).all()
        assert np.all(np.abs(actual - expected) <= 1e-12 * case.size(module, x))

    def test_module_in_single_precision(self, case: Case) -> None:
        module = case.build()
        x = grid(case)
        actual = module(torch.from_numpy(x)).detach().numpy()
        assert actual.dtype == np.float32
        assert np.all(np.abs(actual - case.expected(module, x)) <= 1e-6 * case.size(module, x))

    def test_channels_that_leave(self, case: Case) -> None:
        module = case.build()
        y = module(torch.zeros(2, case.channels, 4, 5))
        given = case.entry.width_after(WIDTH)
        assert y.shape == (2, given, 4, 5)
        assert module.output_channels() == given
        takes, gives = {"crelu": (1, 2), "glu": (2, 1)}.get(case.key, (1, 1))
        takes = int(case.entry.parameters.get("k", takes))
        assert (case.channels, given) == (takes * WIDTH, gives * WIDTH)

    def test_gradient(self, case: Case) -> None:
        """Of the input and of everything learned, by finite differences in float64, away from kinks."""
        module = case.build().double()
        x = smooth_input(case)
        if case.key == "step":
            module(x).backward(weight := torch.randn_like(x))
            assert x.grad is not None
            assert torch.equal(x.grad, weight), "straight through"
            return
        assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *module.parameters()))


def smooth_input(case: Case) -> torch.Tensor:
    """Values from −9 to 9, none within 0.05 of a multiple of ½ or of a parameter, where published kinks lie."""
    values = torch.linspace(-9, 9, 400, dtype=torch.float64)
    kinks = [*np.arange(-9, 9.5, 0.5), *(sign * value for sign in (-1, 1) for _, value in case.parameters)]
    smooth = values[torch.stack([(values - kink).abs() > 0.05 for kink in kinks]).all(0)]
    order = torch.randperm(len(smooth), generator=torch.Generator().manual_seed(0))
    return smooth[order][: 2 * case.channels * 6].reshape(2, case.channels, 2, 3).requires_grad_()


def gradient(case: Case, at: list[float]) -> list[float]:
    """f′ at points, as training sees it: on float64, by autograd."""
    points = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    module = case.entry.build(1).double().eval()
    module(points.reshape(1, 1, 1, -1)).sum().backward()
    assert points.grad is not None
    return points.grad.tolist()  # type: ignore[no-any-return]


DEFAULTS = [case for case in ELEMENTWISE if not case.parameters and case.learned == "initial"]


@pytest.mark.parametrize("case", DEFAULTS, ids=str)
class TestStatedGradient:
    def test_at_kinks(self, case: Case) -> None:
        stated = case.entry.kinks
        assert gradient(case, list(stated)) == pytest.approx(list(stated.values()), rel=1e-6)

    def test_at_infinity(self, case: Case) -> None:
        assert case.entry.slopes is not None
        for sign, stated in zip((-1, 1), case.entry.slopes, strict=True):
            (actual,) = gradient(case, [sign * FAR])
            if math.isinf(stated):
                assert actual > FAR
                assert gradient(case, [2 * sign * FAR])[0] > 1.5 * actual
            else:
                assert actual == pytest.approx(stated, abs=1e-6)

    def test_is_the_slope_of_the_formula_away_from_kinks(self, case: Case) -> None:
        if case.key == "step":
            assert "straight-through" in case.entry.gradient
            return
        x = np.concatenate([np.arange(-20, 20, 0.125) + 0.06, [-FAR, FAR]])
        expected = slope(case.key, case.known(case.build()), x)
        np.testing.assert_allclose(gradient(case, x.tolist()), expected, rtol=1e-6, atol=1e-8)

    def test_kinks_are_where_the_slope_jumps(self, case: Case) -> None:
        """Every jump of the formula's slope is stated, and at every stated point the slope or its change jumps."""
        known = case.known(case.build())
        x = np.arange(-50, 50, 1e-3) + 5e-4
        jumps = np.abs(np.diff(slope(case.key, known, x))) > 0.02
        found = np.unique(np.round((x[1:] + x[:-1])[jumps] / 2, 2))
        stated = np.array(list(case.entry.kinks))
        assert all(np.abs(stated - at).min(initial=np.inf) < 0.01 for at in found), f"jumps at {found}"
        for kink in set(stated) - {-40.0}:  # Of soft_relu; e⁻⁴⁰ is too small a jump to see.
            before, after = slope(case.key, known, np.array([kink - 1e-5, kink + 1e-5]))
            assert abs(after - before) > 0.02 or case.key == "step", f"no jump at {kink}"


def test_gradient_at_kinks_of_elu_and_soft_relu_with_other_parameters() -> None:
    """PyTorch's branches: x > 0 for elu, closed at both ends for a clip."""
    assert gradient(Case("elu", (("alpha", 2.0),)), [0.0]) == [2.0]
    assert gradient(Case("elu", (("alpha", 0.5),)), [0.0]) == [0.5]
    ends = gradient(Case("soft_relu", (("threshold", 2.0),)), [-2.0, 2.0])
    assert ends == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))])


def test_gradient_at_ties_is_shared() -> None:
    """What the entries say of maxout, crelu, frelu: ties are shared evenly, and crelu has none at 0."""
    for key, channels in [("maxout", 2), ("crelu", 1)]:
        x = torch.zeros(1, channels, 1, 1, dtype=torch.float64, requires_grad=True)
        ENTRIES[key].build(channels).double()(x).sum().backward()
        assert x.grad is not None
        assert x.grad.ravel().tolist() == ([0.5, 0.5] if key == "maxout" else [0.0])
    funnel = ENTRIES["frelu"].build(1).double().eval()
    funnel.get_parameter("window.weight").data.zero_()
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    funnel(x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 0.5


@pytest.mark.parametrize("key", KEYS)
class TestEntry:
    def test_is_documented(self, key: str) -> None:
        entry = ENTRIES[key]
        assert all(text.strip() and text.strip() == text for text in (entry.formula, entry.source, entry.use))
        assert "\n" not in entry.use
        docstring = inspect.getdoc(type(Case(key).build()))
        assert docstring
        assert docstring != inspect.getdoc(ActivationModule), "a docstring of its own"
        assert "f(" in docstring, "the formula"

    def test_gradient_is_stated(self, key: str) -> None:
        """By slopes and kinks, or in words where there is more than one input."""
        entry = ENTRIES[key]
        assert entry.slopes is not None or entry.gradient

    def test_reach_is_what_one_output_depends_on(self, key: str) -> None:
        """The gradient of one output: non-zero at other positions, other channels, or at its own place alone."""
        case = Case(key, learned="any" if any(other == Case(key, (), "any") for other in CASES) else "initial")
        module = case.build().double()
        x = torch.randn(1, case.channels, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        positions = channels = False
        for output in module(x)[0, :, 1, 1]:
            (found,) = torch.autograd.grad(output, x, retain_graph=True)
            used = found[0] != 0
            channels |= bool(used[:, 1, 1].sum() > 1)
            used[:, 1, 1] = False
            positions |= bool(used.any())
        # The gradient of a maximum reaches one channel alone; its value depends on all.
        assert positions == (case.entry.reach == "image")
        assert not channels or case.entry.reach != "element"
        assert (case.entry.takes(**case.entry.parameters) > 1) == (case.entry.reach == "channels")

    def test_every_call_builds_a_module_of_its_own(self, key: str) -> None:
        assert Case(key).build() is not Case(key).build()

    def test_curve_is_the_formula(self, key: str) -> None:
        """The helper that the other tests draw curves with."""
        case = Case(key)
        if case in DEFAULTS:
            x = np.linspace(-3, 3, 12)
            module = case.build()
            wide = np.broadcast_to(x, (1, WIDTH, 1, 12))
            np.testing.assert_array_equal(curve(key, case.known(module), x), case.expected(module, wide)[0, 0, 0])
