"""Turns and mirrors of everything that has a direction or a place: tables, outputs, WCS.

A turn is an orthogonal matrix M that acts on (x, y) about the array's centre,
``((W - 1) / 2, (H - 1) / 2)``: exact on odd and even arrays. Angles run from +x towards +y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import QTable
from astropy.wcs import WCS
from numpy.typing import NDArray

from galstress.turning import rotation_matrix

__all__ = [
    "plain_numbers",
    "quarter_matrix",
    "replace_numbers",
    "turn_table",
    "turn_values",
    "turn_wcs",
]

Array = NDArray[np.float64]


def quarter_matrix(element: int) -> Array:
    """Element of the square's symmetry group: 0 to 3 quarter turns, 4 to 7 the same after x -> -x.

    Example:
        >>> quarter_matrix(4).tolist()
        [[-1.0, 0.0], [0.0, 1.0]]
    """
    mirror = np.diag([-1.0 if element >= 4 else 1.0, 1.0])
    return rotation_matrix(90.0 * (element % 4)) @ mirror + 0.0


def turn_values(names: Sequence[str], values: Array, matrix: Array, centre: Array) -> Array:
    """Outputs as a turn moves them: shapes as spin-2, places about the centre, everything else as it was.

    Arguments:
        names: D outputs; ``e1`` and ``e2`` (also ``disk_e1``, ...) are turned in pairs, and so are ``x_px``, ``y_px``.
        values: (N, D).
        matrix: (2, 2) orthogonal.
        centre: (x, y) that stays.

    Returns:
        (N, D).
    """
    turned = np.array(values, np.float64)
    place = {name: index for index, name in enumerate(names)}
    for name, first in place.items():
        if name.endswith("e1") and f"{name[:-1]}2" in place:
            pair = [first, place[f"{name[:-1]}2"]]
            turned[:, pair] = _turn_shape(values[:, pair], matrix)
    if "x_px" in place and "y_px" in place:
        pair = [place["x_px"], place["y_px"]]
        turned[:, pair] = (values[:, pair] - centre) @ matrix.T + centre
    return turned


def _turn_shape(shape: Array, matrix: Array) -> Array:
    """(N, 2) of (e1, e2) turned: the traceless tensor S becomes M S M^T."""
    tensor = np.stack([shape, np.stack([shape[:, 1], -shape[:, 0]], -1)], -2)
    return (matrix @ tensor @ matrix.T)[:, 0, :]


def turn_table(table: QTable, matrix: Array, centre: Array) -> QTable:
    """A table of galaxies with centres, shapes and position angles turned; other columns as they were."""
    table = table.copy()
    numbers = [n for n in table.colnames if n in ("x_px", "y_px") or n.endswith(("e1", "e2"))]
    if numbers:
        values = np.stack([plain_numbers(table[name]) for name in numbers], -1)
        for name, column in zip(numbers, turn_values(numbers, values, matrix, centre).T, strict=True):
            replace_numbers(table, name, column)
    for name in table.colnames:
        if name.endswith("position_angle_deg"):
            direction = np.deg2rad(plain_numbers(table[name]) + 90)
            x, y = matrix @ np.stack([np.cos(direction), np.sin(direction)])
            replace_numbers(table, name, (np.rad2deg(np.arctan2(y, x)) - 90) % 180)
    return table


def plain_numbers(column: Any) -> Array:  # noqa: ANN401 (Column, MaskedColumn or Quantity)
    """Numbers of a column without unit and mask."""
    column = getattr(column, "unmasked", column)
    return np.array(np.ma.getdata(getattr(column, "value", column)), np.float64)


def replace_numbers(table: QTable, name: str, values: Array) -> None:
    """New numbers in a column that keeps its unit, dtype and mask."""
    old = table[name]
    values = values.astype(old.dtype) if np.issubdtype(old.dtype, np.floating) else values
    table[name][:] = values * old.unit if getattr(old, "unit", None) is not None and hasattr(old, "to") else values


def turn_wcs(wcs: WCS | None, matrix: Array, centre: Array) -> WCS | None:
    """The WCS of a turned image: every pixel keeps its place on the sky.

    A distorted WCS (SIP, tables) or one in the old CROTA form is first made linear about the array's centre: over a
    stamp the distortion that is left out is far below a pixel.
    """
    if wcs is None:
        return None
    distorted = any(getattr(wcs, name) is not None for name in ("sip", "cpdis1", "cpdis2", "det2im1", "det2im2"))
    turned = _linear_wcs(wcs, centre) if distorted or wcs.wcs.has_crota() else wcs.deepcopy()
    reference = np.array(turned.wcs.crpix) - 1
    turned.wcs.crpix = matrix @ (reference - centre) + centre + 1
    if turned.wcs.has_cd():
        turned.wcs.cd = turned.wcs.cd @ matrix.T
    else:
        # PC is scaled by CDELT from the left, so the turn acts from the right in either form
        turned.wcs.pc = turned.wcs.get_pc() @ matrix.T
    turned.wcs.set()
    return turned


def _linear_wcs(wcs: WCS, centre: Array) -> WCS:
    """The tangent-plane WCS that agrees with another one at the array's centre, to first order."""
    ra, dec = wcs.all_pix2world(*centre, 0)
    linear = WCS(naxis=2)
    linear.wcs.ctype = "RA---TAN", "DEC--TAN"
    linear.wcs.crval = float(ra), float(dec)
    linear.wcs.cunit = "deg", "deg"
    linear.wcs.radesys, linear.wcs.equinox = wcs.wcs.radesys, wcs.wcs.equinox
    steps = 4.0 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    sky = wcs.all_pix2world(centre + steps, 0)
    linear.wcs.cd = np.eye(2)
    linear.wcs.crpix = 1.0, 1.0
    plane = linear.wcs_world2pix(sky, 0)  # degrees on the tangent plane
    linear.wcs.cd = np.stack([plane[0] - plane[1], plane[2] - plane[3]], -1) / 8
    linear.wcs.crpix = centre + 1
    return linear
