"""From a narrow PSF to a wide one: template pixels turned, magnified, blurred and sampled as another telescope would.

All of it is one multiplication in Fourier space. A template I(x), of pixels a target pixels wide and turned by Q, is
the sum of its pixels' light through a matching kernel, whose transform is the target's transfer function over the
template's own: H(k) = T_target(k) / T_template(A' k), A = a Q. Both transfer functions have their pixels in them. Where
the template passes hardly any light the quotient is held back, T conj(T_t) / (|T_t|^2 + 1e-6).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from galstress.optics import correlation_power
from galstress.realism.waves import transform_at

__all__ = ["Lens", "View", "match", "place", "widen"]

_LEAST = 1e-6
"""Square of the transfer function below which a template counts as passing no light."""
_NOTHING = 1e-5
"""A target's transfer function below this is nothing; 10 times that where it decides on folding."""


@dataclasses.dataclass(frozen=True)
class View:
    """How one template is put into target pixels."""

    scale: float
    """Width of a template pixel, target pixels."""
    turn: float
    """From +x towards +y, radians, after the mirror."""
    mirror: bool
    """x becomes -x first."""
    centre: tuple[float, float]
    """Target pixel (x, y) that the template's ``origin`` falls on."""
    origin: tuple[float, float]
    """Template pixel (x, y)."""

    @property
    def matrix(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Template offsets to target offsets, both (x, y)."""
        cos, sin = self.scale * math.cos(self.turn), self.scale * math.sin(self.turn)
        sign = -1.0 if self.mirror else 1.0
        return (sign * cos, -sin), (sign * sin, cos)


@dataclasses.dataclass(frozen=True)
class Lens:
    """A target's transfer function at the wave numbers of a periodic grid of pixels, where it passes light."""

    period: int
    """Pixels after which the grid repeats."""
    fold: int
    """Samples a pixel of the grid: more than 1 where light beyond the pixels' own limit aliases."""
    kept: Tensor
    """(K,) places in the half plane of a real transform, (period fold) x (period fold / 2 + 1), flattened."""
    kx: Tensor
    """(K,) radians per pixel."""
    ky: Tensor
    """(K,)."""
    transfer: Tensor
    """(K,) complex."""

    @classmethod
    def of(cls, psf: Tensor, oversampling: int, period: int) -> Lens:
        """The lens of a (P, P) effective PSF for grids of ``period`` pixels, an even number."""
        axis = torch.arange(1, 33, device=psf.device, dtype=psf.dtype) / 32
        fold = oversampling
        for candidate in range(1, oversampling):
            k = math.pi * (candidate + (oversampling - candidate) * axis)
            far = torch.cat([_transfer(psf, oversampling, a, b) for a, b in ((k, 0 * k), (0 * k, k), (k, -k))])
            if float(far.abs().max()) < 10 * _NOTHING:
                fold = candidate
                break
        size = period * fold
        unit = 2 * math.pi / period
        ky = torch.fft.fftfreq(size, 1 / size, device=psf.device, dtype=psf.dtype) * unit
        kx = torch.fft.rfftfreq(size, 1 / size, device=psf.device, dtype=psf.dtype) * unit
        plane_y, plane_x = (plane.reshape(-1) for plane in torch.meshgrid(ky, kx, indexing="ij"))
        transfer = _transfer(psf, oversampling, plane_x, plane_y)
        kept = torch.nonzero(transfer.abs() > _NOTHING)[:, 0]
        return cls(period, fold, kept, plane_x[kept], plane_y[kept], transfer[kept])

    def draw(self, waves: Tensor, stamp_px: int) -> Tensor:
        """(N, stamp_px, stamp_px) pixels of (N, K) values at the kept wave numbers."""
        size = self.period * self.fold
        plane = waves.new_zeros(len(waves), size * (size // 2 + 1))
        plane[:, self.kept] = waves
        image = torch.fft.irfft2(plane.view(len(waves), size, size // 2 + 1), s=(size, size)) * self.fold**2
        return image[:, : stamp_px * self.fold : self.fold, : stamp_px * self.fold : self.fold]


def _transfer(psf: Tensor, oversampling: int, kx: Tensor, ky: Tensor) -> Tensor:
    """Transform of an effective PSF at wave numbers in radians per image pixel."""
    middle = (psf.shape[-1] // 2, psf.shape[-2] // 2)
    return transform_at(psf, kx / oversampling, ky / oversampling, middle)


def match(lens: Lens, view: View, psf: Tensor, oversampling: int) -> tuple[Tensor, Tensor, Tensor]:
    """The matching kernel of one view.

    Arguments:
        lens: The target.
        view: How the template lies in it.
        psf: (P, P) effective PSF of the template.
        oversampling: Samples of it a template pixel.

    Returns:
        (K,) the kernel's transform H; (K,) wave numbers qx, qy in radians per template pixel.
    """
    (xx, xy), (yx, yy) = view.matrix
    qx, qy = lens.kx * xx + lens.ky * yx, lens.kx * xy + lens.ky * yy
    own = _transfer(psf, oversampling, qx, qy)
    return lens.transfer * own.conj() / (own.abs() ** 2 + _LEAST), qx, qy


def place(lens: Lens, view: View, image: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
    """(K,) transform of a template's pixels put where the view says."""
    phase = -(lens.kx * view.centre[0] + lens.ky * view.centre[1])
    return transform_at(image, qx, qy, view.origin) * torch.polar(torch.ones_like(phase), phase)


def widen(lens: Lens, kernel: Tensor, qx: Tensor, qy: Tensor, correlation_fwhm_px: float) -> Tensor:
    """(K,) transform of what carries a template's variance to the target's pixels.

    Independent noise of variance v(x) becomes sum_x v(x) h(p - A x)^2 at p: a blur with the square of the kernel.
    Noise that a Gaussian kernel correlates counts more, by its power at the wave numbers that the kernel passes.
    """
    size = lens.period * lens.fold
    plane = kernel.new_zeros(size * (size // 2 + 1))
    plane[lens.kept] = kernel
    plane = plane.view(size, size // 2 + 1)
    power = plane.abs() ** 2
    double = torch.ones(size // 2 + 1, device=power.device, dtype=power.dtype)
    double[1 : (size + 1) // 2] = 2  # the other half plane
    total = (power * double).sum()
    gain = 1.0
    if correlation_fwhm_px > 0:
        weight = correlation_power(qx, correlation_fwhm_px) * correlation_power(qy, correlation_fwhm_px)
        spread = torch.zeros_like(power).view(-1)
        spread[lens.kept] = weight
        gain = float((power * spread.view_as(power) * double).sum() / total)
    kernel_px = torch.fft.irfft2(plane, s=(size, size)) * lens.fold**2
    square = torch.fft.rfft2(kernel_px**2) / lens.fold**2
    return gain * square.reshape(-1)[lens.kept]
