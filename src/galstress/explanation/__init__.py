"""What a network looks at: maps of one output, activations of any layer, and the patterns that filters respond to."""

from galstress.explanation.activations import list_layers, pool_activations, record_activations
from galstress.explanation.maps import explain, with_random_weights
from galstress.explanation.patterns import Patterns, ascend
from galstress.explanation.record import BASELINES, Explanation

__all__ = [
    "BASELINES",
    "Explanation",
    "Patterns",
    "ascend",
    "explain",
    "list_layers",
    "pool_activations",
    "record_activations",
    "with_random_weights",
]
