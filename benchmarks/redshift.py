"""Artificial redshifting against the analytic answer, and the coverage of predictions on redshifted galaxies.

    python benchmarks/redshift.py operator --count 12
    python benchmarks/redshift.py predictions --count 600
    python benchmarks/redshift.py summary

Each writes ``cells/<name>.json`` under ``--folder``, one a survey or redshift, and takes up where it was stopped;
``summary`` puts them into ``docs/results/redshift/summary.json``.

``operator``: galaxies that GalSim drew at z = 0.1, without noise, their pixels moved to z = 0.2 to 1, beside what
GalSim draws there (radii times the ratio of distances, flux times the ratio of f_nu, the same PSF). Flux, half-light
radius and mean surface brightness inside of it are measured alike on both, in the circle that the moved picture fills
to 0.9.

``predictions``: simulated galaxies of ``nearby`` taken to be at z = 0.1, magnitude 15 to 17.5 and half-light radius
1.25 to 2.5 arcsec, on HSC Wide stamps of 320 pixels, moved to each redshift in both ways, cropped to 128 and measured
by ``foveal``. A posterior is right about galaxies of its own prior, and these are others: a perfect one need not cover
68 % of them. So two more numbers stand beside the coverage. ``own_prior`` is that of as many galaxies of the training
prior in the range of magnitude and radius that the redshifted ones have. ``prior_exchanged`` is that of the redshifted
galaxies with each posterior's draws weighted by the density of their own population over that of the training, where
ten or more effective draws are left. In both a perfect posterior covers what it says (but for the ends of the range).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray

from galstress.cutouts import Cutouts, empty_catalogue
from galstress.galaxy import Galaxies, half_light_radius, table_from_galaxies
from galstress.heads import Prediction
from galstress.heads.galaxy import from_internal
from galstress.networks import Network
from galstress.perturbations import PERTURBATIONS
from galstress.perturbations.redshift import Redshift
from galstress.population import load_population
from galstress.prediction import predict
from galstress.scores import count_covered, place_among_samples
from galstress.simulation import simulate, survey_psf
from galstress.survey import Survey
from renderer import draw_galaxies, judge, judge_psf

Array = NDArray[np.float64]

START = 0.1
ENDS = (0.2, 0.3, 0.5, 0.7, 1.0)
SURVEYS = {"hsc-wide-i": 192, "hst-acs-f814w": 192}
OUTPUTS = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
MAG, RADIUS = (15.0, 17.5), (1.25, 2.5)
WIDE_PX = 320
"""Stamps before the move reach eleven half-light radii or more: what lies beyond cannot be brought in."""
LEVELS = (0.68, 0.95)
BAR = 0.03
_log = logging.getLogger("redshift")


def once(folder: Path, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A cell, read if it is there, else made and kept."""
    path = folder / "cells" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        aside.write_text(json.dumps(make(), indent=1), encoding="utf-8")
        aside.replace(path)
    _log.info("%s", path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def measure(image: Array, radius_px: float) -> Array:
    """Flux in a circle about the middle, radius of half of it, and mean surface brightness inside that radius."""
    middle = (len(image) - 1) / 2
    y, x = np.mgrid[: len(image), : len(image)] - middle
    distance = np.hypot(x, y)

    def inside(limit: float) -> float:
        # an edge one pixel wide: the same for both images, and without steps
        return float((image * np.clip(limit - distance + 0.5, 0, 1)).sum())

    total, low, high = inside(radius_px), 0.0, radius_px
    for _ in range(50):
        half = (low + high) / 2
        low, high = (half, high) if inside(half) < total / 2 else (low, half)
    return np.array([total, half, total / (2 * math.pi * half**2)])


def compare_operator(name: str, count: int, seed: int) -> dict[str, Any]:
    """Largest and rms relative differences from GalSim, a redshift each; half-light radii of 1 to 5 times the FWHM."""
    survey, side = Survey.load(name), SURVEYS[name]
    psf, oversampling, fwhm = survey_psf(survey, side)
    galaxies = draw_galaxies(count, side, seed, least_px=2.0)
    middle = torch.full((count,), (side - 1) / 2, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    index = torch.tensor(rng.uniform((0.5, 1.0), (2.5, 4.0), (count, 2)))
    radius = torch.tensor(np.exp(rng.uniform(math.log(fwhm), math.log(5 * fwhm), (count, 2))))
    galaxies = dataclasses.replace(galaxies, x=middle, y=middle, sersic_index=index, radius=radius)
    seen_through = judge_psf(psf, oversampling)
    images = torch.tensor(np.stack([judge(galaxies, row, seen_through, side) for row in range(count)])).float()
    cutouts = without_noise(images, psf, oversampling, fwhm, survey)
    rows = []
    for end in ENDS:
        move = Redshift(START, end)
        moved = PERTURBATIONS["pixel-redshift"](cutouts, end - START, 1).images.double().numpy()
        far = galaxies.scaled(float(move.size_ratio), float(move.flux_ratio))
        drawn = np.stack([judge(far, row, seen_through, side) for row in range(count)])
        circle = 0.9 * float(move.size_ratio) * side / 2
        ours, theirs = (np.stack([measure(image, circle) for image in each]) for each in (moved, drawn))
        off = np.log(ours / theirs)
        whole = np.abs(moved.sum((1, 2)) / (images.double().numpy().sum((1, 2)) * float(move.flux_ratio)) - 1)
        row: dict[str, Any] = {"z": end, "size_ratio": float(move.size_ratio), "flux_ratio": float(move.flux_ratio)}
        for place, what in enumerate(("flux", "half_light_radius", "surface_brightness")):
            row[what] = {
                "largest": float(np.abs(off[:, place]).max()),
                "rms": float(np.sqrt((off[:, place] ** 2).mean())),
            }
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        apart = np.abs(moved - drawn) * (np.hypot(x, y) < circle)
        row["pixel_over_peak"] = float((apart.max((1, 2)) / drawn.max((1, 2))).max())
        row["flux_kept"] = float(whole.max())
        rows.append(row)
        _log.info("%s z = %.1f: %s", name, end, {k: v for k, v in row.items() if k not in ("z", "flux_ratio")})
    return {"survey": name, "galaxies": count, "seed": seed, "stamp_px": side, "from": START, "rows": rows}


def without_noise(images: torch.Tensor, psf: torch.Tensor, oversampling: int, fwhm: float, survey: Survey) -> Cutouts:
    """Images as cutouts whose noise is a billionth of their peak."""
    count, rms = len(images), 1e-9 * float(images.max())
    blank = torch.zeros(images.shape, dtype=torch.bool)
    return Cutouts(
        images, torch.full_like(images, rms**2), blank, blank, psf.expand(count, -1, -1), oversampling,
        torch.full((count,), fwhm), torch.full((count,), rms), survey, empty_catalogue([str(i) for i in range(count)]),
    )  # fmt: skip


def draw_start(count: int, seed: int) -> QTable:
    """Bright galaxies of ``nearby`` at z = 0.1, the truth columns for stamps of ``WIDE_PX``."""
    survey = Survey.load("hsc-wide-i")
    generator = torch.Generator().manual_seed(seed)
    sky = load_population("nearby").sample(400 * count, generator)
    mag, radius = 31.4 - 2.5 * torch.log10(sky.flux), half_light_radius(sky)
    chosen = (mag > MAG[0]) & (mag < MAG[1]) & (radius > RADIUS[0]) & (radius < RADIUS[1])
    rows = torch.nonzero(chosen)[:, 0][:count]
    if len(rows) < count:
        raise SystemExit(f"only {len(rows)} of {count} galaxies in the range")
    picked = sky.select(rows).scaled(1 / survey.pixel_scale_arcsec, 1 / survey.unit_njy)
    offset = torch.rand(2, count, generator=generator) * 2 - 1 + (WIDE_PX - 1) / 2
    picked = dataclasses.replace(picked, x=offset[0], y=offset[1])
    return table_from_galaxies(picked, survey.pixel_scale_arcsec, survey.unit_njy)


def move_galaxies(galaxies: QTable, kind: str, end: float, seed: int) -> Cutouts:
    """Wide stamps simulated, moved to a redshift, and cropped to the survey's usual size."""
    survey, parts = Survey.load("hsc-wide-i"), []
    for first in range(0, len(galaxies), 24):
        wide = simulate(survey, galaxies=galaxies[first : first + 24], seed=seed + first, stamp_px=WIDE_PX)
        wide.catalogue["object_id"] = [f"{seed}-{first + row}" for row in range(len(wide))]
        moved = PERTURBATIONS[kind](wide, end - START, seed)
        edge = (WIDE_PX - survey.stamp_px) // 2
        inner = slice(edge, edge + survey.stamp_px)
        pixels = {
            n: getattr(moved, n)[:, inner, inner].clone() for n in ("images", "variance", "mask", "neighbour_mask")
        }
        parts.append(dataclasses.replace(moved, **pixels))
    return Cutouts.concatenate(parts)


def covered(true: Array, samples: Array) -> dict[str, dict[str, float]]:
    """Coverage with its binomial sigma."""
    place = place_among_samples(true, samples)
    found = {}
    for level in LEVELS:
        share = count_covered(place, level)
        good = np.isfinite(share)
        sigma = math.sqrt(level * (1 - level) / max(int(good.sum()), 1))
        found[f"{level:.0%}"] = {"coverage": float(share[good].mean()), "sigma": sigma, "count": int(good.sum())}
    return found


def values_of(cutouts: Cutouts) -> Array:
    """(N, 3) true outputs."""
    assert cutouts.truth is not None
    return np.stack([np.asarray(getattr(cutouts.truth[name], "value", cutouts.truth[name])) for name in OUTPUTS], 1)


def samples_of(prediction: Prediction, seed: int = 1) -> Array:
    """(n, N, 3) draws of the outputs, every draw of the posterior once."""
    assert prediction.draws is not None
    places = [prediction.names.index(name) for name in OUTPUTS]
    return prediction.sample(prediction.draws.shape[1], seed)[:, :, places]


def exchange_prior(prediction: Prediction, move: Redshift, shares: dict[str, float], seed: int) -> tuple[Array, Array]:
    """Draws (n, N, 3) resampled by the redshifted population's density over the training's; effective draws (N,)."""
    assert prediction.draws is not None
    internal = prediction.draws.double().transpose(0, 1)
    galaxies, radius = from_internal(internal, prediction._reference64())
    scale, unit = prediction.survey.pixel_scale_arcsec, prediction.survey.unit_njy
    sky = galaxies.scaled(scale, unit)
    flat = Galaxies(**{f.name: getattr(sky, f.name).flatten(0, 1) for f in dataclasses.fields(sky)})
    ln_radius = torch.log(radius * scale).flatten()
    trained = torch.logsumexp(
        torch.stack([load_population(n).log_prob(flat, ln_radius) + math.log(s) for n, s in shares.items()]), 0
    )
    size, flux = float(move.size_ratio), float(move.flux_ratio)
    near, ln_near = flat.scaled(1 / size, 1 / flux), ln_radius - math.log(size)
    mag = 31.4 - 2.5 * torch.log10(near.flux)
    chosen = (mag > MAG[0]) & (mag < MAG[1]) & (ln_near > math.log(RADIUS[0])) & (ln_near < math.log(RADIUS[1]))
    own = torch.where(chosen, load_population("nearby").log_prob(near, ln_near), -math.inf)
    weight = torch.exp((own - trained).nan_to_num(nan=-math.inf)).view(internal.shape[:2])
    total = weight.sum(0)
    effective = (total**2 / (weight**2).sum(0).clamp_min(1e-300)).numpy()
    samples = samples_in_order(prediction)
    result = np.full_like(samples, np.nan)
    generator = torch.Generator().manual_seed(seed)
    for row in range(samples.shape[1]):
        if float(total[row]) > 0 and effective[row] >= 10:
            picked = torch.multinomial(weight[:, row], len(samples), replacement=True, generator=generator).numpy()
            result[:, row] = samples[picked, row]
    return result, effective


def samples_in_order(prediction: Prediction) -> Array:
    """(n, N, 3) outputs of the draws, in the draws' own order."""
    assert prediction.draws is not None
    places = [prediction.names.index(name) for name in OUTPUTS]
    rows = torch.arange(len(prediction))
    return prediction._outputs(prediction.draws.double().transpose(0, 1), rows).numpy()[:, :, places]


def draw_prior(move: Redshift, count: int, seed: int, shares: dict[str, float]) -> Cutouts:
    """Galaxies of the training prior in the range that the redshifted ones have, as HSC Wide sees them."""
    survey, generator = Survey.load("hsc-wide-i"), torch.Generator().manual_seed(seed)
    fainter, size = -2.5 * math.log10(float(move.flux_ratio)), float(move.size_ratio)
    found: list[Galaxies] = []
    while sum(map(len, found)) < count:
        for name, share in shares.items():
            sky = load_population(name).sample(round(500_000 * share), generator)
            mag = 31.4 - 2.5 * torch.log10(sky.flux) - fainter
            sky = sky.select(torch.nonzero((mag > MAG[0]) & (mag < MAG[1]))[:, 0])
            radius = half_light_radius(sky) / size
            found.append(sky.select(torch.nonzero((radius > RADIUS[0]) & (radius < RADIUS[1]))[:, 0]))
    sky = Galaxies.concatenate(found)
    # a whole round of the mixture, in random order: its shares stay
    picked = sky.select(torch.randperm(len(sky), generator=generator)[:count])
    offset = torch.rand(2, count, generator=generator) * 2 - 1 + (survey.stamp_px - 1) / 2
    picked = picked.scaled(1 / survey.pixel_scale_arcsec, 1 / survey.unit_njy)
    picked = dataclasses.replace(picked, x=offset[0], y=offset[1])
    table = table_from_galaxies(picked, survey.pixel_scale_arcsec, survey.unit_njy)
    return simulate(survey, galaxies=table, seed=generator)


def measure_control(end: float, count: int, seed: int, network: Network) -> dict[str, Any]:
    """Coverage of galaxies of the training prior."""
    cutouts = draw_prior(Redshift(START, end), count, seed, dict(network.metadata["prior"]["hsc-wide-i"]))
    true, samples = values_of(cutouts), samples_of(predict(network, cutouts, draws=256))
    cell: dict[str, Any] = {"control": end, "galaxies": count, "seed": seed}
    assert cutouts.truth is not None
    cell["median_snr"] = float(np.median(cutouts.truth["snr"]))
    cell |= {name: covered(true[:, place], samples[:, :, place]) for place, name in enumerate(OUTPUTS)}
    return cell


def measure_coverage(end: float, count: int, seed: int, network: Network) -> dict[str, Any]:
    """Coverage at one redshift, by both operators."""
    start = draw_start(count, seed)
    move = Redshift(START, end)
    shares = dict(network.metadata["prior"]["hsc-wide-i"])
    cell: dict[str, Any] = {"z": end, "galaxies": count, "seed": seed}
    for kind in ("redrawn-redshift", "pixel-redshift"):
        moved = move_galaxies(start, kind, end, seed)
        prediction = predict(network, moved, draws=256)
        true, samples = values_of(moved), samples_of(prediction)
        assert moved.truth is not None
        row: dict[str, Any] = {"median_snr": float(np.median(moved.truth["snr"]))}
        changed, effective = exchange_prior(prediction, move, shares, seed)
        row["effective_draws"] = [float(np.quantile(effective, q)) for q in (0.05, 0.5)]
        for place, output in enumerate(OUTPUTS):
            error = true[:, place] - np.median(samples[:, :, place], 0)
            if place:
                error = np.log(true[:, place]) - np.median(np.log(samples[:, :, place]), 0)
            row[output] = {
                "coverage": covered(true[:, place], samples[:, :, place]),
                "prior_exchanged": covered(true[:, place], changed[:, :, place]),
                "median_error": float(np.median(error)),
                "error_68": float(np.quantile(np.abs(error), 0.68)),
            }
        cell[kind] = row
        _log.info("z = %.1f %s %s", end, kind, json.dumps(row))
    return cell


def summarise(folder: Path) -> dict[str, Any]:
    """All cells, and the bars."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "cells").glob("*.json"))]
    operator = [cell for cell in cells if "rows" in cell]
    predictions = sorted((cell for cell in cells if "redrawn-redshift" in cell), key=lambda cell: float(cell["z"]))
    worst = {
        what: max(row[what]["largest"] for cell in operator for row in cell["rows"])
        for what in ("flux", "half_light_radius", "surface_brightness")
    }
    controls = {cell["control"]: cell for cell in cells if "control" in cell}
    predictions = [cell for cell in predictions if cell["z"] in controls]
    missed, apart = [], []
    for cell in predictions:
        cell["own_prior"] = controls[cell["z"]]
        for kind in ("redrawn-redshift", "pixel-redshift"):
            for output in OUTPUTS:
                for level in LEVELS:
                    found = cell[kind][output]["coverage"][f"{level:.0%}"]
                    own = cell["own_prior"][output][f"{level:.0%}"]["coverage"]
                    if cell["z"] == START:
                        continue  # nothing was moved: where the others start from
                    apart.append(abs(found["coverage"] - own))
                    if abs(found["coverage"] - level) > BAR:
                        where = {"z": cell["z"], "kind": kind, "output": output, "level": level}
                        missed.append(where | found | {"own_prior": own})
    total = len(apart)
    sentence = (
        f"Redshifted pixels agree with GalSim within {worst['flux']:.1e} in flux, {worst['half_light_radius']:.1e} in "
        f"half-light radius and {worst['surface_brightness']:.1e} in surface brightness; of {total} coverages of "
        f"foveal on redshifted galaxies {total - len(missed)} lie within {BAR:.2f} of what they should be, and "
        f"{sum(value <= BAR for value in apart)} within {BAR:.2f} of those of galaxies of the training prior "
        f"(largest difference {max(apart):.3f})."
    )
    return {
        "study": "redshift",
        "sentence": sentence,
        "command": "python benchmarks/redshift.py operator; python benchmarks/redshift.py predictions; "
        "python benchmarks/redshift.py summary",
        "sample": __doc__.split("``operator``: ")[1].strip() if __doc__ else "",
        "interval": "sigma is that of a share of so many galaxies (binomial)",
        "bar": {"operator": 1e-3, "coverage": BAR},
        "operator_largest": worst,
        "operator": operator,
        "missed": missed,
        "predictions": predictions,
    }


def main() -> None:
    """Parse and run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("operator", "predictions", "summary"))
    parser.add_argument("--count", type=int, default=0, help="galaxies a survey (12) or a redshift (600)")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--folder", type=Path, default=Path("redshift-records"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/redshift/summary.json"))
    options = parser.parse_args()
    if options.what == "operator":
        for name in SURVEYS:
            once(options.folder, f"operator-{name}", lambda: compare_operator(name, options.count or 12, options.seed))  # noqa: B023
    elif options.what == "predictions":
        network = Network.load("foveal")
        count = options.count or 600
        for end in (START, *ENDS):
            once(options.folder, f"predictions-{end:g}", lambda: measure_coverage(end, count, options.seed, network))  # noqa: B023
            once(options.folder, f"control-{end:g}", lambda: measure_control(end, count, options.seed + 1000, network))  # noqa: B023
    else:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        aside = options.output.with_name(options.output.name + ".part")
        aside.write_text(json.dumps(summarise(options.folder), indent=1) + "\n", encoding="utf-8")
        aside.replace(options.output)
        _log.info("%s", options.output)


if __name__ == "__main__":
    main()
