"""FITS files -> Frames: one image HDU, many, MEF with companions, cubes, compressed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from galstress.errors import InputError
from galstress.loading.frames import (
    LARGEST_PIXELS,
    READ_ERRORS,
    Frame,
    check_frame,
    failed_frame,
    reason_of,
    split_cube,
)
from galstress.survey import AB_ZERO_POINT_NJY

__all__ = ["read_fits", "read_wcs"]

_ROLES = {
    "image": ("SCI", "IMAGE", "SCIENCE"),
    "variance": ("VARIANCE", "VAR"),
    "sigma": ("ERR", "ERROR", "SIGMA", "RMS", "UNCERT"),
    "inverse": ("IVAR", "INVVAR"),
    "weight": ("WHT", "WEIGHT"),
    "mask": ("MASK", "DQ", "FLAGS"),
    "psf": ("PSF", "PSFIMAGE"),
    "segmentation": ("SEG", "SEGMAP", "SEGMENTATION"),
    "ignore": ("MODEL", "RESIDUAL", "CTX", "EXP"),
}
"""Names (EXTNAME or EXTTYPE) that say what an HDU is."""

_LARGE_BYTES = 2**27
"""Files beyond this size stay on disk until a region of them is cut."""

_BAD_PLANES = ("BAD", "SAT", "NO_DATA", "UNMASKEDNAN")
"""Of a mask that names its bit planes in the header (``MP_*``), those that spoil a pixel."""

_BUNIT_NJY = {"njy": 1.0, "ujy": 1e3, "jy": 1e9, "nanomaggy": 3630.780548, "nanomaggies": 3630.780548}
_BUNIT_NJY["nmgy"] = _BUNIT_NJY["nanomaggy"]


@dataclasses.dataclass(frozen=True)
class _Plane:
    """One image HDU."""

    index: int
    role: str
    version: int
    name: str
    data: np.ndarray
    header: fits.Header


def read_fits(path: Path, object_id: str, hdu: int | str | None = None) -> list[Frame]:
    """Every object in a FITS file.

    Arguments:
        path: The file, plain or compressed (.gz, .fz, .bz2).
        object_id: Name of the object; with several, ``_`` and the HDU (or the index in a cube) is added.
        hdu: Take this HDU only, by number or name; its companions are still used.

    Returns:
        At least one Frame; a failed one where the file, or an HDU of it, cannot be read.
    """
    planes: list[_Plane] = []
    primary = fits.Header()
    failure: Frame | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with fits.open(path, memmap=_is_large(path)) as hdus:
                primary = hdus[0].header
                for index in itertools.count():
                    try:
                        unit = hdus[index]
                    except IndexError:
                        break
                    plane = _read_plane(unit, index)
                    if plane is not None:
                        planes.append(plane)
        except READ_ERRORS as error:
            failure = failed_frame(object_id, f"{path.name} ({reason_of(error)})", "a whole FITS file", "get it again")
        frames = _group(planes, primary, object_id, hdu)
    if failure is not None:
        frames.append(failure)
    if not frames:
        came = f"{path.name} without {'an image' if hdu is None else f'an image HDU {hdu!r}'}"
        frames = [failed_frame(object_id, came, "a FITS file with an image HDU", "check the file's HDUs")]
    return [check_frame(frame) for frame in frames]


def _is_large(path: Path) -> bool:
    """Whether a plain file is too large to be read at once."""
    return path.suffix.lower() not in (".gz", ".bz2") and path.stat().st_size > _LARGE_BYTES


def _read_plane(hdu: object, index: int) -> _Plane | None:
    """An HDU's pixels, or None where it holds none."""
    if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) or not hdu.shape:
        return None
    if math.prod(hdu.shape) > LARGEST_PIXELS:
        raise InputError(f"HDU {index} of shape {hdu.shape}", f"{LARGEST_PIXELS} pixels at most", "cut it into tiles")
    header = hdu.header
    name = str(header.get("EXTNAME") or header.get("EXTTYPE") or "").strip().upper()
    role = next((role for role, names in _ROLES.items() if name in names), "object")
    scaled = any(key in header for key in ("BZERO", "BSCALE", "BLANK"))
    # astropy maps no scaled integers into memory; a section reads them
    data = np.asarray(hdu.section[:] if scaled and not isinstance(hdu, fits.CompImageHDU) else hdu.data)
    if role == "sigma" and "var" in str(header.get("UTYPE", "")).lower():
        role = "variance"
    return _Plane(index, role, int(hdu.ver), name, data, header)


def _group(planes: list[_Plane], primary: fits.Header, object_id: str, hdu: int | str | None) -> list[Frame]:
    """Images with their companions, as frames."""
    named = [plane for plane in planes if plane.role == "image"]
    images = named or [plane for plane in planes if plane.role == "object"]
    if len(images) > 1:  # a 1-D table of numbers beside images is no object
        images = [plane for plane in images if plane.data.ndim > 1] or images
    if hdu is not None:
        wanted = hdu.upper() if isinstance(hdu, str) else hdu
        images = [plane for plane in planes if wanted in (plane.index, plane.name)]
    frames = []
    for place, image in enumerate(images):
        suffix = f"_{image.index}" if len(images) > 1 else ""
        companions = {
            role: _companion([p for p in planes if p.role == role and p is not image], image, place, len(images))
            for role in ("variance", "sigma", "inverse", "weight", "mask", "psf", "segmentation")
        }
        frames += split_cube(_frame(image, companions, primary, object_id + suffix))
    return frames


def _companion(candidates: list[_Plane], image: _Plane, place: int, images: int) -> _Plane | None:
    """The one that belongs to an image: the only one, the one in the same place, or the same EXTVER."""
    if len(candidates) == 1:
        return candidates[0]
    if len(candidates) == images:
        return candidates[place]
    return next((plane for plane in candidates if plane.version == image.version), None)


def _frame(image: _Plane, companions: dict[str, _Plane | None], primary: fits.Header, object_id: str) -> Frame:
    """One image HDU and its companions; may still be a cube."""
    variance, relative = _variance(companions)
    mask, segmentation, psf = (companions[role] for role in ("mask", "segmentation", "psf"))
    wcs = read_wcs(image.header) or (read_wcs(primary) if image.index else None)
    zero_point = _zero_point(image.header, primary)
    return Frame(
        object_id,
        image=image.data,
        variance=variance,
        relative_variance=relative,
        mask=None if mask is None else _bad_pixels(mask),
        segmentation=None if segmentation is None else segmentation.data,
        psf=None if psf is None else psf.data,
        psf_oversampling=1 if psf is None else _oversampling(psf.header),
        wcs=wcs,
        zero_point_mag=zero_point,
        pixel_scale_arcsec=_number(image.header, ("PIXSCALE",)) if wcs is None else None,
        columns=_columns(image.header, primary, wcs is None),
    )


def _variance(companions: dict[str, _Plane | None]) -> tuple[np.ndarray | None, bool]:
    """Variance from whatever tells it, and whether its scale is unknown; infinite where it tells nothing."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if (plane := companions["variance"]) is not None:
            return plane.data.astype(np.float64), False
        if (plane := companions["sigma"]) is not None:
            sigma = plane.data.astype(np.float64)
            return np.where(sigma > 0, sigma**2, np.inf), False
        for role in ("inverse", "weight"):
            if (plane := companions[role]) is not None:
                weight = plane.data.astype(np.float64)
                return np.where(weight > 0, 1 / weight, np.inf), role == "weight"
    return None, False


def _bad_pixels(plane: _Plane) -> np.ndarray:
    """Pixels to ignore: named bad bit planes where the header names them, else every value but 0."""
    bits = {key[3:]: int(value) for key, value in plane.header.items() if key.startswith("MP_")}
    if not bits:
        return np.nan_to_num(plane.data, nan=1.0) != 0
    bad = sum(1 << bits[name] for name in _BAD_PLANES if name in bits)
    return (plane.data.astype(np.int64) & bad) != 0


def read_wcs(header: fits.Header) -> WCS | None:
    """The celestial WCS of a header, or None."""
    if "CTYPE1" not in header:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old keywords are mended and need no word
        try:
            wcs = WCS(header)
            return wcs.celestial if wcs.has_celestial else None
        except READ_ERRORS:
            return None


def _number(header: fits.Header, keys: tuple[str, ...]) -> float | None:
    """The first of these keywords that holds a finite number."""
    for key in keys:
        value = header.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def _oversampling(header: fits.Header) -> int:
    """Samples per pixel of a PSF, 1 unless the header says otherwise."""
    value = _number(header, ("PSFOVER", "OVERSAMP", "OVERSAMPLING"))
    return int(value) if value is not None and value >= 1 else 1


def _zero_point(header: fits.Header, primary: fits.Header) -> float | None:
    """AB magnitude of one image unit, where the header states it beyond doubt."""
    for source in (header, primary):
        value = _number(source, ("MAGZERO", "MAGZPT", "PHOTZP"))
        if value is not None:
            return value
        flux = _number(source, ("FLUXMAG0",))
        if flux is not None and flux > 0:
            return 2.5 * math.log10(flux)
        unit = str(source.get("BUNIT", "")).strip().lower()
        if unit in _BUNIT_NJY:
            return AB_ZERO_POINT_NJY - 2.5 * math.log10(_BUNIT_NJY[unit])
        flam, pivot = _number(source, ("PHOTFLAM",)), _number(source, ("PHOTPLAM",))
        if flam and pivot and flam > 0 and pivot > 0 and unit in ("electrons/s", "electron/s", "counts/s", "e/s"):
            # STScI: ABmag = -2.5 log10 PHOTFLAM - 5 log10 PHOTPLAM - 2.408
            return -2.5 * math.log10(flam) - 5 * math.log10(pivot) - 2.408
    return None


def _columns(header: fits.Header, primary: fits.Header, with_position: bool) -> dict[str, float]:
    """Position and redshift that the header states; a WCS is better than RA and DEC."""
    wanted: dict[str, tuple[str, ...]] = {"redshift": ("REDSHIFT", "ZSPEC", "ZPHOT")}
    if with_position:
        wanted |= {"ra": ("RA_OBJ", "RA"), "dec": ("DEC_OBJ", "DEC")}
    found = {}
    for name, keys in wanted.items():
        value = _number(header, keys)
        value = _number(primary, keys) if value is None else value
        if value is not None:
            found[name] = value
    return found
