"""The PSFs of a batch: what came with each image, else the survey's own, on one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from galstress import optics
from galstress.errors import InputError
from galstress.loading.frames import Frame
from galstress.survey import Survey

__all__ = ["stack_psfs"]


def stack_psfs(
    frames: Sequence[Frame], survey: Survey, stamp_px: int, given: np.ndarray | None = None
) -> tuple[Tensor, int, Tensor, list[str | None]]:
    """One effective PSF a row, all of one size and sampling.

    Arguments:
        frames: One an object.
        survey: Gives its own PSF where none came.
        stamp_px: Side of the stamps: limits the size of the survey's PSF.
        given: (P, P) or (N, P, P) in place of the frames' own, one sample a pixel.

    Returns:
        (N, P, P) float32, sum 1, P odd; the samples per pixel; (N,) FWHM in image pixels; for each row None, or
        why the survey's PSF was assumed.

    Raises:
        InputError: ``given`` is no PSF, or PSFs of different sampling came together.
    """
    own = [frame.psf for frame in frames] if given is None else _given(given, len(frames))
    sampling = (
        {f.psf_oversampling for f, psf in zip(frames, own, strict=True) if psf is not None} if given is None else {1}
    )
    if len(sampling) > 1:
        raise InputError(f"PSFs with {sorted(sampling)} samples a pixel", "one sampling", "load the files apart")
    ready: list[Tensor | None] = []
    reasons: list[str | None] = []
    for psf in own:
        kernel, reason = _fit_for_use(psf)
        ready.append(kernel)
        reasons.append(reason)
    best = optics.choose_oversampling(survey.psf_fwhm_px)
    oversampling = sampling.pop() if any(kernel is not None for kernel in ready) else best
    size = max((kernel.shape[-1] for kernel in ready if kernel is not None), default=0)
    if any(kernel is None for kernel in ready):
        size = max(size, optics.choose_psf_size(survey.psf_fwhm_px, oversampling, stamp_px))
        assumed = _survey_psf(survey, oversampling, size)
        ready = [assumed if kernel is None else kernel for kernel in ready]
    stack = torch.stack([_pad(kernel, size) for kernel in ready if kernel is not None])
    fwhm = optics.measure_fwhm(stack, oversampling)
    return stack.float(), oversampling, fwhm.float(), reasons


def _given(psf: np.ndarray, count: int) -> list[np.ndarray | None]:
    """The caller's PSF, one a row."""
    psf = np.asarray(psf)
    if psf.dtype.kind not in "fiu" or psf.ndim not in (2, 3) or (psf.ndim == 3 and len(psf) not in (1, count)):
        came, allowed = f"psf of shape {psf.shape} and type {psf.dtype}", f"(P, P) or ({count}, P, P) numbers"
        raise InputError(came, allowed, "give one PSF, or one for each object")
    rows = [psf] * count if psf.ndim == 2 else list(psf) if len(psf) == count else [psf[0]] * count
    for row in rows:
        reason = _fit_for_use(row)[1]
        if reason is not None:
            raise InputError(f"a psf that cannot be used ({reason})", "finite samples with a positive sum", "mend it")
    return rows


def _fit_for_use(psf: np.ndarray | None) -> tuple[Tensor | None, str | None]:
    """A normalised PSF, or None and the reason."""
    if psf is None:
        return None, "no PSF came: the survey's"
    if psf.ndim != 2 or min(psf.shape) < 3 or psf.dtype.kind not in "fiu":
        return None, f"a PSF of shape {psf.shape}: the survey's"
    try:
        kernel = optics.normalise_psf(torch.from_numpy(psf.astype(np.float64)))
    except ValueError as error:
        return None, f"{error}: the survey's"
    if kernel.shape[-1] < 3:
        return None, "a PSF that peaks at its edge: the survey's"
    return kernel, None


def _survey_psf(survey: Survey, oversampling: int, size: int) -> Tensor:
    """The survey's effective PSF; made finely enough, then thinned out."""
    step = math.ceil(optics.choose_oversampling(survey.psf_fwhm_px) / oversampling)
    fine = optics.make_psf(survey.psf, survey.pixel_scale_arcsec, oversampling * step, (size - 1) * step + 1)
    kernel = fine[::step, ::step]
    return kernel / kernel.sum()


def _pad(kernel: Tensor, size: int) -> Tensor:
    """Zeros around a PSF until it has this odd side."""
    border = (size - kernel.shape[-1]) // 2
    return torch.nn.functional.pad(kernel, (border,) * 4)
