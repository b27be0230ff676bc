"""The numbers that are reported: whole-galaxy and component outputs, derived from internal coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from galstress.galaxy import Galaxies, component_ellipticity, whole_ellipticity
from galstress.heads.galaxy import Reference, from_internal
from galstress.survey import Survey

__all__ = ["MONOTONE", "OUTPUTS", "derive_outputs", "list_outputs"]

OUTPUTS: dict[str, tuple[str, str]] = {
    "bulge_to_total": ("", "share of the total light, to infinity, that is the bulge's"),
    "half_light_radius_arcsec": ("arcsec", "radius that holds half of the total light before the PSF, circularised"),
    "flux_njy": ("nJy", "total flux, to infinity"),
    "e1": ("", "(1-q)/(1+q) cos 2phi of the whole galaxy, phi from +x towards +y"),
    "e2": ("", "(1-q)/(1+q) sin 2phi of the whole galaxy, phi from +x towards +y"),
    "x_px": ("pix", "centre along x, 0 at the centre of the first pixel of the cutout"),
    "y_px": ("pix", "centre along y, 0 at the centre of the first pixel of the cutout"),
    "disk_sersic_index": ("", "Sersic index of the disk"),
    "disk_half_light_radius_arcsec": ("arcsec", "semi-major half-light radius of the disk"),
    "disk_e1": ("", "(1-q)/(1+q) cos 2phi of the disk"),
    "disk_e2": ("", "(1-q)/(1+q) sin 2phi of the disk"),
    "bulge_sersic_index": ("", "Sersic index of the bulge"),
    "bulge_half_light_radius_arcsec": ("arcsec", "semi-major half-light radius of the bulge"),
    "bulge_e1": ("", "(1-q)/(1+q) cos 2phi of the bulge"),
    "bulge_e2": ("", "(1-q)/(1+q) sin 2phi of the bulge"),
}
"""Names of the outputs, in order, with their unit and definition; the first five are of the whole galaxy."""

MONOTONE = {0, 1, 2, 3, 4, 5, 6, 7, 11}
"""Places of the outputs that rise with one internal coordinate alone."""


def derive_outputs(internal: Tensor, reference: Reference, survey: Survey) -> Tensor:
    """The outputs of internal coordinates.

    Arguments:
        internal: (..., N, 12).
        reference: Of the N images, in the precision that is wanted.
        survey: Gives units and pixel scale.

    Returns:
        (..., N, D) in the order and units of :data:`OUTPUTS`.
    """
    galaxies, radius = from_internal(internal, reference)
    return list_outputs(galaxies, radius, survey)


def list_outputs(galaxies: Galaxies, radius: Tensor, survey: Survey) -> Tensor:
    """The outputs of galaxies in pixels and image units, (..., N, D); ``radius``: the whole's at half light, pixels."""
    sky = galaxies.scaled(survey.pixel_scale_arcsec, survey.unit_njy)
    e1, e2 = whole_ellipticity(galaxies)
    component = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    values = [
        galaxies.bulge_to_total,
        radius * survey.pixel_scale_arcsec,
        sky.flux,
        e1,
        e2,
        galaxies.x,
        galaxies.y,
    ]
    for place in range(2):
        values += [
            galaxies.sersic_index[..., place],
            sky.radius[..., place],
            component[0][..., place],
            component[1][..., place],
        ]
    return torch.stack(values, -1)
