"""A head that classifies, and the record of its answers: probabilities of disk, indeterminate and bulge."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies
from galstress.heads.answer import Answer
from galstress.heads.galaxy import Reference

__all__ = ["CLASSES", "CLASS_EDGES", "ClassHead", "Classes", "classes_of", "classify"]

CLASSES = ("disk", "indeterminate", "bulge")
"""The classes, in the order of the published networks' outputs."""
CLASS_EDGES = (0.45, 0.55)
"""B/T below the first is disk-dominated, above the second bulge-dominated (Ghosh et al. 2020)."""


def classify(bulge_to_total: Tensor) -> Tensor:
    """(N,) place in :data:`CLASSES` of true B/T; NaN where B/T is unknown becomes -1.

    Example:
        >>> classify(torch.tensor([0.0, 0.45, 0.5, 0.7, torch.nan])).tolist()
        [0, 1, 1, 2, -1]
    """
    low, high = CLASS_EDGES
    place = (bulge_to_total >= low).long() + (bulge_to_total > high).long()
    return torch.where(torch.isfinite(bulge_to_total), place, -1)


class ClassHead(nn.Module):
    """Three logits to probabilities; it has no weights, since the backbone's last layer is the output.

    ``temperature`` divides the logits: 1 until it is set on galaxies that were in no training.

    Example:
        >>> ClassHead(3).probabilities(torch.zeros(1, 3)).sum().item()
        1.0
    """

    centre: None = None
    temperature: Tensor

    def __init__(self, features: int = 3) -> None:
        super().__init__()
        if features != len(CLASSES):
            raise ValueError(f"{features} features: the backbone's own outputs are the {len(CLASSES)} logits")
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """(B, 3) logits, as they came."""
        return features

    def targets(self, cutouts: Cutouts, reference: Reference) -> Tensor:
        """(N,) true class of simulated cutouts."""
        if cutouts.truth is None:
            raise ValueError("only cutouts with truth can train a network")
        share = torch.as_tensor(np.asarray(cutouts.truth["bulge_to_total"], np.float64))
        return classify(share).to(reference.flux.device)

    def place(self, galaxies: Galaxies, reference: Reference) -> Tensor:
        """(N,) class of galaxies."""
        del reference
        return classify(galaxies.bulge_to_total)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """(B,) cross-entropy."""
        return nn.functional.cross_entropy(raw, targets, reduction="none")

    def probabilities(self, raw: Tensor) -> Tensor:
        """(B, 3) probabilities."""
        return torch.softmax(raw / self.temperature, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classes(Answer):
    """What a classifier says of N galaxies.

    Example:
        >>> from galstress.survey import Survey
        >>> said = Classes(probabilities=np.array([[0.7, 0.2, 0.1]]), object_id=np.array(["a"]),
        ...     flags=np.zeros(1, int), survey=Survey.load("sdss-g"))
        >>> said.decide().tolist(), said.decide(0.8, 0.8).tolist()
        (['disk'], ['indeterminate'])
    """

    KIND: ClassVar[str] = "classes"
    ARRAYS: ClassVar[tuple[str, ...]] = ("probabilities",)

    probabilities: np.ndarray
    """(N, 3) float64 probability of each of :attr:`names`; NaN where unusable."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return CLASSES

    @property
    def units(self) -> tuple[str, ...]:
        """Probabilities have none."""
        return ("",) * len(CLASSES)

    @property
    def mean(self) -> np.ndarray:
        """(N, 3) the probabilities, as :func:`galstress.stress` asks for them."""
        return self.probabilities

    @property
    def covariance(self) -> np.ndarray:
        """(N, 3, 3) NaN on the diagonal: probabilities have no error bar."""
        return np.where(np.eye(len(CLASSES), dtype=bool), np.nan, 0.0) + np.zeros((len(self), 1, 1))

    def decide(self, disk: float = 0.0, bulge: float = 0.0) -> np.ndarray:
        """(N,) class of each galaxy by the published kind of cut; empty where unusable.

        Arguments:
            disk: Least probability of a disk; it must also be the largest of the three.
            bulge: The same of a bulge.

        Returns:
            Names; what passes neither cut is ``indeterminate``.
        """
        largest = np.nan_to_num(self.probabilities, nan=-1).argmax(1)
        named = np.full(len(self), "indeterminate", dtype="U13")
        for place, least in ((0, disk), (2, bulge)):
            named[(largest == place) & (self.probabilities[:, place] >= least)] = CLASSES[place]
        named[~np.isfinite(self.probabilities).all(1)] = ""
        return named

    def table(self) -> QTable:
        """A row per object: probability of each class, and the most probable one."""
        table = self.begin_table()
        for place, name in enumerate(CLASSES):
            table[f"p_{name}"] = self.probabilities[:, place]
            table[f"p_{name}"].info.description = f"probability that the galaxy is {_WORDS[name]}"
        table["class"] = self.decide()
        table["class"].info.description = "the most probable class, empty where unusable"
        return table


def classes_of(posterior: Any, samples: int = 1024, seed: int = 0) -> Classes:  # noqa: ANN401 (any with sample)
    """Probabilities of the classes under a posterior of B/T.

    Arguments:
        posterior: A :class:`galstress.heads.Prediction` or :class:`galstress.heads.Samples` of N galaxies.
        samples: Draws of each; their shares are the probabilities, so these come in steps of one over it.
        seed: Of the draws.
    """
    share = posterior.sample(samples, seed)[..., posterior.names.index("bulge_to_total")]
    low, high = CLASS_EDGES
    disk, bulge = (share < low).mean(0), (share > high).mean(0)
    probabilities = np.stack([disk, 1 - disk - bulge, bulge], -1)
    probabilities[~np.isfinite(share).all(0)] = np.nan
    return Classes(
        probabilities=probabilities, object_id=posterior.object_id, flags=posterior.flags, survey=posterior.survey,
        network=posterior.network, prior=posterior.prior,
    )  # fmt: skip


_WORDS = {
    "disk": f"disk-dominated, B/T below {CLASS_EDGES[0]}",
    "indeterminate": f"of B/T from {CLASS_EDGES[0]} to {CLASS_EDGES[1]}",
    "bulge": f"bulge-dominated, B/T above {CLASS_EDGES[1]}",
}
