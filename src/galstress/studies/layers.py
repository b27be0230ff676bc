"""What the layers of a network do: the sentences that pictures of them are given, as numbers with intervals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from galstress.errors import InputError
from galstress.explanation import ascend, explain, list_layers, pool_activations, record_activations
from galstress.explanation.grids import mapping_layers
from galstress.heads import ClassHead
from galstress.networks import Network
from galstress.population import load_population
from galstress.recipes.published import published_surveys
from galstress.simulation import expose
from galstress.studies.cells import Job, digest, keep, list_versions
from galstress.studies.depths import LEVEL, judge_arms, judge_focus, judge_probes, judge_segments
from galstress.studies.looks import SEGMENT_SIGMA, Looking
from galstress.studies.records import write_arrays, write_json
from galstress.studies.sentences import say_all
from galstress.survey import Survey

__all__ = ["LayersStudy", "choose_place", "study_layers"]

Array = NDArray[np.float64]

_BLOCK = 32
_PICTURES = 4
_FOVEAL_PX = 128


@dataclasses.dataclass(frozen=True)
class LayersStudy:
    """What :func:`study_layers` found; all of it stands in its folder, too."""

    summary: Mapping[str, Any]
    """As ``summary.json`` has it."""
    pictures: Mapping[str, np.ndarray]
    """``image`` (4, H, W), ``maps`` (4, H, W), ``sky_rms`` (1,), ``activations <layer>`` (C, h, w) of the first image,
    ``patterns <stage>`` (K, C, V, V)."""

    @property
    def sentence(self) -> str:
        """The answer in words."""
        return str(self.summary["sentence"])


def choose_place(network: Network, survey: str | None = None, population: str | None = None) -> tuple[Survey, str]:
    """The survey and population that a network is looked at with.

    Arguments:
        network: Its ``metadata["prior"]`` says what it was trained on.
        survey: A survey of its training, a preset or a file; by default the first of its training.
        population: By default the one that most of the training's galaxies of that survey are of, or ``cosmos``.

    Example:
        >>> survey, population = choose_place(Network.build("gamornet", stamp_px=32, width=0.1))
        >>> survey.name, population
        ('hsc-wide-i', 'cosmos')
    """
    prior: Mapping[str, Mapping[str, float]] = network.metadata.get("prior") or {}
    name = survey or next(iter(prior), "hsc-wide-i")
    own = published_surveys()
    shares = prior.get(name, {})
    population = population or (max(shares, key=lambda each: shares[each]) if shares else "cosmos")
    return own[name] if name in own else Survey.load(name), population


def study_layers(  # noqa: PLR0913 (what is looked at, how much of it, and the place)
    network: Network,
    *,
    folder: str | Path,
    survey: str | None = None,
    population: str | None = None,
    count: int = 256,
    filters: int = 4,
    steps: int = 96,
    seed: int = 1,
    device: str = "cpu",
    command: str = "",
    progress: bool = False,
) -> LayersStudy:
    """Ask of a network's layers what their pictures are said to show.

    Arguments:
        network: GaMorNet, GaMPEN, ``foveal``: its backbone lists its ``stages``.
        folder: Where to; made if missing. Blocks of 32 galaxies are kept below ``cells`` and not measured again by the
            next run; ``summary.json`` and ``pictures.safetensors`` are written at the end.
        survey: As :func:`choose_place` takes it, and so is ``population``.
        population: See there.
        count: Simulated galaxies, 64 or more; rounded up to blocks.
        filters: Patterns a stage.
        steps: Of gradient ascent for each.
        seed: Of galaxies, noise, random weights and bootstrap.
        device: Where to compute.
        command: What the summary says this was started by.
        progress: Show what is done, and the time left (on stderr).

    Raises:
        InputError: Fewer galaxies, or a folder with cells of another study.
        UnknownNameError: No such survey or population.

    1. *Arms*: disks (B/T below 0.45) with arms get their azimuthal mean, in ellipses of the disk's shape, before the
       noise; beside them the same galaxies without arms, with the same noise. 2. *Background*: maps of the first layer
       as judges of pixels, against where the light without noise is above 1.5 rms of the sky. 3. *Neighbours*: their
       share of the class activation, of the light and of the area. 4. *Depth*: ridge regressions from the means of each
       stage's maps, trained on one half of the galaxies and tested on the other.
    """
    if count < 2 * _BLOCK or filters < 1 or steps < 1:
        raise InputError(
            f"{count} galaxies, {filters} filters, {steps} steps", "64, 1 and 1 or more", "take 256, 4, 96"
        )
    place, name = choose_place(network, survey, population)
    side = getattr(network.backbone, "stamp_px", min(_FOVEAL_PX, place.stamp_px))
    looking = Looking(network, place, load_population(name), side, seed, device)
    run = _Run(looking, Path(folder), -(-count // _BLOCK), filters, steps)
    run.go(name, progress)
    found, pictures = run.read_blocks(), run.read_pictures()
    is_class = isinstance(network.head, ClassHead)
    tables = {
        "arms": judge_arms(found, is_class=is_class, seed=seed),
        "segments": judge_segments(found, seed=seed),
        "neighbours": judge_focus(found, seed=seed),
        "probes": judge_probes(found, list(network.backbone.stages), seed=seed),
    }
    summary = {
        "study": "layers", "command": command, "network": str(network.metadata.get("name", run.backbone)),
        "width": getattr(network.backbone, "width", None), "seed": seed, "surveys": [place.name],
        "galaxies": run.blocks * _BLOCK, "stages": list(network.backbone.stages),
        "sample": f"{run.blocks * _BLOCK} simulated galaxies of {name} as {place.name} sees them, S/N above 20 in a "
        "Gaussian aperture, half-light radius below 0.35 stamps, structure on their disks",
        "population": name, "stamp_px": side, "explained": "p_disk" if is_class else "bulge_to_total",
        "intervals": f"{LEVEL:.0%} bootstrap over galaxies",
        "segment": f"light without noise above {SEGMENT_SIGMA} rms of the sky",
        "patterns": {"filters": filters, "steps": steps, "contrast": run.contrast},
        "thaw_curve": "not measured here; galstress study labels --policies head,last:1,last:2,all gives it for those "
        "with a posterior",
        "sentence": say_all(tables, f"simulated {place.name}", is_class=is_class), **tables,
        "versions": list_versions(),
    }  # fmt: skip
    write_json(run.folder / "summary.json", summary)
    write_arrays(run.folder / "pictures.safetensors", pictures)
    return LayersStudy(summary, pictures)


class _Run:
    """The pieces of a study and their files."""

    def __init__(self, looking: Looking, folder: Path, blocks: int, filters: int, steps: int) -> None:
        self.looking, self.folder, self.cells = looking, folder, folder / "cells"
        self.blocks, self.filters, self.steps = blocks, filters, steps
        self.contrast = 1.0

    @property
    def backbone(self) -> str:
        """Its name."""
        return str(self.looking.network.metadata["backbone"]["name"])

    def go(self, population: str, progress: bool) -> None:
        """Do what earlier runs left."""
        looking = self.looking
        weights = [float(p.detach().double().abs().sum()) for p in looking.network.parameters()]
        mark = digest(looking.survey.to_record(), population, looking.stamp_px, looking.seed, weights)
        jobs = [
            self._job(f"block-{k}", mark, functools.partial(looking.measure, k, _BLOCK), 4) for k in range(self.blocks)
        ]
        more = digest(mark, self.filters, self.steps)
        jobs.append(self._job("gallery", more, self.collect, 4))
        jobs += [
            self._job(f"patterns-{stage}", more, functools.partial(self.climb, stage), self.filters)
            for stage in looking.network.backbone.stages
        ]
        records = keep(jobs, self.cells, progress=progress)
        self.contrast = float(records["gallery"]["contrast"])

    def _job(self, name: str, mark: str, work: Callable[[], Mapping[str, np.ndarray]], weight: int) -> Job:
        """A job whose arrays go to a file beside its record."""
        path = self.cells / f"{name}.safetensors"

        def do() -> dict[str, Any]:
            arrays = work()
            write_arrays(path, arrays)
            return {key: float(value) for key, value in arrays.items() if value.ndim == 0}

        return Job(name, mark, do, weight, path)

    def collect(self) -> dict[str, np.ndarray]:
        """Images to show: two spirals and two with neighbours, their maps, and what the first layers make of one."""
        looking, network = self.looking, self.looking.network
        scenes, _, structure = looking.draw(0, _BLOCK)
        cutouts = expose(scenes, looking.noise(0))
        galaxies = scenes.targets
        alone = looking.expose(scenes, scenes.model, 0)
        snr = (scenes.model**2 / cutouts.variance).sum((1, 2)).sqrt()
        face = galaxies.axis_ratio[:, 0] * (galaxies.bulge_to_total < 0.45) * (structure.arm_number > 0)
        spirals = (face * structure.arm_strength * torch.log(snr)).argsort(descending=True)[: _PICTURES // 2]
        beside = cutouts.neighbour_mask.double().mean((1, 2)) * (snr > 30)
        beside[spirals] = -1
        others = beside.argsort(descending=True)[: _PICTURES - len(spirals)]
        parts = (alone.select(spirals.tolist()), cutouts.select(others.tolist()))
        seen = [explain(network, part, seed=looking.seed, device=looking.device).maps for part in parts]
        found = {
            "image": np.concatenate([part.images.numpy() for part in parts]),
            "maps": np.concatenate(seen), "sky_rms": cutouts.sky_rms[:1].numpy(),
        }  # fmt: skip
        one = parts[0].select([0])
        names = {layer: name for name, layer in list_layers(network).items()}
        for layer in mapping_layers(network)[:2]:
            maps = record_activations(network, one, names[layer], device=looking.device)[0]
            found[f"activations {names[layer]}"] = maps[np.argsort(-maps.std((1, 2)), kind="stable")]
        views = network.backbone.inputs(alone.to(network.parameters()[0].device)).views
        return found | {"contrast": np.asarray(float(views.double().std()))}

    def climb(self, stage: str) -> dict[str, np.ndarray]:
        """Patterns of the filters whose means vary most from galaxy to galaxy, relative to their size."""
        looking = self.looking
        scenes, _, _ = looking.draw(0, _BLOCK)
        cutouts = looking.expose(scenes, scenes.model, 0)
        pooled = pool_activations(looking.network, cutouts, [stage], device=looking.device)[stage]
        spread = pooled.std(0)
        chosen = np.argsort(-spread, kind="stable")[: self.filters]
        contrast = float(looking.network.backbone.inputs(cutouts).views.double().std())
        found = ascend(
            looking.network, cutouts, stage, chosen.tolist(), seed=looking.seed, steps=self.steps, contrast=contrast,
            device=looking.device,
        )  # fmt: skip
        return {
            "images": found.images, "channels": chosen.astype(float), "response": found.response,
            "galaxies": pooled[:, chosen].max(0),
        }  # fmt: skip

    def read_blocks(self) -> dict[str, Array]:
        """All galaxies' numbers."""
        parts = [load_file(self.cells / f"block-{k}.safetensors") for k in range(self.blocks)]
        return {name: np.concatenate([part[name] for part in parts]).astype(float) for name in parts[0]}

    def read_pictures(self) -> dict[str, np.ndarray]:
        """What figures show."""
        found = {k: v for k, v in load_file(self.cells / "gallery.safetensors").items() if v.ndim}
        for stage in self.looking.network.backbone.stages:
            found[f"patterns {stage}"] = load_file(self.cells / f"patterns-{stage}.safetensors")["images"]
        return found
