"""Losses of heads that say little: classes, or B/T, radius and flux alone."""

from __future__ import annotations

import torch
from torch import Tensor

from galstress.finetuning.labels import COORDINATES, Labels
from galstress.heads import CLASS_EDGES, CLASSES, ClassHead, Reference, TripleHead, classify

__all__ = ["class_loss", "class_shares", "place_triple", "told_by", "unlogit"]

_SHARE = COORDINATES.index("logit_bulge_to_total")
_TRIPLE = (_SHARE, COORDINATES.index("ln_radius"), COORDINATES.index("ln_flux"))
_LEAST = 5e-4
"""Nearest to 0 and 1 that B/T comes where a head has no margin, as in its training."""


def told_by(head: object, labels: Labels) -> Tensor:
    """(N,) whether a label is known that the head can learn from."""
    known = torch.isfinite(labels.values)
    if isinstance(head, ClassHead):
        return known[:, _SHARE]
    return known[:, _TRIPLE].any(1) if isinstance(head, TripleHead) else known.any(1)


def unlogit(logit: Tensor) -> Tensor:
    """B/T of a label's coordinate, NaN where unknown.

    Example:
        >>> unlogit(torch.tensor([0.01, 0.5]).logit()).tolist()
        [0.0, 0.5]
    """
    return ((torch.sigmoid(logit) - 0.01) / 0.98).clamp(0, 1)


def class_shares(labels: Labels) -> Tensor:
    """(N, 3) float64 probability of each class under a label of B/T; NaN where it is unknown.

    Without an error the class is certain. With one, B/T's logit is normal, so that a B/T of 0.5 +- 0.2 counts for
    all three.
    """
    logit, sigma = labels.values[:, _SHARE], labels.sigma[:, _SHARE]
    place = classify(unlogit(logit))
    certain = torch.nn.functional.one_hot(place.clamp_min(0), len(CLASSES)).double()
    edges = torch.logit(0.01 + 0.98 * torch.tensor(CLASS_EDGES, dtype=torch.float64))
    below = torch.special.ndtr((edges - logit[:, None]) / sigma[:, None].clamp_min(1e-12))
    spread = torch.stack([below[:, 0], below[:, 1] - below[:, 0], 1 - below[:, 1]], -1)
    shares = torch.where(sigma[:, None] > 0, spread, certain)
    return torch.where(torch.isfinite(logit)[:, None], shares, torch.nan)


def class_loss(head: ClassHead, raw: Tensor, labels: Labels) -> Tensor:
    """(B,) cross-entropy of the probabilities that the head gives, its temperature included; 0 where nothing is known.

    Arguments:
        head: Of the network.
        raw: (B, 3).
        labels: Of the B objects.
    """
    shares = torch.nan_to_num(class_shares(labels)).to(raw)
    return -(shares * torch.log_softmax(raw / head.temperature, -1)).sum(-1)


def place_triple(head: TripleHead, labels: Labels, reference: Reference) -> tuple[Tensor, Tensor]:
    """Labels and their errors as the head has its coordinates, both (B, 3) float64, NaN where unknown.

    Arguments:
        head: Of the network: its margin says how B/T enters.
        labels: Of the B objects.
        reference: What the head's radius and flux are relative to.
    """
    device = reference.flux.device
    values, sigma = labels.values[:, _TRIPLE].to(device), labels.sigma[:, _TRIPLE].to(device)
    share = unlogit(values[:, 0])
    odds, margin = 0.01 + 0.98 * share, head.margin
    own = margin + (1 - 2 * margin) * (share if margin else share.clamp(_LEAST, 1 - _LEAST))
    slope = (1 - 2 * margin) / (own * (1 - own)) * odds * (1 - odds) / 0.98
    relative = torch.stack(
        [
            torch.logit(own),
            values[:, 1] - torch.log(reference.size_px.double()),
            values[:, 2] - torch.log(reference.flux.double() * reference.sky_rms.double()),
        ],
        -1,
    )
    return relative, torch.cat([sigma[:, :1] * slope[:, None], sigma[:, 1:]], 1).nan_to_num()
