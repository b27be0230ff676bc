"""The same galaxy farther away, seen in the same rest-frame band: what distance does to radius, flux and brightness."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import MaskedColumn, QTable
from numpy.typing import ArrayLike, NDArray

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.perturbations.geometry import plain_numbers, replace_numbers
from galstress.turning import array_centre

if TYPE_CHECKING:
    from astropy.cosmology import FLRW

__all__ = [
    "ASSUMED_REDSHIFT",
    "Redshift",
    "is_redshift_assumed",
    "move_by_redshift",
    "move_catalogue",
    "redshift_cutouts",
    "redshift_table",
]

Array = NDArray[np.float64]

ASSUMED_REDSHIFT = 0.1
"""Where galaxies are taken to be whose redshift the catalogue does not have."""


@functools.lru_cache(maxsize=1)
def _standard_cosmology() -> FLRW:
    """Flat, H0 = 70 km/s/Mpc, matter 0.3."""
    from astropy.cosmology import FlatLambdaCDM  # a third of a second that only redshifting needs

    return FlatLambdaCDM(70, 0.3)


@dataclasses.dataclass(frozen=True)
class Redshift:
    """A move from one redshift to another in the same rest-frame band, with flux per frequency (AB magnitudes).

    Formulas: radii go as d_A(z_from) / d_A(z_to); f_nu as (d_L(z_from) / d_L(z_to))^2 (1 + z_to) / (1 + z_from), so
    surface brightness, without k-correction and evolution, as ((1 + z_from) / (1 + z_to))^3. With a photometric band
    that stays where it is, the galaxy's colour enters: that is ``k_correction_mag``.

    Source: Barden, Jahnke & Haeussler 2008 (ApJS 175, 105), whose magnification this is.

    Example:
        >>> far = Redshift(0.1, 0.5)
        >>> round(float(far.size_ratio), 4), round(float(far.flux_ratio), 4)
        (0.3021, 0.036)
        >>> round(float(far.surface_brightness_ratio * (1.5 / 1.1) ** 3), 9)
        1.0
    """

    z_from: ArrayLike
    """Redshift at which the galaxy is, above 0; a number or one a galaxy."""
    z_to: ArrayLike
    """Redshift to which it goes, at least ``z_from``."""
    k_correction_mag: ArrayLike = 0.0
    """Magnitudes by which the observed band makes it fainter than its rest-frame band of before does; 0: same band."""
    evolution_mag_per_z: float = 0.0
    """Magnitudes by which galaxies were fainter per unit of redshift; negative: brighter, as young stars are."""
    cosmology: FLRW = dataclasses.field(default_factory=_standard_cosmology)
    """Distances; by default flat, with H0 = 70 km/s/Mpc and a matter density of 0.3."""

    def __post_init__(self) -> None:
        """Refuse what has no distance, and images that would get deeper."""
        z_from, z_to = np.broadcast_arrays(np.asarray(self.z_from, float), np.asarray(self.z_to, float))
        wrong = ~(np.isfinite(z_to) & (z_from > 0) & (z_to >= z_from))
        if wrong.any():
            came = f"redshift {z_from[wrong].flat[0]:.4g} to {z_to[wrong].flat[0]:.4g}"
            raise InputError(came, "0 < z_from <= z_to", "move galaxies away only: images never get deeper")

    @property
    def size_ratio(self) -> Array:
        """Angular size after over before; beyond redshift 1.6 angles grow again."""
        return self._distance(self.z_from) / self._distance(self.z_to)

    @property
    def flux_ratio(self) -> Array:
        """Flux per frequency after over before."""
        z_from, z_to = np.asarray(self.z_from, float), np.asarray(self.z_to, float)
        stretch = (1 + z_to) / (1 + z_from)
        magnitudes = np.asarray(self.k_correction_mag, float) + self.evolution_mag_per_z * (z_to - z_from)
        # d_L = (1 + z)^2 d_A
        return (self.size_ratio / stretch**2) ** 2 * stretch * 10 ** (-0.4 * magnitudes)

    @property
    def surface_brightness_ratio(self) -> Array:
        """Flux per solid angle after over before."""
        return self.flux_ratio / self.size_ratio**2

    def _distance(self, z: ArrayLike) -> Array:
        """Angular-diameter distance, Mpc."""
        return np.asarray(self.cosmology.angular_diameter_distance(np.asarray(z, float)).to_value("Mpc"), float)


def is_redshift_assumed(cutouts: Cutouts) -> NDArray[np.bool_]:
    """(N,) whether the catalogue has no redshift above 0 for an object, so that one must be assumed."""
    column = cutouts.catalogue["redshift"] if "redshift" in cutouts.catalogue.colnames else None
    if column is None:
        return np.ones(len(cutouts), bool)
    mask = np.broadcast_to(np.asarray(getattr(column, "mask", False)), (len(cutouts),))
    values = plain_numbers(column)
    return mask | ~(np.isfinite(values) & (values > 0))


def redshift_cutouts(
    cutouts: Cutouts,
    added: float,
    *,
    k_correction_mag: float = 0.0,
    evolution_mag_per_z: float = 0.0,
    assumed_redshift: float = ASSUMED_REDSHIFT,
) -> Redshift:
    """The move of every object by the same difference of redshift.

    Arguments:
        cutouts: N objects; they start at ``catalogue["redshift"]``.
        added: Redshift added, 0 or more.
        k_correction_mag: See :class:`Redshift`.
        evolution_mag_per_z: See :class:`Redshift`.
        assumed_redshift: Where an object starts that has no redshift above 0 in the catalogue.

    Raises:
        InputError: ``added`` is negative.
    """
    assumed, start = is_redshift_assumed(cutouts), np.full(len(cutouts), float(assumed_redshift))
    if not assumed.all():
        start[~assumed] = plain_numbers(cutouts.catalogue["redshift"])[~assumed]
    return Redshift(start, start + added, k_correction_mag, evolution_mag_per_z)


def move_by_redshift(
    names: Sequence[str],
    values: Array,
    added: float,
    cutouts: Cutouts,
    *,
    k_correction_mag: float = 0.0,
    evolution_mag_per_z: float = 0.0,
    assumed_redshift: float = ASSUMED_REDSHIFT,
) -> Array:
    """Where a move by ``added`` takes the values of outputs: radii, fluxes, magnitudes and places.

    Arguments:
        names: D outputs.
        values: (N, D).
        added: Redshift added.
        cutouts: N objects before the move.
        k_correction_mag: See :class:`Redshift`.
        evolution_mag_per_z: See :class:`Redshift`.
        assumed_redshift: See :func:`redshift_cutouts`.

    Returns:
        (N, D); B/T, shapes, indices and angles stay.
    """
    move = redshift_cutouts(
        cutouts, added, k_correction_mag=k_correction_mag,
        evolution_mag_per_z=evolution_mag_per_z, assumed_redshift=assumed_redshift,
    )  # fmt: skip
    return _move(names, values, (move.size_ratio, move.flux_ratio), array_centre(_shape(cutouts)))


def _move(names: Sequence[str], values: Array, ratios: tuple[Array, Array], centre: Array) -> Array:
    """Values (N, D) after sizes and fluxes were multiplied by ratios (N,) about a centre (x, y)."""
    size, flux = ratios
    moved = np.array(values, np.float64)
    for place, name in enumerate(names):
        if name.endswith(("radius_arcsec", "radius_px")):
            moved[:, place] *= size
        elif name.endswith("flux_njy"):
            moved[:, place] *= flux
        elif name.endswith("mag_ab"):
            moved[:, place] -= 2.5 * np.log10(flux)
        elif name in ("x_px", "y_px"):
            middle = centre["xy".index(name[0])]
            moved[:, place] = (moved[:, place] - middle) * size + middle
    return moved


def redshift_table(table: QTable, move: Redshift, cutouts: Cutouts, owner: NDArray[np.int64] | None = None) -> QTable:
    """A table of galaxies after a move of the whole field about the array's centre.

    Arguments:
        table: M galaxies, for example ``cutouts.truth``.
        move: Of each of the N objects.
        cutouts: N objects before the move.
        owner: (M,) the object that each galaxy stands beside; left out, one galaxy an object.
    """
    rows = np.arange(len(cutouts)) if owner is None else owner
    ratios = move.size_ratio[rows], move.flux_ratio[rows]
    table = table.copy()
    for name in table.colnames:
        if np.issubdtype(np.asarray(table[name]).dtype, np.number):
            before = plain_numbers(table[name])
            after = _move([name], before[:, None], ratios, array_centre(_shape(cutouts)))[:, 0]
            if not np.array_equal(before, after, equal_nan=True):
                replace_numbers(table, name, after)
    return table


def move_catalogue(cutouts: Cutouts, move: Redshift) -> QTable:
    """The catalogue with known redshifts moved; unknown ones stay unknown."""
    assumed = is_redshift_assumed(cutouts)
    catalogue = cutouts.catalogue.copy()
    catalogue["redshift"] = MaskedColumn(np.where(assumed, 0.0, np.asarray(move.z_to, float)), mask=assumed)
    return catalogue


def _shape(cutouts: Cutouts) -> tuple[int, int]:
    return int(cutouts.images.shape[1]), int(cutouts.images.shape[2])
