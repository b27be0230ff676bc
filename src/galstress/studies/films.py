"""Films: a galaxy turns, and what a network says of it is measured at every angle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import CLASSES, TRIPLE, Classes, Said, classify
from galstress.networks import Network
from galstress.perturbations import PERTURBATIONS
from galstress.prediction import predict
from galstress.scores import truth_values
from galstress.simulation import simulate
from galstress.studies.records import FILM_QUANTILES, record_film

__all__ = ["choose_star", "film"]


def choose_star(survey: str, population: str, seed: int) -> Cutouts:
    """One simulated galaxy that shows its angle: an inclined disk with a bulge, large and bright.

    Arguments:
        survey: Name of a survey.
        population: Name of a population.
        seed: Of the galaxies among which it is chosen.

    Raises:
        InputError: There is none such.
    """
    drawn = simulate(survey, 96, seed=seed, population=population)
    truth = drawn.truth
    assert truth is not None
    share, ratio = (np.asarray(truth[name], float) for name in ("bulge_to_total", "disk_axis_ratio"))
    snr, radius = np.asarray(truth["snr"], float), truth["half_light_radius_arcsec"].to_value("arcsec")
    fits = radius < 0.1 * drawn.images.shape[-1] * drawn.survey.pixel_scale_arcsec
    chosen = np.flatnonzero((snr > 100) & (ratio < 0.5) & (share > 0.15) & (share < 0.7) & fits)
    if chosen.size == 0:
        raise InputError(f"no bright inclined galaxy among {len(drawn)}", "one at least", "try another seed")
    return drawn.select([int(chosen[np.argmax(radius[chosen])])])


def film(
    network: Network,
    one: Cutouts,
    kind: str,
    frames: int,
    folder: Path,
    name: str,
    *,
    title: str,
    average: int = 8,
    device: str = "cpu",
) -> None:
    """Turn one galaxy through a circle, measure it at every angle, and write the film's record.

    It shows B/T, radius and flux of a posterior, or the probabilities of a classifier, which have no band.

    Arguments:
        network: Measures.
        one: One galaxy.
        kind: ``redrawn-rotation`` (simulated galaxies) or ``interpolated-rotation`` (any).
        frames: Angles, evenly over 360 degrees.
        folder: The records.
        name: Name of the record; ``film`` is the one that the page begins with.
        title: What is shown, in words.
        average: Turns and mirrors that an answer is averaged over (:func:`galstress.predict`); 0: one pass.
        device: Where to compute.
    """
    angles = np.arange(frames) * 360.0 / frames
    turned = [PERTURBATIONS[kind](one, float(angle)) for angle in angles]
    prediction = predict(network, Cutouts.concatenate(turned), average=average, device=device)
    outputs, quantiles = _read_bands(prediction)
    images = torch.cat([each.images for each in turned]).cpu().numpy()
    truth = None if one.truth is None else _read_truth(one, outputs)
    if outputs == TRIPLE:
        radius_px = float(np.nanmedian(quantiles[2, :, 1])) / one.survey.pixel_scale_arcsec
    else:
        radius_px = math.nan if one.truth is None else float(truth_values(one.truth, TRIPLE)[0, 1])
        radius_px /= one.survey.pixel_scale_arcsec
    about: dict[str, Any] = {
        "title": f"{title}; answers " + (f"averaged over {average} turns and mirrors" if average else "of one pass"),
        "object_id": str(one.object_id[0]),
        "outputs": list(outputs),
        "pixel_scale_arcsec": one.survey.pixel_scale_arcsec,
        "sky_rms": float(one.sky_rms[0]),
        "truth": None if truth is None else dict(zip(outputs, truth, strict=True)),
        "fps": 12,
    }
    record_film(folder, name, (_middle(images, radius_px), angles, quantiles), about)


def _read_bands(said: Said) -> tuple[tuple[str, ...], np.ndarray]:
    """Outputs, and (5, T, 3) quantiles of each at every angle; a probability is all five of its own."""
    if isinstance(said, Classes):
        return CLASSES, np.repeat(said.probabilities[None], len(FILM_QUANTILES), 0)
    return TRIPLE, said.quantile(FILM_QUANTILES)[:, :, [said.names.index(output) for output in TRIPLE]]


def _read_truth(one: Cutouts, outputs: tuple[str, ...]) -> list[float]:
    """True values of the outputs of one galaxy; of classes 1 for the true one."""
    values = truth_values(one.truth, TRIPLE)[0]
    if outputs == TRIPLE:
        return [float(value) for value in values]
    true = int(classify(torch.tensor(values[:1]))[0])
    return [float(place == true) if true >= 0 else math.nan for place in range(len(CLASSES))]


def _middle(images: np.ndarray, radius_px: float) -> np.ndarray:
    """The middle of the images: five half-light radii, and not less than 20 pixels, on each side."""
    side = images.shape[-1]
    cut = max(0, int(side / 2 - max(20.0, 5 * radius_px))) if np.isfinite(radius_px) else 0
    return images[:, cut : side - cut, cut : side - cut]
