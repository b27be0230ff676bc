"""Posterior medians and true values of what studies measure: B/T, ln of the half-light radius, ln of the flux."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from galstress.cutouts import Cutouts
from galstress.finetuning import read_labels
from galstress.networks import Network
from galstress.prediction import predict

__all__ = ["measure_medians", "true_values"]

Array = NDArray[np.float64]


def true_values(cutouts: Cutouts) -> Array:
    """(N, 3) true B/T, ln of the half-light radius in arcsec, and ln of the flux in nJy; NaN where unknown."""
    values = read_labels(None, cutouts).values
    share = ((torch.sigmoid(values[:, 3]) - 0.01) / 0.98).clamp(0, 1)
    radius = values[:, 4] + math.log(cutouts.survey.pixel_scale_arcsec)
    return torch.stack([share, radius, values[:, 2] + math.log(cutouts.survey.unit_njy)], -1).numpy()


def measure_medians(network: Network, cutouts: Cutouts) -> Array:
    """(N, 3) posterior medians of the same, computed where the network lies."""
    prediction = predict(network, cutouts, device=network.parameters()[0].device)
    found = dict(zip(prediction.names, prediction.quantile([0.5])[0].T, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        radius, flux = np.log(found["half_light_radius_arcsec"]), np.log(found["flux_njy"])
    return np.stack([found["bulge_to_total"], radius, flux], -1)
