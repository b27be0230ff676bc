"""Does fine-tuning pay? Out-of-fold errors beside the untouched network and its linear recalibration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray
from rich.progress import track

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.finetuning.answers import told_by
from galstress.finetuning.labels import read_labels
from galstress.finetuning.quantities import Quantities, choose_quantities
from galstress.finetuning.splitting import deal_folds, read_groups
from galstress.finetuning.tuning import Tuning, find_usable, finetune
from galstress.finetuning.turning import choose_side, trim
from galstress.networks import Network
from galstress.scores import error_68, rms

__all__ = ["Comparison", "cross_validate"]

UNTOUCHED, RECALIBRATED = "untouched", "recalibrated"
_FEWEST = 5
"""Labels of a quantity, below which it is not compared."""
_COUNT = 1000
"""Resamplings of a bootstrap."""
_LEVEL, _DECIDES = 0.68, 0.95
"""Probabilities of the intervals of errors, and of the differences that decide."""
_ALL = "all"

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What :func:`cross_validate` found."""

    table: QTable
    """A row a ``method`` and ``quantity``: ``count``, ``rms``, ``error_68`` with their 68 % intervals, and
    ``rms_difference``, ``error_68_difference``: less those of the recalibration, paired, with 95 % intervals. In rows
    of quantity ``all`` these two are the mean ln ratio over the quantities instead."""
    values: QTable
    """A row an object: ``object_id``, ``fold``, ``label_QUANTITY`` and ``METHOD_QUANTITY``, all out of fold."""
    best: str
    """The policy with the smallest rms, by the mean ln ratio over the quantities."""
    sentence: str
    """Whether fine-tuning beats the recalibration out of fold, in words."""

    @property
    def beats(self) -> bool:
        """Whether the best policy's whole interval of the mean ln ratio of rms lies below the recalibration's."""
        row = self.table[(self.table["method"] == self.best) & (self.table["quantity"] == _ALL)][0]
        return bool(row["rms_difference_high"] < 0)


def cross_validate(
    network: Network,
    cutouts: Cutouts,
    labels: QTable | None = None,
    *,
    policies: Sequence[str] = ("head", "last:1", "norm", "layerwise", "all"),
    groups: Sequence[str] | None = None,
    tuning: Tuning | None = None,
    seed: int = 1,
    checkpoints: Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Predict every labelled galaxy by a network that has seen others only, in several ways.

    Arguments:
        network: Left as it is.
        cutouts: As :func:`galstress.finetuning.finetune` takes them; every method sees the same central part.
        labels: As there.
        policies: Policies to compare.
        groups: Name of the galaxy behind each cutout; images of one stay in one fold, and the bootstrap draws
            galaxies.
        tuning: Steps, rates, the number of folds, and the share of each training part that stops its run.
        seed: Of folds, runs and bootstrap.
        checkpoints: Folder for a checkpoint a policy and fold; the same call goes on from there.
        progress: Show how many of the runs are done, and the time left.

    The recalibration is one line (slope and intercept, by least squares) for each quantity, from the untouched
    network's medians to the labels of the training folds; B/T is kept within 0 and 1. Of a classifier the quantities
    are its probabilities, a label is 1 for its class, and the recalibration is :func:`heat_classes`.

    Raises:
        InputError: As :func:`finetune`; or no quantity has five labels.
    """
    tuning = tuning or Tuning()
    known, quantities = read_labels(labels, cutouts), choose_quantities(network.head)
    rows = np.flatnonzero(told_by(network.head, known).numpy() & find_usable(cutouts))
    numbers = read_groups(groups, cutouts.object_id)[rows]
    parts, learned = cutouts.select(rows), None if labels is None else labels[rows]
    label = quantities.label(known.select(rows), cutouts.survey)
    if not (np.isfinite(label).sum(0) >= _FEWEST).any():
        raise InputError(f"{len(rows)} labels", f"{_FEWEST} or more of a quantity", "label more galaxies")
    fold = deal_folds(numbers, tuning.folds, seed)
    side, _ = choose_side(int(min(cutouts.images.shape[1:])), tuning.side_px)
    seen = trim(parts, side)
    found = {UNTOUCHED: quantities.predict(network, seen)}
    found |= {name: np.full_like(label, np.nan) for name in (RECALIBRATED, *policies)}
    for number, policy in track(
        [(number, policy) for number in range(tuning.folds) for policy in policies],
        "cross-validating", disable=not progress, transient=True,
    ):  # fmt: skip
        inside, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        found[RECALIBRATED][out] = quantities.recalibrate(
            found[UNTOUCHED][inside], label[inside], found[UNTOUCHED][out]
        )
        tuned = finetune(
            network,
            parts.select(inside),
            None if learned is None else learned[inside],
            policy=policy,
            tuning=tuning,
            groups=numbers[inside].astype(str).tolist(),
            seed=seed,
            checkpoint=_checkpoint(checkpoints, policy, number),
        )
        found[policy][out] = quantities.predict(tuned.network, seen.select(out))
    table = _compare(found, label, numbers, quantities, seed)
    best = _choose_best(table, policies)
    values = QTable({"object_id": parts.object_id.astype(str), "fold": fold})
    for method, each in {"label": label, **found}.items():
        for place, quantity in enumerate(quantities.words):
            values[f"{method}_{quantity}"] = each[:, place]
    return Comparison(table, values, best, _say(table, best, policies, tuning.folds, quantities))


def _checkpoint(folder: Path | None, policy: str, fold: int) -> Path | None:
    """The file of one run, in a folder that exists then."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{re.sub('[^a-z0-9.]', '-', policy)}-fold{fold}.safetensors"


def _compare(
    found: dict[str, Array], label: Array, groups: NDArray[np.int64], quantities: Quantities, seed: int
) -> QTable:
    """Errors of every method and quantity with their intervals, all from the same resamplings of galaxies."""
    rows: list[dict[str, Any]] = []
    changes: dict[str, list[Array]] = {method: [] for method in found}
    for place, quantity in enumerate(quantities.words):
        error = {method: each[:, place] - label[:, place] for method, each in found.items()}
        usable = np.all([np.isfinite(each) for each in error.values()], axis=0)
        if usable.sum() < _FEWEST:
            continue
        error = {method: each[usable] for method, each in error.items()}
        drawn = _resample(groups[usable], seed)
        sizes = {method: _sizes(each, drawn) for method, each in error.items()}
        for method, size in sizes.items():
            row: dict[str, Any] = {"method": method, "quantity": quantity, "count": int(usable.sum())}
            row |= _with_interval("rms", size[0], _LEVEL) | _with_interval("error_68", size[1], _LEVEL)
            change = size - sizes[RECALIBRATED]
            row |= _with_interval("rms_difference", change[0], _DECIDES)
            rows.append(row | _with_interval("error_68_difference", change[1], _DECIDES))
            with np.errstate(divide="ignore", invalid="ignore"):
                changes[method].append(np.log(size / sizes[RECALIBRATED]))
    for method, each in changes.items():
        mean = np.mean(each, axis=0)
        row = dict.fromkeys(rows[0], np.nan) | {"method": method, "quantity": _ALL, "count": len(label)}
        row |= _with_interval("rms_difference", mean[0], _DECIDES)
        rows.append(row | _with_interval("error_68_difference", mean[1], _DECIDES))
    return QTable(rows=rows)


def _resample(groups: NDArray[np.int64], seed: int) -> list[NDArray[np.int64]]:
    """Rows of each resampling: galaxies drawn with replacement, with all their images."""
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    # one seed for all quantities: a galaxy is drawn for all of them together where all are known
    drawn = np.random.default_rng(seed).integers(0, len(names), (_COUNT, len(names)))
    return [np.concatenate([members[place] for place in each]) for each in drawn]


def _sizes(error: Array, drawn: list[NDArray[np.int64]]) -> Array:
    """(2, 1 + n): rms and 68 % error, of the errors themselves and of each resampling."""
    parts = [error, *(error[rows] for rows in drawn)]
    return np.array([[float(statistic(part)) for part in parts] for statistic in (rms, error_68)])


def _with_interval(name: str, sizes: Array, level: float) -> dict[str, float]:
    """The first entry with the interval of the others."""
    low, high = np.quantile(sizes[1:], [(1 - level) / 2, (1 + level) / 2])
    return {name: float(sizes[0]), f"{name}_low": float(low), f"{name}_high": float(high)}


def _choose_best(table: QTable, policies: Sequence[str]) -> str:
    """The policy with the smallest mean ln ratio of rms."""
    size = {row["method"]: row["rms_difference"] for row in table if row["quantity"] == _ALL}
    return min(policies, key=lambda policy: float(size[policy]))


def _say(table: QTable, best: str, policies: Sequence[str], folds: int, quantities: Quantities) -> str:
    """Whether fine-tuning beats the recalibration, quantity by quantity and over all."""
    parts, whole = [], ""
    for row in table[table["method"] == best]:
        change, low, high = (float(row[f"rms_difference{end}"]) for end in ("", "_low", "_high"))
        if row["quantity"] != _ALL:
            before = float(row["rms"]) - change
            parts.append(
                f"{quantities.words[row['quantity']]} rms {float(row['rms']):.3f} against {before:.3f} "
                f"(difference {change:+.3f}, {low:+.3f} to {high:+.3f}, N = {row['count']})"
            )
            continue
        verdict = "beats" if high < 0 else "is beaten by" if low > 0 else "does not beat"
        whole = f"{best} {verdict} {quantities.recalibration}"
    chosen = f" (the best of {len(policies)} policies on the same folds)" if len(policies) > 1 else ""
    return f"Out of fold ({folds} folds), fine-tuning by {whole}{chosen}: {'; '.join(parts)}."
