"""Structure as it is found on the disks of a population."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from galstress.errors import InputError
from galstress.galaxy import Galaxies
from galstress.structure.record import EXPONENTIAL_B, Structure

__all__ = ["draw_structure"]

_CLUMPS = 30
"""Most clumps that are drawn on one disk."""


def draw_structure(galaxies: Galaxies, generator: torch.Generator, share: float = 1.0) -> Structure:
    """Realistic mixtures of structure for the disks of a population.

    Arguments:
        galaxies: (N,) in any units; B/T and the disk's axis ratio decide what is likely.
        generator: Source of randomness; its device is the result's.
        share: Of the galaxies, 0 to 1, that are drawn so; the others are left smooth, whatever lies on these.

    Returns:
        Structure, float32, with 30 places for clumps.

    Raises:
        InputError: A share out of range.

    Rates with a source: 29 % of disks barred (Masters et al. 2011, MNRAS 411, 2026); of late-type disks 60 % truncated
    and 30 % up-bending (Pohlen & Trujillo 2006, A&A 454, 759); a mean m = 1 amplitude of 0.1 to 0.15 (Rix & Zaritsky
    1995, ApJ 447, 82). All else is a choice that looks right beside real galaxies: smooth disks from one in ten at
    B/T = 0 to nearly all above 0.7, arms on most others, tighter with larger B/T; one in six disks of B/T below 0.1
    irregular: no arms, many clumps, lopsided; rings on every third bar and one in eight other disks; dust lanes on
    most disks of axis ratio below 0.4. Nearly edge-on disks show weaker arms and bars, since real ones are thick.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share={share!r}", "0 to 1", "give share=1.0 for all galaxies")
    bulge = galaxies.bulge_to_total.to(generator.device, torch.float32)
    ratio = galaxies.axis_ratio[:, 0].to(bulge)
    dice = _Dice(len(bulge), generator)
    is_smooth = dice.is_below(0.1 + 0.88 * torch.sigmoid((bulge - 0.5) / 0.08))
    is_irregular = ~is_smooth & (bulge < 0.1) & dice.is_below(0.16)
    thin = ((ratio - 0.12) / 0.25).clamp(0, 1)
    lit = (bulge < 1).float()
    values = _draw_bars(dice, lit * thin * (dice.is_below(0.29) & (~is_smooth | dice.is_below(0.4))))
    values |= _draw_arms(dice, bulge, thin * (~is_smooth & ~is_irregular & dice.is_below(0.85)), values)
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
    values |= _draw_clumps(dice, lit * ~is_smooth * (1 - bulge) ** 2, is_irregular, values)
    return _thinned(Structure(**values), dice, share)


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


def _thinned(structure: Structure, dice: _Dice, share: float) -> Structure:
    """Structure on a share of the galaxies: a larger one keeps those of a smaller."""
    if share == 1:
        return structure
    is_kept = dice.is_below(share)
    none = Structure.none(len(structure), is_kept.device, clumps=_CLUMPS)
    values = {}
    for field in dataclasses.fields(structure):
        drawn, smooth = getattr(structure, field.name), getattr(none, field.name)
        values[field.name] = torch.where(is_kept.view(-1, *[1] * (drawn.ndim - 1)), drawn, smooth)
    return Structure(**values)


def _draw_bars(dice: _Dice, strength: Tensor) -> dict[str, Tensor]:
    """Bars where ``strength`` is above 0."""
    return {
        "bar_strength": strength * dice.between(0.3, 0.75),
        "bar_length": (0.6 * torch.exp(0.3 * dice.normal())).clamp(0.3, 1.1),
        "bar_width": dice.between(0.14, 0.26),
        "bar_angle": dice.angle(),
    }


def _draw_arms(dice: _Dice, bulge: Tensor, strength: Tensor, bars: dict[str, Tensor]) -> dict[str, Tensor]:
    """Arms where ``strength`` is above 0: two of them on half of the disks, from the ends of a bar where there is one.

    Many arms are weak and ragged, two are often strong.
    """
    is_barred = bars["bar_strength"] > 0
    choice = torch.where(is_barred, 0.7, 1.0) * dice.uniform()
    edges = choice.new_tensor([0.5, 0.68, 0.84, 0.93])
    number = 2 + (choice[:, None] > edges).sum(1)
    pitch = (21 - 16 * bulge + 6 * dice.normal()).clamp(7, 38)
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
    radius = (-torch.log(dice.uniform(count) * dice.uniform(count) + 1e-9) / EXPONENTIAL_B).clamp(0.3, 2.3)
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
