"""Tables of errors, beside the error of guessing the prior's median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import QTable

from galstress.errors import InputError
from galstress.scores.bins import Bins, all_and_bins
from galstress.scores.posterior import Posterior, errors, guess_the_median, is_ratio, truth_values
from galstress.scores.statistics import Array, Interval, bias, bootstrap, error_68, outlier_fraction, scatter

__all__ = ["accuracy_table"]


def accuracy_table(
    prediction: Posterior,
    truth: QTable,
    bins: Sequence[Bins] = (),
    *,
    prior_median: Mapping[str, float] | None = None,
    seed: int = 0,
    count: int = 300,
    level: float = 0.68,
) -> QTable:
    """Errors of the posterior medians, a row for each output, over all objects and in each bin.

    Arguments:
        prediction: N objects, D outputs; objects without numbers are left out and not counted.
        truth: N rows of truth columns, same order.
        bins: Bins on predicted or measured quantities, N values each.
        prior_median: The prior's median of each output; by default the median of ``truth``, which was drawn from it.
        seed: Of the bootstrap.
        count: Resamplings.
        level: Of the intervals ``_low`` to ``_high``.

    Returns:
        QTable: ``output``, ``unit``, ``error_kind`` (``difference`` or ``ln ratio``), ``by``, ``by_unit``,
        ``bin_low``, ``bin_high``, ``count``, ``bias``, ``scatter``, ``error_68`` (with intervals),
        ``median_sigma`` (half of the posterior's 68 % width, in the error's own terms), ``outlier_fraction``
        (above 0.5), ``beyond_5_sigma``, ``guess_error_68`` (always the prior's median) and
        ``guess_in_bin_error_68`` (always the bin's own true median: harder to beat).
    """
    low, median, high = prediction.quantile([0.158655, 0.5, 0.841345])
    true = truth_values(truth, prediction.names, prediction.units)
    if true.shape != median.shape:
        raise InputError(f"{len(truth)} true objects", f"{median.shape[0]}, as predicted", "give both in one order")
    rows = []
    for place, (name, unit) in enumerate(zip(prediction.names, prediction.units, strict=True)):
        error = errors(name, median[:, place], true[:, place])
        sigma = (errors(name, high[:, place], low[:, place]) if is_ratio(name) else (high - low)[:, place]) / 2
        usable = np.isfinite(error)
        centre = np.median(true[usable, place]) if usable.any() else np.nan
        centre = (prior_median or {}).get(name, float(centre))
        for by, by_unit, bin_low, bin_high, inside in all_and_bins(bins, len(truth)):
            chosen = usable & inside
            figures = _error_figures(name, error[chosen], sigma[chosen], true[chosen, place], centre)
            intervals = {"bias": Interval(np.nan, np.nan, np.nan), "error_68": Interval(np.nan, np.nan, np.nan)}
            for key, statistic in (("bias", bias), ("error_68", error_68)) if chosen.any() else ():
                intervals[key] = bootstrap(statistic, error[chosen], seed=seed, count=count, level=level)
            row: dict[str, object] = {
                "output": name,
                "unit": unit,
                "error_kind": "ln ratio" if is_ratio(name) else "difference",
            }
            row |= {"by": by, "by_unit": by_unit, "bin_low": bin_low, "bin_high": bin_high, "count": int(chosen.sum())}
            for key, interval in intervals.items():
                row |= {f"{key}{end}": value for end, value in zip(("", "_low", "_high"), interval, strict=True)}
            rows.append(row | figures)
    return QTable(rows=rows) if rows else QTable()


def _error_figures(name: str, error: Array, sigma: Array, true: Array, centre: float) -> dict[str, float]:
    """The figures of one output in one bin that carry no interval."""
    if error.size == 0:
        keys = ("scatter", "median_sigma", "outlier_fraction", "beyond_5_sigma", "guess_error_68")
        return dict.fromkeys((*keys, "guess_in_bin_error_68"), np.nan)
    return {
        "scatter": float(scatter(error)),
        "median_sigma": float(np.median(sigma)),
        "outlier_fraction": float(outlier_fraction(error)),
        "beyond_5_sigma": float(np.mean(np.abs(error) > 5 * sigma)),
        "guess_error_68": float(error_68(guess_the_median(name, true, centre))),
        "guess_in_bin_error_68": float(error_68(guess_the_median(name, true, float(np.median(true))))),
    }
