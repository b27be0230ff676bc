"""Noise that is correlated between pixels, made white.

Noise behind a drizzling kernel is the output of a stationary process whose correlation is a product of one along x
and one along y. Along either axis a pixel is a linear prediction from the pixels before it plus an *innovation*; taken
along both axes in turn, innovations are independent and normal. Whitening is thus two multiplications by narrow
triangular matrices: the inverse of the covariance's Cholesky root, of which only the band that matters is kept.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

__all__ = ["REACH", "prediction_errors", "whiten"]

REACH = 6
"""Pixels that a prediction looks back, along either axis."""


@functools.lru_cache(maxsize=32)
def prediction_errors(correlation_fwhm_px: float, size: int, reach: int = REACH) -> Tensor:
    """What turns a row of unit noise behind a Gaussian kernel into unit white noise.

    Arguments:
        correlation_fwhm_px: FWHM of the correlating kernel, pixels, as in ``Survey.noise_correlation_fwhm_px``.
        size: Pixels of the row.
        reach: Pixels that a prediction looks back.

    Returns:
        (size, size) float64, lower triangular with ``reach`` bands below the diagonal. Each row takes a pixel less its
        best linear prediction from the pixels before it, in units of what the prediction leaves over.
    """
    sigma = correlation_fwhm_px / 2.354820045
    radius = max(1, math.ceil(4 * sigma))
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (axis / sigma) ** 2)
    padded = torch.nn.functional.pad(kernel, (0, reach + 2 * radius))
    lags = torch.stack([(kernel * padded[lag : lag + len(kernel)]).sum() for lag in range(reach + 1)])
    lags = lags / lags[0]
    result = torch.zeros(size, size, dtype=torch.float64)
    for place in range(size):
        order = min(place, reach)
        steps = torch.arange(order)
        weights = torch.linalg.solve(lags[(steps[:, None] - steps).abs()], lags[1 : order + 1])
        left_over = torch.sqrt(1 - weights @ lags[1 : order + 1])
        result[place, place - order : place] = -weights.flip(0) / left_over
        result[place, place] = 1 / left_over
    return result


def whiten(noise: Tensor, errors: Tensor) -> Tensor:
    """Unit white noise of unit correlated noise.

    Arguments:
        noise: (..., S, S) pixels in units of their own standard deviation.
        errors: (S, S) from :func:`prediction_errors`.
    """
    return errors @ (noise @ errors.T)
