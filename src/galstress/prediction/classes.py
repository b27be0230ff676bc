"""Probabilities of classes: :class:`galstress.heads.Classes`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from galstress.cutouts import Cutouts, Flag
from galstress.heads import Classes
from galstress.networks.network import Network
from galstress.prediction.judging import UNUSABLE, flag_images, flag_scale, name_of, read_prior
from galstress.prediction.turns import Turn, look_at_turns

__all__ = ["predict_classes"]


def predict_classes(network: Network, cutouts: Cutouts, turns: Sequence[Turn]) -> Classes:
    """One batch, averaged over turns and mirrors."""
    flags = flag_images(cutouts)
    total = 0.0
    for _, _, inputs in look_at_turns(network, cutouts, turns):
        total = total + network.head.probabilities(network.head(network.backbone(inputs))).double()
    probabilities = (torch.as_tensor(total) / len(turns)).cpu().numpy()
    bad = ((flags & UNUSABLE) != 0) | ~np.isfinite(probabilities).all(1)
    flags[bad & ((flags & UNUSABLE) == 0)] |= int(Flag.ALL_MASKED)
    flags[~bad] |= flag_scale(network, cutouts)
    probabilities[bad] = np.nan
    return Classes(
        probabilities=probabilities,
        object_id=cutouts.object_id,
        flags=flags,
        survey=cutouts.survey,
        network=name_of(network),
        prior=read_prior(network, cutouts.survey.name),
    )
