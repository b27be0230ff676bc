"""Populations that GaMorNet and GaMPEN were trained on, as far as they are published, and their neighbours of ours.

``gamornet-sdss`` and ``gamornet-candels`` draw a disk of index 1 and a bulge of index 4 evenly in magnitude, semi-major
radius in pixels and axis ratio, as the released code that made GaMorNet's simulations does. ``gampen-hsc-g`` is even in
B/T, half-light radius and flux over the ranges of the public demonstration set; how its components are drawn is not
published and ours: disks and bulges of index 1 and 4, axis ratios and radii as in the population ``cosmos``. ``-r``
and ``-i`` are the same galaxies at the higher redshifts of those bins (smaller, fainter: ours, too), ``gampen-sdss``
and ``gampen-hst`` the same idea on the ranges of those surveys, which no one has published.

Left out of the originals: the scatter of the bulge's centre by 2.5 % of its coordinate (a galaxy here has one centre)
and centres far from the stamp's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import torch
from torch import Tensor

from galstress.galaxy import Galaxies, half_light_radius

__all__ = ["EvenLight", "EvenMagnitudes", "Population", "SteppedBulge"]

_SIGMA_LN_INDEX = 0.01
"""Indices are 1 and 4 to a hundredth: exactly one value would have no density."""
_LN_INDEX = (0.0, math.log(4.0))
_SLOPE = 2.5 / math.log(10)
_AB_NJY = 31.4
_RATIO = (math.log(0.35), 0.4)
_TURN = math.radians(10)


class Population(Protocol):
    """A distribution of galaxies: flux, radius, B/T and both components' index, shape and angle."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def sample(self, count: int, generator: torch.Generator) -> Galaxies:
        """(count,) galaxies with flux in nJy, radii in arcsec, centre at (0, 0), float32."""

    def log_prob(self, galaxies: Galaxies, ln_radius: Tensor | None = None) -> Tensor:
        """(N,) float64 ln density, minus infinity outside the support.

        It is per magnitude, ln half-light radius, ln bulge-over-disk radius, ln n of each component, axis ratio of
        each, angle of each in radians, and B/T; where B/T is exactly 0 or 1 it is the probability of that atom.
        """


@dataclasses.dataclass(frozen=True)
class SteppedBulge:
    """The bulge's magnitude given the disk's: m_d + 3.2 at most either way, and within the disks' own range."""

    within: tuple[float, float] | None
    """Range that the bulge's magnitude is kept in, or None for no such range."""
    reach: float = 3.2
    """Largest difference from the disk's magnitude."""

    def edges(self, disk_mag: Tensor) -> tuple[Tensor, Tensor]:
        """Brightest and faintest magnitude of the bulge."""
        low, high = disk_mag - self.reach, disk_mag + self.reach
        if self.within is None:
            return low, high
        return low.clamp_min(self.within[0]), high.clamp_max(self.within[1])


@dataclasses.dataclass(frozen=True)
class EvenMagnitudes:
    """Disk and bulge of index 1 and 4, each even in magnitude, semi-major radius and axis ratio (GaMorNet's).

    Example:
        >>> from galstress.population import load_population
        >>> galaxies = load_population("gamornet-sdss").sample(1000, torch.Generator().manual_seed(1))
        >>> bool((galaxies.bulge_to_total > 0.55).float().mean() > 0.4)
        True
    """

    name: str
    """As on the command line."""
    disk_mag: tuple[float, float]
    """AB."""
    bulge: SteppedBulge
    """Law of the bulge's magnitude."""
    disk_radius_arcsec: tuple[float, float]
    """Semi-major half-light radius."""
    bulge_radius_arcsec: tuple[float, float]
    """Semi-major half-light radius."""
    least_axis_ratio: float
    """Axis ratios are even from here to 1."""
    turn_deg: float = 15.0
    """The bulge's position angle is even within so much of the disk's."""

    def sample(self, count: int, generator: torch.Generator) -> Galaxies:
        """(count,) galaxies with flux in nJy, radii in arcsec, centre at (0, 0), float32."""
        u = torch.rand(8, count, generator=generator, device=generator.device)
        disk_mag = _between(self.disk_mag, u[0])
        bulge_mag = _between(self.bulge.edges(disk_mag), u[1])
        disk, bulge = (10 ** (0.4 * (_AB_NJY - mag)) for mag in (disk_mag, bulge_mag))
        angle = math.pi * u[6]
        turned = angle + math.radians(self.turn_deg) * (2 * u[7] - 1)
        radius = [_between(self.disk_radius_arcsec, u[2]), _between(self.bulge_radius_arcsec, u[3])]
        return Galaxies(
            flux=disk + bulge,
            bulge_to_total=bulge / (disk + bulge),
            x=torch.zeros_like(disk),
            y=torch.zeros_like(disk),
            sersic_index=_indices(count, generator),
            radius=torch.stack(radius, -1),
            axis_ratio=torch.stack([_between((self.least_axis_ratio, 1.0), u[place]) for place in (4, 5)], -1),
            angle=torch.stack([angle, turned], -1),
        )

    def log_prob(self, galaxies: Galaxies, ln_radius: Tensor | None = None) -> Tensor:
        """(N,) float64 ln density, as :class:`Population` has it; minus infinity at B/T of exactly 0 or 1."""
        del ln_radius
        galaxies = galaxies.to(dtype=torch.float64)
        share = galaxies.bulge_to_total.clamp(1e-12, 1 - 1e-12)
        mag = _AB_NJY - 2.5 * torch.log10(galaxies.flux)
        disk_mag, bulge_mag = mag - 2.5 * torch.log10(1 - share), mag - 2.5 * torch.log10(share)
        low, high = self.bulge.edges(disk_mag)
        value = _ln_even(disk_mag, *self.disk_mag) + _ln_even(bulge_mag, low, high)
        # (m_d, m_b) to (m, B/T): 2.5 / ln 10 / (b (1 - b)); radii to their logarithms: one factor each
        value = value + math.log(_SLOPE) - torch.log(share * (1 - share)) + torch.log(galaxies.radius).sum(-1)
        for place, limits in enumerate((self.disk_radius_arcsec, self.bulge_radius_arcsec)):
            value = value + _ln_even(galaxies.radius[..., place], *limits)
            value = value + _ln_even(galaxies.axis_ratio[..., place], self.least_axis_ratio, 1.0)
        turn = math.radians(self.turn_deg)
        value = value + _ln_even(_turn_of(galaxies), -turn, turn) - math.log(math.pi) + _ln_indices(galaxies)
        is_mixed = (galaxies.bulge_to_total > 0) & (galaxies.bulge_to_total < 1)
        return torch.where(is_mixed, value, -math.inf)


@dataclasses.dataclass(frozen=True)
class EvenLight:
    """Galaxies even in B/T, whole half-light radius and flux (GaMPEN's), disks and bulges of index 1 and 4.

    Disk axis ratios are even from ``least_axis_ratio`` to 1, the bulge's is q^s with s even from 0 to 1, its angle
    within a normal 10 degrees; ln of bulge over disk radius is normal about ln 0.35 (sigma 0.4).
    """

    name: str
    """As on the command line."""
    radius_arcsec: tuple[float, float]
    """Whole half-light radius, circularised."""
    flux_njy: tuple[float, float]
    """Total flux."""
    logarithmic: bool = False
    """Even in the logarithms of radius and flux instead."""
    least_axis_ratio: float = 0.25
    """Of disks."""

    def sample(self, count: int, generator: torch.Generator) -> Galaxies:
        """(count,) galaxies with flux in nJy, radii in arcsec, centre at (0, 0), float32."""
        u = torch.rand(6, count, generator=generator, device=generator.device)
        normal = torch.randn(2, count, generator=generator, device=generator.device)
        size, flux = (self._draw(limits, each) for limits, each in zip(self._limits, u[:2], strict=True))
        ratio = _between((self.least_axis_ratio, 1.0), u[3])
        angle = math.pi * u[5]
        galaxies = Galaxies(
            flux=flux,
            bulge_to_total=u[2],
            x=torch.zeros_like(flux),
            y=torch.zeros_like(flux),
            sersic_index=_indices(count, generator),
            radius=torch.stack([torch.ones_like(flux), torch.exp(_RATIO[0] + _RATIO[1] * normal[0])], -1),
            axis_ratio=torch.stack([ratio, ratio ** u[4]], -1),
            angle=torch.stack([angle, angle + _TURN * normal[1]], -1),
        )
        return dataclasses.replace(galaxies, radius=galaxies.radius * (size / half_light_radius(galaxies))[:, None])

    def log_prob(self, galaxies: Galaxies, ln_radius: Tensor | None = None) -> Tensor:
        """(N,) float64 ln density, as :class:`Population` has it."""
        galaxies = galaxies.to(dtype=torch.float64)
        ln_radius = torch.log(half_light_radius(galaxies)) if ln_radius is None else ln_radius.double()
        value = math.log(1 / _SLOPE) - math.log(math.pi) + _ln_indices(galaxies)
        for ln_x, (low, high) in zip((ln_radius, torch.log(galaxies.flux)), self._limits, strict=True):
            if self.logarithmic:
                value = value + _ln_even(ln_x, math.log(low), math.log(high))
            else:
                value = value + ln_x + _ln_even(torch.exp(ln_x), low, high)
        disk, bulge = galaxies.axis_ratio.unbind(-1)
        value = value + _ln_even(disk, self.least_axis_ratio, 1.0)
        # q_b = q_d^s, s even: density 1 / (q_b ln(1 / q_d)) between q_d and 1
        value = value - torch.log(bulge * -torch.log(disk.clamp_max(1 - 1e-9)))
        value = torch.where((bulge >= disk) & (bulge <= 1), value, -math.inf)
        ln_ratio = torch.log(galaxies.radius[..., 1] / galaxies.radius[..., 0])
        value = value + _ln_normal(ln_ratio, *_RATIO) + _ln_normal(_turn_of(galaxies), 0.0, _TURN)
        return torch.where((galaxies.bulge_to_total > 0) & (galaxies.bulge_to_total < 1), value, -math.inf)

    @property
    def _limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Ranges of radius and flux."""
        return self.radius_arcsec, self.flux_njy

    def _draw(self, limits: tuple[float, float], uniform: Tensor) -> Tensor:
        """Values of a range."""
        if not self.logarithmic:
            return _between(limits, uniform)
        low, high = (math.log(each) for each in limits)
        return torch.exp(_between((low, high), uniform))


def _indices(count: int, generator: torch.Generator) -> Tensor:
    """(count, 2) Sersic indices of 1 and 4, to a hundredth."""
    normal = torch.randn(count, 2, generator=generator, device=generator.device)
    return torch.exp(torch.tensor(_LN_INDEX, device=generator.device) + _SIGMA_LN_INDEX * normal)


def _ln_indices(galaxies: Galaxies) -> Tensor:
    """Ln density of both indices, per ln n."""
    ln_index = torch.log(galaxies.sersic_index)
    return sum(_ln_normal(ln_index[..., k], _LN_INDEX[k], _SIGMA_LN_INDEX) for k in range(2))  # type: ignore[return-value]


def _turn_of(galaxies: Galaxies) -> Tensor:
    """The bulge's angle minus the disk's, within a quarter turn."""
    turn = galaxies.angle[..., 1] - galaxies.angle[..., 0]
    return torch.remainder(turn + math.pi / 2, math.pi) - math.pi / 2


def _between(limits: tuple[float | Tensor, float | Tensor], uniform: Tensor) -> Tensor:
    """Uniform numbers brought to a range."""
    low, high = limits
    return low + uniform * (high - low)


def _ln_even(value: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Ln density of an even distribution."""
    width = torch.as_tensor(high - low, dtype=torch.float64).clamp_min(1e-12)
    return torch.where((value >= low) & (value <= high), -torch.log(width), -math.inf)


def _ln_normal(value: Tensor, centre: float, sigma: float) -> Tensor:
    """Ln density of a normal distribution."""
    return -0.5 * ((value - centre) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
