"""Our recipes for the six cells: GaMorNet and GaMPEN on SDSS, HSC and the HST legacy fields.

Beside the published ones they change: galaxies are drawn anew for as long as the training runs, at any angle, with PSF,
sky and gain that vary as real ones do, and some of them with neighbours and structure; pixels come in units of the
sky's rms, stretched; radius and flux are learned relative to what an aperture measures; AdamW warms up and cools down,
and the weights are averaged; error bars and probabilities are set on galaxies that were in no training.
"""

from __future__ import annotations

from collections.abc import Mapping

from galstress.recipes.published import published_surveys
from galstress.recipes.recipe import Recipe
from galstress.training import Schedule

__all__ = ["CELLS"]

_DEEP = {"cosmos": 0.8, "nearby": 0.2}
_HALF = {"cosmos": 0.5, "nearby": 0.5}


def _cell(
    name: str, surveys: Mapping[str, Mapping[str, float]], stamp_px: int, *, width: float, steps: int, batch: int
) -> Recipe:
    """One cell; the backbone is the first word of its name."""
    backbone, at_once = name.partition("-")[0], 2
    rate = 1e-3 if backbone == "gamornet" else 7e-4
    return Recipe(
        name=f"{name}-improved",
        surveys=surveys,
        stamps=dict.fromkeys(surveys, (stamp_px,)),
        backbone={"name": backbone, "stamp_px": stamp_px, "width": width, "pixels": "sky"},
        schedule=Schedule(steps=steps, learning_rate=rate, warm_up=300, cool_down=0.9, weight_decay=1e-3),
        head="classes" if backbone == "gamornet" else "triple",
        at_once=at_once, per_survey=batch // at_once, block=256, exposures=16, neighbour_share=0.25, cut_share=0.05,
        faintest_snr=0.0 if backbone == "gamornet" else 6.0, structured_share=0.25, nominal_share=0.5,
        own_surveys=published_surveys(),
    )  # fmt: skip


_SDSS_CLASSES = {"gamornet-sdss": 1.0}
CELLS: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _cell(
            "gamornet-sdss",
            {
                "gamornet-sdss": _SDSS_CLASSES,
                "gamornet-sdss-photon": _SDSS_CLASSES,
                "sdss-g": {"gamornet-sdss": 0.3, "nearby": 0.7},
                "sdss-r": {"gamornet-sdss": 0.3, "nearby": 0.7},
            },
            167, width=0.125, steps=4000, batch=128,
        ),
        _cell(
            "gamornet-hst",
            {
                "gamornet-candels": {"gamornet-candels": 1.0},
                "hst-wfc3-f160w": {"gamornet-candels": 0.4, "cosmos": 0.6},
                "hst-candels-f125w": {"gamornet-candels": 0.3, "cosmos": 0.7},
                "hst-candels-f814w": _DEEP,
            },
            83, width=0.25, steps=12000, batch=128,
        ),
        _cell(
            "gamornet-hsc",
            {
                "hsc-wide-g": {"gampen-hsc-g": 0.5, "nearby": 0.5},
                "hsc-wide-r": _HALF,
                "hsc-wide-i": _DEEP,
            },
            143, width=0.125, steps=4000, batch=128,
        ),
        _cell(
            "gampen-hsc",
            {
                "hsc-wide-g": {"gampen-hsc-g": 0.9, "nearby": 0.1},
                "hsc-wide-i": {"gampen-hsc-g": 0.4, "cosmos": 0.3, "nearby": 0.3},
            },
            96, width=0.125, steps=9000, batch=64,
        ),
        _cell(
            "gampen-sdss",
            {
                "sdss-g": {"gampen-sdss": 0.5, "nearby": 0.5},
                "sdss-r": {"gampen-sdss": 0.5, "nearby": 0.5},
            },
            96, width=0.125, steps=3000, batch=64,
        ),
        _cell(
            "gampen-hst",
            {
                "hst-wfc3-f160w": {"gampen-hst": 0.5, "cosmos": 0.5},
                "hst-candels-f125w": {"gampen-hst": 0.5, "cosmos": 0.5},
                "hst-candels-f814w": {"gampen-hst": 0.5, "cosmos": 0.5},
            },
            83, width=0.125, steps=3500, batch=64,
        ),
    )
}  # fmt: skip
"""Recipes by name."""
