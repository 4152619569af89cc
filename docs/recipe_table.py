"""The table of named recipes in docs/training.md."""

from dataclasses import fields

from docs.markdown import table
from training.recipes.catalogue import RECIPES
from training.recipes.recipe import Recipe


def recipe_table() -> str:
    """One row for each option in which recipes differ, and a column for each recipe, in Markdown."""
    recipes = [make() for make in RECIPES.values()]
    lines = [["option", *(f"`{name}`" for name in RECIPES)]]
    for field in fields(Recipe):
        values = [_shown(getattr(recipe, field.name)) for recipe in recipes]
        if field.name != "recipe" and len(set(values)) > 1:
            lines.append([f"`--{field.name.replace('_', '-')}`", *values])
    return table(lines)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "–"
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)
