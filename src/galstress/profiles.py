"""Light profiles: the Sersic law on the sky and in Fourier space.

Everything here is a pure function of tensors, differentiable in all its arguments, for any
batch shape, device and floating dtype. Lengths are in units that the caller chooses.

The Fourier transform of a Sersic profile depends on its index alone once radius and flux
are scaled out. It is tabulated once a process (:func:`fourier_table`) and interpolated by
parabolas in k^2, which join with equal slopes, and a cubic spline in ln n: a gradient has no
jumps. Parabolas on narrow intervals, and not cubics on wide ones, since most of the time of a
rendering goes into fetching their coefficients.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from scipy import fft as scipy_fft
from scipy import interpolate as scipy_interpolate
from scipy import special as scipy_special
from torch import Tensor

from galstress.galaxy import sersic_b

__all__ = ["INDEX_RANGE", "sersic_coefficients", "sersic_constants", "sersic_surface_brightness", "sersic_transform"]

INDEX_RANGE = (0.3, 8.0)
"""Sersic indices that the table covers; others are clamped to it."""

_INDEX_NODES = 56
_OCTAVES = (-20, 24)
"""The table covers k^2 from 2^-20 to 2^24 ..."""
_PER_OCTAVE = 16
"""... with this many intervals (a power of 2) of equal width in each octave."""
_FLOATS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}
"""Integer type of the same width, bits of the mantissa, bias of the exponent."""


def sersic_constants(index: Tensor) -> tuple[Tensor, Tensor]:
    """The b of :func:`galstress.galaxy.sersic_b`, and the logarithm of the central surface brightness.

    Arguments:
        index: Sersic index; any shape.

    Returns:
        For unit flux and unit half-light radius; ln I(0) = 2n ln b - ln(2 pi n) - ln Gamma(2n).
    """
    b = sersic_b(index)
    return b, 2 * index * torch.log(b) - math.log(2 * math.pi) - torch.log(index) - torch.lgamma(2 * index)


def sersic_surface_brightness(radius: Tensor, index: Tensor) -> Tensor:
    """Surface brightness of a circular Sersic profile of unit flux and unit half-light radius.

    Arguments:
        radius: Distance from the centre in half-light radii; positive.
        index: Sersic index, broadcast against ``radius``.

    Example:
        >>> two = sersic_surface_brightness(torch.tensor([1.0, 2.0]), torch.tensor(1.0))
        >>> round(float(two[0] / two[1]), 3)
        5.357
    """
    b, ln_centre = sersic_constants(index)
    return torch.exp(ln_centre - b * radius ** (1 / index))


@functools.lru_cache(maxsize=8)
def fourier_table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Spline coefficients of the transforms of Sersic profiles of unit radius and flux.

    Returns:
        (nodes in ln n, 3, intervals): B-spline coefficients along ln n of the parabola in k^2
        (constant, slope, curvature) on each interval of k^2.

    The transforms are Hankel transforms by FFTLog (Hamilton 2000) on 8,192 radii over 44
    e-folds; they agree with the closed forms of n = 0.5 and n = 1 to 1e-8, the parabolas to 3e-6. Those join
    with equal values and slopes.
    """
    ln_n = np.linspace(math.log(INDEX_RANGE[0]), math.log(INDEX_RANGE[1]), _INDEX_NODES)
    edges = np.ldexp(1 + np.arange(_PER_OCTAVE) / _PER_OCTAVE, np.arange(*_OCTAVES)[:, None]).ravel()
    edges = np.concatenate([[0.0], edges[1:], [2.0 ** _OCTAVES[1]]])
    sites = np.concatenate([[0.0], (edges[1:] + edges[:-1]) / 2, [edges[-1]]])
    rows = np.stack([_hankel(float(np.exp(value)), 0.5 * np.log(sites[1:])) for value in ln_n])
    rows = np.concatenate([np.ones_like(rows[:, :1]), rows], 1)
    knots = np.concatenate([edges[:1].repeat(2), edges, edges[-1:].repeat(2)])
    spline = scipy_interpolate.make_interp_spline(sites, rows.T, k=2, t=knots)
    constant, slope = spline(edges[:-1]), spline.derivative()(edges[:-1])
    curvature = spline.derivative(2)((edges[1:] + edges[:-1]) / 2) / 2
    # about k^2 = 0 and not about each interval's start: one operation less for each wave number
    start = edges[:-1, None]
    parabolas = [constant - slope * start + curvature * start**2, slope - 2 * curvature * start, curvature]
    # beyond the last interval: the constant that it ends with
    last = np.stack([rows[:, -1], 0 * rows[:, -1], 0 * rows[:, -1]])[:, None]
    values = np.concatenate([np.stack(parabolas), last], 1)  # (3, intervals, nodes)
    return torch.as_tensor(_b_spline_coefficients(values.transpose(2, 0, 1)), dtype=dtype, device=device).contiguous()


def _hankel(index: float, ln_k: np.ndarray) -> np.ndarray:
    """Transform of the unit Sersic profile at exp(ln_k)."""
    size, step = 8192, 44 / 8192
    r = np.exp((np.arange(size) - size // 2) * step)
    b = scipy_special.gammaincinv(2 * index, 0.5)
    ln_norm = 2 * index * np.log(b) - np.log(2 * np.pi * index) - scipy_special.gammaln(2 * index)
    profile = r * np.exp(ln_norm - b * r ** (1 / index))
    bias = -0.5
    offset = scipy_fft.fhtoffset(step, mu=0.0, initial=0.0, bias=bias)
    k = np.exp(offset + (np.arange(size) - size // 2 + 1) * step)
    transform = 2 * np.pi * scipy_fft.fht(profile, step, mu=0.0, offset=offset, bias=bias) / k
    return scipy_interpolate.CubicSpline(np.log(k), transform)(ln_k)


def _b_spline_coefficients(values: np.ndarray) -> np.ndarray:
    """Coefficients of the natural cubic spline through values on uniform nodes (first axis), one more at either end."""
    count = len(values)
    matrix = np.zeros((count + 2, count + 2))
    for row in range(count):
        matrix[row + 1, row : row + 3] = (1 / 6, 2 / 3, 1 / 6)
    matrix[0, :3] = matrix[-1, -3:] = (1, -2, 1)  # natural: no curvature at the ends
    right = np.concatenate([np.zeros_like(values[:1]), values, np.zeros_like(values[:1])])
    return np.linalg.solve(matrix, right.reshape(count + 2, -1)).reshape(right.shape)


def sersic_coefficients(index: Tensor, flux: Tensor | None = None) -> Tensor:
    """The parabolas in k^2 that make up the transform of each index: :func:`sersic_transform`'s table.

    Arguments:
        index: (B,) Sersic indices; clamped to :data:`INDEX_RANGE`.
        flux: (B,) what the transform is multiplied by; 1 by default.

    Returns:
        (B, 3, intervals).
    """
    table = fourier_table(index.device, index.dtype)
    low, high = (math.log(value) for value in INDEX_RANGE)
    place = (torch.log(index.clamp(*INDEX_RANGE)) - low) * ((_INDEX_NODES - 1) / (high - low)) + 1
    away = (place[:, None] - torch.arange(len(table), device=index.device, dtype=index.dtype)).abs()
    near = 2 / 3 - away**2 + away**3 / 2
    weight = torch.where(away < 1, near, (2 - away).clamp_min(0) ** 3 / 6)
    if flux is not None:
        weight = weight * flux[:, None]
    return (weight @ table.flatten(1)).view(-1, *table.shape[1:])


def sersic_transform(k2: Tensor, coefficients: Tensor) -> Tensor:
    """Fourier transform of circular Sersic profiles of unit flux.

    Arguments:
        k2: (B, ...) squared wave number times squared half-light radius (both in the same unit).
        coefficients: (B, 3, intervals) from :func:`sersic_coefficients`.

    Returns:
        (B, ...) transform, 1 at k = 0; constant for k times radius above 8,192.

    Example:
        >>> k = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)
        >>> ours = sersic_transform(k**2, sersic_coefficients(torch.tensor([1.0], dtype=torch.float64)))
        >>> exact = (1 + (k / sersic_b(torch.tensor(1.0, dtype=torch.float64))) ** 2) ** -1.5
        >>> bool((ours - exact).abs().max() < 1e-5)
        True
    """
    batch, orders, intervals = coefficients.shape
    integer, mantissa_bits, exponent_bias = _FLOATS[k2.dtype]
    # the exponent and the first bits of the mantissa of a floating-point number name its interval: no logarithm
    first = (exponent_bias + _OCTAVES[0]) * _PER_OCTAVE
    shift = mantissa_bits - _PER_OCTAVE.bit_length() + 1
    interval = (k2.detach().view(integer) >> shift).clamp_(first, first + intervals - 1)
    rows = torch.arange(batch, device=k2.device, dtype=integer) * (orders * intervals) - first
    interval = (interval + rows.view(-1, *(1,) * (k2.ndim - 1))).view(-1)
    flat = coefficients.reshape(-1)
    constant, slope, curvature = (
        flat[order * intervals :].index_select(0, interval).view(k2.shape) for order in range(orders)
    )
    return torch.addcmul(constant, k2, torch.addcmul(slope, k2, curvature))
