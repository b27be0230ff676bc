"""Proper scores of a head's posterior on labels that say only a part of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from galstress.finetuning.answers import class_loss, place_triple
from galstress.finetuning.labels import COORDINATES, Labels
from galstress.heads import ClassHead, Reference, TripleHead

__all__ = ["label_loss", "marginal_loss", "name_loss", "score_draws"]

_DIM = len(COORDINATES)
_ROUNDING = 1e-6
"""Share of each variance that is added where rounding made a covariance singular: above what single precision loses."""


def marginal_loss(mean: Tensor, covariance: Tensor, labels: Tensor, sigma: Tensor) -> Tensor:
    """Negative log-likelihood of the known coordinates under the marginal of a Gaussian.

    Arguments:
        mean: (B, D).
        covariance: (B, D, D).
        labels: (B, D), NaN where unknown.
        sigma: (B, D) the labels' own errors, added in quadrature: the posterior is of the galaxy, without them.

    Returns:
        (B,); 0 where nothing is known.

    Example:
        >>> zero = torch.zeros(1, 2)
        >>> round(float(marginal_loss(zero, torch.eye(2)[None], torch.tensor([[0.0, torch.nan]]), zero)), 4)
        0.9189
    """
    known = torch.isfinite(labels)
    residual = (torch.where(known, labels, mean) - mean).double()
    wide = (covariance + torch.diag_embed(sigma**2)).double()
    width = torch.diagonal(wide, dim1=-2, dim2=-1).sqrt()
    both = known[:, :, None] & known[:, None, :]
    eye = torch.eye(mean.shape[1]).to(wide)
    # an unknown coordinate becomes one of variance 1 that is hit exactly: it adds nothing
    unit = torch.where(both, wide / (width[:, :, None] * width[:, None, :]), eye)
    failed = torch.linalg.cholesky_ex(unit.detach())[1] != 0
    factor = torch.linalg.cholesky(unit + _ROUNDING * failed[:, None, None] * eye)
    scaled = torch.where(known, residual / width, 0.0)
    white = torch.linalg.solve_triangular(factor, scaled[..., None], upper=False)[..., 0]
    volume = torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(-1) + torch.where(known, width.log(), 0.0).sum(-1)
    loss = 0.5 * (white**2).sum(-1) + volume + 0.5 * math.log(2 * math.pi) * known.double().sum(-1)
    return loss.to(mean.dtype)


def score_draws(draws: Tensor, labels: Tensor, unit: Tensor) -> Tensor:
    """Continuous ranked probability score of draws, summed over the known coordinates.

    Arguments:
        draws: (B, S, D) independent draws, the labels' own errors included.
        labels: (B, D), NaN where unknown.
        unit: (B, D) what each coordinate's score is divided by.

    Returns:
        (B,), without bias from the number of draws.

    Formula:
        mean |x - y| - 1/2 mean |x - x'| over distinct pairs, from sorted draws.

    Source:
        Gneiting & Raftery 2007, JASA 102, 359; Ferro 2014 (10.1002/qj.2270) for distinct pairs.

    Example:
        >>> float(score_draws(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[3.0]]), torch.ones(1, 1)))
        2.0
    """
    known = torch.isfinite(labels)
    count = draws.shape[1]
    target = torch.where(known, labels, 0.0)
    miss = (draws - target[:, None]).abs().mean(1)
    rank = 2 * torch.arange(count, device=draws.device, dtype=draws.dtype) + 1 - count
    # half the mean distance of distinct pairs is sum_k (2k - n + 1) x_(k) / (n (n - 1)), k from 0
    spread = (rank[:, None] * draws.sort(1).values).sum(1) / (count * (count - 1))
    return torch.where(known, (miss - spread) / unit, 0.0).sum(-1)


def label_loss(head: Any, raw: Tensor, labels: Labels, reference: Reference, points: Tensor) -> Tensor:  # noqa: ANN401
    """(B,) loss of a head's raw outputs.

    Arguments:
        head: A head with ``loss`` and ``posterior``; where it also has ``draw``, its draws are scored, too. Of one
            that classifies, the cross-entropy of the labelled classes; of one for B/T, radius and flux alone,
            :func:`marginal_loss` of those that are known, be it all.
        raw: (B, R).
        labels: Of the B objects. Where every parameter is known, the loss is the head's own; else that of the known
            coordinates: :func:`marginal_loss` and, of draws, :func:`score_draws` in units of the Gaussian's width.
        reference: Of the B images.
        points: (2, S, 12) standard normal numbers: of the draws, and of the labels' own errors.
    """
    if isinstance(head, ClassHead):
        return class_loss(head, raw, labels)
    if isinstance(head, TripleHead):
        return marginal_loss(*head.posterior(raw), *place_triple(head, labels, reference)).to(raw.dtype)
    targets = labels.place(head, reference)
    if labels.galaxies is not None:
        return head.loss(raw, targets)
    sigma = labels.sigma.to(raw.device)
    mean, covariance = (moment[:, :_DIM] for moment in head.posterior(raw))
    covariance = covariance[..., :_DIM]
    loss = marginal_loss(mean, covariance, targets, sigma)
    if not hasattr(head, "draw"):
        return loss
    drawn = head.draw(raw, points[0].to(raw.device))[..., :_DIM]
    drawn = torch.where(torch.isfinite(drawn), drawn, mean[:, None])  # the few that a spline's root loses to rounding
    drawn = drawn + sigma[:, None] * points[1, :, :_DIM].to(drawn)
    unit = (torch.diagonal(covariance, dim1=-2, dim2=-1) + sigma**2).sqrt().detach()
    return loss + score_draws(drawn, targets, unit)


def name_loss(head: object, labels: Labels) -> str:
    """What :func:`label_loss` is for these, in words."""
    if isinstance(head, ClassHead):
        return "the cross-entropy of the labelled classes"
    whole = labels.galaxies is not None and not isinstance(head, TripleHead)
    return "the head's own" if whole else "a proper score of the labelled quantities"
