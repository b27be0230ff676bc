"""What tests of fine-tuning share: a small network of nobody's training, turns, and labels cut from the truth."""

from __future__ import annotations

import numpy as np
import torch
from astropy.table import QTable

from galstress.cutouts import Cutouts
from galstress.finetuning import Turn
from galstress.networks import Network
from galstress.perturbations.geometry import rotation_matrix


def small_network(head: str = "galaxy") -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Network.build("foveal", head, width=0.4)
    network.modules().eval()
    return network


def turn_by(angle_deg: float, count: int, mirrored: bool = False, shift=(0.0, 0.0)) -> Turn:
    matrix = rotation_matrix(angle_deg) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return Turn(torch.as_tensor(matrix).expand(count, 2, 2), torch.tensor(shift, dtype=torch.float64).expand(count, 2))


def partial(cutouts: Cutouts, *names: str) -> QTable:
    return QTable({name: np.array(getattr(cutouts.truth[name], "value", cutouts.truth[name])) for name in names})


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.modules().state_dict().items()}
