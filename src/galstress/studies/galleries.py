"""The galaxies that a demonstration shows: real ones where they are, else simulated ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from galstress import datasets
from galstress.cutouts import Cutouts, Flag
from galstress.simulation import simulate

__all__ = ["REAL", "Gallery", "has_real_images", "load_gallery", "simulate_gallery"]

_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL


@dataclasses.dataclass(frozen=True)
class Gallery:
    """A few galaxies of one survey, and what a reader must know of them."""

    name: str
    """Name of the data set or of the survey."""
    cutouts: Cutouts
    """The images."""
    about: Mapping[str, Any]
    """``title``, ``simulated``, ``credit``, ``licence``, ``zero_point_note``."""

    @property
    def has_noise(self) -> bool:
        """Whether the sky is there: where it was set to zero, nothing about noise can be tested."""
        return not bool(((self.cutouts.flags & int(Flag.SKY_ZEROED)) != 0).any())


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which galaxies of a data set are shown."""

    band: str
    """Band of the set."""
    stamp_px: int
    """Side of the stamps; the network looks at 192 pixels at most."""
    order: Callable[[Cutouts], np.ndarray]
    """Cutouts to (N,): those with the smallest are shown."""
    how: str
    """The same in words, for the page."""
    among: int | None = None
    """Only the first so many of the set are looked at, to save time."""


def _magnitude(cutouts: Cutouts) -> np.ndarray:
    """The catalogue's magnitude; unknown ones last."""
    column = cutouts.catalogue["lit_mag_ab"]
    values = np.ma.getdata(getattr(column, "value", column)).astype(float)
    return np.where(np.isfinite(values), values, np.inf)


def _fitted_magnitude(cutouts: Cutouts) -> np.ndarray:
    """The same, those whose catalogue's B/T agrees with the image first."""
    consistent = np.asarray(cutouts.catalogue["lit_bt_consistent"]).astype(str) == "True"
    return _magnitude(cutouts) + np.where(consistent, 0, 100)


def _by_eye(*numbers: str) -> Callable[[Cutouts], np.ndarray]:
    """The objects whose names end so, in this order, and no others."""

    def order(cutouts: Cutouts) -> np.ndarray:
        ends = [next((n for n, end in enumerate(numbers) if name.endswith(end)), None) for name in cutouts.object_id]
        return np.array([np.inf if place is None else place for place in ends])

    return order


def _complete(cutouts: Cutouts) -> np.ndarray:
    """Images that fill the stamp first, else in the set's own order."""
    return ((cutouts.flags & int(Flag.PADDED)) != 0).astype(float)


REAL: Mapping[str, Choice] = {
    "hst-cosmos-btk100": Choice("F814W", 192, _magnitude, "the brightest"),
    "hst-cosmos-galsim235": Choice("F814W", 192, _magnitude, "the brightest"),
    "hst-candels-bd201": Choice(
        "F814W", 128, _fitted_magnitude, "the brightest whose catalogue's B/T agrees with the image", among=60
    ),
    "sdss-pymorph10": Choice("r", 128, _complete, "all"),
    "hsc-cosmos-udeep147": Choice(
        "i", 128, _by_eye("8153", "8587", "8428", "8978", "5094", "6426", "7672", "7826", "8439", "9165"),
        "chosen by eye: galaxies, where the brightest of the set are stars", among=60,
    ),
    "hsc-misc": Choice("i", 192, _complete, "all"),
}  # fmt: skip
"""The sets that are shown where they are found."""


def has_real_images() -> bool:
    """Whether there is a folder of real images to look into."""
    named = os.environ.get("GALSTRESS_DATA", "")
    return bool(named) and Path(named).is_dir()


def load_gallery(name: str, most: int) -> Gallery:
    """A few galaxies of a data set.

    Arguments:
        name: A key of :data:`REAL`.
        most: How many at most.

    Raises:
        InputError: The set is not here.
    """
    choice, dataset = REAL[name], datasets.describe(name)
    cutouts = datasets.load(name, choice.band, choice.stamp_px, choice.among)
    order = choice.order(cutouts)
    order = np.where((cutouts.flags & int(_UNUSABLE)) == 0, order, np.inf)
    chosen = [row for row in np.argsort(order, kind="stable")[:most] if np.isfinite(order[row])]
    assumed = bool(((cutouts.flags & int(Flag.ZERO_POINT_ASSUMED)) != 0).any())
    about = {
        "title": f"{dataset.title}: {choice.how}" if len(chosen) < len(cutouts) else dataset.title,
        "simulated": False,
        "credit": dataset.credit,
        "licence": dataset.licence,
        "zero_point_note": dataset.zero_point_note if assumed else "",
    }
    return Gallery(name, cutouts.select(chosen), about)


def simulate_gallery(survey: str, population: str, most: int, seed: int) -> Gallery:
    """A few simulated galaxies bright enough to look at (S/N above 30), with neighbours.

    Arguments:
        survey: Name of a survey.
        population: Name of a population.
        most: How many at most.
        seed: Of the galaxies.
    """
    drawn = simulate(survey, 8 * most, seed=seed, population=population, neighbours=True)
    assert drawn.truth is not None
    bright = np.flatnonzero(np.asarray(drawn.truth["snr"]) > 30)[:most]
    about = {
        "title": f"simulated as {survey} would see them (population {population})",
        "simulated": True,
        "credit": "",
        "licence": "",
        "zero_point_note": "",
    }
    return Gallery(survey, drawn.select(bright), about)
