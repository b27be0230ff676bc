"""Named samples of galaxies that networks are compared on: the published simulations, and real galaxies seen anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from galstress.cutouts import Cutouts
from galstress.errors import UnknownNameError
from galstress.realism import load_templates, observe_halves
from galstress.recipes.published import published_surveys
from galstress.simulation import simulate
from galstress.survey import Survey

__all__ = ["SAMPLES", "Sample", "find_sample"]

_AT_ONCE = 500
_FIRST_SEED = 1_980_000_000
"""Seeds from here on draw these galaxies; training mixes its own, and never takes these as they are."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Galaxies with known B/T, radius and flux."""

    name: str
    """As on the command line."""
    survey: Survey
    """Whose images they are."""
    population: str | None
    """Where they are drawn from, which is the prior of their exact posterior; None for real galaxies."""
    stamp_px: int
    """Side of the stamps."""
    words: str
    """What they are."""
    neighbours: bool = False
    """Whether galaxies and stars stand beside them."""

    def draw(self, count: int, seed: int) -> Iterator[Cutouts]:
        """So many galaxies in batches; a batch does not depend on how many there are."""
        if self.population is None:
            yield self._observe(count, seed)
            return
        for number, start in enumerate(range(0, count, _AT_ONCE)):
            size = min(_AT_ONCE, count - start)
            whole = simulate(
                self.survey, _AT_ONCE, seed=_FIRST_SEED + 100_003 * seed + number, population=self.population,
                stamp_px=self.stamp_px, neighbours=self.neighbours,
            )  # fmt: skip
            yield whole if size == _AT_ONCE else whole.select(slice(0, size))

    def _observe(self, count: int, seed: int) -> Cutouts:
        """Real Hubble galaxies as the survey sees them: the half that fine-tuning takes no labels of."""
        survey = dataclasses.replace(self.survey, stamp_px=self.stamp_px)
        return observe_halves(load_templates(), survey, pool=100, test=count, seed=seed).test


def _simulated(name: str, survey: str, population: str, stamp_px: int, words: str) -> Sample:
    """A sample of drawn galaxies; the survey is a preset or one of a publication."""
    own = published_surveys()
    return Sample(name, own[survey] if survey in own else Survey.load(survey), population, stamp_px, words)


def _realistic(name: str, survey: str, stamp_px: int) -> Sample:
    """A sample of real galaxies observed anew."""
    words = "real Hubble galaxies observed anew, with the survey's PSF and, where at hand, its real sky"
    return Sample(name, Survey.load(survey), None, stamp_px, words)


def list_samples() -> dict[str, Sample]:
    """All samples by name."""
    sdss = "simulated as published for GaMorNet on SDSS: sky rms 0.0185 at zero point 25.11"
    samples = (
        _simulated("gamornet-sdss", "gamornet-sdss", "gamornet-sdss", 167, f"{sdss}, no photon noise"),
        _simulated("gamornet-sdss-photon", "gamornet-sdss-photon", "gamornet-sdss", 167, f"{sdss}, and photon noise"),
        _simulated(
            "gamornet-candels", "gamornet-candels", "gamornet-candels", 83,
            "simulated as published for GaMorNet on CANDELS: sky rms 0.0042 at zero point 25.95",
        ),
        _simulated("gampen-hsc-g", "hsc-wide-g", "gampen-hsc-g", 143, "simulated on the ranges of GaMPEN on HSC g"),
        _simulated("gampen-sdss", "sdss-r", "gampen-sdss", 128, "simulated, even in B/T, as SDSS r sees them"),
        _simulated("gampen-hst", "hst-wfc3-f160w", "gampen-hst", 96, "simulated, even in B/T, as F160W sees them"),
        _simulated("nearby-sdss", "sdss-r", "nearby", 128, "simulated, COSMOS galaxies brought closer, SDSS r"),
        _simulated("nearby-hsc", "hsc-wide-i", "nearby", 143, "simulated, COSMOS galaxies brought closer, HSC i"),
        _simulated("cosmos-hst", "hst-wfc3-f160w", "cosmos", 96, "simulated, COSMOS galaxies as F160W sees them"),
        _realistic("realistic-hsc", "hsc-wide-i", 96),
        _realistic("realistic-sdss", "sdss-r", 96),
    )  # fmt: skip
    return {sample.name: sample for sample in samples}


SAMPLES: Mapping[str, str] = {name: sample.words for name, sample in list_samples().items()}
"""Samples by name, and what they are."""


def find_sample(name: str) -> Sample:
    """A sample by name.

    Raises:
        UnknownNameError: No such sample.

    Example:
        >>> find_sample("gamornet-candels").survey.zero_point_mag
        25.95
    """
    if name not in SAMPLES:
        raise UnknownNameError("sample", name, tuple(SAMPLES))
    return list_samples()[name]
