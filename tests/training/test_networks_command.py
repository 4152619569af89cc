"""`python -m training networks`, as people and programs run it."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from training.commands.networks import networks
from training.resnet.arrangements import ARRANGEMENTS
from training.resnet.facts import base_config, combinations, gather, refusal, summary
from training.resnet.heads import HEADS
from training.resnet.network import build_network
from training.resnet.variants import SERIES, VARIANTS

SOME = ("resnet8", "resnet20", "densenet_bc_40_12")


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(VARIANTS) - set(SOME):
        monkeypatch.delitem(VARIANTS, name)


@pytest.mark.usefixtures("_few")
def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    networks()
    printed = capsys.readouterr().out
    for key in SOME:
        (line,) = (line for line in printed.splitlines() if line.split()[:1] == [key])
        assert " ".join(line.split()) == " ".join(summary(gather(key)).values())
    assert all(name in printed for name in SERIES)


@pytest.mark.usefixtures("_few")
def test_json_is_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    networks(json=True)
    printed = json.loads(capsys.readouterr().out)
    assert sorted(printed) == sorted(SOME)
    assert printed["resnet20"]["parameters"] == 269722
    assert printed["resnet20"]["depths"] == [3, 3, 3]


def test_one_is_shown_with_what_combines_and_why_the_rest_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    networks("plain20")
    printed = capsys.readouterr().out
    assert f"--arrangement {', '.join(ARRANGEMENTS)}" in " ".join(printed.split())
    assert "--shortcut identity, none --normaliser" in " ".join(printed.split())
    assert "refused" in printed
    assert "network 'plain20' has no shortcuts, so there is no place for shortcut 'conv_1x1'" in printed
    networks("plain20", json=True)
    options = json.loads(capsys.readouterr().out)["plain20"]["options"]
    assert options["head"] == dict.fromkeys(HEADS, "")
    assert "has no shortcuts" in options["shortcut"]["conv_1x1"]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown network 'resnet19'"):
        networks("resnet19")


@pytest.mark.parametrize("key", ["resnet20", "plain20", "densenet_bc_40_12", "revnet38"])
def test_what_is_said_to_combine_can_be_built_and_the_rest_cannot(key: str) -> None:
    """Said of shallow networks, and true of whole ones."""
    base = base_config(key)
    assert refusal(base) == ""
    for option, values in combinations(key).items():
        for value, reason in values.items():
            change: dict[str, Any] = {"regularisers": {value: 0.1}} if option == "regulariser" else {option: value}
            with torch.device("meta"):
                if not reason:
                    build_network(replace(base, **change))
                    continue
                with pytest.raises(ValueError, match=value) as caught:
                    build_network(replace(base, **change))
                assert str(caught.value) == reason
