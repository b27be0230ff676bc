"""The named sets of real galaxies: what each one gives, and that the real path is real."""

import dataclasses
import functools
import hashlib
import sys

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.stats import mad_std
from scipy import ndimage

from galstress import datasets
from galstress.cutouts import Flag
from galstress.datasets import finding
from galstress.datasets.pixels import mean_psf, measure_noise_inside, resample_tinytim
from galstress.errors import InputError, UnknownNameError
from galstress.optics import measure_fwhm

COUNTS = {
    "hsc-cosmos-udeep147": 98,
    "hsc-misc": 3,
    "hst-candels-bd201": 134,
    "hst-candels-gds17": 12,
    "hst-cosmos-btk100": 60,
    "hst-cosmos-galsim235": 10,
    "hst-jedisim126-templates": 84,
    "pair-hsc-hst-cosmos": 2,
    "pair-sdss-kids-profit10": 7,
    "sdss-frames-misc": 23,
    "sdss-pymorph10": 5,
}
BANDS = [(name, band) for name in COUNTS for band in datasets.describe(name).bands]
WITHOUT_SKY = ("hst-candels-bd201", "hst-jedisim126-templates")
LITTLE_SKY = [("hsc-misc", "z"), ("hsc-misc", "y"), ("pair-hsc-hst-cosmos", "hsc-i")]


@functools.lru_cache(maxsize=4)
def load(name, band=None, stamp_px=None):
    return datasets.load(name, band, stamp_px)


def sky_pulls(cutouts, row):
    """Image over sigma where there is sky, found here on our own: two smoothings, thresholds from the lower half."""
    bad = cutouts.mask[row].numpy()
    pull = np.where(bad, 0.0, cutouts.images[row].numpy().astype(float) / np.sqrt(cutouts.variance[row].numpy()))
    covered = cutouts.neighbour_mask[row].numpy().copy()
    for sigma, grow in ((1.5, 2), (4.0, 5)):
        weight = ndimage.gaussian_filter((~bad).astype(float), sigma)
        smooth = ndimage.gaussian_filter(pull, sigma) / np.maximum(weight, 0.05)
        clear = smooth[~bad & ~covered]
        if clear.size < 100:
            return np.zeros(0)
        low = np.median(clear)
        noise = 1.4826 * np.median(np.abs(clear[clear < low] - low))
        labels, count = ndimage.label(smooth > 2 * noise)
        if count:
            peaks = ndimage.maximum(smooth, labels, np.arange(1, count + 1))
            sources = np.isin(labels, 1 + np.flatnonzero(peaks > 4 * noise))
            covered |= ndimage.binary_dilation(sources, iterations=grow)
    return pull[~bad & ~covered]


def certain_rows(cutouts):
    uncertain = Flag.SKY_UNCERTAIN | Flag.SKY_ZEROED | Flag.UNREADABLE | Flag.ALL_MASKED
    return np.flatnonzero((cutouts.flags & int(uncertain)) == 0)


# ---- without any data ----------------------------------------------------------------------------------------------


def test_every_set_says_whose_it_is():
    assert datasets.available() == tuple(sorted(COUNTS))
    for name in datasets.available():
        dataset = datasets.describe(name)
        for field in ("title", "licence", "credit", "source", "changes", "zero_point_note"):
            assert len(getattr(dataset, field)) > 3
        assert dataset.name.replace("-", "_") == dataset.folder
        assert "github.com" in dataset.source
        for survey in dataset.surveys.values():
            assert survey.pixel_scale_arcsec > 0
        scales = {survey.pixel_scale_arcsec for survey in dataset.surveys.values()}
        assert len(scales) == 1 or name.startswith("pair-")


def test_names_that_are_not_known():
    with pytest.raises(UnknownNameError, match="hst-cosmos-btk100"):
        datasets.load("hst")
    with pytest.raises(UnknownNameError, match="F125W"):
        datasets.load("hst-candels-bd201", band="F140W")
    with pytest.raises(InputError, match="limit"):
        datasets.load("hst-candels-bd201", limit=0)


@pytest.mark.parametrize("where", ["nowhere", ""])
def test_a_set_that_is_not_here_says_where_it_comes_from(tmp_path, monkeypatch, where):
    monkeypatch.setenv("GALSTRESS_DATA", str(tmp_path / where) if where else "")
    with pytest.raises(InputError, match=r"github\.com/LSSTDESC/BlendingToolKit at 6901e8c") as error:
        datasets.load("hst-cosmos-btk100")
    assert "\n" not in str(error.value)


def test_a_download_is_checked_kept_and_used_again(tmp_path, monkeypatch):
    content = b"pixels"
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append(url)
        if known_hash != f"sha256:{hashlib.sha256(content).hexdigest()}":
            raise ValueError("SHA256 hash of downloaded file does not match the known hash")
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(content)

    monkeypatch.setenv("GALSTRESS_DATA", "")
    monkeypatch.setattr(finding.pooch, "retrieve", retrieve)
    monkeypatch.setattr(finding.pooch, "os_cache", lambda name: tmp_path / name)
    downloads = {"in/a.fits": ("https://example.org/a.fits", hashlib.sha256(content).hexdigest())}
    dataset = dataclasses.replace(datasets.describe("pair-hsc-hst-cosmos"), downloads=downloads)
    folder = finding.find_folder(dataset)
    assert (folder / "in" / "a.fits").read_bytes() == content
    changed = dataclasses.replace(dataset, downloads={"a.fits": ("https://example.org/a.fits", "0" * 64)})
    with pytest.raises(InputError, match="hash") as error:
        finding.find_folder(changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_noise_inside_a_galaxy_is_found_without_its_sky(correlation):
    """A lopsided galaxy in noise of 0.01, its sky cut away: the noise is found again within a tenth."""
    rng = np.random.default_rng(1)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6.0
    y, x = np.indices((120, 120)) - 59.5
    light = np.exp(-np.hypot(x + 0.5 * y, 1.5 * y) / 12) + 0.2 * np.exp(-((x - 9) ** 2 + y**2) / 60)
    found = []
    for _ in range(5):
        noise = ndimage.gaussian_filter(rng.normal(size=light.shape), correlation)
        noise *= 0.01 / noise.std()
        ratio = mad_std(ndimage.convolve(noise, kernel)) / 0.01
        found.append(measure_noise_inside(light + noise, light > 0.05, ratio))
    assert np.mean(found) == pytest.approx(0.01, rel=0.1)
    assert np.isnan(measure_noise_inside(light, light > 0.9, 1.0))


def test_a_finely_sampled_psf_is_resampled_as_its_transform_says():
    """A Gaussian in, boxes and a blur on top: variances add."""
    sigma, scale = 0.045, 0.0231
    y, x = np.indices((220, 220))
    psf = np.exp(-((x - 110) ** 2 + (y - 110) ** 2) * scale**2 / (2 * sigma**2))
    out = resample_tinytim(psf, scale, 0.06, oversampling=3, size=81, blur_arcsec=0.02)
    axis = (np.arange(81) - 40) * 0.02
    variance = (out.sum(0) * axis**2).sum()
    expected = sigma**2 + 0.02**2 + (0.05**2 + 0.04**2 + 0.06**2) / 12
    assert variance == pytest.approx(expected, rel=2e-3)
    assert np.unravel_index(int(out.argmax()), out.shape) == (40, 40)
    assert (out.sum(0) * axis).sum() == pytest.approx(0, abs=1e-4)


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=BANDS, ids="-".join)
def real_set(request):
    """A set in one band: both tests below see it before the next one is loaded."""
    name, band = request.param
    return name, band, load(name, band)


@pytest.mark.real_data
def test_every_set_in_every_band(real_set):
    name, band, cutouts = real_set
    survey = datasets.describe(name).surveys[band]
    expected = {("sdss-frames-misc", "g"): 4, ("hsc-misc", "z"): 2, ("hsc-misc", "y"): 2}.get(
        (name, band), COUNTS[name]
    )
    if band in ("hst-f814w-massive", "subaru-i", "subaru-b"):
        expected = 1
    assert len(cutouts) == expected
    assert cutouts.survey == survey
    assert len(set(cutouts.object_id)) == len(cutouts)
    unreadable = cutouts.flags & int(Flag.UNREADABLE) != 0
    # one GOODS-S galaxy was seen in F160W only
    assert unreadable.sum() == (name == "hst-candels-gds17" and band != "F160W")
    usable = torch.from_numpy(~unreadable)
    assert bool(torch.isfinite(cutouts.images).all())
    assert bool((cutouts.variance > 0).all())
    assert bool(torch.isfinite(cutouts.variance[~cutouts.mask]).all())
    np.testing.assert_allclose(cutouts.psf.sum((1, 2)), 1, atol=1e-4)
    # the set's record describes the set: PSF and noise of its own numbers are those of the pixels
    ratio = float(cutouts.psf_fwhm_px[usable].median()) * survey.pixel_scale_arcsec / survey.psf.fwhm_arcsec
    assert 0.8 < ratio < 1.2
    if name != "hsc-misc":  # three images of different depth
        assert 0.85 < float(cutouts.sky_rms[usable].median()) / survey.sky_rms < 1.15
    # every object that can be seen is in the middle of its stamp
    visible = usable & torch.from_numpy(cutouts.flags & int(Flag.OFF_CENTRE) == 0)
    assert int(visible.sum()) >= 0.5 * len(cutouts)


@pytest.mark.real_data
def test_pulls_of_the_sky_are_one(real_set, capsys):
    name, band, cutouts = real_set
    if name in WITHOUT_SKY:
        assert len(certain_rows(cutouts)) == 0
        return
    pulls = [sky_pulls(cutouts, row) for row in certain_rows(cutouts)]
    pulls = [values for values in pulls if values.size >= 150]
    together = np.concatenate(pulls)
    rms = np.sqrt((together**2).mean())
    each = np.array([np.sqrt((values**2).mean()) for values in pulls])
    with capsys.disabled():
        sys.stdout.write(
            f"\n  {name} {band}: {len(pulls)} of {len(cutouts)} objects, {together.size} sky pixels, rms {rms:.3f},"
            f" mean {together.mean():+.3f}, a single object {each.min():.2f} to {each.max():.2f} "
        )
    if (name, band) in LITTLE_SKY:  # two crowded stamps with a few hundred pixels of sky
        assert together.size < 1000
        return
    assert 0.9 < rms < 1.1
    assert 0.9 < np.median(each) < 1.1


@pytest.mark.real_data
@pytest.mark.parametrize("name", WITHOUT_SKY)
def test_zeroed_sky_is_masked_and_the_noise_is_the_galaxys_own(name):
    cutouts = load(name)
    assert all(cutouts.flags & int(Flag.SKY_ZEROED))
    assert all(cutouts.flags & int(Flag.ZERO_POINT_ASSUMED))
    assert bool((cutouts.images[cutouts.mask] == 0).all())
    assert not bool((cutouts.images[~cutouts.mask] == 0).any())
    # the filter that the noise was measured with, on the finished stamps: within a factor that photons explain
    ratio = 0.82 if name == "hst-candels-bd201" else 0.37
    measured = [
        measure_noise_inside(image.numpy().astype(float), ~mask.numpy(), ratio)
        for image, mask in zip(cutouts.images, cutouts.mask, strict=True)
    ]
    assert np.nanmedian(measured) == pytest.approx(float(cutouts.sky_rms.median()), rel=0.15)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["hst-cosmos-galsim235", "pair-hsc-hst-cosmos"])
def test_checksums_of_downloads_are_those_of_the_files_here(data_dir, name, tmp_path, monkeypatch):
    """And the files that are downloaded are all that the set needs."""
    dataset = datasets.describe(name)
    for path, (url, sha256) in dataset.downloads.items():
        content = (data_dir / dataset.folder / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        assert url.startswith("https://github.com/")
        (tmp_path / dataset.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / dataset.folder / path).write_bytes(content)
    monkeypatch.setenv("GALSTRESS_DATA", str(tmp_path))
    for band in dataset.bands:
        assert not np.any(datasets.load(name, band).flags & int(Flag.UNREADABLE))


@pytest.mark.real_data
def test_no_two_galaxies_of_cosmos_share_a_psf_unless_the_files_say_so(data_dir):
    """58 of the 60 PSFs differ; the two pairs that do not are copies in the source (galaxies 2 and 3 arcsec apart)."""
    cutouts = load("hst-cosmos-btk100")
    with fits.open(data_dir / "hst_cosmos_btk100" / "real_galaxy_psfs.fits") as hdus:
        files = [hdu.data.tobytes() for hdu in hdus]
    ours = [psf.numpy().tobytes() for psf in cutouts.psf]
    for first in range(60):
        for second in range(first):
            assert (ours[first] == ours[second]) == (files[first] == files[second])
    assert len(set(ours)) == 58
    assert not any(cutouts.flags & int(Flag.PSF_ASSUMED))
    fwhm = cutouts.psf_fwhm_px.numpy() * 0.03
    assert 0.100 < fwhm.min() < fwhm.max() < 0.112


@pytest.mark.real_data
def test_labels_mean_what_their_columns_say():
    """The circle with half of the segment's light, and the magnitude of that light, measured here on the pixels."""
    cutouts = load("hst-candels-bd201", stamp_px=256)
    rows, columns = np.indices((256, 256)) - 127.5
    order = np.argsort(np.hypot(rows, columns).ravel())
    radii = np.hypot(rows, columns).ravel()[order]
    growth = np.cumsum(cutouts.images.reshape(134, -1).numpy()[:, order].astype(float), 1)
    radius = np.array([radii[np.searchsorted(curve, curve[-1] / 2)] for curve in growth]) * 0.06
    label = cutouts.catalogue["lit_half_light_radius_arcsec"].value
    assert np.nanmedian(radius / label) == pytest.approx(1, abs=0.02)
    magnitude = 25.94 - 2.5 * np.log10(growth[:, -1])
    assert np.nanmedian(np.abs(magnitude - cutouts.catalogue["lit_mag_ab"].value)) < 0.01
    assert int(np.sum(cutouts.catalogue["lit_bt_consistent"])) == 53
    for name in cutouts.catalogue.colnames:
        if name.startswith("lit_"):
            assert cutouts.catalogue[name].info.description
    share = np.asarray(cutouts.catalogue["lit_bulge_to_total"])[np.asarray(cutouts.catalogue["lit_bt_consistent"])]
    assert np.all((share >= 0) & (share <= 1))


@pytest.mark.real_data
def test_bands_of_a_set_show_the_same_galaxies_at_the_same_place():
    red, blue = (load("hst-candels-bd201", band) for band in ("F814W", "F606W"))
    assert list(red.object_id) == list(blue.object_id)
    matched, shifted = [], []
    for row in range(40):
        first, second = red.images[row].numpy().astype(float), blue.images[row].numpy().astype(float)
        matched.append(np.corrcoef(first.ravel(), second.ravel())[0, 1])
        shifted.append(np.corrcoef(first.ravel(), np.roll(second, (2, 2), (0, 1)).ravel())[0, 1])
    assert np.min(matched) > 0.6
    assert np.mean(np.greater(matched, shifted)) > 0.95


@pytest.mark.real_data
def test_the_same_galaxies_in_sdss_and_kids_agree_in_flux():
    """Two telescopes, two calibrations, two pixel scales: within a tenth of a magnitude on a 12 arcsec circle."""
    magnitudes = []
    for band in ("sdss-r", "kids-r"):
        cutouts = load("pair-sdss-kids-profit10", band)
        side, scale = cutouts.images.shape[-1], cutouts.survey.pixel_scale_arcsec
        y, x = np.indices((side, side)) - (side - 1) / 2
        inside = torch.from_numpy(np.hypot(x, y) * scale < 12) & ~cutouts.neighbour_mask & ~cutouts.mask
        magnitudes.append(22.5 - 2.5 * np.log10((cutouts.images * inside).sum((1, 2)).numpy()))
    assert np.abs(np.subtract(*magnitudes)).max() < 0.15
    assert np.median(np.subtract(*magnitudes)) == pytest.approx(0, abs=0.1)


@pytest.mark.real_data
def test_the_same_sky_in_hsc_and_hubble():
    hsc, hst = (load("pair-hsc-hst-cosmos", band) for band in ("hsc-i", "hst-f814w"))
    for row in range(2):
        first, second = (c.wcs[row].pixel_to_world(*[(c.images.shape[-1] - 1) / 2] * 2) for c in (hsc, hst))
        assert first.separation(second).arcsec < 0.2


@pytest.mark.real_data
def test_psfs_of_the_example_catalogue_are_centred_before_they_are_averaged(data_dir):
    """The brightest sample of GalSim's example PSFs lies a pixel off the array's middle; the mean must not blur."""
    path = data_dir / "hst_cosmos_galsim235" / "galsim_example100_noimages" / "real_galaxy_PSF_images.fits"
    mean = torch.from_numpy(mean_psf(path))[None]
    assert float(measure_fwhm(mean, 1)[0]) * 0.03 == pytest.approx(0.107, abs=0.004)


@pytest.mark.real_data
def test_limit_and_stamp():
    cutouts = datasets.load("hst-cosmos-btk100", limit=5, stamp_px=64)
    assert cutouts.images.shape == (5, 64, 64)
    again = datasets.load("hst-cosmos-btk100", limit=5, stamp_px=64)
    torch.testing.assert_close(again.images, cutouts.images, rtol=0, atol=0)
