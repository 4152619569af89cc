"""Activations that cannot be had: unknown names, unknown parameters, impossible values and numbers of channels."""

import math
import re
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from tests.training.cases import CASES, ENTRIES, KEYS, Case
from training.activations import catalogue
from training.activations.catalogue import ACTIVATIONS, find_activation
from training.resnet.network import NetworkConfig, build_network

INFINITE, NO_NUMBER = math.inf, math.nan
POSITIVE = "use a finite number above 0"
BETWEEN = "use 0 ≤ alpha < 1"
PIECES = "use a whole number of pieces, at least 2"

# Key, parameters, what the message must say: the value, and what is allowed.
IMPOSSIBLE: list[tuple[str, dict[str, float], list[str]]] = [
    *(
        (key, {name: value}, [f"{name}={value}", POSITIVE])
        for key, name in [
            ("elu", "alpha"),
            ("celu", "alpha"),
            ("soft_relu", "threshold"),
            *((f"dynamic_relu_{form}", scale) for form in "abc" for scale in ("lambda_a", "lambda_b")),
        ]
        for value in (0.0, -1.0, INFINITE, -INFINITE, NO_NUMBER)
    ),
    ("soft_relu", {"threshold": 80.5}, ["threshold=80.5", "use at most 80"]),
    *(("leaky_relu", {"alpha": value}, [f"alpha={value}", BETWEEN]) for value in (-0.1, 1.0, INFINITE, NO_NUMBER)),
    *(
        ("rrelu", {"lower": low, "upper": high}, [f"lower={low}", f"upper={high}", "0 ≤ lower ≤ upper < 1"])
        for low, high in [(0.4, 0.3), (-0.1, 0.3), (0.1, 1.0), (NO_NUMBER, 0.3), (0.1, NO_NUMBER)]
    ),
    *(("maxout", {"k": value}, [f"k={value}", PIECES]) for value in (1, 0, -2, 2.5, INFINITE, NO_NUMBER)),
    *(
        (f"dynamic_relu_{form}", {"reduction": value}, [f"reduction={value}", "use a whole number, at least 1"])
        for form in "abc"
        for value in (0, 0.5, -4, 2.5, INFINITE, NO_NUMBER)
    ),
]


@pytest.mark.parametrize(("key", "parameters", "message"), IMPOSSIBLE, ids=str)
def test_impossible_parameters(key: str, parameters: dict[str, float], message: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(message[0])) as caught:
        find_activation(key, parameters).build(12)
    assert all(part in str(caught.value) for part in message)


@pytest.mark.parametrize(("key", "parameters", "message"), IMPOSSIBLE, ids=str)
def test_impossible_parameters_of_a_network(key: str, parameters: dict[str, float], message: list[str]) -> None:
    """The layers before the activation ask for its factor first: they must not stumble over the value."""
    with pytest.raises(ValueError, match=re.escape(message[0])) as caught:
        build_network(NetworkConfig("resnet8", key, activation_parameters=parameters))
    assert all(part in str(caught.value) for part in message)


def test_every_parameter_has_impossible_values() -> None:
    wanted = {(key, name) for key, entry in ENTRIES.items() for name in entry.parameters}
    assert {(key, name) for key, parameters, _ in IMPOSSIBLE for name in parameters} == wanted, (
        "write what is impossible for a new parameter into IMPOSSIBLE"
    )


@pytest.mark.parametrize("channels", [0, -1])
@pytest.mark.parametrize("key", KEYS)
def test_impossible_channels(key: str, channels: int) -> None:
    with pytest.raises(ValueError, match=f"channels={channels} is not allowed.*at least 1"):
        Case(key).entry.build(channels)


@pytest.mark.parametrize(
    ("key", "parameters", "channels", "message"),
    [
        ("glu", {}, 3, "channels=3 of glu is not allowed: .*even"),
        ("maxout", {}, 3, "channels=3 of maxout is not allowed: k=2 must divide it"),
        ("maxout", {"k": 3}, 4, "channels=4 of maxout is not allowed: k=3 must divide it"),
    ],
)
def test_channels_that_do_not_fit(key: str, parameters: dict[str, float], channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_activation(key, parameters).build(channels)


def test_unknown_activation_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown activation 'gleu'; choose from") as caught:
        find_activation("gleu")
    listed = str(caught.value).split("choose from ")[1].split(", ")
    assert set(listed) == set(KEYS)
    assert len(listed) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_unknown_parameter_lists_the_known_ones(key: str) -> None:
    with pytest.raises(ValueError, match=f"unknown parameter apha of activation {key}; it has ") as caught:
        find_activation(key, {"apha": 1.0})
    known = str(caught.value).split("it has ")[1]
    assert known == (", ".join(ENTRIES[key].parameters) or "no parameters")


@pytest.mark.parametrize("case", [case for case in CASES if case.parameters], ids=str)
def test_parameters_are_taken_and_the_catalogue_keeps_its_defaults(case: Case) -> None:
    before = dict(ACTIVATIONS[case.key].parameters)
    assert case.entry.parameters == {**before, **dict(case.parameters)}
    assert ACTIVATIONS[case.key].parameters == before


def test_every_key_is_found_by_its_name() -> None:
    assert list(ENTRIES)[: len(ACTIVATIONS)] == list(ACTIVATIONS)
    assert len(ACTIVATIONS) == 35
    for key in ACTIVATIONS:
        assert find_activation(key).formula == ACTIVATIONS[key].formula


OTHER = "tests.training.test_activation_parameters:EXTERNAL"
EXTERNAL = ACTIVATIONS["relu"]


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """As if packages with these entry points were installed: (key, object reference)."""
    found = EntryPoints(EntryPoint(name, value, catalogue.ENTRY_POINTS) for name, value in points)
    monkeypatch.setattr(catalogue, "entry_points", lambda **wanted: found.select(**wanted))


def test_an_installed_activation_is_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("other", OTHER))
    assert find_activation("other").formula == EXTERNAL.formula
    assert list(catalogue.catalogue()) == [*ACTIVATIONS, "other"]
    with pytest.raises(ValueError, match=r"unknown activation 'gleu'; choose from .*other"):
        find_activation("gleu")


@pytest.mark.parametrize(
    ("points", "key", "message"),
    [
        ([("relu", OTHER)], "relu", rf"'relu' is taken more than once \({OTHER}\): rename"),
        ([("other", OTHER), ("other", "elsewhere:X")], "other", "'other' is taken more than once .*elsewhere:X"),
        (
            [("other", "no_such_package:X")],
            "other",
            r"'other' \(no_such_package:X\) cannot be loaded: .*no_such_package",
        ),
        ([("other", OTHER + "S")], "other", "cannot be loaded: .*EXTERNALS"),
        ([("other", OTHER[:-8] + "POSITIVE")], "other", "is of type str, not Activation"),
    ],
)
def test_an_entry_point_that_cannot_be_used(
    points: list[tuple[str, str]], key: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *points)
    with pytest.raises(ValueError, match=message):
        find_activation(key)
