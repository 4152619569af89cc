"""The function of networks against the papers, over the catalogues: every key with every other key, or a reason."""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cache
from itertools import cycle, product

import pytest
import torch
from torch import Tensor, nn

from tests.training.combinations import AXES, CLASSES, KINDS, PAIRS, STAGES, Combination, pairs
from tests.training.reference import layers, parts
from tests.training.reference import network as reference
from tests.training.small import randomise, unsettle
from training.activations.catalogue import find_activation
from training.activations.entry import Activation
from training.resnet import network
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.branches import BRANCHES
from training.resnet.heads import HEADS
from training.resnet.merges import MERGES
from training.resnet.network import NetworkConfig, ResNet, assemble, build_network
from training.resnet.normalisers import NORMALISERS
from training.resnet.shortcuts import SHORTCUTS
from training.resnet.stems import STEMS
from training.resnet.variants import VARIANTS, Variant

TWINS: list[tuple[Collection[str], Collection[str]]] = [
    (STEMS, parts.STEMS), (BRANCHES, parts.BRANCHES), (SHORTCUTS, parts.SHORTCUTS), (MERGES, parts.MERGES),
    (ARRANGEMENTS, reference.ARRANGEMENTS), (NORMALISERS, layers.NORMALISERS), (HEADS, reference.HEADS),
    (STAGES, reference.STAGES),
]  # fmt: skip


def test_every_catalogue_has_its_twin() -> None:
    """A new key needs a reference in tests/training/reference."""
    for catalogue, twin in TWINS:
        assert set(catalogue) == set(twin)


@cache
def _known(key: str, parameters: tuple[tuple[str, float], ...]) -> Activation:
    # Once: each look-up reads the entry points of all installed packages.
    return find_activation(key, dict(parameters))


@pytest.fixture(autouse=True)
def _quick_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "find_activation", lambda key, given: _known(key, tuple(given.items())))


def logits_of_both(module: ResNet, variant: Variant, config: NetworkConfig, x: Tensor, training: bool) -> list[Tensor]:
    """By the reference in float64, which must use all that the network has learned; and by the network."""
    state = layers.State({name: value.double() if value.is_floating_point() else value
                          for name, value in module.state_dict().items()})  # fmt: skip
    activation = _known(config.activation, tuple(config.activation_parameters.items()))
    with torch.no_grad():
        torch.manual_seed(3)
        expected = reference.Reference(state, variant, config, activation, training).logits(x.double())
        torch.manual_seed(3)
        actual = module.train(training)(x)
    assert state.unused <= {name for name in state if training and "running" in name}
    assert expected.std() > 0.01
    return [expected, actual]


def built(combination: Combination) -> ResNet | None:
    """The network, random in every part; None where it is refused, which must say why and what to do instead."""
    try:
        module = combination.build(KINDS[combination.activation])
    except ValueError as error:
        refused = str(error)
    else:
        randomise(module)
        unsettle(module)
        return module
    chosen = [str(getattr(combination, axis)) for axis in AXES if combination.differs(axis)]
    assert any(f"'{key}'" in refused for key in chosen) or "widths of the stages must grow" in refused
    assert re.search(r"choose|leave|\w+ does$|must grow by \d", refused), refused
    return None


def assert_equals_the_papers(module: ResNet, combination: Combination, modes: Iterator[bool]) -> None:
    """In evaluation or training, whichever is next; regularisers disturb training."""
    x = torch.randn(3, 3, *combination.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    config = combination.config(KINDS[combination.activation])
    training = next(modes) and not combination.regulariser
    expected, actual = logits_of_both(module.double(), combination.variant, config, x, training)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8, msg=lambda text: f"{combination} {text}")


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_every_pair_of_keys_equals_its_papers_or_is_refused(one: str, other: str) -> None:
    modes = cycle([False, True])
    for combination in pairs(one, other):
        if (module := built(combination)) is not None:
            assert_equals_the_papers(module, combination, modes)


def in_turn(*axes: str) -> Iterator[dict[str, object]]:
    """Keys of these catalogues, the next of each every time."""
    return (dict(zip(axes, keys, strict=True)) for keys in zip(*(cycle(AXES[axis]) for axis in axes), strict=False))


# For the fourth of the keys below, which changes fastest, so that each meets all of what changes in turn.
@pytest.mark.parametrize(
    ("axes", "others"),
    [
        (("stem", "branch", "shape", "arrangement"), ("activation", "squeeze", "head", "normaliser")),
        (("shortcut", "normaliser", "branch", "arrangement"), ("activation", "groups", "stem")),
    ],
)
def test_many_keys_at_once(axes: tuple[str, ...], others: tuple[str, ...]) -> None:
    refused, modes = 0, cycle([False, True])
    choices = product(*(AXES[axis] for axis in axes))
    for keys, more in zip(choices, in_turn(*others), strict=False):
        chosen = dict(zip(axes, keys, strict=True))
        # Where what came in turn is refused, the four are held on their own.
        for combination in (Combination(**chosen | more), Combination(**chosen)):
            if (module := built(combination)) is not None:
                assert_equals_the_papers(module, combination, modes)
                break
        else:
            refused += 1
    # Normalisers that are none where the arrangement has one, and those that are silent without shortcuts.
    assert refused == (0 if "shape" in axes else 4 * (7 * 2 + 5 + 4))


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize(
    ("shortcut", "parameters"), [("constant_scaling", {"shortcut": 0.25, "branch": 1.5}), ("dropout", {"rate": 0.2})]
)
def test_parameters_of_shortcuts(shortcut: str, parameters: dict[str, float], arrangement: str) -> None:
    combination = Combination(shortcut=shortcut, arrangement=arrangement)
    config = replace(combination.config(), shortcut_parameters=parameters)
    module = assemble(combination.variant, config).double()
    randomise(module)
    for training in (False, True):
        x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        expected, actual = logits_of_both(module, combination.variant, config, x, training)
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


# One of each family, as it was published.
PUBLISHED = (
    "resnet20", "plain20", "resnet18", "resnet50", "resnet50a", "resnet50c", "resnet50d", "wrn_40_4", "resnext50_32x4d",
    "se_resnet20", "se_resnet50", "resnet164", "densenet_bc_40_12", "revnet38", "irevnet19",
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_in_single_precision(name: str) -> None:
    """Up to two blocks a stage, of which the second is like all after it."""
    variant = VARIANTS[name]
    variant = replace(variant, depths=tuple(min(depth, 2) for depth in variant.depths))
    usual = "original" if variant.stage in ("residual", "plain") else "full_preactivation"
    config = NetworkConfig(name, "relu", usual, CLASSES)
    module = assemble(variant, config)
    randomise(module)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected, actual = logits_of_both(module, variant, config, x, training=False)
    assert (actual.double() - expected).abs().max() <= 1e-5 * max(1, expected.abs().max().item())


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("activation", KINDS)
@pytest.mark.parametrize("branch", ["basic", "bottleneck"])
def test_convolutions_put_out_what_the_activation_takes_and_take_what_it_gives(
    branch: str, activation: str, arrangement: str
) -> None:
    takes, gives = {"prelu": (1, 1), "crelu": (1, 2), "maxout": (3, 1), "glu": (2, 1)}[activation]
    combination = Combination(branch=branch, activation=activation, arrangement=arrangement)
    module, expansion = combination.build(KINDS[activation]), 4 if branch == "bottleneck" else 1
    shapes = {name: tuple(value.shape[:2]) for name, value in module.state_dict().items() if value.ndim > 1}
    assert shapes["conv1.weight"] == (takes * 4, 3)
    assert shapes["layer2.1.conv1.weight"] == (takes * 16, gives * 16 * expansion)
    assert shapes[f"layer2.1.conv{3 if expansion == 4 else 2}.weight"] == (takes * 16 * expansion, gives * 16)
    assert shapes["fc.weight"] == (CLASSES, gives * 16 * expansion)


def test_a_padded_shortcut_that_narrows_is_a_projection() -> None:
    """He 2015's option A can only add channels; crelu puts out twice what a sum of the same width holds."""
    variant = replace(Combination().variant, widths=(4, 8))
    state = assemble(variant, Combination(activation="crelu", arrangement="original").config()).state_dict()
    shape = {name: tuple(state[f"{name}.downsample.0.weight"].shape) for name in ("layer1.0", "layer2.1")}
    assert shape == {"layer1.0": (4, 8, 1, 1), "layer2.1": (8, 16, 1, 1)}
    # Twice 4 channels leave the first stage, and 8 are summed in the second: nothing to add, nothing to take away.
    assert not [name for name in state if name.startswith("layer2.0.downsample")]
    plain = assemble(variant, Combination(arrangement="original").config()).state_dict()
    assert not [name for name in plain if "downsample" in name]


def test_squeezing_keeps_its_relu_and_a_channel() -> None:
    """Whatever the network's activation, and it is no site."""
    parts_of = Combination(squeeze=2).build().named_modules()
    gates = [part for name, part in parts_of if name.endswith(".se.relu")]
    assert len(gates) == 3
    assert all(isinstance(gate, nn.ReLU) for gate in gates)
    assert build_network(NetworkConfig("se_resnet20")).get_submodule("layer1.0.se.fc1").out_channels == 1
