"""What makes a network blind to rotation: simulated galaxies at many angles, real ones turned, or both?"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable, vstack
from numpy.typing import NDArray

from galstress.battery import rotation_spread
from galstress.errors import InputError
from galstress.finetuning import Tuning, choose_side, finetune, read_groups, trim
from galstress.networks import Network
from galstress.studies.cells import Job, digest, keep, list_rows, list_versions, round_number, write_table
from galstress.studies.effects import EFFECTS, LEVEL, REAL, RESAMPLINGS, SIMULATED, judge_effects
from galstress.studies.medians import measure_medians, true_values
from galstress.studies.places import name_survey
from galstress.studies.records import write_json
from galstress.studies.savings import ALL, QUANTITIES
from galstress.studies.stability import stress_passes
from galstress.studies.targets import Target
from galstress.studies.trainings import Training, TrainingSize, shrink

__all__ = ["InvarianceStudy", "study_invariance"]

_OUTPUTS = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
"""Names of the quantities in a stress table, in their order; radii and fluxes move by ln ratios there."""
_POLICY = "all"
_WEIGHT = 4

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class InvarianceStudy:
    """What :func:`study_invariance` found; all of it stands in its folder, too."""

    table: QTable
    """A row a ``measure`` (``redrawn``, ``averaged``, ``real`` spreads over angles; ``error`` on the test galaxies),
    cell and quantity, as :func:`galstress.studies.effects.judge_effects` gives them."""
    effects: QTable
    """A row a ``measure``, effect and quantity."""
    sentence: str
    """The answer in words."""
    summary: Mapping[str, Any]
    """All of it as ``summary.json`` has it, with settings, sample sizes and versions."""


def study_invariance(  # noqa: PLR0913 (design, sizes and place: each a choice of its own)
    target: Target,
    *,
    folder: str | Path,
    size: TrainingSize | None = None,
    tuning: Tuning | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    angles: int = 12,
    averaged: bool = False,
    device: str = "cpu",
    command: str = "",
    progress: bool = False,
) -> InvarianceStudy:
    """Train on simulations at many orientations or at one, fine-tune on real galaxies turned or not, and rotate.

    Arguments:
        target: Labelled and test galaxies, and those that are turned.
        folder: Where to; made if missing. Every training and every cell is a file below ``cells`` and is not made again
            by the next run; ``summary.json``, ``study.ecsv`` and ``effects.ecsv`` are written at the end.
        size: Of the network and its training on simulations of the target's survey.
        tuning: Of fine-tuning, but for ``turned`` and ``side_px``.
        seeds: Each a training of every kind.
        angles: Even ones, at which galaxies are drawn again; 12 or more are fair.
        averaged: Measure the average over eight turns and mirrors, too, at eight times the work.
        device: Where to compute.
        command: What the summary says this was started by.
        progress: Show what is done, and the time left (on stderr).

    Raises:
        InputError: Fewer than three angles, no seed or one twice, or a folder with cells of another study.

    At one orientation position angles of simulated galaxies are 0 to within 10 degrees (sigma), and no exposure is
    turned or mirrored. Spreads
    are root mean squares over galaxies of the standard deviation over angles: of B/T, and of ln of radius and flux.
    """
    if angles < 3 or not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        came = f"{angles} angles, seeds {', '.join(map(str, seeds)) or '(none)'}"
        raise InputError(came, "three angles or more, and seeds from 0 on, each once", "give 12 angles, seeds 1, 2, 3")
    run = _Run(target, Path(folder), size or TrainingSize(), tuning or Tuning(), (angles, averaged), device)
    records = keep([*run.train_jobs(seeds), *run.test_jobs(seeds)], run.cells, progress=progress)
    tables, effects = run.judge(records, seeds)
    sentence = _say(tables, effects, target)
    summary = {
        "study": "invariance", "command": command, "seeds": list(seeds), "size": dataclasses.asdict(run.size),
        "tuning": {**dataclasses.asdict(run.tuning), "turned": "as the cell says", "policy": _POLICY},
        "angles": angles, "target": {
            "survey": target.pool.survey.name, "what": target.name, "simulated": target.simulated,
            "labelled": len(target.pool), "test": len(target.test), "redrawn": len(target.redrawn),
            "redrawn_what": "simulated smooth galaxies, S/N above 20, seen by no training",
        },
        "intervals": f"{LEVEL:.0%} over galaxies and trainings, {RESAMPLINGS} resamplings",
        "gain": "difference of ln rms; positive where the factor makes it smaller", "sentence": sentence,
        "effects": list_rows(effects), "cells": list_rows(tables), "trainings": run.describe(records, seeds),
        "versions": list_versions(),
    }  # fmt: skip
    write_json(run.folder / "summary.json", summary)
    write_table(tables, run.folder / "study.ecsv")
    write_table(effects, run.folder / "effects.ecsv")
    return InvarianceStudy(tables, effects, sentence, summary)


class _Run:
    """The data of a study, and how one cell of it is made."""

    def __init__(
        self, target: Target, folder: Path, size: TrainingSize, tuning: Tuning, turns: tuple[int, bool], device: str
    ) -> None:
        stamp_px = int(target.pool.images.shape[-1])
        side, any_angle = choose_side(stamp_px, size.stamp_px)
        if not any_angle:
            came = f"labelled galaxies in {stamp_px} px for {size.stamp_px} px"
            raise InputError(came, "stamps 1.5 times as wide, with room for any angle", "load larger ones")
        self.target, self.folder, self.cells, self.size, self.device = target, folder, folder / "cells", size, device
        self.tuning = dataclasses.replace(tuning, side_px=side)
        self.amounts = {"redrawn-rotation": [360.0 * k / turns[0] for k in range(turns[0])]}
        self.passes = (False, True) if turns[1] else (False,)
        self.groups = read_groups(target.groups[1], target.test.object_id)
        self.true, self.test = true_values(target.test), trim(target.test, side)
        images = [
            target.pool.images,
            target.test.images,
            target.redrawn.images,
            *(each.images for each in target.turned),
        ]
        self.data = digest([float(each.double().square().sum()) for each in images], list(target.groups[0]))

    def training(self, simulated: str, seed: int) -> Training:
        """On simulations of the target's survey."""
        place = self.target.place
        shares = {name_survey(place, self.folder / "surveys"): place.shares}
        recipe = shrink(shares, self.size, turned=simulated == "many")
        return Training(f"{simulated}-seed{seed}", recipe, seed, self.cells, self.device)

    def train_jobs(self, seeds: Sequence[int]) -> list[Job]:
        """Two trainings a seed."""
        return [self.training(simulated, seed).job(_WEIGHT) for seed in seeds for simulated in SIMULATED]

    def test_jobs(self, seeds: Sequence[int]) -> list[Job]:
        """Six networks a seed: each training turned, still, or as it is."""
        jobs = []
        for seed, simulated, real in ((s, i, r) for s in seeds for i in SIMULATED for r in REAL):
            tuning = {key: value for key, value in dataclasses.asdict(self.tuning).items() if key != "folds"}
            settings = [tuning if real != "none" else None, self.amounts, self.passes, self.data]
            mark = digest(self.training(simulated, seed).mark, real, seed, settings)
            work = functools.partial(self.measure, simulated, real, seed)
            jobs.append(Job(_cell(simulated, real, seed), mark, work))
        return jobs

    def measure(self, simulated: str, real: str, seed: int) -> dict[str, Any]:
        """Fine-tune one network, and rotate what it sees."""
        network = self.training(simulated, seed).load()
        record: dict[str, Any] = {"simulated": simulated, "real": real, "seed": seed}
        if real != "none":
            tuned = finetune(
                network, self.target.pool, policy=_POLICY, groups=list(self.target.groups[0]), seed=seed,
                tuning=dataclasses.replace(self.tuning, turned=real == "turned"),
            )  # fmt: skip
            network = tuned.network
            kept = ("learned", "validated", "best_step", "steps_done", "augmentation")
            record |= {name: tuned.manifest[name] for name in kept}
        record["error"] = _listed(measure_medians(network, self.test) - self.true)
        for average in self.passes:
            record["averaged" if average else "redrawn"] = _listed(self.spread(network, average))
        if self.target.turned:
            medians = np.stack([measure_medians(network, each) for each in self.target.turned])
            record["real_spread"] = _listed(np.std(medians, 0))
        return record

    def spread(self, network: Network, average: bool) -> Array:
        """(N, 3) standard deviation over angles of each redrawn galaxy's answers."""
        cutouts = self.target.redrawn
        table = stress_passes(
            network, cutouts, ["redrawn-rotation"], amounts=self.amounts, averaged=[8 if average else 0]
        )
        spread = rotation_spread(table)
        values = np.full((len(cutouts), len(_OUTPUTS)), np.nan)
        for k, output in enumerate(_OUTPUTS):
            rows = spread[np.asarray(spread["output"]) == output]
            values[np.asarray(rows["row"]), k] = rows["spread"]
        return values

    def judge(self, records: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> tuple[QTable, QTable]:
        """Cells and effects of every measure."""
        names = {"redrawn": "redrawn", "averaged": "averaged", "real": "real_spread", "error": "error"}
        tables: list[QTable] = []
        effects: list[QTable] = []
        for order, (measure, key) in enumerate(names.items()):
            if key not in records[_cell(SIMULATED[0], REAL[0], seeds[0])]:
                continue
            sizes = np.array(
                [
                    [[_array(records[_cell(i, r, s)][key]) for s in seeds] for r in REAL]
                    for i in SIMULATED
                ]
            )  # fmt: skip
            groups = np.arange(sizes.shape[-1]) if measure in ("redrawn", "averaged") else self.groups
            found = judge_effects(sizes, groups, seed=seeds[0] + order)
            for table, parts in zip(found, (tables, effects), strict=True):
                table.add_column(np.full(len(table), measure), index=0, name="measure")
                parts.append(table)
        return vstack(tables), vstack(effects)

    def describe(self, records: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """How each network came about."""
        names = [f"{i}-seed{s}" for s in seeds for i in SIMULATED]
        names += [_cell(i, r, s) for s in seeds for i in SIMULATED for r in REAL if r != "none"]
        left_out = {"of", "error", "redrawn", "averaged", "real_spread"}
        return [{"cell": name} | {k: v for k, v in records[name].items() if k not in left_out} for name in names]


def _say(cells: QTable, effects: QTable, target: Target) -> str:
    """The four cells, and what each factor buys."""

    def tell(measure: str) -> str:
        rows = cells[(cells["measure"] == measure) & (cells["quantity"] == "ln_radius") & (cells["real"] != "none")]
        spreads = ", ".join(f"{row['simulated']}/{row['real']} {100 * float(row['rms']):.2f} %" for row in rows)
        gains = []
        for effect in EFFECTS:
            each = effects[(effects["measure"] == measure) & (effects["quantity"] == ALL)]
            row = each[each["effect"] == effect][0]
            low, middle, high = (float(row[f"gain{end}"]) for end in ("_low", "", "_high"))
            word = "surely" if low > 0 or high < 0 else "not surely"
            gains.append(
                f"{effect} {math.exp(middle):.2f} times ({math.exp(low):.2f} to {math.exp(high):.2f}, {word} not 1)"
            )
        return f"spread of the radius over angles {spreads}; over all quantities it shrinks by {', '.join(gains)}"

    kinds = {"redrawn": "Of redrawn simulated galaxies: ", "real": "Of the real galaxies: "}
    present = set(map(str, cells["measure"]))
    text = ". ".join(words + tell(measure) for measure, words in kinds.items() if measure in present)
    return f"{text} (simulated at many orientations or one / {target.name}, turned or still; 95 % intervals)."


def _cell(simulated: str, real: str, seed: int) -> str:
    """Name of a cell's file."""
    return f"{simulated}-{real}-seed{seed}"


def _listed(values: Array) -> dict[str, list[float | None]]:
    """(N, 3) numbers as JSON knows them."""
    return {name: [round_number(value) for value in values[:, k]] for k, name in enumerate(QUANTITIES)}


def _array(record: Mapping[str, Sequence[float | None]]) -> Array:
    """The (3, N) inverse."""
    return np.array([record[name] for name in QUANTITIES], float)
