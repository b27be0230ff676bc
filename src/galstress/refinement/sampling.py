"""Importance sampling of the exact posterior, in rounds.

Where the first round leaves too few effective samples, the proposal is adapted to its weights, and once more for each
further round. Then every round but the first counts, its points weighted by its own proposal, which does not depend
on them: so the evidence is unbiased.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from galstress.refinement.proposals import Density, Proposal, adapt

__all__ = ["Samples", "add_round", "sample_posterior"]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Weighted points of N posteriors, from one round or more."""

    points: Tensor
    """(n, N, 12)."""
    ln_likely: Tensor
    """(n, N) ln of the target."""
    ln_drawn: Tensor
    """(n, N) ln of the density that each point was drawn from."""
    proposals: tuple[Proposal, ...]
    """Where each round drew from."""
    counts: tuple[int, ...]
    """Points of each round."""

    @functools.cached_property
    def ln_weight(self) -> Tensor:
        """(n, N) ln of target over the density that the point was drawn from; minus infinity in the first of rounds.

        A round's points are weighted by its own proposal, which does not depend on them. Weighted by the rounds' mean,
        they would count too little wherever a later proposal was fitted to them, and the evidence would come out
        several per cent too small. The first of several rounds, whose proposal was found wanting, only shapes the next.
        """
        weight = self.ln_likely - self.ln_drawn
        if len(self.counts) > 1:
            weight[: self.counts[0]] = -math.inf
        return weight

    @property
    def ln_mixture_weight(self) -> Tensor:
        """(n, N) ln of target over the rounds' mean proposal: what the next proposal is fitted to."""
        each = [p.log_prob(self.points) + math.log(n) for p, n in zip(self.proposals, self.counts, strict=True)]
        return self.ln_likely - torch.logsumexp(torch.stack(each), 0) + math.log(sum(self.counts))

    def select(self, rows: Tensor) -> Samples:
        """The samples of some galaxies."""
        proposals = tuple(proposal.select(rows) for proposal in self.proposals)
        return Samples(self.points[:, rows], self.ln_likely[:, rows], self.ln_drawn[:, rows], proposals, self.counts)

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
        """(N,) ln of the mean weight."""
        return torch.logsumexp(self.ln_weight, 0) - math.log(sum(self.counts[1:]) or self.counts[0])

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


def sample_posterior(target: Density, proposal: Proposal, count: int, generator: torch.Generator) -> Samples:
    """One round of importance sampling.

    Arguments:
        target: Log-density up to a constant.
        proposal: From :func:`galstress.refinement.proposals.propose`.
        count: Points of each posterior.
        generator: Source of randomness.
    """
    points = proposal.sample(count, generator)
    return Samples(points, target(points), proposal.log_prob(points), (proposal,), (count,))


def add_round(samples: Samples, target: Density, generator: torch.Generator, count: int) -> Samples:
    """``count`` more points of each posterior, from the first proposal adapted to the points so far."""
    adapted = adapt(samples.proposals[0], samples.points, samples.ln_mixture_weight)
    more = adapted.sample(count, generator)
    return Samples(
        torch.cat([samples.points, more]),
        torch.cat([samples.ln_likely, target(more)]),
        torch.cat([samples.ln_drawn, adapted.log_prob(more)]),
        (*samples.proposals, adapted),
        (*samples.counts, count),
    )
