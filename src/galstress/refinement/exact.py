"""The exact posterior of each galaxy: climb to the maxima, then importance sampling around them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError
from galstress.heads import Prediction, Reference, from_internal
from galstress.heads.flow import BEYOND, EDGE
from galstress.likelihood import Likelihood
from galstress.refinement.coordinates import from_natural, to_natural
from galstress.refinement.fitting import Maximum, climb
from galstress.refinement.priors import SHARE, Normal, Prior
from galstress.refinement.proposals import propose
from galstress.refinement.sampling import Samples, add_round, sample_posterior
from galstress.survey import Survey

__all__ = ["ENOUGH", "SKY_SIGMA", "Starts", "check_effective", "check_stamps", "sample_exactly"]

SKY_SIGMA = 0.02
"""How well the sky is taken to be subtracted, in rms of one pixel: as the training galaxies have it."""
DRAWS = 512
"""Draws kept of each posterior."""
ENOUGH = 150
"""Effective samples that are aimed for: intervals of so many hold the truth about a point too seldom."""
_FIRST = 3.0
"""Points of the first round, for each effective sample that is aimed for."""
_MORE = (3.0, 6.0, 12.0)
"""The same of the rounds after it, where they are needed."""
_FEW = 100.0
_BLOCK = 32
_POINTS = 2_000_000
_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL


@dataclasses.dataclass(frozen=True)
class Starts:
    """Where N posteriors are looked for."""

    reference: Reference
    """Of the internal coordinates, float64."""
    internal: Tensor
    """(S, N, 12) internal coordinates to start from; each kind of galaxy takes the best of them."""
    draws: Tensor | None
    """(N, S, 12) draws of a network's posterior, or None."""

    def select(self, rows: Tensor) -> Starts:
        """The galaxies at ``rows``."""
        draws = None if self.draws is None else self.draws[rows]
        return Starts(self.reference.select(rows), self.internal[:, rows], draws)


@dataclasses.dataclass(frozen=True)
class _Found:
    """What one block of galaxies gave."""

    draws: Tensor
    """(N, 512, 12) internal coordinates."""
    effective: Tensor
    """(N,) effective samples."""
    chi_square: Tensor
    """(N,) of the best point, per degree of freedom."""
    ln_evidence: Tensor
    """(N,)."""
    pixels: Tensor
    """(N,) pixels that count."""


def check_stamps(cutouts: Cutouts) -> None:
    """Refuse cutouts that are not square or below 16 pixels.

    Raises:
        InputError: They are.
    """
    height, width = cutouts.images.shape[1:]
    if min(height, width) < 16 or height != width:
        raise InputError(
            f"cutouts of {width} x {height} pixels", "square ones of 16 or more", "load them with stamp_px=64"
        )


def check_effective(effective: int) -> None:
    """Refuse a number of effective samples that no posterior can be read from.

    Raises:
        InputError: It is not a whole number of 20 or more.
    """
    if not isinstance(effective, int) or effective < 20:
        raise InputError(f"effective={effective!r}", "a whole number of 20 or more", f"leave it out, for {ENOUGH}")


def sample_exactly(
    cutouts: Cutouts,
    starts: Starts,
    prior: Prior,
    *,
    flags: np.ndarray,
    name: str,
    seed: int,
    effective: int = ENOUGH,
    progress: bool = False,
) -> Prediction:
    """Posteriors of disk + bulge + sky given the pixels, under a prior.

    Arguments:
        cutouts: N images.
        starts: Of the same N.
        prior: Over the internal coordinates.
        flags: (N,) flags so far; unusable objects keep their row and hold NaN.
        name: Who says so, for the record.
        seed: Of the samples.
        effective: Effective samples that are aimed for.
        progress: Show a bar with the time left.

    Returns:
        Prediction with 512 draws a galaxy. Memory does not grow with N but for these.
    """
    count = len(cutouts)
    flags = flags.copy()
    dark = (cutouts.mask | cutouts.neighbour_mask).flatten(1).all(1).cpu().numpy()
    flags[dark] |= int(Flag.ALL_MASKED)
    result = torch.full((count, DRAWS, starts.internal.shape[-1]), math.nan)
    checks = {key: np.full(count, np.nan) for key in ("effective_samples", "chi_square", "ln_evidence")}
    good = torch.as_tensor(np.flatnonzero((flags & int(_UNUSABLE)) == 0))
    blocks = good.split(_BLOCK) if len(good) else []
    for number, rows in enumerate(track(blocks, "sampling", disable=not progress, transient=True)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        found = _sample_block(cutouts.select(rows.numpy()), starts.select(rows), prior, effective, generator)
        result[rows] = found.draws.float()
        at = rows.numpy()
        checks["effective_samples"][at] = found.effective.numpy()
        checks["chi_square"][at] = found.chi_square.numpy()
        checks["ln_evidence"][at] = found.ln_evidence.numpy()
        flags[at] |= _judged(found)
    draws = result.double()
    mean = draws.mean(1)
    off = draws - mean[:, None]
    return Prediction(
        mean,
        off.mT @ off / DRAWS,
        dataclasses.replace(starts.reference, **{k: getattr(starts.reference, k).float() for k in _MEASURED}),
        cutouts.object_id,
        flags,
        cutouts.survey,
        name,
        draws=result,
        effective_samples=checks["effective_samples"],
        chi_square=checks["chi_square"],
        ln_evidence=checks["ln_evidence"],
    )


_MEASURED = ("flux", "size_px", "sky_rms")


def _judged(found: _Found) -> np.ndarray:
    """Flags of a block: too few effective samples, or a chi-square that noise cannot explain."""
    pixels = found.pixels.numpy()
    flags = np.zeros(len(pixels), np.int64)
    flags[~(found.effective.numpy() >= _FEW)] |= int(Flag.FEW_SAMPLES)
    # five sigma of a chi-square, and a variance that may be known to a few per cent only
    worst = 1 + np.maximum(5 * np.sqrt(2 / np.maximum(pixels, 1)), 0.1)
    flags[~(found.chi_square.numpy() <= worst)] |= int(Flag.BAD_FIT)
    return flags


def _sample_block(cutouts: Cutouts, starts: Starts, prior: Prior, enough: int, generator: torch.Generator) -> _Found:
    """A block of usable galaxies."""
    # single precision moves a log-likelihood by less than 0.02, and takes half the time
    likelihood = Likelihood.of(cutouts, sky_sigma=SKY_SIGMA, dtype=torch.float32)
    normals = prior.stand_ins(cutouts.survey)
    any_shape = normals[0].any_shape
    maxima = _climb_all(likelihood, starts, normals)
    draws = None if starts.draws is None else to_natural(starts.draws, any_shape)
    target = _Target(likelihood, starts.reference, prior, cutouts.survey, any_shape)
    proposal = propose(maxima, draws, target.ln_prior)
    samples = sample_posterior(target, proposal, round(_FIRST * enough), generator)
    found = _summarised(samples, target, generator)
    rows = torch.arange(len(cutouts))
    for points in _MORE:
        poor = ~(samples.effective >= enough)
        rows, samples = rows[poor], samples.select(torch.nonzero(poor)[:, 0])
        if len(rows) == 0:
            break
        own = target.select(rows)
        samples = add_round(samples, own, generator, round(points * enough))
        better = _summarised(samples, own, generator)
        for field in dataclasses.fields(found):
            getattr(found, field.name)[rows] = getattr(better, field.name)
    return found


def _summarised(samples: Samples, target: _Target, generator: torch.Generator) -> _Found:
    """Draws of equal weight in internal coordinates, and what the samples say of themselves."""
    usable = torch.isfinite(samples.ln_weight).any(0)
    points = samples.resample(DRAWS, generator)
    internal, _ = from_natural(points, any_shape=target.any_shape)
    internal[~usable] = math.nan
    best, _ = from_natural(samples.best, any_shape=target.any_shape)
    galaxies, _ = from_internal(best, target.reference)
    likelihood = target.likelihood
    chi_square = likelihood.chi_square(galaxies) / (likelihood.pixels - points.shape[-1]).clamp_min(1)
    effective = torch.where(usable, samples.effective, 0.0)
    return _Found(internal, effective, chi_square, samples.ln_evidence, likelihood.pixels)


@dataclasses.dataclass(frozen=True)
class _Target:
    """Likelihood times prior times volume element, of natural coordinates; large batches are cut up."""

    likelihood: Likelihood
    reference: Reference
    prior: Prior
    survey: Survey
    any_shape: bool = False

    def select(self, rows: Tensor) -> _Target:
        """The target of some galaxies."""
        return dataclasses.replace(self, likelihood=self.likelihood.select(rows), reference=self.reference.select(rows))

    def __call__(self, points: Tensor) -> Tensor:
        """(n, N) log-density of (n, N, 12) points."""
        internal, value = self._prior_at(points)
        inside = torch.isfinite(value)
        # galaxy by galaxy, and only where the prior allows it
        rows, places = torch.nonzero(inside.T, as_tuple=True)
        size = max(64, _POINTS // self.likelihood.images[0].numel())
        for start in range(0, len(rows), size):
            row, place = rows[start : start + size], places[start : start + size]
            galaxies, _ = from_internal(internal[place, row], self.reference.select(row))
            value[place, row] += self.likelihood.log_prob(galaxies, row)
        return torch.where(torch.isfinite(value), value, -math.inf)

    def ln_prior(self, points: Tensor) -> Tensor:
        """(n, N) log-density of the prior in natural coordinates."""
        return self._prior_at(points)[1]

    def _prior_at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Internal coordinates, and the prior's log-density in natural ones."""
        internal, ln_volume = from_natural(points, any_shape=self.any_shape)
        return internal, self.prior.log_prob(internal, self.reference, self.survey) + ln_volume


def _climb_all(likelihood: Likelihood, starts: Starts, normals: tuple[Normal, ...]) -> list[Maximum]:
    """The best maximum of each kind that the prior has, over the starts; mixed galaxies' comes first."""
    maxima: list[Maximum] = []
    natural = to_natural(starts.internal, normals[0].any_shape)
    for kind, normal in enumerate(normals):
        if kind and normal.ln_share == -math.inf:
            continue
        here = natural.clone()
        if kind:
            here[..., SHARE] = (EDGE + BEYOND) * (-1 if kind == 1 else 1)
        else:
            here[..., SHARE] = here[..., SHARE].clamp(-3.0, 3.0)
        maxima.append(_best_of([climb(likelihood, start, starts.reference, normal) for start in here]))
    return maxima


def _best_of(maxima: list[Maximum]) -> Maximum:
    """Galaxy by galaxy, the maximum with the largest evidence."""
    best = torch.nan_to_num(torch.stack([m.ln_evidence for m in maxima]), nan=-math.inf).argmax(0)
    rows = torch.arange(len(best))
    return Maximum(
        **{f.name: torch.stack([getattr(m, f.name) for m in maxima])[best, rows] for f in dataclasses.fields(Maximum)}
    )
