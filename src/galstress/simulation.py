"""Simulated cutouts: a population, neighbours and noise, as one survey sees them."""

from __future__ import annotations

import dataclasses
import functools
import math

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Cutouts, empty_catalogue
from galstress.errors import InputError
from galstress.galaxy import Galaxies, galaxies_from_table, half_light_radius, table_from_galaxies
from galstress.optics import add_correlated_noise, choose_oversampling, choose_psf_size, make_psf, measure_fwhm
from galstress.population import Population, load_population
from galstress.rendering import render
from galstress.structure import Structure, draw_structure, redistribute
from galstress.survey import Survey

__all__ = [
    "MAX_NEIGHBOURS",
    "Psfs",
    "Scenes",
    "draw_scenes",
    "draw_targets",
    "expose",
    "simulate",
    "survey_psf",
    "turn_images",
]

MAX_NEIGHBOURS = 5
"""Most neighbours drawn beside one galaxy."""

_STAR_SHARE = 0.3
_POINT_RADIUS_PX = 1e-3


def simulate(  # noqa: PLR0913 (each a choice of its own; structure beside noise and neighbours)
    survey: Survey | str,
    count: int | None = None,
    seed: int | torch.Generator = 1,
    population: str | Population = "cosmos",
    noise: bool = True,
    neighbours: bool = False,
    stamp_px: int | None = None,
    galaxies: QTable | None = None,
    *,
    device: torch.device | str = "cpu",
    structured: bool | float = False,
) -> Cutouts:
    """Draw galaxies as a survey sees them.

    Arguments:
        survey: The survey, or its name.
        count: How many galaxies; left out or equal to their number when ``galaxies`` is given.
        seed: Seed of everything random, or a generator (then its device is used).
        population: Where galaxies are drawn from: a name or a population.
        noise: Add photon, sky and read noise; the variance is that of the noise either way.
        neighbours: Draw 0 to 5 galaxies and stars beside each, down to touching.
        stamp_px: Side of the images, 16 or more; by default the survey's.
        galaxies: Exactly these galaxies instead: a table with the truth columns (see the README).
        device: Where to compute and to leave the result.
        structured: Share of the galaxies, 0 to 1, whose disks get arms, bars, rings, clumps or dust as
            :func:`galstress.structure.draw_structure` has them (True: all); neighbours stay smooth.

    Returns:
        Cutouts with ``truth``; without ``galaxies``, centres are uniform within a pixel of the array's centre.

    Raises:
        InputError: A number out of range, or a table that lacks a truth column.
        UnknownNameError: No such survey or population.

    Noise: Gaussian with the variance of sky, read noise and the light of everything drawn (the Poisson law's
    normal limit; good to a few per cent in the tails above about 50 electrons a pixel), correlated where the
    survey says so. The sky's mean is taken to be subtracted exactly.

    With ``structured``, galaxies, neighbours and the noise in units of its sigma are those of the same seed without
    it, and ``truth`` is that of the smooth model, whose light is moved about. How far that truth is from the light
    drawn, measured by ``tests/test_structure.py``: the whole galaxy's half-light radius (before the PSF) 1 % typically
    (nine of ten are closer) and 3 % at most; the flux, in a stamp that holds the disk, 5e-4 typically and 5e-3 at most
    (thin disks of a few pixels). Only ``snr`` is that of the light as drawn. A further column ``structured`` says where
    it is not the smooth model's: pure bulges stay smooth, and disks too small to show any.

    Example:
        >>> cutouts = simulate("hsc-wide-i", 4, seed=1, stamp_px=64)
        >>> tuple(cutouts.images.shape), len(cutouts.truth)
        ((4, 64, 64), 4)
    """
    survey = Survey.load(survey) if isinstance(survey, str) else survey
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator(device).manual_seed(seed)
    stamp_px = _checked("stamp_px", survey.stamp_px if stamp_px is None else stamp_px, 16, 4096)
    population = load_population(population) if isinstance(population, str) else population
    if galaxies is not None:
        targets = _given(galaxies, survey, count).to(generator.device, torch.float32)
    else:
        targets = draw_targets(population, survey, _checked("count", count, 0, 10**9), stamp_px, generator)
    share = _checked_share(structured)
    structure = draw_structure(targets, _branched(generator), share) if share > 0 else None
    scenes = draw_scenes(targets, survey, stamp_px, population if neighbours else None, generator, structure=structure)
    return expose(scenes, generator, noise)


@dataclasses.dataclass(frozen=True)
class Psfs:
    """The one effective PSF that a batch of scenes is seen through."""

    images: Tensor
    """(N, P, P) views of one PSF."""
    oversampling: int
    """Samples per pixel."""
    fwhm_px: float
    """Full width at half maximum, pixels (pixel included)."""

    @staticmethod
    def of(survey: Survey, stamp_px: int, count: int, device: torch.device) -> Psfs:
        """The survey's own."""
        psf, oversampling, fwhm_px = survey_psf(survey, stamp_px)
        return Psfs(psf.to(device)[None].expand(count, -1, -1), oversampling, fwhm_px)

    @staticmethod
    def given(psf: Tensor, count: int) -> Psfs:
        """A (P, P) PSF with a sample a pixel."""
        return Psfs(psf[None].expand(count, -1, -1), 1, float(measure_fwhm(psf[None], 1)[0]))

    def turned(self, element: int, count: int) -> Psfs:
        """The PSF of so many images after a turn or mirror of them; see :func:`turn_images`."""
        return dataclasses.replace(self, images=turn_images(self.images[:1], element).expand(count, -1, -1))


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Noise-free light of targets and of what lies beside them; one exposure of it makes Cutouts."""

    survey: Survey
    targets: Galaxies
    """(N,) pixels and image units."""
    model: Tensor
    """(N, H, W) the targets' light, with its structure."""
    light: Tensor
    """(N, H, W) the neighbours' light."""
    psf: Psfs
    """Effective PSFs."""
    others: Galaxies | None
    """(M,) neighbours, or None where none were asked for."""
    owner: Tensor
    """(M,) the image that each lies in."""
    is_star: Tensor
    """(M,) point sources among them."""
    is_structured: Tensor | None = None
    """(N,) targets whose light is not that of a smooth model, or None where no structure was asked for."""


def draw_targets(
    population: Population, survey: Survey, count: int, stamp_px: int, generator: torch.Generator
) -> Galaxies:
    """Galaxies of a population in pixels and image units, within a pixel of the stamp's centre."""
    sky = population.sample(count, generator)
    offset = torch.rand(2, count, generator=generator, device=generator.device) * 2 - 1
    centre = (stamp_px - 1) / 2
    return dataclasses.replace(
        sky.scaled(1 / survey.pixel_scale_arcsec, 1 / survey.unit_njy), x=centre + offset[0], y=centre + offset[1]
    )


def draw_scenes(
    targets: Galaxies,
    survey: Survey,
    stamp_px: int,
    population: Population | None,
    generator: torch.Generator,
    psf: Tensor | None = None,
    structure: Structure | None = None,
) -> Scenes:
    """Render targets and, where a population is given, neighbours drawn from it.

    Arguments:
        targets: (N,) pixels and image units.
        survey: Whose numbers they are seen with.
        stamp_px: Side of the images.
        population: Of the neighbours, or None for none.
        generator: Of the neighbours; its device is where all is made.
        psf: (P, P) effective PSF, a sample a pixel, instead of the survey's own.
        structure: On the targets' disks, or None for smooth ones; ``targets`` stay what they are, since
            :func:`galstress.structure.redistribute` keeps their flux and half-light radius.
    """
    count, device = len(targets), generator.device
    lens = Psfs.of(survey, stamp_px, count, device) if psf is None else Psfs.given(psf.to(device), count)
    model = render(targets, lens.images, lens.oversampling, stamp_px)
    is_structured = None
    if structure is not None:
        moved = redistribute(targets, structure, lens.images, lens.oversampling, stamp_px)
        model, is_structured = model + moved, (moved != 0).any(2).any(1)
    if population is None:
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return Scenes(survey, targets, model, torch.zeros_like(model), lens, None, nothing, nothing > 0, is_structured)
    others, owner, is_star = _draw_neighbours(targets, stamp_px, population, survey, generator)
    light = render(others, lens.images, lens.oversampling, stamp_px, owner=owner, count=count)
    return Scenes(survey, targets, model, light, lens, others, owner, is_star, is_structured)


def expose(scenes: Scenes, generator: torch.Generator, noise: bool = True, *, truth: bool = True) -> Cutouts:
    """Cutouts of scenes, with noise or (``noise=False``) only its variance.

    Without ``truth`` the tables of truth and neighbours are left out: a training step has the scenes' own tensors.
    """
    survey, model, light = scenes.survey, scenes.model, scenes.light
    images = model + light
    variance = survey.sky_rms**2 + images.clamp_min(0) * survey.photon_variance
    if noise:
        white = torch.randn(images.shape, generator=generator, device=generator.device)
        images = images + variance.sqrt() * add_correlated_noise(white, survey.noise_correlation_fwhm_px)
    return Cutouts(
        images=images,
        variance=variance,
        mask=torch.zeros_like(images, dtype=torch.bool),
        neighbour_mask=(light > model) & (light > survey.sky_rms),
        psf=scenes.psf.images,
        psf_oversampling=scenes.psf.oversampling,
        psf_fwhm_px=torch.full_like(images[:, 0, 0], scenes.psf.fwhm_px),
        sky_rms=torch.full_like(images[:, 0, 0], survey.sky_rms),
        survey=survey,
        catalogue=_catalogue(len(images)).copy() if truth else _catalogue(len(images)),
        truth=_truth_table(scenes, variance) if truth else None,
        neighbours=_neighbour_table(scenes) if truth and scenes.others is not None else None,
    )


def turn_images(images: Tensor, element: int) -> Tensor:
    """Images (N, H, W) after element 0 to 7: a mirror of x for 4 and above, then quarter turns from +x towards +y."""
    return torch.rot90(images.flip(2) if element >= 4 else images, element % 4, (2, 1))


@functools.lru_cache(maxsize=32)
def survey_psf(survey: Survey, stamp_px: int) -> tuple[Tensor, int, float]:
    """The survey's own effective PSF: (P, P) float32, samples per pixel, FWHM in pixels (pixel included)."""
    oversampling = choose_oversampling(survey.psf_fwhm_px)
    size = choose_psf_size(survey.psf_fwhm_px, oversampling, stamp_px)
    psf = make_psf(survey.psf, survey.pixel_scale_arcsec, oversampling, size)
    return psf.float(), oversampling, float(measure_fwhm(psf[None], oversampling)[0])


@functools.lru_cache(maxsize=8)
def _catalogue(count: int) -> QTable:
    """Names of simulated objects."""
    return empty_catalogue([f"simulated-{i}" for i in range(count)])


def _checked(name: str, value: object, low: int, high: int) -> int:
    """A whole number in its range, or one line that says so."""
    if isinstance(value, (int, np.integer)) and low <= value <= high:
        return int(value)
    raise InputError(f"{name}={value!r}", f"a whole number from {low} to {high}", f"give {name}={low or 64}")


def _checked_share(structured: bool | float) -> float:
    """A share in its range, or one line that says so."""
    if isinstance(structured, (bool, int, float, np.floating)) and 0 <= structured <= 1:
        return float(structured)
    raise InputError(f"structured={structured!r}", "True, False or a share from 0 to 1", "give structured=0.5")


def _branched(generator: torch.Generator) -> torch.Generator:
    """A stream of its own that takes nothing from ``generator``, whose next numbers stay what they were."""
    fork = torch.Generator(generator.device)
    fork.set_state(generator.get_state())
    # another seed, not the same stream: else structure would repeat the numbers of neighbours and noise
    return fork.manual_seed(int(torch.randint(2**62, (1,), generator=fork, device=fork.device)))


def _given(table: QTable, survey: Survey, count: int | None) -> Galaxies:
    """The galaxies of a table with the truth columns."""
    if count is not None and count != len(table):
        raise InputError(f"count={count} with {len(table)} galaxies", "equal numbers", "leave count out")
    try:
        galaxies = galaxies_from_table(table, survey.pixel_scale_arcsec, survey.unit_njy)
    except KeyError as error:
        raise InputError(f"galaxies without the column {error}", "all truth columns", "see the README") from None
    for field in dataclasses.fields(galaxies):
        if not bool(torch.isfinite(getattr(galaxies, field.name)).all()):
            raise InputError(f"{field.name} that is not finite", "finite numbers", "drop those galaxies")
    return galaxies


def _draw_neighbours(
    targets: Galaxies, stamp_px: int, population: Population, survey: Survey, generator: torch.Generator
) -> tuple[Galaxies, Tensor, Tensor]:
    """0 to 5 galaxies and stars beside each target, the image each belongs to, and which are stars.

    A neighbour is 1.5 magnitudes brighter to 4 fainter than its target. Galaxies keep the surface brightness
    that the population gave them. They lie anywhere in the stamp beyond touching: the sum of the half-light radii.
    """
    device = generator.device
    numbers = torch.randint(0, MAX_NEIGHBOURS + 1, (len(targets),), generator=generator, device=device)
    owner = torch.repeat_interleave(torch.arange(len(targets), device=device), numbers)
    count = len(owner)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator, device=device)

    drawn = population.sample(count, generator).scaled(1 / survey.pixel_scale_arcsec, 1 / survey.unit_njy)
    flux = targets.flux[owner] * 10 ** (-0.4 * (uniform() * 5.5 - 1.5))
    drawn = drawn.scaled(torch.sqrt(flux / drawn.flux).clamp(0.2, 3), 1.0)
    is_star = uniform() < _STAR_SHARE
    radius = torch.where(is_star[:, None], _POINT_RADIUS_PX, drawn.radius)
    index = torch.where(is_star[:, None], 0.5, drawn.sersic_index)
    drawn = dataclasses.replace(drawn, flux=flux, radius=radius, sersic_index=index)
    touching = (half_light_radius(targets)[owner] + half_light_radius(drawn)).clamp(2, stamp_px / 2)
    # even in area between touching and the circle through the stamp's corners, then brought inside
    distance = torch.sqrt(touching**2 + uniform() * (stamp_px**2 / 2 - touching**2).clamp_min(0))
    angle = 2 * math.pi * uniform()
    place = {}
    for name, direction in (("x", torch.cos(angle)), ("y", torch.sin(angle))):
        place[name] = (getattr(targets, name)[owner] + distance * direction).clamp(0, stamp_px - 1)
    return dataclasses.replace(drawn, **place), owner, is_star


def _truth_table(scenes: Scenes, variance: Tensor) -> QTable:
    """The targets' parameters and their S/N if nothing but the targets' own shape were unknown.

    Where structure was asked for, also whether it is seen.
    """
    table = table_from_galaxies(scenes.targets, scenes.survey.pixel_scale_arcsec, scenes.survey.unit_njy)
    table["snr"] = (scenes.model**2 / variance).sum((1, 2)).sqrt().cpu().double().numpy()
    if scenes.is_structured is not None:
        table["structured"] = scenes.is_structured.cpu().numpy()
    return table


def _neighbour_table(scenes: Scenes) -> QTable:
    """Every neighbour's parameters, the row of its galaxy first."""
    assert scenes.others is not None
    is_star = scenes.is_star.cpu().numpy()
    table = table_from_galaxies(scenes.others, scenes.survey.pixel_scale_arcsec, scenes.survey.unit_njy)
    table.add_column(np.asarray(scenes.owner.cpu(), np.int64), index=0, name="row")
    table.add_column(np.where(is_star, "star", "galaxy").astype("U6"), index=1, name="kind")
    table["half_light_radius_arcsec"][is_star] = 0 * u.arcsec
    return table
