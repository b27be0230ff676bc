"""Simulated twins of galaxies, with as much of reality around them as is asked for."""

from __future__ import annotations

import dataclasses

import torch
from astropy.table import QTable

from galstress.cutouts import Cutouts
from galstress.galaxy import galaxies_from_table
from galstress.optics import add_correlated_noise
from galstress.rendering import render
from galstress.simulation import survey_psf
from galstress.structure import draw_structure, redistribute
from galstress.survey import Survey


def make_twins(
    models: QTable,
    survey: Survey,
    patches: Cutouts,
    *,
    seed: int,
    structured: bool = False,
    real_psfs: bool = False,
    real_sky: bool = False,
) -> Cutouts:
    """Galaxies of a truth table as the survey sees them.

    Arguments:
        models: N rows with the truth columns.
        survey: Its ``stamp_px`` is the side of the images.
        patches: N patches of real sky with their PSFs.
        seed: Of structure and noise: the same for any choice of the others.
        structured: Give disks arms, bars, rings, clumps or dust.
        real_psfs: Look through the patches' PSFs, else the survey's own.
        real_sky: Put galaxies into the patches, else into drawn noise.
    """
    generator, side, count = torch.Generator().manual_seed(seed), survey.stamp_px, len(models)
    galaxies = galaxies_from_table(models, survey.pixel_scale_arcsec, survey.unit_njy).to(dtype=torch.float32)
    kernel, oversampling, fwhm = survey_psf(survey, side)
    psf, widths = kernel[None].expand(count, -1, -1), torch.full((count,), fwhm)
    if real_psfs:
        psf, oversampling, widths = patches.psf, patches.psf_oversampling, patches.psf_fwhm_px
    model = render(galaxies, psf, oversampling, side)
    structure = draw_structure(galaxies, generator, 1.0)
    white = torch.randn(count, side, side, generator=generator)
    if structured:
        # a PSF a galaxy: one at a time
        for row in range(count):
            one = slice(row, row + 1)
            model[one] += redistribute(galaxies.select(one), structure.select(one), psf[one], oversampling, side)
    photons = model.clamp_min(0) * survey.photon_variance
    noise = add_correlated_noise(white, survey.noise_correlation_fwhm_px)
    made = dataclasses.replace(patches, psf=psf, psf_oversampling=oversampling, psf_fwhm_px=widths)
    if real_sky:
        around = torch.nn.functional.avg_pool2d(patches.images[:, None], 3, 1, 1)[:, 0]
        return dataclasses.replace(
            made,
            images=model + photons.sqrt() * noise + patches.images,
            variance=patches.variance + photons,
            neighbour_mask=patches.neighbour_mask & (around > model),
        )
    variance = survey.sky_rms**2 + photons
    nothing = torch.zeros_like(patches.mask)
    return dataclasses.replace(
        made,
        images=model + variance.sqrt() * noise,
        variance=variance,
        mask=nothing,
        neighbour_mask=nothing,
        sky_rms=torch.full((count,), survey.sky_rms),
    )
