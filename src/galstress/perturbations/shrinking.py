"""Redshift of the pixels themselves, for real images: shrunk, dimmed, and given the survey's PSF and noise again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.perturbations.redshift import (
    ASSUMED_REDSHIFT,
    Redshift,
    move_catalogue,
    redshift_cutouts,
    redshift_table,
)
from galstress.perturbations.transfer import Transfer, measure_snr, pass_through, wave_numbers

__all__ = ["shrink_pixels"]

_LEAST = 1e-6
"""Square of the old PSF's transfer function below which it counts as passing no light."""
_NOTHING = 1e-4
"""A transfer function below this beyond a wave number is nothing there."""


def shrink_pixels(
    cutouts: Cutouts,
    added: float,
    rng: torch.Generator,
    *,
    k_correction_mag: float = 0.0,
    evolution_mag_per_z: float = 0.0,
    assumed_redshift: float = ASSUMED_REDSHIFT,
) -> Cutouts:
    """Images as the same survey would have seen the same galaxies farther away.

    The whole field is shrunk about the array's centre by the ratio of angular sizes, and dimmed. Shrinking makes the
    PSF narrower; the kernel H(k) = T(k) / T(s k) makes it what it was, T being its transfer function. The noise is
    topped up to the survey's, so images never get deeper. What lies beyond the old picture's edge is filled with noise,
    and masked where the galaxy reaches the edge: stamps should hold all of its light, ten half-light radii or more.

    ``psf``, ``survey`` and ``wcs`` stay; truth and neighbours move along; a known redshift in the catalogue, too.
    Undersampled images (PSF below 2 pixels) are aliased, and no kernel shrinks them faithfully.

    Arguments:
        cutouts: N objects.
        added: Redshift added, 0 or more; 0 changes nothing.
        rng: Randomness; an object's noise depends on the generator and its ``object_id``, not on the batch.
        k_correction_mag: See :class:`galstress.perturbations.redshift.Redshift`.
        evolution_mag_per_z: See there.
        assumed_redshift: Where an object starts that has no redshift above 0 in the catalogue.

    Raises:
        InputError: A galaxy would come nearer, appear larger (from redshift 1.6 on) or gain so much light that its
            image's noise came out above the survey's.

    Source: Barden, Jahnke & Haeussler 2008 (ApJS 175, 105) for the steps.
    """
    move = redshift_cutouts(
        cutouts, added, k_correction_mag=k_correction_mag,
        evolution_mag_per_z=evolution_mag_per_z, assumed_redshift=assumed_redshift,
    )  # fmt: skip
    if added == 0:
        return cutouts
    _check(move)
    changed = pass_through(cutouts, _transfers(cutouts, move), rng)
    neighbours = cutouts.neighbours
    if neighbours is not None:
        neighbours = redshift_table(neighbours, move, cutouts, np.asarray(neighbours["row"], np.int64))
    truth = None if cutouts.truth is None else redshift_table(cutouts.truth, move, cutouts)
    changed = dataclasses.replace(changed, catalogue=move_catalogue(cutouts, move), truth=truth, neighbours=neighbours)
    if truth is not None and "snr" in truth.colnames:
        truth["snr"] = measure_snr(changed)
    return changed


def _check(move: Redshift) -> None:
    """Refuse what pixels cannot give."""
    if (move.size_ratio > 1).any():
        worst = float(move.size_ratio.max())
        came, allowed = f"a galaxy that appears {worst:.3f} times as large farther away", "size ratios of at most 1"
        raise InputError(came, allowed, "start from a smaller redshift, or draw simulated galaxies again")
    noise = move.flux_ratio / move.size_ratio
    if (noise > 1).any():
        came = f"noise {float(noise.max()):.3f} times the survey's"
        raise InputError(came, "at most the survey's own", "make the evolution or the k-correction weaker")


def _transfers(cutouts: Cutouts, move: Redshift) -> Iterator[tuple[NDArray[np.intp], Transfer]]:
    """Rows that share PSF and ratios, and their transfer."""
    psf = cutouts.psf
    is_shared = len(psf) > 0 and bool((psf == psf[:1]).all())
    keys = np.stack([move.size_ratio, move.flux_ratio, np.zeros(len(psf)) if is_shared else np.arange(len(psf))], 1)
    distinct, group = np.unique(keys, axis=0, return_inverse=True)
    for place, (size, flux, _) in enumerate(distinct):
        rows = np.flatnonzero(group.ravel() == place)
        side = max(cutouts.images.shape[1:])
        yield rows, _match(psf[int(rows[0])].cpu().double(), cutouts.psf_oversampling, float(size), float(flux), side)


def _match(psf: Tensor, oversampling: int, size: float, flux: float, side: int) -> Transfer:
    """The transfer that shrinks by ``size`` and gives the result the old PSF (P, P) again."""
    reach = min(side / 2, len(psf) / (2 * oversampling))
    period = 2 * math.ceil((side + size * side) / 4 + reach / 2 + 4)
    period = max(period, 2 * math.ceil(side / 2))
    fold = _choose_fold(psf, oversampling)
    k = wave_numbers(period, fold)
    half = k[: len(k) // 2 + 1].abs()
    new, old = (_transform(psf, oversampling, scale * k, scale * half) for scale in (1.0, size))
    kernel = new * old.conj() / (old.abs() ** 2 + _LEAST)
    known = size * k.abs() <= math.pi  # of shorter waves the old pixels know nothing but their aliases
    return Transfer(size, flux, period, fold, kernel * (known[:, None] & known[: len(half)]))


def _choose_fold(psf: Tensor, oversampling: int) -> int:
    """Smallest number of grid points a pixel beyond whose limit the PSF passes no light."""
    axis = torch.linspace(0, math.pi * oversampling, 32 * oversampling + 1, dtype=torch.float64)
    zero = axis[:1]
    along_y, along_x = (_transform(psf, oversampling, ky, kx).abs().ravel() for ky, kx in ((axis, zero), (zero, axis)))
    reach = float(axis[torch.maximum(along_y, along_x) > _NOTHING].max())
    return min(oversampling, max(1, math.ceil(reach / math.pi)))


def _transform(psf: Tensor, oversampling: int, ky: Tensor, kx: Tensor) -> Tensor:
    """(Ky, Kx) transfer function of a (P, P) PSF, wave numbers in radians per image pixel."""
    places = (torch.arange(len(psf), dtype=torch.float64) - len(psf) // 2) / oversampling
    along_y, along_x = (torch.polar(torch.ones(()).double(), -k[:, None] * places) for k in (ky, kx))
    return along_y @ psf.to(along_y.dtype) @ along_x.T / psf.sum()
