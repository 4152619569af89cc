"""What the service says of a graph it did not make is what the training package says of its own."""

import logging
import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from models.sites import find_blocks, find_sites
from models.sites.groupings import CRELU, GLU, Grouping
from models.sites.meaning import recognise
from models.sites.moments import normal_moments
from tests.training.cases import ELEMENTWISE, Case
from tests.training.small import calibrate, classifier
from training.activations.catalogue import find_activation
from training.activations.meaning import normal_moments as training_moments
from training.classifier import PixelClassifier
from training.export.graph import export
from training.export.sites import describe_site

# Functions that have one name there: what was drawn in training cannot be told from the graph.
SAME = {"rrelu": "leaky_relu", "prelu_shared": "leaky_relu"}
# The identity is an activation only where a node of our own says so; slopes of almost 0, whether drawn or learned, are
# those of a ReLU; and beyond 80 nothing is looked at.
LEFT_OUT = {
    "identity",
    "rrelu-lower=0-upper=0",
    "rrelu-lower=0-upper=0.01",
    "prelu_shared-convex",
    "soft_relu-threshold=80",
}


def agree(actual: float | None, expected: float | None) -> bool:
    return actual is expected or (actual is not None and actual == pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize("case", [case for case in ELEMENTWISE if str(case) not in LEFT_OUT], ids=str)
def test_the_meaning_of_every_activation_is_that_of_the_training_catalogue(case: Case) -> None:
    module = case.build()
    channels = module.channels if case.key in ("prelu", "swish_beta") else 1

    def f(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return case.expected(module, np.broadcast_to(x, (1, module.channels, 1, len(x))))[0, :channels, 0]

    known = recognise(f, case.key)
    assert known is not None
    key, meaning = known
    expected = describe_site("a", "a", case.key, case.entry, module)
    slopeless = case.key == "leaky_relu" and case.entry.parameters["alpha"] == 0
    assert key == ("relu" if slopeless else SAME.get(case.key, case.key))
    assert expected.output_range is not None
    bounds = (bound if math.isfinite(bound) else None for bound in meaning.output_range)
    assert all(map(agree, bounds, expected.output_range))
    assert (meaning.output_range[0] < 0) == expected.signed
    assert meaning.zero_is_dead == expected.zero_is_dead
    assert (meaning.saturation is None) == (expected.saturation is None)
    if meaning.saturation is not None and expected.saturation is not None:
        assert agree(meaning.saturation.below, expected.saturation.below)
        assert agree(meaning.saturation.above, expected.saturation.above)
    moments = training_moments(case.entry, module)
    assert moments is not None
    assert normal_moments(f, meaning.kinks) == pytest.approx((moments.mean, moments.variance), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("grouping", "key"), [(CRELU, "crelu"), (GLU, "glu")])
def test_the_moments_of_groups_of_channels(grouping: Grouping, key: str) -> None:
    case = Case(key)
    moments = training_moments(case.entry, case.build())
    assert moments is not None
    assert grouping.moments == pytest.approx((moments.mean, moments.variance), rel=1e-9, abs=1e-12)


def ready(activation: str, arrangement: str) -> PixelClassifier:
    given = classifier("resnet8", activation, arrangement)
    calibrate(given, 16)
    return given.eval()


OWN = ["relu", "swish", "mish", "gelu", "crelu", "prelu"]
ARRANGEMENTS = ("original", "full_preactivation")


@pytest.mark.parametrize(("number", "activation"), list(enumerate(OWN)), ids=lambda value: str(value))
def test_our_own_exports_are_read_as_the_export_describes_them(number: int, activation: str) -> None:
    exported = export(ready(activation, ARRANGEMENTS[number % 2]), activation, (3, 16, 16))
    sites = find_sites(exported.model)
    assert find_blocks(exported.model) == exported.blocks
    for actual, expected in zip(sites, exported.sites, strict=True):
        told = ("normal_mean", "normal_variance", "saturation", "output_range")
        assert actual.model_dump(exclude=set(told)) == expected.model_dump(exclude=set(told))
        assert actual.normal_mean == pytest.approx(expected.normal_mean, rel=1e-6, abs=1e-6)
        assert actual.normal_variance == pytest.approx(expected.normal_variance, rel=1e-6)
        assert actual.output_range is not None
        assert expected.output_range is not None
        assert all(map(agree, actual.output_range, expected.output_range))
        assert (actual.saturation is None) == (expected.saturation is None)
        if actual.saturation is not None and expected.saturation is not None:
            assert agree(actual.saturation.below, expected.saturation.below)
            assert agree(actual.saturation.above, expected.saturation.above)


class Plain(torch.nn.Module):
    """An activation as PyTorch has it, in place of one of ours."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = getattr(torch.nn.functional, function)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.function(x)
        return y


PLAIN = {"relu": "relu", "swish": "silu", "mish": "mish", "gelu": "gelu"}


@pytest.mark.parametrize(
    ("activation", "arrangement", "newer"),
    [
        ("relu", "original", True),
        ("swish", "full_preactivation", True),
        ("mish", "original", False),
        ("gelu", "full_preactivation", False),
    ],
)
def test_a_plain_export_of_the_same_network_shows_the_same(
    activation: str, arrangement: str, newer: bool, tmp_path: Path
) -> None:
    given = ready(activation, arrangement)
    exported = export(given, activation, (3, 16, 16))
    for name, module in list(given.named_modules()):
        if isinstance(module, type(find_activation(activation).build(1))):
            path, _, last = name.rpartition(".")
            setattr(given.get_submodule(path), last, Plain(PLAIN[activation]))
    file = tmp_path / "plain.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        options = {"opset_version": 18, "external_data": False} if newer else {"opset_version": 17}
        torch.onnx.export(given, (torch.zeros(1, 3, 16, 16),), file, dynamo=newer, verbose=False, **options)
    model = onnx.load(file)
    sites, blocks = find_sites(model), find_blocks(model)
    assert [(site.activation, site.channels, site.name) for site in sites] == [
        (site.activation, site.channels, f"network.{site.name}") for site in exported.sites
    ]
    assert [block.name for block in blocks] == [f"network.{block.name}" for block in exported.blocks]
    closed = [block.output in {site.tensor for site in sites} for block in blocks]
    assert closed == [block.output in {site.tensor for site in exported.sites} for block in exported.blocks]
