"""What every answer of a network has: a row per object, in the order of the images, with names and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from astropy.table import QTable

from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.heads.storage import load_tensors, store_tensors
from galstress.survey import Survey

__all__ = ["Answer"]

_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A network's answer for N objects; what kind of answer, its subclasses say. Unusable rows hold NaN."""

    KIND: ClassVar[str]
    """Name of the record in its file."""
    ARRAYS: ClassVar[tuple[str, ...]]
    """Fields that are arrays with a row an object, besides names and flags."""

    object_id: np.ndarray
    """(N,) names."""
    flags: np.ndarray
    """(N,) int64, bits of :class:`galstress.cutouts.Flag`."""
    survey: Survey
    """Gives units and pixel scale."""
    network: str = ""
    """Name of the network that said so."""
    prior: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Shares of the populations that the network was trained under; empty where unknown."""

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.object_id)

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: rows that hold an answer."""
        return (self.flags & int(_UNUSABLE)) == 0

    def select(self, rows: slice | Sequence[int] | np.ndarray) -> Self:
        """The answers at ``rows`` (a slice, indices or a boolean array)."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) or len(rows) else slice(0, 0)]
        names = ("object_id", "flags", *self.ARRAYS)
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in names})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Answers to batches of one survey as one, in order."""
        names = ("object_id", "flags", *cls.ARRAYS)
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return dataclasses.replace(parts[0], **joined)

    def write(self, path: str | Path) -> None:
        """Save as one safetensors file, aside and then renamed."""
        record = {
            "kind": self.KIND,
            "object_id": [str(name) for name in self.object_id],
            "survey": self.survey.to_record(),
            "network": self.network,
            "prior": dict(self.prior),
        }
        tensors = {name: torch.as_tensor(np.ascontiguousarray(getattr(self, name))) for name in ("flags", *self.ARRAYS)}
        store_tensors(path, tensors, record)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The inverse of :meth:`write`.

        Raises:
            InputError: Not such a file.
        """
        tensors, record = load_tensors(path)
        if record.get("kind") != cls.KIND:
            raise InputError(f"{path} with another kind of answer", f"one of {cls.KIND}", "use read_prediction")
        return cls(
            object_id=np.asarray(record["object_id"], dtype=str),
            survey=Survey.from_record(record["survey"]),
            network=record["network"],
            prior=record.get("prior", {}),
            **{name: tensors[name].numpy() for name in ("flags", *cls.ARRAYS)},
        )

    def begin_table(self) -> QTable:
        """A table with names and flags, and what it is of in its ``meta``."""
        table = QTable()
        table["object_id"] = self.object_id.astype(str)
        table["flags"] = self.flags
        table["flags"].info.description = "bits of galstress.Flag; galstress.decode_flags names them"
        table.meta.update(survey=self.survey.name, band=self.survey.band, network=self.network)
        return table

    def describe(self) -> dict[str, Any]:
        """The fields that every answer has, as arguments of another record."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Answer)}
