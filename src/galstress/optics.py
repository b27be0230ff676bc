"""Point-spread functions, resampling and noise. Pure functions of tensors.

An *effective* PSF has the pixel in it: its samples are what a point source would show in
pixels centred at every sub-pixel position. It sums to 1, its side is odd, and it is sampled
``oversampling`` times a pixel. Convolving a galaxy with it and taking the value at each
pixel's centre gives the pixel's flux.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "add_correlated_noise",
    "choose_oversampling",
    "choose_psf_size",
    "correlation_power",
    "make_psf",
    "measure_fwhm",
    "measure_growth",
    "normalise_psf",
    "psf_transform",
]


class PsfNumbers(Protocol):
    """What a survey says of its PSF; see :class:`galstress.survey.Psf`."""

    @property
    def kind(self) -> str:
        """Moffat, Kolmogorov or Airy."""

    @property
    def fwhm_arcsec(self) -> float:
        """Width before the pixel."""

    @property
    def beta(self) -> float:
        """Moffat's exponent."""

    @property
    def diameter_m(self) -> float:
        """Primary mirror."""

    @property
    def wavelength_nm(self) -> float:
        """Effective wavelength."""

    @property
    def obscuration(self) -> float:
        """Linear central obscuration."""

    @property
    def jitter_arcsec(self) -> float:
        """Gaussian jitter."""

    @property
    def e1(self) -> float:
        """Ellipticity along x and y."""

    @property
    def e2(self) -> float:
        """Ellipticity along the diagonals."""


def choose_oversampling(psf_fwhm_px: float) -> int:
    """Samples per pixel that keep at least 5.5 samples across the FWHM (well beyond Nyquist).

    Example:
        >>> choose_oversampling(3.6), choose_oversampling(1.6)
        (2, 4)
    """
    return max(1, math.ceil(5.5 / psf_fwhm_px))


def choose_psf_size(psf_fwhm_px: float, oversampling: int, stamp_px: int, radius_fwhm: float = 12.0) -> int:
    """Odd side of a PSF image, samples: ``radius_fwhm`` on either side, at most the stamp's width."""
    radius_px = min(radius_fwhm * psf_fwhm_px, stamp_px / 2)
    return 2 * int(radius_px * oversampling) + 1


def make_psf(psf: PsfNumbers, pixel_scale_arcsec: float, oversampling: int, size: int) -> Tensor:
    """Effective PSF (pixel included) of a survey.

    Arguments:
        psf: Kind and numbers.
        pixel_scale_arcsec: Side of a pixel.
        oversampling: Samples per pixel, 1 or more; the Fourier method (Kolmogorov, Airy) needs Nyquist sampling.
        size: Odd side of the result, samples.

    Returns:
        (size, size) float64, sum 1.

    The wings are cut at the edge, softly over the outer third. Moffat by 6 x 6 Gauss-Legendre points a pixel on
    the sky; Kolmogorov
    exp(-3.44 (k FWHM / (2 pi 0.9759))^(5/3)) and the obscured Airy's overlap of annuli in
    Fourier space, on a grid four times as wide as the result.
    """
    if psf.kind == "moffat":
        image = _moffat(psf, pixel_scale_arcsec, oversampling, size)
    else:
        image = _from_transform(psf, pixel_scale_arcsec, oversampling, size)
    image = image * _soft_edge(size)
    return image / image.sum()


def _soft_edge(size: int) -> Tensor:
    """A round window that falls from 1 to 0 over the outer third: a sharp edge would ring at all wave numbers."""
    axis = (torch.arange(size, dtype=torch.float64) - size // 2) / (size / 2)
    radius = torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)
    return 0.5 + 0.5 * torch.cos(math.pi * ((radius - 0.66) / 0.34).clamp(0, 1))


def _shear(psf: PsfNumbers) -> Tensor:
    """Area-preserving matrix that takes a round shape to the PSF's ellipticity."""
    scale = 1 / math.sqrt(1 - psf.e1**2 - psf.e2**2)
    return scale * torch.tensor([[1 + psf.e1, psf.e2], [psf.e2, 1 - psf.e1]], dtype=torch.float64)


def _moffat(psf: PsfNumbers, pixel_scale: float, oversampling: int, size: int) -> Tensor:
    """Average of a Moffat profile over each (sub-pixel placed) pixel."""
    points, weights = (
        torch.tensor(v, dtype=torch.float64)
        for v in (
            [-0.9324695142, -0.6612093865, -0.2386191861, 0.2386191861, 0.6612093865, 0.9324695142],
            [0.1713244924, 0.3607615730, 0.4679139346, 0.4679139346, 0.3607615730, 0.1713244924],
        )
    )
    grid = (torch.arange(size, dtype=torch.float64) - size // 2) / oversampling
    fine = (grid[:, None] + points / 2).reshape(-1)
    inverse = torch.linalg.inv(_shear(psf))
    x = inverse[0, 0] * fine[None, :] + inverse[0, 1] * fine[:, None]
    y = inverse[1, 0] * fine[None, :] + inverse[1, 1] * fine[:, None]
    core = psf.fwhm_arcsec / pixel_scale / (2 * math.sqrt(2 ** (1 / psf.beta) - 1))
    values = (1 + (x**2 + y**2) / core**2) ** -psf.beta
    values = values.reshape(size, len(points), size, len(points))
    return torch.einsum("iajb,a,b->ij", values, weights, weights)


def _from_transform(psf: PsfNumbers, pixel_scale: float, oversampling: int, size: int) -> Tensor:
    """Inverse Fourier transform of an analytic optical transfer function times the pixel's."""
    grid = 4 * (size + 1)
    k = 2 * math.pi * torch.fft.fftfreq(grid, dtype=torch.float64) * oversampling  # per pixel
    matrix = _shear(psf)
    kx = matrix[0, 0] * k[None, :] + matrix[1, 0] * k[:, None]
    ky = matrix[0, 1] * k[None, :] + matrix[1, 1] * k[:, None]
    k_arcsec = torch.sqrt(kx**2 + ky**2) / pixel_scale
    if psf.kind == "kolmogorov":
        transform = torch.exp(-3.44195 * (k_arcsec * psf.fwhm_arcsec / (2 * math.pi * 0.97586)) ** (5 / 3))
    else:
        cutoff = 2 * math.pi * psf.diameter_m / (psf.wavelength_nm * 1e-9) / 206264.806
        transform = _annulus_overlap(k_arcsec / cutoff, psf.obscuration)
        transform = transform * torch.exp(-0.5 * (k_arcsec * psf.jitter_arcsec) ** 2)
    pixel = torch.sinc(k / (2 * math.pi))
    image = torch.fft.fftshift(torch.fft.ifft2(transform * pixel[None, :] * pixel[:, None]).real)
    low = grid // 2 - size // 2
    return image[low : low + size, low : low + size]


def _annulus_overlap(share: Tensor, obscuration: float) -> Tensor:
    """Transfer function of an annular aperture at ``share`` of its cut-off (area shared by two shifted annuli)."""
    distance = 2 * share.clamp(0, 1)

    def circles(r1: float, r2: float) -> Tensor:
        small = math.pi * min(r1, r2) ** 2
        d = distance.clamp(min=max(abs(r1 - r2), 1e-12), max=r1 + r2)
        first = r1**2 * torch.arccos(((d**2 + r1**2 - r2**2) / (2 * d * r1)).clamp(-1, 1))
        second = r2**2 * torch.arccos(((d**2 + r2**2 - r1**2) / (2 * d * r2)).clamp(-1, 1))
        root = (-d + r1 + r2) * (d + r1 - r2) * (d - r1 + r2) * (d + r1 + r2)
        lens = first + second - 0.5 * torch.sqrt(root.clamp_min(0))
        return torch.where(distance <= abs(r1 - r2), torch.full_like(distance, small), lens)

    total = circles(1, 1)
    if obscuration > 0:
        total = total - 2 * circles(1, obscuration) + circles(obscuration, obscuration)
    return total / (math.pi * (1 - obscuration**2))


def normalise_psf(psf: Tensor) -> Tensor:
    """A PSF image made fit for use: odd side, peak at the centre, no negative infinity, sum 1.

    Arguments:
        psf: (..., H, W) samples; even sides lose a row or column, oblong images are cropped to a square about
            the brightest sample of each image.

    Raises:
        ValueError: The PSF is not finite or its sum is not positive.
    """
    if not bool(torch.isfinite(psf).all()):
        raise ValueError("the PSF has samples that are not finite")
    flat = psf.reshape(-1, *psf.shape[-2:])
    sides = []
    for image in flat:
        y, x = divmod(int(image.argmax()), image.shape[1])
        sides.append((y, x, min(y, x, image.shape[0] - 1 - y, image.shape[1] - 1 - x)))
    radius = min(side[2] for side in sides)
    images = torch.stack(
        [
            image[y - radius : y + radius + 1, x - radius : x + radius + 1]
            for image, (y, x, _) in zip(flat, sides, strict=True)
        ]
    )
    total = images.sum((-2, -1), keepdim=True)
    if not bool((total > 0).all()):
        raise ValueError("the PSF's sum is not positive")
    return (images / total).reshape(*psf.shape[:-2], *images.shape[-2:])


def measure_fwhm(psf: Tensor, oversampling: int) -> Tensor:
    """Full width at half maximum of effective PSFs: the diameter of the circle of equal area above half peak.

    Arguments:
        psf: (N, P, P).
        oversampling: Samples per pixel.

    Returns:
        (N,) in image pixels, interpolated (bicubic, 8 times).
    """
    radius = min(psf.shape[-1] // 2, max(8, 6 * oversampling))
    middle = psf.shape[-1] // 2
    core = psf[:, middle - radius : middle + radius + 1, middle - radius : middle + radius + 1]
    size = 8 * (2 * radius) + 1
    fine = torch.nn.functional.interpolate(core[:, None], size=(size, size), mode="bicubic", align_corners=True)[:, 0]
    above = (fine >= fine.amax((-2, -1), keepdim=True) / 2).sum((-2, -1)).to(psf.dtype)
    return 2 * torch.sqrt(above / math.pi) / (8 * oversampling)


def measure_growth(psf: Tensor, oversampling: int, radii_px: tuple[float, ...]) -> Tensor:
    """Share of an effective PSF's light inside circles: what tells a core from its wings.

    Arguments:
        psf: (N, P, P), sum 1.
        oversampling: Samples per pixel.
        radii_px: R radii in image pixels.

    Returns:
        (N, R).
    """
    middle = psf.shape[-1] // 2
    axis = (torch.arange(psf.shape[-1], device=psf.device, dtype=psf.dtype) - middle) / oversampling
    distance = torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)
    # a soft edge one sample wide: no jump when the radius crosses a sample
    inside = torch.stack([(0.5 + (r - distance) * oversampling).clamp(0, 1) for r in radii_px])
    return torch.einsum("nij,rij->nr", psf, inside)


def psf_transform(psf: Tensor, oversampling: int, k: Tensor) -> Tensor:
    """Fourier transform of effective PSF images at a square lattice of wave numbers, by direct sums.

    Arguments:
        psf: (N, P, P) samples, ``oversampling`` a pixel.
        oversampling: Samples per pixel.
        k: (K,) wave numbers along each axis, radians per pixel, up to pi times ``oversampling``.

    Returns:
        (N, 2, 2, K, K): at (ky, kx) and, in the second plane, at (ky, -kx); real and imaginary part; rows are ky.
    """
    side = psf.shape[-1]
    places = (torch.arange(side, device=psf.device, dtype=psf.dtype) - side // 2) / oversampling
    angle = k[:, None] * places[None, :]
    cos, sin = torch.cos(angle), torch.sin(angle)
    along_y = torch.stack([cos, sin])[:, None] @ psf  # (2, N, ky, P)
    (cc, sc), (cs, ss) = along_y @ cos.T, along_y @ sin.T  # y first
    return torch.stack([torch.stack([cc - ss, -sc - cs], 1), torch.stack([cc + ss, cs - sc], 1)], 1)


def add_correlated_noise(white: Tensor, correlation_fwhm_px: float) -> Tensor:
    """White noise made correlated by a Gaussian kernel, its rms per pixel kept.

    Arguments:
        white: (N, H, W) independent noise.
        correlation_fwhm_px: FWHM of the kernel, pixels; 0 returns the input.
    """
    if correlation_fwhm_px <= 0:
        return white
    steps, kernel = _correlating_kernel(white, correlation_fwhm_px)
    radius = len(steps) // 2
    padded = torch.nn.functional.pad(white[:, None], (radius,) * 4, mode="circular")
    rows = torch.nn.functional.conv2d(padded, kernel[None, None, None, :])
    return torch.nn.functional.conv2d(rows, kernel[None, None, :, None])[:, 0]


def correlation_power(k: Tensor, correlation_fwhm_px: float) -> Tensor:
    """Power of noise behind :func:`add_correlated_noise`'s kernel along one axis, mean 1 over the wave numbers.

    Arguments:
        k: (K,) wave numbers, radians per pixel.
        correlation_fwhm_px: FWHM of the kernel, pixels; 0 for white noise.

    Returns:
        (K,); the power of an image's noise is the product of both axes'.
    """
    if correlation_fwhm_px <= 0:
        return torch.ones_like(k)
    steps, kernel = _correlating_kernel(k, correlation_fwhm_px)
    return (kernel * torch.cos(k[:, None] * steps)).sum(1) ** 2


def _correlating_kernel(like: Tensor, fwhm_px: float) -> tuple[Tensor, Tensor]:
    """Pixels about the middle, and a Gaussian whose squares sum to 1."""
    sigma = fwhm_px / 2.354820045
    radius = max(1, math.ceil(4 * sigma))
    steps = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    return steps, kernel / torch.sqrt((kernel**2).sum())
