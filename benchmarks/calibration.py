"""Calibration of posteriors that are kept as quantiles and a few draws, since 20,000 of them with all draws are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.table import QTable

from answers import NAMES
from galstress.heads import OUTPUTS, Prediction
from galstress.scores import (
    bootstrap,
    count_covered,
    coverage_curve,
    coverage_table,
    place_among_quantiles,
    predicted_bins,
    rank_uniformity,
    tarp,
)
from parts import Ledger, Part, write_table

__all__ = ["judge", "keep"]

LEVELS = (0.68, 0.95, 0.997)
GRID = np.unique(
    np.concatenate([[0.0005, 0.0015, 0.005], [0.025, 0.16, 0.84, 0.975], np.linspace(0.01, 0.99, 99)]).round(12)
)
GRID = np.unique(np.concatenate([GRID, 1 - GRID]).round(12))
"""All probabilities that a table of coverage asks for."""
_DRAWS = 127
_TARP_MOST = 10_000


def keep(prediction: Prediction, who: str, seed: int) -> Part:
    """Quantiles (N, G, D) and 127 draws (N, n, D) of a prediction, float32."""
    quantiles = prediction.quantile(GRID.tolist()).transpose(1, 0, 2)
    drawn = prediction.sample(_DRAWS, seed).transpose(1, 0, 2)
    return {f"{who}_quantiles": quantiles.astype(np.float32), f"{who}_draws": drawn.astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Kept:
    """A posterior of which quantiles on a grid are left."""

    quantiles: np.ndarray
    """(N, G, D) at the probabilities of the grid."""
    names: tuple[str, ...] = NAMES
    """D outputs."""
    units: tuple[str, ...] = tuple(unit for unit, _ in OUTPUTS.values())
    """Their units."""

    def quantile(self, p: Sequence[float]) -> np.ndarray:
        """(len(p), N, D) quantiles; between the grid's probabilities along straight lines."""
        place = np.interp(np.asarray(p, float), GRID, np.arange(len(GRID)))
        low = np.minimum(place.astype(int), len(GRID) - 2)
        part = (place - low)[:, None, None]
        below, above = (self.quantiles[:, at].transpose(1, 0, 2) for at in (low, low + 1))
        return np.where(part < 1e-6, below, np.where(part > 1 - 1e-6, above, below + part * (above - below)))


def judge(ledger: Ledger, out: Path, sample: str, part: Part, seed: int) -> None:
    """Coverage overall and in bins, simulation-based calibration and TARP of network and refined.

    Arguments:
        ledger: Takes the figures.
        out: The record; whole tables go beside it.
        sample: What the galaxies are.
        part: ``truth`` (N, D) and, of each, what :func:`keep` gives.
        seed: Of bootstrap and ties.
    """
    true = part["truth"].astype(np.float32).astype(float)  # as the draws are kept, so that ties stay ties
    table = _truth_table(true)
    tables: dict[str, list[QTable]] = {"bins": [], "curve": [], "ranks": []}
    for who in ("network", "refined"):
        quantiles, draws = part[f"{who}_quantiles"], part[f"{who}_draws"].transpose(1, 0, 2)
        _say_overall(ledger, sample, who, true, quantiles)
        kept = Kept(quantiles)
        medians = quantiles[:, int(np.argmin(np.abs(GRID - 0.5)))]
        bins = predicted_bins(NAMES, medians, minimum=min(5000, max(len(true) // 4, 1)))
        cells = coverage_table(kept, table, bins, levels=LEVELS)
        binned = cells[cells["by"] != ""]
        note = "within 2 points and 2 sigma, bins of predicted magnitude, radius, B/T"
        good = np.asarray(binned["passes"], float)
        ledger.add(sample, "share of coverage cells that pass", who, float(good.mean()), len(good), note)
        worst = binned[int(np.argmax(np.abs(binned["deviation"])))]
        note = f"{worst['output']} at {worst['level']}, {worst['by']} {worst['bin_low']:.3g} to {worst['bin_high']:.3g}"
        ledger.add(sample, "largest deviation of a cell", who, float(worst["deviation"]), int(worst["count"]), note)
        ranks = rank_uniformity(true, draws, NAMES, seed=seed)
        for row in ranks:
            figures = f"mean {row['mean']:.3f}, spread {row['spread']:.3f}"
            ledger.add(sample, f"SBC p, {row['output']}", who, float(row["ks_p"]), int(row["count"]), figures)
        curve = tarp(true[:_TARP_MOST], draws[:, :_TARP_MOST], seed=seed)
        at = int(np.argmax(np.abs(curve.coverage - curve.levels)))
        interval = tuple(float(values[at] - curve.levels[at]) for values in (curve.coverage, curve.low, curve.high))
        note = f"bar 0.02; 95 % band; chance gives {1.36 / np.sqrt(curve.count):.3f}; p {curve.ks_p:.2g}"
        ledger.add(sample, "TARP, largest deviation", who, interval, curve.count, note)
        found = {"bins": cells, "curve": coverage_curve(true, draws, names=NAMES, seed=seed), "ranks": ranks}
        for name, rows in found.items():
            rows["who"] = who
            tables[name].append(rows)
    for name, both in tables.items():
        write_table(_stacked(both), out.with_name(f"{out.stem}-{name}.ecsv"))


def _say_overall(ledger: Ledger, sample: str, who: str, true: np.ndarray, quantiles: np.ndarray) -> None:
    """Coverage of every output over all galaxies."""
    for at, name in enumerate(NAMES):
        place = place_among_quantiles(true[:, at], GRID, quantiles[..., at].T)
        for level in LEVELS:
            covered = count_covered(place, level)
            covered = covered[np.isfinite(covered)]
            allowed = 0.01 + 2 * np.sqrt(level * (1 - level) / max(len(covered), 1))
            interval = bootstrap(lambda x: x.mean(-1), covered, seed=ledger.seed)
            verdict = "met" if abs(float(interval.value) - level) <= allowed else "missed"
            note = f"bar {level} +- {allowed:.4f}: {verdict}"
            ledger.add(sample, f"coverage {level}, {name}", who, interval, len(covered), note)


def _truth_table(true: np.ndarray) -> QTable:
    """The truth as a table of outputs."""
    return QTable({name: true[:, at] for at, name in enumerate(NAMES)})


def _stacked(tables: list[QTable]) -> QTable:
    """Rows of both."""
    from astropy.table import vstack

    return vstack(tables, metadata_conflicts="silent")
