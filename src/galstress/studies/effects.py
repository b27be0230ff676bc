"""Two factors, four cells: what each factor buys in stability, and whether they buy the same thing twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.errors import InputError
from galstress.studies.savings import ALL, QUANTITIES, weigh_sizes, with_all, with_interval

__all__ = ["EFFECTS", "LEVEL", "REAL", "RESAMPLINGS", "SIMULATED", "judge_effects"]

SIMULATED = ("many", "one")
"""Orientations of the simulated galaxies."""
REAL = ("turned", "still", "none")
"""Real galaxies turned, not turned, or not used at all."""
EFFECTS = ("many orientations", "turned", "interaction")
RESAMPLINGS, LEVEL = 1000, 0.95
_FEWEST = 5

Array = NDArray[np.float64]


def judge_effects(sizes: Array, groups: NDArray[np.int64], *, seed: int) -> tuple[QTable, QTable]:
    """Rms of something of every galaxy in each cell, and the effects of both factors on its logarithm.

    Arguments:
        sizes: (2, 3, S, Q, N) of the simulated and of the real factor (:data:`SIMULATED`, :data:`REAL`), of S
            trainings, Q quantities and N galaxies: spreads over angles, or errors; NaN where unknown.
        groups: (N,) galaxy behind each image; galaxies are resampled, and trainings.
        seed: Of the bootstrap.

    Returns:
        Cells: ``simulated``, ``real``, ``quantity``, and ``rms`` over galaxies (geometric mean over trainings) with its
        95 % interval, ``rms_seed_spread``. Effects: ``effect``, ``quantity`` and ``gain``, a difference of ln rms with
        its 95 % interval, positive where it makes the rms smaller: of many orientations instead of one (mean over
        turned and still), of turned real galaxies instead of still ones (mean over many and one), and the interaction,
        what turning buys more after one orientation than after many.

    Raises:
        InputError: Fewer than five galaxies with a value in every cell.

    Example:
        >>> ones = np.abs(np.random.default_rng(1).normal(size=(1, 1, 1, 3, 40)))
        >>> factor = np.array([[1.0, 2.0, 2.0], [3.0, 12.0, 20.0]])
        >>> _, effects = judge_effects(ones * factor[..., None, None, None], np.arange(40), seed=1)
        >>> gains = effects["gain"][effects["quantity"] == "all"]
        >>> bool(np.allclose(np.exp(gains), [18**0.5, 8**0.5, 2]))
        True
    """
    known = np.isfinite(sizes).all((0, 1, 2, 3))
    names, place = np.unique(groups[known], return_inverse=True)
    if len(names) < _FEWEST:
        raise InputError(f"{len(names)} galaxies measured in every cell", f"{_FEWEST} or more", "draw more")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLINGS)[:, place].astype(float)
    weights = np.concatenate([np.ones((1, len(place))), drawn])
    times = sizes.shape[2]
    runs = np.concatenate([np.ones((1, times)), rng.multinomial(times, np.full(times, 1 / times), RESAMPLINGS)]) / times
    with np.errstate(divide="ignore"):
        ln_rms = with_all(np.log(weigh_sizes(sizes[..., known], weights)[0]))
    mean = np.einsum("bijsq,bs->bijq", ln_rms, runs)
    return _list_cells(mean, ln_rms), _list_effects(mean)


def _list_cells(mean: Array, ln_rms: Array) -> QTable:
    """A row a cell and quantity."""
    rows = []
    for i, simulated in enumerate(SIMULATED):
        for j, real in enumerate(REAL):
            for q, quantity in enumerate((*QUANTITIES, ALL)):
                row: dict[str, Any] = {"simulated": simulated, "real": real, "quantity": quantity}
                row |= with_interval("rms", np.exp(mean[:, i, j, q]), LEVEL)
                each = np.exp(ln_rms[0, i, j, :, q])
                rows.append(row | {"rms_seed_spread": float(np.std(each, ddof=1)) if len(each) > 1 else np.nan})
    return QTable(rows=rows)


def _list_effects(mean: Array) -> QTable:
    """A row an effect and quantity, of (B, 2, 3, Q) ln rms."""
    (many_turned, many_still), (one_turned, one_still) = ((mean[:, i, 0], mean[:, i, 1]) for i in range(2))
    found = (
        (one_turned + one_still - many_turned - many_still) / 2,
        (many_still + one_still - many_turned - one_turned) / 2,
        (one_still - one_turned) - (many_still - many_turned),
    )
    rows = []
    for effect, gain in zip(EFFECTS, found, strict=True):
        for q, quantity in enumerate((*QUANTITIES, ALL)):
            rows.append({"effect": effect, "quantity": quantity} | with_interval("gain", gain[:, q], LEVEL))
    return QTable(rows=rows)
