"""How GaMorNet and GaMPEN were trained, as far as it is published, and the surveys as those trainings had them.

What was not found is ours and said so: the galaxies of GaMorNet on HSC (Tian et al. 2023 publish none: those of GaMPEN
stand in, without AGN), the photon-noise twin of the SDSS recipe, the sky's rms of the CANDELS one, GaMPEN's batch and
epochs (its code's defaults), and the populations of its second and third bin.
"""

from __future__ import annotations

import dataclasses
import math

from galstress.recipes.recipe import Recipe
from galstress.survey import Survey
from galstress.training import Schedule

__all__ = ["PUBLISHED", "published_surveys"]

_NO_PHOTONS = 1e12
"""Electrons per unit so many that photons make no noise."""
_DARK = 60.0


def published_surveys() -> dict[str, Survey]:
    """SDSS and CANDELS as GaMorNet's simulations have them: white noise of one stated rms, the same for all.

    ``gamornet-sdss`` has a sky rms of 0.0185 at a zero point of 25.11 mag. Those two numbers do not go together on the
    real sky (the rms is that of nanomaggies, zero point 22.5), so its galaxies are eleven times better exposed than
    SDSS's. ``gamornet-sdss-photon`` has the photon noise of SDSS beside it; the public recipe has none.
    """
    sdss = _with_noise(Survey.load("sdss-g"), "gamornet-sdss", 25.11, 0.0185, _NO_PHOTONS, 167)
    electrons = Survey.load("sdss-g").electrons_per_unit * 10 ** (-0.4 * (25.11 - 22.5))
    photon = _with_noise(Survey.load("sdss-g"), "gamornet-sdss-photon", 25.11, 0.0185, electrons, 167)
    candels = _with_noise(Survey.load("hst-wfc3-f160w"), "gamornet-candels", 25.95, 0.0042, _NO_PHOTONS, 83)
    return {survey.name: survey for survey in (sdss, photon, candels)}


def _with_noise(
    survey: Survey, name: str, zero_point_mag: float, sky_rms: float, electrons: float, stamp_px: int
) -> Survey:
    """A survey whose noise is white, of a stated rms, and all of it read noise."""
    return dataclasses.replace(
        survey, name=name, zero_point_mag=zero_point_mag, electrons_per_unit=electrons, sky_mag_arcsec2=_DARK,
        read_noise_e=sky_rms * electrons, noise_correlation_fwhm_px=0.0, stamp_px=stamp_px,
        sources={"all": "the public simulation code and images of GaMorNet"}, published_depth={},
    )  # fmt: skip


def _gamornet(
    name: str, survey: str, population: str, shape: tuple[int, float], schedule: tuple[int, int, float],
    pedestal: tuple[float, float] = (0.0, 0.0),
) -> Recipe:  # fmt: skip
    """GaMorNet's: 90,000 images, plain SGD, raw pixels, no augmentation.

    Arguments:
        name: Of the recipe.
        survey: Whose images.
        population: Whose galaxies.
        shape: Side of the stamps, and zero point of raw pixels.
        schedule: Batch, epochs and rate.
        pedestal: Range of the sky that is left in.
    """
    batch, epochs, rate = schedule
    return Recipe(
        name=name,
        surveys={survey: {population: 1.0}},
        stamps={survey: (shape[0],)},
        backbone={"name": "gamornet", "stamp_px": shape[0], "zero_point_mag": shape[1]},
        schedule=Schedule(
            steps=math.ceil(90_000 / batch) * epochs, learning_rate=rate, warm_up=0, cool_down=0.0, weight_decay=0.0,
            average=0.0, clip=math.inf, optimizer="sgd", momentum=0.9,
        ),
        head="classes", at_once=1, per_survey=batch, block=512, exposures=1, neighbour_share=0.0, cut_share=0.0,
        faintest_snr=0.0, psf_share=0.0, varied=False, images=90_000, pedestal=pedestal,
        own_surveys=published_surveys(),
    )  # fmt: skip


def _gampen(band: str, stamp_px: int, dropout: float) -> Recipe:
    """GaMPEN's: SGD with much momentum, raw pixels, mirrors and turns."""
    name, survey = f"gampen-hsc-{band}", f"hsc-wide-{band}"
    return Recipe(
        name=name,
        surveys={survey: {name: 1.0}},
        stamps={survey: (stamp_px,)},
        backbone={"name": "gampen", "stamp_px": stamp_px, "dropout": dropout, "bounded_zoom": False},
        schedule=Schedule(
            steps=105_000 // 16 * 40, learning_rate=5e-7, warm_up=0, cool_down=0.0, weight_decay=1e-4,
            average=0.0, clip=math.inf, optimizer="sgd", momentum=0.99,
        ),
        head="triple-published", at_once=1, per_survey=16, block=256, exposures=1, neighbour_share=0.0, cut_share=0.0,
        faintest_snr=0.0, psf_share=0.0, varied=False, images=105_000,
    )  # fmt: skip


PUBLISHED: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _gamornet("gamornet-sdss", "gamornet-sdss", "gamornet-sdss", (167, 25.11), (64, 1000, 1e-4), (0.01, 0.05)),
        _gamornet(
            "gamornet-candels", "gamornet-candels", "gamornet-candels", (83, 25.95), (64, 400, 1e-4), (0.001, 0.005)
        ),
        _gamornet("gamornet-hsc-g", "hsc-wide-g", "gampen-hsc-g", (239, 27.0), (128, 100, 5e-5)),
        _gampen("g", 239, 7e-4),
        _gampen("r", 143, 7e-4),
        _gampen("i", 96, 4e-4),
    )
}
"""Recipes by name."""
