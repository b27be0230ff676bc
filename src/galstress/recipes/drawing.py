"""What a recipe shows: blocks of noise-free scenes, each exposed several times, with the flaws of real images."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, half_light_radius
from galstress.population import load_population
from galstress.simulation import Scenes, draw_scenes, draw_targets, turn_images
from galstress.structure import draw_structure
from galstress.survey import Survey

if TYPE_CHECKING:
    from galstress.recipes.recipe import Recipe

__all__ = ["draw_block", "draw_members", "make_imperfect", "mix_seed", "turn_scenes", "vary_survey"]

_STILL_SIGMA = math.radians(10)


def mix_seed(*numbers: int) -> int:
    """One seed of several numbers (a linear congruential mix), so that no two streams coincide."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return value


@functools.lru_cache(maxsize=32)
def draw_block(recipe: Recipe, name: str, number: int, seed: int, device: torch.device) -> Scenes:
    """Noise-free scenes of one survey, whose numbers vary from block to block."""
    order = list(recipe.surveys).index(name)
    generator = torch.Generator(device).manual_seed(mix_seed(seed, number, order, 0))
    choose = torch.Generator().manual_seed(mix_seed(seed, number, order, 9))
    survey = recipe.see(name)
    # the draw is made on a copy of the stream: a recipe without nominal blocks draws as it always did
    is_nominal = float(torch.rand(1, generator=choose.clone_state())) < recipe.nominal_share
    survey = vary_survey(survey, choose) if recipe.varied and not is_nominal else survey
    sizes = recipe.stamps[name]
    stamp_px = sizes[int(torch.randint(len(sizes), (1,), generator=choose))]
    with_neighbours = float(torch.rand(1, generator=choose)) < recipe.neighbour_share
    targets = draw_members(recipe, name, survey, stamp_px, generator)
    beside = load_population(next(iter(recipe.surveys[name]))) if with_neighbours else None
    share = recipe.structured_share
    structure = draw_structure(targets, generator, share) if share > 0 else None
    return draw_scenes(targets, survey, stamp_px, beside, generator, _choose_psf(recipe, name, choose), structure)


def _choose_psf(recipe: Recipe, name: str, choose: torch.Generator) -> Tensor | None:
    """A real PSF of the survey, or None where it is the survey's own, varied."""
    share, which = torch.rand(2, generator=choose).tolist()
    psfs = recipe.psfs.get(name)
    return psfs[int(which * len(psfs))] if psfs is not None and share < recipe.psf_share else None


def _bright(
    population: str, survey: Survey, count: int, stamp_px: int, faintest: float, generator: torch.Generator
) -> Galaxies:
    """Galaxies of a population that the survey can see at all."""
    kept: list[Galaxies] = []
    found = 0
    while found < count:
        drawn = draw_targets(load_population(population), survey, 2 * count, stamp_px, generator)
        # matched S/N of a Gaussian of the galaxy's and the PSF's width against the sky
        width2 = (survey.psf_fwhm_px / 2.355) ** 2 + (0.6 * half_light_radius(drawn)) ** 2
        snr = drawn.flux / (survey.sky_rms * torch.sqrt(4 * math.pi * width2))
        # at most a few stamps wide: larger ones cannot be measured in it
        fits = half_light_radius(drawn) < 0.35 * stamp_px
        kept.append(drawn.select(torch.nonzero((snr > faintest) & fits)[: count - found, 0]))
        found += len(kept[-1])
    return Galaxies.concatenate(kept)


def vary_survey(survey: Survey, generator: torch.Generator) -> Survey:
    """The survey at another place and night: PSF, sky and gain within what real images show."""
    uniform = torch.rand(4, generator=generator).tolist()
    normal = torch.randn(3, generator=generator).tolist()
    changes: dict[str, Any] = {"e1": 0.02 * normal[0], "e2": 0.02 * normal[1]}
    ground = survey.psf.kind != "airy"
    if ground:
        changes["fwhm_arcsec"] = survey.psf.fwhm_arcsec * (0.82 + 0.45 * uniform[0])
    else:
        # focus and drizzling widen the core: FWHM up to about 15 % larger
        extra = 0.3 * survey.psf.fwhm_arcsec * uniform[0] ** 2
        changes["jitter_arcsec"] = math.hypot(survey.psf.jitter_arcsec, extra)
        changes["fwhm_arcsec"] = math.hypot(survey.psf.fwhm_arcsec, 2.355 * extra * 0.75)
    if survey.psf.kind == "moffat":
        changes["beta"] = 2.6 + 2.2 * uniform[1]
    return dataclasses.replace(
        survey,
        psf=dataclasses.replace(survey.psf, **changes),
        sky_mag_arcsec2=survey.sky_mag_arcsec2 + 0.5 * (uniform[2] - 0.5),
        electrons_per_unit=survey.electrons_per_unit * math.exp(0.15 * normal[2]),
    )


def turn_scenes(scenes: Scenes, rows: Tensor, generator: torch.Generator, at_random: bool = True) -> Scenes:
    """The scenes at ``rows``, target and neighbours each turned or mirrored about the array's centre, or not at all.

    The PSF turns with the target; to the neighbours it is as good as round.
    """
    first, second = torch.randint(8 if at_random else 1, (2,), generator=generator).tolist()
    model, light = (turn_images(t[rows], e) for t, e in ((scenes.model, first), (scenes.light, second)))
    targets = _turn_galaxies(scenes.targets.select(rows), first, (model.shape[-1] - 1) / 2)
    is_structured = None if scenes.is_structured is None else scenes.is_structured[rows]
    return dataclasses.replace(
        scenes, targets=targets, model=model, light=light, psf=scenes.psf.turned(first, len(rows)), others=None,
        is_structured=is_structured,
    )  # fmt: skip


def _turn_galaxies(galaxies: Galaxies, element: int, centre: float) -> Galaxies:
    """The parameters of galaxies after the same."""
    x, y, angle = galaxies.x - centre, galaxies.y - centre, galaxies.angle
    if element >= 4:
        x, angle = -x, math.pi - angle
    for _ in range(element % 4):
        x, y = -y, x
    return dataclasses.replace(galaxies, x=x + centre, y=y + centre, angle=angle + (element % 4) * math.pi / 2)


def make_imperfect(
    cutouts: Cutouts, model: Tensor, cut_share: float, choose: torch.Generator, generator: torch.Generator
) -> Cutouts:
    """The sky off by a few hundredths of its rms, that rms known to 2 %, and some stamps cut at an isophote."""
    rms = cutouts.sky_rms
    offset, factor = torch.randn(2, len(rms), generator=generator, device=rms.device)
    choice, isophote = torch.rand(2, generator=choose).tolist()
    mask = cutouts.mask
    if choice < cut_share:
        mask = mask | (model < (0.3 + 1.7 * isophote) * rms[:, None, None])
    return dataclasses.replace(
        cutouts,
        images=cutouts.images + (0.02 * rms * offset)[:, None, None],
        mask=mask,
        sky_rms=rms * torch.exp(0.02 * factor),
    )


def draw_members(recipe: Recipe, name: str, survey: Survey, stamp_px: int, generator: torch.Generator) -> Galaxies:
    """One block of galaxies of a survey, in the recipe's shares of populations."""
    parts: list[Galaxies] = []
    for population, share in recipe.surveys[name].items():
        last = population == list(recipe.surveys[name])[-1]
        count = recipe.block - sum(map(len, parts)) if last else round(recipe.block * share)
        parts.append(_bright(population, survey, count, stamp_px, recipe.faintest_snr, generator))
    targets = Galaxies.concatenate(parts)
    if recipe.turned:
        return targets
    # a galaxy's angle is from +x, its position angle from +y; disk and bulge keep theirs apart
    off = _STILL_SIGMA * torch.randn(len(targets), 1, generator=generator, device=targets.angle.device)
    return dataclasses.replace(targets, angle=math.pi / 2 + off + targets.angle - targets.angle[:, :1])
