"""Galaxies of the COSMOS field, as they are and brought closer.

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

from galstress.galaxy import Galaxies, half_light_radius

__all__ = ["FieldGalaxies", "load_field"]

_KERNEL = {"mag": 0.15, "ln_radius": 0.1, "logit_q": 0.25}
_PURE_DISK, _PURE_BULGE = 0.345, 0.49
_LN_INDEX = (math.log(0.5), math.log(6.0))
_RATIO = (math.log(0.35), 0.4)
_Q_MIN = 0.06
_TURN = math.radians(10)
_AT_ONCE = 64
"""Galaxies evaluated together: their kernels stay in cache."""
_EDGE = 6.0
"""Widths from either end of the line of approach beyond which a kernel counts not at all, or in full."""
_ORIGIN = {"mag": 22.5, "ln_radius": -1.0}
"""What kernels are computed relative to: squares of small numbers keep their digits in single precision."""


@dataclasses.dataclass(frozen=True)
class FieldGalaxies:
    """A table of galaxies, each blurred by a small kernel, at their own distance or closer.

    Example:
        >>> cosmos = load_field()
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
        magnitude = rows[:, 0] + _KERNEL["mag"] * normal()
        ln_radius = rows[:, 1] + _KERNEL["ln_radius"] * normal()
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

    def log_prob(self, galaxies: Galaxies, ln_radius: Tensor | None = None) -> Tensor:
        """Logarithm of the density of galaxies under the population.

        Arguments:
            galaxies: (N,) with flux in nJy and radii in arcsec; the centre is not looked at.
            ln_radius: (N,) ln of the whole half-light radius in arcsec, where the caller knows it already.

        Returns:
            (N,) float64 density per magnitude, ln half-light radius, ln bulge-over-disk radius, ln n of each
            component, axis ratio of each, angle of each in radians, and B/T; where B/T is exactly 0 or 1 it is the
            probability of that atom. Minus infinity outside the support. Differentiable.
        """
        galaxies = galaxies.to(dtype=torch.float64)
        ln_radius = torch.log(half_light_radius(galaxies)) if ln_radius is None else ln_radius.double()
        features = _features(galaxies, ln_radius, self.closest > 1)
        # neighbours along the line together: each chunk then needs few of the table's rows
        order = features[:, -1].detach().argsort()
        parts = [self._sum_kernels(rows) for rows in features[order].split(_AT_ONCE)]
        value = torch.cat(parts)[order.argsort()] if parts else features.new_zeros(0)
        return value + _ln_shared(galaxies)

    @functools.cached_property
    def _rows(self) -> Tensor:
        """The table's side of the kernels, in the order of their places along the line of approach."""
        rows = _kernels(self.table, self.closest)
        return rows[rows[:, -1].argsort()]

    def _sum_kernels(self, features: Tensor) -> Tensor:
        """(N,) logarithm of the mean over the table's rows of products of normal kernels."""
        kernels = self._rows.to(features)
        count = len(kernels)
        on_line: Tensor | float = 1.0
        if self.closest > 1:
            kernels, on_line = self._share_of_line(features, kernels)
        # single precision will do for the sum: its largest terms are of order 1
        each = features[:, :-1].float() @ kernels[:, :-1].float().T
        largest = each.detach().amax(-1, keepdim=True)
        shares = (each - largest).clamp_min(-80).exp() * on_line  # numbers that underflow take six times as long
        return shares.sum(-1).clamp_min(1e-38).log().double() + largest[:, 0].double() - math.log(count)

    def _share_of_line(self, features: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """The kernels (M, F) that tell, and the share (N, M), in s, of each that lies on the line.

        Along s a galaxy moves on a straight line in magnitude and ln radius, so the product of both normal kernels
        is a normal one in s, and the average over s a difference of two error functions; their product is the same
        to far below rounding, as the line is tens of widths long.
        """
        width, reach = _along_line()[0], math.log(self.closest)
        low, high = (float(place) for place in features[:, -1].detach().aminmax())
        place, edge = kernels[:, -1].contiguous(), _EDGE * width
        edges = place.new_tensor([low - reach - edge, high - reach + edge, low - edge, high + edge])
        first, farthest, nearest, last = torch.searchsorted(place, edges).tolist()
        if last > first:  # the others cannot be brought to where these galaxies are
            kernels, place = kernels[first:last], place[first:last]
            farthest, nearest = farthest - first, nearest - first
        middle, place = features[:, -1:].float() / width, place.float() / width
        value = torch.ones(len(features), len(place), device=features.device)
        value[:, nearest:] *= _ndtr(middle - place[nearest:])
        value[:, :farthest] *= _ndtr(reach / width - middle + place[:farthest])
        return kernels, value


@functools.lru_cache(maxsize=2)
def load_field(closest: float = 1.0) -> FieldGalaxies:
    """The galaxies of the shipped table, brought closer by up to this factor: ``cosmos`` (1) or ``nearby``."""
    with resources.as_file(resources.files("galstress") / "tables" / "cosmos.ecsv") as path:
        rows = Table.read(path, format="ascii.ecsv")
    columns = ("mag_ab", "half_light_radius_arcsec", "sersic_index", "axis_ratio")
    mag, radius, index, ratio = (torch.as_tensor(rows[column].astype("f8").data) for column in columns)
    unit = ((ratio - _Q_MIN) / (1 - _Q_MIN)).clamp(0.02, 0.98)
    table = torch.stack([mag, torch.log(radius), index, torch.logit(unit)], -1).float()
    return FieldGalaxies("nearby" if closest > 1 else "cosmos", table, closest)


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


def _ndtr(x: Tensor) -> Tensor:
    """The normal cumulative distribution, from about 1e-30 on: ``torch.special.ndtr`` ends at 1e-8."""
    return torch.erfc((x * -math.sqrt(0.5)).clamp_max(8.0)) / 2


def _along_line() -> tuple[float, float, float]:
    """Kernels along s: width, and the weights of ln radius and magnitude in its middle."""
    slope = 5 / math.log(10)
    a = (slope / _KERNEL["mag"]) ** 2 + 1 / _KERNEL["ln_radius"] ** 2
    return a**-0.5, 1 / _KERNEL["ln_radius"] ** 2 / a, -slope / _KERNEL["mag"] ** 2 / a


def _features(galaxies: Galaxies, ln_radius: Tensor, is_line: bool) -> Tensor:
    """(N, F) numbers whose product with those of a row of the table is the logarithm of the row's kernel.

    Squares, values and ones of the normal variables, each where the galaxy's kind has it: (magnitude and ln radius, or
    what is left of them across the line of s), logit of the axis ratio, logit of B/T (mixed), ln n (pure ones). The
    last is the place along the line.
    """
    magnitude = 31.4 - 2.5 * torch.log10(galaxies.flux) - _ORIGIN["mag"]
    ln_radius = ln_radius - _ORIGIN["ln_radius"]
    share, ln_n = galaxies.bulge_to_total, torch.log(galaxies.sersic_index)
    logit_q = torch.logit(_unit_ratio(galaxies.axis_ratio[:, 0]))
    logit_b = torch.logit(share.clamp(1e-12, 1 - 1e-12))
    disk, bulge = (share == 0).double(), (share == 1).double()
    mixed = 1 - disk - bulge
    _, of_radius, of_magnitude = _along_line()
    slope = 5 / math.log(10)
    across = [magnitude + slope * ln_radius] if is_line else [magnitude, ln_radius]
    columns = [column for value in (*across, logit_q) for column in (value**2, value)]
    for value, is_kind in ((logit_b, mixed), (ln_n[:, 0], disk), (ln_n[:, 1], bulge)):
        columns += [value**2 * is_kind, value * is_kind, is_kind]
    return torch.stack([*columns, of_radius * ln_radius + of_magnitude * magnitude], -1)


def _kernels(table: Tensor, closest: float) -> Tensor:
    """(K, F) the rows' side of :func:`_features`."""
    magnitude, ln_radius, fitted, logit_q = table.double().unbind(-1)
    magnitude, ln_radius = magnitude - _ORIGIN["mag"], ln_radius - _ORIGIN["ln_radius"]
    _, of_radius, of_magnitude = _along_line()
    slope = 5 / math.log(10)
    columns: list[Tensor] = []
    constant = torch.zeros_like(fitted)
    if closest > 1:
        sigma = math.hypot(_KERNEL["mag"], slope * _KERNEL["ln_radius"])
        across = [(magnitude + slope * ln_radius, sigma)]
        constant = constant - math.log(math.log(closest))
    else:
        across = [(magnitude, _KERNEL["mag"]), (ln_radius, _KERNEL["ln_radius"])]
    for centre, sigma in (*across, (logit_q, _KERNEL["logit_q"])):
        square, linear, rest = _square_of_normal(centre, sigma)
        columns += [square, linear]
        constant = constant + rest
    ln_fitted = torch.log(fitted).clamp(*_LN_INDEX)
    p_disk, p_bulge = _pure_shares(fitted)
    square, linear, rest = _square_of_normal(2 * torch.log(fitted / 2.2), 1.0)
    columns += [square, linear, constant + rest + torch.log(1 - p_disk - p_bulge)]
    kept = torch.log(_kept_share(ln_fitted, 0.05))
    for probability in (p_disk, p_bulge):
        square, linear, rest = _square_of_normal(ln_fitted, 0.05)
        columns += [square, linear, constant + rest + torch.log(probability) - kept]
    return torch.stack([*columns, of_radius * ln_radius + of_magnitude * magnitude], -1)


def _square_of_normal(centre: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of x^2, x and 1 in the log-density of a normal distribution."""
    one = torch.ones_like(centre)
    rest = -0.5 * (centre / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))
    return -0.5 / sigma**2 * one, centre / sigma**2, rest


def _kept_share(centre: Tensor, sigma: float) -> Tensor:
    """Share of a normal distribution of ln n inside the allowed range."""
    low, high = ((edge - centre) / sigma for edge in _LN_INDEX)
    return torch.special.ndtr(high) - torch.special.ndtr(low)


def _ln_shared(galaxies: Galaxies) -> Tensor:
    """(N,) the part of the log-density that no row of the table changes; minus infinity outside the support."""
    share, ln_n = galaxies.bulge_to_total, torch.log(galaxies.sersic_index)
    q_disk, q_bulge = galaxies.axis_ratio.unbind(-1)
    inside = (q_disk > _Q_MIN) & (q_disk <= 1) & (q_bulge >= q_disk) & (q_bulge <= 1)
    inside &= ((ln_n >= _LN_INDEX[0] - 1e-5) & (ln_n <= _LN_INDEX[1] + 1e-5)).all(-1)
    value = _ln_normal(torch.log(galaxies.radius[:, 1] / galaxies.radius[:, 0]), *_RATIO)
    turn = torch.remainder(galaxies.angle[:, 1] - galaxies.angle[:, 0] + math.pi / 2, math.pi) - math.pi / 2
    value = value + _ln_normal(turn, 0.0, _TURN) - math.log(math.pi)
    value = value - torch.log(q_bulge * -torch.log(q_disk.clamp_max(1 - 1e-9)))  # s = ln q_b / ln q_d is uniform
    unit = _unit_ratio(q_disk)
    value = value - torch.log(unit * (1 - unit) * (1 - _Q_MIN))
    mixed = (share > 0) & (share < 1)
    value = value - torch.where(mixed, torch.log((share * (1 - share)).clamp_min(1e-24)), 0.0)
    for place, (centre, sigma, pure) in enumerate(((0.0, 0.15, share == 0), (math.log(3.5), 0.3, share == 1))):
        kept = torch.log(_kept_share(torch.tensor(centre, dtype=torch.float64), sigma))
        value = value + torch.where(pure, 0.0, _ln_normal(ln_n[:, place], centre, sigma) - kept)
    return torch.where(inside, value, -math.inf)


def _unit_ratio(axis_ratio: Tensor) -> Tensor:
    """The axis ratio's place between the smallest and 1, kept off both ends."""
    return ((axis_ratio - _Q_MIN) / (1 - _Q_MIN)).clamp(1e-9, 1 - 1e-9)


def _ln_normal(value: Tensor, centre: Tensor | float, sigma: Tensor | float) -> Tensor:
    """Log-density of a normal distribution."""
    ln_sigma = torch.log(sigma) if isinstance(sigma, Tensor) else math.log(sigma)
    return -0.5 * ((value - centre) / sigma) ** 2 - ln_sigma - 0.5 * math.log(2 * math.pi)
