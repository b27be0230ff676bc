"""Damped Gauss-Newton in the natural coordinates: from a start to the maximum of likelihood times a normal prior."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from galstress.galaxy import Galaxies
from galstress.heads import INTERNAL_NAMES, Reference, from_internal
from galstress.heads.flow import BEYOND, EDGE
from galstress.likelihood import Likelihood
from galstress.refinement.coordinates import from_natural
from galstress.refinement.priors import SHARE, Normal
from galstress.rendering import to_parameters

__all__ = ["Maximum", "climb", "relative_to"]

_ITERATIONS = 60
_ENOUGH = 0.05
"""A step that promises less, in units of log-probability, is the last."""
_LONGEST = {"x": 1.5, "y": 1.5, "ln_flux": 0.7, "logit_bulge_to_total": 1.5, "ln_radius": 0.5, "e1": 0.25, "e2": 0.25}
_LONGEST |= {"ln_radius_ratio": 0.7, "ln_disk_index": 0.4, "ln_bulge_index": 0.4}
_LONGEST |= {"e1_difference": 1.0, "e2_difference": 1.0}


@dataclasses.dataclass(frozen=True)
class Maximum:
    """Where M climbs ended."""

    natural: Tensor
    """(M, 12) coordinates."""
    precision: Tensor
    """(M, 12, 12) Fisher matrix plus the prior's precision."""
    ln_prob: Tensor
    """(M,) log-likelihood plus the normal prior's log-density."""
    iterations: Tensor
    """(M,) steps tried."""
    slope: Tensor
    """(M, 12) of the log-likelihood at the end."""
    centre: Tensor
    """(M, 12) of the normal prior."""
    prior: Tensor
    """(M, 12, 12) the prior's part of the precision."""

    @property
    def ln_evidence(self) -> Tensor:
        """(M,) Laplace's estimate of the integral."""
        dim = self.natural.shape[-1]
        return self.ln_prob + 0.5 * dim * math.log(2 * math.pi) - 0.5 * torch.logdet(self.precision)

    def ln_prior(self, points: Tensor) -> Tensor:
        """(n, M) log-density of the normal prior at (n, M, 12) points."""
        return ln_normal(points, self.centre, self.prior)


def relative_to(normal: Normal, reference: Reference) -> tuple[Tensor, Tensor]:
    """Centre (N, 12) and precision of a prior's normal distribution, in the coordinates of each image."""
    centre = normal.centre.to(reference.flux).expand(len(reference.flux), -1).clone()
    centre[:, INTERNAL_NAMES.index("ln_flux")] -= torch.log(reference.flux * reference.sky_rms)
    centre[:, INTERNAL_NAMES.index("ln_radius")] -= torch.log(reference.size_px)
    return centre, normal.precision.to(reference.flux)


def ln_normal(points: Tensor, centre: Tensor, precision: Tensor) -> Tensor:
    """(..., M) log-density of normal distributions with (M, 12) centres at (..., M, 12) points."""
    off = (points - centre)[..., None]
    return -0.5 * (off.mT @ precision @ off)[..., 0, 0] + 0.5 * torch.logdet(precision / (2 * math.pi))


def climb(
    likelihood: Likelihood, start: Tensor, reference: Reference, normal: Normal, iterations: int = _ITERATIONS
) -> Maximum:
    """Go up from a start.

    Arguments:
        likelihood: Of N images.
        start: (N, 12) natural coordinates; those of a pure disk or bulge stay one.
        reference: Of the N images, in the likelihood's dtype.
        normal: Stands in for the prior.
        iterations: Most steps tried.

    Returns:
        The best point of each climb, and the curvature there.
    """
    centre, prior = relative_to(normal, reference)
    here = _kept_in_kind(start.clone(), start)
    longest = here.new_tensor([_LONGEST[name] for name in INTERNAL_NAMES])
    damping = here.new_full((len(here),), 1e-3)
    shapes = normal.any_shape
    ln_prob, residuals = _evaluate(likelihood, here, reference, (centre, prior), shapes)
    matrix, slope = _curvature(likelihood, here, residuals, reference, (centre, prior), shapes)
    tried = torch.zeros(len(here), dtype=torch.long, device=here.device)
    active = torch.ones(len(here), dtype=torch.bool, device=here.device)
    for _ in range(iterations):
        rows = torch.nonzero(active)[:, 0]
        if len(rows) == 0:
            break
        tried[rows] += 1
        diagonal = torch.diagonal(matrix[rows], dim1=-2, dim2=-1)
        damped = matrix[rows] + torch.diag_embed(damping[rows, None] * diagonal)
        step = torch.linalg.solve(damped, slope[rows])
        step = step * (longest / step.abs().clamp_min(1e-30)).amin(-1, keepdim=True).clamp_max(1)
        there = _kept_in_kind(here[rows] + step, start[rows])
        part, own = likelihood.select(rows), reference.select(rows)
        value, left = _evaluate(part, there, own, (centre[rows], prior), shapes)
        better = value > ln_prob[rows]
        gain = (step * slope[rows]).sum(-1)
        active[rows] = torch.where(better, (value - ln_prob[rows] > _ENOUGH) | (gain > _ENOUGH), gain > _ENOUGH)
        active[rows] &= damping[rows] < 1e4
        damping[rows] = torch.where(better, damping[rows] / 10, damping[rows].clamp_min(1e-3) * 10)
        moved = rows[better]
        if len(moved) == 0:
            continue
        here[moved], ln_prob[moved] = there[better], value[better]
        matrix[moved], slope[moved] = _curvature(
            part.select(better), there[better], left[better], own.select(better), (centre[moved], prior), shapes
        )
    slope = slope - (centre - here) @ prior
    return Maximum(here, matrix, ln_prob, tried, slope, centre, prior.expand(len(here), -1, -1))


def _kept_in_kind(natural: Tensor, start: Tensor) -> Tensor:
    """Coordinates whose B/T stays on the start's side of the edges."""
    logit, was = natural[:, SHARE], start[:, SHARE]
    pure = was.abs() >= EDGE
    inner = EDGE - 0.02
    natural[:, SHARE] = torch.where(pure, was.sign() * (EDGE + BEYOND), logit.clamp(-inner, inner))
    return natural


def _evaluate(
    likelihood: Likelihood, natural: Tensor, reference: Reference, normal: tuple[Tensor, Tensor], any_shape: bool
) -> tuple[Tensor, Tensor]:
    """(N,) log-likelihood plus log-prior, given the normal's centres and precision, and (N, H, W) residuals."""
    galaxies, _ = from_internal(from_natural(natural, any_shape=any_shape)[0], reference)
    residuals = likelihood.residuals(galaxies)
    chi_square = likelihood.product(residuals[:, None], residuals[:, None])[:, 0, 0]
    value = likelihood.constant - 0.5 * chi_square + ln_normal(natural, *normal)
    return torch.where(torch.isfinite(value), value, -math.inf), residuals


def _curvature(
    likelihood: Likelihood,
    natural: Tensor,
    residuals: Tensor,
    reference: Reference,
    normal: tuple[Tensor, Tensor],
    any_shape: bool,
) -> tuple[Tensor, Tensor]:
    """Fisher matrix plus the prior's precision (N, 12, 12), and the slope (N, 12) of the log-probability."""
    centre, prior = normal
    galaxies, chain = _chain_rule(natural, reference, any_shape)
    both = torch.cat([likelihood.jacobian(galaxies, is_rough=True), residuals[:, None]], 1)
    inner = likelihood.product(both, both)
    matrix = chain.mT @ inner[:, :-1, :-1] @ chain + prior
    slope = (chain.mT @ inner[:, :-1, -1:])[..., 0] - (natural - centre) @ prior
    return matrix, slope


def _chain_rule(natural: Tensor, reference: Reference, any_shape: bool) -> tuple[Galaxies, Tensor]:
    """Galaxies of natural coordinates, and d parameters / d coordinates, (N, 12, 12)."""
    dim = natural.shape[-1]
    with torch.enable_grad():
        moved = natural.detach().repeat(dim, 1, 1).requires_grad_()  # a copy for each parameter: one pass for all
        galaxies, _ = from_internal(from_natural(moved, any_shape=any_shape)[0], reference)
        parameters = torch.diagonal(to_parameters(galaxies), dim1=0, dim2=2)  # (M, 12)
        (slopes,) = torch.autograd.grad(parameters.sum(), moved)
    fixed = Galaxies(**{f.name: getattr(galaxies, f.name)[0].detach() for f in dataclasses.fields(galaxies)})
    return fixed, slopes.transpose(0, 1)
