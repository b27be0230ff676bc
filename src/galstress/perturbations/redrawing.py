"""The sky itself changed: a simulated galaxy drawn again, at another angle or farther away, under the same PSF."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import galaxies_from_table
from galstress.perturbations.geometry import turn_table, turn_wcs
from galstress.perturbations.redshift import ASSUMED_REDSHIFT, move_catalogue, redshift_cutouts, redshift_table
from galstress.perturbations.transfer import measure_snr, shrink_nearest
from galstress.rendering import draw_truth, render
from galstress.turning import array_centre, rotate_nearest, rotation_matrix

__all__ = ["redraw_redshifted", "redraw_turned"]


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
    beside = cutouts.mask & cutouts.neighbour_mask
    return dataclasses.replace(
        _redraw(cutouts, truth, neighbours),
        mask=(cutouts.mask & ~beside) | rotate_nearest(beside, angle_deg),
        neighbour_mask=rotate_nearest(cutouts.neighbour_mask, angle_deg),
        wcs=None if cutouts.wcs is None else tuple(turn_wcs(wcs, matrix, centre) for wcs in cutouts.wcs),
    )


def redraw_redshifted(
    cutouts: Cutouts,
    added: float,
    rng: torch.Generator | None = None,  # noqa: ARG001
    *,
    k_correction_mag: float = 0.0,
    evolution_mag_per_z: float = 0.0,
    assumed_redshift: float = ASSUMED_REDSHIFT,
) -> Cutouts:
    """Draw simulated galaxies and their neighbours again, farther away: smaller and fainter.

    The whole field moves about the array's centre, so that neighbours go along, and the telescope stays as it is: PSF,
    sky and read noise. The noise is kept pixel for pixel in units of its own standard deviation, as in
    :func:`redraw_turned`; its variance is that of the sky, the read noise and the light that is left. Pixels masked
    for a neighbour's sake shrink with the field.

    Arguments:
        cutouts: N simulated objects, square stamps.
        added: Redshift added, 0 or more.
        rng: Not used: the noise that is there is used again.
        k_correction_mag: See :class:`galstress.perturbations.redshift.Redshift`.
        evolution_mag_per_z: See there.
        assumed_redshift: Where an object starts that has no redshift above 0 in the catalogue.

    Raises:
        InputError: There is no truth, the stamps are not square, a galaxy has structure that its truth does not know,
            or would come nearer.
    """
    height, width = cutouts.images.shape[1:]
    if cutouts.truth is None:
        raise InputError("redrawn redshift of images without truth", "simulated cutouts", "use pixel-redshift")
    if height != width:
        raise InputError(f"{height} x {width} px stamps", "square stamps", "simulate them with one stamp_px")
    if "structured" in cutouts.truth.colnames and np.asarray(cutouts.truth["structured"]).any():
        raise InputError("redrawn redshift of galaxies with arms or bars", "smooth galaxies", "use pixel-redshift")
    move = redshift_cutouts(
        cutouts, added, k_correction_mag=k_correction_mag,
        evolution_mag_per_z=evolution_mag_per_z, assumed_redshift=assumed_redshift,
    )  # fmt: skip
    neighbours = cutouts.neighbours
    if neighbours is not None:
        neighbours = redshift_table(neighbours, move, cutouts, np.asarray(neighbours["row"], np.int64))
    changed = _redraw(cutouts, redshift_table(cutouts.truth, move, cutouts), neighbours)
    beside = cutouts.mask & cutouts.neighbour_mask
    small, small_beside = (shrink_nearest(pixels, move.size_ratio) for pixels in (cutouts.neighbour_mask, beside))
    changed = dataclasses.replace(
        changed,
        mask=(cutouts.mask & ~beside) | small_beside,
        neighbour_mask=small,
        catalogue=move_catalogue(cutouts, move) if added else cutouts.catalogue,
    )
    if added and changed.truth is not None and "snr" in changed.truth.colnames:
        changed.truth["snr"] = measure_snr(changed)
    return changed


def _redraw(cutouts: Cutouts, truth: QTable, neighbours: QTable | None) -> Cutouts:
    """The same sky and noise, in units of its own deviation, with other galaxies."""
    assert cutouts.truth is not None
    before = _draw_scene(cutouts, cutouts.truth, cutouts.neighbours)
    after = _draw_scene(cutouts, truth, neighbours)
    # photon noise of the light that moved; a tenth of the sky's variance is always left
    floor = 0.1 * cutouts.sky_rms[:, None, None] ** 2
    variance = cutouts.variance + (after.clamp_min(0) - before.clamp_min(0)) * cutouts.survey.photon_variance
    variance = torch.maximum(variance, torch.minimum(floor, cutouts.variance))
    residual = cutouts.images - before
    finite = torch.isfinite(cutouts.variance)
    noise = residual * torch.where(finite, (variance / cutouts.variance).sqrt(), 1)
    return dataclasses.replace(cutouts, images=after + noise, variance=variance, truth=truth, neighbours=neighbours)


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
