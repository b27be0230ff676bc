"""What GaMorNet and GaMPEN take of cutouts: square stamps of one side, in one unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import Reference
from galstress.networks.foveal import fill_masked, measure_aperture

__all__ = ["PIXELS", "PixelInputs", "PixelNetwork"]

PIXELS = {
    "raw": "calibrated pixels in the network's own unit, as published",
    "sky": "pixels in units of the sky's rms",
}
"""Units of the pixels that a network takes."""


@dataclasses.dataclass(frozen=True)
class PixelInputs:
    """Stamps as the backbone takes them, and the reference of the head's coordinates."""

    views: Tensor
    """(N, C, S, S)."""
    reference: Reference
    """What the head's lengths and fluxes are relative to: measured on the image, or one pixel and one unit."""


class PixelNetwork(nn.Module):
    """What both published networks share: stamps of one side about the array's centre, and their unit.

    Arguments:
        stamp_px: Side of the stamps; cutouts are cropped or, with zeros, padded to it.
        pixels: One of :data:`PIXELS`.
        zero_point_mag: AB magnitude of one unit of raw pixels; images of other zero points are converted.
    """

    SMALLEST_PX: ClassVar[int]
    """Side below which the layers have no pixel left."""
    MEASURES: ClassVar[bool]
    """Whether the head's coordinates are relative to an aperture that is measured, where pixels are not raw."""
    stages: nn.ModuleDict
    """The layers, in order, by the names of their stages."""

    def __init__(self, stamp_px: int, pixels: str, zero_point_mag: float) -> None:
        super().__init__()
        if not isinstance(stamp_px, int) or stamp_px < self.SMALLEST_PX:
            raise InputError(f"stamp_px={stamp_px!r}", f"a whole number from {self.SMALLEST_PX} on", "take 83 or 167")
        if pixels not in PIXELS:
            raise InputError(f"pixels={pixels!r}", " or ".join(PIXELS), "choose one of them")
        self.stamp_px, self.pixels, self.zero_point_mag = stamp_px, pixels, zero_point_mag

    def inputs(self, cutouts: Cutouts, turn: int = 0) -> PixelInputs:
        """Stamps and reference of cutouts of any size.

        Arguments:
            cutouts: Any survey. Masked pixels take the value of the pixel opposite the centre, and 0 where that is
                masked, too.
            turn: Element 0 to 7 of the quarter turns and mirrors (:func:`galstress.heads.turn_internal`).
        """
        return next(self.inputs_at(cutouts, [turn]))

    def inputs_at(self, cutouts: Cutouts, turns: Sequence[int]) -> Iterator[PixelInputs]:
        """The same at several elements, for less than each of them alone."""
        height, width = cutouts.images.shape[1:]
        centre = ((width - 1) / 2, (height - 1) / 2)
        rms = cutouts.sky_rms.clamp_min(torch.finfo(torch.float32).tiny)
        stamps = _crop(fill_masked(cutouts.images, cutouts.mask), self.stamp_px)
        own = 10 ** (0.4 * (self.zero_point_mag - cutouts.survey.zero_point_mag))
        one = torch.ones_like(rms)
        if self.pixels == "raw" or not self.MEASURES:  # the views turn, and nothing else
            is_raw = self.pixels == "raw"
            views = self.show(stamps * own if is_raw else stamps / rms[:, None, None], None if is_raw else one)
            reference = Reference(one / (own * rms) if is_raw else one, one, centre, rms)
            yield from (PixelInputs(_turned(views, turn), reference) for turn in turns)
            return
        for turn in turns:
            turned = _turned(stamps, turn) / rms[:, None, None]
            # on what the network sees: a wider aperture would mean something else for stamps that are wider; and at
            # every turn: on an odd side its centre lies half a pixel off (galstress.networks.foveal)
            flux, size = measure_aperture(turned)
            yield PixelInputs(self.show(turned, size**2 / flux), Reference(flux, size, centre, rms))

    def inputs_of(self, batches: Sequence[Cutouts]) -> PixelInputs:
        """The same for several surveys as one batch."""
        parts = [self.inputs(cutouts) for cutouts in batches]
        reference = [part.reference for part in parts]
        centre = torch.cat([r.flux.new_tensor([r.centre_px]).expand(len(r.flux), 2) for r in reference]).mT
        flux, size, rms = (torch.cat([getattr(r, n) for r in reference]) for n in ("flux", "size_px", "sky_rms"))
        return PixelInputs(torch.cat([part.views for part in parts]), Reference(flux, size, centre, rms))

    def forward(self, inputs: PixelInputs) -> Tensor:
        """(N, features) outputs of the last stage, which is in full precision under autocast, too."""
        x = self.begin(inputs.views)
        *stages, last = self.stages.values()
        for stage in stages:
            x = stage(x)
        with torch.autocast(x.device.type, enabled=False):
            answer: Tensor = last(x.float())
        return answer

    def begin(self, views: Tensor) -> Tensor:
        """(N, C, S, S) what the first stage takes of the views."""
        return views.to(memory_format=torch.channels_last)

    def show(self, stamps: Tensor, brightness: Tensor | None) -> Tensor:
        """(N, C, S, S) channels of (N, S, S) stamps.

        Arguments:
            stamps: In the network's unit.
            brightness: (N,) inverse of the mean surface brightness that was measured, or None for raw pixels.
        """
        raise NotImplementedError


def _turned(images: Tensor, element: int) -> Tensor:
    """(..., S, S) images at an element of the quarter turns and mirrors."""
    return torch.rot90(images.flip(-1) if element >= 4 else images, element % 4, (-1, -2))


def _crop(images: Tensor, side: int) -> Tensor:
    """The central ``side`` x ``side`` pixels, with zeros where there are none."""
    height, width = images.shape[1:]
    left, top = (side - width) // 2, (side - height) // 2
    return nn.functional.pad(images, [left, side - width - left, top, side - height - top])
