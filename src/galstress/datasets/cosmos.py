"""Sets of COSMOS images (F814W, 0.03 arcsec), and the masked templates of jedisim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table

from galstress.cutouts import Flag
from galstress.datasets.pixels import find_brightest, mean_psf, measure_noise_inside
from galstress.datasets.records import (
    HST_CREDIT,
    Dataset,
    derive_survey,
    github_files,
    read_csv,
    read_number,
    read_pixels,
    with_columns,
)
from galstress.loading import Frame, failed_frame, read_galsim
from galstress.survey import Survey

__all__ = ["DATASETS"]

_COSMOS_RMS = 0.00261
"""Sky noise of a 0.03 arcsec pixel of COSMOS F814W, e-/s: median over hst-cosmos-btk100."""

# ---- COSMOS --------------------------------------------------------------------------------------------------------


def _cosmos_survey(name: str) -> Survey:
    return derive_survey("hst-acs-f814w", name, "F814W", "GalSim real-galaxy catalogue", zero_point_mag=25.94)


def _read_btk100(folder: Path, _band: str) -> list[Frame]:
    labels = read_csv(folder / "labels.csv", "ident")
    return [
        with_columns(
            frame,
            {
                "lit_mag_ab": read_number(row, "f814w_mag"),
                "lit_half_light_radius_arcsec": read_number(row, "flux_radius_pix", 0.03),
                "lit_sersic_index": read_number(row, "sersic_n"),
                "lit_sersic_half_light_radius_arcsec": read_number(row, "sersic_re_arcsec"),
                "lit_axis_ratio": read_number(row, "sersic_q"),
            },
        )
        for frame in read_galsim(folder / "real_galaxy_catalog.fits")
        for row in [labels.get(frame.object_id, {})]
    ]


_BTK100 = Dataset(
    name="hst-cosmos-btk100",
    title="60 COSMOS F814W galaxies at 0.03 arcsec with real noise and a PSF each, magnitudes 20 to 26",
    folder="hst_cosmos_btk100",
    surveys={"F814W": _cosmos_survey("hst-cosmos-btk100")},
    licence="MIT (repository); pixels: public HST data",
    credit=f"{HST_CREDIT}, COSMOS (Koekemoer et al. 2007); LSST DESC BlendingToolKit",
    source="github.com/LSSTDESC/BlendingToolKit at 6901e8c, data/cosmos",
    changes="repacked: 60 of 100 galaxies, float32",
    zero_point_note="25.94 AB for 1 e-/s, as GalSim's real galaxies are calibrated",
    read=_read_btk100,
    columns={
        "lit_mag_ab": ("mag", "MAG of the catalogue, F814W"),
        "lit_half_light_radius_arcsec": ("arcsec", "FLUX_RADIUS: circle with half of the light, PSF included"),
        "lit_sersic_index": ("", "one Sersic profile, F814W (9 galaxies)"),
        "lit_sersic_half_light_radius_arcsec": ("arcsec", "of that Sersic profile, semi-major, PSF removed"),
        "lit_axis_ratio": ("", "of that Sersic profile"),
    },
)


def _read_galsim235(folder: Path, _band: str) -> list[Frame]:
    images = folder / "paltas10"
    if not images.is_dir():
        images = folder
    table = Table.read(images / "real_galaxy_catalog_23.5_fits.fits")
    psf = mean_psf(next(folder.rglob("real_galaxy_PSF_images.fits")))
    frames = []
    for frame, row in zip(read_galsim(images / "real_galaxy_catalog_23.5.fits"), table, strict=True):
        sersic, two = np.asarray(row["sersicfit"], float), np.asarray(row["bulgefit"], float)
        labels = {
            "lit_mag_ab": float(row["mag_auto"]),
            "lit_sersic_index": sersic[2],
            "lit_half_light_radius_arcsec": 0.03 * sersic[1],
            "lit_axis_ratio": sersic[3],
            "lit_bulge_to_total": float(row["fit_dvc_btt"]),
            "lit_disk_half_light_radius_arcsec": 0.03 * two[1],
            "lit_bulge_half_light_radius_arcsec": 0.03 * two[9],
            "lit_prefers_bulge": bool(row["use_bulgefit"]),
        }
        note = "PSF: mean of 100 other COSMOS PSFs"
        frames.append(with_columns(frame, labels, psf=psf, note=note))
    return frames


_PALTAS = "test/test_data/cosmos"
_GALSIM235_FILES = {
    "real_galaxy_catalog_23.5.fits": (
        "swagnercarena/paltas@2590c4a9d0712e1766439e68cfac33190e17d088",
        f"{_PALTAS}/real_galaxy_catalog_23.5.fits",
        "e345c8b02ea31b4176dddf9a9960824a72250ff8c662122d97bcebc029c52f78",
    ),
    "real_galaxy_catalog_23.5_fits.fits": (
        "swagnercarena/paltas@2590c4a9d0712e1766439e68cfac33190e17d088",
        f"{_PALTAS}/real_galaxy_catalog_23.5_fits.fits",
        "b86abbd8566cf7e4822349a592a313c7fc53c0339d7e3c5cded040210324b4d3",
    ),
    "real_galaxy_images_23.5_n1.fits": (
        "swagnercarena/paltas@9fa4c3ae16766ccf026f5f8111706e33be9dbc4d",
        f"{_PALTAS}/real_galaxy_images_23.5_n1.fits",
        "7430667ea453016f5cbc594a1d50f9f34be5933e803112a13a91d8ec2b6070e3",
    ),
}
_GALSIM_PSF_FILES = {
    "real_galaxy_PSF_images.fits": (
        "GalSim-developers/GalSim@c435f1c8c9004a74b9c419c31e806ca8ee7fc023",
        "examples/data/real_galaxy_PSF_images.fits",
        "8674ea1395185be902848dba80ef6a324c6f91591d216d644a6869b434e69d6a",
    ),
}

_GALSIM235 = Dataset(
    name="hst-cosmos-galsim235",
    title="10 COSMOS F814W galaxies with GalSim's Sersic and bulge + disk fits; ACS PSFs of other galaxies",
    folder="hst_cosmos_galsim235",
    surveys={"F814W": _cosmos_survey("hst-cosmos-galsim235")},
    licence="MIT (paltas), BSD-style (GalSim); pixels: public HST data",
    credit=f"{HST_CREDIT}, COSMOS (Koekemoer et al. 2007); GalSim, paltas",
    source="github.com/swagnercarena/paltas at 3cebbd4 test/test_data/cosmos; PSFs: GalSim's examples/data",
    changes="none to these files",
    zero_point_note="25.94 AB for 1 e-/s, as GalSim's real galaxies are calibrated",
    read=_read_galsim235,
    downloads={
        **github_files("paltas10", _GALSIM235_FILES),
        **github_files("galsim_example100_noimages", _GALSIM_PSF_FILES),
    },
    columns={
        "lit_mag_ab": ("mag", "MAG_AUTO, F814W"),
        "lit_sersic_index": ("", "one Sersic profile"),
        "lit_half_light_radius_arcsec": ("arcsec", "of that Sersic profile, semi-major, PSF removed"),
        "lit_axis_ratio": ("", "of that Sersic profile"),
        "lit_bulge_to_total": ("", "de Vaucouleurs over total of the exponential + de Vaucouleurs fit"),
        "lit_disk_half_light_radius_arcsec": ("arcsec", "of the exponential component, semi-major"),
        "lit_bulge_half_light_radius_arcsec": ("arcsec", "of the de Vaucouleurs component, semi-major"),
        "lit_prefers_bulge": ("", "GalSim prefers the two components to the one Sersic profile"),
    },
)

# ---- hst-jedisim126-templates --------------------------------------------------------------------------------------


def _read_jedisim(folder: Path, _band: str) -> list[Frame]:
    labels = read_csv(folder / "labels.csv", "name")
    frames = []
    for path in sorted((folder / "stamps").glob("*.fits.gz")):
        name = path.name.removesuffix(".fits.gz")
        try:
            image = read_pixels(path).astype(float)
        except (OSError, TypeError, ValueError) as error:
            frames.append(failed_frame(name, f"{path.name} ({error})", "a whole FITS file", "get it again"))
            continue
        noise = measure_noise_inside(image, image != 0, ratio=0.37)
        if not noise > 0:
            frames.append(failed_frame(name, f"{path.name} without measurable noise", "a template", "get it again"))
            continue
        # every template has its own arbitrary unit; its noise is taken for that of COSMOS, which sets the flux scale
        zero_point = 25.94 - 2.5 * np.log10(_COSMOS_RMS / noise)
        frames.append(
            Frame(
                name,
                image=image,
                centre=find_brightest(image, 3.0),
                zero_point_mag=float(zero_point),
                sky_rms=noise,
                flags=Flag.ZERO_POINT_ASSUMED,
                pixel_scale_arcsec=0.03,
                columns={"lit_half_light_radius_arcsec": read_number(labels.get(name, {}), "r50_pix", 0.03)},
            )
        )
    return frames


_JEDISIM = Dataset(
    name="hst-jedisim126-templates",
    title="84 well-resolved HST galaxies at 0.03 arcsec, sky set to zero: shapes, not photometry",
    folder="hst_jedisim126_templates",
    surveys={"F814W": _cosmos_survey("hst-jedisim126-templates")},
    licence="no licence file; pixels: public HST data",
    credit=f"{HST_CREDIT}; jedisim",
    source="github.com/bpRsh/a4e_jedisim_original at a4b1512, simdatabase",
    changes="zero borders cropped; 84 of 126 templates",
    zero_point_note="arbitrary in the files; here each template's own noise is set to that of COSMOS F814W (assumed)",
    read=_read_jedisim,
    columns={"lit_half_light_radius_arcsec": ("arcsec", "circle with half of the segment's light, PSF included")},
)

DATASETS = (_BTK100, _GALSIM235, _JEDISIM)
