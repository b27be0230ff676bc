"""What the shipped network does on simulated galaxies that no training has seen.

    python benchmarks/foveal.py accuracy --network foveal --count 4000 --out results
    python benchmarks/foveal.py rotation --network foveal --count 100 --out results

``accuracy``: fresh galaxies of every survey's own population (``nearby`` on SDSS, ``cosmos`` elsewhere),
isolated and with neighbours apart: 68 % errors by survey and S/N beside guess-the-median, and
coverage overall and in bins of predicted magnitude, radius and B/T. ``rotation``: galaxies drawn
again at 36 angles, without noise and with, one pass and averaged over the eight turns and mirrors.
Seeds start at 900,000; training uses seeds mixed from 1. Tables go to ``--out`` as ECSV.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from astropy.table import QTable, Row, vstack

import galstress
from galstress.cutouts import Cutouts
from galstress.galaxy import galaxies_from_table, table_from_galaxies
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.scores import Bins, accuracy_table, coverage_table
from galstress.simulation import simulate

SURVEYS = {
    "sdss-r": "nearby",
    "hsc-wide-i": "cosmos",
    "hst-acs-f814w": "cosmos",
    "hst-candels-f814w": "cosmos",
    "euclid-vis": "cosmos",
    "sdss-g": "nearby",
    "hsc-wide-g": "cosmos",
    "hsc-wide-r": "cosmos",
    "hsc-udeep-i": "cosmos",
    "hst-candels-f606w": "cosmos",
    "hst-candels-f125w": "cosmos",
    "hst-wfc3-f160w": "cosmos",
    "kids-r": "cosmos",
    "des-r": "cosmos",
    "decals-r": "nearby",
    "lsst-i": "cosmos",
    "roman-f158": "cosmos",
    "jwst-nircam-f200w": "cosmos",
}
"""Population by survey; new ones at the end, since seeds go by place."""
STAMPS = {"sdss-g": 192, "sdss-r": 192, "hst-acs-f814w": 192, "jwst-nircam-f200w": 192}
TURNED = ("sdss-r", "hsc-wide-i", "hst-acs-f814w", "hst-candels-f814w", "euclid-vis")
"""Surveys of the rotation test."""
SNR_EDGES = (20.0, 50.0, 100.0, 300.0, math.inf)
OUTPUTS = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
_log = logging.getLogger("foveal")


def draw(survey: str, count: int, seed: int, neighbours: bool) -> Iterator[Cutouts]:
    """Fresh galaxies with S/N above 20, ``count`` of them, as the population draws them."""
    found, block = 0, 250
    while found < count:
        cutouts = simulate(
            survey, block, seed=seed, population=SURVEYS[survey], neighbours=neighbours, stamp_px=STAMPS.get(survey)
        )
        seen = np.flatnonzero(np.asarray(cutouts.truth["snr"]) > SNR_EDGES[0])[: count - found]
        found, seed = found + len(seen), seed + 1
        yield cutouts.select(seen)


def measure(network: Network, survey: str, count: int, neighbours: bool) -> tuple[Prediction, QTable, float]:
    """Predictions and truth of fresh galaxies, and the seconds that predicting took."""
    predictions, truths, seconds = [], [], 0.0
    seed = 900_000 + 10_000 * list(SURVEYS).index(survey) + 5_000 * neighbours
    for cutouts in draw(survey, count, seed, neighbours):
        start = time.perf_counter()
        predictions.append(predict(network, cutouts))
        seconds += time.perf_counter() - start
        truths.append(cutouts.truth)
    return Prediction.concatenate(predictions), vstack(truths, metadata_conflicts="silent"), seconds


def accuracy(network: Network, count: int, out: Path) -> None:
    """Errors and coverage, isolated and with neighbours."""
    tables: dict[str, list[QTable]] = {"accuracy": [], "coverage": [], "coverage_by_survey": []}
    for neighbours in (False, True):
        kept = []
        for survey in SURVEYS:
            prediction, truth, seconds = measure(network, survey, count, neighbours)
            _log.info("%s %s: %.2f ms a galaxy", survey, neighbours, 1e3 * seconds / count)
            bins = Bins("snr", np.asarray(truth["snr"]), SNR_EDGES)
            table = accuracy_table(prediction, truth, (bins,))
            coverage = coverage_table(prediction, truth, ())
            for name, rows in (("accuracy", table), ("coverage_by_survey", coverage)):
                rows["survey"], rows["neighbours"] = survey, neighbours
                tables[name].append(rows)
            kept.append((prediction, truth))
        pooled = pool(kept)
        rows = coverage_table(*pooled)
        rows["neighbours"] = neighbours
        tables["coverage"].append(rows)
    whole = {name: vstack(parts, metadata_conflicts="silent") for name, parts in tables.items()}
    for name, table in whole.items():
        table.write(out / f"{name}.ecsv", overwrite=True)
    keep(network, count, whole["accuracy"], whole["coverage"], out / "summary.json")


def keep(network: Network, count: int, accuracies: QTable, coverages: QTable, path: Path) -> None:
    """What the README quotes, as one file: errors by survey and S/N, coverage of all surveys together."""
    by = np.array([str(value) for value in accuracies["by"]])
    rows = accuracies[np.isin(accuracies["output"], OUTPUTS) & (by == "snr") & (accuracies["count"] > 0)]
    overall = coverages[[str(value) == "--" for value in coverages["by"]]]
    columns = ("survey", "neighbours", "output", "bin_low", "bin_high", "count", "error_68", "error_68_low")
    record = {
        "command": f"python benchmarks/foveal.py accuracy --count {count}",
        "version": galstress.__version__,
        "network": dict(network.metadata["training"]) | {"loss_step": [], "losses": []},
        "seeds": "900,000 + 10,000 x place of the survey + 5,000 with neighbours, one more a block of 250",
        "sample": f"{count} simulated galaxies a survey with S/N above {SNR_EDGES[0]:g}",
        "intervals": "68 %, bootstrap over galaxies",
        "accuracy": [_plain(row, (*columns, "error_68_high", "guess_in_bin_error_68")) for row in rows],
        "coverage": [_plain(row, ("output", "neighbours", "level", "coverage", "count", "passes")) for row in overall],
        "cells": {
            "with neighbours" if beside else "isolated": [
                int(np.sum(coverages["passes"][coverages["neighbours"] == beside])),
                int(np.sum(coverages["neighbours"] == beside)),
            ]
            for beside in (False, True)
        },
    }
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def _plain(row: Row, names: Sequence[str]) -> dict[str, object]:
    """Cells of a row as JSON has them; None where there is no number."""
    result: dict[str, object] = {}
    for name in names:
        value = row[name].item() if hasattr(row[name], "item") else row[name]
        is_number = isinstance(value, float)
        result[name] = (float(f"{value:.4g}") if math.isfinite(value) else None) if is_number else value
    return result


def pool(kept: list[tuple[Prediction, QTable]]) -> tuple[object, QTable]:
    """All surveys together, as something that has names, units and quantiles."""

    @dataclasses.dataclass(frozen=True)
    class Pooled:
        names: tuple[str, ...]
        units: tuple[str, ...]

        def quantile(self, probabilities: list[float]) -> np.ndarray:
            return np.concatenate([prediction.quantile(probabilities) for prediction, _ in kept], 1)

    first = kept[0][0]
    return Pooled(first.names, first.units), vstack([truth for _, truth in kept], metadata_conflicts="silent")


def turned(truth: QTable, survey: object, angle: float, centre: float) -> QTable:
    """The same galaxies turned about the array's centre."""
    scale, unit = survey.pixel_scale_arcsec, survey.unit_njy
    galaxies = galaxies_from_table(truth, scale, unit)
    x, y = galaxies.x - centre, galaxies.y - centre
    cos, sin = math.cos(angle), math.sin(angle)
    galaxies = dataclasses.replace(
        galaxies, x=centre + cos * x - sin * y, y=centre + sin * x + cos * y, angle=galaxies.angle + angle
    )
    return table_from_galaxies(galaxies, scale, unit)


def rotation(network: Network, count: int, out: Path, angles: int = 36, averages: bool = True) -> None:
    """Spread of each output over the angles, per galaxy."""
    rows = []
    for place, survey in enumerate(TURNED):
        seen = next(iter(draw(survey, count, 950_000 + 1000 * place, False)))
        stamp, truth, record = seen.images.shape[-1], seen.truth, seen.survey
        for noise in (False, True):
            for average in (False, True) if averages else (False,):
                values, sigmas = [], []
                for step in range(angles):
                    again = simulate(
                        record,
                        seed=960_000 + 1000 * place + step,
                        galaxies=turned(truth, record, 2 * math.pi * step / angles, (stamp - 1) / 2),
                        noise=noise,
                        stamp_px=stamp,
                    )
                    prediction = predict(network, again, average=average)
                    values.append(prediction.mean[:, :3])
                    sigmas.append(prediction.std[:, :3])
                rows.append(spread(np.stack(values), np.stack(sigmas), truth, survey, noise, average))
                _log.info("rotation of %s, noise %s, averaged %s", survey, noise, average)
    vstack(rows, metadata_conflicts="silent").write(out / "rotation.ecsv", overwrite=True)


def spread(values: np.ndarray, sigmas: np.ndarray, truth: QTable, survey: str, noise: bool, average: bool) -> QTable:
    """Rms over the angles of each galaxy's outputs: fractional for radius and flux, absolute for B/T."""
    table = QTable()
    rms = values.std(0)
    mean = values.mean(0)
    table["bulge_to_total"], table["radius"], table["flux"] = rms[:, 0], rms[:, 1] / mean[:, 1], rms[:, 2] / mean[:, 2]
    for place, name in enumerate(("bulge_to_total", "radius", "flux")):
        table[f"{name}_in_sigma"] = rms[:, place] / sigmas[..., place].mean(0)
    table["true_bulge_to_total"] = truth["bulge_to_total"]
    table["true_ellipticity"] = np.hypot(truth["e1"], truth["e2"])
    table["snr"] = truth["snr"]
    table["survey"], table["noise"], table["averaged"] = survey, noise, average
    return table


def main() -> None:
    """Parse, run, write."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "rotation"))
    parser.add_argument("--network", default="foveal")
    parser.add_argument("--count", type=int, default=4000, help="galaxies a survey")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    network = Network.load(options.network)
    {"accuracy": accuracy, "rotation": rotation}[options.what](network, options.count, options.out)


if __name__ == "__main__":
    main()
