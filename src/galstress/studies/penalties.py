"""What transport costs: errors beside those of an expert, and where on the way from one place to another they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.errors import InputError
from galstress.studies.places import STEPS
from galstress.studies.savings import ALL, QUANTITIES, weigh_sizes, with_all, with_interval

__all__ = ["LEVEL", "RESAMPLINGS", "Sizes", "list_costs", "list_errors", "list_ratios", "measure_sizes"]

Array = NDArray[np.float64]
Sizes = Mapping[str, Array]
"""By network: (2, 1 + B, Q + 1) ln of rms and of 68 % error, of each resampling and quantity, last of all together."""

RESAMPLINGS = 1000
LEVEL = 0.95
"""Probability of the intervals."""
_FEWEST = 5


def measure_sizes(errors: Mapping[str, Array], *, seed: int, count: int = RESAMPLINGS) -> dict[str, Array]:
    """Sizes of the errors of several networks on the same galaxies, under the same resamplings.

    Arguments:
        errors: (Q, N) by network, NaN where one gave no answer; such galaxies are left out for all.
        seed: Of the bootstrap over galaxies.
        count: B resamplings; the first entry of the result is the sample itself.

    Returns:
        (2, 1 + B, Q + 1) by network: ln of rms and of 68 % error; the last quantity is the mean of the others, the ln
        of their geometric mean.

    Raises:
        InputError: Fewer than five galaxies that all networks measured.

    Example:
        >>> normal = np.random.default_rng(1).normal(size=(3, 50))
        >>> sizes = measure_sizes({"one": normal, "two": 2 * normal}, seed=1, count=10)
        >>> np.round(np.ptp(np.exp(sizes["two"] - sizes["one"])), 9), sizes["one"].shape
        (np.float64(0.0), (2, 11, 4))
    """
    values = np.stack(list(errors.values()))
    known = np.isfinite(values).all((0, 1))
    if known.sum() < _FEWEST:
        raise InputError(f"{known.sum()} galaxies that all networks measured", f"{_FEWEST} or more", "draw more")
    galaxies = int(known.sum())
    drawn = np.random.default_rng(seed).multinomial(galaxies, np.full(galaxies, 1 / galaxies), count).astype(float)
    weights = np.concatenate([np.ones((1, galaxies)), drawn])
    with np.errstate(divide="ignore"):
        both = [with_all(np.log(each)) for each in weigh_sizes(values[..., known], weights)]
    return {name: np.stack([each[:, place] for each in both]) for place, name in enumerate(errors)}


def list_errors(sizes: Mapping[str, Sizes], experts: Mapping[str, str]) -> QTable:
    """A row a place, network and quantity: both errors, and their ratio to those of the place's expert.

    Arguments:
        sizes: By place and network.
        experts: Name of the expert of each place, which stands for 1.

    Returns:
        ``place``, ``network``, ``quantity``, and with 95 % intervals ``rms``, ``error_68``, ``rms_ratio`` and
        ``error_68_ratio`` (paired: the same galaxies in both).
    """
    rows = []
    for place, networks in sizes.items():
        expert = networks[experts[place]]
        for network, own in networks.items():
            for q, quantity in enumerate((*QUANTITIES, ALL)):
                row: dict[str, Any] = {"place": place, "network": network, "quantity": quantity}
                for k, name in enumerate(("rms", "error_68")):
                    row |= with_interval(name, np.exp(own[k, :, q]), LEVEL)
                    row |= with_interval(f"{name}_ratio", np.exp(own[k, :, q] - expert[k, :, q]), LEVEL)
                rows.append(row)
    return QTable(rows=rows)


def list_ratios(
    sizes: Mapping[str, Sizes], experts: Mapping[str, str], network: str, places: Sequence[str], bar: float
) -> list[dict[str, Any]]:
    """One network beside the experts: each place, and last the geometric mean over ``places``.

    Returns:
        Rows with ``place``, ``quantity``, the ratios of the rms, of its square and of the 68 % error with 95 %
        intervals, and ``within_bar``: whether the ratio of the rms is at most ``bar``; ``sure`` where the whole
        interval is. Places are resampled apart.
    """
    each = {place: sizes[place][network] - sizes[place][experts[place]] for place in places}
    each |= {ALL: np.mean(list(each.values()), 0)} if len(places) > 1 else {}
    rows = []
    for place, change in each.items():
        for q, quantity in enumerate((*QUANTITIES, ALL)):
            row: dict[str, Any] = {"place": place, "quantity": quantity}
            row |= with_interval("rms_ratio", np.exp(change[0, :, q]), LEVEL)
            row |= with_interval("mse_ratio", np.exp(2 * change[0, :, q]), LEVEL)
            row |= with_interval("error_68_ratio", np.exp(change[1, :, q]), LEVEL)
            rows.append(row | {"within_bar": row["rms_ratio"] <= bar, "sure": row["rms_ratio_high"] <= bar})
    return rows


def list_costs(walks: Mapping[tuple[str, str], Sequence[Array]], own: Mapping[str, Array], *, k: int = 0) -> QTable:
    """What each step from one place to another adds to ln of the error of the first place's expert.

    Arguments:
        walks: By start and end: five (2, 1 + B, Q + 1) sizes of the start's expert, at the start, after depth, PSF and
            pixels, and at the end.
        own: By place: sizes of its own expert there.
        k: 0 for the rms, 1 for the 68 % error.

    Returns:
        A row a pair and quantity with 95 % intervals: ``depth``, ``psf``, ``pixels``, ``population`` (they sum to
        ``total``, ln of the expert's error at the end over that at the start), ``own`` (ln of the error of the end's
        expert there over that of the start's at home: how much harder the end is for anyone) and ``penalty`` =
        ``total`` - ``own``, ln of the start's expert's error at the end over that of the end's own expert.
    """
    rows = []
    for (start, end), sizes in walks.items():
        way = np.stack([each[k] for each in sizes])
        changes = dict(zip(STEPS, np.diff(way, axis=0), strict=True))
        changes["total"] = way[-1] - way[0]
        changes["own"] = own[end][k] - own[start][k]
        changes["penalty"] = changes["total"] - changes["own"]
        for q, quantity in enumerate((*QUANTITIES, ALL)):
            row: dict[str, Any] = {"start": start, "end": end, "quantity": quantity}
            for name, values in changes.items():
                row |= with_interval(name, values[:, q], LEVEL)
            rows.append(row)
    return QTable(rows=rows)
