"""Calibration of each output's posterior from samples: ranks of the truths, and coverage against level.

Both ask whether the truth could have been one of the samples. A posterior that ignores part of its data, and is as wide
as that costs, passes: what it lost shows in the errors only (``accuracy_table``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import QTable
from numpy.typing import ArrayLike
from scipy import special, stats

from galstress.errors import InputError
from galstress.scores.bins import Bins, all_and_bins
from galstress.scores.coverage import count_covered, place_among_samples
from galstress.scores.statistics import Array

__all__ = ["check_samples", "coverage_curve", "probability_integral_transform", "rank_uniformity", "resampled_means"]

LEVELS = (*(step / 20 for step in range(1, 14)), 0.68, *(step / 20 for step in range(14, 20)), 0.997)
"""Probabilities at which coverage is counted."""
FEWEST_EXPECTED = 5
"""Objects expected in a bin of a histogram below which chi-square has no p-value."""


def check_samples(true: ArrayLike, samples: ArrayLike) -> tuple[Array, Array]:
    """``true`` as (N, D) and ``samples`` as (n, N, D); (N,) and (n, N) are one output; InputError if they differ."""
    true, samples = np.asarray(true, float), np.asarray(samples)
    if samples.ndim not in (2, 3) or samples.shape[1:] != true.shape or len(samples) == 0:
        raise InputError(
            f"true values {true.shape} and samples {samples.shape}", "(N, D) and (n, N, D)", "give samples first"
        )
    return true.reshape(len(true), -1), samples.reshape(*samples.shape[:2], -1)


def probability_integral_transform(true: ArrayLike, samples: ArrayLike, seed: int = 0) -> Array:
    """Where each truth falls in its posterior: uniform from 0 to 1 if the posterior is calibrated.

    Randomised: the truth is put anywhere between its two neighbours among the samples (:func:`place_among_samples`),
    so the numbers are exactly uniform for any number of samples. A truth that equals samples (a share of the posterior
    sits on one value, B/T = 0) is put anywhere in that share: the transform of a distribution with steps is not
    uniform, whereas F(below) + U (F(upto) - F(below)) is. Taking one end would show a calibrated posterior as biased.

    Arguments:
        true: (N, D) or (N,) true values.
        samples: (n, N, D) or (n, N) samples of each posterior.
        seed: Of the numbers that place a truth in its bracket; one seed, one answer.

    Returns:
        The shape of ``true``; NaN where truth or samples are not finite. Near 1: the truth lies above its posterior.

    Raises:
        InputError: The shapes do not fit.

    Source:
        Talts et al. 2018 (1804.06788); with steps: Czado, Gneiting & Held 2009, Biometrics 65, 1254.

    Example:
        >>> tied = probability_integral_transform(np.zeros(4), np.zeros((99, 4)), seed=1)
        >>> bool(np.ptp(tied) > 0.3)
        True
    """
    columns, draws = check_samples(true, samples)
    place = np.empty_like(columns)
    uniform = np.random.default_rng(seed).uniform(size=columns.shape)
    for output in range(columns.shape[1]):
        first, last = place_among_samples(columns[:, output], draws[..., output])
        place[:, output] = first + uniform[:, output] * (last - first)
    return place.reshape(np.shape(true))


def rank_uniformity(
    true: ArrayLike,
    samples: ArrayLike,
    names: Sequence[str] | None = None,
    by: Sequence[Bins] = (),
    *,
    bins: int = 20,
    seed: int = 0,
) -> QTable:
    """Simulation-based calibration: whether the ranks of the truths among their samples are uniform.

    Ranks are those of :func:`probability_integral_transform`: ties are spread, and ``bins`` need not divide n + 1.

    Arguments:
        true: (N, D) true values, drawn from the prior that the posteriors assume.
        samples: (n, N, D) independent samples of each posterior.
        names: D outputs; by default their numbers.
        by: Bins on predicted or measured quantities, N values each; never on the truth.
        bins: Of the histogram, 2 or more.
        seed: Of the ties.

    Returns:
        QTable, a row per output and bin: ``output``, ``by``, ``by_unit``, ``bin_low``, ``bin_high``, ``count``,
        ``histogram`` (bins,), ``chi_square`` = sum((h - count / bins)^2 / (count / bins)), ``chi_square_p`` (bins - 1
        degrees of freedom; NaN below 5 objects a bin), ``ks_p`` (Kolmogorov-Smirnov), ``mean`` (0.5; above: truths
        lie high, predictions are too low) and ``spread`` (standard deviation over that of a uniform one: 1; above:
        posteriors too narrow; below: too wide).

    Raises:
        InputError: The shapes do not fit, or ``bins`` is below 2.

    Source:
        Talts et al. 2018 (1804.06788).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> row = rank_uniformity(rng.normal(size=(2000, 1)), rng.normal(size=(199, 2000, 1)))[0]
        >>> int(row["count"]), bool(row["ks_p"] > 0.01), bool(row["chi_square_p"] > 0.01)
        (2000, True, True)
    """
    if bins < 2:
        raise InputError(f"bins={bins}", "2 or more", "give bins=20")
    columns, draws = check_samples(true, samples)
    place = probability_integral_transform(columns, draws, seed)
    rows = []
    for output, name in enumerate(_names(names, columns.shape[1])):
        for quantity, unit, low, high, inside in all_and_bins(by, len(columns)):
            ranks = place[inside & np.isfinite(place[:, output]), output]
            histogram = np.histogram(ranks, bins, (0.0, 1.0))[0]
            expected = ranks.size / bins
            figures = dict.fromkeys(("chi_square", "chi_square_p", "ks_p", "mean", "spread"), np.nan)
            if ranks.size:
                square = float(np.sum((histogram - expected) ** 2) / expected)
                figures |= {"chi_square": square, "ks_p": float(stats.kstest(ranks, "uniform").pvalue)}
                figures |= {"mean": float(ranks.mean()), "spread": float(np.std(ranks) * np.sqrt(12))}
                if expected >= FEWEST_EXPECTED:
                    figures["chi_square_p"] = float(special.chdtrc(bins - 1, square))
            row: dict[str, object] = {"output": name, "by": quantity, "by_unit": unit, "bin_low": low, "bin_high": high}
            rows.append(row | {"count": int(ranks.size), "histogram": histogram} | figures)
    return QTable(rows=rows) if rows else QTable()


def coverage_curve(
    true: ArrayLike,
    samples: ArrayLike,
    levels: Sequence[float] = LEVELS,
    names: Sequence[str] | None = None,
    by: Sequence[Bins] = (),
    *,
    seed: int = 0,
    count: int = 300,
    band: float = 0.95,
) -> QTable:
    """Share of truths inside central intervals of the samples, at each level, with its bootstrap band.

    Ties are shared as in :func:`count_covered`; few samples cost noise, not bias (also at 0.997).

    Arguments:
        true: (N, D) true values.
        samples: (n, N, D) samples of each posterior.
        levels: L probabilities of the intervals, 0 to 1.
        names: D outputs; by default their numbers.
        by: Bins on predicted or measured quantities, N values each.
        seed: Of the bootstrap, which resamples objects.
        count: Resamplings.
        band: Probability that the band holds, at each level by itself.

    Returns:
        QTable, a row per output, bin and level: ``output``, ``by``, ``by_unit``, ``bin_low``, ``bin_high``, ``count``,
        ``level``, ``coverage``, ``coverage_low``, ``coverage_high``, ``sigma`` (binomial) and ``deviation`` (coverage -
        level; below 0: too narrow or biased).

    Raises:
        InputError: The shapes do not fit.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> narrow = coverage_curve(rng.normal(size=(2000, 1)), 0.5 * rng.normal(size=(199, 2000, 1)), (0.68,))
        >>> bool(narrow["coverage_high"][0] < 0.5)
        True
    """
    columns, draws = check_samples(true, samples)
    grid = np.asarray(levels, float)
    rows = []
    for output, name in enumerate(_names(names, columns.shape[1])):
        place = place_among_samples(columns[:, output], draws[..., output])
        covered = np.stack([count_covered(place, level) for level in grid], -1)
        for quantity, unit, low, high, inside in all_and_bins(by, len(columns)):
            chosen = covered[inside & np.isfinite(place).all(0)]
            ends = resampled_means(chosen, seed, count, band)
            share = chosen.mean(0) if len(chosen) else np.full(grid.shape, np.nan)
            sigma = np.sqrt(grid * (1 - grid) / len(chosen)) if len(chosen) else share
            head: dict[str, object] = {"output": name, "by": quantity, "by_unit": unit}
            head |= {"bin_low": low, "bin_high": high, "count": len(chosen)}
            keys = ("level", "coverage", "coverage_low", "coverage_high", "sigma", "deviation")
            figures = zip(grid, share, *ends, sigma, share - grid, strict=True)
            rows += [head | dict(zip(keys, map(float, values), strict=True)) for values in figures]
    return QTable(rows=rows) if rows else QTable()


def resampled_means(values: Array, seed: int, count: int, level: float) -> tuple[Array, Array]:
    """(L,) and (L,) ends of the percentile bootstrap of the mean over objects of ``values`` (N, L).

    What :func:`galstress.scores.bootstrap` gives, as a product with the numbers of times that an object is drawn:
    gathering N x L values for each resampling would take gigabytes.
    """
    size = len(values)
    if size == 0:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // size)
    parts = []
    for start in range(0, count, chunk):
        rows = rng.integers(0, size, (min(chunk, count - start), size))
        weights = np.array([np.bincount(row, minlength=size) for row in rows], float)
        parts.append(weights @ values / size)
    low, high = np.quantile(np.concatenate(parts), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _names(names: Sequence[str] | None, outputs: int) -> Sequence[str]:
    """Names of the outputs, by default their numbers."""
    if names is not None and len(names) != outputs:
        raise InputError(f"{len(names)} names", f"{outputs}, one an output", "give names in the order of the columns")
    return [str(output) for output in range(outputs)] if names is None else names
