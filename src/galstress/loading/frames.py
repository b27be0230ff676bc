"""The Frame record: one object's pixels as they came, before they become a row of Cutouts."""

from __future__ import annotations

import dataclasses
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from galstress.cutouts import Flag
from galstress.errors import InputError

__all__ = [
    "NO_FLAGS",
    "READ_ERRORS",
    "Frame",
    "check_frame",
    "failed_frame",
    "join_notes",
    "make_unique",
    "reason_of",
    "split_cube",
]

READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    fits.VerifyError,
)
"""What broken files make astropy and numpy raise."""

NO_FLAGS = Flag(0)
LARGEST_PIXELS = 2**31
"""An image with more pixels than this is refused, not read."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One object's pixels in the units, the size and the dtype of their file. Pure data.

    Planes share one shape (H, W). What is None did not come with the file.
    """

    object_id: str
    """Name of the row."""
    image: np.ndarray | None = None
    """(H, W) linear flux, with or without the sky."""
    variance: np.ndarray | None = None
    """(H, W) variance; with ``relative_variance`` only up to a factor."""
    mask: np.ndarray | None = None
    """(H, W) bool, True: ignore."""
    segmentation: np.ndarray | None = None
    """(H, W) integer labels, 0 for sky; the label at the centre is the object's."""
    psf: np.ndarray | None = None
    """Effective PSF (pixel included), any size."""
    psf_oversampling: int = 1
    """Samples of ``psf`` along one pixel."""
    wcs: WCS | None = None
    """Celestial WCS of the whole frame."""
    centre: tuple[float, float] | None = None
    """Pixel (x, y) to cut about; None: the array's centre ((W - 1) / 2, (H - 1) / 2)."""
    zero_point_mag: float | None = None
    """AB magnitude of one unit of the image; None: the survey's."""
    pixel_scale_arcsec: float | None = None
    """Side of a pixel where the file tells it without a WCS."""
    relative_variance: bool = False
    """The variance comes from weights whose scale is not known."""
    sky_rms: float | None = None
    """Sky noise of a pixel, image units: what to take where it cannot be measured."""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """``ra``, ``dec`` (deg), ``redshift`` and other values of the row."""
    flags: Flag = NO_FLAGS
    """What is known to be wrong already."""
    note: str = ""
    """What a reader of the catalogue should know, in words."""
    error: InputError | None = None
    """Why there is no image."""


def failed_frame(object_id: str, came: str, allowed: str, next_step: str) -> Frame:
    """A row that keeps its place without an image."""
    return Frame(object_id, error=InputError(came, allowed, next_step))


def check_frame(frame: Frame) -> Frame:
    """The frame itself, or a failed one where its image cannot be used; planes of another shape are dropped."""
    image, name = frame.image, frame.object_id
    if frame.error is not None or image is None:
        return frame if frame.error is not None else failed_frame(name, f"{name} without an image", "pixels", "add it")
    if image.ndim != 2 or image.size == 0:
        allowed = "2-D images, or a 3-D cube (N, H, W) of N objects"
        return failed_frame(name, f"{name}: an array of shape {image.shape}", allowed, "split it into 2-D images")
    if image.size > LARGEST_PIXELS:
        return failed_frame(name, f"{name}: {image.shape} pixels", "at most 2^31 pixels", "cut it into tiles")
    if image.dtype.kind not in "fiub":
        return failed_frame(name, f"{name}: pixels of type {image.dtype}", "real numbers", "convert the pixels")
    dropped = [
        plane
        for plane in ("variance", "mask", "segmentation")
        if getattr(frame, plane) is not None and getattr(frame, plane).shape != image.shape
    ]
    if dropped:
        note = f"{' and '.join(dropped)} of another shape than the image: ignored"
        without: dict[str, Any] = dict.fromkeys(dropped)
        frame = dataclasses.replace(frame, **without, note=join_notes(frame.note, note))
    return frame


def split_cube(frame: Frame) -> list[Frame]:
    """A cube (N, H, W) as N frames; companions of other shapes are shared. Anything else as it is."""
    image = frame.image
    if image is None or image.ndim != 3:
        return [frame]
    frames = []
    for row in range(image.shape[0]):
        planes = {}
        for name in ("variance", "mask", "segmentation", "psf"):
            plane = getattr(frame, name)
            own = plane is not None and plane.ndim == 3 and len(plane) == len(image)
            planes[name] = plane[row] if own else plane
        suffix = f"_{row}" if len(image) > 1 else ""
        frames.append(dataclasses.replace(frame, object_id=frame.object_id + suffix, image=image[row], **planes))
    came = f"{frame.object_id}: an array of shape {image.shape}"
    return frames or [failed_frame(frame.object_id, came, "at least one image", "give one or more")]


def reason_of(error: Exception) -> str:
    """What a reader's error says, in a few words: its first sentence, without hints on that reader's options."""
    if isinstance(error, InputError):
        return f"{error.came}; allowed: {error.allowed}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.split(". ")[0].split())[:120]
    return text if len(text) > 8 else f"its header is broken: {type(error).__name__} {text}".strip()


def join_notes(*notes: str) -> str:
    """Notes in one line."""
    return "; ".join(note for note in notes if note)


def make_unique(names: Sequence[str]) -> list[str]:
    """Names in which every repetition got a number, in order.

    Example:
        >>> make_unique(["a", "b", "a"])
        ['a', 'b', 'a~2']
    """
    taken: set[str] = set()
    reserved, result = set(names), []
    for name in names:
        unique, number = name, 1
        while unique in taken or (number > 1 and unique in reserved):
            number += 1
            unique = f"{name}~{number}"
        taken.add(unique)
        result.append(unique)
    return result
