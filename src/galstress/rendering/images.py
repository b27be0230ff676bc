"""Parameters and a PSF make noise-free images, as one sum over wave numbers a galaxy.

The spectrum of disk plus bulge (:mod:`galstress.profiles`) times the effective PSF's, times a
phase for the centre, is taken at the wave numbers of a periodic grid, as far out as the PSF
passes light, and summed at the pixels' centres by two matrix products: wave numbers beyond the
pixels' own limit alias as they do in a camera, and no pixel outside the stamp is computed.

The grid repeats every galaxy. Where the copies leave no light in the stamp (compact galaxies)
the grid is narrow, even narrower than the stamp; for the others it is wide, and what the
copies add inside the stamp, which is smooth there, is taken away again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
import torch
from astropy.table import QTable
from numpy.polynomial import chebyshev
from torch import Tensor

from galstress.galaxy import Galaxies, galaxies_from_table, growth
from galstress.optics import psf_transform
from galstress.profiles import sersic_coefficients, sersic_constants, sersic_transform
from galstress.survey import Survey

__all__ = ["draw_truth", "render"]

_TIERS = ((0.25, 0), (0.25, 6), (0.25, 12), (0.5, 12), (0.75, 16), (1.25, 24))
"""Closest that a copy may come to the stamp, in widths of the stamp, and Chebyshev points along each axis that the
light of copies is computed at: cheapest first.
"""
_RINGS = (1, 3, 6)
"""Copies up to so many grids away are computed at all of the points, at a quarter of them, at one; the rest is even."""
_BLOCK = {"cpu": 256, "cuda": 4096}
"""Images that are prepared together."""
_CHUNK_POINTS = {"cpu": 300_000, "cuda": 30_000_000}
"""Values computed at once: keeps the work in a processor's cache, or a GPU busy, and the memory small."""


def render(
    galaxies: Galaxies,
    psf: Tensor,
    psf_oversampling: int,
    stamp_px: int,
    *,
    owner: Tensor | None = None,
    count: int | None = None,
    tolerance: float = 5e-5,
) -> Tensor:
    """Noise-free images of galaxies as seen through an effective PSF.

    Arguments:
        galaxies: (M,) galaxies in pixels and image units, Sersic indices 0.3 to 8, centres inside the stamp or near.
        psf: (N, P, P) or (1, P, P) effective PSF of each *image*.
        psf_oversampling: Samples per pixel of ``psf``.
        stamp_px: Side of the images.
        owner: (M,) image that each galaxy is drawn into, ascending; by default one galaxy an image.
        count: Number of images N when ``owner`` is given.
        tolerance: Share of a galaxy's peak that may be neglected: in wave numbers that the PSF hardly passes,
            in the PSF's wings and in the light of copies.

    Returns:
        (N, stamp_px, stamp_px) in the dtype of ``galaxies.flux``; differentiable in every parameter. Without
        gradients, images are made in chunks, so memory does not grow with N beyond the result. To within
        ``tolerance`` an image depends on what else is in the batch.

    Accuracy: 2e-4 of the peak against GalSim with converged settings (``tests/test_rendering.py``).
    """
    images = len(galaxies) if owner is None else int(count or 0)
    device, dtype = galaxies.flux.device, galaxies.flux.dtype
    if owner is None:
        owner = torch.arange(images, device=device)
    result = torch.zeros(images, stamp_px, stamp_px, dtype=dtype, device=device)
    if len(galaxies) == 0:
        return result
    for members, lens, lattice, nodes in _by_tier(galaxies, psf, psf_oversampling, stamp_px, tolerance):
        touched, place = owner[members].unique_consecutive(return_inverse=True)
        block = _BLOCK.get(device.type, 256)
        for first in range(0, len(touched), block):
            rows = touched[first : first + block]
            inside = torch.nonzero((place >= first) & (place < first + block))[:, 0]
            part, where, own = galaxies.select(members[inside]), place[inside] - first, lens.select(rows)
            result.index_add_(0, rows, _sum_waves(part, where, len(rows), own, lattice))
            if nodes:
                result.index_add_(0, rows, _light_of_copies(part, where, len(rows), own, lattice, nodes), alpha=-1)
    return result


def draw_truth(truth: QTable, psf: Tensor, psf_oversampling: int, survey: Survey, stamp_px: int) -> Tensor:
    """Noise-free images of a table with the truth columns, image units, float32.

    Arguments:
        truth: N rows; see the README for the columns.
        psf: (N or 1, P, P) effective PSF.
        psf_oversampling: Samples per pixel of ``psf``.
        survey: Gives pixel scale and flux unit.
        stamp_px: Side of the images.
    """
    galaxies = galaxies_from_table(truth, survey.pixel_scale_arcsec, survey.unit_njy)
    return render(galaxies.to(psf.device, torch.float32), psf, psf_oversampling, stamp_px)


@dataclasses.dataclass(frozen=True)
class _Lens:
    """PSFs, and how far they reach."""

    psf: Tensor
    """(N or 1, P, P)."""
    oversampling: int
    spread: Tensor
    """(N or 1, 2) mean square of x and of y, square pixels, within the wings."""
    band_limit: float
    """Wave number, radians per pixel, within which the sharpest passes all but ``tolerance`` of what it passes."""
    wing_px: float
    """Distance beyond which all are fainter than ``tolerance`` of their peaks."""
    area_px: float
    """Area of the widest, as that of a top hat with as much noise: 1 / sum of squares."""

    @staticmethod
    def make(psf: Tensor, oversampling: int, tolerance: float) -> _Lens:
        """Measure PSFs."""
        fixed, side = psf.detach(), psf.shape[-1]
        squares = (fixed**2).sum((-2, -1)) * oversampling**2
        size = torch.fft.rfft2(fixed[squares.argmax()]).abs()
        rows, columns = torch.fft.fftfreq(side, device=psf.device), torch.fft.rfftfreq(side, device=psf.device)
        ring = (torch.hypot(rows[:, None], columns[None, :]) * side).round().long()
        passed = torch.bincount(ring.reshape(-1), size.double().reshape(-1)).cumsum(0)
        band_limit = int((passed < (1 - tolerance) * passed[-1]).sum()) / side * 2 * math.pi * oversampling
        axis = torch.arange(side, device=psf.device, dtype=psf.dtype) - side // 2
        bright = (fixed.abs() > tolerance * fixed.amax((-2, -1), keepdim=True)).any(0)
        wing_px = float((torch.hypot(axis[:, None], axis[None, :]) * bright).max()) / oversampling
        square, core = (axis / oversampling) ** 2, fixed * bright
        spread = torch.stack([core.sum(-2) @ square, core.sum(-1) @ square], -1)
        return _Lens(psf, oversampling, spread, band_limit, wing_px, 1 / float(squares.min()))

    def select(self, rows: Tensor | slice) -> _Lens:
        """The PSFs of some images."""
        if len(self.psf) == 1:
            return self
        return dataclasses.replace(self, psf=self.psf[rows], spread=self.spread[rows])


@dataclasses.dataclass(frozen=True)
class _Lattice:
    """Wave numbers ky, kx = 0 .. half steps of a grid; in a second plane kx has the opposite sign.

    Spectra are (N, 2 planes, 2 parts, ky, kx); the parts are real and imaginary.
    """

    grid_px: int
    stamp_px: int
    k: Tensor
    """(half + 1,) wave numbers, per pixel."""
    weight: Tensor
    """(ky, kx) how often each counts: the half plane ky < 0 is the conjugate of the other."""
    cos: Tensor
    """(places, half + 1) cos(k x) at the pixels from the stamp's middle to its edge."""
    sin: Tensor
    """(places, half + 1) sin(k x)."""

    @staticmethod
    def fitting(galaxies: Galaxies, stamp_px: int, margin: float, lens: _Lens) -> _Lattice:
        """The lattice whose copies of these galaxies keep ``margin`` pixels away from the stamp."""
        middle, step = (stamp_px - 1) / 2, stamp_px / 16
        offset = max(float((place.detach() - middle).abs().max()) for place in (galaxies.x, galaxies.y))
        grid_px = math.ceil(stamp_px / 2 + math.ceil(offset / step) * step + margin)
        limit = lens.band_limit * grid_px / (2 * math.pi)
        half = min(math.ceil(limit), (lens.oversampling * grid_px - 1) // 2)
        return _Lattice.make(grid_px, half, stamp_px, galaxies.flux.device, galaxies.flux.dtype)

    @staticmethod
    @functools.lru_cache(maxsize=32)
    def make(grid_px: int, half: int, stamp_px: int, device: torch.device, dtype: torch.dtype) -> _Lattice:
        """The lattice of one grid, band limit and stamp."""
        k = torch.arange(half + 1, device=device, dtype=torch.float64) * (2 * math.pi / grid_px)
        weight = torch.full((half + 1, half + 1), 2 / grid_px**2, device=device, dtype=torch.float64)
        weight[0] /= 2
        weight[:, 0] /= 2  # both planes hold it
        places = torch.arange(stamp_px // 2, stamp_px, device=device, dtype=torch.float64) - (stamp_px - 1) / 2
        angle = places[:, None] * k[None, :]
        return _Lattice(grid_px, stamp_px, *(t.to(dtype) for t in (k, weight, torch.cos(angle), torch.sin(angle))))

    def passed(self, lens: _Lens) -> Tensor:
        """Weighted transform of PSFs: (N, 2, 2, ky, kx), or (N, 2, 1, ky, kx) where it is real."""
        passed = psf_transform(lens.psf, lens.oversampling, self.k) * self.weight
        is_real = bool(passed[:, :, 1].abs().max() <= 1e-6 * passed.abs().max())
        return passed[:, :, :1] if is_real else passed

    def image(self, spectrum: Tensor) -> Tensor:
        """Real part of the sum of (N, 2, 2, ky, kx) times exp(i (ky y +- kx x)) at the pixels' centres."""
        plus, minus = spectrum[:, 0], spectrum[:, 1]
        even, odd = (plus + minus) @ self.cos.T, (plus - minus) @ self.sin.T  # along x; odd still to be times i
        real = _mirrored(even[:, 0], -odd[:, 1], -1, self.stamp_px)
        imaginary = _mirrored(even[:, 1], odd[:, 0], -1, self.stamp_px)
        return _mirrored(self.cos @ real, -(self.sin @ imaginary), -2, self.stamp_px)


def _chunk_points(device: torch.device) -> int:
    """Values computed at once on a device."""
    return _CHUNK_POINTS.get(device.type, _CHUNK_POINTS["cpu"])


def _mirrored(even: Tensor, odd: Tensor, axis: int, size: int) -> Tensor:
    """Both sides of a function from its even and odd part on one side."""
    return torch.cat([(even - odd).flip(axis).narrow(axis, 0, size // 2), even + odd], axis)


def _product(spectrum: Tensor, passed: Tensor) -> Tensor:
    """Complex product of (N, 2, 2, ky, kx) and (N, 2, 1 or 2, ky, kx)."""
    if passed.shape[2] == 1:
        return spectrum * passed
    a, b, c, d = spectrum[:, :, 0], spectrum[:, :, 1], passed[:, :, 0], passed[:, :, 1]
    return torch.stack([a * c - b * d, a * d + b * c], 2)


def _sum_waves(galaxies: Galaxies, owner: Tensor, images: int, lens: _Lens, lattice: _Lattice) -> Tensor:
    """(N, H, W) light of galaxies and all of their copies, ``owner`` ascending and without gaps."""
    terms = _Terms.make(galaxies, lattice)
    shared = lattice.passed(lens) if len(lens.psf) == 1 else None
    edges = torch.searchsorted(owner, torch.arange(images + 1, device=owner.device)).tolist()
    size = max(1, _chunk_points(owner.device) * images // (4 * lattice.weight.numel() * len(owner)))
    result = []
    for start in range(0, images, size):
        stop = min(images, start + size)
        low, high = edges[start], edges[stop]
        spectrum = terms.spectrum(low, high)
        if high - low != stop - start:
            several = spectrum.new_zeros(stop - start, *spectrum.shape[1:])
            spectrum = several.index_add(0, owner[low:high] - start, spectrum)
        passed = lattice.passed(lens.select(slice(start, stop))) if shared is None else shared
        result.append(lattice.image(_product(spectrum, passed)))
    return torch.cat(result)


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What M galaxies' spectra are made of: products of short factors along ky and kx."""

    k2: tuple[Tensor, Tensor]
    """(M, 2 components, 2 planes, ky, 3) and (M, 2, 1, 3, kx): squared wave number times radius."""
    phase: tuple[Tensor, Tensor]
    """(M, 2 planes, 2 parts, ky, 2) and (M, 1, 1, 2, kx): exp(-i (ky y +- kx x)), x and y from the stamp's middle."""
    coefficients: Tensor
    """(M, 2 components, 3, intervals) of :func:`sersic_coefficients`, times the component's flux."""

    @staticmethod
    def make(galaxies: Galaxies, lattice: _Lattice) -> _Terms:
        """Prepare galaxies for a lattice."""
        k = lattice.k
        xx, xy, yy = (t[..., None] * galaxies.radius[..., None] ** 2 for t in _quadratic(galaxies, 1))
        cross = xy * k
        one = torch.ones_like(cross)
        left = torch.stack([torch.stack([yy * k**2, one, sign * cross], -1) for sign in (1, -1)], -3)
        right = torch.stack([one, xx * k**2, k.expand_as(one)], -2)[:, :, None]
        middle = (lattice.stamp_px - 1) / 2
        x, y = ((place - middle)[:, None] * k for place in (galaxies.x, galaxies.y))
        cos, sin = torch.cos(y), torch.sin(y)
        pairs = [(cos, -sin), (-sin, -cos), (cos, sin), (-sin, cos)]
        turn_y = torch.stack([torch.stack(pair, -1) for pair in pairs], 1).view(-1, 2, 2, len(k), 2)
        turn_x = torch.stack([torch.cos(x), torch.sin(x)], 1)[:, None, None]
        index, flux = galaxies.sersic_index, galaxies.component_flux
        coefficients = sersic_coefficients(index.reshape(-1), flux.reshape(-1))
        return _Terms((left, right), (turn_y, turn_x), coefficients.view(*index.shape, *coefficients.shape[1:]))

    def spectrum(self, start: int, stop: int) -> Tensor:
        """(stop - start, 2, 2, ky, kx) transform of disk plus bulge."""
        k2 = self.k2[0][start:stop] @ self.k2[1][start:stop]
        coefficients = self.coefficients[start:stop].flatten(0, 1)
        centred = sersic_transform(k2.flatten(0, 1), coefficients).view_as(k2).sum(1)
        return (self.phase[0][start:stop] @ self.phase[1][start:stop]) * centred[:, :, None]


def _quadratic(galaxies: Galaxies, power: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients (M, 2) of x^2, xy and y^2 of each component's ellipse: 1 in Fourier space, -1 on the sky."""
    cos2, sin2 = torch.cos(galaxies.angle) ** 2, torch.sin(galaxies.angle) ** 2
    q2 = galaxies.axis_ratio ** (2 * power)
    return cos2 + q2 * sin2, torch.sin(2 * galaxies.angle) * (1 - q2), sin2 + q2 * cos2


def _by_tier(
    galaxies: Galaxies, psf: Tensor, psf_oversampling: int, stamp_px: int, tolerance: float
) -> Iterator[tuple[Tensor, _Lens, _Lattice, int]]:
    """Members of each tier that has some, with all PSFs, the tier's lattice and Chebyshev points."""
    shared = psf[:1] if psf.stride(0) == 0 else psf
    lens = _Lens.make(shared.to(galaxies.flux.dtype), psf_oversampling, tolerance)
    tiers = _choose_tiers(galaxies, stamp_px, lens, tolerance)
    for tier, (margin, nodes) in enumerate(_TIERS):
        members = torch.nonzero(tiers == tier)[:, 0]
        if len(members):
            reach = max(margin * stamp_px, lens.wing_px)
            yield members, lens, _Lattice.fitting(galaxies.select(members), stamp_px, reach, lens), nodes


def _choose_tiers(galaxies: Galaxies, stamp_px: int, lens: _Lens, tolerance: float) -> Tensor:
    """(M,) the first of the tiers that is good enough for each galaxy.

    What is missed is taken as 0.2 exp(-2 points scale) of the copies' light at the stamp's edge, where scale is the
    shortest length over which that light changes by a factor of e, in stamps: by experiment, rarely more.
    """
    a, q = galaxies.radius.detach()[..., None], galaxies.axis_ratio.detach()[..., None]
    index, flux = galaxies.sersic_index.detach()[..., None], galaxies.component_flux.detach()[..., None]
    margins = a.new_tensor([max(margin * stamp_px, lens.wing_px) for margin, _ in _TIERS])
    nodes = a.new_tensor([nodes for _, nodes in _TIERS])
    away = margins / a  # (M, 2, tiers)
    b, ln_centre = sersic_constants(index)
    power = b * away ** (1 / index)
    scale = q * margins * index / power / stamp_px
    missed = (flux / (a**2 * q) * torch.exp((ln_centre - power - 2 * nodes * scale).clamp_min(-80))).sum(1)
    width = math.sqrt(lens.area_px / math.pi)
    peak = (0.5 * flux / (math.pi * (a + width) * (a * q + width))).sum(1)  # at least the mean inside half of the light
    enough = 0.2 * missed <= tolerance * peak
    # light that is faint but everywhere tells in the stamp's flux
    outside = (flux * (1 - growth((margins[0] + stamp_px / 2) / (a * torch.sqrt(q)), index))).sum(1)
    enough[:, :1] &= outside <= 4 * tolerance * flux.sum(1)
    enough[:, -1] = True
    return enough.int().argmax(1)


def _chebyshev_points(count: int, stamp_px: int) -> np.ndarray:
    """Chebyshev points across the stamp, pixels."""
    return chebyshev.chebpts1(count) * stamp_px / 2 + (stamp_px - 1) / 2


@functools.lru_cache(maxsize=32)
def _between_points(
    stamp_px: int, count: int, target: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(targets, points) matrices from values at Chebyshev points to values and second derivatives elsewhere.

    Elsewhere: the pixels, where ``target`` is the stamp's side, or else so many Chebyshev points.
    """
    pixels = np.arange(stamp_px) if target == stamp_px else _chebyshev_points(target, stamp_px)
    pixels = (pixels - (stamp_px - 1) / 2) / (stamp_px / 2)
    series = np.linalg.inv(chebyshev.chebvander(chebyshev.chebpts1(count), count - 1))
    curvature = chebyshev.chebder(series, 2) / (stamp_px / 2) ** 2
    values, second = (chebyshev.chebvander(pixels, len(terms) - 1) @ terms for terms in (series, curvature))
    return torch.as_tensor(values, dtype=dtype, device=device), torch.as_tensor(second, dtype=dtype, device=device)


def _light_of_copies(
    galaxies: Galaxies, owner: Tensor, images: int, lens: _Lens, lattice: _Lattice, nodes: int
) -> Tensor:
    """(N, H, W) light that the periodic copies of galaxies add inside the stamp.

    The PSF is taken to second order: it adds half its mean square times the second derivative.
    """
    counts = (nodes, nodes // 4 + 1, 1)
    evaluations = 2 * sum(((2 * ring + 1) * count) ** 2 for ring, count in zip(_RINGS, counts, strict=True))
    size = max(1, _chunk_points(owner.device) // evaluations)
    chunks = [
        _copies_at_points(galaxies.select(slice(start, start + size)), lattice, counts)
        for start in range(0, len(galaxies), size)
    ]
    values = torch.zeros(images, nodes, nodes, dtype=galaxies.flux.dtype, device=galaxies.flux.device)
    values = values.index_add(0, owner, torch.cat(chunks))
    matrix, second = _between_points(lattice.stamp_px, nodes, lattice.stamp_px, values.device, values.dtype)
    along_x, along_y = (matrix + lens.spread[:, axis, None, None] / 2 * second for axis in (0, 1))
    return along_y @ (values @ (along_x[0].T if len(along_x) == 1 else along_x.mT))


def _copies_at_points(galaxies: Galaxies, lattice: _Lattice, counts: tuple[int, ...]) -> Tensor:
    """(M, points, points) light of copies at the first ring's Chebyshev points."""
    device, dtype, stamp_px = galaxies.flux.device, galaxies.flux.dtype, lattice.stamp_px
    a, q, index, flux = galaxies.radius, galaxies.axis_ratio, galaxies.sersic_index, galaxies.component_flux
    xx, xy, yy = (t[..., None] / a[..., None] ** 2 for t in _quadratic(galaxies, -1))
    reach = (2 * _RINGS[-1] + 1) * lattice.grid_px / math.sqrt(math.pi)
    beyond = flux * (1 - growth(reach / (a * torch.sqrt(q)), index)) / lattice.grid_px**2
    b, ln_centre, half_power = (t[..., None, None, None, None] for t in (*sersic_constants(index), 0.5 / index))
    total, inner = beyond.sum(1)[:, None, None], 0
    for outer, count in zip(_RINGS, counts, strict=True):
        points = torch.as_tensor(_chebyshev_points(count, stamp_px), dtype=dtype, device=device)
        copies = torch.arange(-outer, outer + 1, device=device) * lattice.grid_px
        places = (points[None, :] - copies[:, None]).view(-1)
        dx, dy = places - galaxies.x[:, None, None], places - galaxies.y[:, None, None]
        one = torch.ones_like(dx).expand(-1, 2, -1)
        left = torch.stack([yy * dy**2, one, xy * dy], -1)
        right = torch.stack([one, xx * dx**2, dx.expand_as(one)], -2)
        squared = (left @ right).view(-1, 2, len(copies), count, len(copies), count)
        exponent = ln_centre - b * torch.exp(torch.log(squared + _hidden(inner, outer, device, dtype)) * half_power)
        light = torch.exp(exponent.clamp_min(-80)).sum(2).sum(3)  # numbers that underflow take thirty times as long
        light = (light * (flux / (a**2 * q))[..., None, None]).sum(1)
        matrix, _ = _between_points(stamp_px, count, counts[0], device, dtype)
        total = total + (light if count == counts[0] else matrix @ light @ matrix.T)
        inner = outer
    return total


@functools.lru_cache(maxsize=16)
def _hidden(inner: int, outer: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A distance that puts the copies up to ``inner`` grids away, and the galaxy, out of sight."""
    near = torch.arange(-outer, outer + 1).abs() <= inner
    return (near[:, None, None, None] & near[None, None, :, None]).to(device, dtype) * 1e20
