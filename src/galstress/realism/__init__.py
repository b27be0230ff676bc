"""A realistic target domain: real Hubble galaxies observed again by another survey, in drawn noise or in real sky.

Masked galaxies are completed by a smooth model (:func:`load_templates`), put into another survey's pixels, PSF and
depth at any angle (:func:`reobserve`), with that survey's own sky around them if wanted (:func:`load_skies`), split
by galaxy (:func:`observe_halves`), and checked against their originals (:func:`check_degraded`).
"""

from galstress.realism.degradation import check_degraded
from galstress.realism.domain import Domain, observe_halves
from galstress.realism.records import Templates
from galstress.realism.reobservation import find_usable, largest_magnification, reobserve
from galstress.realism.sky import load_skies
from galstress.realism.templates import load_templates, make_templates

__all__ = [
    "Domain",
    "Templates",
    "check_degraded",
    "find_usable",
    "largest_magnification",
    "load_skies",
    "load_templates",
    "make_templates",
    "observe_halves",
    "reobserve",
]
