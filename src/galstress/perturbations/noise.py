"""White noise of an object's own: it depends on the generator and the object's name, not on the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["draw_seed", "white_noise"]


def draw_seed(rng: torch.Generator) -> int:
    """The number that every object's noise of one perturbation starts from; takes one number of the generator."""
    return int(torch.randint(2**62, (), generator=rng, device=rng.device))


def white_noise(seed: int, names: Sequence[str] | NDArray[np.str_], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, made on the CPU so that every device gets the same.

    Arguments:
        seed: From :func:`draw_seed`.
        names: N names of objects.
        shape: Of one object's noise.

    Returns:
        (N, *shape) float32.
    """
    noise = torch.empty(len(names), *shape)
    for row, name in enumerate(names):
        digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
        noise[row] = torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest)))
    return noise
