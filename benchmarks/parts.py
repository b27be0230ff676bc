"""What long benchmarks share: work cut into parts that are kept, and figures with their intervals.

A part is a dictionary of arrays whose first axis is the galaxies. Parts are written aside and renamed, in a
folder named after everything that they depend on (settings, seed, weights, the code that computes them): what
is there is not computed again, what no longer holds is not found. ``--share 2/4`` computes every fourth part
from the third on and nothing else, so that several processes or machines share the work; a run without it
computes what is missing and makes the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from safetensors.numpy import load_file, save_file

import galstress
from galstress.networks import Network
from galstress.scores import Interval, bootstrap

__all__ = ["Ledger", "Part", "Plan", "add_options", "mix", "ratio_of_means", "read_plan", "weights_digest"]

Part = dict[str, np.ndarray]
_COMPUTING = ("heads", "likelihood", "networks", "refinement", "rendering")
_COMPUTING_FILES = ("galaxy.py", "optics.py", "population.py", "prediction.py", "profiles.py", "simulation.py")
_log = logging.getLogger("parts")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where parts are kept, and which of them this process computes."""

    out: Path
    """The record; parts lie beside it."""
    share: tuple[int, int]
    """This process computes the parts whose number is ``share[0]`` modulo ``share[1]``."""

    @property
    def shares_work(self) -> bool:
        """Whether other processes do the rest, so that there is no table to make here."""
        return self.share[1] > 1

    def gather(self, settings: Mapping[str, Any], number: int, measure: Callable[[int], Part]) -> Part:
        """All parts as one, computed where they are missing; empty if others compute some of them.

        Arguments:
            settings: All that the parts depend on; plain values.
            number: How many parts.
            measure: Computes one of them.
        """
        text = json.dumps({**settings, "code": code_digest()}, sort_keys=True, default=str)
        name = f"{settings.get('what', 'parts')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        folder = self.out.with_name(self.out.name + ".parts") / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.json").write_text(text, encoding="utf-8")
        paths = [folder / f"{place:05d}.safetensors" for place in range(number)]
        mine = [place for place in range(self.share[0], number, self.share[1]) if not paths[place].exists()]
        start = time.perf_counter()
        for done, place in enumerate(mine):
            part = measure(place)
            aside = paths[place].with_name(f"{paths[place].name}.{os.getpid()}")
            save_file({key: np.ascontiguousarray(values) for key, values in part.items()}, aside)
            aside.replace(paths[place])
            left = (time.perf_counter() - start) / (done + 1) * (len(mine) - done - 1)
            _log.info("%s: part %d of %d, about %.1f min left", _title(settings), done + 1, len(mine), left / 60)
        if self.shares_work:
            return {}
        parts = [load_file(path) for path in paths]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}


def _title(settings: Mapping[str, Any]) -> str:
    """A few words on what is computed."""
    return " ".join(str(settings[key]) for key in ("what", "sample") if key in settings)


@functools.cache
def code_digest() -> str:
    """Digest of the code that parts depend on, as it was when this process began."""
    root = Path(galstress.__file__).parent
    paths = [path for name in _COMPUTING for path in (root / name).glob("*.py")]
    paths += [*(root / name for name in _COMPUTING_FILES), Path(__file__).with_name("samples.py")]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def weights_digest(network: Network) -> str:
    """Digest of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.modules().state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def mix(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])


class Ledger:
    """Figures, each with sample, size and interval; printed as they come, written as one table."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows: list[dict[str, object]] = []

    def add(
        self,
        sample: str,
        what: str,
        who: str,
        interval: Interval | Sequence[float] | float,
        count: int,
        note: str = "",
        *,
        shown: bool = True,
    ) -> None:
        """One figure.

        Arguments:
            sample: Of which galaxies.
            what: Which quantity, with its unit.
            who: Whose.
            interval: Value, low, high (68 %, bootstrap over objects), or the value alone where there is no interval.
            count: Objects that it rests on.
            note: Bar, published value, or what else belongs beside it.
            shown: Whether it is printed, too.
        """
        ends = (interval, math.nan, math.nan) if isinstance(interval, float | int) else interval
        value, low, high = (float(end) for end in ends)
        row = {"sample": sample, "what": what, "who": who, "value": value, "low": low, "high": high}
        self.rows.append(row | {"count": int(count), "seed": self.seed, "note": note})
        between = "" if math.isnan(low) else f"({low:.4g} to {high:.4g})"
        if shown:
            _log.info("%-34s %-40s %-8s %9.4g %-22s N=%d  %s", sample, what, who, value, between, count, note)

    def measure(
        self,
        sample: str,
        what: str,
        who: str,
        statistic: Callable[..., Any],
        *arrays: np.ndarray,
        note: str = "",
        shown: bool = True,
    ) -> None:
        """A statistic of arrays over objects, with its bootstrap interval; rows that are not finite are left out."""
        good = np.isfinite(np.stack(arrays)).all(0)
        kept = [array[good] for array in arrays]
        self.add(sample, what, who, bootstrap(statistic, *kept, seed=self.seed), int(good.sum()), note, shown=shown)

    def write(self, path: Path, **meta: object) -> None:
        """The table as ECSV, written aside and renamed."""
        table = Table(rows=self.rows) if self.rows else Table()
        table.meta.update({key: value if isinstance(value, int | float) else str(value) for key, value in meta.items()})
        table.meta.update(seed=self.seed, version=galstress.__version__, code=code_digest())
        write_table(table, path)
        _log.info("written: %s (%d figures)", path, len(table))


def write_table(table: Table, path: Path) -> None:
    """A table as ECSV, written aside and renamed."""
    aside = path.with_name(path.name + ".part")
    table.write(aside, format="ascii.ecsv", overwrite=True)
    aside.replace(path)


def ratio_of_means(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Mean over mean, along the last axis."""
    return above.mean(-1) / below.mean(-1)


def add_options(parser: argparse.ArgumentParser, count: int) -> None:
    """The options of every subcommand."""
    parser.add_argument("--count", type=int, default=count, help="how many (what of: see the subcommand)")
    parser.add_argument("--seed", type=int, default=700_000)
    parser.add_argument("--out", type=Path, required=True, help="the record, an ECSV file; parts are kept beside it")
    parser.add_argument("--share", default="0/1", help="K/N: compute parts K, K + N, ... and make no table")
    parser.add_argument("--threads", type=int, default=1)


def read_plan(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for; sets the threads."""
    torch.set_num_threads(options.threads)
    code_digest()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    first, _, number = options.share.partition("/")
    return Plan(options.out, (int(first), int(number)))
