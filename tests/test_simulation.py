"""Simulated cutouts: noise, truth, neighbours, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from astropy.table import QTable

from galstress.errors import InputError, UnknownNameError
from galstress.rendering import draw_truth
from galstress.simulation import MAX_NEIGHBOURS, simulate
from galstress.survey import Survey, available_surveys


@pytest.mark.parametrize("name", available_surveys())
def test_noise_has_the_stated_variance(name: str) -> None:
    noisy = simulate(name, 24, seed=2, stamp_px=64)
    clean = simulate(name, 24, seed=2, stamp_px=64, noise=False)
    assert torch.equal(noisy.variance, clean.variance)
    pulls = (noisy.images - clean.images) / noisy.variance.sqrt()
    assert float(pulls.std()) == pytest.approx(1, abs=0.02)
    assert abs(float(pulls.mean())) < 0.03


def test_noise_of_hubble_is_correlated_and_that_of_hsc_is_not() -> None:
    for name, fwhm in (("hst-acs-f814w", 1.45), ("hsc-wide-i", 0.0)):
        survey = Survey.load(name)
        noise = (
            simulate(name, 16, seed=2, stamp_px=64).images - simulate(name, 16, seed=2, stamp_px=64, noise=False).images
        )
        lag = float((noise[..., 1:] * noise[..., :-1]).mean() / noise.var())
        sigma = max(survey.noise_correlation_fwhm_px / 2.3548, 1e-3)
        kernel = np.exp(-0.5 * (np.arange(-5, 6) / sigma) ** 2)
        expected = (kernel[1:] * kernel[:-1]).sum() / (kernel**2).sum()
        assert survey.noise_correlation_fwhm_px == pytest.approx(fwhm, abs=0.2)
        assert lag == pytest.approx(expected, abs=0.03)


def test_photon_noise_follows_the_light() -> None:
    survey = dataclasses.replace(Survey.load("sdss-r"), sky_mag_arcsec2=30.0, read_noise_e=0.0)
    cutouts = simulate(survey, 8, seed=3, stamp_px=64, population="nearby", noise=False)
    expected = survey.sky_rms**2 + cutouts.images / survey.electrons_per_unit
    assert torch.allclose(cutouts.variance, expected.clamp_min(survey.sky_rms**2), rtol=1e-4)


def test_truth_draws_the_same_image_again() -> None:
    cutouts = simulate("euclid-vis", 6, seed=5, stamp_px=64, noise=False)
    again = simulate("euclid-vis", galaxies=cutouts.truth, stamp_px=64, noise=False)
    assert float((cutouts.images - again.images).abs().max() / cutouts.images.max()) < 1e-5
    image = draw_truth(cutouts.truth, cutouts.psf, cutouts.psf_oversampling, cutouts.survey, 64)
    assert float((cutouts.images - image).abs().max() / cutouts.images.max()) < 1e-5


def test_signal_to_noise_is_that_of_the_noise_free_model() -> None:
    cutouts = simulate("hsc-wide-i", 8, seed=5, noise=False)
    expected = np.sqrt((cutouts.images**2 / cutouts.variance).sum((1, 2)).numpy())
    assert np.asarray(cutouts.truth["snr"]) == pytest.approx(expected, rel=1e-4)


def test_neighbours_are_kept_and_masked() -> None:
    cutouts = simulate("hsc-wide-i", 40, seed=6, neighbours=True, noise=False)
    alone = simulate("hsc-wide-i", galaxies=cutouts.truth, noise=False)
    light = cutouts.images - alone.images
    rows = np.asarray(cutouts.neighbours["row"])
    counts = np.bincount(rows, minlength=40)
    assert counts.min() == 0
    assert counts.max() == MAX_NEIGHBOURS
    assert set(np.asarray(cutouts.neighbours["kind"])) == {"galaxy", "star"}
    assert float(light[counts == 0].abs().max()) < 1e-4 * float(alone.images.max())
    drawn = light.sum((1, 2)).numpy() * cutouts.survey.unit_njy
    asked = np.bincount(rows, np.asarray(cutouts.neighbours["flux_njy"]), minlength=40)
    assert (drawn <= asked * 1.01 + 1).all()
    dominated = (light > alone.images) & (light > cutouts.survey.sky_rms)
    assert float((dominated ^ cutouts.neighbour_mask).float().mean()) < 1e-4


def test_one_seed_one_answer_and_centres_near_the_middle() -> None:
    first, second = (simulate("sdss-r", 20, seed=9, stamp_px=48) for _ in range(2))
    assert torch.equal(first.images, second.images)
    for name in ("x_px", "y_px"):
        assert np.abs(np.asarray(first.truth[name]) - 23.5).max() <= 1


def test_psf_sums_to_one_and_takes_no_memory() -> None:
    psf = simulate("hst-candels-f814w", 3, stamp_px=64).psf
    assert psf.shape[-1] % 2 == 1
    assert float(psf[0].sum()) == pytest.approx(1, abs=1e-5)
    assert psf.stride(0) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"survey": "hubble", "count": 2}, UnknownNameError),
        ({"survey": "sdss-r", "count": -1}, InputError),
        ({"survey": "sdss-r", "count": 2, "stamp_px": 3}, InputError),
        ({"survey": "sdss-r", "count": 2, "population": "virgo"}, UnknownNameError),
        ({"survey": "sdss-r", "galaxies": QTable({"flux_njy": [1.0]})}, InputError),
    ],
)
def test_bad_input_is_one_line(arguments: dict, error: type) -> None:
    with pytest.raises(error) as caught:
        simulate(**arguments)
    assert "\n" not in str(caught.value)
    assert "next:" in str(caught.value)
