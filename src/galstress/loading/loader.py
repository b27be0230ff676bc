"""``load``: real images from files, folders or memory, as Cutouts."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.loading.arrays import frames_from_memory
from galstress.loading.assembly import assemble, check_stamp
from galstress.loading.fitsfiles import read_fits
from galstress.loading.folders import list_files, read_files
from galstress.loading.frames import READ_ERRORS, Frame
from galstress.survey import Survey

__all__ = ["load"]


def load(
    source: object,
    survey: Survey | str | os.PathLike[str],
    stamp_px: int | None = None,
    centres: object = None,
    psf: object = None,
    zero_point_mag: float | None = None,
    hdu: int | str | None = None,
    subtract_sky: bool | None = None,
) -> Cutouts:
    """Read galaxy images as Cutouts: a row per object, in the order of the input, readable or not.

    Arguments:
        source: A file, a folder (a row per file, sorted by name), or pixels in memory.
            Files: FITS (one image, many image HDUs, SCI/IMAGE with VARIANCE, ERR, IVAR or WHT, MASK or DQ, PSF and
            SEG, a cube of N objects, .gz, .fz, .bz2), GalSim's real-galaxy catalogue, .npz, .npy, or what
            ``Cutouts.write`` wrote. Memory: (H, W) or (N, H, W) NumPy or torch numbers, Quantity, NDData, CCDData,
            or a list of these.
        survey: The survey that took them, its name, or a path to its TOML file.
        stamp_px: Side of the stamps, 16 to 4096 pixels; None: the survey's.
        centres: (K, 2) pixel positions (x, y), counted from 0, or SkyCoord: cuts K objects out of one image.
        psf: (P, P) effective PSF for all objects or (N, P, P), one sample a pixel, or a FITS file with one.
        zero_point_mag: AB magnitude of one unit of the files; None: what they state, else the survey's.
        hdu: Take only this HDU of each FITS file, by number or name.
        subtract_sky: True, False, or None: only where it plainly has not been subtracted.

    Returns:
        Cutouts in the survey's units. ``catalogue`` also tells ``note`` (in words, what the flags say in bits),
        ``sky_level`` (what was subtracted) and ``noise_correlation``.

    Raises:
        InputError: Nothing can be read at all. One bad image among good ones is a flagged row instead.
        UnknownNameError: No such survey.

    A stamp is cut about the array's centre ((W - 1) / 2, (H - 1) / 2) or the given one. Sides both even or both odd
    keep that centre exactly; otherwise it lands half a pixel above the stamp's, in x and y.

    Example:
        >>> sky = np.random.default_rng(1).normal(0.0, 0.05, (2, 80, 80))
        >>> load(sky, "hsc-wide-i", stamp_px=64).images.shape
        torch.Size([2, 64, 64])
    """
    if not isinstance(survey, Survey | str | os.PathLike):
        raise InputError(f"survey={survey!r}", "a Survey, its name or a path to its TOML file", "give a survey")
    if not isinstance(survey, Survey):
        survey = Survey.load(survey if isinstance(survey, str) else Path(survey))
    side = check_stamp(stamp_px, survey)
    if zero_point_mag is not None and not np.isfinite(zero_point_mag):
        raise InputError(f"zero_point_mag={zero_point_mag}", "a finite magnitude", "give it, or None")
    if isinstance(source, str | os.PathLike):
        files = list_files(source)
        if all(_is_ours(path) for path in files):
            return _read_ours(files, survey, stamp_px, centres)
        frames = read_files(files, survey, hdu)
    else:
        frames = frames_from_memory(source)
    if zero_point_mag is not None:
        frames = [dataclasses.replace(frame, zero_point_mag=float(zero_point_mag)) for frame in frames]
    if centres is not None:
        frames = _at_centres(frames, centres)
    kernel = None if psf is None else _read_psf(psf)
    return assemble(frames, survey, side, kernel, subtract_sky)


def _is_ours(path: Path) -> bool:
    """Whether ``Cutouts.write`` wrote a file."""
    if path.suffix.lower() not in (".fits", ".fit", ".gz"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "GALSTRES" in fits.getheader(path, 0)
        except READ_ERRORS:
            return False


def _read_ours(files: list[Path], survey: Survey, stamp_px: int | None, centres: object) -> Cutouts:
    """Files of galstress as they are."""
    cutouts = Cutouts.concatenate([Cutouts.read(path) for path in files])
    if cutouts.survey.name != survey.name:
        came = f"{files[0].name} of survey {cutouts.survey.name}"
        raise InputError(came, f"images of survey {survey.name}", f"give survey={cutouts.survey.name!r}")
    side = cutouts.images.shape[-1]
    if centres is not None or stamp_px not in (None, side):
        came = f"stamp_px={stamp_px} or centres for finished cutouts of {side} pixels"
        raise InputError(came, f"stamp_px=None or {side}, and no centres", "leave both out")
    return cutouts


def _at_centres(frames: list[Frame], centres: object) -> list[Frame]:
    """One frame a centre, all of the same image."""
    if len(frames) != 1:
        came = f"centres for {len(frames)} images"
        raise InputError(came, "centres in one image", "load each image with its own centres")
    frame = frames[0]
    if frame.error is not None:
        raise frame.error
    if isinstance(centres, SkyCoord):
        if frame.wcs is None:
            raise InputError("sky positions for an image without a WCS", "pixel positions (x, y)", "give pixels")
        sky = centres.reshape(-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = frame.wcs.world_to_pixel(sky)
        positions = np.stack([np.atleast_1d(x), np.atleast_1d(y)], 1)
        known = [
            {"ra": float(ra), "dec": float(dec)} for ra, dec in zip(sky.icrs.ra.deg, sky.icrs.dec.deg, strict=True)
        ]
    else:
        positions = _pixel_positions(centres)
        known = [{} for _ in positions]
    width = len(str(len(positions) - 1))
    return [
        dataclasses.replace(
            frame,
            object_id=f"{frame.object_id}_{place:0{width}d}",
            centre=(round(float(x), 6), round(float(y), 6)),  # a position from the sky must not tip a tie
            columns={**({} if frame.wcs is not None else dict(frame.columns)), **columns},
        )
        for place, ((x, y), columns) in enumerate(zip(positions, known, strict=True))
    ]


def _pixel_positions(centres: object) -> np.ndarray:
    """(K, 2) finite or not; checks the shape only."""
    try:
        positions = np.atleast_2d(np.asarray(centres, np.float64))
    except (ValueError, TypeError):
        positions = np.zeros(0)
    if positions.ndim != 2 or positions.shape[1] != 2 or len(positions) == 0:
        raise InputError(
            f"centres that are no pairs ({type(centres).__name__})", "(K, 2) pixels (x, y), or a SkyCoord", "give pairs"
        )
    return positions


def _read_psf(psf: object) -> np.ndarray:
    """A PSF from memory or from a FITS file."""
    if isinstance(psf, str | os.PathLike):
        frame = read_fits(Path(psf), Path(psf).name)[0]
        if frame.error is not None:
            raise frame.error
        assert frame.image is not None
        return np.asarray(frame.image, np.float64)
    if isinstance(psf, torch.Tensor):
        psf = psf.detach().cpu().numpy()
    try:
        return np.asarray(psf)
    except (ValueError, TypeError) as error:
        raise InputError(f"a psf that is no array ({error})", "(P, P) or (N, P, P) numbers", "give one") from None
