"""Splits by group: images of one galaxy never stand on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from galstress.errors import InputError

__all__ = ["Share", "deal_folds", "read_groups", "split_rows"]

Rows = NDArray[np.int64]
Share = float | Sequence[int] | Rows
"""A share of the objects, or their rows."""


def read_groups(groups: Sequence[str] | NDArray[np.str_] | None, object_id: NDArray[np.str_]) -> Rows:
    """(N,) number of each object's group, in the order in which they first come; by default its own name's.

    Raises:
        InputError: Not one name an object.
    """
    names = np.asarray(object_id if groups is None else groups).astype(str)
    if names.shape != object_id.shape:
        raise InputError(f"{names.shape} groups", f"{object_id.shape}", "give the name of a galaxy for each cutout")
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def deal_folds(groups: Rows, folds: int, seed: int) -> Rows:
    """(N,) fold of each object, 0 to ``folds`` - 1: shuffled groups, each dealt to the fold that is smallest so far.

    Raises:
        InputError: Fewer than two folds, or fewer groups than folds.

    Example:
        >>> deal_folds(np.array([0, 0, 1, 2]), 2, seed=1).tolist()
        [0, 0, 1, 1]
    """
    count = len(np.unique(groups))
    if not 2 <= folds <= count:
        raise InputError(f"{folds} folds of {count} galaxies", f"2 to {count}", "give fewer folds, or label more")
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold = np.zeros(folds, np.int64), np.zeros(len(groups), np.int64)
    for place in order:
        smallest = int(np.argmin(filled))
        fold[groups == names[place]] = smallest
        filled[smallest] += sizes[place]
    return fold


def split_rows(groups: Rows, validation: Share, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to validate on, no group in both.

    Arguments:
        groups: (N,) numbers of groups.
        validation: Share of the objects, 0 to below 1 (0: nothing is validated), or the rows themselves (indices or
            booleans).
        seed: Of a share's choice.

    Raises:
        InputError: Nothing is left to learn from, or a group stands on both sides.

    Example:
        >>> rows = split_rows(np.array([0, 0, 1, 2, 3]), 0.4, seed=1)
        >>> [part.tolist() for part in rows]
        [[2, 3, 4], [0, 1]]
    """
    everything = np.arange(len(groups))
    if isinstance(validation, int | float):
        if not 0 <= validation < 1:
            raise InputError(f"validation={validation}", "a share from 0 to below 1, or rows", "give 0.2")
        wanted, taken = validation * len(groups), np.zeros(len(groups), bool)
        order = np.random.default_rng(seed).permutation(np.unique(groups))
        for group in order[:-1]:
            if taken.sum() >= wanted:
                break
            taken |= groups == group
    else:
        taken = np.zeros(len(groups), bool)
        taken[np.asarray(validation)] = True
        shared = np.intersect1d(groups[taken], groups[~taken])
        if len(shared):
            raise InputError(f"{len(shared)} galaxies on both sides", "galaxies on one side", "split by galaxy")
    if taken.all():
        raise InputError(f"{len(groups)} objects, all for validation", "some to learn from", "leave some out")
    return everything[~taken], everything[taken]
