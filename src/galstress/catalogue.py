"""Predictions as tables on disk, with units, descriptions and, where the format has a place for them, UCDs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io.votable import from_table
from astropy.io.votable import writeto as write_votable
from astropy.table import QTable, Table
from astropy.table.meta import get_header_from_yaml

from galstress.errors import InputError
from galstress.heads import CLASSES, OUTPUTS, Said

__all__ = ["FORMATS", "check_format", "read_catalogue", "tabulate", "write_catalogue"]

FORMATS = {".parquet": "parquet", ".ecsv": "ascii.ecsv", ".fits": "fits", ".vot": "votable"}
"""Formats by suffix."""

_UCDS = {
    "object_id": "meta.id;meta.main",
    "ra": "pos.eq.ra;meta.main",
    "dec": "pos.eq.dec;meta.main",
    "redshift": "src.redshift",
    "flags": "meta.code.qual",
    "effective_samples": "meta.number",
    "chi_square": "stat.fit.chi2",
    "ln_evidence": "stat.likelihood",
    "class": "src.class",
    **{f"p_{name}": "stat.probability;src.class" for name in CLASSES},
}
_UCDS_BY_END = {
    "radius_arcsec": "phys.angSize",
    "flux_njy": "phot.flux.density",
    "e1": "src.ellipticity",
    "e2": "src.ellipticity",
    "x_px": "pos.cartesian.x;instr.det",
    "y_px": "pos.cartesian.y;instr.det",
}


def tabulate(prediction: Said, catalogue: QTable) -> QTable:
    """The prediction's table with what is known of the objects besides: position, redshift, notes.

    Arguments:
        prediction: N objects: posteriors, or probabilities of classes.
        catalogue: ``Cutouts.catalogue`` of the same, in the same order.

    Returns:
        QTable; ``ra``, ``dec`` (deg, ICRS) and ``redshift`` are NaN where unknown, ``note`` says in words what was
        done to an image that did not come complete.
    """
    table = prediction.table()
    for name, text in (("ra", "right ascension, ICRS"), ("dec", "declination, ICRS"), ("redshift", "redshift")):
        column = catalogue[name]
        known = np.ma.getdata(getattr(getattr(column, "unmasked", column), "value", column)).astype(float)
        known[np.broadcast_to(np.asarray(getattr(column, "mask", False)), known.shape)] = np.nan
        table.add_column(known, index=table.colnames.index("flags"), name=name)
        table[name].unit = None if name == "redshift" else "deg"
        table[name].info.description = f"{text}; NaN where unknown"
    if "note" in catalogue.colnames:
        table["note"] = np.asarray(catalogue["note"]).astype(str)
        table["note"].info.description = "what was missing in the image, and what was done"
    return QTable(table, copy=False)


def write_catalogue(table: QTable, path: str | Path) -> Path:
    """Save a table in the format that its suffix names, aside and then renamed.

    Arguments:
        table: For example from :func:`tabulate`.
        path: Ends in one of :data:`FORMATS`. Parquet carries units, descriptions and ``meta`` as astropy writes
            them (``QTable.read`` gives them back); VOTable carries UCDs.

    Returns:
        The path.

    Raises:
        InputError: Another suffix.
    """
    path = Path(path)
    kind = check_format(path)
    aside = path.with_name(f".{path.name}.part")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FITS keeps no long keys, VOTable no meta
        if kind == "votable":
            file = from_table(Table(table))
            for field in file.get_first_table().fields:
                field.ucd = _ucd_of(field.name)
            write_votable(file, str(aside))
        else:
            table.write(aside, format=kind, overwrite=True)
    return aside.replace(path)


def read_catalogue(path: str | Path) -> QTable:
    """A table that :func:`write_catalogue` saved, with units and descriptions.

    Raises:
        InputError: The file cannot be read, or has another suffix.
    """
    path = Path(path)
    kind = check_format(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = _read_parquet(path) if kind == "parquet" else QTable.read(path, format=kind)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} ({error})", "a table that galstress wrote", "make it again") from None
    for name in table.colnames:
        if table[name].info.description:  # VOTable wraps its lines
            table[name].info.description = " ".join(table[name].info.description.split())
    return table


def check_format(path: Path) -> str:
    """The format that a path's suffix names.

    Raises:
        InputError: It names none.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path.name}", f"a name that ends in {', '.join(FORMATS)}", "choose one of these suffixes")
    return FORMATS[path.suffix.lower()]


def _read_parquet(path: Path) -> QTable:
    """Parquet as astropy writes it (its own reader needs pandas)."""
    stored = pq.read_table(path)
    header = get_header_from_yaml((stored.schema.metadata or {})[b"table_meta_yaml"].decode().splitlines())
    table = Table()
    for column in header["datatype"]:
        values = stored[column["name"]]
        text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        table[column["name"]] = np.asarray(values.to_pylist(), str) if text else values.to_numpy()
        table[column["name"]].unit = column.get("unit")
        table[column["name"]].description = column.get("description")
    table.meta = {name: value for name, value in (header.get("meta") or {}).items() if not name.startswith("__")}
    return QTable(table)


def _ucd_of(name: str) -> str | None:
    """Unified content descriptor of a column, by the words of the controlled vocabulary."""
    if name in _UCDS:
        return _UCDS[name]
    if name in OUTPUTS:  # an output without a statistic: its smallest error, as galstress.limit gives it
        return f"stat.error;{_ucd_of_output(name).replace(';instr.det', '')}"
    output, _, statistic = name.removesuffix("_5").rpartition("_")  # p2_5 and p97_5
    if not output or statistic not in ("mean", "std", "mode", "p2", "p16", "p50", "p84", "p97"):
        return None
    ucd = _ucd_of_output(output)
    first, _, rest = ucd.partition(";")
    if statistic == "std":
        return f"stat.stdev;{ucd}"
    kind = {"mean": "stat.mean", "p50": "stat.median"}.get(statistic, "stat.param")
    return f"{first};{kind}" + (f";{rest}" if rest else "")


def _ucd_of_output(output: str) -> str:
    """Unified content descriptor of what an output measures."""
    return next((ucd for end, ucd in _UCDS_BY_END.items() if output.endswith(end)), "src.morph.param")
