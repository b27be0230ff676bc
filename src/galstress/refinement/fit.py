"""A fit without a network: several starts from the image's moments, then the exact posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.heads import INTERNAL_NAMES, Prediction, Reference
from galstress.refinement.exact import ENOUGH, Starts, check_effective, check_stamps, sample_exactly
from galstress.refinement.priors import Prior, make_prior

__all__ = ["fit"]

_STARTS = (
    {"logit_bulge_to_total": -1.5, "ln_radius_ratio": math.log(0.4), "ln_radius": 0.0},
    {"logit_bulge_to_total": 1.0, "ln_radius_ratio": math.log(0.3), "ln_radius": 0.3},
    {"logit_bulge_to_total": -0.5, "ln_radius_ratio": math.log(0.15), "ln_radius": 0.1},
)
"""Where mixed galaxies start; pure disks and bulges take the same sizes."""


def fit(
    cutouts: Cutouts,
    prior: Prior | Mapping[str, float] | str | None = None,
    *,
    seed: int = 0,
    effective: int = ENOUGH,
    progress: bool = False,
) -> Prediction:
    """Posterior of disk + bulge + sky for each galaxy, without a network.

    Arguments:
        cutouts: The images; what lies under ``mask`` or ``neighbour_mask`` is ignored, so stamps whose sky was set
            to zero are fitted inside their segment only.
        prior: A population's name, shares of populations, or a prior; by default ``"weak"``, which assumes little
            (:class:`galstress.refinement.WeakPrior`).
        seed: Of the samples.
        effective: Effective samples that are aimed for, 20 or more: time grows with them, and so does the number of
            galaxies whose intervals are as wide as they should be.
        progress: Show a bar with the time left.

    Returns:
        Prediction as from :func:`galstress.refine`. Galaxies without a pixel to fit hold NaN and are flagged.

    Raises:
        InputError: Cutouts smaller than 16 pixels.
        UnknownNameError: No such population.

    Example:
        >>> from galstress import simulate
        >>> fitted = fit(simulate("hsc-wide-i", 2, seed=1, stamp_px=48))
        >>> fitted.names[:2], len(fitted)
        (('bulge_to_total', 'half_light_radius_arcsec'), 2)
    """
    check_stamps(cutouts)
    check_effective(effective)
    reference, shape = measure_moments(cutouts)
    starts = torch.zeros(len(_STARTS), len(cutouts), len(INTERNAL_NAMES), dtype=torch.float64)
    at = {name: place for place, name in enumerate(INTERNAL_NAMES)}
    for place, chosen in enumerate(_STARTS):
        for name, value in chosen.items():
            starts[place, :, at[name]] = value
    starts[..., at["ln_bulge_index"]] = math.log(3.0)
    for name, value in zip(("x", "y", "e1", "e2"), shape.T, strict=True):
        starts[..., at[name]] = value
    # a bulge half as flat as its disk
    for name in ("e1", "e2"):
        starts[..., at[f"{name}_difference"]] = -0.4 * starts[..., at[name]]
    own = make_prior(prior, {})
    return sample_exactly(
        cutouts,
        Starts(reference, starts, None),
        own,
        flags=cutouts.flags,
        name="fit",
        seed=seed,
        effective=effective,
        progress=progress,
    )


def measure_moments(cutouts: Cutouts) -> tuple[Reference, Tensor]:
    """Flux, size, centre and shape under a Gaussian weight that follows the galaxy.

    Arguments:
        cutouts: N images; masked pixels count as the pixel opposite the centre, or as 0.

    Returns:
        The reference of the internal coordinates (flux in units of ``sky_rms``), and (N, 4) centre x and y relative
        to the array's, e1 and e2, roughly corrected for the PSF.
    """
    ignored = cutouts.mask | cutouts.neighbour_mask | ~torch.isfinite(cutouts.images)
    images = torch.where(ignored, 0.0, cutouts.images).double()
    images = torch.where(ignored, torch.where(ignored.flip((1, 2)), 0.0, images.flip((1, 2))), images)
    rms = cutouts.sky_rms.double().clamp_min(1e-30)
    height, width = images.shape[1:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    psf = (cutouts.psf_fwhm_px.double() / 2.3548).clamp_min(0.5)
    sigma, centre = 2 * psf, torch.zeros(len(images), 2, dtype=torch.float64)
    for _ in range(15):
        dx, dy = x - centre[:, :1, None], y - centre[:, 1:, None]
        weighted = images * torch.exp(-0.5 * (dx**2 + dy**2) / sigma[:, None, None] ** 2)
        flux = weighted.sum((1, 2))
        sums = torch.stack([(weighted * term).sum((1, 2)) for term in (dx, dy, dx**2, dy**2, dx * dy)], 1)
        floor = 3 * sigma * rms
        ratio = sums / flux.clamp_min(1e-30)[:, None]
        good = flux > floor
        centre = torch.where(good[:, None], (centre + ratio[:, :2]).clamp(-width / 4, width / 4), centre)
        size = torch.sqrt((ratio[:, 2] + ratio[:, 3]).clamp_min(0.2))  # of a Gaussian: its own sigma
        sigma = torch.where(good, torch.maximum(torch.sqrt(sigma * size).clamp_max(width / 5), 0.8 * psf), sigma)
    twice = 2 * ratio[:, 2:4].sum(1).clamp_min(1e-3)  # the weight halves the moments
    intrinsic = (twice - 2 * psf**2).clamp_min(0.2 * psf**2)
    chi = torch.stack([ratio[:, 2] - ratio[:, 3], 2 * ratio[:, 4]], 1) * 2 / intrinsic[:, None]
    # where nothing is seen: about a PSF wide, and never quite round, since a circle's angle has no derivative
    shape = torch.where(good[:, None], chi, chi.new_tensor([0.02, 0.01]))
    length = torch.hypot(shape[:, 0], shape[:, 1]).clamp_min(1e-9)[:, None]
    shape = shape / length * torch.tanh(length / 2).clamp_max(0.6)
    total = (2 * flux / rms).clamp_min(10.0)
    radius = torch.where(good, 1.2 * torch.sqrt(intrinsic / 2), 2 * psf).clamp(0.3, width)
    centre_px = ((width - 1) / 2, (height - 1) / 2)
    return Reference(total, radius, centre_px, rms), torch.cat([centre, shape], 1)
