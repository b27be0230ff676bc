"""What scores need of a prediction, and what the truth says of the same outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from astropy.table import QTable
from numpy.typing import ArrayLike

from galstress.scores.statistics import Array

__all__ = ["Posterior", "errors", "guess_the_median", "is_ratio", "truth_values"]


class Posterior(Protocol):
    """What scores need of a :class:`galstress.heads.Prediction`."""

    @property
    def names(self) -> Sequence[str]:
        """D outputs."""

    @property
    def units(self) -> Sequence[str]:
        """Unit of each output, empty for none."""

    def quantile(self, p: Sequence[float]) -> Array:
        """(len(p), N, D) quantiles."""


def is_ratio(name: str) -> bool:
    """Whether an output's error is ln(predicted / true): radii, fluxes, Sersic indices; else it is the difference.

    Example:
        >>> is_ratio("half_light_radius_arcsec"), is_ratio("bulge_to_total")
        (True, False)
    """
    return name.endswith(("radius_arcsec", "flux_njy", "sersic_index"))


def errors(name: str, predicted: ArrayLike, true: ArrayLike) -> Array:
    """Error of an output: the difference, or the natural logarithm of the ratio (see :func:`is_ratio`)."""
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    if not is_ratio(name):
        return predicted - true
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(predicted / true)


def guess_the_median(name: str, true: ArrayLike, prior_median: float) -> Array:
    """Error of whoever never looks at the image and always answers the prior's median."""
    return errors(name, np.full(np.shape(true), prior_median), true)


def truth_values(truth: QTable, names: Sequence[str], units: Sequence[str] | None = None) -> Array:
    """(N, D) true values of outputs; NaN where the table does not know.

    Arguments:
        truth: The truth columns; the components' ``_e1``, ``_e2`` follow from axis ratio and position angle.
        names: D outputs.
        units: Unit of each output; None takes the columns' own.
    """
    values = np.full((len(truth), len(names)), np.nan)
    for place, name in enumerate(names):
        component, _, last = name.rpartition("_")
        if name in truth.colnames:
            values[:, place] = _plain(truth[name], units[place] if units else "")
        elif last in ("e1", "e2") and f"{component}_axis_ratio" in truth.colnames:
            ratio = _plain(truth[f"{component}_axis_ratio"])
            twice = 2 * np.deg2rad(_plain(truth[f"{component}_position_angle_deg"], "deg") + 90)
            values[:, place] = (1 - ratio) / (1 + ratio) * (np.cos(twice) if last == "e1" else np.sin(twice))
    return values


def _plain(column: Any, unit: str = "") -> Array:  # noqa: ANN401 (Column, MaskedColumn or Quantity)
    """A column as floats in ``unit``, NaN where masked."""
    mask = np.asarray(getattr(column, "mask", False))
    column = getattr(column, "unmasked", column)
    plain = column.to_value(unit) if unit and hasattr(column, "to_value") else getattr(column, "value", column)
    values = np.array(np.ma.getdata(plain), np.float64)
    values[np.broadcast_to(mask, values.shape)] = np.nan
    return values
