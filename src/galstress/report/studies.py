"""The parts of the page that show studies: the answer, its figures, its numbers, and how they were made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from galstress.report.pictures import show_file
from galstress.report.records import StudyRecord
from galstress.report.section import DataTable, Group, Section

__all__ = ["report_studies"]

_TITLES = MappingProxyType(
    {
        "labels": "How many labels does simulation save?",
        "transport": "Trained on one survey, used on another",
        "invariance": "What makes a network blind to rotation?",
        "rotation": "How far do answers move when galaxies turn?",
    }
)
_WORDS = MappingProxyType({"bulge_to_total": "B/T", "ln_radius": "ln of the radius", "ln_flux": "ln of the flux"})
"""Names of quantities, for people."""
_FIRST = ("command", "network", "surveys", "target", "sample", "test", "intervals", "seed", "seeds")
"""What is said of a study before anybody asks; the other settings are told on demand."""
_MOST_ROWS = 120
"""Rows of a table; of longer ones the page says where they stand."""
_TOLD = ("study", "sentence")
"""Entries that are not among the settings: they have places of their own."""
_LISTED = 12
"""Members of a list that is told in one cell."""


def report_studies(studies: Sequence[StudyRecord]) -> list[Section]:
    """One part a study, in the order given."""
    return [_report(study, f"study-{place}") for place, study in enumerate(studies, start=1)]


def _report(study: StudyRecord, key: str) -> Section:
    """Sentence, figures, tables, settings."""
    summary = study.summary
    kind = str(summary.get("study") or study.name)
    title = _TITLES.get(kind, f"Study: {kind}")
    if study.name != kind:
        title += f" ({study.name})"
    sentence = str(summary["sentence"])
    pictures = tuple(
        show_file(light, dark, f"Figure {light.stem} of the study of {kind}. {sentence}")
        for light, dark in study.figures
    )
    groups = (Group(pictures),) if pictures else ()
    return Section(key, title, sentence, groups, (*_list_tables(summary), *_tell_making(summary)))


def _list_tables(summary: Mapping[str, Any]) -> Iterator[DataTable]:
    """Each list of objects, on demand."""
    for name, rows in summary.items():
        if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
            continue
        columns = list(dict.fromkeys(column for row in rows for column in row))
        shown = rows[:_MOST_ROWS]
        cells = tuple(tuple(_say(row.get(column)) for column in columns) for row in shown)
        left = f", the first {_MOST_ROWS} of {len(rows)}; all are in summary.json" if len(rows) > _MOST_ROWS else ""
        headings = tuple(column.replace("_", " ") for column in columns)
        yield DataTable(headings, cells, f"{name.replace('_', ' ')}{left}", folded=True)


def _tell_making(summary: Mapping[str, Any]) -> Iterator[DataTable]:
    """Command, sample and seeds, then every other setting that is a number, a word or an object of these."""
    heading = ("setting", "value")
    first = {name: summary[name] for name in _FIRST if name in summary}
    rest = {name: value for name, value in summary.items() if name not in (*_FIRST, *_TOLD)}
    for entries, caption, folded in ((first, "how it was made", False), (rest, "all settings", True)):
        rows = tuple((name.replace("_", " "), _say(value)) for name, value in _flatten(entries))
        if rows:
            yield DataTable(heading, rows, caption, prose=True, folded=folded)


def _flatten(entries: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of what is no table, those of inner objects after the outer name."""
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{before}{name} ")
        elif not (isinstance(value, list) and any(isinstance(each, dict) for each in value)):
            yield f"{before}{name}", value


def _say(value: object) -> str:
    """A value as people read it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list):
        words = ", ".join(_say(each) for each in value[:_LISTED])
        return words + (f" and {len(value) - _LISTED} more" if len(value) > _LISTED else "")
    return _WORDS.get(str(value), str(value))
