"""Which parameters decay and how fast each learns, of every kind that the family has."""

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.small import SilentBar, problem
from training.activations.catalogue import ACTIVATIONS
from training.activations.rectifiers import ReluActivation
from training.loop.trainer import Trainer
from training.optimisers.groups import parameter_groups
from training.recipes.recipe import Recipe
from training.resnet.heads import HEADS
from training.resnet.merges import MERGES
from training.resnet.network import NetworkConfig, build_network
from training.resnet.normalisers import NORMALISERS

CPU = torch.device("cpu")
DECAY = 0.25
NETWORK = NetworkConfig("resnet8", "prelu", classes=3, channels=1)
# By name: weights of convolutions, of linear layers, of recurrent cells in both directions, and a query.
MATRICES = (
    "*conv?.weight",
    "*downsample.0.weight",
    "*gate.weight",
    "*fc?.weight",
    "linear.weight",
    "readout.weight",
    "reader.cells.weight_?h_l*",
    "attention.weights.query",
)
CONFIGS = [
    NETWORK,
    *(replace(NETWORK, head=head) for head in HEADS),
    *(replace(NETWORK, shortcut=merge) for merge in MERGES if merge != "identity"),
    *(replace(NETWORK, normaliser=normaliser) for normaliser in NORMALISERS if normaliser != "batch"),
    replace(NETWORK, network="se_resnet8"),
]


def by_name(network: nn.Module, share: float = 1.0) -> dict[str, tuple[float, float]]:
    """(Decay, share of the learning rate) of every parameter."""
    groups = parameter_groups(network, DECAY, share)
    found = {id(p): (group.weight_decay, group.share) for group in groups for p in group.parameters}
    assert len(found) == sum(len(group.parameters) for group in groups), "each is in one group"
    return {name: found[id(parameter)] for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.network}-{c.head}-{c.shortcut}-{c.normaliser}")
def test_matrices_decay_and_nothing_else(config: NetworkConfig) -> None:
    for name, (decay, share) in by_name(build_network(config)).items():
        matrix = any(fnmatch(name, pattern) for pattern in MATRICES)
        assert (decay, share) == (DECAY if matrix else 0.0, 1.0), name


def test_every_pattern_is_met() -> None:
    names = {name for config in CONFIGS for name, _ in build_network(config).named_parameters()}
    assert [pattern for pattern in MATRICES if not any(fnmatch(name, pattern) for name in names)] == []


def test_slopes_of_any_shape_do_not_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """An activation of another package may keep one slope a channel as C×1×1."""

    class Sloped(ReluActivation):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.slope = nn.Parameter(torch.ones(channels, 1, 1))

    monkeypatch.setitem(ACTIVATIONS, "sloped", replace(ACTIVATIONS["relu"], module=Sloped))
    found = by_name(build_network(replace(NETWORK, activation="sloped")))
    assert found["act1.slope"] == (0.0, 1.0)
    assert found["linear.weight"] == (DECAY, 1.0)


def test_the_scalars_of_fixup_learn_at_a_tenth_of_the_rate_all_along() -> None:
    """Zhang 2019. Those of SkipInit learn like weights."""
    for normaliser, share in (("fixup", 0.1), ("skipinit", 1.0)):
        network = replace(NETWORK, normaliser=normaliser)
        run = Trainer(network, Recipe(epochs=3, batch_size=16, learning_rate=0.02), problem(), CPU)
        names = {id(parameter): name for name, parameter in run.model.named_parameters()}
        for step in (0, 2, 3, 8):
            run._pace.set(step)
            rates = {names[id(p)]: group["lr"] for group in run.optimiser.param_groups for p in group["params"]}
            for name, parameter in run.model.named_parameters():
                scalar = parameter.ndim == 0
                expected = rates["network.linear.weight"] * (share if scalar else 1.0)
                assert rates[name] == pytest.approx(expected), name
                assert not scalar or name.endswith((".bias", ".scale"))
        assert sum(parameter.ndim == 0 for parameter in run.model.parameters()) >= 3


def test_a_run_with_shares_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    network, recipe = replace(NETWORK, normaliser="fixup"), Recipe(epochs=2, batch_size=16, learning_rate=0.02)

    class Stop(Exception):  # noqa: N818
        pass

    class StoppingBar(SilentBar):
        def line(self, text: str) -> None:
            raise Stop(text)

    whole, first, second = (Trainer(network, recipe, problem(), CPU) for _ in range(3))
    whole.train(tmp_path / "whole.pt", SilentBar())
    with pytest.raises(Stop):
        first.train(tmp_path / "part.pt", StoppingBar())
    second.restore(tmp_path / "part.pt")
    second.train(tmp_path / "part.pt", SilentBar())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
