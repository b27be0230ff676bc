"""What a straight line can read from activations: ridge regressions, and ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = ["fit_probe", "measure_auc", "share_explained"]

Array = NDArray[np.float64]

_STRENGTHS = 10.0 ** np.arange(-4, 4.01, 0.5)


def fit_probe(known: Array, target: Array, unknown: Array) -> Array:
    """Ridge regression of one number on features, whose strength the training galaxies choose.

    Arguments:
        known: (N, F) features of the training galaxies.
        target: (N,) their number.
        unknown: (M, F) features of others; what lies outside of the training's range is brought to its edge, since one
            galaxy far out would else decide all.

    Returns:
        (M,) what the regression says of those.

    Formula:
        w = (X^T X + s I)^-1 X^T y of features and numbers in units of their scatter, less their means; s makes the
        error of leaving each galaxy out least (Golub, Heath & Wahba 1979, Technometrics 21, 215): it follows from the
        singular values of X, without fitting again.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> features = rng.normal(size=(60, 3))
        >>> true = features @ [1, 2, 3]
        >>> bool(np.median(np.abs(fit_probe(features[:40], true[:40], features[40:]) - true[40:])) < 0.01)
        True
    """
    middle, scale = known.mean(0), known.std(0)
    scale = np.where(scale > 1e-9 * np.abs(known).max(initial=1e-300), scale, np.inf)  # a dead unit says nothing
    x, y = (known - middle) / scale, target - target.mean()
    left, values, right = np.linalg.svd(x, full_matrices=False)
    found = left.T @ y
    best, least = np.zeros(x.shape[1]), np.inf
    for strength in _STRENGTHS * len(x):
        kept = values**2 / (values**2 + strength)
        # the mean takes one degree of freedom, too
        lever = (left**2 @ kept) + 1 / len(x)
        error = float(np.mean(((y - left @ (kept * found)) / np.clip(1 - lever, 1e-6, None)) ** 2))
        if error < least:
            best, least = right.T @ (kept * found / np.maximum(values, 1e-300)), error
    inside = np.clip(unknown, known.min(0), known.max(0))
    return (inside - middle) / scale @ best + target.mean()


def share_explained(said: Array, true: Array) -> Array:
    """R^2 = 1 - sum (said - true)^2 / sum (true - mean)^2 along the last axis; 0 for what says the mean."""
    spread = true - true.mean(-1, keepdims=True)
    return np.asarray(1 - ((said - true) ** 2).sum(-1) / (spread**2).sum(-1))


def measure_auc(score: Array, is_positive: NDArray[np.bool_]) -> Array:
    """Probability that a positive has a higher score than a negative, ties half, along the last axis.

    Arguments:
        score: (..., P).
        is_positive: (..., P) or (P,); NaN where all or none are.

    Example:
        >>> float(measure_auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])))
        0.875
    """
    positive = np.broadcast_to(is_positive, score.shape)
    many = positive.sum(-1)
    few = score.shape[-1] - many
    ranks = np.where(positive, rankdata(score, axis=-1), 0).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((ranks - many * (many + 1) / 2) / (many * few))
