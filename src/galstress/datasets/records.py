"""The Dataset record: one named set of real images, with its licence, its credit and its reader."""

from __future__ import annotations

import csv
import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits

from galstress.errors import UnknownNameError
from galstress.loading import Frame
from galstress.survey import Psf, Survey

__all__ = [
    "Dataset",
    "derive_survey",
    "github_files",
    "psf_of",
    "read_csv",
    "read_number",
    "read_pixels",
    "with_columns",
]

HST_CREDIT = "NASA/ESA Hubble Space Telescope (STScI/MAST)"
HSC_CREDIT = "Hyper Suprime-Cam SSP, National Astronomical Observatory of Japan"
SDSS_CREDIT = "Sloan Digital Sky Survey (www.sdss.org)"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One set of real images: what it is, whose it is, and how it is read. Pure data but for two functions."""

    name: str
    """As in ``datasets.load``, for example ``hst-candels-bd201``."""
    title: str
    """One line."""
    folder: str
    """Folder under ``GALSTRESS_DATA``."""
    surveys: Mapping[str, Survey]
    """Survey record by band; the first band is the default."""
    licence: str
    """Licence of the repository that the files come from, as it states it."""
    credit: str
    """Whom a picture of these galaxies credits."""
    source: str
    """Where the files come from: repository and commit."""
    changes: str
    """What differs from the files at the source."""
    zero_point_note: str
    """Where the zero points come from and how far they are to be trusted."""
    read: Callable[[Path, str], list[Frame]]
    """(folder, band) -> a Frame an object, with literature values in columns ``lit_*``."""
    columns: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """Unit and description of each ``lit_*`` column."""
    downloads: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    """URL and SHA-256 of each file, only where the file at the source is the same byte for byte."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands, the default first."""
        return tuple(self.surveys)

    def choose_band(self, band: str | None) -> str:
        """The band asked for, or the default.

        Raises:
            UnknownNameError: The set has no such band.
        """
        if band is None:
            return self.bands[0]
        by_lower = {known.lower(): known for known in self.bands}
        if band.lower() not in by_lower:
            raise UnknownNameError(f"band of {self.name}", band, self.bands)
        return by_lower[band.lower()]


def github_files(folder: str, files: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    """Downloads by local name.

    Arguments:
        folder: Local folder, or an empty string.
        files: By local name: ``owner/repository@commit``, the path in it, and the SHA-256.
    """
    result = {}
    for name, (place, path, sha256) in files.items():
        repository, commit = place.split("@")
        url = f"https://github.com/{repository}/raw/{commit}/{path}"
        result[f"{folder}/{name}" if folder else name] = (url, sha256)
    return result


def derive_survey(base: str, name: str, band: str, source: str, **numbers: float | Psf) -> Survey:
    """A survey record with numbers of its own; each of them gets the same source."""
    survey = Survey.load(base)
    sources = {**survey.sources, **dict.fromkeys(numbers, source)}
    return dataclasses.replace(survey, name=name, band=band, sources=sources, published_depth={}, **numbers)  # type: ignore[arg-type]


def psf_of(kind: str, fwhm_arcsec: float, **numbers: float) -> Psf:
    """A PSF: ``moffat`` with ``beta``, or Hubble's ``airy`` with ``wavelength_nm`` and the jitter that FWHM needs."""
    if kind == "moffat":
        return Psf("moffat", fwhm_arcsec, **numbers)
    wavelength = numbers["wavelength_nm"]
    diffraction = 1.02 * wavelength * 1e-9 / 2.4 * 206264.8
    jitter = math.sqrt(max(fwhm_arcsec**2 - diffraction**2, 0.0)) / 2.3548
    return Psf("airy", fwhm_arcsec, diameter_m=2.4, wavelength_nm=wavelength, obscuration=0.33, jitter_arcsec=jitter)


def read_csv(path: Path, key: str) -> dict[str, dict[str, str]]:
    """Rows of a CSV file by the text of one column; none where the file is missing."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def read_number(row: Mapping[str, str], name: str, scale: float = 1.0, shift: float = 0.0) -> float:
    """A number of a row, scaled and shifted; NaN where it is empty or a placeholder such as -999."""
    try:
        value = float(row[name])
    except (KeyError, ValueError):
        return math.nan
    return math.nan if value <= -99 or value >= 9000 else value * scale + shift


def read_pixels(path: Path, hdu: int | str = 0) -> np.ndarray:
    """Pixels of one HDU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cards of old headers
        return np.asarray(fits.getdata(path, hdu))


def with_columns(frame: Frame, columns: Mapping[str, object], **changes: object) -> Frame:
    """The frame with further columns, and with other fields replaced."""
    return dataclasses.replace(frame, columns={**frame.columns, **columns}, **changes)  # type: ignore[arg-type]
