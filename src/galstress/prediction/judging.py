"""What a prediction says of its images and of itself: flags, the training's prior, the network's name."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from galstress.cutouts import Cutouts, Flag
from galstress.networks.network import Network
from galstress.survey import Survey

__all__ = ["UNUSABLE", "flag_domain", "flag_images", "flag_scale", "knows_scale", "name_of", "read_prior"]

UNUSABLE = int(Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL)
"""Flags of objects that keep their row and have no answer."""
_SMALLEST_PX = 16
_SCALE_MARGIN = 1.1
"""Factor on the pixel scale that is no other survey yet."""


def flag_images(cutouts: Cutouts) -> np.ndarray:
    """(N,) flags of the images, those without a usable pixel added: masked, no number, all the same, or of no noise."""
    flags = cutouts.flags.copy()
    pixels, seen = cutouts.images.flatten(1), ~cutouts.mask.flatten(1)
    odd = (~torch.isfinite(pixels) & seen).any(1)
    first = pixels.gather(1, seen.byte().argmax(1, keepdim=True))
    blank = ~((pixels != first) & seen).any(1)
    quiet = ~(torch.isfinite(cutouts.sky_rms) & (cutouts.sky_rms > 0))
    lost = (odd | blank | quiet).cpu().numpy()
    flags[odd.cpu().numpy()] |= int(Flag.NON_FINITE)
    flags[lost] |= int(Flag.ALL_MASKED)
    height, width = cutouts.images.shape[1:]
    flags[cutouts.mask[:, height // 2, width // 2].cpu().numpy() & ~lost] |= int(Flag.CENTRE_MASKED)
    if min(cutouts.images.shape[1:]) < _SMALLEST_PX:
        flags |= int(Flag.TOO_SMALL)
    return flags


def flag_domain(network: Network, ln_flux: Tensor, ln_radius: Tensor) -> np.ndarray:
    """(N,) flags of what is brighter, larger or smaller than anything trained on.

    Arguments:
        network: Its ``metadata`` may hold a ``domain``.
        ln_flux: (N,) of flux in units of the sky's rms.
        ln_radius: (N,) of radius in pixels.
    """
    flags = np.zeros(len(ln_flux), np.int64)
    domain = network.metadata.get("domain", {})
    for name, value in (("ln_flux_in_rms", ln_flux), ("ln_radius_px", ln_radius)):
        if name in domain:
            low, high = domain[name]
            flags[((value < low) | (value > high)).cpu().numpy()] |= int(Flag.OUT_OF_DOMAIN)
    return flags


def knows_scale(network: Network, survey: Survey) -> bool:
    """Whether a survey's pixels are as large as in the training; True for networks that are told the scale."""
    low, high = network.metadata.get("domain", {}).get("pixel_scale_arcsec", (0.0, np.inf))
    return bool(low / _SCALE_MARGIN <= survey.pixel_scale_arcsec <= high * _SCALE_MARGIN)


def flag_scale(network: Network, cutouts: Cutouts) -> int:
    """The flag of images whose pixels are not as large as in the training, for networks that know no scale."""
    return 0 if knows_scale(network, cutouts.survey) else int(Flag.OUT_OF_DOMAIN)


def name_of(network: Network) -> str:
    """The network's own name, or its backbone's."""
    return str(network.metadata.get("name", network.metadata["backbone"]["name"]))


def read_prior(network: Network, survey: str) -> dict[str, float]:
    """Shares of the populations under which the network was trained on a survey, or on all of them together."""
    known = network.metadata.get("prior") or {}
    shares = [known[survey]] if survey in known else list(known.values())
    names = dict.fromkeys(name for each in shares for name in each)
    return {name: sum(float(each.get(name, 0)) for each in shares) / len(shares) for name in names}
