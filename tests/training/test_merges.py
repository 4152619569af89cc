"""What becomes of branch and shortcut where they meet: where gates start, what is dropped, and what is refused."""

import pytest
import torch

from training.resnet.merges import MERGES, Gating
from training.resnet.network import NetworkConfig, build_network


def test_gates_start_where_the_parameter_says() -> None:
    for bias in (-6.0, 0.0, -7.0):
        given = {} if bias == -6 else {"bias": bias}
        for key in ("exclusive_gating", "shortcut_only_gating"):
            config = NetworkConfig("resnet8", shortcut=key, shortcut_parameters=given)
            gates = [part.gate for part in build_network(config).modules() if isinstance(part, Gating)]
            assert len(gates) == 3
            assert all((gate.bias == bias).all() for gate in gates if gate.bias is not None)


def test_dropout_keeps_half_of_the_shortcut_and_its_mean() -> None:
    merge = MERGES["dropout"].build
    assert merge is not None
    branch, ones = torch.zeros(4, 8, 16, 16), torch.ones(4, 8, 16, 16)
    torch.manual_seed(0)
    _, around = merge(8, {"rate": 0.25}).train()(branch, ones)
    assert around.unique().tolist() == [0, pytest.approx(4 / 3)]
    # Of 8192 draws: five standard deviations.
    assert (around == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 8192) ** 0.5)


@pytest.mark.parametrize(
    ("shortcut", "parameters", "message"),
    [
        ("sideways", {}, "unknown shortcut 'sideways'; choose from identity"),
        ("dropout", {"rate": 1.0}, "rate=1.0 of shortcut 'dropout' is not allowed: use 0 to below 1"),
        ("constant_scaling", {"branch": float("nan")}, "branch=nan of shortcut 'constant_scaling' is not allowed"),
        ("identity", {"rate": 0.5}, "shortcut 'identity' has no parameter 'rate'; it has: none"),
    ],
)
def test_impossible_shortcuts(shortcut: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(NetworkConfig("resnet8", shortcut=shortcut, shortcut_parameters=parameters))
