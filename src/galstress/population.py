"""Populations: distributions of galaxy parameters, each with ``sample`` and ``log_prob``.

``cosmos`` is the galaxies of the COSMOS field to F814W = 23.5, drawn from a table of 4,000 of
them, each blurred by a small kernel. ``nearby`` is the same galaxies brought closer: size
times s and flux times s squared, s log-uniform from 1 to 15.

The catalogue has a Sersic fit and no decomposition, so the bulge is drawn by a rule, given
the fitted index n:

- pure disk with probability 0.345 / (1 + (n / 1.1)^4), pure bulge with 0.49 / (1 + (4 / n)^4):
  15 % and 5 % of the whole table;
- otherwise logit(B/T) is normal about 2 ln(n / 2.2), sigma 1;
- ln of the disk's index is normal about 0 (sigma 0.15), the bulge's about ln 3.5 (sigma 0.3);
  a pure component's is normal about ln n (sigma 0.05); all are cut to 0.5 to 6;
- ln of the ratio of the semi-major radii, bulge over disk, is normal about ln 0.35 (sigma 0.4);
- the disk has the catalogue's axis ratio q, the bulge q^s with s uniform from 0 to 1, its angle
  within a normal 10 degrees of the disk's;
- both radii are scaled so that the half-light radius of the whole is the catalogue's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from importlib import resources

import torch
from astropy.table import Table
from torch import Tensor

from galstress.errors import UnknownNameError
from galstress.galaxy import Galaxies, half_light_radius

__all__ = ["Population", "available_populations", "load_population"]

_KERNEL = {"mag": 0.15, "ln_radius": 0.1, "logit_q": 0.25}
_PURE_DISK, _PURE_BULGE = 0.345, 0.49
_LN_INDEX = (math.log(0.5), math.log(6.0))
_RATIO = (math.log(0.35), 0.4)
_Q_MIN = 0.06
_TURN = math.radians(10)


@dataclasses.dataclass(frozen=True)
class Population:
    """A distribution of galaxies: flux, radius, B/T and both components' index, shape and angle.

    Example:
        >>> cosmos = load_population("cosmos")
        >>> galaxies = cosmos.sample(5, torch.Generator().manual_seed(1))
        >>> galaxies.radius.shape, bool(torch.isfinite(cosmos.log_prob(galaxies)).all())
        (torch.Size([5, 2]), True)
    """

    name: str
    """As on the command line."""
    table: Tensor
    """(K, 4) AB magnitude, ln half-light radius in arcsec, Sersic index, logit of the axis ratio."""
    closest: float = 1.0
    """Largest factor s by which a galaxy is brought closer; s is log-uniform from 1."""
    kernel_scale: float = 1.0
    """Width of the kernels of magnitude and radius, in units of the usual ones."""

    def sample(self, count: int, generator: torch.Generator) -> Galaxies:
        """Draw galaxies.

        Arguments:
            count: How many.
            generator: Source of randomness; its device is the galaxies' device.

        Returns:
            Galaxies with flux in nJy, radii in arcsec, centre at (0, 0), float32.
        """
        device = generator.device
        table = self.table.to(device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator, device=device)

        def uniform() -> Tensor:
            return torch.rand(count, generator=generator, device=device)

        rows = table[torch.randint(len(table), (count,), generator=generator, device=device)]
        index = rows[:, 2]
        magnitude = rows[:, 0] + self.kernel_scale * _KERNEL["mag"] * normal()
        ln_radius = rows[:, 1] + self.kernel_scale * _KERNEL["ln_radius"] * normal()
        ratio = _Q_MIN + (1 - _Q_MIN) * torch.sigmoid(rows[:, 3] + _KERNEL["logit_q"] * normal())
        closer = uniform() * math.log(self.closest)
        choice = uniform()
        p_disk, p_bulge = _pure_shares(index)
        share = torch.sigmoid(2 * torch.log(index / 2.2) + normal())
        share = torch.where(choice < p_disk, 0.0, torch.where(choice > 1 - p_bulge, 1.0, share))
        centre, sigma = _ln_index_law(index, share)
        ln_index = _truncated_normal(centre, sigma, torch.rand(count, 2, generator=generator, device=device))
        sizes = torch.stack([torch.zeros_like(index), _RATIO[0] + _RATIO[1] * normal()], -1).exp()
        ratios = torch.stack([ratio, ratio ** uniform()], -1)
        angle = math.pi * uniform()
        galaxies = Galaxies(
            flux=10 ** (0.4 * (31.4 - magnitude)) * torch.exp(2 * closer),
            bulge_to_total=share,
            x=torch.zeros_like(index),
            y=torch.zeros_like(index),
            sersic_index=ln_index.exp(),
            radius=sizes,
            axis_ratio=ratios,
            angle=torch.stack([angle, angle + _TURN * normal()], -1),
        )
        scale = torch.exp(ln_radius + closer) / half_light_radius(galaxies)
        return dataclasses.replace(galaxies, radius=galaxies.radius * scale[:, None])

    def log_prob(self, galaxies: Galaxies, rows: Tensor | None = None, ln_radius: Tensor | None = None) -> Tensor:
        """Logarithm of the density of galaxies under the population.

        Arguments:
            galaxies: (N,) with flux in nJy and radii in arcsec; the centre is not looked at.
            rows: (N, K) rows of the table that count for each galaxy, from :meth:`nearest_rows`; all by default.
            ln_radius: (N,) ln of the whole half-light radius in arcsec, where the caller knows it already.

        Returns:
            (N,) float64 density per magnitude, ln half-light radius, ln bulge-over-disk radius, ln n of each
            component, axis ratio of each, angle of each in radians, and B/T; where B/T is exactly 0 or 1 it is the
            probability of that atom. Minus infinity outside the support. Differentiable.
        """
        size = max(1, 500_000 // (len(self.table) if rows is None else rows.shape[1]))
        ln_radius = torch.log(half_light_radius(galaxies)) if ln_radius is None else ln_radius
        parts = [
            self._log_prob(galaxies.select(at), None if rows is None else rows[at], ln_radius[at])
            for at in (slice(i, i + size) for i in range(0, len(galaxies), size))
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def nearest_rows(self, galaxies: Galaxies, count: int) -> Tensor:
        """The ``count`` rows of the table that lie nearest to each galaxy in magnitude, radius and axis ratio.

        Arguments:
            galaxies: (N,) with flux in nJy and radii in arcsec.
            count: Rows a galaxy; a few hundred hold all but 1e-3 of the density where galaxies are common.

        Returns:
            (N, count) indices; the kernel is taken three times as wide, so that they serve a neighbourhood.
        """
        table = self.table.to(galaxies.flux.device, torch.float64)
        count = min(count, len(table))
        wide = dataclasses.replace(self, kernel_scale=3 * self.kernel_scale)
        chosen = []
        for start in range(0, len(galaxies), 256):
            part = galaxies.select(slice(start, start + 256)).to(dtype=torch.float64)
            logit = torch.logit(_unit_ratio(part.axis_ratio[:, 0]))[:, None]
            density = wide._ln_magnitude_radius(part.flux, torch.log(half_light_radius(part)), table)
            density = density + _ln_normal(logit, table[..., 3], 3 * self.kernel_scale * _KERNEL["logit_q"])
            chosen.append(density.topk(count, -1).indices)
        return torch.cat(chosen) if chosen else torch.zeros(0, count, dtype=torch.long)

    def _log_prob(self, galaxies: Galaxies, rows: Tensor | None, ln_radius: Tensor) -> Tensor:
        """Sum over rows of the table, a chunk of galaxies at a time."""
        galaxies = galaxies.to(dtype=torch.float64)
        table = self.table.to(galaxies.flux.device, torch.float64)
        near = table if rows is None else table[rows]
        ln_n = torch.log(galaxies.sersic_index)
        q_disk, q_bulge = galaxies.axis_ratio.unbind(-1)
        inside = (q_disk > _Q_MIN) & (q_disk <= 1) & (q_bulge >= q_disk) & (q_bulge <= 1)
        inside &= ((ln_n >= _LN_INDEX[0] - 1e-5) & (ln_n <= _LN_INDEX[1] + 1e-5)).all(-1)
        shared = _ln_normal(torch.log(galaxies.radius[:, 1] / galaxies.radius[:, 0]), *_RATIO)
        turn = torch.remainder(galaxies.angle[:, 1] - galaxies.angle[:, 0] + math.pi / 2, math.pi) - math.pi / 2
        shared = shared + _ln_normal(turn, 0.0, _TURN) - math.log(math.pi)
        shared = shared - torch.log(q_bulge * -torch.log(q_disk.clamp_max(1 - 1e-9)))  # s = ln q_b / ln q_d is uniform
        unit = _unit_ratio(q_disk)
        per_row = _ln_normal(torch.logit(unit)[:, None], near[..., 3], _KERNEL["logit_q"])
        per_row = per_row - torch.log(unit * (1 - unit) * (1 - _Q_MIN))[:, None]
        per_row = per_row + _ln_structure(galaxies.bulge_to_total, ln_n, near[..., 2])
        per_row = per_row + self._ln_magnitude_radius(galaxies.flux, ln_radius.double(), near)
        value = torch.logsumexp(per_row, -1) - math.log(len(table)) + shared
        return torch.where(inside, value, -math.inf)

    def _ln_magnitude_radius(self, flux: Tensor, ln_radius: Tensor, table: Tensor) -> Tensor:
        """(N, K) log-density of magnitude and ln radius about each row, averaged over s in closed form.

        Along s a galaxy moves on a straight line in magnitude and ln radius, so the product of both normal kernels
        is a normal one in s, and the average over s a difference of two error functions.
        """
        sigma_mag, sigma_radius = (self.kernel_scale * _KERNEL[name] for name in ("mag", "ln_radius"))
        mag = (31.4 - 2.5 * torch.log10(flux))[:, None] - table[..., 0]
        radius = ln_radius[:, None] - table[..., 1]
        if self.closest == 1:
            return _ln_normal(mag, 0.0, sigma_mag) + _ln_normal(radius, 0.0, sigma_radius)
        slope, reach = 5 / math.log(10), math.log(self.closest)
        a = (slope / sigma_mag) ** 2 + 1 / sigma_radius**2
        middle = (radius / sigma_radius**2 - mag * slope / sigma_mag**2) / a
        rest = (mag / sigma_mag) ** 2 + (radius / sigma_radius) ** 2 - a * middle**2
        low, high = -middle * math.sqrt(a), (reach - middle) * math.sqrt(a)
        flip = low > 0  # in the upper tail the difference is taken of the lower tails, which do not round to 1
        low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
        share = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp_min(1e-300)
        scale = math.log(sigma_mag * sigma_radius * reach * math.sqrt(2 * math.pi * a))
        return torch.log(share) - rest / 2 - scale


def available_populations() -> tuple[str, ...]:
    """Names that :func:`load_population` knows."""
    return ("cosmos", "nearby")


@functools.lru_cache(maxsize=4)
def load_population(name: str) -> Population:
    """A population by name.

    Raises:
        UnknownNameError: No such population.
    """
    if name not in available_populations():
        raise UnknownNameError("population", name, available_populations())
    with resources.as_file(resources.files("galstress") / "tables" / "cosmos.ecsv") as path:
        rows = Table.read(path, format="ascii.ecsv")
    columns = ("mag_ab", "half_light_radius_arcsec", "sersic_index", "axis_ratio")
    mag, radius, index, ratio = (torch.as_tensor(rows[column].astype("f8").data) for column in columns)
    unit = ((ratio - _Q_MIN) / (1 - _Q_MIN)).clamp(0.02, 0.98)
    table = torch.stack([mag, torch.log(radius), index, torch.logit(unit)], -1).float()
    return Population(name, table, closest=15.0 if name == "nearby" else 1.0)


def _pure_shares(index: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities that a galaxy of this fitted index is a pure disk, a pure bulge."""
    return _PURE_DISK / (1 + (index / 1.1) ** 4), _PURE_BULGE / (1 + (4 / index) ** 4)


def _ln_index_law(index: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and width (N, 2) of ln n of disk and bulge, given the fitted index and B/T."""
    fitted = torch.log(index).clamp(*_LN_INDEX)
    pure = torch.stack([share == 0, share == 1], -1)
    typical = torch.stack([torch.zeros_like(index), torch.full_like(index, math.log(3.5))], -1)
    width = torch.tensor([0.15, 0.3], device=index.device, dtype=index.dtype).expand_as(typical)
    return torch.where(pure, fitted[:, None], typical), torch.where(pure, 0.05, width)


def _truncated_normal(centre: Tensor, sigma: Tensor, uniform: Tensor) -> Tensor:
    """Normal values cut to the allowed range of ln n, by inverting the cumulative distribution."""
    low, high = (torch.special.ndtr((edge - centre) / sigma) for edge in _LN_INDEX)
    place = (low + uniform * (high - low)).clamp(1e-6, 1 - 1e-6)
    return (centre + sigma * torch.special.ndtri(place)).clamp(*_LN_INDEX)


def _ln_structure(share: Tensor, ln_n: Tensor, fitted: Tensor) -> Tensor:
    """(N, K) log-probability of B/T and both indices, given the fitted index of each row."""
    p_disk, p_bulge = _pure_shares(fitted)
    logit = torch.logit(share.clamp(1e-12, 1 - 1e-12))
    mixed = _ln_normal(logit[:, None], 2 * torch.log(fitted / 2.2), 1.0)
    mixed = mixed - torch.log((share * (1 - share)).clamp_min(1e-24))[:, None] + torch.log(1 - p_disk - p_bulge)
    pure_disk, pure_bulge = (share == 0)[:, None], (share == 1)[:, None]
    value = torch.where(pure_disk, torch.log(p_disk), torch.where(pure_bulge, torch.log(p_bulge), mixed))
    for place, (typical, width, pure) in enumerate(((0.0, 0.15, pure_disk), (math.log(3.5), 0.3, pure_bulge))):
        centre = torch.where(pure, torch.log(fitted).clamp(*_LN_INDEX), typical)
        sigma = torch.where(pure, 0.05, width)
        kept = torch.special.ndtr((_LN_INDEX[1] - centre) / sigma) - torch.special.ndtr((_LN_INDEX[0] - centre) / sigma)
        value = value + _ln_normal(ln_n[:, place, None], centre, sigma) - torch.log(kept)
    return value


def _unit_ratio(axis_ratio: Tensor) -> Tensor:
    """The axis ratio's place between the smallest and 1, kept off both ends."""
    return ((axis_ratio - _Q_MIN) / (1 - _Q_MIN)).clamp(1e-9, 1 - 1e-9)


def _ln_normal(value: Tensor, centre: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Log-density of a normal distribution."""
    ln_sigma = torch.log(sigma) if isinstance(sigma, Tensor) else math.log(sigma)
    return -0.5 * ((value - centre) / sigma) ** 2 - ln_sigma - 0.5 * math.log(2 * math.pi)
