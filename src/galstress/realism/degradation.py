"""A check that needs no labels: a degraded image minus its original is the noise that was added, and nothing else.

The original is blurred and sampled here in another way than by :mod:`galstress.realism.matching`: in pixel space, with
numpy and scipy, on the template's own grid. What both share is the definition of the target, not the code.
"""

from __future__ import annotations

import math

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray
from scipy import fft, ndimage

from galstress.cutouts import Cutouts
from galstress.realism.records import Templates
from galstress.realism.reobservation import reobserve
from galstress.survey import Survey

__all__ = ["blur_original", "check_degraded"]

_Plane = NDArray[np.float64]


def check_degraded(
    templates: Templates,
    survey: Survey | str,
    *,
    magnification: float | np.ndarray | None = None,
    snr: float | np.ndarray | None = None,
    mag_ab: float | np.ndarray | None = None,
    seed: int = 1,
) -> QTable:
    """Chi-square per pixel between degraded images and their blurred originals.

    Arguments:
        templates: N templates, all usable for the survey.
        survey: The target, or its name.
        magnification: As in :func:`galstress.realism.reobserve`.
        snr: As there.
        mag_ab: As there.
        seed: Of orientation and noise.

    Returns:
        A row a template: ``object_id``, ``group``, ``chi_square`` (mean of the squared difference over
        V_degraded - V_original, the latter propagated from the noise of the template's pixels), ``chi_square_bright``
        (of the pixels where the galaxy exceeds the noise; NaN below 20 of them), ``pixels``, ``snr``,
        ``original_share`` (largest share of the variance that is the original's). ``meta["chi_square"]`` is the mean
        over all pixels. Expected is 1, within sqrt(2 / pixels) for white noise.

    The higher the S/N the more the check sees: a flux that is wrong by a share e adds (e S/N)^2 over the pixels. A
    large ``snr`` is cut at half of each template's.
    """
    survey = Survey.load(survey) if isinstance(survey, str) else survey
    degraded = reobserve(templates, survey, magnification=magnification, snr=snr, mag_ab=mag_ab, seed=seed)
    chi_square, bright, pixels, share = [], [], [], []
    for row in range(len(templates)):
        original, variance = blur_original(templates, degraded, row)
        total = degraded.variance[row].double().numpy()
        added = total - variance
        off = (degraded.images[row].double().numpy() - original) ** 2 / added
        chi_square.append(float(off.mean()))
        lit = original > np.sqrt(added)
        bright.append(float(off[lit].mean()) if lit.sum() >= 20 else math.nan)
        pixels.append(original.size)
        share.append(float((variance / total).max()))
    assert degraded.truth is not None
    table = QTable(
        {
            "object_id": templates.object_id,
            "group": templates.group,
            "chi_square": np.array(chi_square),
            "chi_square_bright": np.array(bright),
            "pixels": np.array(pixels),
            "snr": np.asarray(degraded.truth["snr"]),
            "original_share": np.array(share),
        }
    )
    table.meta = {"survey": survey.name, "seed": seed, "chi_square": float(np.average(chi_square, weights=pixels))}
    return table


def blur_original(templates: Templates, degraded: Cutouts, row: int) -> tuple[_Plane, _Plane]:
    """A template convolved with the matching kernel on its own grid, then sampled in the target's pixels.

    Arguments:
        templates: The originals.
        degraded: What :func:`galstress.realism.reobserve` made of them, row by row.
        row: Which.

    Returns:
        (S, S) image and (S, S) variance of the original's noise, in the target's units.
    """
    survey, catalogue, truth = degraded.survey, degraded.catalogue, degraded.truth
    assert truth is not None
    stamp_px = degraded.images.shape[-1]
    scale = float(catalogue["magnification"][row] * templates.pixel_scale_arcsec[row] / survey.pixel_scale_arcsec)
    turn, mirror = math.radians(float(catalogue["turn_deg"][row].value)), bool(catalogue["mirrored"][row])
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = matrix @ np.diag([-1.0 if mirror else 1.0, 1.0])
    centre = np.array([truth["x_px"][row].value, truth["y_px"][row].value])
    # wide enough for the stamp and for the PSF's wings beyond it
    reach = (stamp_px + degraded.psf.shape[-1] / degraded.psf_oversampling) / scale
    image, (left, top) = templates.complete(row, max(1.0, 0.75 * reach / max(templates.residuals[row].shape)))
    origin = np.array([templates.truth["x_px"][row].value + left, templates.truth["y_px"][row].value + top])
    side = len(image)
    kernel = _matching_kernel(
        side,
        (degraded.psf[row].double().numpy(), degraded.psf_oversampling, matrix),
        (templates.psf[row].double().numpy(), templates.psf_oversampling[row]),
    )
    noise = np.zeros((side, side))
    height, width = templates.variance[row].shape
    noise[top : top + height, left : left + width] = templates.variance[row].double().numpy()
    spread = ndimage.gaussian_filter(
        fft.fftshift(kernel), templates.noise_correlation_fwhm_px[row] / 2.354820045, mode="wrap", truncate=6
    )
    spread = fft.ifftshift(spread) / _root_of_squares(float(templates.noise_correlation_fwhm_px[row]))
    y, x = np.mgrid[:stamp_px, :stamp_px].astype(float)
    offset = np.linalg.inv(matrix) @ np.stack([x - centre[0], y - centre[1]]).reshape(2, -1)
    at = [(offset[axis] + origin[axis]).reshape(stamp_px, stamp_px) for axis in (1, 0)]
    total = 10 ** (-0.4 * (templates.truth["mag_ab"][row].value - templates.zero_point_mag[row]))
    # flux of a template pixel to that of a target pixel, which is 1 / scale^2 template pixels
    factor = float(truth["flux_njy"][row].value) / survey.unit_njy / total / scale**2
    light = ndimage.map_coordinates(_convolve(image.double().numpy(), kernel), at, order=5, mode="constant")
    arrived = ndimage.map_coordinates(_convolve(noise, spread**2), at, order=1, mode="constant")
    return factor * light, factor**2 * np.maximum(arrived, 0.0)


def _matching_kernel(side: int, target: tuple[_Plane, int, _Plane], template: tuple[_Plane, int]) -> _Plane:
    """(side, side) kernel about the first pixel that takes the template's PSF to the target's."""
    psf, oversampling, matrix = target
    steps = fft.fftfreq(side, 1 / side)
    x, y = np.meshgrid(steps, steps)
    offset = matrix @ np.stack([x, y]).reshape(2, -1) * oversampling + psf.shape[-1] // 2
    wide = ndimage.map_coordinates(psf, offset[::-1], order=5, mode="constant").reshape(side, side)
    own, sampling = template
    middle = own.shape[-1] // 2
    narrow = ndimage.map_coordinates(own, [y * sampling + middle, x * sampling + middle], order=5, mode="constant")
    wide, narrow = wide / wide.sum(), narrow / narrow.sum()
    through, passed = fft.fft2(wide), fft.fft2(narrow)
    return fft.ifft2(through * passed.conj() / (np.abs(passed) ** 2 + 1e-6)).real


def _convolve(image: _Plane, kernel: _Plane) -> _Plane:
    """Periodic convolution with a kernel about the first pixel."""
    return fft.irfft2(fft.rfft2(image) * fft.rfft2(kernel), s=image.shape)


def _root_of_squares(fwhm_px: float) -> float:
    """What a Gaussian kernel of sum 1 leaves of white noise."""
    if fwhm_px <= 0:
        return 1.0
    spike = np.zeros(129)
    spike[64] = 1.0
    return float((ndimage.gaussian_filter1d(spike, fwhm_px / 2.354820045, truncate=6) ** 2).sum())
