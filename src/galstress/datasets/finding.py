"""Where a data set lies: under ``GALSTRESS_DATA``, or downloaded where the files are the source's own."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pooch

from galstress.datasets.records import Dataset
from galstress.errors import InputError

__all__ = ["find_folder"]


def find_folder(dataset: Dataset) -> Path:
    """Folder with the files of a set.

    Looks under ``GALSTRESS_DATA`` first; then in the user's cache, which is filled by download where every file
    is unmodified at its source (each is checked against its SHA-256).

    Raises:
        InputError: It is not here and cannot be had by download; the message says where it comes from.
    """
    named = os.environ.get("GALSTRESS_DATA", "")
    if named:
        folder = Path(named) / dataset.folder
        if folder.is_dir():
            return folder
    where = f"the folder {dataset.folder} under GALSTRESS_DATA ({named or 'not set'})"
    came = f"data set {dataset.name}, which is not here"
    if not dataset.downloads:
        step = f"set GALSTRESS_DATA to the folder that holds it; it was made from {dataset.source}"
        raise InputError(came, where, step)
    cache = Path(pooch.os_cache("galstress")) / dataset.folder
    try:
        for name, (url, sha256) in dataset.downloads.items():
            _fetch(url, sha256, cache / name)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
        reason = " ".join(str(error).split())[:160]
        step = f"set GALSTRESS_DATA, or download again later from {dataset.source} ({reason})"
        raise InputError(came, f"{where}, or a download", step) from None
    return cache


def _fetch(url: str, sha256: str, path: Path) -> None:
    """Download one file unless it is there already."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        pooch.retrieve(url, known_hash=f"sha256:{sha256}", fname=path.name, path=path.parent)
    finally:
        logger.setLevel(level)
