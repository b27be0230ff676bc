"""The posterior's own models beside the image: what ``model.safetensors`` holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, shape_from_ellipticity
from galstress.heads import Prediction
from galstress.rendering import draw_truth, render

__all__ = ["PROFILE_QUANTILES", "draw_models"]

PROFILE_QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
"""Quantiles of the model's radial profile that are kept."""

_COMPONENTS = ("disk", "bulge")


def draw_models(
    cutouts: Cutouts, prediction: Prediction, *, draws: int = 64, rings: int = 24, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draw each galaxy's posterior as images, and measure image and models in the same rings.

    Arguments:
        cutouts: N galaxies.
        prediction: What a network says of them, same order.
        draws: Posterior draws for the profile's band.
        rings: Rings R from the centre to the stamp's edge, each at least a pixel wide, wider outside.
        seed: Of the draws.

    Returns:
        float32 arrays in image units: ``image`` (N, H, W), the model at the posterior's median, PSF included;
        ``radius_arcsec`` (N, R); ``data``, ``data_sigma`` (N, R) and ``model`` (N, 5, R), mean surface brightness a
        square arcsec over the unmasked pixels of each ring about the model's centre, the model's at
        :data:`PROFILE_QUANTILES`. NaN where nothing was predicted, or a ring holds no pixel.
    """
    count, side = len(cutouts), int(cutouts.images.shape[-1])
    median, samples = prediction.truth_like(), prediction.sample(draws, seed)
    survey = cutouts.survey
    found = {
        "image": np.full((count, side, side), np.nan, np.float32),
        "radius_arcsec": np.full((count, rings), np.nan, np.float32),
        "data": np.full((count, rings), np.nan, np.float32),
        "data_sigma": np.full((count, rings), np.nan, np.float32),
        "model": np.full((count, len(PROFILE_QUANTILES), rings), np.nan, np.float32),
    }
    for row in np.flatnonzero(np.isfinite(samples).all((0, 2))):
        one = cutouts.select([int(row)]).to("cpu")
        image = draw_truth(median[[int(row)]], one.psf, one.psf_oversampling, survey, side)
        found["image"][row] = image[0].numpy()
        models = _draw(one, prediction.names, samples[:, row])
        centre = (float(median["x_px"][row].value), float(median["y_px"][row].value))
        for name, array in _measure_rings(one, models, centre, rings).items():
            found[name][row] = array
    return found


def _draw(one: Cutouts, names: Sequence[str], values: np.ndarray) -> np.ndarray:
    """(n, H, W) images of (n, D) draws from a posterior, all seen through one galaxy's PSF."""
    column = {name: torch.as_tensor(values[:, place], dtype=torch.float32) for place, name in enumerate(names)}
    shapes = [shape_from_ellipticity(column[f"{part}_e1"], column[f"{part}_e2"]) for part in _COMPONENTS]

    def pair(name: str) -> torch.Tensor:
        return torch.stack([column[f"{part}_{name}"] for part in _COMPONENTS], -1)

    galaxies = Galaxies(
        flux=column["flux_njy"],
        bulge_to_total=column["bulge_to_total"],
        x=column["x_px"],
        y=column["y_px"],
        sersic_index=pair("sersic_index"),
        radius=pair("half_light_radius_arcsec"),
        axis_ratio=torch.stack([ratio for ratio, _ in shapes], -1),
        angle=torch.stack([angle for _, angle in shapes], -1),
    ).scaled(1 / one.survey.pixel_scale_arcsec, 1 / one.survey.unit_njy)
    psf = one.psf.expand(len(values), -1, -1)
    return render(galaxies, psf, one.psf_oversampling, int(one.images.shape[-1])).numpy()


def _measure_rings(one: Cutouts, models: np.ndarray, centre: tuple[float, float], rings: int) -> dict[str, np.ndarray]:
    """Mean surface brightness of the image and of models (n, H, W) in rings about a centre (x, y)."""
    image, variance = (getattr(one, name)[0].numpy().astype(float) for name in ("images", "variance"))
    usable = ~(one.mask | one.neighbour_mask)[0].numpy() & np.isfinite(image) & np.isfinite(variance)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.hypot(x - centre[0], y - centre[1])
    outer = image.shape[0] / 2
    # Rings widen outwards, where there is little light; the innermost are a pixel wide.
    edges = np.maximum(outer * np.linspace(0, 1, rings + 1) ** 1.6, np.arange(rings + 1))
    place = np.digitize(distance, edges) - 1
    place[~usable] = rings
    place = np.minimum(place, rings).ravel()
    number = np.bincount(place, minlength=rings + 1)[:rings].astype(float)
    number[number == 0] = np.nan

    def mean(pixels: np.ndarray) -> np.ndarray:
        return np.bincount(place, np.where(usable, pixels, 0.0).ravel(), minlength=rings + 1)[:rings] / number

    area = one.survey.pixel_scale_arcsec**2
    profiles = np.stack([mean(model) for model in models]) / area
    return {
        "radius_arcsec": mean(distance) * one.survey.pixel_scale_arcsec,
        "data": mean(image) / area,
        "data_sigma": np.sqrt(mean(variance) / number) / area,
        "model": np.quantile(profiles, PROFILE_QUANTILES, axis=0),
    }
