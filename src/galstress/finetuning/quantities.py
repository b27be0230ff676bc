"""What of a network's answers is compared with labels, and how answers are recalibrated on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from galstress.cutouts import Cutouts
from galstress.finetuning.answers import class_shares, unlogit
from galstress.finetuning.labels import Labels
from galstress.heads import CLASSES, Classes, ClassHead, TripleHead
from galstress.networks import Network
from galstress.prediction import predict
from galstress.survey import Survey

__all__ = ["Quantities", "apply_lines", "choose_quantities", "fit_lines", "heat_classes"]

_WORDS = {
    "bulge_to_total": "B/T",
    "ln_radius": "ln of the half-light radius",
    "mag": "magnitude",
    "e1": "e1",
    "e2": "e2",
}
"""Of posteriors, in words; errors are differences of these."""
_RIDGE = 0.01
"""Of the recalibration of classes: keeps a class that few labels have from being ruled out."""

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Quantities:
    """Q numbers of each galaxy, as a network predicts them and as labels know them."""

    words: Mapping[str, str]
    """Names and what they are called."""
    is_class: bool
    """Probabilities of classes: a label is 1 for its class, and its share where B/T has an error."""
    recalibration: str
    """In words."""

    def predict(self, network: Network, cutouts: Cutouts) -> Array:
        """(N, Q) posterior medians, or probabilities."""
        prediction = predict(network, cutouts, device=network.parameters()[0].device)
        if isinstance(prediction, Classes):
            return prediction.probabilities
        medians = dict(zip(prediction.names, prediction.quantile([0.5])[0].T, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            medians["ln_radius"] = np.log(medians["half_light_radius_arcsec"])
            medians["mag"] = 31.4 - 2.5 * np.log10(medians["flux_njy"])
        return np.stack([medians[name] for name in self.words], -1)

    def label(self, labels: Labels, survey: Survey) -> Array:
        """(N, Q) the same of labels, NaN where unknown."""
        if self.is_class:
            return class_shares(labels).numpy()
        _, _, flux, logit, radius, e1, e2 = labels.values.unbind(1)
        mag = 31.4 - 2.5 / np.log(10) * (flux + np.log(survey.unit_njy))
        known = {"bulge_to_total": unlogit(logit), "ln_radius": radius + np.log(survey.pixel_scale_arcsec), "mag": mag}
        known |= {"e1": e1, "e2": e2}
        return np.stack([known[name].numpy() for name in self.words], -1)

    def recalibrate(self, predicted: Array, label: Array, others: Array) -> Array:
        """(M, Q) predictions of others, corrected by what N predictions and their labels show."""
        if self.is_class:
            return heat_classes(predicted, label, others)
        return apply_lines(fit_lines(predicted, label), others)


def choose_quantities(head: object) -> Quantities:
    """What is compared of a network with this head.

    Example:
        >>> list(choose_quantities(TripleHead()).words)
        ['bulge_to_total', 'ln_radius', 'mag']
    """
    if isinstance(head, ClassHead):
        words = {name: f"p({name})" for name in CLASSES}
        return Quantities(words, True, "a recalibration (one temperature, an offset a class) of the untouched outputs")
    words = dict(list(_WORDS.items())[: 3 if isinstance(head, TripleHead) else 5])
    return Quantities(words, False, "a linear recalibration of the untouched outputs")


def fit_lines(predicted: Array, label: Array) -> Array:
    """Slope and intercept from predictions to labels, by least squares.

    Arguments:
        predicted: (N, Q).
        label: (N, Q), NaN where unknown.

    Returns:
        (2, Q); with fewer than three labels, or predictions all alike, slope 1 and the mean shift.

    Example:
        >>> fit_lines(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])).ravel().round(9).tolist()
        [2.0, 1.0]
    """
    lines = np.stack([np.ones(label.shape[1]), np.zeros(label.shape[1])])
    for place in range(label.shape[1]):
        usable = np.isfinite(predicted[:, place]) & np.isfinite(label[:, place])
        x, y = predicted[usable, place], label[usable, place]
        if len(x) >= 3 and np.ptp(x) > 0:
            slope = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)
            lines[:, place] = slope, y.mean() - slope * x.mean()
        elif len(x):
            lines[1, place] = (y - x).mean()
    return lines


def apply_lines(lines: Array, predicted: Array) -> Array:
    """(N, Q) recalibrated predictions; the first quantity is B/T and kept within 0 and 1."""
    result = lines[0] * predicted + lines[1]
    result[:, 0] = result[:, 0].clip(0, 1)
    return np.asarray(result)


def heat_classes(predicted: Array, label: Array, others: Array) -> Array:
    """Probabilities of others, with the temperature and the offset a class at which the labels' cross-entropy is least.

    Arguments:
        predicted: (N, C) probabilities of labelled objects.
        label: (N, C) their classes as 0 and 1, or shares; NaN where unknown.
        others: (M, C) probabilities.

    Returns:
        (M, C): softmax of ln p / T + offset.

    Source: Guo et al. 2017 (arXiv:1706.04599); with a weak normal prior on ln T and offsets.

    Example:
        >>> p = np.array([[0.6, 0.2, 0.2]])
        >>> bool(heat_classes(np.repeat(p, 9, 0), np.tile([1.0, 0, 0], (9, 1)), p)[0, 0] > 0.8)
        True
    """
    known = np.isfinite(predicted).all(1) & np.isfinite(label).all(1)
    ln_p, share = np.log(predicted[known].clip(1e-9)), label[known]

    def spread(values: Array, ln_p: Array) -> Array:
        logits = ln_p * np.exp(values[0]) + values[1:]
        logits = logits - logits.max(1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))

    def loss(values: Array) -> float:
        return float(-(share * spread(values, ln_p)).sum() + _RIDGE * (values**2).sum())

    best = minimize(loss, np.zeros(1 + label.shape[1])).x
    return np.exp(spread(best, np.log(others.clip(1e-9))))
