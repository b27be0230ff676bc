"""Importance sampling of the exact posterior.

The proposal is a mixture: a Student-t at the maximum of each kind of galaxy (mixed, pure disk,
pure bulge), with the curvature there as its precision and the kind's evidence as its weight, and
the posterior that the network gave, as normal kernels around its draws. It is adapted once to the
first round's weights. Only points of the last round count: its proposal does not depend on them,
so the evidence is unbiased.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from galstress.refinement.fitting import Maximum
from galstress.refinement.priors import kind_of

__all__ = ["ROUNDS", "Proposal", "Samples", "add_round", "propose", "sample_posterior"]

_FREEDOM = 7
"""Degrees of freedom of the Student-t: heavier tails than any posterior here."""
_NETWORK_SHARE = 0.15
_KERNEL = 0.6
"""Width of the kernels around the network's draws, in units of the draws' own spread."""
_LEAST = 30.0
"""Effective samples of a kind that the adaptation wants before it believes their spread."""

ROUNDS = (160, 480)
"""Points of the first proposal and of the adapted one."""

Target = Callable[[Tensor], Tensor]
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
        off = points[:, :, None] - self.centre  # (n, N, K, 12)
        white = torch.linalg.solve_triangular(self.root, off.permute(1, 2, 3, 0), upper=False)  # (N, K, 12, n)
        distance = (white**2).sum(2)
        constant = (
            math.lgamma((_FREEDOM + dim) / 2) - math.lgamma(_FREEDOM / 2) - dim / 2 * math.log(_FREEDOM * math.pi)
        )
        volume = torch.log(torch.diagonal(self.root, dim1=-2, dim2=-1)).sum(-1)
        each = constant - volume[..., None] - (_FREEDOM + dim) / 2 * torch.log1p(distance / _FREEDOM)
        value = torch.logsumexp(each + self.ln_weight[..., None], 1).T
        if self.draws is None or self.draws_root is None:
            return value
        root, count = self.draws_root, self.draws.shape[1]
        places = torch.linalg.solve_triangular(root, points.permute(1, 2, 0), upper=False).mT
        kernels = torch.linalg.solve_triangular(root, self.draws.mT, upper=False).mT
        near = -0.5 * torch.cdist(places, kernels) ** 2  # (N, n, S)
        volume = torch.log(torch.diagonal(root, dim1=-2, dim2=-1)).sum(-1)
        density = torch.logsumexp(near, -1) - math.log(count) - volume[:, None] - dim / 2 * math.log(2 * math.pi)
        return torch.logaddexp(value + math.log1p(-_NETWORK_SHARE), density.T + math.log(_NETWORK_SHARE))


@dataclasses.dataclass(frozen=True)
class Samples:
    """Weighted points of N posteriors, from one round or more."""

    points: Tensor
    """(n, N, 12)."""
    ln_likely: Tensor
    """(n, N) ln of the target."""
    proposals: tuple[Proposal, ...]
    """Where each round drew from."""
    counts: tuple[int, ...]
    """Points of each round."""

    @functools.cached_property
    def ln_weight(self) -> Tensor:
        """(n, N) ln of target over proposal for the last round, minus infinity for the rounds before.

        Those shaped its proposal: weighted by a density that was fitted to them they would count too little, and the
        evidence would come out several per cent too small.
        """
        last = self.counts[-1]
        weight = self.ln_likely[-last:] - self.proposals[-1].log_prob(self.points[-last:])
        return torch.cat([torch.full_like(self.ln_likely[:-last], -math.inf), weight])

    @property
    def ln_mixture_weight(self) -> Tensor:
        """(n, N) ln of target over the rounds' mean proposal: what the next proposal is fitted to."""
        each = [p.log_prob(self.points) + math.log(n) for p, n in zip(self.proposals, self.counts, strict=True)]
        return self.ln_likely - torch.logsumexp(torch.stack(each), 0) + math.log(sum(self.counts))

    def select(self, rows: Tensor) -> Samples:
        """The samples of some galaxies."""
        proposals = tuple(proposal.select(rows) for proposal in self.proposals)
        return Samples(self.points[:, rows], self.ln_likely[:, rows], proposals, self.counts)

    @property
    def weight(self) -> Tensor:
        """(n, N) weights that sum to 1 for each galaxy."""
        return torch.softmax(self.ln_weight, 0)

    @property
    def effective(self) -> Tensor:
        """(N,) effective samples, (sum w)^2 / sum w^2."""
        return 1 / (self.weight**2).sum(0)

    @property
    def ln_evidence(self) -> Tensor:
        """(N,) ln of the last round's mean weight."""
        return torch.logsumexp(self.ln_weight, 0) - math.log(self.counts[-1])

    @property
    def best(self) -> Tensor:
        """(N, 12) the point of the largest target."""
        return self.points[self.ln_likely.argmax(0), torch.arange(self.points.shape[1])]

    def resample(self, count: int, generator: torch.Generator) -> Tensor:
        """(N, count, 12) points of equal weight, by systematic resampling: as little added noise as can be."""
        cumulative = self.weight.T.cumsum(-1)
        start = torch.rand(len(cumulative), 1, generator=generator, dtype=cumulative.dtype)
        comb = (torch.arange(count, dtype=cumulative.dtype) + start) / count
        index = torch.searchsorted(cumulative.contiguous(), comb).clamp_max(len(self.points) - 1)
        chosen = self.points[index.T, torch.arange(self.points.shape[1])].transpose(0, 1)
        # systematic resampling leaves them in the order of the points; any n of them must be fair draws
        order = torch.rand(chosen.shape[:2], generator=generator).argsort(-1)
        return chosen.gather(1, order[..., None].expand(-1, -1, chosen.shape[-1]))


def propose(maxima: list[Maximum], draws: Tensor | None) -> Proposal:
    """The first proposal.

    Arguments:
        maxima: Of N galaxies, one a kind.
        draws: (N, S, 12) of a network, or None.
    """
    evidence = torch.stack([maximum.ln_evidence for maximum in maxima], 1)
    evidence = torch.where(torch.isfinite(evidence), evidence, -1e30)
    ln_weight = _floored(torch.log_softmax(evidence, 1))
    root = torch.stack([_root_of_inverse(maximum.precision) for maximum in maxima], 1)
    centre = torch.stack([maximum.natural for maximum in maxima], 1)
    if draws is None:
        return Proposal(centre, root, ln_weight, None, None)
    spread = draws - draws.mean(1, keepdim=True)
    covariance = spread.mT @ spread / draws.shape[1]
    width = torch.diagonal(covariance, dim1=-2, dim2=-1)
    covariance = covariance + torch.diag_embed(1e-6 * width + 1e-12)
    return Proposal(centre, root, ln_weight, draws, _KERNEL * torch.linalg.cholesky(covariance))


def sample_posterior(target: Target, proposal: Proposal, generator: torch.Generator) -> Samples:
    """Two rounds of importance sampling, the proposal adapted in between.

    Arguments:
        target: Log-density up to a constant.
        proposal: From :func:`propose`.
        generator: Source of randomness.
    """
    points = proposal.sample(ROUNDS[0], generator)
    return add_round(Samples(points, target(points), (proposal,), ROUNDS[:1]), target, generator, ROUNDS[1])


def add_round(samples: Samples, target: Target, generator: torch.Generator, count: int) -> Samples:
    """``count`` more points of each posterior, from the first proposal adapted to the points so far."""
    adapted = _adapted(samples.proposals[0], samples)
    more = adapted.sample(count, generator)
    return Samples(
        torch.cat([samples.points, more]),
        torch.cat([samples.ln_likely, target(more)]),
        (*samples.proposals, adapted),
        (*samples.counts, count),
    )


def _adapted(proposal: Proposal, samples: Samples) -> Proposal:
    """The proposal with each kind's share, centre and spread taken from weighted points."""
    kinds = kind_of(samples.points)
    ln_weight = samples.ln_mixture_weight
    weight = torch.softmax(ln_weight, 0)
    centres, roots, shares = [], [], []
    for kind in range(proposal.centre.shape[1]):
        own = torch.where(kinds == kind, weight, 0.0)
        share = own.sum(0)
        shares.append(share)
        tempered = _tempered(torch.where(kinds == kind, ln_weight, -math.inf))
        centre = (tempered[..., None] * samples.points).sum(0)
        off = samples.points - centre
        covariance = torch.einsum("sn,sni,snj->nij", tempered, off, off)
        before = proposal.root[:, kind] @ proposal.root[:, kind].mT
        number = 1 / (tempered**2).sum(0).clamp_min(1e-30)
        trust = (number / (number + _LEAST) * (share > 1e-6))[:, None, None]
        mixed = trust * covariance + (1 - trust) * before
        mixed = mixed + torch.diag_embed(1e-9 * torch.diagonal(before, dim1=-2, dim2=-1))
        centres.append(torch.where(trust[..., 0] > 0.3, centre, proposal.centre[:, kind]))
        root, failed = torch.linalg.cholesky_ex(mixed)
        roots.append(torch.where((failed == 0)[:, None, None], root, proposal.root[:, kind]))
    ln_share = _floored(torch.log(torch.stack(shares, 1).clamp_min(1e-30)))
    # a share of the first proposal stays in: what the first round missed can still be found
    return dataclasses.replace(
        proposal,
        centre=torch.cat([torch.stack(centres, 1), proposal.centre], 1),
        root=torch.cat([torch.stack(roots, 1), proposal.root], 1),
        ln_weight=torch.cat([ln_share + math.log(0.85), proposal.ln_weight + math.log(0.15)], 1),
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
