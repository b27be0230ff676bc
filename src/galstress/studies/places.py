"""Where networks are tested: a survey with the galaxies that it sees, as they are or moved to a higher redshift."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable, vstack

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import galaxies_from_table, table_from_galaxies
from galstress.perturbations.redshift import ASSUMED_REDSHIFT, Redshift
from galstress.recipes import RECIPES
from galstress.simulation import simulate
from galstress.survey import Survey, available_surveys

__all__ = ["STEPS", "Place", "find_place", "name_survey", "step_surveys"]

STEPS = ("depth", "psf", "pixels", "population")
"""What is changed on the way from one place to another, in this order."""
_LEAST_SNR = 20.0
_LARGEST_RADIUS = 0.35
"""Of the stamp's side, as in training."""
_ROUNDS = 40


@dataclasses.dataclass(frozen=True)
class Place:
    """A survey and the galaxies in it."""

    name: str
    """``survey``, or ``survey@z`` for galaxies moved from redshift 0.1 to z."""
    survey: Survey
    shares: Mapping[str, float]
    """Of populations."""
    size: float = 1.0
    """Radii, in units of the population's."""
    brightness: float = 1.0
    """Fluxes, in units of the population's."""

    @property
    def near(self) -> Survey:
        """The survey in which galaxies that were not moved have the very images that moved ones have in this one.

        Angles are divided by ``size`` and fluxes by ``brightness``. Training draws galaxies there.
        """
        survey, size = self.survey, self.size
        if size == self.brightness == 1:
            return survey
        dimmed = 2.5 * math.log10(self.brightness)
        lengths = {"fwhm_arcsec": 1 / size, "jitter_arcsec": 1 / size}
        # a NaN that is not the record's own would make equal PSFs differ
        lengths |= {"diameter_m": size} if survey.psf.kind == "airy" else {}
        changes = {name: getattr(survey.psf, name) * factor for name, factor in lengths.items()}
        psf = dataclasses.replace(survey.psf, **changes)
        return dataclasses.replace(
            survey,
            name=self.name,
            pixel_scale_arcsec=survey.pixel_scale_arcsec / size,
            zero_point_mag=survey.zero_point_mag + dimmed,
            sky_mag_arcsec2=survey.sky_mag_arcsec2 + dimmed - 5 * math.log10(size),
            psf=psf,
        )

    @property
    def numbers(self) -> list[object]:
        """What its images depend on, as JSON knows it."""
        record = self.survey.to_record()
        kept = sorted((key, record[key]) for key in set(record) - {"sources", "published_depth", "stamp_px"})
        return [kept, dict(self.shares), self.size, self.brightness]

    def draw(self, count: int, seed: int, stamp_px: int, device: str = "cpu") -> Cutouts:
        """Isolated galaxies with S/N above 20 (of the noise-free model) and radii below 0.35 stamps.

        Raises:
            InputError: The survey sees hardly any such galaxy.
        """
        tables: list[QTable] = []
        for order, (population, share) in enumerate(self.shares.items()):
            last = order == len(self.shares) - 1
            quota = count - sum(map(len, tables)) if last else round(count * share)
            generator = torch.Generator(device).manual_seed(seed + 7919 * order)
            tables.append(self._choose(population, quota, stamp_px, generator))
        galaxies = vstack(tables, metadata_conflicts="silent")
        galaxies = galaxies[np.random.default_rng(seed).permutation(count)]  # the first ones are a sample, too
        return simulate(self.survey, seed=seed + 1, galaxies=galaxies, stamp_px=stamp_px, device=device)

    def _choose(self, population: str, count: int, stamp_px: int, generator: torch.Generator) -> QTable:
        """The truth of so many galaxies that can be measured."""
        near, kept = self.near, []
        limit = _LARGEST_RADIUS * stamp_px * near.pixel_scale_arcsec
        for _ in range(_ROUNDS):
            truth = simulate(near, max(count, 16), generator, population, False, stamp_px=stamp_px).truth
            assert truth is not None
            radius = truth["half_light_radius_arcsec"].value
            kept.append(truth[(np.asarray(truth["snr"]) > _LEAST_SNR) & (radius < limit)])
            if sum(map(len, kept)) >= count:
                break
        found = vstack(kept, metadata_conflicts="silent")[:count]
        if len(found) < count:
            came = f"{len(found)} of {_ROUNDS * max(count, 16)} galaxies with S/N above {_LEAST_SNR:.0f} in {self.name}"
            raise InputError(came, "one in forty or more", "choose a deeper survey, or a lower redshift")
        galaxies = galaxies_from_table(found, near.pixel_scale_arcsec, near.unit_njy)
        return table_from_galaxies(galaxies, self.survey.pixel_scale_arcsec, self.survey.unit_njy)


def find_place(name: str) -> Place:
    """A place by its name: ``sdss-r``, ``hst-candels-f814w@0.6`` or a TOML file.

    Arguments:
        name: A survey with the populations of the recipe ``foveal`` (``cosmos`` where that does not know it); or
            survey@z, its galaxies those of the population ``nearby``, taken to be at redshift 0.1 and moved to z.

    Radii and fluxes change as :class:`galstress.perturbations.redshift.Redshift` says: same rest band, no evolution.

    Raises:
        InputError: z is no number from 0.1 to 8.
        UnknownNameError: No such survey.

    Example:
        >>> place = find_place("hst-candels-f814w@0.6")
        >>> round(place.size, 3), round(place.brightness, 4)
        (0.276, 0.0247)
    """
    survey, _, redshift = name.partition("@")
    if not redshift:
        return Place(Path(survey).stem, Survey.load(survey), RECIPES["foveal"].surveys.get(survey, {"cosmos": 1.0}))
    try:
        z = float(redshift)
    except ValueError:
        z = math.nan
    if not ASSUMED_REDSHIFT <= z <= 8:
        raise InputError(f"{name}", f"a redshift from {ASSUMED_REDSHIFT} to 8 behind @", "give hst-candels-f814w@0.6")
    move = Redshift(ASSUMED_REDSHIFT, z)
    return Place(name, Survey.load(survey), {"nearby": 1.0}, float(move.size_ratio), float(move.flux_ratio))


def step_surveys(start: Survey, end: Survey) -> dict[str, Survey]:
    """Surveys on the way from one to another: the sky's noise of the second, then its PSF too, then its pixels too.

    ``depth`` has the noise per square arcsecond and the photon noise of the end in pixels of the start. ``pixels``,
    which brings the correlation of the noise and the field of the stamp too, is the end itself.

    Example:
        >>> way = step_surveys(Survey.load("sdss-r"), Survey.load("hsc-wide-i"))
        >>> way["depth"].pixel_scale_arcsec, way["psf"].psf.fwhm_arcsec == way["pixels"].psf.fwhm_arcsec
        (0.396, True)
    """
    deep = dataclasses.replace(
        start,
        zero_point_mag=end.zero_point_mag,
        electrons_per_unit=end.electrons_per_unit,
        sky_mag_arcsec2=end.sky_mag_arcsec2,
        read_noise_e=end.read_noise_e * start.pixel_scale_arcsec / end.pixel_scale_arcsec,
    )
    return {"depth": deep, "psf": dataclasses.replace(deep, psf=end.psf), "pixels": end}


def name_survey(place: Place, folder: Path) -> str:
    """What a recipe loads for a place: the survey's name where it ships with the package, else a file.

    Arguments:
        place: Where to train.
        folder: Of the file, which is written aside and then renamed.

    Returns:
        A name, or the path of a TOML file of :attr:`Place.near`.
    """
    if place.name in available_surveys() and Survey.load(place.name) == place.near:
        return place.name
    record: dict[str, Any] = place.near.to_record()
    psf = record.pop("psf")
    for name in ("sources", "published_depth"):
        record.pop(name)
    lines = [f"{key} = {json.dumps(value)}" for key, value in record.items()]
    lines += ["[psf]", *(f"{key} = {json.dumps(value)}" for key, value in psf.items())]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{place.name.replace('@', '-')}.toml"
    aside = path.with_name(path.name + ".part")
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(aside.replace(path))
