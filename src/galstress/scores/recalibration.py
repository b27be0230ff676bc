"""Recalibration on labelled real objects: posteriors stretched, or intervals widened, until they hold the labels.

These cover LABELS, not the truth. A label (of a profile fit, say) has its own error and bias: intervals fitted to
labels hold the labels of new objects that are drawn and labelled in the same way, and nothing is known of the truth
behind them. Where labels scatter more than the posteriors are wide, the result is too wide for the truth; where labels
share the network's bias, it hides the bias. Fit on one set of objects, score on another.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from galstress.errors import InputError
from galstress.scores.bins import Bins
from galstress.scores.calibration import check_samples
from galstress.scores.coverage import count_covered, place_among_samples
from galstress.scores.statistics import Array

__all__ = [
    "apply_temperature",
    "conformal_interval",
    "fit_conformal",
    "fit_conformal_bins",
    "fit_temperature",
    "margins_in_bins",
]

WIDEST = 100.0
"""Largest factor that is tried, and the inverse of the smallest."""


def apply_temperature(
    samples: ArrayLike, factor: ArrayLike, low: ArrayLike = -np.inf, high: ArrayLike = np.inf
) -> Array:
    """Samples stretched about their median: median + factor (sample - median), kept within ``low`` and ``high``.

    Samples on an edge stay there (a share of B/T = 0 says "no bulge", which a width cannot change). Give logarithms of
    fluxes, radii and indices, whose errors are ratios.

    Arguments:
        samples: (n, N, D) of each posterior.
        factor: (D,) from :func:`fit_temperature`, above 0; NaN makes an output's samples NaN.
        low: Lower edge of each output, (D,) or one.
        high: Upper edge.

    Returns:
        (n, N, D); medians are unchanged, and the ranks of an object's samples too, so correlations keep their sign.

    Example:
        >>> apply_temperature([[[0.0]], [[1.0]], [[4.0]]], 2.0, low=0.0).ravel().tolist()
        [0.0, 1.0, 7.0]
    """
    samples = np.asarray(samples, float)
    median = np.median(samples, 0)
    stretched = np.clip(median + np.asarray(factor, float) * (samples - median), low, high)
    return np.where((samples <= low) | (samples >= high), samples, stretched)


def fit_temperature(
    true: ArrayLike,
    samples: ArrayLike,
    low: ArrayLike = -np.inf,
    high: ArrayLike = np.inf,
    *,
    level: float = 0.68,
    fewest: int = 20,
) -> Array:
    """One factor per output by which posteriors are stretched about their medians until intervals hold the labels.

    On real data this covers LABELS, not the truth (see the module); on simulations, with ``true`` true, the truth. One
    factor cannot move a median: where labels are biased it widens instead.

    Arguments:
        true: (N, D) labels, NaN where an object has none.
        samples: (n, N, D) of each posterior.
        low: Lower edge of each output, (D,) or one, as in :func:`apply_temperature`.
        high: Upper edge.
        level: Probability of the central interval that is made to hold.
        fewest: Labels that an output needs.

    Returns:
        (D,) factors for :func:`apply_temperature`, above 1 where posteriors are too narrow; NaN for outputs without any
        label (replace by 1 to leave those alone).

    Raises:
        InputError: Shapes do not fit, an output has fewer labels than ``fewest``, or no factor of 0.01 to 100 does.

    Formula:
        coverage(factor) = level, coverage counted with ties shared (:func:`galstress.scores.count_covered`), by
        bisection; it rises with the factor.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> factor = fit_temperature(2 * rng.normal(size=(2000, 1)), rng.normal(size=(200, 2000, 1)))
        >>> bool(1.8 < factor[0] < 2.2)
        True
    """
    labels, draws = check_samples(true, samples)
    edges = [np.broadcast_to(np.asarray(edge, float), labels.shape[1:]) for edge in (low, high)]
    factors = np.full(labels.shape[1], np.nan)
    for output in range(labels.shape[1]):
        usable = np.isfinite(labels[:, output]) & np.isfinite(draws[..., output]).all(0)
        if 0 < usable.sum() < fewest:
            raise InputError(
                f"{usable.sum()} labels of output {output}", f"{fewest} or more", "label more objects, or give NaN only"
            )
        if usable.any():
            one = labels[usable, output], draws[:, usable, output], edges[0][output], edges[1][output]
            factors[output] = _fit_one(*one, level, output)
    return factors


def _fit_one(label: Array, samples: Array, low: float, high: float, level: float, output: int) -> float:
    """The factor of one output, (N,) labels and (n, N) samples."""

    def covered(factor: float) -> float:
        place = place_among_samples(label, apply_temperature(samples, factor, low, high))
        return float(count_covered(place, level).mean())

    bottom, top = 1 / WIDEST, WIDEST
    if not covered(bottom) < level <= covered(top):
        raise InputError(
            f"labels of output {output} of which {covered(bottom):.2f} to {covered(top):.2f} can be held",
            f"labels for which a factor of {bottom} to {top} gives {level}",
            "look at the bias, or use fit_conformal",
        )
    while top / bottom > 1.0001:
        middle = math.sqrt(bottom * top)
        bottom, top = (middle, top) if covered(middle) < level else (bottom, middle)
    return math.sqrt(bottom * top)


def fit_conformal(labels: ArrayLike, low: ArrayLike, high: ArrayLike, level: float) -> Array:
    """Margin that makes intervals hold the labels of new objects with at least probability ``level``, for any network.

    This covers LABELS, not the truth (see the module), on average over objects of the kind that was labelled: new
    objects must be exchangeable with these. Not per object: use :func:`fit_conformal_bins` for groups.

    Arguments:
        labels: (N,) or (N, D), NaN where an object has none.
        low: Lower ends of the intervals, same shape; of posteriors, or of anything.
        high: Upper ends.
        level: Probability, between 0 and 1.

    Returns:
        () or (D,) margin to add on both sides (:func:`conformal_interval`); negative where intervals were too wide.
        Over draws of n labelled objects the coverage of new ones is Beta(k, n + 1 - k), k = ceil((n + 1) level).

    Raises:
        InputError: The shapes do not fit, ``level`` is not between 0 and 1, or there are fewer objects than
            level / (1 - level), with which no finite margin is enough.

    Formula:
        The k-th smallest of max(low - label, label - high): split conformalised quantile regression.

    Source:
        Romano, Patterson & Candes 2019 (1905.03222); Vovk 2012 (1209.2673) for the Beta distribution.

    Example:
        >>> float(fit_conformal(np.arange(9.0), np.full(9, 3.0), np.full(9, 5.0), 0.9))
        3.0
    """
    label, bottom, top = (np.asarray(values, float) for values in (labels, low, high))
    if not 0 < level < 1:
        raise InputError(f"level={level}", "between 0 and 1", "give level=0.68")
    if label.ndim not in (1, 2) or not label.shape == bottom.shape == top.shape:
        raise InputError(f"labels {label.shape}, ends {bottom.shape}, {top.shape}", "one shape", "give (N,) or (N, D)")
    excess = np.maximum(bottom - label, label - top)
    columns = excess.reshape(len(excess), -1)
    return np.array([_finite_quantile(column, level) for column in columns.T]).reshape(label.shape[1:])


def _finite_quantile(excess: Array, level: float) -> float:
    """The ceil((n + 1) level)-th smallest of the finite values."""
    finite = np.sort(excess[np.isfinite(excess)])
    # Rounded, since (n + 1) level may be a whole number but for floating point: 100 x 0.55 = 55.00000000000001.
    place = math.ceil(round((finite.size + 1) * level, 9))
    if place > finite.size:
        needed = math.ceil(round(level / (1 - level), 9))
        raise InputError(f"{finite.size} labelled objects", f"{needed} or more for {level}", "label more, or lower it")
    return float(finite[place - 1])


def conformal_interval(low: ArrayLike, high: ArrayLike, margin: ArrayLike) -> tuple[Array, Array]:
    """Intervals with a margin added on both sides; they hold LABELS, not the truth.

    Arguments:
        low: (N,) or (N, D) lower ends.
        high: Upper ends.
        margin: From :func:`fit_conformal` or, one an object, from :func:`margins_in_bins`.

    Returns:
        Lower and upper ends; their middle, twice, where a negative margin would cross them.

    Example:
        >>> conformal_interval([0.0, 0.0], [1.0, 6.0], -2.0)
        (array([0.5, 2. ]), array([0.5, 4. ]))
    """
    bottom, top = np.asarray(low, float), np.asarray(high, float)
    middle = (bottom + top) / 2
    return np.minimum(bottom - np.asarray(margin, float), middle), np.maximum(top + np.asarray(margin, float), middle)


def fit_conformal_bins(labels: ArrayLike, low: ArrayLike, high: ArrayLike, level: float, bins: Bins) -> Array:
    """A margin for each bin of a predicted quantity, so that ``level`` holds within each (Mondrian conformal).

    This covers LABELS, not the truth. Cut the bins on predictions; on labels a new object's bin is not known.

    Arguments:
        labels: (N,) or (N, D), NaN where an object has none.
        low: Lower ends, same shape.
        high: Upper ends.
        level: Probability, between 0 and 1.
        bins: B bins of N values.

    Returns:
        (B,) or (B, D) margins for :func:`margins_in_bins`.

    Raises:
        InputError: As :func:`fit_conformal`, in any bin.

    Source:
        Vovk 2012 (1209.2673).

    Example:
        >>> bins = Bins("size", np.repeat([1.0, 2.0], 9), (0, 1.5, 3))
        >>> fit_conformal_bins(np.repeat([1.0, 7.0], 9), np.zeros(18), np.full(18, 4.0), 0.9, bins).tolist()
        [-1.0, 3.0]
    """
    label, bottom, top = (np.asarray(values, float) for values in (labels, low, high))
    if np.shape(bins.values) != label.shape[:1]:
        raise InputError(f"{np.shape(bins.values)} values of {bins.name}", f"{label.shape[:1]}", "give one an object")
    return np.stack([fit_conformal(label[rows], bottom[rows], top[rows], level) for _, _, rows in bins])


def margins_in_bins(margins: ArrayLike, bins: Bins) -> Array:
    """Margin of each object by the bin it falls in: (N,) or (N, D) from (B,) or (B, D); NaN outside of all bins.

    Example:
        >>> margins_in_bins([-1.0, 3.0], Bins("size", np.array([1.0, 2.0, 9.0]), (0, 1.5, 3))).tolist()
        [-1.0, 3.0, nan]
    """
    each = np.asarray(margins, float)
    spread = np.full((len(bins.values), *each.shape[1:]), np.nan)
    for margin, (_, _, inside) in zip(each, bins, strict=True):
        spread[inside] = margin
    return spread
