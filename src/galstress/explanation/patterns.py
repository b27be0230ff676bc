"""The patterns that filters respond to, by gradient ascent on the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.explanation.activations import find_layer, listening
from galstress.explanation.grids import evaluating
from galstress.networks import Network

__all__ = ["Patterns", "ascend"]

_START = 0.01
_RATE = 0.5


@dataclasses.dataclass(frozen=True)
class Patterns:
    """What makes K filters of one layer respond most."""

    layer: str
    """Name of the stage or layer."""
    channels: tuple[int, ...]
    """(K,) which filters."""
    images: np.ndarray
    """(K, C, V, V) float32 in the unit of what the network's first layer takes, mean 0."""
    response: np.ndarray
    """(K,) mean of the filter's map on its pattern."""
    blank: np.ndarray
    """(K,) the same on a blank image."""


def ascend(
    network: Network,
    setting: Cutouts,
    layer: str,
    channels: Sequence[int],
    *,
    seed: int = 0,
    steps: int = 128,
    contrast: float = 1.0,
    device: torch.device | str = "cpu",
) -> Patterns:
    """Climb from a blank image to what makes filters of a layer respond most.

    Arguments:
        network: A network whose backbone lists its ``stages``; left as it was. GaMPEN's transformer zooms as ever;
            ``foveal`` is climbed on its three views, which are three images here.
        setting: One object: what is told to the network beside the image (noise, PSF, sizes) is this one's.
        layer: As :func:`galstress.explanation.list_layers` names them.
        channels: Filters of the layer, K of them.
        seed: Of the faint noise that the blank image begins with, and of the jitter.
        steps: Of the ascent.
        contrast: Largest root mean square of a pattern, in the unit of what the network takes; its mean is 0.
        device: Where to compute.

    Returns:
        The patterns, with what each filter answers to its own and to a blank image. A filter that nothing wakes keeps
        the blank image.

    Raises:
        UnknownNameError: No such layer.
        InputError: A channel that the layer does not have, fewer steps than one, or a contrast of 0.

    The image is made of plane waves, of which the slow ones move first (gradients count as 1/frequency), and is shifted
    by up to a twelfth of its side at each step, around its edges: without both, high frequencies win that no galaxy
    has. The response is the mean over the filter's map; what is found is a local maximum of it.

    Source: Olah, Mordvintsev & Schubert 2017, Distill (10.23915/distill.00007).

    Example:
        >>> from galstress.simulation import simulate
        >>> network = Network.build("gamornet", stamp_px=32, width=0.1, pixels="sky")
        >>> ascend(network, simulate("hsc-wide-i", 1, stamp_px=32), "conv1", [0, 3], steps=2).images.shape
        (2, 1, 32, 32)
    """
    if steps < 1 or not contrast > 0 or not len(setting) or not channels:
        came = f"{steps} steps, contrast {contrast:g}, {len(setting)} objects, {len(channels)} channels"
        raise InputError(came, "one or more of each, and a contrast above 0", "give steps=128, contrast=1.0")
    module = {layer: find_layer(network, layer)}
    generator = torch.Generator().manual_seed(seed)
    with evaluating(network, device):
        given = network.backbone.inputs(setting.select([0] * len(channels)).to(device))
        shape = given.views.shape
        start = _START * contrast * torch.randn(*shape[:-1], shape[-1] // 2 + 1, 2, generator=generator)
        spectrum = start.to(given.views).requires_grad_()

        def respond(images: Tensor) -> Tensor:
            with listening(module) as heard:
                network.backbone(dataclasses.replace(given, views=images))
            return _choose(heard[layer], channels, layer)

        _climb(spectrum, respond, generator, steps, contrast)
        with torch.no_grad():
            images = _draw(spectrum, shape[-1])
            answers = [respond(each).double().cpu().numpy() for each in (images, torch.zeros_like(images))]
    return Patterns(layer, tuple(map(int, channels)), images.float().cpu().numpy(), answers[0], answers[1])


def _climb(
    spectrum: Tensor, respond: Callable[[Tensor], Tensor], generator: torch.Generator, steps: int, contrast: float
) -> None:
    """Change the spectrum, in place, so that the response rises.

    A step goes along the gradient, as long as a share of the image itself, and then back to the contrast where that is
    passed: for a linear filter this is the power method. Adam would move every wave alike, however little it matters.
    """
    side = spectrum.shape[-3]
    reach = side // 12
    for step in range(steps):
        shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        with torch.enable_grad():
            images = torch.roll(_draw(spectrum, side), shift, (2, 3))
            (gradient,) = torch.autograd.grad(respond(images).sum(), spectrum)
        with torch.no_grad():
            rate = _RATE * (1 - step / steps)
            spectrum += (
                rate * gradient * (_norm(spectrum) / _norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny))
            )
            size = _draw(spectrum, side).flatten(1).square().mean(1).sqrt()
            spectrum *= (contrast / size.clamp_min(contrast))[:, None, None, None, None]


def _norm(values: Tensor) -> Tensor:
    """Of each pattern, to divide by."""
    return values.flatten(1).norm(dim=1)[:, None, None, None, None]


def _draw(spectrum: Tensor, side: int) -> Tensor:
    """(K, C, V, V) images of (K, C, V, V // 2 + 1, 2) amplitudes, those of waves times 1 / sqrt(frequency)."""
    rows, columns = (f.to(spectrum) for f in (torch.fft.fftfreq(side), torch.fft.rfftfreq(side)))
    frequency = torch.sqrt(rows[:, None] ** 2 + columns**2)
    weight = torch.where(frequency > 0, frequency.clamp_min(1 / side).rsqrt(), 0.0)
    return torch.fft.irfft2(torch.view_as_complex(spectrum * weight[..., None]), s=(side, side), norm="ortho")


def _choose(out: Tensor, channels: Sequence[int], layer: str) -> Tensor:
    """(K,) mean of image k's map of the k-th channel asked for."""
    if min(channels) < 0 or max(channels) >= out.shape[1]:
        allowed = f"0 to {out.shape[1] - 1} in {layer}"
        raise InputError(f"channels {', '.join(map(str, channels))}", allowed, "choose some of them")
    rows = torch.arange(len(out), device=out.device)
    chosen = out[rows, torch.as_tensor(list(channels), device=out.device)]
    return chosen.flatten(1).mean(1) if chosen.dim() > 1 else chosen
