"""Priors over the internal coordinates of a galaxy, as importance sampling needs them.

Pure disks and pure bulges are atoms of the prior. Each lies, in the coordinate of B/T, beyond the
edge at which B/T is 0 or 1, as a narrow normal bump: any density will do there, since the image
does not depend on it, and so one set of coordinates holds all three kinds of galaxy.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from galstress.errors import UnknownNameError
from galstress.galaxy import Galaxies, component_ellipticity
from galstress.heads import INTERNAL_NAMES, Reference, from_internal, to_internal
from galstress.heads.flow import BEYOND, EDGE, SPREAD
from galstress.population import Population, available_populations, load_population
from galstress.refinement.coordinates import SCALED_TURN, to_natural
from galstress.survey import Survey

__all__ = ["KINDS", "Normal", "PopulationPrior", "Prior", "WeakPrior", "kind_of", "make_prior"]

KINDS = ("mixed", "pure disk", "pure bulge")
"""The three kinds of galaxy."""

DIM = len(INTERNAL_NAMES)
_AT = {name: place for place, name in enumerate(INTERNAL_NAMES)}
SHARE = _AT["logit_bulge_to_total"]
_LN_INDEX = (math.log(0.5), math.log(6.0))
_LARGEST_ELLIPTICITY = 0.93
_CENTRE_PX = 2.0
_ENOUGH_OF_A_KIND = 100


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normal distribution of natural coordinates: it stands in for the prior of one kind while a fit climbs."""

    centre: Tensor
    """(12,) relative to one image unit, one pixel and the array's centre."""
    precision: Tensor
    """(12, 12)."""
    ln_share: float
    """Logarithm of the kind's share of the prior; minus infinity where it holds none of the kind."""
    any_shape: bool = False
    """Whether bulges may be flatter than their disks: :func:`galstress.refinement.coordinates.from_natural`."""


class Prior(Protocol):
    """What refinement needs of a prior; coordinates are relative to ``reference``."""

    def stand_ins(self, survey: Survey) -> tuple[Normal, ...]:
        """A normal distribution for each of :data:`KINDS`."""

    def log_prob(self, internal: Tensor, reference: Reference, survey: Survey) -> Tensor:
        """(n, N) log-density of (n, N, 12) internal coordinates; minus infinity outside the support."""


def kind_of(internal: Tensor) -> Tensor:
    """(...) index into :data:`KINDS` of (..., 12) internal coordinates."""
    logit = internal[..., SHARE]
    return (logit <= -EDGE).long() + 2 * (logit >= EDGE).long()


@dataclasses.dataclass(frozen=True)
class PopulationPrior:
    """Galaxies as populations draw them, in given shares; the centre is free."""

    shares: tuple[tuple[str, float], ...]
    """Name and share of each population."""

    def stand_ins(self, survey: Survey) -> tuple[Normal, ...]:
        """Mean and covariance of each kind among galaxies drawn from the prior."""
        return _stand_ins(self, survey.pixel_scale_arcsec, survey.unit_njy)

    def log_prob(self, internal: Tensor, reference: Reference, survey: Survey) -> Tensor:
        """(n, N) log-density."""
        galaxies, radius = from_internal(internal, reference)
        sky = galaxies.scaled(survey.pixel_scale_arcsec, survey.unit_njy)
        flat = Galaxies(**{f.name: getattr(sky, f.name).flatten(0, 1) for f in dataclasses.fields(sky)})
        ln_radius = torch.log(radius * survey.pixel_scale_arcsec).flatten()
        each = [load_population(name).log_prob(flat, ln_radius) + math.log(share) for name, share in self.shares]
        value = torch.logsumexp(torch.stack(each), 0).view(internal.shape[:-1]) + _ln_volume(galaxies, internal)
        return torch.where(_is_inside(internal), value, -math.inf)


@dataclasses.dataclass(frozen=True)
class WeakPrior:
    """Little is assumed: what a fit without a network starts from.

    B/T is even from 0 to 1, with a tenth of pure disks and of pure bulges each; ln n is normal about 0 (disk, sigma
    0.3) and ln 3.5 (bulge, 0.4), that of a pure one is even, within 0.5 to 6; ln of the bulge's radius over the
    disk's is normal about ln 0.4 (0.6); the disk's axis ratio is even, the bulge's is q^s with s even from 0 to 1,
    its angle within a normal 20 degrees; flux and radius are even in their logarithms.
    """

    pure_share: float = 0.1
    """Share of pure disks, and of pure bulges."""

    def stand_ins(self, survey: Survey) -> tuple[Normal, ...]:
        """Normal distributions with the same widths, very wide ones for flux, radius and centre."""
        del survey
        sigma = dict.fromkeys(INTERNAL_NAMES, 1.0)
        sigma |= {"x": _CENTRE_PX, "y": _CENTRE_PX, "ln_flux": 4.0, "ln_radius": 1.5, "e1": 0.3, "e2": 0.3}
        sigma |= {"ln_radius_ratio": 0.6, "ln_disk_index": 0.3, "ln_bulge_index": 0.4, "e2_difference": 2.0}
        sigma["logit_bulge_to_total"] = 2.0
        centre = {"ln_radius_ratio": math.log(0.4), "ln_bulge_index": math.log(3.5), "ln_radius": math.log(5.0)}
        normals = []
        for kind, share in enumerate((1 - 2 * self.pure_share, self.pure_share, self.pure_share)):
            width, middle = dict(sigma), dict(centre)
            if kind:
                width["logit_bulge_to_total"] = SPREAD
                middle["logit_bulge_to_total"] = (EDGE + BEYOND) * (-1 if kind == 1 else 1)
                width["ln_disk_index" if kind == 1 else "ln_bulge_index"] = 0.8
            at = torch.tensor([middle.get(name, 0.0) for name in INTERNAL_NAMES], dtype=torch.float64)
            inverse = torch.tensor([width[name] ** -2 for name in INTERNAL_NAMES], dtype=torch.float64)
            normals.append(Normal(at, torch.diag(inverse), math.log(share)))
        return tuple(normals)

    def log_prob(self, internal: Tensor, reference: Reference, survey: Survey) -> Tensor:
        """(n, N) log-density; flux and radius are not normalised."""
        del survey
        galaxies, _ = from_internal(internal, reference)
        kind = kind_of(internal)
        value = torch.where(kind == 0, math.log(1 - 2 * self.pure_share), math.log(self.pure_share))
        for place, (alone, centre, sigma) in enumerate(((1, 0.0, 0.3), (2, math.log(3.5), 0.4))):
            law = torch.distributions.Normal(torch.tensor(centre, dtype=torch.float64), sigma)
            kept = law.cdf(torch.tensor(_LN_INDEX[1])) - law.cdf(torch.tensor(_LN_INDEX[0]))
            usual = _ln_normal(torch.log(galaxies.sersic_index[..., place]), centre, sigma) - torch.log(kept)
            value = value + torch.where(kind == alone, -math.log(_LN_INDEX[1] - _LN_INDEX[0]), usual)
        value = value + _ln_normal(internal[..., _AT["ln_radius_ratio"]], math.log(0.4), 0.6)
        q_disk, q_bulge = galaxies.axis_ratio.unbind(-1)
        value = value - torch.log(q_bulge * -torch.log(q_disk.clamp_max(1 - 1e-9)))
        turn = galaxies.angle[..., 1] - galaxies.angle[..., 0]
        turn = torch.remainder(turn + math.pi / 2, math.pi) - math.pi / 2
        value = value + _ln_normal(turn, 0.0, 2 * SCALED_TURN) - math.log(math.pi)
        inside = _is_inside(internal) & (q_bulge >= q_disk)
        return torch.where(inside, value + _ln_volume(galaxies, internal), -math.inf)


def make_prior(prior: Prior | str | Mapping[str, float] | None, default: Mapping[str, float]) -> Prior:
    """A prior from what a caller gives: a prior, a population's name, shares of populations, ``"weak"`` or None.

    Raises:
        UnknownNameError: No such population.
    """
    if prior is None:
        prior = default or "weak"
    if isinstance(prior, str):
        if prior == "weak":
            return WeakPrior()
        prior = {prior: 1.0}
    if isinstance(prior, Mapping):
        for name in prior:
            if name not in available_populations():
                raise UnknownNameError("prior", name, (*available_populations(), "weak"))
        total = sum(prior.values())
        return PopulationPrior(tuple((name, share / total) for name, share in prior.items() if share > 0))
    return prior


@functools.lru_cache(maxsize=32)
def _stand_ins(prior: PopulationPrior, pixel_scale_arcsec: float, unit_njy: float) -> tuple[Normal, ...]:
    """Mean and covariance of the natural coordinates of each kind, among 20,000 galaxies drawn from a prior.

    A kind that the prior has few of, or none, borrows those of mixed galaxies.
    """
    generator = torch.Generator().manual_seed(1)
    drawn: list[Tensor] = []
    any_shape = False
    for name, share in prior.shares:
        population: Population = load_population(name)
        sky = population.sample(max(200, round(20_000 * share)), generator).to(dtype=torch.float64)
        any_shape |= bool((sky.axis_ratio[:, 1] < 0.999 * sky.axis_ratio[:, 0]).any())
        galaxies = sky.scaled(1 / pixel_scale_arcsec, 1 / unit_njy)
        one = torch.ones(len(galaxies), dtype=torch.float64)
        drawn.append(to_internal(galaxies, Reference(one, one, (0.0, 0.0), one)))
    internal = to_natural(torch.cat(drawn), any_shape)
    edge = internal[:, SHARE].abs() >= EDGE - 1e-6
    internal[:, SHARE] += torch.where(edge, internal[:, SHARE].sign() * BEYOND, 0.0)
    kinds, normals = kind_of(internal), []
    for kind in range(len(KINDS)):
        own = internal[kinds == kind]
        members = own if len(own) >= _ENOUGH_OF_A_KIND else internal[kinds == 0]
        centre, covariance = members.mean(0), torch.cov(members.T)
        covariance[:2], covariance[:, :2] = 0, 0
        covariance[0, 0] = covariance[1, 1] = _CENTRE_PX**2
        if kind:
            covariance[SHARE], covariance[:, SHARE] = 0, 0
            covariance[SHARE, SHARE] = SPREAD**2
            centre[SHARE] = (EDGE + BEYOND) * (-1 if kind == 1 else 1)
        ln_share = math.log(len(own) / len(internal)) if len(own) else -math.inf
        normals.append(Normal(centre, torch.linalg.inv(covariance), ln_share, any_shape))
    return tuple(normals)


def _is_inside(internal: Tensor) -> Tensor:
    """(...) whether coordinates are those of a model, and not beyond an edge to which they would be brought."""
    share = ((torch.sigmoid(internal[..., SHARE]) - 0.01) / 0.98).clamp(0, 1)
    inside = internal[..., _AT["ln_radius_ratio"]].abs() < 6
    squares = [torch.zeros_like(share), torch.zeros_like(share)]
    for name in ("e1", "e2"):
        apart = internal[..., _AT[f"{name}_difference"]]
        disk = internal[..., _AT[name]] - share * apart
        squares = [squares[0] + disk**2, squares[1] + (disk + apart) ** 2]
    for square in squares:
        inside = inside & (square < _LARGEST_ELLIPTICITY**2)
    for name in ("ln_disk_index", "ln_bulge_index"):
        inside = inside & (internal[..., _AT[name]] > _LN_INDEX[0]) & (internal[..., _AT[name]] < _LN_INDEX[1])
    return inside


def _ln_volume(galaxies: Galaxies, internal: Tensor) -> Tensor:
    """Logarithm of the Jacobian from the population's variables to the internal coordinates.

    dq dphi = (1+q)^2 / (4 |e|) de1 de2 for each component; a magnitude is 2.5 / ln 10 of ln flux.
    """
    e1, e2 = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    size = torch.hypot(e1, e2).clamp_min(1e-9)
    shapes = (torch.log((1 + galaxies.axis_ratio) ** 2 / (4 * size))).sum(-1)
    return shapes + math.log(2.5 / math.log(10)) + _ln_share_volume(internal)


def _ln_share_volume(internal: Tensor) -> Tensor:
    """The part of B/T: its derivative in the logit, or the bump's density beyond the edge."""
    logit = internal[..., SHARE]
    inner = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit) - math.log(0.98)
    return torch.where(logit.abs() < EDGE, inner, _ln_normal(logit.abs(), EDGE + BEYOND, SPREAD))


def _ln_normal(value: Tensor, centre: float, sigma: float | Tensor) -> Tensor:
    """Log-density of a normal distribution."""
    ln_sigma = torch.log(sigma) if isinstance(sigma, Tensor) else math.log(sigma)
    return -0.5 * ((value - centre) / sigma) ** 2 - ln_sigma - 0.5 * math.log(2 * math.pi)
