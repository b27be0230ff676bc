"""Populations: distributions of galaxy parameters, each with ``sample`` and ``log_prob``, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from galstress.errors import UnknownNameError
from galstress.population.fields import load_field
from galstress.population.published import EvenLight, EvenMagnitudes, Population, SteppedBulge

__all__ = ["POPULATIONS", "Population", "available_populations", "load_population"]

_HSC_NJY = 10 ** (0.4 * (31.4 - 27.0))
"""One unit of HSC's images."""
_SDSS_PX, _CANDELS_PX = 0.396, 0.06

POPULATIONS: Mapping[str, Callable[[], Population]] = {
    "cosmos": load_field,
    "nearby": lambda: load_field(15.0),
    "gamornet-sdss": lambda: EvenMagnitudes(
        "gamornet-sdss",
        disk_mag=(15.0, 22.0),
        bulge=SteppedBulge((15.0, 22.0)),
        disk_radius_arcsec=(10 * _SDSS_PX, 30 * _SDSS_PX),
        bulge_radius_arcsec=(4 * _SDSS_PX, 17 * _SDSS_PX),
        least_axis_ratio=0.3,
    ),
    "gamornet-candels": lambda: EvenMagnitudes(
        "gamornet-candels",
        disk_mag=(19.0, 30.0),
        bulge=SteppedBulge(None),
        disk_radius_arcsec=(1 * _CANDELS_PX, 20 * _CANDELS_PX),
        bulge_radius_arcsec=(1 * _CANDELS_PX, 14 * _CANDELS_PX),
        least_axis_ratio=0.25,
    ),
    "gampen-hsc-g": lambda: EvenLight("gampen-hsc-g", (0.193, 4.317), (1405 * _HSC_NJY, 131388 * _HSC_NJY)),
    "gampen-hsc-r": lambda: EvenLight("gampen-hsc-r", (0.15, 2.5), (400 * _HSC_NJY, 40000 * _HSC_NJY)),
    "gampen-hsc-i": lambda: EvenLight("gampen-hsc-i", (0.12, 1.7), (200 * _HSC_NJY, 20000 * _HSC_NJY)),
    "gampen-sdss": lambda: EvenLight("gampen-sdss", (0.7, 12.0), (1.4e4, 3.6e6), logarithmic=True),
    "gampen-hst": lambda: EvenLight("gampen-hst", (0.05, 1.5), (360.0, 1.4e5), logarithmic=True),
}
"""Populations by name; one line adds one to the command line."""


def available_populations() -> tuple[str, ...]:
    """Names that :func:`load_population` knows."""
    return tuple(POPULATIONS)


@functools.cache
def load_population(name: str) -> Population:
    """A population by name.

    Raises:
        UnknownNameError: No such population.

    Example:
        >>> import torch
        >>> load_population("cosmos").sample(5, torch.Generator().manual_seed(1)).radius.shape
        torch.Size([5, 2])
    """
    if name not in POPULATIONS:
        raise UnknownNameError("population", name, available_populations())
    return POPULATIONS[name]()
