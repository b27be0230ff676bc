"""How far do the answers of networks move when galaxies turn: a distribution over galaxies, not one galaxy."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.errors import InputError, UnknownNameError
from galstress.networks import Network
from galstress.prediction.judging import read_prior
from galstress.recipes.published import published_surveys
from galstress.scores import bootstrap
from galstress.studies.cells import Job, digest, keep, list_versions, round_number
from galstress.studies.records import write_json
from galstress.studies.turns import BLOCK, KINDS, POINTS, Field, list_quantities, measure_block
from galstress.survey import Survey, available_surveys
from galstress.turning import side_for_turns

__all__ = ["RotationStudy", "find_fields", "study_rotation"]

_LIMITS = (1, 3, 5)
"""Per cent within which galaxies are counted."""
_BAR, _BAR_SHARE, _FOVEAL_BAR = 3, 0.95, 1
_LEVEL, _RESAMPLINGS = 0.95, 400
_Z = 1.959964
_OF = ("largest", "rms")

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class RotationStudy:
    """What :func:`study_rotation` found."""

    galaxies: QTable
    """A row a galaxy, network, survey, way to turn, pass, quantity and ``part`` (``point`` or ``interval``):
    ``largest`` and ``rms`` deviation over angles from the mean over angles, as shares of 1."""
    sentence: str
    """The answer in words."""
    summary: Mapping[str, Any]
    """As ``summary.json`` has it: lists ``bar``, ``shifts``, ``decisions`` and ``worst``."""


def find_fields(
    network: Network,
    names: Sequence[str] = (),
    *,
    stamp_px: int | None = None,
    least_snr: float = 20.0,
    seed: int = 1,
    turnable: bool = False,
) -> list[Field]:
    """Galaxies as a network was trained on them, a field a survey.

    Arguments:
        network: Its metadata name its surveys and the populations of each; ``cosmos`` is taken where they don't.
        names: Of surveys: presets, or those of a publication (``gamornet-sdss``); by default the network's first.
            ``all`` stands for all of the network's.
        stamp_px: Side of the stamps; by default the backbone's, or the survey's.
        least_snr: Fainter galaxies are left out.
        seed: Of the galaxies.
        turnable: The stamps are larger by what turns by any angle take; the galaxies are the same ones, or as large.

    Raises:
        InputError: The network names no survey, and none is given.
        UnknownNameError: No such survey.
    """
    own = tuple(network.metadata.get("prior") or ())
    chosen = list(names) or list(own[:1])
    chosen = [name for each in chosen for name in (own if each == "all" else (each,))]
    if not chosen:
        raise InputError("a network that names no survey", "one that does, or a survey", "give --survey hsc-wide-i")
    fields = []
    for name in dict.fromkeys(chosen):
        survey = published_surveys().get(name)
        if survey is None:
            if name not in available_surveys() and not Path(name).is_file():
                raise UnknownNameError("survey", name, (*available_surveys(), *published_surveys()))
            survey = Survey.load(name)
        side = stamp_px or getattr(network.backbone, "stamp_px", None) or survey.stamp_px
        field = Field(survey, read_prior(network, name) or {"cosmos": 1.0}, int(side), least_snr, seed)
        wide = dataclasses.replace(field, stamp_px=side_for_turns(int(side)), view_px=int(side))
        fields.append(wide if turnable else field)
    return fields


def study_rotation(
    networks: Mapping[str, tuple[Network, Sequence[Field]]],
    *,
    folder: str | Path,
    size: tuple[int, int] = (500, 36),
    kinds: Sequence[str] = tuple(KINDS),
    average: Sequence[int] = (),
    single: bool = True,
    device: str = "cpu",
    command: str = "",
    progress: bool = False,
) -> RotationStudy:
    """Turn simulated galaxies through a circle, and measure every network's answers at every angle.

    Arguments:
        networks: By name, each with the galaxies that it is asked about (:func:`find_fields`).
        folder: Where to; made if missing. Every fifty galaxies of a network and pass are a file below ``cells`` and are
            not made again by the next run: more galaxies or networks add to what is there. ``summary.json`` is written
            at the end.
        size: Galaxies of each survey, a multiple of fifty, and angles, three or more.
        kinds: Ways to turn, of :data:`galstress.studies.turns.KINDS`.
        average: Also averages over so many turns and mirrors: 8, or more (:func:`galstress.predict`).
        single: Also one pass each; for a network with dropout it takes as long as an average over 32 turns.
        device: Where to compute.
        command: What the summary says this was started by.
        progress: Show what is done, and the time left (on stderr).

    Raises:
        InputError: A number out of range, or a folder with cells of another study.
        UnknownNameError: No such way to turn.

    A galaxy moves by the largest deviation over angles from the mean over angles (``largest``) and by its root mean
    square (``rms``): of radius and flux relative to the mean, of B/T and of probabilities on their full scale of 1.
    """
    count, angles = size
    if count < BLOCK or count % BLOCK or angles < 3 or not networks or not (single or average):
        came = f"{len(networks)} networks, {count} galaxies at {angles} angles, {int(single) + len(average)} answers"
        allowed = f"a network, a multiple of {BLOCK} galaxies, three angles, one pass or an average"
        raise InputError(came, allowed, "give 500 galaxies, 36 angles")
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("way to turn", kind, tuple(KINDS))
    cells = [
        _Cell(name, network, field, averaged)
        for name, (network, fields) in networks.items()
        for field in fields
        for averaged in ([0] if single else []) + list(average)
    ]
    blocks = range(count // BLOCK)
    jobs = [cell.job(block, kinds, (angles, device)) for block in blocks for cell in cells]
    records = keep(jobs, Path(folder) / "cells", progress=progress)
    found = {cell: [records[cell.name_block(block)] for block in blocks] for cell in cells}
    rows = [row for place, cell in enumerate(cells) for row in cell.list_shifts(found[cell], place)]
    galaxies = QTable(rows=[row for cell in cells for row in cell.list_galaxies(found[cell])])
    bar = [row for cell in cells for row in _judge(cell, rows)]
    sentence = _say(bar, size)
    summary = {
        "study": "rotation", "sentence": sentence, "command": command,
        "sample": f"{count} simulated galaxies of each survey, S/N above {cells[0].field.least_snr:g} and half-light "
        "radius below 0.35 of the stamp, seen by no training",
        "galaxies": count, "angles": angles, "seed": cells[0].field.seed,
        "intervals": f"{_LEVEL:.0%} over galaxies: {_RESAMPLINGS} resamplings for quantiles, Wilson's for shares",
        "kinds": {kind: KINDS[kind] for kind in kinds},
        "shift": "deviation from the mean over angles: largest, and rms over angles; relative for radius and flux",
        "surveys": [cell.describe() for cell in cells if cell.averaged == cells[0].averaged],
        "bar": bar, "shifts": rows, "decisions": [row for cell in cells for row in cell.list_decisions(found[cell])],
        "worst": [row for cell in cells for row in cell.list_worst(found[cell])], "versions": list_versions(),
    }  # fmt: skip
    write_json(Path(folder) / "summary.json", summary)
    return RotationStudy(galaxies, sentence, summary)


@dataclasses.dataclass(frozen=True, eq=False)
class _Cell:
    """One network on one survey, one pass or averaged over turns."""

    name: str
    network: Network
    field: Field
    averaged: int

    @property
    def labels(self) -> dict[str, Any]:
        """What its rows begin with."""
        return {"network": self.name, "survey": self.field.survey.name, "averaged": self.averaged}

    def describe(self) -> dict[str, Any]:
        """Where its galaxies come from."""
        shares = ", ".join(f"{share:.3g} {name}" for name, share in self.field.shares.items())
        return {"network": self.name, "survey": self.field.survey.name, "populations": shares,
                "stamp_px": self.field.stamp_px}  # fmt: skip

    def name_block(self, block: int) -> str:
        """Of its file."""
        passes = f"averaged{self.averaged}" if self.averaged else "single"
        return f"{self.name}-on-{self.field.survey.name}-{passes}-{block:03d}"

    def job(self, block: int, kinds: Sequence[str], how: tuple[int, str]) -> Job:
        """Fifty galaxies."""
        weights = [float(parameter.detach().double().sum()) for parameter in self.network.parameters()]
        drawn = self.field
        of_field = [
            drawn.survey.to_record(),
            dict(drawn.shares),
            drawn.stamp_px,
            drawn.least_snr,
            drawn.seed,
            drawn.view_px,
        ]
        mark = digest(weights, of_field, list(kinds), how[0], self.averaged, block)
        work = functools.partial(
            measure_block, self.network, self.field, block, tuple(kinds), (how[0], self.averaged, how[1])
        )
        return Job(self.name_block(block), mark, work, max(self.averaged, 1))

    def list_shifts(self, blocks: Sequence[Mapping[str, Any]], place: int) -> list[dict[str, Any]]:
        """Quantiles over galaxies, and shares within a few per cent."""
        rows = []
        for kind, quantity, part, values in _walk(blocks):
            for of, shift in zip(_OF, values, strict=True):
                known = shift[np.isfinite(shift)]
                row = {**self.labels, "kind": kind, "quantity": quantity, "part": part, "of": of, "count": len(known)}
                if part == "point":
                    row["part"] = POINTS[blocks[0]["answer"]]
                rows.append(row | _summarise(known, place))
        return rows

    def list_galaxies(self, blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A row a galaxy."""
        snr = np.concatenate([np.array(block["snr"], float) for block in blocks])
        return [
            {**self.labels, "kind": kind, "quantity": quantity, "part": part, "row": row, "snr": snr[row],
             "largest": float(values[0, row]), "rms": float(values[1, row])}
            for kind, quantity, part, values in _walk(blocks)
            for row in range(len(snr))
        ]  # fmt: skip

    def list_decisions(self, blocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Share of galaxies whose class is not the same at all angles."""
        rows = []
        for kind, first in blocks[0]["kinds"].items():
            for cut in first.get("decisions", {}):
                row = {**self.labels, "kind": kind, "cut": cut}
                for name in ("changed", "flipped"):
                    parts = [np.array(block["kinds"][kind]["decisions"][cut][name], float) for block in blocks]
                    values = np.concatenate(parts)
                    known = values[np.isfinite(values)]
                    row |= {"count": len(known), **_share(name, known > 0)}
                rows.append(row)
        return rows

    def list_worst(self, blocks: Sequence[Mapping[str, Any]], number: int = 3) -> list[dict[str, Any]]:
        """Galaxies that move most, by their row: of these a film tells more."""
        for kind, quantity, part, values in _walk(blocks):
            if (quantity, part) == ("all", "point"):
                order = np.argsort(-np.nan_to_num(values[0], nan=-1))[:number]
                snr = np.concatenate([np.array(block["snr"], float) for block in blocks])
                return [{**self.labels, "kind": kind, "row": int(row), "snr": round_number(snr[row]),
                         "largest": round_number(values[0, row])} for row in order]  # fmt: skip
        return []


def _walk(blocks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, Array]]:
    """Kind, quantity, part and (2, N) shifts of all blocks together."""
    return [
        (kind, quantity, part, np.concatenate(
            [np.array(block["kinds"][kind]["shifts"][quantity][part], float) for block in blocks], 1))
        for kind in blocks[0]["kinds"]
        for quantity in list_quantities(blocks[0]["answer"])
        for part in blocks[0]["kinds"][kind]["shifts"][quantity]
    ]  # fmt: skip


def _summarise(known: Array, seed: int) -> dict[str, float | None]:
    """Median and 95 % of shifts in per cent, and shares within limits, each with its interval."""
    row: dict[str, float | None] = {}
    for name, level in (("p50", 0.5), ("p95", 0.95)):
        ends = bootstrap(
            lambda each, level=level: np.quantile(each, level, axis=-1), 100 * known,
            seed=seed, count=_RESAMPLINGS, level=_LEVEL,
        )  # fmt: skip
        row |= {f"{name}{end}": round_number(float(v)) for end, v in zip(("", "_low", "_high"), ends, strict=True)}
    for limit in _LIMITS:
        row |= _share(f"within_{limit}", 100 * known <= limit)
    return row


def _share(name: str, hits: NDArray[np.bool_]) -> dict[str, float | None]:
    """A share and Wilson's 95 % interval, which has a width at 0 and 1, too."""
    number = len(hits)
    if not number:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    share, spread = float(hits.mean()), _Z**2 / number
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / number + spread / (4 * number)) / (1 + spread)
    ends = {"": share, "_low": max(0.0, middle - half), "_high": min(1.0, middle + half)}
    return {f"{name}{end}": round_number(value) for end, value in ends.items()}


def _judge(cell: _Cell, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether enough galaxies stay within the bar in all outputs at once, for each way to turn."""
    limit = _FOVEAL_BAR if cell.network.metadata["backbone"]["name"] == "foveal" else _BAR
    judged = []
    for row in rows:
        own = all(row[key] == value for key, value in cell.labels.items())
        if own and (row["quantity"], row["of"]) == ("all", "largest") and row["part"] != "interval":
            share = {f"share{end}": row[f"within_{limit}{end}"] for end in ("", "_low", "_high")}
            met = share["share"] is not None and share["share"] >= _BAR_SHARE
            judged.append({**cell.labels, "kind": row["kind"], "part": row["part"], "count": row["count"],
                           "within_percent": limit, **share, "p95": row["p95"], "met": met})  # fmt: skip
    return judged


def _say(bar: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> str:
    """Shares within the bar of the first way to turn, and of how many it is met."""
    kind = bar[0]["kind"]
    shown = [row for row in bar if row["kind"] == kind]
    words = []
    for row in shown:
        name = f"{row['network']} on {row['survey']}" + (
            f", averaged over {row['averaged']} turns" if row["averaged"] else ""
        )
        if row["share"] is None:
            words.append(f"{name}: no answer")
            continue
        low, middle, high = (100 * row[f"share{end}"] for end in ("_low", "", "_high"))
        words.append(f"{name} {middle:.1f} % within {row['within_percent']} % ({low:.1f} to {high:.1f})")
    met = sum(row["met"] for row in shown)
    return (
        f"Of {size[0]} simulated galaxies, {KINDS[kind]}, at {size[1]} angles, all outputs stay near their mean over "
        f"angles at every angle for: {'; '.join(words)} (95 % intervals). The bar of {_BAR_SHARE:.0%} of the galaxies "
        f"is met by {met} of {len(shown)}."
    )
