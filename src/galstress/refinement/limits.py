"""The smallest error that the photons allow, galaxy by galaxy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import Galaxies, galaxies_from_table, half_light_radius
from galstress.heads import OUTPUTS, Prediction, Reference, list_outputs, to_internal
from galstress.heads.flow import BEYOND
from galstress.likelihood import Likelihood
from galstress.refinement.exact import SKY_SIGMA, Starts, check_stamps, sample_exactly
from galstress.refinement.priors import SHARE, Prior, make_prior
from galstress.rendering import PARAMETERS, from_parameters, to_parameters
from galstress.survey import Survey

__all__ = ["limit", "sample_at_truth"]

_KINDS = ("bayes", "cramer-rao")
_INDICES = tuple(PARAMETERS.index(name) for name in ("disk_sersic_index", "bulge_sersic_index"))


def limit(
    cutouts: Cutouts,
    kind: str = "bayes",
    *,
    free_indices: bool = True,
    prior: Prior | Mapping[str, float] | str = "cosmos",
    sky_sigma: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> QTable:
    """The smallest error of each output of each galaxy, at ``cutouts.truth``.

    Arguments:
        cutouts: Simulated images with truth.
        kind: ``"cramer-rao"``: the square root of the diagonal of J F^-1 J^T, F the Fisher matrix of the pixels at
            the truth, J the outputs' derivatives: no unbiased estimate scatters less. ``"bayes"``: the standard
            deviation of the exact posterior under ``prior``, given the pixels as they are: no estimate has a smaller
            mean square error over galaxies of that prior.
        free_indices: For ``"cramer-rao"``: both Sersic indices are unknown, too; False takes them as known.
        prior: For ``"bayes"``: a population's name, shares of populations, ``"weak"``, or a prior.
        sky_sigma: How well the sky is known, in units of its rms; by default free for ``"cramer-rao"`` and 0.02 for
            ``"bayes"`` (which takes no other).
        seed: Of the samples of ``"bayes"``.
        progress: Show a bar with the time left.

    Returns:
        QTable: ``object_id``, one column an output in its unit, and for ``"bayes"`` ``effective_samples``. NaN where
        the limit does not exist: for the bulge of a pure disk, say. With free indices the Cramer-Rao error of B/T is
        easily above 1, and an estimate that knows a prior beats it.

    Raises:
        InputError: No truth, or a ``sky_sigma`` where it has no place.
        UnknownNameError: No such kind, or no such prior.

    Example:
        >>> from galstress import simulate
        >>> table = limit(simulate("euclid-vis", 2, seed=1, stamp_px=48), kind="cramer-rao")
        >>> table["half_light_radius_arcsec"].unit.to_string(), len(table)
        ('arcsec', 2)
    """
    if kind not in _KINDS:
        raise UnknownNameError("kind of limit", kind, _KINDS)
    if cutouts.truth is None:
        raise InputError("cutouts without truth", "simulated cutouts", "make them with galstress.simulate")
    check_stamps(cutouts)
    survey = cutouts.survey
    truth = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    table = QTable({"object_id": cutouts.object_id.astype(str)})
    if kind == "cramer-rao":
        errors = _cramer_rao(cutouts, truth, free_indices, math.inf if sky_sigma is None else sky_sigma)
    else:
        if sky_sigma not in (None, SKY_SIGMA):
            raise InputError(f"sky_sigma={sky_sigma} with kind='bayes'", f"{SKY_SIGMA} or nothing", "leave it out")
        found = sample_at_truth(cutouts, prior, seed=seed, progress=progress)
        errors = found.std
        table["effective_samples"] = found.effective_samples
    for place, (name, (unit, meaning)) in enumerate(OUTPUTS.items()):
        table[name] = errors[:, place] * u.Unit(unit) if unit else errors[:, place]
        table[name].info.description = f"smallest error ({kind}) of the {meaning}"
    table.meta.update(kind=kind, free_indices=free_indices, survey=survey.name)
    return table


def sample_at_truth(
    cutouts: Cutouts,
    prior: Prior | Mapping[str, float] | str,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Prediction:
    """The exact posterior of simulated galaxies: no classifier and no estimate from the same pixels can do better.

    Arguments:
        cutouts: Images with truth, at which the sampling starts: that saves the search, and the posterior does not
            depend on it.
        prior: The population that they were drawn from.
        seed: Of the samples.
        progress: Show a bar with the time left.

    Raises:
        InputError: No truth.
    """
    if cutouts.truth is None:
        raise InputError("cutouts without truth", "simulated cutouts", "make them with galstress.simulate")
    survey = cutouts.survey
    truth = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    start, own = _starts_at(truth, cutouts), make_prior(prior, {})
    return sample_exactly(cutouts, start, own, flags=cutouts.flags, name="limit", seed=seed, progress=progress)


def _starts_at(truth: Galaxies, cutouts: Cutouts) -> Starts:
    """A start at the truth itself."""
    middle = tuple((side - 1) / 2 for side in reversed(cutouts.images.shape[1:]))
    rms = cutouts.sky_rms.double()
    reference = Reference(truth.flux / rms, half_light_radius(truth), (middle[0], middle[1]), rms)
    internal = to_internal(truth, reference)
    edge = internal[:, SHARE].abs() > math.log(99) - 1e-6
    internal[:, SHARE] += torch.where(edge, internal[:, SHARE].sign() * BEYOND, 0.0)
    return Starts(reference, internal[None], None)


def _cramer_rao(cutouts: Cutouts, truth: Galaxies, free_indices: bool, sky_sigma: float) -> np.ndarray:
    """(N, D) errors of the outputs."""
    parts = []
    for start in range(0, len(cutouts), 64):
        rows = slice(start, start + 64)
        galaxies = truth.select(rows)
        fisher = Likelihood.of(cutouts.select(rows), sky_sigma=sky_sigma).fisher(galaxies)
        parts.append(_errors(fisher, _output_slopes(galaxies, cutouts.survey), free_indices))
    errors = torch.cat(parts) if parts else torch.zeros(0, len(OUTPUTS), dtype=torch.float64)
    return errors.numpy()


def _errors(fisher: Tensor, slopes: Tensor, free_indices: bool) -> Tensor:
    """(N, D) root of the diagonal of J F^-1 J^T; NaN for outputs that hang on what the image does not see."""
    diagonal = torch.diagonal(fisher, dim1=-2, dim2=-1)
    seen = diagonal > 1e-12 * diagonal.amax(-1, keepdim=True).clamp_min(1e-300)
    scale = torch.where(diagonal > 0, diagonal, 1.0).sqrt()
    seen = diagonal > 0
    free = seen.clone()
    if not free_indices:
        free[:, _INDICES] = False
    unit = fisher / scale[:, :, None] / scale[:, None, :]
    pair = free[:, :, None] & free[:, None, :]
    eye = torch.eye(fisher.shape[-1], dtype=fisher.dtype)
    unit = torch.where(pair, unit, eye)
    inverse = torch.linalg.pinv(unit, hermitian=True, rtol=1e-13)
    along = torch.where(free[:, None], slopes / scale[:, None], 0.0)
    variance = torch.einsum("ndi,nij,ndj->nd", along, inverse, along)
    blind = ((slopes.abs() > 1e-9 * slopes.abs().amax(-1, keepdim=True)) & ~seen[:, None]).any(-1)
    return torch.where(blind, math.nan, variance.clamp_min(0).sqrt())


def _output_slopes(galaxies: Galaxies, survey: Survey) -> Tensor:
    """(N, D, 12) derivatives of the outputs in the model's parameters (pixels and image units)."""
    with torch.enable_grad():
        parameters = to_parameters(galaxies).detach().clone().requires_grad_()
        moved = from_parameters(parameters)
        outputs = list_outputs(moved, half_light_radius(moved), survey)
        rows = [
            torch.autograd.grad(outputs[:, place].sum(), parameters, retain_graph=True)[0]
            for place in range(outputs.shape[1])
        ]
    return torch.stack(rows, 1)
