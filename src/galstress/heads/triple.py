"""A head for B/T, half-light radius and flux alone, as GaMPEN has it, and the record of its draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, galaxies_from_table, half_light_radius
from galstress.heads.answer import Answer
from galstress.heads.galaxy import Reference
from galstress.heads.outputs import OUTPUTS
from galstress.survey import Survey

__all__ = ["TRIPLE", "Samples", "TripleHead"]

TRIPLE = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
"""The outputs, in order."""

_LN_D = 16.0
_LEAST_SHARE = 5e-4
_QUANTILES = {"p2_5": 0.025, "p16": 0.16, "p50": 0.5, "p84": 0.84, "p97_5": 0.975}
_GRID = 512
"""Places at which densities are looked at for their mode."""


class TripleHead(nn.Module):
    """Nine numbers to a Gaussian over logit B/T, ln radius and ln flux; it has no weights of its own.

    Arguments:
        features: 9, the backbone's outputs: means, ln of the diagonal of D, entries (1,0), (2,0), (2,1) of L, of the
            covariance L D L^T in units of ``scale``.
        margin: B/T enters as logit(margin + (1 - 2 margin) B/T), so that 0 and 1 have a place; 0, as published, is
            the plain logit, cut at 0.0005 from either end.

    ``centre`` and ``scale`` (mean and standard deviation of the first training targets) are saved with the weights;
    ``widening`` multiplies standard deviations, 1 until it is set on galaxies that were in no training.

    Formula: -ln p = 1/2 r^T (L D L^T)^-1 r + 1/2 sum ln D.

    Source: Ghosh et al. 2022, ApJ 935, 138 (arXiv:2207.05107).

    Example:
        >>> head = TripleHead()
        >>> mean, covariance = head.posterior(torch.zeros(1, 9))
        >>> covariance[0].diagonal().tolist()
        [1.0, 1.0, 1.0]
    """

    centre: Tensor
    scale: Tensor
    widening: Tensor

    def __init__(self, features: int = 9, margin: float = 0.01) -> None:
        super().__init__()
        if features != 9:
            raise ValueError(f"{features} features: the backbone's own outputs are the 9 numbers")
        self.margin = margin
        for name, value in (("centre", 0.0), ("scale", 1.0), ("widening", 1.0)):
            self.register_buffer(name, torch.full((3,), value))

    def forward(self, features: Tensor) -> Tensor:
        """(B, 9), as they came."""
        return features

    def targets(self, cutouts: Cutouts, reference: Reference) -> Tensor:
        """(N, 3) coordinates of the truth of simulated cutouts."""
        if cutouts.truth is None:
            raise ValueError("only cutouts with truth can train a network")
        survey = cutouts.survey
        galaxies = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
        return self.place(galaxies.to(reference.flux.device, torch.float32), reference)

    def place(self, galaxies: Galaxies, reference: Reference) -> Tensor:
        """(N, 3) logit B/T, ln radius and ln flux over the reference's, of galaxies in pixels and image units."""
        share = galaxies.bulge_to_total
        if self.margin == 0:
            share = share.clamp(_LEAST_SHARE, 1 - _LEAST_SHARE)
        return torch.stack(
            [
                torch.logit(self.margin + (1 - 2 * self.margin) * share),
                torch.log(half_light_radius(galaxies) / reference.size_px),
                torch.log(galaxies.flux / (reference.flux * reference.sky_rms)),
            ],
            -1,
        )

    def set_scale(self, targets: Tensor) -> None:
        """Take centre and scale from (N, 3) targets."""
        self.centre.copy_(targets.mean(0))
        self.scale.copy_(targets.std(0).clamp_min(1e-3))

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """(B,) negative log-likelihood of (B, 3) targets, up to a constant."""
        mean, ln_d, lower = _unpack(raw)
        residual = ((targets - self.centre) / self.scale).clamp(-8, 8) - mean
        white = torch.linalg.solve_triangular(lower, residual[..., None], upper=False, unitriangular=True)[..., 0]
        return 0.5 * (white**2 * torch.exp(-ln_d) + ln_d).sum(-1)

    def posterior(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, 3) and covariance (B, 3, 3) of the coordinates, float64."""
        mean, ln_d, lower = _unpack(raw.double())
        spread = (self.scale * self.widening).double()
        root = spread[:, None] * lower * torch.exp(0.5 * ln_d)[:, None, :]
        return self.centre.double() + mean * self.scale.double(), root @ root.mT

    def draw(self, raw: Tensor, normal: Tensor) -> Tensor:
        """(..., 3) one draw of each Gaussian, float64.

        Arguments:
            raw: (..., 9).
            normal: (..., 3) standard normal numbers.
        """
        mean, ln_d, lower = _unpack(raw.double())
        white = (lower @ (torch.exp(0.5 * ln_d) * normal)[..., None])[..., 0]
        return self.centre.double() + (mean + white * self.widening.double()) * self.scale.double()

    def outputs(self, coordinates: Tensor, reference: Reference, survey: Survey) -> Tensor:
        """(B, S, 3) B/T, radius in arcsec and flux in nJy of (B, S, 3) coordinates; B/T is brought to 0 and 1."""
        share, ln_radius, ln_flux = coordinates.double().unbind(-1)
        size, flux = (each.double()[:, None] for each in (reference.size_px, reference.flux * reference.sky_rms))
        share = (torch.sigmoid(share) - self.margin) / (1 - 2 * self.margin)
        radius = torch.exp(ln_radius) * size * survey.pixel_scale_arcsec
        return torch.stack([share.clamp(0, 1), radius, torch.exp(ln_flux) * flux * survey.unit_njy], -1)


def _unpack(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means (..., 3), ln of the diagonal (..., 3), unit lower-triangular matrices (..., 3, 3)."""
    one, zero = torch.ones_like(raw[..., 0]), torch.zeros_like(raw[..., 0])
    rows = [[one, zero, zero], [raw[..., 6], one, zero], [raw[..., 7], raw[..., 8], one]]
    lower = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return raw[..., :3], raw[..., 3:6].clamp(-_LN_D, _LN_D), lower


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples(Answer):
    """A joint posterior of few outputs of N galaxies, as draws of equal weight.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> said = Samples(draws=rng.beta(0.5, 5, (1, 999, 3)), object_id=np.array(["a"]), flags=np.zeros(1, int),
        ...     survey=Survey.load("hsc-wide-g"))
        >>> bool(said.mode()[0, 0] < said.mean[0, 0]), said.names[0]
        (True, 'bulge_to_total')
    """

    KIND: ClassVar[str] = "samples"
    ARRAYS: ClassVar[tuple[str, ...]] = ("draws",)

    draws: np.ndarray
    """(N, S, 3) in :attr:`units`; NaN where unusable."""

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs."""
        return TRIPLE

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each output, as astropy spells it; empty where there is none."""
        return tuple(OUTPUTS[name][0] for name in TRIPLE)

    @property
    def mean(self) -> np.ndarray:
        """(N, 3) posterior means."""
        return self.draws.mean(1, dtype=np.float64)

    @property
    def covariance(self) -> np.ndarray:
        """(N, 3, 3) posterior covariances."""
        offset = self.draws - self.mean[:, None]
        return np.asarray(offset.swapaxes(1, 2) @ offset / max(self.draws.shape[1], 1))

    @property
    def std(self) -> np.ndarray:
        """(N, 3) posterior standard deviations."""
        return self.draws.std(1, dtype=np.float64)

    def quantile(self, probabilities: Sequence[float], samples: int = 0, seed: int = 0) -> np.ndarray:
        """(P, N, 3) marginal quantiles of all draws; ``samples`` and ``seed`` are not needed."""
        del samples, seed
        return np.quantile(self.draws, probabilities, axis=1, method="hazen")

    def sample(self, n: int, seed: int) -> np.ndarray:
        """(n, N, 3) draws, in a random order of each object's own, none twice before all were."""
        rng, count = np.random.default_rng(seed), self.draws.shape[1]
        rounds = rng.random((len(self), -(-n // count), count)).argsort(-1).reshape(len(self), -1)[:, :n]
        return np.take_along_axis(self.draws, rounds[..., None], 1).swapaxes(0, 1)

    def mode(self) -> np.ndarray:
        """(N, 3) where each marginal density is largest.

        A Gaussian kernel estimate (Scott's width) on a grid over the draws; at B/T of 0 and 1 the density is reflected,
        so that nothing leaks past the edges. Where more than a tenth of the draws lie exactly on an edge, that edge.
        """
        found = np.full((len(self), len(TRIPLE)), np.nan)
        for row in np.flatnonzero(self.usable):
            for place, name in enumerate(TRIPLE):
                found[row, place] = _mode(self.draws[row, :, place], (0.0, 1.0) if name == TRIPLE[0] else None)
        return found

    def table(self) -> QTable:
        """A row per object: mean, standard deviation, quantiles and mode of every output."""
        columns = {"mean": self.mean, "std": self.std, "mode": self.mode()}
        columns |= dict(zip(_QUANTILES, self.quantile(tuple(_QUANTILES.values())), strict=True))
        words = {"mean": "posterior mean", "std": "posterior standard deviation", "mode": "mode of the posterior"}
        table = self.begin_table()
        for place, name in enumerate(TRIPLE):
            unit, meaning = OUTPUTS[name]
            for statistic, values in columns.items():
                column = f"{name}_{statistic}"
                table[column] = values[:, place]
                if unit:
                    table[column].unit = unit
                kind = words.get(statistic, f"{statistic[1:].replace('_', '.')} % quantile of the posterior")
                table[column].info.description = f"{meaning}: {kind}"
        return table


def _mode(draws: np.ndarray, edges: tuple[float, float] | None) -> float:
    """Mode of draws of one output of one object."""
    values = np.asarray(draws, np.float64)
    for edge in edges or ():
        if np.mean(values == edge) > 0.1:
            return edge
    width = values.std() * len(values) ** -0.2
    if not width > 1e-9 * np.abs(values).max():  # all the same, to rounding
        return float(values[0])
    # binned first: a thousand draws on a grid of half a thousand would be most of the work
    low, high = values.min() - 3 * width, values.max() + 3 * width
    if edges:
        low, high = max(low, edges[0]), min(high, edges[1])
    grid = np.linspace(low, high, _GRID + 1)
    counts, middle = np.histogram(values, grid)[0].astype(float), (grid[1:] + grid[:-1]) / 2
    reach = int(np.ceil(4 * width / (grid[1] - grid[0])))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * (grid[1] - grid[0]) / width) ** 2)
    mirrored = np.pad(counts, reach, mode="symmetric" if edges and reach <= _GRID else "constant")
    return float(middle[np.convolve(mirrored, kernel, "valid").argmax()])
