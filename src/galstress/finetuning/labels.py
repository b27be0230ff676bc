"""Labels: what is known of real galaxies, as tables hold it and as a head's coordinates have it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.finetuning.turning import Turn
from galstress.galaxy import Galaxies, galaxies_from_table
from galstress.heads import INTERNAL_NAMES, Reference
from galstress.heads.flow import BEYOND, EDGE, SPREAD

__all__ = ["COORDINATES", "LABELS", "Labels", "read_labels"]

COORDINATES = INTERNAL_NAMES[:7]
"""Internal coordinates that a label can tell: centre, ln flux, logit B/T, ln radius, e1, e2."""
LABELS = (
    "bulge_to_total",
    "half_light_radius_arcsec",
    "flux_njy or mag_ab",
    "e1 and e2, or axis_ratio and position_angle_deg",
    "x_px and y_px",
)
"""Columns that count as labels, in words."""

Array = NDArray[np.float64]

_X, _Y, _FLUX, _SHARE, _RADIUS, _E1, _E2 = range(7)
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is known of N galaxies, in pixels from the array's centre and image units."""

    values: Tensor
    """(N, 7) float64 in the order of :data:`COORDINATES` (ln flux in image units, ln radius in pixels), NaN unknown."""
    sigma: Tensor
    """(N, 7) standard error of each label; 0 where none is given."""
    pure: Tensor
    """(N,) a standard normal number by which a pure disk or bulge is spread beyond B/T's edge; fixed for each row."""
    galaxies: Galaxies | None = None
    """Every parameter of the model, where all are known of all rows; centres from the array's centre."""

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.values)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether anything is known of a galaxy."""
        return torch.isfinite(self.values).any(1).numpy()

    def select(self, rows: Array | NDArray[np.int64]) -> Labels:
        """The labels at ``rows`` (indices or booleans)."""
        at = torch.as_tensor(np.arange(len(self))[rows])
        galaxies = None if self.galaxies is None else self.galaxies.select(at)
        return Labels(self.values[at], self.sigma[at], self.pure[at], galaxies)

    def turn(self, turn: Turn) -> Labels:
        """The labels of the turned images: centres turn and shift, shapes turn as spin-2."""
        values = self.values.clone()
        values[:, :2] = (turn.matrix @ values[:, :2, None])[..., 0] + turn.shift
        e1, e2 = values[:, _E1], values[:, _E2]
        shape = torch.stack([torch.stack([e1, e2], -1), torch.stack([e2, -e1], -1)], -2)
        values[:, _E1:] = (turn.matrix @ shape @ turn.matrix.mT)[:, 0]
        galaxies = None if self.galaxies is None else _turn_galaxies(self.galaxies, turn)
        return dataclasses.replace(self, values=values, galaxies=galaxies)

    def place(self, head: Any, reference: Reference) -> Tensor:  # noqa: ANN401 (any head)
        """Internal coordinates of the labels, as the head's losses take them.

        Arguments:
            head: Where it has draws, pure disks and bulges are spread beyond B/T's edge, as it was trained.
            reference: Of the N images.

        Returns:
            (N, 12) float32 where every parameter is known, else (N, 7) float64, NaN where unknown.
        """
        device = reference.flux.device
        if self.galaxies is not None:
            centre = reference.centre_px
            moved = dataclasses.replace(
                self.galaxies.to(device, torch.float32),
                x=(self.galaxies.x.to(device) + centre[0]).float(),
                y=(self.galaxies.y.to(device) + centre[1]).float(),
            )
            return head.place(moved, reference)
        values = self.values.to(device, copy=True)
        values[:, _FLUX] -= torch.log(reference.flux.double() * reference.sky_rms.double())
        values[:, _RADIUS] -= torch.log(reference.size_px.double())
        if hasattr(head, "draw"):
            logit = values[:, _SHARE]
            beyond = BEYOND + SPREAD * self.pure.to(device)
            values[:, _SHARE] = torch.where(logit.abs() >= EDGE - 1e-4, logit + logit.sign() * beyond, logit)
        return values


def read_labels(table: QTable | None, cutouts: Cutouts) -> Labels:
    """Labels of a table.

    Arguments:
        table: A row for each of the N cutouts, with any of the columns in :data:`LABELS`, named as truth columns are
            and in their units (columns with a unit are converted), NaN or masked where unknown; ``NAME_err`` holds
            the standard error of a label. None: the cutouts' own truth. With every column of the truth, all finite
            and without errors, the galaxies are wholly known.
        cutouts: Give pixel scale, unit and the array's centre.

    Raises:
        InputError: No table, another number of rows, no label in it, or a value that no galaxy has.

    Example:
        >>> from galstress.simulation import simulate
        >>> labels = read_labels(QTable({"bulge_to_total": [0.5, np.nan]}), simulate("hsc-wide-i", 2, stamp_px=48))
        >>> labels.known.tolist()
        [True, False]
    """
    table = cutouts.truth if table is None else table
    if table is None:
        raise InputError("no labels", "a table, or cutouts with truth", "give labels")
    if len(table) != len(cutouts):
        raise InputError(f"{len(table)} rows of labels", f"{len(cutouts)}, one a cutout", "give NaN where unknown")
    values, sigma = _read_values(table, cutouts)
    if not np.isfinite(values).any():
        raise InputError(f"columns {', '.join(table.colnames)}", "; ".join(LABELS), "name the columns so")
    uniform = np.mod((np.arange(len(table)) + 0.5) * _GOLDEN, 1).clip(0.002, 0.998)
    galaxies = None
    if not any(name.endswith("_err") for name in table.colnames):
        galaxies = _read_galaxies(table, cutouts)
    pure = torch.special.ndtri(torch.as_tensor(uniform))
    return Labels(torch.as_tensor(values), torch.as_tensor(np.nan_to_num(sigma)), pure, galaxies)


def _read_values(table: QTable, cutouts: Cutouts) -> tuple[Array, Array]:
    """(N, 7) values and errors of the coordinates, NaN where unknown."""
    values, sigma = np.full((len(table), 7), np.nan), np.full((len(table), 7), np.nan)
    survey, height, width = cutouts.survey, *cutouts.images.shape[1:]
    share, share_err = _numbers(table, "bulge_to_total", "", (0, 1))
    odds = 0.01 + 0.98 * share
    values[:, _SHARE], sigma[:, _SHARE] = np.log(odds / (1 - odds)), 0.98 * share_err / (odds * (1 - odds))
    radius, radius_err = _numbers(table, "half_light_radius_arcsec", "arcsec", (1e-9, np.inf))
    values[:, _RADIUS], sigma[:, _RADIUS] = np.log(radius / survey.pixel_scale_arcsec), radius_err / radius
    flux, flux_err = _numbers(table, "flux_njy", "nJy", (1e-30, np.inf))
    mag, mag_err = _numbers(table, "mag_ab", "mag", (-np.inf, np.inf))
    by_mag = np.isnan(flux)
    values[:, _FLUX] = np.where(by_mag, np.log(10) * 0.4 * (31.4 - mag), np.log(flux)) - math.log(survey.unit_njy)
    sigma[:, _FLUX] = np.where(by_mag, 0.4 * np.log(10) * mag_err, flux_err / flux)
    values[:, _E1:], sigma[:, _E1:] = _read_shape(table)
    for place, name, size in ((_X, "x_px", width), (_Y, "y_px", height)):
        column, sigma[:, place] = _numbers(table, name, "pix", (-np.inf, np.inf))
        values[:, place] = column - (size - 1) / 2
    for pair, names in (((_X, _Y), "x_px and y_px"), ((_E1, _E2), "e1 and e2")):
        if (np.isnan(values[:, pair[0]]) != np.isnan(values[:, pair[1]])).any():
            raise InputError(f"one of {names} without the other", "both or none", "a turned image needs both")
        # both directions alike: the error of a turned label is then what it was
        sigma[:, pair] = np.sqrt(np.mean(sigma[:, pair] ** 2, 1, keepdims=True))
    return values, sigma


def _read_shape(table: QTable) -> tuple[Array, Array]:
    """(N, 2) of e1, e2 and their errors: as such, or from axis ratio and position angle where those are not known."""
    columns = [_numbers(table, name, "", (-1, 1)) for name in ("e1", "e2")]
    shape, error = (np.stack([column[kind] for column in columns], -1) for kind in range(2))
    ratio, ratio_err = _numbers(table, "axis_ratio", "", (1e-9, 1))
    angle, angle_err = _numbers(table, "position_angle_deg", "deg", (-np.inf, np.inf))
    size, twice = (1 - ratio) / (1 + ratio), 2 * np.deg2rad(angle + 90)
    other = np.stack([size * np.cos(twice), size * np.sin(twice)], -1)
    turned = 2 * size * np.deg2rad(np.nan_to_num(angle_err))
    other_error = np.sqrt(((2 * np.nan_to_num(ratio_err) / (1 + ratio) ** 2) ** 2 + turned**2) / 2)[:, None]
    unknown = np.isnan(shape).all(1, keepdims=True)
    return np.where(unknown, other, shape), np.where(unknown, other_error, error)


def _numbers(table: QTable, name: str, unit: str, allowed: tuple[float, float]) -> tuple[Array, Array]:
    """A column and its errors in ``unit``, NaN where masked or missing."""
    low, high = allowed
    found = [_plain(table, column, unit) for column in (name, f"{name}_err")]
    wrong = (found[0] < low) | (found[0] > high)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(f"{name} = {found[0][row]:g} in row {row}", f"{low:g} to {high:g}", "give NaN where unknown")
    if (found[1] < 0).any():
        raise InputError(f"{name}_err below 0", "standard errors", "give NaN where unknown")
    return found[0], found[1]


def _plain(table: QTable, name: str, unit: str) -> Array:
    """One column as floats."""
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    column: Any = table[name]
    mask = np.broadcast_to(np.asarray(getattr(column, "mask", False)), len(table))
    column = getattr(column, "unmasked", column)
    plain = column.to_value(unit) if unit and hasattr(column, "to_value") else getattr(column, "value", column)
    try:
        values = np.array(np.ma.getdata(plain), np.float64)
    except (TypeError, ValueError):
        raise InputError(f"column {name} with text in it", "numbers", "leave cells empty where unknown") from None
    return np.where(mask | ~np.isfinite(values), np.nan, values)


def _read_galaxies(table: QTable, cutouts: Cutouts) -> Galaxies | None:
    """The whole model of each galaxy, centres from the array's, or None where something is not known."""
    survey, height, width = cutouts.survey, *cutouts.images.shape[1:]
    try:
        galaxies = galaxies_from_table(table, survey.pixel_scale_arcsec, survey.unit_njy)
    except KeyError:
        return None
    if not all(torch.isfinite(getattr(galaxies, f.name)).all() for f in dataclasses.fields(galaxies)):
        return None
    return dataclasses.replace(galaxies, x=galaxies.x - (width - 1) / 2, y=galaxies.y - (height - 1) / 2)


def _turn_galaxies(galaxies: Galaxies, turn: Turn) -> Galaxies:
    """Galaxies whose centres count from the array's, turned."""
    centre = (turn.matrix @ torch.stack([galaxies.x, galaxies.y], -1)[..., None])[..., 0] + turn.shift
    along = torch.stack([torch.cos(galaxies.angle), torch.sin(galaxies.angle)], 1)
    x, y = (turn.matrix @ along).unbind(1)
    return dataclasses.replace(galaxies, x=centre[:, 0], y=centre[:, 1], angle=torch.atan2(y, x))
