"""Sets of Hyper Suprime-Cam images, and the sky that HSC and Hubble both saw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.stats import mad_std

from galstress.cutouts import Flag
from galstress.datasets.records import (
    HSC_CREDIT,
    HST_CREDIT,
    Dataset,
    derive_survey,
    github_files,
    psf_of,
    read_csv,
    read_number,
    with_columns,
)
from galstress.loading import Frame, failed_frame, read_fits
from galstress.loading.fitsfiles import read_wcs
from galstress.loading.sky import measure_sky
from galstress.survey import Survey

__all__ = ["DATASETS"]

_BANDS = "grizy"
_READ_ERRORS = (OSError, KeyError, TypeError, ValueError, EOFError)

# ---- hsc-cosmos-udeep147 -------------------------------------------------------------------------------------------


def _read_udeep(folder: Path, band: str) -> list[Frame]:
    index = read_csv(folder / "index.csv", "id")
    frames = []
    for path in sorted((folder / "stamps").glob("*.npz")):
        row = index.get(path.stem, {})
        try:
            with np.load(path, allow_pickle=False) as arrays:
                place = [str(name) for name in arrays["filters"]].index(band)
                image, weight, psf = (arrays[key][place] for key in ("images", "weights", "psfs"))
                peaks = arrays["peaks"]
        except _READ_ERRORS as error:
            frames.append(failed_frame(path.stem, f"{path.name} ({error})", "a whole npz file", "get it again"))
            continue
        centre = (read_number(row, "brightest_x"), read_number(row, "brightest_y"))
        frames.append(
            Frame(
                path.stem,
                image=image,
                variance=_fill_sky(weight.astype(float)),
                psf=psf,
                centre=centre if all(map(math.isfinite, centre)) else (float(peaks[0, 0]), float(peaks[0, 1])),
                pixel_scale_arcsec=0.168,
                flags=Flag.ZERO_POINT_ASSUMED,
                columns={
                    "lit_peaks": read_number(row, "n_peaks"),
                    "lit_brightest_flux_share": read_number(row, "brightest_flux_share"),
                },
            )
        )
    return frames


def _fill_sky(weight: np.ndarray) -> np.ndarray:
    """Variance from weights that are 0 outside of the blend's footprint, where the sky is.

    The pixels there are real sky: their rms is 1.01 times what the 30th percentile of the variance inside says
    (median over the set, in every band).
    """
    inside = weight > 0
    variance = np.where(inside, 1 / np.where(inside, weight, 1.0), np.inf)
    return np.where(inside, variance, np.percentile(variance[inside], 30)) if inside.any() else variance


def _udeep_surveys() -> dict[str, Survey]:
    made = {}
    for band, electrons, sky, fwhm in (
        ("i", 7700.0, 20.4, 0.53),
        ("g", 4700.0, 21.2, 0.71),
        ("r", 3700.0, 21.4, 0.50),
        ("z", 2700.0, 19.8, 0.48),
        ("y", 1760.0, 19.3, 0.66),
    ):
        made[band] = derive_survey(
            "hsc-wide-i",
            f"hsc-{band}-cosmos-udeep147",
            f"HSC-{band.upper()}",
            "weights, PSFs and sky noise of these stamps",
            electrons_per_unit=electrons,
            sky_mag_arcsec2=sky,
            read_noise_e=0.0,
            psf=psf_of("moffat", fwhm, beta=3.0),
        )
    return made


_UDEEP = Dataset(
    name="hsc-cosmos-udeep147",
    title="98 HSC COSMOS UltraDeep blends in g, r, i, z, y with PSFs and weights, centred on the brightest peak",
    folder="hsc_cosmos_udeep147",
    surveys=_udeep_surveys(),
    licence="no licence file; pixels: HSC SSP public data release terms",
    credit=HSC_CREDIT,
    source="github.com/lsst/testdata_deblender at 8a244b6, real_data/hsc_cosmos/not_matched",
    changes="PSFs to float32, compressed, names of the bands added; 98 of 147 stamps",
    zero_point_note="27.0 assumed, as of HSC coadds; the noise is that of HSC Wide rather than of UltraDeep",
    read=_read_udeep,
    columns={
        "lit_peaks": ("", "number of peaks that the HSC pipeline found"),
        "lit_brightest_flux_share": ("", "share of the light within 6 px of the brightest peak; near 1: isolated"),
    },
)

# ---- hsc-misc ------------------------------------------------------------------------------------------------------


def _read_wide(folder: Path, band: str) -> list[Frame]:
    frames = []
    for name, centre in (("hsc_cosmos", (33.0, 40.0)), ("hsc_cosmos_35", (31.0, 36.0))):
        try:
            frames.append(_read_blend(folder / "scarlet" / f"{name}.npz", band, centre))
        except _READ_ERRORS as error:
            frames.append(failed_frame(name, f"{name} ({error})", "a whole npz file", "get it again"))
    stem = "hscwide_222.5155_0.0975"
    image = folder / f"{stem}_300x300_{band}.fits.gz"
    if band in "gri" and image.is_file():
        (frame,) = read_fits(image, stem)
        try:
            psf = np.asarray(fits.getdata(folder / f"{stem}_{band}_psf.fits"))
        except _READ_ERRORS:
            psf = None
        frames.append(with_columns(frame, {}, psf=psf, variance=_raise_to_sky(frame)))
    return frames


def _raise_to_sky(frame: Frame) -> np.ndarray | None:
    """The variance plane with the sky's own unevenness added: around this spiral it is a third noisier than stated.

    The plane is right from pixel to pixel, but the sky that the pipeline over-subtracted around the galaxy varies on
    scales of tens of pixels, and a likelihood must not take that for the galaxy.
    """
    image, variance = frame.image, frame.variance
    if image is None or variance is None:
        return variance
    bad = ~np.isfinite(image) | ~np.isfinite(variance)
    sky = measure_sky(np.where(bad, 0.0, image).astype(float), bad, 3.6)
    return variance if sky is None else variance + max(0.0, sky.rms**2 - float(np.median(variance[sky.clear])))


def _read_blend(path: Path, band: str, centre: tuple[float, float]) -> Frame:
    with np.load(path, allow_pickle=False) as arrays:
        place = [str(name) for name in arrays["filters"]].index(band)
        planes: dict[str, Any] = {key: arrays[key][place] for key in arrays.files if key in ("variance", "mask")}
        image, psf = arrays["images"][place], arrays["psfs"][place]
    bad = (1 << 0) | (1 << 1) | (1 << 8)  # BAD, SAT, NO_DATA of the HSC pipeline
    return Frame(
        path.stem,
        image=image,
        variance=planes.get("variance"),
        mask=None if "mask" not in planes else (planes["mask"] & bad) != 0,
        psf=psf,
        centre=centre,
        pixel_scale_arcsec=0.168,
        flags=Flag.ZERO_POINT_ASSUMED,
    )


def _wide_surveys() -> dict[str, Survey]:
    made = {}
    for band, electrons, sky, fwhm in (
        ("i", 4170.0, 19.7, 0.60),
        ("r", 2250.0, 20.6, 0.55),
        ("g", 2130.0, 21.4, 0.78),
        ("z", 20000.0, 18.3, 0.50),
        ("y", 8900.0, 17.9, 0.64),
    ):
        made[band] = derive_survey(
            "hsc-wide-i",
            f"hsc-{band}-misc",
            f"HSC-{band.upper()}",
            "variance planes and PSFs of these images",
            electrons_per_unit=electrons,
            sky_mag_arcsec2=sky,
            psf=psf_of("moffat", fwhm, beta=3.0),
            stamp_px=301,
        )
    return made


_MISC = Dataset(
    name="hsc-misc",
    title="an HSC Wide spiral (g, r, i) with variance, mask and WCS, and two COSMOS blends (g to y)",
    folder="hsc_misc",
    surveys=_wide_surveys(),
    licence="GPL-3 (multiprofit), MIT (scarlet); pixels: HSC SSP public data release terms",
    credit=HSC_CREDIT,
    source="github.com/lsst-dm/multiprofit at 52ef298 examples, pmelchior/scarlet at 998ca34 data",
    changes="gzip",
    zero_point_note="27.0: FLUXMAG0 of the spiral's header; assumed for the two blends",
    read=_read_wide,
)

# ---- pair-hsc-hst-cosmos -------------------------------------------------------------------------------------------

_FIELDS = ("", "1")
_HST_RMS = 0.00261
"""Sky noise of COSMOS F814W at 0.03 arcsec, e-/s: Hubble saw all of it for one orbit."""

_HSC_SCALE = {"": 15.9, "1": 5.0}
"""File units of one HSC unit (27.0) in i: from the same galaxies in F814W, inside 1.5 arcsec."""


def _read_cosmos_pair(folder: Path, band: str) -> list[Frame]:
    if band == "hsc-i":
        return [_pair_frame(folder, f"Cut_HSC{f}", "PSF_HSC", 27.0 + 2.5 * math.log10(_HSC_SCALE[f])) for f in _FIELDS]
    if band == "hst-f814w":
        return [_pair_frame(folder, f"Cut_HST{field}", "PSF_HST", None) for field in _FIELDS]
    if band == "hst-f814w-massive":
        frame = _pair_frame(folder, "cosmos_1", "cosmos_1_psf", 25.94)
        return [with_columns(frame, {}, flags=Flag(0))]
    return [_pair_frame(folder, f"subaru_example_{band[-1].upper()}", None, 31.4)]


def _pair_frame(folder: Path, name: str, psf_name: str | None, zero_point: float | None) -> Frame:
    """One field; HST's unit, which the files lost, is found from the depth of COSMOS."""
    try:
        with fits.open(folder / f"{name}.fits") as hdus:
            pixels, wcs = np.asarray(hdus[0].data, float), read_wcs(hdus[0].header)
        psf = None if psf_name is None else np.asarray(fits.getdata(folder / f"{psf_name}.fits"), float)
    except _READ_ERRORS as error:
        return failed_frame(name, f"{name}.fits ({error})", "a whole FITS file", "get it again")
    if pixels.ndim == 3:  # g, r, i, z, y
        pixels, psf = pixels[2], None if psf is None else psf[2]
    if zero_point is None:
        zero_point = 25.94 - 2.5 * math.log10(_HST_RMS / float(mad_std(pixels)))
    return Frame(name, image=pixels, psf=psf, wcs=wcs, zero_point_mag=zero_point, flags=Flag.ZERO_POINT_ASSUMED)


def _cosmos_pair_surveys() -> dict[str, Survey]:
    hst = derive_survey("hst-acs-f814w", "hst-f814w-pair-cosmos", "F814W", "COSMOS", zero_point_mag=25.94)
    made = {
        "hsc-i": derive_survey(
            "hsc-wide-i",
            "hsc-i-pair-cosmos",
            "HSC-I",
            "sky noise and PSF of these cutouts; gain as of HSC UltraDeep",
            electrons_per_unit=39000.0,
            sky_mag_arcsec2=21.6,
            psf=psf_of("moffat", 0.58, beta=3.0),
            stamp_px=50,
        ),
        "hst-f814w": hst,
        "hst-f814w-massive": hst,
    }
    for band, electrons, sky, fwhm in (("i", 511.0, 19.6, 1.2), ("b", 242.0, 22.3, 1.15)):
        made[f"subaru-{band}"] = derive_survey(
            "hsc-wide-i",
            f"subaru-{band}-pair-cosmos",
            {"i": "Subaru i+", "b": "Subaru B"}[band],
            "COSMOS Subaru images are normalised to 31.4 (Capak et al. 2007); noise and stars of these cutouts",
            pixel_scale_arcsec=0.15,
            zero_point_mag=31.4,
            electrons_per_unit=electrons,
            read_noise_e=0.0,
            sky_mag_arcsec2=sky,
            noise_correlation_fwhm_px=1.34,
            psf=psf_of("moffat", fwhm, beta=3.0),
            stamp_px=335,
        )
    return made


_COSMOS_PAIR_FILES = {
    "Cut_HSC.fits": (
        "pmelchior/scarlet@998ca34",
        "data/test_resampling/Cut_HSC.fits",
        "d54772cd0d3e79e794269e2cec7a6f5659d9295fc199328a125ebbc8b591fb2b",
    ),
    "Cut_HSC1.fits": (
        "pmelchior/scarlet@998ca34",
        "data/test_resampling/Cut_HSC1.fits",
        "110fcd8594402988cf5e2856d13eb99186fcb2f85dc94bb914d2446ec2e31790",
    ),
    "Cut_HST.fits": (
        "pmelchior/scarlet@998ca34",
        "data/test_resampling/Cut_HST.fits",
        "7d9cee2c99175489104567d4a52b8423b56ece3235ff8d9257008e502dfacbba",
    ),
    "Cut_HST1.fits": (
        "pmelchior/scarlet@998ca34",
        "data/test_resampling/Cut_HST1.fits",
        "cbbee12490705aa54d80317a688e5d02f903fad6482ccbfba0f74274fc4514e7",
    ),
    "PSF_HSC.fits": (
        "pmelchior/scarlet@998ca34",
        "data/test_resampling/PSF_HSC.fits",
        "de1206236ff9628829d26aa43eddf9aab49c0b3ff83eb689340d7aab43e1f454",
    ),
    "PSF_HST.fits": (
        "pmelchior/scarlet@998ca34",
        "data/test_resampling/PSF_HST.fits",
        "8d3a000d6871c74b4124389738a2f70345fa7e4d4bd7099d73b0b6e4aa86b379",
    ),
    "cosmos_1.fits": (
        "dr-guangtou/hs_galphot@3e1e376fd2cc94edcb3ac3f3d845af7a29d24f57",
        "galfit/cosmos_1.fits",
        "bbc66b55a2687b0e14fcb5cec3a5193b4fb05371af1cba98660fdd9551ecb6b0",
    ),
    "cosmos_1_psf.fits": (
        "dr-guangtou/hs_galphot@3e1e376fd2cc94edcb3ac3f3d845af7a29d24f57",
        "galfit/cosmos_1_psf.fits",
        "5b2c20f7c4c76a562715d521ba2d1ecb562d431d00c5cd6ffe01dcf7c070a7c1",
    ),
    "subaru_example_B.fits": (
        "dr-guangtou/hs_galphot@3e1e376fd2cc94edcb3ac3f3d845af7a29d24f57",
        "data/example_B.fits",
        "923d74eb25cc33f18299937327b5c618c714299fcb7ce119cf85c39c772b232a",
    ),
    "subaru_example_I.fits": (
        "dr-guangtou/hs_galphot@3e1e376fd2cc94edcb3ac3f3d845af7a29d24f57",
        "data/example_I.fits",
        "d248c33e982ede29f837252ce6ee6fa0ea83306d59e2c209d8c50292a738cf9b",
    ),
}

_COSMOS_PAIR = Dataset(
    name="pair-hsc-hst-cosmos",
    title="two COSMOS fields in HSC i and HST F814W (the same sky); one massive galaxy each from HST and from Subaru",
    folder="pair_hsc_hst_cosmos",
    surveys=_cosmos_pair_surveys(),
    licence="MIT (scarlet), BSD-style (hs_galphot); pixels: public HST, HSC and Subaru data",
    credit=f"{HST_CREDIT}, COSMOS; {HSC_CREDIT}; Subaru Telescope (NAOJ)",
    source="github.com/pmelchior/scarlet at 998ca34 data/test_resampling, dr-guangtou/hs_galphot at 3e1e376",
    changes="none",
    zero_point_note=(
        "the files of the two fields are scaled to arbitrary sums. HST: its noise is taken for that of COSMOS"
        " (0.0026 e-/s); HSC i: scaled to HST's fluxes of the same galaxies; Subaru: 31.4"
    ),
    read=_read_cosmos_pair,
    downloads=github_files("", _COSMOS_PAIR_FILES),
)

DATASETS = (_UDEEP, _MISC, _COSMOS_PAIR)
