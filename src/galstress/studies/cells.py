"""Jobs of a study whose results are kept, a file each, so that the next run goes on where this one ended."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from astropy.table import QTable
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from galstress.errors import InputError
from galstress.studies.records import write_json

__all__ = ["Job", "digest", "keep", "list_rows", "list_versions", "round_number", "write_table"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One piece of work and what its result depends on."""

    name: str
    """Of its file, without the suffix."""
    mark: str
    """:func:`digest` of everything that the result depends on."""
    work: Callable[[], Mapping[str, Any]]
    """Does it; the record goes to the file."""
    weight: int = 1
    """How long it takes, in units of the shortest."""
    also: Path | None = None
    """A further file that the work leaves; without it the work is done again."""


def keep(jobs: Sequence[Job], folder: Path, *, progress: bool = False) -> dict[str, dict[str, Any]]:
    """The records of all jobs by name, in order: read where an earlier run left them, else made and written.

    Arguments:
        jobs: In the order in which they are done; later ones may need the files of earlier ones.
        folder: Of the files; made if missing.
        progress: Show what is done, and the time left (on stderr).

    Raises:
        InputError: A file is broken, or of other data or settings.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in (1, 2):
        ...         keep([Job("one", "mark", lambda: {"found": number})], Path(folder))["one"]["found"]
        1
        1
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {job.name: _read(job, folder / f"{job.name}.json") for job in jobs}
    todo = [job for job in jobs if found[job.name] is None]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("", total=sum(job.weight for job in todo))
        for job in todo:
            bar.update(task, description=job.name)
            record = {"of": job.mark, **job.work()}
            write_json(folder / f"{job.name}.json", record)
            found[job.name] = record
            bar.advance(task, job.weight)
    return {name: record for name, record in found.items() if record is not None}


def _read(job: Job, path: Path) -> dict[str, Any] | None:
    """The record of a job that an earlier run of this very study did, or None."""
    if not path.exists() or (job.also is not None and not job.also.exists()):
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} ({error})", "a cell of this study", "move it away") from None
    if not isinstance(record, dict) or record.get("of") != job.mark:
        raise InputError(f"{path} of other data or settings", "cells of this very study", "give another folder")
    return record


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits of what JSON knows, or of its text.

    Example:
        >>> digest("a", 1) == digest("a", 1), digest("a", 1) == digest("a", 2)
        (True, False)
    """
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def round_number(value: float) -> float | None:
    """Six digits of a number as JSON knows it; None where it is not finite.

    Example:
        >>> round_number(1 / 3), round_number(float("nan"))
        (0.333333, None)
    """
    return float(f"{value:.6g}") if math.isfinite(value) else None


def list_rows(table: QTable) -> list[dict[str, Any]]:
    """Rows of a table without units as JSON knows them."""
    rows = [dict(zip(table.colnames, (each.item() for each in row), strict=True)) for row in table.iterrows()]
    return [{k: round_number(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def list_versions() -> dict[str, str]:
    """What the answers may depend on."""
    return {name: importlib.metadata.version(name) for name in ("galstress", "torch", "numpy", "astropy")}


def write_table(table: QTable, path: Path) -> None:
    """A table as ECSV, aside and then renamed."""
    aside = path.with_name(path.name + ".part")
    table.write(aside, format="ascii.ecsv", overwrite=True)
    aside.replace(path)
