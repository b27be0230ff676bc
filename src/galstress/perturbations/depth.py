"""Depth: the same sky seen with a shorter exposure. Images never get deeper."""

from __future__ import annotations

import dataclasses
import math

import torch

from galstress.cutouts import Cutouts
from galstress.optics import add_correlated_noise
from galstress.perturbations.noise import draw_seed, white_noise

__all__ = ["shorten_exposure"]


def shorten_exposure(cutouts: Cutouts, share: float, rng: torch.Generator) -> Cutouts:
    """Images as a shorter exposure would have made them: the same flux, more noise.

    The exposure is made of fewer frames of the same length, so photon noise and read noise alike fall as the root
    of the time, and in image units (calibrated flux) var_new = var / share: sky / share + signal / (gain share).
    Gaussian noise of the difference, var (1 / share - 1), is added, correlated as the survey's noise is. The noise
    that is there is taken to be what ``variance`` says; where it is infinite nothing is added.

    The survey follows: ``electrons_per_unit`` times the share, ``read_noise_e`` (of the finished image) times its
    root; ``sky_rms`` divided by its root; ``truth["snr"]`` times its root.

    Arguments:
        cutouts: N objects.
        share: Share of the exposure that is left, above 0 and at most 1 (images never get deeper); 1 changes nothing.
        rng: Randomness; an object's noise depends on the generator and its ``object_id``, not on the batch.
    """
    survey, root = cutouts.survey, math.sqrt(share)
    finite = torch.isfinite(cutouts.variance)
    added = torch.where(finite, cutouts.variance, 0) * (1 / share - 1)
    white = white_noise(draw_seed(rng), cutouts.object_id, tuple(cutouts.images.shape[1:])).to(cutouts.images)
    noise = add_correlated_noise(white, survey.noise_correlation_fwhm_px)
    truth = cutouts.truth
    if truth is not None and "snr" in truth.colnames:
        truth = truth.copy()
        truth["snr"] = truth["snr"] * root
    return dataclasses.replace(
        cutouts,
        images=cutouts.images + added.sqrt() * noise,
        variance=cutouts.variance / share,
        sky_rms=cutouts.sky_rms / root,
        survey=dataclasses.replace(
            survey,
            electrons_per_unit=survey.electrons_per_unit * share,
            read_noise_e=survey.read_noise_e * root,
        ),
        truth=truth,
    )
