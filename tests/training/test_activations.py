"""Every activation of the catalogue: module, ONNX body and meaning, against formulas written here in float64."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from training.activations.catalogue import ACTIVATIONS, find_activation
from training.activations.entry import ActivationModule
from training.activations.exponentials import EluActivation
from training.activations.rectifiers import LeakyReluActivation

Array = NDArray[np.float64]
Formula = Callable[[Array, Mapping[str, Array]], Array]

CHANNELS = 3


def logistic(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


# x is N×C×H×W, the parameters are those of the module, by name.
FORMULAS: dict[str, Formula] = {
    "identity": lambda x, _: x,
    "relu": lambda x, _: np.maximum(x, 0),
    "leaky_relu": lambda x, _: np.maximum(x, 0.01 * x),
    "prelu": lambda x, p: np.where(x > 0, x, p["weight"].reshape(1, -1, 1, 1) * x),
    "prelu_shared": lambda x, p: np.where(x > 0, x, p["weight"].item() * x),
    "elu": lambda x, _: elu(x, 1.0),
    "gelu": lambda x, _: x * (1 + erf(x / np.sqrt(2))) / 2,
    "swish": lambda x, _: x * logistic(x),
    "mish": lambda x, _: x * np.tanh(np.logaddexp(0, x)),
    "su": lambda x, _: np.maximum(x, x * np.exp(-np.abs(x))),
    "tanh": lambda x, _: np.tanh(x),
    "sigmoid": lambda x, _: logistic(x),
}
# What learned parameters are drawn from; slopes outside [0, 1] need another ONNX body.
SLOPES = {"initial": None, "convex": (0.0, 1.0), "any": (-1.5, 2.5)}

# |y − formula| / (1 + |formula|) of an ONNX body in float32. The Sigmoid of ONNX Runtime errs by 1e-7 absolute, which
# x·σ(x) multiplies by up to 18; x / (1 + e⁻ˣ) would be exact, at twice the time.
BODY_TOLERANCES = {"swish": 3e-6}


def assert_body_equals(actual: NDArray[np.float32], expected: Array, key: str) -> None:
    assert np.isfinite(actual).all()
    error = np.abs(actual - expected) / (1 + np.abs(expected))
    assert error.max() <= BODY_TOLERANCES.get(key, 1e-6)


def build(key: str, slopes: str = "initial") -> ActivationModule:
    module = ACTIVATIONS[key].build(CHANNELS)
    bounds = SLOPES[slopes]
    if bounds is not None:
        generator = torch.Generator().manual_seed(3)
        for parameter in module.parameters():
            drawn = torch.rand(parameter.shape, generator=generator)
            parameter.data = bounds[0] + (bounds[1] - bounds[0]) * drawn
    return module


def parameters(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


CASES = [
    (key, slopes)
    for key, entry in ACTIVATIONS.items()
    for slopes in SLOPES
    if slopes == "initial" or list(entry.build(CHANNELS).parameters())
]


def grid() -> NDArray[np.float32]:
    """Values from tiny to huge of both signs, every one in every channel; N×C×H×W."""
    magnitudes = np.concatenate([[0.0, 1e-8, 100.0, 1e4], np.logspace(-6, 2.3, 60), np.linspace(0, 25, 136)])
    values = np.concatenate([magnitudes, -magnitudes]).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(values.reshape(5, 1, 20, 4), (5, CHANNELS, 20, 4)))


def one_node_model(module: ActivationModule) -> onnx.ModelProto:
    """The activation alone, as an export writes it: one node, its function, every size dynamic but the channels'."""
    node = module.node()
    shape = ["n", CHANNELS, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node(node.body.name, ["x", *node.inputs], ["y"], domain=DOMAIN, **node.attributes)],
        "activation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in node.inputs.items()],
    )
    return helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", STANDARD_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        functions=[node.body.to_function_proto()],
    )


def run(
    model: onnx.ModelProto,
    x: NDArray[np.float32],
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_every_activation_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(ACTIVATIONS), "write the formula of a new activation into FORMULAS"


@pytest.mark.parametrize(("key", "slopes"), CASES)
class TestValues:
    def test_module_equals_the_formula(self, key: str, slopes: str) -> None:
        module = build(key, slopes).double()
        x = grid().astype(np.float64)
        actual = module(torch.from_numpy(x)).detach().numpy()
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(actual, FORMULAS[key](x, parameters(module)), rtol=1e-12, atol=1e-14)

    def test_module_in_single_precision(self, key: str, slopes: str) -> None:
        module = build(key, slopes)
        x = grid()
        actual = module(torch.from_numpy(x)).detach().numpy()
        expected = FORMULAS[key](x.astype(np.float64), parameters(module))
        assert actual.dtype == np.float32
        assert np.all(np.abs(actual - expected) <= 1e-6 * (1 + np.abs(expected)))

    def test_gradient(self, key: str, slopes: str) -> None:
        module = build(key, slopes).double()
        values = torch.linspace(-9, 9, 150, dtype=torch.float64)
        # Published kinks lie on multiples of ½.
        smooth = values[(values * 2 - (values * 2).round()).abs() > 0.05][: 40 * CHANNELS]
        x = smooth[torch.randperm(len(smooth), generator=torch.Generator().manual_seed(0))]
        x = x[: len(x) // (2 * CHANNELS) * 2 * CHANNELS].reshape(2, CHANNELS, -1, 1).requires_grad_()
        learned = tuple(module.parameters())
        assert torch.autograd.gradcheck(lambda x, *_: module(x), (x, *learned))

    @pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
    def test_onnx_body_equals_the_formula(self, key: str, slopes: str, level: str) -> None:
        module = build(key, slopes)
        x = grid()
        actual = run(one_node_model(module), x, getattr(onnxruntime.GraphOptimizationLevel, level))
        expected = FORMULAS[key](x.astype(np.float64), parameters(module))
        assert_body_equals(actual, expected, key)

    @pytest.mark.parametrize("shape", [(1, CHANNELS, 1, 1), (2, CHANNELS, 3, 5), (7, CHANNELS, 8, 8)])
    def test_onnx_body_takes_any_batch_and_image_size(self, key: str, slopes: str, shape: tuple[int, ...]) -> None:
        module = build(key, slopes)
        x = np.random.default_rng(1).normal(0, 4, shape).astype(np.float32)
        expected = FORMULAS[key](x.astype(np.float64), parameters(module))
        actual = run(one_node_model(module), x)
        assert actual.shape == shape
        assert_body_equals(actual, expected, key)

    def test_checker_accepts_the_function(self, key: str, slopes: str) -> None:
        model = one_node_model(build(key, slopes))
        onnx.checker.check_model(model, full_check=True)
        standard = {node.domain for function in model.functions for node in function.node}
        assert standard <= {"", "ai.onnx"}, "a body is made of standard operators only"


def derivative(key: str, x: Array) -> Array:
    """Central difference of the formula with initial parameters, in float64; x is one-dimensional."""
    learned = parameters(build(key))
    step = 1e-6

    def value(at: Array) -> Array:
        return FORMULAS[key](np.broadcast_to(at.reshape(1, 1, 1, -1), (1, CHANNELS, 1, len(at))), learned)[0, 0, 0]

    return (value(x + step) - value(x - step)) / (2 * step)


def curve(key: str) -> tuple[Array, Array, Array]:
    """x away from kinks, f(x), and |f′| relative to its maximum."""
    x = np.arange(-30, 30, 1e-3) + 3.7e-4
    y = FORMULAS[key](np.broadcast_to(x.reshape(1, 1, 1, -1), (1, CHANNELS, 1, len(x))), parameters(build(key)))
    slope = np.abs(derivative(key, x))
    return x, y[0, 0, 0], slope / slope.max()


@pytest.mark.parametrize("key", ACTIVATIONS)
class TestMeaning:
    def test_saturation_region_is_where_the_slope_is_below_one_percent(self, key: str) -> None:
        region = ACTIVATIONS[key].saturation
        x, y, slope = curve(key)
        certain = np.abs(slope - 0.01) > 1e-6
        saturated = slope < 0.01
        if region is None:
            # No output tells: next to a saturated point's value lies that of a point which is not saturated.
            low, high = y[saturated & certain], y[~saturated & certain]
            assert len(low)
            assert np.abs(low[:, None][::50] - high[None]).min(1).max() < 0.05
            shown = [np.abs(low - value).min() < 1e-3 for value in high[np.abs(high) < np.abs(low).max()][::50]]
            assert any(shown)
            return
        inside = np.zeros_like(saturated)
        if region.below is not None:
            inside |= y <= region.below
        if region.above is not None:
            inside |= y >= region.above
        wrong = x[certain & (inside != saturated)]
        assert not len(wrong), f"wrong for x from {wrong.min()} to {wrong.max()}"

    def test_signed_says_whether_the_output_can_be_negative(self, key: str) -> None:
        _, y, _ = curve(key)
        assert ACTIVATIONS[key].signed == bool(y.min() < 0)

    def test_shape_and_type_are_kept(self, key: str) -> None:
        x = torch.randn(2, CHANNELS, 4, 5)
        y = build(key)(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype

    def test_entry_is_documented(self, key: str) -> None:
        entry = ACTIVATIONS[key]
        assert entry.formula
        assert entry.source
        assert type(entry.build(CHANNELS)).__doc__

    def test_every_call_builds_a_module_of_its_own(self, key: str) -> None:
        assert ACTIVATIONS[key].build(CHANNELS) is not ACTIVATIONS[key].build(CHANNELS)


@pytest.mark.parametrize(
    ("slopes", "body"), [((0.0, 0.5, 1.0), "PReluMax"), ((-0.1, 0.5, 0.5), "PRelu"), ((0.2, 0.3, 1.1), "PRelu")]
)
def test_prelu_takes_the_cheap_body_only_where_it_is_right(slopes: tuple[float, ...], body: str) -> None:
    module = build("prelu")
    module.get_parameter("weight").data = torch.tensor(slopes)
    assert module.node().body.name == body
    x = grid()
    expected = np.where(x > 0, x, np.float32(slopes).reshape(1, -1, 1, 1) * x.astype(np.float64))
    assert_body_equals(run(one_node_model(module), x), expected, "prelu")


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_elu_of_any_scale(alpha: float) -> None:
    module = EluActivation(alpha)
    x = grid()
    expected = elu(x.astype(np.float64), alpha)
    assert np.all(np.abs(module(torch.from_numpy(x)).numpy() - expected) <= 1e-6 * (1 + np.abs(expected)))
    assert_body_equals(run(one_node_model(module), x), expected, "elu")


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.99])
def test_leaky_relu_of_any_slope(alpha: float) -> None:
    module = LeakyReluActivation(alpha)
    x = grid()
    expected = np.maximum(x, alpha * x.astype(np.float64))
    assert np.all(np.abs(module(torch.from_numpy(x)).numpy() - expected) <= 1e-6 * (1 + np.abs(expected)))
    assert_body_equals(run(one_node_model(module), x), expected, "leaky_relu")


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_elu(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha={alpha}"):
        EluActivation(alpha)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, float("nan")])
def test_impossible_leaky_relu(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha={alpha}"):
        LeakyReluActivation(alpha)


def test_unknown_activation_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown activation 'gleu'") as caught:
        find_activation("gleu")
    assert all(key in str(caught.value) for key in ACTIVATIONS)
