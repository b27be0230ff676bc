"""Fixed standard normal points: the same for every object, so that an answer depends on nothing but the image."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from galstress.errors import InputError
from galstress.heads.galaxy import INTERNAL_NAMES, turn_internal

__all__ = ["draw_points", "moment_points"]

_DIM = len(INTERNAL_NAMES)
_SEED = 512
_ROUNDS = 8
"""After so many the correlations do not shrink any more."""


@functools.lru_cache(maxsize=8)
def moment_points(count: int = 512) -> Tensor:
    """Points for moments: closed under the eight turns and mirrors and under change of sign.

    Arguments:
        count: A multiple of 16.

    Returns:
        (count, 12) float64 whose covariance is the identity, from 192 points on (below, variances only are 1). A
        coordinate that no turn changes (flux, B/T, radius)
        takes count / 8 values only: good for moments, too coarse for quantiles.

    Raises:
        InputError: Not such a multiple.

    Example:
        >>> moment_points(32).shape
        torch.Size([32, 12])
    """
    _check_count(count)
    generator = torch.Generator().manual_seed(_SEED)
    seeds = torch.randn(count // 16, _DIM, generator=generator, dtype=torch.float64)
    turned = torch.cat([seeds @ turn_internal(element).T for element in range(8)])
    points = torch.cat([turned, -turned])
    covariance = points.T @ points / count
    if count < 16 * _DIM:
        return points / torch.diagonal(covariance).sqrt()
    # the covariance does not change under the turns, nor does its root: what is closed stays closed
    values, vectors = torch.linalg.eigh(covariance)
    return points @ (vectors * values.rsqrt()) @ vectors.T


@functools.lru_cache(maxsize=8)
def draw_points(count: int = 128) -> Tensor:
    """Points that a flow turns into draws: a Latin hypercube, closed under change of sign.

    Arguments:
        count: A multiple of 16.

    Returns:
        (count, 12) float64: every coordinate has one point in each of ``count`` strata of equal probability, at its
        root mean square within the stratum, hence unit variance exactly and quantiles that are those of a normal
        distribution; correlations are below 0.02 from 128 points on.

    Raises:
        InputError: Not such a multiple.

    The ranks are paired as in Iman & Conover (1982): decorrelate, rank again, a few times over. Closure under the
    eight turns is not asked for: a flow does not keep it, and it would leave B/T with count / 8 values.

    Example:
        >>> points = draw_points(128)
        >>> points.shape, len(points[:, 3].unique()), len(moment_points(128)[:, 3].unique())
        (torch.Size([128, 12]), 128, 16)
    """
    _check_count(count)
    half = count // 2
    edges = torch.special.ndtri(torch.linspace(0.5, 1, half + 1, dtype=torch.float64))
    height = torch.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    moment = torch.where(torch.isinf(edges), 0, edges) * height
    # the mean of z^2 between a and b is 1 + (a phi(a) - b phi(b)) / (Phi(b) - Phi(a))
    strata = torch.sqrt(1 + count * (moment[:-1] - moment[1:]))
    identity = torch.eye(_DIM, dtype=torch.float64)
    points = torch.randn(half, _DIM, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64)
    for turn in range(_ROUNDS):
        if turn:
            # a part of the identity, for fewer pairs than coordinates
            factor = torch.linalg.cholesky(0.9 * points.T @ points / half + 0.1 * identity)
            points = torch.linalg.solve_triangular(factor, points.T, upper=False).T
        points = points.sign() * strata[points.abs().argsort(0).argsort(0)]
    return torch.cat([points, -points])


def _check_count(count: int) -> None:
    """Refuse what is no multiple of 16."""
    if count < 16 or count % 16:
        raise InputError(f"{count} points", "a multiple of 16", "take 128")
