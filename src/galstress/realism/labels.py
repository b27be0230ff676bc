"""What is known of a view: how it was made, and the truth of what it shows."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Cutouts, empty_catalogue
from galstress.galaxy import COMPONENTS
from galstress.realism.matching import View
from galstress.realism.records import Templates
from galstress.survey import AB_ZERO_POINT_NJY, Survey

__all__ = ["make_catalogue", "make_truth"]


def make_catalogue(
    templates: Templates,
    views: list[View],
    magnification: np.ndarray,
    dimmed: Tensor,
    share: Tensor,
    sky: Cutouts | None,
) -> QTable:
    """Names, and how each image was made."""
    table = empty_catalogue([f"{name}-view{row}" for row, name in enumerate(templates.object_id)])
    table["group"] = templates.group
    table["template"] = templates.object_id
    table["magnification"] = magnification
    table["turn_deg"] = np.degrees([view.turn for view in views]) * u.deg
    table["mirrored"] = np.array([view.mirror for view in views])
    table["is_dimmed"] = dimmed.cpu().numpy()
    table["template_variance_share"] = share.cpu().double().numpy()
    drawn = np.full(len(views), "drawn noise")
    table["sky_source"] = drawn if sky is None else np.asarray(sky.catalogue["object_id"], str)
    return table


def make_truth(
    templates: Templates,
    views: list[View],
    survey: Survey,
    magnification: np.ndarray,
    scale: Tensor,
    snr: Tensor,
) -> QTable:
    """The truth columns; a real galaxy has no components, so theirs are NaN."""
    own = templates.truth
    total = 10 ** (-0.4 * (own["mag_ab"].value - templates.zero_point_mag))
    flux = total * scale.cpu().double().numpy() * survey.unit_njy
    sign = np.array([-1.0 if view.mirror else 1.0 for view in views])
    shape = (np.asarray(own["e1"]) + 1j * sign * np.asarray(own["e2"])) * np.exp(2j * np.array([v.turn for v in views]))
    table = QTable()
    table["flux_njy"] = flux * u.nJy
    table["mag_ab"] = (AB_ZERO_POINT_NJY - 2.5 * np.log10(np.maximum(flux, 1e-30))) * u.mag
    table["bulge_to_total"] = np.asarray(own["bulge_to_total"], float)
    table["half_light_radius_arcsec"] = own["half_light_radius_arcsec"] * magnification
    table["e1"], table["e2"] = shape.real, shape.imag
    table["x_px"] = np.array([view.centre[0] for view in views]) * u.pix
    table["y_px"] = np.array([view.centre[1] for view in views]) * u.pix
    unknown = np.full(len(views), np.nan)
    units = {"flux_njy": u.nJy, "half_light_radius_arcsec": u.arcsec, "position_angle_deg": u.deg}
    names = ("flux_njy", "sersic_index", "half_light_radius_arcsec", "axis_ratio", "position_angle_deg")
    for component in COMPONENTS:
        for name in names:
            table[f"{component}_{name}"] = unknown * units[name] if name in units else unknown.copy()
    table["snr"] = snr.cpu().double().numpy()
    return table
