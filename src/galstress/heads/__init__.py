"""Heads, and the record of what they predict."""

from galstress.heads.flow import FlowHead
from galstress.heads.galaxy import INTERNAL_NAMES, GalaxyHead, Reference, from_internal, to_internal, turn_internal
from galstress.heads.outputs import OUTPUTS, derive_outputs, list_outputs
from galstress.heads.points import draw_points, moment_points
from galstress.heads.record import Prediction

__all__ = [
    "INTERNAL_NAMES",
    "OUTPUTS",
    "FlowHead",
    "GalaxyHead",
    "Prediction",
    "Reference",
    "derive_outputs",
    "draw_points",
    "from_internal",
    "list_outputs",
    "moment_points",
    "to_internal",
    "turn_internal",
]
