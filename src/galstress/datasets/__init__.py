"""Named sets of real galaxies, each with its own pixel scale, PSF, zero point and variance.

>>> "hst-cosmos-btk100" in available()
True
>>> describe("hst-cosmos-btk100").licence
'MIT (repository); pixels: public HST data'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

import astropy.units as u

from galstress.cutouts import Cutouts
from galstress.datasets import candels, cosmos, hsc, sdss
from galstress.datasets.finding import find_folder
from galstress.datasets.records import Dataset
from galstress.errors import InputError, UnknownNameError
from galstress.loading import assemble

__all__ = ["Dataset", "available", "describe", "load"]

_DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        dataset.name: dataset
        for group in (candels.DATASETS, cosmos.DATASETS, sdss.DATASETS, hsc.DATASETS)
        for dataset in group
    }
)


def available() -> tuple[str, ...]:
    """Names of all sets, sorted; whether the files are here is told by loading one."""
    return tuple(sorted(_DATASETS))


def describe(name: str) -> Dataset:
    """Everything that is known of a set: bands and surveys, licence, credit, source, changes, zero points.

    Raises:
        UnknownNameError: No such set.
    """
    if name not in _DATASETS:
        raise UnknownNameError("data set", str(name), available())
    return _DATASETS[name]


def load(name: str, band: str | None = None, stamp_px: int | None = None, limit: int | None = None) -> Cutouts:
    """Real galaxies as Cutouts, in the set's own order (the same in every band).

    Arguments:
        name: One of :func:`available`.
        band: One of ``describe(name).bands``; None: the first.
        stamp_px: Side of the stamps, 16 to 4096 pixels; None: the set's own.
        limit: At most this many galaxies, from the first.

    Returns:
        Cutouts of the set's own survey; literature values are in the columns ``lit_*`` of the catalogue, each with
        a description that defines it.

    Raises:
        UnknownNameError: No such set, or no such band in it.
        InputError: The files are not here; the message says where they come from.
    """
    dataset = describe(name)
    chosen = dataset.choose_band(band)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit={limit!r}", "an integer of at least 1, or None", "give limit=10")
    frames = dataset.read(find_folder(dataset), chosen)[:limit]
    if not frames:
        raise InputError(f"data set {name} without its files", f"the files of {dataset.folder}", "get them again")
    cutouts = assemble(frames, dataset.surveys[chosen], stamp_px)
    catalogue = cutouts.catalogue.copy()
    for column, (unit, text) in dataset.columns.items():
        if column in catalogue.colnames:
            if unit:
                catalogue[column] = u.Quantity(catalogue[column], unit)
            catalogue[column].info.description = text
    return dataclasses.replace(cutouts, catalogue=catalogue)
