"""How many real labels does simulation save? Errors against the number of labels, fine-tuned and from scratch."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.finetuning import (
    Tuning,
    apply_lines,
    choose_side,
    finetune,
    fit_lines,
    rate_factors,
    read_groups,
    trim,
)
from galstress.finetuning.tuning import find_usable
from galstress.networks import Network
from galstress.studies.cells import Job, keep, list_rows, list_versions, round_number, write_table
from galstress.studies.medians import measure_medians, true_values
from galstress.studies.records import write_json
from galstress.studies.savings import ALL, QUANTITIES, UNTOUCHED, Errors, judge

__all__ = ["RECALIBRATED", "SCRATCH", "UNTOUCHED", "LabelsStudy", "fresh_network", "study_labels"]

RECALIBRATED, SCRATCH = "recalibrated", "from scratch"
"""Methods beside the policies and the untouched network: a line a quantity fitted to the labels; no simulation seen."""
_SCRATCH_RATE = 1.5e-3
"""Learning rate from scratch, that of the recipe: fresh weights learn little at the rate of fine-tuning."""
_SCRATCH_NOTE = "centre and scale of the head's outputs are copied from the network, which can only help"

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class LabelsStudy:
    """What :func:`study_labels` found; all of it stands in its folder, too."""

    table: QTable
    """A row a ``method``, ``count`` and ``quantity``: ``rms`` and ``error_68``, the geometric mean over seeds, with
    68 % intervals over test galaxies, and ``rms_seed_spread``, the standard deviation over seeds."""
    saved: QTable
    """A row a ``policy`` and ``quantity``: ``saved`` share of labels with its 95 % interval over galaxies and seeds,
    ``labels`` needed, and ``kind``, as :func:`galstress.studies.savings.labels_saved` gives them."""
    comparison: QTable
    """A row a method: ``difference`` of mean ln rms from the best policy's, paired, with its 95 % interval, and whether
    it is ``within``: not above 0 for sure."""
    best: str
    """The policy with the smallest mean ln rms over quantities, positive counts and seeds."""
    sentence: str
    """The claim as one sentence."""
    summary: Mapping[str, Any]
    """All of it as ``summary.json`` has it, with settings, sample sizes, versions and cells."""


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One training or none, and the errors of its network."""

    method: str
    count: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file in the folder of cells."""
        return f"{re.sub('[^a-z0-9.]', '-', self.method)}-n{self.count}-seed{self.seed}"


def study_labels(  # noqa: PLR0913 (data, design and place: each a choice of its own)
    network: Network,
    pool: Cutouts,
    test: Cutouts,
    *,
    folder: str | Path,
    counts: Sequence[int] = (0, 10, 25, 50, 100, 200),
    policies: Sequence[str] = ("head", "last:1", "all"),
    seeds: Sequence[int] = (1, 2, 3),
    tuning: Tuning | None = None,
    scratch: Tuning | None = None,
    groups: tuple[Sequence[str], Sequence[str]] | None = None,
    command: str = "",
    progress: bool = False,
) -> LabelsStudy:
    """Fine-tune on few galaxies of a target that training did not have, and train on the same few from scratch.

    Arguments:
        network: Trained on simulations; left as it is, and computes where it lies.
        pool: Galaxies of the target, with truth, of which labels are taken.
        test: Others of the same target, with truth, that errors are measured on.
        folder: Where to; made if missing. Every cell (method, count, seed) is a file below ``cells`` and is not made
            again by the next run; ``summary.json`` and ``study.ecsv`` are written at the end.
        counts: Numbers of labelled galaxies, those that validate included; 0 is always among them.
        policies: What thaws, as in :data:`galstress.finetuning.POLICIES`.
        seeds: Each shuffles the pool, of which the first are labelled, and starts its runs.
        tuning: Of fine-tuning.
        scratch: Of training from scratch, by policy ``all``; by default ``tuning`` at the recipe's learning rate.
        groups: Names of the galaxies behind the cutouts of pool and test, by default ``object_id``: all images of a
            galaxy are labelled together, and the bootstrap draws galaxies.
        command: What the summary says this was started by.
        progress: Show how many cells are done, and the time left (on stderr).

    Raises:
        InputError: A galaxy in pool and test, counts that the pool cannot give, an unknown policy, nothing labelled,
            or a folder with cells of another study.

    Errors are of posterior medians: of B/T, and of the natural logarithms of half-light radius and flux.
    """
    tuning = tuning or Tuning()
    scratch = scratch or dataclasses.replace(tuning, learning_rate=_SCRATCH_RATE)
    run = _Run(network, pool, test, tuning, scratch, groups)
    counts, seeds = _check(run, counts, policies, seeds)
    cells = [_Cell(UNTOUCHED, 0, 0)]
    cells += [_Cell(m, n, s) for s in seeds for n in counts[1:] for m in (*policies, SCRATCH, RECALIBRATED)]
    records = run.make(cells, Path(folder) / "cells", progress)
    methods = (*policies, SCRATCH, RECALIBRATED)
    errors = _gather(records, methods, counts, seeds)
    verdict = judge(Errors(methods, counts, errors, run.test_groups), policies, SCRATCH, seed=seeds[0])
    sentence = _say(verdict.saved, verdict.comparison, policies, counts[-1])
    small = [{key: value for key, value in each.items() if key != "errors"} for each in records.values()]
    summary = {
        "study": "labels", "command": command, "network": network.metadata.get("name", ""),
        "target": {"survey": pool.survey.name, "pool": len(pool), "test": len(test),
                   "test_galaxies": len(np.unique(run.test_groups)), "test_measured": verdict.measured,
                   "side_px": run.side},
        "counts": counts, "policies": list(policies), "seeds": seeds, "tuning": dataclasses.asdict(tuning),
        "scratch": {**dataclasses.asdict(scratch), "policy": "all", "first_weights": _SCRATCH_NOTE},
        "intervals": verdict.intervals, "best": verdict.best, "sentence": sentence,
        "saved": list_rows(verdict.saved), "comparison": list_rows(verdict.comparison),
        "errors": list_rows(verdict.table),
        "versions": list_versions(),
        "cells": small,
    }  # fmt: skip
    write_json(Path(folder) / "summary.json", summary)
    write_table(verdict.table, Path(folder) / "study.ecsv")
    return LabelsStudy(verdict.table, verdict.saved, verdict.comparison, verdict.best, sentence, summary)


def fresh_network(network: Network, seed: int) -> Network:
    """A network of the same architecture with random weights, on the same device.

    Centre and scale of the head's outputs are those of the given network: what they are relative to is its choice of
    units, and with few labels they could not be measured.
    """
    backbone, head = network.metadata["backbone"], network.metadata["head"]["name"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Network.build(backbone["name"], head, **backbone["settings"])
    for name in ("centre", "scale"):
        getattr(fresh.head, name).copy_(getattr(network.head, name))
    return fresh.to(network.parameters()[0].device)


class _Run:
    """The data of a study, and how one cell of it is made."""

    def __init__(
        self,
        network: Network,
        pool: Cutouts,
        test: Cutouts,
        tuning: Tuning,
        scratch: Tuning,
        groups: tuple[Sequence[str], Sequence[str]] | None,
    ) -> None:
        if pool.images.shape[1:] != test.images.shape[1:]:
            shapes = [" x ".join(map(str, each.images.shape[1:])) for each in (pool, test)]
            raise InputError(f"stamps of {shapes[0]} and {shapes[1]} px", "one size", "load both with one stamp_px")
        self.network, self.pool, self.tuning, self.scratch = network, pool, tuning, scratch
        named = [None, None] if groups is None else list(groups)
        self.pool_groups = read_groups(named[0], pool.object_id)
        self.test_groups = read_groups(named[1], test.object_id)
        names = [c.object_id if g is None else np.asarray(g) for g, c in zip(named, (pool, test), strict=True)]
        self.names = names[0].astype(str)
        shared = np.intersect1d(self.names, names[1].astype(str))
        if len(shared):
            raise InputError(f"{shared[0]} in pool and test", "no galaxy in both", "split by galaxy")
        self.side, _ = choose_side(int(min(pool.images.shape[1:])), tuning.side_px)
        known, self.true = true_values(pool), true_values(test)
        usable = find_usable(pool) & np.isfinite(known).any(1)
        self.pool_true, self.usable = known, usable
        self.true[~find_usable(test)] = np.nan
        self.test = trim(test, self.side)
        self.labelled = len(np.unique(self.pool_groups[usable]))
        self.data = _digest(network, pool, known, test, self.true, self.pool_groups)

    def choose(self, count: int, seed: int) -> Rows:
        """Rows of the pool that are labelled: those of the first galaxies of the shuffled pool."""
        order = np.random.default_rng(seed).permutation(np.unique(self.pool_groups[self.usable]))
        return np.flatnonzero(self.usable & np.isin(self.pool_groups, order[:count]))

    def make(self, cells: Sequence[_Cell], folder: Path, progress: bool) -> dict[_Cell, dict[str, Any]]:
        """The records of all cells: read where they are there, else made and written."""
        jobs = {cell: Job(cell.name, self.mark(cell), functools.partial(self.measure, cell)) for cell in cells}
        found = keep(list(jobs.values()), folder, progress=progress)
        return {cell: found[job.name] for cell, job in jobs.items()}

    def mark(self, cell: _Cell) -> str:
        """A digest of everything that a cell's answer depends on."""
        tuning = {SCRATCH: self.scratch, UNTOUCHED: None, RECALIBRATED: None}.get(cell.method, self.tuning)
        settings = None if tuning is None else {**dataclasses.asdict(tuning), "folds": 0}
        if settings is not None and settings["turned"]:
            del settings["turned"]  # cells that were made before there was a choice stay valid
        whole = json.dumps([self.data, self.side, dataclasses.astuple(cell), settings], default=str)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def measure(self, cell: _Cell) -> dict[str, Any]:
        """Make one cell."""
        began = time.perf_counter()
        record: dict[str, Any] = dataclasses.asdict(cell)
        rows = self.choose(cell.count, cell.seed)
        if cell.method in (UNTOUCHED, RECALIBRATED):
            medians = measure_medians(self.network, self.test)
            if cell.method == RECALIBRATED:
                before = measure_medians(self.network, trim(self.pool.select(rows), self.side))
                medians = apply_lines(fit_lines(before, self.pool_true[rows]), medians)
                medians[:, 0] = medians[:, 0].clip(0, 1)
        else:
            tuned = finetune(
                fresh_network(self.network, cell.seed) if cell.method == SCRATCH else self.network,
                self.pool.select(rows),
                policy="all" if cell.method == SCRATCH else cell.method,
                tuning=self.scratch if cell.method == SCRATCH else self.tuning,
                groups=self.names[rows].tolist(),
                seed=cell.seed,
            )
            medians = measure_medians(tuned.network, self.test)
            record |= {name: tuned.manifest[name] for name in ("learned", "validated", "best_step", "steps_done")}
        error = medians - self.true
        record |= {f"rms_{name}": round_number(_root_mean_square(error[:, k])) for k, name in enumerate(QUANTITIES)}
        record["seconds"] = round(time.perf_counter() - began, 2)
        record["errors"] = {name: [round_number(each) for each in error[:, k]] for k, name in enumerate(QUANTITIES)}
        return record


def _check(
    run: _Run, counts: Sequence[int], policies: Sequence[str], seeds: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Counts and seeds in order, once all is known to be possible."""
    ordered = sorted({0, *counts})
    if ordered[0] < 0 or len(ordered) < 2 or ordered[-1] > run.labelled:
        allowed = f"0 and numbers up to {run.labelled}, the labelled galaxies of the pool, one above 0"
        raise InputError(f"counts {', '.join(map(str, counts))}", allowed, "give a larger pool or smaller counts")
    if not policies or not seeds or len(set(policies)) < len(policies) or len(set(seeds)) < len(seeds):
        raise InputError(f"policies {list(policies)}, seeds {list(seeds)}", "one or more, each once", "give last:1")
    if min(seeds) < 0:
        raise InputError(f"seed {min(seeds)}", "whole numbers from 0", "give 1, 2, 3")
    for policy in policies:
        rate_factors(run.network, policy)
    return ordered, list(seeds)


def _gather(
    records: Mapping[_Cell, Mapping[str, Any]], methods: Sequence[str], counts: Sequence[int], seeds: Sequence[int]
) -> Array:
    """(M, C, S, Q, N) errors of all cells; untouched at 0 labels, where from scratch there is nothing."""

    def read(cell: _Cell) -> Array:
        return np.array([records[cell]["errors"][name] for name in QUANTITIES], float)

    untouched = read(_Cell(UNTOUCHED, 0, 0))
    errors = np.full((len(methods), len(counts), len(seeds), *untouched.shape), np.nan)
    for m, method in enumerate(methods):
        if method != SCRATCH:
            errors[m, 0] = untouched
        for c, count in enumerate(counts[1:], start=1):
            for s, seed in enumerate(seeds):
                errors[m, c, s] = read(_Cell(method, count, seed))
    return errors


def _say(saved: QTable, comparison: QTable, policies: Sequence[str], most: int) -> str:
    """The claim, which policies are as good as the best, and whether that one is better than no fine-tuning."""
    row = saved[(saved["policy"] == comparison["method"][0]) & (saved["quantity"] == ALL)][0]
    best, share = str(row["policy"]), 100 * float(row["saved"])
    low, high = (100 * float(row[f"saved_{end}"]) for end in ("low", "high"))
    words = {
        "all": f"all labels: the untouched network errs by {float(row['zero_label_error']):.3f} already",
        "at least": f"at least {share:.0f} % of the labels",
        "at most": f"at most {share:.0f} % of the labels (not reached with {most})",
        "": f"{share:.0f} % of the labels (about {float(row['labels']):.0f} needed)",
    }[str(row["kind"])]
    alike = [str(each["method"]) for each in comparison if each["method"] in policies and each["within"]]
    others = [each for each in alike if each != best]
    tail = f"; within its interval: {', '.join(others)}" if others else "; no other policy is within its interval"
    tail = tail if len(policies) > 1 else ""
    rivals = []
    for each in comparison[np.isin(comparison["method"], [UNTOUCHED, RECALIBRATED])]:
        below, above = float(each["difference_low"]), float(each["difference_high"])
        verb = "beats" if below > 0 else "is beaten by" if above < 0 else "does not beat"
        rivals.append(f"{verb} {each['method']} (ln rms {-each['difference']:+.3f}, {-above:+.3f} to {-below:+.3f})")
    return (
        f"At the error that {most} labels give from scratch ({float(row['scratch_error']):.3f}, the geometric mean of "
        f"the rms of B/T, ln radius and ln flux), simulation and fine-tuning by {best} save {words} "
        f"(95 % interval of the share {low:.0f} to {high:.0f} %){tail}. Over all counts, {best} {' and '.join(rivals)}."
    )


def _digest(network: Network, pool: Cutouts, known: Array, test: Cutouts, true: Array, groups: Rows) -> str:
    """Of weights and data."""
    digest = hashlib.sha256()
    tensors = [*network.modules().state_dict().values(), pool.images, pool.variance, test.images, test.variance]
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for array in (known, true, groups):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _root_mean_square(error: Array) -> float:
    """Of the finite ones; NaN where there are none."""
    finite = error[np.isfinite(error)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else math.nan
