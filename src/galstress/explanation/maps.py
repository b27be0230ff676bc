"""Gradient-weighted class activation, beside what needs no network.

The maps come from the last layer with a place on the image (Selvaraju et al. 2017, arXiv:1610.02391): its activations,
weighted by the mean gradient of one number of the answer, summed over channels. A number goes up or down, so what
counts is the size of the sum and not its sign; of a class, the number is the log-odds of its probability.

How they are laid on the sky. GaMorNet's cells lie where kernels, strides and paddings put them. GaMPEN looks at a
zoomed image, so its map is brought back through the zoom, and is 0 where it did not look. ``foveal`` sees three scales
at once, as channels of one 48 x 48 grid: a cell of its last stage stands for three patches of sky, 1, 2 and 4 times as
wide. A cell's activation is divided among the three by gradient times input: by the share of the output's dependence,
in that cell's surroundings, which passes through each scale. Each part then goes to its own patch of sky, spread evenly
over the pixels that were binned, so that the sum is kept. The activation has no finer resolution than a cell (8 pixels
of each scale in ``foveal``, 16 in both others), whatever a smooth picture suggests.

What no such map shows: numbers measured on the whole image (size, curve of growth) reach the head of ``foveal`` beside
the convolutions, and so does the noise.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from captum.attr import InputXGradient, LayerGradCam
from scipy.stats import rankdata
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.explanation.grids import Grid, evaluating, is_stamp, lay_fovea, lay_on_views, lay_stamp, mapping_layers
from galstress.explanation.outputs import Question, explained
from galstress.explanation.record import Explanation
from galstress.networks import Network

__all__ = ["explain", "with_random_weights"]


def explain(
    network: Network,
    cutouts: Cutouts,
    output: str | None = None,
    *,
    statistic: Literal["mean", "sigma"] = "mean",
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Explanation:
    """Map what one output rests on, for every object.

    Arguments:
        network: A network whose backbone lists its ``stages``; left exactly as it was.
        cutouts: N objects, stamps of any size.
        output: A class of a classifier (by default ``disk``); else any of the posterior's outputs, whole-galaxy ones
            included (by default ``bulge_to_total``).
        statistic: Explain the posterior's ``mean`` of that output, or its ``sigma``; a class has ``mean`` only.
        seed: Of the random weights that stand beside, and of the draws behind mean and sigma.
        batch_size: Objects at a time; does not change the answer.
        device: Where to compute.

    Returns:
        Maps on the pixels of the cutouts. A high correlation with the Gaussian says that the map holds little beyond
        the galaxy's place and size; with the random weights, that it shows the architecture and not what was learned
        (Adebayo et al. 2018, arXiv:1810.03292).

    Raises:
        UnknownNameError: No such output.
        InputError: The network has no convolutional stages, or the sigma of a probability.

    Example:
        >>> from galstress.simulation import simulate
        >>> network = Network.build("gamornet", stamp_px=32, width=0.1, pixels="sky")
        >>> explanation = explain(network, simulate("hsc-wide-i", 2, stamp_px=64), "bulge")
        >>> explanation.maps.shape, explanation.maps.sum((1, 2)).round(3).tolist()
        ((2, 64, 64), [1.0, 1.0])
    """
    question = Question.ask(network, output, statistic, seed)
    random = with_random_weights(network, seed)
    own, other = (_map_all(each, cutouts, question, batch_size, device) for each in (network, random))
    gaussian = _gaussian_like(own)
    pixels = [each.reshape(len(own), own[0].size if len(own) else 0) for each in (own, gaussian, other)]
    ranks = [rankdata(each, axis=1, nan_policy="propagate") if each.size else each for each in pixels]
    pearson, spearman = (
        np.stack([_correlate(first, each) for each in others], 1) for first, *others in (pixels, ranks)
    )
    return Explanation(question.name, cutouts.object_id.astype(str), own, gaussian, other, pearson, spearman)


def _map_all(
    network: Network, cutouts: Cutouts, question: Question, batch_size: int, device: torch.device | str
) -> np.ndarray:
    """(N, H, W) maps of unit sum."""
    layer = mapping_layers(network)[-1]
    parts = [np.zeros((0, *cutouts.images.shape[1:]))]
    with evaluating(network, device):
        for batch in cutouts.split(batch_size):
            on_sky = _map_batch(network, batch.to(device), layer, question)
            on_sky[batch.mask.to(device).flatten(1).all(1)] = torch.nan
            total = on_sky.sum((1, 2), keepdim=True)
            parts.append((on_sky / total.where(total > 0, torch.nan)).cpu().numpy())
    return np.concatenate(parts)


def _map_batch(network: Network, cutouts: Cutouts, layer: nn.Module, question: Question) -> Tensor:
    """(N, H, W) class activation on the sky, float64."""
    inputs = network.backbone.inputs(cutouts)
    views = inputs.views.detach().requires_grad_()
    scalar = explained(network, cutouts, inputs, question)
    height, width = cutouts.images.shape[1:]
    grid = Grid.trace(network, inputs, layer)
    with torch.enable_grad():
        activation = LayerGradCam(scalar, layer).attribute(views)
        assert isinstance(activation, Tensor)
        activation = activation.detach().double()
        if is_stamp(network):
            return lay_stamp(lay_on_views(network, inputs, grid, activation.abs())[:, 0], (height, width))
        through = InputXGradient(scalar).attribute(views)
    return lay_fovea(activation[:, 0], through.detach().double(), (height, width), grid)


def _gaussian_like(maps: np.ndarray) -> np.ndarray:
    """Round Gaussians about the array's centre with the maps' own second moments about it, unit sum."""
    y, x = (np.arange(side) - (side - 1) / 2 for side in maps.shape[1:])
    squares = y[:, None] ** 2 + x[None, :] ** 2
    variance = np.maximum((maps * squares).sum((1, 2)) / 2, 0.25)[:, None, None]
    found = np.exp(-0.5 * squares / variance)
    return found / found.sum((1, 2), keepdims=True)


def _correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) Pearson's correlation of (N, P) numbers; NaN where either is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = ((each - each.sum(1, keepdims=True) / each.shape[1]) for each in (first, second))
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def with_random_weights(network: Network, seed: int) -> Network:
    """The same architecture before any training; the head's units, which are no weights, are kept."""
    record = network.metadata
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = Network.build(record["backbone"]["name"], record["head"]["name"], **record["backbone"]["settings"])
    known = dict(network.head.named_buffers())
    for name, buffer in random.head.named_buffers():
        buffer.copy_(known[name])
    return random
