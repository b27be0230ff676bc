"""Statistics of errors, each reducing the last axis, and their bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Array", "Interval", "bias", "bootstrap", "error_68", "outlier_fraction", "rms", "scatter"]

Array = NDArray[np.float64]

OUTLIER = 0.5
"""|error| above which an object is an outlier (for radii and fluxes the Euclid Morphology Challenge's)."""


class Interval(NamedTuple):
    """A statistic and the range that holds it."""

    value: Any
    low: Any
    high: Any


def bias(error: Array) -> Array:
    """Median error."""
    return np.median(error, axis=-1)


def scatter(error: Array) -> Array:
    """Half of the width between the 16th and 84th percentile (15.865 and 84.135): sigma of a Gaussian."""
    low, high = np.quantile(error, [0.158655, 0.841345], axis=-1)
    return (high - low) / 2


def error_68(error: Array) -> Array:
    """68.27th percentile of the absolute error: holds bias and scatter; sigma of a Gaussian around 0."""
    return np.quantile(np.abs(error), 0.682689, axis=-1)


def rms(error: Array) -> Array:
    """Root of the mean square."""
    return np.sqrt(np.mean(np.square(error), axis=-1))


def outlier_fraction(error: Array, threshold: float = OUTLIER) -> Array:
    """Share of objects with an absolute error above ``threshold``."""
    return np.mean(np.abs(error) > threshold, axis=-1)


def bootstrap(
    statistic: Callable[..., Any], *arrays: ArrayLike, seed: int, count: int = 1000, level: float = 0.68
) -> Interval:
    """Percentile bootstrap interval of a statistic over objects.

    Arguments:
        statistic: Reduces the last axis of each of its arrays; may add axes at the end. Called with (n, N) arrays.
        arrays: (N,) each, resampled together (paired).
        seed: One seed, one answer.
        count: Resamplings.
        level: Probability that the interval holds, 0 to 1.

    Returns:
        The statistic of the arrays themselves, and the two ends; NaN where N is 0.

    Example:
        >>> value, low, high = bootstrap(bias, np.arange(101.0), seed=1)
        >>> float(value), bool(low < 50 < high)
        (50.0, True)
    """
    data = [np.asarray(array) for array in arrays]
    size = data[0].shape[-1]
    if size == 0:
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // size)
    parts = []
    for start in range(0, count, chunk):
        rows = rng.integers(0, size, (min(chunk, count - start), size))
        parts.append(np.asarray(statistic(*[array[rows] for array in data])))
    value = np.asarray(statistic(*[array[None] for array in data]))[0]
    low, high = np.quantile(np.concatenate(parts), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(value, low, high)
