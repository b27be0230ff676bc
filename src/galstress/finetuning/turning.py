"""Turns by any angle, mirrors and sub-pixel shifts of whole batches, each object by its own, without empty corners.

A turn acts on (x, y) about the array's centre, as in :mod:`galstress.perturbations`: angles run from +x towards +y.
The result is cut from a larger stamp, so that every pixel of it was seen.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.turning import crop_centre, quintic_weights

__all__ = ["Turn", "choose_side", "draw_turn", "exact_turn", "trim", "turn_cutouts"]

LEAST_SIDE = 48
"""Pixels: a stamp whose cut would be smaller is turned by quarters only, and kept whole."""
_REACH = 3
"""Half width of the interpolation kernel, pixels."""
_SHIFT = 0.5
"""Largest random shift along an axis, pixels."""
_LOST = 0.1
"""Share of a new pixel that may come from ignored ones."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """An orthogonal matrix and a shift for each of N objects; positions from the centre go to matrix @ p + shift."""

    matrix: Tensor
    """(N, 2, 2) float64, of (x, y)."""
    shift: Tensor
    """(N, 2) float64, pixels."""
    element: Tensor | None = None
    """(N,) 0 to 7 where all are quarter turns and mirrors without a shift: pixels are moved, not interpolated."""


def choose_side(stamp_px: int, side_px: int | None = None) -> tuple[int, bool]:
    """Side of what is cut from a stamp, and whether that leaves room for turns by any angle.

    Arguments:
        stamp_px: Side of the stamps.
        side_px: What is wanted; None: the largest that has room for any angle, or the whole stamp if that were below
            48 pixels.

    Returns:
        Side (of the stamp's parity, so that both have one centre), and True for any angle, False for the eight
        quarter turns and mirrors.

    Raises:
        InputError: The side is not between 16 and the stamp's.

    A square of side s turned by 45 degrees is s sqrt(2) wide; shift and kernel take a few pixels more.

    Example:
        >>> choose_side(276), choose_side(128), choose_side(128, 128), choose_side(64)
        ((192, True), (88, True), (128, False), (64, False))
    """
    largest = math.floor((stamp_px - 1 - 2 * (1 + math.sqrt(2) * _SHIFT)) / math.sqrt(2)) + 1
    if side_px is None:
        side_px = largest if largest >= LEAST_SIDE else stamp_px
    elif not 16 <= side_px <= stamp_px:
        raise InputError(f"side_px={side_px}", f"16 to {stamp_px}, the stamps' side", "load larger stamps")
    side = side_px - (stamp_px - side_px) % 2
    return side, side <= largest


def draw_turn(count: int, any_angle: bool, generator: torch.Generator) -> Turn:
    """Random turns: a mirror for half of the objects, and any angle with a shift of up to half a pixel, or quarters."""
    if not any_angle:
        return exact_turn(torch.randint(8, (count,), generator=generator))
    numbers = torch.rand(4, count, generator=generator, dtype=torch.float64)
    angle, sign = 2 * math.pi * numbers[0], torch.where(numbers[1] < 0.5, -1.0, 1.0).double()
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([torch.stack([cos * sign, -sin], -1), torch.stack([sin * sign, cos], -1)], -2)
    return Turn(matrix, (2 * numbers[2:].mT - 1) * _SHIFT)


def exact_turn(element: Tensor) -> Turn:
    """Turns by quarters: (N,) elements 0 to 7, ``element % 4`` quarter turns, from 4 on after a mirror x -> -x."""
    quarter = element % 4
    cos = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=torch.float64)[quarter]
    sin = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=torch.float64)[quarter]
    sign = torch.where(element >= 4, -1.0, 1.0).double()
    matrix = torch.stack([torch.stack([cos * sign, -sin], -1), torch.stack([sin * sign, cos], -1)], -2)
    return Turn(matrix, torch.zeros(len(element), 2, dtype=torch.float64), element)


def trim(cutouts: Cutouts, side_px: int) -> Cutouts:
    """The central square of square stamps, without tables that hold places; its parity is the stamp's."""
    _check_square(cutouts)
    return crop_centre(cutouts, side_px)


def turn_cutouts(cutouts: Cutouts, turn: Turn, side_px: int) -> Cutouts:
    """Cutouts turned, mirrored and shifted, each object by its own, and cut about the array's centre.

    Arguments:
        cutouts: N objects in square stamps.
        turn: Of the N objects.
        side_px: Side of the result; :func:`choose_side` tells how large it may be for turns by any angle.

    Returns:
        Images, variance, masks and PSF turned; tables that hold places (truth, neighbours, WCS) are left out.

    Interpolation (quintic kernel, 6 x 6 pixels, Bernstein & Gruen 2014, PASP 126, 287) correlates the noise of
    neighbouring pixels and makes each one's smaller, down to half the variance; that of sums over many pixels stays
    what it was. ``sky_rms`` and ``variance`` therefore stay those of the noise before it. It errs by 0.3 % of a
    galaxy's peak at a PSF of 3.3 pixels FWHM (up to 1 %), by 3 % at 1.6. Pixels that lean on ignored ones are ignored.
    The cubic kernel of torch's ``grid_sample`` would err by 1.7 % and 3 %: it does not keep a slope.
    """
    stamp_px = _check_square(cutouts)
    if turn.element is not None:
        return _turn_by_quarters(trim(cutouts, side_px), turn.element.to(cutouts.images.device))
    device = cutouts.images.device
    x, y = _sources(turn, side_px, stamp_px, device)
    bad = cutouts.mask | ~torch.isfinite(cutouts.images) | ~torch.isfinite(cutouts.variance)
    mask = _blend(bad, x, y) > _LOST
    images = torch.zeros_like(x)
    images[~mask] = _interpolate(torch.where(bad, 0, cutouts.images), x, y, ~mask)
    beside = F.max_pool2d(bad.to(x.dtype), 2 * _REACH + 1, 1, _REACH)
    leaning = ~mask & (_blend(beside, x, y) > 0)
    images[leaning] /= _interpolate((~bad).to(x.dtype), x, y, leaning).clamp_min(0.5)
    variance = _blend(torch.where(bad, 0, cutouts.variance), x, y) / (1 - _blend(bad, x, y)).clamp_min(1 - _LOST)
    return dataclasses.replace(
        cutouts,
        images=images,
        variance=torch.where(mask, torch.inf, variance),
        mask=mask,
        neighbour_mask=_blend(cutouts.neighbour_mask, x, y) > 0.5,
        psf=_turn_psf(cutouts.psf, turn),
        wcs=None,
        truth=None,
        neighbours=None,
    )


def _check_square(cutouts: Cutouts) -> int:
    """Side of square stamps."""
    height, width = cutouts.images.shape[1:]
    if height != width:
        raise InputError(f"{height} x {width} px stamps", "square stamps", "load them with one stamp_px")
    return int(height)


def _turn_by_quarters(cutouts: Cutouts, element: Tensor) -> Cutouts:
    """Every pixel moved to its new place, PSF and all."""

    def moved(pixels: Tensor) -> Tensor:
        result = torch.empty(pixels.shape, dtype=pixels.dtype, device=pixels.device)
        for each in element.unique().tolist():
            rows = element == each
            part = pixels[rows].flip(2) if each >= 4 else pixels[rows]
            result[rows] = torch.rot90(part, each % 4, (2, 1))
        return result

    return dataclasses.replace(
        cutouts,
        images=moved(cutouts.images),
        variance=moved(cutouts.variance),
        mask=moved(cutouts.mask),
        neighbour_mask=moved(cutouts.neighbour_mask),
        psf=moved(cutouts.psf),
    )


def _sources(turn: Turn, side_px: int, stamp_px: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(N, side, side) old x and y, array indices, that each new pixel comes from."""
    axis = torch.arange(side_px, device=device, dtype=torch.float64) - (side_px - 1) / 2
    matrix, shift = turn.matrix.to(device), turn.shift.to(device)
    x, y = axis[None, None, :] - shift[:, 0, None, None], axis[None, :, None] - shift[:, 1, None, None]
    places = []
    for column in range(2):  # the inverse of an orthogonal matrix is its transpose
        across, along = matrix[:, 0, column, None, None], matrix[:, 1, column, None, None]
        # whole pixels stay whole
        places.append(((across * x + along * y + (stamp_px - 1) / 2) * 2**20).round().div(2**20).float())
    return places[0], places[1]


def _interpolate(pixels: Tensor, x: Tensor, y: Tensor, chosen: Tensor) -> Tensor:
    """Values of (N, H, W) pixels at those of the (N, h, w) places that are chosen, by a separable kernel of 6 x 6.

    Beyond the edge lies the edge's value.
    """
    height, width = pixels.shape[1:]
    flat, x, y = pixels.flatten(), x[chosen], y[chosen]
    start = torch.nonzero(chosen)[:, 0] * (height * width)
    low_x, low_y = x.floor(), y.floor()
    across, down = quintic_weights(x - low_x), quintic_weights(y - low_y)
    columns = [(low_x.long() + o).clamp(0, width - 1) for o in range(-2, 4)]
    total = torch.zeros_like(x)
    for o, high in zip(range(-2, 4), down, strict=True):
        line = start + (low_y.long() + o).clamp(0, height - 1) * width
        row = torch.zeros_like(x)
        for column, wide in zip(columns, across, strict=True):
            row.addcmul_(wide, flat.take(line + column))
        total.addcmul_(high, row)
    return total


def _blend(pixels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values between the four nearest pixels: for masks and variances, which may not overshoot."""
    height, width = pixels.shape[1:]
    places = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    values = pixels[:, None].to(x.dtype)
    return F.grid_sample(values, places, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]


def _turn_psf(psf: Tensor, turn: Turn) -> Tensor:
    """(N, P, P) PSFs turned about their central sample, not shifted; 0 outside, sum 1."""
    still = dataclasses.replace(turn, shift=torch.zeros_like(turn.shift))
    side = psf.shape[-1]
    x, y = _sources(still, side, side, psf.device)
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1)
    turned = torch.zeros_like(x)
    turned[inside] = _interpolate(psf, x, y, inside)
    return turned / turned.sum((1, 2), keepdim=True)
