"""Real galaxies observed again: the operator against GalSim, the completion against what a mask hid, real sky."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import Galaxies, half_light_radius, whole_ellipticity
from galstress.optics import add_correlated_noise
from galstress.realism import (
    check_degraded,
    find_usable,
    largest_magnification,
    load_skies,
    load_templates,
    make_templates,
    reobserve,
)
from galstress.realism import templates as templates_module
from galstress.realism.completion import find_footprint, fit_models
from galstress.realism.matching import View
from galstress.realism.records import template_psf
from galstress.realism.reobservation import draw_light
from galstress.realism.waves import transform_at
from galstress.simulation import survey_psf
from galstress.survey import Survey

galsim = pytest.importorskip("galsim")

ACS = Survey.load("hst-acs-f814w")
EXACT = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=20000)


def survey_of(name, stamp_px=64):
    return dataclasses.replace(Survey.load(name), stamp_px=stamp_px)


def sampled(psf, oversampling, pixel_scale):
    """An effective PSF as GalSim sees its samples."""
    image = galsim.Image(psf.double().numpy(), scale=pixel_scale / oversampling)
    return galsim.InterpolatedImage(image, flux=1, gsparams=EXACT)


def asymmetric():
    """A flat disk with a blob beside it, arcsec: no symmetry hides a wrong turn. Flux 3.5."""
    disk = galsim.Sersic(1, half_light_radius=0.35, gsparams=EXACT).shear(q=0.5, beta=30 * galsim.degrees)
    blob = galsim.Gaussian(half_light_radius=0.1, gsparams=EXACT).shift(0.25, 0.12)
    return 3 * disk + 0.5 * blob


def drawn(profile, psf, side, scale):
    return (
        galsim.Convolve(profile, psf, gsparams=EXACT).drawImage(nx=side, ny=side, scale=scale, method="no_pixel").array
    )


@pytest.fixture(scope="module")
def blob():
    """The asymmetric galaxy as a template without noise."""
    psf, oversampling = template_psf(ACS)
    return make_templates(
        [drawn(asymmetric(), sampled(psf, oversampling, 0.03), 401, 0.03)], ACS, psf=(psf, oversampling)
    )


def noisy(count, seed=0, side=121, rms=0.02, flux=60.0):
    """Templates with correlated noise: disks whose model is not known to them, every pixel real."""
    rng = torch.Generator().manual_seed(seed)
    psf, oversampling = template_psf(ACS)
    kernel = sampled(psf, oversampling, 0.03)
    noise = rms * add_correlated_noise(torch.randn(count, side, side, generator=rng), ACS.noise_correlation_fwhm_px)
    survey = dataclasses.replace(ACS, electrons_per_unit=1e9)  # no photon noise: the images have none
    images = []
    for row in range(count):
        profile = flux * asymmetric().rotate(40 * row * galsim.degrees)
        images.append(drawn(profile, kernel, side, 0.03) + noise[row].double().numpy())
    return make_templates(images, survey, sky_rms=rms, psf=(psf, oversampling))


# ---- the operator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_transform_is_the_sum_over_pixels(dtype):
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(37, 52, generator=rng, dtype=dtype)
    kx, ky = (torch.rand(2, 200, generator=rng, dtype=dtype) * 2 - 1) * 4
    y, x = torch.meshgrid(torch.arange(37.0), torch.arange(52.0), indexing="ij")
    phase = kx.double()[:, None, None] * (x - 20.3) + ky.double()[:, None, None] * (y - 17.1)
    direct = (image.double() * torch.exp(-1j * phase)).sum((1, 2))
    assert (transform_at(image, kx, ky, (20.3, 17.1)) - direct).abs().max() < 1e-6 * image.sum()


@pytest.mark.parametrize(
    ("name", "magnification", "mirror"),
    [
        ("hsc-wide-i", 3.0, False),
        ("hsc-wide-i", 3.0, True),
        ("sdss-r", 6.0, True),
        ("euclid-vis", 1.0, False),  # undersampled: waves beyond the pixels' limit alias
        ("hst-acs-f814w", 0.5, True),
    ],
)
def test_a_magnified_turned_galaxy_is_what_galsim_draws(blob, name, magnification, mirror):
    survey = survey_of(name)
    scale, middle = survey.pixel_scale_arcsec, 31.5
    psf, oversampling, _ = survey_psf(survey, 64)
    view = View(magnification * 0.03 / scale, math.radians(37), mirror, (middle + 0.3, middle - 0.2), (200.0, 200.0))
    light = draw_light(blob, [view], psf[None], oversampling, 64).images[0].numpy()
    profile = asymmetric().expand(magnification) / magnification**2
    profile = profile.transform(-1, 0, 0, 1) if mirror else profile
    profile = profile.rotate(37 * galsim.degrees).shift(0.3 * scale, -0.2 * scale)
    judge = drawn(profile, sampled(psf, oversampling, scale), 64, scale)
    assert abs(light - judge).max() < 1e-4 * judge.max()
    assert light.sum() == pytest.approx(judge.sum(), rel=1e-4)


def test_a_gaussian_keeps_its_closed_form(blob):
    # through Gaussian PSFs everything stays Gaussian: width, flux and half-light radius follow
    sigma, own, target, magnification = 0.15, 0.06, 0.45, 3.0
    wide = dataclasses.replace(
        survey_of("hsc-wide-i"), psf=dataclasses.replace(Survey.load("hsc-wide-i").psf, fwhm_arcsec=target * 2.3548)
    )
    axis = np.arange(241) - 120.0

    def gaussian(width_px, side_axis):
        profile = np.exp(-0.5 * (side_axis / width_px) ** 2)
        return np.outer(profile, profile) / (2 * math.pi * width_px**2)

    narrow = torch.as_tensor(gaussian(own / 0.03 * 2, np.arange(61) - 30.0), dtype=torch.float32)
    through = math.hypot(sigma, own)
    template = make_templates([5 * gaussian(through / 0.03, axis)], ACS, psf=(narrow / narrow.sum(), 2))
    radius = template.truth["half_light_radius_arcsec"][0].value  # PSF included: there is no model
    assert radius == pytest.approx(1.177410 * through, rel=2e-3)
    kernel = torch.as_tensor(gaussian(target / 0.168 * 2, np.arange(81) - 40.0), dtype=torch.float32)
    seen = reobserve(template, wide, magnification=magnification, turn=20.0, seed=3, psf=(kernel / kernel.sum(), 2))
    x, y = seen.truth["x_px"][0].value, seen.truth["y_px"][0].value
    width = math.hypot(sigma * magnification, target) / 0.168
    flux = 5 * magnification**2 * 10 ** (0.4 * (27.0 - 25.94))  # surface brightness kept, new zero point
    rows, columns = np.mgrid[:64, :64]
    expected = flux * np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / width**2) / (2 * math.pi * width**2)
    noise_free = (seen.images - seen.images + seen.variance - wide.sky_rms**2)[0] / wide.photon_variance
    assert abs(noise_free.numpy() - expected).max() < 1e-3 * expected.max() + 2e-6 / wide.photon_variance
    assert seen.truth["flux_njy"][0].value == pytest.approx(flux * wide.unit_njy, rel=1e-4)
    assert seen.truth["half_light_radius_arcsec"][0].value == pytest.approx(radius * magnification)


def test_the_noise_of_templates_arrives_as_said():
    # pure noise, correlated as drizzled noise is: what 60 of them become scatters as the variance says
    empty = noisy(60, flux=0.0)
    survey = survey_of("hsc-wide-i")
    psf, oversampling, _ = survey_psf(survey, 16)
    views = [View(2.5 * 0.03 / 0.168, 0.5 * row, row % 2 == 0, (7.5, 7.5), (60.0, 60.0)) for row in range(60)]
    light = draw_light(empty, views, psf[None].expand(60, -1, -1), oversampling, 16)
    ratio = (light.images**2).mean() / light.variance.mean()
    assert ratio == pytest.approx(1.0, abs=0.08)
    white = dataclasses.replace(empty, noise_correlation_fwhm_px=np.zeros(60))
    assert (
        draw_light(white, views, psf[None].expand(60, -1, -1), oversampling, 16).variance.mean()
        < 0.4 * ratio * light.variance.mean()
    )


def test_truth_follows_the_view(blob):
    seen = reobserve(blob.select([0] * 12), survey_of("hsc-wide-i"), magnification=1.5, snr=3000.0, seed=5)
    assert 0 < seen.catalogue["mirrored"].sum() < 12
    y, x = np.mgrid[:64, :64]
    for row in range(12):
        light = seen.images[row].double().numpy()
        cx, cy = (light * x).sum() / light.sum(), (light * y).sum() / light.sum()
        truth = seen.truth[row]
        assert (cx, cy) == pytest.approx((truth["x_px"].value, truth["y_px"].value), abs=0.4)  # the blob pulls
        weight = light * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 5**2)
        angle = 0.5 * math.atan2(
            2 * (weight * (x - cx) * (y - cy)).sum(), (weight * ((x - cx) ** 2 - (y - cy) ** 2)).sum()
        )
        turned = 0.5 * math.atan2(truth["e2"], truth["e1"]) - angle
        assert abs((turned + math.pi / 2) % math.pi - math.pi / 2) < 0.1
        assert np.isnan(truth["disk_sersic_index"])


def test_signal_to_noise_and_magnitudes_are_what_was_asked_for():
    galaxies, survey = noisy(4), survey_of("hsc-wide-i")
    half = np.asarray(galaxies.truth["snr"]) / 2
    seen = reobserve(galaxies, survey, magnification=2.0, snr=20.0, seed=1)
    assert np.asarray(seen.truth["snr"]) == pytest.approx(20.0, rel=1e-3)
    assert not seen.catalogue["is_dimmed"].any()
    bright = reobserve(galaxies, survey, magnification=2.0, snr=1e5, seed=1)
    assert bright.catalogue["is_dimmed"].all()
    assert (np.asarray(bright.truth["snr"]) <= half * 1.001).all()
    assert (np.asarray(bright.catalogue["template_variance_share"]) <= 0.2501).all()
    at = reobserve(galaxies, survey, magnification=1.0, mag_ab=23.5, seed=1)
    assert at.truth["mag_ab"].value == pytest.approx(23.5, abs=1e-4)
    total = at.images.sum((1, 2)).numpy()
    assert total == pytest.approx(10 ** (0.4 * (27.0 - 23.5)), abs=4 * 64 * survey.sky_rms)


def test_one_seed_one_answer_and_batches_do_not_matter():
    galaxies, survey = noisy(3), survey_of("sdss-r", 48)
    one, two = (reobserve(galaxies, survey, snr=15.0, seed=7) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, reobserve(galaxies, survey, snr=15.0, seed=8).images)
    assert list(one.catalogue["group"]) == list(galaxies.group)
    psf, oversampling, _ = survey_psf(survey, 48)
    view = [View(0.4, 1.0, False, (24.0, 23.0), (60.0, 60.0))] * 3
    together = draw_light(galaxies, view, psf[None].expand(3, -1, -1), oversampling, 48).images
    apart = draw_light(galaxies, view, psf[None].repeat(3, 1, 1), oversampling, 48).images
    assert (together - apart).abs().max() < 1e-5 * together.max()


@pytest.mark.parametrize(
    ("name", "low", "high"), [("sdss-r", 7.5, 10.0), ("hsc-wide-i", 3.5, 4.5), ("hst-acs-f814w", 0.49, 0.51)]
)
def test_magnification_stops_where_the_templates_own_psf_would_show(blob, name, low, high):
    survey = survey_of(name)
    (largest,) = largest_magnification(blob, survey)
    assert low < largest < high
    with pytest.raises(InputError, match="magnification"):
        reobserve(blob, survey, magnification=1.1 * largest)


def test_what_cannot_be_done_is_refused(blob):
    survey = survey_of("hsc-wide-i")
    with pytest.raises(InputError, match="one of them"):
        reobserve(blob, survey, snr=10.0, mag_ab=20.0)
    with pytest.raises(InputError, match="snr"):
        reobserve(blob, survey, snr=-1.0)
    with pytest.raises(InputError, match="radii below"):
        reobserve(blob, survey_of("hst-acs-f814w"), magnification=0.5)
    assert not find_usable(blob, survey_of("hst-acs-f814w")).any()
    with pytest.raises(InputError, match="patch for each"):
        reobserve(blob, survey, sky=load_skies(survey_of("euclid-vis"), 2))
    with pytest.raises(InputError, match="at least one"):
        reobserve(blob.select([]), survey)


def test_files_that_are_missing_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("GALSTRESS_DATA", str(tmp_path))
    with pytest.raises(InputError, match="hst_candels_bd201"):
        load_templates()
    with pytest.raises(InputError, match="sdss_frames_misc"):
        load_skies("sdss-r", 1)
    with pytest.raises(InputError, match="templates from"):
        load_templates(["hst-cosmos-btk100"])


# ---- what a mask hid -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked():
    """A disk and bulge behind an isophote, and what they were."""
    psf, oversampling = template_psf(ACS)
    truth = Galaxies(
        *(torch.tensor([value], dtype=torch.float64) for value in (400.0, 0.3, 80.3, 68.8)),
        torch.tensor([[1.0, 3.0]], dtype=torch.float64),
        torch.tensor([[16.0, 5.0]], dtype=torch.float64),
        torch.tensor([[0.6, 0.8]], dtype=torch.float64),
        torch.tensor([[0.5, 0.5]], dtype=torch.float64),
    )
    parts = [
        galsim.Sersic(float(n), half_light_radius=0.03 * float(a * q**0.5), flux=float(flux), gsparams=EXACT)
        .shear(q=float(q), beta=float(angle) * galsim.radians)
        .shift(0.03 * (80.3 - 78), 0.03 * (68.8 - 70))
        for n, a, q, angle, flux in zip(
            truth.sersic_index[0],
            truth.radius[0],
            truth.axis_ratio[0],
            truth.angle[0],
            truth.component_flux[0],
            strict=True,
        )
    ]
    kernel = sampled(psf, oversampling, 0.03)
    image = galsim.Convolve(galsim.Add(parts), kernel, gsparams=EXACT)
    image = image.drawImage(nx=157, ny=141, scale=0.03, method="no_pixel").array.astype(float)
    return image, image > 0.025, truth, parts, (psf, oversampling)


def test_a_completed_galaxy_has_the_flux_and_radius_that_the_mask_hid(masked):
    image, inside, truth, _, psf = masked
    assert image[inside].sum() < 0.93 * 400  # the mask hides much
    whole = make_templates([image], ACS, footprints=[inside], psf=psf, model=truth)
    assert whole.truth["flux_njy"][0].value == pytest.approx(400 * ACS.unit_njy, rel=2e-3)
    radius = float(half_light_radius(truth)) * 0.03
    assert whole.truth["half_light_radius_arcsec"][0].value == pytest.approx(radius, rel=2e-3)
    assert (whole.truth["e1"][0], whole.truth["e2"][0]) == pytest.approx([float(e) for e in whole_ellipticity(truth)])


def test_a_masked_galaxy_is_seen_as_the_whole_one(masked):
    image, inside, truth, parts, psf = masked
    whole = make_templates([image], ACS, footprints=[inside], psf=psf, model=truth)
    survey = survey_of("hsc-wide-i", 96)
    kernel, oversampling, _ = survey_psf(survey, 96)
    view = View(3 * 0.03 / 0.168, math.radians(-50), True, (47.5, 47.5), (80.3, 68.8))
    light = draw_light(whole, [view], kernel[None], oversampling, 96).images[0].numpy()
    profile = galsim.Add(parts).shift(-0.03 * (80.3 - 78), -0.03 * (68.8 - 70)).expand(3) / 9
    profile = profile.transform(-1, 0, 0, 1).rotate(-50 * galsim.degrees)
    judge = drawn(profile, sampled(kernel, oversampling, 0.168), 96, 0.168)
    assert abs(light - judge).max() < 1e-3 * judge.max()


def test_the_fit_finds_what_the_mask_hid(masked):
    image, inside, truth, _, _ = masked
    rng = np.random.default_rng(4)
    noise = 0.003 * ndimage.gaussian_filter(rng.normal(size=image.shape), 0.6) / 0.45
    table = fit_models([image + noise], [inside], [0.003], ACS)
    assert table["flux_njy"][0].value == pytest.approx(400 * ACS.unit_njy, rel=0.08)
    assert table["half_light_radius_arcsec"][0].value == pytest.approx(float(half_light_radius(truth)) * 0.03, rel=0.1)
    assert (table["x_px"][0].value, table["y_px"][0].value) == pytest.approx((80.3, 68.8), abs=0.3)
    assert abs(table["bulge_to_total"][0] - 0.3) < 0.15


def test_a_rim_of_bright_noise_is_no_footprint():
    rng = np.random.default_rng(0)
    image = np.zeros((60, 60))
    image[20:40, 20:40] = 1.0
    rim = (rng.uniform(size=image.shape) < 0.4) & (image == 0)
    image[rim] = 0.1
    found = find_footprint(image)
    assert found[22:38, 22:38].all()
    assert found[rim].sum() < 30


# ---- the check that needs no labels --------------------------------------------------------------------------------


def test_degraded_images_differ_from_their_originals_by_the_added_noise():
    galaxies = noisy(6, rms=0.002)
    checked = check_degraded(galaxies, survey_of("hsc-wide-i"), snr=400.0, seed=2)
    assert 0.97 < checked.meta["chi_square"] < 1.03
    assert (abs(checked["chi_square"] - 1) < 4 * np.sqrt(2 / 64**2)).all()


@pytest.mark.parametrize("wrong", ["flux", "mirror", "noise"])
def test_the_check_fails_where_something_is_wrong(monkeypatch, wrong):
    def spoiled(*args, **kwargs):
        seen = reobserve(*args, **kwargs)
        if wrong == "flux":
            seen.truth["flux_njy"] *= 1.05
        elif wrong == "mirror":
            seen.catalogue["mirrored"] = ~seen.catalogue["mirrored"]
        else:
            seen = dataclasses.replace(seen, variance=1.1 * seen.variance)
        return seen

    monkeypatch.setattr("galstress.realism.degradation.reobserve", spoiled)
    checked = check_degraded(noisy(6, rms=0.002), survey_of("hsc-wide-i"), snr=400.0, seed=2)
    assert not 0.95 < checked.meta["chi_square"] < 1.05


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_dir, tmp_path_factory):
    return load_templates(limit=4, cache=tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="module")
def raw(data_dir):
    """Real pixels alone, with nothing outside their masks: no fit, so there may be many."""
    from galstress import datasets
    from galstress.datasets.finding import find_folder

    parts = []
    for name in templates_module.SETS:
        dataset = datasets.describe(name)
        survey = dataset.surveys["F814W"]
        frames = dataset.read(find_folder(dataset), "F814W")[:30]
        units = [10 ** (-0.4 * ((f.zero_point_mag or survey.zero_point_mag) - survey.zero_point_mag)) for f in frames]
        parts.append(
            make_templates(
                [frame.image * unit for frame, unit in zip(frames, units, strict=True)],
                survey,
                footprints=[find_footprint(frame.image) for frame in frames],
                sky_rms=[frame.sky_rms * unit for frame, unit in zip(frames, units, strict=True)],
                psf=None
                if frames[0].psf is None
                else (torch.as_tensor(frames[0].psf).float(), frames[0].psf_oversampling),
                object_id=[frame.object_id for frame in frames],
            )
        )
    return parts


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["hsc-wide-i", "sdss-r"])
def test_degraded_hubble_agrees_with_its_original(raw, name):
    survey = survey_of(name)
    tables = [
        check_degraded(part.select(np.flatnonzero(find_usable(part, survey))), survey, snr=1e5, seed=len(name))
        for part in raw
    ]
    chi_square = np.concatenate([table["chi_square"] for table in tables])
    assert len(chi_square) >= 50
    assert 0.98 < chi_square.mean() < 1.02
    assert ((chi_square > 0.9) & (chi_square < 1.1)).all()
    bright = np.concatenate([table["chi_square_bright"] for table in tables])
    assert 0.95 < np.nanmean(bright) < 1.05


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["hsc-wide-i", "sdss-r"])
def test_galsim_degrades_hubble_the_same_way(real, name):
    survey = survey_of(name)
    kernel, oversampling, _ = survey_psf(survey, 64)
    magnification = 0.8 * largest_magnification(real, survey)
    for row in range(len(real)):
        image, (left, top) = real.complete(row, 1.0)
        scale = real.pixel_scale_arcsec[row]
        x, y = (real.truth[key][row].value for key in ("x_px", "y_px"))
        middle = (len(image) - 1) / 2
        template = galsim.InterpolatedImage(
            galsim.Image(image.double().numpy(), scale=scale), normalization="flux", gsparams=EXACT
        ).shift(scale * (middle - x - left), scale * (middle - y - top))
        own = sampled(real.psf[row], real.psf_oversampling[row], scale)
        # GalSim's deconvolution stops where the template passes no light; so does the target
        profile = galsim.Convolve(template, galsim.Deconvolve(own), gsparams=EXACT)
        profile = profile.expand(magnification[row]) / magnification[row] ** 2
        judge = galsim.Convolve(
            profile.rotate(110 * galsim.degrees),
            sampled(kernel, oversampling, survey.pixel_scale_arcsec),
            gsparams=EXACT,
        )
        judge = judge.drawImage(nx=64, ny=64, scale=survey.pixel_scale_arcsec, method="no_pixel").array
        view = View(
            magnification[row] * scale / survey.pixel_scale_arcsec, math.radians(110), False, (31.5, 31.5), (x, y)
        )
        light = draw_light(real.select([row]), [view], kernel[None], oversampling, 64).images[0].numpy()
        assert abs(light - judge).max() < 0.01 * judge.max(), real.object_id[row]


@pytest.mark.real_data
def test_templates_have_no_step_at_their_masks(real):
    assert len(real) == 8
    assert len(set(real.group)) == 8
    for row in range(len(real)):
        image, (left, top) = real.complete(row, 0.3)
        inside = np.zeros(image.shape, bool)
        height, width = real.footprint[row].shape
        inside[top : top + height, left : left + width] = real.footprint[row]
        distance = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
        just_in, just_out = ((distance > low) & (distance <= high) for low, high in ((-3.5, -0.5), (0.5, 3.5)))
        ratio = float(image[torch.as_tensor(just_out)].mean() / image[torch.as_tensor(just_in)].mean())
        assert 0.5 < ratio < 1.05, real.object_id[row]  # light falls outwards, and not off a cliff
        truth = real.truth[row]
        assert 0 < truth["outside_share"] < 0.6
        assert truth["circular_half_light_radius_arcsec"] > 0.9 * truth["half_light_radius_arcsec"]


@pytest.mark.real_data
def test_fits_are_kept_and_gone_on_with(data_dir, tmp_path, monkeypatch):
    asked = []

    def counted(images, insides, rms, survey):
        asked.append(len(images))
        return fit_models(images, insides, rms, survey)

    monkeypatch.setattr(templates_module, "fit_models", counted)
    monkeypatch.setattr(templates_module, "_BLOCK", 1)
    first = load_templates(templates_module.SETS[1:], limit=1, cache=tmp_path)
    again = load_templates(templates_module.SETS[1:], limit=2, cache=tmp_path)
    assert asked == [1, 1]
    assert again.truth["mag_ab"][0].value == pytest.approx(first.truth["mag_ab"][0].value)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["hsc-wide-i", "sdss-r", "hst-acs-f814w", "hst-candels-f814w"])
def test_real_sky_is_empty_in_the_middle_and_has_its_own_noise(data_dir, name):
    survey = survey_of(name, 48)
    skies = load_skies(survey, 60, seed=1)
    assert isinstance(skies, Cutouts)
    assert all(str(source) != "drawn noise" for source in skies.object_id)
    assert len(set(skies.object_id)) > 1
    assert (np.asarray(skies.catalogue["real_share"]) >= 0.4).all()
    pull = skies.images / skies.variance.sqrt()
    clear = pull[~skies.neighbour_mask].numpy()
    assert 1.4826 * np.median(abs(clear - np.median(clear))) == pytest.approx(1.0, abs=0.08)
    assert abs(np.median(clear)) < 0.1
    assert not skies.neighbour_mask[:, 22:26, 22:26].any()
    assert skies.neighbour_mask.any()
    assert skies.psf.sum((1, 2)).numpy() == pytest.approx(1.0, abs=1e-5)
    assert float(skies.sky_rms.median()) / survey.sky_rms == pytest.approx(1.0, abs=0.6)


@pytest.mark.real_data
def test_a_galaxy_lies_in_real_sky(data_dir):
    survey, galaxies = survey_of("sdss-r", 48), noisy(8)
    skies = load_skies(survey, 8, seed=2)
    seen = reobserve(galaxies, survey, magnification=4.0, snr=25.0, seed=3, sky=skies)
    assert list(seen.catalogue["sky_source"]) == list(skies.object_id)
    assert np.asarray(seen.truth["snr"]) == pytest.approx(25.0, rel=1e-3)
    added = (seen.images - skies.images).sum((1, 2)).numpy()
    assert added * survey.unit_njy == pytest.approx(seen.truth["flux_njy"].value, rel=0.1)
    assert bool((seen.variance > skies.variance * (1 - 1e-6)).all())


def test_where_no_sky_is_known_noise_is_drawn_and_said_so():
    survey = survey_of("euclid-vis", 32)
    skies = load_skies(survey, 5, seed=1)
    assert set(skies.object_id) == {"drawn noise"}
    assert (np.asarray(skies.catalogue["real_share"]) == 0).all()
    assert float(skies.images.std()) == pytest.approx(survey.sky_rms, rel=0.05)
