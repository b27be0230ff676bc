"""Network times cutouts: a Prediction, Classes or Samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.progress import track

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import Classes, ClassHead, Prediction, Samples, TripleHead, draw_points
from galstress.networks.network import Network
from galstress.prediction.classes import predict_classes
from galstress.prediction.parameters import empty_parameters, predict_parameters
from galstress.prediction.samples import predict_samples
from galstress.prediction.turns import Turn, count_turns, list_turns

__all__ = ["predict"]


@torch.no_grad()
def predict(
    network: Network,
    cutouts: Cutouts,
    *,
    average: bool | int = False,
    draws: int = 128,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Any:  # noqa: ANN401 (Prediction, Classes or Samples: whatever the network's head gives)
    """What a network says of every object: a posterior, or probabilities of classes.

    Arguments:
        network: Any network; left as it was.
        cutouts: Stamps of any size; they are cropped or padded about the array's centre.
        average: Average over the eight quarter turns and mirrors of the field, each turned back: eight times the
            work, and exactly the same answer for a galaxy and its quarter turns and mirrors. A multiple of eight, up to
            64, averages over angles between them, too, where pixels are interpolated: 32 turns are 22.5 degrees apart,
            and an answer hardly depends on the angle any more. Those see the largest square that fits into the stamp
            at any angle, which must not be smaller than what the network looks at (1.41 times its ``stamp_px``).
        draws: Draws of each posterior whose head has a shape other than Gaussian (``head.draw``), a multiple of 16;
            0 takes that head's Gaussian only. With ``average`` each turn gives the same quarter of them (a multiple
            of 16, too), so that all eight together are about twice as many: 32 each and 256 in all by default. A
            network with dropout gives eight times as many, at least 128: 1,024 by default.
        batch_size: Objects at a time; does not change the answer.
        device: Where to compute; the result lies on the CPU.
        progress: Show a bar with the time left.

    Returns:
        :class:`galstress.heads.Prediction` of all parameters of disk and bulge, :class:`galstress.heads.Samples` of
        B/T, radius and flux (GaMPEN) or :class:`galstress.heads.Classes` (GaMorNet), as the network's head has it:
        a row per object, in order; objects without a usable pixel are flagged and hold NaN. ``prior`` holds the
        shares that the network was trained under on this survey, or their mean over its surveys where this is none.

    Raises:
        InputError: ``draws`` is no multiple of 16, ``average`` none of 8, or stamps are too small for its angles.

    Example:
        >>> from galstress.simulation import simulate
        >>> prediction = predict(Network.build("foveal", width=0.5), simulate("hsc-wide-i", 3, stamp_px=64))
        >>> prediction.mean.shape
        (3, 15)
    """
    if draws < 0 or draws % 16:
        raise InputError(f"draws={draws}", "0 or a multiple of 16", "take 128")
    answer = _choose(network, list_turns(count_turns(average)), draws)
    modules = network.modules()
    home, training = next(modules.parameters()).device, modules.training
    modules.to(device).eval()
    try:
        batches = cutouts.split(batch_size) or [cutouts]
        shown = track(batches, "predicting", disable=not progress, transient=True)
        parts: list[Any] = [answer(batch.to(device)) for batch in shown]
    finally:
        modules.to(home).train(training)
    return type(parts[0]).concatenate(parts)


def _choose(network: Network, turns: Sequence[Turn], draws: int) -> Callable[[Cutouts], Prediction | Classes | Samples]:
    """Cutouts to an answer, for this network's head."""
    if isinstance(network.head, ClassHead):
        return lambda cutouts: predict_classes(network, cutouts, turns)
    if isinstance(network.head, TripleHead):
        return lambda cutouts: predict_samples(network, cutouts, turns, max(128, 8 * draws))
    points = None
    if draws and hasattr(network.head, "draw"):
        points = draw_points(max(16, draws // 64 * 16) if len(turns) > 1 else draws)
    return lambda cutouts: (
        predict_parameters(network, cutouts, turns, points)
        if len(cutouts)
        else empty_parameters(network, cutouts, turns, points)
    )
