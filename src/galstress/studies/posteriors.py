"""Posteriors beside the photon limit: a network alone, refined, and a fit without one, on fresh simulated galaxies."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable, vstack

from galstress.battery import write_table
from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import fit, limit, refine
from galstress.rendering import draw_truth
from galstress.scores import (
    Bins,
    bootstrap,
    coverage_curve,
    equal_bins,
    guess_the_median,
    is_ratio,
    probability_integral_transform,
    rms,
    tarp,
    truth_values,
)
from galstress.simulation import simulate
from galstress.studies.records import write_arrays, write_json

__all__ = ["Sample", "measure_snr", "record_posteriors"]

OUTPUTS = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
"""Outputs whose errors and coverage are recorded."""
JOINT = (*OUTPUTS, "e1", "e2")
"""Outputs whose joint posterior is tested."""
DRAWS = 512
"""Draws of each posterior."""
_BLOCK = 16
_ENOUGH = 100.0
"""Effective samples below which a limit is not used: it would rest on too few draws."""
_BAND = 0.95
"""Probability that every interval of the records holds, at each point by itself."""
_WHO = ("network", "refined")
"""Whose errors and coverage are recorded; the fit is there for a few galaxies only."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Galaxies to draw, and how many of them are fitted.

    Example:
        >>> Sample("hsc-wide-i", count=24).stamp_px
        64
    """

    survey: str
    """Name of a survey, or its TOML file."""
    population: str = "cosmos"
    """Where galaxies are drawn from; the prior of refinement and limit."""
    count: int = 60
    """Galaxies drawn."""
    seed: int = 1
    """Of the galaxies and of everything sampled."""
    stamp_px: int = 64
    """Side of the stamps."""
    fitted: int = 3
    """Galaxies that are fitted without a network, too, from faint to bright."""


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What was found of N galaxies."""

    cutouts: Cutouts
    prediction: Prediction
    refined: Prediction
    snr: np.ndarray
    bayes: QTable
    cramer_rao: QTable
    seconds: dict[str, float]


def record_posteriors(
    folder: Path,
    network: Network,
    sample: Sample,
    *,
    tell: Callable[[float], None] | None = None,
    device: str = "cpu",
) -> None:
    """Draw galaxies, measure them in three ways, and write how far each is from the limit.

    Arguments:
        folder: ``posteriors/<name>`` of the records; made if missing. :mod:`galstress.report` says what it holds.
        network: Any network.
        sample: The galaxies.
        tell: Told now and then which share of the work is done, 0 to 1.
        device: Where the network computes; the rest computes on the CPU.

    Galaxies that the network flags as faint or outside of its domain are left out: a cut on what was measured, not
    on the truth. About 1.5 s a galaxy and 2 s a fit on one core, at 64 px.

    Raises:
        InputError: Fewer than four galaxies are left.
    """
    tell = tell or (lambda _: None)
    found = _measure(network, sample, tell, device)
    truth = found.cutouts.truth
    assert truth is not None
    true = truth_values(truth, found.prediction.names, found.prediction.units)
    samples = {
        "network": found.prediction.sample(DRAWS, sample.seed),
        "refined": found.refined.sample(DRAWS, sample.seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    galaxies = _list_galaxies(found, true, samples, sample.seed)
    write_table(galaxies, folder / "galaxies.parquet")
    write_table(compare_errors(galaxies, sample.seed), folder / "errors.parquet")
    write_table(_judge_coverage(true, samples, found.prediction.names, sample.seed), folder / "coverage.parquet")
    joint, deviations = _judge_joint(true, samples, found.prediction.names, sample.seed)
    write_table(joint, folder / "joint.parquet")
    rows = _choose_examples(found, sample.fitted)
    began = time.perf_counter()
    fitted = fit(found.cutouts.select(rows), seed=sample.seed) if len(rows) else None
    seconds = found.seconds | ({"fit": (time.perf_counter() - began) / len(rows)} if len(rows) else {})
    places = [found.prediction.names.index(name) for name in OUTPUTS]
    draws = {who: each[:, rows][..., places].transpose(1, 0, 2) for who, each in samples.items()}
    if fitted is not None:
        draws["fit"] = fitted.sample(DRAWS, sample.seed)[..., places].transpose(1, 0, 2)
    write_arrays(folder / "draws.safetensors", draws | {"truth": true[rows][:, places]})
    about: dict[str, Any] = dataclasses.asdict(sample) | {
        "kept": len(found.cutouts),
        "network": found.prediction.network,
        "outputs": list(OUTPUTS),
        "joint": list(JOINT),
        "joint_deviation": deviations,
        "band": _BAND,
        "few": _ENOUGH,
        "examples": [{"object_id": str(found.cutouts.object_id[row]), "snr": float(found.snr[row])} for row in rows],
        "degrees_of_freedom": sample.stamp_px**2 - found.refined.internal_mean.shape[-1],
        "seconds_a_galaxy": {name: round(value, 4) for name, value in seconds.items()},
    }
    write_json(folder / "about.json", about)
    tell(1.0)


def measure_snr(prediction: Prediction, cutouts: Cutouts, batch_size: int = 64) -> np.ndarray:
    """(N,) measured S/N: sqrt(sum(model^2 / variance)) of the posterior's median model over the pixels that count."""
    parts = [np.zeros(0)]
    for start in range(0, len(cutouts), batch_size):
        rows = slice(start, start + batch_size)
        some = cutouts.select(rows)
        median = prediction.select(rows).truth_like()
        model = draw_truth(median, some.psf, some.psf_oversampling, some.survey, some.images.shape[-1])
        square = torch.where(some.mask | some.neighbour_mask, 0.0, model**2 / some.variance)
        parts.append(square.sum((1, 2)).sqrt().double().numpy())
    return np.concatenate(parts)


def compare_errors(galaxies: QTable, seed: int) -> QTable:
    """Errors and efficiencies over all galaxies and in bins of measured S/N.

    Arguments:
        galaxies: The table ``galaxies`` of the records.
        seed: Of the bootstrap over galaxies.

    Returns:
        QTable, a row for each output, of network and refined, and bin: ``output``, ``who``, ``by``, ``bin_low``,
        ``bin_high``, ``count``, ``snr`` (median), ``rms`` of the error of the posterior mean (of ln radius and ln
        flux, so a relative one), ``efficiency`` = sum of limit squared over sum of error squared, each with ``_low``
        and ``_high``, ``bayes`` (rms of the limit), ``cramer_rao`` (median), ``guess`` (rms of always answering the
        median of all). Galaxies whose limit rests on fewer than 100 effective samples are left out.
    """
    snr = np.asarray(galaxies["snr"], float)
    trusted = np.asarray(galaxies["limit_effective_samples"], float) >= _ENOUGH
    rows = []
    for output in OUTPUTS:
        true, bayes, bound = (
            np.asarray(galaxies[f"{output}_{kind}"], float) for kind in ("true", "bayes", "cramer_rao")
        )
        guess = np.abs(guess_the_median(output, true, float(np.median(true))))
        for who in _WHO:
            error = np.abs(np.asarray(galaxies[f"{output}_{who}"], float) - _in_terms(output, true))
            usable = trusted & np.isfinite(error + bayes)
            for by, low, high, inside in _all_and_bins(snr, usable):
                chosen = inside & usable
                row: dict[str, object] = {"output": output, "who": who, "by": by, "bin_low": low, "bin_high": high}
                row |= {"count": int(chosen.sum()), "snr": float(np.median(snr[chosen])) if chosen.any() else math.nan}
                row |= _intervals(error[chosen], bayes[chosen], seed)
                finite = bound[chosen][np.isfinite(bound[chosen])]
                row |= {"bayes": float(rms(bayes[chosen])) if chosen.any() else math.nan}
                row |= {"cramer_rao": float(np.median(finite)) if finite.size else math.nan}
                row |= {"guess": float(rms(guess[chosen])) if chosen.any() else math.nan}
                rows.append(row)
    return QTable(rows=rows)


def _measure(network: Network, sample: Sample, tell: Callable[[float], None], device: str) -> _Measured:
    """Network, refined and limits, block by block."""
    drawn = simulate(
        sample.survey, sample.count, seed=sample.seed, population=sample.population, stamp_px=sample.stamp_px
    )
    began = time.perf_counter()
    predicted = predict(network, drawn, draws=DRAWS, device=device)
    seconds = {"network": (time.perf_counter() - began) / max(len(drawn), 1), "refined": 0.0, "bayes": 0.0}
    kept = np.flatnonzero(predicted.usable & ((predicted.flags & int(Flag.FAINT | Flag.OUT_OF_DOMAIN)) == 0))
    if len(kept) < 4:
        raise InputError(f"{len(kept)} of {len(drawn)} galaxies left", "4 or more", "draw more of them")
    cutouts, prediction = drawn.select(kept), predicted.select(kept)
    refined, bayes = [], []
    # a fit costs about as much as two galaxies with their limits
    whole = len(cutouts) + 2 * sample.fitted
    for number, rows in enumerate(_blocks(len(cutouts))):
        some, seed = cutouts.select(rows), 1000 * (sample.seed % 1000) + number
        began = time.perf_counter()
        refined.append(refine(prediction.select(rows), some, sample.population, seed=seed))
        middle = time.perf_counter()
        tell((rows.start + 0.5 * len(some)) / whole)
        bayes.append(limit(some, "bayes", prior=sample.population, seed=seed + 500))
        seconds["refined"] += (middle - began) / len(cutouts)
        seconds["bayes"] += (time.perf_counter() - middle) / len(cutouts)
        tell((rows.start + len(some)) / whole)
    return _Measured(
        cutouts,
        prediction,
        Prediction.concatenate(refined),
        measure_snr(prediction, cutouts),
        vstack(bayes, metadata_conflicts="silent"),
        limit(cutouts, "cramer-rao"),
        seconds,
    )


def _blocks(count: int) -> Iterator[slice]:
    """Slices of 16 galaxies."""
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


def _list_galaxies(found: _Measured, true: np.ndarray, samples: dict[str, np.ndarray], seed: int) -> QTable:
    """A row per galaxy: true values, posterior means in the terms of their errors, limits, places and self-checks."""
    table = QTable({"object_id": found.cutouts.object_id.astype(str), "snr": found.snr})
    assert found.cutouts.truth is not None
    table["snr_true"] = np.asarray(found.cutouts.truth["snr"], float)
    for name in ("effective_samples", "chi_square", "ln_evidence"):
        table[name] = getattr(found.refined, name)
    table["flags"] = found.refined.flags
    table["limit_effective_samples"] = np.asarray(found.bayes["effective_samples"], float)
    for output in OUTPUTS:
        place = found.prediction.names.index(output)
        table[f"{output}_true"] = true[:, place]
        for who in _WHO:
            table[f"{output}_{who}"] = _in_terms(output, samples[who][..., place]).mean(0)
            table[f"{output}_{who}_std"] = _in_terms(output, samples[who][..., place]).std(0)
            table[f"{output}_{who}_pit"] = probability_integral_transform(
                true[:, place], samples[who][..., place], seed
            )
        bayes, bound = (_plain(kind[output]) for kind in (found.bayes, found.cramer_rao))
        if is_ratio(output):
            # of a log-normal distribution, (sigma / mean)^2 = exp(s^2) - 1
            bayes = np.sqrt(np.log1p((bayes / samples["refined"][..., place].mean(0)) ** 2))
            bound = bound / true[:, place]
        table[f"{output}_bayes"], table[f"{output}_cramer_rao"] = bayes, bound
    return table


def _intervals(error: np.ndarray, bayes: np.ndarray, seed: int) -> dict[str, float]:
    """The rms error and the efficiency of some galaxies, each with its interval."""
    found: dict[str, float] = {}
    for name, statistic, arrays in (
        ("rms", rms, (error,)),
        ("efficiency", lambda above, below: above.mean(-1) / below.mean(-1), (bayes**2, error**2)),
    ):
        interval = bootstrap(statistic, *arrays, seed=seed, count=1000, level=_BAND)
        found |= {f"{name}{end}": float(value) for end, value in zip(("", "_low", "_high"), interval, strict=True)}
    return found


def _all_and_bins(snr: np.ndarray, usable: np.ndarray) -> Iterator[tuple[str, float, float, np.ndarray]]:
    """All galaxies, then bins of S/N that hold equally many: half the root of their number, six at most."""
    yield "", -math.inf, math.inf, np.ones(len(snr), bool)
    number = int(usable.sum())
    most = int(np.clip(round(math.sqrt(number) / 2), 1, 6))
    bins: Bins = equal_bins("snr", np.where(usable, snr, np.nan), most=most, minimum=number // most)
    for low, high, inside in bins:
        yield "snr", low, high, inside


def _judge_coverage(true: np.ndarray, samples: dict[str, np.ndarray], names: Sequence[str], seed: int) -> QTable:
    """Coverage against level of network and refined."""
    places = [names.index(output) for output in OUTPUTS]
    tables = []
    for who, each in samples.items():
        table = coverage_curve(true[:, places], each[..., places], names=OUTPUTS, seed=seed, band=_BAND)
        table["who"] = np.full(len(table), who)
        tables.append(table)
    return vstack(tables)


def _judge_joint(
    true: np.ndarray, samples: dict[str, np.ndarray], names: Sequence[str], seed: int
) -> tuple[QTable, dict[str, float]]:
    """Coverage of the joint posterior by regions around reference points, and its largest deviations."""
    places = [names.index(output) for output in JOINT]
    tables, deviations = [], {}
    for who, each in samples.items():
        curve = tarp(
            true[:, places],
            each[..., places],
            levels=np.linspace(0, 1, 41).tolist(),
            seed=seed,
            band=_BAND,
        )
        columns = {"level": curve.levels, "coverage": curve.coverage}
        columns |= {"coverage_low": curve.low, "coverage_high": curve.high, "who": np.full(len(curve.levels), who)}
        tables.append(QTable(columns))
        deviations[who] = curve.deviation
    return vstack(tables), deviations


def _choose_examples(found: _Measured, most: int) -> np.ndarray:
    """Rows of galaxies with disk and bulge, from faint to bright; chosen by what was measured."""
    share = found.refined.quantile([0.5])[0][:, found.refined.names.index("bulge_to_total")]
    rows = np.flatnonzero((share > 0.15) & (share < 0.85))
    rows = rows if len(rows) >= most else np.arange(len(share))
    order = rows[np.argsort(found.snr[rows], kind="stable")]
    shares = np.linspace(0.2, 0.9, most) if most > 1 else np.full(most, 0.7)
    return order[np.unique(np.round(shares * (len(order) - 1)).astype(int))]


def _in_terms(output: str, values: np.ndarray) -> np.ndarray:
    """Values in the terms of their errors: logarithms of radii and fluxes."""
    return np.log(values) if is_ratio(output) else values


def _plain(column: Any) -> np.ndarray:  # noqa: ANN401 (Column or Quantity)
    """A column as floats in its own unit."""
    return np.asarray(getattr(column, "value", column), float)
