"""What lies behind and beside a galaxy: the sky's level and noise, the neighbours, the variance."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from astropy.stats import mad_std, sigma_clipped_stats
from photutils.segmentation import deblend_sources, detect_sources
from scipy import ndimage

__all__ = ["Sky", "choose_level", "estimate_variance", "find_zeroed_sky", "label_sources", "measure_sky"]

LEAST_SKY_PIXELS, ENOUGH_SKY_PIXELS = 60, 120
"""With fewer pixels of empty sky its noise is not measured; with fewer independent ones it is uncertain by 6 %."""

_EDGE, _SEED = 1.5, 4.0
"""A source is what stands above ``_EDGE`` times the noise of a smoothed image and reaches ``_SEED`` times."""

_PEAK, _PROMINENCE = 5.0, 1.5
"""A neighbour reaches ``_PEAK`` times the noise, and 1.5 times the brightness of the pass between it and the object."""

_RAW, _PEDESTAL = 3.0, 0.1
"""Sky levels, in units of the rms: above ``_RAW`` nobody has subtracted it; below ``_PEDESTAL`` nobody must."""


@dataclasses.dataclass(frozen=True)
class Sky:
    """The empty sky of one image."""

    level: float
    """Median far from all sources, image units."""
    level_error: float
    """Standard error of ``level``, correlated noise allowed for."""
    rms: float
    """Standard deviation of a pixel."""
    clear: np.ndarray
    """(H, W) bool, True: empty sky."""
    correlation: float
    """Correlation of the noise of adjacent pixels, mean of both axes."""
    flat: bool
    """Near and far from the sources the level is the same: no galaxy's wing is mistaken for sky."""

    def is_uncertain(self, subtracted: float) -> bool:
        """Whether too few independent pixels are left, or light that was not subtracted lies on all of them."""
        independent = self.clear.sum() / (1 + 4 * max(self.correlation, 0.0))
        return bool(independent < ENOUGH_SKY_PIXELS or abs(self.level - subtracted) > 0.3 * self.rms)


def measure_sky(image: np.ndarray, bad: np.ndarray, psf_fwhm_px: float) -> Sky | None:
    """Level and noise of the sky, with every source masked.

    Arguments:
        image: (H, W) float64, finite everywhere.
        bad: (H, W) bool, True: ignore.
        psf_fwhm_px: Sets the size of the small smoothing kernel; the large one is four times as wide.

    Returns:
        The sky, or None where fewer than 60 pixels of it are left or it has no noise.

    Sources are found on two smoothed images (cores and faint wings), again and again as the noise gets to be
    known better. The smoothed images' own noise is the threshold, so correlated noise makes no sources.
    """
    good = ~bad
    kernels = [max(1.0, psf_fwhm_px / 2.355), max(4.0, 4 * psf_fwhm_px / 2.355)]
    weights = [ndimage.gaussian_filter(good.astype(float), sigma) for sigma in kernels]
    sources = np.zeros_like(bad)
    for _ in range(6):
        clear = good & ~sources
        if clear.sum() < LEAST_SKY_PIXELS:
            return None
        level = float(np.median(image[clear]))
        residual = np.where(good, image - level, 0.0)
        found = np.zeros_like(bad)
        for sigma, weight in zip(kernels, weights, strict=True):
            smooth = ndimage.gaussian_filter(residual, sigma) / np.maximum(weight, 0.05)
            found |= _stand_out(smooth, clear)
        found &= good
        if (found == sources).all():
            break
        sources = found
    clear = good & ~sources
    if clear.sum() < LEAST_SKY_PIXELS:
        return None
    return _summarise(image, clear, sources)


def _stand_out(smooth: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Regions above the edge that reach the seed threshold, in the noise of the smoothed sky."""
    level, noise = float(np.median(smooth[clear])), float(mad_std(smooth[clear]))
    if not noise > 0:
        return np.zeros_like(clear)
    labels, count = ndimage.label(smooth > level + _EDGE * noise)
    if count == 0:
        return np.zeros_like(clear)
    peaks = ndimage.maximum(smooth, labels, np.arange(1, count + 1))
    return np.isin(labels, 1 + np.flatnonzero(peaks > level + _SEED * noise))


def _summarise(image: np.ndarray, clear: np.ndarray, sources: np.ndarray) -> Sky | None:
    """Numbers of the sky pixels: the level far from sources, the noise everywhere."""
    distance = ndimage.distance_transform_edt(~sources) if sources.any() else np.ones(image.shape)
    far = clear & (distance >= np.median(distance[clear]))
    near = clear & ~far
    _, level, _ = sigma_clipped_stats(image[far], sigma=3.0, maxiters=5)
    _, middle, rms = sigma_clipped_stats(image[clear], sigma=3.5, maxiters=5)
    if not rms > 0:
        return None
    inside = np.where(clear & (np.abs(image - middle) < 3.5 * rms), image - middle, np.nan)
    pairs = [inside[:, :-1] * inside[:, 1:], inside[:-1] * inside[1:]]
    products = np.concatenate([p[np.isfinite(p)] for p in pairs])
    correlation = float(np.clip(products.mean() / np.nanvar(inside), -1, 1)) if products.size > 20 else 0.0
    # 1.25 turns the error of a mean into that of a median; correlation leaves fewer independent pixels
    error = 1.2533 * float(rms) * np.sqrt((1 + 4 * max(correlation, 0.0)) / far.sum())
    step = abs(float(np.median(image[near])) - level) if near.any() else 0.0
    flat = step < max(2.5 * error, 0.2 * abs(level))
    return Sky(float(level), float(error), float(rms), clear, correlation, bool(flat))


def choose_level(sky: Sky, subtract: bool | None) -> float:
    """The level to subtract.

    Arguments:
        sky: The measured sky.
        subtract: True: always; False: never; None: where it plainly has not been subtracted, which is a level of
            more than 3 rms, or a significant one that is the same near and far from the sources, or below zero.
            A galaxy's wings that fill a stamp are none of these: a stamp whose sky was subtracted is left alone.
    """
    if subtract is not None:
        return sky.level if subtract else 0.0
    significant = abs(sky.level) > max(_PEDESTAL * sky.rms, 5 * sky.level_error)
    pedestal = sky.level < 0 or (sky.flat and sky.clear.mean() > 0.3)
    return sky.level if abs(sky.level) > _RAW * sky.rms or (significant and pedestal) else 0.0


def find_zeroed_sky(image: np.ndarray, bad: np.ndarray) -> np.ndarray | None:
    """Pixels that somebody set to exactly zero, or None where none were.

    Whole patches of zeros count (a pixel and its eight neighbours), not the single zeros of integer images.
    """
    zero = (image == 0) & ~bad
    core = ndimage.binary_erosion(zero, np.ones((3, 3)))
    if core.sum() <= 0.02 * image.size:
        return None
    return ndimage.binary_dilation(core, np.ones((3, 3))) & zero | zero & _touches(zero, core)


def _touches(zero: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Zeros connected to the patches."""
    labels, _ = ndimage.label(zero)
    return np.isin(labels, np.unique(labels[core]))


def label_sources(
    image: np.ndarray, bad: np.ndarray, noise: float, psf_fwhm_px: float, centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The object at the centre and everything else, by detection and deblending (photutils).

    Arguments:
        image: (H, W) sky-subtracted.
        bad: (H, W) bool, True: ignore.
        noise: Sky rms of a pixel.
        psf_fwhm_px: Sets the smoothing.
        centre: Pixel (x, y) of the object.

    Returns:
        (H, W) bool of the object and (H, W) bool of its neighbours.
    """
    nothing = np.zeros(image.shape, bool)
    sigma = float(np.clip(psf_fwhm_px / 2.355, 1.0, 4.0))
    smooth = ndimage.gaussian_filter(np.where(bad, 0.0, image), sigma)
    quiet = ~bad & (smooth < 2 * noise)
    smooth_noise = max(float(mad_std(smooth[quiet])) if quiet.sum() > LEAST_SKY_PIXELS else 0.0, noise / (3.5 * sigma))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = detect_sources(smooth, _EDGE * smooth_noise, max(5, round(2 * sigma**2)), mask=bad)
        if found is None:
            return nothing, nothing
        peaks = ndimage.maximum(smooth, found.data, found.labels)
        found.keep_labels(found.labels[np.asarray(peaks) > _PEAK * smooth_noise])
        if found.n_labels == 0:
            return nothing, nothing
        found = deblend_sources(smooth, found, 8, n_levels=16, contrast=0.003, mode="sinh", progress_bar=False)
    target, neighbours = split_labels(found.data, centre, max(3.0, psf_fwhm_px))
    return _take_back(target, neighbours, found.data, smooth)


def _take_back(
    target: np.ndarray, neighbours: np.ndarray, labels: np.ndarray, smooth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Arms, rings and clumps back to the object: pieces that touch it and do not rise well above the pass between."""
    if not target.any():
        return target, neighbours
    touched = True
    while touched:
        rim = ndimage.binary_dilation(target, np.ones((3, 3))) & neighbours
        touched = False
        for label in np.unique(labels[rim]):
            piece = labels == label
            if smooth[piece].max() < _PROMINENCE * smooth[rim & piece].max():
                target, neighbours, touched = target | piece, neighbours & ~piece, True
    return target, neighbours


def split_labels(labels: np.ndarray, centre: tuple[float, float], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The object at the centre (or the nearest one within ``reach`` pixels) and everything else."""
    height, width = labels.shape
    x, y = (int(np.clip(np.floor(c + 0.5), 0, side - 1)) for c, side in zip(centre, (width, height), strict=True))
    own = labels[y, x]
    if own == 0:
        near_y, near_x = np.nonzero(labels)
        distance = np.hypot(near_x - centre[0], near_y - centre[1])
        if distance.size and distance.min() <= reach:
            place = int(distance.argmin())
            own = labels[near_y[place], near_x[place]]
    target = (labels == own) & (own != 0)
    return target, (labels != 0) & ~target


def estimate_variance(image: np.ndarray, sources: np.ndarray, rms: float, electrons_per_unit: float) -> np.ndarray:
    """Sky noise plus the photon noise of a smoothed image inside the sources: rms^2 + model / gain.

    Noisy counts of single pixels never enter: a fit with such a variance is biased low.
    """
    model = ndimage.gaussian_filter(np.where(sources, image, 0.0), 1.0)
    return rms**2 + np.where(sources, np.maximum(model, 0.0), 0.0) / electrons_per_unit
