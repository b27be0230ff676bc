"""Noise that is correlated between pixels, made white.

Noise behind a drizzling kernel is the output of a stationary process. Read row by row, each
pixel is a linear prediction from the pixels before it plus an *innovation*, and innovations are
independent and normal: whitening is one short convolution (Whittle 1954; the causal half-plane
of neighbours as in Vecchia 1988).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

__all__ = ["innovation_kernel", "whiten"]

_REACH = 4
"""Pixels that a prediction looks back, above and to either side."""


@functools.lru_cache(maxsize=16)
def innovation_kernel(correlation_fwhm_px: float, reach: int = _REACH) -> Tensor:
    """The filter that turns unit noise behind a Gaussian kernel into unit white noise.

    Arguments:
        correlation_fwhm_px: FWHM of the correlating kernel, pixels, as in ``Survey.noise_correlation_fwhm_px``.
        reach: Pixels that a prediction looks back.

    Returns:
        (reach + 1, 2 reach + 1) float64 weights of the pixels above and to the left; the last row's middle is the
        pixel itself.
    """
    sigma = correlation_fwhm_px / 2.354820045
    radius = max(1, math.ceil(4 * sigma))
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (axis / sigma) ** 2)
    padded = nn.functional.pad(kernel, (0, 2 * reach + 2 * radius))
    lags = torch.stack([(kernel * padded[lag : lag + len(kernel)]).sum() for lag in range(2 * reach + 1)])
    lags = lags / lags[0]
    steps = torch.arange(-reach, reach + 1)
    offsets = torch.cartesian_prod(torch.arange(-reach, 1), steps)
    offsets = offsets[(offsets[:, 0] < 0) | (offsets[:, 1] < 0)]  # rows above, and to the left in the same row
    apart = (offsets[:, None] - offsets[None, :]).abs()
    covariance, towards = lags[apart].prod(-1), lags[offsets.abs()].prod(-1)
    weights = torch.linalg.solve(covariance, towards)
    innovation = torch.sqrt(1 - weights @ towards)
    result = torch.zeros(reach + 1, 2 * reach + 1, dtype=torch.float64)
    result[offsets[:, 0] + reach, offsets[:, 1] + reach] = -weights / innovation
    result[reach, reach] = 1 / innovation
    return result


def whiten(noise: Tensor, kernel: Tensor) -> Tensor:
    """Unit white noise of unit correlated noise; what lies outside the stamp counts as 0.

    Arguments:
        noise: (..., H, W) pixels in units of their own standard deviation.
        kernel: From :func:`innovation_kernel`.
    """
    reach = kernel.shape[0] - 1
    # single precision is ample for units of sigma, and its convolutions are ten times faster
    flat = nn.functional.pad(noise.reshape(-1, 1, *noise.shape[-2:]).float(), (reach, reach, reach, 0))
    return nn.functional.conv2d(flat, kernel.to(flat)[None, None]).to(noise).view(noise.shape)
