"""The turns and mirrors of a field that an answer is averaged over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.networks.network import Network
from galstress.turning import crop_centre, side_for_turns, turn_pixels, turned_side

__all__ = ["Turn", "count_turns", "list_turns", "look_at_turns"]

_QUARTERS = 8
_MOST = 64
_LEAST_SIDE = 32


class Turn(NamedTuple):
    """A turn by an angle, then one of the eight quarter turns and mirrors."""

    element: int
    """0 to 7 (:func:`galstress.heads.turn_internal`)."""
    angle_deg: float
    """From +x towards +y; 0 moves whole pixels only."""


def count_turns(average: bool | int) -> int:
    """How many turns ``average`` asks for.

    Raises:
        InputError: Not False, True or a multiple of 8 up to 64.

    Example:
        >>> count_turns(False), count_turns(True), count_turns(32)
        (1, 8, 32)
    """
    if isinstance(average, bool):
        return _QUARTERS if average else 1
    if average in (0, 1):
        return 1
    if average % _QUARTERS or not 0 < average <= _MOST:
        raise InputError(f"average={average}", "0, or 8, 16, 24, ... 64 turns", "take 8, or 32 for any angle")
    return int(average)


def list_turns(count: int) -> list[Turn]:
    """So many turns: the eight that move whole pixels, at angles that share out a quarter of the circle.

    Example:
        >>> sorted({turn.angle_deg for turn in list_turns(32)})
        [0.0, 22.5, 45.0, 67.5]
    """
    angles = max(count // _QUARTERS, 1)
    return [Turn(element, 90.0 * step / angles) for step in range(angles) for element in range(min(count, _QUARTERS))]


def look_at_turns(network: Network, cutouts: Cutouts, turns: Sequence[Turn]) -> Iterator[tuple[Turn, Cutouts, Any]]:
    """Every turn, the cutouts at its angle, and what the backbone takes of them at its quarter turn or mirror.

    Where pixels are interpolated, all angles show the largest square that lies in the stamp at any of them, so that no
    corner is empty.

    Raises:
        InputError: That square is smaller than what the network looks at.
    """
    side = _find_side(network, cutouts) if any(turn.angle_deg for turn in turns) else None
    for angle, group in itertools.groupby(turns, key=lambda turn: turn.angle_deg):
        at_angle, turned = list(group), cutouts
        if side is not None:
            turned = turn_pixels(cutouts, angle, side) if angle else crop_centre(cutouts, side)
        seen = network.backbone.inputs_at(turned, [turn.element for turn in at_angle])
        yield from ((turn, turned, inputs) for turn, inputs in zip(at_angle, seen, strict=True))


def _find_side(network: Network, cutouts: Cutouts) -> int:
    """Of the square; an error where it is smaller than what the network looks at."""
    height, width = cutouts.images.shape[1:]
    least = getattr(network.backbone, "stamp_px", _LEAST_SIDE)
    side = turned_side(min(height, width))
    if height != width or side < least:
        came = f"{height} x {width} px stamps to be turned by other angles than 90 degrees"
        allowed = f"square ones of at least {side_for_turns(least)} px: the network looks at {least}"
        raise InputError(came, allowed, "load larger stamps, or average over 8 turns, which need no more")
    return side
