"""How bright a view may become, and how bright it is made."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from galstress.errors import InputError
from galstress.realism.records import Templates
from galstress.survey import Survey

__all__ = ["Light", "choose_scale"]

_LARGEST_SHARE = 0.25
"""Of the variance, that a template's own noise may make up."""


@dataclasses.dataclass(frozen=True)
class Light:
    """Noise-free light of N views, in template units, and what the templates' own noise does to it."""

    images: Tensor
    """(N, S, S)."""
    variance: Tensor
    """(N, S, S) of the templates' noise as it arrives in each pixel."""


def choose_scale(
    templates: Templates,
    survey: Survey,
    light: Light,
    base: Tensor,
    magnification: np.ndarray,
    wanted: tuple[float | np.ndarray | None, float | np.ndarray | None],
) -> tuple[Tensor, Tensor]:
    """How bright each view becomes.

    Arguments:
        templates: N templates.
        survey: The target.
        light: Of their views.
        base: (N, S, S) variance without the galaxy.
        magnification: (N,).
        wanted: S/N or total magnitudes, one of which is None; both None: the surface brightness is kept.

    Returns:
        (N,) factor from template units to image units, and (N,) bool: fainter than asked for.

    Raises:
        InputError: Both are wanted, or an S/N that is not positive.
    """
    snr, mag_ab = wanted
    if snr is not None and mag_ab is not None:
        raise InputError("snr and mag_ab", "one of them", "leave one out")
    count, device = len(templates), base.device
    unit = 10 ** (0.4 * (survey.zero_point_mag - templates.zero_point_mag))
    limits = _brightest(light, base, survey.photon_variance)
    half = torch.as_tensor(np.asarray(templates.truth["snr"]) / 2, device=device)
    limits = torch.minimum(limits, _scale_of(half.float(), light, base, survey.photon_variance))
    if snr is not None:
        target = torch.as_tensor(np.broadcast_to(np.asarray(snr, np.float32), (count,)).copy(), device=device)
        if not bool((target > 0).all()):
            raise InputError(f"snr={snr!r}", "positive numbers", "give snr=50")
        scale = _scale_of(target, light, base, survey.photon_variance)
    elif mag_ab is not None:
        magnitude = np.broadcast_to(np.asarray(mag_ab, float), (count,))
        flux = 10 ** (-0.4 * (magnitude - survey.zero_point_mag))
        own = 10 ** (-0.4 * (templates.truth["mag_ab"].value - templates.zero_point_mag))
        scale = torch.as_tensor(flux / own, dtype=torch.float32, device=device)
    else:
        scale = torch.as_tensor(unit * magnification**2, dtype=torch.float32, device=device)
    return torch.minimum(scale, limits), scale > limits * 1.0001


def _brightest(light: Light, base: Tensor, photon_variance: float) -> Tensor:
    """(N,) largest factor at which the templates' noise is a quarter of the variance in the pixel that has most of it.

    f^2 v = share (base + f m g + f^2 v) is a quadratic in f, solved in each pixel.
    """
    share = _LARGEST_SHARE / (1 - _LARGEST_SHARE)
    noise = light.variance.clamp_min(1e-30)
    photons = share * light.images.clamp_min(0) * photon_variance
    factor = (photons + torch.sqrt(photons**2 + 4 * share * noise * base)) / (2 * noise)
    return torch.where(light.variance > 1e-30, factor, math.inf).amin((1, 2))


def _scale_of(snr: Tensor, light: Light, base: Tensor, photon_variance: float) -> Tensor:
    """(N,) factor that gives an S/N, by bisection in its logarithm; where none does, the largest tried."""
    infinite = ~torch.isfinite(snr)
    sky_only = snr / (light.images**2 / base).sum((1, 2)).sqrt()
    low, high = torch.log(sky_only), torch.log(sky_only) + 12
    for _ in range(30):
        middle = (low + high) / 2
        factor = middle.exp()[:, None, None]
        model = factor * light.images
        variance = base + model.clamp_min(0) * photon_variance + factor**2 * light.variance
        enough = (model**2 / variance).sum((1, 2)).sqrt() >= snr
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return torch.where(infinite, math.inf, high.exp())
