"""CUDA against the CPU, for every activation: the same graph, the same weights, the same images."""

import numpy as np
import pytest

from benchmarks.networks import random_pixels, untrained
from models.instrument import instrument
from models.statistics.layout import output_widths
from service.runtime.provider import CPU, CUDA
from service.runtime.sessions import Sessions
from training.activations.catalogue import ACTIVATIONS
from training.export import INPUT, OUTPUT
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.network import NetworkConfig

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_and_statistics_equal_the_cpu(activation: str, arrangement: str) -> None:
    graph, manifest = untrained(NetworkConfig("resnet8", activation, arrangement), 32)
    names = [OUTPUT, *output_widths(manifest)]
    feed = {INPUT: random_pixels(4, 32)}
    instrumented = instrument(graph, manifest).SerializeToString()
    sessions = [Sessions(provider, threads=1).open(instrumented) for provider in (CPU, CUDA)]
    expected, actual = (dict(zip(names, session.run(names, feed), strict=True)) for session in sessions)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
