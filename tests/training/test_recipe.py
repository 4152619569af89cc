"""A recipe that cannot train anything is refused, and the message says what is allowed."""

import math

import pytest

from training.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "epochs": [0, -1],
        "batch_size": [1, 0],
        "learning_rate": [0.0, -0.1, math.inf, math.nan],
        "momentum": [0.0, 1.0, -0.5, math.nan],
        "weight_decay": [-1e-4, math.nan],
        "warmup_epochs": [-1.0, math.nan],
        "label_smoothing": [-0.1, 1.0, math.nan],
        "mixup_alpha": [-0.1, math.inf, math.nan],
        "cutmix_alpha": [-0.1, math.inf, math.nan],
        "averaging_epochs": [-1.0, math.nan],
        "crop_padding": [-1],
    }.items(),
)
def test_impossible_values(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name}={value} is not allowed: use "):
            Recipe(**{name: value})


@pytest.mark.parametrize(
    "allowed",
    [
        {},
        {"epochs": 1, "batch_size": 2, "warmup_epochs": 0.0, "averaging_epochs": 0.0},
        {"label_smoothing": 0.0, "weight_decay": 0.0, "crop_padding": 0},
        {"crop_padding": None, "momentum": 0.99},
        {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    ],
)
def test_possible_values(allowed: dict[str, float]) -> None:
    recipe = Recipe(**allowed)
    assert all(getattr(recipe, name) == value for name, value in allowed.items())
