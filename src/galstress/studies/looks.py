"""What one block of simulated galaxies tells of the layers of a network."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.explanation import explain, pool_activations, with_random_weights
from galstress.explanation.activations import listening
from galstress.explanation.grids import (
    SCALES,
    Grid,
    evaluating,
    hats,
    is_stamp,
    lay_on_views,
    lay_stamp,
    mapping_layers,
)
from galstress.galaxy import Galaxies, half_light_radius, whole_ellipticity
from galstress.heads import Classes
from galstress.networks import Network
from galstress.population import Population
from galstress.prediction import predict
from galstress.simulation import Scenes, draw_scenes, draw_targets, expose
from galstress.structure import Structure, draw_structure
from galstress.studies.azimuth import average_azimuth
from galstress.studies.probes import measure_auc
from galstress.survey import Survey

__all__ = ["SEGMENT_SIGMA", "VERSIONS", "Looking"]

Array = NDArray[np.float64]

VERSIONS = ("structured", "structured, averaged", "smooth", "smooth, averaged")
"""Images of each galaxy: with its arms, with its azimuthal mean instead, and both without arms."""
SEGMENT_SIGMA = 1.5
"""A pixel is the galaxy's where its light without noise is above so many rms of the sky."""
_FAINTEST_SNR = 20.0
_LARGEST = 0.35
"""Half-light radius over the stamp's side, at most."""
_VIEW = 48
"""Side of the views of ``foveal``."""
_PIXELS = 96
"""Side of the maps at which pixels are ranked; larger ones are thinned."""
_FULL = 0.9
"""Segments that fill more of the view have no background to be told from."""


@dataclasses.dataclass(frozen=True)
class Looking:
    """A network, and the galaxies that it is shown."""

    network: Network
    survey: Survey
    population: Population
    stamp_px: int
    seed: int
    device: str = "cpu"

    @functools.cached_property
    def random(self) -> Network:
        """The same architecture with random weights."""
        return with_random_weights(self.network, self.seed)

    def draw(self, block: int, count: int) -> tuple[Scenes, Tensor, Structure]:
        """Structured scenes with neighbours, the smooth light of the same galaxies, and what lies on their disks."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + block) % 2**63)
        targets = self._draw_targets(count, generator)
        structure = draw_structure(targets, generator)
        scenes = draw_scenes(targets, self.survey, self.stamp_px, self.population, generator, structure=structure)
        smooth = draw_scenes(targets, self.survey, self.stamp_px, None, generator).model
        return scenes, smooth, structure

    def _draw_targets(self, count: int, generator: torch.Generator) -> Galaxies:
        """Galaxies bright enough to show arms, and not larger than their stamp."""
        survey, parts, found = self.survey, [], 0
        while found < count:
            drawn = draw_targets(self.population, survey, 2 * count, self.stamp_px, generator)
            radius = half_light_radius(drawn)
            # matched S/N of a Gaussian of the galaxy's and the PSF's width against the sky
            width2 = (survey.psf_fwhm_px / 2.355) ** 2 + (0.6 * radius) ** 2
            snr = drawn.flux / (survey.sky_rms * torch.sqrt(4 * math.pi * width2))
            rows = torch.nonzero((snr > _FAINTEST_SNR) & (radius < _LARGEST * self.stamp_px))
            parts.append(drawn.select(rows[: count - found, 0]))
            found += len(parts[-1])
        return Galaxies.concatenate(parts)

    def expose(self, scenes: Scenes, model: Tensor, block: int) -> Cutouts:
        """Images of other light of the same galaxies, without neighbours, with the same noise in units of its sigma."""
        other = dataclasses.replace(scenes, model=model, light=torch.zeros_like(model), others=None)
        return expose(other, self.noise(block))

    def noise(self, block: int) -> torch.Generator:
        """Of the noise of a block."""
        return torch.Generator().manual_seed((self.seed * 7_368_787 + 5 * block + 2) % 2**63)

    def measure(self, block: int, count: int) -> dict[str, Array]:
        """All numbers of one block, a row a galaxy."""
        scenes, smooth, structure = self.draw(block, count)
        galaxies = scenes.targets
        shape = (galaxies.x, galaxies.y, galaxies.axis_ratio[:, 0], galaxies.angle[:, 0])
        lights = [scenes.model, average_azimuth(scenes.model, *shape), smooth, average_azimuth(smooth, *shape)]
        images = [self.expose(scenes, light, block) for light in lights]
        found = {"answer": np.stack([self.answer(each) for each in images], 1)} | _describe(scenes, structure)
        for name, network in (("own", self.network), ("random", self.random)):
            pooled = pool_activations(network, images[0], device=self.device)
            found |= {f"pooled {name} {stage}": values for stage, values in pooled.items()}
            found |= {f"{key} {name}": values for key, values in self.separate(network, images[0], lights[0]).items()}
        found |= {f"{key} image": values for key, values in self.compare(images[0], lights[0]).items()}
        return found | self.focus(scenes, block)

    def answer(self, cutouts: Cutouts) -> Array:
        """(N,) probability of a disk, or median B/T."""
        said = predict(self.network, cutouts, device=self.device)
        values = said.probabilities[:, 0] if isinstance(said, Classes) else said.quantile([0.5])[0][:, 0]
        return np.asarray(values, np.float64)

    def separate(self, network: Network, cutouts: Cutouts, light: Tensor) -> dict[str, Array]:
        """How well each map of the first layer tells the galaxy from the background: (N, C, S), S views."""
        layer = mapping_layers(network)[0]
        with torch.no_grad(), evaluating(network, self.device):
            inputs = network.backbone.inputs(cutouts.to(self.device))
            grid = Grid.trace(network, inputs, layer)
            with listening({"first": layer}) as heard:
                network.backbone(inputs)
            maps = lay_on_views(network, inputs, grid, heard["first"].double()).cpu()
        return _overlap(maps[:, :, None], self.segment(cutouts, light))

    def compare(self, cutouts: Cutouts, light: Tensor) -> dict[str, Array]:
        """The same of the image itself, as it is and with the resolution of the first layer's maps: (N, 2, S)."""
        network, layer = self.network, mapping_layers(self.network)[0]
        with torch.no_grad(), evaluating(network, "cpu"):
            inputs = network.backbone.inputs(cutouts)
            grid = Grid.trace(network, inputs, layer)
            with listening({"first": layer}) as heard:
                network.backbone(inputs)
        views = (inputs.views[:, :1] if is_stamp(network) else inputs.views).double()
        hat = hats(views.shape[-1], heard["first"].shape[-1], grid)
        mean = hat / hat.sum(0)
        blurred = hat @ (mean.T @ views @ mean) @ hat.T
        return _overlap(torch.stack([views, blurred], 1), self.segment(cutouts, light))

    def segment(self, cutouts: Cutouts, light: Tensor) -> Tensor:
        """(N, S, V, V) where the galaxy is, on the pixels of the views that the network takes."""
        is_galaxy = light > SEGMENT_SIGMA * cutouts.sky_rms[:, None, None]
        if is_stamp(self.network):
            side = self.network.backbone.stamp_px
            return lay_stamp(is_galaxy, (side, side))[:, None]
        views = []
        for size in SCALES:
            field = lay_stamp(is_galaxy, (_VIEW * size, _VIEW * size)).double()
            views.append(torch.nn.functional.avg_pool2d(field[:, None], size)[:, 0] > 0.5)
        return torch.stack(views, 1)

    def focus(self, scenes: Scenes, block: int) -> dict[str, Array]:
        """Shares of the maps, the light and the area that are the neighbours'; NaN where no pixel is."""
        cutouts = expose(scenes, self.noise(block))
        maps = explain(self.network, cutouts, seed=self.seed, device=self.device)
        mask = cutouts.neighbour_mask.numpy()
        is_beside = mask.any((1, 2))
        both = (scenes.light + scenes.model).double().numpy()
        light = (scenes.light.double().numpy() * mask).sum((1, 2)) / both.sum((1, 2))
        shares = [(each * mask).sum((1, 2)) for each in (maps.maps, maps.random, maps.gaussian)]
        found = np.stack([*shares, light, mask.mean((1, 2))], 1)
        found[~is_beside] = np.nan
        return {"beside": found}


def _describe(scenes: Scenes, structure: Structure) -> dict[str, Any]:
    """What is true of the galaxies."""
    galaxies = scenes.targets
    e1, e2 = whole_ellipticity(galaxies)
    assert scenes.is_structured is not None
    is_armed = (structure.arm_number > 0) & (structure.arm_strength > 0) & scenes.is_structured
    values = {
        "bulge_to_total": galaxies.bulge_to_total,
        "ln_radius": torch.log(half_light_radius(galaxies)),
        "ellipticity": torch.hypot(e1, e2),
        "arms": torch.where(is_armed, structure.arm_number, 0.0),
        "arm_strength": torch.where(is_armed, structure.arm_strength, 0.0),
    }
    return {name: value.double().numpy() for name, value in values.items()}


def _overlap(maps: Tensor, segment: Tensor) -> dict[str, Array]:
    """Maps as judges of pixels.

    Arguments:
        maps: (N, C, S, V, V), or S = 1 for all of the segment's.
        segment: (N, S, V, V) bool.

    Returns:
        ``auc`` (N, C, S), and ``iou`` (N, C, S, 2) of the segment with as many of the brightest or faintest pixels as
        it holds; NaN where it is empty or nearly fills the view.
    """
    thin = -(-maps.shape[-1] // _PIXELS)
    maps, segment = maps[..., ::thin, ::thin], segment[..., ::thin, ::thin]
    is_galaxy = segment.flatten(2).numpy()
    count = is_galaxy.sum(-1)
    shape = (*maps.shape[:2], segment.shape[1])
    auc, iou = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    for row, view in np.argwhere((count > 0) & (count < _FULL * is_galaxy.shape[-1])):
        scores = maps[row, :, min(int(view), maps.shape[2] - 1)].flatten(1).numpy()
        auc[row, :, view] = measure_auc(scores, is_galaxy[row, view])
        order, size = scores.argsort(-1, kind="stable"), int(count[row, view])
        for sign, chosen in enumerate((order[:, -size:], order[:, :size])):
            hit = is_galaxy[row, view][chosen].sum(-1)
            iou[row, :, view, sign] = hit / (2 * size - hit)
    return {"auc": auc, "iou": iou}
