"""Sets of CANDELS-like Hubble images at 0.06 arcsec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from galstress.cutouts import Flag
from galstress.datasets.pixels import find_brightest, resample_tinytim
from galstress.datasets.records import (
    HST_CREDIT,
    Dataset,
    derive_survey,
    psf_of,
    read_csv,
    read_number,
    read_pixels,
    with_columns,
)
from galstress.loading import Frame, failed_frame, read_fits
from galstress.survey import Psf, Survey

__all__ = ["DATASETS"]

_AB = {"F606W": 26.49, "F814W": 25.94, "F850LP": 24.87, "F125W": 26.230, "F160W": 25.946}
"""AB magnitude of 1 e-/s: ACS (Sirianni et al. 2005 and the ACS zero-point calculator), WFC3 (PHOTFLAM)."""

# ---- hst-candels-bd201 ---------------------------------------------------------------------------------------------

_BD201_RMS = {"F606W": 0.0056, "F814W": 0.0032, "F125W": 0.0034}
"""Sky noise of a pixel, e-/s: ``measure_noise_inside`` over the set's faint outskirts."""


def _read_bd201(folder: Path, band: str) -> list[Frame]:
    labels = read_csv(folder / "labels.csv", "gal")
    psf = None
    if band == "F814W":
        tinytim = read_pixels(folder / "f814w_psf.fits").astype(float)
        psf = resample_tinytim(tinytim, 0.0231, 0.06, oversampling=3, size=121)
    frames = []
    for path in sorted((folder / "stamps").glob("gal*.fits.gz")):
        name = path.name.removesuffix(".fits.gz")
        try:
            image = read_pixels(path, band)
            middle = find_brightest(read_pixels(path, "F814W").astype(float))
        except (OSError, KeyError, TypeError, ValueError) as error:
            frames.append(failed_frame(name, f"{path.name} ({error})", "a whole FITS file", "get it again"))
            continue
        frames.append(
            Frame(
                name,
                image=image,
                psf=psf,
                psf_oversampling=3,
                centre=middle,
                sky_rms=_BD201_RMS[band],
                flags=Flag.ZERO_POINT_ASSUMED,
                pixel_scale_arcsec=0.06,
                columns=_bd201_labels(labels.get(str(int(name[3:])), {}), band),
            )
        )
    return frames


def _bd201_labels(row: dict[str, str], band: str) -> dict[str, Any]:
    key = band.lower()
    shift = _AB[band] - read_number(row, f"{key}_zp")
    fit_shift = _AB["F814W"] - read_number(row, "f814w_zp")
    return {
        "lit_mag_ab": read_number(row, f"{key}_mag", shift=shift),
        "lit_half_light_radius_arcsec": read_number(row, f"{key}_r50_pix", 0.06),
        "lit_bulge_to_total": read_number(row, "bt_f814w"),
        "lit_bt_consistent": row.get("bt_consistent") == "1",
        "lit_fit_mag_ab": read_number(row, "fit_total_mag", shift=fit_shift),
        "lit_disk_half_light_radius_arcsec": read_number(row, "exp_rs_pix", 1.67835 * 0.06),
        "lit_disk_axis_ratio": read_number(row, "exp_q"),
        "lit_bulge_half_light_radius_arcsec": read_number(row, "dev_re_pix", 0.06),
        "lit_bulge_axis_ratio": read_number(row, "dev_q"),
    }


def _survey(set_name: str, band: str, numbers: tuple[float, float, float, float], psf: Psf, **more: float) -> Survey:
    """A band's record: electrons per unit (the exposure), read noise, sky, noise correlation."""
    electrons, read_noise, sky, correlation = numbers
    return derive_survey(
        "hst-candels-f814w",
        f"hst-candels-{band.lower()}-{set_name}",
        band,
        "AB zero point of the instrument; exposure and correlation inferred from the noise of these stamps",
        zero_point_mag=_AB[band],
        electrons_per_unit=electrons,
        read_noise_e=read_noise,
        sky_mag_arcsec2=sky,
        noise_correlation_fwhm_px=correlation,
        psf=psf,
        **more,
    )


_PSF = {
    "F606W": psf_of("airy", 0.105, wavelength_nm=592.0),
    "F814W": psf_of("airy", 0.105, wavelength_nm=805.0),
    "F850LP": psf_of("airy", 0.11, wavelength_nm=905.0),
    "F125W": psf_of("airy", 0.16, wavelength_nm=1249.0),
    "F160W": psf_of("airy", 0.17, wavelength_nm=1537.0),
}
_BD201_NUMBERS = {
    "F814W": (10300.0, 14.0, 22.0, 1.0),
    "F606W": (3900.0, 14.0, 22.6, 1.0),
    "F125W": (4100.0, 20.0, 22.3, 1.5),
}
_BD201 = Dataset(
    name="hst-candels-bd201",
    title="134 HST galaxies in F606W, F814W, F125W at 0.06 arcsec, sky set to zero, with bulge and disk fits",
    folder="hst_candels_bd201",
    surveys={b: _survey("bd201", b, numbers, _PSF[b]) for b, numbers in _BD201_NUMBERS.items()},
    licence="MIT (repository); pixels: public HST data",
    credit=f"{HST_CREDIT}, CANDELS; stamps and fits: bpRsh",
    source="github.com/bpRsh/a1_data at 4f2d071, bpRsh/Research_galfit_expdisk_devauc at 3a76500",
    changes="zero borders cropped; 134 of 201 galaxies; three bands in one file",
    zero_point_note=(
        "assumed: 1 e-/s at the instrument's AB zero point. The MAG0 of the files (26.66, 26.78, 28.04) gives"
        " colours that no galaxy has; magnitudes of the labels are moved to the AB zero point"
    ),
    read=_read_bd201,
    columns={
        "lit_mag_ab": ("mag", "magnitude of the light inside the stamp's segment, at the assumed AB zero point"),
        "lit_half_light_radius_arcsec": ("arcsec", "circle with half of the segment's light, PSF included"),
        "lit_bulge_to_total": ("", "GALFIT de Vaucouleurs over total, F814W, model totals, masked stamps"),
        "lit_bt_consistent": ("", "the 53 whose fit agrees with the stamp: use only these B/T"),
        "lit_fit_mag_ab": ("mag", "magnitude of the GALFIT model, F814W, at the assumed AB zero point"),
        "lit_disk_half_light_radius_arcsec": ("arcsec", "1.678 times GALFIT's disk scale length, semi-major, F814W"),
        "lit_disk_axis_ratio": ("", "GALFIT disk, F814W"),
        "lit_bulge_half_light_radius_arcsec": ("arcsec", "GALFIT de Vaucouleurs effective radius, semi-major, F814W"),
        "lit_bulge_axis_ratio": ("", "GALFIT de Vaucouleurs, F814W"),
    },
)

# ---- hst-candels-gds17 ---------------------------------------------------------------------------------------------


def _read_gds17(folder: Path, band: str) -> list[Frame]:
    labels = read_csv(folder / "labels.csv", "id")
    frames = []
    for path in sorted((folder / "stamps").glob("GDS_*.fits.gz")):
        name = path.name.removesuffix(".fits.gz")
        (frame,) = read_fits(path, name, hdu=band)
        row = labels.get(name, {})
        votes = ("p_smooth", "p_features", "p_irregular", "p_point_source", "p_unclassifiable")
        assumed = Flag(0) if frame.zero_point_mag is not None else Flag.ZERO_POINT_ASSUMED
        votes_of = {f"lit_{vote}": read_number(row, vote) for vote in votes}
        frames.append(with_columns(frame, votes_of, flags=frame.flags | assumed))
    return frames


_GDS17_NUMBERS = {
    "F160W": (2600.0, 20.0, 22.3, 1.5),
    "F125W": (3200.0, 20.0, 22.3, 1.5),
    "F606W": (5000.0, 14.0, 22.6, 1.0),
    "F850LP": (8000.0, 14.0, 22.6, 1.0),
}
_GDS17 = Dataset(
    name="hst-candels-gds17",
    title="12 GOODS-S stamps in F160W, F125W, F606W, F850LP at 0.06 arcsec with neighbours and visual fractions",
    folder="hst_candels_gds17",
    surveys={b: _survey("gds17", b, numbers, _PSF[b], stamp_px=84) for b, numbers in _GDS17_NUMBERS.items()},
    licence="no licence file; pixels: public HST data",
    credit=f"{HST_CREDIT}, CANDELS, ERS, GOODS; labels: Kartaltepe et al. 2015",
    source="github.com/ryanhausen/galaxy-classification at bb4c54a; labels: manacho14/CLASH at 37f2926",
    changes="bands packed into one file with the segmentation map, long headers dropped; 12 of 18 stamps",
    zero_point_note="F160W, F125W: PHOTFLAM and PHOTPLAM of the headers; F606W, F850LP: assumed for 1 e-/s",
    read=_read_gds17,
    columns={
        f"lit_{vote}": ("", f"share of visual votes: {text}")
        for vote, text in (
            ("p_smooth", "spheroid"),
            ("p_features", "disk"),
            ("p_irregular", "irregular"),
            ("p_point_source", "point source"),
            ("p_unclassifiable", "cannot be told"),
        )
    },
)

DATASETS = (_BD201, _GDS17)
