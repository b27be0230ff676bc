"""Paths -> Frames: a file, or a folder with a row per file, sorted by name."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from galstress.errors import InputError
from galstress.loading.arrays import read_numpy
from galstress.loading.fitsfiles import read_fits
from galstress.loading.frames import Frame, failed_frame
from galstress.loading.galsimfiles import is_galsim_catalogue, read_galsim
from galstress.survey import Survey

__all__ = ["list_files", "object_name", "read_files"]

_SUFFIXES = (".fits", ".fit", ".fts", ".npz", ".npy")
_COMPRESSED = (".gz", ".fz", ".bz2")


def object_name(path: Path) -> str:
    """A file's name without what says its kind: the object's name.

    Example:
        >>> object_name(Path("a/gal.001.fits.gz"))
        'gal.001'
    """
    name = path.name
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix) if name.lower().endswith(suffix) else name
    for suffix in _SUFFIXES:
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    # bytes of a file name that are no UTF-8 would break every table that is written later
    return (name or path.name).encode("utf-8", "backslashreplace").decode()


def list_files(source: str | os.PathLike[str]) -> list[Path]:
    """Files to read, sorted by name: the one that a path names, or those of a folder that hold images.

    Raises:
        InputError: Nothing is there, or nothing that can be read.
    """
    if not os.fspath(source):
        raise InputError("an empty path", "a file or a folder", "give one")
    path = Path(source)
    try:
        if path.is_dir():
            inside = sorted(path.iterdir(), key=lambda p: p.name)
        elif path.exists():
            if not path.is_file():
                raise InputError(f"{path}", "a file or a folder", "give a regular file")
            return [path]
        else:
            raise InputError(f"{path}, which does not exist", "a file or a folder", "check the path")
    except OSError as error:
        came = f"{str(path)[:100]} ({error.strerror})"
        raise InputError(came, "a file or a folder", "check its name and permissions") from None
    images = [p for p in inside if _holds_images(p)]
    if images:
        return images
    if not inside:
        raise InputError(f"the empty folder {path}", "a folder with FITS or npz files", "put images into it")
    folders = [p.name for p in inside if p.is_dir()]
    step = f"give one of its folders, such as {path / folders[0]}" if folders else "put images into it"
    shown = ", ".join(p.name for p in inside[:3])
    raise InputError(f"the folder {path} without an image ({shown}, ...)", "FITS or npz files in it", step)


def _holds_images(path: Path) -> bool:
    """Whether a folder's entry is a row: by its name, or by FITS's first bytes. Broken links stay as rows."""
    if path.name.startswith(".") or path.is_dir() or not (path.is_file() or path.is_symlink()):
        return False
    name = path.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    if name.endswith(_SUFFIXES):
        return True
    try:
        with path.open("rb") as file:
            return file.read(9) == b"SIMPLE  ="
    except OSError:
        return False


def read_files(files: list[Path], survey: Survey, hdu: int | str | None) -> list[Frame]:
    """Every object of these files, in order; a failed frame for a file that cannot be read.

    A real-galaxy catalogue (a file with ``catalog`` in its name, or the only file) stands for all files beside it.
    """
    catalogues = [p for p in files if (len(files) == 1 or "catalog" in p.name.lower()) and is_galsim_catalogue(p)]
    if catalogues:
        return list(itertools.chain.from_iterable(read_galsim(path) for path in catalogues))
    return list(itertools.chain.from_iterable(_read_file(path, survey, hdu) for path in files))


def _read_file(path: Path, survey: Survey, hdu: int | str | None) -> list[Frame]:
    """Every object of one file."""
    name = object_name(path)
    if not path.is_file():
        return [failed_frame(name, f"{path.name}, a broken link", "a file", "mend or remove the link")]
    if path.suffix.lower() in (".npz", ".npy"):
        return read_numpy(path, name, survey)
    return read_fits(path, name, hdu)
