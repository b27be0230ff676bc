"""Rotation of the sky itself: a simulated galaxy drawn again at another angle, under the same PSF."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import galaxies_from_table
from galstress.perturbations.geometry import array_centre, rotation_matrix, turn_table, turn_wcs
from galstress.perturbations.rotation import rotate_nearest
from galstress.rendering import draw_truth, render

__all__ = ["redraw_turned"]


def redraw_turned(cutouts: Cutouts, angle_deg: float, rng: torch.Generator | None = None) -> Cutouts:  # noqa: ARG001
    """Draw simulated galaxies and their neighbours again, turned about the array's centre.

    The sky turns and the telescope does not: the PSF stays as it is, and so does the noise, pixel for pixel in units
    of its own standard deviation: what the image holds beyond its model is kept, times the root of new over old
    variance (the photon noise follows the light). An image without noise stays without, but for rounding (1e-6 of
    the peak). Pixels masked for a neighbour's sake turn with the sky; others belong to the detector and stay.

    Arguments:
        cutouts: N simulated objects, square stamps.
        angle_deg: From +x towards +y.
        rng: Not used: the noise that is there is used again.

    Raises:
        InputError: There is no truth, or the stamps are not square.
    """
    height, width = cutouts.images.shape[1:]
    if cutouts.truth is None:
        raise InputError("redrawn rotation of images without truth", "simulated cutouts", "use quarter turns")
    if height != width:
        raise InputError(f"{height} x {width} px stamps", "square stamps", "simulate them with one stamp_px")
    matrix, centre = rotation_matrix(angle_deg), array_centre((height, width))
    truth = turn_table(cutouts.truth, matrix, centre)
    neighbours = None if cutouts.neighbours is None else turn_table(cutouts.neighbours, matrix, centre)
    before = _draw_scene(cutouts, cutouts.truth, cutouts.neighbours)
    after = _draw_scene(cutouts, truth, neighbours)
    # photon noise of the light that moved; a tenth of the sky's variance is always left
    floor = 0.1 * cutouts.sky_rms[:, None, None] ** 2
    variance = cutouts.variance + (after.clamp_min(0) - before.clamp_min(0)) * cutouts.survey.photon_variance
    variance = torch.maximum(variance, torch.minimum(floor, cutouts.variance))
    residual = cutouts.images - before
    finite = torch.isfinite(cutouts.variance)
    noise = residual * torch.where(finite, (variance / cutouts.variance).sqrt(), 1)
    beside = cutouts.mask & cutouts.neighbour_mask
    return dataclasses.replace(
        cutouts,
        images=after + noise,
        variance=variance,
        mask=(cutouts.mask & ~beside) | rotate_nearest(beside, angle_deg),
        neighbour_mask=rotate_nearest(cutouts.neighbour_mask, angle_deg),
        truth=truth,
        neighbours=neighbours,
        wcs=None if cutouts.wcs is None else tuple(turn_wcs(wcs, matrix, centre) for wcs in cutouts.wcs),
    )


def _draw_scene(cutouts: Cutouts, truth: QTable, neighbours: QTable | None) -> Tensor:
    """(N, H, W) noise-free light of galaxies and neighbours."""
    survey, oversampling, stamp_px = cutouts.survey, cutouts.psf_oversampling, cutouts.images.shape[-1]
    psf = cutouts.psf
    if bool((psf == psf[:1]).all()):
        psf = psf[:1].expand(len(psf), -1, -1)  # known to be shared, it is transformed once
    scene = draw_truth(truth, psf, oversampling, survey, stamp_px)
    if neighbours is None or len(neighbours) == 0:
        return scene
    rows = np.asarray(neighbours["row"])
    order = np.argsort(rows, kind="stable")
    beside = galaxies_from_table(neighbours[order], survey.pixel_scale_arcsec, survey.unit_njy)
    owner = torch.as_tensor(rows[order], device=psf.device)
    beside = beside.to(psf.device, torch.float32)
    return scene + render(beside, psf, oversampling, stamp_px, owner=owner, count=len(psf))
