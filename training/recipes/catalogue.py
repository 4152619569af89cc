"""The named recipes, and how a command line chooses one: numbers that it gives take the place of the recipe's."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

from training.optimisers.catalogue import find_optimiser
from training.recipes.fine_tune import fine_tune
from training.recipes.he2015 import he2015
from training.recipes.modern import modern
from training.recipes.quick import quick
from training.recipes.recipe import Recipe
from training.recipes.speedrun import speedrun

RECIPES: dict[str, Callable[[], Recipe]] = {
    "quick": quick,
    "he2015": he2015,
    "modern": modern,
    "speedrun": speedrun,
    "fine_tune": fine_tune,
}


def find_recipe(name: str) -> Recipe:
    """Raises `ValueError` for an unknown one."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; choose from {', '.join(RECIPES)}")
    return RECIPES[name]()


def recipe_of(arguments: Sequence[str], usual: str = "quick") -> Recipe:
    """The recipe that a command line names, or the usual one, before its other options are read.

    With another optimiser than the recipe's, rate and decay are those that suit it; with epochs, the recipe's
    iterations do not count.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe", default=usual)
    parser.add_argument("--optimiser")
    parser.add_argument("--epochs")
    try:
        given, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        # An option without its value: the command's own parser says so better.
        return find_recipe(usual)
    recipe = find_recipe(given.recipe)
    if given.epochs is not None:
        # In place of the iterations of the recipe, unless the command line has some too.
        recipe = replace(recipe, iterations=0)
    if given.optimiser in (None, recipe.optimiser):
        return recipe
    suited = find_optimiser(given.optimiser)
    return replace(
        recipe, optimiser=given.optimiser, learning_rate=suited.learning_rate, weight_decay=suited.weight_decay
    )
