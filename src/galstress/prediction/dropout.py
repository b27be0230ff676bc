"""Dropout that stays on while measuring (Monte Carlo dropout), without a pass of the whole network per draw.

Three savings. What stands in front of the first dropout never changes: it is computed once. The passes behind it run
many at a time. And where a pass gives a Gaussian, as GaMPEN's does, one draw of each is a waste: the posterior is the
mixture of those Gaussians, so few passes with many draws of each know it as well as many passes with one.

What does *not* serve is to linearise in the dropped activations, although the rates are below a thousandth: at the
widths that ship, a dropped unit in the bright core of a galaxy is no small step for the rectifiers and pools behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import ClassHead
from galstress.networks.network import Network
from galstress.networks.pixels import PixelInputs
from galstress.prediction.judging import UNUSABLE, flag_images

__all__ = ["draw_probabilities", "draw_raw"]

_AT_ONCE = 16
"""Passes at a time; part of which random numbers go where, hence fixed."""
_NUMBERS = 2**25
"""Numbers held at a time, about 128 MB."""
_OBJECTS = 64


@torch.no_grad()
def draw_raw(network: Network, inputs: PixelInputs, passes: int, seed: int = 0) -> Tensor:
    """Raw outputs of the head in passes with dropout on; the layers in front of the first dropout run once.

    Arguments:
        network: GaMorNet or GaMPEN, in whatever mode; left as it was.
        inputs: Of B objects, from ``network.backbone.inputs``.
        passes: How many.
        seed: Of what is dropped: the same units for every object, so that an answer depends on the image alone.

    Returns:
        (B, passes, features). Without dropout all passes are the same, and one is made.

    Source: Gal & Ghahramani 2016 (arXiv:1506.02142).

    Example:
        >>> network = Network.build("gampen", stamp_px=64, width=0.0625)
        >>> draw_raw(network, PixelInputs(torch.zeros(2, 3, 64, 64), None), 10).shape
        torch.Size([2, 10, 9])
    """
    layers = [layer for stage in network.backbone.stages.values() for layer in _opened(stage)]
    first = next((place for place, layer in enumerate(layers) if _rate(layer)), len(layers))
    parts = []
    for views in inputs.views.split(_OBJECTS):
        x = network.backbone.begin(views)
        for layer in layers[:first]:
            x = layer(x)
        if first == len(layers):
            parts.append(network.head(x)[:, None].expand(-1, passes, -1))
            continue
        # what the first dropout meets is the largest of all
        few = max(1, _NUMBERS // (x[0].numel() * 3 * _AT_ONCE))
        parts += [_pass([*layers[first:], network.head], each, passes, seed) for each in x.split(few)]
    return torch.cat(parts)


def draw_probabilities(network: Network, cutouts: Cutouts, count: int = 1000, *, seed: int = 0) -> np.ndarray:
    """Probabilities of a classifier's classes under many draws of its dropout; the convolutions run once.

    Arguments:
        network: One with classes, such as GaMorNet; left as it was.
        cutouts: N stamps of any size.
        count: Draws of each object.
        seed: Of what is dropped.

    Returns:
        (N, count, 3) float32 of disk, indeterminate, bulge; NaN where an image has no usable pixel.

    Raises:
        InputError: The network gives no classes.

    Example:
        >>> from galstress.simulation import simulate
        >>> network = Network.build("gamornet", stamp_px=64, width=0.1, pixels="sky")
        >>> drawn = draw_probabilities(network, simulate("sdss-g", 2, stamp_px=64), 20)
        >>> drawn.shape, bool((drawn.std(1) > 0).all())
        ((2, 20, 3), True)
    """
    if not isinstance(network.head, ClassHead):
        raise InputError(
            f"a network with a {type(network.head).__name__}", "one with classes", "use predict for others"
        )
    drawn = np.full((len(cutouts), count, 3), np.nan, np.float32)
    device = next(network.modules().parameters()).device
    for place, batch in enumerate(cutouts.split(_OBJECTS)):
        with torch.no_grad():
            raw = draw_raw(network, network.backbone.inputs(batch.to(device)), count, seed)
            rows = network.head.probabilities(raw).float().cpu().numpy()
        rows[(flag_images(batch) & UNUSABLE) != 0] = np.nan
        drawn[place * _OBJECTS : place * _OBJECTS + len(rows)] = rows
    return drawn


def _opened(stage: nn.Module) -> Sequence[nn.Module]:
    """The layers of a stage, in order."""
    return list(stage) if isinstance(stage, nn.Sequential) else [stage]


def _rate(layer: nn.Module) -> float:
    """Of a dropout; 0 of anything else."""
    return layer.p if isinstance(layer, nn.Dropout) else 0.0


def _pass(layers: Sequence[nn.Module], x: Tensor, passes: int, seed: int) -> Tensor:
    """(B, passes, F) through the layers from the first dropout on, a few passes at a time."""
    generators = [torch.Generator().manual_seed(1000 * seed + place) for place in range(len(layers))]
    done = []
    for start in range(0, passes, _AT_ONCE):
        many = min(_AT_ONCE, passes - start)
        y = x[None]
        for layer, generator in zip(layers, generators, strict=True):
            if rate := _rate(layer):
                kept = torch.rand(many, 1, *y.shape[2:], generator=generator) >= rate
                y = y * (kept.to(y.device, y.dtype) / (1 - rate))
            elif not isinstance(layer, nn.Dropout):
                flat = y.flatten(0, 1)
                if flat.ndim == 4:
                    flat = flat.contiguous(memory_format=torch.channels_last)
                y = layer(flat).unflatten(0, (-1, len(x)))
        done.append(y)
    return torch.cat(done).transpose(0, 1)
