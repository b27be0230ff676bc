"""Training recipes by name: which surveys and populations, which network, how long.

A recipe's :meth:`Recipe.draw` gives the cutouts of any step, drawn as the training runs. Noise-free scenes are rendered
in blocks and each is exposed several times: at another of the eight turns and mirrors, with its neighbours turned apart
from it, and with fresh noise. So that a network survives real data, surveys vary about their nominal numbers (PSF
width, wings and shape, sky, gain), the sky is subtracted and its rms known only to a few per cent, and stamps have
several sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from galstress.errors import InputError
from galstress.galaxy import half_light_radius
from galstress.networks import Network
from galstress.recipes.calibration import calibrate
from galstress.recipes.drawing import draw_block, draw_members, make_imperfect, mix_seed, turn_scenes, vary_survey
from galstress.simulation import expose
from galstress.survey import Survey
from galstress.training import Lesson, Schedule, train

__all__ = ["Recipe"]


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
    varied: bool = True
    """Surveys vary about their numbers, sky and its rms are known to a few hundredths; else all as if it were known."""
    nominal_share: float = 0.0
    """Share of blocks in which PSF, sky and gain are the survey's own, whatever ``varied`` says."""
    images: int = 0
    """Images in all, each seen again and again with the same noise; 0: drawn anew for as long as it takes."""
    pedestal: tuple[float, float] = (0.0, 0.0)
    """Range of a sky that is left in the images, image units."""
    own_surveys: Mapping[str, Survey] = dataclasses.field(default_factory=dict)
    """Surveys by name that are no presets: as a publication has them."""
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
            shuffle = torch.Generator().manual_seed(mix_seed(seed, visit, 3))
            name = surveys[int(torch.randperm(len(surveys), generator=shuffle)[place])]
            lessons.append(self._expose(name, visit, seed, torch.device(device)))
        return lessons

    def see(self, name: str) -> Survey:
        """A survey of the recipe: one of its own, or a preset."""
        return self.own_surveys[name] if name in self.own_surveys else Survey.load(name)

    def _expose(self, name: str, visit: int, seed: int, device: torch.device) -> Lesson:
        """Galaxies of a survey at its visit of this number."""
        order = list(self.surveys).index(name)
        parts = self.block // self.per_survey
        number, place = divmod(visit, parts * self.exposures)
        round_, part = divmod(place, parts)
        if self.images:  # the same images again: each batch with its own noise, batches of a block in another order
            epoch, number = divmod(number, -(-self.images // (self.block * len(self.surveys))))
            part = int(
                torch.randperm(parts, generator=torch.Generator().manual_seed(mix_seed(seed, epoch, number)))[part]
            )
            visit = number * parts + part
        shuffle = torch.Generator().manual_seed(mix_seed(seed, number, round_, 2 + order))
        rows = torch.randperm(self.block, generator=shuffle)[part * self.per_survey : (part + 1) * self.per_survey]
        choose = torch.Generator().manual_seed(mix_seed(seed, visit, order, 1))
        generator = torch.Generator(device).manual_seed(mix_seed(seed, visit, order, 4))
        turned = turn_scenes(draw_block(self, name, number, seed, device), rows.to(device), choose, self.turned)
        cutouts = expose(turned, generator, truth=False)
        low, high = self.pedestal
        if high > 0:
            sky = low + (high - low) * torch.rand(len(rows), generator=generator, device=device)
            cutouts = dataclasses.replace(cutouts, images=cutouts.images + sky[:, None, None])
        if self.varied:
            cutouts = make_imperfect(cutouts, turned.model, self.cut_share, choose, generator)
        return Lesson(cutouts, turned.targets)

    def train(
        self,
        *,
        seed: int = 1,
        steps: int | None = None,
        start: Network | None = None,
        checkpoint: Path | None = None,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> tuple[Network, list[float]]:
        """A network trained by this recipe, and the loss of each step.

        Arguments:
            seed: Of the first weights and of everything drawn.
            steps: Instead of the recipe's own number.
            start: A trained network of the recipe's architecture whose weights and scaling to begin with; left as it
                is. With another seed than its own it sees other galaxies.
            checkpoint: File to write on the way, and to go on from where it exists.
            device: Where to draw and to train.
            progress: Show steps, loss and time left.

        Raises:
            InputError: ``start`` is of another architecture, or see :func:`galstress.training.train`.
        """
        schedule = dataclasses.replace(self.schedule, steps=steps or self.schedule.steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            settings = {key: value for key, value in self.backbone.items() if key != "name"}
            network = Network.build(self.backbone["name"], self.head, **settings).to(device)
        if start is not None:
            self._begin_with(network, start)

        def draw(step: int) -> list[Lesson]:
            return self.draw(step, seed=seed, device=device)

        network, losses = train(network, draw, schedule, checkpoint=checkpoint, progress=progress)
        self.calibrate(network, seed=seed, device=device)
        said = self.describe(seed, losses)
        if start is not None:
            before = start.metadata.get("training", {})
            said["training"]["start"] = {"name": start.metadata.get("name", "")} | {
                key: before[key] for key in ("recipe", "seed", "steps", "images", "start") if key in before
            }
        return network.with_metadata(**said), losses

    def _begin_with(self, network: Network, start: Network) -> None:
        """Give a fresh network the weights and the scaling of a trained one."""
        own, other = ({key: of.metadata[key] for key in ("backbone", "head")} for of in (network, start))
        if own != other:
            raise InputError(f"weights of {other}", f"{own}, as {self.name} has it", "give others, or none")
        network.modules().load_state_dict(start.modules().state_dict())

    def calibrate(self, network: Network, *, seed: int, steps: int = 24, device: torch.device | str = "cpu") -> Tensor:
        """Set error bars or probabilities on so many steps' worth of galaxies, of other seeds than the training's."""
        # every step of another block
        return calibrate(network, (self.draw(at * 1000, seed=seed + 10**6, device=device) for at in range(steps)))

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
                survey = vary_survey(self.see(name), torch.Generator().manual_seed(number))
                generator = torch.Generator().manual_seed(mix_seed(seed, number, 7))
                targets = draw_members(self, name, survey, max(self.stamps[name]), generator)
                flux.append(torch.log(targets.flux / survey.sky_rms))
                radius.append(torch.log(half_light_radius(targets)))
        share = torch.tensor([0.0005, 0.9995])
        scales = [self.see(name).pixel_scale_arcsec for name in self.surveys]
        return {
            "ln_flux_in_rms": torch.cat(flux).quantile(share).tolist(),
            "ln_radius_px": torch.cat(radius).quantile(share).tolist(),
            **({"pixel_scale_arcsec": [min(scales), max(scales)]} if self.backbone["name"] != "foveal" else {}),
        }
