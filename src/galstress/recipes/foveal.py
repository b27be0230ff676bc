"""The recipe of our own network."""

from __future__ import annotations

from galstress.recipes.recipe import Recipe
from galstress.training import Schedule

__all__ = ["FOVEAL"]

_DEEP = {"cosmos": 0.8, "nearby": 0.2}
_WIDE = {"cosmos": 0.5, "nearby": 0.5}
_NEARBY = {"nearby": 1.0}
_PIXELS = {"fine": (128, 192, 192), "coarse": (96, 128, 128, 192)}
_FOVEAL = {
    "sdss-g": (_NEARBY, "coarse"),
    "sdss-r": (_NEARBY, "coarse"),
    "decals-r": (_WIDE, "coarse"),
    "des-r": (_WIDE, "coarse"),
    "kids-r": (_WIDE, "coarse"),
    "hsc-wide-g": (_WIDE, "coarse"),
    "hsc-wide-r": (_DEEP, "coarse"),
    "hsc-wide-i": (_DEEP, "coarse"),
    "hsc-udeep-i": (_DEEP, "coarse"),
    "lsst-i": (_DEEP, "coarse"),
    "euclid-vis": (_DEEP, "coarse"),
    "roman-f158": (_DEEP, "coarse"),
    "hst-candels-f606w": (_DEEP, "coarse"),
    "hst-candels-f814w": (_DEEP, "coarse"),
    "hst-candels-f125w": (_DEEP, "coarse"),
    "hst-wfc3-f160w": (_DEEP, "coarse"),
    "hst-acs-f814w": (_DEEP, "fine"),
    "jwst-nircam-f200w": (_DEEP, "fine"),
}
"""Surveys of ``foveal``: which galaxies each sees, and how large its stamps are."""

FOVEAL = Recipe(
    name="foveal",
    surveys={name: shares for name, (shares, _) in _FOVEAL.items()},
    stamps={name: _PIXELS[pixels] for name, (_, pixels) in _FOVEAL.items()},
    backbone={"name": "foveal", "width": 1.333},
    schedule=Schedule(steps=18_000, learning_rate=1.5e-3, warm_up=500, cool_down=0.5),
)
"""Our own network, for every survey at once."""
