"""The folder of records that a report is made from, as Python objects."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.heads import Prediction, Said, read_prediction

__all__ = [
    "FilmRecord",
    "GalaxySet",
    "Maps",
    "PosteriorRecord",
    "Records",
    "StudyRecord",
    "Table",
    "read_records",
    "read_film",
    "read_study",
]

_DARK = "-dark"
"""Ending of the name of a figure's dark twin."""

Table = Mapping[str, np.ndarray]
"""A tidy table: columns by name, all of one length."""


@dataclasses.dataclass(frozen=True)
class Maps:
    """What a network looked at: K maps of each of N galaxies."""

    object_id: tuple[str, ...]
    """(N,) whose maps they are."""
    output: str
    """The output that is explained."""
    names: tuple[str, ...]
    """(K,) what each map is; the network's own first."""
    maps: np.ndarray
    """(N, K, H, W) weights of any scale."""
    correlations: np.ndarray
    """(N, K) correlation of each map with the first (1 for the first itself)."""


@dataclasses.dataclass(frozen=True)
class GalaxySet:
    """A few galaxies of one survey, and what was measured on them."""

    name: str
    """Name of the folder."""
    title: str
    """What is shown, in words."""
    simulated: bool
    """Whether no telescope ever saw them."""
    credit: str
    """Whom to thank."""
    licence: str
    """Under which terms."""
    zero_point_note: str
    """Empty where magnitudes are AB; else what to know before comparing them."""
    literature: Mapping[str, str]
    """What each ``lit_*`` column of the catalogue means."""
    cutouts: Cutouts
    """The images."""
    prediction: Said
    """The posteriors, or probabilities of classes, same order."""
    model: Mapping[str, np.ndarray] | None
    """Arrays of ``model.safetensors``, or None."""
    maps: Maps | None
    """What the network looked at, or None."""
    refined: Prediction | None = None
    """Refined posteriors of some of the galaxies, or None."""

    def __len__(self) -> int:
        """Number of galaxies."""
        return len(self.cutouts)


@dataclasses.dataclass(frozen=True)
class FilmRecord:
    """A galaxy at T angles, and its posterior at each."""

    about: Mapping[str, Any]
    """``film*.json``."""
    arrays: Mapping[str, np.ndarray]
    """``film*.safetensors``."""


@dataclasses.dataclass(frozen=True)
class PosteriorRecord:
    """Posteriors of simulated galaxies beside the photon limit."""

    name: str
    """Name of the folder."""
    about: Mapping[str, Any]
    """``about.json``."""
    galaxies: Table
    """``galaxies.parquet``."""
    errors: Table
    """``errors.parquet``."""
    coverage: Table
    """``coverage.parquet``."""
    joint: Table | None
    """``joint.parquet``."""
    draws: Mapping[str, np.ndarray] | None
    """``draws.safetensors``."""


@dataclasses.dataclass(frozen=True)
class StudyRecord:
    """What ``galstress study`` answered."""

    name: str
    """Name of the folder."""
    summary: Mapping[str, Any]
    """``summary.json``."""
    figures: tuple[tuple[Path, Path | None], ...] = ()
    """Each figure's file, SVG before PNG, and that of its dark twin where there is one."""


@dataclasses.dataclass(frozen=True)
class Records:
    """Everything that was found in the folder; None (or nothing) for what is missing."""

    manifest: Mapping[str, Any]
    """``manifest.json``; empty where missing."""
    sets: tuple[GalaxySet, ...]
    """The galaxies, by folder name."""
    stress: Table | None
    """``stress.parquet``."""
    accuracy: Table | None
    """``accuracy.parquet``."""
    coverage: Table | None
    """``coverage.parquet``."""
    domain: Table | None
    """``domain.parquet``."""
    films: tuple[FilmRecord, ...]
    """``film*.json`` and ``film*.safetensors``, ``film`` first."""
    training: Mapping[str, Any] | None
    """``training.json``."""
    posteriors: tuple[PosteriorRecord, ...] = ()
    """``posteriors/*``, by folder name."""
    studies: tuple[StudyRecord, ...] = ()
    """``studies/*``, by folder name, and those of other folders after them."""


def read_records(folder: str | Path, studies: Sequence[str | Path] = ()) -> Records:
    """Read a folder of records; :mod:`galstress.report` says what each file holds.

    Arguments:
        folder: As written by ``galstress demo``.
        studies: Folders that ``galstress study`` wrote, beside those in ``studies/``.

    Raises:
        InputError: There is no such folder, or a file in it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"records folder {folder}", "a folder of records", "make it with galstress demo")
    sets = sorted(path.parent for path in folder.glob("galaxies/*/cutouts.fits"))
    films = sorted(path.with_suffix("") for path in folder.glob("film*.json"))
    return Records(
        manifest=_read_json(folder / "manifest.json") or {},
        sets=tuple(_read_set(path) for path in sets if (path / "prediction.safetensors").exists()),
        stress=_read_table(folder / "stress.parquet"),
        accuracy=_read_table(folder / "accuracy.parquet"),
        coverage=_read_table(folder / "coverage.parquet"),
        domain=_read_table(folder / "domain.parquet"),
        films=tuple(read_film(path) for path in films if path.with_suffix(".safetensors").exists()),
        training=_read_json(folder / "training.json"),
        posteriors=tuple(_read_posteriors(path.parent) for path in sorted(folder.glob("posteriors/*/about.json"))),
        studies=tuple(
            read_study(path)
            for path in (*(each.parent for each in sorted(folder.glob("studies/*/summary.json"))), *map(Path, studies))
        ),
    )


def read_study(folder: Path) -> StudyRecord:
    """Read the folder of a study: its summary, and the names of its figures.

    Raises:
        InputError: It has no ``summary.json``, or none with a ``sentence``.
    """
    summary = _read_json(folder / "summary.json")
    if summary is None or not str(summary.get("sentence") or ""):
        came = f"{folder} without a summary.json that has a sentence"
        raise InputError(came, "a folder that galstress study has finished", "run the study to its end")
    found: dict[str, Path] = {
        path.stem: path for ending in ("png", "svg") for path in sorted(folder.glob(f"*.{ending}"))
    }
    figures = [(path, found.get(stem + _DARK)) for stem, path in sorted(found.items()) if not stem.endswith(_DARK)]
    return StudyRecord(folder.resolve().name, summary, tuple(figures))


def _read_set(folder: Path) -> GalaxySet:
    """One folder of galaxies."""
    about = _read_json(folder / "set.json") or {}
    cutouts = Cutouts.read(folder / "cutouts.fits")
    prediction = read_prediction(folder / "prediction.safetensors")
    if [str(name) for name in prediction.object_id] != [str(name) for name in cutouts.object_id]:
        raise InputError(f"other galaxies in {folder}/prediction.safetensors", "those of cutouts.fits", "predict again")
    model = _read_arrays(folder / "model.safetensors")[0] if (folder / "model.safetensors").exists() else None
    refined = folder / "refined.safetensors"
    return GalaxySet(
        name=folder.name,
        title=str(about.get("title") or folder.name),
        simulated=bool(about.get("simulated", cutouts.truth is not None)),
        credit=str(about.get("credit") or ""),
        licence=str(about.get("licence") or ""),
        zero_point_note=str(about.get("zero_point_note") or ""),
        literature={str(name): str(meaning) for name, meaning in _mapping(about.get("literature")).items()},
        cutouts=cutouts,
        prediction=prediction,
        model=model,
        maps=_read_maps(folder / "explanation.safetensors"),
        refined=Prediction.read(refined) if refined.exists() else None,
    )


def read_film(path: Path) -> FilmRecord:
    """A film's two files, named without their endings."""
    return FilmRecord(_read_json(path.with_suffix(".json")) or {}, _read_arrays(path.with_suffix(".safetensors"))[0])


def _read_posteriors(folder: Path) -> PosteriorRecord:
    """One folder of posteriors."""
    tables = {name: _read_table(folder / f"{name}.parquet") for name in ("galaxies", "errors", "coverage", "joint")}
    missing = [f"{name}.parquet" for name in ("galaxies", "errors", "coverage") if tables[name] is None]
    if missing:
        raise InputError(f"{folder} without {' and '.join(missing)}", "a whole record", "make the records again")
    draws = folder / "draws.safetensors"
    return PosteriorRecord(
        folder.name,
        _read_json(folder / "about.json") or {},
        tables["galaxies"] or {},
        tables["errors"] or {},
        tables["coverage"] or {},
        tables["joint"],
        _read_arrays(draws)[0] if draws.exists() else None,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def _read_maps(path: Path) -> Maps | None:
    """Maps and what their metadata say, or None where there are none."""
    if not path.exists():
        return None
    arrays, about = _read_arrays(path)
    try:
        names, object_id = json.loads(about["names"]), json.loads(about["object_id"])
        return Maps(tuple(object_id), about["output"], tuple(names), arrays["maps"], arrays["correlations"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} ({error})", "maps as galstress.report describes them", "explain again") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} ({error})", "a JSON object", "make the records again") from None
    if not isinstance(record, dict):
        raise InputError(f"{path} with a {type(record).__name__}", "a JSON object", "make the records again")
    return record


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} ({error})", "a safetensors file", "make the records again") from None


def _read_table(path: Path) -> Table | None:
    """The columns of a Parquet file, or None where there is no such file."""
    if not path.exists():
        return None
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path} ({error})", "a Parquet file", "make the records again") from None
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        encoded = pyarrow.types.is_dictionary(column.type)
        columns[name] = (column.dictionary_decode() if encoded else column).to_numpy(zero_copy_only=False)
    return columns
