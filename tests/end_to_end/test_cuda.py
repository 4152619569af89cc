"""CUDA against the CPU, for every activation: the same graph, the same weights, the same images."""

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.networks import random_pixels, untrained
from models.instrument import instrument
from models.overloads import choose_overload
from models.statistics.layout import output_widths
from service.runtime.model import OVERLOADS
from service.runtime.provider import CPU, CUDA
from service.runtime.sessions import Sessions
from tests.training.cases import CASES, Case, grid
from tests.training.test_activation_bodies import TOLERANCE, bodies, one_node_model
from training.activations.catalogue import ACTIVATIONS
from training.export import INPUT, OUTPUT
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.network import NetworkConfig

pytestmark = pytest.mark.gpu


def served(graph: onnx.ModelProto, provider: str) -> onnxruntime.InferenceSession:
    """A session as the service opens it: each activation with its body for the provider."""
    return Sessions(provider, threads=1).open(choose_overload(graph, OVERLOADS[provider]).SerializeToString())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_and_statistics_equal_the_cpu(activation: str, arrangement: str) -> None:
    if activation == "squared_relu" and arrangement == "original":
        pytest.skip("squares that follow squares leave float32 in a network without training")
    graph, manifest = untrained(NetworkConfig("resnet8", activation, arrangement), 32)
    names = [OUTPUT, *output_widths(manifest)]
    feed = {INPUT: random_pixels(4, 32)}
    instrumented = instrument(graph, manifest)
    sessions = [served(instrumented, provider) for provider in (CPU, CUDA)]
    expected, actual = (dict(zip(names, session.run(names, feed), strict=True)) for session in sessions)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_equals_the_formula(case: Case) -> None:
    module = case.build()
    overload = "cuda" if "cuda" in bodies(module.node()) else ""
    session = Sessions(CUDA, threads=1).open(one_node_model(module, overload).SerializeToString())
    x = grid(case)
    actual = session.run(None, {"x": x})[0]
    assert np.isfinite(actual).all()
    error = np.abs(actual - case.expected(module, x)) / case.size(module, x)
    assert error.max() <= TOLERANCE, f"{error.max():.1e}"
