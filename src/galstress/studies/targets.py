"""The galaxies of a study of rotation: a few with labels, others to test on, and the same ones at many angles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.realism import Templates, find_usable, largest_magnification, load_templates, reobserve
from galstress.simulation import simulate
from galstress.studies.places import Place, find_place
from galstress.survey import Survey

__all__ = ["Target", "observe_target", "simulate_target"]

_WIDER = 1.5
"""Side of the stamps of labelled galaxies, in units of what networks see: room for turns by any angle."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Galaxies of one survey; no galaxy is in two of them."""

    name: str
    """What they are, in words."""
    place: Place
    """The survey, and the populations that training on simulations draws from."""
    pool: Cutouts
    """With labels."""
    test: Cutouts
    """Others of the same kind."""
    groups: tuple[Sequence[str], Sequence[str]]
    """Galaxy behind each image of both."""
    redrawn: Cutouts
    """Simulated smooth galaxies of the survey, to be drawn again at other angles."""
    turned: tuple[Cutouts, ...] = ()
    """The test's real galaxies observed at even angles, one entry an angle; none where the target is simulated."""
    simulated: bool = True
    """Whether pool and test are."""


def simulate_target(survey: str, counts: tuple[int, int, int], stamp_px: int, seed: int, device: str = "cpu") -> Target:
    """Structured simulated galaxies as the real ones.

    Arguments:
        survey: Whose they are; its populations are those of the recipe ``foveal``.
        counts: Labelled galaxies, test galaxies, and galaxies that are redrawn.
        stamp_px: Side of what networks see.
        seed: Of everything drawn.
        device: Where to draw.
    """
    place, wide = find_place(survey), 2 * round(_WIDER * stamp_px / 2)
    smooth = place.draw(counts[0] + counts[1], seed, wide, device)
    drawn = simulate(place.survey, seed=seed + 2, galaxies=smooth.truth, stamp_px=wide, structured=1.0, device=device)
    pool, test = drawn.select(slice(0, counts[0])), drawn.select(slice(counts[0], None))
    names = (list(map(str, pool.object_id)), list(map(str, test.object_id)))
    redrawn = place.draw(counts[2], seed + 3, stamp_px, device)
    return Target("simulated galaxies with arms, bars, rings, clumps or dust", place, pool, test, names, redrawn)


def observe_target(
    survey: str,
    counts: tuple[int, int, int],
    stamp_px: int,
    seed: int,
    *,
    angles: int = 12,
    snr: float = 60.0,
    templates: Templates | None = None,
) -> Target:
    """Real Hubble galaxies re-observed by the survey in drawn noise, at random angles, split by galaxy.

    Arguments:
        survey: The target.
        counts: Labelled galaxies, test galaxies, and simulated galaxies that are redrawn.
        stamp_px: Side of what networks see.
        seed: Of everything drawn.
        angles: At which each test galaxy is observed.
        snr: Wanted of each image; none is drawn brighter than half of its template's S/N.
        templates: The galaxies; by default those of :func:`galstress.realism.load_templates`.

    Raises:
        InputError: The templates are not here, or there are fewer than asked for.
    """
    place, wide = find_place(survey), 2 * round(_WIDER * stamp_px / 2)
    target = dataclasses.replace(place.survey, stamp_px=wide)
    loaded = load_templates() if templates is None else templates
    rows = np.flatnonzero(find_usable(loaded, target))
    rows = rows[np.unique(loaded.group[rows], return_index=True)[1]]  # one template a galaxy
    if len(rows) < counts[0] + counts[1]:
        came = f"{counts[0]} labelled and {counts[1]} test galaxies"
        raise InputError(came, f"{len(rows)} in all, the usable templates", "ask for fewer")
    rows = np.random.default_rng(seed).permutation(rows)
    chosen = loaded.select(rows[: counts[0]]), loaded.select(rows[counts[0] : counts[0] + counts[1]])
    generator = torch.Generator().manual_seed(seed)
    pool, test = (reobserve(each, target, snr=snr, seed=generator) for each in chosen)
    magnification = largest_magnification(chosen[1], target) * 0.7
    narrow: Survey = dataclasses.replace(target, stamp_px=stamp_px)
    turned = [
        reobserve(chosen[1], narrow, magnification=magnification, turn=360.0 * k / angles, snr=snr, seed=seed)
        for k in range(angles)
    ]
    names = (list(map(str, chosen[0].group)), list(map(str, chosen[1].group)))
    words = "real Hubble galaxies re-observed in drawn noise"
    return Target(
        words, place, pool, test, names, place.draw(counts[2], seed + 3, stamp_px), tuple(turned), simulated=False
    )
