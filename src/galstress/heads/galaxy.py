"""Heads: what a network says, and how it is trained to say it.

:class:`GalaxyHead` turns features into a joint Gaussian posterior over the parameters of the
disk + bulge model, in an *internal* space that it alone knows. :class:`Prediction` is the
record of such posteriors for many objects; whole-galaxy outputs are derived sample by sample.

The internal coordinates, in order: centre x and y (pixels from the array's centre); ln of the
flux over the aperture flux measured on the image; logit(0.01 + 0.98 B/T); ln of the whole
half-light radius over the measured size; e1, e2 of the whole; ln of the ratio of the
semi-major radii, bulge over disk; ln n of disk and bulge; e1, e2 of the bulge minus those of
the disk. The map to the model's own parameters is one to one, so the posterior is one over
the model; half-light radius and shape are coordinates because the image fixes them best.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.galaxy import (
    Galaxies,
    component_ellipticity,
    galaxies_from_table,
    half_light_radius,
    shape_from_ellipticity,
    whole_ellipticity,
)

__all__ = ["INTERNAL_NAMES", "GalaxyHead", "Reference", "from_internal", "to_internal", "turn_internal"]

INTERNAL_NAMES = (
    "x",
    "y",
    "ln_flux",
    "logit_bulge_to_total",
    "ln_radius",
    "e1",
    "e2",
    "ln_radius_ratio",
    "ln_disk_index",
    "ln_bulge_index",
    "e1_difference",
    "e2_difference",
)

_DIM = len(INTERNAL_NAMES)
_LARGEST_ELLIPTICITY = 0.93
_LN_INDEX = (math.log(0.5), math.log(6.0))


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the internal space of each image is relative to, and the way back to the sky."""

    flux: Tensor
    """(N,) aperture flux measured on the image, in units of the sky's rms."""
    size_px: Tensor
    """(N,) size measured on the image, pixels."""
    centre_px: tuple[float, float] | Tensor
    """x and y of the array's centre; (2, N) where the images' sizes differ."""
    sky_rms: Tensor
    """(N,) rms of the sky, image units."""

    def select(self, rows: Tensor | slice) -> Reference:
        """The rows of the first axis."""
        centre = self.centre_px[:, rows] if isinstance(self.centre_px, Tensor) else self.centre_px
        return Reference(self.flux[rows], self.size_px[rows], centre, self.sky_rms[rows])

    def compare(self, other: Reference) -> tuple[Tensor, Tensor]:
        """(N,) ln of flux in image units and ln of size, over those of another reference of the same galaxies."""
        flux = torch.log(self.flux * self.sky_rms / (other.flux * other.sky_rms))
        return flux, torch.log(self.size_px / other.size_px)


def to_internal(galaxies: Galaxies, reference: Reference) -> Tensor:
    """Internal coordinates of galaxies.

    Arguments:
        galaxies: (N,) in pixels and image units.
        reference: Of the N images.

    Returns:
        (N, 12) in the order of :data:`INTERNAL_NAMES`; inverse of :func:`from_internal` within its ranges.
    """
    share = galaxies.bulge_to_total
    e1, e2 = whole_ellipticity(galaxies)
    component = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    ln_index = torch.log(galaxies.sersic_index).clamp(*_LN_INDEX)
    return torch.stack(
        [
            galaxies.x - reference.centre_px[0],
            galaxies.y - reference.centre_px[1],
            torch.log(galaxies.flux / (reference.flux * reference.sky_rms)),
            torch.logit(0.01 + 0.98 * share),
            torch.log(half_light_radius(galaxies) / reference.size_px),
            e1,
            e2,
            torch.log(galaxies.radius[:, 1] / galaxies.radius[:, 0]),
            ln_index[:, 0],
            ln_index[:, 1],
            component[0][:, 1] - component[0][:, 0],
            component[1][:, 1] - component[1][:, 0],
        ],
        -1,
    )


def from_internal(internal: Tensor, reference: Reference) -> tuple[Galaxies, Tensor]:
    """Galaxies (pixels, image units) of internal coordinates, and their half-light radii in pixels.

    Arguments:
        internal: (..., N, 12).
        reference: Of the N images.

    Returns:
        Galaxies of batch shape (..., N), and (..., N) whole half-light radii. What lies outside the model is
        brought to its edge: B/T to 0 and 1, indices to 0.5 and 6, ellipticities to 0.93.
    """
    c = dict(zip(INTERNAL_NAMES, internal.unbind(-1), strict=True))
    share = ((torch.sigmoid(c["logit_bulge_to_total"]) - 0.01) / 0.98).clamp(0, 1)
    shapes = []
    for name in ("e1", "e2"):
        disk = c[name] - share * c[f"{name}_difference"]
        shapes.append(torch.stack([disk, disk + c[f"{name}_difference"]], -1))
    size = torch.hypot(*shapes)
    shrink = (_LARGEST_ELLIPTICITY / size.clamp_min(1e-12)).clamp_max(1)
    ratio, angle = shape_from_ellipticity(shapes[0] * shrink, shapes[1] * shrink)
    index = torch.stack([c["ln_disk_index"], c["ln_bulge_index"]], -1).clamp(*_LN_INDEX).exp()
    radii = torch.stack([torch.zeros_like(share), c["ln_radius_ratio"].clamp(-6, 6)], -1).exp()
    unscaled = Galaxies(
        flux=c["ln_flux"].exp() * reference.flux * reference.sky_rms,
        bulge_to_total=share,
        x=c["x"] + reference.centre_px[0],
        y=c["y"] + reference.centre_px[1],
        sersic_index=index,
        radius=radii,
        axis_ratio=ratio,
        angle=angle,
    )
    radius = c["ln_radius"].exp() * reference.size_px
    scale = radius / half_light_radius(unscaled, 5)
    return dataclasses.replace(unscaled, radius=radii * scale[..., None]), radius


def turn_internal(element: int, device: torch.device | str = "cpu", angle_deg: float = 0.0) -> Tensor:
    """(12, 12) orthogonal matrix that takes internal coordinates to those of the turned image.

    Arguments:
        element: 0 to 7: quarter turns (``element % 4``, counter-clockwise as ``rot90`` on axes y, x with y upwards),
            after a mirror of x for 4 to 7.
        device: Where the matrix lies.
        angle_deg: Of a turn in front of that, from +x towards +y.

    An image turned by t has its centre turned by t and its ellipticity by 2t; a mirror of x changes the sign of x and
    of e2.
    """
    matrix = torch.eye(_DIM, device=device, dtype=torch.float64)
    quarter = element % 4
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter]
    matrix[0:2, 0:2] = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    for first in (5, 10):
        matrix[first, first] = matrix[first + 1, first + 1] = (-1) ** quarter
    if element >= 4:
        mirror = torch.ones(_DIM, device=device, dtype=torch.float64)
        mirror[[0, 6, 11]] = -1
        matrix = matrix * mirror
    if angle_deg:
        before = torch.eye(_DIM, device=device, dtype=torch.float64)
        for first, spin in ((0, 1), (5, 2), (10, 2)):
            along, across = (turn(spin * math.radians(angle_deg)) for turn in (math.cos, math.sin))
            pair = slice(first, first + 2)
            before[pair, pair] = torch.tensor([[along, -across], [across, along]], dtype=torch.float64)
        matrix = matrix @ before
    return matrix


class GalaxyHead(nn.Module):
    """Features to a Gaussian with full covariance over the internal coordinates.

    Arguments:
        features: Length of the feature vector.
        hidden: Width of the one hidden layer.

    The network's raw outputs are 12 means and the 78 numbers of a lower-triangular matrix L (its diagonal through
    exp), with precision L L^T, both in units of ``centre`` and ``scale``, which are set from the first training
    galaxies and saved with the weights.

    Example:
        >>> head = GalaxyHead(16)
        >>> head(torch.zeros(3, 16)).shape
        torch.Size([3, 90])
    """

    centre: Tensor
    scale: Tensor
    widening: Tensor
    _rows: Tensor
    _columns: Tensor

    def __init__(self, features: int, hidden: int = 256) -> None:
        super().__init__()
        last = nn.Linear(hidden, _DIM + _DIM * 13 // 2)
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), last)
        self.register_buffer("centre", torch.zeros(_DIM))
        self.register_buffer("scale", torch.ones(_DIM))
        self.register_buffer("widening", torch.ones(_DIM))
        self.register_buffer("_rows", torch.tril_indices(_DIM, _DIM)[0], persistent=False)
        self.register_buffer("_columns", torch.tril_indices(_DIM, _DIM)[1], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 90) raw outputs of (B, F) features."""
        return self.layers(features)

    def targets(self, cutouts: Cutouts, reference: Reference) -> Tensor:
        """(N, 12) internal coordinates of the truth of simulated cutouts."""
        if cutouts.truth is None:
            raise ValueError("only cutouts with truth can train a network")
        survey = cutouts.survey
        galaxies = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
        return self.place(galaxies.to(reference.flux.device, torch.float32), reference)

    def place(self, galaxies: Galaxies, reference: Reference) -> Tensor:
        """(N, 12) internal coordinates of galaxies, in pixels and image units, as the loss takes them."""
        return to_internal(galaxies, reference)

    def set_scale(self, targets: Tensor) -> None:
        """Take centre and scale from (N, 12) targets: median, and half of the 16 to 84 % width."""
        low, middle, high = targets.quantile(torch.tensor([0.16, 0.5, 0.84], device=targets.device), dim=0)
        self.centre.copy_(middle)
        self.scale.copy_(((high - low) / 2).clamp_min(1e-3))

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """(B,) negative log-likelihood of (B, 12) targets, up to a constant."""
        mean, factor = self._gaussian(raw)
        residual = ((targets - self.centre) / self.scale).clamp(-8, 8) - mean
        whitened = torch.einsum("bij,bi->bj", factor, residual)
        return 0.5 * (whitened**2).sum(-1) - torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(-1)

    def posterior(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, 12) and covariance (B, 12, 12) of the internal coordinates, float64.

        ``widening`` multiplies each coordinate's standard deviation: 1 until it is set on galaxies that were in no
        training.
        """
        mean, factor = self._gaussian(raw.double())
        covariance = torch.cholesky_inverse(factor)
        scale = self.scale.double()
        spread = scale * self.widening.double()
        return self.centre.double() + mean * scale, covariance * spread[:, None] * spread[None, :]

    def _gaussian(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and lower-triangular factor of the precision, in standard units."""
        mean, packed = raw[:, :_DIM], raw[:, _DIM : _DIM + len(self._rows)]
        factor = raw.new_zeros(len(raw), _DIM, _DIM)
        factor[:, self._rows, self._columns] = packed
        diagonal = torch.diagonal(factor, dim1=-2, dim2=-1)
        ln_diagonal = diagonal.clamp(-4, 7)
        return mean, factor - torch.diag_embed(diagonal) + torch.diag_embed(ln_diagonal.exp())
