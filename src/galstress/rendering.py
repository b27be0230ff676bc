"""Parameters and a PSF make noise-free images, in one inverse Fourier transform a galaxy.

The spectrum of disk plus bulge (:mod:`galstress.profiles`) times the effective PSF's, times a
phase for the centre, is laid on a periodic grid 1.5 times the stamp's width. Where the PSF
passes wave numbers beyond the pixels' Nyquist limit they are folded back, as sampling does.
What the grid's periodic copies add inside the stamp is smooth there; it is computed on a few
Chebyshev points, without the PSF, and taken away again.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from astropy.table import QTable
from torch import Tensor

from galstress.galaxy import Galaxies, galaxies_from_table, growth
from galstress.optics import psf_transform
from galstress.profiles import sersic_coefficients, sersic_surface_brightness, sersic_transform
from galstress.survey import Survey

__all__ = ["draw_truth", "render"]

_NODES = 6
"""Chebyshev points along each axis of the stamp."""
_NEAR, _FAR = 2, 9
"""Copies up to this many grids away are taken at every point; those up to the second, once; the rest are even."""
_CHUNK_POINTS = 200_000
"""Wave numbers evaluated at once: keeps the work in cache and the memory small."""


def render(
    galaxies: Galaxies,
    psf: Tensor,
    psf_oversampling: int,
    stamp_px: int,
    *,
    owner: Tensor | None = None,
    count: int | None = None,
) -> Tensor:
    """Noise-free images of galaxies as seen through an effective PSF.

    Arguments:
        galaxies: (M,) galaxies in pixels and image units, Sersic indices 0.3 to 8, centres inside the stamp or near.
        psf: (N, P, P) or (1, P, P) effective PSF of each *image*.
        psf_oversampling: Samples per pixel of ``psf``.
        stamp_px: Side of the images.
        owner: (M,) image that each galaxy is drawn into, ascending; by default one galaxy an image.
        count: Number of images N when ``owner`` is given.

    Returns:
        (N, stamp_px, stamp_px) in the dtype of ``galaxies.flux``; differentiable in every parameter. Without
        gradients, images are made in chunks, so memory does not grow with N beyond the result.

    Accuracy: 2e-4 of the peak against GalSim with converged settings (``tests/test_rendering.py``).
    """
    images = len(galaxies) if owner is None else int(count or 0)
    dtype = galaxies.flux.dtype
    grid_px = _fast_size(math.ceil(1.5 * stamp_px))
    shared = _passing(psf[:1].to(dtype), psf_oversampling, grid_px) if _is_shared(psf) else None
    size = max(1, _CHUNK_POINTS // grid_px**2)
    result = []
    for start in range(0, images, size):
        stop = min(images, start + size)
        if owner is None:
            part, rows = galaxies.select(slice(start, stop)), None
        else:
            inside = torch.nonzero((owner >= start) & (owner < stop))[:, 0]
            part, rows = galaxies.select(inside), owner[inside] - start
        transform = _passing(psf[start:stop].to(dtype), psf_oversampling, grid_px) if shared is None else shared
        result.append(_render_chunk(part, transform, grid_px, stamp_px, rows, stop - start))
    return torch.cat(result) if result else torch.zeros(0, stamp_px, stamp_px, dtype=dtype, device=psf.device)


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


def _is_shared(psf: Tensor) -> bool:
    """One PSF for all images: a single one, or one that was expanded without copying."""
    return len(psf) == 1 or psf.stride(0) == 0


@functools.lru_cache(maxsize=64)
def _fast_size(least: int) -> int:
    """The smallest even size of at least ``least`` whose factors are 2, 3 and 5."""
    size = least + least % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


@dataclasses.dataclass(frozen=True)
class _Lattice:
    """The wave numbers at which light passes, and where each folds to on the pixels' own grid."""

    grid_px: int
    half: int
    """Wave numbers reach ``half`` steps of 2 pi / grid_px along each axis."""
    k: Tensor
    """(half + 1,) kx; ky is (-half .. half) of the same step."""
    products: Tensor
    """(3, K): kx^2, kx ky and ky^2."""

    @staticmethod
    @functools.lru_cache(maxsize=32)
    def make(grid_px: int, half: int, device: torch.device, dtype: torch.dtype) -> _Lattice:
        """The lattice of one grid and one band limit."""
        k = torch.arange(-half, half + 1, device=device, dtype=dtype) * (2 * math.pi / grid_px)
        kx, ky = torch.broadcast_tensors(k[None, half:], k[:, None])
        return _Lattice(grid_px, half, k[half:], torch.stack([kx**2, kx * ky, ky**2]).reshape(3, -1))

    @property
    def ky(self) -> Tensor:
        """(2 half + 1,) rows, ascending."""
        return torch.cat([-self.k[1:].flip(0), self.k])

    def fold(self, spectrum: Tensor) -> Tensor:
        """Alias (N, 2 half + 1, half + 1) onto the half plane (N, grid, grid // 2 + 1) that irfft2 takes.

        Sampling at pixel centres adds up all wave numbers that agree modulo the grid; the half plane kx < 0
        is the conjugate of the other one.
        """
        grid, half = self.grid_px, self.half
        rows = torch.arange(-half, half + 1, device=spectrum.device) % grid
        columns = torch.arange(half + 1, device=spectrum.device)
        direct = columns % grid <= grid // 2
        mirrored = ((-columns) % grid <= grid // 2) & (columns > 0)
        parts = [(spectrum[..., direct], columns[direct] % grid)]
        if bool(mirrored.any()):
            parts.append((spectrum[..., mirrored].flip(1).conj(), (-columns[mirrored]) % grid))
        folded = spectrum.new_zeros(len(spectrum), grid, grid // 2 + 1)
        for values, places in parts:
            tall = values.new_zeros(len(values), grid, values.shape[2]).index_add(1, rows, values)
            folded = folded.index_add(2, places, tall)
        return folded


def _passing(psf: Tensor, oversampling: int, grid_px: int, tolerance: float = 2e-5) -> Tensor:
    """The PSF's transform (rows ascending) as far as it passes light: (N, 2 half + 1, half + 1)."""
    transform = psf_transform(psf, oversampling, grid_px)
    size = transform.detach().abs().amax(0)
    rows, columns = (torch.nonzero(size.amax(axis) > tolerance)[:, 0] for axis in (1, 0))
    grid = transform.shape[1]
    half = min(int(torch.maximum(torch.minimum(rows, grid - rows).max(), columns.max())), (grid - 1) // 2)
    return torch.cat([transform[:, grid - half :], transform[:, : half + 1]], 1)[..., : half + 1]


def _render_chunk(
    galaxies: Galaxies, transform: Tensor, grid_px: int, stamp_px: int, rows: Tensor | None, images: int
) -> Tensor:
    """Images of as many galaxies as fit into the cache."""
    lattice = _Lattice.make(grid_px, transform.shape[2] - 1, galaxies.flux.device, galaxies.flux.dtype)
    spectrum = _spectrum(galaxies, lattice.products).view(-1, *transform.shape[1:])
    turned = spectrum * _phase(galaxies.x, lattice.k)[:, None, :] * _phase(galaxies.y, lattice.ky)[:, :, None]
    if rows is not None:
        turned = turned.new_zeros(images, *turned.shape[1:]).index_add(0, rows, turned)
    folded = lattice.fold(turned * transform)
    along_y = torch.fft.ifft(folded, dim=1)[:, :stamp_px]
    image = torch.fft.irfft(along_y, n=grid_px, dim=2)[:, :, :stamp_px]
    copies = _periodic_copies(galaxies, grid_px, stamp_px)
    if rows is not None:
        copies = copies.new_zeros(images, *copies.shape[1:]).index_add(0, rows, copies)
    return image - copies


def _spectrum(galaxies: Galaxies, lattice: Tensor) -> Tensor:
    """(M, K) real transform of centred galaxies (disk + bulge)."""
    cos, sin = torch.cos(galaxies.angle), torch.sin(galaxies.angle)
    q2, a2 = galaxies.axis_ratio**2, galaxies.radius**2
    quadratic = torch.stack([cos**2 + q2 * sin**2, 2 * cos * sin * (1 - q2), sin**2 + q2 * cos**2], -1) * a2[..., None]
    coefficients = sersic_coefficients(galaxies.sersic_index)
    flux = galaxies.component_flux
    total = None
    for component in range(flux.shape[1]):
        k2 = quadratic[:, component] @ lattice
        part = flux[:, component, None] * sersic_transform(k2, coefficients[:, component])
        total = part if total is None else total + part
    return total  # type: ignore[return-value]


def _phase(position: Tensor, k: Tensor) -> Tensor:
    """(M, K) complex exp(-i k x)."""
    angle = -position[:, None] * k[None, :]
    return torch.complex(torch.cos(angle), torch.sin(angle))


@functools.lru_cache(maxsize=16)
def _chebyshev(stamp_px: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Chebyshev points across the stamp, and the (stamp_px, points) matrix that interpolates between them."""
    order = torch.arange(_NODES, dtype=torch.float64)
    points = torch.cos(math.pi * (order + 0.5) / _NODES)
    pixels = (torch.arange(stamp_px, dtype=torch.float64) - (stamp_px - 1) / 2) / (stamp_px / 2)
    basis = torch.cos(order[None, :] * torch.arccos(pixels.clamp(-1, 1))[:, None])
    at_points = torch.cos(order[None, :] * torch.arccos(points)[:, None])
    matrix = basis @ torch.linalg.inv(at_points)
    return ((points * stamp_px / 2 + (stamp_px - 1) / 2).to(device, dtype), matrix.to(device, dtype))


def _periodic_copies(galaxies: Galaxies, grid_px: int, stamp_px: int) -> Tensor:
    """(M, H, W) light that the periodic copies of each galaxy add inside the stamp."""
    points, matrix = _chebyshev(stamp_px, galaxies.flux.device, galaxies.flux.dtype)
    near, far = _copy_places(grid_px, points.device, points.dtype)
    # (M, points, 1 | 1, points | copies): from each near copy to each Chebyshev point
    dx = points[None, None, :, None] - galaxies.x[:, None, None, None] - near[0]
    dy = points[None, :, None, None] - galaxies.y[:, None, None, None] - near[1]
    reach = (2 * _FAR + 1) * grid_px / math.sqrt(math.pi)
    values: Tensor | float = 0.0
    for component in range(galaxies.radius.shape[1]):
        a, q = galaxies.radius[:, component], galaxies.axis_ratio[:, component]
        shape = (a, q, galaxies.angle[:, component])
        index = galaxies.sersic_index[:, component]
        light = _shade(dx, dy, shape, index).sum(-1)
        # at the stamp's middle, once for each pair of opposite copies
        even = 2 * _shade(far[0].expand(len(a), -1), far[1].expand(len(a), -1), shape, index).sum(-1)
        rest = (1 - growth(reach / (a * torch.sqrt(q)), index)) / grid_px**2
        flux = galaxies.component_flux[:, component, None, None]
        values = values + flux * (light + (even + rest)[:, None, None])
    return matrix @ values @ matrix.T


@functools.lru_cache(maxsize=16)
def _copy_places(grid_px: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(2, copies) offsets of the near copies, and of one of each pair of opposite far ones."""
    axis = torch.arange(-_FAR, _FAR + 1)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    places = torch.stack([x.reshape(-1), y.reshape(-1)])
    distance = places.abs().amax(0)
    near = places[:, (distance > 0) & (distance <= _NEAR)]
    upper = (places[1] > 0) | ((places[1] == 0) & (places[0] > 0))
    far = places[:, (distance > _NEAR) & upper]
    return near.to(device, dtype) * grid_px, far.to(device, dtype) * grid_px


def _shade(dx: Tensor, dy: Tensor, shape: tuple[Tensor, Tensor, Tensor], index: Tensor) -> Tensor:
    """Surface brightness of unit-flux ellipses at offsets whose first axis is the galaxy's."""
    a, q, angle = (t.view(-1, *(1,) * (dx.ndim - 1)) for t in shape)
    cos, sin = torch.cos(angle), torch.sin(angle)
    along, across = cos * dx + sin * dy, (cos * dy - sin * dx) / q
    distance = torch.sqrt(along**2 + across**2) / a
    return sersic_surface_brightness(distance, index.view_as(a)) / (a**2 * q)
