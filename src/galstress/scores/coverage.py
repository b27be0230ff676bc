"""Coverage of central intervals: whether posteriors hold the truth as often as they claim."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.table import QTable
from numpy.typing import ArrayLike

from galstress.errors import InputError
from galstress.scores.bins import Bins, all_and_bins, predicted_bins
from galstress.scores.posterior import Posterior, truth_values
from galstress.scores.statistics import Array

__all__ = ["count_covered", "coverage_table", "place_among_quantiles", "place_among_samples"]

BAR = 0.02
"""Deviation of a coverage that is allowed beside twice its binomial sigma."""
_PROBES = np.concatenate([[0.0005, 0.005], np.linspace(0.01, 0.99, 99), [0.995, 0.9995]])
"""Probabilities at which posteriors are looked at for a share that sits on one value."""


def place_among_samples(true: ArrayLike, samples: ArrayLike) -> Array:
    """Where the truth falls in its posterior, as a bracket of probabilities, from samples.

    Arguments:
        true: (N,) true values.
        samples: (n, N) samples of each object's posterior.

    Returns:
        (2, N): samples below the truth, and samples not above it plus one, over n + 1. Drawn from the same
        distribution, truth and samples are exchangeable, so coverage counted from these brackets is unbiased for
        any n. Ranks as in simulation-based calibration (Talts et al. 2018), with ties kept as a width.

    Example:
        >>> place_among_samples([0.0], [[-1.0], [0.0], [0.0]]).tolist()
        [[0.25], [1.0]]
    """
    true, samples = np.asarray(true, float), np.asarray(samples, float)
    number = len(samples)
    below, upto = (samples < true).sum(0), (samples <= true).sum(0)
    place = np.stack([below, upto + 1]) / (number + 1)
    place[:, ~np.isfinite(true) | ~np.isfinite(samples).all(0)] = np.nan
    return place


def place_among_quantiles(true: ArrayLike, probabilities: ArrayLike, quantiles: ArrayLike) -> Array:
    """Where the truth falls in its posterior, as a bracket of probabilities, from quantiles.

    Arguments:
        true: (N,) true values.
        probabilities: (G,) rising, between 0 and 1.
        quantiles: (G, N) the posterior's quantiles there.

    Returns:
        (2, N): both ends are equal, except where several quantiles equal the truth: there a share of the posterior
        sits on that one value (B/T = 0), and the bracket spans the share, known to half a step of the grid.
    """
    true, grid = np.asarray(true, float), np.asarray(probabilities, float)
    quantiles = np.asarray(quantiles, float)
    below, upto = (quantiles < true).sum(0), (quantiles <= true).sum(0)
    padded = np.concatenate([[0.0], grid, [1.0]])
    middle = (padded[:-1] + padded[1:]) / 2  # middle[k] lies between grid[k - 1] and grid[k]
    first = np.where(below == 0, np.where(upto > below, 0.0, middle[below]), middle[below])
    last = np.where(upto == len(grid), np.where(upto > below, 1.0, middle[upto]), middle[upto])
    place = np.stack([first, last])
    place[:, ~np.isfinite(true) | ~np.isfinite(quantiles).all(0)] = np.nan
    return place


def count_covered(place: ArrayLike, level: float) -> Array:
    """How much of each truth lies in the central interval of probability ``level``: 0, 1, or a share at ties.

    A truth that ties with a share of its posterior counts by the part of that share which the interval needs. So a
    calibrated posterior covers exactly ``level`` on average, though parts of it sit on one value; counting whole
    closed intervals would cover more (68 % intervals that start at B/T = 0 hold up to 84 %).

    Arguments:
        place: (2, N) brackets from :func:`place_among_samples` or :func:`place_among_quantiles`.
        level: 0 to 1.

    Returns:
        (N,) NaN where a bracket is.

    Example:
        >>> count_covered([[0.5, 0.9, 0.0], [0.5, 0.9, 0.32]], 0.68).round(3).tolist()
        [1.0, 0.0, 0.5]
    """
    first, last = np.asarray(place, float)
    low, high = (1 - level) / 2, (1 + level) / 2
    width = last - first
    overlap = np.clip(np.minimum(last, high) - np.maximum(first, low), 0, None)
    inside = ((first >= low) & (first <= high)).astype(float)
    share = np.where(width > 0, overlap / np.where(width > 0, width, 1.0), inside)
    return np.where(np.isfinite(width), share, np.nan)


def coverage_table(
    prediction: Posterior,
    truth: QTable,
    by: Sequence[Bins] | None = None,
    *,
    levels: Sequence[float] = (0.68, 0.95),
) -> QTable:
    """Share of true values inside central intervals, for each output, over all objects and in each bin.

    Arguments:
        prediction: N objects, D outputs; objects without numbers are left out and not counted.
        truth: N rows of truth columns, same order.
        by: Bins on predicted quantities; None bins predicted magnitude, radius and B/T, 5,000 objects or more each.
        levels: Probabilities of the intervals.

    Returns:
        QTable: ``output``, ``by``, ``by_unit``, ``bin_low``, ``bin_high``, ``count``, ``level``, ``coverage`` (ties
        shared, see :func:`count_covered`), ``coverage_closed`` (the plain count of low <= truth <= high, larger
        where posteriors sit on an edge), ``sigma`` (binomial, sqrt(level (1 - level) / count)), ``deviation``
        (coverage - level) and ``passes`` (a deviation of at most 0.02 + 2 sigma).
    """
    ends = [end for level in levels for end in ((1 - level) / 2, (1 + level) / 2)]
    grid = np.unique(np.concatenate([_PROBES, ends]).round(12))
    quantiles = prediction.quantile(grid.tolist())
    true = truth_values(truth, prediction.names, prediction.units)
    if true.shape != quantiles.shape[1:]:
        raise InputError(f"{len(truth)} true objects", f"{quantiles.shape[1]}, as predicted", "give both in one order")
    at = {end: int(np.argmin(np.abs(grid - end))) for end in ends}
    if by is None:
        by = predicted_bins(prediction.names, quantiles[int(np.argmin(np.abs(grid - 0.5)))])
    rows = []
    for place, name in enumerate(prediction.names):
        bracket = place_among_quantiles(true[:, place], grid, quantiles[:, :, place])
        for level in levels:
            covered = count_covered(bracket, level)
            low, high = (quantiles[at[(1 + sign * level) / 2], :, place] for sign in (-1, 1))
            closed = (low <= true[:, place]) & (true[:, place] <= high)
            for quantity, unit, bin_low, bin_high, inside in all_and_bins(by, len(truth)):
                chosen = inside & np.isfinite(covered)
                number = int(chosen.sum())
                share = float(covered[chosen].mean()) if number else np.nan
                sigma = math.sqrt(level * (1 - level) / number) if number else np.nan
                row = {"output": name, "by": quantity, "by_unit": unit, "bin_low": bin_low, "bin_high": bin_high}
                row |= {"count": number, "level": level, "coverage": share}
                row |= {"coverage_closed": float(closed[chosen].mean()) if number else np.nan, "sigma": sigma}
                row |= {"deviation": share - level, "passes": bool(abs(share - level) <= BAR + 2 * sigma)}
                rows.append(row)
    return QTable(rows=rows) if rows else QTable()
