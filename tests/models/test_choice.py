import json

import pytest

from models.choice import Choice, parse_choice
from models.policy import VersionPolicy, parse_policy, policy_of


@pytest.mark.parametrize("label", ["", "7", "7a", "Stable", "a.b", "a/b", "..", "é", "a" * 33, "a ", "a\n", "-a"])
def test_labels_that_could_be_taken_for_something_else_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        Choice().labelled(label, 1)
    with pytest.raises(ValueError, match="is not allowed"):
        parse_choice(json.dumps({"labels": {label: 1}}).encode())


@pytest.mark.parametrize("label", ["a", "stable", "canary-2", "blue_green", "a" * 32])
def test_a_choice_is_read_as_it_was_written(label: str) -> None:
    choice = Choice(default=3, previous=(1, 2), labels={"other": 4}).labelled(label, 7)
    assert parse_choice(choice.to_bytes()) == choice
    assert choice.labels == {"other": 4, label: 7}
    assert choice.labelled(label, None).labels == {"other": 4}


@pytest.mark.parametrize("first", [("a", "b", "c"), ("c", "b", "a"), ("b", "a", "c")])
def test_shares_that_are_everything_can_be_read_in_any_order(first: tuple[str, ...]) -> None:
    """47.2 + 49.1 + 3.7 is 100.00000000000001, and 3.7 + 49.1 + 47.2 is 100."""
    choice, percent = Choice(), {"a": 47.2, "b": 49.1, "c": 3.7}
    for label in first:
        choice = choice.labelled(label, 1, percent[label])
    assert parse_choice(choice.to_bytes()) == choice
    with pytest.raises(ValueError, match="all labels together"):
        choice.labelled("d", 1, 0.1)


def test_what_has_a_label_gives_its_number_to_no_other() -> None:
    """It would have its share from its first moment on."""
    assert Choice(labels={"canary": 4}, shares={"canary": 5.0}, withheld=(3,)).next_number([1, 2]) == 5


def test_only_so_many_defaults_and_labels_are_remembered() -> None:
    choice = Choice()
    for version in range(1, 100):
        choice = choice.after(version).after(version)
    assert choice.previous == tuple(range(84, 100))
    for number in range(64):
        choice = choice.labelled(f"l{number}", 1)
    with pytest.raises(ValueError, match="at most 64 labels"):
        choice.labelled("more", 1)


@pytest.mark.parametrize(
    ("previous", "default", "versions", "expected"),
    [
        ((1, 2), 3, [1, 2, 3], (2, (1,))),
        ((1, 2), 3, [1, 3], (1, ())),
        ((4, 2), 2, [2, 4], (4, ())),
        ((), 3, [1, 2, 3, 4], (2, ())),
        ((9,), 3, [1, 3], (1, ())),
    ],
)
def test_a_rollback_goes_to_the_last_default_that_is_there(
    previous: tuple[int, ...], default: int, versions: list[int], expected: tuple[int, tuple[int, ...]]
) -> None:
    back = Choice(default=default, previous=previous).rolled_back(default, versions)
    assert (back.default, back.previous) == expected


@pytest.mark.parametrize(("default", "versions"), [(1, [1, 2]), (None, [1, 2]), (3, [])])
def test_there_may_be_nothing_to_go_back_to(default: int | None, versions: list[int]) -> None:
    with pytest.raises(ValueError, match="nothing to go back to"):
        Choice().rolled_back(default, versions)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"latest": 0}',
        '{"latest": "2"}',
        '{"latest": true}',
        '{"latest": 1, "all": true}',
        '{"all": false}',
        '{"more": 1}',
        '{"versions": []}',
        '{"versions": [0]}',
    ],
)
def test_policies_that_are_none_are_refused(content: str) -> None:
    with pytest.raises(ValueError, match=r"policy\.json is not valid"):
        parse_policy(content.encode())


@pytest.mark.parametrize(
    ("content", "candidates"),
    [('{"latest": 2}', [5, 3, 1]), ('{"versions": [1, 5, 8]}', [5, 1]), ('{"all": true}', [5, 3, 1])],
)
def test_what_a_policy_may_keep(content: str, candidates: list[int]) -> None:
    assert parse_policy(content.encode()).candidates([1, 3, 5]) == candidates


def test_what_is_said_of_the_name_wins() -> None:
    named, own, every = VersionPolicy(latest=2), VersionPolicy(latest=3), VersionPolicy(latest=4)
    assert policy_of("net", {"net": named, "*": every}, own) == named
    assert policy_of("net", {"*": every}, own) == own
    assert policy_of("net", {"*": every}, None) == every
    assert policy_of("net", {}, None) == VersionPolicy(latest=1)
