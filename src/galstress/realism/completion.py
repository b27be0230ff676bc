"""What lies beyond a template's mask, and what the whole then measures.

A mask ends where the light is still bright, so a masked galaxy is a galaxy with a cliff. A disk and a bulge fitted to
what is inside are taken for what is outside, scaled to meet the pixels at the edge.
"""

from __future__ import annotations

import dataclasses
import math

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable, vstack
from scipy import ndimage
from torch import Tensor

from galstress.cutouts import Cutouts, empty_catalogue
from galstress.galaxy import Galaxies, half_light_radius, table_from_galaxies, whole_ellipticity
from galstress.heads import INTERNAL_NAMES, Reference, from_internal
from galstress.heads.flow import BEYOND, EDGE
from galstress.likelihood import Likelihood
from galstress.optics import choose_oversampling, choose_psf_size, make_psf, measure_fwhm
from galstress.realism.records import Templates
from galstress.refinement import WeakPrior
from galstress.refinement.coordinates import from_natural
from galstress.refinement.fit import measure_moments
from galstress.refinement.fitting import climb
from galstress.refinement.priors import Normal
from galstress.rendering import render
from galstress.survey import Survey

__all__ = ["extend_residual", "find_footprint", "fit_models", "measure_truth"]

_AT = {name: place for place, name in enumerate(INTERNAL_NAMES)}

FIT_PX = 72
"""Largest side that models are fitted at; larger templates are binned."""
_STRUCTURE = 0.6
"""Arms and clumps: 15 % of the light, coherent over some 4 x 4 pixels, which therefore count as one. Without it the
core alone would count, and faint arms at the mask's edge would make galaxies far larger than their masks."""
_RINGS = 20
"""Steps a pixel of a growth curve."""
_DENSE = 0.85
"""Least share of kept pixels around a pixel that is believed."""
_EDGE_PX = 4
"""Width of the rim of the mask that the model outside is made to meet."""


def find_footprint(image: np.ndarray) -> np.ndarray:
    """Where a masked image holds real pixels and nearly no holes.

    At its rim a mask that follows an isophote keeps only the pixels that noise made bright: what lies there is biased,
    and is left to the model. Pieces smaller than a twentieth of the whole go too.

    Arguments:
        image: (H, W), exactly 0 where the sky was.

    Returns:
        (H, W) bool.
    """
    kept = image != 0
    dense = (ndimage.gaussian_filter(kept.astype(float), 1.5, mode="constant") > _DENSE) & kept
    pieces, count = ndimage.label(dense)
    if count == 0:
        return kept
    sizes = ndimage.sum_labels(dense, pieces, np.arange(1, count + 1))
    return np.isin(pieces, 1 + np.flatnonzero(sizes >= 0.05 * sizes.sum()))


def fit_models(images: list[np.ndarray], insides: list[np.ndarray], rms: list[float], survey: Survey) -> QTable:
    """Disk and bulge of masked galaxies, from the pixels inside the mask alone.

    Arguments:
        images: (H, W) each, in the survey's pixels and units; galaxies near the middle.
        insides: (H, W) bool each, True: real pixels.
        rms: Noise of a pixel of each.
        survey: Gives pixel scale, PSF and units.

    Returns:
        Truth columns, a row an image in order; ``x_px`` and ``y_px`` in its pixels. NaN where the fit failed.

    The sky is known to be zero. A mask hides how far a galaxy reaches, so what it hides is held by a prior: total flux
    1.1 times that inside within some 12 %, half-light radius that of the pixels inside within some 20 %. Of mixed
    galaxies, pure disks and pure bulges the kind with the largest evidence (Laplace) is taken.
    """
    factors = [math.ceil(max(image.shape) / FIT_PX) for image in images]
    parts, order = [], []
    for factor in sorted(set(factors)):
        rows = [row for row, own in enumerate(factors) if own == factor]
        stamps = _binned([images[r] for r in rows], [insides[r] for r in rows], [rms[r] for r in rows], survey, factor)
        table = table_from_galaxies(_climb(stamps), stamps.survey.pixel_scale_arcsec, survey.unit_njy)
        for place, row in enumerate(rows):
            for name, first in zip(("x_px", "y_px"), _corner(images[row].shape, factor), strict=True):
                table[name][place] = ((table[name][place].value + 0.5) * factor - 0.5 + first) * u.pix
        parts.append(table)
        order += rows
    return vstack(parts)[np.argsort(order)]


def _climb(stamps: Cutouts) -> Galaxies:
    """The best disk and bulge of each stamp."""
    weighted = torch.where(stamps.mask, 0.0, stamps.images).double()
    inside = weighted.sum((1, 2))
    middle = (FIT_PX - 1) / 2
    y, x = (axis - middle for axis in torch.meshgrid(*2 * (torch.arange(FIT_PX, dtype=torch.float64),), indexing="ij"))
    cx, cy = ((weighted * axis).sum((1, 2)) / inside for axis in (x, y))
    distance = torch.hypot(x - cx[:, None, None], y - cy[:, None, None]).flatten(1)
    ordered, place = distance.sort(1)
    grown = weighted.flatten(1).gather(1, place).cumsum(1) / inside[:, None]
    half = ordered.gather(1, (grown >= 0.5).int().argmax(1, keepdim=True))[:, 0].clamp_min(0.7)
    reference = Reference(inside / stamps.sky_rms.double(), half, (middle, middle), stamps.sky_rms.double())
    starts = _starts(stamps, torch.stack([cx, cy], 1))
    likelihood = Likelihood.of(stamps, sky_sigma=1e-3)
    best, best_value = starts[0].clone(), torch.full_like(half, -math.inf)
    for kind, normal in enumerate(WeakPrior().stand_ins(stamps.survey)):
        held = _hold(normal, torch.log(inside), torch.log(half), torch.stack([cx, cy], 1))
        for start in starts if kind == 0 else starts[:1]:
            here = start.clone()
            if kind:
                here[:, _AT["logit_bulge_to_total"]] = (EDGE + BEYOND) * (-1 if kind == 1 else 1)
            top = climb(likelihood, here, reference, held)
            value = torch.nan_to_num(top.ln_evidence + normal.ln_share, nan=-math.inf)
            better = value > best_value
            best, best_value = torch.where(better[:, None], top.natural, best), torch.maximum(value, best_value)
    return from_internal(from_natural(best)[0], reference)[0]


def _starts(stamps: Cutouts, centre: Tensor) -> list[Tensor]:
    """(N, 12) natural coordinates: a small bulge, a bright compact one, a large one."""
    _, shape = measure_moments(stamps)
    starts = []
    for logit, ratio in ((-1.5, 0.4), (-0.8, 0.15), (1.0, 0.4)):
        start = torch.zeros(len(stamps), len(INTERNAL_NAMES), dtype=torch.float64)
        start[:, _AT["logit_bulge_to_total"]], start[:, _AT["ln_radius_ratio"]] = logit, math.log(ratio)
        start[:, _AT["ln_bulge_index"]] = math.log(3.0)
        start[:, :2], start[:, _AT["e1"]], start[:, _AT["e2"]] = centre, shape[:, 2], shape[:, 3]
        starts.append(start)
    return starts


def _hold(normal: Normal, ln_flux: Tensor, ln_radius: Tensor, centre: Tensor) -> Normal:
    """A prior that keeps the unseen outskirts modest, for each of N galaxies."""
    middle = normal.centre.expand(len(ln_flux), -1).clone()
    precision = torch.diagonal(normal.precision).clone()
    middle[:, _AT["ln_flux"]], precision[_AT["ln_flux"]] = ln_flux + math.log(1.1), 0.12**-2
    middle[:, _AT["ln_radius"]], precision[_AT["ln_radius"]] = ln_radius, 0.2**-2
    middle[:, :2], precision[:2] = centre, 6.0**-2
    return Normal(middle, torch.diag(precision), normal.ln_share)


def _corner(shape: tuple[int, ...], factor: int) -> tuple[int, int]:
    """(x, y) of the stamp's first pixel in the image's pixels: the image lies in the middle."""
    height, width = shape
    return -((FIT_PX * factor - width) // 2), -((FIT_PX * factor - height) // 2)


def _binned(
    images: list[np.ndarray], insides: list[np.ndarray], rms: list[float], survey: Survey, factor: int
) -> Cutouts:
    """Stamps of ``FIT_PX`` with pixels ``factor`` times as wide."""
    # noise that a kernel spread is found again in wide pixels
    grown = factor * (1 / survey.kernel_factor if factor > 1 else 1.0)
    coarse = dataclasses.replace(
        survey,
        pixel_scale_arcsec=survey.pixel_scale_arcsec * factor,
        noise_correlation_fwhm_px=0.0 if factor > 1 else survey.noise_correlation_fwhm_px,
        stamp_px=FIT_PX,
    )
    pixels = np.zeros((len(images), FIT_PX, FIT_PX), np.float32)
    mask, variance = np.ones(pixels.shape, bool), np.ones_like(pixels)
    for row, (image, inside, noise) in enumerate(zip(images, insides, rms, strict=True)):
        left, top = _corner(image.shape, factor)
        margins = [(-top, FIT_PX * factor + top - image.shape[0]), (-left, FIT_PX * factor + left - image.shape[1])]
        blocks = (FIT_PX, factor, FIT_PX, factor)
        pixels[row] = np.pad(image, margins).reshape(blocks).sum((1, 3))
        mask[row] = np.pad(inside, margins).reshape(blocks).mean((1, 3)) < 1
        smooth = ndimage.gaussian_filter(np.maximum(pixels[row], 0), 1.0)
        variance[row] = (noise * grown) ** 2 + (_STRUCTURE * smooth) ** 2
    oversampling = choose_oversampling(coarse.psf_fwhm_px)
    size = choose_psf_size(coarse.psf_fwhm_px, oversampling, FIT_PX)
    psf = make_psf(coarse.psf, coarse.pixel_scale_arcsec, oversampling, size).float()
    count = len(images)
    return Cutouts(
        images=torch.from_numpy(pixels),
        variance=torch.from_numpy(variance),
        mask=torch.from_numpy(mask),
        neighbour_mask=torch.zeros(pixels.shape, dtype=torch.bool),
        psf=psf[None].expand(count, -1, -1),
        psf_oversampling=oversampling,
        psf_fwhm_px=measure_fwhm(psf[None], oversampling).expand(count),
        sky_rms=torch.tensor([noise * grown for noise in rms], dtype=torch.float32),
        survey=coarse,
        catalogue=empty_catalogue([str(row) for row in range(count)]),
    )


def extend_residual(image: np.ndarray, inside: np.ndarray, model: np.ndarray) -> np.ndarray:
    """What a model lacks: the real pixels minus it inside, and a scaling of it outside that dies away.

    Arguments:
        image: (H, W) real pixels.
        inside: (H, W) bool, True where they are real.
        model: (H, W) smooth model through the PSF.

    Returns:
        (H, W) residual; added to the model it has no step at the mask's edge.
    """
    residual = np.where(inside, image - model, 0.0)
    rim = inside & (ndimage.distance_transform_edt(inside) <= _EDGE_PX)
    distance = ndimage.distance_transform_edt(~inside)
    reach = max(3.0, 0.12 * math.sqrt(inside.sum()))  # some tenth of the galaxy's width
    width = max(2.0, 0.5 * reach)
    weight = ndimage.gaussian_filter(np.where(rim, model, 0.0), width)
    excess = ndimage.gaussian_filter(np.where(rim, residual, 0.0), width)
    share = np.where(weight > 1e-12 * model.max(), excess / np.maximum(weight, 1e-30), 0.0)
    return np.where(inside, residual, np.clip(share, -0.9, 3.0) * model * np.exp(-((distance / reach) ** 2) / 2))


def measure_truth(templates: Templates, row: int) -> dict[str, float]:
    """Flux and half-light radius of a completed template, summed.

    Returns:
        ``flux`` (image units): residuals plus model. ``radius`` (pixels): the package's half-light radius (components
        circularised, before the PSF) of the model, times the ratio of what growth curves in ellipses give on the image
        and on the model through the same PSF. ``circular_radius`` (pixels): the circle with half of the light, PSF
        included. ``e1``, ``e2``, ``x``, ``y``: of the model, or from moments where there is none.
    """
    image, (left, top) = templates.complete(row, margin=1.0)
    pixels, one = image.double().numpy(), templates.model.select(slice(row, row + 1)).to(dtype=torch.float64)
    residual = templates.residuals[row].double().numpy()
    has_model = float(one.flux) > 0
    total = float(residual.sum()) + float(one.flux)
    if has_model:
        e1, e2 = (float(e) for e in whole_ellipticity(one))
        x, y = float(one.x) + left, float(one.y) + top
    else:
        x, y, e1, e2 = _moments(pixels)
    measured = _half_light(pixels, total, (x, y), (e1, e2))
    radius = measured
    if has_model:
        moved = dataclasses.replace(one, x=one.x + left, y=one.y + top).to(dtype=torch.float32)
        drawn = render(moved, templates.psf[row][None], templates.psf_oversampling[row], len(pixels))[0]
        alike = _half_light(drawn.double().numpy(), float(one.flux), (x, y), (e1, e2))
        radius = float(half_light_radius(one)) * measured / alike
    return {
        "flux": total,
        "radius": radius,
        "circular_radius": _half_light(pixels, total, (x, y), (0.0, 0.0)),
        "e1": e1,
        "e2": e2,
        "x": x - left,
        "y": y - top,
    }


def _moments(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Centre and ellipticity of an image from the second moments of what exceeds a tenth of its smoothed peak."""
    smooth = ndimage.gaussian_filter(pixels, 2.0)
    bright = np.maximum(smooth - 0.1 * smooth.max(), 0)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    total = max(bright.sum(), 1e-30)
    cx, cy = (bright * x).sum() / total, (bright * y).sum() / total
    xx, yy, xy = ((bright * a * b).sum() / total for a, b in ((x - cx, x - cx), (y - cy, y - cy), (x - cx, y - cy)))
    # (1 - q) / (1 + q) from the axes of the ellipse of inertia: positive moments keep it below 1
    scale = max(xx + yy + 2 * math.sqrt(max(xx * yy - xy**2, 0.0)), 1e-30)
    return float(cx), float(cy), float((xx - yy) / scale), float(2 * xy / scale)


def _half_light(pixels: np.ndarray, total: float, centre: tuple[float, float], shape: tuple[float, float]) -> float:
    """Circularised radius sqrt(ab) of the ellipse with half of ``total``; small images' pixels are divided."""
    sub = int(np.clip(1000 // len(pixels), 1, 4))
    fine = np.kron(pixels, np.full((sub, sub), 1 / sub**2))
    y, x = np.mgrid[: fine.shape[0], : fine.shape[1]].astype(np.float32)
    x, y = (x + 0.5) / sub - 0.5 - centre[0], (y + 0.5) / sub - 0.5 - centre[1]
    norm = math.sqrt(1 - shape[0] ** 2 - shape[1] ** 2)
    # the inverse of the shear that takes a circle to the ellipse, area kept
    along = ((1 - shape[0]) * x - shape[1] * y) / norm
    across = ((1 + shape[0]) * y - shape[1] * x) / norm
    ring = (np.hypot(along, across) * _RINGS).astype(np.int64)
    grown = np.cumsum(np.bincount(ring.ravel(), weights=fine.ravel())) - 0.5 * total
    outer = int(np.argmax(grown >= 0))
    before = grown[outer - 1] if outer else -0.5 * total
    if not grown[outer] >= 0 > before:  # no light, or less than half of it inside the image
        return math.nan
    return float((outer - before / (grown[outer] - before)) / _RINGS)
