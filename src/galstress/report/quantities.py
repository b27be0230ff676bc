"""How outputs are called and shown, and what a set's posteriors say in those terms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from astropy.table import QTable

from galstress.heads import CLASSES, Classes, Said
from galstress.survey import AB_ZERO_POINT_NJY

__all__ = [
    "HEADLINE_OUTPUTS",
    "Quantity",
    "describe_output",
    "headline",
    "median_and_interval",
    "plain_column",
    "quantiles_of",
    "to_magnitude",
    "with_error",
]

HEADLINE_OUTPUTS = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
"""What the page shows first."""


@dataclasses.dataclass(frozen=True)
class Quantity:
    """How one output is called.

    Example:
        >>> describe_output("disk_half_light_radius_arcsec").label
        'disk radius'
    """

    label: str
    """A few words."""
    symbol: str
    """For the axes of small figures."""
    unit: str
    """As shown, empty for none."""
    relative: bool
    """Whether errors are shown as percentages of the value."""

    @property
    def error_label(self) -> str:
        """What an error of this quantity is called, with its unit."""
        return f"{self.label} [{'%' if self.relative else self.unit}]" if self.relative or self.unit else self.label


_WHOLE = {
    "bulge_to_total": Quantity("B/T", "B/T", "", False),
    "half_light_radius_arcsec": Quantity("radius", "R½", "arcsec", True),
    "flux_njy": Quantity("flux", "flux", "nJy", True),
    "e1": Quantity("e₁", "e₁", "", False),
    "e2": Quantity("e₂", "e₂", "", False),
    "x_px": Quantity("centre x", "x", "px", False),
    "y_px": Quantity("centre y", "y", "px", False),
    "sersic_index": Quantity("Sérsic index", "n", "", True),
    **{name: Quantity(f"p({name})", f"p({name})", "", False) for name in CLASSES},
}


def describe_output(name: str) -> Quantity:
    """How an output is called; one that is not known keeps its own name."""
    if name in _WHOLE:
        return _WHOLE[name]
    if name.startswith("sigma of "):
        known = describe_output(name.removeprefix("sigma of "))
        return dataclasses.replace(known, label=f"sigma of {known.label}")
    for component in ("disk", "bulge"):
        rest = name.removeprefix(f"{component}_")
        if rest != name and rest in _WHOLE:
            known = _WHOLE[rest]
            return dataclasses.replace(known, label=f"{component} {known.label}", symbol=f"{component} {known.symbol}")
    return Quantity(name, name, "", False)


def to_magnitude(flux_njy: np.ndarray | float) -> np.ndarray:
    """AB magnitude of a flux; NaN where there is none.

    Example:
        >>> float(to_magnitude(1000.0))
        23.9
    """
    flux = np.asarray(flux_njy, float)
    return AB_ZERO_POINT_NJY - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))


def plain_column(table: QTable | None, name: str) -> np.ndarray:
    """A column of an astropy table as floats in its own unit, NaN where masked or missing."""
    if table is None or name not in table.colnames:
        return np.full(0 if table is None else len(table), np.nan)
    column = table[name]
    mask = np.broadcast_to(np.asarray(getattr(column, "mask", False)), (len(table),))
    column = getattr(column, "unmasked", column)
    values = np.ma.getdata(getattr(column, "value", column))
    try:
        floats = np.array(values, float)
    except ValueError:
        return np.full(len(table), np.nan)
    floats[mask] = np.nan
    return floats


def with_error(low: float, middle: float, high: float) -> str:
    """A value with its 68 % interval, two digits of the error, at most four after the point.

    Example:
        >>> with_error(0.26, 0.31, 0.41)
        '0.310 +0.100 −0.050'
        >>> with_error(-17.33, -17.31, -17.29)
        '−17.310 ± 0.020'
    """
    if not all(math.isfinite(value) for value in (low, middle, high)):
        return "not measured"
    up, down = high - middle, middle - low
    size = max((up + down) / 2, 1e-9)
    digits = int(np.clip(1 - math.floor(math.log10(size)), 0, 4))
    centre = f"{middle:.{digits}f}".replace("-", "−")
    if abs(up - down) <= 0.15 * size:
        return f"{centre} ± {size:.{digits}f}"
    return f"{centre} +{up:.{digits}f} −{down:.{digits}f}"


def headline(known: np.ndarray) -> tuple[str, ...]:
    """What is shown first of outputs that may be parameters or classes."""
    found = set(known.astype(str))
    return HEADLINE_OUTPUTS if not found or found & set(HEADLINE_OUTPUTS) else tuple(c for c in CLASSES if c in found)


def quantiles_of(prediction: Said, probabilities: Sequence[float]) -> np.ndarray:
    """(P, N, D) quantiles of a posterior; of a classifier its probabilities, which have no width."""
    if isinstance(prediction, Classes):
        return np.repeat(prediction.probabilities[None], len(probabilities), axis=0)
    return prediction.quantile(probabilities)


def median_and_interval(quantiles: np.ndarray, names: Sequence[str], name: str) -> np.ndarray:
    """(3, N) 16, 50 and 84 % quantiles of one output; NaN where it is not predicted."""
    if name not in names:
        return np.full(quantiles.shape[:2], np.nan)
    return quantiles[:, :, list(names).index(name)]
