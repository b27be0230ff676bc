"""``foveal``: sharp in the middle, binned outside, as a galaxy is.

The stamp is divided by the rms of its sky and seen three times: 48 pixels as they are, 96
binned by 2, 192 binned by 4, each 48 x 48, stretched by asinh. A small residual network looks
at the three as channels. Beside it go numbers measured on the image (size, shape and centre
under a Gaussian weight, curve of growth), and what the network may know of the survey: the
PSF's width, shape and growth, the electrons in one rms, and how far the noise is correlated.
All of them turn exactly with the image.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.heads import Reference

__all__ = ["Foveal", "FovealInputs", "fill_masked", "measure_aperture"]

_VIEW = 48
_BINS = (1, 2, 4)
_FIELD = _VIEW * _BINS[-1]
_GROWTH_RADII = (1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 19.0, 28.0, 42.0, 62.0, 90.0)
_PSF_RADII = (0.5, 1.0, 2.0, 4.0)
_WINDOW_SIGMA = (1.0, 32.0)


@dataclasses.dataclass(frozen=True)
class FovealInputs:
    """What the backbone takes, and the reference of the internal space."""

    views: Tensor
    """(N, 3, 48, 48) the three scales."""
    numbers: Tensor
    """(N, F) measured on the image and told of the survey."""
    reference: Reference
    """Measured flux and size."""


class _Block(nn.Module):
    """Two convolutions beside the identity, scaled and shifted by the numbers (FiLM)."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(condition, 2 * channels)
        self.gain = nn.Parameter(torch.full((1, channels, 1, 1), 0.25))
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W) of the same."""
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        inner = self.first(nn.functional.silu(x))
        inner = nn.functional.silu(inner * (1 + scale) + shift)
        return x + self.gain * self.second(inner)


class _Stage(nn.Module):
    """Half the resolution, more channels, then residual blocks."""

    def __init__(self, before: int, channels: int, blocks: int, condition: int) -> None:
        super().__init__()
        kernel = 5 if before == len(_BINS) else 3
        self.down = nn.Conv2d(before, channels, kernel, stride=2, padding=kernel // 2)
        self.blocks = nn.ModuleList(_Block(channels, condition) for _ in range(blocks))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H / 2, W / 2)."""
        x = self.down(x)
        for block in self.blocks:
            x = block(x, condition)
        return x


class Foveal(nn.Module):
    """The backbone: three views and a few numbers to one feature vector.

    Arguments:
        width: Multiplies the number of channels.
        blocks: Residual blocks in the second and third stage; the first has one.

    Example:
        >>> from galstress.simulation import simulate
        >>> backbone = Foveal(width=0.5).eval()
        >>> inputs = backbone.inputs(simulate("hsc-wide-i", 2, stamp_px=64))
        >>> backbone(inputs).shape[1] == backbone.features
        True
    """

    def __init__(self, width: float = 1.0, blocks: int = 2) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        channels = [len(_BINS), *(max(8, 8 * round(width * c / 8)) for c in (24, 48, 96))]
        count = len(_GROWTH_RADII) + len(_PSF_RADII) + 12
        condition = 64
        self.embed = nn.Sequential(nn.Linear(count, condition), nn.SiLU(), nn.Linear(condition, condition), nn.SiLU())
        self.stages = nn.ModuleDict(
            {
                f"stage{i + 1}": _Stage(channels[i], channels[i + 1], blocks if i else 1, condition)
                for i in range(len(channels) - 1)
            }
        )
        self.narrow = nn.Conv2d(channels[-1], 16, 1)
        last = _VIEW // 2 ** len(self.stages)
        self.features = channels[-1] + 16 * last**2 + condition + count

    @property
    def settings(self) -> dict[str, float]:
        """Arguments that make the same backbone again."""
        return {"width": self.width, "blocks": self.blocks}

    def forward(self, inputs: FovealInputs) -> Tensor:
        """(N, features)."""
        condition = self.embed(inputs.numbers)
        x = inputs.views.to(memory_format=torch.channels_last)
        for stage in self.stages.values():
            x = stage(x, condition)
        x = nn.functional.silu(x)
        return torch.cat([x.mean((2, 3)), self.narrow(x).flatten(1), condition, inputs.numbers], 1)

    @staticmethod
    def inputs(cutouts: Cutouts, turn: int = 0) -> FovealInputs:
        """Views, numbers and reference of cutouts of any stamp size, cropped or padded about the array's centre.

        Arguments:
            cutouts: Any survey.
            turn: Element 0 to 7 of the quarter turns and mirrors that is applied to the field
                (:func:`galstress.heads.turn_internal`); the field's side is even, so it turns about its own centre.

        Masked pixels take the value of the pixel opposite the centre, and 0 where that is masked too.
        """
        return next(Foveal.inputs_at(cutouts, [turn]))

    @staticmethod
    def inputs_at(cutouts: Cutouts, turns: Sequence[int]) -> Iterator[FovealInputs]:
        """The same at several elements, for less than each of them alone."""
        rms = _rms(cutouts)
        field, centre = _field(fill_masked(cutouts.images, cutouts.mask) / rms[:, None, None])
        told = _told(cutouts)
        yield from (_look(field, told, rms, centre, turn) for turn in turns)

    @staticmethod
    def inputs_of(batches: Sequence[Cutouts]) -> FovealInputs:
        """The same for several surveys and stamp sizes as one batch."""
        rms = torch.cat([_rms(cutouts) for cutouts in batches])
        seen = [_field(fill_masked(cutouts.images, cutouts.mask)) for cutouts in batches]
        centre = torch.cat([rms.new_tensor([at]).expand(len(field), 2) for field, at in seen])
        told = torch.cat([_told(cutouts) for cutouts in batches])
        return _look(torch.cat([field for field, _ in seen]) / rms[:, None, None], told, rms, centre.mT, 0)


def measure_aperture(stamps: Tensor) -> tuple[Tensor, Tensor]:
    """Flux and size in pixels, (N,), of stamps (N, H, W) in units of the sky's rms, under a Gaussian weight."""
    _, flux, size = _measure(_field(stamps)[0])
    return flux, size


def _rms(cutouts: Cutouts) -> Tensor:
    """(N,) rms of the sky, above 0."""
    return cutouts.sky_rms.clamp_min(torch.finfo(torch.float32).tiny)


def _look(field: Tensor, told: Tensor, rms: Tensor, centre: tuple[float, float] | Tensor, turn: int) -> FovealInputs:
    """Inputs of fields (N, 192, 192) in units of ``rms``, turned, with what is ``told`` (N, F) of their surveys."""
    field = torch.rot90(field.flip(2) if turn >= 4 else field, turn % 4, (2, 1))
    views = torch.stack([_binned(field, size) for size in _BINS], 1)
    noise = torch.tensor(_BINS, device=field.device, dtype=field.dtype)[None, :, None, None]
    measured, flux, size = _measure(field)
    numbers = torch.cat([measured, _turned(told, turn)], 1)
    return FovealInputs(torch.asinh(views / noise), numbers, Reference(flux, size, centre, rms))


def _told(cutouts: Cutouts) -> Tensor:
    """(N, 10) what is known of the survey; the PSF's ellipticity first."""
    rms, survey = _rms(cutouts), cutouts.survey
    electrons = torch.log(rms * survey.electrons_per_unit) / 4 - 1
    correlation = torch.full_like(rms, survey.noise_correlation_fwhm_px)
    scale = torch.full_like(rms, math.log(survey.pixel_scale_arcsec) + 2)
    return torch.cat([_psf_numbers(cutouts), torch.stack([electrons, correlation, scale], 1)], 1)


def _turned(told: Tensor, turn: int) -> Tensor:
    """The same as told of the turned image: the PSF's ellipticity turns by twice the angle."""
    if turn == 0:
        return told
    sign = -1.0 if turn % 2 else 1.0
    return torch.cat([told[:, :1] * sign, told[:, 1:2] * (-sign if turn >= 4 else sign), told[:, 2:]], 1)


def fill_masked(images: Tensor, mask: Tensor) -> Tensor:
    """Masked pixels replaced by their mirror image through the centre, or 0."""
    clean = torch.where(mask, 0.0, images)
    return torch.where(mask, clean.flip((1, 2)), clean)


def _field(stamps: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """The central 192 x 192 pixels, and where their centre lies in the stamp (x, y).

    The middle pixel of an odd side cannot be the middle of an even field: it lies half a pixel below it.
    """
    height, width = stamps.shape[1:]
    left, top = (_FIELD - width) // 2, (_FIELD - height) // 2
    field = nn.functional.pad(stamps, [left, _FIELD - width - left, top, _FIELD - height - top])
    return field, ((_FIELD - 1) / 2 - left, (_FIELD - 1) / 2 - top)


def _binned(field: Tensor, size: int) -> Tensor:
    """The central 48 x 48 blocks of ``size`` pixels, summed."""
    low = (_FIELD - _VIEW * size) // 2
    window = field[:, low : low + _VIEW * size, low : low + _VIEW * size]
    return window if size == 1 else nn.functional.avg_pool2d(window[:, None], size)[:, 0] * size**2


def _measure(field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers (N, F), aperture flux and size (N,) under a Gaussian weight whose width follows the galaxy."""
    fine, coarse = _binned(field, 1), _binned(field, 4)
    terms = [_terms(size, field.device) for size in (1, 4)]
    sigma = torch.full((len(field),), 5.0, device=field.device)
    for _ in range(6):
        small = _moments(fine, terms[0], sigma)
        large = _moments(coarse, terms[1], sigma)
        blend = torch.sigmoid((sigma - 6.0) * 1.5)[:, None]  # the fine view holds small galaxies, the coarse large ones
        flux, x, y, xx, yy, xy = (small * (1 - blend) + large * blend).unbind(1)
        ratio = ((xx + yy) / flux.clamp_min(1.0)).clamp(0.0, 2.5 * 32**2)
        measured = torch.sqrt(ratio.clamp_min(0.5))
        sigma = torch.exp(0.3 * torch.log(sigma) + 0.7 * torch.log(measured)).clamp(*_WINDOW_SIGMA)
    flux = flux.clamp_min(4.0 * sigma)
    trace = (xx + yy).clamp_min(0.3 * flux)
    shape = torch.stack([(xx - yy) / trace, 2 * xy / trace], 1).clamp(-1.5, 1.5)
    centre = (torch.stack([x, y], 1) / (flux * sigma)[:, None]).clamp(-2, 2)
    growth = _growth(field) / flux[:, None]
    numbers = torch.cat(
        [
            (torch.log(flux) / 2 - 3)[:, None],
            (torch.log(sigma) - 1.5)[:, None],
            shape,
            centre,
            torch.asinh(growth.clamp(-2, 20)) - 0.5,
        ],
        1,
    )
    return numbers, 2 * flux, sigma


@functools.lru_cache(maxsize=8)
def _terms(size: int, device: torch.device) -> Tensor:
    """(48 x 48, 6): 1, x, y, x^2, y^2, xy at the pixels of a view binned by ``size``."""
    axis = (torch.arange(_VIEW, device=device) - (_VIEW - 1) / 2) * size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x**2, y**2, x * y], -1).flatten(0, 1)


def _moments(view: Tensor, terms: Tensor, sigma: Tensor) -> Tensor:
    """(N, 6): sums of I w times each of the terms."""
    weight = torch.exp((terms[:, 3] + terms[:, 4]) * (-0.5 / sigma[:, None] ** 2))
    return (view.flatten(1) * weight) @ terms


def _growth(field: Tensor) -> Tensor:
    """(N, R) flux inside circles about the centre, from the finest view that holds each circle."""
    parts = [
        _binned(field, size).flatten(1) @ circles for size, circles in zip(_BINS, _circles(field.device), strict=True)
    ]
    return torch.cat(parts, 1)


@functools.lru_cache(maxsize=4)
def _circles(device: torch.device) -> list[Tensor]:
    """(48 x 48, radii) share of each pixel inside the circles that each view holds, finest view first."""
    result = []
    for size, finer in zip(_BINS, (0, *_BINS), strict=False):
        axis = (torch.arange(_VIEW, device=device) - (_VIEW - 1) / 2) * size
        distance = torch.sqrt(axis[None] ** 2 + axis[:, None] ** 2)
        radii = [radius for radius in _GROWTH_RADII if _VIEW * finer / 2 < radius <= _VIEW * size / 2]
        inside = [(0.5 + (radius - distance) / size).clamp(0, 1).flatten() for radius in radii]
        result.append(torch.stack(inside, 1))
    return result


def _psf_numbers(cutouts: Cutouts) -> Tensor:
    """(N, 7): ellipticity, ln FWHM in pixels, and the PSF's growth at multiples of it (how strong its wings are)."""
    width = cutouts.psf_fwhm_px.clamp_min(0.5)
    psf = cutouts.psf
    shared = len(psf) > 1 and psf.stride(0) == 0
    psf, fwhm = (psf[:1], width[:1]) if shared else (psf, width)
    middle = psf.shape[-1] // 2
    axis = (torch.arange(psf.shape[-1], device=psf.device, dtype=psf.dtype) - middle) / cutouts.psf_oversampling
    distance = torch.sqrt(axis[:, None] ** 2 + axis[None, :] ** 2)
    inside = [(0.5 + (r * fwhm[:, None, None] - distance) * cutouts.psf_oversampling).clamp(0, 1) for r in _PSF_RADII]
    growth = torch.stack([(psf * weight).sum((1, 2)) for weight in inside], 1).expand(len(width), -1)
    centre = torch.tensor([0.5, 0.8, 0.93, 0.98], device=psf.device)
    shape = 10 * _ellipticity(psf, axis, fwhm).expand(len(width), -1)
    return torch.cat([shape, torch.log(width)[:, None] - 1.0, (growth - centre) * 5 * math.sqrt(2)], 1)


def _ellipticity(psf: Tensor, axis: Tensor, fwhm: Tensor) -> Tensor:
    """(N, 2): (Mxx - Myy, 2 Mxy) / (Mxx + Myy) of PSFs' second moments under a round Gaussian as wide as they are.

    For a Gaussian PSF that is about half of its ellipticity without the weight. ``axis``: (P,) pixels.
    """
    x, y = axis[None, :], axis[:, None]
    weighted = psf * torch.exp(-0.5 * (x**2 + y**2) * (2.3548 / fwhm[:, None, None]) ** 2)
    xx, yy, xy = ((weighted * product).sum((1, 2)) for product in (x**2, y**2, x * y))
    return torch.stack([xx - yy, 2 * xy], 1) / (xx + yy).clamp_min(1e-12)[:, None]
