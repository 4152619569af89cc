"""Every activation's ONNX body, alone in a graph: ONNX Runtime and half precision against the formula in float64."""

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.opset import DOMAIN, DOMAIN_VERSION, IR_VERSION, STANDARD_OPSET
from tests.training.cases import CASES, KEYS, WIDTH, Case, grid
from training.activations.entry import ActivationModule, ActivationNode, FunctionBody

Values = NDArray[Any]
LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]

TOLERANCE = 1e-6
"""Of |y − formula| in float32, relative to 1 + |formula|: about 16 units in the last place."""

# What the half of a float16's spacing is to 1. Each node rounds once, by at most this relative to its own value.
HALF_UNIT = 2.0**-11
# A body of a few nodes whose values stay near |x| or |y|: its input, its constants, two inner values and its output.
HALF_UNITS = 4
# Compound bodies: each coefficient of dynamic ReLU passes two layers, tanh, a product and a sum before it meets x, and
# the window of frelu sums nine rounded products; the size that an error is measured by is that of their terms.
COMPOUND_HALF_UNITS = 16


def bodies(node: ActivationNode) -> dict[str, FunctionBody]:
    return {"": node.body, **node.overloads}


# The module is frozen in no way by asking for its node: each test builds its own.
CASES_AND_BODIES = [(case, overload) for case in CASES for overload in bodies(case.build().node())]
over_bodies = pytest.mark.parametrize(
    ("case", "overload"), CASES_AND_BODIES, ids=lambda value: str(value) if value != "" else "standard"
)


def one_node_model(
    module: ActivationModule, overload: str = "", element: int = TensorProto.FLOAT, dtype: type = np.float32
) -> onnx.ModelProto:
    """The activation alone, as an export writes it: one node, its function, every size dynamic but the channels'.

    A body for another execution provider is made of standard operators too: it is run in the place of the first.
    """
    node = module.node()
    function = bodies(node)[overload].to_function_proto()
    function.name = node.body.name

    def tensor(name: str, channels: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, ["n", channels, "h", "w"])

    graph = helper.make_graph(
        [helper.make_node(node.body.name, ["x", *node.inputs], ["y"], domain=DOMAIN, **node.attributes)],
        "activation",
        [tensor("x", module.channels)],
        [tensor("y", module.output_channels())],
        [numpy_helper.from_array(value.detach().numpy().astype(dtype), name) for name, value in node.inputs.items()],
    )
    return helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", STANDARD_OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        functions=[function],
    )


def run(model: onnx.ModelProto, x: Values, level: str = "ORT_ENABLE_ALL") -> Values:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]  # type: ignore[no-any-return]


def assert_equal(case: Case, module: ActivationModule, x: Values, actual: Values) -> None:
    assert actual.dtype == np.float32
    assert np.isfinite(actual).all()
    error = np.abs(actual - case.expected(module, x)) / case.size(module, x)
    assert error.max() <= TOLERANCE, f"{error.max():.1e} at x = {worst(case, x, error)}"


def worst(case: Case, x: Values, error: Values) -> str:
    """Where the error is largest, for activations of one input."""
    return str(x.ravel()[error.argmax()]) if x.shape == error.shape else f"{case}"


@over_bodies
class TestBody:
    @pytest.mark.parametrize("level", LEVELS)
    def test_equals_the_formula(self, case: Case, overload: str, level: str) -> None:
        module = case.build()
        x = grid(case)
        assert_equal(case, module, x, run(one_node_model(module, overload), x, level))

    def test_takes_any_batch_and_image_size(self, case: Case, overload: str) -> None:
        module = case.build()
        model = one_node_model(module, overload)
        for batch, height, width in [(1, 1, 1), (2, 3, 5), (7, 8, 8)]:
            x = np.random.default_rng(1).normal(0, 4, (batch, case.channels, height, width)).astype(np.float32)
            actual = run(model, x)
            assert actual.shape == (batch, case.entry.width_after(WIDTH), height, width)
            assert_equal(case, module, x, actual)

    def test_checker_accepts_the_function(self, case: Case, overload: str) -> None:
        model = one_node_model(case.build(), overload)
        onnx.checker.check_model(model, full_check=True)
        (function,) = model.functions
        assert {node.domain for node in function.node} <= {"", "ai.onnx"}, "a body is made of standard operators only"
        (versions,) = (entry.version for entry in function.opset_import if entry.domain in ("", "ai.onnx"))
        assert versions == STANDARD_OPSET
        assert function.domain == DOMAIN


def half_grid(case: Case) -> NDArray[np.float16]:
    """The grid in float16, up to what the sum over an image or a window can hold: 65504."""
    x = grid(case)
    if case.entry.reach == "image":
        x = np.clip(x, -100, 100)
    return x.astype(np.float16)


def half_known(case: Case) -> ActivationModule:
    """The module with what it has learned rounded to float16, as an export for a GPU would store it."""
    module = case.build()
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()
    return module


def assert_half_equal(case: Case, module: ActivationModule, x: Values, actual: Values) -> None:
    assert actual.dtype == np.float16
    assert not np.isnan(actual).any()
    expected = case.expected(module, x)
    representable = np.abs(expected) <= float(np.finfo(np.float16).max)
    assert representable.mean() > 0.8
    size = case.size(module, x)
    error = (np.abs(actual.astype(np.float64) - expected) / size)[representable]
    units = COMPOUND_HALF_UNITS if case.entry.reach == "image" else HALF_UNITS
    assert error.max() <= units * HALF_UNIT, f"{error.max() / HALF_UNIT:.1f} half units"


def evaluate_every_node(model: onnx.ModelProto, x: Values) -> Values:
    """The body's nodes one by one, each rounded to the tensor's type.

    Inlined first: the evaluator does not pass a function's attributes on to every operator, and needs types for Gelu.
    """
    inlined = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model))
    return ReferenceEvaluator(inlined).run(None, {"x": x})[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("runtime", "case", "overload"),
    [
        *(("every_node_rounds", case, overload) for case, overload in CASES_AND_BODIES if overload != "cpu"),
        *(("onnx_runtime", case, overload) for case, overload in CASES_AND_BODIES),
    ],
    ids=lambda value: str(value) if value != "" else "standard",
)
def test_body_in_half_precision(runtime: str, case: Case, overload: str) -> None:
    """As a GPU would: the reference evaluator rounds after every node. A body for the CPU alone never runs on one.

    ONNX Runtime on the CPU rounds where it has a kernel for float16, and computes in float32 elsewhere.
    """
    module = half_known(case)
    model = one_node_model(module, overload, TensorProto.FLOAT16, np.float16)
    x = half_grid(case)
    # What overflows inside of a body may, as long as what leaves it is right.
    with np.errstate(all="ignore"):
        actual = evaluate_every_node(model, x) if runtime == "every_node_rounds" else run(model, x)
    assert_half_equal(case, module, x, actual)


# What a reader of the graph must find on the node: as an attribute, or as a tensor that goes into it.
VISIBLE: dict[str, list[float]] = {
    "relu6": [0.0, 6.0],
    "selu": [1.0507009873554805, 1.6732632423543772],
    "hard_tanh": [-1.0, 1.0],
    "hard_sigmoid": [1 / 6, 0.5],
    "hard_sigmoid_02": [0.2, 0.5],
    "gelu_sigmoid": [1.702],
}
# Folded into the weights of the first small network, whose width shows it.
FOLDED = {"reduction"}


def on_the_node(node: ActivationNode) -> NDArray[np.float64]:
    """Every number on the node, without sign: a body may take −β."""
    tensors = [value.detach().double().numpy().ravel() for value in node.inputs.values()]
    return np.abs(np.concatenate([np.array(list(node.attributes.values()), np.float64), *tensors]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_are_on_the_node(case: Case) -> None:
    module = case.build()
    parameters = {name: value for name, value in case.entry.parameters.items() if name not in FOLDED}
    if case.key == "rrelu":
        parameters = {"mean": (parameters["lower"] + parameters["upper"]) / 2}
    wanted = [*VISIBLE.get(case.key, []), *parameters.values()]
    if case.entry.reach != "image":
        # Slopes and the like, not weights: those are folded with what stands before and after them.
        wanted += [value for parameter in module.parameters() for value in parameter.detach().ravel().tolist()]
    found = on_the_node(module.node())
    for value in wanted:
        assert np.isclose(found, abs(value), rtol=1e-6).any(), f"{value} is not among {found}"


def test_a_smaller_reduction_is_a_wider_small_network() -> None:
    for key in ("dynamic_relu_a", "dynamic_relu_b", "dynamic_relu_c"):
        for reduction, hidden in [(1, 16), (4, 4), (5, 3), (64, 1)]:
            case = Case(key, (("reduction", reduction),))
            inputs = case.entry.build(16).node().inputs
            assert (hidden, 16) in {tuple(value.shape[:2]) for value in inputs.values()}


@pytest.mark.parametrize("key", KEYS)
def test_one_name_is_one_body(key: str) -> None:
    """Bodies of one name are the same whatever the parameters: what differs is on the node."""
    seen: dict[tuple[str, str], onnx.FunctionProto] = {}
    for case in CASES:
        if case.key == key:
            node = case.build().node()
            for overload, body in bodies(node).items():
                function = body.to_function_proto()
                assert seen.setdefault((node.body.name, overload), function) == function
    assert seen


@pytest.mark.parametrize("slopes", [(0.0, 0.5, 1.0, 0.25), (-0.1, 0.5, 0.5, 0.5), (0.2, 0.3, 1.1, 0.5), (0.0,) * 4])
def test_prelu_is_right_for_slopes_inside_and_outside_of_0_to_1(slopes: tuple[float, ...]) -> None:
    """A cheap body is right for slopes from 0 to 1 only, and one slope outside is enough to rule it out."""
    case = Case("prelu")
    module = case.build()
    for index, value in enumerate(slopes):
        module.get_parameter("weight").data[index] = value
    x = grid(case)
    assert_equal(case, module, x, run(one_node_model(module), x))
