"""What is known of a galaxy besides its posterior: the truth, or the literature."""

from __future__ import annotations

import numpy as np
from astropy.table import QTable

from galstress.report.quantities import plain_column, to_magnitude
from galstress.report.records import GalaxySet

__all__ = ["list_references", "word_reference"]


def list_references(galaxies: GalaxySet, row: int) -> dict[str, dict[str, float]]:
    """What else is known of a galaxy: the truth where it is simulated, the literature where a catalogue has it.

    Returns:
        By source, values of outputs by name, and ``ellipticity``; sources that know nothing are left out.
    """
    names = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy", "mag_ab", "e1", "e2")
    truth, catalogue = galaxies.cutouts.truth, galaxies.cutouts.catalogue
    found: dict[str, dict[str, float]] = {}
    if truth is not None:
        found["truth"] = {name: float(plain_column(truth, name)[row]) for name in names if name in truth.colnames}
    known = {
        name: float(plain_column(catalogue, f"lit_{name}")[row])
        for name in names
        if f"lit_{name}" in catalogue.colnames
    }
    if not _is_consistent(catalogue, row):
        known.pop("bulge_to_total", None)
    ratio = float(plain_column(catalogue, "lit_axis_ratio")[row]) if "lit_axis_ratio" in catalogue.colnames else np.nan
    if np.isfinite(ratio):
        known["ellipticity"] = (1 - ratio) / (1 + ratio)
    source = "literature"
    if "lit_source" in catalogue.colnames:
        source = str(catalogue["lit_source"][row]) or source
    found[source] = known
    for values in found.values():
        if "mag_ab" not in values and "flux_njy" in values:
            values["mag_ab"] = float(to_magnitude(values["flux_njy"]))
        if "e1" in values and "e2" in values:
            values["ellipticity"] = float(np.hypot(values["e1"], values["e2"]))
    return {name: values for name, values in found.items() if any(np.isfinite(value) for value in values.values())}


def _is_consistent(catalogue: QTable, row: int) -> bool:
    """Whether a catalogue trusts its own B/T; where it does not say so, it does."""
    column = "lit_bt_consistent"
    return column not in catalogue.colnames or str(catalogue[column][row]) not in ("False", "0", "0.0", "--")


def word_reference(values: dict[str, float]) -> str:
    """What a source says, in words.

    Example:
        >>> word_reference({"bulge_to_total": 0.36, "mag_ab": 17.251, "e1": 0.1})
        'B/T 0.36, magnitude 17.25'
    """
    shown = {
        "bulge_to_total": "B/T {:.2f}",
        "half_light_radius_arcsec": "radius {:.3g}″",
        "mag_ab": "magnitude {:.2f}",
        "ellipticity": "|e| {:.2f}",
    }
    known = {name: values.get(name, np.nan) for name in shown}
    return ", ".join(text.format(known[name]) for name, text in shown.items() if np.isfinite(known[name]))
