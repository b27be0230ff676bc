"""The Cramer-Rao limit against GalSim's images, and against the scatter of fits that SciPy makes."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import Galaxies, galaxies_from_table, table_from_galaxies
from galstress.heads import OUTPUTS
from galstress.likelihood import Likelihood
from galstress.refinement import limit
from galstress.rendering import PARAMETERS, from_parameters, to_parameters
from galstress.simulation import simulate, survey_psf
from galstress.survey import Survey

STAMP = 40
DRAWS = 90
"""Fits whose scatter is taken, of each case: as many as fit into half a minute."""


def one_galaxy(**numbers: float | Sequence[float]) -> Galaxies:
    """One galaxy off the middle of the stamp, of flux 1."""
    values = {"flux": 1.0, "x": 20.3, "y": 18.9} | numbers
    return Galaxies(**{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


SINGLE = one_galaxy(
    bulge_to_total=0.0, sersic_index=(1.7, 4.0), radius=(4.5, 2.0), axis_ratio=(0.6, 0.8), angle=(0.7, 0.9)
)
BOTH = one_galaxy(
    bulge_to_total=0.35, sersic_index=(1.0, 3.5), radius=(6.5, 2.5), axis_ratio=(0.5, 0.8), angle=(0.7, 1.3)
)


def expose(galaxies: Galaxies, survey: Survey, snr: float, stamp_px: int = STAMP) -> tuple[Galaxies, Cutouts]:
    """A galaxy with the flux that gives it a S/N, and its image without noise."""
    flux = 1000 * survey.sky_rms
    for _ in range(12):
        galaxies = dataclasses.replace(galaxies, flux=torch.full((1,), flux, dtype=torch.float64))
        table = table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)
        cutouts = simulate(survey, galaxies=table, noise=False, stamp_px=stamp_px)
        flux *= snr / float(cutouts.truth["snr"][0])
    return galaxies, cutouts


def plain(table: object, name: str, row: int = 0) -> float:
    """One number of a table, without its unit."""
    return float(np.asarray(table[name])[row])


# ---- the Fisher matrix of GalSim's images --------------------------------------------------------------------------


def galsim_slopes(galaxies: Galaxies, survey: Survey) -> np.ndarray:
    """(12, H, W) central differences of converged images."""
    pytest.importorskip("galsim")
    path = Path(__file__).parents[1] / "benchmarks" / "renderer.py"
    spec = importlib.util.spec_from_file_location("renderer_benchmark", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    psf, oversampling, _ = survey_psf(survey, STAMP)
    seen_through, centre = bench.judge_psf(psf, oversampling), to_parameters(galaxies)[0]
    slopes = []
    for place, name in enumerate(PARAMETERS):
        step = 0.01 * (float(centre[0]) if name == "flux" else 1)
        images = []
        for sign in (1, -1):
            moved = centre.clone()
            moved[place] += sign * step
            images.append(bench.judge(from_parameters(moved[None]), 0, seen_through, STAMP))
        slopes.append((images[0] - images[1]) / (2 * step))
    return np.stack(slopes)


def outputs_of(parameters: np.ndarray, survey: Survey) -> np.ndarray:
    """(15,) outputs by SciPy, in the order and units of ``OUTPUTS``."""
    flux, share, x, y, disk_n, bulge_n, disk_ln, bulge_ln, disk_e1, bulge_e1, disk_e2, bulge_e2 = parameters

    def inside(radius: float, index: float, half: float) -> float:
        return special.gammainc(2 * index, special.gammaincinv(2 * index, 0.5) * (radius / half) ** (1 / index))

    disk_r, bulge_r = math.exp(disk_ln), math.exp(bulge_ln)
    whole = optimize.brentq(
        lambda r: (1 - share) * inside(r, disk_n, disk_r) + share * inside(r, bulge_n, bulge_r) - 0.5,
        1e-2 * min(disk_r, bulge_r),
        1e2 * max(disk_r, bulge_r),
        xtol=1e-13,
    )
    scale = survey.pixel_scale_arcsec
    values = [share, whole * scale, flux * survey.unit_njy]
    values += [(1 - share) * disk_e1 + share * bulge_e1, (1 - share) * disk_e2 + share * bulge_e2, x, y]
    for index, radius, e1, e2 in ((disk_n, disk_r, disk_e1, disk_e2), (bulge_n, bulge_r, bulge_e1, bulge_e2)):
        size = math.hypot(e1, e2)
        values += [index, radius * math.sqrt((1 + size) / (1 - size)) * scale, e1, e2]
    return np.array(values)


def output_slopes(parameters: np.ndarray, survey: Survey) -> np.ndarray:
    """(15, 12) one-sided differences of second order: B/T may be 0."""
    slopes = []
    for place, value in enumerate(parameters):
        step = 1e-4 * max(1.0, abs(value))
        at = []
        for times in (0, 1, 2):
            moved = parameters.copy()
            moved[place] += times * step
            at.append(outputs_of(moved, survey))
        slopes.append((-3 * at[0] + 4 * at[1] - at[2]) / (2 * step))
    return np.stack(slopes, 1)


@pytest.mark.parametrize("survey", ["sdss-r", "hsc-wide-i", "euclid-vis"])
@pytest.mark.parametrize("shape", [SINGLE, BOTH], ids=["single", "disk+bulge"])
def test_cramer_rao_agrees_with_galsim(survey: str, shape: Galaxies) -> None:
    survey = Survey.load(survey)
    galaxies, cutouts = expose(shape, survey, 150.0)
    weight = 1 / cutouts.variance[0].double().numpy().ravel()
    slopes = galsim_slopes(galaxies, survey).reshape(len(PARAMETERS), -1)
    own = output_slopes(to_parameters(galaxies)[0].numpy(), survey)
    for sky_sigma in (None, 0.02):
        sky = slopes @ weight
        known = 0 if sky_sigma is None else (sky_sigma * float(cutouts.sky_rms[0])) ** -2
        fisher = (slopes * weight) @ slopes.T - np.outer(sky, sky) / (weight.sum() + known)
        for free in (True, False):
            found = limit(cutouts, "cramer-rao", free_indices=free, sky_sigma=sky_sigma)
            used = [
                place
                for place, name in enumerate(PARAMETERS)
                if (free or "index" not in name) and not (shape is SINGLE and name in PARAMETERS[5::2])
            ]
            inverse = np.linalg.inv(fisher[np.ix_(used, used)])
            expected = np.sqrt(np.einsum("di,ij,dj->d", own[:, used], inverse, own[:, used]))
            for place, name in enumerate(OUTPUTS):
                if shape is SINGLE and name.startswith("bulge_") and name != "bulge_to_total":
                    assert math.isnan(plain(found, name)), name
                else:
                    assert plain(found, name) == pytest.approx(expected[place], rel=5e-3), name


# ---- the scatter of maximum-likelihood fits ------------------------------------------------------------------------


def fit_once(likelihood: Likelihood, truth: torch.Tensor, free: list[int], sigma: np.ndarray) -> np.ndarray:
    """(P,) free parameters less the truth, in ``sigma``, at the maximum; SciPy climbs, the sky is free."""
    sky = likelihood.sky[0].flatten().numpy()

    def galaxies(values: np.ndarray) -> Galaxies:
        parameters = truth.clone()
        parameters[free] += torch.as_tensor(sigma * values)
        return from_parameters(parameters[None])

    def without_sky(images: torch.Tensor) -> np.ndarray:
        flat = images.flatten(1).numpy()
        return flat - np.outer(flat @ sky, sky) / (sky @ sky)

    found = optimize.least_squares(
        lambda values: without_sky(likelihood.residuals(galaxies(values)))[0],
        np.zeros(len(free)),
        jac=lambda values: -(without_sky(likelihood.jacobian(galaxies(values))[0, free]) * sigma[:, None]).T,
        method="lm",
        xtol=1e-3,
        ftol=1e-6,
    )
    return found.x


def fit_many(galaxies: Galaxies, cutouts: Cutouts, free: list[int], sigma: np.ndarray, count: int) -> np.ndarray:
    """(count, P) errors of fits to noise draws, in ``sigma``."""
    truth, generator = to_parameters(galaxies)[0], torch.Generator().manual_seed(11)
    errors = []
    for _ in range(count):
        noise = cutouts.variance.sqrt() * torch.randn(cutouts.images.shape, generator=generator)
        noisy = Likelihood.of(dataclasses.replace(cutouts, images=cutouts.images + noise))
        errors.append(fit_once(noisy, truth, free, sigma))
    return np.stack(errors)


def assert_scatter(errors: np.ndarray, covariance: np.ndarray, sigma: np.ndarray) -> None:
    """Errors scatter as the limit says: each parameter as chance allows, all together to 10 %."""
    count, number = errors.shape
    ratio = errors.std(0, ddof=1)
    low, high = (np.sqrt(stats.chi2.ppf(p, count - 1) / (count - 1)) for p in (5e-4, 1 - 5e-4))
    assert (ratio > low).all(), ratio
    assert (ratio < high).all(), ratio
    # independent combinations, so that their mean square is known to sqrt(2 / (count number))
    unit = np.linalg.solve(np.linalg.cholesky(covariance / sigma[:, None] / sigma), (errors - errors.mean(0)).T)
    assert math.sqrt((unit**2).sum() / ((count - 1) * number)) == pytest.approx(1, abs=0.1)
    assert abs(errors.mean(0)).max() < 4.5 / math.sqrt(count)


def test_single_sersic_fits_scatter_as_the_limit_says() -> None:
    # the bar, 0.9 to 1.1 parameter by parameter over 400 draws: benchmarks/fits.py cramer-rao
    galaxies, cutouts = expose(SINGLE, Survey.load("hsc-wide-i"), 100.0)
    free = [place for place, name in enumerate(PARAMETERS) if name != "bulge_to_total" and name[:5] != "bulge"]
    fisher = Likelihood.of(cutouts).fisher(galaxies)[0].numpy()[np.ix_(free, free)]
    covariance = np.linalg.inv(fisher)
    sigma = np.sqrt(covariance.diagonal())
    assert_scatter(fit_many(galaxies, cutouts, free, sigma, DRAWS), covariance, sigma)


def test_disk_and_bulge_fits_scatter_as_the_limit_says() -> None:
    # at HSC's resolution the ridge between B/T and the bulge's radius bends within one error, even at S/N 500
    galaxies, cutouts = expose(BOTH, Survey.load("euclid-vis"), 500.0)
    free = [place for place, name in enumerate(PARAMETERS) if "index" not in name]
    fisher = Likelihood.of(cutouts).fisher(galaxies)[0].numpy()[np.ix_(free, free)]
    covariance = np.linalg.inv(fisher)
    sigma = np.sqrt(covariance.diagonal())
    # the table says the same of those parameters that are outputs
    table = limit(cutouts, "cramer-rao", free_indices=False)
    unit = {"flux": cutouts.survey.unit_njy}
    for parameter, output in {"flux": "flux_njy", "x": "x_px", "y": "y_px"}.items() | {
        (name, name) for name in ("bulge_to_total", "disk_e1", "disk_e2", "bulge_e1", "bulge_e2")
    }:
        own = sigma[free.index(PARAMETERS.index(parameter))] * unit.get(parameter, 1)
        assert plain(table, output) == pytest.approx(own, rel=1e-4), output
    assert_scatter(fit_many(galaxies, cutouts, free, sigma, DRAWS), covariance, sigma)


# ---- closed forms --------------------------------------------------------------------------------------------------


def test_flux_alone_is_known_to_one_over_the_snr() -> None:
    cutouts = simulate("hsc-wide-i", 5, seed=2, stamp_px=48)
    survey = cutouts.survey
    galaxies = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    fisher = Likelihood.of(cutouts, sky_sigma=1e-6).fisher(galaxies)[:, 0, 0]
    relative = 1 / (fisher.sqrt() * galaxies.flux)
    np.testing.assert_allclose(relative, 1 / np.asarray(cutouts.truth["snr"]), rtol=1e-3)
    # and no limit with all parameters free is smaller
    errors = np.asarray(limit(cutouts, "cramer-rao")["flux_njy"]) / (galaxies.flux.numpy() * survey.unit_njy)
    assert (errors > relative.numpy()).all()


def numbers(table: object) -> np.ndarray:
    """(N, 15) outputs of a table without their units."""
    return np.stack([np.asarray(table[name], float) for name in OUTPUTS], 1)


def test_errors_follow_noise_knowledge_and_pixels() -> None:
    cutouts = simulate("sdss-r", 6, seed=3, stamp_px=32)
    usual = numbers(limit(cutouts, "cramer-rao"))
    known = np.isfinite(usual)
    assert known[:, :7].all()
    louder = numbers(limit(dataclasses.replace(cutouts, variance=4 * cutouts.variance), "cramer-rao"))
    np.testing.assert_allclose(louder[known], 2 * usual[known], rtol=1e-5)
    fixed = numbers(limit(cutouts, "cramer-rao", free_indices=False))
    assert (fixed[known] <= usual[known] * (1 + 1e-6)).all()
    steady = numbers(limit(cutouts, "cramer-rao", sky_sigma=0.01))
    assert (steady[known] <= usual[known] * (1 + 1e-6)).all()
    assert (steady[:, 2] < 0.9 * usual[:, 2]).any()  # the sky's level hides in the flux
    mask = cutouts.mask.clone()
    mask[:, 16:, :] = True
    half = numbers(limit(dataclasses.replace(cutouts, mask=mask), "cramer-rao"))
    assert (half[known] >= usual[known] * (1 - 1e-6)).all()
    assert (half[:, 5] > 1.1 * usual[:, 5]).all()
    # the noise in the pixels is not looked at
    clean = dataclasses.replace(cutouts, images=torch.zeros_like(cutouts.images))
    np.testing.assert_allclose(numbers(limit(clean, "cramer-rao")), usual, rtol=1e-12)


def test_correlated_noise_is_not_ignored() -> None:
    survey = Survey.load("hst-acs-f814w")
    cutouts = simulate(survey, 3, seed=4, stamp_px=48)
    taken_for_white = dataclasses.replace(cutouts, survey=dataclasses.replace(survey, noise_correlation_fwhm_px=0.0))
    honest, naive = (numbers(limit(one, "cramer-rao")) for one in (cutouts, taken_for_white))
    # an aperture holds sqrt(sum of all correlations) times the noise of independent pixels: about 2 here
    ratio = honest[:, 2] / naive[:, 2]
    assert (ratio > 1.5).all()
    assert (ratio < 2.5).all()


# ---- what does not exist, and what is refused ----------------------------------------------------------------------


def test_pure_bulges_have_no_disk_and_fixed_indices_no_error() -> None:
    shape = dataclasses.replace(BOTH, bulge_to_total=torch.ones(1, dtype=torch.float64))
    _, cutouts = expose(shape, Survey.load("euclid-vis"), 80.0)
    for free in (True, False):
        table = limit(cutouts, "cramer-rao", free_indices=free)
        for name in OUTPUTS:
            assert math.isnan(plain(table, name)) == name.startswith("disk_"), name
        assert (plain(table, "bulge_sersic_index") > 0) == free


def test_round_galaxies_have_limits() -> None:
    shape = dataclasses.replace(BOTH, axis_ratio=torch.ones(1, 2, dtype=torch.float64))
    _, cutouts = expose(shape, Survey.load("hsc-wide-i"), 100.0)
    found = numbers(limit(cutouts, "cramer-rao"))
    assert np.isfinite(found).all()
    nearly = dataclasses.replace(BOTH, axis_ratio=torch.full((1, 2), 1 - 1e-5, dtype=torch.float64))
    _, beside = expose(nearly, Survey.load("hsc-wide-i"), 100.0)
    np.testing.assert_allclose(found, numbers(limit(beside, "cramer-rao")), rtol=1e-2)


def test_rows_without_pixels_are_nan_beside_good_ones() -> None:
    cutouts = simulate("hsc-wide-i", 3, seed=5, stamp_px=32)
    mask = cutouts.mask.clone()
    mask[1] = True
    found = numbers(limit(dataclasses.replace(cutouts, mask=mask), "cramer-rao"))
    usual = numbers(limit(cutouts, "cramer-rao"))
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], usual[[0, 2]], rtol=1e-3)


def test_table_has_names_units_and_order() -> None:
    cutouts = simulate("euclid-vis", 70, seed=6, stamp_px=20)
    table = limit(cutouts, "cramer-rao", free_indices=False)
    assert table.colnames == ["object_id", *OUTPUTS]
    assert list(table["object_id"]) == [str(name) for name in cutouts.object_id]
    for name, (unit, _) in OUTPUTS.items():
        assert str(table[name].unit or "") == unit
        assert table[name].info.description
    assert table.meta["kind"] == "cramer-rao"
    assert table.meta["free_indices"] is False
    # more galaxies than are worked on together, in their order
    last = limit(cutouts.select([69]), "cramer-rao", free_indices=False)
    assert plain(table, "x_px", 69) == pytest.approx(plain(last, "x_px"), rel=1e-3)
    assert len(limit(cutouts.select([]), "cramer-rao")) == 0


def test_bad_arguments_are_refused_in_one_line() -> None:
    cutouts = simulate("hsc-wide-i", 1, seed=1, stamp_px=20)
    with pytest.raises(UnknownNameError, match="bayes, cramer-rao"):
        limit(cutouts, "van-trees")
    with pytest.raises(InputError, match="truth"):
        limit(dataclasses.replace(cutouts, truth=None), "cramer-rao")
    with pytest.raises(InputError, match="sky_sigma"):
        limit(cutouts, "bayes", sky_sigma=1.0)
    with pytest.raises(UnknownNameError, match="nearby, weak"):
        limit(cutouts, "bayes", prior="virgo")
