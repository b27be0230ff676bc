"""Calibration of the joint posterior: coverage by regions around reference points (TARP)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from galstress.errors import InputError
from galstress.scores.calibration import check_samples, resampled_means
from galstress.scores.coverage import place_among_samples
from galstress.scores.statistics import Array, scatter

__all__ = ["TarpCurve", "tarp"]


@dataclasses.dataclass(frozen=True)
class TarpCurve:
    """Expected coverage of a joint posterior against credibility (:func:`tarp`)."""

    levels: Array
    """(L,) credibilities."""
    coverage: Array
    """(L,) share of objects whose truth lies inside the region of that credibility."""
    low: Array
    """(L,) lower end of the bootstrap band, at each level by itself."""
    high: Array
    """(L,) upper end."""
    deviation: float
    """Largest |coverage - level|; of a calibrated posterior below 1.36 / sqrt(count) in 95 of 100 cases."""
    area: float
    """Integral of coverage - level from 0.5 to 1 (ATC): below 0 too narrow or biased, above 0 too wide."""
    ks_p: float
    """Kolmogorov-Smirnov probability of the objects' credibilities under uniformity."""
    count: int
    """Objects with finite numbers."""


def tarp(
    true: ArrayLike,
    samples: ArrayLike,
    references: ArrayLike | None = None,
    *,
    scale: ArrayLike | None = None,
    levels: Sequence[float] | None = None,
    seed: int = 0,
    count: int = 300,
    band: float = 0.95,
) -> TarpCurve:
    """Tests of Accuracy with Random Points: coverage of the joint posterior by regions around reference points.

    For each object f = share of samples that are nearer to its reference point than the truth is. For an exact
    posterior f is uniform, whatever point and distance were chosen from the data; coverage(level) = P(f < level).
    Ties and the step of 1 / (n + 1) are spread at random as in :func:`probability_integral_transform`.

    Default references depend on the data: the object's own posterior median, moved by one own half-width in each
    coordinate towards the median of all objects, plus half a half-width of Gaussian noise. Points drawn without regard
    to the object lie many widths away and see little of a wrong width. The median alone sees widths best, but a bias
    that changes sign with the data, as of posteriors drawn towards the prior, only in second order: of 0.12 sigma in
    each of 5 outputs it sees a deviation of 0.013, after the step 0.07. Distances count in own half-widths, since else
    the coordinates that are hardly measured hide the others. Medians and half-widths are those of the first
    fifth of the samples, which are then not ranked: a median of the ranked samples lies nearer to them than to the
    truth (200 samples of 15 outputs: a deviation of 0.012 for an exact posterior).

    A posterior that ignores its data makes references that ignore them and passes. Only ``references`` measured on the
    images (moments, aperture fluxes) detect it.

    Arguments:
        true: (N, D) true values.
        samples: (n, N, D) samples of each posterior, in random order; 20 or more unless references and scale are given.
        references: (N, D) one point an object, made without the truth; default above.
        scale: Lengths that coordinates are divided by, (D,) or (N, D), made without the truth; default above.
        levels: L credibilities; by default 0 to 1 in steps of 0.01.
        seed: Of default references, ties and bootstrap.
        count: Resamplings of objects.
        band: Probability that the band holds.

    Returns:
        The curve and its figures; objects that are not finite are left out.

    Raises:
        InputError: The shapes do not fit, no object is finite, the samples are too few, or a scale is not above 0.

    Source:
        Lemos et al. 2023 (2302.03026), algorithm 2.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> centre = rng.normal(size=(2000, 3))
        >>> true, samples = centre + rng.normal(size=(2000, 3)), centre + rng.normal(size=(100, 2000, 3))
        >>> curve = tarp(true, samples)
        >>> curve.deviation < 0.035, tarp(true, centre + 0.7 * (samples - centre)).area < -0.03
        (True, True)
    """
    columns, draws = check_samples(true, samples)
    points = None if references is None else np.asarray(references, float)
    if points is not None:
        if points.shape != np.shape(true):
            raise InputError(f"references {points.shape}", f"{np.shape(true)}", "give one point an object")
        points = points.reshape(columns.shape)
    usable = np.isfinite(columns).all(1) & np.isfinite(draws).all((0, 2))
    usable &= True if points is None else np.isfinite(points).all(1)
    if not usable.any():
        raise InputError("no object with finite truth, samples and reference", "one or more", "check the prediction")
    if scale is not None:
        scale = np.broadcast_to(np.asarray(scale, float), columns.shape)[usable]
        if not (scale > 0).all():
            raise InputError(f"scale from {scale.min()}", "above 0", "leave out outputs that never vary")
    columns, draws = columns[usable], draws if usable.all() else draws[:, usable]
    rng = np.random.default_rng(seed)
    if points is None or scale is None:
        held = len(draws) // 5
        if held < 4:
            raise InputError(f"{len(draws)} samples", "20 or more", "draw more, or give references and scale")
        own, own_scale = _own_references(draws[:held], rng)
        draws = draws[held:]
    points = own if points is None else points[usable]
    credibility = _credibilities(columns, draws, points, own_scale if scale is None else scale, rng)
    grid = np.linspace(0, 1, 101) if levels is None else np.asarray(levels, float)
    inside = (credibility[:, None] < grid).astype(float)
    low, high = resampled_means(inside, seed, count, band)
    coverage = inside.mean(0)
    # The integral of 1[f < level] over levels from 0.5 to 1 is 1 - max(f, 0.5), that of the level 3/8.
    area = float(5 / 8 - np.maximum(credibility, 0.5).mean())
    p = float(stats.kstest(credibility, "uniform").pvalue)
    return TarpCurve(grid, coverage, low, high, float(np.abs(coverage - grid).max()), area, p, len(columns))


def _own_references(samples: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """(N, D) default reference points, and the half-widths of each posterior."""
    centre = np.median(samples, 0)
    width = scatter(np.moveaxis(samples, 0, -1))
    # A coordinate that sits on one value has no 68 % width: its standard deviation, else that of all objects, else 1.
    for fallback in (samples.std(0), np.broadcast_to(centre.std(0), centre.shape), np.ones(centre.shape)):
        width = np.where(width > 0, width, fallback)
    step = np.sign(np.median(centre, 0) - centre) + 0.5 * rng.normal(size=centre.shape)
    return centre + step * width, width


def _credibilities(true: Array, samples: Array, points: Array, scale: Array, rng: np.random.Generator) -> Array:
    """(N,) share of samples nearer to the point than the truth, ties and steps spread."""
    place = np.empty((2, len(true)))
    chunk = max(1, 4_000_000 // (samples.shape[0] * samples.shape[2]))
    for start in range(0, len(true), chunk):
        rows = slice(start, start + chunk)
        distances = (
            np.square((values - points[rows]) / scale[rows]).sum(-1) for values in (true[rows], samples[:, rows])
        )
        place[:, rows] = place_among_samples(*distances)
    first, last = place
    return first + rng.uniform(size=first.shape) * (last - first)
