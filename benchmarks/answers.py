"""What network, refinement and limit say of some galaxies, as parts of a benchmark.

Outputs are kept in the terms of their errors: logarithms of radii, fluxes and indices, the others as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.table import QTable

from galstress.cutouts import Cutouts, Flag
from galstress.heads import OUTPUTS, Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import limit, refine
from galstress.refinement.exact import SKY_SIGMA
from galstress.refinement.sampling import ROUNDS
from galstress.scores import bias, is_ratio, truth_values
from parts import Ledger, Part

__all__ = [
    "DRAWS",
    "NAMES",
    "measure_three",
    "say_limit",
    "say_samples",
    "semi_major",
    "share",
    "summarise",
    "timed",
    "to_plain",
    "to_terms",
    "true_terms",
]

NAMES = tuple(OUTPUTS)
DRAWS = 512
_RATIO = np.array([is_ratio(name) for name in NAMES])


def to_terms(values: np.ndarray) -> np.ndarray:
    """(..., D) outputs in the terms of their errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(_RATIO, np.log(values), values)


def to_plain(terms: np.ndarray) -> np.ndarray:
    """The inverse."""
    return np.where(_RATIO, np.exp(np.where(_RATIO, terms, 0.0)), terms)


def true_terms(truth: QTable | None) -> np.ndarray:
    """(N, D) true outputs in the terms of their errors."""
    assert truth is not None
    return to_terms(truth_values(truth, NAMES, [unit for unit, _ in OUTPUTS.values()]))


def semi_major(values: np.ndarray) -> np.ndarray:
    """(...) semi-major half-light radius of the whole, R / sqrt(q), of (..., D) outputs."""
    e1, e2, radius = (values[..., NAMES.index(name)] for name in ("e1", "e2", "half_light_radius_arcsec"))
    size = np.hypot(e1, e2)
    return radius * np.sqrt((1 + size) / (1 - size))


def share(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis: of zeros and ones, the share of ones."""
    return values.mean(-1)


def summarise(prediction: Prediction, who: str, seed: int, seconds: float | None = None) -> Part:
    """Mean, median and standard deviation of each output in the terms of its error, flags, checks, seconds."""
    drawn = to_terms(prediction.sample(DRAWS, seed))
    part = {f"{who}_mean": drawn.mean(0), f"{who}_median": np.median(drawn, 0), f"{who}_std": drawn.std(0)}
    part[f"{who}_flags"] = prediction.flags
    if seconds is not None:
        part[f"{who}_seconds"] = np.full(len(prediction), seconds / len(prediction))
    for name in ("effective_samples", "chi_square"):
        values = getattr(prediction, name)
        if values is not None:
            part[f"{who}_{name}"] = values
    return part


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def measure_three(network: Network, cutouts: Cutouts, found: Prediction | None, prior: str, seed: int) -> Part:
    """Network, refined and limits of some galaxies."""
    if found is None:
        found = predict(network, cutouts)
    refined, spent = timed(lambda: refine(found, cutouts, prior, seed=seed % 10_000))
    part = summarise(found, "network", seed) | summarise(refined, "refined", seed, spent)
    part["truth"] = true_terms(cutouts.truth)
    started, spent = timed(lambda: limit(cutouts, "bayes", prior=prior, seed=seed % 10_000 + 1))
    # of a log-normal distribution (sigma / mean)^2 = exp(s^2) - 1
    bound = _limits(started)
    part["bayes"] = np.where(_RATIO, np.sqrt(np.log1p((bound / refined.mean) ** 2)), bound)
    part["bayes_effective_samples"] = np.asarray(started["effective_samples"], float)
    part["bayes_seconds"] = np.full(len(cutouts), spent / len(cutouts))
    bound = _limits(limit(cutouts, "cramer-rao", sky_sigma=SKY_SIGMA))
    part["cramer_rao"] = bound / np.where(_RATIO, to_plain(part["truth"]), 1.0)
    return part


def _limits(table: QTable) -> np.ndarray:
    """(N, D) limits in the outputs' units."""
    return np.stack([np.asarray(getattr(table[name], "value", table[name]), float) for name in NAMES], -1)


def say_samples(ledger: Ledger, sample: str, part: Part, who: str = "refined") -> None:
    """Effective samples of a refined sample, and how many are flagged."""
    effective = part[f"{who}_effective_samples"]
    flagged = (part[f"{who}_flags"] & int(Flag.FEW_SAMPLES)) != 0
    bad = (part[f"{who}_flags"] & int(Flag.BAD_FIT)) != 0
    ledger.measure(sample, "effective samples, median", who, bias, effective, note=f"bar 20 % of {sum(ROUNDS)}")
    few = (effective < 100).astype(float)
    ledger.measure(sample, "share below 100 effective samples", who, share, few, note="bar 0.05")
    ledger.measure(sample, "share below 100 and not flagged", who, share, (few * ~flagged), note="bar 0")
    ledger.measure(sample, "share flagged as a bad fit", who, share, bad.astype(float), note="expect 0")
    for one in ("network", who):
        if f"{one}_seconds" in part:
            seconds = part[f"{one}_seconds"]
            ledger.add(sample, "seconds a galaxy", one, float(seconds.mean()), len(seconds))


def say_limit(ledger: Ledger, sample: str, part: Part) -> None:
    """How many limits are trusted, and their time."""
    effective = part["bayes_effective_samples"]
    few = (effective < 100).astype(float)
    ledger.measure(sample, "share below 100 effective samples", "bayes", share, few, note="left out")
    ledger.add(sample, "seconds a galaxy", "bayes", float(part["bayes_seconds"].mean()), len(effective))
