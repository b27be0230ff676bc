"""Bins on predicted or measured quantities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galstress.errors import InputError
from galstress.scores.statistics import Array
from galstress.survey import AB_ZERO_POINT_NJY

__all__ = ["Bins", "all_and_bins", "equal_bins", "predicted_bins"]


@dataclasses.dataclass(frozen=True)
class Bins:
    """Bins on something predicted or measured: [low, high), the last one closed.

    Example:
        >>> bins = Bins("snr", np.array([12.0, 30.0, 400.0]), (20, 50, np.inf))
        >>> [(low, high, rows.tolist()) for low, high, rows in bins]
        [(20.0, 50.0, [False, True, False]), (50.0, inf, [False, False, True])]
    """

    name: str
    """What is binned, for example ``snr`` or ``predicted mag_ab``."""
    values: Array
    """(N,) its value for each object; not a number: in no bin."""
    edges: Sequence[float]
    """Edges, rising; the outer ones may be infinite."""
    unit: str = ""
    """Unit of values and edges."""

    def __iter__(self) -> Iterator[tuple[float, float, NDArray[np.bool_]]]:
        """Lower edge, upper edge, (N,) who is inside."""
        values = np.asarray(self.values, float)
        for place, (low, high) in enumerate(zip(self.edges[:-1], self.edges[1:], strict=True)):
            last = place == len(self.edges) - 2
            yield float(low), float(high), (values >= low) & ((values <= high) if last else (values < high))


def equal_bins(name: str, values: ArrayLike, unit: str = "", most: int = 4, minimum: int = 5000) -> Bins:
    """Bins that hold equally many objects, at least ``minimum`` each (or one bin).

    Many equal values (a predicted B/T of exactly 0) fall into one bin, which then holds more.
    """
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return Bins(name, np.asarray(values, float), (0.0, 0.0), unit)
    count = max(1, min(most, finite.size // max(minimum, 1)))
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, count + 1)))
    edges = edges if edges.size > 1 else np.repeat(edges, 2)
    return Bins(name, np.asarray(values, float), tuple(edges.tolist()), unit)


def predicted_bins(names: Sequence[str], medians: Array, most: int = 4, minimum: int = 5000) -> tuple[Bins, ...]:
    """Bins of predicted magnitude, radius and B/T, as far as they are among the outputs.

    Arguments:
        names: D outputs.
        medians: (N, D) posterior medians.
        most: Most bins of each quantity.
        minimum: Fewest objects in a bin.
    """
    median = dict(zip(names, np.asarray(medians, float).T, strict=True))
    bins = []
    if "flux_njy" in median:
        with np.errstate(divide="ignore", invalid="ignore"):
            magnitude = AB_ZERO_POINT_NJY - 2.5 * np.log10(median["flux_njy"])
        bins.append(equal_bins("predicted mag_ab", magnitude, "mag", most, minimum))
    for name, unit in (("half_light_radius_arcsec", "arcsec"), ("bulge_to_total", "")):
        if name in median:
            bins.append(equal_bins(f"predicted {name}", median[name], unit, most, minimum))
    return tuple(bins)


def all_and_bins(bins: Sequence[Bins], count: int) -> Iterator[tuple[str, str, float, float, NDArray[np.bool_]]]:
    """All objects first, then each bin of each quantity."""
    yield "", "", -np.inf, np.inf, np.ones(count, bool)
    for quantity in bins:
        if np.shape(quantity.values) != (count,):
            raise InputError(f"{np.shape(quantity.values)} values of {quantity.name}", f"({count},)", "one an object")
        for low, high, inside in quantity:
            yield quantity.name, quantity.unit, low, high, inside
