"""Where activations and block ends are found in graphs of every dialect, and where they are not."""

import math

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from models.manifest import ActivationSite
from models.sites import find_blocks, find_sites
from tests.models import graphs

C = 4


def graph(body: str, opset: int = 20, functions: str = "", **weights: NDArray | float) -> onnx.ModelProto:
    """The nodes in `body` between a 3×3 convolution, which makes `x`, and `y`; `w`, `w1`, `w3` are kernels."""
    model = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : {opset}, "reslens" : 1]>
        network (float[N, 3, 8, 8] images) => (y) {{ x = Conv<pads = [1, 1, 1, 1]>(images, w) {body} }}
        {functions}""")
    normal = np.random.default_rng(0).standard_normal
    kernels = {"w": normal((C, 3, 3, 3)) / 3, "w1": normal((C, C, 1, 1)), "w3": normal((C, C, 3, 3)) / 4}
    kernels["w_wide"] = normal((2 * C, C, 3, 3)) / 4
    used = {name for node in model.graph.node for name in node.input}
    stored = {name: value for name, value in (kernels | weights).items() if name in used}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in stored.items()
    )
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def found(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(site.activation, site.tensor) for site in find_sites(model)]


# Each makes y from x, and is one activation. What exporters write, and what people write by hand.
FORMS = {
    "Relu": ("relu", "y = Relu(x)", {}),
    "Max with 0": ("relu", "y = Max(x, zero)", {"zero": 0.0}),
    "Clip from 0": ("relu", "y = Clip(x, zero)", {"zero": 0.0}),
    "Where": ("relu", "positive = Greater(x, zero) y = Where(positive, x, zero)", {"zero": 0.0}),
    "LeakyRelu": ("leaky_relu", "y = LeakyRelu<alpha = 0.2>(x)", {}),
    "LeakyRelu as Max": ("leaky_relu", "low = Mul(x, a) y = Max(x, low)", {"a": 0.1}),
    "LeakyRelu without a slope": ("relu", "y = LeakyRelu<alpha = 0.0>(x)", {}),
    "PRelu": ("prelu", "y = PRelu(x, a)", {"a": np.linspace(-1, 2, C).reshape(C, 1, 1)}),
    "PRelu of Keras": (
        "prelu",
        "p = Relu(x) n = Neg(x) q = Relu(n) s = Mul(q, a) y = Sub(p, s)",
        {"a": np.linspace(0.1, 0.9, C).reshape(1, C, 1, 1)},
    ),
    "PRelu with one slope": ("leaky_relu", "y = PRelu(x, a)", {"a": np.full((1, 1, 1), 0.25)}),
    "Clip": ("relu6", "y = Clip(x, low, high)", {"low": 0.0, "high": 6.0}),
    "Clip with Constant nodes": (
        "relu6",
        "low = Constant<value_float = 0.0>() high = Constant<value = float {6.0}>() y = Clip(x, low, high)",
        {},
    ),
    "Min of Relu": ("relu6", "r = Relu(x) y = Min(r, six)", {"six": 6.0}),
    "Max of Min": ("relu6", "m = Min(x, six) y = Max(m, zero)", {"six": 6.0, "zero": 0.0}),
    "Clip with bounds that are computed": (
        "relu6",
        "low = Constant<value_float = 0.0>() none = Identity(low) six = Neg(minus) y = Clip(x, none, six)",
        {"minus": -6.0},
    ),
    "Clip to ±1": ("hard_tanh", "y = Clip(x, low, high)", {"low": -1.0, "high": 1.0}),
    "Clip to others": ("clip", "y = Clip(x, low, high)", {"low": -2.0, "high": 3.5}),
    "Elu": ("elu", "y = Elu(x)", {}),
    "Elu with another α": ("elu", "y = Elu<alpha = 0.5>(x)", {}),
    "Selu": ("selu", "y = Selu(x)", {}),
    "Celu": ("celu", "y = Celu(x)", {}),
    "Celu with another α": ("celu", "y = Celu<alpha = 2.0>(x)", {}),
    "Sigmoid": ("sigmoid", "y = Sigmoid(x)", {}),
    "Tanh": ("tanh", "y = Tanh(x)", {}),
    "HardSigmoid": ("hard_sigmoid_02", "y = HardSigmoid(x)", {}),
    "HardSigmoid of PyTorch": ("hard_sigmoid", "y = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)", {}),
    "HardSigmoid of Clip": (
        "hard_sigmoid",
        "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)",
        {"three": 3.0, "six": 6.0, "zero": 0.0},
    ),
    "HardSwish": ("hard_swish", "y = HardSwish(x)", {}),
    "HardSwish of HardSigmoid": ("hard_swish", "g = HardSigmoid<alpha = 0.16666667>(x) y = Mul(x, g)", {}),
    "HardSwish of Clip": (
        "hard_swish",
        "a = Add(three, x) b = Clip(a, zero, six) c = Mul(b, x) y = Div(c, six)",
        {"three": 3.0, "six": 6.0, "zero": 0.0},
    ),
    "Swish of Sigmoid": ("swish", "g = Sigmoid(x) y = Mul(x, g)", {}),
    "Swish the other way round": ("swish", "g = Sigmoid(x) y = Mul(g, x)", {}),
    "Swish of Exp": ("swish", "n = Neg(x) e = Exp(n) d = Add(e, one) y = Div(x, d)", {"one": 1.0}),
    "Swish with β": ("swish_beta", "b = Mul(x, beta) g = Sigmoid(b) y = Mul(x, g)", {"beta": 1.5}),
    "Swish with β by channel": (
        "swish_beta",
        "b = Mul(x, beta) g = Sigmoid(b) y = Mul(x, g)",
        {"beta": np.linspace(0.5, 2, C).reshape(C, 1, 1)},
    ),
    "QuickGELU": ("gelu_sigmoid", "b = Mul(x, s) g = Sigmoid(b) y = Mul(x, g)", {"s": 1.702}),
    "Mish": ("mish", "y = Mish(x)", {}),
    "Mish of Softplus": ("mish", "s = Softplus(x) t = Tanh(s) y = Mul(x, t)", {}),
    "Mish of Exp": (
        "mish",
        "e = Exp(x) f = Add(e, one) s = Log(f) t = Tanh(s) y = Mul(x, t)",
        {"one": 1.0},
    ),
    "Gelu": ("gelu", "y = Gelu(x)", {}),
    "Gelu's tanh form": ("gelu_tanh", 'y = Gelu<approximate = "tanh">(x)', {}),
    "Gelu of Erf": (
        "gelu",
        "a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
        {"root": math.sqrt(2), "one": 1.0, "half": 0.5},
    ),
    "Gelu of Erf, halved first": (
        "gelu",
        "h = Mul(x, half) a = Mul(x, root) b = Erf(a) c = Add(b, one) y = Mul(h, c)",
        {"root": math.sqrt(0.5), "one": 1.0, "half": 0.5},
    ),
    "Gelu of Tanh": (
        "gelu_tanh",
        "c = Pow(x, three) d = Mul(c, k) e = Add(x, d) f = Mul(e, r) g = Tanh(f) h = Add(g, one) i = Mul(x, h) "
        "y = Mul(i, half)",
        {"three": 3.0, "k": 0.044715, "r": math.sqrt(2 / math.pi), "one": 1.0, "half": 0.5},
    ),
    "Softplus": ("softplus", "y = Softplus(x)", {}),
    "Softplus of PyTorch": (
        "softplus",
        "s = Softplus(x) far = Greater(x, twenty) y = Where(far, x, s)",
        {"twenty": 20.0},
    ),
    "Softsign": ("softsign", "y = Softsign(x)", {}),
    "Softsign of Abs": ("softsign", "a = Abs(x) b = Add(a, one) y = Div(x, b)", {"one": 1.0}),
    "ThresholdedRelu": ("thresholded_relu", "y = ThresholdedRelu<alpha = 0.7>(x)", {}),
    "Squared Relu": ("squared_relu", "r = Relu(x) y = Mul(r, r)", {}),
    "Step": ("step", "b = GreaterOrEqual(x, zero) y = Cast<to = 1>(b)", {"zero": 0.0}),
    "Glu": ("glu", "a, b = Split<axis = 1, num_outputs = 2>(x) g = Sigmoid(b) y = Mul(a, g)", {}),
    "Shrink": ("shrink", "y = Shrink(x)", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_one_activation(form: str) -> None:
    key, body, weights = FORMS[form]
    model = graph(body, **weights)
    (site,) = find_sites(model)
    assert (site.activation, site.tensor, site.channels) == (key, "y", C // 2 if key == "glu" else C)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_said_of_it_is_what_it_does(form: str) -> None:
    """Against ONNX Runtime's own values, for inputs from N(0, 1) and for large ones."""
    key, body, weights = FORMS[form]
    model = graph(body, **weights)
    (site,) = find_sites(model)
    random = np.random.default_rng(1)
    y = evaluate(model, random.standard_normal((300, C, 8, 8)))
    assert site.signed or (y >= 0).all()
    if site.normal_mean is None or site.normal_variance is None:
        assert key == "shrink"
        return
    assert y.mean() == pytest.approx(site.normal_mean, abs=0.02)
    assert y.var() == pytest.approx(site.normal_variance, rel=0.03)
    assert site.output_range is not None
    low, high = (
        bound if bound is not None else limit for bound, limit in zip(site.output_range, (-np.inf, np.inf), strict=True)
    )
    wide = evaluate(model, random.uniform(-30, 30, (300, C, 8, 8)))
    assert wide.min() >= low - 1e-4
    assert wide.max() <= high + 1e-4
    if np.isfinite(low):
        # It is the largest lower bound.
        assert wide.min() <= low + 0.05


def evaluate(model: onnx.ModelProto, x: NDArray) -> NDArray[np.float64]:
    """What the graph makes of a feature map."""
    tail = onnx.ModelProto()
    tail.CopyFrom(model)
    del tail.graph.node[0], tail.graph.input[:]
    tail.graph.input.append(onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [None, C, 8, 8]))
    for node in tail.graph.node:
        node.input[:] = ["images" if name == "x" else name for name in node.input]
    return graphs.run(tail, x.astype(np.float32))["y"].astype(np.float64)


NOT_ONE = {
    "a product with a constant": ("y = Mul(x, two)", {"two": 2.0}),
    "an addition": ("y = Add(x, two)", {"two": 2.0}),
    "a square": ("y = Mul(x, x)", {}),
    "an absolute value": ("y = Abs(x)", {}),
    "an exponential": ("y = Exp(x)", {}),
    "a pool": ("y = MaxPool<kernel_shape = [2, 2]>(x)", {}),
    "a gate of one channel": ("g = Conv(x, one) s = Sigmoid(g) y = Mul(x, s)", {"one": np.ones((1, C, 1, 1))}),
    "a gate of every channel": ("g = Conv(x, w1) s = Sigmoid(g) y = Mul(x, s)", {}),
    "squeeze and excitation": (
        "p = GlobalAveragePool(x) a = Conv(p, w1) r = Relu(a) b = Conv(r, w1) g = Sigmoid(b) y = Mul(x, g)",
        {},
    ),
    "squeeze by ReduceMean": (
        "p = ReduceMean(x, axes) a = Conv(p, w1) r = Relu(a) b = Conv(r, w1) g = HardSigmoid(b) y = Mul(x, g)",
        {},
    ),
    "a pooled head": ("p = AveragePool<kernel_shape = [8, 8]>(x) a = Conv(p, w1) y = HardSwish(a)", {}),
    "vectors": ("p = Flatten(x) y = Relu(p)", {}),
    "maps with channels last": (
        "t = Transpose<perm = [0, 2, 3, 1]>(x) r = Relu(t) s = Add(r, t) y = Transpose<perm = [0, 3, 1, 2]>(s)",
        {},
    ),
    "a softmax": ("y = Softmax<axis = 1>(x)", {}),
}


@pytest.mark.parametrize("case", NOT_ONE)
def test_what_is_no_activation_of_a_feature_map_is_none(case: str) -> None:
    body, weights = NOT_ONE[case]
    model = graph(body, **weights)
    if "axes" in body:
        model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    assert found(model) == []


# Close to a known activation, and not it: what counts is the standard operator within, as itself.
NEAR_MISSES = {
    "x·σ(x + 1)": ("a = Add(x, one) g = Sigmoid(a) y = Mul(x, g)", {"one": 1.0}, []),
    "x·tanh(x)": ("t = Tanh(x) y = Mul(x, t)", {}, [("tanh", "t")]),
    "x − tanh(x)": ("t = Tanh(x) y = Sub(x, t)", {}, [("tanh", "t")]),
    "1.7·relu(x)": ("r = Relu(x) y = Mul(r, k)", {"k": 1.7}, [("relu", "r")]),
    "relu(x + 1)": ("a = Add(x, one) y = Relu(a)", {"one": 1.0}, [("relu", "y")]),
    "relu(x)·relu(−x)": (
        "n = Neg(x) p = Relu(x) q = Relu(n) y = Mul(p, q)",
        {},
        [("relu", "p"), ("relu", "q")],
    ),
    "tanh(softplus) of something else": (
        "z = Conv(x, w1) s = Softplus(z) t = Tanh(s) y = Mul(x, t)",
        {},
        [("softplus", "s"), ("tanh", "t")],
    ),
    "erf without the half": ("e = Erf(x) f = Add(e, one) y = Mul(x, f)", {"one": 1.0}, []),
    "a bias that differs from place to place": (
        "g = Sigmoid(x) h = Mul(g, plane) y = Mul(x, h)",
        {"plane": np.random.default_rng(0).random((1, 1, 8, 8))},
        [],
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_a_near_miss_is_not_taken_for_it(case: str) -> None:
    body, weights, expected = NEAR_MISSES[case]
    assert found(graph(body, **weights)) == expected


def test_an_inner_activation_that_others_read_counts_too() -> None:
    model = graph("s = Sigmoid(x) z = Mul(x, s) c = Conv(s, w1) y = Add(z, c)")
    assert found(model) == [("sigmoid", "s"), ("swish", "z")]


def test_maps_of_one_pixel_that_were_not_pooled_count() -> None:
    model = graph("a = Conv<strides = [8, 8]>(x, w1) y = Relu(a)")
    assert found(model) == [("relu", "y")]


def test_half_precision_is_recognised() -> None:
    body = "h = Cast<to = 10>(x) a = Div(h, root) b = Erf(a) c = Add(b, one) d = Mul(h, c) y = Mul(d, half)"
    model = graph(body)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for name, value in {"root": math.sqrt(2), "one": 1.0, "half": 0.5}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float16), name))
    assert found(model) == [("gelu", "y")]
    assert [site.datatype for site in find_sites(model)] == ["FP16"]
    assert [site.datatype for site in find_sites(graph("y = Relu(x)"))] == ["FP32"]


OWN = """<domain: "reslens", opset_import: ["" : 20]>
{name} {attributes} ({inputs}) => (y) {{ {body} }}"""


def own(
    call: str, name: str, body: str, inputs: str = "x", attributes: str = "", **weights: NDArray
) -> onnx.ModelProto:
    functions = OWN.format(name=name, inputs=inputs, body=body, attributes=attributes)
    return graph(f"y = reslens.{call}", functions=functions, **weights)


def test_a_node_of_our_domain_is_an_activation_whatever_it_computes() -> None:
    unknown = own("Wave(x)", "Wave", "y = Sin(x)")
    (site,) = find_sites(unknown)
    assert site == ActivationSite(name="y", activation="wave", tensor="y", channels=C, signed=True, saturation=None)
    assert found(own("Identity(x)", "Identity", "y = Identity(x)")) == [("identity", "y")]
    doubled = own("ConcatenatedRelu(x, minus)", "ConcatenatedRelu", CRELU, "x, minus", minus=-np.ones((C, 1, 1)))
    (site,) = find_sites(doubled)
    assert (site.activation, site.channels, site.signed) == ("crelu", 2 * C, False)
    slopes = np.linspace(0.1, 0.4, C).reshape(C, 1, 1)
    (site,) = find_sites(
        own("PReluMax(x, slope)", "PReluMax", "z = Mul(x, slope) y = Max(x, z)", "x, slope", slope=slopes)
    )
    assert site.activation == "prelu"
    leaky = own(
        "LeakyRelu<alpha = 0.3>(x)", "LeakyRelu", "y = LeakyRelu<alpha : float = @alpha>(x)", attributes="<alpha>"
    )
    assert found(leaky) == [("leaky_relu", "y")]


CRELU = "p = Relu(x) n = Mul(x, minus) q = Relu(n) y = Concat<axis = 1>(p, q)"


def test_saturation_follows_the_parameters() -> None:
    def saturation(body: str, **weights: float) -> tuple[float | None, float | None] | None:
        (site,) = find_sites(graph(body, **weights))
        return site.saturation and (site.saturation.below, site.saturation.above)

    assert saturation("y = Clip(x, low, high)", low=-2.0, high=3.5) == (-2.0, 3.5)
    # αeˣ < 0.01 where the output is below 0.01 − α.
    assert saturation("y = Elu<alpha = 0.5>(x)") == (pytest.approx(-0.49), None)
    assert saturation("y = Celu<alpha = 2.0>(x)") == (pytest.approx(-1.98), None)
    assert saturation("y = LeakyRelu<alpha = 0.01>(x)") == (None, None)
    assert saturation("y = Mish(x)") is None


# Body, and (output, shortcut) of every block.
BLOCKS = {
    "identity": ("r = Relu(x) a = Conv<pads = [1, 1, 1, 1]>(r, w3) y = Add(a, x)", [("y", "x")]),
    "identity first": ("r = Relu(x) a = Conv<pads = [1, 1, 1, 1]>(r, w3) y = Add(x, a)", [("y", "x")]),
    "closing activation": ("a = Conv<pads = [1, 1, 1, 1]>(x, w3) s = Add(a, x) y = Relu(s)", [("y", "x")]),
    "closing activation of several nodes": (
        "a = Conv<pads = [1, 1, 1, 1]>(x, w3) s = Add(a, x) g = Sigmoid(s) y = Mul(s, g)",
        [("y", "x")],
    ),
    "an activation of the next block": (
        "a = Conv<pads = [1, 1, 1, 1]>(x, w3) s = Add(a, x) r = Relu(s) b = Conv(r, w1) y = Add(b, s)",
        [("s", "x"), ("y", "s")],
    ),
    "projection": (
        "r = Relu(x) a = Conv(r, w1) b = Relu(a) c = Conv(b, w1) p = Conv(r, w1) y = Add(c, p)",
        [("y", "p")],
    ),
    "deeper branch without an activation": (
        "a = Conv(x, w1) b = Conv<pads = [1, 1, 1, 1]>(a, w3) p = Conv(x, w1) y = Add(p, b)",
        [("y", "p")],
    ),
    "pooled shortcut": (
        "r = Relu(x) a = Conv<strides = [2, 2]>(r, w1) p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(r) "
        "y = Add(a, p)",
        [("y", "p")],
    ),
    "gated branch": (
        "a = Conv(x, w1) p = GlobalAveragePool(a) g = Sigmoid(p) m = Mul(a, g) y = Add(m, x)",
        [("y", "x")],
    ),
    "shared weights of a projection": (
        "r = Relu(x) a = Conv(r, w1) b = Relu(a) c = Conv(b, w1) k2 = Identity(w1) p = Conv(r, k2) y = Add(c, p)",
        [("y", "p")],
    ),
    "scaled branch": ("a = Conv(x, w1) m = Mul(a, k) y = Add(m, x)", [("y", "x")]),
    "concatenated branch": (
        "a = Conv(x, w1) b = Relu(x) c = Concat<axis = 1>(a, b) d = Conv(c, w_join) y = Add(d, x)",
        [("y", "x")],
    ),
    # No block.
    "parallel convolutions": ("a = Conv(x, w1) b = Conv<pads = [1, 1, 1, 1]>(x, w3) y = Add(a, b)", []),
    "two branches with activations": (
        "a = Conv(x, w1) b = Relu(a) c = Conv(x, w1) d = Tanh(c) y = Add(b, d)",
        [],
    ),
    "a bias": ("y = Add(x, k)", []),
    "no convolution between": ("r = Relu(x) y = Add(r, x)", []),
    "vectors": ("f = Flatten(x) g = Relu(f) y = Add(f, g)", []),
    "a concatenation": ("a = Conv(x, w1) y = Concat<axis = 1>(x, a)", []),
    "the same twice": ("y = Add(x, x)", []),
    "a product": ("a = Conv(x, w1) y = Mul(a, x)", []),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_block_ends(case: str) -> None:
    body, expected = BLOCKS[case]
    model = graph(body, k=0.5, w_join=np.random.default_rng(0).random((C, 2 * C, 1, 1)))
    assert [(block.output, block.shortcut) for block in find_blocks(model)] == expected


def test_an_activation_that_changes_the_channels_does_not_close_a_block() -> None:
    functions = OWN.format(name="ConcatenatedRelu", inputs="x, minus", body=CRELU, attributes="")
    body = "a = Conv<pads = [1, 1, 1, 1]>(x, w3) s = Add(a, x) y = reslens.ConcatenatedRelu(s, minus)"
    (block,) = find_blocks(graph(body, functions=functions, minus=-np.ones((C, 1, 1))))
    assert (block.output, block.shortcut) == ("s", "x")


class TestNames:
    BODY = "a = Relu(x) b = Conv(a, w1) c = Relu(b) y = Add(c, a)"

    def named(self, names: list[str], scopes: list[list[str]] | None = None) -> list[str]:
        model = graph(self.BODY)
        for node, name in zip(model.graph.node, ["stem", *names], strict=True):
            node.name = name
        for node, scope in zip(model.graph.node, scopes or [], strict=False):
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(scope))
        return [part.name for part in (*find_sites(model), *find_blocks(model))]

    def test_after_modules_of_the_older_exporter(self) -> None:
        names = ["/layer1/layer1.0/act1/Relu", "/layer1/layer1.0/conv/Conv", "/layer1/layer1.0/act2/Relu"]
        assert self.named([*names, "/layer1/layer1.0/Add"]) == ["layer1.0.act1", "layer1.0.act2", "layer1.0"]

    def test_after_modules_of_the_newer_exporter(self) -> None:
        scopes = [
            ["", "stem", "conv2d"],
            ["", "layer1", "layer1.0", "layer1.0.act1", "relu"],
            ["", "layer1", "layer1.0", "layer1.0.conv", "conv2d_1"],
            ["", "layer1", "layer1.0", "relu_1"],
            ["", "layer1", "layer1.0", "add"],
        ]
        # The second is a function call in the block: its module is more than this activation.
        assert self.named(list("pqrs"), scopes) == ["layer1.0.act1", "layer1.0.relu", "layer1.0"]

    def test_a_module_that_is_used_twice(self) -> None:
        names = ["/block/relu/Relu", "/block/conv/Conv", "/block/relu/Relu_1", "/block/Add"]
        assert self.named(names) == ["block.relu", "block.relu.2", "block"]

    def test_after_nodes_or_tensors_that_say_nothing_of_modules(self) -> None:
        assert self.named(["first", "", "", ""]) == ["first", "c", "y"]

    def test_a_hostile_name_becomes_a_plain_one(self) -> None:
        names = self.named(["../../etc/passwd", "", "<b>\n\x00", "é" * 500])
        assert names == ["etc", "b", "unnamed"]

    def test_scopes_that_are_no_list_are_ignored(self) -> None:
        model = graph(self.BODY)
        model.graph.node[1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="__import__('os')")
        model.graph.node[3].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="[" * 10_000)
        assert [site.name for site in find_sites(model)] == ["a", "c"]
