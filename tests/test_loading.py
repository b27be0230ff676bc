"""Real files become Cutouts: every layout, the geometry, the units, the PSFs."""

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from scipy import ndimage

from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.loading import load
from loading_images import RMS, SURVEY, flags_of, galaxy, psf_image, wcs_header, write

# ---- layouts --------------------------------------------------------------------------------------------------------


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
    header = fits.Header({"EXTTYPE": "MASK", "MP_SAT": 1, "HIERARCH MP_DETECTED": 5, "MP_BAD": 0})
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


# ---- geometry -------------------------------------------------------------------------------------------------------


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


# ---- units ----------------------------------------------------------------------------------------------------------


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


# ---- PSF ------------------------------------------------------------------------------------------------------------


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
