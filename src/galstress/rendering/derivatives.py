"""Derivatives of the images in every parameter of the model, in closed form.

All twelve come from the same look-ups: the value and the slope of each component's transform, and
its change with the index. What is left is one sum over wave numbers for each parameter, so a
Jacobian costs about as much as eight images, where differences would take twenty-four.

The parameters are those in which an image is smooth: a component's size is its *circularised*
half-light radius, a sqrt(q), and its shape is (e1, e2); the usual semi-major radius and axis
ratio have a cusp at round shapes.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.autograd import forward_ad

from galstress.galaxy import Galaxies, component_ellipticity, shape_from_ellipticity
from galstress.profiles import sersic_coefficients, sersic_transform
from galstress.rendering.images import (
    _by_tier,
    _Lattice,
    _Lens,
    _light_of_copies,
    _product,
    _Terms,
)

__all__ = ["PARAMETERS", "from_parameters", "render_derivatives", "to_parameters"]

PARAMETERS = (
    "flux",
    "bulge_to_total",
    "x",
    "y",
    "disk_sersic_index",
    "bulge_sersic_index",
    "disk_ln_radius",
    "bulge_ln_radius",
    "disk_e1",
    "bulge_e1",
    "disk_e2",
    "bulge_e2",
)
"""The model's parameters in the order of the derivatives; radii are circularised, a sqrt(q)."""
_CHUNK_POINTS = 1_500_000
_LARGEST_ELLIPTICITY = 0.97


def to_parameters(galaxies: Galaxies) -> Tensor:
    """(..., 12) parameters of galaxies, in the order of :data:`PARAMETERS` and the galaxies' own units."""
    e1, e2 = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    whole = torch.stack([galaxies.flux, galaxies.bulge_to_total, galaxies.x, galaxies.y], -1)
    ln_radius = torch.log(galaxies.radius * torch.sqrt(galaxies.axis_ratio))
    return torch.cat([whole, galaxies.sersic_index, ln_radius, e1, e2], -1)


def from_parameters(parameters: Tensor) -> Galaxies:
    """Galaxies of (..., 12) parameters; the inverse of :func:`to_parameters`. Ellipticities end at 0.97."""
    e1, e2 = parameters[..., 8:10], parameters[..., 10:12]
    e1 = torch.where(e1.abs() + e2.abs() < 1e-7, e1 + 1e-7, e1)  # what is exactly round has no angle to differentiate
    shrink = (_LARGEST_ELLIPTICITY / torch.hypot(e1, e2).clamp_min(1e-12)).clamp_max(1)
    ratio, angle = shape_from_ellipticity(e1 * shrink, e2 * shrink)
    flux, share, x, y = parameters[..., :4].unbind(-1)
    radius = parameters[..., 6:8].exp() / torch.sqrt(ratio)
    return Galaxies(flux, share, x, y, parameters[..., 4:6], radius, ratio, angle)


@torch.no_grad()
def render_derivatives(
    galaxies: Galaxies,
    psf: Tensor,
    psf_oversampling: int,
    stamp_px: int,
    *,
    tolerance: float = 5e-5,
    is_rough: bool = False,
) -> Tensor:
    """Derivatives of noise-free images in the twelve parameters.

    Arguments:
        galaxies: (N,) as for :func:`galstress.rendering.render`, one an image.
        psf: (N or 1, P, P) effective PSF.
        psf_oversampling: Samples per pixel of ``psf``.
        stamp_px: Side of the images.
        tolerance: As for ``render``.
        is_rough: Leave the light of the periodic copies in: derivatives of galaxies as wide as the stamp are then off
            by some per cent near its edge, and take half the time.

    Returns:
        (N, 12, stamp_px, stamp_px) in the order of :data:`PARAMETERS`, in the dtype of ``galaxies.flux``.
    """
    flux = galaxies.flux
    result = flux.new_zeros(len(galaxies), len(PARAMETERS), stamp_px, stamp_px)
    if len(galaxies) == 0:
        return result
    for members, own_lens, lattice, nodes in _by_tier(galaxies, psf, psf_oversampling, stamp_px, tolerance):
        size = max(1, _CHUNK_POINTS // (len(PARAMETERS) * 4 * lattice.weight.numel()))
        for rows in members.split(size):
            part, own = galaxies.select(rows), own_lens.select(rows)
            slopes = _wave_slopes(part, own, lattice)
            if nodes and not is_rough:
                slopes -= _copies_slopes(part, own, lattice, nodes)
            result[rows] = slopes
    return result


def _wave_slopes(galaxies: Galaxies, lens: _Lens, lattice: _Lattice) -> Tensor:
    """(N, 12, H, W) derivatives of the light of galaxies and all of their copies."""
    count, k = len(galaxies), lattice.k
    terms = _Terms.make(galaxies, lattice)
    k2 = terms.k2[0] @ terms.k2[1]  # (N, 2 components, 2 planes, ky, kx)
    index, flux = galaxies.sersic_index.reshape(-1), galaxies.component_flux
    value = sersic_transform(k2.flatten(0, 1), sersic_coefficients(index)).view_as(k2)
    change = sersic_transform(k2.flatten(0, 1), _change_with_index(index)).view_as(k2)
    slope = sersic_transform(k2.flatten(0, 1), _slope_coefficients(index)).view_as(k2)
    light = flux[:, :, None, None, None]
    change, slope = change * light, slope * light
    rising, falling = k[None, :] * k[:, None], -k[None, :] * k[:, None]  # kx ky in either plane
    forms = [(k**2).expand(2, len(k), -1), torch.stack([rising, falling]), (k**2)[:, None].expand(2, -1, len(k))]
    total = (value * light).sum(1)
    real = torch.stack(
        [
            value[:, 0],
            value[:, 1],
            change[:, 0],
            change[:, 1],
            *(slope[:, place] * form for form in forms for place in (0, 1)),
        ],
        1,
    )
    phase = (terms.phase[0] @ terms.phase[1])[:, None]  # (N, 1, 2 planes, 2 parts, ky, kx)
    passed = lattice.passed(lens)
    passed = (passed if len(passed) == count else passed.expand(count, *passed.shape[1:]))[:, None]
    common = _product_any(phase, passed)
    # d/dx multiplies by -i kx (and by +i kx in the plane where kx has the opposite sign), d/dy by -i ky
    turned = torch.stack([common[:, :, :, 1], -common[:, :, :, 0]], 3)
    sign = torch.tensor([1.0, -1.0], dtype=k.dtype, device=k.device)[:, None, None]
    along = torch.stack([(total * sign) * k, total * k[:, None]], 1)
    spectra = torch.cat([real[:, :, :, None] * common, along[:, :, :, None] * turned], 1)
    images = lattice.image(spectra.flatten(0, 1)).view(count, spectra.shape[1], lattice.stamp_px, lattice.stamp_px)
    return _assembled(galaxies, images)


def _product_any(spectrum: Tensor, passed: Tensor) -> Tensor:
    """The complex product with one more leading axis."""
    return _product(spectrum.flatten(0, 1), passed.flatten(0, 1)).view(*spectrum.shape)


def _change_with_index(index: Tensor) -> Tensor:
    """Derivative in the index of the table's parabolas."""
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(index, torch.ones_like(index))
        return forward_ad.unpack_dual(sersic_coefficients(dual)).tangent


def _slope_coefficients(index: Tensor) -> Tensor:
    """The straight lines that are the derivatives in k^2 of the table's parabolas."""
    constant, slope, curvature = sersic_coefficients(index).unbind(1)
    return torch.stack([slope, 2 * curvature, torch.zeros_like(constant)], 1)


def _assembled(galaxies: Galaxies, images: Tensor) -> Tensor:
    """From derivatives in each component's flux, index and ellipse, and in x and y, to those in the parameters."""
    flux, share = galaxies.flux[:, None, None], galaxies.bulge_to_total[:, None, None]
    disk, bulge = images[:, 0], images[:, 1]
    in_flux, in_share = (1 - share) * disk + share * bulge, flux * (bulge - disk)
    ellipse = images[:, 4:10].unflatten(1, (3, 2))  # xx, xy, yy of disk and bulge
    chain = _ellipse_slopes(galaxies)  # (N, 3 of the ellipse, 3 parameters, 2 components)
    shapes = torch.einsum("nfchw,nfpc->npchw", ellipse, chain).flatten(1, 2)
    whole = torch.stack([in_flux, in_share, images[:, 10], images[:, 11]], 1)
    return torch.cat([whole, images[:, 2:4], shapes], 1)


def _ellipse_slopes(galaxies: Galaxies) -> Tensor:
    """(N, 3, 3, 2) derivatives of the ellipse's coefficients (x^2, xy, y^2) in ln radius, e1 and e2.

    k^2 a^2 = R^2 [(1 + e^2 + 2 e1) kx^2 + 4 e2 kx ky + (1 + e^2 - 2 e1) ky^2] / (1 - e^2), R circularised.
    """
    e1, e2 = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    square = e1**2 + e2**2
    radius2 = galaxies.radius**2 * galaxies.axis_ratio
    form = torch.stack([1 + square + 2 * e1, 4 * e2, 1 + square - 2 * e1], 1)
    zero = torch.zeros_like(e1)
    in_e1 = torch.stack([2 * e1 + 2, zero, 2 * e1 - 2], 1)
    in_e2 = torch.stack([2 * e2, zero + 4, 2 * e2], 1)
    scale = (radius2 / (1 - square))[:, None]
    along = [2 * form, *(inner + form * (2 * e / (1 - square))[:, None] for inner, e in ((in_e1, e1), (in_e2, e2)))]
    return torch.stack([scale * slope for slope in along], 2)


def _copies_slopes(galaxies: Galaxies, lens: _Lens, lattice: _Lattice, nodes: int) -> Tensor:
    """(N, 12, H, W) derivatives of the copies' light, by forward-mode differentiation."""
    count, number = len(galaxies), len(PARAMETERS)
    values = to_parameters(galaxies).repeat_interleave(number, 0)
    tangent = torch.eye(number, dtype=values.dtype, device=values.device).repeat(count, 1)
    own = lens if len(lens.psf) == 1 else dataclasses.replace(lens, spread=lens.spread.repeat_interleave(number, 0))
    with forward_ad.dual_level():
        moved = from_parameters(forward_ad.make_dual(values, tangent))
        owner = torch.arange(count * number, device=values.device)
        light = _light_of_copies(moved, owner, count * number, own, lattice, nodes)
        slopes = forward_ad.unpack_dual(light).tangent
    return slopes.view(count, number, lattice.stamp_px, lattice.stamp_px)
