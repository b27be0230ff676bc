"""The Perturbation record: a change of Cutouts by a physical amount, and how the truth moves with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from galstress.cutouts import Cutouts
from galstress.errors import InputError

__all__ = ["Perturbation", "nothing_assumed", "unmoved"]

Array = NDArray[np.float64]


def unmoved(names: Sequence[str], values: Array, amount: float, cutouts: Cutouts) -> Array:  # noqa: ARG001
    """The rule of a perturbation that leaves the galaxy as it is."""
    return values


def nothing_assumed(cutouts: Cutouts) -> NDArray[np.bool_]:
    """What a perturbation needs is known of every object."""
    return np.zeros(len(cutouts), bool)


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A pure function of cutouts, an amount and randomness, and the rule of how the truth moves.

    Laws (``tests/test_perturbations.py``): at ``identity`` nothing changes, one seed gives one answer, the input is
    left alone, shape, dtype, device and finiteness are kept, and the truth moves by the rule.

    Example:
        >>> from galstress.perturbations import PERTURBATIONS
        >>> from galstress.simulation import simulate
        >>> cutouts = simulate("hsc-wide-i", 2, stamp_px=32)
        >>> shallow = PERTURBATIONS["depth"](cutouts, 0.25, rng=1)
        >>> round(float(shallow.sky_rms[0] / cutouts.sky_rms[0]), 4)
        2.0
    """

    name: str
    """As in tables and on the command line, for example ``quarter-turns``."""
    axis: str
    """What it tests, for example ``rotation``; several perturbations may share one."""
    unit: str
    """Unit of the amount."""
    identity: float
    """Amount at which nothing changes."""
    amounts: tuple[float, ...]
    """Amounts of a stress test, identity first."""
    change: Callable[[Cutouts, float, torch.Generator], Cutouts]
    """What is done to the cutouts."""
    description: str
    """One sentence for the report."""
    rule: Callable[[Sequence[str], Array, float, Cutouts], Array] = unmoved
    """(D names, (N, D) values, amount, N cutouts before it) -> (N, D): where the values of outputs should go."""
    needs_truth: bool = False
    """Whether it works on simulated cutouts only."""
    allowed: Callable[[float], bool] = math.isfinite
    """Whether an amount can be used."""
    allowed_amounts: str = "any finite number"
    """The same in words, for the error message."""
    assumed: Callable[[Cutouts], NDArray[np.bool_]] = nothing_assumed
    """(N,) objects of which something must be assumed that is not known."""
    assumption: str = ""
    """What is assumed of them, in words."""

    def check(self, cutouts: Cutouts, amount: float) -> None:
        """Refuse an amount out of range, or images without the truth that is needed.

        Raises:
            InputError: One line that says what is allowed.
        """
        if not self.allowed(amount):
            raise InputError(f"{self.name} by {amount}", self.allowed_amounts, "choose another amount")
        if self.needs_truth and cutouts.truth is None:
            raise InputError(f"{self.name} of images without truth", "simulated cutouts", "leave it out here")

    def __call__(self, cutouts: Cutouts, amount: float, rng: torch.Generator | int = 0) -> Cutouts:
        """Perturbed cutouts; the input is left alone.

        Arguments:
            cutouts: N objects.
            amount: In ``unit``.
            rng: Randomness, a generator or a seed.

        Raises:
            InputError: The amount is out of range, or truth is needed and not there.
        """
        self.check(cutouts, amount)
        if amount == self.identity or len(cutouts) == 0:
            return cutouts
        generator = rng if isinstance(rng, torch.Generator) else torch.Generator().manual_seed(int(rng))
        return self.change(cutouts, amount, generator)
