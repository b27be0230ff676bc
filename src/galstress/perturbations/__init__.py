"""Changes of Cutouts by a physical amount, each with the rule of how the truth moves.

To add one: write a function ``(cutouts, amount, rng) -> Cutouts`` and a line in the table.
"""

from __future__ import annotations

from galstress.errors import UnknownNameError
from galstress.perturbations.depth import shorten_exposure
from galstress.perturbations.perturbation import Perturbation
from galstress.perturbations.redrawing import redraw_redshifted, redraw_turned
from galstress.perturbations.redshift import ASSUMED_REDSHIFT, Redshift, is_redshift_assumed, move_by_redshift
from galstress.perturbations.rotation import move_by_angle, move_by_quarters, rotate_pixels, turn_by_quarters
from galstress.perturbations.seeing import widen_psf
from galstress.perturbations.shrinking import shrink_pixels

__all__ = ["PERTURBATIONS", "Perturbation", "Redshift", "choose_perturbations"]

_TURN_10 = tuple(float(angle) for angle in range(0, 360, 10))
_ADDED_Z = (0.0, 0.1, 0.2, 0.4, 0.6, 0.9)
_START = f"z = {ASSUMED_REDSHIFT:g} before the move"
_TURN_30 = tuple(float(angle) for angle in range(0, 360, 30))

PERTURBATIONS: dict[str, Perturbation] = {
    entry.name: entry
    for entry in (
        Perturbation(
            "quarter-turns", "rotation", "", 0, tuple(map(float, range(8))), turn_by_quarters,
            "Exact quarter turns and mirrors of the pixels; nothing is interpolated.", move_by_quarters,
            allowed=lambda amount: amount in range(8), allowed_amounts="a whole number from 0 to 7",
        ),
        Perturbation(
            "interpolated-rotation", "rotation", "deg", 0, _TURN_30, rotate_pixels,
            "The pixels turned by interpolation, PSF and all; the noise becomes correlated.", move_by_angle,
        ),
        Perturbation(
            "redrawn-rotation", "rotation", "deg", 0, _TURN_10, redraw_turned,
            "The same simulated galaxy drawn again at another angle, under the same PSF and noise.", move_by_angle,
            needs_truth=True,
        ),
        Perturbation(
            "depth", "depth", "exposure", 1, (1.0, 0.5, 0.25, 0.125, 0.0625), shorten_exposure,
            "The same sky in a share of the exposure time.",
            allowed=lambda amount: 0 < amount <= 1, allowed_amounts="a share above 0 and at most 1: never deeper",
        ),
        Perturbation(
            "redrawn-redshift", "redshift", "added z", 0, _ADDED_Z, redraw_redshifted,
            f"The same simulated field drawn again farther away, same rest-frame band; {_START} if unknown.",
            move_by_redshift, needs_truth=True, allowed=lambda amount: 0 <= amount <= 20,
            allowed_amounts="a redshift to add, 0 to 20: never nearer", assumed=is_redshift_assumed, assumption=_START,
        ),
        Perturbation(
            "pixel-redshift", "redshift", "added z", 0, _ADDED_Z, shrink_pixels,
            f"The pixels shrunk and dimmed, the survey's PSF and noise restored; {_START} if unknown.",
            move_by_redshift, allowed=lambda amount: 0 <= amount <= 20,
            allowed_amounts="a redshift to add, 0 to 20: never nearer", assumed=is_redshift_assumed, assumption=_START,
        ),
        Perturbation(
            "psf-width", "psf-width", "FWHM", 1, (1.0, 1.1, 1.25, 1.5, 2.0), widen_psf,
            "The pixels convolved to a PSF of so many times the FWHM, the survey's noise restored.",
            allowed=lambda amount: 1 <= amount <= 10, allowed_amounts="a factor from 1 to 10: never sharper",
        ),
    )
}  # fmt: skip
"""Every perturbation by its name."""


def choose_perturbations(names: tuple[str, ...] | list[str] | str) -> tuple[Perturbation, ...]:
    """Perturbations by name or by axis (``rotation`` stands for its three), in the order given, each once.

    Raises:
        UnknownNameError: No perturbation and no axis has that name.

    Example:
        >>> [p.name for p in choose_perturbations(["depth", "rotation"])]
        ['depth', 'quarter-turns', 'interpolated-rotation', 'redrawn-rotation']
    """
    chosen: dict[str, Perturbation] = {}
    for name in (names,) if isinstance(names, str) else names:
        found = [entry for entry in PERTURBATIONS.values() if name in (entry.name, entry.axis)]
        if not found:
            known = {label for entry in PERTURBATIONS.values() for label in (entry.name, entry.axis)}
            raise UnknownNameError("perturbation", name, tuple(known))
        chosen |= {entry.name: entry for entry in found}
    return tuple(chosen.values())
