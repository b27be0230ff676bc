"""Heads, and the record of what they predict."""

from galstress.heads.answer import Answer
from galstress.heads.classes import CLASS_EDGES, CLASSES, Classes, ClassHead, classes_of, classify
from galstress.heads.flow import FlowHead
from galstress.heads.galaxy import INTERNAL_NAMES, GalaxyHead, Reference, from_internal, to_internal, turn_internal
from galstress.heads.outputs import OUTPUTS, derive_outputs, list_outputs
from galstress.heads.points import draw_points, moment_points
from galstress.heads.reading import Said, read_prediction
from galstress.heads.record import Prediction
from galstress.heads.triple import TRIPLE, Samples, TripleHead

__all__ = [
    "CLASSES",
    "CLASS_EDGES",
    "INTERNAL_NAMES",
    "OUTPUTS",
    "TRIPLE",
    "Answer",
    "ClassHead",
    "Classes",
    "FlowHead",
    "GalaxyHead",
    "Prediction",
    "Reference",
    "Said",
    "Samples",
    "TripleHead",
    "classes_of",
    "classify",
    "derive_outputs",
    "draw_points",
    "from_internal",
    "list_outputs",
    "moment_points",
    "read_prediction",
    "to_internal",
    "turn_internal",
]
