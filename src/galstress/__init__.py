"""Crash tests for galaxy-morphology networks.

Simulate galaxies as a survey sees them, train networks on them, measure with calibrated
posteriors, stress any network in physical units, and put it all on one page.

Names are loaded when they are first used, so ``import galstress`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Cutouts",
    "Flag",
    "GalstressError",
    "InputError",
    "Network",
    "Prediction",
    "Survey",
    "UnknownNameError",
    "__version__",
    "available_surveys",
    "build_report",
    "datasets",
    "decode_flags",
    "explain",
    "finetune",
    "fit",
    "limit",
    "load",
    "networks",
    "predict",
    "refine",
    "simulate",
    "stress",
    "train",
]

_HOMES = {
    "Cutouts": "cutouts",
    "Flag": "cutouts",
    "decode_flags": "cutouts",
    "GalstressError": "errors",
    "InputError": "errors",
    "UnknownNameError": "errors",
    "Network": "networks",
    "Prediction": "heads",
    "Survey": "survey",
    "available_surveys": "survey",
    "build_report": "report",
    "explain": "explanation",
    "finetune": "finetuning",
    "fit": "refinement",
    "limit": "refinement",
    "refine": "refinement",
    "load": "loading",
    "predict": "prediction",
    "simulate": "simulation",
    "stress": "battery",
    "train": "training",
}
_MODULES = ("datasets", "networks")

if TYPE_CHECKING:
    from galstress import datasets, networks
    from galstress.battery import stress
    from galstress.cutouts import Cutouts, Flag, decode_flags
    from galstress.errors import GalstressError, InputError, UnknownNameError
    from galstress.explanation import explain
    from galstress.finetuning import finetune
    from galstress.heads import Prediction
    from galstress.loading import load
    from galstress.networks import Network
    from galstress.prediction import predict
    from galstress.refinement import fit, limit, refine
    from galstress.report import build_report
    from galstress.simulation import simulate
    from galstress.survey import Survey, available_surveys
    from galstress.training import train


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any public name)
    """Import a public name's module when the name is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"galstress.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"galstress.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'galstress' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, for completion."""
    return list(__all__)
