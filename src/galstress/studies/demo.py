"""The demonstration: galaxies measured, turned, dimmed and explained, as records for one page."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from astropy.table import QTable, vstack
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from galstress.battery import write_table
from galstress.cutouts import Cutouts, Flag
from galstress.errors import GalstressError, InputError
from galstress.explanation import explain
from galstress.galaxy import half_light_radius
from galstress.networks import Network
from galstress.population import load_population
from galstress.prediction import predict
from galstress.recipes import RECIPES
from galstress.refinement import refine
from galstress.simulation import simulate
from galstress.studies.evaluation import Evaluation, evaluate
from galstress.studies.films import choose_star, film
from galstress.studies.galleries import REAL, Gallery, has_real_images, load_gallery, simulate_gallery
from galstress.studies.posteriors import Sample, record_posteriors
from galstress.studies.records import DrawModels, record_set, write_json
from galstress.studies.stability import stress_passes
from galstress.survey import AB_ZERO_POINT_NJY, Survey

__all__ = ["Demo", "Size", "run_demo"]

_log = logging.getLogger(__name__)

_FAILURES = (GalstressError, OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)
"""What may go wrong with one set of galaxies without stopping the rest; it is told on the page."""
_SURVEYS = ("sdss-r", "hsc-wide-i", "lsst-i", "euclid-vis", "hst-candels-f814w", "jwst-nircam-f200w")
"""Of those that the network was trained for, what is simulated: depths, PSFs and pixels as different as can be."""
_LARGEST_REFINED_PX = 128
"""Side of the largest stamps that are refined: larger ones take many seconds each."""
_FIRST_SEED = 2_000_000_000
"""Seeds from here on draw what is shown; training mixes its own, and never takes these as they are."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done; the defaults end within minutes on two cores."""

    shown: int = 5
    """Galaxies of each set on the page."""
    evaluated: int = 300
    """Fresh galaxies of each survey for errors and coverage, isolated and again with neighbours."""
    turned: int = 12
    """Simulated galaxies of each survey that are drawn again at other angles."""
    frames: int = 72
    """Angles of the film; a third of them for the real galaxy, whose pixels are interpolated."""
    refined: int = 32
    """Fresh galaxies whose network's and refined posteriors are held against the photon limit; 0 for none."""
    fitted: int = 2
    """Of these, how many are fitted without a network, too."""
    refined_shown: int = 1
    """Galaxies of each set on the page that are refined, where stamps are not too large for it."""
    angle_step: int = 15
    """Degrees between the angles of one pass; twice that where answers are averaged, four times for interpolation."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """What was done, for the manifest."""

    sets: tuple[str, ...]
    """Sets of galaxies on the page."""
    real: bool
    """Whether any of them is real."""
    left_out: Mapping[str, str]
    """What could not be done, and why."""
    galaxies: int
    """Galaxies measured for errors and coverage."""
    seconds: float
    """What measuring those took, one pass each."""
    seeds: tuple[int, int]
    """First and last seed of what was drawn."""


def run_demo(
    folder: str | Path,
    network: Network,
    *,
    draw_models: DrawModels,
    seed: int = 1,
    size: Size | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Demo:
    """Write the records of the demonstration.

    Arguments:
        folder: Where to; made if missing. Records of an earlier run are replaced, and sets that are not shown any
            more are removed.
        network: What is demonstrated.
        draw_models: :func:`galstress.report.draw_models`.
        seed: 0 to 9999; of everything drawn, together with a fixed number that keeps it apart from training.
        size: How much is done.
        device: Where to compute.
        progress: Show a bar with the time left (on stderr).

    Returns:
        What was done. Whatever fails with one set of galaxies is told there and stops nothing else.

    Raises:
        InputError: A seed out of range, or nothing at all could be measured.
    """
    if not 0 <= seed < 10_000:
        raise InputError(f"seed={seed}", "a whole number from 0 to 9999", "give seed=1")
    run = _Run(Path(folder), network, draw_models, _FIRST_SEED + 1000 * seed, size or Size(), device)
    _clear(run.folder)
    steps = run.plan()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task, done = bar.add_task("starting", total=sum(step.weight for step in steps)), 0.0
        for step in steps:
            bar.update(task, description=step.name)
            run.tell = partial(_move, bar, task, done, step.weight)
            run.attempt(step)
            run.tell(1.0)
            done += step.weight
    if not run.galleries:
        raise InputError(f"no galaxy that could be measured ({run.left_out})", "one at least", "check the network")
    return Demo(
        sets=tuple(run.galleries),
        real=any(not gallery.about["simulated"] for gallery in run.galleries.values()),
        left_out=run.left_out,
        galaxies=sum(found.galaxies for found in run.evaluations),
        seconds=sum(found.seconds for found in run.evaluations),
        seeds=(run.seed, run.seed + 999),
    )


def _move(bar: Progress, task: TaskID, done: float, weight: float, share: float) -> None:
    """Move a bar to a share of the step at hand."""
    bar.update(task, completed=done + weight * share)


class _Step(NamedTuple):
    """A part of the demonstration that may fail without stopping the others."""

    name: str
    weight: float
    """Seconds that it takes on two cores, about."""
    work: Callable[[], None]


class _Run:
    """One run: what was found so far, and the steps that add to it."""

    def __init__(
        self, folder: Path, network: Network, draw_models: DrawModels, seed: int, size: Size, device: str
    ) -> None:
        self.folder, self.network, self.draw_models = folder, network, draw_models
        self.seed, self.size, self.device = seed, size, device
        prior = _prior(network)
        shown = [name for name in _SURVEYS if name in prior] or list(prior)[: len(_SURVEYS)]
        self.populations = {name: max(prior[name], key=prior[name].__getitem__) for name in shown}
        self.galleries: dict[str, Gallery] = {}
        self.stress: list[QTable] = []
        self.evaluations: list[Evaluation] = []
        self.left_out: dict[str, str] = {}
        self.tell: Callable[[float], None] = lambda _: None

    def plan(self) -> list[_Step]:
        """All steps, in order."""
        real = list(REAL) if has_real_images() else []
        steps = [_Step(name, 8, partial(self.show, partial(load_gallery, name))) for name in real]
        steps.append(_Step("simulated galaxies", 2 if real else 20, self.show_simulated))
        steps += [_Step(f"turning {name}", 6, partial(self.disturb, name)) for name in (*real, *self.populations)]
        for place, survey in enumerate(self.populations):
            steps.append(_Step(f"drawing {survey} again", 10, partial(self.redraw, survey, self.seed + 100 + place)))
        for neighbours in (False, True):
            name = "errors and coverage" + (", with neighbours" if neighbours else "")
            steps.append(_Step(name, 25, partial(self.evaluate, neighbours)))
        steps += [_Step(f"refining {name}", 4, partial(self.refine, name)) for name in (*real, *self.populations)]
        seconds = 1.5 * self.size.refined + 3 * self.size.fitted
        steps.append(_Step("posteriors against the photon limit", seconds, self.compare_with_limit))
        steps.append(_Step("film", 6, self.film_simulated))
        steps += [_Step("film of a real galaxy", 10, self.film_real)] if real else []
        steps.append(_Step("training", 1, self.describe_training))
        return steps

    def attempt(self, step: _Step) -> None:
        """Do a step; what goes wrong is kept for the page."""
        try:
            step.work()
        except _FAILURES as error:
            self.left_out[step.name] = " ".join(str(error).split()) or type(error).__name__
            _log.warning("left out: %s: %s", step.name, self.left_out[step.name])

    def show(self, find: Callable[[int], Gallery]) -> None:
        """Measure a few galaxies, map what the network saw in two of them, and write them down."""
        gallery = find(self.size.shown)
        cutouts = gallery.cutouts
        prediction = predict(self.network, cutouts, average=True, device=self.device)
        explanation = explain(self.network, cutouts.select(slice(0, 2)), seed=self.seed, device=self.device)
        record_set(
            self.folder / "galaxies" / gallery.name, cutouts, prediction, gallery.about,
            draw_models=self.draw_models, explanation=explanation,
        )  # fmt: skip
        self.galleries[gallery.name] = gallery

    def show_simulated(self) -> None:
        """Simulated galaxies of every survey, unless real ones were found."""
        if self.galleries:
            return
        for place, (survey, population) in enumerate(self.populations.items()):
            self.show(partial(simulate_gallery, survey, population, seed=self.seed + place))

    def disturb(self, name: str) -> None:
        """Turn and dim the pixels of a set; nothing to do where it was left out."""
        if name not in self.galleries:
            return
        gallery = self.galleries[name]
        kinds = ["quarter-turns", "interpolated-rotation", *(["depth"] if gallery.has_noise else [])]
        amounts = {"interpolated-rotation": [float(angle) for angle in range(0, 360, 4 * self.size.angle_step)]}
        self._stress(gallery.cutouts, kinds, amounts, averaged=0)

    def redraw(self, survey: str, seed: int) -> None:
        """Draw simulated galaxies again at other angles: one pass, and averaged over turns and mirrors."""
        most, population = self.size.turned, self.populations[survey]
        drawn = simulate(survey, 3 * most, seed=seed, population=population)
        prediction = predict(self.network, drawn, device=self.device)
        seen = np.flatnonzero((prediction.flags & int(Flag.FAINT | Flag.OUT_OF_DOMAIN)) == 0)[:most]
        for averaged, step in ((0, self.size.angle_step), (8, 2 * self.size.angle_step)):
            amounts = {"redrawn-rotation": [float(angle) for angle in range(0, 360, step)]}
            self._stress(drawn.select(seen), ["redrawn-rotation"], amounts, averaged=averaged)

    def _stress(
        self, cutouts: Cutouts, kinds: Sequence[str], amounts: Mapping[str, Sequence[float]], *, averaged: int
    ) -> None:
        """Add to the stress table."""
        table = stress_passes(
            self.network, cutouts.to(self.device), kinds, self.seed, amounts=amounts, averaged=[averaged]
        )
        self.stress.append(table)
        write_table(vstack(self.stress, metadata_conflicts="silent"), self.folder / "stress.parquet")

    def evaluate(self, neighbours: bool) -> None:
        """Errors and coverage on fresh galaxies."""
        seed = self.seed + 200 + 100 * neighbours
        self.evaluations.append(
            evaluate(
                self.network, self.populations, self.size.evaluated, seed, neighbours=neighbours, device=self.device
            )
        )
        for name in ("accuracy", "coverage"):
            whole = vstack([getattr(found, name) for found in self.evaluations], metadata_conflicts="silent")
            write_table(whole, self.folder / f"{name}.parquet")

    def refine(self, name: str) -> None:
        """The exact posterior of a few galaxies of a set, under the network's own prior; no large stamps."""
        gallery = self.galleries.get(name)
        if gallery is None or gallery.cutouts.images.shape[-1] > _LARGEST_REFINED_PX or not gallery.has_noise:
            return
        some = gallery.cutouts.select(slice(0, self.size.refined_shown))
        prediction = predict(self.network, some, average=True, device=self.device)
        refined = refine(prediction, some, seed=self.seed % 1000)
        refined.write(self.folder / "galaxies" / name / "refined.safetensors")

    def compare_with_limit(self) -> None:
        """Network, refined posteriors and fits beside the smallest errors that the photons allow."""
        if self.size.refined == 0:
            return
        survey = _preferred(self.populations)
        sample = Sample(survey, self.populations[survey], self.size.refined, self.seed + 600, fitted=self.size.fitted)
        record_posteriors(self.folder / "posteriors" / survey, self.network, sample, tell=self.tell, device=self.device)

    def film_simulated(self) -> None:
        """The film that the page begins with."""
        survey = _preferred(self.populations)
        star = choose_star(survey, "nearby", self.seed + 400)
        title = f"A simulated galaxy as {survey} would see it, drawn again at every angle"
        film(self.network, star, "redrawn-rotation", self.size.frames, self.folder, "film", title=title,
             device=self.device)  # fmt: skip

    def film_real(self) -> None:
        """The same of a real galaxy, the first of the best set that is there; its pixels are interpolated."""
        real = {name: gallery for name, gallery in self.galleries.items() if not gallery.about["simulated"]}
        name = next((name for name in _FILMED if name in real), "")
        if not name:
            return
        title = f"A real galaxy ({name}), its pixels turned by interpolation"
        film(self.network, real[name].cutouts.select([0]), "interpolated-rotation", self.size.frames // 3,
             self.folder, "film-real", title=title, device=self.device)  # fmt: skip

    def describe_training(self) -> None:
        """A sample of what the network was trained on, and how."""
        write_table(_sample_prior(self.network, 4000, self.seed + 500), self.folder / "domain.parquet")
        training = dict(self.network.metadata.get("training", {}))
        training["galaxies"] = training.pop("images", training.get("galaxies"))
        training["population"] = ", ".join(dict.fromkeys(self.populations.values()))
        training["parameters"] = sum(parameter.numel() for parameter in self.network.parameters())
        training["loss"] = training.pop("losses", None)
        write_json(self.folder / "training.json", {key: value for key, value in training.items() if value is not None})


_FILMED = ("hsc-misc", "sdss-pymorph10", "hst-candels-bd201", "hsc-cosmos-udeep147", "hst-cosmos-galsim235")
"""Sets whose first galaxy may turn in a film, the best to look at first."""


def _preferred(populations: Mapping[str, str]) -> str:
    """The survey that is shown where there is room for one."""
    return "hsc-wide-i" if "hsc-wide-i" in populations else next(iter(populations))


def _prior(network: Network) -> Mapping[str, Mapping[str, float]]:
    """Shares of populations by survey, as the network was trained."""
    prior = network.metadata.get("prior")
    return prior if isinstance(prior, Mapping) and prior else RECIPES["foveal"].surveys


def _sample_prior(network: Network, count: int, seed: int) -> QTable:
    """Magnitude, radius and B/T of galaxies as the network was trained on, inside of its domain."""
    generator = torch.Generator().manual_seed(seed)
    domain = network.metadata.get("domain", {})
    everything = (-np.inf, np.inf)
    columns: dict[str, list[np.ndarray]] = {"mag": [], "radius_arcsec": [], "bulge_to_total": []}
    prior = _prior(network)
    for name, shares in prior.items():
        survey = Survey.load(name)
        for population, share in shares.items():
            drawn = load_population(population).sample(round(count * share / len(prior)), generator)
            radius = half_light_radius(drawn)
            flux_in_rms = torch.log(drawn.flux / (survey.unit_njy * survey.sky_rms))
            low, high = domain.get("ln_flux_in_rms", everything)
            seen = ((flux_in_rms > low) & (flux_in_rms < high)).numpy()
            columns["mag"].append(AB_ZERO_POINT_NJY - 2.5 * np.log10(drawn.flux.numpy()[seen]))
            columns["radius_arcsec"].append(radius.numpy()[seen])
            columns["bulge_to_total"].append(drawn.bulge_to_total.numpy()[seen])
    return QTable({name: np.concatenate(parts).astype(float) for name, parts in columns.items()})


def _clear(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for record in (*folder.glob("galaxies/*/set.json"), *folder.glob("posteriors/*/about.json")):
        shutil.rmtree(record.parent)
    for name in ("stress", "accuracy", "coverage", "domain", "film", "film-real", "training"):
        for suffix in (".parquet", ".json", ".safetensors"):
            (folder / name).with_suffix(suffix).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
