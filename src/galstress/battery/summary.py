"""What a stress table says: how far answers move at each amount, and how much they spread over angles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.scores import bootstrap, error_68, errors, is_ratio, rms

__all__ = ["rotation_spread", "summarise", "summarise_spread"]

Array = NDArray[np.float64]


def summarise(table: QTable, *, seed: int = 0, level: float = 0.68, count: int = 300) -> QTable:
    """How far the answers move: a row for each kind, amount and output.

    Arguments:
        table: From :func:`galstress.stress`.
        seed: Of the bootstrap over objects.
        level: Of the intervals ``_low`` to ``_high``.
        count: Resamplings.

    Returns:
        QTable: ``perturbation``, ``kind``, ``amount``, ``unit``, ``output``, ``measure`` (``relative``: the natural
        logarithm of value over expected, for radii, fluxes and indices; else ``absolute``), ``count`` of objects
        that were measured, ``failed`` (measured before but not now), ``median_shift``, ``rms_shift`` and
        ``rms_shift_sigma`` (in units of the baseline's sigma) with intervals, ``median_sigma_growth`` (sigma over
        the baseline's), and against the truth, where it is known, ``error_68`` and ``within_sigma`` (share of true
        values inside value +- sigma).
    """
    rows = []
    for keys, group in _groups(table, ("perturbation", "kind", "amount", "unit", "output")):
        output = str(keys["output"])
        shift = _shifts(group, output)
        usable = np.isfinite(shift)
        true, value, sigma = (np.asarray(group[name], float) for name in ("truth", "value", "sigma"))
        error = errors(output, value, true)
        known = np.isfinite(error)
        row = {**keys, "measure": _measure(output), "count": int(usable.sum())}
        row["failed"] = int((np.isfinite(group["baseline_value"]) & ~np.isfinite(value)).sum())
        row["median_shift"] = float(np.median(shift[usable])) if usable.any() else np.nan
        for name, values in (("rms_shift", shift), ("rms_shift_sigma", np.asarray(group["shift_sigma"], float))):
            finite = values[np.isfinite(values)]
            row |= _interval(name, bootstrap(rms, finite, seed=seed, count=count, level=level))
        growth = sigma / np.asarray(group["baseline_sigma"], float)
        row["median_sigma_growth"] = float(np.nanmedian(growth)) if np.isfinite(growth).any() else np.nan
        row["error_68"] = float(error_68(error[known])) if known.any() else np.nan
        row["within_sigma"] = float(np.mean(np.abs(value - true)[known] <= sigma[known])) if known.any() else np.nan
        rows.append(row)
    return QTable(rows=rows) if rows else QTable()


def rotation_spread(table: QTable) -> QTable:
    """Rms over angles of each object's answers, about their mean: 0 for a network that ignores orientation.

    Arguments:
        table: From :func:`galstress.stress`; only rotations are looked at.

    Returns:
        QTable with a row for each kind, output and object: ``row``, ``object_id``, ``kind``, ``output``, ``angles``
        (how many were measured), ``measure`` (``relative``, of the natural logarithm, for radii, fluxes and indices;
        else ``absolute``), ``spread``, and ``spread_sigma`` (of the value, in units of the baseline's sigma). Shapes
        and places are turned back before they are compared.
    """
    parts = []
    turned = table[np.asarray(table["perturbation"]) == "rotation"]
    for keys, group in _groups(turned, ("kind", "output")):
        output = str(keys["output"])
        objects, place = np.unique(np.asarray(group["row"]), return_inverse=True)
        first = np.unique(place, return_index=True)[1]
        angles, spread = _spread(_shifts(group, output), place, len(objects))
        in_sigma = _spread(np.asarray(group["shift_sigma"], float), place, len(objects))[1]
        part = {"row": objects, "object_id": np.asarray(group["object_id"])[first]}
        part |= {name: np.full(len(objects), value) for name, value in keys.items()}
        part |= {"angles": angles, "measure": np.full(len(objects), _measure(output))}
        parts.append(part | {"spread": spread, "spread_sigma": in_sigma})
    return QTable({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}) if parts else QTable()


def summarise_spread(spread: QTable, *, seed: int = 0, level: float = 0.68, count: int = 1000) -> QTable:
    """The spread over angles of many objects: a row for each kind and output.

    Arguments:
        spread: From :func:`rotation_spread`, all of it or a choice of objects.
        seed: Of the bootstrap over objects.
        level: Of the intervals.
        count: Resamplings.

    Returns:
        QTable: ``kind``, ``output``, ``measure``, ``count`` of objects, ``rms_spread`` and ``rms_spread_sigma`` (root
        mean square over objects, with intervals), ``median_spread``, ``p95_spread``.
    """
    rows = []
    for keys, group in _groups(spread, ("kind", "output", "measure")):
        values = np.asarray(group["spread"], float)
        in_sigma = np.asarray(group["spread_sigma"], float)
        finite = values[np.isfinite(values)]
        row = {**keys, "count": finite.size}
        for name, each in (("rms_spread", finite), ("rms_spread_sigma", in_sigma[np.isfinite(in_sigma)])):
            row |= _interval(name, bootstrap(rms, each, seed=seed, count=count, level=level))
        row["median_spread"] = float(np.median(finite)) if finite.size else np.nan
        row["p95_spread"] = float(np.quantile(finite, 0.95)) if finite.size else np.nan
        rows.append(row)
    return QTable(rows=rows) if rows else QTable()


def _measure(output: str) -> str:
    """Whether shifts of an output are given relative to it."""
    return "relative" if is_ratio(output) else "absolute"


def _shifts(group: QTable, output: str) -> Array:
    """Shifts from where the truth went: ln ratios for radii, fluxes and indices, else differences."""
    return errors(output, group["value"], group["expected"])


def _spread(values: Array, place: NDArray[np.intp], count: int) -> tuple[NDArray[np.intp], Array]:
    """(count,) number and standard deviation of the finite values at each place; NaN below two."""
    finite = np.isfinite(values)
    values, place = values[finite], place[finite]
    number = np.bincount(place, minlength=count)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(place, values, count) / number
        variance = np.bincount(place, (values - mean[place]) ** 2, count) / number
    return number, np.where(number > 1, np.sqrt(variance), np.nan)


def _interval(name: str, interval: Sequence[Any]) -> dict[str, float]:
    """Three columns of a statistic and its interval."""
    return {f"{name}{end}": float(value) for end, value in zip(("", "_low", "_high"), interval, strict=True)}


def _groups(table: QTable, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], QTable]]:
    """Rows that share the values of ``names``, in the order in which they first appear."""
    code = np.zeros(len(table), np.int64)
    for name in names:
        values, inverse = np.unique(np.asarray(table[name]), return_inverse=True)
        code = code * len(values) + inverse
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(first)))
    for place in np.argsort(first):
        rows = order[ends[place - 1] if place else 0 : ends[place]]
        yield {name: np.asarray(table[name])[rows[0]].item() for name in names}, table[rows]
