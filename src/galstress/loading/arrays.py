"""Pixels in memory, and NumPy files -> Frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
import torch
from astropy.nddata import NDData

from galstress.errors import InputError
from galstress.loading.frames import READ_ERRORS, Frame, check_frame, failed_frame, reason_of, split_cube
from galstress.survey import AB_ZERO_POINT_NJY, Survey

__all__ = ["frames_from_memory", "read_numpy"]

_KEYS = {
    "image": ("images", "image", "sci", "flux", "data", "arr_0"),
    "variance": ("variance", "variances", "var"),
    "sigma": ("err", "error", "sigma"),
    "inverse": ("weights", "weight", "ivar", "inverse_variance"),
    "mask": ("masks", "mask"),
    "psf": ("psfs", "psf"),
    "segmentation": ("segmentation", "segmap", "seg"),
}
"""Names of arrays in an .npz file; an inverse variance is what ``weights`` means there."""


def frames_from_memory(source: object, object_id: str = "object") -> list[Frame]:
    """Images in memory as frames.

    Arguments:
        source: (H, W) or (N, H, W) numbers (NumPy, torch, Quantity), an NDData or CCDData with its mask,
            uncertainty, WCS, PSF and unit, or a sequence of any of these.
        object_id: Name; with several images their place is added.

    Raises:
        InputError: The pixels are no real numbers, or no array at all.
    """
    if isinstance(source, list | tuple) and not _is_one_image(source):
        parts = [frames_from_memory(item, f"{object_id}_{place}") for place, item in enumerate(source)]
        return [frame for part in parts for frame in part]
    if isinstance(source, NDData):
        frame = _from_nddata(source, object_id)
    else:
        pixels, zero_point = _pixels(source)
        frame = Frame(object_id, image=pixels, zero_point_mag=zero_point)
    return [check_frame(part) for part in split_cube(frame)]


def _is_one_image(source: Sequence[object]) -> bool:
    """Whether nested lists hold plain numbers: an image written out."""
    return all(isinstance(row, list | tuple) and all(isinstance(v, int | float) for v in row) for row in source)


def _pixels(source: object) -> tuple[np.ndarray, float | None]:
    """Plain numbers and, where a unit tells it, their zero point."""
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = source.float().numpy() if source.dtype in (torch.bfloat16, torch.float16) else source.numpy()
    zero_point = None
    if isinstance(source, u.Quantity):
        zero_point, source = _unit_zero_point(source.unit), source.value
    try:
        mask = np.ma.getmaskarray(source) if isinstance(source, np.ma.MaskedArray) else None
        pixels = np.asarray(source)
    except ValueError as error:
        raise InputError(f"pixels that form no array ({error})", "(H, W) or (N, H, W) numbers", "pad them") from None
    if pixels.dtype.kind not in "fiub":
        raise InputError(f"pixels of type {pixels.dtype}", "real numbers", "convert them to float32")
    if mask is not None and mask.any():
        pixels = np.where(mask, np.nan, pixels.astype(np.float64))
    return pixels, zero_point


def _unit_zero_point(unit: object) -> float | None:
    """AB magnitude of one unit of flux density; None for counts, electrons and plain numbers."""
    try:
        return AB_ZERO_POINT_NJY - 2.5 * math.log10(u.Quantity(1, unit).to_value(u.nJy))
    except (u.UnitConversionError, ValueError, TypeError):
        return None


def _from_nddata(data: NDData, object_id: str) -> Frame:
    """An NDData's planes."""
    pixels, _ = _pixels(data.data)
    variance = None
    if data.uncertainty is not None and data.uncertainty.array is not None:
        raw = np.asarray(data.uncertainty.array, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = {"std": raw**2, "var": raw, "ivar": np.where(raw > 0, 1 / raw, np.inf)}.get(
                data.uncertainty.uncertainty_type
            )
    mask = None if data.mask is None else np.broadcast_to(np.asarray(data.mask, bool), pixels.shape)
    psf = getattr(data, "psf", None)
    wcs = data.wcs if getattr(data.wcs, "has_celestial", False) else None
    return Frame(
        object_id,
        image=pixels,
        variance=variance,
        mask=mask,
        psf=None if psf is None else np.asarray(psf),
        wcs=None if wcs is None else wcs.celestial,
        zero_point_mag=_unit_zero_point(data.unit),
        columns=_meta(data.meta),
    )


def _meta(meta: Mapping[str, object]) -> dict[str, float]:
    """Redshift and position of a header that came along."""
    found = {}
    for name, keys in (("ra", ("RA_OBJ", "RA")), ("dec", ("DEC_OBJ", "DEC")), ("redshift", ("REDSHIFT",))):
        value = next((meta[key] for key in keys if key in meta), None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found


def read_numpy(path: Path, object_id: str, survey: Survey) -> list[Frame]:
    """Every object in an .npy or .npz file (never unpickled).

    An .npz holds ``image`` or ``images`` and, where known, ``weights``/``ivar``, ``variance`` or ``sigma``,
    ``mask``, ``psf``/``psfs``. With ``filters`` the first axis is the band, and the survey's band is taken.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except READ_ERRORS as error:
        came = f"{path.name} ({reason_of(error)})"
        return [failed_frame(object_id, came, "a whole .npy or .npz file, nothing pickled", "make it again")]
    planes = {role: next((arrays[k] for k in keys if k in arrays), None) for role, keys in _KEYS.items()}
    if planes["image"] is None:
        came = f"{path.name} with arrays {sorted(arrays)}"
        return [failed_frame(object_id, came, "an array named image or images", "rename the array")]
    if "filters" in arrays:
        names = [str(name) for name in np.atleast_1d(arrays["filters"])]
        row = _band_row(names, survey.band)
        if row is None:
            came = f"{path.name} with bands {names}"
            return [failed_frame(object_id, came, f"the band {survey.band} of {survey.name}", "take another survey")]
        bands = len(names)
        planes = {k: v[row] if v is not None and v.ndim == 3 and len(v) == bands else v for k, v in planes.items()}
    scale = arrays.get("pixscale", arrays.get("pixel_scale"))
    frame = Frame(
        object_id,
        image=planes["image"],
        variance=_variance(planes),
        mask=None if planes["mask"] is None else planes["mask"] != 0,
        segmentation=planes["segmentation"],
        psf=planes["psf"],
        pixel_scale_arcsec=float(scale) if scale is not None and np.size(scale) == 1 else None,
    )
    return [check_frame(part) for part in split_cube(frame)]


def _variance(planes: dict[str, np.ndarray | None]) -> np.ndarray | None:
    """Variance from whatever tells it; infinite where the weight is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if (variance := planes["variance"]) is not None:
            return variance.astype(np.float64)
        if (sigma := planes["sigma"]) is not None:
            return sigma.astype(np.float64) ** 2
        if (inverse := planes["inverse"]) is not None:
            inverse = inverse.astype(np.float64)
            return np.where(inverse > 0, 1 / inverse, np.inf)
    return None


def _band_row(names: Sequence[str], band: str) -> int | None:
    """Place of a band among names such as ``i``, ``HSC-I`` or ``F814W``."""
    short = [name.lower().rsplit("-", 1)[-1] for name in names]
    wanted = band.lower().rsplit("-", 1)[-1]
    return short.index(wanted) if wanted in short else None
