"""Network times cutouts: a Prediction."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from galstress.cutouts import Cutouts, Flag
from galstress.heads import Prediction, Reference, turn_internal
from galstress.networks.network import Network

__all__ = ["predict"]

_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL
_FAINT_SNR = 10.0


@torch.no_grad()
def predict(
    network: Network,
    cutouts: Cutouts,
    *,
    average: bool = False,
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
        batch_size: Objects at a time; does not change the answer.
        device: Where to compute; the result lies on the CPU.
        progress: Show a bar with the time left.

    Returns:
        A row per object, in order; objects without a usable pixel are flagged and hold NaN.

    Example:
        >>> from galstress.simulation import simulate
        >>> prediction = predict(Network.build("foveal", width=0.5), simulate("hsc-wide-i", 3, stamp_px=64))
        >>> prediction.mean.shape
        (3, 15)
    """
    modules = network.modules()
    home, training = next(modules.parameters()).device, modules.training
    modules.to(device).eval()
    try:
        batches = cutouts.split(batch_size)
        shown = track(batches, "predicting", disable=not progress, transient=True)
        parts = [_predict_batch(network, batch.to(device), 8 if average else 1) for batch in shown]
    finally:
        modules.to(home).train(training)
    if not parts:
        return _empty(network, cutouts)
    return Prediction.concatenate(parts)


def _predict_batch(network: Network, cutouts: Cutouts, turns: int) -> Prediction:
    """One batch, averaged over its first ``turns`` turns and mirrors."""
    flags = cutouts.flags.copy()
    dark = cutouts.mask.flatten(1).all(1).cpu().numpy()
    flags[dark] |= int(Flag.ALL_MASKED)
    if min(cutouts.images.shape[1:]) < 16:
        flags |= int(Flag.TOO_SMALL)
    means, covariances, reference = [], [], None
    for turn in range(turns):
        inputs = network.backbone.inputs(cutouts, turn)
        mean, covariance = network.head.posterior(network.head(network.backbone(inputs)))
        back = turn_internal(turn, mean.device).T
        means.append(mean @ back.T)
        covariances.append(back @ covariance @ back.T)
        reference = inputs.reference if reference is None else reference
    assert reference is not None
    mean = torch.stack(means).mean(0).cpu()
    covariance = torch.stack(covariances).mean(0).cpu()
    reference = dataclasses.replace(
        reference, flux=reference.flux.cpu(), size_px=reference.size_px.cpu(), sky_rms=reference.sky_rms.cpu()
    )
    usable = (flags & int(_UNUSABLE)) == 0
    flags[usable] |= _judged(mean, reference, network)[usable]
    bad = torch.as_tensor((flags & int(_UNUSABLE)) != 0) | ~torch.isfinite(mean).all(1)
    flags[bad.numpy() & ((flags & int(_UNUSABLE)) == 0)] |= int(Flag.ALL_MASKED)
    mean[bad], covariance[bad] = np.nan, np.nan
    return Prediction(
        mean,
        covariance,
        reference,
        cutouts.object_id,
        flags,
        cutouts.survey,
        str(network.metadata.get("name", network.metadata["backbone"]["name"])),
    )


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


def _empty(network: Network, cutouts: Cutouts) -> Prediction:
    """A prediction of nothing."""
    dim = len(turn_internal(0))
    zero = torch.zeros(0)
    return Prediction(
        torch.zeros(0, dim, dtype=torch.float64),
        torch.zeros(0, dim, dim, dtype=torch.float64),
        Reference(zero, zero, (0.0, 0.0), zero),
        cutouts.object_id,
        cutouts.flags,
        cutouts.survey,
        str(network.metadata["backbone"]["name"]),
    )
