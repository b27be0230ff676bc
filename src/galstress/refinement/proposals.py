"""Where importance sampling draws from: mixtures that know how a posterior of disk and bulge is shaped.

A bulge with little of the light tells little of its shape, and a posterior widens, in all that concerns the bulge,
towards small B/T. One normal distribution at the maximum misses that. The information on a component's shape grows
as the square of its light, so the Fisher matrix at the maximum foretells the posterior at any other B/T without a
further image: the proposal of mixed galaxies is cut along B/T into slices, each a Student-t of its own. Beside them
stand a Student-t at the maximum of each kind (mixed, pure disk, pure bulge), a long one beside it, and the posterior
that the network gave, as normal kernels around its draws.

The long ones are for galaxies wider than their stamp: flux, radius and index can grow together there with little change
of the image, along a ridge that is longer towards large radii than the Fisher matrix at the maximum says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from galstress.heads import INTERNAL_NAMES
from galstress.heads.flow import EDGE
from galstress.refinement.fitting import Maximum
from galstress.refinement.priors import SHARE

__all__ = ["Density", "Proposal", "adapt", "propose"]

_FREEDOM = 12
"""Degrees of freedom of the Student-t's: heavier tails than any posterior here."""
_NETWORK_SHARE = 0.08
_KERNEL = 0.6
"""Width of the kernels around the network's draws, in units of the draws' own spread."""
_LEAST = 80.0
"""Effective samples of a component that the adaptation wants before it believes their spread."""
_BOUNDS = (0.0, 0.08, 0.27, 0.5, 0.73, 0.92, 1.0)
"""Shares of the posterior, along B/T, between which slices lie."""
_OVERLAP = 1.7
"""By how much a slice's variance along B/T is larger than that of what it holds."""
_AT_MAXIMUM = 0.2
"""Share of the mixed galaxies' proposal that is the Student-t at the maximum, uncut."""
_LONG = 0.08
"""Share of each kind's proposal that lies along the ridge of large radii."""
_LENGTH, _AHEAD = 3.0, 1.5
"""How much longer that part is along it, and by how many standard deviations it is moved towards large radii."""
_RADIUS = INTERNAL_NAMES.index("ln_radius")
_OF_BULGE, _OF_DISK = (
    [INTERNAL_NAMES.index(name) for name in (index, "ln_radius_ratio", "e1_difference", "e2_difference")]
    for index in ("ln_bulge_index", "ln_disk_index")
)

Density = Callable[[Tensor], Tensor]
"""(n, N, 12) natural coordinates to (n, N) log-density."""


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A mixture for each of N galaxies."""

    centre: Tensor
    """(N, K, 12) of the Student-t's."""
    root: Tensor
    """(N, K, 12, 12) lower-triangular roots of their scale matrices."""
    ln_weight: Tensor
    """(N, K) logarithms of their shares; minus infinity for none."""
    draws: Tensor | None
    """(N, S, 12) a network's draws, or None."""
    draws_root: Tensor | None
    """(N, 12, 12) root of the kernels' covariance."""

    def select(self, rows: Tensor) -> Proposal:
        """The mixtures of some galaxies."""
        draws = None if self.draws is None else self.draws[rows]
        root = None if self.draws_root is None else self.draws_root[rows]
        return Proposal(self.centre[rows], self.root[rows], self.ln_weight[rows], draws, root)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, N, 12) points."""
        number, _, dim = self.centre.shape
        shape = (count, number)
        weight = self.ln_weight.exp()
        which = torch.multinomial(weight, count, replacement=True, generator=generator).T  # (count, N)
        normal = torch.randn(*shape, dim, generator=generator, dtype=self.centre.dtype)
        chi_square = torch.randn(*shape, _FREEDOM, generator=generator, dtype=self.centre.dtype).square().sum(-1)
        stretch = torch.sqrt(_FREEDOM / chi_square)
        rows = torch.arange(number)[None].expand(shape)
        points = self.centre[rows, which] + stretch[..., None] * torch.einsum(
            "snij,snj->sni", self.root[rows, which], normal
        )
        if self.draws is None or self.draws_root is None:
            return points
        from_network = torch.rand(shape, generator=generator) < _NETWORK_SHARE
        pick = torch.randint(self.draws.shape[1], shape, generator=generator)
        around = self.draws[rows, pick] + torch.einsum("nij,snj->sni", self.draws_root, normal)
        return torch.where(from_network[..., None], around, points)

    def log_prob(self, points: Tensor) -> Tensor:
        """(n, N) log-density of (n, N, 12) points."""
        dim = points.shape[-1]
        value = torch.logsumexp(self._each(points), -1)
        if self.draws is None or self.draws_root is None:
            return value
        root, count = self.draws_root, self.draws.shape[1]
        places = torch.linalg.solve_triangular(root, points.permute(1, 2, 0), upper=False).mT
        kernels = torch.linalg.solve_triangular(root, self.draws.mT, upper=False).mT
        near = -0.5 * torch.cdist(places, kernels) ** 2  # (N, n, S)
        volume = torch.log(torch.diagonal(root, dim1=-2, dim2=-1)).sum(-1)
        density = torch.logsumexp(near, -1) - math.log(count) - volume[:, None] - dim / 2 * math.log(2 * math.pi)
        return torch.logaddexp(value + math.log1p(-_NETWORK_SHARE), density.T + math.log(_NETWORK_SHARE))

    def responsibilities(self, points: Tensor) -> Tensor:
        """(n, N, K) share of each Student-t in the density at (n, N, 12) points."""
        return torch.softmax(self._each(points), -1)

    def _each(self, points: Tensor) -> Tensor:
        """(n, N, K) log-densities of the Student-t's, times their shares."""
        dim = points.shape[-1]
        off = points[:, :, None] - self.centre  # (n, N, K, 12)
        white = torch.linalg.solve_triangular(self.root, off.permute(1, 2, 3, 0), upper=False)  # (N, K, 12, n)
        distance = (white**2).sum(2)
        constant = (
            math.lgamma((_FREEDOM + dim) / 2) - math.lgamma(_FREEDOM / 2) - dim / 2 * math.log(_FREEDOM * math.pi)
        )
        volume = torch.log(torch.diagonal(self.root, dim1=-2, dim2=-1)).sum(-1)
        each = constant - volume[..., None] - (_FREEDOM + dim) / 2 * torch.log1p(distance / _FREEDOM)
        return (each + self.ln_weight[..., None]).permute(2, 0, 1)


def propose(maxima: list[Maximum], draws: Tensor | None, ln_prior: Density) -> Proposal:
    """The first proposal.

    Arguments:
        maxima: Of N galaxies, one a kind.
        draws: (N, S, 12) of a network, or None.
        ln_prior: The prior for which the maxima's normal ones stand in: it sets the shares of kinds and slices.
    """
    slices, ln_mixed = _slice(maxima[0], ln_prior)
    pure = [m.ln_evidence + (ln_prior(m.natural[None]) - m.ln_prior(m.natural[None]))[0] for m in maxima[1:]]
    evidence = torch.stack([ln_mixed, *pure], 1)
    ln_kind = _floored(torch.log_softmax(torch.where(torch.isfinite(evidence), evidence, -1e30), 1))
    ln_at = torch.cat([ln_kind[:, :1] + math.log(_AT_MAXIMUM), ln_kind[:, 1:]], 1) + math.log1p(-_LONG)
    ln_slices = slices.ln_weight + ln_kind[:, :1] + math.log1p(-_AT_MAXIMUM) + math.log1p(-_LONG)
    ln_long = ln_kind + math.log(_LONG)
    at = torch.stack([maximum.natural for maximum in maxima], 1)
    root_at = torch.stack([_root_of_inverse(maximum.precision) for maximum in maxima], 1)
    ahead, long = _stretch(at, root_at)
    centre = torch.cat([at, slices.centre, ahead], 1)
    root = torch.cat([root_at, slices.root, long], 1)
    ln_weight = torch.log_softmax(torch.cat([ln_at, ln_slices, ln_long], 1), 1)
    if draws is None:
        return Proposal(centre, root, ln_weight, None, None)
    spread = draws - draws.mean(1, keepdim=True)
    covariance = spread.mT @ spread / draws.shape[1]
    width = torch.diagonal(covariance, dim1=-2, dim2=-1)
    covariance = covariance + torch.diag_embed(1e-6 * width + 1e-12)
    return Proposal(centre, root, ln_weight, draws, _KERNEL * torch.linalg.cholesky(covariance))


def _stretch(centre: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (N, K, 12) and roots (N, K, 12, 12), moved and stretched along the regression on ln radius."""
    covariance = root @ root.mT
    variance = covariance[..., _RADIUS, _RADIUS, None]
    sigma = covariance[..., _RADIUS] / variance.sqrt()  # of every coordinate, for one of ln radius
    longer = covariance + (_LENGTH**2 - 1) * sigma[..., :, None] * sigma[..., None, :]
    stretched, failed = torch.linalg.cholesky_ex(longer)
    return centre + _AHEAD * sigma, torch.where((failed == 0)[..., None, None], stretched, root)


@dataclasses.dataclass(frozen=True)
class _Mixture:
    """Components of a proposal, as its fields of the same names."""

    centre: Tensor
    root: Tensor
    ln_weight: Tensor


def _slice(maximum: Maximum, ln_prior: Density) -> tuple[_Mixture, Tensor]:
    """Slices along B/T of the posterior about mixed galaxies' maximum, and ln of its integral (N,).

    About the maximum the log-likelihood is taken as g u - F u^2 / 2 in the change u of B/T times the light, and in
    all other coordinates the same with D F D for the Fisher matrix F and D g for the slope g; D shrinks what concerns a
    component by its light over that at the maximum. With the prior normal, the other coordinates are normal at each
    B/T; what is left is one-dimensional, and is summed over a grid.
    """
    here, fisher, prior = maximum.natural, maximum.precision - maximum.prior, maximum.prior
    dim = here.shape[-1]
    others = [place for place in range(dim) if place != SHARE]
    grid, cell = _grid_along(maximum)
    moved = grid - here[:, SHARE, None]
    light, shrink = _light_along(grid, here[:, SHARE, None])
    shrink = shrink[..., others]
    pull = ((maximum.centre - here)[:, None] @ prior)[:, 0]
    force = shrink * (maximum.slope[:, None, others] - fisher[:, None, others, SHARE] * light[..., None])
    force = force + pull[:, None, others] - prior[:, None, others, SHARE] * moved[..., None]
    inner, prior_inner = (matrix[:, others][:, None, :, others] for matrix in (fisher, prior))
    matrix = shrink[..., :, None] * inner * shrink[..., None, :] + prior_inner
    diagonal = torch.diagonal(matrix, dim1=-2, dim2=-1).clamp_min(1e-12)
    matrix = matrix + 1e-9 * torch.diag_embed(diagonal)
    covariance = torch.linalg.inv(matrix)
    place = (covariance @ force[..., None])[..., 0]  # (N, T, 11) relative to the maximum
    value = maximum.slope[:, SHARE, None] * light - 0.5 * fisher[:, SHARE, SHARE, None] * light**2
    value = value + pull[:, SHARE, None] * moved - 0.5 * prior[:, SHARE, SHARE, None] * moved**2
    value = value + 0.5 * (force * place).sum(-1) - 0.5 * torch.logdet(matrix) + torch.log(cell.clamp_min(1e-30))
    points = here[:, None] + torch.cat([place[..., :SHARE], moved[..., None], place[..., SHARE:]], -1)
    exact, stand_in = (density(points.transpose(0, 1)).T for density in (ln_prior, maximum.ln_prior))
    value = torch.nan_to_num(value + exact - stand_in, nan=-1e30, neginf=-1e30)
    ln_evidence = maximum.ln_prob + 0.5 * (dim - 1) * math.log(2 * math.pi) + torch.logsumexp(value, -1)
    return _cut(torch.softmax(value, -1), points, covariance, others), ln_evidence


def _grid_along(maximum: Maximum, steps: int = 41) -> tuple[Tensor, Tensor]:
    """(N, T) values of B/T's coordinate, ten sigma to either side, densest at the maximum, and their cells' widths."""
    logit = maximum.natural[:, SHARE, None]
    spread = torch.linalg.inv(maximum.precision)[:, SHARE, SHARE, None].clamp_min(1e-12).sqrt()
    offset = torch.sinh(torch.linspace(-3, 3, steps, dtype=logit.dtype, device=logit.device)) * spread
    grid = (logit + offset).clamp(-EDGE, EDGE)
    apart = grid.diff()
    pad = torch.nn.functional.pad
    return grid, (pad(apart, (0, 1)) + pad(apart, (1, 0))) / 2


def _light_along(grid: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    """(N, T) change of B/T from that at (N, 1) ``logit``, in units of its slope there, and (N, T, 12) diagonal of D."""
    share, before = _bulge_to_total(grid), _bulge_to_total(logit)
    change = (share - before) / (torch.sigmoid(logit) * torch.sigmoid(-logit) / 0.98)
    shrink = torch.ones(*grid.shape, len(INTERNAL_NAMES), dtype=grid.dtype, device=grid.device)
    shrink[..., _OF_BULGE] *= (share / before.clamp_min(1e-6)).clamp_max(1)[..., None]
    shrink[..., _OF_DISK] *= ((1 - share) / (1 - before).clamp_min(1e-6)).clamp_max(1)[..., None]
    return change, shrink


def _cut(mass: Tensor, points: Tensor, covariance: Tensor, others: list[int]) -> _Mixture:
    """Components of the slices: of (N, T) masses along a grid with means (N, T, 12) and covariances of the rest."""
    upper = mass.cumsum(-1)[..., None]
    bounds = torch.tensor(_BOUNDS, dtype=mass.dtype, device=mass.device)
    part = (torch.minimum(upper, bounds[1:]) - torch.maximum(upper - mass[..., None], bounds[:-1])).clamp_min(0)
    total = part.sum(1).clamp_min(1e-12)  # (N, K)
    part = part / total[:, None]
    mean = torch.einsum("ntk,nti->nki", part, points)
    off = points[:, :, None] - mean[:, None]
    spread = torch.einsum("ntk,ntki,ntkj->nkij", part, off, off)
    spread[..., SHARE, SHARE] = _OVERLAP * spread[..., SHARE, SHARE] + 1e-6
    rest = torch.tensor(others)
    spread[..., rest[:, None], rest] += torch.einsum("ntk,ntij->nkij", part, covariance)
    root, failed = torch.linalg.cholesky_ex(spread)
    ln_weight = torch.where(failed == 0, torch.log(total / total.sum(-1, keepdim=True)), -math.inf)
    root = torch.where((failed == 0)[..., None, None], root, torch.eye(root.shape[-1], dtype=root.dtype))
    return _Mixture(mean, root, ln_weight)


def _bulge_to_total(logit: Tensor) -> Tensor:
    """B/T of its coordinate."""
    return ((torch.sigmoid(logit) - 0.01) / 0.98).clamp(0, 1)


def adapt(proposal: Proposal, points: Tensor, ln_weight: Tensor, rounds: int = 2) -> Proposal:
    """The mixture fitted to weighted points, each component as far as they tell of it.

    Arguments:
        proposal: From :func:`propose`.
        points: (n, N, 12).
        ln_weight: (n, N) of target over the density that they were drawn from.
        rounds: Of expectation and maximisation.
    """
    # where no point lies inside the prior, all count alike: an object that is not seen must not stop its batch
    weight = torch.softmax(torch.where(torch.isfinite(ln_weight), ln_weight, -1e30), 0)
    tempered = _tempered(ln_weight)
    fitted = proposal
    for _ in range(rounds):
        own = fitted.responsibilities(points)  # (n, N, K)
        share = torch.einsum("sn,snk->nk", weight, own)
        own = own * tempered[..., None]
        total = own.sum(0).clamp_min(1e-30)
        number = total**2 / (own**2).sum(0).clamp_min(1e-30)
        trust = (number / (number + _LEAST) * (share > 1e-6))[..., None]
        centre = torch.einsum("snk,sni->nki", own, points) / total[..., None]
        centre = trust.sqrt() * centre + (1 - trust.sqrt()) * proposal.centre
        off = points[:, :, None] - centre
        covariance = torch.einsum("snk,snki,snkj->nkij", own / total, off, off)
        before = proposal.root @ proposal.root.mT
        mixed = trust[..., None] * covariance + (1 - trust[..., None]) * before
        mixed = mixed + torch.diag_embed(1e-9 * torch.diagonal(before, dim1=-2, dim2=-1))
        root, failed = torch.linalg.cholesky_ex(mixed)
        root = torch.where((failed == 0)[..., None, None], root, proposal.root)
        ln_share = _floored(torch.log(share.clamp_min(1e-30)))
        fitted = dataclasses.replace(proposal, centre=centre, root=root, ln_weight=ln_share)
    # a share of the first proposal stays in: what its points missed can still be found
    return dataclasses.replace(
        proposal,
        centre=torch.cat([fitted.centre, proposal.centre], 1),
        root=torch.cat([fitted.root, proposal.root], 1),
        ln_weight=torch.cat([fitted.ln_weight + math.log(0.85), proposal.ln_weight + math.log(0.15)], 1),
    )


def _tempered(ln_weight: Tensor) -> Tensor:
    """(n, N) weights, flattened by a power until they count as at least 50 samples, or 40 % of those there are."""
    power = torch.ones(ln_weight.shape[1], dtype=ln_weight.dtype)
    best = torch.where(torch.isfinite(ln_weight), ln_weight, -1e30)
    number = (best > -1e29).sum(0)
    wanted = torch.minimum(torch.full_like(power, 50.0), 0.4 * number)
    for _ in range(12):
        weight = torch.softmax(best * power, 0)
        few = 1 / (weight**2).sum(0) < wanted
        if not bool(few.any()):
            break
        power = torch.where(few, 0.7 * power, power)
    return torch.where(number > 0, torch.softmax(best * power, 0), 0.0)


def _floored(ln_weight: Tensor, least: float = 0.02) -> Tensor:
    """Shares that sum to 1: negligible ones (below e^-14) left out, the others not below ``least``."""
    share = torch.where(ln_weight < -14, 0.0, ln_weight.exp().clamp_min(least))
    return torch.log(share / share.sum(1, keepdim=True))


def _root_of_inverse(precision: Tensor) -> Tensor:
    """Lower-triangular root of the inverse of symmetric matrices."""
    scale = torch.diagonal(precision, dim1=-2, dim2=-1).clamp_min(1e-30).rsqrt()
    unit = precision * scale[..., :, None] * scale[..., None, :]
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    covariance = torch.linalg.inv(unit + 1e-10 * eye)
    covariance = (covariance + covariance.mT) / 2 + 1e-12 * eye
    return scale[..., None] * torch.linalg.cholesky(covariance)
