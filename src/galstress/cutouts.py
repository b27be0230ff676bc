"""The Cutouts record: a batch of images of one survey, the one thing passed between steps."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from astropy.table import MaskedColumn, QTable
from astropy.wcs import WCS
from torch import Tensor

from galstress.errors import InputError
from galstress.survey import Survey

__all__ = ["Cutouts", "Flag", "decode_flags", "empty_catalogue"]


class Flag(enum.IntFlag):
    """What is known to be wrong with an object; bits add up in the column ``flags``."""

    UNREADABLE = 1 << 0
    """The file or HDU could not be read; the row holds no image."""
    ALL_MASKED = 1 << 1
    """No usable pixel is left."""
    NON_FINITE = 1 << 2
    """Some pixels were NaN or infinite; they are masked."""
    TOO_SMALL = 1 << 3
    """The image is smaller than 16 pixels; nothing is predicted."""
    PADDED = 1 << 4
    """The image is smaller than the stamp; the rest is masked."""
    VARIANCE_ESTIMATED = 1 << 5
    """No variance came with the image; it was estimated from the sky."""
    PSF_ASSUMED = 1 << 6
    """No PSF came with the image; the survey's own was taken."""
    SKY_ZEROED = 1 << 7
    """The sky had been set to zero; those pixels are masked."""
    CENTRE_MASKED = 1 << 8
    """The central pixel is masked."""
    SKY_UNCERTAIN = 1 << 9
    """Too little empty sky to measure its rms well."""
    FAINT = 1 << 10
    """The network sees less than S/N 10."""
    OUT_OF_DOMAIN = 1 << 11
    """Brighter, larger or smaller than anything the network was trained on."""
    OFF_CENTRE = 1 << 12
    """The light's centre lies far from the stamp's."""
    ZERO_POINT_ASSUMED = 1 << 13
    """The photometric zero point is assumed, not read: relative fluxes only."""
    FEW_SAMPLES = 1 << 14
    """Refinement found fewer than 100 effective samples: its posterior is a rough one."""
    BAD_FIT = 1 << 15
    """No disk + bulge describes the image to within its noise: error bars hold for the model, not for the galaxy."""


def decode_flags(flags: int) -> tuple[str, ...]:
    """Names of the bits that are set, lowest first.

    Example:
        >>> decode_flags(5)
        ('UNREADABLE', 'NON_FINITE')
    """
    return tuple(flag.name or "" for flag in Flag if int(flags) & flag)


def empty_catalogue(object_id: Sequence[str]) -> QTable:
    """A catalogue in which nothing but the names is known.

    Arguments:
        object_id: N names; kept as strings.

    Returns:
        QTable with ``object_id`` (str), ``ra``, ``dec`` (deg), ``redshift`` (all masked), ``flags`` (int64, 0).
    """
    count = len(object_id)
    table = QTable()
    table["object_id"] = np.asarray([str(name) for name in object_id], dtype=str) if count else np.zeros(0, "U1")
    for name in ("ra", "dec", "redshift"):
        unit = None if name == "redshift" else "deg"
        table[name] = MaskedColumn(np.zeros(count), mask=np.ones(count, bool), unit=unit, dtype=float)
    table["flags"] = np.zeros(count, np.int64)
    return table


@dataclasses.dataclass(frozen=True)
class Cutouts:
    """Images of N objects as one survey sees them. Pure data; rows keep the order of the input.

    Tensors are float32 (bool for masks) on one device. Pixel indices are ``[y, x]``, the
    centre of the first pixel is 0, and an object's nominal centre is the array's centre,
    ``((W - 1) / 2, (H - 1) / 2)``.
    """

    images: Tensor
    """(N, H, W) calibrated linear flux, sky subtracted, in units of ``survey.zero_point_mag``."""
    variance: Tensor
    """(N, H, W) variance of each pixel, image units squared; infinite where nothing is known."""
    mask: Tensor
    """(N, H, W) True: ignore this pixel."""
    neighbour_mask: Tensor
    """(N, H, W) True: another object's light dominates here."""
    psf: Tensor
    """(N, P, P) effective PSF (pixel included), sum 1, P odd, ``psf_oversampling`` samples a pixel."""
    psf_oversampling: int
    """Samples of ``psf`` along one pixel."""
    psf_fwhm_px: Tensor
    """(N,) full width at half maximum of the effective PSF, image pixels."""
    sky_rms: Tensor
    """(N,) standard deviation of a pixel of empty sky, image units."""
    survey: Survey
    """The survey that took them."""
    catalogue: QTable
    """``object_id``, ``ra``, ``dec``, ``redshift`` (masked where unknown), ``flags``, and what else came."""
    wcs: tuple[WCS | None, ...] | None = None
    """One celestial WCS an object, or None."""
    truth: QTable | None = None
    """What was simulated (columns in the README), or None for real images."""
    neighbours: QTable | None = None
    """Parameters of every neighbour drawn, with ``row`` (the object it stands beside), or None."""

    def __post_init__(self) -> None:
        """Check shapes once, where the record is made."""
        shape = tuple(self.images.shape)
        if len(shape) != 3:
            raise InputError(f"images of shape {shape}", "(N, H, W)", "give one image an object")
        for name in ("variance", "mask", "neighbour_mask"):
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(f"{name} of shape {tuple(getattr(self, name).shape)}", f"{shape}", f"match {name}")
        psf = tuple(self.psf.shape)
        if len(psf) != 3 or psf[0] != shape[0] or psf[1] != psf[2] or psf[1] % 2 == 0:
            raise InputError(f"psf of shape {psf}", f"({shape[0]}, P, P) with P odd", "crop the PSF about its centre")
        for name in ("psf_fwhm_px", "sky_rms", "catalogue"):
            if len(getattr(self, name)) != shape[0]:
                raise InputError(f"{len(getattr(self, name))} rows of {name}", f"{shape[0]}", "give a row per object")

    def __len__(self) -> int:
        """Number of objects."""
        return int(self.images.shape[0])

    @property
    def object_id(self) -> np.ndarray:
        """(N,) names of the objects."""
        return np.asarray(self.catalogue["object_id"])

    @property
    def flags(self) -> np.ndarray:
        """(N,) int64 bits of :class:`Flag`."""
        return np.asarray(self.catalogue["flags"], np.int64)

    @property
    def _shares_psf(self) -> bool:
        """One PSF, expanded without copying: it stays so, and N PSFs take no memory."""
        return len(self) > 0 and self.psf.stride(0) == 0

    def select(self, rows: slice | Sequence[int] | np.ndarray) -> Cutouts:
        """The objects at ``rows`` (a slice, indices, or a boolean array), in that order."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = rows if rows.size else rows.astype(np.int64)  # an empty list has no integer type
        index = np.arange(len(self))[rows].copy()  # torch takes no negative strides
        at = torch.as_tensor(index, device=self.images.device)
        tensors = {name: getattr(self, name)[at] for name in _TENSORS if name != "psf"}
        tensors["psf"] = self.psf[:1].expand(len(index), -1, -1) if self._shares_psf else self.psf[at]
        neighbours = self.neighbours
        if neighbours is not None:
            # An object that is taken twice takes its neighbours along twice.
            owner = np.asarray(neighbours["row"], np.int64)
            taken = [np.flatnonzero(owner == row) for row in index]
            neighbours = neighbours[np.concatenate([*taken, np.zeros(0, np.int64)])]
            neighbours["row"] = np.repeat(np.arange(len(index)), [len(part) for part in taken])
        return dataclasses.replace(
            self,
            **tensors,
            catalogue=self.catalogue[index],
            wcs=None if self.wcs is None else tuple(self.wcs[i] for i in index),
            truth=None if self.truth is None else self.truth[index],
            neighbours=neighbours,
        )

    def split(self, size: int) -> list[Cutouts]:
        """Consecutive batches of at most ``size`` objects."""
        return [self.select(slice(start, start + size)) for start in range(0, len(self), size)]

    def to(self, device: torch.device | str) -> Cutouts:
        """The same cutouts on another device."""
        moved = {name: getattr(self, name).to(device) for name in _TENSORS if name != "psf"}
        psf = self.psf[:1].to(device).expand_as(self.psf) if self._shares_psf else self.psf.to(device)
        return dataclasses.replace(self, **moved, psf=psf)

    def write(self, path: str | Path) -> None:
        """Save everything as one multi-extension FITS file, written aside and then renamed."""
        path = Path(path)
        header = fits.Header()
        header["GALSTRES"] = (1, "galstress cutouts, layout version")
        header["PSFOVER"] = (self.psf_oversampling, "PSF samples per pixel")
        hdus: list[Any] = [fits.PrimaryHDU(header=header)]
        for name in _TENSORS:
            data = getattr(self, name).detach().cpu().numpy()
            data = data[:1] if name == "psf" and self._shares_psf else data
            hdus.append(fits.ImageHDU(data.astype(np.uint8) if data.dtype == bool else data, name=name.upper()))
        for name in ("catalogue", "truth", "neighbours"):
            table = getattr(self, name)
            if table is not None:
                hdus.append(fits.table_to_hdu(_in_ascii(table)))
                hdus[-1].name = name.upper()
        record = {
            "survey": self.survey.to_record(),
            "wcs": None if self.wcs is None else [w.to_header_string(relax=True) if w else "" for w in self.wcs],
            "object_id": [str(name) for name in self.object_id],
        }
        text = np.frombuffer(json.dumps(record).encode(), np.uint8)
        hdus.append(fits.ImageHDU(text, name="RECORD"))
        aside = path.with_name(path.name + ".part")
        fits.HDUList(hdus).writeto(aside, overwrite=True)
        aside.replace(path)

    @classmethod
    def read(cls, path: str | Path) -> Cutouts:
        """The inverse of :meth:`write`.

        Raises:
            InputError: The file cannot be read or was not written by galstress.
        """
        try:
            with fits.open(path, memmap=False) as hdus:
                if "GALSTRES" not in hdus[0].header:
                    raise InputError(f"{path}", "a file written by Cutouts.write", "read it with galstress.load")
                record = json.loads(bytes(hdus["RECORD"].data.astype(np.uint8)).decode())
                tensors = {name: _tensor(hdus[name.upper()].data, "mask" in name) for name in _TENSORS}
                if len(tensors["psf"]) == 1:
                    tensors["psf"] = tensors["psf"].expand(len(tensors["images"]), -1, -1)
                present = {hdu.name for hdu in hdus}
                tables: dict[str, Any] = {
                    name: QTable.read(hdus[name.upper()]) if name.upper() in present else None
                    for name in ("catalogue", "truth", "neighbours")
                }
                tables["catalogue"]["object_id"] = np.asarray(record["object_id"], str)
                oversampling = int(hdus[0].header["PSFOVER"])
        except (OSError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} ({error})", "a whole file written by Cutouts.write", "make it again") from None
        wcs = record["wcs"]
        return cls(
            **tensors,
            psf_oversampling=oversampling,
            survey=Survey.from_record(record["survey"]),
            wcs=None if wcs is None else tuple(WCS(fits.Header.fromstring(w)) if w else None for w in wcs),
            **tables,
        )

    @staticmethod
    def concatenate(parts: Sequence[Cutouts]) -> Cutouts:
        """Batches of one survey and one stamp size as one, in order.

        Raises:
            InputError: Nothing came, or the batches differ in survey, stamp or PSF sampling.
        """
        if not parts:
            raise InputError("no batches of cutouts", "at least one", "give one or more Cutouts")
        first = parts[0]
        for part in parts[1:]:
            same = (part.survey, part.images.shape[1:], part.psf.shape[1:], part.psf_oversampling)
            if same != (first.survey, first.images.shape[1:], first.psf.shape[1:], first.psf_oversampling):
                raise InputError("batches of different surveys or stamps", "one survey, one stamp", "load them alike")
        shifts = np.cumsum([0] + [len(part) for part in parts])
        tensors: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        return dataclasses.replace(
            first,
            **tensors,
            catalogue=_stack([part.catalogue for part in parts]),
            wcs=tuple(w for part in parts for w in (part.wcs or (None,) * len(part)))
            if any(part.wcs for part in parts)
            else None,
            truth=_stack([part.truth for part in parts]),
            neighbours=_stack([_shifted(part.neighbours, int(by)) for part, by in zip(parts, shifts, strict=False)]),
        )


_TENSORS = ("images", "variance", "mask", "neighbour_mask", "psf", "psf_fwhm_px", "sky_rms")


def _in_ascii(table: QTable) -> QTable:
    """FITS tables hold ASCII alone; whole names are kept in the JSON record."""
    table = table.copy()
    for name in table.colnames:
        if table[name].dtype.kind == "U":
            plain = [str(value).encode("ascii", "backslashreplace").decode() for value in table[name]]
            table[name] = np.asarray(plain, str) if plain else np.zeros(0, "U1")
    return table


def _tensor(data: np.ndarray, is_mask: bool) -> Tensor:
    """FITS pixels (big-endian) as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(data).astype(bool if is_mask else np.float32))


def _stack(tables: Sequence[QTable | None]) -> QTable | None:
    """Rows of all tables, or None where one batch has none."""
    from astropy.table import vstack

    present = [table for table in tables if table is not None]
    return vstack(present, metadata_conflicts="silent") if present and len(present) == len(tables) else None


def _shifted(table: QTable | None, by: int) -> QTable | None:
    """Neighbours whose ``row`` counts from the start of the whole batch."""
    if table is None:
        return None
    table = table.copy()
    table["row"] = np.asarray(table["row"]) + by
    return table
