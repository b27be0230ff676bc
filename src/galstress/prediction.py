"""Network times cutouts: a Prediction."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError
from galstress.heads import INTERNAL_NAMES, Prediction, Reference, draw_points, turn_internal
from galstress.networks.network import Network

__all__ = ["predict"]

_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL
_FAINT_SNR = 10.0
_LOST = 1 / 16
"""Share of an object's draws that may be no numbers; with more of them it has no posterior."""


@torch.no_grad()
def predict(
    network: Network,
    cutouts: Cutouts,
    *,
    average: bool = False,
    draws: int = 128,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Prediction:
    """Posterior of every object.

    Arguments:
        network: Any network with a posterior head; left as it was.
        cutouts: Stamps of any size; they are cropped or padded about the array's centre.
        average: Average over the eight quarter turns and mirrors of the field, each turned back: eight times the
            work, and exactly the same answer for a galaxy and its quarter turns and mirrors.
        draws: Draws of each posterior whose head has a shape other than Gaussian (``head.draw``), a multiple of 16;
            0 takes that head's Gaussian only. With ``average`` each turn gives the same quarter of them (a multiple
            of 16, too), so that all eight together are about twice as many: 32 each and 256 in all by default.
        batch_size: Objects at a time; does not change the answer.
        device: Where to compute; the result lies on the CPU.
        progress: Show a bar with the time left.

    Returns:
        A row per object, in order; objects without a usable pixel are flagged and hold NaN. ``prior`` holds the
        shares that the network was trained under on this survey, or their mean over its surveys where this is none.

    Raises:
        InputError: ``draws`` is no multiple of 16.

    Example:
        >>> from galstress.simulation import simulate
        >>> prediction = predict(Network.build("foveal", width=0.5), simulate("hsc-wide-i", 3, stamp_px=64))
        >>> prediction.mean.shape
        (3, 15)
    """
    if draws < 0 or draws % 16:
        raise InputError(f"draws={draws}", "0 or a multiple of 16", "take 128")
    turns = 8 if average else 1
    points = None
    if draws and hasattr(network.head, "draw"):
        points = draw_points(max(16, draws // 64 * 16) if average else draws)
    modules = network.modules()
    home, training = next(modules.parameters()).device, modules.training
    modules.to(device).eval()
    try:
        batches = cutouts.split(batch_size)
        shown = track(batches, "predicting", disable=not progress, transient=True)
        parts = [_predict_batch(network, batch.to(device), turns, points) for batch in shown]
    finally:
        modules.to(home).train(training)
    if not parts:
        return _empty(network, cutouts, turns, points)
    return Prediction.concatenate(parts)


def _predict_batch(network: Network, cutouts: Cutouts, turns: int, points: Tensor | None) -> Prediction:
    """One batch, averaged over its first ``turns`` turns and mirrors."""
    flags = cutouts.flags.copy()
    dark = cutouts.mask.flatten(1).all(1).cpu().numpy()
    flags[dark] |= int(Flag.ALL_MASKED)
    if min(cutouts.images.shape[1:]) < 16:
        flags |= int(Flag.TOO_SMALL)
    means, covariances, clouds, reference = [], [], [], None
    for turn in range(turns):
        inputs = network.backbone.inputs(cutouts, turn)
        raw = network.head(network.backbone(inputs))
        mean, covariance = network.head.posterior(raw)
        back = turn_internal(turn, mean.device).T
        means.append(mean @ back.T)
        covariances.append(back @ covariance @ back.T)
        if points is not None:
            clouds.append((_draw(network, raw, points, mean) @ back.T).float().cpu())
        reference = inputs.reference if reference is None else reference
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
    usable = (flags & int(_UNUSABLE)) == 0
    flags[usable] |= _judged(mean, reference, network)[usable]
    bad = torch.as_tensor((flags & int(_UNUSABLE)) != 0) | ~torch.isfinite(mean).all(1)
    flags[bad.numpy() & ((flags & int(_UNUSABLE)) == 0)] |= int(Flag.ALL_MASKED)
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
        str(network.metadata.get("name", network.metadata["backbone"]["name"])),
        draws=cloud,
        prior=_prior(network, cutouts.survey.name),
    )


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


def _prior(network: Network, survey: str) -> dict[str, float]:
    """Shares of the populations under which the network was trained on a survey, or on all of them together."""
    known = network.metadata.get("prior") or {}
    shares = [known[survey]] if survey in known else list(known.values())
    names = dict.fromkeys(name for each in shares for name in each)
    return {name: sum(float(each.get(name, 0)) for each in shares) / len(shares) for name in names}


def _judged(mean: Tensor, reference: Reference, network: Network) -> np.ndarray:
    """Flags that follow from the answer itself: faint, off the centre, outside the training domain."""
    flags = np.zeros(len(mean), np.int64)
    # the aperture's own noise: a Gaussian weight of this size collects 2 sqrt(pi) sigma pixels of it
    snr = reference.flux / (2 * np.sqrt(np.pi) * reference.size_px)
    offset = torch.hypot(mean[:, 0], mean[:, 1])
    flags[(snr < _FAINT_SNR).numpy()] |= int(Flag.FAINT)
    flags[(offset > 3 + 0.5 * reference.size_px).numpy()] |= int(Flag.OFF_CENTRE)
    domain = network.metadata.get("domain", {})
    ln_flux = mean[:, 2] + torch.log(reference.flux)
    ln_radius = mean[:, 4] + torch.log(reference.size_px)
    for name, value in (("ln_flux_in_rms", ln_flux), ("ln_radius_px", ln_radius)):
        if name in domain:
            low, high = domain[name]
            flags[((value < low) | (value > high)).numpy()] |= int(Flag.OUT_OF_DOMAIN)
    return flags


def _empty(network: Network, cutouts: Cutouts, turns: int, points: Tensor | None) -> Prediction:
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
        str(network.metadata["backbone"]["name"]),
        draws=None if points is None else torch.zeros(0, turns * len(points), dim),
        prior=_prior(network, cutouts.survey.name),
    )
