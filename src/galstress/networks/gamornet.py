"""``gamornet``: the classifier of Ghosh et al. (2020), disk-dominated, indeterminate or bulge-dominated.

An AlexNet for one channel: five convolutions, three pools with a local response normalisation behind each, three
dense layers with tanh and dropout. One architecture for all surveys; only the stamp's side changes. Layers, paddings
and counts of weights are those of the published code (version 0.4.3), which exists for two back ends that are *not*
the same network: their normalisations differ (:data:`RESPONSES`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from galstress.errors import InputError
from galstress.networks.pixels import PixelNetwork

__all__ = ["RESPONSES", "GaMorNet"]

RESPONSES = {
    "tflearn": "over 11 neighbouring channels, as TFLearn (and the paper) has it",
    "keras": "mean over 5 x 5 pixels, summed over all channels, as the Keras version has it",
}
"""Local response normalisations: x / (1 + 1e-4 S)^0.75, S the sum of squares."""

_ALPHA, _REACH = 1e-4, 5
_DENSE_SIGMA = 0.02


class GaMorNet(PixelNetwork):
    """Stamps to three numbers whose softmax is the probability of [disk, indeterminate, bulge].

    Arguments:
        stamp_px: Side of the stamps: 167 as published for SDSS g, 83 for CANDELS H, 239 for HSC.
        width: Multiplies the number of channels; 1 has 58,270,403, 29,958,851 and 87,630,531 weights.
        response: One of :data:`RESPONSES`.
        pixels: ``raw`` as published, or ``sky``: asinh of pixels in units of the sky's rms.
        zero_point_mag: AB magnitude of one unit of raw pixels: 25.11 as published for SDSS, 25.95 for CANDELS.
        dropout: Rate behind both hidden dense layers.

    Source: Ghosh et al. 2020, ApJ 895, 112 (arXiv:2006.14639).

    Example:
        >>> from galstress.networks.pixels import PixelInputs
        >>> network = GaMorNet(stamp_px=83, width=0.125)
        >>> sum(p.numel() for p in network.parameters())
        471771
        >>> GaMorNet(stamp_px=83, width=0.125).eval()(PixelInputs(torch.zeros(2, 1, 83, 83), None)).shape
        torch.Size([2, 3])
    """

    SMALLEST_PX = 16
    MEASURES = False

    def __init__(
        self,
        stamp_px: int = 167,
        width: float = 1.0,
        response: str = "tflearn",
        pixels: str = "raw",
        zero_point_mag: float = 25.11,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(stamp_px, pixels, zero_point_mag)
        if response not in RESPONSES:
            raise InputError(f"response={response!r}", " or ".join(RESPONSES), "choose one of them")
        self.width, self.response, self.dropout = width, response, dropout
        first, second, third, dense = (max(4, round(width * count)) for count in (96, 256, 384, 4096))
        side = stamp_px
        for stride in (4, 2, 2, 2):
            side = math.ceil(side / stride)
        self.stages = nn.ModuleDict(
            {
                "conv1": nn.Sequential(_Convolution(1, first, 11, 4), nn.ReLU(), _Pool(), _Response(response)),
                "conv2": nn.Sequential(_Convolution(first, second, 5), nn.ReLU(), _Pool(), _Response(response)),
                "conv3": nn.Sequential(_Convolution(second, third, 3), nn.ReLU()),
                "conv4": nn.Sequential(_Convolution(third, third, 3), nn.ReLU()),
                "conv5": nn.Sequential(_Convolution(third, second, 3), nn.ReLU(), _Pool(), _Response(response)),
                "dense1": nn.Sequential(
                    nn.Flatten(), nn.Linear(second * side**2, dense), nn.Tanh(), nn.Dropout(dropout)
                ),
                "dense2": nn.Sequential(nn.Linear(dense, dense), nn.Tanh(), nn.Dropout(dropout)),
                "output": nn.Linear(dense, 3),
            }
        )
        self.features = 3
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                bound = math.sqrt(3 / module.weight[0].numel())
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.constant_(module.bias, 0.0)  # type: ignore[arg-type]
            elif isinstance(module, nn.Linear):
                sigma = _DENSE_SIGMA / math.sqrt(width)
                nn.init.trunc_normal_(module.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
                nn.init.zeros_(module.bias)

    def show(self, stamps: Tensor, brightness: Tensor | None) -> Tensor:
        """(N, 1, S, S): the stamps as they are, or asinh of them where they come in units of the sky's rms."""
        return (stamps if brightness is None else torch.asinh(stamps))[:, None]


class _Convolution(nn.Conv2d):
    """A convolution whose padding keeps ceil(side / stride), more of it behind than in front, as TensorFlow has it."""

    def __init__(self, before: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(before, channels, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ceil(H / stride), ceil(W / stride))."""
        return super().forward(_padded(x, self.kernel_size[0], self.stride[0], 0.0))


class _Pool(nn.Module):
    """The largest of 3 x 3 pixels, every second one, padded like the convolutions."""

    kernel_size, stride = 3, 2  # where a cell lies, as torch's own pools say it

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ceil(H / 2), ceil(W / 2))."""
        kernel, stride = self.kernel_size, self.stride
        return nn.functional.max_pool2d(_padded(x, kernel, stride, -math.inf), kernel, stride)


class _Response(nn.Module):
    """Local response normalisation of either back end."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        if self.kind == "tflearn":
            # a product with a band of ones: torch's own normalisation takes ten times as long on a CPU
            place = torch.arange(x.shape[1], device=x.device)
            band = ((place[:, None] - place).abs() <= _REACH).to(x.dtype)
            squares = nn.functional.conv2d(x**2, band[:, :, None, None])
        else:
            squares = nn.functional.avg_pool2d(x**2, 5, 1, 2, count_include_pad=False).sum(1, keepdim=True)
        root = torch.rsqrt(1 + _ALPHA * squares)
        return x * root * torch.sqrt(root)  # y^-3/4: a general power takes five times as long


def _padded(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """Images with what TensorFlow's padding ``same`` puts around them."""
    total = [max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in x.shape[-2:]]
    (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in total)
    return nn.functional.pad(x, (left, right, top, bottom), value=value)
