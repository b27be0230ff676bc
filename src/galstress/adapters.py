"""Networks from elsewhere: whatever answers Cutouts with named numbers can be stressed and scored.

``stress`` and ``scores`` take any callable ``(cutouts) -> prediction``; a network of galstress, or a function that
calls :func:`galstress.predict`, passes as it is. :func:`adapt` makes such a callable of an ``nn.Module`` that gives
point estimates, or means with standard deviations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor, nn

from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError

__all__ = ["Estimates", "adapt"]

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Estimates:
    """What a network from elsewhere says of N objects: D named numbers, each with an error bar where it has one.

    Example:
        >>> said = Estimates(("bulge_to_total",), ("",), np.array(["a"]), np.zeros(1, int), np.array([[0.3]]))
        >>> said.quantile([0.5]).tolist(), bool(np.isnan(said.covariance).all())
        ([[[0.3]]], True)
    """

    names: tuple[str, ...]
    """D outputs, named as in the truth columns where they mean the same."""
    units: tuple[str, ...]
    """Unit of each output, empty for none."""
    object_id: np.ndarray
    """(N,) names."""
    flags: NDArray[np.int64]
    """(N,) bits of :class:`galstress.cutouts.Flag`."""
    mean: Array
    """(N, D) estimates; NaN where there is none."""
    std: Array | None = None
    """(N, D) standard deviations, or None: point estimates."""

    def __post_init__(self) -> None:
        """Check shapes once."""
        shape = (len(self.object_id), len(self.names))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and values.shape != shape:
                raise InputError(f"{name} of shape {values.shape}", f"{shape}", "give a row an object, a column a name")
        if len(self.units) != len(self.names):
            raise InputError(f"{len(self.units)} units", f"{len(self.names)}, one a name", "empty where there is none")

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.object_id)

    @property
    def covariance(self) -> Array:
        """(N, D, D) diagonal; NaN where the network gives no error bars."""
        spread = np.full_like(self.mean, np.nan) if self.std is None else self.std
        return np.where(np.eye(len(self.names), dtype=bool), spread[:, :, None] ** 2, 0.0)

    def quantile(self, p: Sequence[float]) -> Array:
        """(len(p), N, D) quantiles of normal distributions; without error bars only the median is known."""
        offset = ndtri(np.asarray(p, float))[:, None, None]
        spread = np.full_like(self.mean, np.nan) if self.std is None else self.std
        return self.mean + np.where(offset == 0, 0.0, offset * spread)

    def sample(self, n: int, seed: int) -> Array:
        """(n, N, D) draws from normal distributions; NaN without error bars."""
        spread = np.full_like(self.mean, np.nan) if self.std is None else self.std
        return self.mean + spread * np.random.default_rng(seed).normal(size=(n, *self.mean.shape))


def adapt(
    module: nn.Module,
    names: Sequence[str],
    units: Sequence[str],
    inputs: Callable[[Cutouts], Any],
    outputs: Callable[[Any, Cutouts], ArrayLike | tuple[ArrayLike, ArrayLike]] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Callable[[Cutouts], Estimates]:
    """Make a callable for ``stress`` and ``scores`` of a module from elsewhere.

    Arguments:
        module: Any torch module; evaluated without gradients and left in the mode and on the device it was in.
        names: D outputs, named as in the truth columns where they mean the same (then they have a truth).
        units: Unit of each, empty for none.
        inputs: Cutouts to what the module takes: a tensor, or a tuple of arguments. Crop, scale and units belong
            here: this is where a mistake of scale would hide.
        outputs: What the module gave, and the cutouts, to (N, D) estimates, or to a pair of estimates and standard
            deviations, in ``units``. By default the module gives one of these itself.
        device: Where to compute.

    Returns:
        Cutouts to :class:`Estimates`. Objects that cannot be used, or whose answer is not finite, are NaN.

    Example:
        >>> from galstress.battery import stress
        >>> from galstress.simulation import simulate
        >>> module = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 1), nn.Sigmoid())
        >>> measure = adapt(module, ["bulge_to_total"], [""],
        ...     inputs=lambda cutouts: cutouts.images / cutouts.sky_rms[:, None, None])
        >>> len(stress(measure, simulate("hsc-wide-i", 3, stamp_px=64), ["depth"]))
        15
    """

    def measure(cutouts: Cutouts) -> Estimates:
        answer = _evaluate(module, inputs(cutouts.to(device)), device)
        answer = answer if outputs is None else outputs(answer, cutouts)
        mean, std = answer if isinstance(answer, tuple) else (answer, None)
        mean, std = (None if part is None else _as_array(part) for part in (mean, std))
        assert mean is not None
        bad = (cutouts.flags & int(Flag.UNREADABLE | Flag.ALL_MASKED)) != 0
        bad |= cutouts.mask.flatten(1).all(1).cpu().numpy()
        if len(mean) == len(bad):  # a wrong number of rows gets its own message
            mean[bad] = np.nan
        return Estimates(tuple(names), tuple(units), cutouts.object_id, cutouts.flags, mean, std)

    return measure


@torch.no_grad()
def _evaluate(module: nn.Module, arguments: Any, device: torch.device | str) -> Any:  # noqa: ANN401 (the module's own)
    """What the module answers, in evaluation mode, and the module as it was."""
    first = next(iter(module.parameters()), None)
    modes = {part: part.training for part in module.modules()}
    module.to(device).eval()
    try:
        return module(*arguments) if isinstance(arguments, tuple) else module(arguments)
    finally:
        if first is not None:
            module.to(first.device)
        for part, mode in modes.items():
            part.training = mode


def _as_array(values: ArrayLike | Tensor) -> Array:
    """Numbers as float64, not shared with the module; one output may come as (N,)."""
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    array = np.array(values, np.float64)
    return array[:, None] if array.ndim == 1 else array
