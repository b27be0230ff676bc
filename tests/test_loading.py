"""Real files become Cutouts: every layout, the geometry, the sky, and whatever a hostile disk may hold."""

import dataclasses
import gzip
import os
import time

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from scipy import ndimage

from galstress.cutouts import Cutouts, Flag, decode_flags
from galstress.errors import InputError, UnknownNameError
from galstress.loading import load
from galstress.survey import Survey

SURVEY = dataclasses.replace(Survey.load("hsc-wide-i"), stamp_px=64)
RMS = 0.05


def galaxy(shape=(80, 80), centre=None, flux=200.0, rms=RMS, seed=1):
    """A lopsided galaxy (an ellipse with a knot on one side) in white noise."""
    height, width = shape
    x0, y0 = ((width - 1) / 2, (height - 1) / 2) if centre is None else centre
    y, x = np.indices(shape)
    radius = np.hypot((x - x0) + 0.4 * (y - y0), 1.6 * (y - y0))
    light = np.exp(-radius / 3.0) + 0.3 * np.exp(-((x - x0 - 4) ** 2 + (y - y0 - 2) ** 2) / 4.0)
    return light * flux / light.sum() + np.random.default_rng(seed).normal(0, rms, shape)


def psf_image(side=21, sigma=1.5):
    y, x = np.indices((side, side)) - side // 2
    return np.exp(-(x**2 + y**2) / (2 * sigma**2))


def wcs_header(scale=0.168, crpix=(40.5, 40.5), position=(150.0, 2.0)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = position, crpix
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs.to_header()


def write(path, data, header=None, **kwargs):
    fits.PrimaryHDU(data, header).writeto(path, **kwargs)
    return path


def flags_of(cutouts, row=0):
    return set(decode_flags(cutouts.flags[row]))


# ---- layouts -------------------------------------------------------------------------------------------------------


def test_a_folder_is_a_row_per_file_sorted_by_name(tmp_path):
    for number, name in enumerate(["b.fits", "a.fits.gz", "c.fit", "<b>&'\".fits"]):
        write(tmp_path / name, galaxy(seed=number).astype(np.float32))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.fits").write_text("not an image")
    (tmp_path / "folder.fits").mkdir()
    cutouts = load(tmp_path, SURVEY)
    assert list(cutouts.object_id) == ["<b>&'\"", "a", "b", "c"]
    assert cutouts.images.shape == (4, 64, 64)
    np.testing.assert_allclose(cutouts.images[2], galaxy(seed=0)[8:72, 8:72], atol=1e-5)
    assert flags_of(cutouts) == {"VARIANCE_ESTIMATED", "PSF_ASSUMED"}


def test_names_that_collide_stay_apart(tmp_path):
    write(tmp_path / "a.fits", galaxy())
    write(tmp_path / "a.fits.gz", galaxy(seed=2))
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(galaxy()), fits.ImageHDU(galaxy((90, 70)))])
    hdus.writeto(tmp_path / "many.fits")
    assert list(load(tmp_path, SURVEY).object_id) == ["a", "a~2", "many_1", "many_2"]


def test_a_multi_extension_file_is_one_object_with_its_planes(tmp_path):
    image, mask = galaxy(), np.zeros((80, 80), np.int32)
    mask[40:43, 50:52] = 4
    planes = {"SCI": image, "VARIANCE": np.full((80, 80), 0.003), "MASK": mask, "PSF": psf_image()}
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(data, wcs_header(), name=name) for name, data in planes.items())]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY)
    assert len(cutouts) == 1
    assert flags_of(cutouts) == set()
    np.testing.assert_allclose(cutouts.variance, 0.003, rtol=1e-6)
    np.testing.assert_array_equal(cutouts.mask[0], mask[8:72, 8:72] != 0)
    # 21 samples of a Gaussian of sigma 1.5: FWHM 3.53
    assert cutouts.psf.shape[-1] == 21
    assert float(cutouts.psf_fwhm_px[0]) == pytest.approx(2.3548 * 1.5, rel=0.02)
    assert float(cutouts.psf.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "plane"), [("ERR", np.sqrt(0.003)), ("IVAR", 1 / 0.003), ("VAR", 0.003), ("UNCERT", np.sqrt(0.003))]
)
def test_every_kind_of_uncertainty_becomes_a_variance(tmp_path, name, plane):
    uncertainty = np.full((80, 80), plane)
    uncertainty[10, 12] = 0
    hdus = [fits.PrimaryHDU(galaxy()), fits.ImageHDU(uncertainty, name=name)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY)
    expected = torch.full((64, 64), 0.003)
    expected[2, 4] = np.inf
    torch.testing.assert_close(cutouts.variance[0], expected, rtol=1e-5, atol=0)
    assert bool(cutouts.mask[0, 2, 4])
    assert int(cutouts.mask.sum()) == 1


def test_weights_of_unknown_scale_are_scaled_by_the_sky(tmp_path):
    """WHT is exposure time: half of the image was exposed four times as long."""
    time_map = np.ones((120, 120))
    time_map[:, :60] = 4
    noise = np.random.default_rng(1).normal(0, RMS, (120, 120)) / np.sqrt(time_map)
    hdus = [fits.PrimaryHDU(galaxy((120, 120), rms=0) + noise), fits.ImageHDU(777 * time_map, name="WHT")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY, stamp_px=120)
    ratio = cutouts.variance[0, :, 60:].mean() / cutouts.variance[0, :, :60].mean()
    assert float(ratio) == pytest.approx(4, rel=1e-3)
    # one scale for both halves: neither is exact, the product of the pulls' variances is 1
    pull = cutouts.images[0] / cutouts.variance[0].sqrt()
    assert 0.6 < float(pull[:30].std()) < 1.4


def test_two_science_extensions_keep_their_own_errors(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for version, sigma in ((1, 0.05), (2, 0.10)):
        hdus.append(fits.ImageHDU(galaxy(seed=version), name="SCI", ver=version))
        hdus.append(fits.ImageHDU(np.full((80, 80), sigma), name="ERR", ver=version))
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY)
    assert [round(float(v.mean()), 6) for v in cutouts.variance] == [0.0025, 0.01]


def test_bit_planes_that_do_no_harm_are_not_masked(tmp_path):
    """A mask with named planes: a detection (bit 5) is no bad pixel, a saturated one (bit 1) is."""
    mask = np.full((80, 80), 1 << 5, np.int32)
    mask[40, 40] |= 1 << 1
    header = fits.Header({"EXTTYPE": "MASK", "MP_SAT": 1, "MP_DETECTED": 5, "MP_BAD": 0})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(galaxy()), fits.ImageHDU(mask, header)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY)
    assert np.argwhere(cutouts.mask[0].numpy()).tolist() == [[32, 32]]
    assert "CENTRE_MASKED" in flags_of(cutouts)


def test_a_cube_is_an_object_a_plane(tmp_path):
    cube = np.stack([galaxy(seed=seed) for seed in range(3)])
    psfs = np.stack([psf_image(sigma=sigma) for sigma in (1.2, 1.5, 1.8)])
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(cube, name="SCI"), fits.ImageHDU(psfs, name="PSF")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    cutouts = load(tmp_path / "a.fits", SURVEY)
    assert list(cutouts.object_id) == ["a_0", "a_1", "a_2"]
    np.testing.assert_allclose(cutouts.images[2], cube[2, 8:72, 8:72], atol=1e-5)
    assert np.all(np.diff(cutouts.psf_fwhm_px.numpy()) > 0.5)


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_1", "int16", "big-endian", "float64"])
def test_every_encoding_of_pixels(tmp_path, kind):
    image = galaxy()
    path = tmp_path / ("a.fits.fz" if "_1" in kind else "a.fits")
    if "_1" in kind:
        hdu = fits.CompImageHDU(image.astype(np.float32), compression_type=kind, quantize_level=64)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    elif kind == "int16":
        hdu = fits.PrimaryHDU(image.astype(np.float32))
        hdu.scale("int16", bscale=0.001, bzero=20.0)
        hdu.writeto(path)
    else:
        write(path, image.astype(">f4" if kind == "big-endian" else np.float64))
    cutouts = load(path, SURVEY)
    assert np.abs(cutouts.images[0].numpy() - image[8:72, 8:72]).max() < 0.002


def test_what_galstress_wrote_comes_back_as_it_was(tmp_path):
    cutouts = load(np.stack([galaxy(), galaxy(seed=2)]), SURVEY)
    cutouts.write(tmp_path / "mine.fits")
    for source in (tmp_path / "mine.fits", tmp_path):
        again = load(source, SURVEY)
        torch.testing.assert_close(again.images, cutouts.images)
        torch.testing.assert_close(again.psf, cutouts.psf)
        assert list(again.object_id) == list(cutouts.object_id)
    with pytest.raises(InputError, match="survey sdss-r"):
        load(tmp_path, "sdss-r")


def test_npz_layouts(tmp_path):
    image, weight = galaxy().astype(np.float32), np.full((80, 80), 400.0, np.float32)
    bands = np.stack([2 * image, image, 3 * image])
    weights = np.stack([weight, weight, weight])
    weights[:, 30:34, 30:34] = 0
    names = np.array(["g", "i", "z"])
    psfs = np.stack([psf_image(sigma=1 + k) for k in range(3)])
    np.savez(tmp_path / "a.npz", images=bands, weights=weights, psfs=psfs, filters=names, pixscale=0.168)
    np.savez(tmp_path / "b.npz", image=image, sigma=np.full((80, 80), 0.05), mask=weights[0] == 0)
    np.save(tmp_path / "c.npy", image)
    np.savez(tmp_path / "d.npz", images=np.array([{"a": 1}], dtype=object))
    cutouts = load(tmp_path, SURVEY)
    assert list(cutouts.object_id) == ["a", "b", "c", "d"]
    for row in range(3):
        np.testing.assert_allclose(cutouts.images[row], image[8:72, 8:72], atol=1e-5)
    assert float(cutouts.variance[0, 0, 0]) == pytest.approx(1 / 400)
    assert int(cutouts.mask[0].sum()) == int(cutouts.mask[1].sum()) == 16
    assert float(cutouts.psf_fwhm_px[0]) == pytest.approx(2.3548 * 2, rel=0.02)
    assert "UNREADABLE" in flags_of(cutouts, 3)


def test_the_real_galaxy_layout_of_galsim(tmp_path):
    images = [galaxy((60, 60), seed=k) for k in range(3)]
    psfs = [np.pad(psf_image(21, 1.2 + 0.3 * k), ((2, 2), (0, 0))) for k in range(3)]
    for name, planes in (("real_galaxy_images.fits", images), ("real_galaxy_PSF_images.fits", psfs)):
        fits.HDUList([fits.PrimaryHDU(planes[0]), *map(fits.ImageHDU, planes[1:])]).writeto(tmp_path / name)
    table = Table(
        {
            "IDENT": [7, 3, 5],
            "RA": [150.1, 150.2, 150.3],
            "DEC": [2.1, 2.2, 2.3],
            "GAL_FILENAME": ["real_galaxy_images.fits"] * 3,
            "GAL_HDU": [2, 0, 9],
            "PSF_FILENAME": ["renamed_psfs.fits"] * 3,
            "PSF_HDU": [1, 0, 2],
            "PIXEL_SCALE": [0.168] * 3,
            "NOISE_VARIANCE": [RMS**2] * 3,
        }
    )
    table.write(tmp_path / "real_galaxy_catalog.fits")
    Table({"IDENT": [7, 3, 5], "ZPHOT": [0.5, 0.8, 0.1]}).write(tmp_path / "real_galaxy_catalog_fits.fits")
    for source in (tmp_path, tmp_path / "real_galaxy_catalog.fits"):
        cutouts = load(source, SURVEY, stamp_px=60)
        assert list(cutouts.object_id) == ["7", "3", "5"]
        np.testing.assert_allclose(cutouts.images[0], images[2], atol=1e-5)
        assert np.asarray(cutouts.catalogue["redshift"])[:2].tolist() == [0.5, 0.8]
        assert float(cutouts.psf_fwhm_px[0]) == pytest.approx(2.3548 * 1.5, rel=0.02)
        assert float(cutouts.psf_fwhm_px[1]) == pytest.approx(2.3548 * 1.2, rel=0.02)
        assert "UNREADABLE" in flags_of(cutouts, 2)


@pytest.mark.parametrize("kind", ["numpy", "torch", "float16", "list", "nested", "quantity", "masked", "ccddata"])
def test_pixels_in_memory(kind):
    image = galaxy().astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[20, 20] = True
    source = {
        "numpy": image,
        "torch": torch.from_numpy(image),
        "float16": torch.from_numpy(image).half(),
        "list": [image],
        "nested": image.tolist(),
        # 27.0 is 57.54 nJy a unit
        "quantity": image * 10 ** (0.4 * 4.4) * u.nJy,
        "masked": np.ma.masked_array(image, mask),
        "ccddata": CCDData(image, mask=mask, uncertainty=StdDevUncertainty(np.full(image.shape, 0.05)), unit="adu"),
    }[kind]
    cutouts = load(source, SURVEY)
    assert np.abs(cutouts.images[0].numpy() - image[8:72, 8:72])[~cutouts.mask[0].numpy()].max() < 0.01
    if kind in ("masked", "ccddata"):
        assert np.argwhere(cutouts.mask[0].numpy()).tolist() == [[12, 12]]
    if kind == "ccddata":
        np.testing.assert_allclose(cutouts.variance[0], 0.0025, rtol=1e-5)


def test_ccddata_keeps_its_wcs_and_inverse_variance():
    data = CCDData(
        galaxy(), unit="electron", wcs=WCS(wcs_header()), uncertainty=InverseVariance(np.full((80, 80), 400.0))
    )
    cutouts = load([data, galaxy((70, 90))], SURVEY)
    assert float(cutouts.catalogue["ra"][0].value) == pytest.approx(150.0, abs=1e-6)
    assert cutouts.wcs[1] is None
    assert float(cutouts.variance[0, 3, 3]) == pytest.approx(1 / 400)


# ---- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 65, 100, 101])
@pytest.mark.parametrize("stamp", [63, 64, 80, 81])
def test_the_centre_moves_by_half_a_pixel_at_most(width, stamp):
    """The centroid of a Gaussian on the array's centre lands on the stamp's, or half a pixel above."""
    y, x = np.indices((100, width))
    image = np.exp(-((x - (width - 1) / 2) ** 2 + (y - 49.5) ** 2) / 50.0)
    cutouts = load(image, SURVEY, stamp_px=stamp, subtract_sky=False)
    light = np.where(cutouts.mask[0], 0.0, cutouts.images[0])
    offsets = [(ndimage.center_of_mass(light)[axis] - (stamp - 1) / 2) for axis in (0, 1)]
    assert offsets[1] == pytest.approx(0.5 * ((width - stamp) % 2), abs=1e-3)
    assert offsets[0] == pytest.approx(0.5 * ((100 - stamp) % 2), abs=1e-3)


def test_padding_is_masked_and_flagged():
    cutouts = load(galaxy((50, 41)), SURVEY)
    assert "PADDED" in flags_of(cutouts)
    mask = cutouts.mask[0].numpy()
    assert (~mask).sum() == 50 * 41
    assert np.isinf(cutouts.variance[0].numpy()[mask]).all()
    assert (cutouts.images[0].numpy()[mask] == 0).all()


def test_objects_are_cut_out_of_a_larger_image(tmp_path):
    rng = np.random.default_rng(3)
    image = rng.normal(0, RMS, (300, 400))
    places = [(60.3, 70.0), (250.0, 200.6), (399.0, 299.0), (900.0, 10.0), (np.nan, 3.0)]
    for x, y in places[:3]:
        image += galaxy((300, 400), centre=(x, y), rms=0)
    header = wcs_header(crpix=(200.5, 150.5))
    path = write(tmp_path / "field.fits", image.astype(np.float32), header)
    cutouts = load(path, SURVEY, centres=places)
    assert list(cutouts.object_id) == [f"field_{k}" for k in range(5)]
    assert [bool(f & Flag.ALL_MASKED) for f in cutouts.flags] == [False, False, False, True, True]
    assert "PADDED" in flags_of(cutouts, 2)
    wcs = WCS(header)
    for row, (x, y) in enumerate(places[:3]):
        # the same sky under the same light
        peak = np.unravel_index(int(cutouts.images[row].argmax()), (64, 64))
        near = np.hypot(*(np.array(cutouts.wcs[row].world_to_pixel(wcs.pixel_to_world(x, y))) - peak[::-1]))
        assert near < 1.5
        assert np.hypot(peak[0] - 31.5, peak[1] - 31.5) < 1.5
    sky = wcs.pixel_to_world([p[0] for p in places[:3]], [p[1] for p in places[:3]])
    same = load(path, SURVEY, centres=sky)
    torch.testing.assert_close(same.images, cutouts.images[:3])
    np.testing.assert_allclose(same.catalogue["ra"].value, sky.ra.deg, rtol=1e-12)
    # what one stamp masks as a neighbour is not the object itself
    assert not cutouts.neighbour_mask[0, 28:36, 28:36].any()


def test_position_and_redshift_come_from_the_header(tmp_path):
    header = wcs_header()
    header["REDSHIFT"] = 0.7
    write(tmp_path / "a.fits", galaxy(), header)
    write(tmp_path / "b.fits", galaxy(), fits.Header({"RA": 10.5, "DEC": -3.0, "REDSHIFT": -9.0}))
    write(tmp_path / "c.fits", galaxy(), fits.Header({"RA": 1e9, "DEC": "x"}))
    table = load(tmp_path, SURVEY).catalogue
    assert table["ra"].value.filled(-1).tolist() == pytest.approx([150.0, 10.5, -1.0], abs=1e-6)
    assert table["redshift"].filled(-1).tolist() == pytest.approx([0.7, -1.0, -1.0])


# ---- units ---------------------------------------------------------------------------------------------------------


def test_images_come_in_the_units_of_the_survey(tmp_path):
    """One nJy is 10^(-0.4 (31.4 - 27.0)) units of HSC, by whatever way the file says so."""
    image, unit = galaxy(), 10 ** (0.4 * 4.4)
    write(tmp_path / "bunit.fits", image * unit, fits.Header({"BUNIT": "nJy"}))
    write(tmp_path / "fluxmag0.fits", image * unit, fits.Header({"FLUXMAG0": 10 ** (0.4 * 31.4)}))
    write(tmp_path / "magzero.fits", image * unit, fits.Header({"MAGZERO": 31.4}))
    write(tmp_path / "maggies.fits", image * 10 ** (0.4 * -4.5), fits.Header({"BUNIT": "nanomaggy"}))
    write(tmp_path / "plain.fits", image, fits.Header({"BUNIT": "adu", "PHOTFLAM": 1e-19, "PHOTPLAM": 8000.0}))
    for row in load(tmp_path, SURVEY).images:
        np.testing.assert_allclose(row, image[8:72, 8:72], atol=2e-5)
    moved = load(tmp_path / "plain.fits", SURVEY, zero_point_mag=24.5)
    np.testing.assert_allclose(moved.images[0], 10 * image[8:72, 8:72], atol=2e-4)


def test_pixels_of_another_survey_are_refused(tmp_path):
    write(tmp_path / "a.fits", galaxy(), wcs_header(scale=0.168))
    write(tmp_path / "b.fits", galaxy(), wcs_header(scale=0.396))
    cutouts = load(tmp_path, SURVEY)
    assert [bool(f & Flag.UNREADABLE) for f in cutouts.flags] == [False, True]
    assert "0.396" in cutouts.catalogue["note"][1]
    with pytest.raises(InputError, match=r"0\.396 arcsec.*hsc-wide-i"):
        load(tmp_path / "b.fits", SURVEY)


# ---- sky, variance, neighbours -------------------------------------------------------------------------------------


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


# ---- PSF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(21, 21), (22, 22), (65, 51), (20, 31)])
def test_psfs_of_any_shape_become_odd_squares(shape):
    y, x = np.indices(shape)
    psf = np.exp(-((x - shape[1] // 2) ** 2 + (y - shape[0] // 2) ** 2) / 8.0) * 29000
    cutouts = load(galaxy(), SURVEY, psf=psf)
    assert cutouts.psf.shape[-1] % 2 == 1
    assert float(cutouts.psf.sum()) == pytest.approx(1, abs=1e-5)
    middle = cutouts.psf.shape[-1] // 2
    assert int(cutouts.psf[0].argmax()) == middle * cutouts.psf.shape[-1] + middle


def test_psfs_of_different_size_share_a_grid_and_a_bad_one_is_replaced(tmp_path):
    for name, psf in (("a", psf_image(15)), ("b", psf_image(41, 2.0)), ("c", np.full((9, 9), np.nan)), ("d", None)):
        hdus = [fits.PrimaryHDU(galaxy())] + ([fits.ImageHDU(psf, name="PSF")] if psf is not None else [])
        fits.HDUList(hdus).writeto(tmp_path / f"{name}.fits")
    cutouts = load(tmp_path, SURVEY)
    assert [bool(f & Flag.PSF_ASSUMED) for f in cutouts.flags] == [False, False, True, True]
    assert cutouts.psf_oversampling == 1
    np.testing.assert_allclose(cutouts.psf.sum((1, 2)), 1, atol=1e-5)
    torch.testing.assert_close(cutouts.psf[2], cutouts.psf[3])
    # the survey's, pixel included: its own FWHM and the pixel's in quadrature, roughly
    assert float(cutouts.psf_fwhm_px[3]) == pytest.approx(np.hypot(SURVEY.psf_fwhm_px, 0.6), rel=0.05)


def test_psf_from_a_file_and_what_is_no_psf(tmp_path):
    path = write(tmp_path / "psf.fits", psf_image())
    assert "PSF_ASSUMED" not in flags_of(load(galaxy(), SURVEY, psf=path))
    for psf in (np.zeros((9, 9)), np.ones(9), np.ones((3, 9, 9)), np.full((9, 9), np.nan), "none.fits", [[1, 2], [3]]):
        with pytest.raises(InputError):
            load(galaxy(), SURVEY, psf=psf)


# ---- hostile input -------------------------------------------------------------------------------------------------


def truncated(tmp_path, name="broken.fits", keep=0.6):
    path = write(tmp_path / name, galaxy((200, 200)))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    return path


def one_line(error):
    assert "\n" not in str(error.value)
    assert "next:" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("damage", ["truncated", "truncated gz", "text", "empty", "table", "1-D", "4-D", "complex"])
def test_a_bad_file_is_an_error_alone_and_a_flagged_row_among_others(tmp_path, damage):
    path = tmp_path / "m.fits"
    if damage == "truncated":
        truncated(tmp_path, "m.fits")
    elif damage == "truncated gz":
        path = tmp_path / "m.fits.gz"
        buffer = write(tmp_path / "whole.tmp", galaxy((200, 200))).read_bytes()
        path.write_bytes(gzip.compress(buffer)[:20000])
        (tmp_path / "whole.tmp").unlink()
    elif damage == "text":
        path.write_text("this is no FITS file\n" * 200)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "table":
        Table({"a": [1, 2]}).write(path)
    elif damage == "complex":
        np.save(tmp_path / "m.npy", galaxy() + 1j)
        path = tmp_path / "m.npy"
    else:
        write(path, np.zeros((100,) if damage == "1-D" else (2, 2, 40, 40)))
    with pytest.raises(InputError) as error:
        load(path, SURVEY)
    assert "m" in one_line(error)
    write(tmp_path / "a.fits", galaxy())
    write(tmp_path / "z.fits", galaxy(seed=2))
    cutouts = load(tmp_path, SURVEY)
    assert list(cutouts.object_id) == ["a", "m", "z"]
    assert [bool(f & Flag.UNREADABLE) for f in cutouts.flags] == [False, True, False]
    assert cutouts.mask[1].all()
    assert "got" in cutouts.catalogue["note"][1]
    np.testing.assert_allclose(cutouts.images[2], galaxy(seed=2)[8:72, 8:72], atol=1e-5)


def test_hdus_before_a_broken_one_are_kept(tmp_path):
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(galaxy()), fits.ImageHDU(galaxy((150, 150)))])
    hdus.writeto(tmp_path / "a.fits")
    content = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "a.fits").write_bytes(content[: 100 * 1024])
    cutouts = load(tmp_path / "a.fits", SURVEY)
    assert [bool(f & Flag.UNREADABLE) for f in cutouts.flags] == [False, True]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (np.full((80, 80), np.nan), {"ALL_MASKED", "NON_FINITE"}),
        (np.zeros((80, 80)), {"ALL_MASKED", "SKY_ZEROED"}),
        (np.ma.masked_all((80, 80)), {"ALL_MASKED"}),
        (np.ones((1, 1)), {"TOO_SMALL", "PADDED"}),
        (np.ones((15, 200)), {"TOO_SMALL"}),
        (np.full((80, 80), 1e300), {"ALL_MASKED", "NON_FINITE"}),
        (np.full((80, 80), 7.0), {"SKY_UNCERTAIN"}),
        (np.ones((80, 80), bool), {"SKY_UNCERTAIN"}),
        (np.random.default_rng(1).normal(0, RMS, (80, 80)), {"OFF_CENTRE"}),
    ],
)
def test_images_without_use_are_flagged_rows(source, wanted):
    cutouts = load([source, galaxy()], SURVEY)
    assert wanted <= flags_of(cutouts)
    assert flags_of(cutouts, 1) == {"VARIANCE_ESTIMATED", "PSF_ASSUMED"}
    for name in ("images", "psf", "psf_fwhm_px", "sky_rms"):
        assert bool(torch.isfinite(getattr(cutouts, name)).all())
    assert not bool(torch.isnan(cutouts.variance).any())
    assert bool((cutouts.variance > 0).all())
    assert bool((cutouts.sky_rms > 0).all())


def test_nan_and_infinite_pixels_are_masked():
    image = galaxy()
    image[20, 20:25], image[30, 30], image[39:41, 39:41] = np.nan, -np.inf, np.inf
    cutouts = load(image, SURVEY)
    assert flags_of(cutouts) >= {"NON_FINITE", "CENTRE_MASKED"}
    np.testing.assert_array_equal(cutouts.mask[0], ~np.isfinite(image[8:72, 8:72]))
    assert bool(torch.isfinite(cutouts.images).all())


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_useless_variance_is_estimated_and_single_bad_pixels_are_masked(tmp_path, bad):
    whole, partly = np.full((80, 80), bad), np.full((80, 80), RMS**2)
    partly[20, 20] = bad
    for name, variance in (("a", whole), ("b", partly), ("c", partly[:50])):
        hdus = [fits.PrimaryHDU(galaxy()), fits.ImageHDU(variance, name="VARIANCE")]
        fits.HDUList(hdus).writeto(tmp_path / f"{name}.fits")
    cutouts = load(tmp_path, SURVEY)
    assert ["VARIANCE_ESTIMATED" in flags_of(cutouts, row) for row in range(3)] == [True, False, True]
    assert not cutouts.mask[0].any()
    assert np.argwhere(cutouts.mask[1].numpy()).tolist() == [[12, 12]]
    assert "shape" in cutouts.catalogue["note"][2]


def test_whole_failures_are_one_line_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.fits", "b.fits"):
        truncated(broken, name)
    cases = [
        (tmp_path / "empty", {}),
        (tmp_path, {}),
        (broken, {}),
        (tmp_path / "none.fits", {}),
        ("x" * 5000, {}),
        (np.zeros((0, 64, 64)), {}),
        (np.zeros((2, 3, 64, 64)), {}),
        (np.zeros(64), {}),
        (np.array(3.0), {}),
        (np.full((64, 64), "a"), {}),
        (galaxy() + 1j, {}),
        ([], {}),
        ([[1, 2], [3]], {}),
        (None, {}),
        (galaxy(), {"stamp_px": 0}),
        (galaxy(), {"stamp_px": 1}),
        (galaxy(), {"stamp_px": 64.5}),
        (galaxy(), {"stamp_px": 10**6}),
        (galaxy(), {"zero_point_mag": np.nan}),
        (galaxy(), {"centres": [1, 2, 3]}),
        (galaxy(), {"centres": []}),
        (galaxy(), {"centres": "here"}),
        (galaxy(), {"centres": SkyCoord(1, 2, unit="deg")}),
        ([galaxy(), galaxy()], {"centres": [(1, 2)]}),
        (write(tmp_path / "texts" / "one.dat", galaxy()), {"hdu": "F814W"}),
    ]
    for source, options in cases:
        with pytest.raises(InputError) as error:
            load(source, SURVEY, **options)
        assert len(one_line(error)) < 1000
    with pytest.raises(UnknownNameError):
        load(galaxy(), "no-such-survey")


def test_links_pipes_and_strange_names(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    real = write(tmp_path / "real.fits", galaxy())
    (folder / "a.fits").symlink_to(real)
    (folder / "b.fits").symlink_to(tmp_path / "gone.fits")
    os.mkfifo(folder / "c.fits")
    write(folder / "sans_suffix", galaxy())
    real.rename(tmp_path / "real2.fits")
    (folder / "a.fits").unlink()
    (folder / "a.fits").symlink_to(tmp_path / "real2.fits")
    cutouts = load(folder, SURVEY)
    assert list(cutouts.object_id) == ["a", "b", "sans_suffix"]
    assert [bool(f & Flag.UNREADABLE) for f in cutouts.flags] == [False, True, False]
    with pytest.raises(InputError):
        load(folder / "c.fits", SURVEY)


def test_objects_of_different_shape_share_a_batch():
    cutouts = load([galaxy((64, 64)), galaxy((200, 31)), galaxy((33, 90))], SURVEY)
    assert cutouts.images.shape == (3, 64, 64)
    assert isinstance(cutouts, Cutouts)


def test_a_huge_image_is_read_where_it_is_needed(tmp_path):
    """256 MB on disk, a handful of stamps: fast, since only the regions around the centres are touched."""
    path = tmp_path / "huge.fits"
    header = fits.PrimaryHDU(np.zeros((1, 1), np.float32)).header
    header["NAXIS1"] = header["NAXIS2"] = 8192
    header.tofile(path)
    with path.open("r+b") as file:
        file.seek(2880 + 4 * 8192**2 - 1)
        file.write(b"\0")
        file.seek(2880 + 4 * 8192 * 4000)
        file.write(np.random.default_rng(1).normal(0, RMS, (200, 8192)).astype(">f4").tobytes())
    start = time.perf_counter()
    cutouts = load(path, SURVEY, centres=[(500.0, 4100.0), (4000.0, 4100.0), (100.0, 100.0)])
    assert time.perf_counter() - start < 5
    assert float(cutouts.sky_rms[0]) == pytest.approx(RMS, rel=0.1)
    assert "ALL_MASKED" in flags_of(cutouts, 2)


def test_a_hundred_stamps_take_seconds():
    images = np.stack([galaxy((96, 96), seed=seed) for seed in range(100)])
    start = time.perf_counter()
    load(images, SURVEY)
    assert time.perf_counter() - start < 15  # 2 s on an idle core
