"""Posteriors of all parameters of disk and bulge: a :class:`Prediction`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from galstress.cutouts import Cutouts, Flag
from galstress.heads import INTERNAL_NAMES, Prediction, Reference, turn_internal
from galstress.networks.network import Network
from galstress.prediction.judging import UNUSABLE, flag_domain, flag_images, name_of, read_prior
from galstress.prediction.turns import Turn, look_at_turns
from galstress.turning import array_centre, rotation_matrix

__all__ = ["empty_parameters", "predict_parameters"]

_FAINT_SNR = 10.0
_LOST = 1 / 16
"""Share of an object's draws that may be no numbers; with more of them it has no posterior."""


def predict_parameters(network: Network, cutouts: Cutouts, turns: Sequence[Turn], points: Tensor | None) -> Prediction:
    """One batch, averaged over turns and mirrors."""
    flags = flag_images(cutouts)
    means, covariances, clouds, reference = [], [], [], None
    for turn, turned, inputs in look_at_turns(network, cutouts, turns):
        reference = _in_stamp(inputs.reference, turned, cutouts) if reference is None else reference
        raw = network.head(network.backbone(inputs))
        mean, covariance = network.head.posterior(raw)
        back = turn_internal(turn.element, mean.device, turn.angle_deg).T
        shift = _shift(inputs.reference, reference, turned, turn.angle_deg)
        means.append(mean @ back.T + shift)
        covariances.append(back @ covariance @ back.T)
        if points is not None:
            clouds.append((_draw(network, raw, points, mean) @ back.T + shift[:, None]).float().cpu())
    assert reference is not None
    cloud = torch.cat(clouds, 1) if clouds else None
    if cloud is None:
        mean = torch.stack(means).mean(0).cpu()
        covariance = torch.stack(covariances).mean(0).cpu()
    else:
        mean, covariance = _moments(cloud.double())
    reference = dataclasses.replace(
        reference, flux=reference.flux.cpu(), size_px=reference.size_px.cpu(), sky_rms=reference.sky_rms.cpu()
    )
    usable = (flags & UNUSABLE) == 0
    flags[usable] |= _judged(mean, reference, network)[usable]
    bad = torch.as_tensor((flags & UNUSABLE) != 0) | ~torch.isfinite(mean).all(1)
    flags[bad.numpy() & ((flags & UNUSABLE) == 0)] |= int(Flag.ALL_MASKED)
    for numbers in (mean, covariance, cloud):
        if numbers is not None:
            numbers[bad] = np.nan
    return Prediction(
        mean,
        covariance,
        reference,
        cutouts.object_id,
        flags,
        cutouts.survey,
        name_of(network),
        draws=cloud,
        prior=read_prior(network, cutouts.survey.name),
    )


def _in_stamp(reference: Reference, cut: Cutouts, whole: Cutouts) -> Reference:
    """The reference of what was cut out of stamps, in the pixels of the whole."""
    border = (whole.images.shape[1] - cut.images.shape[1]) // 2
    x, y = reference.centre_px
    return dataclasses.replace(reference, centre_px=(x + border, y + border))


def _shift(reference: Reference, first: Reference, turned: Cutouts, angle_deg: float) -> Tensor:
    """(B, 12) what coordinates of a turned image, turned back, gain relative to the first reference.

    Pixels turn about the array's centre; coordinates count from the field's, half a pixel off where sides are odd.
    """
    ln_flux, ln_size = reference.compare(first)
    shift = torch.zeros(len(ln_flux), len(INTERNAL_NAMES), dtype=torch.float64, device=ln_flux.device)
    if angle_deg:
        off = np.array(reference.centre_px) - array_centre((turned.images.shape[1], turned.images.shape[2]))
        shift[:, :2] = torch.as_tensor(rotation_matrix(-angle_deg) @ off - off)
    shift[:, INTERNAL_NAMES.index("ln_flux")] = ln_flux
    shift[:, INTERNAL_NAMES.index("ln_radius")] = ln_size
    return shift


def _draw(network: Network, raw: Tensor, points: Tensor, mean: Tensor) -> Tensor:
    """(B, S, 12) draws; the few that a spline's root loses to rounding lie at the Gaussian's mean instead."""
    drawn = network.head.draw(raw, points.to(mean.device))
    lost = ~torch.isfinite(drawn).all(-1, keepdim=True)
    seldom = lost.double().mean(1, keepdim=True) < _LOST
    return torch.where(lost & seldom, mean[:, None], drawn)


def _moments(cloud: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, 12) and covariance (B, 12, 12) of (B, S, 12) draws."""
    mean = cloud.mean(1)
    offset = cloud - mean[:, None]
    return mean, offset.transpose(1, 2) @ offset / cloud.shape[1]


def _judged(mean: Tensor, reference: Reference, network: Network) -> np.ndarray:
    """Flags that follow from the answer itself: faint, off the centre, outside the training domain."""
    flags = np.zeros(len(mean), np.int64)
    # the aperture's own noise: a Gaussian weight of this size collects 2 sqrt(pi) sigma pixels of it
    snr = reference.flux / (2 * np.sqrt(np.pi) * reference.size_px)
    offset = torch.hypot(mean[:, 0], mean[:, 1])
    flags[(snr < _FAINT_SNR).numpy()] |= int(Flag.FAINT)
    flags[(offset > 3 + 0.5 * reference.size_px).numpy()] |= int(Flag.OFF_CENTRE)
    flags |= flag_domain(network, mean[:, 2] + torch.log(reference.flux), mean[:, 4] + torch.log(reference.size_px))
    return flags


def empty_parameters(network: Network, cutouts: Cutouts, turns: Sequence[Turn], points: Tensor | None) -> Prediction:
    """A prediction of nothing."""
    dim = len(INTERNAL_NAMES)
    zero = torch.zeros(0)
    return Prediction(
        torch.zeros(0, dim, dtype=torch.float64),
        torch.zeros(0, dim, dim, dtype=torch.float64),
        Reference(zero, zero, (0.0, 0.0), zero),
        cutouts.object_id,
        cutouts.flags,
        cutouts.survey,
        name_of(network),
        draws=None if points is None else torch.zeros(0, len(turns) * len(points), dim),
        prior=read_prior(network, cutouts.survey.name),
    )
