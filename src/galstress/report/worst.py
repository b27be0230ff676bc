"""The ten galaxies that went worst, and why, as far as the records can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from galstress.heads import CLASSES, Classes, classify
from galstress.report.galaxies import Galaxy
from galstress.report.quantities import describe_output, median_and_interval, quantiles_of, to_magnitude
from galstress.report.records import GalaxySet
from galstress.report.references import list_references
from galstress.report.section import DataTable, Section, absent

__all__ = ["report_worst"]

_FLAG_REASONS = {
    "OUT_OF_DOMAIN": "outside what the network was trained on",
    "FAINT": "too faint for the network",
    "CENTRE_MASKED": "its centre is masked",
    "OFF_CENTRE": "off the stamp's centre",
    "SKY_ZEROED": "its sky was set to zero, so little is left outside the galaxy",
    "SKY_UNCERTAIN": "too little empty sky to measure the noise",
    "PADDED": "its image is smaller than the stamp",
    "PSF_ASSUMED": "its PSF is assumed",
    "VARIANCE_ESTIMATED": "its noise is estimated",
    "ZERO_POINT_ASSUMED": "its zero point is assumed",
    "NON_FINITE": "pixels are missing",
}


def report_worst(sets: Sequence[GalaxySet], described: Sequence[Sequence[Galaxy]], most: int = 10) -> Section:
    """The worst of all galaxies on the page.

    Arguments:
        sets: From the records.
        described: The same galaxies as :func:`galstress.report.galaxies.describe_galaxies` gives them.
        most: How many are listed.
    """
    key, title = "worst", "The worst ten"
    complaints = []
    for galaxies, cards in zip(sets, described, strict=True):
        quantiles = quantiles_of(galaxies.prediction, [0.16, 0.5, 0.84])
        for card in cards:
            badness, what = _complain(galaxies, card, quantiles)
            if badness > 0:
                complaints.append((badness, card, what))
    if not complaints:
        return absent(key, title, "No galaxy stands out, or nothing is known to compare with.")
    complaints.sort(key=lambda entry: -entry[0])
    rows = tuple(
        (card.object_id, card.set_name, what, _give_reasons(card) if badness > 2 else "within its error bars")
        for badness, card, what in complaints[:most]
    )
    lead = (
        "Of all galaxies on this page, those that disagree most: with the truth (simulated) or the literature (real; "
        "B/T and magnitude only), in units of the posterior's sigma (of a class, √(−2 ln p)), or with their own image, "
        "by chi-square. The reasons are what the records show about each, not a proof."
    )
    columns = ("galaxy", "set", "what is wrong", "likely reasons")
    return Section(key, title, lead, tables=(DataTable(columns, rows, prose=True),))


def _complain(galaxies: GalaxySet, card: Galaxy, quantiles: np.ndarray) -> tuple[float, str]:
    """How bad, in sigma, and in what way."""
    if isinstance(galaxies.prediction, Classes):
        return _complain_of_class(galaxies, galaxies.prediction, card.row)
    names, row = galaxies.prediction.names, card.row
    worst, what = 0.0, ""
    for source, values in list_references(galaxies, row).items():
        for name in ("bulge_to_total", "half_light_radius_arcsec", "mag_ab"):
            if name == "half_light_radius_arcsec" and source != "truth":
                continue  # a catalogue's radius is another quantity
            if name == "mag_ab" and source != "truth" and galaxies.zero_point_note:
                continue
            known = values.get(name, math.nan)
            column = "flux_njy" if name == "mag_ab" else name
            interval = median_and_interval(quantiles, names, column)[:, row]
            low, middle, high = sorted(to_magnitude(interval)) if name == "mag_ab" else interval
            # Nothing is known to better than a hundredth, whatever a posterior at the edge of its range says.
            sigma = max((high - low) / 2, 0.01 * middle if name == "half_light_radius_arcsec" else 0.01)
            pull = abs(middle - known) / sigma
            if math.isfinite(pull) and pull > worst:
                label = "magnitude" if name == "mag_ab" else describe_output(name).label
                worst, what = pull, f"{label} {middle:.2f} ± {sigma:.2f}, {source} {known:.2f}: {pull:.1f}σ"
    # Chi-square a pixel of 1 is perfect; its excess, as a root, stands beside pulls.
    excess = math.sqrt(max(card.chi_square - 1, 0)) if math.isfinite(card.chi_square) else 0.0
    if 2 * excess > worst:
        return 2 * excess, f"reduced χ² {card.chi_square:.1f}: the model does not look like the image"
    return worst, what


def _complain_of_class(galaxies: GalaxySet, said: Classes, row: int) -> tuple[float, str]:
    """How surprised a classifier is by what is known, sqrt(-2 ln p) as of a Gaussian, and in what way."""
    worst, what, shares = 0.0, "", said.probabilities[row]
    for source, values in list_references(galaxies, row).items():
        share = values.get("bulge_to_total", math.nan)
        place = int(classify(torch.tensor([share]))[0])
        if place < 0 or not np.isfinite(shares).all() or shares.argmax() == place:
            continue
        pull = math.sqrt(-2 * math.log(max(float(shares[place]), 1e-6)))
        if pull > worst:
            called = CLASSES[int(shares.argmax())]
            words = f"p({called}) {shares.max():.2f}, {source} B/T {share:.2f}: {CLASSES[place]}, "
            worst, what = pull, f"{words}which it gave {shares[place]:.3f}"
    return worst, what


def _give_reasons(card: Galaxy) -> str:
    """What the records show that may be behind it."""
    reasons = [text for flag, text in _FLAG_REASONS.items() if flag in card.flags]
    if card.crowded > 0.03:
        reasons.append(f"neighbours dominate {100 * card.crowded:.0f} % of the pixels within three radii")
    if card.radius_arcsec < card.psf_fwhm_arcsec / 2:
        reasons.append("smaller than its PSF")
    if math.isfinite(card.snr) and card.snr < 30:
        reasons.append(f"faint, S/N {card.snr:.0f}")
    if math.isfinite(card.chi_square) and card.chi_square > 1.5:
        reasons.append("structure beyond disk and bulge (arms, bar, dust), or a wrong PSF")
    return "; ".join(reasons) or "none found in the records"
