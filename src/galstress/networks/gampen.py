"""``gampen``: the posterior network of Ghosh et al. (2022): a spatial transformer, then VGG16 with dropout.

The transformer looks at the stamp and zooms it by one number; the trunk is VGG16 with dropout in front of every
convolution but the first and in its dense layers, at one small rate, and stays on while measuring (Monte Carlo
dropout). Nine outputs: three means, three logarithms of a diagonal D and three entries of a unit lower-triangular L,
of the covariance L D L^T (:class:`galstress.heads.DropoutHead`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from galstress.networks.pixels import PixelNetwork

__all__ = ["GaMPEN", "has_collapsed", "localized_side"]

_PLAN = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_LN_ZOOM = math.log(3.0)
"""Zooms stay within this of 1: from a third to three."""
_SEEN = (0.1, 10.0)
"""Zooms beyond which a stamp is a few of its pixels, or shrunk to a few."""
_SELDOM = 0.02
"""Rates below which gaps are drawn."""
_GAINS = (1.0, 30.0, 2.0)
"""Of the three channels of ``pixels="sky"``; the first multiplies sky rms, the others the surface brightness."""


class GaMPEN(PixelNetwork):
    """Stamps to the nine numbers of a joint posterior of B/T, half-light radius and flux.

    Arguments:
        stamp_px: Side of the stamps: 239, 143, 96 as published for HSC's g, r, i (z below 0.25, 0.5, 0.75).
        width: Multiplies the number of channels; 1 has 143,125,226, 137,226,986 and 135,604,970 weights.
        pixels: ``raw`` as published: asinh of raw pixels, three times the same; or ``sky``: three different channels,
            asinh of pixels in units of the sky's rms and, with two gains, of the surface brightness that was
            measured, so that faint outskirts and bright cores are seen at once.
        zero_point_mag: AB magnitude of one unit of raw pixels.
        dropout: The one rate, in training and in measuring.
        bounded_zoom: Keep the zoom within a third and three, so that it cannot collapse; False: free, as published.

    Source: Ghosh et al. 2022, ApJ 935, 138 (arXiv:2207.05107); VGG16: Simonyan & Zisserman 2015 (arXiv:1409.1556);
    transformer: Jaderberg et al. 2015 (arXiv:1506.02025).

    Example:
        >>> from galstress.networks.pixels import PixelInputs
        >>> network = GaMPEN(stamp_px=64, width=0.0625).eval()
        >>> network(PixelInputs(torch.zeros(2, 3, 64, 64), None)).shape
        torch.Size([2, 9])
    """

    SMALLEST_PX = 56
    MEASURES = True

    def __init__(
        self,
        stamp_px: int = 239,
        width: float = 1.0,
        pixels: str = "raw",
        zero_point_mag: float = 27.0,
        dropout: float = 7e-4,
        bounded_zoom: bool = True,
    ) -> None:
        super().__init__(stamp_px, pixels, zero_point_mag)
        self.width, self.dropout, self.bounded_zoom = width, dropout, bounded_zoom

        def wide(count: int) -> int:
            return max(4, round(width * count))

        self.localization = nn.Sequential(
            nn.Conv2d(3, wide(64), 11), nn.MaxPool2d(3, 2), nn.ReLU(),
            nn.Conv2d(wide(64), wide(96), 9), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        side = localized_side(stamp_px)
        last = nn.Linear(wide(32), 1)
        self.zooming = nn.Sequential(nn.Linear(wide(96) * side**2, wide(32)), nn.ReLU(), last)
        stages: dict[str, nn.Module] = {}
        before = 3
        for number, channels in enumerate(_PLAN, 1):
            layers: list[nn.Module] = []
            for count in channels:
                layers += [_SeldomDropout(dropout)] if layers or number > 1 else []
                layers += [nn.Conv2d(before, wide(count), 3, padding=1), nn.ReLU()]
                before = wide(count)
            stages[f"block{number}"] = nn.Sequential(*layers, nn.MaxPool2d(2))
        dense = wide(4096)
        stages["dense1"] = nn.Sequential(
            nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(49 * before, dense), nn.ReLU(), nn.Dropout(dropout)
        )
        stages["dense2"] = nn.Sequential(nn.Linear(dense, dense), nn.ReLU(), nn.Dropout(dropout))
        stages["output"] = output = nn.Linear(dense, 9)
        self.stages = nn.ModuleDict(stages)
        self.features = 9
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.constant_(module.bias, 0.0)  # type: ignore[arg-type]
        nn.init.normal_(output.weight, std=0.01)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)

    def begin(self, views: Tensor) -> Tensor:
        """(N, 3, S, S) the zoomed stamps, which no dropout touches."""
        return self.transform(views)

    def zoom(self, views: Tensor) -> Tensor:
        """(N,) factor on the coordinates at which each stamp is looked at: below 1 enlarges the centre."""
        views = views.to(memory_format=torch.channels_last)
        maps = self.localization(views)
        with torch.autocast(views.device.type, enabled=False):  # its eight bits are a coarse zoom
            factor = self.zooming(maps.float())[:, 0]
        return torch.exp(_LN_ZOOM * torch.tanh((factor - 1) / _LN_ZOOM)) if self.bounded_zoom else factor

    def transform(self, views: Tensor) -> Tensor:
        """(N, 3, S, S) zoomed stamps: bilinear, zeros outside, corners aligned."""
        zoom = self.zoom(views)
        theta = torch.eye(2, 3, device=zoom.device, dtype=zoom.dtype) * zoom[:, None, None]
        with torch.autocast(views.device.type, enabled=False):  # places in bfloat16 are off by tenths of a pixel
            grid = nn.functional.affine_grid(theta, list(views.shape), align_corners=True)
            zoomed = nn.functional.grid_sample(views, grid, align_corners=True)
        return zoomed.to(memory_format=torch.channels_last)

    def show(self, stamps: Tensor, brightness: Tensor | None) -> Tensor:
        """(N, 3, S, S): asinh of raw stamps three times, or three stretches."""
        if brightness is None:
            return torch.asinh(stamps)[:, None].expand(-1, 3, -1, -1)
        scales = (torch.ones_like(brightness), brightness, brightness)
        views = [stamps * (gain * scale)[:, None, None] for gain, scale in zip(_GAINS, scales, strict=True)]
        return torch.asinh(torch.stack(views, 1))


class _SeldomDropout(nn.Dropout):
    """Dropout whose rate is small: on a CPU it draws the gaps between dropped units, not a number for every unit.

    A training step of GaMPEN becomes a tenth shorter; each unit is still dropped independently at the rate.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        if not self.training or not 0 < self.p < _SELDOM or x.is_cuda:
            return super().forward(x)
        dropped: Tensor = _Drop.apply(x, self.p)  # type: ignore[no-untyped-call]
        return dropped


class _Drop(torch.autograd.Function):
    """Units to zero where geometric gaps lead, the others times 1 / (1 - rate)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:  # noqa: ANN401 (torch's own record)
        """Units in the order of memory."""
        expected = x.numel() * rate
        most = int(expected + 8 * math.sqrt(expected) + 16)  # eight sigma: enough gaps to reach the end
        places = torch.empty(most, dtype=torch.float64).geometric_(rate).cumsum(0).long() - 1
        kept = x.clone()
        kept = kept if kept.is_contiguous() else kept.contiguous(memory_format=torch.channels_last)
        ctx.places, ctx.factor, ctx.strides = places[places < x.numel()], 1 / (1 - rate), kept.stride()
        return _drop_at(kept.mul_(ctx.factor), ctx.places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """The same units, in the same order of memory."""
        (gradient,) = gradients
        ordered = torch.empty_strided(gradient.shape, ctx.strides, dtype=gradient.dtype)
        torch.mul(gradient, ctx.factor, out=ordered)
        return _drop_at(ordered, ctx.places), None


def _drop_at(units: Tensor, places: Tensor) -> Tensor:
    """The same units, zero at places in memory."""
    units.as_strided((units.numel(),), (1,))[places] = 0
    return units


def localized_side(stamp_px: int) -> int:
    """Side of the transformer's last maps for stamps of this side."""
    return (((stamp_px - 10 - 3) // 2 + 1) - 8 - 3) // 2 + 1


def has_collapsed(zooms: Tensor) -> bool:
    """Whether a transformer stopped looking at its galaxies.

    Arguments:
        zooms: (N,) what :meth:`GaMPEN.zoom` gives for galaxies that differ.

    Returns:
        True where most zooms are no numbers, show a few pixels only (below 0.1, or negative), shrink the stamp to a
        few (above 10), or stand at a bound of :class:`GaMPEN`'s bounded zoom, where no gradient moves them any more.

    Example:
        >>> has_collapsed(torch.tensor([0.8, 1.0, 1.3])), has_collapsed(torch.tensor([0.8, 0.0, -0.01]))
        (False, True)
    """
    seen = (zooms >= _SEEN[0]) & (zooms <= _SEEN[1])
    stuck = (torch.log(zooms.clamp_min(_SEEN[0])).abs() / _LN_ZOOM - 1).abs() < 0.01
    return bool((~seen | stuck).double().mean() > 0.5)
