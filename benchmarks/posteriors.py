"""Posteriors beside the photon limit: network alone and refined, on simulated galaxies that no training has seen.

    python benchmarks/posteriors.py euclid --out results/euclid.ecsv
    python benchmarks/posteriors.py gampen --out results/gampen.ecsv
    python benchmarks/posteriors.py efficiency --count 5000 --survey hsc-wide-i --out results/efficiency-hsc.ecsv
    python benchmarks/posteriors.py coverage --count 20000 --out results/coverage.ecsv

``euclid``: radius scatter of single Sersic galaxies at three magnitudes, the population being the prior.
``gampen``: 68 % errors on GaMPEN's own sample, prior ``weak``. ``efficiency``: limit squared over mean square error
by measured S/N, and effective samples. ``coverage``: intervals, simulation-based calibration and TARP under the
shares of populations that the network was trained on. Figures go to ``--out`` with sample, seed and interval. Seeds
start at 700,000; training uses seeds mixed from 1. ``parts.py`` says how work is kept and shared.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from answers import (
    DRAWS,
    NAMES,
    measure_three,
    say_limit,
    say_samples,
    semi_major,
    share,
    summarise,
    timed,
    to_plain,
    true_terms,
)
from calibration import judge, keep
from galstress.cutouts import Cutouts, Flag
from galstress.galaxy import galaxies_from_table
from galstress.likelihood import Likelihood
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import refine
from galstress.refinement.exact import SKY_SIGMA
from galstress.rendering import PARAMETERS
from galstress.scores import bias, bootstrap, error_68, rms
from galstress.survey import Survey
from parts import Ledger, Part, Plan, add_options, mix, ratio_of_means, read_plan, weights_digest
from samples import (
    STAMPS,
    SURVEYS,
    draw_block,
    draw_euclid,
    draw_gampen,
    euclid_prior,
    expose_table,
    hsc_wide_g,
)

HEADLINE = {"bulge_to_total": "B/T", "half_light_radius_arcsec": "ln radius", "flux_njy": "ln flux", "e1": "e1"}
SNR_EDGES = (20.0, 30.0, 50.0, 100.0, 300.0, np.inf)


# ---- euclid --------------------------------------------------------------------------------------------------------

EUCLID = {20.7: (128, 0.019, 0.005, 0.010, 0.006), 22.7: (64, 0.047, 0.017, 0.028, 0.018)}
EUCLID |= {23.8: (64, 0.081, 0.031, 0.05, 0.035)}
"""Magnitude: stamp, best published scatter, limit of the reference, bars for network and refined."""
_SERSIC = tuple(
    PARAMETERS.index(name) for name in ("flux", "x", "y", "disk_sersic_index", "disk_ln_radius", "disk_e1", "disk_e2")
)


def scatter_of(errors: np.ndarray) -> np.ndarray:
    """D of the challenge: the 68 % quantile of |b - median(b)|, along the last axis."""
    return np.quantile(np.abs(errors - np.median(errors, -1, keepdims=True)), 0.68, axis=-1)


def normal_scatter(sigma: np.ndarray) -> np.ndarray:
    """D of unbiased normal errors of these widths, along the last axis."""
    noise = np.random.default_rng(0).normal(size=(200, 1))
    errors = np.abs(sigma[..., None, :] * noise)
    return np.quantile(errors.reshape(*sigma.shape[:-1], -1), 0.68, axis=-1)


def bias_in_scatter(errors: np.ndarray) -> np.ndarray:
    """Median over D."""
    return np.median(errors, -1) / scatter_of(errors)


def sersic_limit(cutouts: Cutouts, sky_sigma: float) -> np.ndarray:
    """(N, 2) Cramer-Rao errors of ln R, circularised and semi-major, of one Sersic profile with a free index."""
    survey = cutouts.survey
    assert cutouts.truth is not None
    galaxies = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    fisher = Likelihood.of(cutouts, sky_sigma=sky_sigma).fisher(galaxies)[:, _SERSIC][:, :, _SERSIC]
    scale = torch.diagonal(fisher, dim1=-2, dim2=-1).rsqrt()
    covariance = torch.linalg.inv(fisher * scale[:, :, None] * scale[:, None]) * scale[:, :, None] * scale[:, None]
    e1, e2 = (torch.as_tensor(np.asarray(cutouts.truth[name], float)) for name in ("e1", "e2"))
    size = torch.hypot(e1, e2).clamp_min(1e-9)
    slopes = torch.zeros(len(size), 2, len(_SERSIC), dtype=torch.float64)
    slopes[:, :, 4] = 1  # ln of the circularised radius
    for place, e in ((5, e1), (6, e2)):
        slopes[:, 1, place] = e / size / (1 - size**2)  # ln a = ln R - ln(q) / 2
    return torch.einsum("nki,nij,nkj->nk", slopes, covariance, slopes).sqrt().numpy()


def measure_euclid(network: Network, magnitude: float, stamp_px: int, size: int, seed: int) -> Part:
    """One block of single Sersic galaxies: radii of network and refined over the true ones, limits."""
    survey, generator = Survey.load("euclid-vis"), torch.Generator().manual_seed(seed)
    table = draw_euclid(survey, magnitude, size, stamp_px, generator)
    cutouts = expose_table(table, survey, generator, stamp_px)
    found = predict(network, cutouts)
    refined, spent = timed(lambda: refine(found, cutouts, euclid_prior(), seed=seed % 10_000))
    part = summarise(found, "network", seed) | summarise(refined, "refined", seed, spent)
    part["truth"] = true_terms(table)
    axis = np.log(semi_major(to_plain(part["truth"])))
    for who, prediction in (("network", found), ("refined", refined)):
        drawn = np.log(semi_major(prediction.sample(DRAWS, seed)))
        part[f"{who}_axis_error"] = np.median(drawn, 0) - axis
    free, known = sersic_limit(cutouts, np.inf), sersic_limit(cutouts, SKY_SIGMA)
    return part | {"limit_sky_free": free, "limit_sky_known": known, "snr": np.asarray(cutouts.truth["snr"], float)}


def euclid(network: Network, options: argparse.Namespace, plan: Plan, ledger: Ledger) -> None:
    """Radius scatter at three magnitudes beside the limit and the challenge's best codes."""
    size = min(options.block, options.count)
    number = -(-options.count // size)
    for place, (magnitude, (stamp_px, published, reference, alone, bar)) in enumerate(EUCLID.items()):
        settings = common(network, options) | {"sample": f"I = {magnitude}", "stamp_px": stamp_px, "block": size}

        def measure(part: int, magnitude: float = magnitude, stamp: int = stamp_px, place: int = place) -> Part:
            return measure_euclid(network, magnitude, stamp, size, mix(options.seed, place, part))

        part = plan.gather(settings, number, measure)
        if not part:
            continue
        sample = f"euclid-vis single Sersic, I = {magnitude}"
        ledger.add(sample, "S/N, median", "truth", float(np.median(part["snr"])), len(part["snr"]))
        at = NAMES.index("half_light_radius_arcsec")
        for kind, column in (("semi-major", 1), ("circularised", 0)):
            for sky, key in (("free sky", "limit_sky_free"), ("sky known to 0.02", "limit_sky_known")):
                interval = bootstrap(normal_scatter, part[key][:, column], seed=options.seed, count=100)
                note = f"Cramer-Rao, free index, {sky}; reference {reference}"
                ledger.add(sample, f"D(Re), {kind}", "limit", interval, len(part[key]), note)
            for who, goal in (("network", alone), ("refined", bar)):
                error = part[f"{who}_axis_error"] if column else (part[f"{who}_median"] - part["truth"])[:, at]
                relative = np.expm1(error)
                note = f"bar {goal}; best published {published}"
                ledger.measure(sample, f"D(Re), {kind}", who, scatter_of, relative, note=note)
                ledger.measure(sample, f"bias of Re, {kind}", who, bias, relative)
                ledger.measure(sample, f"bias over D, {kind}", who, bias_in_scatter, relative, note="bar 0.1")
        say_samples(ledger, sample, part)


# ---- gampen --------------------------------------------------------------------------------------------------------


def measure_gampen(network: Network, stamp_px: int, size: int, seed: int) -> Part:
    """One block of GaMPEN's sample: network, refined and the exact posterior from the truth, prior ``weak``."""
    survey, generator = hsc_wide_g(), torch.Generator().manual_seed(seed)
    cutouts = expose_table(draw_gampen(survey, size, stamp_px, generator), survey, generator, stamp_px)
    return measure_three(network, cutouts, None, "weak", seed)


def gampen(network: Network, options: argparse.Namespace, plan: Plan, ledger: Ledger) -> None:
    """68 % errors in B/T, radius and flux beside GaMPEN's, and over the rms of the exact posterior."""
    size = min(options.block, options.count)
    stamp_px = options.stamp or 128
    settings = common(network, options) | {"stamp_px": stamp_px, "block": size}
    part = plan.gather(
        settings,
        -(-options.count // size),
        lambda number: measure_gampen(network, stamp_px, size, mix(options.seed, number)),
    )
    if not part:
        return
    sample = f"GaMPEN's sample, hsc-wide-g, {stamp_px} px"
    published = {"bulge_to_total": (0.1, 0.05), "half_light_radius_arcsec": (0.07, 0.02), "flux_njy": (0.01, 0.01)}
    trusted = part["bayes_effective_samples"] >= 100
    for name, (theirs, bar) in published.items():
        at, title = NAMES.index(name), HEADLINE[name]
        for who in ("network", "refined"):
            error = (part[f"{who}_median"] - part["truth"])[:, at]
            note = f"GaMPEN {theirs}" + (f"; bar {bar}" if who == "network" else "")
            ledger.measure(sample, f"68 % error of {title}", who, error_68, error, note=note)
            ledger.measure(sample, f"bias of {title}", who, bias, error)
            mean = (part[f"{who}_mean"] - part["truth"])[trusted, at]
            bound = part["bayes"][trusted, at]
            note = "bar 1.2" if who == "refined" else ""
            ledger.measure(sample, f"68 % of |error of {title}| / bayes", who, error_68, mean / bound, note=note)
            ledger.measure(sample, f"rms of {title} / rms bayes", who, lambda a, b: rms(a) / rms(b), mean, bound)
        ledger.measure(sample, f"rms of the exact posterior of {title}", "bayes", rms, part["bayes"][trusted, at])
    outside = (part["network_flags"] & int(Flag.OUT_OF_DOMAIN)) != 0
    ledger.measure(sample, "share outside the training's domain", "network", share, outside)
    say_limit(ledger, sample, part)
    say_samples(ledger, sample, part)


# ---- efficiency ----------------------------------------------------------------------------------------------------


def measure_efficiency(network: Network, survey: str, stamp_px: int, size: int, seed: int) -> Part:
    """One block of a survey's own population: network, refined, limits, measured S/N."""
    population = SURVEYS[survey]
    cutouts, found, snr = draw_block(
        network, Survey.load(survey), {population: 1.0}, size, seed, stamp_px=stamp_px, least_snr=SNR_EDGES[0]
    )
    return measure_three(network, cutouts, found, population, seed) | {"snr": snr}


def efficiency(network: Network, options: argparse.Namespace, plan: Plan, ledger: Ledger) -> None:
    """Limit squared over mean square error, survey by survey, in bins of measured S/N."""
    size = min(options.block, options.count)
    for survey in options.survey or SURVEYS:
        place = list(SURVEYS).index(survey)
        stamp_px = options.stamp or STAMPS[survey]
        settings = common(network, options) | {"sample": survey, "stamp_px": stamp_px, "block": size}

        def measure(part: int, survey: str = survey, stamp: int = stamp_px, place: int = place) -> Part:
            return measure_efficiency(network, survey, stamp, size, mix(options.seed, place, part))

        part = plan.gather(settings, -(-options.count // size), measure)
        if not part:
            continue
        snr = part["snr"]
        for low, high in [(30.0, np.inf), *itertools.pairwise(SNR_EDGES)]:
            rows = (snr >= low) & (snr < high) & (part["bayes_effective_samples"] >= 100)
            title = f"{survey}, S/N {low:.0f} to {high:.0f}" if np.isfinite(high) else f"{survey}, S/N above {low:.0f}"
            if rows.sum() >= 3:
                say_efficiency(ledger, title, {key: values[rows] for key, values in part.items()})
        sample = f"{survey}, {SURVEYS[survey]}, {stamp_px} px"
        say_limit(ledger, sample, part)
        say_samples(ledger, sample, part)


def say_efficiency(ledger: Ledger, sample: str, part: Part) -> None:
    """Efficiencies of one bin."""
    for name, title in HEADLINE.items():
        at = NAMES.index(name)
        bound, free = part["bayes"][:, at], part["cramer_rao"][:, at]
        weak = free < bound / 0.9  # here the prior takes less than 10 % from the error
        for who, bar in (("network", 0.4), ("refined", 0.8)):
            error = (part[f"{who}_mean"] - part["truth"])[:, at]
            note = f"bar {bar}" if "above 30" in sample else ""
            ledger.measure(sample, f"efficiency of {title}, bayes", who, ratio_of_means, bound**2, error**2, note=note)
            if weak.sum() >= 3:
                own = free[weak] ** 2, error[weak] ** 2
                ledger.measure(sample, f"efficiency of {title}, Cramer-Rao", who, ratio_of_means, *own, shown=False)
            ledger.measure(sample, f"68 % error of {title}", who, error_68, error, shown=False)
        ledger.measure(sample, f"rms of the exact posterior of {title}", "bayes", rms, bound, shown=False)
        ledger.measure(sample, f"share where the prior is weak, {title}", "bayes", share, weak, shown=False)
        guess = part["truth"][:, at]
        ledger.measure(sample, f"68 % error of {title}", "guess", error_68, guess - np.median(guess), shown=False)


# ---- coverage ------------------------------------------------------------------------------------------------------


def measure_coverage(network: Network, survey: str, stamp_px: int, size: int, seed: int) -> Part:
    """One block under the network's own prior: quantiles and draws of network and refined."""
    record = Survey.load(survey)
    shares: Mapping[str, float] = (network.metadata.get("prior") or {}).get(survey) or {SURVEYS[survey]: 1.0}
    many = 1024  # so that any few of a flow's draws, which are one to a stratum, are as good as independent
    cutouts, found, _ = draw_block(
        network, record, shares, size, seed, stamp_px=stamp_px, least_snr=SNR_EDGES[0], draws=many
    )
    refined, spent = timed(lambda: refine(found, cutouts, shares, seed=seed % 10_000))
    part = (
        {"truth": to_plain(true_terms(cutouts.truth))} | keep(found, "network", seed) | keep(refined, "refined", seed)
    )
    part |= {"refined_effective_samples": refined.effective_samples, "refined_flags": refined.flags}
    return part | {"refined_seconds": np.full(size, spent / size)}


def coverage(network: Network, options: argparse.Namespace, plan: Plan, ledger: Ledger) -> None:
    """Coverage, simulation-based calibration and TARP over all surveys together."""
    surveys = options.survey or list(SURVEYS)
    each = -(-options.count // len(surveys))
    size = min(options.block, each)
    parts = []
    for survey in surveys:
        place = list(SURVEYS).index(survey)
        stamp_px = options.stamp or STAMPS[survey]
        settings = common(network, options) | {"sample": survey, "stamp_px": stamp_px, "block": size}

        def measure(part: int, survey: str = survey, stamp: int = stamp_px, place: int = place) -> Part:
            return measure_coverage(network, survey, stamp, size, mix(options.seed, 50 + place, part))

        part = plan.gather(settings, -(-each // size), measure)
        if part:
            parts.append(part)
    if parts:
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        sample = f"{len(surveys)} surveys, the training's shares"
        judge(ledger, plan.out, sample, whole, options.seed)
        say_samples(ledger, sample, whole)


# ---- command line --------------------------------------------------------------------------------------------------


def common(network: Network, options: argparse.Namespace) -> dict[str, Any]:
    """Settings that all parts depend on."""
    return {"what": options.what, "seed": options.seed, "weights": weights_digest(network)}


def main() -> None:
    """Parse, run, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("euclid", "gampen", "efficiency", "coverage"))
    add_options(parser, 1000)
    parser.add_argument("--network", default="foveal", help="a shipped name, or a path")
    parser.add_argument("--survey", action="append", choices=tuple(SURVEYS), help="these only; may be repeated")
    parser.add_argument("--stamp", type=int, help="side of the stamps, instead of each survey's own choice")
    parser.add_argument("--block", type=int, default=64, help="galaxies of a part")
    options = parser.parse_args()
    plan, ledger = read_plan(options), Ledger(options.seed)
    network = Network.load(options.network)
    run = {"euclid": euclid, "gampen": gampen, "efficiency": efficiency, "coverage": coverage}[options.what]
    run(network, options, plan, ledger)
    if ledger.rows:
        ledger.write(plan.out, what=options.what, network=options.network, weights=weights_digest(network))


if __name__ == "__main__":
    main()
