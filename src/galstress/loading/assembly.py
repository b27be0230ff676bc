"""Frames -> Cutouts: units, masks, sky, neighbours, variance, stamps, PSFs and the catalogue."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from astropy.nddata import Cutout2D, NoOverlapError, overlap_slices
from astropy.table import MaskedColumn, QTable
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from galstress.cutouts import Cutouts, Flag, empty_catalogue
from galstress.errors import InputError
from galstress.loading.frames import NO_FLAGS, READ_ERRORS, Frame, check_frame, failed_frame, join_notes, make_unique
from galstress.loading.psfs import stack_psfs
from galstress.loading.sky import (
    LEAST_SKY_PIXELS,
    Sky,
    choose_level,
    estimate_variance,
    find_zeroed_sky,
    label_sources,
    measure_sky,
    split_labels,
)
from galstress.survey import Survey

__all__ = ["assemble", "check_stamp"]

SMALLEST_STAMP = 16
"""Pixels; a smaller image is flagged ``TOO_SMALL``."""

_SCALE_TOLERANCE = 0.05
"""Largest difference between a file's pixel scale and the survey's, as a share."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Stamp:
    """One finished row."""

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    neighbours: np.ndarray
    sky_rms: float
    sky_level: float = 0.0
    correlation: float = math.nan
    wcs: WCS | None = None
    flags: Flag = NO_FLAGS
    notes: tuple[str, ...] = ()


def check_stamp(stamp_px: int | None, survey: Survey) -> int:
    """The side of the stamps: the survey's own where none is given.

    Raises:
        InputError: It is no integer from 16 to 4096.
    """
    if stamp_px is None:
        return int(survey.stamp_px)
    whole = isinstance(stamp_px, int | np.integer) and not isinstance(stamp_px, bool)
    if not whole or not SMALLEST_STAMP <= stamp_px <= 4096:
        raise InputError(f"stamp_px={stamp_px!r}", "an integer from 16 to 4096", f"give stamp_px={survey.stamp_px}")
    return int(stamp_px)


def assemble(
    frames: Sequence[Frame],
    survey: Survey,
    stamp_px: int | None = None,
    psf: np.ndarray | None = None,
    subtract_sky: bool | None = None,
) -> Cutouts:
    """Frames as Cutouts, a row per frame in the same order.

    Arguments:
        frames: One an object.
        survey: The survey that took them; its unit and pixel scale are the result's.
        stamp_px: Side of the stamps; None: the survey's.
        psf: (P, P) effective PSF for all or (N, P, P), one a row, in place of what the frames hold.
        subtract_sky: See :func:`galstress.load`.

    Raises:
        InputError: There is no frame, or none of them holds a usable image.
    """
    side = check_stamp(stamp_px, survey)
    if not frames:
        raise InputError("no images", "at least one", "give a file, a folder or an array with images")
    frames = [_check_scale(check_frame(frame), survey) for frame in frames]
    _raise_if_none(frames)
    names = make_unique([frame.object_id for frame in frames])
    stamps = [_make_stamp(frame, survey, side, subtract_sky) for frame in frames]
    kernels, oversampling, fwhm, assumed = stack_psfs(frames, survey, side, psf)
    for stamp, frame, own in zip(stamps, frames, assumed, strict=True):
        if own is not None and frame.error is None:
            stamp.flags |= Flag.PSF_ASSUMED
            stamp.notes += (own,)
    for name, stamp in zip(names, stamps, strict=True):
        if stamp.flags & Flag.UNREADABLE:
            logger.warning("%s: %s", name, join_notes(*stamp.notes))
    return Cutouts(
        images=_tensor([stamp.image for stamp in stamps], torch.float32),
        variance=_tensor([stamp.variance for stamp in stamps], torch.float32),
        mask=_tensor([stamp.mask for stamp in stamps], torch.bool),
        neighbour_mask=_tensor([stamp.neighbours for stamp in stamps], torch.bool),
        psf=kernels,
        psf_oversampling=oversampling,
        psf_fwhm_px=fwhm,
        sky_rms=torch.tensor([stamp.sky_rms for stamp in stamps], dtype=torch.float32),
        survey=survey,
        catalogue=_catalogue(names, frames, stamps, side),
        wcs=tuple(stamp.wcs for stamp in stamps),
    )


def _tensor(planes: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
    """Planes of one shape as one tensor."""
    return torch.from_numpy(np.stack(planes)).to(dtype)


def _raise_if_none(frames: list[Frame]) -> None:
    """Refuse the whole where no row holds an image."""
    errors = [frame.error for frame in frames if frame.error is not None]
    if len(errors) < len(frames):
        return
    first = errors[0]
    if len(errors) == 1:
        raise first
    raise InputError(f"{len(errors)} unusable images, the first: {first.came}", first.allowed, first.next_step)


def _check_scale(frame: Frame, survey: Survey) -> Frame:
    """The frame, or a failed one where its pixels are not the survey's."""
    scale = frame.pixel_scale_arcsec
    if frame.wcs is not None:
        try:
            scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(frame.wcs)))) * 3600
        except READ_ERRORS:
            return dataclasses.replace(frame, wcs=None)
    if frame.error is not None or scale is None or not math.isfinite(scale) or scale <= 0:
        return frame
    if abs(scale / survey.pixel_scale_arcsec - 1) <= _SCALE_TOLERANCE:
        return frame
    return failed_frame(
        frame.object_id,
        f"{frame.object_id} with pixels of {scale:.4g} arcsec",
        f"{survey.pixel_scale_arcsec:g} arcsec, the scale of survey {survey.name}",
        "choose the survey that took it, or dataclasses.replace(survey, pixel_scale_arcsec=...)",
    )


def _blank(side: int, survey: Survey, flags: Flag, note: str) -> _Stamp:
    """A row without a usable pixel."""
    shape = (side, side)
    empty = np.zeros(shape, bool)
    return _Stamp(np.zeros(shape), np.full(shape, np.inf), ~empty, empty, survey.sky_rms, flags=flags, notes=(note,))


def _make_stamp(frame: Frame, survey: Survey, side: int, subtract_sky: bool | None) -> _Stamp:
    """One frame as a finished row."""
    if frame.error is not None or frame.image is None:
        return _blank(side, survey, frame.flags | Flag.UNREADABLE, str(frame.error))
    height, width = frame.image.shape
    x, y = frame.centre if frame.centre is not None else ((width - 1) / 2, (height - 1) / 2)
    try:
        # twice the stamp is enough sky, and all of a huge image would be too much
        reach = (min(height, 2 * side + 1), min(width, 2 * side + 1))
        region, _ = overlap_slices((height, width), reach, (y, x), mode="trim")
        overlap_slices((height, width), (side, side), (y, x), mode="partial")
    except (NoOverlapError, ValueError):
        flags = frame.flags | Flag.ALL_MASKED
        return _blank(side, survey, flags, f"centre ({x:.1f}, {y:.1f}) outside of the image ({width} x {height})")
    cut = {
        name: None if plane is None else np.array(plane[region])
        for name in ("image", "variance", "mask", "segmentation")
        for plane in [getattr(frame, name)]
    }
    corner = (region[1].start, region[0].start)
    measured = _measure(frame, cut, (x - corner[0], y - corner[1]), survey, subtract_sky)
    if min(height, width) < SMALLEST_STAMP:
        measured.flags |= Flag.TOO_SMALL
    return _cut_out(measured, frame, (x, y), corner, side)


def _measure(
    frame: Frame, cut: dict[str, Any], centre: tuple[float, float], survey: Survey, subtract_sky: bool | None
) -> _Stamp:
    """Region around an object: units, masks, sky, neighbours and variance."""
    flags, notes = frame.flags, (frame.note,) if frame.note else ()
    own_zero_point = survey.zero_point_mag if frame.zero_point_mag is None else frame.zero_point_mag
    factor = 10 ** (0.4 * (survey.zero_point_mag - own_zero_point))
    with np.errstate(all="ignore"):
        image = cut["image"].astype(np.float64) * factor
        finite = np.abs(image) < 1e30  # float32 and its squares must hold it
    given = cut["mask"] if cut["mask"] is not None else np.zeros(image.shape, bool)
    flags |= Flag.NON_FINITE if bool((~finite & ~given).any()) else NO_FLAGS
    bad = given.astype(bool) | ~finite
    image = np.where(finite, image, 0.0)
    zeroed = find_zeroed_sky(image, bad)
    if zeroed is not None:
        bad = bad | zeroed
    if bad.all():
        flags |= Flag.ALL_MASKED | (Flag.SKY_ZEROED if zeroed is not None else NO_FLAGS)
        blank = np.zeros(image.shape, bool)
        return _Stamp(image, np.full(image.shape, np.inf), ~blank, blank, survey.sky_rms, flags=flags, notes=notes)
    sky = measure_sky(image, bad, survey.psf_fwhm_px)
    segmented = zeroed is not None and _is_segmented(image, bad, sky)
    if segmented:
        sky, flags, bad = None, flags | Flag.SKY_ZEROED, bad | (image == 0)
    level = choose_level(sky, subtract_sky) if sky is not None else 0.0
    image = np.where(finite, image - level, 0.0)
    variance, problem = _own_variance(cut["variance"], factor, frame.relative_variance, sky)
    rms, uncertain = _choose_rms(sky, variance, frame, factor, survey, bad, level)
    flags |= Flag.SKY_UNCERTAIN if uncertain and not segmented else NO_FLAGS
    if segmented:  # whoever zeroed the sky has zeroed the neighbours too
        target, neighbours = ~bad, np.zeros(image.shape, bool)
    elif cut["segmentation"] is not None:
        target, neighbours = split_labels(cut["segmentation"], centre, max(3.0, survey.psf_fwhm_px))
    else:
        target, neighbours = label_sources(image, bad, rms, survey.psf_fwhm_px, centre)
    if variance is None:
        electrons = survey.electrons_per_unit / survey.kernel_factor**2  # drizzling smooths photon noise as well
        variance = estimate_variance(image, target | neighbours, rms, electrons)
        flags |= Flag.VARIANCE_ESTIMATED
    flags |= _off_centre(image, target & ~bad, centre)
    useless = ~(np.isfinite(variance) & (variance > 1e-37)) | (variance > 1e37)
    if bool(useless.all()):
        problem = "flux or variance beyond what float32 holds: rescale the image, or give zero_point_mag"
    bad = bad | useless
    variance = np.where(useless | ~finite, np.inf, variance)
    correlation = math.nan if sky is None else sky.correlation
    return _Stamp(
        image, variance, bad, neighbours, rms, level, correlation, flags=flags, notes=(*notes, *filter(None, [problem]))
    )


def _is_segmented(image: np.ndarray, bad: np.ndarray, sky: Sky | None) -> bool:
    """Whether nothing but a galaxy is left where the zeros end; a zero border around real sky is no such thing."""
    return sky is None or bool((image[~bad] < 0).mean() < 0.05)


def _own_variance(
    given: np.ndarray | None, factor: float, relative: bool, sky: Sky | None
) -> tuple[np.ndarray | None, str]:
    """The variance that came with the image, in the survey's units; None where it says nothing."""
    if given is None:
        return None, ""
    with np.errstate(all="ignore"):
        variance = given.astype(np.float64) * factor**2
    valid = np.isfinite(variance) & (variance > 0)
    if not valid.any():
        return None, "the variance that came is nowhere positive: estimated"
    if relative:
        clear = sky.clear & valid if sky is not None else np.zeros(valid.shape, bool)
        if sky is None or clear.sum() < LEAST_SKY_PIXELS:
            return None, "weights of unknown scale without sky to scale them by: variance estimated"
        variance = variance * (sky.rms**2 / np.median(variance[clear]))
    return variance, ""


def _choose_rms(
    sky: Sky | None,
    variance: np.ndarray | None,
    frame: Frame,
    factor: float,
    survey: Survey,
    bad: np.ndarray,
    level: float,
) -> tuple[float, bool]:
    """Noise of the sky: measured; else from the variance that came, the frame, or the survey (then uncertain)."""
    if sky is not None:
        return sky.rms, sky.is_uncertain(level)
    if variance is not None:
        valid = variance[~bad & np.isfinite(variance) & (variance > 0)]
        if valid.size:
            return float(np.sqrt(np.percentile(valid, 20))), True
    return (survey.sky_rms if frame.sky_rms is None else frame.sky_rms * factor), True


def _off_centre(image: np.ndarray, target: np.ndarray, centre: tuple[float, float]) -> Flag:
    """``OFF_CENTRE`` where no object lies at the centre, or its light is centred more than a quarter of it away."""
    weight = np.where(target, np.maximum(image, 0.0), 0.0)
    total = weight.sum()
    if not total > 0:
        return Flag.OFF_CENTRE
    rows, columns = np.indices(image.shape)
    offset = math.hypot((weight * columns).sum() / total - centre[0], (weight * rows).sum() / total - centre[1])
    return Flag.OFF_CENTRE if offset > max(4.0, 0.25 * math.sqrt(target.sum())) else NO_FLAGS


def _cut_out(measured: _Stamp, frame: Frame, centre: tuple[float, float], corner: tuple[int, int], side: int) -> _Stamp:
    """The stamp itself, about the centre; what lies outside of the image is masked."""
    assert frame.image is not None
    outline = np.broadcast_to(np.float32(0), frame.image.shape)  # tells the geometry without copying pixels
    whole = Cutout2D(outline, centre, side, wcs=frame.wcs, mode="partial")
    position = (centre[0] - corner[0], centre[1] - corner[1])

    def plane(values: np.ndarray, fill: float) -> np.ndarray:
        cut = Cutout2D(values, position, side, mode="partial", fill_value=fill)
        return cut.data

    mask = plane(measured.mask.astype(np.float64), 1.0) > 0
    measured.image = plane(measured.image, 0.0)
    measured.variance = plane(measured.variance, np.inf)
    measured.neighbours = plane(measured.neighbours.astype(np.float64), 0.0) > 0
    measured.mask, measured.wcs = mask, whole.wcs
    if np.isnan(whole.data).any():
        measured.flags |= Flag.PADDED
    if mask.all():
        measured.flags |= Flag.ALL_MASKED
    middle = slice((side - 1) // 2, side // 2 + 1)
    if mask[middle, middle].any():
        measured.flags |= Flag.CENTRE_MASKED
    return measured


def _catalogue(names: list[str], frames: list[Frame], stamps: list[_Stamp], side: int) -> QTable:
    """Names, positions, flags and what else came, a row each."""
    table = empty_catalogue(names)
    rows = [dict(frame.columns) for frame in frames]
    for row, stamp in zip(rows, stamps, strict=True):
        if stamp.wcs is not None and not {"ra", "dec"} <= set(row):
            try:
                position = stamp.wcs.pixel_to_world((side - 1) / 2, (side - 1) / 2).icrs
                row.update(ra=float(position.ra.deg), dec=float(position.dec.deg))
            except READ_ERRORS:
                pass
    ranges = {"ra": (-360.0, 360.0), "dec": (-90.0, 90.0), "redshift": (-0.1, 30.0)}
    for name, (low, high) in ranges.items():
        values = np.array([float(row.pop(name, math.nan)) for row in rows])
        with np.errstate(invalid="ignore"):
            unknown = ~((values >= low) & (values <= high))
        values = values % 360 if name == "ra" else values
        unit = None if name == "redshift" else "deg"
        table[name] = MaskedColumn(np.where(unknown, 0.0, values), mask=unknown, unit=unit)
    table["flags"] = np.array([int(stamp.flags) for stamp in stamps], np.int64)
    table["note"] = np.array([join_notes(*stamp.notes) for stamp in stamps], dtype=str)
    table["sky_level"] = np.array([stamp.sky_level for stamp in stamps])
    table["sky_level"].info.description = "sky that was subtracted, image units"
    table["noise_correlation"] = np.array([stamp.correlation for stamp in stamps])
    table["noise_correlation"].info.description = "correlation of the sky noise of adjacent pixels; NaN: not measured"
    for name in dict.fromkeys(key for row in rows for key in row):
        present = [name in row for row in rows]
        blank = type(next(row[name] for row in rows if name in row))()
        values = np.array([row.get(name, blank) for row in rows])
        table[name] = values if all(present) else MaskedColumn(values, mask=~np.array(present))
    return table
