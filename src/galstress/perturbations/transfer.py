"""Pixels through a kernel, and their noise back up to the survey's: for pictures that are blurred or shrunk.

A picture that is shrunk by s and blurred is the sum of its old pixels' light through a kernel h about their new places,
I_new(p) = gain sum_j I_j h(p - s j): one product in Fourier space, of the old picture's transform at s k with the
kernel's H(k). Old noise goes through the same sum and comes out smooth. What it then lacks of the survey's own
is added, wave number by wave number, so that old and new noise together have the survey's variance and correlation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.galaxy import galaxies_from_table
from galstress.optics import correlation_power
from galstress.perturbations.noise import draw_seed, white_noise
from galstress.rendering import render

__all__ = ["Transfer", "measure_snr", "pass_through", "shrink_nearest", "wave_numbers"]

_LOSS = 0.1
"""Share of a new pixel's light that may come from ignored pixels, or from beyond the edge."""
_BORDER_PX = 2
"""Width of the border in which light that reaches the edge is looked for."""
_SEEN = 0.1
"""Mean light there, in units of the sky's rms, from which on the sky beyond cannot be taken for empty."""


def wave_numbers(period: int, fold: int) -> Tensor:
    """(period fold,) wave numbers of a periodic grid, radians per pixel, in the order of a transform; float64."""
    return torch.fft.fftfreq(period * fold, 1 / (period * fold), dtype=torch.float64) * (2 * math.pi / period)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How the pixels of some images become others: shrunk about the array's centre, and blurred."""

    scale: float
    """Size of the new picture over the old, at most 1."""
    gain: float
    """Total flux of the new picture over the old."""
    period: int
    """Pixels after which the grid repeats: enough that no light comes round."""
    fold: int
    """Grid points a pixel: more than 1 where light beyond the pixels' own limit must be folded back."""
    kernel: Tensor
    """(K, K / 2 + 1) complex transform of h, K = ``period fold``; rows are y; 1 at wave number 0."""

    def carry(self, images: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Pixels (M, H, W) after the transfer, total flux kept; ``kernel`` instead of the transfer's own."""
        height, width = images.shape[1:]
        size = self.period * self.fold
        k = wave_numbers(self.period, self.fold)
        kernel = self.kernel if kernel is None else kernel
        along_y = self._waves(k, height, images)
        along_x = self._waves(k[: size // 2 + 1].abs(), width, images)
        spectrum = along_y @ images.to(along_y.dtype) @ along_x.T * kernel.to(images.device, along_y.dtype)
        grid = torch.fft.irfft2(spectrum, s=(size, size)) * self.fold**2
        return grid[:, : height * self.fold : self.fold, : width * self.fold : self.fold]

    def _waves(self, k: Tensor, side: int, like: Tensor) -> Tensor:
        """(K, side) phases of the pixels' new places."""
        middle = (side - 1) / 2
        places = self.scale * (torch.arange(side, dtype=torch.float64) - middle) + middle
        return torch.polar(torch.ones(()).double(), -k[:, None] * places).to(like.device, torch.complex64)

    def square(self, correlation_fwhm_px: float) -> Tensor:
        """The kernel that carries variances: h squared, more where the old noise is correlated."""
        size = self.period * self.fold
        k = wave_numbers(self.period, self.fold)
        power = self.kernel.abs() ** 2
        weight = torch.full((size // 2 + 1,), 2.0, dtype=torch.float64)
        weight[0] = 1
        if size % 2 == 0:
            weight[-1] = 1
        more = (power * self._old_power(k, correlation_fwhm_px) * weight).sum() / (power * weight).sum()
        kernel_px = torch.fft.irfft2(self.kernel, s=(size, size)) * self.fold**2
        return more * torch.fft.rfft2(kernel_px**2) / self.fold**2

    def missing_power(self, correlation_fwhm_px: float) -> Tensor:
        """(period, period / 2 + 1) power that old noise lacks of the survey's own, whose mean is 1."""
        size = self.period * self.fold
        k, coarse = wave_numbers(self.period, self.fold), wave_numbers(self.period, 1)
        passed = self.kernel.abs() ** 2 * self._old_power(k, correlation_fwhm_px) * (self.gain / self.scale) ** 2
        # read at every pixel, the power beyond the pixels' limit is folded back
        likeness = torch.fft.irfft2(passed, s=(size, size)) * self.fold**2
        passed = torch.fft.rfft2(likeness[:: self.fold, :: self.fold]).real
        along = correlation_power(coarse, correlation_fwhm_px)
        return (along[:, None] * along[: self.period // 2 + 1] - passed).clamp_min(0)

    def _old_power(self, k: Tensor, correlation_fwhm_px: float) -> Tensor:
        """Power of old noise of variance 1 at the grid's wave numbers, half plane."""
        along = correlation_power(self.scale * k, correlation_fwhm_px)
        return along[:, None] * along[: len(k) // 2 + 1]


def pass_through(
    cutouts: Cutouts, transfers: Iterable[tuple[NDArray[np.intp], Transfer]], rng: torch.Generator
) -> Cutouts:
    """Cutouts whose pixels went through transfers, with the survey's noise: of the sky, and of the light that is left.

    Arguments:
        cutouts: N objects.
        transfers: Rows of ``cutouts`` and what they go through; each row once.
        rng: Randomness; an object's noise depends on the generator and its ``object_id``.

    Variance of the result: ``sky_rms`` squared and the photon noise of the new light, which is the old excess of
    ``variance`` over the sky's carried like light; never less than what old noise comes to. Where the survey's noise is
    correlated, old noise that was shrunk a little has short waves that the survey's lacks; they stay, and neighbouring
    pixels are up to 0.02 less correlated.

    Beyond the edge of a picture that was shrunk there is noise only; where its light reaches the edge, and would be
    seen there (a tenth of the sky's rms on average), what lies beyond is not known and is masked. So is the border of a
    picture that was only blurred.

    Masks are carried pixel by pixel. A pixel that owes more than a tenth of its light to ignored pixels is masked, too
    (variance infinite); what is less than that is filled in from around.
    """
    base = draw_seed(rng)
    images, variance = cutouts.images.clone(), cutouts.variance.clone()
    mask, neighbour_mask = cutouts.mask.clone(), cutouts.neighbour_mask.clone()
    for rows, transfer in transfers:
        at = torch.as_tensor(rows, device=images.device)
        part = cutouts.select(rows)
        images[at], variance[at], lost = _carry(part, transfer, base)
        scale = np.full(len(part), transfer.scale)
        mask[at] = lost | shrink_nearest(part.mask, scale)
        neighbour_mask[at] = shrink_nearest(part.neighbour_mask, scale)
    return dataclasses.replace(cutouts, images=images, variance=variance, mask=mask, neighbour_mask=neighbour_mask)


def _carry(cutouts: Cutouts, transfer: Transfer, base: int) -> tuple[Tensor, Tensor, Tensor]:
    """New images, their variance, and the pixels that are lost."""
    correlation = cutouts.survey.noise_correlation_fwhm_px
    sky = cutouts.sky_rms[:, None, None] ** 2
    bad = cutouts.mask | ~torch.isfinite(cutouts.images) | ~torch.isfinite(cutouts.variance)
    light = transfer.gain * transfer.carry(_fill(cutouts.images, bad, cutouts.psf_fwhm_px))
    known = torch.where(bad, 0, cutouts.variance)
    excess = torch.where(bad, 0, (cutouts.variance - sky).clamp_min(0))
    wanted = sky + (transfer.gain * transfer.carry(excess)).clamp_min(0)
    passed = transfer.gain**2 * transfer.carry(known, transfer.square(correlation)).clamp_min(0)
    noise = _missing_noise(cutouts, transfer, base)
    lost = _find_lost(cutouts, bad, transfer)
    image = light + (wanted - passed).clamp_min(0).sqrt() * noise
    return image, torch.where(lost, torch.inf, torch.maximum(wanted, passed)), lost


def _find_lost(cutouts: Cutouts, bad: Tensor, transfer: Transfer) -> Tensor:
    """(M, H, W) new pixels that lean too much on bad ones, or on what lies beyond the edge and is not empty sky."""
    good = (~bad).to(cutouts.images.dtype)
    # 1 where the new pixel's light is all known
    lost = transfer.scale**2 * transfer.carry(good) < 1 - _LOSS
    if transfer.scale < 1 and not bool((lit := _reaches_edge(cutouts, bad, transfer)).all()):
        ignored = transfer.scale**2 * transfer.carry(1 - good) > _LOSS
        lost = torch.where(lit[:, None, None], lost, ignored)
    return lost


def _reaches_edge(cutouts: Cutouts, bad: Tensor, transfer: Transfer) -> Tensor:
    """(M,) whether light at the old picture's border will still be seen, and is no accident of the noise."""
    border = torch.ones_like(bad)
    border[:, _BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = False
    border &= ~bad
    count = border.sum((1, 2)).clamp_min(1)
    light = torch.where(border, cutouts.images, 0).sum((1, 2)) / count / cutouts.sky_rms
    error = 1 / (cutouts.survey.kernel_factor * count.sqrt())
    return (light - 4 * error) * (transfer.gain / transfer.scale**2) > _SEEN


def _missing_noise(cutouts: Cutouts, transfer: Transfer, base: int) -> Tensor:
    """(M, H, W) noise of variance 1 with the spectrum that old noise lacks."""
    period, (height, width) = transfer.period, cutouts.images.shape[1:]
    power = transfer.missing_power(cutouts.survey.noise_correlation_fwhm_px)
    mean = float(torch.fft.irfft2(power, s=(period, period))[0, 0])
    if mean < 1e-9:  # nothing is missing
        return torch.zeros_like(cutouts.images)
    white = torch.fft.rfft2(white_noise(base, cutouts.object_id, (period, period)))
    noise = torch.fft.irfft2(white * (power / mean).sqrt().float(), s=(period, period))
    return noise[:, :height, :width].to(cutouts.images)


def _fill(images: Tensor, bad: Tensor, fwhm_px: Tensor) -> Tensor:
    """Images with bad pixels replaced by a mean of the good ones around, one PSF's width wide; 0 far from any."""
    if not bool(bad.any()):
        return images
    images = torch.where(bad, 0, images)
    sigma = float(fwhm_px.median().clamp_min(1.0)) / 2.354820045
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)

    def spread(pixels: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(pixels[:, None], kernel[None, None, None, :], padding=(0, reach))
        return torch.nn.functional.conv2d(rows, kernel[None, None, :, None], padding=(reach, 0))[:, 0]

    around = spread(images) / spread((~bad).to(images.dtype)).clamp_min(1e-3)
    return torch.where(bad, around, images)


def shrink_nearest(pixels: Tensor, scale: NDArray[np.float64]) -> Tensor:
    """(N, H, W) boolean pixels shrunk about the centre by (N,) factors, each from the nearest one; outside False."""
    result = pixels
    factor = torch.as_tensor(scale, dtype=torch.float64)[:, None]
    for axis in (1, 2):
        side = pixels.shape[axis]
        middle = (side - 1) / 2
        source = ((torch.arange(side, dtype=torch.float64) - middle) / factor + middle).round().long()
        inside, source = (each.to(pixels.device) for each in ((source >= 0) & (source < side), source))
        shape = (-1, side, 1) if axis == 1 else (-1, 1, side)
        near = result.gather(axis, source.clamp(0, side - 1).view(shape).expand_as(result))
        result = near & inside.view(shape)
    return result


def measure_snr(cutouts: Cutouts) -> NDArray[np.float64]:
    """(N,) sqrt(sum(model^2 / variance)) of simulated galaxies without their neighbours, from their truth."""
    assert cutouts.truth is not None
    survey = cutouts.survey
    galaxies = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    galaxies = galaxies.to(cutouts.psf.device, torch.float32)
    model = render(galaxies, cutouts.psf, cutouts.psf_oversampling, cutouts.images.shape[-1])
    return np.asarray((model**2 / cutouts.variance).sum((1, 2)).sqrt().cpu(), np.float64)
