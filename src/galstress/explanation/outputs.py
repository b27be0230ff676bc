"""The one number of a network's answer that is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.heads import CLASSES, OUTPUTS, TRIPLE, ClassHead, Prediction, TripleHead
from galstress.networks import Network

__all__ = ["Question", "explained"]

_PAIRS = 32
"""Antithetic pairs of draws behind a posterior mean."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Which number, and the seed of the draws behind it."""

    output: str
    """A class, or one of the posterior's outputs."""
    statistic: str
    """``mean`` or ``sigma``."""
    seed: int

    @classmethod
    def ask(cls, network: Network, output: str | None, statistic: str, seed: int) -> Question:
        """A question that the network's head can answer.

        Raises:
            UnknownNameError: No such output.
            InputError: No such statistic, or the sigma of a probability.
        """
        is_class = isinstance(network.head, ClassHead)
        known = CLASSES if is_class else TRIPLE if isinstance(network.head, TripleHead) else tuple(OUTPUTS)
        output = known[0] if output is None else output
        if output not in known:
            raise UnknownNameError("output", output, known)
        if statistic not in ("mean", "sigma"):
            raise InputError(f"statistic={statistic!r}", "mean or sigma", "choose one of them")
        if is_class and statistic == "sigma":
            raise InputError("sigma of a probability", "mean: a probability has no error bar", "leave sigma out")
        return cls(output, statistic, seed)

    @property
    def name(self) -> str:
        """As records and captions have it."""
        return self.output if self.statistic == "mean" else f"sigma of {self.output}"


def explained(
    network: Network,
    cutouts: Cutouts,
    inputs: Any,  # noqa: ANN401 (the backbone's own)
    question: Question,
) -> Callable[[Tensor], Tensor]:
    """Views to the (N,) numbers that are explained.

    Of a class the log-odds of its probability: they rise with it, and their gradient does not vanish where the network
    is sure. Else mean or sigma of a posterior, from draws that are the same for every object.
    """
    head = network.head

    def answer(views: Tensor) -> Tensor:
        return head(network.backbone(dataclasses.replace(inputs, views=views)))

    if isinstance(head, ClassHead):
        place = CLASSES.index(question.output)
        others = [each for each in range(len(CLASSES)) if each != place]

        def odds(views: Tensor) -> Tensor:
            logits = answer(views) / head.temperature
            return logits[:, place] - torch.logsumexp(logits[:, others], 1)

        return odds

    def scalar(views: Tensor) -> Tensor:
        values = _draw(network, answer(views), cutouts, inputs, question)
        return values.mean(0) if question.statistic == "mean" else values.std(0)

    return scalar


def _draw(
    network: Network,
    raw: Tensor,
    cutouts: Cutouts,
    inputs: Any,  # noqa: ANN401
    question: Question,
) -> Tensor:
    """(2 pairs, N) values of one output; both signs of each draw, so that odd errors cancel."""
    generator = torch.Generator().manual_seed(question.seed)
    head = network.head
    if isinstance(head, TripleHead):
        points = torch.randn(_PAIRS, len(TRIPLE), generator=generator, dtype=torch.float64).to(raw.device)
        points = torch.cat([points, -points])
        coordinates = head.draw(raw[:, None].expand(-1, len(points), -1), points)
        values = head.outputs(coordinates, inputs.reference, cutouts.survey)
        return values[..., TRIPLE.index(question.output)].mT
    mean, covariance = head.posterior(raw)
    normal = torch.randn(_PAIRS, 1, mean.shape[-1], generator=generator, dtype=mean.dtype).to(mean.device)
    step = torch.einsum("nij,snj->sni", torch.linalg.cholesky(covariance), normal.expand(-1, len(mean), -1))
    posterior = Prediction(mean, covariance, inputs.reference, cutouts.object_id, cutouts.flags, cutouts.survey)
    rows = torch.arange(len(cutouts)).to(mean.device)
    place = list(OUTPUTS).index(question.output)
    return posterior._outputs(torch.cat([mean + step, mean - step]), rows)[..., place]
