"""Figures of one or more runs as the one summary that the documents quote.

    python benchmarks/record.py results/post/summary.ecsv results/speed.ecsv docs/results/posteriors/summary.json

The inputs are what ``posteriors.py`` and ``fits.py`` write: tables of figures, each with sample, size and interval,
that say in their meta which command made them. Rows in bins are left out: they stay with the tables.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from astropy.table import Table

import galstress

_DIGITS = 4


def read_figures(path: Path) -> dict[str, Any]:
    """Command and figures of one table."""
    table = Table.read(path, format="ascii.ecsv")
    rows = []
    for row in table:
        if "bin" in str(row["sample"]):
            continue
        figure = {name: str(row[name]) for name in ("sample", "what", "who")}
        figure |= {name: _rounded(row[name]) for name in ("value", "low", "high")}
        rows.append(figure | {"count": int(row["count"]), "note": str(row["note"])})
    return {"command": str(table.meta.get("command", "")), "version": str(table.meta["version"]), "figures": rows}


def _rounded(value: float) -> float | None:
    """A few digits, or None where there is no number."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _name(path: Path) -> str:
    """Of a run: that of its table, or of the folder where the table is a summary."""
    return path.parent.name if path.stem == "summary" else path.stem


def main() -> None:
    """Read all, write one, aside and then renamed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("summary", type=Path)
    options = parser.parse_args()
    record = {
        "study": options.summary.parent.name,
        "version": galstress.__version__,
        "intervals": "68 %, bootstrap over galaxies, 200 resamplings, unless a note says otherwise",
        "runs": {_name(path): read_figures(path) for path in options.tables},
    }
    options.summary.parent.mkdir(parents=True, exist_ok=True)
    aside = options.summary.with_name(options.summary.name + ".part")
    aside.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(options.summary)


if __name__ == "__main__":
    main()
