"""Tables on disk: Parquet for programs, JSON for pages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable, Table

from galstress.errors import InputError

__all__ = ["read_table", "write_table"]

_KEY = b"galstress"
"""Schema metadata of the Parquet file: what Parquet itself has no place for."""


def write_table(table: QTable, path: str | Path) -> tuple[Path, Path]:
    """Save a table twice, as ``.parquet`` and as ``.json``, each written aside and then renamed.

    Units, descriptions and ``table.meta`` are kept in both; :func:`read_table` gives them back. The JSON is
    ``{"meta", "rows", "columns": [{"name", "unit", "description", "values"}]}`` with null for what is not finite.

    Arguments:
        table: Columns of numbers, strings and booleans.
        path: Where to; its suffix is replaced by the two.

    Returns:
        The Parquet file and the JSON file.
    """
    parquet, plain = Path(path).with_suffix(".parquet"), Path(path).with_suffix(".json")
    heads = [
        {"name": name, "unit": str(info.unit or ""), "description": info.description or ""}
        for name, info in ((name, table[name].info) for name in table.colnames)
    ]
    record = {"meta": dict(table.meta), "rows": len(table), "columns": heads}
    notes = json.dumps(record)
    values = [list(_plain(table[name])) for name in table.colnames]
    columns = [head | {"values": each} for head, each in zip(heads, values, strict=True)]
    text = json.dumps(record | {"columns": columns}, allow_nan=False)

    arrays = {name: pa.array(_numbers(table[name]), mask=_mask(table[name])) for name in table.colnames}
    aside = parquet.with_name(f".{parquet.name}.part")
    pq.write_table(pa.table(arrays).replace_schema_metadata({_KEY: notes.encode()}), aside)
    aside.replace(parquet)
    aside = plain.with_name(f".{plain.name}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(plain)
    return parquet, plain


def read_table(path: str | Path) -> QTable:
    """A table that :func:`write_table` saved as Parquet, with units, descriptions and meta.

    Raises:
        InputError: The file cannot be read or was written by something else.
    """
    try:
        stored = pq.read_table(path)
        notes = json.loads((stored.schema.metadata or {})[_KEY])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} ({error})", "a Parquet file of write_table", "make it again") from None
    table = Table(masked=False)
    for head in notes["columns"]:
        values = stored[head["name"]]
        numbers = values.to_numpy() if values.null_count == 0 else np.ma.masked_invalid(values.to_numpy())
        if pa.types.is_string(values.type):
            numbers = np.asarray(values.to_pylist(), str)
        table[head["name"]] = numbers
        table[head["name"]].unit = head["unit"] or None
        table[head["name"]].description = head["description"]
    table.meta = notes["meta"]
    return QTable(table)


def _numbers(column: Any) -> np.ndarray:  # noqa: ANN401 (Column, MaskedColumn or Quantity)
    """The values of a column as an array."""
    column = getattr(column, "unmasked", column)
    values = np.ma.getdata(getattr(column, "value", column))
    return np.asarray(values).astype(object) if values.dtype.kind == "U" else np.asarray(values)


def _mask(column: Any) -> np.ndarray:  # noqa: ANN401
    """(N,) what is masked in a column."""
    return np.array(np.broadcast_to(np.asarray(getattr(column, "mask", False)), len(column)))


def _plain(column: Any) -> Iterator[Any]:  # noqa: ANN401
    """Values as JSON knows them; nine digits are more than float32 holds."""
    for value, masked in zip(_numbers(column).tolist(), _mask(column), strict=True):
        if masked or (isinstance(value, float) and not math.isfinite(value)):
            yield None
        else:
            yield float(f"{value:.9g}") if isinstance(value, float) else value
