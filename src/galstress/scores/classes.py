"""How good a classifier is that may pass: purity and completeness per class beside the share that it passes on.

Galaxies are called a disk or a bulge where that class is the most probable of the three and likely enough; all others
are called indeterminate, be it that B/T is in between or that the network is not sure. True indeterminates that are
called a disk or a bulge are mistakes. Rows whose class or probabilities are unknown are left out and not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galstress.errors import InputError
from galstress.heads import CLASSES
from galstress.scores.statistics import Array, Interval, bootstrap

__all__ = [
    "CUTS", "Cut", "brier_score", "call_classes", "class_table", "confusion_table", "cut_for_share", "log_loss",
    "reliability_table", "risk_area", "risk_curve",
]  # fmt: skip

_DISK, _INDETERMINATE, _BULGE = range(3)
_LEVEL = 0.68
_LEAST = 1e-6
"""Smallest probability that a log-loss believes; shares of a few hundred draws may be exactly 0."""

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Least probabilities at which a galaxy is called a disk or a bulge; it must be the most probable class, too."""

    disk: float
    """From 0 (the most probable class is enough) to 1."""
    bulge: float
    """The same of bulges."""


CUTS: Mapping[str, Cut] = MappingProxyType(
    {
        "sdss": Cut(0.70, 0.70),
        "candels": Cut(0.0, 0.60),
        "sdss-paper": Cut(0.80, 0.80),
        "candels-paper": Cut(0.36, 0.55),
    }
)
"""Published cuts by survey: of GaMorNet's Keras weights, and (``-paper``) of its TFLearn ones, which the paper has.

Source: GaMorNet's usage guide; Ghosh et al. 2020, ApJ 895, 112. Those of HSC are not published.
"""


def call_classes(probabilities: ArrayLike, *, disk: float = 0.0, bulge: float = 0.0) -> NDArray[np.int64]:
    """What each galaxy is called.

    Arguments:
        probabilities: (N, 3) of disk, indeterminate and bulge.
        disk: Least probability of a disk, 0 to 1.
        bulge: The same of a bulge.

    Returns:
        (N,) place in :data:`galstress.heads.CLASSES`; -1 where a probability is NaN.

    Example:
        >>> call_classes([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8]], disk=0.5, bulge=0.5).tolist()
        [0, 1, 2]
    """
    probabilities = _checked(probabilities)
    known = np.asarray(np.isfinite(probabilities).all(1))
    largest = np.where(known[:, None], probabilities, 0.0).argmax(1)
    called = np.full(len(probabilities), _INDETERMINATE)
    for place, least in ((_DISK, disk), (_BULGE, bulge)):
        called[known & (largest == place) & (probabilities[:, place] >= least)] = place
    return np.where(known, called, -1)


def confusion_table(probabilities: ArrayLike, true_class: ArrayLike, *, disk: float = 0.0, bulge: float = 0.0) -> Rows:
    """What galaxies of each predicted class are: columns sum to 1, as GaMorNet's tables have it.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        disk: Least probability of a disk.
        bulge: Least probability of a bulge.

    Returns:
        A row an ``actual`` class with its ``count``, and a column a predicted class: the share of the galaxies called
        so that are of the row's class (the diagonal is the purity), NaN where none is called so. With ``_count``
        behind the name: how many.

    Example:
        >>> table = confusion_table([[0.9, 0.1, 0], [0.8, 0.1, 0.1], [0.1, 0, 0.9]], [0, 2, 2])
        >>> [row["disk"] for row in table], table[2]["bulge_count"]
        ([0.5, 0.0, 0.5], 1)
    """
    counts = _count(probabilities, true_class, disk, bulge)
    with np.errstate(invalid="ignore"):
        share = counts / counts.sum(0)
    return [
        {"actual": actual, "count": int(counts[row].sum())}
        | {name: float(share[row, place]) for place, name in enumerate(CLASSES)}
        | {f"{name}_count": int(counts[row, place]) for place, name in enumerate(CLASSES)}
        for row, actual in enumerate(CLASSES)
    ]


def class_table(
    probabilities: ArrayLike,
    true_class: ArrayLike,
    *,
    disk: float = 0.0,
    bulge: float = 0.0,
    seed: int = 0,
    count: int = 1000,
    level: float = _LEVEL,
) -> Rows:
    """Purity and completeness of each class beside the indeterminate share, with intervals.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        disk: Least probability of a disk; :data:`CUTS` has published ones.
        bulge: Least probability of a bulge.
        seed: Of the bootstrap.
        count: Resamplings of the galaxies (so of the table's nine counts, which are multinomial).
        level: Of the intervals ``_low`` to ``_high``.

    Returns:
        A row a ``class``: ``actual`` and ``called`` (numbers of galaxies), ``purity`` (of those called so, how many
        are), ``completeness`` (of those that are, how many are called so; the rest was called otherwise or passed on)
        and ``indeterminate_share`` (of all galaxies; the same in each row), each with interval. NaN where none is
        called so, or none is.

    Example:
        >>> chances = [[0.9, 0.1, 0], [0.8, 0.1, 0.1], [0.1, 0, 0.9], [0.4, 0.3, 0.3]]
        >>> disk = class_table(chances, [0, 2, 2, 0], disk=0.5)[0]
        >>> disk["purity"], disk["completeness"], disk["indeterminate_share"]
        (0.5, 0.5, 0.25)
    """
    counts = _count(probabilities, true_class, disk, bulge)
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, counts.ravel() / max(total, 1), count).reshape(-1, 3, 3)
    best, spread = (dict(zip(_SCORES, _score(each), strict=True)) for each in (counts[None], drawn))
    rows = []
    for place, name in enumerate(CLASSES):
        row: dict[str, Any] = {"class": name, "actual": int(counts[place].sum()), "called": int(counts[:, place].sum())}
        for score in _SCORES:
            row |= _ends(score, float(best[score][0, place]), spread[score][:, place], level)
        rows.append(row)
    return rows


_SCORES = ("purity", "completeness", "indeterminate_share")


def _score(counts: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """(n, 3) purity, completeness and share of indeterminates of (n, actual, called) counts."""
    with np.errstate(invalid="ignore"):
        right = np.diagonal(counts, axis1=1, axis2=2)
        purity, completeness = right / counts.sum(1), right / counts.sum(2)
        passed = counts[:, :, _INDETERMINATE].sum(1) / counts.sum((1, 2))
    return purity, completeness, np.repeat(passed[:, None], 3, 1)


def _ends(name: str, value: float, spread: Array, level: float) -> dict[str, float]:
    """A score and its interval."""
    known = spread[np.isfinite(spread)]
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if known.size else (math.nan, math.nan)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def cut_for_share(probabilities: ArrayLike, share: float) -> float:
    """The one cut on both classes that passes on a wanted share of the galaxies, as nearly as it can be.

    Arguments:
        probabilities: (N, 3), N at least 1.
        share: Of galaxies that are to be called indeterminate, 0 to 1.

    Returns:
        Least probability for a disk and for a bulge; 0 where more galaxies than wanted have ``indeterminate`` as their
        most probable class, and above every probability where all are to be passed on.

    Raises:
        InputError: ``share`` is none, or there are no probabilities.

    Example:
        >>> cut_for_share([[0.9, 0.1, 0], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.5, 0.25, 0.25]], 0.25)
        0.6
    """
    if not 0 <= share <= 1:
        raise InputError(f"share={share!r}", "a share from 0 to 1", "give share=0.31")
    probabilities = _checked(probabilities)
    probabilities = probabilities[np.isfinite(probabilities).all(1)]
    if not len(probabilities):
        raise InputError("no galaxy with probabilities", "one at least", "check the predictions")
    sure = np.sort(_sureness(probabilities))
    levels = np.unique(sure[sure >= 0])
    if not len(levels):
        return 0.0
    levels = np.append(levels, np.nextafter(levels[-1], 2))
    passed = np.searchsorted(sure, levels, "left") / len(sure)
    best = int(np.abs(passed - share).argmin())
    return 0.0 if best == 0 else float(levels[best])


def risk_curve(probabilities: ArrayLike, true_class: ArrayLike, coverages: Sequence[float] | Array) -> Rows:
    """Accuracy of the surest galaxies against how many they are.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        coverages: Shares of all galaxies that are called a disk or a bulge, above 0 to 1, the surest first.

    Returns:
        A row a coverage: ``coverage``, ``count``, ``least`` (probability of the last that is called), ``accuracy`` (of
        those called, how many are right; ties in sureness count with the mean of their rights) and its binomial
        ``sigma``. Galaxies whose most probable class is ``indeterminate`` come last, called by the larger of the other
        two.

    Example:
        >>> rows = risk_curve([[0.9, 0.1, 0], [0.2, 0.2, 0.6], [0.5, 0.2, 0.3]], [0, 2, 2], [0.67, 1])
        >>> [(row["count"], round(row["accuracy"], 3)) for row in rows]
        [(2, 1.0), (3, 0.667)]
    """
    sure, right = _ordered(*_known(probabilities, true_class))
    total = len(sure)
    accuracy = np.cumsum(_shared(sure[None], right[None])[0]) / np.arange(1, total + 1)
    rows = []
    for coverage in np.asarray(coverages, float):
        if not 0 < coverage <= 1:
            raise InputError(f"a coverage of {coverage:g}", "shares above 0, to 1", "give 0.1, 0.5, 1")
        number = max(1, round(coverage * total))
        found = float(accuracy[number - 1]) if total else math.nan
        rows.append(
            {
                "coverage": float(coverage),
                "count": min(number, total),
                "least": float(sure[number - 1] + (sure[number - 1] < 0)) if total else math.nan,
                "accuracy": found,
                "sigma": math.sqrt(found * (1 - found) / number) if total else math.nan,
            }
        )
    return rows


def risk_area(probabilities: ArrayLike, true_class: ArrayLike, *, seed: int = 0, count: int = 300) -> Interval:
    """Area below the curve of mistakes against coverage: the mean over all coverages of the share that is wrong.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        seed: Of the bootstrap over galaxies.
        count: Resamplings.

    Returns:
        Area, 0 to 1 (small is good), and its 68 % interval. Sureness without meaning gives the plain share of mistakes.

    Source: Geifman, Uziel & El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers".

    Example:
        >>> risk_area([[0.9, 0.1, 0], [0.5, 0.2, 0.3]], [0, 2]).value.item()
        0.25
    """

    def area(sure: Array, right: Array) -> Array:
        order = np.argsort(-sure, axis=-1, kind="stable")
        sure, right = np.take_along_axis(sure, order, -1), np.take_along_axis(right, order, -1)
        accuracy = np.cumsum(_shared(sure, right), -1) / np.arange(1, sure.shape[-1] + 1)
        return 1 - accuracy.mean(-1)

    return bootstrap(area, *_ordered(*_known(probabilities, true_class)), seed=seed, count=count)


def log_loss(probabilities: ArrayLike, true_class: ArrayLike, *, seed: int = 0, least: float = _LEAST) -> Interval:
    """Mean of -ln of the probability that the true class was given, and its 68 % interval over galaxies.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        seed: Of the bootstrap.
        least: Smaller probabilities count as this.

    Example:
        >>> f"{log_loss([[0.5, 0.25, 0.25]], [0]).value:.4f}"
        '0.6931'
    """
    chances, true = _known(probabilities, true_class)
    given = chances[np.arange(len(true)), true]
    return bootstrap(lambda loss: loss.mean(-1), -np.log(given.clip(least, 1)), seed=seed, count=300)


def brier_score(probabilities: ArrayLike, true_class: ArrayLike, *, seed: int = 0) -> Interval:
    """Mean over galaxies of sum (p - t)^2 over the classes (t: 1 for the true one), 0 to 2, and its 68 % interval.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        seed: Of the bootstrap.

    Source: Brier 1950, Monthly Weather Review 78, 1.

    Example:
        >>> brier_score([[0.5, 0.25, 0.25]], [0]).value.item()
        0.375
    """
    chances, true = _known(probabilities, true_class)
    square = ((chances - np.eye(3)[true]) ** 2).sum(1)
    return bootstrap(lambda each: each.mean(-1), square, seed=seed, count=300)


def reliability_table(probabilities: ArrayLike, true_class: ArrayLike, *, bins: int = 10) -> Rows:
    """How often a class is true that is given some probability: calibrated, as often as that.

    Arguments:
        probabilities: (N, 3).
        true_class: (N,) place in :data:`galstress.heads.CLASSES`, -1 where unknown.
        bins: Even ones of probability from 0 to 1; those without a galaxy have no row.

    Returns:
        A row a ``class`` and bin: ``bin_low``, ``bin_high``, ``count``, ``probability`` (mean of what was said),
        ``share`` (how many are of the class), ``deviation`` (share - probability) and ``sigma`` (of the share, if
        every probability were right: sqrt(sum p (1 - p)) / count).

    Example:
        >>> rows = reliability_table([[0.8, 0.1, 0.1]] * 5, [0, 0, 0, 0, 2])
        >>> rows[0]["class"], rows[0]["share"], round(rows[0]["deviation"], 9)
        ('disk', 0.8, 0.0)
    """
    chances, true = _known(probabilities, true_class)
    edges = np.linspace(0, 1, bins + 1)
    rows = []
    for place, name in enumerate(CLASSES):
        said, hit = chances[:, place], true == place
        which = np.minimum(np.searchsorted(edges, said, "right") - 1, bins - 1)
        for number in np.unique(which):
            inside = which == number
            mean, share, size = float(said[inside].mean()), float(hit[inside].mean()), int(inside.sum())
            row = {"class": name, "bin_low": float(edges[number]), "bin_high": float(edges[number + 1]), "count": size}
            row |= {"probability": mean, "share": share, "deviation": share - mean}
            rows.append(row | {"sigma": math.sqrt(float((said * (1 - said))[inside].sum())) / size})
    return rows


def _checked(probabilities: ArrayLike) -> Array:
    """(N, 3) probabilities, or one line that says so."""
    found = np.asarray(probabilities, float)
    if found.ndim != 2 or found.shape[1] != len(CLASSES):
        raise InputError(f"probabilities of shape {found.shape}", f"(N, {len(CLASSES)})", "give a row a galaxy")
    return found


def _known(probabilities: ArrayLike, true_class: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    """Rows of which both are known."""
    chances, true = _checked(probabilities), np.asarray(true_class)
    if true.shape != chances.shape[:1] or not np.isin(true, (-1, 0, 1, 2)).all():
        came = f"true classes of shape {true.shape} for {len(chances)} galaxies"
        raise InputError(came, "(N,) whole numbers from -1 (unknown) to 2", "use galstress.heads.classify")
    known = (true >= 0) & np.isfinite(chances).all(1)
    return chances[known], true[known].astype(np.int64)


def _count(probabilities: ArrayLike, true_class: ArrayLike, disk: float, bulge: float) -> NDArray[np.int64]:
    """(actual, called) numbers of galaxies."""
    chances, true = _known(probabilities, true_class)
    return np.bincount(3 * true + call_classes(chances, disk=disk, bulge=bulge), minlength=9).reshape(3, 3)


def _sureness(chances: Array) -> Array:
    """(N,) larger probability of disk and bulge; one less, so below all others, where ``indeterminate`` is larger."""
    larger = chances[:, [_DISK, _BULGE]].max(1)
    return np.where(chances.argmax(1) == _INDETERMINATE, larger - 1, larger)


def _ordered(chances: Array, true: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sureness, falling, and whether disk or bulge, whichever is likelier, is right."""
    sure = _sureness(chances)
    called = np.where(chances[:, _DISK] >= chances[:, _BULGE], _DISK, _BULGE)
    order = np.argsort(-sure, kind="stable")
    return sure[order], (called == true)[order].astype(float)


def _shared(sure: Array, right: Array) -> Array:
    """Rights of (n, N) sorted galaxies, those that are equally sure given the mean of their tie."""
    first = np.ones(sure.shape, bool)
    first[:, 1:] = sure[:, 1:] != sure[:, :-1]
    group = np.cumsum(first.ravel()) - 1
    mean = np.bincount(group, right.ravel()) / np.bincount(group)
    return mean[group].reshape(sure.shape)
