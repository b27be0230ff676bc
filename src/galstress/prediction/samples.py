"""Joint draws of B/T, radius and flux from a network with dropout: :class:`galstress.heads.Samples`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from galstress.cutouts import Cutouts, Flag
from galstress.heads import Samples
from galstress.networks.network import Network
from galstress.prediction.dropout import draw_raw
from galstress.prediction.judging import UNUSABLE, flag_domain, flag_images, flag_scale, name_of, read_prior
from galstress.prediction.turns import Turn, look_at_turns

__all__ = ["predict_samples"]

_FAINT_SNR = 10.0
_A_PASS = 32
"""Draws of the Gaussian of each pass with dropout."""


def predict_samples(network: Network, cutouts: Cutouts, turns: Sequence[Turn], count: int) -> Samples:
    """One batch: ``count`` draws an object, an equal part from each of the turns and mirrors.

    The posterior is the mixture of the Gaussians that the network says under dropout; each of those gives 32 draws.
    """
    flags = flag_images(cutouts)
    if not len(cutouts):
        return _pack(network, cutouts, flags, np.zeros((0, count, 3), np.float32))
    clouds, reference, places = [], None, []
    normal = _draw_normal(max(count // len(turns), 1)).to(cutouts.images.device)
    for _, _, inputs in look_at_turns(network, cutouts, turns):
        reference = inputs.reference if reference is None else reference
        # every turn drops the same units: else an answer would not be that of the turned image
        raw = draw_raw(network, inputs, -(-len(normal) // _A_PASS))
        ln_flux, ln_size = inputs.reference.compare(reference)
        places.append(network.head.posterior(raw.mean(1))[0][:, 1:] + torch.stack([ln_size, ln_flux], 1))
        # neighbours in the sequence of points are even among themselves, those a power of two apart are not
        coordinates = network.head.draw(raw.repeat_interleave(_A_PASS, 1)[:, : len(normal)], normal)
        clouds.append(network.head.outputs(coordinates, inputs.reference, cutouts.survey))
    draws = torch.cat(clouds, 1).float().cpu().numpy()
    assert reference is not None
    middle = torch.stack(places).mean(0)
    bad = ((flags & UNUSABLE) != 0) | ~np.isfinite(draws).all((1, 2))
    flags[bad & ((flags & UNUSABLE) == 0)] |= int(Flag.ALL_MASKED)
    judged = flag_domain(network, middle[:, 1] + torch.log(reference.flux), middle[:, 0] + torch.log(reference.size_px))
    if network.backbone.pixels != "raw":
        # the aperture's own noise: a Gaussian weight of this size collects 2 sqrt(pi) sigma pixels of it
        snr = reference.flux / (2 * np.sqrt(np.pi) * reference.size_px)
        judged[(snr < _FAINT_SNR).cpu().numpy()] |= int(Flag.FAINT)
    flags[~bad] |= judged[~bad] | flag_scale(network, cutouts)
    draws[bad] = np.nan
    return _pack(network, cutouts, flags, draws)


def _pack(network: Network, cutouts: Cutouts, flags: np.ndarray, draws: np.ndarray) -> Samples:
    """The record."""
    return Samples(
        draws=draws,
        object_id=cutouts.object_id,
        flags=flags,
        survey=cutouts.survey,
        network=name_of(network),
        prior=read_prior(network, cutouts.survey.name),
    )


@functools.lru_cache(maxsize=8)
def _draw_normal(count: int) -> Tensor:
    """(count, 3) standard normal points, the same for every object: scrambled Sobol points, even in each direction."""
    points = torch.quasirandom.SobolEngine(3, scramble=True, seed=1).draw(count, dtype=torch.float64)
    return torch.special.ndtri(points.clamp(1e-9, 1 - 1e-9))
