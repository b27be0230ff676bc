"""The study of layers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from galstress.studies.depths import PROBES

__all__ = ["say_all"]

Rows = Sequence[Mapping[str, Any]]
_LEAST = 0.05
"""R^2, or area above 1/2, below which nothing is read."""
_NEAR = 0.9
"""A stage reads a quantity as well as any where it reaches so much of the best stage's R^2, or area above 1/2."""


def say_all(tables: Mapping[str, Rows], sample: str, *, is_class: bool) -> str:
    """Four answers in one text."""
    parts = [
        _say_arms(tables["arms"], is_class),
        _say_segments(tables["segments"]),
        _say_focus(tables["neighbours"]),
        _say_depth(tables["probes"]),
    ]
    return f"{' '.join(parts)} ({sample}; 95 % intervals.)"


def _say_arms(rows: Rows, is_class: bool) -> str:
    """What arms change."""
    quantity, words = ("log_odds", "log-odds of a disk") if is_class else ("bulge_to_total", "B/T")
    arms, smooth, own = (_find(rows, quantity=quantity, kind=kind) for kind in ("arms", "smooth", "difference"))
    is_sure = own["change_low"] > 0 or own["change_high"] < 0
    # without arms a disk should look less like one
    is_as_said = own["change_high"] < 0 if is_class else own["change_low"] > 0
    verdict = "as the page says" if is_as_said else "the other way round" if is_sure else "not surely anything"
    more = ""
    if is_class:
        p = _find(rows, quantity="p_disk", kind="arms")
        more = f"; p_disk by {_range(p, 'change', 3, sign=True)}"
    return (
        f"Arms: their azimuthal mean instead changes the {words} by {_range(arms, 'change', 3, sign=True)}, the same "
        f"of the smooth galaxy by {_range(smooth, 'change', 3, sign=True)}{more}; the arms themselves do "
        f"{_range(own, 'change', 3, sign=True)}, {verdict}."
    )


def _say_segments(rows: Rows) -> str:
    """Galaxy and background."""
    best, random = (_find(rows, of=of, channel="best") for of in ("network", "random weights"))
    median = _find(rows, of="network", channel="median")
    image = _find(rows, of="image at the maps' resolution", channel="best")
    return (
        f"Background: the best first-layer map tells the galaxy's pixels with an area under the curve of "
        f"{_range(best, 'auc', 3)} (median map {_range(median, 'auc', 3)}), random weights with "
        f"{_range(random, 'auc', 3)}, the image itself at that resolution with {_range(image, 'auc', 3)}."
    )


def _say_focus(rows: Rows) -> str:
    """Galaxy and neighbours."""
    own, random, light, area = (_find(rows, of=of) for of in ("network", "random weights", "light", "area"))
    return (
        f"Neighbours: they hold {_range(light, 'share', 3)} of the light and {_range(area, 'share', 3)} of the area, "
        f"and {_range(own, 'share', 3)} of the map ({_range(random, 'share', 3)} with random weights)."
    )


def _say_depth(rows: Rows) -> str:
    """Where each quantity is read as well as anywhere."""
    parts = []
    for target, words in PROBES.items():
        of = [row for row in rows if row["target"] == target]
        floor = 0.5 if of[0]["measure"] == "auc" else 0.0
        best = max(row["own"] for row in of)
        if best - floor < _LEAST:
            parts.append(f"{words} nowhere (at most {best:.2f})")
            continue
        first = next(row for row in of if row["own"] - floor >= _NEAR * (best - floor))
        kind = "area" if of[0]["measure"] == "auc" else "R²"
        parts.append(f"{words} from {first['stage']} on ({kind} {_range(first, 'own', 2)}, of {len(of)} stages)")
    return f"Depth: a straight line reads as well as anywhere, to a tenth, {', '.join(parts)}."


def _find(rows: Rows, **what: str) -> Mapping[str, Any]:
    """The row that says so."""
    return next(row for row in rows if all(row[key] == value for key, value in what.items()))


def _range(row: Mapping[str, Any], name: str, digits: int, *, sign: bool = False) -> str:
    """A number and its interval."""
    if any(row[f"{name}{end}"] is None for end in ("", "_low", "_high")):
        return "an unknown amount"
    kind = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (format(row[f"{name}{end}"], kind) for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"
