"""Galaxies without their arms: each pixel replaced by the mean of its elliptical ring."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["average_azimuth"]

_STEP_PX = 0.5
"""Distance of rings, along the major axis."""


def average_azimuth(images: Tensor, x: Tensor, y: Tensor, axis_ratio: Tensor, angle: Tensor) -> Tensor:
    """Means over elliptical rings, put back on the pixels.

    Arguments:
        images: (N, H, W), without noise: its mean over a ring is hardly any.
        x: (N,) centre, pixels, 0 at the centre of the first pixel.
        y: (N,) the same along the other axis.
        axis_ratio: (N,) of the rings, above 0.
        angle: (N,) of their major axis, radians from +x towards +y.

    Returns:
        (N, H, W). Every image keeps its sum exactly: each pixel gives its light to the two rings next to it, in shares
        that fall linearly with distance, and takes from them in the same shares.

    Example:
        >>> image, one = torch.rand(1, 9, 9), torch.ones(1)
        >>> mean = average_azimuth(image, 4 * one, 4 * one, one, 0 * one)
        >>> bool(torch.isclose(mean[0, 0, 0], mean[0, 8, 8])), bool(torch.isclose(mean.sum(), image.sum()))
        (True, True)
    """
    height, width = images.shape[1:]
    rows, columns = (torch.arange(n, dtype=torch.float64, device=images.device) for n in (height, width))
    right, up = columns - x.double()[:, None, None], (rows[:, None] - y.double()[:, None, None])
    cosine, sine = (part(angle.double())[:, None, None] for part in (torch.cos, torch.sin))
    along, across = right * cosine + up * sine, (up * cosine - right * sine) / axis_ratio.double()[:, None, None]
    radius = torch.hypot(along, across).flatten(1) / _STEP_PX
    inner = radius.floor().long()
    share = radius - inner
    light = images.double().flatten(1)
    empty = torch.zeros(len(images), int(inner.max()) + 2, dtype=torch.float64, device=images.device)
    total = empty.scatter_add(1, inner, light * (1 - share)).scatter_add(1, inner + 1, light * share)
    weight = empty.scatter_add(1, inner, 1 - share).scatter_add(1, inner + 1, share)
    mean = total / weight.clamp_min(1e-300)
    found = mean.gather(1, inner) * (1 - share) + mean.gather(1, inner + 1) * share
    return found.reshape(images.shape).to(images.dtype)
