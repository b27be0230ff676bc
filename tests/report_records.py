"""A folder of records that look like those of a real run, in seconds and without a trained network."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from astropy.table import MaskedColumn, QTable
from astropy.wcs import WCS
from safetensors.numpy import save_file

from galstress.cutouts import Cutouts, Flag, empty_catalogue
from galstress.explanation import Explanation
from galstress.galaxy import Galaxies, galaxies_from_table, half_light_radius, table_from_galaxies
from galstress.heads import INTERNAL_NAMES, OUTPUTS, Prediction, Reference, to_internal
from galstress.optics import make_psf, measure_fwhm
from galstress.rendering import draw_truth
from galstress.report import draw_models
from galstress.scores import truth_values
from galstress.survey import Survey

NAMES = tuple(OUTPUTS)
HEADLINES = NAMES[:3]
NASTY = '<script>alert("id")</script>&amp;'


def make_truth(count: int, survey: Survey, stamp_px: int, rng: np.random.Generator) -> QTable:
    """Disks with bulges, off the centre, bulge turned against the disk."""
    scale = stamp_px / 64

    def two(low: tuple[float, float], high: tuple[float, float]) -> torch.Tensor:
        return torch.tensor(rng.uniform(low, high, (count, 2)), dtype=torch.float64)

    flux = 10 ** rng.uniform(2.4, 4.4, count) * survey.sky_rms * 3
    middle = (stamp_px - 1) / 2
    galaxies = Galaxies(
        flux=torch.tensor(flux),
        bulge_to_total=torch.tensor(rng.uniform(0.05, 0.9, count)),
        x=torch.tensor(middle + rng.uniform(-1, 1, count)),
        y=torch.tensor(middle + rng.uniform(-1, 1, count)),
        sersic_index=two((0.7, 2.5), (1.3, 4.5)),
        radius=two((5 * scale, 1.5 * scale), (9 * scale, 3 * scale)),
        axis_ratio=two((0.3, 0.6), (0.9, 0.95)),
        angle=two((-1.5, -1.5), (1.5, 1.5)),
    )
    return table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)


def make_cutouts(
    survey_name: str, count: int, seed: int, *, simulated: bool, stamp_px: int = 64
) -> tuple[Cutouts, QTable]:
    """Galaxies with arms and a companion that no disk and bulge can follow, under noise."""
    rng = np.random.default_rng(seed)
    survey = Survey.load(survey_name)
    truth = make_truth(count, survey, stamp_px, rng)
    oversampling = 3
    kernel = make_psf(survey.psf, survey.pixel_scale_arcsec, oversampling, 25 * oversampling)
    psf = kernel.float().expand(count, -1, -1).contiguous()
    width = float(measure_fwhm(psf[:1], oversampling)[0])
    model = draw_truth(truth, psf, oversampling, survey, stamp_px).numpy()
    y, x = np.mgrid[:stamp_px, :stamp_px]
    images, beside = [], np.zeros((count, stamp_px, stamp_px), bool)
    for row in range(count):
        x0, y0 = (float(truth[name][row].value) for name in ("x_px", "y_px"))
        radius, angle = np.hypot(x - x0, y - y0), np.arctan2(y - y0, x - x0)
        arms = 0.0 if simulated else 0.3 * np.cos(2 * angle - 0.5 * radius) * np.exp(-(((radius - 9) / 6) ** 2))
        at = stamp_px * np.array([0.78, 0.3 + 0.4 * rng.random()])
        companion = 0.15 * model[row].max() * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * width**2) * 2)
        beside[row] = companion > survey.sky_rms
        images.append(model[row] * (1 + arms) + companion)
    clean = np.array(images)
    variance = survey.sky_rms**2 + clean / survey.electrons_per_unit
    noisy = clean + rng.normal(size=clean.shape) * np.sqrt(variance)
    mask = np.zeros_like(beside)
    mask[0, 5:9, 40:48] = True
    catalogue = empty_catalogue([f"{survey_name}-{place:02d}" for place in range(count)])
    catalogue["redshift"] = MaskedColumn(rng.uniform(0.01, 0.9, count), mask=np.arange(count) % 2 == 1)
    if not simulated:
        catalogue["lit_bulge_to_total"] = np.clip(
            np.asarray(truth["bulge_to_total"]) + rng.normal(0, 0.08, count), 0, 1
        )
        catalogue["lit_half_light_radius_arcsec"] = truth["half_light_radius_arcsec"] * 1.1
        catalogue["lit_mag_ab"] = truth["mag_ab"] + 0.05 * u.mag
        catalogue["lit_source"] = ["GALFIT"] * count
    cutouts = Cutouts(
        images=torch.tensor(noisy, dtype=torch.float32),
        variance=torch.tensor(variance, dtype=torch.float32),
        mask=torch.tensor(mask),
        neighbour_mask=torch.tensor(beside),
        psf=psf,
        psf_oversampling=oversampling,
        psf_fwhm_px=torch.full((count,), float(width)),
        sky_rms=torch.full((count,), survey.sky_rms),
        survey=survey,
        catalogue=catalogue,
        wcs=tuple(_turned_wcs(survey.pixel_scale_arcsec, 35.0 * row) for row in range(count))
        if not simulated
        else None,
        truth=truth if simulated else None,
    )
    return cutouts, truth


def _turned_wcs(pixel_scale_arcsec: float, angle_deg: float) -> WCS:
    """A tangent plane whose north is turned by an angle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.1, 2.2], [32.5, 32.5]
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    wcs.wcs.cd = pixel_scale_arcsec / 3600 * np.array([[-cos, sin], [sin, cos]])
    return wcs


def make_prediction(cutouts: Cutouts, truth: QTable, rng: np.random.Generator, *, exact: bool = False) -> Prediction:
    """Posteriors about the truth: the second galaxy is an outlier, the last could not be read."""
    survey, count = cutouts.survey, len(cutouts)
    galaxies = galaxies_from_table(truth, survey.pixel_scale_arcsec, survey.unit_njy)
    middle = (cutouts.images.shape[-1] - 1) / 2
    sky_rms = cutouts.sky_rms.double()
    reference = Reference(galaxies.flux / sky_rms, half_light_radius(galaxies), (middle, middle), sky_rms)
    sigma = torch.full((len(INTERNAL_NAMES),), 0.04, dtype=torch.float64)
    sigma[INTERNAL_NAMES.index("logit_bulge_to_total")] = 0.25
    factor = torch.diag(sigma)
    factor[4, 3] = 0.03  # radius and B/T go together
    offset = torch.tensor(rng.normal(size=(count, len(sigma)))) @ factor.T * 0.7
    flags = np.zeros(count, np.int64)
    if exact:
        factor, offset = 1e-6 * factor, 0 * offset
    else:
        offset[1, INTERNAL_NAMES.index("logit_bulge_to_total")] += 2.0
        flags[0], flags[1] = int(Flag.VARIANCE_ESTIMATED), int(Flag.OUT_OF_DOMAIN | Flag.PADDED)
        flags[-1] |= int(Flag.UNREADABLE)
    return Prediction(
        internal_mean=to_internal(galaxies, reference) + offset,
        internal_covariance=(factor @ factor.T).expand(count, -1, -1).contiguous(),
        reference=reference,
        object_id=np.asarray(cutouts.object_id).astype(str),
        flags=flags,
        survey=survey,
        network="foveal",
    )


def write_records(folder: Path, count: int = 4, seed: int = 5) -> Path:
    """All records of one page: three sets, of which two claim to be real."""
    rng = np.random.default_rng(seed)
    for name, survey, simulated in (
        ("hst-candels", "hst-candels-f814w", False),
        ("sdss", "sdss-r", False),
        ("simulated", "hsc-wide-i", True),
    ):
        write_set(folder / "galaxies" / name, survey, count, rng, simulated=simulated)
    write_json(
        folder / "manifest.json",
        {
            "command": "galstress demo", "arguments": {"output": "demo", "seed": 1, "network": "foveal"}, "seed": 1,
            "network": "foveal", "device": "cpu", "created": "2026-01-02T03:04:05Z", "elapsed_s": 92.3,
            "galaxies_per_second": 212.0, "versions": {"galstress": "0.1.0", "torch": "2.13.0"},
            "checksums": {"foveal.safetensors": "ab" * 32},
        },
    )  # fmt: skip
    write_table(folder / "stress.parquet", make_stress(rng))
    write_table(folder / "accuracy.parquet", make_accuracy(rng))
    write_table(folder / "coverage.parquet", make_coverage(rng))
    magnitude = rng.normal(20.5, 1.5, 4000)
    domain = {"mag": magnitude, "radius_arcsec": np.exp(rng.normal(-0.2 * (magnitude - 21), 0.5))}
    write_table(folder / "domain.parquet", domain | {"bulge_to_total": rng.beta(0.7, 1.2, 4000)})
    steps = np.arange(0, 40000, 100)
    loss = -5 - 8 * (1 - np.exp(-steps / 9000)) + rng.normal(0, 0.3, steps.size)
    about = {"steps": 40000, "galaxies": 40000 * 256, "time_s": 9000, "population": ["cosmos", "nearby"], "seed": 1}
    write_json(folder / "training.json", about | {"loss_step": steps.tolist(), "loss": loss.tolist()})
    write_film(folder, "film", rng)
    write_film(folder, "film-real", rng, frames=6)
    return folder


def write_set(folder: Path, survey: str, count: int, rng: np.random.Generator, *, simulated: bool) -> None:
    """One set of galaxies; the first of a real set has a name that would like to be a script."""
    folder.mkdir(parents=True)
    cutouts, truth = make_cutouts(survey, count, int(rng.integers(1 << 30)), simulated=simulated)
    if not simulated:
        names = [NASTY, *map(str, cutouts.object_id[1:])]
        cutouts = dataclasses.replace(cutouts, catalogue=_renamed(cutouts.catalogue, names))
    prediction = make_prediction(cutouts, truth, rng)
    cutouts.write(folder / "cutouts.fits")
    prediction.write(folder / "prediction.safetensors")
    save_file(draw_models(cutouts, prediction, draws=16), folder / "model.safetensors")
    note = "The zero point is the author's own: magnitudes are relative." if survey.startswith("hst") else ""
    title = {True: "Simulated HSC", False: f"Real {survey}"}[simulated]
    credit = "" if simulated else "NASA/ESA Hubble & CANDELS"
    about = {"title": title, "simulated": simulated, "credit": credit, "licence": "MIT", "zero_point_note": note}
    about |= {} if simulated else {"literature": {"lit_bulge_to_total": "GALFIT, a Sersic bulge and a disk"}}
    write_json(folder / "set.json", about)
    side = cutouts.images.shape[-1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    maps = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / size) for a, b, size in ((3, -4, 160), (0, 0, 120), (9, 2, 300))]
    # The first galaxy has maps, the second none: its output depended on no pixel.
    arrays = [np.stack([each / each.sum(), np.full_like(each, np.nan)]) for each in maps]
    correlations = np.array([[0.81, 0.4], [np.nan, np.nan]])
    Explanation("bulge_to_total", cutouts.object_id[:2], *arrays, correlations, correlations).write(
        folder / "explanation.safetensors"
    )


def _renamed(catalogue: QTable, names: list[str]) -> QTable:
    catalogue = catalogue.copy()
    catalogue["object_id"] = np.array(names)
    return catalogue


def make_stress(rng: np.random.Generator, objects: int = 40) -> dict[str, np.ndarray]:
    """Three kinds of rotation and depth, for the headline outputs."""
    plan = {
        "quarter-turns": np.arange(8.0), "interpolated-rotation": np.arange(0.0, 360, 30),
        "redrawn-rotation": np.arange(0.0, 360, 10), "depth": np.array([1, 0.5, 0.25, 0.125, 0.0625]),
    }  # fmt: skip
    value = {"bulge_to_total": 0.3, "half_light_radius_arcsec": 1.2, "flux_njy": 2e4}
    columns: dict[str, list] = {}
    for kind, amounts in plan.items():
        for output in HEADLINES:
            base = value[output] * np.exp(rng.normal(0, 0.2, objects))
            sigma = 0.06 * base
            phase = rng.uniform(0, np.pi, objects)
            for amount in amounts:
                if kind == "depth":
                    shift, wide = sigma * rng.normal(size=objects) * np.sqrt(1 / amount - 1), sigma / np.sqrt(amount)
                else:
                    turn = np.sin(2 * np.deg2rad(amount * (45 if kind == "quarter-turns" else 1)) + phase)
                    shift, wide = 0.2 * sigma * (turn - np.sin(phase)), sigma
                rows = {
                    "object_id": [f"galaxy {i}" for i in range(objects)], "kind": [kind] * objects,
                    "perturbation": ["depth" if kind == "depth" else "rotation"] * objects,
                    "amount": [amount] * objects, "output": [output] * objects, "value": base + shift, "sigma": wide,
                    "baseline_value": base, "baseline_sigma": sigma, "expected": base, "shift": shift,
                }  # fmt: skip
                for name, column in rows.items():
                    columns.setdefault(name, []).extend(column)
    return {name: np.array(column) for name, column in columns.items()}


def make_accuracy(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Errors that fall with S/N, for three surveys."""
    edges, rows = (20.0, 50.0, 100.0, 300.0, np.inf), []
    for place, survey in enumerate(("sdss-r", "hsc-wide-i", "hst-candels-f814w")):
        for output, size in zip(HEADLINES, (0.1, 0.08, 0.06), strict=True):
            for low, high in itertools.pairwise(edges):
                error = size * (50 / low) ** 0.4 * (1 + 0.2 * place) * (1 + 0.05 * rng.normal())
                row = {"survey": survey, "population": "cosmos", "neighbours": False, "output": output, "by": "snr"}
                row |= {"bin_low": low, "bin_high": high, "count": 1200, "error_68": error}
                row |= {"error_68_low": 0.95 * error, "error_68_high": 1.05 * error, "guess_error_68": 3 * size}
                rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def make_coverage(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Honest intervals, over all and in four bins of predicted magnitude."""
    bins = [("", "", -np.inf, np.inf), *(("predicted mag_ab", "mag", 17.0 + i, 18.0 + i) for i in range(4))]
    rows = []
    for output in NAMES:
        for by, unit, low, high in bins:
            for level in (0.68, 0.95):
                sigma = np.sqrt(level * (1 - level) / 5000)
                share = level + sigma * rng.normal()
                row = {"output": output, "by": by, "by_unit": unit, "bin_low": low, "bin_high": high, "level": level}
                rows.append(row | {"coverage": share, "sigma": sigma, "passes": abs(share - level) < 0.02 + 2 * sigma})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def write_film(folder: Path, name: str, rng: np.random.Generator, frames: int = 24) -> None:
    """A galaxy with a companion, drawn again at every angle."""
    cutouts, truth = make_cutouts("hsc-wide-i", 1, 11, simulated=True)
    angle = np.arange(frames) * 360.0 / frames
    images = []
    for step in angle:
        turned = truth.copy()
        for part in ("disk", "bulge"):
            turned[f"{part}_position_angle_deg"] = truth[f"{part}_position_angle_deg"] + step * u.deg
        model = draw_truth(turned, cutouts.psf, cutouts.psf_oversampling, cutouts.survey, 64)[0].numpy()
        images.append(model + rng.normal(0, cutouts.survey.sky_rms, model.shape))
    values = truth_values(truth, HEADLINES)[0]
    wobble = 1 + 0.01 * np.sin(2 * np.deg2rad(angle))[:, None]
    spread = np.array([-0.1, -0.05, 0.0, 0.05, 0.1])[:, None, None]
    arrays = {"image": np.array(images), "angle_deg": angle, "quantiles": values * (wobble + spread)}
    save_file({key: array.astype(np.float32) for key, array in arrays.items()}, folder / f"{name}.safetensors")
    about = {
        "title": f"{name}: a simulated galaxy as HSC Wide sees it in i for $1, drawn again at every angle",
        "object_id": "film",
    }
    about |= {"outputs": list(HEADLINES), "pixel_scale_arcsec": cutouts.survey.pixel_scale_arcsec, "fps": 12}
    about |= {"truth": dict(zip(HEADLINES, values.tolist(), strict=True)), "sky_rms": cutouts.survey.sky_rms}
    write_json(folder / f"{name}.json", about)


def write_json(path: Path, record: dict) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")


def write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
