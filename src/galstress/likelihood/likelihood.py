"""The exact likelihood of cutouts under disk + bulge + sky.

Pixels are normal about model plus sky, with the variance that the cutouts carry; ignored are
those under ``mask`` and ``neighbour_mask``: neighbours are masked, not fitted. Correlated noise
(``survey.noise_correlation_fwhm_px``) is whitened, and then a pixel counts only where all that
its prediction looks back to is there. The sky is one level a stamp with a normal prior, and is
integrated out in closed form.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies
from galstress.likelihood.noise import REACH, prediction_errors, whiten
from galstress.rendering import render, render_derivatives

__all__ = ["Likelihood"]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of N images, its gradient and the Fisher matrix, batched.

    Example:
        >>> from galstress.galaxy import galaxies_from_table
        >>> from galstress.simulation import simulate
        >>> cutouts = simulate("hsc-wide-i", 2, seed=1, stamp_px=64)
        >>> survey = cutouts.survey
        >>> truth = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy)
        >>> likelihood = Likelihood.of(cutouts)
        >>> likelihood.log_prob(truth).shape, likelihood.fisher(truth).shape
        (torch.Size([2]), torch.Size([2, 12, 12]))
    """

    images: Tensor
    """(N, H, W) image units; 0 where ignored."""
    weight: Tensor
    """(N, H, W) one over each pixel's standard deviation; 0 where ignored."""
    kept: Tensor
    """(N, H, W) 1 for whitened pixels that count, else 0."""
    psf: Tensor
    """(N or 1, P, P) effective PSF."""
    psf_oversampling: int
    """Samples of ``psf`` a pixel."""
    errors: Tensor | None
    """What whitens correlated noise (:func:`galstress.likelihood.noise.prediction_errors`), or None for white noise."""
    sky: Tensor
    """(N, H, W) whitened image of a sky of one image unit."""
    sky_precision: Tensor
    """(N,) precision of the sky's prior plus that of the pixels, 1 / image units squared."""
    constant: Tensor
    """(N,) what is added to minus half of the chi-square to make it the logarithm of a density."""

    @classmethod
    def of(
        cls,
        cutouts: Cutouts,
        *,
        sky_sigma: float = math.inf,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Likelihood:
        """The likelihood of cutouts.

        Arguments:
            cutouts: N images with variance, masks and PSF; of unusable ones everything is 0.
            sky_sigma: Standard deviation of the sky's prior about 0, in units of each stamp's ``sky_rms``; infinite
                leaves the sky free.
            dtype: Of the computation.
            device: Where to compute; by default where the cutouts lie.

        The variance is taken as given: its change with the galaxy's parameters is neglected, which at an
        S/N of 100 moves errors by less than 1 %.
        """
        ignored = cutouts.mask | cutouts.neighbour_mask
        variance = cutouts.variance.to(device, dtype)
        ignored = ignored.to(variance.device) | ~torch.isfinite(variance) | (variance <= 0)
        ignored |= ~torch.isfinite(cutouts.images).to(variance.device)
        weight = torch.where(ignored, 0.0, torch.where(ignored, 1.0, variance).rsqrt())
        images = torch.where(ignored, 0.0, cutouts.images.to(weight))
        fwhm = cutouts.survey.noise_correlation_fwhm_px
        errors = prediction_errors(fwhm, images.shape[-1]).to(weight) if fwhm > 0 else None
        kept = _counting(ignored, errors is not None).to(weight)
        psf = cutouts.psf[:1] if len(cutouts.psf) > 1 and cutouts.psf.stride(0) == 0 else cutouts.psf
        unit = (weight if errors is None else whiten(weight, errors)) * kept
        rms = cutouts.sky_rms.to(weight)
        prior = (sky_sigma * rms).clamp_min(1e-30) ** -2 if math.isfinite(sky_sigma) else torch.zeros_like(rms)
        pixels = (unit**2).flatten(1).sum(1)
        ln_scale = torch.log(torch.where(weight > 0, weight, 1.0)).double() - 0.5 * math.log(2 * math.pi)
        if errors is not None:
            ln_along = torch.log(torch.diagonal(errors)).double()
            ln_scale = ln_scale + ln_along[:, None] + ln_along
        constant = (kept * ln_scale).sum((1, 2))
        if math.isfinite(sky_sigma):
            constant = constant - 0.5 * torch.log1p(pixels / prior).double()
        return cls(
            images,
            weight,
            kept,
            psf.to(weight),
            cutouts.psf_oversampling,
            errors,
            unit,
            (prior + pixels).clamp_min(1e-30),
            constant,
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def pixels(self) -> Tensor:
        """(N,) pixels that count."""
        return self.kept.flatten(1).sum(1)

    def select(self, rows: Tensor | slice) -> Likelihood:
        """The images at ``rows``."""
        kept = {
            f.name: getattr(self, f.name)[rows]
            for f in dataclasses.fields(self)
            if f.name not in ("psf", "psf_oversampling", "errors")
        }
        return dataclasses.replace(self, psf=self.psf if len(self.psf) == 1 else self.psf[rows], **kept)

    def residuals(self, galaxies: Galaxies, rows: Tensor | None = None, *, tolerance: float = 5e-5) -> Tensor:
        """(M, H, W) whitened residuals, data minus model, of M galaxies.

        Arguments:
            galaxies: (M,) in pixels and image units.
            rows: (M,) ascending image of each galaxy; by default one galaxy an image.
            tolerance: As for :func:`galstress.rendering.render`.
        """
        at = torch.arange(len(self), device=self.images.device) if rows is None else rows
        model = self._render(galaxies, at, tolerance)
        if rows is None:
            return self._whitened((self.images - model) * self.weight) * self.kept
        # image by image and in place: the pixels are not copied for each of the many models of one image
        for image, first, last in _runs(at):
            part = model[first:last]
            part.neg_().add_(self.images[image]).mul_(self.weight[image])
            if self.errors is not None:
                part.copy_(self._whitened(part)).mul_(self.kept[image])
        return model

    def log_prob(self, galaxies: Galaxies, rows: Tensor | None = None) -> Tensor:
        """(M,) log-likelihood, the sky integrated out (or at its best where its prior is flat).

        Arguments:
            galaxies: (M,) in pixels and image units.
            rows: (M,) ascending image of each galaxy; by default one galaxy an image.
        """
        return self.constant[slice(None) if rows is None else rows] - 0.5 * self.chi_square(galaxies, rows)

    def chi_square(self, galaxies: Galaxies, rows: Tensor | None = None) -> Tensor:
        """(M,) sum of squared whitened residuals at the sky that fits best under its prior."""
        residuals = self.residuals(galaxies, rows)
        return self.product(residuals[:, None], residuals[:, None], rows)[:, 0, 0]

    def jacobian(self, galaxies: Galaxies, *, is_rough: bool = False) -> Tensor:
        """(N, 12, H, W) derivatives of the whitened model in :data:`galstress.rendering.PARAMETERS`.

        Arguments:
            galaxies: (N,) in pixels and image units.
            is_rough: As for :func:`galstress.rendering.render_derivatives`.
        """
        galaxies, stamp_px = galaxies.to(dtype=self.images.dtype), self.images.shape[-1]
        slopes = render_derivatives(galaxies, self.psf, self.psf_oversampling, stamp_px, is_rough=is_rough)
        return self._whitened(slopes * self.weight[:, None]) * self.kept[:, None]

    def gradient(self, galaxies: Galaxies) -> Tensor:
        """(N, 12) derivatives of the log-likelihood in :data:`galstress.rendering.PARAMETERS`."""
        return self.product(self.jacobian(galaxies), self.residuals(galaxies)[:, None])[..., 0]

    def fisher(self, galaxies: Galaxies) -> Tensor:
        """(N, 12, 12) Fisher matrix of :data:`galstress.rendering.PARAMETERS`, the sky marginalised.

        F = J^T C^-1 J with J the model's derivatives and C the pixels' covariance and the sky's prior; the term
        with the derivative of C is left out.
        """
        slopes = self.jacobian(galaxies)
        return self.product(slopes, slopes)

    def product(self, left: Tensor, right: Tensor, rows: Tensor | None = None) -> Tensor:
        """(M, A, B) float64 inner products of whitened images (M, A, H, W) and (M, B, H, W), the sky taken out."""
        at = slice(None) if rows is None else rows
        left, right = left.flatten(2), right.flatten(2)
        sky = self.sky[at].flatten(1)[..., None]
        taken = (left @ sky) * (right @ sky).mT / self.sky_precision[at][:, None, None]
        return (left @ right.mT - taken).double()

    def _render(self, galaxies: Galaxies, rows: Tensor, tolerance: float) -> Tensor:
        """(M, H, W) models; a PSF of its own for each image is transformed once, however many galaxies it has."""
        galaxies, stamp_px = galaxies.to(dtype=self.images.dtype), self.images.shape[-1]
        if len(self.psf) == 1 or len(galaxies) == len(self):
            psf = self.psf if len(self.psf) == 1 else self.psf[rows]
            return render(galaxies, psf, self.psf_oversampling, stamp_px, tolerance=tolerance)
        parts = []
        for image, first, last in _runs(rows):
            own, psf = galaxies.select(slice(first, last)), self.psf[image : image + 1]
            parts.append(render(own, psf, self.psf_oversampling, stamp_px, tolerance=tolerance))
        return torch.cat(parts)

    def _whitened(self, scaled: Tensor) -> Tensor:
        """White noise of pixels in units of their standard deviation."""
        return scaled if self.errors is None else whiten(scaled, self.errors)


def _runs(rows: Tensor) -> list[tuple[int, int, int]]:
    """Each image in ascending ``rows``, with the first of its galaxies and the one past its last."""
    images, counts = rows.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    return list(zip(images.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True))


def _counting(ignored: Tensor, is_correlated: bool) -> Tensor:
    """(N, H, W) whether a whitened pixel counts: all that its prediction looks back to is there."""
    if not is_correlated:
        return ~ignored
    behind = torch.nn.functional.pad(ignored.float()[:, None], (REACH, 0, REACH, 0))
    return torch.nn.functional.max_pool2d(behind, REACH + 1, stride=1)[:, 0] == 0
