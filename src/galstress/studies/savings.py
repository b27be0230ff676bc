"""Labels saved at equal error: learning curves of several methods, their intervals, and where they cross."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.errors import InputError
from galstress.scores import error_68

__all__ = [
    "ALL",
    "QUANTITIES",
    "UNTOUCHED",
    "Errors",
    "Saved",
    "Verdict",
    "judge",
    "labels_saved",
    "weigh_sizes",
    "with_all",
    "with_interval",
]

QUANTITIES = {"bulge_to_total": "B/T", "ln_radius": "ln of the half-light radius", "ln_flux": "ln of the flux"}
"""What errors are of, in words."""
ALL = "all"
"""The geometric mean of the errors of all quantities."""
UNTOUCHED = "untouched"
"""The network that saw no label, as a method of its own in comparisons."""
_COUNT = 1000
"""Resamplings of the bootstrap."""
_LEVEL, _DECIDES = 0.68, 0.95
"""Probabilities of the intervals of errors, and of those that decide."""
_SHARE = 0.682689
_FEWEST = 5
"""Test galaxies of a quantity, below which it is not judged."""

Array = NDArray[np.float64]


class Saved(NamedTuple):
    """Labels saved at equal error."""

    saved: float
    """1 - labels / those from scratch, negative where more are needed."""
    labels: float
    """Labels needed for the same error; the bound where ``kind`` says so."""
    kind: str
    """``all``: without any label the error is as small. ``at least``, ``at most``: ``saved`` is a bound, since the
    curve is below the error from its first positive count on, or never. Empty: interpolated."""


def labels_saved(counts: Sequence[int], errors: Array, scratch_count: int, scratch_error: float) -> Saved:
    """How much fewer labels a method needs than another, for the error that the other has with all of its labels.

    Arguments:
        counts: (C,) rising numbers of labels, 0 or more.
        errors: (C,) errors of the method.
        scratch_count: Labels of the other.
        scratch_error: Its error.

    The number of labels is that at which the curve first meets the error, linear in ln of the number between counts.

    Example:
        >>> labels_saved([0, 10, 1000], np.array([0.5, 0.4, 0.2]), 1000, 0.3)
        Saved(saved=0.9, labels=100.0, kind='')
        >>> labels_saved([0, 10, 1000], np.array([0.2, 0.2, 0.2]), 1000, 0.3)
        Saved(saved=1.0, labels=0.0, kind='all')
    """
    met = np.flatnonzero(np.asarray(errors) <= scratch_error)
    if not len(met):
        return Saved(1 - counts[-1] / scratch_count, float(counts[-1]), "at most")
    first = int(met[0])
    if counts[first] == 0:
        return Saved(1.0, 0.0, "all")
    if first == 0 or counts[first - 1] == 0:
        return Saved(1 - counts[first] / scratch_count, float(counts[first]), "at least")
    low, high = counts[first - 1], counts[first]
    part = float((errors[first - 1] - scratch_error) / (errors[first - 1] - errors[first]))
    labels = round(low * math.exp(part * math.log(high / low)), 9)
    return Saved(1 - labels / scratch_count, labels, "")


@dataclasses.dataclass(frozen=True)
class Errors:
    """Errors of several methods on the same test galaxies."""

    methods: Sequence[str]
    """M names."""
    counts: Sequence[int]
    """C numbers of labels, 0 first."""
    values: Array
    """(M, C, S, Q, N) errors: of S seeds, Q quantities and N images; NaN where unknown."""
    groups: NDArray[np.int64]
    """(N,) galaxy behind each image."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What :func:`judge` found; tables as in :class:`galstress.studies.labels.LabelsStudy`."""

    table: QTable
    saved: QTable
    comparison: QTable
    best: str
    measured: dict[str, int]
    """Test images of each quantity."""
    intervals: dict[str, Any]
    """How the intervals were made."""


def judge(errors: Errors, policies: Sequence[str], scratch: str, *, seed: int) -> Verdict:
    """Errors with intervals, labels saved by each policy, and the best of them.

    Arguments:
        errors: Of policies and other methods, ``scratch`` among them.
        policies: Methods that are candidates for the best, at 0 labels the untouched network.
        scratch: The method whose error at the last count is to be met.
        seed: Of the bootstrap.

    Raises:
        InputError: Fewer than five test galaxies of a quantity.

    All methods share each resampling of the test galaxies, so that differences are paired; labels saved and
    comparisons resample the training seeds, too (of two or three seeds that is a rough guess of their scatter).
    """
    values, measured = _align(errors)
    rng = np.random.default_rng(seed)
    names, place = np.unique(errors.groups, return_inverse=True)
    galaxies = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _COUNT)[:, place].astype(float)
    galaxies = np.concatenate([np.ones((1, len(place))), galaxies])
    seeds = values.shape[2]
    runs = np.concatenate([np.ones((1, seeds)), rng.multinomial(seeds, np.full(seeds, 1 / seeds), _COUNT)]) / seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        ln_rms, ln_68 = (with_all(np.log(each)) for each in weigh_sizes(values, galaxies))
    table = _list_errors(errors, ln_rms, ln_68)
    curves = np.einsum("bmcsq,bs->bmcq", ln_rms, runs)
    saved = _list_saved(errors, np.exp(curves), policies, scratch)
    levels = curves[:, :, 1:, -1].mean(2)
    untouched = curves[:, list(errors.methods).index(policies[0]), :1, -1]
    comparison = _compare([*errors.methods, UNTOUCHED], np.concatenate([levels, untouched], 1), policies)
    intervals = {
        "resamplings": _COUNT, "errors": f"{_LEVEL:.0%} over test galaxies", "seed": seed,
        "saved and comparison": f"{_DECIDES:.0%} over test galaxies and training seeds",
    }  # fmt: skip
    return Verdict(table, saved, comparison, str(comparison["method"][0]), measured, intervals)


def _align(errors: Errors) -> tuple[Array, dict[str, int]]:
    """The errors of images that every method has one of, NaN for others, and how many those are."""
    values = errors.values.copy()
    made = np.isfinite(values).any((-2, -1), keepdims=True)  # not every method exists at every number of labels
    usable = np.asarray((np.isfinite(values) | ~made).all((0, 1, 2)))
    measured = {name: int(each.sum()) for name, each in zip(QUANTITIES, usable, strict=True)}
    for name, count in measured.items():
        if count < _FEWEST:
            raise InputError(f"{count} test galaxies with {name}", f"{_FEWEST} or more", "give a larger test sample")
    return np.where(usable, values, np.nan), measured


def weigh_sizes(values: Array, weights: Array) -> tuple[Array, Array]:
    """(B, ...) rms and 68 % error of (..., N) errors under (B, N) weights, of which the first are all 1.

    NaN errors are left out; where there is nothing else, the size is NaN.
    """
    shape = values.shape[:-1]
    flat = values.reshape(-1, values.shape[-1])
    both = np.full((2, len(weights), len(flat)), np.nan)
    for row, each in enumerate(flat):
        known = np.isfinite(each)
        if not known.any():
            continue
        size, weight = np.abs(each[known]), weights[:, known]
        both[0, :, row] = np.sqrt(weight @ size**2 / weight.sum(1))
        order = np.argsort(size)
        reached = np.cumsum(weight[:, order], 1)
        both[1, :, row] = size[order][np.argmax(reached >= _SHARE * reached[:, -1:], 1)]
        both[1, 0, row] = error_68(size)
    return both[0].reshape(-1, *shape), both[1].reshape(-1, *shape)


def with_all(ln_size: Array) -> Array:
    """The mean over the quantities as one more of them."""
    return np.concatenate([ln_size, ln_size.mean(-1, keepdims=True)], -1)


def _list_errors(errors: Errors, ln_rms: Array, ln_68: Array) -> QTable:
    """A row a method, count and quantity."""
    rows = []
    for m, method in enumerate(errors.methods):
        for c, count in enumerate(errors.counts):
            if not np.isfinite(ln_rms[0, m, c]).any():
                continue
            for q, quantity in enumerate((*QUANTITIES, ALL)):
                row: dict[str, Any] = {"method": method, "count": count, "quantity": quantity}
                for name, each in (("rms", ln_rms), ("error_68", ln_68)):
                    row |= with_interval(name, np.exp(each[:, m, c, :, q].mean(-1)), _LEVEL)
                spread = np.exp(ln_rms[0, m, c, :, q])
                row["rms_seed_spread"] = float(np.std(spread, ddof=1)) if count and len(spread) > 1 else math.nan
                rows.append(row)
    return QTable(rows=rows)


def _list_saved(errors: Errors, curves: Array, policies: Sequence[str], scratch: str) -> QTable:
    """A row a policy and quantity; curves (B, M, C, Q)."""
    most, wanted, rows = errors.counts[-1], curves[:, list(errors.methods).index(scratch), -1], []
    for policy in policies:
        own = curves[:, list(errors.methods).index(policy)]
        for q, quantity in enumerate((*QUANTITIES, ALL)):
            found = [
                labels_saved(errors.counts, each[:, q], most, float(goal[q]))
                for each, goal in zip(own, wanted, strict=True)
            ]
            row: dict[str, Any] = {"policy": policy, "quantity": quantity, "scratch_labels": most}
            row |= {"scratch_error": float(wanted[0, q]), "zero_label_error": float(own[0, 0, q])}
            row |= with_interval("saved", np.array([each.saved for each in found]), _DECIDES)
            row |= {"labels": found[0].labels, "kind": found[0].kind, "below": errors.counts[1]}
            kinds = [each.kind for each in found[1:]]
            row["bounded_share"] = sum(kind in ("at least", "at most") for kind in kinds) / len(kinds)
            rows.append(row)
    return QTable(rows=rows)


def _compare(methods: Sequence[str], levels: Array, policies: Sequence[str]) -> QTable:
    """Mean ln rms (B, M) less the best policy's, which stands first."""
    best = min(policies, key=lambda policy: float(levels[0, list(methods).index(policy)]))
    rows = []
    for method in sorted(methods, key=lambda each: (each != best, list(methods).index(each))):
        change = levels[:, list(methods).index(method)] - levels[:, list(methods).index(best)]
        row: dict[str, Any] = {"method": method} | with_interval("difference", change, _DECIDES)
        rows.append(row | {"within": bool(row["difference_low"] <= 0)})
    return QTable(rows=rows)


def with_interval(name: str, values: Array, level: float) -> dict[str, float]:
    """The first entry with the interval of the others."""
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
