"""Networks side by side: classes, errors and coverage on named samples, beside the best that the pixels allow."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import CLASSES, TRIPLE, Classes, classes_of
from galstress.networks import Network
from galstress.prediction import predict
from galstress.prediction.judging import knows_scale
from galstress.refinement.limits import sample_at_truth
from galstress.scores import bootstrap, error_68, errors, rms, truth_values
from galstress.scores.classes import call_classes, class_table, cut_for_share, risk_curve
from galstress.studies.cells import Job, digest, keep, list_versions, round_number
from galstress.studies.records import write_json
from galstress.studies.samples import Sample, find_sample

__all__ = ["BEST", "SurveysStudy", "study_surveys"]

BEST = "best possible"
"""The exact posterior of simulated galaxies, under the population that they were drawn from."""
_SNR_EDGES = (0.0, 30.0, 100.0, 300.0, np.inf)
_LEVELS = (0.6827, 0.9545, 0.9973)
_SHARES = {"gamornet-sdss": 0.31, "gamornet-sdss-photon": 0.31, "gamornet-candels": 0.46}
"""Indeterminate shares at which classifiers are compared: the published ones; a third elsewhere."""
_SHARE = 1 / 3
_RESAMPLINGS = 400
_CURVE = np.linspace(0.05, 1.0, 20)
_BAR_POINTS = 2.0

_ENDS = ("", "_low", "_high")

Array = NDArray[np.float64]
Measure = Callable[[Cutouts], Any]
_Bin = tuple[float | None, float | None, NDArray[np.bool_]]


@dataclasses.dataclass(frozen=True)
class SurveysStudy:
    """What :func:`study_surveys` found; all of it stands in its folder, too."""

    sentence: str
    """The answer in words."""
    summary: Mapping[str, Any]
    """As ``summary.json`` has it: lists ``classes``, ``against_best``, ``errors``, ``coverage`` and ``curves``."""


def study_surveys(
    networks: Mapping[str, Network],
    samples: Sequence[str],
    *,
    folder: str | Path,
    counts: tuple[int, int] = (2000, 200),
    average: Sequence[int] = (),
    seed: int = 1,
    device: str = "cpu",
    command: str = "",
    progress: bool = False,
) -> SurveysStudy:
    """Measure every network on every sample whose pixels it knows, and the best possible on some galaxies of each.

    Arguments:
        networks: By name.
        samples: Names in :data:`galstress.studies.samples.SAMPLES`.
        folder: Where to; made if missing. Every network on every sample is a file below ``cells`` and is not made
            again by the next run; ``summary.json`` is written at the end.
        counts: Galaxies of each sample; and the first of them for which the exact posterior is found, 0 for none.
        average: Every network also averaged over so many turns and mirrors (:func:`galstress.predict`), as a method of
            its own: "gampen-hsc, 8 turns".
        seed: Of the galaxies, in no training's reach.
        device: Where to compute.
        command: What the summary says this was started by.
        progress: Show what is done, and the time left (on stderr).

    Raises:
        InputError: No network, or fewer galaxies than 20.
        UnknownNameError: No such sample.

    Classifiers are compared with the best possible one at the same indeterminate share, on the same galaxies: purity
    per class (of those called a disk, how many are one), and completeness beside it. A posterior's probabilities of
    classes are its draws' shares.
    """
    if not networks or counts[0] < 20 or not 0 <= counts[1] <= counts[0]:
        came = f"{len(networks)} networks, counts {counts}"
        raise InputError(came, "one network or more, 20 galaxies or more", "give counts=(2000, 200)")
    found = [find_sample(name) for name in samples]
    run = _Run(networks, counts, (0, *average), seed, device)
    jobs = [job for sample in found for job in run.list_jobs(sample)]
    records = list(keep(jobs, Path(folder) / "cells", progress=progress).values())
    rows: dict[str, list[dict[str, Any]]] = {
        name: [row for record in records for row in record[name]]
        for name in ("classes", "errors", "coverage", "curves")
    }
    against = [row for sample in found for row in _compare(sample, records, seed)]
    sentence = _say(against, rows["errors"])
    summary = {
        "study": "surveys", "sentence": sentence, "command": command, "seed": seed,
        "sample": {sample.name: sample.words for sample in found}, "galaxies": counts[0], "exact": counts[1],
        "intervals": f"68 % over galaxies, {_RESAMPLINGS} resamplings", "bar_points": _BAR_POINTS,
        "against_best": against, **rows, "versions": list_versions(),
    }  # fmt: skip
    write_json(Path(folder) / "summary.json", summary)
    return SurveysStudy(sentence, summary)


class _Run:
    """Networks, sizes and seed of a study."""

    def __init__(
        self, networks: Mapping[str, Network], counts: tuple[int, int], averages: Sequence[int], seed: int, device: str
    ) -> None:
        self.networks, self.counts, self.averages = networks, counts, averages
        self.seed, self.device = seed, device

    def list_jobs(self, sample: Sample) -> list[Job]:
        """Every network that knows the sample's pixels, and the best possible where the prior is known."""
        jobs = []
        for (name, network), turns in itertools.product(self.networks.items(), self.averages):
            if knows_scale(network, sample.survey):
                weights = [float(parameter.detach().double().sum()) for parameter in network.parameters()]
                mark = digest(weights, sample.name, self.counts[0], self.seed, *([turns] if turns else []))
                measure = functools.partial(predict, network, average=turns, device=self.device)
                method = f"{name}, {turns} turns" if turns else name
                work = functools.partial(self.measure, method, sample, measure, self.counts[0])
                file = f"{name}-averaged{turns}" if turns else name
                jobs.append(Job(f"{file}-on-{sample.name}", mark, work, weight=max(turns, 1)))
        if sample.population is not None and self.counts[1]:
            measure = functools.partial(sample_at_truth, prior=sample.population, seed=self.seed)
            work = functools.partial(self.measure, BEST, sample, measure, self.counts[1])
            mark = digest(sample.name, self.counts[1], self.seed)
            jobs.append(Job(f"best-on-{sample.name}", mark, work, weight=5))
        return jobs

    def measure(self, name: str, sample: Sample, measure: Measure, count: int) -> dict[str, Any]:
        """All scores of one method on one sample."""
        seen = _Seen.of(sample.draw(count, self.seed), measure)
        labels = {"method": name, "sample": sample.name}
        share = _SHARES.get(sample.name, _SHARE)
        record: dict[str, Any] = {**labels, "classes": [], "errors": [], "coverage": [], "curves": []}
        for kind, cut in (("most probable", 0.0), ("at share", cut_for_share(seen.probabilities, share))):
            table = class_table(seen.probabilities, seen.true_class, disk=cut, bulge=cut, seed=self.seed)
            record["classes"] += [_plain({**labels, "cut": kind, "least": cut, **row}) for row in table]
        curve = risk_curve(seen.probabilities, seen.true_class, _CURVE)
        record["curves"] = [_plain({**labels, **row}) for row in curve]
        if seen.quantiles is not None:
            record["errors"] = [{**labels, **row} for row in seen.list_errors(self.seed)]
            record["coverage"] = [{**labels, **row} for row in seen.list_coverage()]
        kept = slice(0, self.counts[1])
        record["probabilities"] = [[round_number(p) for p in each] for each in seen.probabilities[kept].tolist()]
        record["true_class"] = seen.true_class[kept].tolist()
        return record


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What one method said of one sample."""

    probabilities: Array
    """(N, 3) of the classes."""
    true_class: NDArray[np.int64]
    """(N,) place in the classes, -1 where unknown."""
    quantiles: Array | None
    """(7, N, 3) of B/T, radius and flux, or None for a classifier."""
    truth: Array
    """(N, 3) of the same."""
    snr: Array
    """(N,), NaN where unknown."""

    @staticmethod
    def of(batches: Any, measure: Measure) -> _Seen:  # noqa: ANN401 (an iterator of Cutouts)
        """Ask batch by batch: nothing grows but what is kept here."""
        parts: list[tuple[Array, ...]] = []
        ends = [0.5 * (1 + sign * level) for level in _LEVELS for sign in (-1, 1)]
        for cutouts in batches:
            assert cutouts.truth is not None
            answer = measure(cutouts)
            said = answer if isinstance(answer, Classes) else classes_of(answer)
            quantiles = np.zeros((len(cutouts), 0, 0))
            if not isinstance(answer, Classes):
                places = [answer.names.index(name) for name in TRIPLE]
                quantiles = answer.quantile([0.5, *ends])[..., places].swapaxes(0, 1)
            truth = truth_values(cutouts.truth, TRIPLE, ("", "arcsec", "nJy"))
            has_snr = "snr" in cutouts.truth.colnames
            snr = np.asarray(cutouts.truth["snr"], float) if has_snr else np.full(len(cutouts), np.nan)
            parts.append((said.probabilities, quantiles, truth, snr))
        probabilities, quantiles, truth, snr = (np.concatenate(each) for each in zip(*parts, strict=True))
        true = np.full(len(truth), -1)
        share = truth[:, 0]
        known = np.isfinite(share)
        true[known] = (share[known] >= 0.45).astype(int) + (share[known] > 0.55)
        return _Seen(probabilities, true, quantiles.swapaxes(0, 1) if quantiles.size else None, truth, snr)

    def list_errors(self, seed: int) -> list[dict[str, Any]]:
        """Errors of the medians: over all and in bins of S/N, beside those of whoever always says the median."""
        assert self.quantiles is not None
        rows = []
        for place, name in enumerate(TRIPLE):
            error = errors(name, self.quantiles[0, :, place], self.truth[:, place])
            middle = float(np.nanmedian(self.truth[:, place]))
            guess = errors(name, np.full(len(error), middle), self.truth[:, place])
            bins: list[_Bin] = [(None, None, np.ones(len(error), bool))]
            bins += [(lo, hi, (self.snr >= lo) & (self.snr < hi)) for lo, hi in itertools.pairwise(_SNR_EDGES)]
            for low, high, inside in bins:
                chosen = error[inside & np.isfinite(error)]
                if len(chosen) < 5:
                    continue
                row: dict[str, Any] = {
                    "quantity": name,
                    "snr_low": low,
                    "snr_high": _finite(high),
                    "count": len(chosen),
                }
                for key, statistic in (("error_68", error_68), ("rms", rms)):
                    ends = bootstrap(statistic, chosen, seed=seed, count=_RESAMPLINGS)
                    row |= {f"{key}{end}": round_number(float(v)) for end, v in zip(_ENDS, ends, strict=True)}
                row["bias"] = round_number(float(np.median(chosen)))
                row["guess_error_68"] = round_number(float(error_68(guess[inside & np.isfinite(guess)])))
                rows.append(row)
        return rows

    def list_coverage(self) -> list[dict[str, Any]]:
        """Share of true values inside central intervals, with its binomial sigma."""
        assert self.quantiles is not None
        rows = []
        for place, name in enumerate(TRIPLE):
            for number, level in enumerate(_LEVELS):
                low, high = self.quantiles[1 + 2 * number : 3 + 2 * number, :, place]
                known = np.isfinite(low) & np.isfinite(self.truth[:, place])
                # an edge at which the posterior has an atom belongs to the interval
                inside = (self.truth[:, place] >= low) & (self.truth[:, place] <= high)
                count, sigma = int(known.sum()), np.sqrt(level * (1 - level) / max(known.sum(), 1))
                covered = round_number(float(inside[known].mean())) if count else None
                rows.append(
                    {"quantity": name, "level": level, "covered": covered, "sigma": round_number(float(sigma)),
                     "count": count}
                )  # fmt: skip
        return rows


def _compare(sample: Sample, records: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Purity and completeness of every classifier minus the best possible one's, paired, at one indeterminate share."""
    here = {record["method"]: record for record in records if record["sample"] == sample.name}
    if BEST not in here:
        return []
    share, rows = _SHARES.get(sample.name, _SHARE), []
    best, true = (np.asarray(here[BEST][name], float) for name in ("probabilities", "true_class"))
    for name, record in here.items():
        if name == BEST:
            continue
        own = np.asarray(record["probabilities"], float)[: len(best)]
        good = np.isfinite(own).all(1) & np.isfinite(best).all(1)
        called = [_call_at(each[good], share) for each in (own, best)]
        for place in (0, 2):
            for score, statistic in (("purity", _purity), ("completeness", _completeness)):
                hits = [(mine == place).astype(float) for mine in called]
                is_true = (true[good] == place).astype(float)
                value = bootstrap(_differ(statistic), *hits, is_true, seed=seed, count=_RESAMPLINGS)
                own_score, best_score = (float(statistic(hit[None], is_true[None])[0]) for hit in hits)
                points = {f"points{end}": round_number(100 * float(v)) for end, v in zip(_ENDS, value, strict=True)}
                rows.append(
                    {"sample": sample.name, "method": name, "class": CLASSES[place], "score": score,
                     "indeterminate_share": share, "own": round_number(own_score), "best": round_number(best_score),
                     **points, "count": int(good.sum())}
                )  # fmt: skip
    return rows


def _call_at(probabilities: Array, share: float) -> NDArray[np.int64]:
    """(N,) place of the class that is called, so much of them indeterminate."""
    least = cut_for_share(probabilities, share)
    return call_classes(probabilities, disk=least, bulge=least)


def _purity(hit: Array, true: Array) -> Array:
    """Share of those called that are right."""
    return (hit * true).sum(-1) / np.maximum(hit.sum(-1), 1)


def _completeness(hit: Array, true: Array) -> Array:
    """Share of the true ones that are called."""
    return (hit * true).sum(-1) / np.maximum(true.sum(-1), 1)


def _differ(statistic: Callable[[Array, Array], Array]) -> Callable[[Array, Array, Array], Array]:
    """Own score minus the best's."""
    return lambda own, best, true: statistic(own, true) - statistic(best, true)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON knows it."""
    return {name: round_number(value) if isinstance(value, float) else value for name, value in row.items()}


def _finite(value: float | None) -> float | None:
    """None for no edge."""
    return value if value is not None and np.isfinite(value) else None


def _say(against: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    """The answer in words."""
    parts = []
    purity = [row for row in against if row["score"] == "purity"]
    if purity:
        within = sum(row["points"] >= -_BAR_POINTS for row in purity)
        worst = min(purity, key=lambda row: row["points"])
        parts.append(
            f"Purity is within {_BAR_POINTS:g} points of the best possible classifier's, at the same indeterminate "
            f"share, in {within} of {len(purity)} cases (network, sample, class); worst: {worst['method']} on "
            f"{worst['sample']}, {worst['class']}: {worst['points']:+.1f} points ({worst['points_low']:+.1f} to "
            f"{worst['points_high']:+.1f}, N = {worst['count']})."
        )
    whole = [row for row in rows if row["snr_low"] is None and row["quantity"] == TRIPLE[0] and row["method"] != BEST]
    if whole:
        least = min(whole, key=lambda row: row["error_68"] / row["guess_error_68"])
        parts.append(
            f"The 68 % error in B/T is {min(row['error_68'] for row in whole):.3f} to "
            f"{max(row['error_68'] for row in whole):.3f} over {len(whole)} pairs of network and sample; smallest "
            f"beside guessing: {least['method']} on {least['sample']}, {least['error_68']:.3f} against "
            f"{least['guess_error_68']:.3f}."
        )
    return " ".join(parts) or "Nothing was compared."
