"""Heads, and the record of what they predict."""

from galstress.heads.galaxy import INTERNAL_NAMES, GalaxyHead, Reference, from_internal, to_internal, turn_internal
from galstress.heads.record import OUTPUTS, Prediction

__all__ = [
    "INTERNAL_NAMES",
    "OUTPUTS",
    "GalaxyHead",
    "Prediction",
    "Reference",
    "from_internal",
    "to_internal",
    "turn_internal",
]
