"""The parameters that describe a galaxy, and everything derived from them.

A galaxy is a disk and a bulge (the last axis, in that order) with one centre. The record
does not care about units: the population speaks arcsec and nJy, the renderer pixels and
image units, and :meth:`Galaxies.scaled` goes between them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from astropy.table import QTable
from numpy.polynomial import chebyshev
from scipy import special as scipy_special
from torch import Tensor
from torch.autograd.function import FunctionCtx

__all__ = [
    "COMPONENTS",
    "Galaxies",
    "component_ellipticity",
    "galaxies_from_table",
    "growth",
    "half_light_radius",
    "sersic_b",
    "shape_from_ellipticity",
    "table_from_galaxies",
    "whole_ellipticity",
]

COMPONENTS = ("disk", "bulge")

_B_RANGE = (0.2, 12.0)
"""Sersic indices that the series for b was fitted to; beyond, its ends are held."""


@dataclasses.dataclass(frozen=True)
class Galaxies:
    """Parameters of a batch of galaxies (any batch shape ``...``)."""

    flux: Tensor
    """(...) total flux, to infinity."""
    bulge_to_total: Tensor
    """(...) share of the total flux that is the bulge's, 0 to 1."""
    x: Tensor
    """(...) centre along x, 0 at the centre of the first pixel."""
    y: Tensor
    """(...) centre along y."""
    sersic_index: Tensor
    """(..., 2) Sersic index of disk and bulge."""
    radius: Tensor
    """(..., 2) semi-major half-light radius of disk and bulge."""
    axis_ratio: Tensor
    """(..., 2) minor over major axis, above 0 and at most 1."""
    angle: Tensor
    """(..., 2) direction of the major axis from +x towards +y, radians."""

    @property
    def component_flux(self) -> Tensor:
        """(..., 2) flux of disk and bulge."""
        return self.flux[..., None] * torch.stack([1 - self.bulge_to_total, self.bulge_to_total], -1)

    def scaled(self, length: float | Tensor, flux: float | Tensor) -> Galaxies:
        """The same galaxies with radii times ``length`` and fluxes times ``flux`` (the centre is left alone)."""
        per_component = length[..., None] if isinstance(length, Tensor) and length.ndim else length
        return dataclasses.replace(self, flux=self.flux * flux, radius=self.radius * per_component)

    def select(self, rows: Tensor | slice) -> Galaxies:
        """The galaxies at ``rows`` of the first axis."""
        return Galaxies(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    @staticmethod
    def concatenate(parts: Sequence[Galaxies]) -> Galaxies:
        """Galaxies of all parts in order."""
        return Galaxies(
            **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Galaxies)}
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Galaxies:
        """The same galaxies on another device or in another dtype."""
        return Galaxies(**{f.name: getattr(self, f.name).to(device, dtype) for f in dataclasses.fields(self)})

    def __len__(self) -> int:
        """Length of the first axis."""
        return len(self.flux)


def component_ellipticity(axis_ratio: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Spin-2 shape (e1, e2) = (1-q)/(1+q) (cos 2phi, sin 2phi).

    Example:
        >>> e1, e2 = component_ellipticity(torch.tensor(0.5), torch.tensor(0.0))
        >>> round(float(e1), 3), float(e2)
        (0.333, 0.0)
    """
    size = (1 - axis_ratio) / (1 + axis_ratio)
    return size * torch.cos(2 * angle), size * torch.sin(2 * angle)


def shape_from_ellipticity(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """Axis ratio and angle (radians, -pi/2 to pi/2) of a spin-2 shape; the inverse of the above."""
    size = torch.hypot(e1, e2)
    return (1 - size) / (1 + size), 0.5 * torch.atan2(e2, e1)


def whole_ellipticity(galaxies: Galaxies) -> tuple[Tensor, Tensor]:
    """(e1, e2) of the whole galaxy: the flux-weighted mean of its components'."""
    e1, e2 = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    share = galaxies.bulge_to_total
    return tuple((1 - share) * e[..., 0] + share * e[..., 1] for e in (e1, e2))  # type: ignore[return-value]


@functools.lru_cache(maxsize=1)
def _b_series() -> tuple[float, ...]:
    """Coefficients, highest first, of the polynomial in ln n (-1 to 1 over the range) that is b - 2n + 1/3."""
    low, high = np.log(_B_RANGE)
    nodes = chebyshev.chebpts1(64)
    n = np.exp(low + (nodes + 1) / 2 * (high - low))
    series = chebyshev.chebfit(nodes, scipy_special.gammaincinv(2 * n, 0.5) - 2 * n + 1 / 3, 14)
    return tuple(chebyshev.cheb2poly(series)[::-1].tolist())


def sersic_b(index: Tensor) -> Tensor:
    """The b of exp(-b (r/re)^(1/n)) that puts half of the light inside re.

    Arguments:
        index: Sersic index n, 0.2 or larger; any shape.

    Formula: 2n - 1/3 and a polynomial of degree 14 in ln n, fitted to the inverse incomplete gamma function: good
    to 1e-9 and smooth.

    Example:
        >>> round(float(sersic_b(torch.tensor(4.0))), 4)
        7.6692
    """
    low, high = (math.log(value) for value in _B_RANGE)
    place = (torch.log(index.clamp(*_B_RANGE)) - low) * (2 / (high - low)) - 1
    rest = torch.zeros_like(place)
    for coefficient in _b_series():
        rest = rest * place + coefficient
    return 2 * index - 1 / 3 + rest


class _Growth(torch.autograd.Function):
    """Regularised incomplete gamma P(2n, b x^(1/n)), with the derivative in n by differences; in both modes."""

    @staticmethod
    def forward(ctx: FunctionCtx, radius: Tensor, index: Tensor) -> Tensor:
        """P, and what its derivatives need."""
        ctx.save_for_backward(radius, index)
        ctx.save_for_forward(radius, index)
        return torch.special.gammainc(2 * index, sersic_b(index) * radius ** (1 / index))

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        """From the derivatives of the result to those of radius and index."""
        ring, change = _growth_slopes(*ctx.saved_tensors)  # type: ignore[attr-defined]
        return grad_outputs[0] * ring, grad_outputs[0] * change

    @staticmethod
    def jvp(ctx: FunctionCtx, *grad_inputs: Tensor) -> Tensor:
        """From the derivatives of radius and index to that of the result."""
        ring, change = _growth_slopes(*ctx.saved_tensors)  # type: ignore[attr-defined]
        return grad_inputs[0] * ring + grad_inputs[1] * change


def _growth_slopes(radius: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of P in the radius (the ring of light) and in n (central differences in float64)."""
    dtype, radius, index = radius.dtype, radius.detach().double().clamp_min(1e-30), index.detach().double()
    t = sersic_b(index) * radius ** (1 / index)
    ring = torch.exp(2 * index * torch.log(t) - t - torch.lgamma(2 * index)) / (index * radius)
    step = 1e-4 * index
    above, below = (
        torch.special.gammainc(2 * n, sersic_b(n) * radius ** (1 / n)) for n in (index + step, index - step)
    )
    return ring.to(dtype), ((above - below) / (2 * step)).to(dtype)


def growth(radius: Tensor, index: Tensor) -> Tensor:
    """Share of a Sersic profile's total light inside a radius.

    Arguments:
        radius: In half-light radii, zero or larger.
        index: Sersic index, broadcast against ``radius``.

    Example:
        >>> round(float(growth(torch.tensor(1.0), torch.tensor(2.5))), 4)
        0.5
    """
    radius, index = torch.broadcast_tensors(radius, index)
    return _Growth.apply(radius, index)  # type: ignore[no-untyped-call]


def half_light_radius(galaxies: Galaxies, iterations: int = 7) -> Tensor:
    """Radius R that holds half of the total light, each component circularised.

    Arguments:
        galaxies: Any batch shape, any unit of length.
        iterations: Newton steps in ln R, kept inside a bracket that shrinks; 7 reach 1e-6 for any two components,
            5 for usual ones.

    Returns:
        (...) R with (1-B/T) P(R; n_d, a_d sqrt(q_d)) + B/T P(R; n_b, a_b sqrt(q_b)) = 1/2, in the unit of
        ``radius``, before the PSF. Differentiable (a last Newton step carries the implicit derivative).

    Example:
        >>> one = torch.ones(1)
        >>> round(float(half_light_radius(Galaxies(one, 0 * one, one, one, torch.ones(1, 2), 2 * torch.ones(1, 2),
        ...     0.25 * torch.ones(1, 2), torch.zeros(1, 2)))), 5)
        1.0
    """
    circular = galaxies.radius * torch.sqrt(galaxies.axis_ratio)
    share = torch.stack([1 - galaxies.bulge_to_total, galaxies.bulge_to_total], -1)
    with torch.no_grad():
        ln_radius, slope = _solve_half_light(circular, share, galaxies.sersic_index, iterations)
    radius = ln_radius.exp()
    if not any(t.requires_grad for t in (galaxies.bulge_to_total, circular, galaxies.sersic_index)):
        return radius
    inside = (share * growth(radius[..., None] / circular, galaxies.sersic_index)).sum(-1)
    return radius - (inside - inside.detach()) * radius / slope


def _solve_half_light(circular: Tensor, share: Tensor, index: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Logarithm of R at half light, and the slope of the growth curve in ln R there."""
    # the answer lies between the components' own radii; a component without light must not widen the bracket
    ln_circular, lit = torch.log(circular), share > 0
    low = torch.where(lit, ln_circular, math.inf).amin(-1)
    high = torch.where(lit, ln_circular, -math.inf).amax(-1)
    ln_radius = (share * ln_circular).sum(-1)
    b, order = sersic_b(index), 2 * index
    ln_norm = torch.log(index) + torch.lgamma(order)
    slope = torch.ones_like(low)
    for _ in range(iterations):
        ln_t = torch.log(b) + (ln_radius[..., None] - ln_circular) / index  # t = b (R / re)^(1/n)
        t = ln_t.exp()
        inside = (share * torch.special.gammainc(order, t)).sum(-1)
        # dP / d ln R = t^(2n) exp(-t) / (n Gamma(2n))
        slope = (share * torch.exp(order * ln_t - t - ln_norm)).sum(-1).clamp_min(1e-12)
        low, high = torch.where(inside < 0.5, ln_radius, low), torch.where(inside < 0.5, high, ln_radius)
        # in the logit of the growth curve, which is nearly straight
        step = ln_radius - torch.logit(inside.clamp(1e-9, 1 - 1e-9)) * inside * (1 - inside) / slope
        ln_radius = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return ln_radius, slope


def table_from_galaxies(galaxies: Galaxies, pixel_scale_arcsec: float, unit_njy: float) -> QTable:
    """The truth columns of galaxies in pixels and image units.

    Arguments:
        galaxies: (N,) galaxies; lengths in pixels, fluxes in image units.
        pixel_scale_arcsec: Side of a pixel.
        unit_njy: Flux of one image unit, nJy.

    Returns:
        QTable with the truth columns but ``snr``, which needs a PSF and a noise level.
    """
    import astropy.units as u

    sky = galaxies.to("cpu", torch.float64).scaled(pixel_scale_arcsec, unit_njy)
    e1, e2 = whole_ellipticity(sky)
    table = QTable()
    table["flux_njy"] = sky.flux.numpy() * u.nJy
    table["mag_ab"] = (31.4 - 2.5 * np.log10(np.maximum(sky.flux.numpy(), 1e-30))) * u.mag
    table["bulge_to_total"] = sky.bulge_to_total.numpy()
    table["half_light_radius_arcsec"] = half_light_radius(sky).numpy() * u.arcsec
    table["e1"], table["e2"] = e1.numpy(), e2.numpy()
    table["x_px"], table["y_px"] = sky.x.numpy() * u.pix, sky.y.numpy() * u.pix
    for place, name in enumerate(COMPONENTS):
        table[f"{name}_flux_njy"] = sky.component_flux[:, place].numpy() * u.nJy
        table[f"{name}_sersic_index"] = sky.sersic_index[:, place].numpy()
        table[f"{name}_half_light_radius_arcsec"] = sky.radius[:, place].numpy() * u.arcsec
        table[f"{name}_axis_ratio"] = sky.axis_ratio[:, place].numpy()
        position_angle = torch.rad2deg(sky.angle[:, place]) - 90
        table[f"{name}_position_angle_deg"] = (position_angle % 180).numpy() * u.deg
    return table


def galaxies_from_table(table: QTable, pixel_scale_arcsec: float, unit_njy: float) -> Galaxies:
    """The inverse of :func:`table_from_galaxies`, float64; plain columns without units are taken as named.

    Raises:
        KeyError: A truth column is missing.
    """

    def column(name: str) -> Tensor:
        values = table[name]
        return torch.as_tensor(np.array(getattr(values, "value", values), np.float64))

    def pair(name: str) -> Tensor:
        return torch.stack([column(f"{component}_{name}") for component in COMPONENTS], -1)

    return Galaxies(
        flux=column("flux_njy") / unit_njy,
        bulge_to_total=column("bulge_to_total"),
        x=column("x_px"),
        y=column("y_px"),
        sersic_index=pair("sersic_index"),
        radius=pair("half_light_radius_arcsec") / pixel_scale_arcsec,
        axis_ratio=pair("axis_ratio"),
        angle=torch.deg2rad(pair("position_angle_deg") + 90),
    )
