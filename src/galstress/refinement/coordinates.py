"""Coordinates in which the structure of a galaxy is close to normal.

They are the head's internal coordinates but for the last two: instead of the difference of the
components' ellipticities, the bulge's shape relative to the disk's. With eta = -ln(q) / 2, so that
|e| = tanh(eta), the bulge has eta_b = s eta_d, and its angle differs from the disk's by dphi; the
coordinates are the normal quantile of s (0 < s < 1: a bulge is rounder than its disk) and dphi in
units of 10 degrees. Under the populations of the sky both are standard normal, whatever the rest.

Where a population has bulges flatter than their disks (GaMorNet's simulations), the first of the two is ln s instead,
of any sign: ``any_shape``.

The whole galaxy's ellipticity stays a coordinate, since that is what an image fixes:
E = tanh(eta_d) e^(2 i phi_d) [1 - b + b tanh(s eta_d) / tanh(eta_d) e^(2 i dphi)], b the B/T, is
solved for eta_d.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galstress.heads import INTERNAL_NAMES

__all__ = ["SCALED_TURN", "from_natural", "to_natural"]

SCALED_TURN = math.radians(10)
"""One unit of the coordinate of the angle between bulge and disk."""
_SHARE, _E1, _DIFFERENCE = (INTERNAL_NAMES.index(name) for name in ("logit_bulge_to_total", "e1", "e1_difference"))
_ETA = (1e-5, 6.0)
_QUANTILE = 5.0
_LN_RATIO = 8.0


def to_natural(internal: Tensor, any_shape: bool = False) -> Tensor:
    """(..., 12) natural coordinates of internal ones.

    Arguments:
        internal: (..., 12).
        any_shape: Whether bulges may be flatter than their disks; else such a bulge counts as like its disk.
    """
    share = _bulge_to_total(internal)
    whole = torch.complex(internal[..., _E1], internal[..., _E1 + 1])
    apart = torch.complex(internal[..., _DIFFERENCE], internal[..., _DIFFERENCE + 1])
    disk = whole - share * apart
    bulge = disk + apart
    eta = [torch.atanh(e.abs().clamp(_ETA[0], 0.99)) for e in (disk, bulge)]
    ratio = eta[1] / eta[0]
    if any_shape:
        shape = torch.log(ratio).clamp(-_LN_RATIO, _LN_RATIO)
    else:
        shape = torch.special.ndtri(ratio.clamp(1e-6, 1 - 1e-6)).clamp(-_QUANTILE, _QUANTILE)
    turn = torch.angle(bulge * disk.conj()) / 2 / SCALED_TURN
    return torch.cat([internal[..., :_DIFFERENCE], torch.stack([shape, turn], -1)], -1)


def from_natural(natural: Tensor, iterations: int = 40, *, any_shape: bool = False) -> tuple[Tensor, Tensor]:
    """Internal coordinates of natural ones, and the volume element.

    Arguments:
        natural: (..., 12) float64.
        iterations: Bisections for the disk's eta; two Newton steps follow.
        any_shape: As in :func:`to_natural`.

    Returns:
        (..., 12) internal coordinates, differentiable, and (...) ln |d internal / d natural|. Where no disk has the
        shape that is asked for, the disk is as flat as can be, and lies outside any population.
    """
    share = _bulge_to_total(natural)
    whole = torch.complex(natural[..., _E1], natural[..., _E1 + 1])
    size = whole.abs().clamp_min(1e-12)
    flatter, ln_slope = _flatter(natural[..., _DIFFERENCE], any_shape)
    turn = torch.polar(torch.ones_like(size), 2 * SCALED_TURN * natural[..., _DIFFERENCE + 1])
    with torch.no_grad():
        low, high = torch.full_like(size, math.log(_ETA[0])), torch.full_like(size, math.log(_ETA[1]))
        for _ in range(iterations if natural.requires_grad else 18):
            middle = (low + high) / 2
            above = _whole(middle.exp(), share, flatter, turn)[0].abs() > size
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        eta = ((low + high) / 2).exp()
    for _ in range(2):
        value, slope = _whole(eta.detach(), share, flatter, turn)
        eta = (eta.detach() + (size - value.abs()) / slope.detach()).clamp(_ETA[0], _ETA[1])
    ratio, slope = _whole(eta, share, flatter, turn)
    disk_size, bulge_size = torch.tanh(eta), torch.tanh(flatter * eta)
    disk = disk_size * (whole / size) * (ratio.conj() / ratio.abs().clamp_min(1e-12))
    bulge = disk * (bulge_size / disk_size) * turn
    apart = bulge - disk
    internal = torch.cat([natural[..., :_DIFFERENCE], torch.stack([apart.real, apart.imag], -1)], -1)
    # d^2 e_disk d^2 e_bulge over d^2 E ds dphi; slope is d|E| / d eta
    ln_volume = torch.log(disk_size * (1 - disk_size**2) / (size * slope.abs().clamp_min(1e-12)))
    ln_volume = ln_volume + torch.log(2 * bulge_size * eta * (1 - bulge_size**2)).clamp_min(-80)
    ln_volume = ln_volume + ln_slope + math.log(SCALED_TURN)
    # the angle between the components repeats: only one turn of it counts
    return internal, torch.where(natural[..., _DIFFERENCE + 1].abs() > math.pi / 2 / SCALED_TURN, -math.inf, ln_volume)


def _flatter(shape: Tensor, any_shape: bool) -> tuple[Tensor, Tensor]:
    """The bulge's eta over the disk's, and ln of its derivative in its coordinate."""
    if any_shape:
        ln_ratio = shape.clamp(-_LN_RATIO, _LN_RATIO)
        return torch.exp(ln_ratio), torch.where(shape.abs() > _LN_RATIO, -math.inf, ln_ratio)
    quantile = shape.clamp(-_QUANTILE, _QUANTILE)
    return torch.special.ndtr(quantile), -0.5 * quantile**2 - 0.5 * math.log(2 * math.pi)


def _bulge_to_total(coordinates: Tensor) -> Tensor:
    """(...) B/T of either kind of coordinates."""
    return ((torch.sigmoid(coordinates[..., _SHARE]) - 0.01) / 0.98).clamp(0, 1)


def _whole(eta: Tensor, share: Tensor, flatter: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """The whole's complex ellipticity with the disk along +e1, and d|E| / d eta."""
    disk, bulge = torch.tanh(eta), torch.tanh(flatter * eta)
    value = (1 - share) * disk + share * bulge * turn
    slope = (1 - share) * (1 - disk**2) + share * flatter * (1 - bulge**2) * turn
    return value, (value.conj() * slope).real / value.abs().clamp_min(1e-12)
