"""Training recipes by name: which surveys and populations, which network, how long."""

from __future__ import annotations

from galstress.errors import UnknownNameError
from galstress.recipes.cells import CELLS
from galstress.recipes.foveal import FOVEAL
from galstress.recipes.published import PUBLISHED
from galstress.recipes.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "load_recipe"]

RECIPES: dict[str, Recipe] = {"foveal": FOVEAL, **PUBLISHED, **CELLS}
"""Recipes by name; one entry adds one to the command line."""


def load_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UnknownNameError: No such recipe.

    Example:
        >>> load_recipe("gamornet-sdss").schedule.steps
        1407000
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, tuple(RECIPES))
    return RECIPES[name]
