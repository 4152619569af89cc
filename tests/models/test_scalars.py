"""What a prediction is reduced to, by formulas in float64; names of scalars that a model has."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.instrument import instrument
from models.statistics.layers import StatisticsReader
from models.statistics.scalars import Scalar, Scalars, prediction_scalars
from tests.models import graphs


@settings(deadline=None)
@given(logits=st.lists(st.floats(-500, 500, width=32), min_size=2, max_size=6))
def test_prediction_by_its_formulas(logits: list[float]) -> None:
    largest = max(logits)
    total = math.fsum(math.exp(value - largest) for value in logits)
    shares = sorted(math.exp(value - largest) / total for value in logits)
    entropy = -math.fsum(p * math.log(p) for p in shares if p > 0)
    values = {name: column[0] for name, column in prediction_scalars(np.array([logits], np.float32)).items()}
    assert values["entropy"] == pytest.approx(entropy, rel=1e-10, abs=1e-12)
    assert values["margin"] == pytest.approx(shares[-1] - shares[-2], rel=1e-10, abs=1e-12)
    assert values["energy"] == pytest.approx(-largest - math.log(total), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_say_nothing(broken: float) -> None:
    values = prediction_scalars(np.array([[0, broken, 1], [0, 2, 1]], np.float32))
    for column in values.values():
        assert np.isnan(column).tolist() == [True, False]


def test_extreme_logits_do_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    values = prediction_scalars(np.array([[largest, -largest]], np.float32))
    assert [column[0] for column in values.values()] == [0, 1, -largest]


@pytest.mark.parametrize("activation", graphs.ACTIVATIONS)
def test_a_column_is_what_its_name_says(activation: str) -> None:
    manifest = graphs.manifest(activation, zero_is_dead=True)
    outputs = graphs.run(instrument(graphs.graph(activation), manifest), graphs.images(6))
    scalars, reader = Scalars(manifest), StatisticsReader(manifest)
    rows = scalars.of(outputs)
    assert rows.shape == (6, len(scalars.names))
    assert len(set(scalars.names)) == len(scalars.names)
    for image in range(6):
        answered = reader.image(outputs, image, channels=False)
        expected = {
            Scalar(layer.layer, name): value
            for layer in answered.layers
            for name, value in layer.model_dump(exclude={"layer", "activation", "finite", "channels"}).items()
            if value is not None
        } | {Scalar(block.block, "residual_share"): block.residual_share for block in answered.blocks}
        expected |= {
            Scalar("prediction", name): column[image] for name, column in prediction_scalars(outputs["logits"]).items()
        }
        actual = dict(zip(scalars.names, rows[image].tolist(), strict=True))
        assert {name: value for name, value in actual.items() if not math.isnan(value)} == pytest.approx(expected)


def test_no_scalar_is_infinite() -> None:
    manifest = graphs.manifest("never")
    pixels = graphs.images(4)
    pixels[1], pixels[2] = np.inf, 0
    outputs = graphs.run(instrument(graphs.graph("never"), manifest), pixels)
    rows = Scalars(manifest).of(outputs)
    assert np.isnan(rows[1]).all()
    assert not np.isinf(rows).any()
    assert np.isfinite(rows[[0, 3]]).all()
