"""Rotation of the pixels and of everything that has a direction: exact quarter turns and mirrors, and interpolation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.perturbations.geometry import quarter_matrix, turn_table, turn_values, turn_wcs
from galstress.turning import array_centre, rotation_matrix, turn_pixels

__all__ = ["move_by_angle", "move_by_quarters", "rotate_pixels", "turn_by_quarters"]

Array = NDArray[np.float64]


def turn_by_quarters(cutouts: Cutouts, element: float, rng: torch.Generator | None = None) -> Cutouts:  # noqa: ARG001
    """Quarter turns and mirrors of the pixels themselves: exact, nothing is interpolated.

    Images, masks, variance, PSF, WCS, truth and neighbours turn together about the array's centre, which stays the
    centre on odd and even sides alike.

    Arguments:
        cutouts: Square stamps.
        element: 0 to 7; ``element % 4`` quarter turns from +x towards +y, from 4 on after a mirror x -> -x.
        rng: Not used.

    Raises:
        InputError: The stamps are not square.
    """
    height, width = cutouts.images.shape[1:]
    if height != width:
        raise InputError(f"{height} x {width} px stamps", "square stamps", "load them with one stamp_px")

    def turned(pixels: Tensor) -> Tensor:
        mirrored = torch.flip(pixels, (-1,)) if element >= 4 else pixels
        return torch.rot90(mirrored, int(element) % 4, (-1, -2)).contiguous()

    return dataclasses.replace(
        _turn_tables(cutouts, quarter_matrix(int(element))),
        images=turned(cutouts.images),
        variance=turned(cutouts.variance),
        mask=turned(cutouts.mask),
        neighbour_mask=turned(cutouts.neighbour_mask),
        psf=turned(cutouts.psf),
    )


def _turn_tables(cutouts: Cutouts, matrix: Array) -> Cutouts:
    """Everything but pixels, turned."""
    height, width = cutouts.images.shape[1:]
    centre = array_centre((height, width))
    return dataclasses.replace(
        cutouts,
        truth=None if cutouts.truth is None else turn_table(cutouts.truth, matrix, centre),
        neighbours=None if cutouts.neighbours is None else turn_table(cutouts.neighbours, matrix, centre),
        wcs=None if cutouts.wcs is None else tuple(turn_wcs(wcs, matrix, centre) for wcs in cutouts.wcs),
    )


def move_by_quarters(names: Sequence[str], values: Array, amount: float, cutouts: Cutouts) -> Array:
    """Where a quarter turn or mirror takes the values of outputs."""
    return turn_values(names, values, quarter_matrix(int(amount)), _centre(cutouts))


def move_by_angle(names: Sequence[str], values: Array, amount: float, cutouts: Cutouts) -> Array:
    """Where a turn by ``amount`` degrees takes the values of outputs."""
    return turn_values(names, values, rotation_matrix(amount), _centre(cutouts))


def _centre(cutouts: Cutouts) -> Array:
    """(x, y) of the centre of the arrays."""
    return array_centre((int(cutouts.images.shape[1]), int(cutouts.images.shape[2])))


def rotate_pixels(cutouts: Cutouts, angle_deg: float, rng: torch.Generator | None = None) -> Cutouts:  # noqa: ARG001
    """Turn the pixels by interpolation (:func:`galstress.turning.turn_pixels`), and tables and WCS with them.

    Arguments:
        cutouts: N objects.
        angle_deg: From +x towards +y, about the array's centre.
        rng: Not used.
    """
    return turn_pixels(_turn_tables(cutouts, rotation_matrix(angle_deg)), angle_deg)
