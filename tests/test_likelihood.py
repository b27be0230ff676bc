"""The likelihood against dense normal distributions, differences, and noise whose law is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, galaxies_from_table
from galstress.likelihood import Likelihood
from galstress.likelihood.noise import REACH, prediction_errors, whiten
from galstress.optics import add_correlated_noise
from galstress.rendering import PARAMETERS, from_parameters, render, to_parameters
from galstress.simulation import simulate
from galstress.survey import Survey, available_surveys

WHITE, CORRELATED = "euclid-vis", "hst-candels-f814w"
CORRELATION = {name: Survey.load(name).noise_correlation_fwhm_px for name in available_surveys()}


def draw(survey: str, count: int = 2, stamp_px: int = 20, seed: int = 3) -> tuple[Cutouts, Galaxies]:
    """Noisy cutouts and the galaxies in them, pixels and image units."""
    cutouts = simulate(survey, count, seed=seed, stamp_px=stamp_px)
    survey_ = cutouts.survey
    return cutouts, galaxies_from_table(cutouts.truth, survey_.pixel_scale_arcsec, survey_.unit_njy)


def moved(galaxies: Galaxies, seed: int = 1, far: float = 1.0) -> Galaxies:
    """Other galaxies close to these."""
    values = to_parameters(galaxies)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = torch.tensor([0.0, 0.05, 0.1, 0.1, 0.1, 0.2, 0.05, 0.05, 0.03, 0.03, 0.03, 0.03], dtype=torch.float64)
    values = values + far * noise * scale
    values[:, 0] *= 1 + 0.03 * far * noise[:, 0]
    values[:, 1] = values[:, 1].clamp(0.05, 0.95)
    return from_parameters(values)


def models(cutouts: Cutouts, galaxies: Galaxies) -> np.ndarray:
    """(N, H, W) images of galaxies."""
    psf, side = cutouts.psf[:1].double(), cutouts.images.shape[-1]
    return render(galaxies, psf, cutouts.psf_oversampling, side).numpy()


def with_masks(cutouts: Cutouts) -> Cutouts:
    """The same with pixels of every kind that must not count."""
    mask, neighbour, variance = cutouts.mask.clone(), cutouts.neighbour_mask.clone(), cutouts.variance.clone()
    mask[:, 2:4, 15:] = True
    neighbour[:, 12, 13] = True
    variance[:, 17, 0] = math.inf
    variance[:, 17, 1] = math.nan
    variance[:, 17, 2] = 0
    return dataclasses.replace(cutouts, mask=mask, neighbour_mask=neighbour, variance=variance)


def ignored_in(cutouts: Cutouts) -> np.ndarray:
    """(N, H, W) what must not count."""
    bad = ~torch.isfinite(cutouts.variance) | (cutouts.variance <= 0) | ~torch.isfinite(cutouts.images)
    return (cutouts.mask | cutouts.neighbour_mask | bad).numpy()


def correlation_matrix(fwhm: float, side: int) -> np.ndarray:
    """(P, P) correlation of the pixels of a square behind a Gaussian kernel, sampled at pixels and cut at 4 sigma."""
    sigma = fwhm / 2.354820045
    reach = max(1, math.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    lags = np.zeros(side + 4 * reach)
    lags[: 2 * reach + 1] = np.correlate(kernel, kernel, "full")[2 * reach :]
    along = linalg.toeplitz(lags[:side] / lags[0])
    return np.kron(along, along)


# ---- white noise: a dense normal distribution ----------------------------------------------------------------------


@pytest.mark.parametrize("sky_sigma", [0.02, 0.5, 3.0])
@pytest.mark.parametrize("masked", [False, True])
def test_white_noise_and_sky_prior_are_a_dense_normal(sky_sigma: float, masked: bool) -> None:
    cutouts, truth = draw(WHITE)
    cutouts = with_masks(cutouts) if masked else cutouts
    likelihood = Likelihood.of(cutouts, sky_sigma=sky_sigma)
    for galaxies in (truth, moved(truth)):
        found = likelihood.log_prob(galaxies)
        for row, model in enumerate(models(cutouts, galaxies)):
            good = ~ignored_in(cutouts)[row]
            sky = (sky_sigma * float(cutouts.sky_rms[row])) ** 2
            covariance = np.diag(cutouts.variance[row].double().numpy()[good]) + sky
            expected = stats.multivariate_normal(model[good], covariance).logpdf(
                cutouts.images[row].double().numpy()[good]
            )
            assert float(found[row]) == pytest.approx(expected, abs=2e-4)
            assert float(likelihood.pixels[row]) == good.sum()


@pytest.mark.parametrize("masked", [False, True])
def test_free_sky_is_the_best_sky(masked: bool) -> None:
    cutouts, truth = draw(WHITE)
    cutouts = with_masks(cutouts) if masked else cutouts
    galaxies = moved(truth)
    found = Likelihood.of(cutouts).log_prob(galaxies)
    for row, model in enumerate(models(cutouts, galaxies)):
        good = ~ignored_in(cutouts)[row]
        sigma = cutouts.variance[row].double().numpy()[good] ** 0.5
        off = cutouts.images[row].double().numpy()[good] - model[good]
        (best,), *_ = np.linalg.lstsq(1 / sigma[:, None], off / sigma, rcond=None)
        assert float(found[row]) == pytest.approx(stats.norm(best, sigma).logpdf(off).sum(), abs=2e-4)


def test_a_wide_sky_prior_prefers_what_a_free_sky_does() -> None:
    cutouts, truth = draw(WHITE)
    free, wide = (Likelihood.of(cutouts, sky_sigma=width) for width in (math.inf, 1e4))
    first, second = (one.log_prob(moved(truth)) - one.log_prob(truth) for one in (free, wide))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
    torch.testing.assert_close(free.fisher(truth), wide.fisher(truth), rtol=1e-5, atol=0)


# ---- correlated noise: a dense normal distribution, pixel by pixel -------------------------------------------------


def dense_innovations(cutouts: Cutouts, row: int, kept: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, float]:
    """What kept pixels have beyond the best prediction from all that come before, in its sigma; ln of the scale.

    Arguments:
        values: (P, K) columns of pixels, image units.
    """
    good = ~ignored_in(cutouts)[row].ravel()
    sigma = np.where(good, cutouts.variance[row].double().numpy().ravel(), 1.0) ** 0.5
    matrix = correlation_matrix(cutouts.survey.noise_correlation_fwhm_px, kept.shape[-1])
    covariance = (matrix * sigma[:, None] * sigma)[np.ix_(good, good)]
    root = linalg.cholesky(covariance, lower=True)
    chosen = kept.ravel()[good] > 0
    return linalg.solve_triangular(root, values[good], lower=True)[chosen], -np.log(np.diag(root))[chosen].sum()


@pytest.mark.parametrize("sky_sigma", [0.05, 2.0])
@pytest.mark.parametrize(("survey", "share"), [(CORRELATED, 1e-4), ("hst-acs-f814w", 0.03)])
@pytest.mark.parametrize("masked", [False, True])
def test_correlated_noise_is_the_conditional_density(survey: str, share: float, masked: bool, sky_sigma: float) -> None:
    cutouts, truth = draw(survey, stamp_px=24)
    cutouts = with_masks(cutouts) if masked else cutouts
    likelihood = Likelihood.of(cutouts, sky_sigma=sky_sigma)
    both = [truth, moved(truth, 2, far=3.0)]
    found = torch.stack([likelihood.log_prob(galaxies) for galaxies in both], 1).numpy()
    drawn = [models(cutouts, galaxies) for galaxies in both]
    for row in range(len(cutouts)):
        kept = likelihood.kept[row].numpy()
        off = [torch.nan_to_num(cutouts.images[row]).double().numpy() - model[row] for model in drawn]
        columns = np.stack([one.ravel() for one in (*off, np.ones_like(off[0]))], 1)
        innovations, ln_scale = dense_innovations(cutouts, row, kept, columns)
        sky = sky_sigma * float(cutouts.sky_rms[row]) * innovations[:, 2]
        normal = stats.multivariate_normal(np.zeros(len(sky)), np.eye(len(sky)) + sky[:, None] * sky)
        expected = normal.logpdf(innovations[:, :2].T) + ln_scale
        assert abs(found[row] - expected).max() < share * len(sky) / 2
        preferred = expected[0] - expected[1]
        assert preferred > 3  # the two models are told apart
        assert found[row, 0] - found[row, 1] == pytest.approx(preferred, rel=share, abs=3 * share)


def test_pixels_count_where_all_that_they_look_back_to_is_there() -> None:
    cutouts, _ = draw(CORRELATED, 1, stamp_px=24)
    mask = cutouts.mask.clone()
    mask[0, 15, 12] = True
    kept = Likelihood.of(dataclasses.replace(cutouts, mask=mask)).kept[0] > 0
    expected = torch.ones(24, 24, dtype=torch.bool)
    expected[15 : 16 + REACH, 12 : 13 + REACH] = False  # itself, and those to the right and below that look back to it
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("survey", [name for name, fwhm in CORRELATION.items() if fwhm > 0])
def test_innovations_are_white(survey: str) -> None:
    fwhm, side = CORRELATION[survey], 24
    # what the two multiplications make of the dense covariance of all pixels: the unit matrix if they were perfect
    errors = prediction_errors(fwhm, side).numpy()
    both = np.kron(errors, errors)
    assert abs(both @ correlation_matrix(fwhm, side) @ both.T - np.eye(side**2)).max() < 0.01
    # and noise as the simulator makes it
    white = torch.randn(60, 96, 96, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    raw = add_correlated_noise(white, fwhm)
    noise = whiten(raw, prediction_errors(fwhm, 96))
    pixels = noise.numel()
    assert float(noise.mean()) == pytest.approx(0, abs=5 * math.sqrt(1.05 / pixels))
    assert float(noise.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / pixels))
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1), (2, 0), (0, 3), (5, 0)):
        there = torch.roll(noise, (dy, dx), (1, 2))[:, 5:, 4:-4]
        together = float((noise[:, 5:, 4:-4] * there).mean())
        assert abs(together) < 0.01 + 4 / math.sqrt(pixels), (dy, dx)
    # the noise itself is far from white, so the test above can fail
    assert float((raw[:, 1:] * raw[:, :-1]).mean()) > 0.1


# ---- what holds for any noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("survey", [WHITE, CORRELATED])
def test_masked_values_cannot_matter(survey: str) -> None:
    cutouts, truth = draw(survey, stamp_px=24)
    cutouts = with_masks(cutouts)
    galaxies = moved(truth)
    answers = []
    for junk in (0.0, math.nan, 1e9, -math.inf):
        # pixels under the masks and of no known variance hold junk
        images = torch.where(torch.from_numpy(ignored_in(cutouts)), junk, cutouts.images)
        likelihood = Likelihood.of(dataclasses.replace(cutouts, images=images), sky_sigma=0.1)
        answers.append([getattr(likelihood, name)(galaxies) for name in ("log_prob", "gradient", "fisher")])
    for other in answers[1:]:
        for first, second in zip(answers[0], other, strict=True):
            assert bool(torch.isfinite(first).all())
            torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_pixel_that_is_not_finite_is_ignored_without_a_mask() -> None:
    cutouts, truth = draw(WHITE)
    images, mask = cutouts.images.clone(), cutouts.mask.clone()
    images[:, 9, 9] = math.nan
    mask[:, 9, 9] = True
    found = Likelihood.of(dataclasses.replace(cutouts, images=images))
    expected = Likelihood.of(dataclasses.replace(cutouts, mask=mask))
    torch.testing.assert_close(found.log_prob(truth), expected.log_prob(truth), rtol=0, atol=0)


@pytest.mark.parametrize("sky_sigma", [0.02, math.inf])
@pytest.mark.parametrize("survey", [WHITE, CORRELATED])
def test_gradient_agrees_with_differences(survey: str, sky_sigma: float) -> None:
    cutouts, truth = draw(survey, 3, stamp_px=24)
    likelihood = Likelihood.of(with_masks(cutouts), sky_sigma=sky_sigma)
    at = moved(truth)
    found = likelihood.gradient(at)
    centre = to_parameters(at)
    for place, name in enumerate(PARAMETERS):
        step = 2e-3 * (centre[:, 0] if name == "flux" else torch.ones(3))
        values = []
        for sign in (1, -1):
            parameters = centre.clone()
            parameters[:, place] += sign * step
            values.append(likelihood.log_prob(from_parameters(parameters)))
        expected = (values[0] - values[1]) / (2 * step)
        size = likelihood.fisher(at)[:, place, place].sqrt() + expected.abs()
        assert float(((found[:, place] - expected).abs() / size).max()) < 3e-3, name


def test_fisher_is_the_scatter_of_the_gradient() -> None:
    # over noise draws the gradient at the truth has mean 0 and the Fisher matrix as its covariance
    one, truth = draw(CORRELATED, 1, stamp_px=24, seed=5)
    count = 600
    clean = torch.from_numpy(models(one, truth)[:1])
    white = torch.randn(count, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = one.variance.double().sqrt() * add_correlated_noise(white, one.survey.noise_correlation_fwhm_px)
    many = dataclasses.replace(one.select(np.zeros(count, int)), images=(clean + noise).float())
    likelihood = Likelihood.of(many)
    single = likelihood.select(slice(0, 1))
    fisher, jacobian = single.fisher(truth)[0], single.jacobian(truth)
    residuals = likelihood.residuals(truth.select(torch.zeros(count, dtype=torch.long)))
    gradient = likelihood.product(jacobian.expand(count, -1, -1, -1), residuals[:, None])[..., 0]
    torch.testing.assert_close(gradient[:1], single.gradient(truth), rtol=1e-5, atol=1e-5)
    root = torch.linalg.cholesky(fisher / fisher.diagonal().sqrt()[:, None] / fisher.diagonal().sqrt())
    scaled = gradient / fisher.diagonal().sqrt()
    unit = torch.linalg.solve_triangular(root, scaled.T, upper=False)
    # the last of the 12 combinations are degenerate to rounding: look at the well-determined half
    assert float(unit[:8].mean(1).abs().max()) < 4.5 / math.sqrt(count)
    spread = unit[:8].var(1)
    assert float((spread - 1).abs().max()) < 4.5 * math.sqrt(2 / count)


@pytest.mark.parametrize("survey", [WHITE, "hst-acs-f814w"])
@pytest.mark.parametrize("sky_sigma", [0.02, math.inf])
def test_chi_square_of_the_truth_is_that_of_noise(survey: str, sky_sigma: float) -> None:
    cutouts, truth = draw(survey, 60, stamp_px=24, seed=6)
    likelihood = Likelihood.of(cutouts, sky_sigma=sky_sigma)
    found = likelihood.chi_square(truth)
    freedom = likelihood.pixels - (1 if math.isinf(sky_sigma) else 0)
    total, expected = float(found.sum()), float(freedom.sum())
    # a sky of 0 under a prior takes a part of one degree of freedom away from each image
    assert abs(total - expected) < 4 * math.sqrt(2 * expected) + len(found)
    place = stats.chi2.cdf(found.numpy(), freedom.numpy())
    assert stats.kstest(place, "uniform").pvalue > 1e-3


# ---- batches -------------------------------------------------------------------------------------------------------


def with_own_psfs(cutouts: Cutouts) -> Cutouts:
    """Each image its own PSF, wider and wider, without symmetry."""
    psfs = []
    for row, psf in enumerate(cutouts.psf.double()):
        mixed = psf + 0.3 * row * torch.roll(psf, (2, 1), (0, 1))
        psfs.append(mixed / mixed.sum())
    return dataclasses.replace(cutouts, psf=torch.stack(psfs).float())


@pytest.mark.parametrize("survey", [WHITE, CORRELATED])
@pytest.mark.parametrize("own", [False, True])
def test_a_batch_is_its_galaxies_one_by_one(survey: str, own: bool) -> None:
    cutouts, truth = draw(survey, 4, stamp_px=24)
    cutouts = with_own_psfs(cutouts) if own else cutouts
    galaxies = moved(truth)
    together = Likelihood.of(cutouts, sky_sigma=0.1)
    alone = [Likelihood.of(cutouts.select([row]), sky_sigma=0.1) for row in range(4)]
    for name in ("log_prob", "chi_square", "gradient", "fisher"):
        found = getattr(together, name)(galaxies)
        for row in range(4):
            expected = getattr(alone[row], name)(galaxies.select([row]))
            scale = float(expected.abs().max())
            assert float((found[row] - expected[0]).abs().max()) < 1e-3 * scale, name
            picked = getattr(together.select(slice(row, row + 1)), name)(galaxies.select([row]))
            torch.testing.assert_close(picked, expected, rtol=1e-6, atol=1e-6 * scale)
    if own:  # the PSFs do differ
        shared = Likelihood.of(dataclasses.replace(cutouts, psf=cutouts.psf[:1].expand_as(cutouts.psf)), sky_sigma=0.1)
        assert float((shared.log_prob(galaxies) - together.log_prob(galaxies)).abs().max()) > 1


@pytest.mark.parametrize("survey", [WHITE, CORRELATED])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 2, 2], [1, 2], [0, 2, 2], [1], [0, 1, 2]])
def test_several_galaxies_an_image(survey: str, own: bool, rows: list[int]) -> None:
    cutouts, truth = draw(survey, 3, stamp_px=24)
    cutouts = with_own_psfs(with_masks(cutouts)) if own else cutouts
    at = torch.tensor(rows)
    galaxies = moved(truth.select(at), seed=9)
    likelihood = Likelihood.of(cutouts, sky_sigma=0.1)
    found = likelihood.log_prob(galaxies, at)
    residuals = likelihood.residuals(galaxies, at)
    for place, row in enumerate(rows):
        alone, only = Likelihood.of(cutouts.select([row]), sky_sigma=0.1), galaxies.select([place])
        assert float(found[place]) == pytest.approx(float(alone.log_prob(only)[0]), rel=1e-4)
        expected = alone.residuals(only)[0]
        assert float((residuals[place] - expected).abs().max()) < 2e-3 * (1 + float(expected.abs().max()))
        # pixels that do not count are zero
        assert float((residuals[place] * (1 - likelihood.kept[row])).abs().max()) == 0


def test_nothing_to_see_gives_zeros() -> None:
    cutouts, truth = draw(WHITE)
    dark = Likelihood.of(dataclasses.replace(cutouts, mask=torch.ones_like(cutouts.mask)))
    assert float(dark.pixels.sum()) == 0
    assert float(dark.log_prob(truth).abs().max()) == 0
    assert float(dark.fisher(truth).abs().max()) == 0


def test_precision_can_be_chosen() -> None:
    cutouts, truth = draw(WHITE)
    single, double = Likelihood.of(cutouts, dtype=torch.float32), Likelihood.of(cutouts)
    assert single.residuals(truth).dtype == torch.float32
    assert double.residuals(truth).dtype == torch.float64
    # sums over pixels are in double precision either way
    assert single.log_prob(truth).dtype == double.log_prob(truth).dtype == torch.float64
    torch.testing.assert_close(single.log_prob(truth), double.log_prob(truth), rtol=0, atol=0.02)
