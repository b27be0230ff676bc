"""The Templates record: real galaxies of any size, completed beyond their mask, ready to be observed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.errors import InputError
from galstress.galaxy import Galaxies
from galstress.optics import choose_oversampling, make_psf
from galstress.rendering import render
from galstress.survey import Survey

__all__ = ["Templates", "no_model"]


@dataclasses.dataclass(frozen=True)
class Templates:
    """N galaxies as a telescope with a narrow PSF saw them. Pure data; images differ in shape.

    A galaxy's light is ``residuals`` plus the smooth ``model`` seen through ``psf``, to infinity: inside the
    footprint that sum is the real pixels, noise included; outside it is the model, scaled so that it joins them.
    """

    object_id: np.ndarray
    """(N,) names."""
    group: np.ndarray
    """(N,) name of the galaxy: views of one are never split."""
    images: tuple[Tensor, ...]
    """N of (H, W) float32, the real pixels, 0 outside the footprint."""
    footprint: tuple[Tensor, ...]
    """N of (H, W) bool, True: a real pixel."""
    residuals: tuple[Tensor, ...]
    """N of (H, W) float32, the light that ``model`` lacks; reaches a little beyond the footprint."""
    variance: tuple[Tensor, ...]
    """N of (H, W) float32, of the noise in each real pixel; 0 outside, where the model has none."""
    model: Galaxies
    """(N,) smooth model before the PSF, template pixels and units; flux 0 where there is none."""
    psf: tuple[Tensor, ...]
    """N of (P, P) float32 effective PSF (pixel included), sum 1."""
    psf_oversampling: tuple[int, ...]
    """N, samples of ``psf`` a pixel."""
    psf_fwhm_px: np.ndarray
    """(N,) of the effective PSF."""
    pixel_scale_arcsec: np.ndarray
    """(N,) side of a pixel."""
    zero_point_mag: np.ndarray
    """(N,) AB magnitude of one image unit."""
    sky_rms: np.ndarray
    """(N,) measured noise of a pixel without light, image units."""
    noise_correlation_fwhm_px: np.ndarray
    """(N,) FWHM of the Gaussian that correlates the noise."""
    truth: QTable
    """``mag_ab``, ``flux_njy``, ``half_light_radius_arcsec``, ``bulge_to_total``, ``e1``, ``e2``, ``x_px``, ``y_px``,
    ``snr`` and what they come from; see :func:`galstress.realism.load_templates`."""

    def __post_init__(self) -> None:
        """Refuse rows that do not match."""
        count = len(self.object_id)
        for field in dataclasses.fields(self):
            if len(getattr(self, field.name)) != count:
                raise InputError(f"{len(getattr(self, field.name))} rows of {field.name}", f"{count}", "match them")

    def __len__(self) -> int:
        """Number of templates."""
        return len(self.object_id)

    def select(self, rows: slice | Sequence[int] | np.ndarray) -> Templates:
        """The templates at ``rows`` in that order, as often as they are named; pixels are shared, not copied."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = rows if rows.size else rows.astype(np.int64)  # an empty list has no integer type
        index = np.arange(len(self))[rows]
        chosen = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "model":
                chosen[field.name] = value.select(torch.as_tensor(index.copy()))
            else:
                chosen[field.name] = tuple(value[i] for i in index) if isinstance(value, tuple) else value[index]
        return Templates(**chosen)

    def complete(self, row: int, margin: float = 1.0) -> tuple[Tensor, tuple[int, int]]:
        """A template's light with its outskirts.

        Arguments:
            row: Which template.
            margin: Width added on every side, in widths of the template.

        Returns:
            (H', W') float32 image, and the (x, y) in it of the template's first pixel.
        """
        residual = self.residuals[row]
        height, width = residual.shape
        side = int(max(height, width) * (1 + 2 * margin))
        left, top = (side - width) // 2, (side - height) // 2
        image = torch.zeros(side, side)
        image[top : top + height, left : left + width] = residual
        if float(self.model.flux[row]) > 0:
            one = self.model.select(slice(row, row + 1)).to(dtype=torch.float32)
            one = dataclasses.replace(one, x=one.x + left, y=one.y + top)
            image = image + render(one, self.psf[row][None], self.psf_oversampling[row], side)[0]
        return image, (left, top)


def no_model(count: int) -> Galaxies:
    """Galaxies without light, where a template has no smooth model."""
    nothing, pair = torch.zeros(count), torch.ones(count, 2)
    return Galaxies(nothing, nothing, nothing, nothing, pair, pair, pair, 0 * pair)


def template_psf(survey: Survey, radius_fwhm: float = 20.0) -> tuple[Tensor, int]:
    """A survey's own effective PSF, wide enough for templates of any size: (P, P) float32, samples a pixel."""
    oversampling = choose_oversampling(survey.psf_fwhm_px)
    size = 2 * int(radius_fwhm * survey.psf_fwhm_px * oversampling) + 1
    return make_psf(survey.psf, survey.pixel_scale_arcsec, oversampling, size).float(), oversampling
