"""Every rule is documented with its number of images and its gravest severity."""

from pathlib import Path

import pytest

from models.diagnosis.rules import RULES

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


@pytest.mark.parametrize("name", RULES)
def test_the_page_says_what_the_catalogue_says(name: str) -> None:
    rule = RULES[name]
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    *_, images, gravest, needs, end = row.split(" |")
    assert (images.strip(), gravest.strip(), end) == (str(rule.images), rule.severity, "")
    assert needs.strip() == ("yes" if rule.needs_baseline else "")


def test_the_page_has_no_rule_that_does_not_exist() -> None:
    rules = PAGE.read_text().split("## Findings")[1].split("### Drift")[0]
    rows = [line.split("`")[1] for line in rules.splitlines() if line.startswith("| `")]
    assert rows == list(RULES)
