"""Whatever a hostile disk or caller may hold: one-line errors or flagged rows, and no batch stopped."""

import gzip
import os
import time

import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table

from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError, UnknownNameError
from galstress.loading import load
from loading_images import RMS, SURVEY, flags_of, galaxy, write


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
        ("", {}),
        ("nul\0byte", {}),
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
    for survey in (None, 3, tmp_path / "none.toml"):
        with pytest.raises(InputError):
            load(galaxy(), survey)


def test_garbage_never_raises_anything_else(tmp_path):
    """Headers that lie, random bytes, broken archives: each file a flagged row."""
    rng = np.random.default_rng(1)
    header = fits.PrimaryHDU(galaxy()).header
    for name, axis in (("a", 10**6), ("b", 40000), ("c", -5)):
        header["NAXIS1"] = header["NAXIS2"] = axis
        (tmp_path / f"{name}.fits").write_bytes(header.tostring().encode() + galaxy().tobytes())
    noise = rng.integers(0, 256, 20000, dtype=np.uint8).tobytes()
    for name, start in (
        ("d.fits", b""),
        ("e.fits", b"SIMPLE  =                    T".ljust(80)),
        ("f.fits.gz", b"\x1f\x8b"),
        ("g.npz", b"PK\x03\x04"),
        ("h.npy", b"\x93NUMPY\x01\x00"),
        ("i.fits.bz2", b"BZh9"),
    ):
        (tmp_path / name).write_bytes(start + noise)
    np.save(tmp_path / "j.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    fits.PrimaryHDU(galaxy(), fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "x", "CRVAL1": "y"})).writeto(
        tmp_path / "k.fits"
    )
    cutouts = load(tmp_path, SURVEY)
    assert "".join(cutouts.object_id) == "abcdefghijk"
    assert [bool(f & Flag.UNREADABLE) for f in cutouts.flags] == [True] * 10 + [False]
    assert all(note and "\n" not in note for note in cutouts.catalogue["note"])
    cutouts.write(tmp_path / "out.fits")


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
    start = time.process_time()
    cutouts = load(path, SURVEY, centres=[(500.0, 4100.0), (4000.0, 4100.0), (100.0, 100.0)])
    assert time.process_time() - start < 3
    assert float(cutouts.sky_rms[0]) == pytest.approx(RMS, rel=0.1)
    assert "ALL_MASKED" in flags_of(cutouts, 2)


def test_a_hundred_stamps_take_seconds():
    images = np.stack([galaxy((96, 96), seed=seed) for seed in range(100)])
    start = time.process_time()
    load(images, SURVEY)
    assert time.process_time() - start < 8  # 2 s on an idle core
