"""A head whose posterior has any shape: a neural spline flow around the Gaussian one.

The flow acts on what the Gaussian leaves over: residuals whitened with its own mean and
covariance, B/T last, so that B/T's whitened residual is that of B/T alone. It starts as the
identity, hence as the Gaussian itself, and learns what that one cannot hold: above all the
galaxies that are pure disks or pure bulges, whose B/T sits on one value.
"""

from __future__ import annotations

import math

import torch
import zuko
from torch import Tensor, nn

from galstress.galaxy import Galaxies
from galstress.heads.galaxy import INTERNAL_NAMES, GalaxyHead, Reference

__all__ = ["BEYOND", "EDGE", "SPREAD", "FlowHead"]

_DIM = len(INTERNAL_NAMES)
_SHARE = INTERNAL_NAMES.index("logit_bulge_to_total")
_ORDER = (*(place for place in range(_DIM) if place != _SHARE), _SHARE)
EDGE = math.log(99.0)
"""|logit(0.01 + 0.98 B/T)| of pure disks and bulges."""
BEYOND, SPREAD = 1.0, 0.3
"""A pure component's logit lies so far beyond the edge, with this width: a smooth bump, where the truth is a spike."""
_BINS, _BOUND, _SLOPE = 8, 5.0, 1e-3
"""Of the splines: bins, where they end, and the least slope."""
_DIGITS = 1e4
_GAUSSIAN = _DIM + _DIM * (_DIM + 1) // 2


class FlowHead(GalaxyHead):
    """Features to a Gaussian and, around it, a neural spline flow over the internal coordinates.

    Arguments:
        features: Length of the feature vector.
        hidden: Width of the Gaussian's hidden layer.
        context: Numbers that the flow is told of the image.

    Both are trained together: the loss is the sum of their negative log-likelihoods. :meth:`posterior` is the
    Gaussian, :meth:`draw` the flow (Durkan et al. 2019, as in ``zuko``: four couplings, eight bins).

    Example:
        >>> head = FlowHead(16)
        >>> head.draw(head(torch.zeros(3, 16)), torch.zeros(5, 12)).shape
        torch.Size([3, 5, 12])
    """

    _diagonal: Tensor

    def __init__(self, features: int, hidden: int = 256, context: int = 32) -> None:
        super().__init__(features, hidden)
        diagonal = torch.tensor([_DIM + row * (row + 3) // 2 for row in range(_DIM)])
        self.register_buffer("_diagonal", diagonal, persistent=False)
        self.summary = nn.Sequential(nn.Linear(hidden, 64), nn.SiLU(), nn.Linear(64, context))
        self.flow = zuko.flows.MAF(
            features=_DIM,
            context=2 * _DIM + context,
            transforms=4,
            hidden_features=(64, 64),
            passes=2,
            univariate=_Spline,
            shapes=[(_BINS,), (_BINS,), (_BINS - 1,)],
        )
        for transform in self.flow.transform.transforms:
            nn.init.normal_(transform.hyper[-1].weight, std=1e-3)
            nn.init.zeros_(transform.hyper[-1].bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 90 + context) raw outputs of (B, F) features: the Gaussian's, then the flow's context."""
        hidden = self.layers[1](self.layers[0](features))
        return torch.cat([self.layers[2](hidden), self.summary(hidden)], -1)

    def place(self, galaxies: Galaxies, reference: Reference) -> Tensor:
        """(N, 12) internal coordinates of galaxies, those of pure disks and bulges spread beyond B/T's edges."""
        targets = super().place(galaxies, reference)
        logit = targets[:, _SHARE]
        # as good as random, and yet the same each time: the last digits of the flux
        uniform = torch.frac(targets[:, INTERNAL_NAMES.index("ln_flux")].double().abs() * _DIGITS)
        beyond = BEYOND + SPREAD * torch.special.ndtri(uniform.clamp(0.002, 0.998)).float()
        pure = logit.abs() >= EDGE - 1e-4
        spread = torch.where(pure, logit + logit.sign() * beyond, logit)
        return torch.cat([targets[:, :_SHARE], spread[:, None], targets[:, _SHARE + 1 :]], 1)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """(B,) sum of both negative log-likelihoods of (B, 12) targets, up to constants."""
        mean, factor = self._gaussian(raw)
        residual = ((targets - self.centre) / self.scale).clamp(-8, 8) - mean
        root = _marginal_root(factor)
        white = torch.einsum("bij,bi->bj", root, _share_last(residual))
        volume = torch.log(torch.diagonal(root, dim1=-2, dim2=-1)).sum(-1)
        return super().loss(raw, targets) - self.flow(self._context(raw)).log_prob(white) - volume

    def draw(self, raw: Tensor, normal: Tensor) -> Tensor:
        """Samples of the flow's posterior.

        Arguments:
            raw: (B, 90 + context) outputs of :meth:`forward`.
            normal: (n, 12) standard normal points, the same for every object.

        Returns:
            (B, n, 12) internal coordinates, float64.
        """
        mean, factor = self._gaussian(raw)
        shape = (len(raw), len(normal), _DIM)
        transform = self.flow(self._context(raw)[:, None].expand(*shape[:2], -1)).transform
        white = transform.inv(normal.to(raw).expand(shape)).double()
        residual = torch.linalg.solve_triangular(_marginal_root(factor.double()).mT, white.mT, upper=True).mT
        placed = torch.empty_like(residual)
        placed[..., _ORDER] = residual
        return self.centre.double() + (mean.double()[:, None] + placed) * self.scale.double()

    def _context(self, raw: Tensor) -> Tensor:
        """What the flow is told: the Gaussian's means and ln diagonal, and the summary."""
        return torch.cat([raw[:, :_DIM], raw[:, self._diagonal], raw[:, _GAUSSIAN:]], -1)


class _Spline(zuko.transforms.MonotonicRQSTransform):  # type: ignore[misc]
    """The spline of ``zuko.flows.NSF``, its softmax written out: torch's takes ten times as long on a short axis."""

    def __init__(self, widths: Tensor, heights: Tensor, derivatives: Tensor) -> None:
        super(zuko.transforms.MonotonicRQSTransform, self).__init__()
        self.horizontal, self.vertical = (_knots(_squashed(2 * lengths) / 2) for lengths in (widths, heights))
        self.derivatives = nn.functional.pad(_squashed(derivatives), (1, 1)).exp()


def _squashed(free: Tensor) -> Tensor:
    """Numbers brought between the logarithms of the least slope and of its inverse."""
    return free / (1 + (free / math.log(_SLOPE)).abs())


def _knots(ln_lengths: Tensor) -> Tensor:
    """Knots from one bound to the other, whose distances go as the exponentials."""
    lengths = ln_lengths.exp()
    shares = nn.functional.pad(lengths / lengths.sum(-1, keepdim=True), (1, 0))
    return _BOUND * (2 * shares.cumsum(-1) - 1)


def _share_last(values: Tensor) -> Tensor:
    """(N, 12, ...) with B/T's place moved to the end (by slices: an index from the CPU would stop a CUDA graph)."""
    return torch.cat([values[:, :_SHARE], values[:, _SHARE + 1 :], values[:, _SHARE : _SHARE + 1]], 1)


def _marginal_root(factor: Tensor) -> Tensor:
    """Lower-triangular M with M M^T the precision of the coordinates in the order in which B/T is last.

    Of residuals r in that order, M^T r is white, and its last entry is the marginal residual of B/T.
    """
    # behind B/T's old place the rows have one entry too many: rotations of neighbouring columns take it away
    columns = list(_share_last(factor).unbind(-1))
    for place in range(_SHARE, _DIM - 1):
        left, right = columns[place], columns[place + 1]
        length = torch.hypot(left[:, place], right[:, place])[:, None]
        cos, sin = left[:, place, None] / length, right[:, place, None] / length
        columns[place], columns[place + 1] = cos * left + sin * right, cos * right - sin * left
    columns[-1] = columns[-1] * columns[-1][:, -1:].sign()
    return torch.stack(columns, -1).tril()
