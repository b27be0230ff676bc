"""Seeing: the same sky through a wider PSF, in the survey's noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.optics import measure_fwhm
from galstress.perturbations.transfer import Transfer, measure_snr, pass_through, wave_numbers

__all__ = ["widen_psf"]

_SIGMA = 2 * math.sqrt(2 * math.log(2))
"""FWHM of a Gaussian over its sigma."""


def widen_psf(cutouts: Cutouts, factor: float, rng: torch.Generator) -> Cutouts:
    """Images as they come out where the PSF is wider: convolved with a round Gaussian, the noise topped up.

    The Gaussian is as wide as it takes for the FWHM to be ``factor`` times what it was. Convolution smooths the noise;
    what it lost is added, wave number by wave number, so that variance and correlation are the survey's again:
    ``sky_rms`` stays, and no image gets deeper. ``psf`` and ``psf_fwhm_px`` follow, the survey's record stays.

    Arguments:
        cutouts: N objects, real or simulated.
        factor: On the FWHM, 1 or more; 1 changes nothing.
        rng: Randomness; an object's noise depends on the generator and its ``object_id``, not on the batch.
    """
    if factor == 1:
        return cutouts
    psf = cutouts.psf
    is_shared = len(psf) > 1 and bool((psf == psf[:1]).all())
    psf, sigma = _widen(psf[:1] if is_shared else psf, cutouts.psf_oversampling, factor)
    widths = sigma.cpu().numpy().astype(float)
    changed = pass_through(cutouts, _transfers(np.resize(widths, len(cutouts)), cutouts), rng)
    changed = dataclasses.replace(
        changed, psf=psf.expand_as(cutouts.psf) if is_shared else psf, psf_fwhm_px=cutouts.psf_fwhm_px * factor
    )
    if cutouts.truth is not None and "snr" in cutouts.truth.colnames:
        truth = cutouts.truth.copy()
        truth["snr"] = measure_snr(changed)
        changed = dataclasses.replace(changed, truth=truth)
    return changed


def _transfers(sigma_px: NDArray[np.float64], cutouts: Cutouts) -> Iterator[tuple[NDArray[np.intp], Transfer]]:
    """Rows that share a width, and their convolution."""
    distinct, group = np.unique(sigma_px, return_inverse=True)
    for place, sigma in enumerate(distinct):
        # no grid finer than the pixels: the image knows nothing beyond their limit
        period = 2 * math.ceil((max(cutouts.images.shape[1:]) + 5 * sigma) / 2)
        gauss = torch.exp(-0.5 * (sigma * wave_numbers(period, 1)) ** 2)
        kernel = gauss[:, None] * gauss[: period // 2 + 1]
        yield np.flatnonzero(group == place), Transfer(1.0, 1.0, period, 1, kernel.to(torch.complex128))


def _widen(psf: Tensor, oversampling: int, factor: float) -> tuple[Tensor, Tensor]:
    """PSFs (M, P, P) of ``factor`` times the FWHM, and the sigmas (M,) in image pixels of the Gaussians it took."""
    before = measure_fwhm(psf, oversampling)
    sigma2 = before**2 * (factor**2 - 1) / _SIGMA**2
    wide = _blur(psf, sigma2.sqrt() * oversampling)
    for _ in range(6):  # widths add in squares for a Gaussian only
        width = measure_fwhm(wide, oversampling)
        sigma2 = (sigma2 + ((factor * before) ** 2 - width**2) / _SIGMA**2).clamp_min(1e-4)
        wide = _blur(psf, sigma2.sqrt() * oversampling)
    return wide, sigma2.sqrt()


def _blur(psf: Tensor, sigma: Tensor) -> Tensor:
    """PSFs (M, P, P) convolved with Gaussians of sigma (M,) samples, within their frame; sum 1."""
    side = psf.shape[-1]
    size = 2 * side
    k = 2 * math.pi * torch.fft.fftfreq(size, device=psf.device, dtype=torch.float64)
    gauss = torch.exp(-0.5 * (sigma.double()[:, None] * k) ** 2)
    spectrum = torch.fft.rfft2(psf.double(), s=(size, size)) * gauss[:, :, None] * gauss[:, None, : side + 1]
    wide = torch.fft.irfft2(spectrum, s=(size, size))[:, :side, :side]
    return (wide / wide.sum((1, 2), keepdim=True)).to(psf.dtype)
