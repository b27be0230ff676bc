"""What lies behind and beside a galaxy: sky, noise, variance, neighbours, zeroed sky."""

import numpy as np
import pytest
import torch
from astropy.io import fits
from scipy import ndimage

from galstress.loading import load
from loading_images import RMS, SURVEY, flags_of, galaxy


@pytest.mark.parametrize("level", [0.0, 0.02, 5.0, 1200.0, -0.04])
def test_the_sky_is_subtracted_where_it_was_not(level):
    rows = [load(galaxy((120, 120), seed=seed) + level, SURVEY, stamp_px=120) for seed in range(4)]
    offset = [
        float((row.images[0] - torch.from_numpy(galaxy((120, 120), seed=s))).mean()) for s, row in enumerate(rows)
    ]
    # the level is known to a fiftieth of the noise; a galaxy's own wings bias it by less than a twentieth
    assert np.abs(offset).max() < 0.08 * RMS
    assert [float(row.sky_rms[0]) for row in rows] == pytest.approx([RMS] * 4, rel=0.05)


def test_a_galaxy_that_fills_its_stamp_loses_no_light():
    """Where the sky was subtracted already and wings are everywhere, nothing is taken away."""
    y, x = np.indices((64, 64)) - 31.5
    radius = np.hypot(x, 1.5 * y)
    light = 40 * np.exp(-7.67 * (radius / 12 + 0.01) ** 0.25) * 400
    image = light + np.random.default_rng(1).normal(0, RMS, light.shape)
    cutouts = load(image, SURVEY)
    assert float(cutouts.catalogue["sky_level"][0]) == 0
    assert "SKY_UNCERTAIN" in flags_of(cutouts)


def test_subtract_sky_can_be_forced_and_forbidden():
    image = galaxy() + 3.0
    kept = load(image, SURVEY, subtract_sky=False)
    np.testing.assert_allclose(kept.images[0], image[8:72, 8:72], rtol=1e-5)
    forced = load(galaxy() + 0.004, SURVEY, subtract_sky=True)
    assert float(forced.catalogue["sky_level"][0]) != 0


def test_the_estimated_variance_is_that_of_sky_and_photons():
    """Against the variance that the noise was drawn with: sky^2 + light / gain, never from noisy counts."""
    light = galaxy((100, 100), flux=6000.0, rms=0)
    truth = RMS**2 + light / SURVEY.electrons_per_unit
    noise = np.random.default_rng(5).normal(size=light.shape) * np.sqrt(truth)
    cutouts = load(light + noise, SURVEY, stamp_px=100)
    assert flags_of(cutouts) == {"VARIANCE_ESTIMATED", "PSF_ASSUMED"}
    bright = light > 5
    ratio = cutouts.variance[0].numpy()[bright] / truth[bright]
    assert ratio.mean() == pytest.approx(1, abs=0.08)
    # counts of single pixels would scatter it by sqrt(2) noise / gain; correlated with the noise it biases fits
    assert abs(np.corrcoef(cutouts.variance[0].numpy()[bright] - truth[bright], noise[bright])[0, 1]) < 0.3
    pull = (cutouts.images[0].numpy() - light) / np.sqrt(cutouts.variance[0].numpy())
    assert pull.std() == pytest.approx(1, abs=0.03)


def test_correlated_noise_is_measured_and_makes_no_sources():
    rng = np.random.default_rng(2)
    noise = ndimage.gaussian_filter(rng.normal(size=(8, 160, 160)), (0, 0.8, 0.8))
    noise *= RMS / noise.std()
    image = noise + galaxy((160, 160), rms=0)
    cutouts = load(image, SURVEY, stamp_px=160)
    # a Gaussian kernel of sigma s correlates neighbours by exp(-1 / (4 s^2))
    assert np.mean(cutouts.catalogue["noise_correlation"]) == pytest.approx(np.exp(-1 / (4 * 0.64)), abs=0.04)
    assert cutouts.sky_rms.mean() == pytest.approx(RMS, rel=0.03)
    assert float(cutouts.neighbour_mask.float().mean()) < 0.002


@pytest.mark.parametrize("level", [0.0, 900.0])
def test_neighbours_are_masked_and_the_galaxy_is_not(level):
    image = galaxy((120, 120))
    for x, y, flux in ((95, 60, 100.0), (59, 84, 60.0), (25, 25, 20.0)):
        image += galaxy((120, 120), centre=(x, y), flux=flux, rms=0)
    cutouts = load(image + level, SURVEY, stamp_px=120)
    neighbours = cutouts.neighbour_mask[0].numpy()
    assert all(neighbours[y, x] for x, y in ((95, 60), (59, 84), (25, 25)))
    assert not neighbours[54:66, 54:66].any()
    assert neighbours.mean() < 0.15
    assert not cutouts.mask.any()


def test_arms_and_clumps_stay_with_their_galaxy():
    y, x = np.indices((120, 120)) - 59.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    disk = 8 * np.exp(-radius / 9) * (1 + 0.6 * np.cos(2 * (angle - radius / 6)) + 0.2 * np.cos(angle))
    image = disk + np.random.default_rng(1).normal(0, RMS, disk.shape)
    cutouts = load(image, SURVEY, stamp_px=120)
    inside = radius < 20
    assert cutouts.neighbour_mask[0].numpy()[inside].mean() < 0.02


def test_a_segmentation_that_came_is_used(tmp_path):
    labels = np.zeros((80, 80), np.int32)
    labels[30:50, 30:50], labels[30:50, 50:60] = 12, 7
    fits.HDUList([fits.PrimaryHDU(galaxy()), fits.ImageHDU(labels, name="SEGMAP")]).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY)
    np.testing.assert_array_equal(cutouts.neighbour_mask[0], labels[8:72, 8:72] == 7)


def test_sky_set_to_zero_is_masked_and_takes_the_noise_of_the_survey():
    light = galaxy((80, 80), flux=2000.0)
    image = np.where(galaxy((80, 80), flux=2000.0, rms=0) > 0.3, light, 0.0)
    cutouts = load(image, SURVEY)
    assert "SKY_ZEROED" in flags_of(cutouts)
    np.testing.assert_array_equal(cutouts.mask[0], image[8:72, 8:72] == 0)
    assert float(cutouts.sky_rms[0]) == pytest.approx(SURVEY.sky_rms)
    assert not cutouts.neighbour_mask.any()
    assert float(cutouts.variance[0][~cutouts.mask[0]].min()) >= 0.999 * SURVEY.sky_rms**2


def test_zeros_of_an_integer_image_are_no_zeroed_sky():
    counts = np.round(galaxy((80, 80), flux=4000.0, rms=1.0)).astype(np.int16)
    assert (counts == 0).mean() > 0.2
    cutouts = load(counts, SURVEY)
    assert not cutouts.mask.any()
    assert float(cutouts.sky_rms[0]) == pytest.approx(np.sqrt(1 + 1 / 12), rel=0.05)


def test_a_border_without_data_does_not_hide_the_sky():
    image = galaxy((100, 100))
    image[:, :25] = 0.0
    cutouts = load(image, SURVEY, stamp_px=100)
    np.testing.assert_array_equal(cutouts.mask[0], image == 0)
    assert "SKY_ZEROED" not in flags_of(cutouts)
    assert float(cutouts.sky_rms[0]) == pytest.approx(RMS, rel=0.05)
