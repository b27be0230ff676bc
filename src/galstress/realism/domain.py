"""The realistic domain in two halves that share no galaxy: one to take labels of, one to measure errors on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.realism.records import Templates
from galstress.realism.reobservation import find_usable, reobserve
from galstress.realism.sky import load_skies
from galstress.survey import Survey

__all__ = ["Domain", "observe_halves"]


@dataclasses.dataclass(frozen=True)
class Domain:
    """Galaxies of a target in two halves that share none; ``truth`` is known."""

    pool: Cutouts
    """To take labels of."""
    test: Cutouts
    """To measure errors on."""

    @property
    def groups(self) -> tuple[list[str], list[str]]:
        """Names of the galaxies of pool and test, a name an image: ``group`` of the catalogue, else ``object_id``."""
        first, second = (
            list(map(str, half.catalogue["group" if "group" in half.catalogue.colnames else "object_id"]))
            for half in (self.pool, self.test)
        )
        return first, second


def observe_halves(
    templates: Templates,
    survey: Survey | str,
    *,
    pool: int,
    test: int,
    snr: tuple[float, float] = (30.0, 200.0),
    real_sky: bool = True,
    seed: int = 1,
) -> Domain:
    """Templates as a survey sees them, at random angles, magnifications and S/N, in two halves.

    Arguments:
        templates: Galaxies to choose of; those that show less than the survey would are left out.
        survey: The target or its name; its ``stamp_px`` is the side of the images.
        pool: Galaxies of the first half, one view each.
        test: Images of the second half, at least one a galaxy that is left, at most so many.
        snr: Least and largest S/N wanted, drawn evenly in its logarithm; no view is drawn brighter than half of its
            template's S/N.
        real_sky: Put galaxies into the survey's real sky, where some is at hand, else into drawn noise.
        seed: Of the split and of everything drawn.

    Returns:
        Each template of the pool once; views of the other templates, each as often as the others or once more.

    Raises:
        InputError: Fewer than ``pool`` + 5 usable galaxies, fewer test images than 5, an S/N range out of order, or
            as :func:`galstress.realism.reobserve` says.
    """
    survey = Survey.load(survey) if isinstance(survey, str) else survey
    if not 0 < snr[0] < snr[1]:
        raise InputError(f"snr={snr}", "two positive numbers, the smaller first", "give snr=(30.0, 200.0)")
    usable = np.flatnonzero(find_usable(templates, survey, snr[0]))
    names = np.unique(templates.group[usable])
    if pool < 1 or test < 5 or len(names) < pool + 5:
        allowed = f"1 to {max(len(names) - 5, 0)} galaxies in the pool, and 5 images or more to test"
        raise InputError(f"pool={pool}, test={test} of {len(names)} usable templates", allowed, "ask for fewer")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(names)[:pool]
    of_pool = usable[np.isin(templates.group[usable], chosen)]
    # one view a galaxy, though a galaxy may have several templates
    of_pool = of_pool[np.unique(templates.group[of_pool], return_index=True)[1]]
    others = rng.permutation(usable[~np.isin(templates.group[usable], chosen)])
    of_test = np.resize(others, test)
    rows = np.concatenate([of_pool, of_test])
    wanted = np.exp(rng.uniform(math.log(snr[0]), math.log(snr[1]), len(rows)))
    generator = torch.Generator().manual_seed(seed)
    sky = load_skies(survey, len(rows), seed=generator) if real_sky else None
    views = reobserve(templates.select(rows), survey, snr=wanted, seed=generator, sky=sky)
    return Domain(views.select(slice(0, len(of_pool))), views.select(slice(len(of_pool), None)))
