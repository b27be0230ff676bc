"""The light that structure adds to smooth images; the laws and symbols are those of the package's docstring."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from scipy import fft as scipy_fft
from torch import Tensor

from galstress.errors import InputError
from galstress.galaxy import Galaxies, growth, half_light_radius
from galstress.profiles import sersic_constants
from galstress.structure.record import EXPONENTIAL_B, Structure

__all__ = ["redistribute"]

_CORE, _END, _REACH = 0.12, 4.5, 5.5
"""Half-light radii: the core that is left alone, where structure ends, beyond which nothing is computed."""
_RINGS, _SPOKES, _FIRST, _STEP = 98, 52, -3.0, 0.05
"""The polar grid of the sums: rings even in ln r from e^-3; spokes that no number of arms divides
into few different ones."""
_FINEST = (1.0, 2.0)
"""Samples in the minor half-light radius where structure is too fine for the grid: left out, and in full."""
_BLOCK = 64
"""Galaxies prepared together."""
_CHUNK_POINTS = {"cpu": 250_000, "cuda": 30_000_000}
"""Samples computed at once: keeps the work in cache on a CPU, and the memory small."""


def redistribute(galaxies: Galaxies, structure: Structure, psf: Tensor, psf_oversampling: int, stamp_px: int) -> Tensor:
    """What structure adds to the smooth, noise-free images of galaxies.

    Arguments:
        galaxies: (N,) in pixels and image units.
        structure: Of the same galaxies.
        psf: (N or 1, P, P) effective PSF, P odd, sum 1.
        psf_oversampling: Samples per pixel of ``psf``.
        stamp_px: Side of the images.

    Returns:
        (N, stamp_px, stamp_px) in the dtype of ``galaxies.flux``, to be added to :func:`galstress.rendering.render`;
        exactly zero for smooth galaxies and pure bulges. The sum is nowhere negative but for ringing of the PSF.

    Raises:
        InputError: Numbers of galaxies that differ, an even PSF, a strength out of range.

    Over a stamp that holds the galaxy the total is zero to 1e-4 of the flux for nine of ten galaxies and 2e-3 at most
    (half-light radii of 4 pixels; less for larger ones). The half-light radius of the sum, as
    :func:`galstress.galaxy.half_light_radius` defines it (each component in its own ellipse, before the PSF), is that
    of the truth within 1 % for nine of ten galaxies and 3 % for all drawn ones (``tests/test_structure.py``); the
    disk's own changes by more where a bulge outshines it, as the disk's profile does. Structure is left out of disks
    whose minor half-light radius is below one sample, and widened to the samples elsewhere: nothing finer would
    survive the PSF. Samples lie at least 2 a pixel, fewer than the PSF's where it has more than 3.
    """
    _check(galaxies, structure, psf, psf_oversampling, stamp_px)
    flux = galaxies.flux
    result = flux.new_zeros(len(galaxies), stamp_px, stamp_px)
    stride = max(
        d
        for d in range(1, psf_oversampling + 1)
        if psf_oversampling % d == 0 and (d == 1 or psf_oversampling // d >= 2)
    )
    samples = psf_oversampling // stride
    psf = psf[:1] if psf.stride(0) == 0 else psf
    psf = psf[:, psf.shape[1] // 2 % stride :: stride, psf.shape[1] // 2 % stride :: stride].to(flux)
    psf = psf / psf.sum((1, 2), keepdim=True)
    wing_px = psf.shape[-1] // 2 / samples
    for rows, side_px in _by_window(galaxies, structure, wing_px, samples, stamp_px):
        low = (stamp_px - side_px) // 2
        inside = slice(max(low, 0), max(low, 0) + min(side_px, stamp_px))
        shown = slice(inside.start - low, inside.stop - low)
        size = max(1, _CHUNK_POINTS.get(flux.device.type, 250_000) // (side_px * samples) ** 2)
        shared = _transfer(psf, side_px * samples) if len(psf) == 1 else None
        for block in rows.split(_BLOCK):
            part = galaxies.select(block)
            own = _resolved(structure.select(block).to(flux.device, flux.dtype), part, samples)
            balance = _put_back(part, own, samples)
            for some in torch.arange(len(block), device=flux.device).split(size):
                light = _difference(part.select(some), own.select(some), balance[:, some], low, side_px, samples)
                passed = _transfer(psf[block[some]], side_px * samples) if shared is None else shared
                result[block[some], inside, inside] = _blurred(light, passed, samples)[:, shown, shown]
    return result


def _check(galaxies: Galaxies, structure: Structure, psf: Tensor, psf_oversampling: int, stamp_px: int) -> None:
    """One line for what cannot be computed."""
    count = len(galaxies)
    if len(structure) != count:
        raise InputError(f"{count} galaxies and structure of {len(structure)}", "equal numbers", "select the same rows")
    if psf.ndim != 3 or len(psf) not in {1, count} or psf.shape[1] != psf.shape[2] or psf.shape[1] % 2 == 0:
        raise InputError(f"psf of shape {tuple(psf.shape)}", f"({count} or 1, P, P), P odd", "see optics.normalise_psf")
    if psf_oversampling < 1 or stamp_px < 1:
        raise InputError(f"{psf_oversampling} samples a pixel, {stamp_px} pixels", "1 or more", "give stamp_px=64")
    ranges = {
        "arm_strength": (0, 1), "bar_strength": (0, 1), "lopsidedness": (0, 0.9), "arm_number": (0, 6),
        "arm_pitch_deg": (3, 80), "arm_sharpness": (0.1, 10), "bar_width": (0.08, 1), "ring_width": (0.05, math.inf),
        "ring_strength": (0, math.inf), "dust_depth": (0, math.inf), "clump_share": (0, 0.5),
    }  # fmt: skip
    for name, (least, most) in ranges.items():
        value = getattr(structure, name)
        if bool((~((value >= least) & (value <= most))).any()):
            raise InputError(f"{name} out of range", f"{least} to {most}", "draw it with draw_structure")


def _by_window(
    galaxies: Galaxies, structure: Structure, wing_px: float, samples: int, stamp_px: int
) -> Iterator[tuple[Tensor, int]]:
    """Rows with structure to be seen, and the side of the grid that holds it: narrow for compact galaxies."""
    margin = min(math.ceil(wing_px), max(12, stamp_px // 8))
    radius, ratio = galaxies.radius[:, 0], galaxies.axis_ratio[:, 0]
    seen = structure.is_present.to(radius.device) & (galaxies.component_flux[:, 0] != 0)
    seen &= radius * ratio * samples > _FINEST[0]
    centre = (stamp_px - 1) / 2
    away = torch.maximum((galaxies.x - centre).abs(), (galaxies.y - centre).abs())
    needed = 2 * (away + _REACH * radius + margin)
    sides = sorted({_fast(share * (stamp_px + 2 * margin)) for share in (0.25, 0.375, 0.5, 0.75, 1.0)})
    smallest = 0.0
    for side in sides:
        fits = (needed > smallest) & ((needed <= side) if side < sides[-1] else (needed > 0))
        rows = torch.nonzero(seen & fits)[:, 0]
        if len(rows):
            yield rows, side
        smallest = float(side)


def _fast(side: float) -> int:
    """A side in pixels whose transform is fast, at least ``side``."""
    return int(scipy_fft.next_fast_len(math.ceil(side / 2), real=True)) * 2


def _transfer(psf: Tensor, side: int) -> Tensor:
    """(N, side, side // 2 + 1) transform of PSFs centred on the first sample; cut where they are wider."""
    cut = max(0, (psf.shape[-1] - side + 1) // 2)
    psf = psf[:, cut : psf.shape[-1] - cut, cut : psf.shape[-1] - cut]
    half = psf.shape[-1] // 2
    padded = torch.nn.functional.pad(psf, (0, side - psf.shape[-1]) * 2)
    return torch.fft.rfft2(padded.roll((-half, -half), (1, 2)))


def _blurred(light: Tensor, passed: Tensor, samples: int) -> Tensor:
    """Convolution of light with the PSF, at every ``samples``-th point along either axis."""
    side = light.shape[-1]
    spectrum = torch.fft.rfft2(light) * passed
    # samples skipped along y alias in ky: folded before the transform, which is then shorter
    folded = spectrum.view(len(light), samples, side // samples, -1).mean(1)
    return torch.fft.irfft(torch.fft.ifft(folded, dim=1), n=side, dim=2)[:, :, ::samples]


def _difference(
    galaxies: Galaxies, structure: Structure, balance: Tensor, low: int, side_px: int, samples: int
) -> Tensor:
    """(N, H, W) surface brightness that structure adds, at ``samples`` points a pixel from pixel ``low`` on."""
    place = torch.arange(side_px * samples, device=galaxies.flux.device, dtype=galaxies.flux.dtype) / samples + low
    dx, dy = place - galaxies.x[:, None], place - galaxies.y[:, None]
    radius, ratio = (t[:, 0, None] for t in (galaxies.radius, galaxies.axis_ratio))
    cos, sin = torch.cos(galaxies.angle[:, 0, None]), torch.sin(galaxies.angle[:, 0, None])
    u = (dx * (cos / radius))[:, None, :] + (dy * (sin / radius))[:, :, None]
    v = (dy * (cos / radius / ratio))[:, :, None] - (dx * (sin / radius / ratio))[:, None, :]
    shown = ((radius * ratio * samples)[:, 0] - _FINEST[0]) / (_FINEST[1] - _FINEST[0])
    flux = galaxies.component_flux[:, 0] * shown.clamp(0, 1)
    alpha, beta, border = balance
    r2 = (u * u + v * v).clamp_min(1e-8)
    ln_r = 0.5 * torch.log(r2)
    modulation = _modulation(u, v, r2, structure, ratio[:, 0])
    modulation *= _wide(alpha) + _wide(beta - alpha) * _outer(r2, _wide(border))
    b, ln_centre = sersic_constants(galaxies.sersic_index[:, 0])
    ln_light = _wide(ln_centre) - _wide(b) * torch.exp(ln_r * _wide(1 / galaxies.sersic_index[:, 0]))
    light = torch.exp(ln_light.clamp_min_(-40)) * _window(r2, _core(galaxies, samples))
    light *= (modulation - 1) * _wide(flux / (radius * radius * ratio)[:, 0])
    if structure.clump_share.shape[1]:
        light += _clumps(galaxies, structure, dx, dy, samples) * _wide(flux)
    return light


def _wide(value: Tensor) -> Tensor:
    """(N,) as (N, 1, 1)."""
    return value[:, None, None]


def _outer(r2: Tensor, border: Tensor) -> Tensor:
    """0 inside the border, 1 outside, softly."""
    outer = (r2 / border**2).square()
    return outer / (1 + outer)


def _resolved(structure: Structure, galaxies: Galaxies, samples: int) -> Structure:
    """Structure no finer than the grid.

    Arms begin where their sigma along the minor axis is 0.64 samples; the others are widened to 0.8.
    """
    ratio = galaxies.axis_ratio[:, 0]
    least = 0.8 / (galaxies.radius[:, 0] * ratio * samples)
    tangent = torch.tan(torch.deg2rad(structure.arm_pitch_deg))
    width = tangent / (structure.arm_number.clamp_min(1) * torch.sqrt(structure.arm_sharpness + 0.5))
    return dataclasses.replace(
        structure,
        arm_start=torch.maximum(structure.arm_start, 0.8 * least / width),
        bar_width=torch.maximum(structure.bar_width, least / structure.bar_length),
        ring_width=torch.maximum(structure.ring_width, least),
        dust_width=torch.maximum(structure.dust_width, least * ratio),
    )


def _core(galaxies: Galaxies, samples: int) -> Tensor:
    """(N,) radius of the core that is left alone, half-light radii of the disk: at least 1.5 samples."""
    circular = galaxies.radius[:, 0] * torch.sqrt(galaxies.axis_ratio[:, 0])
    return (1.5 / (circular * samples)).clamp_min(_CORE)


def _window(r2: Tensor, core: Tensor) -> Tensor:
    """The c(r) of the package's docstring, from squared radii and the (N,) radii of the core."""
    inner, far = r2 * r2, (r2 * (1 / _END**2)) ** 3
    return inner / torch.addcmul(inner + _wide(core) ** 4, inner + _wide(core) ** 4, far * far)


def _modulation(u: Tensor, v: Tensor, r2: Tensor, structure: Structure, ratio: Tensor) -> Tensor:
    """R A T of the package's docstring at (N, ., .) places of the disk's plane; ``ratio`` (N,) is its axis ratio."""
    waves, budget = torch.zeros_like(u), torch.ones_like(u)
    for name, wave in (("arm", _arms), ("bar", _bar)):
        rows = torch.nonzero(getattr(structure, f"{name}_strength") > 0)[:, 0]
        if len(rows):
            own = structure.select(rows)
            value, amplitude = wave(u[rows], v[rows], r2[rows], own)
            waves.index_add_(0, rows, value)
            budget.index_add_(0, rows, amplitude)
    # together they can take no more than there is: a function of the radius alone, so their mean stays 0
    result = 1 + waves / (budget - 1).clamp_min_(1)
    cos, sin = torch.cos(structure.lopsided_phase), torch.sin(structure.lopsided_phase)
    tilt = u * _wide(cos * structure.lopsidedness) + v * _wide(sin * structure.lopsidedness)
    # arms and bar have no m = 1 term, so the mean of the product is 1 as well; the amplitude rises as r^2 / (r^2 + 1/4)
    result *= 1 + tilt * torch.sqrt(r2) / (r2 + 0.25)
    for strength, plain, factor in (
        (structure.ring_strength, 0, _ring),
        (structure.break_ratio, 1, _break),
    ):
        rows = torch.nonzero(strength != plain)[:, 0]
        if len(rows):
            result[rows] *= factor(torch.sqrt(r2[rows]), structure.select(rows))
    rows = torch.nonzero(structure.dust_depth > 0)[:, 0]
    if len(rows):
        result[rows] *= _dust(u[rows], v[rows] * _wide(ratio[rows]), structure.select(rows))
    return result


def _arms(u: Tensor, v: Tensor, r2: Tensor, structure: Structure) -> tuple[Tensor, Tensor]:
    """Logarithmic arms of mean 0 on rings, and their amplitude."""
    number, sharpness = _wide(structure.arm_number), structure.arm_sharpness
    winding = structure.handedness / torch.tan(torch.deg2rad(structure.arm_pitch_deg))
    angle = torch.atan2(v, u) - _wide(structure.arm_phase) - _wide(winding / 2) * torch.log(r2)
    shape = torch.exp(_wide(sharpness) * (torch.cos(number * angle) - 1)) / _wide(torch.special.i0e(sharpness)) - 1
    r4 = r2 * r2
    amplitude = (
        _wide(structure.arm_strength)
        * r4
        / ((r4 + _wide(structure.arm_start) ** 4) * (1 + (r2 * (1 / 5.3)).square().square()))
    )
    amplitude = amplitude * (number > 0)
    return amplitude * shape, amplitude


def _bar(u: Tensor, v: Tensor, r2: Tensor, structure: Structure) -> tuple[Tensor, Tensor]:
    """A straight bar of Gaussian section, of mean 0 on rings, and its amplitude.

    The mean of exp(-y^2 / (2 sigma^2)) on a ring is exp(-t) I0(t) with t = r^2 / (4 sigma^2).
    """
    across = v * _wide(torch.cos(structure.bar_angle)) - u * _wide(torch.sin(structure.bar_angle))
    sigma2 = _wide((structure.bar_width * structure.bar_length) ** 2)
    shape = torch.exp((across * across / (-2 * sigma2)).clamp_min_(-40)) / _scaled_bessel(r2 / (4 * sigma2)) - 1
    length2 = _wide(structure.bar_length) ** 2
    end = r2 / length2
    amplitude = _wide(structure.bar_strength) / (1 + end.square().square() * end)
    return amplitude * shape, amplitude


def _scaled_bessel(t: Tensor) -> Tensor:
    """exp(-t) I0(t) for t of 0 or more, to 2e-7 (Abramowitz & Stegun 9.8.1 and 9.8.2); torch's own is far slower."""
    small, large = (t.clamp_max(3.75) / 3.75) ** 2, 3.75 / t.clamp_min(3.75)
    near = (1.0, 3.5156229, 3.0899424, 1.2067492, 0.2659732, 0.0360768, 0.0045813)
    far = (
        0.39894228,
        0.01328592,
        0.00225319,
        -0.00157565,
        0.00916281,
        -0.02057706,
        0.02635537,
        -0.01647633,
        0.00392377,
    )
    below, above = (_polynomial(x, terms) for x, terms in ((small, near), (large, far)))
    return torch.where(t < 3.75, below * torch.exp(-t.clamp_max(3.75)), above / torch.sqrt(t.clamp_min(3.75)))


def _polynomial(x: Tensor, terms: tuple[float, ...]) -> Tensor:
    """Sum of terms, lowest order first."""
    value = torch.full_like(x, terms[-1])
    for term in terms[-2::-1]:
        value = value * x + term
    return value


def _ring(r: Tensor, structure: Structure) -> Tensor:
    """Gaussian in the radius, added to 1."""
    away = (r - _wide(structure.ring_radius)) / _wide(structure.ring_width)
    return 1 + _wide(structure.ring_strength) * torch.exp((-0.5 * away * away).clamp_min_(-40))


def _break(r: Tensor, structure: Structure) -> Tensor:
    """Another slope behind the break: exp(-(ratio - 1) b (r - break)), b the slope of a pure exponential.

    The bend is 0.1 half-light radii wide, and the change of slope ends two half-light radii behind it.
    """
    behind = torch.nn.functional.softplus((r - _wide(structure.break_radius)) / 0.1) * 0.1
    slope = _wide(EXPONENTIAL_B * (structure.break_ratio - 1))
    return torch.exp(-slope * 2 * torch.tanh(behind / 2))


def _dust(u: Tensor, s: Tensor, structure: Structure) -> Tensor:
    """Transmission of a lane on the sky: u and s along the major and minor axis, in half-light radii.

    The lane is the near half of a circle of dust seen at a slant: bent, and gone beyond its ends.
    """
    along = (u / _wide(structure.dust_length)) ** 2
    middle = _wide(structure.dust_offset) * (1 - along.clamp_max(1))
    away = (s - middle) / _wide(structure.dust_width)
    depth = _wide(structure.dust_depth) * torch.exp((-0.5 * away * away - along * along).clamp_min_(-40))
    return torch.exp(-depth)


def _put_back(galaxies: Galaxies, structure: Structure, samples: int) -> Tensor:
    """(3, N) alpha, beta and k of the package's docstring, from sums over a polar grid of the disk's plane."""
    flux = galaxies.flux
    circular = galaxies.radius[:, 0] * torch.sqrt(galaxies.axis_ratio[:, 0])
    border = (half_light_radius(galaxies) / circular).clamp(0.4, 2)
    edges = torch.exp(_FIRST + _STEP * torch.arange(_RINGS + 1, device=flux.device, dtype=flux.dtype))
    r2 = (edges[1:] * edges[:-1])[None, :, None]
    theta = (2 * math.pi / _SPOKES) * torch.arange(_SPOKES, device=flux.device, dtype=flux.dtype)
    shape = (len(galaxies), _RINGS, _SPOKES)
    u, v = ((torch.sqrt(r2) * f(theta)).expand(shape) for f in (torch.cos, torch.sin))
    modulation = _modulation(u, v, r2.expand(shape), structure, galaxies.axis_ratio[:, 0]).mean(2)
    index = galaxies.sersic_index[:, :1]
    total, middle = growth(edges, index), growth(border[:, None], index)
    light = total.diff(dim=1)
    halves = ((middle - total[:, :-1]) / light.clamp_min(1e-12)).clamp(0, 1)  # share of each ring inside the border
    light = light * _window(r2, _core(galaxies, samples))[:, :, 0]
    parts = torch.stack([light * halves, light * (1 - halves)])
    outer = _outer(r2, _wide(border))[:, :, 0]
    # how much of each clump lies inside the border
    spread = (structure.clump_size * (1 / galaxies.axis_ratio[:, :1]).clamp_max(3)).clamp_min(1e-3)
    within = torch.special.ndtr((border[:, None] - structure.clump_radius) / spread)
    clumps = torch.stack([structure.clump_share * within, structure.clump_share * (1 - within)]).sum(2)
    wanted = parts.sum(2) - clumps
    a, c = ((parts * modulation * side).sum(2) for side in (1 - outer, outer))
    determinant = a[0] * c[1] - a[1] * c[0]
    alpha = ((wanted[0] * c[1] - wanted[1] * c[0]) / determinant).clamp_min(0)
    beta = ((wanted[1] * a[0] - wanted[0] * a[1]) / determinant).clamp_min(0)
    # where one of them had to be 0, the total is kept all the same
    kept = wanted.sum(0).clamp_min(0) / (alpha * a.sum(0) + beta * c.sum(0))
    return torch.stack([alpha * kept, beta * kept, border])


def _clumps(galaxies: Galaxies, structure: Structure, dx: Tensor, dy: Tensor, samples: int) -> Tensor:
    """(N, H, W) clumps of unit disk flux, each the product of a row and a column; at least 0.7 samples wide."""
    radius, ratio, angle = (t[:, 0, None] for t in (galaxies.radius, galaxies.axis_ratio, galaxies.angle))
    along = radius * structure.clump_radius * torch.cos(structure.clump_angle)
    across = radius * ratio * structure.clump_radius * torch.sin(structure.clump_angle)
    cos, sin = torch.cos(angle), torch.sin(angle)
    sigma = (radius * structure.clump_size).clamp_min(0.7 / samples)
    rows = dx[:, None, :] - (along * cos - across * sin)[:, :, None]
    columns = dy[:, None, :] - (along * sin + across * cos)[:, :, None]
    rows, columns = (torch.exp((-0.5 * (t / sigma[:, :, None]) ** 2).clamp_min(-40)) for t in (rows, columns))
    rows *= (structure.clump_share / (2 * math.pi * sigma**2))[:, :, None]
    return columns.mT @ rows
