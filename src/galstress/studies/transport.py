"""Trained on one survey, tested on another: experts, one weights file for all, and surveys left out."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.networks import Network
from galstress.simulation import simulate
from galstress.studies.cells import Job, digest, keep, list_rows, list_versions, round_number, write_table
from galstress.studies.medians import measure_medians, true_values
from galstress.studies.penalties import LEVEL, RESAMPLINGS, Sizes, list_costs, list_errors, list_ratios, measure_sizes
from galstress.studies.places import STEPS, Place, find_place, name_survey, step_surveys
from galstress.studies.records import write_json
from galstress.studies.savings import ALL, QUANTITIES
from galstress.studies.trainings import Training, TrainingSize, shrink

__all__ = ["LEFT_OUT", "ONE_FILE", "TransportStudy", "study_transport"]

ONE_FILE, LEFT_OUT = "one file", "one file, some left out"
"""Networks beside the experts, which are named as their places are."""
_BAR, _BAR_LEFT_OUT = 1.25, 1.5
_FIRST_SEED = 1_940_000_000
"""Seeds from here on draw test galaxies; training mixes its own, and never takes these as they are."""
_WEIGHT = 12
"""A training takes about so many times as long as a measurement."""

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TransportStudy:
    """What :func:`study_transport` found; all of it stands in its folder, too."""

    table: QTable
    """As :func:`galstress.studies.penalties.list_errors` gives it."""
    costs: QTable
    """As :func:`galstress.studies.penalties.list_costs` gives it; empty where no pair was walked."""
    sentence: str
    """The answer in words."""
    summary: Mapping[str, Any]
    """All of it as ``summary.json`` has it, with settings, sample sizes and versions; of errors, those of all
    quantities together (``study.ecsv`` and ``costs.ecsv`` have each)."""


def study_transport(  # noqa: PLR0913 (design, sizes and place: each a choice of its own)
    surveys: Sequence[str],
    left_out: Sequence[str] = (),
    *,
    folder: str | Path,
    size: TrainingSize | None = None,
    sample: tuple[int, int] = (500, 200),
    one_steps: float = 1.0,
    seed: int = 1,
    extra: Mapping[str, Network] | None = None,
    device: str = "cpu",
    command: str = "",
    progress: bool = False,
) -> TransportStudy:
    """Train an expert a survey, one network for all and one without some, and test each on every survey.

    Arguments:
        surveys: Two or more places (:func:`galstress.studies.places.find_place`): surveys, or ``survey@z``.
        left_out: Those among them that a second network for all does not see.
        folder: Where to; made if missing. Every training and every measurement is a file below ``cells`` and is not
            made again by the next run; ``summary.json``, ``study.ecsv`` and ``costs.ecsv`` are written at the end.
        size: Of every network and its training: all see the same number of images.
        sample: Test galaxies of each place, and how many of them walk from each place to every other; 0 for none.
        one_steps: Steps of the networks for several surveys, in units of those of an expert.
        seed: Of weights, training and, apart from these, test galaxies.
        extra: Further networks by name, as they are.
        device: Where to compute.
        command: What the summary says this was started by.
        progress: Show what is done, and the time left (on stderr).

    Raises:
        InputError: Fewer than two surveys, one twice, left-out ones that are not among them, or a folder with cells of
            another study.
        UnknownNameError: No such survey.

    Errors are of posterior medians: of B/T, and of the natural logarithms of half-light radius and flux.
    """
    places = {place.name: place for place in map(find_place, surveys)}
    _check(surveys, left_out, places, sample)
    run = _Run(places, Path(folder), size or TrainingSize(), sample, seed, device)
    networks = run.plan([find_place(name).name for name in left_out], one_steps)
    records = keep([*run.train_jobs(networks), *run.test_jobs(networks, extra or {})], run.cells, progress=progress)
    names = [*networks, *(extra or {})]
    sizes = {place: run.read_sizes(records, place, names) for place in places}
    experts = {place: place for place in places}
    table = list_errors(sizes, experts)
    costs = list_costs(run.read_walks(records, sizes), {p: sizes[p][p] for p in places}) if sample[1] else QTable()
    summary = {
        "study": "transport", "command": command, "seed": seed, "surveys": list(places),
        "left_out": [name for name in places if LEFT_OUT in networks and name not in networks[LEFT_OUT]],
        "size": dataclasses.asdict(run.size), "one_steps": one_steps,
        "test": {"galaxies": sample[0], "walked": sample[1], "seeds": {p: run.test_seed(p) for p in places},
                 "what": "simulated, isolated, S/N above 20, radius below 0.35 stamps; seen by no training",
                 "median_snr": {p: records[f"{_file(p)}-on-{_file(p)}"]["median_snr"] for p in places}},
        "intervals": f"{LEVEL:.0%} over test galaxies, {RESAMPLINGS} resamplings, paired; one training each, whose own "
        "scatter is not in them",
        "bars": {ONE_FILE: _BAR, LEFT_OUT: _BAR_LEFT_OUT},
        "trainings": {name: _without_mark(records[_file(name)]) for name in networks},
    }  # fmt: skip
    ratios = _compare(sizes, experts, networks)
    sentence = _say(ratios, costs, one_steps)
    matrix = table[table["quantity"] == ALL]
    summary |= {"sentence": sentence, **{f"ratios_{_file(name)}": _rounded(rows) for name, rows in ratios.items()}}
    summary |= {"matrix": list_rows(matrix), "costs": list_rows(costs[costs["quantity"] == ALL]) if len(costs) else []}
    summary |= {"versions": list_versions()}
    write_json(run.folder / "summary.json", summary)
    write_table(table, run.folder / "study.ecsv")
    if len(costs):
        write_table(costs, run.folder / "costs.ecsv")
    return TransportStudy(table, costs, sentence, summary)


class _Run:
    """The places of a study, and how its cells are made."""

    def __init__(
        self,
        places: Mapping[str, Place],
        folder: Path,
        size: TrainingSize,
        sample: tuple[int, int],
        seed: int,
        device: str,
    ) -> None:
        self.places, self.folder, self.cells = places, folder, folder / "cells"
        self.size, self.sample, self.seed, self.device = size, sample, seed, device
        self.trainings: dict[str, Training] = {}
        self.load = functools.lru_cache(maxsize=4)(lambda name: self.trainings[name].load())
        self.draw = functools.lru_cache(maxsize=len(places))(self._draw)

    def plan(self, left_out: Sequence[str], one_steps: float) -> dict[str, list[str]]:
        """Places by network; their trainings are set up, and not begun."""
        networks = {name: [name] for name in self.places} | {ONE_FILE: list(self.places)}
        if left_out:
            networks[LEFT_OUT] = [name for name in self.places if name not in left_out]
        longer = dataclasses.replace(self.size, steps=max(1, round(self.size.steps * one_steps)))
        names = {name: name_survey(place, self.folder / "surveys") for name, place in self.places.items()}
        for name, among in networks.items():
            shares = {names[place]: self.places[place].shares for place in among}
            recipe = shrink(shares, self.size if name in self.places else longer)
            self.trainings[name] = Training(_file(name), recipe, self.seed, self.cells, self.device)
        return networks

    def train_jobs(self, networks: Mapping[str, Sequence[str]]) -> list[Job]:
        """A training a network."""
        return [self.trainings[name].job(_WEIGHT) for name in networks]

    def test_jobs(self, networks: Mapping[str, Sequence[str]], extra: Mapping[str, Network]) -> list[Job]:
        """Every network in every place, and every expert on its way to all others."""
        jobs = []
        for end in self.places:
            for name in networks:
                work = functools.partial(self.test, name, end)
                jobs.append(Job(f"{_file(name)}-on-{_file(end)}", self.mark(self.trainings[name].mark, end), work))
            for name, network in extra.items():
                weights = [float(parameter.detach().double().sum()) for parameter in network.parameters()]
                work = functools.partial(self.test, name, end, network)
                jobs.append(Job(f"{_file(name)}-on-{_file(end)}", self.mark(digest(weights), end), work))
        pairs = [(a, b) for a in self.places for b in self.places if a != b and self.sample[1]]
        for start, end in pairs:
            mark = digest(self.mark(self.trainings[start].mark, start), self.places[end].numbers, self.sample[1])
            jobs.append(Job(f"{_file(start)}-to-{_file(end)}", mark, functools.partial(self.walk, start, end)))
        return jobs

    def mark(self, network: str, place: str) -> str:
        """What a network's errors in a place depend on."""
        return digest(network, self.places[place].numbers, self.sample[0], self.test_seed(place), self.size.stamp_px)

    def test_seed(self, place: str) -> int:
        """Of the place's galaxies: the same whichever other places there are."""
        return _FIRST_SEED + 1_000_003 * self.seed + 10 * (int(digest(place)[:8], 16) % 100_000)

    def _draw(self, name: str) -> Cutouts:
        """The galaxies of a place."""
        return self.places[name].draw(self.sample[0], self.test_seed(name), self.size.stamp_px, self.device)

    def test(self, name: str, end: str, network: Network | None = None) -> dict[str, Any]:
        """Errors of a network in a place."""
        cutouts = self.draw(end)
        assert cutouts.truth is not None
        errors = measure_medians(network or self.load(name), cutouts) - true_values(cutouts)
        snr = float(np.median(cutouts.truth["snr"]))
        return {"network": name, "place": end, "median_snr": round_number(snr), "errors": _listed(errors)}

    def walk(self, start: str, end: str) -> dict[str, Any]:
        """Errors of an expert on galaxies of its own place, as that becomes another step by step."""
        home = self.draw(start).select(slice(0, self.sample[1]))
        assert home.truth is not None
        record: dict[str, Any] = {"start": start, "end": end, "median_snr": {}, "errors": {}}
        for step, survey in step_surveys(self.places[start].survey, self.places[end].survey).items():
            seen = simulate(
                survey, seed=self.test_seed(start) + 1, galaxies=home.truth, stamp_px=self.size.stamp_px,
                device=self.device,
            )  # fmt: skip
            assert seen.truth is not None
            record["median_snr"][step] = round_number(float(np.median(seen.truth["snr"])))
            record["errors"][step] = _listed(measure_medians(self.load(start), seen) - true_values(seen))
        return record

    def read_sizes(
        self, records: Mapping[str, Mapping[str, Any]], place: str, names: Sequence[str]
    ) -> dict[str, Array]:
        """Sizes of the errors of all networks in a place."""
        errors = {name: _array(records[f"{_file(name)}-on-{_file(place)}"]["errors"]) for name in names}
        return measure_sizes(errors, seed=self.test_seed(place))

    def read_walks(
        self, records: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, Sizes]
    ) -> dict[tuple[str, str], list[Array]]:
        """Sizes of the errors of each start's expert: at home, on the way, and at the end.

        Those on the way are of some of the galaxies at home: what a step does to these is added to the size of all.
        """
        walks: dict[tuple[str, str], list[Array]] = {}
        for start in self.places:
            first = _array(records[f"{_file(start)}-on-{_file(start)}"]["errors"])[:, : self.sample[1]]
            ends = {end: records[f"{_file(start)}-to-{_file(end)}"]["errors"] for end in self.places if end != start}
            steps = {f"{end} {step}": _array(found[step]) for end, found in ends.items() for step in STEPS[:-1]}
            some = measure_sizes({"home": first, **steps}, seed=self.test_seed(start) + 2)
            home = sizes[start][start]
            for end in ends:
                way = [home + some[f"{end} {step}"] - some["home"] for step in STEPS[:-1]]
                walks[start, end] = [home, *way, sizes[end][start]]
        return walks


def _check(
    surveys: Sequence[str], left_out: Sequence[str], places: Mapping[str, Place], sample: tuple[int, int]
) -> None:
    """Refuse places that cannot be compared."""
    if len(places) < 2 or len(places) < len(surveys):
        raise InputError(
            f"surveys {', '.join(surveys) or '(none)'}", "two or more, each once", "give sdss-r,hsc-wide-i"
        )
    if not set(left_out) <= set(surveys) or len(set(left_out)) > len(surveys) - 1:
        allowed = f"some of {', '.join(surveys)}, not all"
        raise InputError(f"left out {', '.join(left_out)}", allowed, "leave out surveys that are tested")
    if sample[0] < 20 or not (sample[1] == 0 or 5 <= sample[1] <= sample[0]):
        allowed = "20 or more, of which 0 or 5 to all walk"
        raise InputError(f"{sample[0]} test galaxies, {sample[1]} that walk", allowed, "give 500 and 200")


def _compare(
    sizes: Mapping[str, Sizes], experts: Mapping[str, str], networks: Mapping[str, Sequence[str]]
) -> dict[str, list[dict[str, Any]]]:
    """Networks for several surveys beside the experts: where all are seen, and where some were left out."""
    ratios = {ONE_FILE: list_ratios(sizes, experts, ONE_FILE, list(sizes), _BAR)}
    if LEFT_OUT in networks:
        unseen = [place for place in sizes if place not in networks[LEFT_OUT]]
        ratios[LEFT_OUT] = list_ratios(sizes, experts, LEFT_OUT, unseen, _BAR_LEFT_OUT)
    return ratios


def _say(ratios: Mapping[str, Sequence[Mapping[str, Any]]], costs: QTable, one_steps: float) -> str:
    """Ratios against their bars, and what transport costs where."""
    parts = []
    for name, bar in ((ONE_FILE, _BAR), (LEFT_OUT, _BAR_LEFT_OUT)):
        if name not in ratios:
            continue
        rows = [row for row in ratios[name] if row["quantity"] == ALL]
        each = [row for row in rows if row["place"] != ALL]
        worst, mean = max(each, key=lambda row: row["rms_ratio"]), rows[-1]
        within = sum(row["within_bar"] for row in each)
        singles = [row for row in ratios[name] if row["quantity"] != ALL and row["place"] != ALL]
        single = max(singles, key=lambda row: row["rms_ratio"])
        who = "One weights file errs" if name == ONE_FILE else "On surveys left out it errs"
        parts.append(
            f"{who} {mean['rms_ratio']:.2f} times ({mean['rms_ratio_low']:.2f} to {mean['rms_ratio_high']:.2f}) as "
            "much as an expert a survey (geometric mean of the rms of B/T, ln radius and ln flux; "
            f"{mean['mse_ratio']:.2f} times in mean square, {mean['error_68_ratio']:.2f} times in 68 % error), within "
            f"the bar of {bar} on {within} of {len(each)}: worst on {worst['place']}, {worst['rms_ratio']:.2f} times, "
            f"and of single quantities {QUANTITIES[single['quantity']]} on {single['place']}, "
            f"{single['rms_ratio']:.2f} times."
        )
    trained = "as many steps as one expert" if one_steps == 1 else f"{one_steps:g} times the steps of one expert"
    text = " ".join([*parts, f"Networks for several surveys learned for {trained}."])
    if not len(costs):
        return text
    rows = costs[costs["quantity"] == ALL]
    terms = ", ".join(f"{name} {float(np.mean(rows[name])):+.2f}" for name in (*STEPS, "own", "penalty"))
    return f"{text} An expert elsewhere, mean over {len(rows)} pairs of ln rms: {terms} (penalty: all steps less own)."


def _file(name: str) -> str:
    """A name as part of a file's."""
    return re.sub("[^a-z0-9.]+", "-", name.lower())


def _listed(errors: Array) -> dict[str, list[float | None]]:
    """(N, 3) errors as JSON knows them."""
    return {name: [round_number(value) for value in errors[:, k]] for k, name in enumerate(QUANTITIES)}


def _array(errors: Mapping[str, Sequence[float | None]]) -> Array:
    """The (3, N) inverse."""
    return np.array([errors[name] for name in QUANTITIES], float)


def _rounded(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Numbers with six digits."""
    return [{k: round_number(v) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _without_mark(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the summary tells it."""
    return {key: value for key, value in record.items() if key != "of"}
