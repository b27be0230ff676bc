"""Point-spread functions measured on real images, by the survey that they may stand in for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from astropy.io import fits
from torch import Tensor

from galstress.datasets import load
from galstress.datasets.cosmos import DATASETS as COSMOS
from galstress.datasets.finding import find_folder
from galstress.optics import normalise_psf

__all__ = ["SOURCES", "collect_psfs"]

_HSC = tuple((name, band) for name in ("hsc-cosmos-udeep147", "hsc-misc") for band in "grizy")
SOURCES: Mapping[str, tuple[tuple[str, str], ...]] = MappingProxyType(
    {
        "hst-acs-f814w": (("hst-cosmos-btk100", "F814W"),),
        **dict.fromkeys(("hsc-wide-g", "hsc-wide-r", "hsc-wide-i", "hsc-udeep-i"), _HSC),
        **dict.fromkeys(("sdss-g", "sdss-r"), (("sdss-pymorph10", "r"),)),
        "kids-r": (("pair-sdss-kids-profit10", "kids-r"),),
    }
)
"""Data sets and bands whose PSFs have a survey's pixels and camera; those of other bands make for variety."""
_ACS = "real_galaxy_PSF_images.fits"


def collect_psfs() -> dict[str, Tensor]:
    """Distinct effective PSFs of real images, for the surveys that some are known of.

    Returns:
        (N, P, P) float32 by survey, a sample a pixel, sum 1: 100 of ACS beside those of :data:`SOURCES`.

    Raises:
        InputError: The data sets are not here.
    """
    found = {}
    for survey, sources in SOURCES.items():
        images = [psf for source in sources for psf in load(*source).psf.unique(dim=0)]
        if survey == "hst-acs-f814w":
            images += _acs_psfs()
        side = max(len(image) for image in images)
        found[survey] = torch.stack([_padded(image, side) for image in images])
    return found


def _acs_psfs() -> list[Tensor]:
    """The 100 PSFs of GalSim's example galaxies."""
    dataset = next(dataset for dataset in COSMOS if _ACS in str(dataset.downloads))
    with fits.open(next(find_folder(dataset).rglob(_ACS))) as file:
        images = [torch.as_tensor(hdu.data.astype("f4")) for hdu in file if hdu.data is not None]
    return [normalise_psf(image[None])[0] for image in images]


def _padded(image: Tensor, side: int) -> Tensor:
    """Zeros around a square image."""
    return torch.nn.functional.pad(image, ((side - len(image)) // 2,) * 4)
