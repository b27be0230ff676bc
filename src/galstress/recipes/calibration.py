"""The last step of a training: error bars and probabilities set on galaxies that were in no training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from galstress.heads import INTERNAL_NAMES, ClassHead, TripleHead
from galstress.networks import Network
from galstress.training import Lesson

__all__ = ["calibrate"]

_TEMPERATURES = (0.25, 4.0)


@torch.no_grad()
def calibrate(network: Network, lessons: Iterable[Sequence[Lesson]]) -> Tensor:
    """Widen or narrow a posterior so that its 68 % intervals hold, or heat a classifier's probabilities.

    Arguments:
        network: Its head's ``widening`` or ``temperature`` is set.
        lessons: Galaxies that were in no training.

    Returns:
        Factors on the standard deviations of the head's coordinates, or the temperature. B/T of a head of all
        parameters keeps 1: at 0 and 1 its posterior has one side only.
    """
    training = network.modules().training
    network.modules().eval()
    raws, targets, references = [], [], []
    for step in lessons:
        for lesson in step:
            raw, inputs = network.raw(lesson.cutouts)
            raws.append(raw)
            targets.append(network.head.place(lesson.galaxies, inputs.reference))
            references.append(inputs.reference)
    network.modules().train(training)
    raw, target = torch.cat(raws), torch.cat(targets)
    if isinstance(network.head, ClassHead):
        return _heat(network.head, raw, target)
    network.head.widening.fill_(1.0)
    mean, covariance = network.head.posterior(raw)
    sigma = torch.diagonal(covariance, dim1=-2, dim2=-1).sqrt()
    factor = ((target - mean) / sigma).abs().quantile(0.6827, dim=0)
    if not isinstance(network.head, TripleHead):
        factor[INTERNAL_NAMES.index("logit_bulge_to_total")] = 1.0
    network.head.widening.copy_(factor)
    return factor


def _heat(head: ClassHead, raw: Tensor, target: Tensor) -> Tensor:
    """Set the temperature at which the cross-entropy is least."""
    low, high = torch.tensor(_TEMPERATURES).log()
    trials = torch.linspace(low, high, 241, device=raw.device).exp()
    losses = torch.stack([torch.nn.functional.cross_entropy(raw / each, target) for each in trials])
    head.temperature.copy_(trials[losses.argmin()])
    return head.temperature
