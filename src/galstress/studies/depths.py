"""What blocks of looks say together: a table for each sentence about what a network looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galstress.scores import bootstrap
from galstress.studies.cells import round_number
from galstress.studies.probes import fit_probe, measure_auc, share_explained

__all__ = ["LEVEL", "PROBES", "SHARES", "judge_arms", "judge_focus", "judge_probes", "judge_segments"]

Array = NDArray[np.float64]
Rows = list[dict[str, Any]]

LEVEL = 0.95
"""Probability of all intervals."""
PROBES = {
    "ln_radius": "half-light radius",
    "ellipticity": "ellipticity",
    "bulge_to_total": "B/T",
    "arms": "arms or none",
}
"""What is read from activations, simplest first; the last is a yes or no, of disks."""
SHARES = ("network", "random weights", "centred Gaussian", "light", "area")
"""What has a share on the neighbours."""
_DISK = 0.45
_EDGE = 1e-6


def judge_arms(found: Mapping[str, Array], *, is_class: bool, seed: int) -> Rows:
    """How an answer changes where a disk with arms gets its azimuthal mean, beside the same of the smooth galaxy.

    Returns:
        A row a quantity (``p_disk`` and ``log_odds``, or ``bulge_to_total``) and kind: ``arms``, ``smooth``, and
        ``difference``, which is what the arms themselves do: mean change with interval, and how many changed.
    """
    rows: Rows = []
    armed = (found["bulge_to_total"] < _DISK) & (found["arms"] > 0)
    answer = found["answer"][armed]
    answer = answer[np.isfinite(answer).all(1)]
    quantities = {"p_disk": answer, "log_odds": _logit(answer)} if is_class else {"bulge_to_total": answer}
    for quantity, values in quantities.items():
        arms, smooth = values[:, 1] - values[:, 0], values[:, 3] - values[:, 2]
        for kind, change in {"arms": arms, "smooth": smooth, "difference": arms - smooth}.items():
            row: dict[str, Any] = {"quantity": quantity, "kind": kind, "galaxies": len(change)}
            rows.append(row | _interval("change", _mean, change, seed=seed))
    if is_class:
        for kind, (before, after) in {"arms": (0, 1), "smooth": (2, 3)}.items():
            lost = ((answer[:, before] >= 0.5) & (answer[:, after] < 0.5)).astype(float)
            row = {"quantity": "no longer a disk", "kind": kind, "galaxies": len(lost)}
            rows.append(row | _interval("change", _mean, lost, seed=seed))
    return rows


def _logit(values: Array) -> Array:
    """Log-odds of probabilities."""
    kept = values.clip(_EDGE, 1 - _EDGE)
    return np.log(kept / (1 - kept))


def judge_segments(found: Mapping[str, Array], *, seed: int) -> Rows:
    """How well first-layer maps tell the galaxy from the background.

    Sign, view and best channel are chosen on every second galaxy, and measured on the others.

    Returns:
        A row an ``of`` (``network``, ``random weights``, ``image``, ``image at the maps' resolution``) and a
        ``channel`` (``best``, ``median``): ``auc`` and ``iou`` with intervals.
    """
    rows: Rows = []
    for key, of in {"own": "network", "random": "random weights"}.items():
        auc, iou = _with_sign(found[f"auc {key}"], found[f"iou {key}"])
        rows += _judge_channels(auc, iou, of, seed)
    for place, of in enumerate(("image", "image at the maps' resolution")):
        auc, iou = (found[f"{name} image"][:, place : place + 1] for name in ("auc", "iou"))
        rows += _judge_channels(*_with_sign(auc, iou), of, seed)[:1]
    return rows


def _with_sign(auc: Array, iou: Array) -> tuple[Array, Array]:
    """(N / 2, C) measures of the galaxies that chose nothing, under the sign and view that the others chose."""
    chosen = _mean_of_known(auc[::2])  # (C, S)
    view = np.abs(chosen - 0.5).argmax(1)
    channel = np.arange(len(view))
    is_dark = chosen[channel, view] < 0.5
    auc, iou = auc[:, channel, view], iou[:, channel, view, is_dark.astype(int)]
    auc = np.where(is_dark, 1 - auc, auc)
    order = np.argsort(-_mean_of_known(auc[::2]), kind="stable")  # best first
    return auc[1::2, order], iou[1::2, order]


def _judge_channels(auc: Array, iou: Array, of: str, seed: int) -> Rows:
    """The first channel, and the median over all, galaxy by galaxy."""
    known = np.isfinite(auc).all(1)
    rows: Rows = []
    for channel, pick in (("best", lambda values: values[:, 0]), ("median", lambda values: np.median(values, 1))):
        row: dict[str, Any] = {"of": of, "channel": channel, "galaxies": int(known.sum())}
        for name, values in (("auc", auc), ("iou", iou)):
            row |= _interval(name, _mean, pick(values[known]), seed=seed)
        rows.append(row)
    return rows


def _mean_of_known(values: Array) -> Array:
    """Mean over the first axis, of 0.5 where nothing is known."""
    known = np.isfinite(values)
    return np.asarray(np.where(known, values, 0).sum(0) + 0.5 * (known.sum(0) == 0)) / np.maximum(known.sum(0), 1)


def judge_focus(found: Mapping[str, Array], *, seed: int) -> Rows:
    """Shares on neighbours of maps, of light and of area, and each map's over the light's.

    Returns:
        A row each of :data:`SHARES`, with ``share``, and for maps ``over_light`` and ``over_area``: ratios of mean
        shares on the same galaxies.
    """
    shares = found["beside"]
    shares = shares[np.isfinite(shares).all(1)]
    rows: Rows = []
    for place, of in enumerate(SHARES):
        row: dict[str, Any] = {"of": of, "galaxies": len(shares)}
        row |= _interval("share", _mean, shares[:, place], seed=seed)
        for name, other in (("over_light", 3), ("over_area", 4)):
            row |= _interval(name, _ratio, shares[:, place], shares[:, other], seed=seed)
        rows.append(row)
    return rows


def judge_probes(found: Mapping[str, Array], stages: Sequence[str], *, seed: int) -> Rows:
    """What a straight line reads from the pooled activations of each stage.

    The first half of the galaxies trains, the second tests.

    Returns:
        A row a target and stage: ``own`` and ``random`` (R^2, or for arms the area under the curve) with intervals.
    """
    rows: Rows = []
    for target in PROBES:
        is_yes = target == "arms"
        chosen = found["bulge_to_total"] < _DISK if is_yes else np.ones(len(found[target]), bool)
        values = (found[target][chosen] > 0).astype(float) if is_yes else found[target][chosen]
        half = len(values) // 2
        score = _auc if is_yes else share_explained
        for depth, stage in enumerate(stages):
            row: dict[str, Any] = {"target": target, "stage": stage, "depth": depth + 1, "galaxies": len(values) - half}
            row["measure"] = "auc" if is_yes else "r2"
            for name in ("own", "random"):
                features = found[f"pooled {name} {stage}"][chosen]
                said = fit_probe(features[:half], values[:half], features[half:])
                row |= _interval(name, score, said, values[half:], seed=seed)
            rows.append(row)
    return rows


def _auc(said: Array, true: Array) -> Array:
    """Area under the curve of a yes or no that is a number; 1/2 of a resampling that holds one of the two only."""
    return np.nan_to_num(measure_auc(said, true > 0.5), nan=0.5)


def _mean(values: Array) -> Array:
    """Over the last axis."""
    return np.asarray(values.mean(-1))


def _ratio(first: Array, second: Array) -> Array:
    """Of means over the last axis."""
    return np.asarray(first.mean(-1) / second.mean(-1))


def _interval(name: str, statistic: Callable[..., Any], *values: Array, seed: int) -> dict[str, float | None]:
    """A statistic with its interval over galaxies, as JSON knows them."""
    found = bootstrap(statistic, *values, seed=seed, level=LEVEL)
    ends = zip((name, f"{name}_low", f"{name}_high"), found, strict=True)
    return {key: round_number(float(value)) for key, value in ends}
