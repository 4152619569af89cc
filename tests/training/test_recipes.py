"""Named recipes, the command line that chooses one, and the page that lists them."""

from dataclasses import asdict, fields, replace

import pytest

from docs.recipe_table import recipe_table
from tests.training.conftest import ROOT
from training.loop.checkpoint import Saving
from training.loop.schedule import SCHEDULES
from training.optimisers.catalogue import OPTIMISERS
from training.outcomes import DivergedError, LostProcessError, UnwritableError
from training.recipes.catalogue import RECIPES, recipe_of
from training.recipes.recipe import Recipe


@pytest.mark.parametrize("name", RECIPES)
def test_each_knows_its_name_and_what_it_names_exists(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.recipe == name
    assert recipe.optimiser in OPTIMISERS
    assert recipe.schedule in SCHEDULES
    assert RECIPES[name].__doc__


def test_quick_is_the_default() -> None:
    assert RECIPES["quick"]() == Recipe()


def test_the_papers_numbers() -> None:
    """He 2015, section 4.2: 64k iterations of 128, weight decay 0.0001, momentum 0.9, rate 0.1, no warm-up."""
    recipe = RECIPES["he2015"]()
    assert (recipe.iterations, recipe.batch_size, recipe.weight_decay) == (64_000, 128, 1e-4)
    assert (recipe.learning_rate, recipe.momentum, recipe.crop_padding) == (0.1, 0.9, 4)
    # Of 50,000 images; 45,000 in the paper, which holds out some more to choose the schedule by.
    assert recipe.whole_epochs(391) == 164


def test_a_command_line_chooses() -> None:
    assert recipe_of(["train"]) == Recipe()
    assert recipe_of(["train", "--recipe", "modern", "--seed", "3"]) == RECIPES["modern"]()
    assert recipe_of(["train", "--recipe=he2015", "--epochs", "3"]).iterations == 0
    assert recipe_of(["train", "--recipe", "he2015", "--help"]).iterations == 64_000
    with pytest.raises(ValueError, match="unknown recipe 'fast'; choose from quick, he2015, modern, speedrun"):
        recipe_of(["train", "--recipe", "fast"])
    assert recipe_of(["train", "--recipe"]) == Recipe()


def test_another_optimiser_brings_its_own_rate() -> None:
    entry = OPTIMISERS["adamw"]
    expected = {"optimiser": "adamw", "learning_rate": entry.learning_rate, "weight_decay": entry.weight_decay}
    chosen = asdict(recipe_of(["train", "--optimiser", "adamw"]))
    assert chosen == asdict(replace(Recipe(), **expected))  # type: ignore[arg-type]
    assert recipe_of(["train", "--recipe", "speedrun", "--optimiser", "muon"]) == RECIPES["speedrun"]()


def test_the_page_shows_every_recipe_and_every_way_to_end() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    assert recipe_table() in page
    assert all(f"- `{name}`" in page for name in RECIPES)
    assert all(f"`--{field.name.replace('_', '-')}" in page for field in fields(Saving))
    failures = {(each.outcome, each.code) for each in (DivergedError, UnwritableError, LostProcessError)}
    assert all(f"| {code} | `{outcome}` |" in page for outcome, code in failures)
    assert "| 130, 143 | `stopped` |" in page
    known = {*OPTIMISERS, *SCHEDULES}
    assert [name for name in known if f"`{name}`" not in page] == []
