"""Structure on smooth galaxies: spiral arms, bars, rings, clumps, dust lanes, lopsided and broken disks.

The truth stays what it was: the light of the smooth disk and bulge. :func:`redistribute` gives what a
:class:`Structure` adds to the smooth image (:func:`galstress.rendering.render`): the disk's light moved about, blurred
by the PSF, with total flux zero.

At r half-light radii and angle theta in the plane of the disk (deprojected, theta from the major axis) its smooth
surface brightness is multiplied by 1 + c(r) [N(r) R(r) A(r, theta) T - 1], and clumps are added:

- A: arms, bar and lopsidedness, with a mean of 1 on every ellipse of the disk, and nowhere negative;
- R: ring and break; T: transmission of a dust lane;
- c: 0 in the core and far outside, where nothing changes; so a cusp of the disk is never sampled;
- N = (alpha k^4 + beta r^4) / (k^4 + r^4): alpha and beta put back what R, T and the clumps took, so that the disk
  keeps its flux inside r = k and outside. k is the half-light radius of the whole galaxy in those of the disk (both
  circularised; kept between 0.4 and 2), so the definition of that radius holds as it did; for a pure disk k = 1.

The forms are choices, made so that these laws hold exactly; the ranges of :func:`draw_structure` name their sources.
"""

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

__all__ = ["Structure", "draw_structure", "redistribute"]

_CLUMPS = 30
"""Most clumps that are drawn on one disk."""
_CORE, _END, _REACH = 0.12, 4.5, 5.5
"""Half-light radii: the core that is left alone, where structure ends, beyond which nothing is computed."""
_RINGS, _SPOKES, _FIRST, _STEP = 98, 52, -3.0, 0.05
"""The polar grid of the sums: rings even in ln r from e^-3; spokes that no number of arms divides
into few different ones."""
_EXPONENTIAL_B = 1.678347
"""The b of a Sersic profile of index 1."""
_FINEST = (1.0, 2.0)
"""Samples in the minor half-light radius where structure is too fine for the grid: left out, and in full."""
_BLOCK = 64
"""Galaxies prepared together."""
_CHUNK_POINTS = {"cpu": 250_000, "cuda": 30_000_000}
"""Samples computed at once: keeps the work in cache on a CPU, and the memory small."""


@dataclasses.dataclass(frozen=True)
class Structure:
    """What lies on the disks of N galaxies; (N,) tensors unless said otherwise.

    Lengths are in (semi-major) half-light radii of the disk. Angles lie in the plane of the disk, radians from its
    major axis (``angle`` of the galaxy, which counts to 2 pi here) counter-clockwise.

    Example:
        >>> plain = Structure.none(2)
        >>> arms = dataclasses.replace(plain, arm_number=torch.tensor([2.0, 2.0]), arm_strength=torch.tensor([0.5, 0]))
        >>> arms.is_present.tolist(), arms.turned(4).handedness.tolist()
        ([True, False], [-1.0, -1.0])
    """

    arm_number: Tensor
    """Spiral arms, 2 to 6 (a whole number), or 0."""
    arm_strength: Tensor
    """0 to 1: share of the light on a ring that the arms gather."""
    arm_pitch_deg: Tensor
    """Angle between an arm and a circle, 3 to 80 degrees: theta rises by ln(r) / tan(pitch)."""
    arm_phase: Tensor
    """Angle at which one arm crosses r = 1."""
    arm_sharpness: Tensor
    """0.1 to 10: light goes as exp(sharpness cos(number x angle from the arm)); a cosine for small numbers."""
    arm_start: Tensor
    """Radius that arms begin at; they end softly at about 2.3."""
    handedness: Tensor
    """+1: outwards arms turn counter-clockwise; -1: clockwise."""
    bar_strength: Tensor
    """0 to 1: share of the light on a ring that the bar gathers."""
    bar_length: Tensor
    """Half of the bar, centre to end."""
    bar_width: Tensor
    """Gaussian sigma across the bar over its length, 0.08 to 1."""
    bar_angle: Tensor
    """Direction of the bar."""
    ring_strength: Tensor
    """Surface brightness of the ring above the disk's own there; 0 or more."""
    ring_radius: Tensor
    """Radius of the ring."""
    ring_width: Tensor
    """Gaussian sigma of the ring, 0.05 or more."""
    break_radius: Tensor
    """Where the slope changes."""
    break_ratio: Tensor
    """Slope of ln brightness behind the break over that before: above 1 truncated, below 1 up-bending, 1 none."""
    lopsidedness: Tensor
    """Amplitude of the m = 1 wave, 0 to 0.9."""
    lopsided_phase: Tensor
    """Brighter side."""
    dust_depth: Tensor
    """Optical depth of the dust lane in its middle; 0 or more."""
    dust_width: Tensor
    """Gaussian sigma across the lane on the sky."""
    dust_offset: Tensor
    """Place of the lane's middle along the minor axis on the sky; its sign names the near side."""
    dust_length: Tensor
    """Half length of the lane along the major axis."""
    clump_share: Tensor
    """(N, K) share of the disk's flux in each clump; 0 where there is none, at most 0.5 in all."""
    clump_size: Tensor
    """(N, K) Gaussian sigma of each, round on the sky."""
    clump_radius: Tensor
    """(N, K) distance of each from the centre."""
    clump_angle: Tensor
    """(N, K) direction of each."""

    @classmethod
    def none(cls, count: int, device: torch.device | str = "cpu", clumps: int = 0) -> Structure:
        """Smooth galaxies, with room for so many clumps."""
        values = {f.name: torch.zeros(count, device=device) for f in dataclasses.fields(cls)}
        for name in ("arm_sharpness", "handedness", "bar_length", "ring_radius", "ring_width", "break_radius"):
            values[name] += 1
        for name, value in {"arm_pitch_deg": 20, "arm_start": 0.4, "bar_width": 0.2, "break_ratio": 1}.items():
            values[name] += value
        for name in ("dust_width", "dust_length"):
            values[name] += 1
        for name in ("clump_share", "clump_size", "clump_radius", "clump_angle"):
            values[name] = torch.zeros(count, clumps, device=device)
        return cls(**values)

    @property
    def is_present(self) -> Tensor:
        """(N,) True where a disk is not smooth."""
        strengths = [self.arm_strength, self.bar_strength, self.ring_strength, self.lopsidedness, self.dust_depth]
        return (sum(strengths) + self.clump_share.sum(1) > 0) | (self.break_ratio != 1)

    def select(self, rows: Tensor | slice) -> Structure:
        """The structure at ``rows``."""
        return Structure(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Structure:
        """The same structure on another device or in another dtype."""
        return Structure(**{f.name: getattr(self, f.name).to(device, dtype) for f in dataclasses.fields(self)})

    def turned(self, element: int) -> Structure:
        """The structure after element 0 to 7: a mirror of x for 4 and above, then quarter turns from +x towards +y.

        Turns change nothing, since angles are counted from the disk's major axis: the galaxy's own ``angle`` must be
        turned with it, to 2 pi (an angle brought back to half a circle would turn the structure by 180 degrees). A
        mirror takes ``angle`` to pi - ``angle``.
        """
        if element not in range(8):
            raise InputError(f"element={element!r}", "a whole number from 0 to 7", "see the docstring")
        if element < 4:
            return self
        names = ("handedness", "arm_phase", "bar_angle", "lopsided_phase", "dust_offset", "clump_angle")
        return dataclasses.replace(self, **{name: -getattr(self, name) for name in names})

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.arm_number)


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
    (half-light radii of 4 pixels; less for larger ones). The
    half-light radius of the sum, as :func:`galstress.galaxy.half_light_radius` defines it (each component in its own
    ellipse, before the PSF), is that of the truth within 1 % for nine of ten galaxies and 3 % for all drawn ones
    (``tests/test_structure.py``); the disk's own changes by more where a bulge outshines it, as the disk's profile
    does. Structure is left out of disks whose minor half-light radius is below one sample, and widened to the
    samples elsewhere: nothing finer would survive the PSF. Samples lie at least 2 a pixel, fewer than
    the PSF's where it has more than 3.
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
    """The c(r) of the module's docstring, from squared radii and the (N,) radii of the core."""
    inner, far = r2 * r2, (r2 * (1 / _END**2)) ** 3
    return inner / torch.addcmul(inner + _wide(core) ** 4, inner + _wide(core) ** 4, far * far)


def _modulation(u: Tensor, v: Tensor, r2: Tensor, structure: Structure, ratio: Tensor) -> Tensor:
    """R A T of the module's docstring at (N, ., .) places of the disk's plane; ``ratio`` (N,) is its axis ratio."""
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
    slope = _wide(_EXPONENTIAL_B * (structure.break_ratio - 1))
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
    """(3, N) alpha, beta and k of the module's docstring, from sums over a polar grid of the disk's plane."""
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


def draw_structure(galaxies: Galaxies, generator: torch.Generator) -> Structure:
    """Realistic mixtures of structure for the disks of a population.

    Arguments:
        galaxies: (N,) in any units; B/T and the disk's axis ratio decide what is likely.
        generator: Source of randomness; its device is the result's.

    Returns:
        Structure, float32, with 30 places for clumps.

    Rates with a source: 29 % of disks barred (Masters et al. 2011, MNRAS 411, 2026); of late-type disks 60 % truncated
    and 30 % up-bending (Pohlen & Trujillo 2006, A&A 454, 759); a mean m = 1 amplitude of 0.1 to 0.15 (Rix & Zaritsky
    1995, ApJ 447, 82). All else is a choice that looks right beside real galaxies: smooth disks from one in ten at
    B/T = 0 to nearly all above 0.7, arms on most others, tighter with larger B/T; one in six disks of B/T below 0.1
    irregular: no arms, many clumps, lopsided; rings on every third bar and one in eight other disks; dust lanes on
    most disks of axis ratio below 0.4. Nearly edge-on disks show weaker arms and bars, since real ones are thick.
    """
    share = galaxies.bulge_to_total.to(generator.device, torch.float32)
    ratio = galaxies.axis_ratio[:, 0].to(share)
    dice = _Dice(len(share), generator)
    is_smooth = dice.is_below(0.1 + 0.88 * torch.sigmoid((share - 0.5) / 0.08))
    is_irregular = ~is_smooth & (share < 0.1) & dice.is_below(0.16)
    thin = ((ratio - 0.12) / 0.25).clamp(0, 1)
    lit = (share < 1).float()
    values = _draw_bars(dice, lit * thin * (dice.is_below(0.29) & (~is_smooth | dice.is_below(0.4))))
    values |= _draw_arms(dice, share, thin * (~is_smooth & ~is_irregular & dice.is_below(0.85)), values)
    values |= _draw_radial(dice, is_smooth, lit, values)
    amplitude = 0.09 * torch.sqrt(-2 * torch.log1p(-dice.uniform().clamp_max(0.999)))
    amplitude = torch.where(is_irregular, 0.15 + 1.5 * amplitude, torch.where(is_smooth, 0.2 * amplitude, amplitude))
    values |= {"lopsidedness": lit * amplitude.clamp_max(0.6), "lopsided_phase": dice.angle()}
    edge_on = ((0.42 - ratio) / 0.08).clamp(0, 1) * (dice.is_below(0.8) & (~is_smooth | dice.is_below(0.3)))
    values |= {
        "dust_depth": lit * edge_on * dice.between(0.4, 1.5),
        "dust_width": 0.02 + ratio * dice.between(0.08, 0.18),
        "dust_offset": dice.sign() * ratio * dice.between(0.1, 0.45) * (ratio / 0.25).clamp_max(1),
        "dust_length": dice.between(0.9, 1.9),
    }
    values |= _draw_clumps(dice, lit * ~is_smooth * (1 - share) ** 2, is_irregular, values)
    return Structure(**values)


@dataclasses.dataclass(frozen=True)
class _Dice:
    """Random numbers, (N,) at a time."""

    count: int
    generator: torch.Generator

    def uniform(self, *more: int) -> Tensor:
        """From 0 to 1."""
        return torch.rand(self.count, *more, generator=self.generator, device=self.generator.device)

    def normal(self, *more: int) -> Tensor:
        """Mean 0, sigma 1."""
        return torch.randn(self.count, *more, generator=self.generator, device=self.generator.device)

    def between(self, low: float, high: float) -> Tensor:
        """Uniform."""
        return low + (high - low) * self.uniform()

    def angle(self) -> Tensor:
        """All around."""
        return self.between(-math.pi, math.pi)

    def sign(self) -> Tensor:
        """-1 or 1."""
        return torch.where(self.uniform() < 0.5, -1.0, 1.0)

    def is_below(self, probability: Tensor | float) -> Tensor:
        """True with a probability."""
        return self.uniform() < probability


def _draw_bars(dice: _Dice, strength: Tensor) -> dict[str, Tensor]:
    """Bars where ``strength`` is above 0."""
    return {
        "bar_strength": strength * dice.between(0.3, 0.75),
        "bar_length": (0.6 * torch.exp(0.3 * dice.normal())).clamp(0.3, 1.1),
        "bar_width": dice.between(0.14, 0.26),
        "bar_angle": dice.angle(),
    }


def _draw_arms(dice: _Dice, share: Tensor, strength: Tensor, bars: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arms where ``strength`` is above 0: two of them on half of the disks, from the ends of a bar where there is one.

    Many arms are weak and ragged, two are often strong.
    """
    is_barred = bars["bar_strength"] > 0
    choice = torch.where(is_barred, 0.7, 1.0) * dice.uniform()
    edges = choice.new_tensor([0.5, 0.68, 0.84, 0.93])
    number = 2 + (choice[:, None] > edges).sum(1)
    pitch = (21 - 16 * share + 6 * dice.normal()).clamp(7, 38)
    handedness = dice.sign()
    start = torch.where(is_barred, 0.95 * bars["bar_length"], dice.between(0.25, 0.5))
    at_end = bars["bar_angle"] - handedness * torch.log(bars["bar_length"]) / torch.tan(torch.deg2rad(pitch))
    shared = torch.where(number > 2, 0.75, 1.0)
    return {
        "arm_number": number.float(),
        "arm_strength": strength * shared * dice.between(0.2, 0.7),
        "arm_pitch_deg": pitch,
        "arm_phase": torch.where(is_barred, at_end + 0.15 * dice.normal(), dice.angle()),
        "arm_sharpness": torch.exp(dice.between(math.log(0.8), math.log(3.5))),
        "arm_start": start,
        "handedness": handedness,
    }


def _draw_radial(dice: _Dice, is_smooth: Tensor, lit: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rings, one at the end of every third bar, and breaks."""
    is_barred = values["bar_strength"] > 0
    has_ring = dice.is_below(torch.where(is_barred, 0.35, 0.12)) & (~is_smooth | dice.is_below(0.3))
    radius = torch.where(is_barred, 1.1 * values["bar_length"], dice.between(0.6, 1.6))
    choice = dice.uniform()
    has_break = lit * (~is_smooth | dice.is_below(0.4))
    truncated, bending = (choice < 0.6).float() * has_break, (choice > 0.7).float() * has_break
    return {
        "ring_strength": lit * has_ring * dice.between(0.3, 1.3),
        "ring_radius": radius,
        "ring_width": (radius * dice.between(0.12, 0.22)).clamp_min(0.06),
        "break_radius": torch.where(choice < 0.6, 1.5, 2.6) + 0.3 * dice.normal().clamp(-2, 2),
        "break_ratio": 1 + truncated * dice.between(0.4, 1.4) - bending * dice.between(0.25, 0.55),
    }


def _draw_clumps(dice: _Dice, chance: Tensor, is_irregular: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clumps, most of them along the arms, spread as an exponential disk's light."""
    count = _CLUMPS
    has_clumps = dice.is_below(0.8 * chance) | (is_irregular & (chance > 0))
    number = 6 + (count - 5) * dice.uniform()
    radius = (-torch.log(dice.uniform(count) * dice.uniform(count) + 1e-9) / _EXPONENTIAL_B).clamp(0.3, 2.3)
    weight = torch.exp(0.8 * dice.normal(count) - radius) * (
        torch.arange(count, device=number.device) < number.floor()[:, None]
    )
    total = (0.05 * torch.exp(0.6 * dice.normal())).clamp_max(0.2) * torch.where(is_irregular, 1.6, 1.0)
    arms = values["arm_number"][:, None]
    winding = values["handedness"] / torch.tan(torch.deg2rad(values["arm_pitch_deg"]))
    on_arm = values["arm_phase"][:, None] + winding[:, None] * torch.log(radius)
    on_arm = on_arm + (dice.uniform(count) * arms).floor() * (2 * math.pi / arms) + 0.35 / arms * dice.normal(count)
    follows = (dice.uniform(count) < 0.75) & (values["arm_strength"] > 0)[:, None]
    size = 0.035 * torch.exp(0.4 * dice.normal(count)) * torch.where(is_irregular, 1.3, 1.0)[:, None]
    return {
        "clump_share": weight / weight.sum(1, keepdim=True) * (total * has_clumps)[:, None],
        "clump_size": size.clamp(0.012, 0.12),
        "clump_radius": radius,
        "clump_angle": torch.where(follows, on_arm, 2 * math.pi * dice.uniform(count)),
    }
