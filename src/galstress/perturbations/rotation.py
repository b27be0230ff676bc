"""Rotation of the pixels: exact quarter turns and mirrors, and interpolation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.perturbations.geometry import (
    array_centre,
    quarter_matrix,
    rotation_matrix,
    turn_table,
    turn_values,
    turn_wcs,
)

__all__ = ["move_by_angle", "move_by_quarters", "rotate_nearest", "rotate_pixels", "turn_by_quarters"]

Array = NDArray[np.float64]

_REACH = 3
"""Half width of the interpolation kernel, pixels."""
_LOSS = 0.1
"""Share of the kernel that may fall on ignored pixels."""


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
    """Turn the pixels about the array's centre by interpolation (quintic kernel, 6 x 6 pixels).

    What interpolation does to the noise: each new pixel is a weighted sum of old ones, so its variance is
    sum(w^2 variance) (given in ``variance``; down to half of it between pixels, in a moire pattern),
    ``sky_rms`` falls accordingly, and neighbouring pixels become correlated (not recorded anywhere). The noise of
    sums over many pixels stays what it was, so S/N computed pixel by pixel comes out too high. At multiples of 90
    degrees nothing is interpolated.

    The PSF turns with the pixels. Pixels from outside of the array, or that lean on ignored ones by more than a
    tenth of the weight, are masked: image 0, variance infinite. Along each axis the kernel errs by at most 0.1 % of
    the peak of a Gaussian of FWHM 4.7 pixels, 0.4 % at 3.6 and 2 % at 2.4; undersampled images (below 2 pixels) are
    aliased, and no interpolation turns them faithfully.

    Arguments:
        cutouts: N objects.
        angle_deg: From +x towards +y.
        rng: Not used.

    Source: the kernel is Bernstein & Gruen (2014, PASP 126, 287), also GalSim's default for real images.
    """
    kernel = _kernel(tuple(cutouts.images.shape[1:]), angle_deg, cutouts.images.device)
    images, variance = cutouts.images.flatten(1), cutouts.variance.flatten(1)
    good = ~cutouts.mask.flatten(1) & torch.isfinite(images) & torch.isfinite(variance)
    total = _apply(kernel.weight, torch.where(good, images, 0))
    squares = _apply(kernel.square, torch.where(good, variance, 0))
    norm, lost = kernel.norm.expand_as(total), kernel.outside.expand_as(total)
    if not bool(good.all()):
        bad = (~good).to(images.dtype)
        norm, lost = norm - _apply(kernel.weight, bad), lost + _apply(kernel.size, bad)
    ignored = lost > _LOSS
    norm = torch.where(ignored, 1, norm)
    power = _apply(kernel.square, torch.ones_like(total[:1]))[0][kernel.outside < _LOSS].mean()
    return dataclasses.replace(
        _turn_tables(cutouts, rotation_matrix(angle_deg)),
        images=torch.where(ignored, 0, total / norm).view_as(cutouts.images),
        variance=torch.where(ignored, torch.inf, squares / norm**2).view_as(cutouts.variance),
        mask=ignored.view_as(cutouts.mask),
        neighbour_mask=rotate_nearest(cutouts.neighbour_mask, angle_deg),
        psf=_rotate_psf(cutouts.psf, angle_deg),
        sky_rms=cutouts.sky_rms * power.sqrt(),
    )


def rotate_nearest(pixels: Tensor, angle_deg: float) -> Tensor:
    """(N, H, W) boolean pixels turned about the centre, each from the nearest one; False from outside."""
    source = _sources(tuple(pixels.shape[1:]), angle_deg)
    nearest = np.rint(source).astype(int)
    size = np.array([[pixels.shape[2]], [pixels.shape[1]]])
    inside = torch.as_tensor(((nearest >= 0) & (nearest < size)).all(0), device=pixels.device)
    x, y = np.clip(nearest, 0, size - 1)
    flat = torch.as_tensor(y * pixels.shape[2] + x, device=pixels.device)
    return (pixels.flatten(1)[:, flat] & inside).view_as(pixels)


def _rotate_psf(psf: Tensor, angle_deg: float) -> Tensor:
    """PSFs turned about their central sample; nothing lies outside, and the sum is 1 again."""
    shared = len(psf) > 1 and bool((psf == psf[:1]).all())
    kernel = _kernel(tuple(psf.shape[1:]), angle_deg, psf.device)
    turned = _apply(kernel.weight, (psf[:1] if shared else psf).flatten(1))
    turned = (turned / turned.sum(1, keepdim=True)).view(-1, *psf.shape[1:])
    return turned.expand_as(psf) if shared else turned


def _sources(shape: tuple[int, ...], angle_deg: float) -> Array:
    """(2, H * W): the old (x, y) that each new pixel comes from."""
    height, width = shape
    centre = array_centre((height, width))[:, None]
    y, x = np.mgrid[:height, :width]
    source = rotation_matrix(angle_deg).T @ (np.stack([x.ravel(), y.ravel()]) - centre) + centre
    return source.round(9)  # so that whole pixels stay whole


class _Kernel(NamedTuple):
    """An interpolation: sparse (new pixels, old pixels) matrices, and what each new pixel leans on."""

    weight: Tensor
    square: Tensor
    """Weights squared."""
    size: Tensor
    """Absolute weights."""
    norm: Tensor
    """(new pixels,) sum of the weights that fall into the array."""
    outside: Tensor
    """(new pixels,) sum of the absolute weights that fall outside of it."""


@functools.lru_cache(maxsize=4)  # image and PSF of an angle or two: they are large
def _kernel(shape: tuple[int, ...], angle_deg: float, device: torch.device) -> _Kernel:
    """The interpolation that turns arrays of a shape by an angle."""
    x, y = _sources(shape, angle_deg)
    height, width = shape
    offsets = np.arange(1 - _REACH, _REACH + 1)[:, None]
    columns, rows = np.floor(x) + offsets, np.floor(y) + offsets
    weight = _quintic(rows - y)[:, None] * _quintic(columns - x)[None]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    used = inside & (weight != 0)
    old = (rows[:, None] * width + columns[None])[used]
    new = np.broadcast_to(np.arange(x.size), weight.shape)[used]
    places = torch.as_tensor(np.stack([new, old]).astype(np.int64))

    def sparse(values: Array) -> Tensor:
        values32 = torch.as_tensor(values[used].astype(np.float32))
        size = (x.size, x.size)
        return torch.sparse_coo_tensor(places, values32, size, device=device, check_invariants=True).coalesce()

    norm, outside = (weight * inside).sum((0, 1)), (np.abs(weight) * ~inside).sum((0, 1))
    sums = (torch.as_tensor(each.astype(np.float32), device=device) for each in (norm, outside))
    return _Kernel(sparse(weight), sparse(weight**2), sparse(np.abs(weight)), *sums)


def _apply(matrix: Tensor, pixels: Tensor) -> Tensor:
    """(N, new pixels) of (N, old pixels)."""
    return torch.sparse.mm(matrix, pixels.T.contiguous()).T.contiguous()


def _quintic(distance: Array) -> Array:
    """Piecewise quintic weights: they sum to 1, and pass polynomials of up to the fourth order unchanged."""
    x = np.abs(distance)
    near = 1 + x**3 * (-95 + 138 * x - 55 * x**2) / 12
    middle = (x - 1) * (x - 2) * (-138 + 348 * x - 249 * x**2 + 55 * x**3) / 24
    far = (x - 2) * (x - 3) ** 2 * (-54 + 50 * x - 11 * x**2) / 24
    weight = np.select([x <= 1, x <= 2, x <= 3], [near, middle, far], 0.0)
    return np.where(np.abs(weight) < 1e-9, 0.0, weight)
