"""What layers put out: their maps, and the means of these."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.explanation.grids import evaluating
from galstress.networks import Network

__all__ = ["find_layer", "list_layers", "pool_activations", "record_activations"]


def list_layers(network: Network) -> dict[str, nn.Module]:
    """Stages by name, each followed by the layers inside of it, in the order in which they run.

    Raises:
        InputError: The backbone lists no stages.

    Example:
        >>> list(list_layers(Network.build("gamornet", stamp_px=32, width=0.1)))[:3]
        ['conv1', 'conv1.0', 'conv1.1']
    """
    stages = getattr(network.backbone, "stages", None)
    if not stages:
        raise InputError("a network without stages", "one whose backbone lists them", "give its backbone stages")
    found: dict[str, nn.Module] = {}
    for name, stage in stages.items():
        found[name] = stage
        inner = {n: m for n, m in stage.named_modules() if n and not isinstance(m, nn.ModuleList)}
        found |= {f"{name}.{each}": module for each, module in inner.items()}
    return found


def find_layer(network: Network, name: str) -> nn.Module:
    """A stage or layer by name.

    Raises:
        UnknownNameError: No such layer.
    """
    layers = list_layers(network)
    if name not in layers:
        raise UnknownNameError("layer", name, tuple(layers))
    return layers[name]


def record_activations(
    network: Network, cutouts: Cutouts, layer: str, *, batch_size: int = 64, device: torch.device | str = "cpu"
) -> np.ndarray:
    """What a layer puts out for every object.

    Arguments:
        network: A network whose backbone lists its ``stages``; left as it was.
        cutouts: N objects.
        layer: A stage (``conv1``) or a layer in one (``conv1.0``), as :func:`list_layers` names them.
        batch_size: Objects at a time; does not change the answer.
        device: Where to compute.

    Returns:
        (N, C, H, W) float32 on the layer's own grid; of a dense layer (N, C, 1, 1).

    Raises:
        UnknownNameError: No such layer.
        InputError: The backbone lists no stages.

    Example:
        >>> from galstress.simulation import simulate
        >>> network = Network.build("gamornet", stamp_px=32, width=0.1, pixels="sky")
        >>> record_activations(network, simulate("hsc-wide-i", 2, stamp_px=64), "conv1.1").shape
        (2, 10, 8, 8)
    """
    chosen = {layer: find_layer(network, layer)}
    parts = [each[layer].float().cpu().numpy() for each in _run(network, cutouts, chosen, batch_size, device, _as_maps)]
    if not parts:
        raise InputError("cutouts of nothing", "one object or more", "give some")
    return np.concatenate(parts)


def pool_activations(
    network: Network,
    cutouts: Cutouts,
    layers: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Means over the image of what layers put out, by default of every stage.

    Arguments:
        network: As :func:`record_activations` takes it, and so are the others.
        cutouts: N objects.
        layers: Names, or None for the stages.
        batch_size: Objects at a time.
        device: Where to compute.

    Returns:
        (N, C) float64 by layer.

    Raises:
        UnknownNameError: No such layer.
        InputError: The backbone lists no stages.
    """
    names = list(network.backbone.stages) if layers is None and list_layers(network) else list(layers or ())
    chosen = {name: find_layer(network, name) for name in names}
    parts = list(_run(network, cutouts, chosen, batch_size, device, lambda out: _as_maps(out).double().mean((2, 3))))
    return {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in names}


def _as_maps(out: Tensor) -> Tensor:
    """(N, C, H, W) of maps, or of dense units."""
    return out if out.dim() == 4 else out[:, :, None, None]


@torch.no_grad()
def _run(
    network: Network,
    cutouts: Cutouts,
    layers: Mapping[str, nn.Module],
    batch_size: int,
    device: torch.device | str,
    reduce: Callable[[Tensor], Tensor],
) -> Iterator[dict[str, Tensor]]:
    """Outputs by layer, a batch at a time."""
    with evaluating(network, device):
        for batch in cutouts.split(batch_size):
            with listening(layers) as heard:
                network.backbone(network.backbone.inputs(batch.to(device)))
            yield {name: reduce(out) for name, out in heard.items()}


@contextlib.contextmanager
def listening(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What layers put out while the context lasts, by name."""
    heard: dict[str, Tensor] = {}

    def listen(name: str, module: nn.Module, given: object, out: Tensor) -> None:
        del module, given
        heard[name] = out

    handles = [module.register_forward_hook(functools.partial(listen, name)) for name, module in layers.items()]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
