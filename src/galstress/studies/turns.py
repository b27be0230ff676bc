"""Simulated galaxies that turn, what a network says of them at every angle, and how far that moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import CLASSES, TRIPLE, Classes, Samples
from galstress.networks import Network
from galstress.optics import add_correlated_noise
from galstress.perturbations import PERTURBATIONS
from galstress.prediction import predict
from galstress.recipes.drawing import mix_seed
from galstress.scores import CUTS
from galstress.scores.classes import Cut, call_classes
from galstress.simulation import simulate
from galstress.survey import Survey

__all__ = ["BLOCK", "DECISIONS", "KINDS", "POINTS", "Field", "ask", "list_quantities", "measure_decisions",
           "measure_block", "measure_shifts", "turn"]  # fmt: skip

BLOCK = 50
"""Galaxies that are drawn, turned and measured at a time."""
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "redrawn": "drawn again at each angle, without noise",
        "noisy": "drawn again at each angle under one noise, pixel for pixel in units of its sigma",
        "quarter": "pixels in exact quarter turns, noise and PSF turned with them",
        "resampled": "noisy pixels turned by interpolation",
    }
)
"""Ways to turn a galaxy."""
POINTS: Mapping[str, str] = MappingProxyType(
    {"classes": "probability", "samples": "mode of the marginal", "parameters": "median of the marginal"}
)
"""What stands for an answer, by kind of answer."""
DECISIONS: Mapping[str, Cut] = MappingProxyType(
    {"most probable": Cut(0.0, 0.0), "sdss": CUTS["sdss"], "candels": CUTS["candels"]}
)
"""Cuts at which decisions are watched."""
_INTERVAL = (0.158655, 0.841345)
_LARGEST_RADIUS = 0.35
"""Of the stamp's side: wider galaxies are not drawn."""
_MOST_DRAWS = 60
_LEAST_SHARE = 0.1
"""B/T below which a shift relative to itself says nothing."""
_FAR = 1_970_000_000

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Field:
    """Galaxies of one survey, in blocks; a block does not depend on how many there are."""

    survey: Survey
    """Whose images they are."""
    shares: Mapping[str, float]
    """Populations that they are drawn from."""
    stamp_px: int
    """Side of the stamps."""
    least_snr: float = 20.0
    """Fainter galaxies are not drawn, nor those with a half-light radius above 0.35 of what is looked at."""
    seed: int = 1
    """Far from every training's."""
    view_px: int | None = None
    """Side of what is looked at; None: the whole stamp."""

    def draw(self, block: int) -> tuple[Cutouts, Tensor]:
        """:data:`BLOCK` galaxies without noise, and noise (N, H, W) in units of its sigma.

        Raises:
            InputError: The survey sees hardly any galaxy of a population.
        """
        parts: list[Cutouts] = []
        for place, (population, number) in enumerate(self._numbers().items()):
            parts += self._draw(population, number, mix_seed(_FAR + self.seed, block, place))
        clean = Cutouts.concatenate(parts)
        generator = torch.Generator().manual_seed(mix_seed(_FAR + self.seed, block, 10**6))
        white = torch.randn(clean.images.shape, generator=generator)
        return clean, add_correlated_noise(white, self.survey.noise_correlation_fwhm_px)

    def _numbers(self) -> dict[str, int]:
        """Galaxies of each population in a block: by its share, what is left over to the largest remainders."""
        total = sum(self.shares.values())
        exact = {name: BLOCK * share / total for name, share in self.shares.items() if share > 0}
        whole = {name: int(number) for name, number in exact.items()}
        for name in sorted(exact, key=lambda each: whole[each] - exact[each])[: BLOCK - sum(whole.values())]:
            whole[name] += 1
        return {name: number for name, number in whole.items() if number}

    def _draw(self, population: str, number: int, seed: int) -> Iterator[Cutouts]:
        """So many galaxies that are bright enough and fit."""
        found = 0
        for attempt in range(_MOST_DRAWS):
            drawn = simulate(
                self.survey, 2 * number, mix_seed(seed, attempt), population, noise=False, stamp_px=self.stamp_px
            )
            assert drawn.truth is not None
            radius = drawn.truth["half_light_radius_arcsec"].to_value("arcsec") / self.survey.pixel_scale_arcsec
            fits = (np.asarray(drawn.truth["snr"]) > self.least_snr) & (
                radius < _LARGEST_RADIUS * (self.view_px or self.stamp_px)
            )
            chosen = np.flatnonzero(fits)[: number - found]
            if len(chosen):
                found += len(chosen)
                yield drawn.select(chosen)
            if found == number:
                return
        came = f"{found} of {number} galaxies of {population} above S/N {self.least_snr:g} in {self.survey.name}"
        raise InputError(came, "a population that the survey sees", "choose another survey, or a smaller --snr")


def turn(
    clean: Cutouts, noise: Tensor, kinds: Sequence[str], angles: int, *, is_even: bool = False
) -> Iterator[tuple[str, Cutouts]]:
    """Galaxies at every angle, kind by kind as they come: a redrawn one serves with and without noise.

    Arguments:
        clean: Galaxies without noise, with truth.
        noise: (N, H, W) in units of its sigma.
        kinds: Of :data:`KINDS`.
        angles: Even ones over a circle; the quarter turns are always four.
        is_even: Answers are the same at an angle and a quarter turn from it where nothing but the galaxy turns: redrawn
            ones without noise come at the angles of the first quarter only, where these make up all.
    """
    amounts = [360.0 * k / angles for k in range(angles)]
    is_even = is_even and angles % 4 == 0
    for angle in amounts:
        with_clean = "redrawn" in kinds and (angle < 90 or not is_even)
        if with_clean or "noisy" in kinds:
            redrawn = PERTURBATIONS["redrawn-rotation"](clean, angle)
            if with_clean:
                yield "redrawn", redrawn
            if "noisy" in kinds:
                yield "noisy", _expose(redrawn, noise)
        if "resampled" in kinds:
            yield "resampled", PERTURBATIONS["interpolated-rotation"](_expose(clean, noise), angle)
    if "quarter" in kinds:
        for element in range(4):
            yield "quarter", PERTURBATIONS["quarter-turns"](_expose(clean, noise), float(element))


def _expose(clean: Cutouts, noise: Tensor) -> Cutouts:
    """The same with noise of its variance."""
    return dataclasses.replace(clean, images=clean.images + clean.variance.sqrt() * noise)


def ask(network: Network, cutouts: Cutouts, average: int, device: str = "cpu") -> tuple[str, Array]:
    """What a network says: a kind of :data:`POINTS`, and (S, N, 3) numbers.

    A classifier's are (1, N, 3) probabilities. Of a posterior of B/T, radius and flux they are the point (mode for
    :class:`galstress.heads.Samples`, else median) and both ends of the central 68 % interval.
    """
    answer = predict(network, cutouts, average=average, device=device)
    if isinstance(answer, Classes):
        return "classes", np.asarray(answer.probabilities, float)[None]
    places = [answer.names.index(name) for name in TRIPLE]
    if isinstance(answer, Samples):
        return "samples", np.stack([answer.mode(), *answer.quantile(_INTERVAL)])
    return "parameters", answer.quantile([0.5, *_INTERVAL])[..., places]


def list_quantities(kind: str) -> tuple[str, ...]:
    """What moves, of a kind of answer; ``all`` is what moves most of it."""
    if kind == "classes":
        return (*(f"p_{name}" for name in CLASSES), "all")
    return ("bulge_to_total", "half_light_radius", "flux", "all", "bulge_to_total_relative")


def measure_shifts(kind: str, answers: Array) -> dict[str, dict[str, Array]]:
    """How far answers move as galaxies turn.

    Arguments:
        kind: Of the answers.
        answers: (T, S, N, 3) as :func:`ask` gives them, at T angles.

    Returns:
        Per quantity of :func:`list_quantities`: ``point`` and, of posteriors, ``interval`` (its end that moves more),
        each (2, N): the largest deviation over angles from the mean over angles, and the root mean square of it. Radius
        and flux are relative to their mean, probabilities and B/T are not (they have a full scale of 1), but for
        ``bulge_to_total_relative``, of galaxies with a mean B/T of 0.1 and more. ``all`` is the largest of the first
        three. NaN where an answer is.

    Example:
        >>> turned = np.array([[[[0.5, 1.02, 90.0]]], [[[0.52, 0.98, 110.0]]]])
        >>> found = measure_shifts("samples", np.repeat(turned, 3, 1))
        >>> [round(float(found[name]["point"][0, 0]), 3) for name in ("bulge_to_total", "half_light_radius", "all")]
        [0.01, 0.02, 0.1]
    """
    if kind == "classes":
        parts = [_deviate(answers[:, 0, :, place], relative=False) for place in range(3)]
        found = {name: {"point": part} for name, part in zip(list_quantities(kind), parts, strict=False)}
        return found | {"all": {"point": np.max(parts, 0)}}
    found = {}
    for place, name in enumerate(list_quantities(kind)[:3]):
        moved = [_deviate(answers[:, s, :, place], relative=place > 0) for s in range(3)]
        found[name] = {"point": moved[0], "interval": np.maximum(moved[1], moved[2])}
    found["all"] = {part: np.max([each[part] for each in found.values()], 0) for part in ("point", "interval")}
    own = np.where(answers[:, 0, :, 0].mean(0) >= _LEAST_SHARE, answers[:, 0, :, 0], np.nan)
    found["bulge_to_total_relative"] = {"point": _deviate(own, relative=True)}
    return found


def _deviate(values: Array, *, relative: bool) -> Array:
    """(2, N) largest deviation of (T, N) values from their mean over T, and its rms."""
    mean = values.mean(0)
    off = values - mean
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):
            off = off / mean
    return np.stack([np.abs(off).max(0), np.sqrt(np.mean(off**2, 0))])


def measure_decisions(answers: Array) -> dict[str, dict[str, Array]]:
    """Whether a classifier's decisions change as galaxies turn.

    Arguments:
        answers: (T, 1, N, 3) probabilities.

    Returns:
        Per cut of :data:`DECISIONS`: (N,) ``changed`` (1 where not all angles give one class) and ``flipped`` (1 where
        some angle gives a disk and another a bulge); NaN where a probability is.
    """
    found = {}
    for name, cut in DECISIONS.items():
        called = np.stack([call_classes(each, disk=cut.disk, bulge=cut.bulge) for each in answers[:, 0]])
        changed, flipped = (called != called[0]).any(0), (called == 0).any(0) & (called == 2).any(0)
        known = (called >= 0).all(0)
        found[name] = {"changed": np.where(known, changed, np.nan), "flipped": np.where(known, flipped, np.nan)}
    return found


def measure_block(
    network: Network, field: Field, block: int, kinds: Sequence[str], how: tuple[int, int, str]
) -> dict[str, Any]:
    """A block of galaxies turned in every way: its record, numbers as lists; ``how``: angles, average, device."""
    angles, average, device = how
    clean, noise = field.draw(block)
    assert clean.truth is not None
    answers: dict[str, list[Array]] = {kind: [] for kind in kinds}
    said = ""
    is_even = average >= 8 and _turns_evenly(network, field)
    for kind, turned in turn(clean, noise, kinds, angles, is_even=is_even):
        said, values = ask(network, turned, average, device)
        answers[kind].append(values)
    record: dict[str, Any] = {"answer": said, "snr": _list(np.asarray(clean.truth["snr"], float)), "kinds": {}}
    for kind, of_kind in answers.items():
        stacked = np.stack(of_kind)
        moved = measure_shifts(said, stacked)
        record["kinds"][kind] = {"shifts": {q: {p: _list(a) for p, a in each.items()} for q, each in moved.items()}}
        if said == "classes":
            decided = measure_decisions(stacked)
            record["kinds"][kind]["decisions"] = {
                cut: {name: _list(each) for name, each in found.items()} for cut, found in decided.items()
            }
    return record


def _turns_evenly(network: Network, field: Field) -> bool:
    """Whether a galaxy drawn a quarter turn further is the same image turned, to a network averaged over quarters.

    The PSF is round, and what the network looks at is centred on the stamp: sides that are both even or both odd.
    """
    psf, side = field.survey.psf, getattr(network.backbone, "stamp_px", 0)
    return psf.e1 == psf.e2 == 0 and (field.stamp_px - side) % 2 == 0


def _list(values: Array) -> Any:  # noqa: ANN401 (a list of numbers, or of lists)
    """Numbers as JSON knows them, six digits of each, None for NaN."""
    if values.ndim > 1:
        return [_list(each) for each in values]
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
