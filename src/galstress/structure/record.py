"""The record of what lies on disks."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from galstress.errors import InputError

__all__ = ["EXPONENTIAL_B", "Structure"]

EXPONENTIAL_B = 1.678347
"""The b of a Sersic profile of index 1: ln brightness falls by so much in a half-light radius."""


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
