"""The likelihood beside other people's tools: the Cramer-Rao limit, speed, and fits of real galaxies.

    python benchmarks/fits.py cramer-rao --count 400 --out results/cramer-rao.ecsv
    python benchmarks/fits.py speed --count 64 --out results/speed.ecsv
    GALSTRESS_DATA=... python benchmarks/fits.py real --out results/real.ecsv

``cramer-rao``: scatter of maximum-likelihood fits by SciPy's least squares over ``--count`` noise draws, over the
limit; and the Fisher matrix by finite differences of GalSim's images. ``speed``: network, refined, statmorph (and
pysersic where it is installed) in turn on the same ``--count`` galaxies of 64 pixels. ``real``: galaxies that others
have measured, fitted and refined (``realfits.py``).
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

import realfits
import speeds
from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, galaxies_from_table, table_from_galaxies
from galstress.likelihood import Likelihood
from galstress.networks import Network
from galstress.refinement import limit
from galstress.rendering import PARAMETERS, from_parameters, to_parameters
from galstress.scores import bootstrap
from galstress.simulation import simulate, survey_psf
from galstress.survey import Survey
from parts import Ledger, Part, Plan, add_options, mix, read_plan, weights_digest

_log = logging.getLogger("fits")

# ---- the Cramer-Rao limit ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A galaxy whose fits are repeated."""

    name: str
    """In the record."""
    survey: str
    """Who sees it."""
    snr: float
    """Its S/N."""
    galaxies: Galaxies
    """One galaxy, pixels and image units; its flux is scaled to the S/N."""
    free: tuple[str, ...]
    """Parameters that are fitted, of ``PARAMETERS``; the sky is, too."""
    stamp_px: int = 64
    """Side of the stamp."""

    @property
    def places(self) -> list[int]:
        """Where the free parameters stand."""
        return [PARAMETERS.index(name) for name in self.free]


def _galaxy(**numbers: Sequence[float] | float) -> Galaxies:
    """One galaxy near the middle of 64 pixels."""
    values = {"flux": 1.0, "x": 31.8, "y": 31.3} | numbers
    return Galaxies(**{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


_SHAPES = ("disk_ln_radius", "bulge_ln_radius", "disk_e1", "bulge_e1", "disk_e2", "bulge_e2")
CASES = (
    Case(
        "single Sersic, S/N 100",
        "hsc-wide-i",
        100.0,
        _galaxy(
            bulge_to_total=0.0, sersic_index=(1.7, 1.7), radius=(4.5, 4.5), axis_ratio=(0.6, 0.6), angle=(0.7, 0.7)
        ),
        ("flux", "x", "y", "disk_sersic_index", "disk_ln_radius", "disk_e1", "disk_e2"),
    ),
    Case(
        "disk + bulge, fixed indices, S/N 500",
        "hsc-wide-i",
        500.0,
        _galaxy(
            bulge_to_total=0.35, sersic_index=(1.0, 4.0), radius=(7.5, 3.0), axis_ratio=(0.5, 0.8), angle=(0.7, 0.9)
        ),
        ("flux", "bulge_to_total", "x", "y", *_SHAPES),
    ),
)


def scaled_to_snr(case: Case) -> tuple[Galaxies, Cutouts]:
    """The galaxy with the flux that gives its S/N, and its image without noise."""
    survey, flux = Survey.load(case.survey), 1000.0
    for _ in range(30):
        galaxies = dataclasses.replace(case.galaxies, flux=torch.full((1,), flux, dtype=torch.float64))
        table = table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)
        cutouts = simulate(survey, galaxies=table, noise=False, stamp_px=case.stamp_px)
        snr = float(cutouts.truth["snr"][0])
        flux *= case.snr / snr
        if abs(snr / case.snr - 1) < 1e-5:
            break
    return galaxies, cutouts


def without_sky(likelihood: Likelihood, images: Tensor) -> Tensor:
    """(A, pixels) whitened images (A, H, W) with a free sky projected out."""
    flat, sky = images.flatten(1), likelihood.sky[0].flatten()
    return flat - (flat @ sky)[:, None] * sky / (sky @ sky)


def fit_once(likelihood: Likelihood, truth: Tensor, places: list[int], sigma: Tensor, start: Tensor) -> np.ndarray:
    """Free parameters (P,) at the maximum of the likelihood, by SciPy.

    Arguments:
        likelihood: Of one image, sky free.
        truth: (12,) parameters; those that are not free stay so.
        places: (P,) of the free ones.
        sigma: (P,) lengths that SciPy steps in: their Cramer-Rao errors.
        start: (P,) where to start, in these lengths from the truth.
    """

    def galaxies(values: np.ndarray) -> Galaxies:
        parameters = truth.clone()
        parameters[places] += sigma * torch.as_tensor(values)
        return from_parameters(parameters[None])

    def residuals(values: np.ndarray) -> np.ndarray:
        return without_sky(likelihood, likelihood.residuals(galaxies(values)))[0].numpy()

    def slopes(values: np.ndarray) -> np.ndarray:
        each = likelihood.jacobian(galaxies(values))[0, places]
        return -(without_sky(likelihood, each) * sigma[:, None]).T.numpy()

    found = least_squares(residuals, start.numpy(), jac=slopes, method="lm", xtol=1e-6, ftol=1e-8)
    return (truth[places] + sigma * torch.as_tensor(found.x)).numpy()


def covariance_of(fisher: Tensor) -> Tensor:
    """Inverse of Fisher matrices (..., P, P), scaled first."""
    scale = torch.diagonal(fisher, dim1=-2, dim2=-1).rsqrt()
    return (
        torch.linalg.inv(fisher * scale[..., :, None] * scale[..., None, :]) * scale[..., :, None] * scale[..., None, :]
    )


def measure_fits(case: Case, size: int, seed: int) -> Part:
    """Fits of one block of noise draws, from starts that are two errors off."""
    galaxies, clean = scaled_to_snr(case)
    truth, places = to_parameters(galaxies)[0], case.places
    sigma = covariance_of(Likelihood.of(clean).fisher(galaxies)[0][places][:, places]).diagonal().sqrt()
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(size):
        noise = torch.randn(clean.images.shape, generator=generator) * clean.variance.sqrt()
        likelihood = Likelihood.of(dataclasses.replace(clean, images=clean.images + noise))
        start = 2 * torch.randn(len(places), generator=generator, dtype=torch.float64)
        found.append(fit_once(likelihood, truth, places, sigma, start))
    return {"pulls": (np.stack(found) - truth[places].numpy()) / sigma.numpy()}


def scatter_over_limit(pulls: np.ndarray) -> np.ndarray:
    """Standard deviation along the last axis."""
    return np.std(pulls, axis=-1, ddof=1) if pulls.shape[-1] > 1 else np.full(pulls.shape[:-1], np.nan)


def cramer_rao(options: argparse.Namespace, plan: Plan, ledger: Ledger) -> None:
    """Scatter of maximum-likelihood fits over the limit, and Fisher matrices by GalSim."""
    size = min(20, options.count)
    for place, case in enumerate(CASES):
        settings = {"what": options.what, "sample": case.name, "seed": options.seed, "block": size, "case": repr(case)}

        def measure(part: int, case: Case = case, place: int = place) -> Part:
            return measure_fits(case, size, mix(options.seed, place, part))

        part = plan.gather(settings, -(-options.count // size), measure)
        if not part:
            continue
        sample = f"{case.name}, {case.survey}"
        for column, name in enumerate(case.free):
            pulls = part["pulls"][:, column]
            ledger.measure(
                sample, f"scatter of fits / limit, {name}", "SciPy", scatter_over_limit, pulls, note="bar 0.9 to 1.1"
            )
            ledger.measure(sample, f"bias of fits / limit, {name}", "SciPy", lambda x: x.mean(-1), pulls, shown=False)
        galaxies, clean = scaled_to_snr(case)
        own = covariance_of(Likelihood.of(clean).fisher(galaxies)[0][case.places][:, case.places]).diagonal().sqrt()
        if "bulge_to_total" in case.free:
            table = limit(clean, "cramer-rao", free_indices=False)
            ratio = float(table["bulge_to_total"][0]) / float(own[case.free.index("bulge_to_total")])
            ledger.add(sample, "galstress.limit / own inverse, B/T", "limit", ratio, 1, "bar 1")
    if not plan.shares_work:
        for case in CASES:
            compare_fisher(ledger, case.name, *scaled_to_snr(case), case.places)
        for place, survey in enumerate(("sdss-r", "hsc-wide-i", "euclid-vis")):
            compare_random(ledger, survey, max(2, options.count // 40), mix(options.seed, 90, place))


def galsim_slopes(galaxies: Galaxies, survey: Survey, stamp_px: int, places: list[int]) -> Tensor:
    """(P, H, W) derivatives of GalSim's converged images of one galaxy, by central differences."""
    import renderer

    psf, _, _ = survey_psf(survey, stamp_px)
    seen_through = renderer.judge_psf(psf, survey_psf(survey, stamp_px)[1])
    centre = to_parameters(galaxies)[0]
    slopes = []
    for place in places:
        step = 0.01 * float(centre[0]) if PARAMETERS[place] == "flux" else 0.01
        images = []
        for sign in (1, -1):
            moved = centre.clone()
            moved[place] += sign * step
            images.append(renderer.judge(from_parameters(moved[None]), 0, seen_through, stamp_px))
        slopes.append(torch.as_tensor((images[0] - images[1]) / (2 * step)))
    return torch.stack(slopes)


def fisher_difference(galaxies: Galaxies, clean: Cutouts, places: list[int]) -> tuple[float, float]:
    """Largest |ours - GalSim's| of the Fisher matrix over sqrt(F_ii F_jj), and of the errors, both relative."""
    likelihood = Likelihood.of(clean)
    ours = likelihood.fisher(galaxies)[0][places][:, places]
    slopes = galsim_slopes(galaxies, clean.survey, clean.images.shape[-1], places)
    theirs = slopes * likelihood.weight[0] * likelihood.kept[0]
    theirs = likelihood.product(theirs[None], theirs[None])[0]
    scale = ours.diagonal().sqrt()
    entries = ((ours - theirs).abs() / scale[:, None] / scale[None]).max()
    sigma = [covariance_of(matrix).diagonal().sqrt() for matrix in (ours, theirs)]
    return float(entries), float((sigma[0] / sigma[1] - 1).abs().max())


def compare_fisher(ledger: Ledger, sample: str, galaxies: Galaxies, clean: Cutouts, places: list[int]) -> None:
    """One galaxy's Fisher matrix beside GalSim's."""
    entries, errors = fisher_difference(galaxies, clean, places)
    ledger.add(sample, "Fisher matrix against GalSim, worst, %", "limit", 100 * entries, 1, "bar 2")
    ledger.add(sample, "its errors against GalSim, worst, %", "limit", 100 * errors, 1, "bar 2")


def compare_random(ledger: Ledger, survey: str, count: int, seed: int) -> None:
    """Random disk + bulge galaxies, all twelve parameters."""
    import renderer

    record, stamp_px = Survey.load(survey), 64
    drawn = renderer.draw_galaxies(count, stamp_px, seed, least_px=1.5)
    drawn = dataclasses.replace(drawn, bulge_to_total=0.1 + 0.8 * drawn.bulge_to_total, flux=100 * drawn.flux)
    table = table_from_galaxies(drawn, record.pixel_scale_arcsec, record.unit_njy)
    clean = simulate(record, galaxies=table, noise=False, stamp_px=stamp_px)
    worst = []
    for row in range(count):
        one = clean.select([row])
        galaxies = galaxies_from_table(one.truth, record.pixel_scale_arcsec, record.unit_njy)
        worst.append(100 * fisher_difference(galaxies, one, list(range(len(PARAMETERS))))[0])
    note = f"bar 2; the worst of all {max(worst):.2g}"
    median = bootstrap(lambda x: np.median(x, -1), np.asarray(worst), seed=seed)
    ledger.add(
        f"random disk + bulge, {survey}", "Fisher matrix against GalSim, median, %", "limit", median, count, note
    )


def main() -> None:
    """Parse, run, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cramer-rao", "speed", "real"))
    add_options(parser, 400)
    parser.add_argument("--network", default="foveal", help="a shipped name, or a path")
    parser.add_argument("--only", action="append", choices=tuple(realfits.SETS), help="of real: these sets only")
    options = parser.parse_args()
    plan, ledger = read_plan(options), Ledger(options.seed)
    about = {"what": options.what}
    if options.what == "cramer-rao":
        cramer_rao(options, plan, ledger)
    else:
        network = Network.load(options.network)
        about |= {"network": options.network, "weights": weights_digest(network), "threads": options.threads}
        if options.what == "speed":
            speeds.speed(network, options, ledger)
        else:
            realfits.real(network, options, ledger)
    if ledger.rows:
        ledger.write(plan.out, **about)


if __name__ == "__main__":
    main()
