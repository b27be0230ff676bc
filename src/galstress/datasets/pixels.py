"""Measurements and PSFs that the readers of the sets share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.stats import mad_std
from scipy import ndimage

__all__ = ["find_brightest", "mean_psf", "measure_noise_inside", "resample_tinytim"]


def measure_noise_inside(image: np.ndarray, inside: np.ndarray, ratio: float) -> float:
    """Noise of a pixel where the sky was set to zero, from the faint part of the galaxy itself.

    Arguments:
        image: (H, W).
        inside: (H, W) bool, True: pixels that were kept.
        ratio: What the same filter gives on empty sky of the same kind of image, as a share of its rms; below 1
            because drizzled noise is correlated.

    Returns:
        Standard deviation of a pixel, or NaN with fewer than 30 usable ones.

    The filter is the difference of two Laplacians (Immerkaer 1996), which a smooth galaxy passes unseen.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6.0
    core = ndimage.binary_erosion(inside, np.ones((3, 3)))
    if core.sum() < 75:
        return float("nan")
    smooth = ndimage.gaussian_filter(image, 1.5)
    faint = core & (smooth <= np.percentile(smooth[core], 40))
    if faint.sum() < 30:
        return float("nan")
    return float(mad_std(ndimage.convolve(image, kernel)[faint])) / ratio


def resample_tinytim(
    psf: np.ndarray, scale: float, pixel_scale: float, oversampling: int, size: int, blur_arcsec: float = 0.028
) -> np.ndarray:
    """An effective PSF of drizzled images from a finely sampled Tiny Tim PSF.

    Arguments:
        psf: (H, W) samples of ``scale`` arcsec, finer than Nyquist, so that its Fourier transform is exact.
        scale: Arcsec per sample of ``psf``.
        pixel_scale: Arcsec per pixel of the images.
        oversampling: Samples per pixel of the result.
        size: Odd side of the result, samples.
        blur_arcsec: Sigma of charge diffusion and resampling. 0.028 makes the same recipe at 0.03 arcsec as wide
            as the PSFs of COSMOS (FWHM 0.106 arcsec).

    Returns:
        (size, size), sum 1. On top of the optics: the detector's pixel (0.05 arcsec), the drop (0.04 arcsec), the
        output pixel, and the blur.
    """
    rows, columns = np.unravel_index(int(np.argmax(psf)), psf.shape)
    grid = (np.arange(size) - size // 2) * pixel_scale / oversampling
    transform = np.fft.fft2(psf / psf.sum())
    sides = []
    for length, middle in ((psf.shape[0], rows), (psf.shape[1], columns)):
        frequency = np.fft.fftfreq(length, scale)
        window = np.exp(-2 * (np.pi * blur_arcsec * frequency) ** 2)
        for box in (0.05, 0.04, pixel_scale):
            window = window * np.sinc(box * frequency)
        phase = np.exp(2j * np.pi * frequency[None, :] * (grid[:, None] + middle * scale))
        sides.append(phase * window[None, :])
    result = (sides[0] @ transform @ sides[1].T).real
    return result / result.sum()


def find_brightest(image: np.ndarray, sigma: float = 2.0) -> tuple[float, float]:
    """Pixel (x, y) of the peak of a smoothed image: the centre of a lone galaxy."""
    row, column = np.unravel_index(int(ndimage.gaussian_filter(image, sigma).argmax()), image.shape)
    return float(column), float(row)


def mean_psf(path: Path) -> np.ndarray:
    """Mean of many PSFs, each cut about its brightest sample."""
    side, total = 18, np.zeros((37, 37))
    with fits.open(path) as hdus:
        for hdu in hdus:
            padded = np.pad(np.asarray(hdu.data, float), 2 * side)
            row, column = np.unravel_index(int(padded.argmax()), padded.shape)
            cut = padded[row - side : row + side + 1, column - side : column + side + 1]
            total += cut / cut.sum()
    return total / total.sum()
