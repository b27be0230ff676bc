"""Sets of SDSS images, and the galaxies that SDSS and KiDS both saw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from galstress.cutouts import Flag
from galstress.datasets.records import (
    SDSS_CREDIT,
    Dataset,
    derive_survey,
    psf_of,
    read_csv,
    read_number,
    read_pixels,
    with_columns,
)
from galstress.loading import Frame, failed_frame, read_fits
from galstress.survey import Survey

__all__ = ["DATASETS"]

_NMGY_PER_COUNT = 0.0051
"""Nanomaggies of one count of a corrected frame (fpC) in r: what makes the noise of both kinds of frame equal here."""

_COUNT_ZERO_POINT = 22.5 - 2.5 * math.log10(_NMGY_PER_COUNT)
_EXPOSURE_S = 53.9

# ---- sdss-frames-misc ----------------------------------------------------------------------------------------------


def _read_frames(folder: Path, band: str) -> list[Frame]:
    index = read_csv(folder / "index.csv", "objid")
    subsets = ("gamornet4",) if band == "g" else ("sparcfire25", "sparcfire_galfit10")
    paths = sorted((p for s in subsets for p in (folder / s).glob("*.fits.gz")), key=lambda p: p.name)
    frames = []
    for path in paths:
        name = path.name.removesuffix(".fits.gz")
        row = index.get(name, {})
        counts = row.get("units_guess", "").startswith("ADU")
        labels = {
            "lit_bulge_to_total": read_number(row, "galfit_bt"),
            "lit_disk_half_light_radius_arcsec": read_number(row, "disk_re_pix", 0.396),
            "lit_bulge_half_light_radius_arcsec": read_number(row, "bulge_re_pix", 0.396),
            "lit_bulge_sersic_index": read_number(row, "bulge_n"),
        }
        frame = read_fits(path, name)[0]
        if counts:
            frame = with_columns(
                frame, {}, zero_point_mag=_COUNT_ZERO_POINT, flags=frame.flags | Flag.ZERO_POINT_ASSUMED
            )
        frames.append(with_columns(frame, labels))
    return frames


_FRAMES = Dataset(
    name="sdss-frames-misc",
    title="23 SDSS cutouts in r with a WCS and 4 in g as GaMorNet takes them",
    folder="sdss_frames_misc",
    surveys={
        "r": derive_survey("sdss-r", "sdss-r-frames", "r", ""),
        "g": derive_survey(
            "sdss-r",
            "sdss-g-frames",
            "g",
            "typical of SDSS g; calibrated frames in nanomaggies",
            electrons_per_unit=1000.0,
            sky_mag_arcsec2=21.9,
            psf=psf_of("moffat", 1.44, beta=3.0),
        ),
    },
    licence="no licence file (SpArcFiRe), GPL-3 (GaMorNet); pixels: public SDSS data",
    credit=SDSS_CREDIT,
    source="github.com/waynebhayes/SpArcFiRe at e33d43e0, aritraghsh09/GaMorNet at 9fb796c",
    changes="float32, gzip; 27 of 39 cutouts",
    zero_point_note=(
        "22.5 for the frames in nanomaggies; frames in counts (with bias and sky) are flagged: 0.0051 nanomaggies a"
        " count is assumed, which gives them the noise of the others"
    ),
    read=_read_frames,
    columns={
        "lit_bulge_to_total": ("", "GALFIT with spiral arms (10 galaxies): indicative only"),
        "lit_disk_half_light_radius_arcsec": ("arcsec", "GALFIT re of the disk, semi-major, indicative only"),
        "lit_bulge_half_light_radius_arcsec": ("arcsec", "GALFIT re of the bulge, semi-major, indicative only"),
        "lit_bulge_sersic_index": ("", "GALFIT, indicative only"),
    },
)

# ---- sdss-pymorph10 ------------------------------------------------------------------------------------------------

_PYMORPH_ZERO_POINT = _COUNT_ZERO_POINT - 2.5 * math.log10(_EXPOSURE_S)
"""AB magnitude of one count per second."""


def _read_pymorph(folder: Path, _band: str) -> list[Frame]:
    labels = read_csv(folder / "result.csv", "Name_1")
    shift = _PYMORPH_ZERO_POINT - 25.256
    frames = []
    for path in sorted(folder.glob("*_stamp.fits.gz")):
        name = path.name.removesuffix("_r_stamp.fits.gz")
        row = labels.get(f"r_{name}_r_stamp", {})
        columns: dict[str, Any] = {
            "redshift": read_number(row, "z_4"),
            "lit_mag_ab": read_number(row, "Ie_23", shift=shift),
            "lit_sersic_index": read_number(row, "n_31"),
            "lit_half_light_radius_arcsec": read_number(row, "re_pix_27", 0.396),
            "lit_axis_ratio": read_number(row, "eb_33"),
            "lit_position_angle_deg": read_number(row, "bpa_35"),
        }
        try:
            sigma = read_pixels(path.with_name(path.name.replace("_stamp", "_stamp_W"))).astype(float)
            frame = Frame(
                name,
                image=read_pixels(path),
                variance=sigma**2,
                psf=read_pixels(path.with_name(path.name.replace("_stamp", "_psf"))),
                zero_point_mag=_PYMORPH_ZERO_POINT,
                flags=Flag.ZERO_POINT_ASSUMED,
                columns=columns,
            )
        except (OSError, TypeError, ValueError) as error:
            frame = failed_frame(name, f"{path.name} ({error})", "a stamp with its weight and PSF", "get them again")
        frames.append(frame)
    return frames


_PYMORPH = Dataset(
    name="sdss-pymorph10",
    title="5 SDSS r cutouts with sigma and PSF, and PyMorph's Sersic fits",
    folder="sdss_pymorph10",
    surveys={"r": derive_survey("sdss-r", "sdss-r-pymorph", "r", "")},
    licence="GPL-2 (repository); pixels: public SDSS data",
    credit=SDSS_CREDIT,
    source="github.com/vvinuv/pymorph at e5f3f34, examples/postage_stamps",
    changes="stamps cast to float32, gzip; 5 of 10 galaxies",
    zero_point_note=(
        "assumed: counts per second at 23.90. The 25.256 of the fits would make the sky 22.1 mag/arcsec^2 and the"
        " galaxies fainter than SDSS took spectra of; the labels' magnitudes are moved to 23.90"
    ),
    read=_read_pymorph,
    columns={
        "lit_mag_ab": ("mag", "total magnitude of the Sersic fit, at the assumed zero point"),
        "lit_sersic_index": ("", "PyMorph (GALFIT), one Sersic profile"),
        "lit_half_light_radius_arcsec": ("arcsec", "of that Sersic profile, semi-major, PSF removed"),
        "lit_axis_ratio": ("", "of that Sersic profile"),
        "lit_position_angle_deg": ("deg", "of that Sersic profile, from +y of the stamp towards -x"),
    },
)

# ---- pair-sdss-kids-profit10 ---------------------------------------------------------------------------------------

_FOLDER = {"sdss-r": "SDSS", "kids-r": "KiDS"}
_GALAXIES = ("G265911", "G265940", "G266035", "G266662", "G267489", "G267525", "G279148")


def _read_pair(folder: Path, band: str) -> list[Frame]:
    inside = folder / _FOLDER[band]
    frames = []
    for name in _GALAXIES:
        try:
            planes = {kind: _pair_plane(inside, name + kind) for kind in ("fitim", "sigma", "mskim", "segim", "psfim")}
        except (OSError, TypeError, ValueError) as error:
            frames.append(failed_frame(name, f"{name} ({error})", "five FITS files", "get them again"))
            continue
        frames.append(
            Frame(
                name,
                image=planes["fitim"],
                variance=planes["sigma"].astype(float) ** 2,
                mask=planes["mskim"] != 0,
                segmentation=planes["segim"].astype(int),
                psf=planes["psfim"],
                zero_point_mag=0.0,  # maggies
            )
        )
    return frames


def _pair_plane(folder: Path, stem: str) -> np.ndarray:
    """Pixels of a file, packed here or plain at the source."""
    packed = folder / f"{stem}.fits.gz"
    return read_pixels(packed if packed.is_file() else folder / f"{stem}.fits")


def _pair_surveys() -> dict[str, Survey]:
    return {
        "sdss-r": derive_survey(
            "sdss-r",
            "sdss-r-gama",
            "r",
            "sigma images of ProFit's example; the scale from the size ratio to KiDS",
            pixel_scale_arcsec=0.339,
            electrons_per_unit=1000.0,
            sky_mag_arcsec2=20.58,
            noise_correlation_fwhm_px=1.0,
            psf=psf_of("moffat", 1.25, beta=3.0),
        ),
        "kids-r": derive_survey(
            "kids-r",
            "kids-r-gama",
            "r",
            "sigma images of ProFit's example; KiDS coadds have 0.2 arcsec pixels",
            pixel_scale_arcsec=0.2,
            electrons_per_unit=17300.0,
            sky_mag_arcsec2=20.87,
            noise_correlation_fwhm_px=1.0,
            psf=psf_of("moffat", 0.68, beta=3.0),
            stamp_px=192,
        ),
    }


_PAIR = Dataset(
    name="pair-sdss-kids-profit10",
    title="the same 7 GAMA galaxies in SDSS r and in KiDS r, with sigma, PSF, mask and segmentation",
    folder="pair_sdss_kids_profit10",
    surveys=_pair_surveys(),
    licence="LGPL-3 (repository); pixels: public SDSS and KiDS data",
    credit=f"{SDSS_CREDIT}; KiDS (ESO programmes 177.A-3016, 177.A-3017, 177.A-3018); ProFit (Robotham et al. 2017)",
    source="github.com/ICRAR/ProFit at 4973b53, inst/extdata",
    changes="gzip; 7 of 10 galaxies",
    zero_point_note="both in maggies (zero point 0), as the fluxes of the two surveys agree; here in nanomaggies",
    read=_read_pair,
)

DATASETS = (_FRAMES, _PYMORPH, _PAIR)
