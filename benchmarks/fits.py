"""The likelihood beside other people's tools, samples and galaxies.

    python benchmarks/fits.py cramer-rao --count 400 --out results
    python benchmarks/fits.py gampen --count 400 --out results
    python benchmarks/fits.py euclid --count 400 --out results
    GALSTRESS_DATA=... python benchmarks/fits.py real --out results

``cramer-rao``: scatter of maximum-likelihood fits over ``--count`` noise draws, over the limit; the Fisher matrix
against finite differences of GalSim's converged images. ``gampen``: errors on GaMPEN's own sample. ``euclid``: radius
scatter of single Sersic galaxies as the Euclid Morphology Challenge has them, ``--count`` at each of three magnitudes,
the sample's own population as the prior. ``real``: galaxies that others have measured, fitted and refined.
Every figure stands with its sample size and a 68 % bootstrap interval; tables go to ``--out`` as ECSV.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import renderer
from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, half_light_radius, table_from_galaxies
from galstress.heads import OUTPUTS, Prediction
from galstress.heads.outputs import list_outputs
from galstress.likelihood import Likelihood
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import limit, refine
from galstress.rendering import PARAMETERS, from_parameters, to_parameters
from galstress.scores import bias, error_68, rms
from galstress.simulation import simulate, survey_psf
from galstress.survey import Survey
from posteriors import BLOCK, NAMES, Ledger, mean, offset_sky, to_terms, true_terms
from published import SETS, compare_real, draw_euclid, draw_gampen, euclid_prior, hsc_wide_g, semi_major

_log = logging.getLogger("fits")

# ---- the Cramer-Rao limit ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A galaxy whose fits are repeated."""

    name: str
    """In the record."""
    snr: float
    """Its S/N."""
    galaxies: Galaxies
    """One galaxy, pixels and image units; its flux is scaled to the S/N."""
    free: tuple[str, ...]
    """Parameters that are fitted, of ``PARAMETERS``; the sky is, too."""
    outputs: tuple[str, ...]
    """Outputs that are compared."""

    @property
    def places(self) -> list[int]:
        """Where the free parameters stand."""
        return [PARAMETERS.index(name) for name in self.free]


def _galaxy(**numbers: Sequence[float] | float) -> Galaxies:
    """One galaxy near the middle of 64 pixels."""
    values = {"flux": 1.0, "x": 31.8, "y": 31.3} | numbers
    return Galaxies(**{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


_WHOLE = tuple(OUTPUTS)[1:7]
_SHAPES = ("disk_ln_radius", "bulge_ln_radius", "disk_e1", "bulge_e1", "disk_e2", "bulge_e2")
CASES = (
    Case(
        "single Sersic, S/N 100",
        100.0,
        _galaxy(
            bulge_to_total=0.0, sersic_index=(1.7, 1.7), radius=(4.5, 4.5), axis_ratio=(0.6, 0.6), angle=(0.7, 0.7)
        ),
        ("flux", "x", "y", "disk_sersic_index", "disk_ln_radius", "disk_e1", "disk_e2"),
        (*_WHOLE, "disk_sersic_index"),
    ),
    Case(
        "disk + bulge, fixed indices, S/N 500",
        500.0,
        _galaxy(
            bulge_to_total=0.35, sersic_index=(1.0, 4.0), radius=(7.5, 3.0), axis_ratio=(0.5, 0.8), angle=(0.7, 0.9)
        ),
        ("flux", "bulge_to_total", "x", "y", *_SHAPES),
        ("bulge_to_total", *_WHOLE, "disk_half_light_radius_arcsec", "bulge_half_light_radius_arcsec"),
    ),
)


def scaled_to_snr(case: Case, survey: Survey) -> tuple[Galaxies, Cutouts]:
    """The galaxy with the flux that gives its S/N, and its image without noise."""
    flux = 1000.0
    for _ in range(30):
        galaxies = dataclasses.replace(case.galaxies, flux=torch.full((1,), flux, dtype=torch.float64))
        table = table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)
        cutouts = simulate(survey, galaxies=table, noise=False, stamp_px=64)
        flux *= case.snr / float(cutouts.truth["snr"][0])
    return galaxies, cutouts


def climb(likelihood: Likelihood, start: Tensor, places: list[int]) -> tuple[Tensor, Tensor]:
    """Damped Gauss-Newton in the free parameters.

    Arguments:
        likelihood: Of N images.
        start: (N, 12) parameters; those that are not free stay so.
        places: Of the free ones.

    Returns:
        (N, 12) parameters at the maximum, and (N,) whether the last accepted step changed chi-square by below 1e-6.
    """
    here, damping = start.clone(), torch.full((len(start),), 1e-2, dtype=torch.float64)
    value, settled = likelihood.chi_square(from_parameters(here)), torch.zeros(len(start), dtype=torch.bool)
    for _ in range(60):
        galaxies = from_parameters(here)
        slopes = likelihood.jacobian(galaxies)[:, places]
        fisher = likelihood.product(slopes, slopes)
        gradient = likelihood.product(slopes, likelihood.residuals(galaxies, tolerance=1e-6)[:, None])
        diagonal = torch.diag_embed(torch.diagonal(fisher, dim1=-2, dim2=-1))
        step = torch.linalg.solve(fisher + damping[:, None, None] * diagonal, gradient)[..., 0]
        new = here.clone()
        new[:, places] += step
        new[:, 4:6] = new[:, 4:6].clamp(0.35, 7.5)
        there = likelihood.chi_square(from_parameters(new))
        better = there < value
        settled |= (there - value).abs() < 1e-6
        here, value = torch.where(better[:, None], new, here), torch.where(better, there, value)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-9, 1e9)
        if bool(settled.all()):
            break
    return here, settled


def outputs_of(parameters: Tensor, survey: Survey) -> np.ndarray:
    """(N, D) outputs of (N, 12) parameters."""
    galaxies = from_parameters(parameters)
    return list_outputs(galaxies, half_light_radius(galaxies), survey).numpy()


def limits_of(case: Case, clean: Cutouts, galaxies: Galaxies) -> np.ndarray:
    """(D,) Cramer-Rao errors of the outputs.

    Of disk + bulge by :func:`galstress.refinement.limit`; a single Sersic profile, of which B/T is known to be 0, by
    the Fisher matrix of its seven parameters and differences of the outputs.
    """
    if "bulge_to_total" in case.free:
        table = limit(clean, "cramer-rao", free_indices=False)
        return np.array([float(getattr(table[name][0], "value", table[name][0])) for name in OUTPUTS])
    covariance = covariance_of(Likelihood.of(clean).fisher(galaxies)[0][case.places][:, case.places])
    truth, slopes = to_parameters(galaxies), []
    for place in case.places:
        step = torch.zeros_like(truth)
        step[0, place] = 1e-4 * max(1.0, abs(float(truth[0, place])))
        ends = [outputs_of(truth + sign * step, clean.survey)[0] for sign in (1, -1)]
        slopes.append((ends[0] - ends[1]) / (2 * float(step[0, place])))
    along = np.stack(slopes, -1)
    return np.sqrt(np.einsum("di,ij,dj->d", along, covariance.numpy(), along))


def covariance_of(fisher: Tensor) -> Tensor:
    """Inverse of a Fisher matrix, scaled first."""
    scale = torch.outer(fisher.diagonal().rsqrt(), fisher.diagonal().rsqrt())
    return torch.linalg.inv(fisher * scale) * scale


def repeat_fits(case: Case, clean: Cutouts, galaxies: Galaxies, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, D) outputs of fits from starts about an error off, and whether each fit settled."""
    truth, places = to_parameters(galaxies), case.places
    sigma = covariance_of(Likelihood.of(clean).fisher(galaxies)[0][places][:, places]).diagonal().sqrt()
    generator = torch.Generator().manual_seed(700_000)
    found, settled = [], []
    for start in range(0, count, 25):
        many = clean.select(np.zeros(min(25, count - start), int))
        many = dataclasses.replace(many, psf=clean.psf[:1].expand(len(many), -1, -1))
        noise = torch.randn(many.images.shape, generator=generator) * many.variance.sqrt()
        likelihood = Likelihood.of(dataclasses.replace(many, images=many.images + noise))
        first = truth.repeat(len(many), 1)
        first[:, places] += sigma * torch.randn(len(many), len(places), generator=generator, dtype=torch.float64)
        values, done = climb(likelihood, first, places)
        found.append(outputs_of(values, clean.survey))
        settled.append(done.numpy())
        _log.info("%s: %d of %d fits", case.name, start + len(many), count)
    return np.concatenate(found), np.concatenate(settled)


def deviation(errors: np.ndarray) -> np.ndarray:
    """Standard deviation along the last axis."""
    return np.std(errors, axis=-1, ddof=1)


def galsim_fisher(clean: Cutouts, galaxies: Galaxies, places: list[int]) -> Tensor:
    """Fisher matrix by central differences of GalSim's converged images."""
    psf, oversampling, _ = survey_psf(clean.survey, 64)
    seen_through, centre, slopes = renderer.judge_psf(psf, oversampling), to_parameters(galaxies), []
    for place in places:
        step = 0.01 * float(centre[0, 0]) if PARAMETERS[place] == "flux" else 0.01
        moved = torch.zeros_like(centre)
        moved[0, place] = step
        ends = [renderer.judge(from_parameters(centre + sign * moved), 0, seen_through, 64) for sign in (1, -1)]
        slopes.append(torch.as_tensor((ends[0] - ends[1]) / (2 * step)))
    likelihood = Likelihood.of(clean)
    scaled = (torch.stack(slopes) * likelihood.weight[0] * likelihood.kept[0])[None]
    return likelihood.product(scaled, scaled)[0]


def cramer_rao(options: argparse.Namespace, ledger: Ledger) -> None:
    """Scatter of maximum-likelihood fits over the limit, and Fisher matrices by GalSim."""
    survey = Survey.load("hsc-wide-i")
    for case in CASES:
        galaxies, clean = scaled_to_snr(case, survey)
        found, settled = repeat_fits(case, clean, galaxies, options.count)
        bound, truth = limits_of(case, clean, galaxies), outputs_of(to_parameters(galaxies), survey)[0]
        for name in case.outputs:
            at = tuple(OUTPUTS).index(name)
            pulls = (found[:, at] - truth[at]) / bound[at]
            ledger.measure(case.name, f"scatter / limit, {name}", "fits", deviation, pulls, note="bar 0.9 to 1.1")
            ledger.measure(case.name, f"bias / limit, {name}", "fits", mean, pulls)
        ledger.measure(case.name, "share of fits that settled", "fits", mean, settled)
        ours = Likelihood.of(clean).fisher(galaxies)[0][case.places][:, case.places]
        theirs = galsim_fisher(clean, galaxies, case.places)
        scale = ours.diagonal().sqrt()
        entries = float(((ours - theirs).abs() / torch.outer(scale, scale)).max())
        sigma = [covariance_of(matrix).diagonal().sqrt() for matrix in (ours, theirs)]
        ledger.add(case.name, "F against GalSim's, worst, %", "limit", 100 * entries, 1, "of sqrt(F_ii F_jj); bar 2")
        worst = float((sigma[0] / sigma[1] - 1).abs().max())
        ledger.add(case.name, "error bars against GalSim's, %", "limit", 100 * worst, 1, "the worst; bar 2")


# ---- other people's samples ----------------------------------------------------------------------------------------


def answer_terms(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """(N, 5) median and mean of the whole-galaxy outputs in the terms of their errors."""
    draws = to_terms(prediction.sample(512, 0))
    return np.median(draws, 0), draws.mean(0)


def gampen(options: argparse.Namespace, ledger: Ledger) -> None:
    """68 % errors in B/T, radius and flux beside GaMPEN's, and over the rms of the exact posterior."""
    network, survey, columns = Network.load(options.network), hsc_wide_g(), {}
    for start in range(0, options.count, BLOCK):
        size, generator = min(BLOCK, options.count - start), torch.Generator().manual_seed(710_000 + start)
        table = draw_gampen(survey, size, options.stamp_px, generator)
        cutouts = simulate(survey, seed=generator, galaxies=table, stamp_px=options.stamp_px)
        cutouts = offset_sky(cutouts, generator)
        found = predict(network, cutouts)
        refined = refine(found, cutouts, "weak", seed=start)
        bound = limit(cutouts, "bayes", prior="weak", seed=start + 1)
        rows = {"truth": true_terms(cutouts), "effective": refined.effective_samples}
        rows["trusted"] = np.minimum(refined.effective_samples, np.asarray(bound["effective_samples"])) >= 100
        for who, prediction in (("network", found), ("refined", refined)):
            rows[f"{who} median"], rows[f"{who} mean"] = answer_terms(prediction)
        limits = np.stack([np.asarray(getattr(bound[name], "value", bound[name])) for name in tuple(OUTPUTS)[:3]], -1)
        # of a log-normal distribution (sigma / mean)^2 = exp(s^2) - 1
        limits[:, 1:] = np.sqrt(np.log1p((limits[:, 1:] / refined.mean[:, 1:3]) ** 2))
        for name, values in (rows | {"limit": limits}).items():
            columns.setdefault(name, []).append(values)
        _log.info("%d of %d galaxies", start + size, options.count)
    part = {name: np.concatenate(values) for name, values in columns.items()}
    sample, good = f"GaMPEN's, {survey.name}, {options.stamp_px} px", part["trusted"]
    for at, (theirs, bar) in enumerate(((0.1, 0.05), (0.07, 0.02), (0.01, 0.01))):
        name, bound = NAMES[at], part["limit"][:, at]
        for who in ("network", "refined"):
            error, error_of_mean = (part[f"{who} {kind}"][:, at] - part["truth"][:, at] for kind in ("median", "mean"))
            note = f"GaMPEN {theirs}" + (f", bar {bar}" if who == "network" else "")
            ledger.measure(sample, f"68 % error of {name}", who, error_68, error, note=note)
            ledger.measure(sample, f"bias of {name}", who, bias, error)
            note, pair = "bar 1.2" if who == "refined" else "", (error_of_mean[good], bound[good])
            ledger.measure(sample, f"rms of {name} / rms bayes", who, lambda e, b: rms(e) / rms(b), *pair, note=note)
            ledger.measure(sample, f"68 % of error of {name} / bayes", who, error_68, pair[0] / pair[1], note=note)
    ledger.measure(sample, "effective samples, median", "refined", bias, part["effective"])
    ledger.measure(sample, "share with 100 or more", "refined", mean, part["effective"] >= 100)


EUCLID = {20.7: (128, 0.019, 0.005, 0.010, 0.006), 22.7: (64, 0.047, 0.017, 0.028, 0.018)}
EUCLID |= {23.8: (64, 0.081, 0.031, 0.05, 0.035)}
"""Magnitude: stamp, best published scatter, limit of the reference, bars for network and refined."""


def scatter_about_median(errors: np.ndarray) -> np.ndarray:
    """D of the challenge: the 68 % quantile of |b - median(b)|, along the last axis."""
    return np.quantile(np.abs(errors - np.median(errors, -1, keepdims=True)), 0.68, axis=-1)


def euclid(options: argparse.Namespace, ledger: Ledger) -> None:
    """Radius scatter at three magnitudes beside the challenge's best codes."""
    network, survey = Network.load(options.network), Survey.load("euclid-vis")
    for magnitude, (stamp_px, published, reference, alone, bar) in EUCLID.items():
        errors: dict[str, list[np.ndarray]] = {}
        for start in range(0, options.count, BLOCK):
            seed, size = 720_000 + int(1000 * magnitude) + start, min(BLOCK, options.count - start)
            generator = torch.Generator().manual_seed(seed)
            table = draw_euclid(survey, magnitude, size, stamp_px, generator)
            cutouts = offset_sky(simulate(survey, seed=generator, galaxies=table, stamp_px=stamp_px), generator)
            found = predict(network, cutouts)
            refined = refine(found, cutouts, euclid_prior(), seed=start)
            e = [np.asarray(table[name]) for name in ("e1", "e2", "half_light_radius_arcsec")]
            true = semi_major(e[0], e[1], np.asarray(getattr(e[2], "value", e[2])))
            for who, prediction in (("network", found), ("refined", refined)):
                drawn = prediction.sample(512, 0)
                axis = np.median(semi_major(drawn[..., 3], drawn[..., 4], drawn[..., 1]), 0)
                errors.setdefault(who, []).append(axis / true - 1)
            errors.setdefault("effective", []).append(refined.effective_samples)
            _log.info("I = %s: %d of %d galaxies", magnitude, start + size, options.count)
        sample, part = f"euclid-vis, I = {magnitude}", {who: np.concatenate(values) for who, values in errors.items()}
        for who, goal in (("network", alone), ("refined", bar)):
            note = f"bar {goal}; best published {published}, limit of the reference {reference}"
            ledger.measure(sample, "D(semi-major radius)", who, scatter_about_median, part[who], note=note)
            ledger.measure(sample, "bias of it", who, bias, part[who], note="bar: a tenth of D")
        ledger.measure(sample, "effective samples, median", "refined", bias, part["effective"])


def main() -> None:
    """Parse, run, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cramer-rao", "gampen", "euclid", "real"))
    parser.add_argument("--count", type=int, default=400, help="noise draws, galaxies, or at most so many of each set")
    parser.add_argument("--stamp-px", type=int, default=128, help="of gampen")
    parser.add_argument("--network", default="foveal", help="a shipped name, or a path")
    parser.add_argument("--only", action="append", choices=SETS, help="of real; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger()
    if options.what == "real":
        compare_real(options, ledger)
    else:
        {"cramer-rao": cramer_rao, "gampen": gampen, "euclid": euclid}[options.what](options, ledger)
    ledger.write(options.out / f"{options.what}.ecsv")


if __name__ == "__main__":
    main()
