"""The benchmarks of activations measure what they say; speed itself is nothing to test."""

from torch import Tensor

from benchmarks.activation_networks import activation_networks
from benchmarks.activations import activations
from benchmarks.plain_export import export_plainly
from service.runtime.provider import CPU
from training.activations.rectifiers import ReluActivation

KEYS = ("relu", "mish", "glu")


class UnexportableActivation(ReluActivation):
    def formula(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_activations_alone() -> None:
    rows = activations(KEYS, rounds=2)
    assert [row["activation"] for row in rows] == list(KEYS)
    assert [row["plain operators"] for row in rows] == ["Relu", "Mish", "Split·Sigmoid·Mul"]
    for row in rows:
        assert float(row["ours error"]) < 1e-6
        assert float(row["ours ns"]) > 0
        assert row["failure"] == ""


def test_the_standard_operator_where_the_plain_export_is_not_it() -> None:
    (row,) = activations(["softsign"], rounds=2)
    assert row["plain operators"] == "Abs·Add·Div"
    assert row["standard operator"] == "Softsign"
    assert float(row["standard ns"]) > 0


def test_an_activation_in_the_first_arrangement_that_stays_finite() -> None:
    rows = activation_networks(["squared_relu"], rounds=2)
    assert [(row["arrangement"], row["batch"]) for row in rows] == [
        ("full_preactivation", "1"),
        ("full_preactivation", "8"),
    ]
    for row in rows:
        assert float(row["logits difference"]) < 1e-4
        assert row["failure"] == ""


def test_a_plain_export_that_fails_says_why() -> None:
    plain = export_plainly(UnexportableActivation(4), (4, 8, 8), CPU)
    assert plain.graph is None
    assert plain.failure.startswith("plain export: ")
