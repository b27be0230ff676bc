"""Dropout that stays on while measuring (Monte Carlo dropout), without a pass of the whole network per draw.

Nothing in front of the first dropout changes between passes, so it is computed once. Behind it there are two ways.
Real passes, many at a time, for large rates. And for small ones the first order: a unit that is dropped takes away
its activation times the slope of the output there, so that one forward and, for nine outputs, nine backward passes
give what each unit is worth, and a draw is the sum over the units that it drops. Which those are is drawn exactly:
unlike a Gaussian of the same covariance, this keeps the tails of layers where seldom any unit falls.
"""

from __future__ import annotations

import functools
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

__all__ = ["LARGEST_RATE", "draw_probabilities", "draw_raw"]

LARGEST_RATE = 1e-3
"""Up to this rate (the published are below) the first order is taken, above it real passes."""

_AT_ONCE = 16
"""Real passes at a time; part of which random numbers go where, hence fixed."""
_NUMBERS = 2**25
"""Numbers held at a time, about 128 MB."""
_OBJECTS = 64


@torch.no_grad()
def draw_raw(network: Network, inputs: PixelInputs, count: int, *, seed: int = 0, exact: bool | None = None) -> Tensor:
    """Raw outputs of the head under ``count`` draws of the dropout.

    Arguments:
        network: GaMorNet or GaMPEN, in whatever mode; left as it was.
        inputs: Of B objects, from ``network.backbone.inputs``.
        count: Draws of each object.
        seed: Of what is dropped: the same units for every object, so that an answer depends on the image alone.
        exact: Real passes (True) or the first order (False); by default the first order up to :data:`LARGEST_RATE`.

    Returns:
        (B, count, features). Without dropout all draws are the same.

    Formula: with kept activations divided by 1 - p, y = y0 - sum over dropped i of a_i dy/da_i / (1 - p), from which
    its mean over the draws is taken away; its covariance is that of Wager et al. 2013 (arXiv:1307.1493), the sum over
    the layers of p / (1 - p) sum_i (a_i dy/da_i)(a_i dy/da_i)^T.

    Source of the method itself: Gal & Ghahramani 2016 (arXiv:1506.02142).

    Example:
        >>> network = Network.build("gampen", stamp_px=64, width=0.0625)
        >>> draw_raw(network, PixelInputs(torch.zeros(2, 3, 64, 64), None), 10).shape
        torch.Size([2, 10, 9])
    """
    layers = [layer for stage in network.backbone.stages.values() for layer in _opened(stage)]
    rates = [_rate(layer) for layer in layers]
    first = next((place for place, rate in enumerate(rates) if rate), len(layers))
    way = _by_passes if (max(rates) > LARGEST_RATE if exact is None else exact) else _to_first_order
    parts = []
    for views in inputs.views.split(_OBJECTS):
        x = network.backbone.begin(views)
        for layer in layers[:first]:
            x = layer(x)
        if first == len(layers):
            parts.append(network.head(x)[:, None].expand(-1, count, -1))
            continue
        # what the first dropout meets is the largest; a few times as much follows
        few = max(1, _NUMBERS // (x[0].numel() * 3 * _AT_ONCE))
        parts += [way([*layers[first:], network.head], each, count, seed) for each in x.split(few)]
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
            raw = draw_raw(network, network.backbone.inputs(batch.to(device)), count, seed=seed)
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


def _to_first_order(layers: Sequence[nn.Module], x: Tensor, count: int, seed: int) -> Tensor:
    """(B, S, F) from one forward pass and a backward pass for each of the F outputs."""
    held: list[Tensor] = []
    rates: list[float] = []
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        for layer in layers:
            if rate := _rate(layer):
                held.append(x)
                rates.append(rate)
            elif not isinstance(layer, nn.Dropout):
                x = layer(x)
        outputs = x.sum(0)  # of a batch: each object's slopes are its own
        slopes = [torch.autograd.grad(output, held, retain_graph=True) for output in outputs]
    x = x.detach()
    noise = x.new_zeros(count, x.shape[1] * len(x))
    for place, (activation, rate) in enumerate(zip(held, rates, strict=True)):
        worth = torch.stack([(activation.detach() * each[place]).flatten(1) for each in slopes])
        units, starts = (each.to(x.device) for each in _draw_drops(worth.shape[2], rate, count, seed, place))
        table = worth.permute(2, 0, 1).flatten(1)
        noise -= nn.functional.embedding_bag(units, table, starts, mode="sum") / (1 - rate)
    noise -= noise.mean(0)
    return x[:, None] + noise.unflatten(1, (x.shape[1], len(x))).permute(2, 0, 1)


@functools.lru_cache(maxsize=128)
def _draw_drops(units: int, rate: float, count: int, seed: int, place: int) -> tuple[Tensor, Tensor]:
    """Which units of a layer fall in each of ``count`` passes, one pass behind the other, and where each begins."""
    rng = np.random.default_rng((seed, place))
    fallen = rng.choice(units * count, rng.binomial(units * count, rate), replace=False, shuffle=False)
    fallen.sort()
    starts = np.searchsorted(fallen, np.arange(count) * units)
    return torch.as_tensor((fallen % units).astype(np.int32)), torch.as_tensor(starts.astype(np.int32))


def _by_passes(layers: Sequence[nn.Module], x: Tensor, count: int, seed: int) -> Tensor:
    """(B, S, F) by real passes through what stands behind the first dropout, a few at a time."""
    generators = [torch.Generator().manual_seed(1000 * seed + place) for place in range(len(layers))]
    done = []
    for start in range(0, count, _AT_ONCE):
        many = min(_AT_ONCE, count - start)
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
