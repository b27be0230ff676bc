"""Where the cells of a layer lie: on the pixels that the network saw, and on the sky."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from galstress.errors import InputError
from galstress.networks import Network
from galstress.networks.pixels import PixelNetwork

__all__ = [
    "SCALES",
    "Grid",
    "evaluating",
    "hats",
    "is_stamp",
    "lay_fovea",
    "lay_on_views",
    "lay_stamp",
    "mapping_layers",
]

SCALES = (1, 2, 4)
"""Pixels along one side that each view of ``foveal`` bins (a test checks it on the backbone)."""
_LEAST_ZOOM = 1e-3


@dataclasses.dataclass(frozen=True)
class Grid:
    """Cell k of a layer lies on pixel ``first + step k`` of what its first stage was given."""

    first: float
    step: float

    @classmethod
    @torch.no_grad()
    def trace(cls, network: Network, inputs: Any, layer: nn.Module) -> Grid:  # noqa: ANN401
        """Follow kernels, strides and paddings of the stages, in the order in which they run, up to a layer.

        A kernel of K at stride S that begins P pixels outside of the image centres its cell k on pixel
        S k + (K - 1) / 2 - P. Where a module pads as TensorFlow's ``same`` does, P is half of what its output needs.
        """
        grid, is_over = [0.0, 1.0], [False]

        def follow(module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:  # noqa: ANN401
            if is_over[0] or out.dim() != 4:
                return
            kernel, stride, padding = (_number(getattr(module, name, 0)) for name in _GEOMETRY)
            total = max(0, (out.shape[-1] - 1) * stride + kernel - given[0].shape[-1])
            grid[0] += grid[1] * ((kernel - 1) / 2 - (padding or total // 2))
            grid[1] *= stride

        def stop(module: nn.Module, given: object, out: object) -> None:
            del module, given, out
            is_over[0] = True

        spatial = [m for m in network.backbone.stages.modules() if hasattr(m, "kernel_size") and hasattr(m, "stride")]
        handles = [module.register_forward_hook(follow) for module in spatial]
        handles.append(layer.register_forward_hook(stop))
        try:
            network.backbone(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return cls(*grid)


_GEOMETRY = ("kernel_size", "stride", "padding")


def _number(value: Any) -> int:  # noqa: ANN401
    """Of a square kernel."""
    return int(value[0] if isinstance(value, tuple) else value)


def mapping_layers(network: Network) -> list[nn.Module]:
    """The layer of each convolutional stage whose maps are looked at, shallowest first: the stage before it pools.

    Raises:
        InputError: The network has no convolutional stages.
    """
    return [_before_pooling(stage) for stage in _convolutional(network)]


def _convolutional(network: Network) -> list[nn.Module]:
    """Stages that hold a convolution."""
    stages = list(getattr(network.backbone, "stages", {}).values())
    found = [stage for stage in stages if any(isinstance(module, nn.Conv2d) for module in stage.modules())]
    if not found:
        came = "a network without convolutional stages"
        raise InputError(came, "one whose backbone lists them", "give its backbone stages")
    return found


def _before_pooling(stage: nn.Module) -> nn.Module:
    """The last rectifier of a plain sequence: behind it only pools and normalisations follow; else the stage."""
    rectifiers = [module for module in stage if isinstance(module, nn.ReLU)] if isinstance(stage, nn.Sequential) else []
    return rectifiers[-1] if rectifiers else stage


def hats(side: int, cells: int, grid: Grid) -> Tensor:
    """(V, C) weight of each cell in each pixel of a view: bilinear between the cells' centres."""
    at = ((torch.arange(side, dtype=torch.float64) - grid.first) / grid.step).clamp(0, cells - 1)
    return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp_min(0)


@torch.no_grad()
def lay_on_views(network: Network, inputs: Any, grid: Grid, maps: Tensor) -> Tensor:  # noqa: ANN401
    """Maps of a layer on the pixels of the views that the network took.

    Arguments:
        network: Where it looks at a zoomed image, the zoom is undone: a map is 0 where the network did not look.
        inputs: The N views.
        grid: Of the layer.
        maps: (N, C, h, w).

    Returns:
        (N, C, V, V).
    """
    side = inputs.views.shape[-1]
    up, along = (hats(side, cells, grid).to(maps) for cells in maps.shape[-2:])
    laid = up @ maps @ along.T
    if not hasattr(network.backbone, "zoom"):
        return laid
    zoom = network.backbone.zoom(inputs.views).to(laid)
    zoom = torch.where(zoom.abs() < _LEAST_ZOOM, _LEAST_ZOOM, zoom)
    theta = torch.eye(2, 3).to(laid) / zoom[:, None, None]
    place = nn.functional.affine_grid(theta, list(laid.shape), align_corners=True)
    return nn.functional.grid_sample(laid, place, align_corners=True)


def lay_stamp(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps (N, V, V) of stamps on the (H, W) pixels that these were cut from or padded."""
    side = maps.shape[-1]
    left, top = (side - shape[1]) // 2, (side - shape[0]) // 2
    return nn.functional.pad(maps, [-left, shape[1] - side + left, -top, shape[0] - side + top])


def lay_fovea(activation: Tensor, through: Tensor, shape: tuple[int, int], grid: Grid) -> Tensor:
    """Class activation of ``foveal`` on the pixels of the stamps.

    Arguments:
        activation: (N, C, C) cells of the last stage.
        through: (N, S, V, V) gradient times input of each view.
        shape: (H, W) of the stamps.
        grid: Of the cells.

    Returns:
        (N, H, W): the size of the activation, the part of each view on the sky that the view saw; what fell outside
        of the stamp (padding) is lost.
    """
    view = through.shape[-1]
    hat = hats(view, activation.shape[-1], grid).to(through)
    # a cell's share of each scale, from where its own signal came; the small floor is for cells without any
    cells = hat.T @ through.abs() @ hat
    cells = cells + 1e-6 * cells.mean((2, 3), keepdim=True) + torch.finfo(cells.dtype).tiny
    parts = hat @ (activation.abs()[:, None] * cells / cells.sum(1, keepdim=True)) @ hat.T
    field = view * SCALES[-1]
    whole = torch.zeros(len(parts), field, field, dtype=parts.dtype, device=parts.device)
    for place, size in enumerate(SCALES):
        low, span = (field - view * size) // 2, view * size
        patch = parts[:, place].repeat_interleave(size, 1).repeat_interleave(size, 2) / size**2
        whole[:, low : low + span, low : low + span] += patch
    return lay_stamp(whole, shape)


def is_stamp(network: Network) -> bool:
    """Whether the network takes the stamp's own pixels, at one scale."""
    return isinstance(network.backbone, PixelNetwork)


@contextlib.contextmanager
def evaluating(network: Network, device: torch.device | str) -> Iterator[None]:
    """Evaluation mode on a device, and afterwards every module's mode and the device as they were."""
    modules = network.modules()
    home = next(modules.parameters()).device
    modes = {module: module.training for module in modules.modules()}
    modules.to(device).eval()
    try:
        yield
    finally:
        modules.to(home)
        for module, mode in modes.items():
            module.training = mode
