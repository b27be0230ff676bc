"""How good a network is on fresh simulated galaxies: errors and coverage, isolated and with neighbours."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import QTable, vstack

from galstress.cutouts import Flag
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.scores import Bins, accuracy_table, coverage_table, predicted_bins
from galstress.simulation import simulate

__all__ = ["SNR_EDGES", "Evaluation", "evaluate"]

SNR_EDGES = (20.0, 50.0, 100.0, 300.0, np.inf)
"""Bins of signal-to-noise."""
_DRAWS = 400
"""Draws for those outputs of a component that have no exact quantiles; saves time."""


@dataclasses.dataclass(frozen=True)
class _Pooled:
    """Predictions of several surveys as one posterior, for scores."""

    parts: tuple[Prediction, ...]
    """One or more."""

    @property
    def names(self) -> tuple[str, ...]:
        """D outputs."""
        return self.parts[0].names

    @property
    def units(self) -> tuple[str, ...]:
        """Their units."""
        return self.parts[0].units

    def quantile(self, p: Sequence[float]) -> np.ndarray:
        """(len(p), N, D) quantiles of all objects, in the order of the parts."""
        return np.concatenate([part.quantile(p, _DRAWS) for part in self.parts], 1)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found."""

    accuracy: QTable
    """:func:`galstress.scores.accuracy_table` in bins of S/N, with ``survey``, ``population``, ``neighbours``."""
    coverage: QTable
    """:func:`galstress.scores.coverage_table` over all surveys, with ``neighbours``."""
    galaxies: int
    """How many were measured."""
    seconds: float
    """What measuring them took, one pass each, without drawing them."""


def evaluate(
    network: Network, populations: Mapping[str, str], count: int, seed: int, *, neighbours: bool, device: str = "cpu"
) -> Evaluation:
    """Draw fresh galaxies, measure them, and compare with the truth.

    Arguments:
        network: Any network.
        populations: Population by survey.
        count: Galaxies of each survey.
        seed: Of the galaxies; to be one that no training had.
        neighbours: Whether galaxies and stars stand beside them.
        device: Where to compute.

    Galaxies that the network itself flags as faint or outside of its domain are left out: a cut on what was
    measured, not on the truth. Bins of S/N are those of the noise-free model.
    """
    tables, parts, truths, measured, seconds = [], [], [], 0, 0.0
    for place, (survey, population) in enumerate(populations.items()):
        cutouts = simulate(survey, count, seed=seed + place, population=population, neighbours=neighbours)
        began = time.perf_counter()
        prediction = predict(network, cutouts, device=device)
        seconds, measured = seconds + time.perf_counter() - began, measured + len(cutouts)
        kept = prediction.usable & ((prediction.flags & int(Flag.FAINT | Flag.OUT_OF_DOMAIN)) == 0)
        assert cutouts.truth is not None
        part, truth = prediction.select(kept), cutouts.truth[kept]
        bins = Bins("snr", np.asarray(truth["snr"]), SNR_EDGES)
        table = accuracy_table(_Pooled((part,)), truth, [bins], seed=seed, count=100)
        tables.append(_labelled(table, survey=survey, population=population, neighbours=neighbours))
        parts.append(part)
        truths.append(truth)
    whole, truth = _Pooled(tuple(parts)), vstack(truths)
    # magnitude, radius and B/T, of which bins are made, have exact quantiles: they need no draws
    medians = np.concatenate([part.quantile([0.5], 2)[0] for part in parts])
    coverage = coverage_table(whole, truth, predicted_bins(whole.names, medians, most=3, minimum=300))
    return Evaluation(vstack(tables), _labelled(coverage, neighbours=neighbours), measured, seconds)


def _labelled(table: QTable, **labels: str | bool) -> QTable:
    """The table with a constant column for each label."""
    for name, value in labels.items():
        table[name] = np.full(len(table), value)
    return table
