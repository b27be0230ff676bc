"""Training recipes by name: which surveys and populations, which network, how long.

A recipe's :meth:`Recipe.draw` gives the cutouts of any step, drawn as the training runs. Noise-free scenes are rendered
in blocks and each is exposed several times: at another of the eight turns and mirrors, with its neighbours turned apart
from it, and with fresh noise. So that a network survives real data, surveys vary about their nominal numbers (PSF
width, wings and shape, sky, gain), the sky is subtracted and its rms known only to a few per cent, and stamps have
several sizes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import Galaxies, half_light_radius
from galstress.heads import INTERNAL_NAMES
from galstress.networks import Network
from galstress.population import load_population
from galstress.simulation import Scenes, draw_scenes, draw_targets, expose, turn_images
from galstress.structure import draw_structure
from galstress.survey import Survey
from galstress.training import Lesson, Schedule, train

__all__ = ["RECIPES", "Recipe", "load_recipe"]


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """How a network is made, but for the seed."""

    name: str
    """As on the command line."""
    surveys: Mapping[str, Mapping[str, float]]
    """Population shares by survey."""
    stamps: Mapping[str, tuple[int, ...]]
    """Stamp sizes by survey, each block takes one."""
    backbone: Mapping[str, Any]
    """Name and arguments of the backbone."""
    schedule: Schedule
    """Steps and rates."""
    head: str = "flow"
    """Name of the head."""
    at_once: int = 6
    """Surveys in a step, in turn: fewer, larger batches are drawn faster."""
    per_survey: int = 256
    """Galaxies of each of them."""
    block: int = 1024
    """Scenes rendered at once, of one survey through one PSF."""
    exposures: int = 16
    """Times that each scene is used."""
    neighbour_share: float = 0.5
    """Share of blocks with neighbours."""
    cut_share: float = 0.1
    """Share of batches whose pixels are masked outside the galaxy's own segment, as some catalogues cut stamps."""
    faintest_snr: float = 6.0
    """Galaxies estimated below this S/N are not drawn."""
    psf_share: float = 0.35
    """Share of blocks seen through a real PSF, where some are given for the survey."""
    structured_share: float = 0.0
    """Share of galaxies whose disks get arms, bars, rings, clumps or dust."""
    turned: bool = True
    """Galaxies at any angle, each exposure at another turn or mirror; else position angles of 0, sigma 10 degrees:
    at one exact angle e2 would be no quantity, and its density without bound."""
    psfs: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Real PSFs (N, P, P) by survey, a sample a pixel; :func:`galstress.datasets.psfs.collect_psfs` has some."""

    def with_psfs(self, source: str | Path | None) -> Recipe:
        """The recipe with real PSFs: ``"real"`` for those of the data sets, a safetensors file, or None for none.

        Raises:
            InputError: The data sets are not here, or it is no such file.
        """
        if source is None:
            return self
        if str(source) == "real":
            from galstress.datasets.psfs import collect_psfs  # data sets are not needed otherwise

            return dataclasses.replace(self, psfs=collect_psfs())
        try:
            psfs = load_file(source)
        except (OSError, SafetensorError) as error:
            allowed = "'real', or a .safetensors file of PSFs (N, P, P) by survey"
            raise InputError(f"PSFs {source} ({error})", allowed, "check the path") from None
        return dataclasses.replace(self, psfs=psfs)

    def draw(self, step: int, *, seed: int, device: torch.device | str = "cpu") -> list[Lesson]:
        """What is learned in a step, a lesson a survey: a pure function of step and seed."""
        surveys, at_once = list(self.surveys), min(self.at_once, len(self.surveys))
        lessons = []
        for turn in range(step * at_once, (step + 1) * at_once):
            visit, place = divmod(turn, len(surveys))
            shuffle = torch.Generator().manual_seed(_mixed(seed, visit, 3))
            name = surveys[int(torch.randperm(len(surveys), generator=shuffle)[place])]
            lessons.append(self._expose(name, visit, seed, torch.device(device)))
        return lessons

    def _expose(self, name: str, visit: int, seed: int, device: torch.device) -> Lesson:
        """Galaxies of a survey at its visit of this number."""
        order = list(self.surveys).index(name)
        number, place = divmod(visit, self.block * self.exposures // self.per_survey)
        round_, part = divmod(place, self.block // self.per_survey)
        shuffle = torch.Generator().manual_seed(_mixed(seed, number, round_, 2 + order))
        rows = torch.randperm(self.block, generator=shuffle)[part * self.per_survey : (part + 1) * self.per_survey]
        choose = torch.Generator().manual_seed(_mixed(seed, visit, order, 1))
        generator = torch.Generator(device).manual_seed(_mixed(seed, visit, order, 4))
        turned = _turned(_block(self, name, number, seed, device), rows.to(device), choose, self.turned)
        cutouts = expose(turned, generator, truth=False)
        return Lesson(_imperfect(cutouts, turned.model, self.cut_share, choose, generator), turned.targets)

    def train(
        self,
        *,
        seed: int = 1,
        steps: int | None = None,
        checkpoint: Path | None = None,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> tuple[Network, list[float]]:
        """A network trained by this recipe, and the loss of each step.

        Arguments:
            seed: Of the first weights and of everything drawn.
            steps: Instead of the recipe's own number.
            checkpoint: File to write on the way, and to go on from where it exists.
            device: Where to draw and to train.
            progress: Show steps, loss and time left.
        """
        schedule = dataclasses.replace(self.schedule, steps=steps or self.schedule.steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network.build(self.backbone["name"], self.head, **_settings(self.backbone)).to(device)

        def draw(step: int) -> list[Lesson]:
            return self.draw(step, seed=seed, device=device)

        network, losses = train(network, draw, schedule, checkpoint=checkpoint, progress=progress)
        self.calibrate(network, seed=seed, device=device)
        return network.with_metadata(**self.describe(seed, losses)), losses

    @torch.no_grad()
    def calibrate(
        self, network: Network, *, seed: int, steps: int = 24, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Widen or narrow each internal coordinate so that its 68 % intervals hold on galaxies never trained on.

        Arguments:
            network: Its head's ``widening`` is set.
            seed: Of the training; what is drawn here comes from other seeds.
            steps: Steps' worth of galaxies.
            device: Where the network lies.

        Returns:
            (12,) factors on the standard deviations. B/T keeps 1: at 0 and 1 its posterior has one side only.
        """
        network.head.widening.fill_(1.0)
        pulls = []
        for step in range(0, steps * 1000, 1000):  # every one of another block
            for lesson in self.draw(step, seed=seed + 10**6, device=device):
                raw, inputs = network.raw(lesson.cutouts)
                mean, covariance = network.head.posterior(raw)
                sigma = torch.diagonal(covariance, dim1=-2, dim2=-1).sqrt()
                pulls.append((network.head.place(lesson.galaxies, inputs.reference) - mean) / sigma)
        factor = torch.cat(pulls).abs().quantile(0.6827, dim=0)
        factor[INTERNAL_NAMES.index("logit_bulge_to_total")] = 1.0
        network.head.widening.copy_(factor)
        return factor

    def describe(self, seed: int, losses: Sequence[float]) -> dict[str, Any]:
        """What a weights file says of its training: recipe, prior, seed, steps, images, last loss and domain."""
        return {
            "name": self.name,
            "prior": {survey: dict(shares) for survey, shares in self.surveys.items()},
            "training": {
                "recipe": self.name,
                "seed": seed,
                "steps": len(losses),
                "images": len(losses) * self.per_survey * min(self.at_once, len(self.surveys)),
                "structured_share": self.structured_share,
                "real_psfs": {survey: len(psfs) for survey, psfs in self.psfs.items() if survey in self.surveys},
                "loss": sum(losses[-200:]) / max(len(losses[-200:]), 1),
                "loss_step": list(range(0, len(losses), 50)),
                "losses": [
                    round(sum(losses[i : i + 50]) / len(losses[i : i + 50]), 4) for i in range(0, len(losses), 50)
                ],
                "schedule": dataclasses.asdict(self.schedule) | {"steps": len(losses)},
            },
            "domain": self.measure_domain(seed),
        }

    def measure_domain(self, seed: int, blocks: int = 4) -> dict[str, list[float]]:
        """Range (0.05 to 99.95 %) of ln flux in sky rms and ln radius in pixels of what is drawn."""
        flux, radius = [], []
        for number in range(blocks):
            for name in self.surveys:
                survey = _varied(Survey.load(name), torch.Generator().manual_seed(number))
                generator = torch.Generator().manual_seed(_mixed(seed, number, 7))
                targets = self._targets(name, survey, max(self.stamps[name]), generator)
                flux.append(torch.log(targets.flux / survey.sky_rms))
                radius.append(torch.log(half_light_radius(targets)))
        share = torch.tensor([0.0005, 0.9995])
        return {
            "ln_flux_in_rms": torch.cat(flux).quantile(share).tolist(),
            "ln_radius_px": torch.cat(radius).quantile(share).tolist(),
        }

    def _targets(self, name: str, survey: Survey, stamp_px: int, generator: torch.Generator) -> Galaxies:
        """One block of galaxies of a survey, in the recipe's shares of populations."""
        parts: list[Galaxies] = []
        for population, share in self.surveys[name].items():
            last = population == list(self.surveys[name])[-1]
            count = self.block - sum(map(len, parts)) if last else round(self.block * share)
            parts.append(_bright(population, survey, count, stamp_px, self.faintest_snr, generator))
        targets = Galaxies.concatenate(parts)
        if self.turned:
            return targets
        # a galaxy's angle is from +x, its position angle from +y; disk and bulge keep theirs apart
        off = _STILL_SIGMA * torch.randn(len(targets), 1, generator=generator, device=targets.angle.device)
        return dataclasses.replace(targets, angle=math.pi / 2 + off + targets.angle - targets.angle[:, :1])


_STILL_SIGMA = math.radians(10)
_DEEP = {"cosmos": 0.8, "nearby": 0.2}
_WIDE = {"cosmos": 0.5, "nearby": 0.5}
_NEARBY = {"nearby": 1.0}
_PIXELS = {"fine": (128, 192, 192), "coarse": (96, 128, 128, 192)}
_FOVEAL = {
    "sdss-g": (_NEARBY, "coarse"),
    "sdss-r": (_NEARBY, "coarse"),
    "decals-r": (_WIDE, "coarse"),
    "des-r": (_WIDE, "coarse"),
    "kids-r": (_WIDE, "coarse"),
    "hsc-wide-g": (_WIDE, "coarse"),
    "hsc-wide-r": (_DEEP, "coarse"),
    "hsc-wide-i": (_DEEP, "coarse"),
    "hsc-udeep-i": (_DEEP, "coarse"),
    "lsst-i": (_DEEP, "coarse"),
    "euclid-vis": (_DEEP, "coarse"),
    "roman-f158": (_DEEP, "coarse"),
    "hst-candels-f606w": (_DEEP, "coarse"),
    "hst-candels-f814w": (_DEEP, "coarse"),
    "hst-candels-f125w": (_DEEP, "coarse"),
    "hst-wfc3-f160w": (_DEEP, "coarse"),
    "hst-acs-f814w": (_DEEP, "fine"),
    "jwst-nircam-f200w": (_DEEP, "fine"),
}
"""Surveys of ``foveal``: which galaxies each sees, and how large its stamps are."""

RECIPES: dict[str, Recipe] = {
    "foveal": Recipe(
        name="foveal",
        surveys={name: shares for name, (shares, _) in _FOVEAL.items()},
        stamps={name: _PIXELS[pixels] for name, (_, pixels) in _FOVEAL.items()},
        backbone={"name": "foveal", "width": 1.333},
        schedule=Schedule(steps=18_000, learning_rate=1.5e-3, warm_up=500, cool_down=0.5),
    ),
}
"""Recipes by name; one entry adds one to the command line."""


def load_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        UnknownNameError: No such recipe.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, tuple(RECIPES))
    return RECIPES[name]


def _settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's arguments without its name."""
    return {key: value for key, value in backbone.items() if key != "name"}


def _mixed(*numbers: int) -> int:
    """One seed of several numbers (a linear congruential mix), so that no two streams coincide."""
    value = 0
    for number in numbers:
        value = (value * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return value


@functools.lru_cache(maxsize=32)
def _block(recipe: Recipe, name: str, number: int, seed: int, device: torch.device) -> Scenes:
    """Noise-free scenes of one survey, whose numbers vary from block to block."""
    order = list(recipe.surveys).index(name)
    generator = torch.Generator(device).manual_seed(_mixed(seed, number, order, 0))
    choose = torch.Generator().manual_seed(_mixed(seed, number, order, 9))
    survey = _varied(Survey.load(name), choose)
    sizes = recipe.stamps[name]
    stamp_px = sizes[int(torch.randint(len(sizes), (1,), generator=choose))]
    with_neighbours = float(torch.rand(1, generator=choose)) < recipe.neighbour_share
    targets = recipe._targets(name, survey, stamp_px, generator)
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


def _varied(survey: Survey, generator: torch.Generator) -> Survey:
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


def _turned(scenes: Scenes, rows: Tensor, generator: torch.Generator, at_random: bool = True) -> Scenes:
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


def _imperfect(
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
