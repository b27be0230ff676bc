"""What a part of the page is made of."""

from __future__ import annotations

import dataclasses

from galstress.report.pictures import Picture

__all__ = ["DataTable", "Film", "Group", "Section", "absent"]


@dataclasses.dataclass(frozen=True)
class DataTable:
    """A small table."""

    columns: tuple[str, ...]
    """Headings."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, all text."""
    caption: str = ""
    """What it shows."""
    prose: bool = False
    """Whether cells are sentences, stacked on a narrow screen."""
    folded: bool = False
    """Whether it is shown on demand only; it needs a caption then."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Figures that belong side by side."""

    pictures: tuple[Picture, ...]
    """The figures."""
    title: str = ""
    """A heading above them."""
    note: str = ""
    """A sentence or two on how to read them."""
    small: bool = False
    """Whether they are thumbnails without axes."""


@dataclasses.dataclass(frozen=True)
class Film:
    """A film, and what stands for it on paper."""

    address: str
    """data: address of the film."""
    still: Picture
    """One of its frames; says in words what is to be seen."""
    title: str
    """What turns, and how."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page with its own heading."""

    key: str
    """Anchor of the part."""
    title: str
    """Heading."""
    lead: str = ""
    """A few sentences above the figures."""
    groups: tuple[Group, ...] = ()
    """Figures."""
    tables: tuple[DataTable, ...] = ()
    """Tables, below the figures."""
    films: tuple[Film, ...] = ()
    """Films."""
    missing: str = ""
    """Where there is no record: one sentence that says so."""


def absent(key: str, title: str, missing: str) -> Section:
    """A part whose records are missing."""
    return Section(key=key, title=title, missing=missing)
