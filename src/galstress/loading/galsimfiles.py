"""GalSim's real-galaxy layout -> Frames: a catalogue that names images and PSFs by file and HDU."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table

from galstress.loading.frames import READ_ERRORS, Frame, check_frame, failed_frame, reason_of

__all__ = ["is_galsim_catalogue", "read_galsim"]

_NEEDED = {"IDENT", "GAL_FILENAME", "GAL_HDU", "PSF_FILENAME", "PSF_HDU"}


def is_galsim_catalogue(path: Path) -> bool:
    """Whether a FITS file is a real-galaxy catalogue."""
    if path.suffix.lower() in (".npz", ".npy"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with fits.open(path) as hdus:
                return len(hdus) > 1 and isinstance(hdus[1], fits.BinTableHDU) and set(hdus[1].columns.names) >= _NEEDED
        except READ_ERRORS:
            return False


def read_galsim(path: Path) -> list[Frame]:
    """Every galaxy of a real-galaxy catalogue, in its order, each with its own PSF.

    Arguments:
        path: The catalogue. Files that it names are looked for beside it; where a name is not there (the files
            were renamed), the one file beside it that holds the word ``images`` or ``psf`` is taken.

    Returns:
        A Frame a row: ``object_id`` is IDENT; ``sky_rms`` the square root of NOISE_VARIANCE; ``redshift`` from
        the table ``*_fits.fits`` beside it, where there is one. No magnitude zero point: it is the survey's.

    The PSFs of this layout are effective ones (the image's pixel is in them), sampled as the image is.
    """
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        table = Table.read(path, hdu=1)
        redshift = _redshifts(path)
        opened: dict[Path, fits.HDUList] = {}
        return [check_frame(_read_row(row, path, redshift, opened, stack)) for row in table]


def _read_row(
    row: Row, path: Path, redshift: dict[str, float], opened: dict[Path, fits.HDUList], stack: contextlib.ExitStack
) -> Frame:
    """One galaxy and its PSF."""
    name = str(row["IDENT"]).strip()

    def pixels(kind: str) -> np.ndarray:
        stated = _text(row[f"{kind}_FILENAME"])
        file = _find(path.parent, stated, "images" if kind == "GAL" else "psf")
        if file is None:
            raise FileNotFoundError(f"{stated} is not beside {path.name}")
        if file not in opened:
            opened[file] = stack.enter_context(fits.open(file, memmap=False))
        return np.asarray(opened[file][int(row[f"{kind}_HDU"])].data)

    try:
        image = pixels("GAL")
    except READ_ERRORS as error:
        return failed_frame(
            name, f"galaxy {name} ({reason_of(error)})", "the images that the catalogue names", "get that file"
        )
    psf, note = None, ""
    try:
        psf = pixels("PSF")
    except READ_ERRORS as error:
        note = f"no PSF ({reason_of(error)})"
    names = row.colnames
    columns = {"ra": float(row["RA"]), "dec": float(row["DEC"])} if {"RA", "DEC"} <= set(names) else {}
    if name in redshift:
        columns["redshift"] = redshift[name]
    variance = float(row["NOISE_VARIANCE"]) if "NOISE_VARIANCE" in names else 0.0
    return Frame(
        name,
        image=image,
        psf=psf,
        pixel_scale_arcsec=float(row["PIXEL_SCALE"]) if "PIXEL_SCALE" in names else None,
        sky_rms=variance**0.5 if variance > 0 else None,
        columns=columns,
        note=note,
    )


def _text(value: object) -> str:
    """A name from a table, bytes or not."""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()


def _find(folder: Path, name: str, word: str) -> Path | None:
    """The file that the catalogue names, or the only one beside it that can be meant."""
    plain = Path(name).name
    if plain and (folder / plain).is_file():
        return folder / plain
    found = [p for p in sorted(folder.glob("*.fits*")) if ("psf" in p.name.lower()) == (word == "psf")]
    if word == "images":
        found = [p for p in found if word in p.name.lower()]
    return found[0] if len(found) == 1 else None


def _redshifts(path: Path) -> dict[str, float]:
    """Photometric redshifts by IDENT from the table of fits that goes with a catalogue."""
    companion = path.with_name(path.name.replace(".fits", "_fits.fits", 1))
    if not companion.is_file():
        return {}
    try:
        table = Table.read(companion, hdu=1)
        column = next((table[n] for n in table.colnames if n.lower() == "zphot"), None)
        return {} if column is None else {str(i).strip(): float(z) for i, z in zip(table["IDENT"], column, strict=True)}
    except READ_ERRORS:
        return {}
