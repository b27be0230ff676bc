"""How answers move when the image is changed: one pass of a network, and its average over turns and mirrors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import QTable, vstack

from galstress.battery import stress
from galstress.cutouts import Cutouts
from galstress.networks import Network
from galstress.prediction import predict

__all__ = ["stress_passes"]


def stress_passes(
    network: Network,
    cutouts: Cutouts,
    perturbations: Sequence[str] = ("rotation", "depth"),
    seed: int = 0,
    *,
    amounts: Mapping[str, Sequence[float]] | None = None,
    averaged: Sequence[int] = (0,),
    progress: bool = False,
) -> QTable:
    """The stress table with the columns ``averaged`` and ``survey``.

    Arguments:
        network: A network.
        cutouts: N objects; the network computes where they lie.
        perturbations: As :func:`galstress.stress` takes them.
        seed: Of everything random.
        amounts: Amounts by perturbation; those named here only replace the usual ones.
        averaged: Which passes: 0 for one pass, else the turns and mirrors that answers are averaged over: 8 to 64.
        progress: Whether to show bars with the time left.
    """
    device = str(cutouts.images.device)
    tables = []
    for average in averaged:
        measure = functools.partial(predict, network, average=average, device=device)
        table = stress(measure, cutouts, perturbations, seed, amounts, progress=progress)
        table["averaged"] = np.full(len(table), int(average))
        table["averaged"].info.description = "turns and mirrors that the answer is the mean of; 0 for one pass"
        table["survey"] = np.full(len(table), cutouts.survey.name)
        table["survey"].info.description = "the survey of the image"
        tables.append(table)
    return vstack(tables, metadata_conflicts="silent") if len(tables) > 1 else tables[0]
