"""The network proposes, the likelihood refines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import Prediction, Reference
from galstress.refinement.exact import ENOUGH, Starts, check_effective, check_stamps, sample_exactly
from galstress.refinement.priors import SHARE, Prior, make_prior

__all__ = ["refine"]

_DRAWS = 128


def refine(
    prediction: Prediction,
    cutouts: Cutouts,
    prior: Prior | Mapping[str, float] | str | None = None,
    *,
    seed: int = 0,
    effective: int = ENOUGH,
    progress: bool = False,
) -> Prediction:
    """The exact posterior of each galaxy, found from a network's.

    Arguments:
        prediction: A network's posteriors of ``cutouts``, same objects in the same order.
        cutouts: The images; what lies under ``mask`` or ``neighbour_mask`` is ignored.
        prior: A population's name, shares of populations, ``"weak"`` or a prior of one's own; by default that of the
            network, and ``"weak"`` where it names none.
        seed: Of the samples.
        effective: Effective samples that are aimed for, 20 or more: time grows with them, and so does the number of
            galaxies whose intervals are as wide as they should be.
        progress: Show a bar with the time left.

    Returns:
        Prediction with ``draws``, ``effective_samples``, ``chi_square`` (per degree of freedom, of the best point),
        ``ln_evidence``, and the flags ``FEW_SAMPLES`` (below 100 effective ones) and ``BAD_FIT``.

    Raises:
        InputError: Prediction and cutouts are of different objects, or cutouts are not square or below 16 pixels.
        UnknownNameError: No such population.

    Method: damped Gauss-Newton to the maximum for each kind of galaxy (mixed, pure disk, pure bulge), then importance
    sampling from Student-t's there mixed with the network's own posterior, adapted and drawn from again where
    few samples count. The model is disk + bulge + a sky level known to 0.02 of the sky's rms.

    Example:
        >>> from galstress import Network, predict, simulate
        >>> cutouts = simulate("hsc-wide-i", 2, seed=1, stamp_px=48)
        >>> refined = refine(predict(Network.load("foveal"), cutouts), cutouts)
        >>> refined.effective_samples.shape, refined.draws.shape
        ((2,), torch.Size([2, 512, 12]))
    """
    if len(prediction) != len(cutouts) or not np.array_equal(prediction.object_id, cutouts.object_id):
        raise InputError(
            f"predictions of {len(prediction)} objects beside {len(cutouts)} cutouts with other names",
            "the same objects in the same order",
            "predict these cutouts first",
        )
    check_stamps(cutouts)
    check_effective(effective)
    own = make_prior(prior, prediction.prior)
    draws = _draws_of(prediction, seed)
    refined = sample_exactly(
        cutouts,
        Starts(_reference64(prediction.reference), _centre_of(draws), draws),
        own,
        flags=prediction.flags,
        name=f"{prediction.network}, refined" if prediction.network else "refined",
        seed=seed,
        effective=effective,
        progress=progress,
    )
    return dataclasses.replace(refined, prior=prediction.prior)


def _draws_of(prediction: Prediction, seed: int) -> Tensor:
    """(N, 128, 12) draws of the network's posterior."""
    generator = torch.Generator().manual_seed(seed)
    if prediction.draws is not None:
        count = prediction.draws.shape[1]
        order = torch.randperm(count, generator=generator)[: min(count, _DRAWS)]
        return prediction.draws[:, order].double()
    covariance = prediction.internal_covariance.clone()
    usable = torch.isfinite(covariance).flatten(1).all(1)
    covariance[~usable] = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    normal = torch.randn(len(prediction), _DRAWS, covariance.shape[-1], generator=generator, dtype=covariance.dtype)
    return prediction.internal_mean[:, None] + normal @ torch.linalg.cholesky(covariance).mT


def _centre_of(draws: Tensor) -> Tensor:
    """(1, N, 12) coordinate-wise median of draws."""
    centre = draws.median(1).values
    centre[:, SHARE] = centre[:, SHARE].clamp(-3.0, 3.0)
    return centre[None]


def _reference64(reference: Reference) -> Reference:
    """The reference in float64."""
    values = {name: getattr(reference, name).double() for name in ("flux", "size_px", "sky_rms")}
    return dataclasses.replace(reference, **values)
