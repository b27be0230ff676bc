"""Checks without labels: closed forms of their figures, twins against GalSim, and halves that share no galaxy."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import vstack
from scipy import stats

from galstress.cli import main
from galstress.cutouts import empty_catalogue
from galstress.errors import InputError
from galstress.galaxy import galaxies_from_table
from galstress.networks import Network
from galstress.optics import measure_fwhm
from galstress.realism import load_skies, make_templates, observe_halves
from galstress.realism.records import template_psf
from galstress.rendering import render
from galstress.simulation import simulate
from galstress.survey import Survey

SIDE = 64
HSC = dataclasses.replace(Survey.load("hsc-wide-i"), stamp_px=SIDE)


@pytest.fixture(scope="module")
def benchmarks():
    """The scripts that measure, as modules; they import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield {name: importlib.import_module(name) for name in ("unlabelled", "realism", "twins", "real")}


# ---- figures in closed form ----------------------------------------------------------------------------------------


def test_a_paired_difference_has_its_sign_test(benchmarks):
    difference = np.array([0.1] * 9 + [-0.2] + [0.0, np.nan])
    found = benchmarks["unlabelled"].compare_pairs(difference)
    assert (found["count"], found["median"]) == (11, pytest.approx(0.1))
    assert found["share_rising"] == pytest.approx(9 / 11)
    assert found["sign_test_p"] == pytest.approx(2 * (10 + 1) / 2**10)  # ten coins, nine or more alike
    assert found["share_rising_low"] < found["share_rising"] < found["share_rising_high"]


def test_ranks_are_those_of_their_definition(benchmarks):
    values, answers = np.array([0.1, 0.3, 0.2, 0.5, 0.4, np.nan]), np.array([0, 1, 2, 3, 4, 9.0])
    found = benchmarks["unlabelled"].rank(values, answers)
    steps = np.array([0, 1, -1, 1, -1])  # differences of ranks
    assert found["count"] == 5
    assert found["spearman"] == pytest.approx(1 - 6 * (steps**2).sum() / (5 * 24))
    assert found["kendall"] == pytest.approx((8 - 2) / 10)
    assert benchmarks["unlabelled"].rank(values, np.ones(6)) == {"count": 5}


def test_the_interval_of_a_rank_correlation_holds_the_true_one(benchmarks):
    rng = np.random.default_rng(1)
    x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 300).T
    found = benchmarks["unlabelled"].rank(x, y)
    true = 6 / math.pi * math.asin(0.6 / 2)  # Pearson's formula for normal variables
    assert found["spearman_low_95"] < true < found["spearman_high_95"]
    # Bonett and Wright's error of Fisher's z
    width = 2 * 1.96 * math.sqrt((1 + true**2 / 2) / 297) * (1 - true**2)
    assert found["spearman_high_95"] - found["spearman_low_95"] == pytest.approx(width, rel=0.2)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_area_under_the_curve_is_that_of_two_normals(benchmarks, shift):
    rng = np.random.default_rng(2)
    real, twins = rng.normal(size=(600, 1)) + shift, rng.normal(size=(600, 1))
    found = benchmarks["realism"].tell_apart(real, twins, np.arange(600))
    assert found["auroc"] == pytest.approx(stats.norm.cdf(shift / math.sqrt(2)), abs=0.04)
    assert found["low"] < found["auroc"] < found["high"]


def test_a_summary_keeps_what_others_wrote(benchmarks, tmp_path):
    write, path = benchmarks["realism"].write, tmp_path / "summary.json"
    write({"value": np.float64(0.123456789), "none": np.nan}, path, "first")
    write({"value": 2}, path, "second")
    found = json.loads(path.read_text())
    assert found["second"] == {"value": 2}
    assert found["first"]["value"] == pytest.approx(0.123456789, abs=1e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


# ---- twins ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    return simulate(HSC, 4, seed=8, noise=False).truth


@pytest.fixture(scope="module")
def patches():
    """Sky with a neighbour in the corner and a wide PSF, alike in all four."""
    sky = load_skies(dataclasses.replace(HSC, name="nowhere"), 4, seed=3)
    axis = torch.arange(41.0) - 20
    psf = torch.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 4.0**2))
    images = sky.images.clone()
    images[:, 4:9, 4:9] += 50 * HSC.sky_rms
    beside = torch.zeros_like(sky.mask)
    beside[:, 4:9, 4:9] = True
    return dataclasses.replace(
        sky, images=images, neighbour_mask=beside, psf=(psf / psf.sum()).expand(4, -1, -1), psf_oversampling=1,
        psf_fwhm_px=measure_fwhm((psf / psf.sum())[None], 1).expand(4), catalogue=empty_catalogue(list("abcd")),
    )  # fmt: skip


def test_each_step_adds_what_it_says(benchmarks, models, patches):
    make = benchmarks["twins"].make_twins
    plain, lit, blurred, placed = (
        make(models, HSC, patches, seed=5, **changes) for _, changes in benchmarks["realism"].STEPS
    )
    assert torch.equal(plain.psf, lit.psf)
    assert torch.equal(blurred.psf, patches.psf)
    assert float(placed.psf_fwhm_px[0]) == pytest.approx(4 * 2.3548, rel=0.01)
    assert placed.neighbour_mask[:, 4:9, 4:9].all()
    assert not blurred.neighbour_mask.any()
    # arms move light about, and the sky brings its own
    moved = (lit.images - plain.images).double()
    assert float(moved.abs().amax()) > HSC.sky_rms
    assert (moved.sum((1, 2)).abs() < 0.02 * torch.as_tensor(models["flux_njy"].value / HSC.unit_njy)).all()
    assert float((placed.images - blurred.images)[:, 4:9, 4:9].mean()) == pytest.approx(50 * HSC.sky_rms, rel=0.1)


def test_a_twin_in_real_sky_is_galsims_galaxy_and_the_sky(benchmarks, models, patches):
    galsim = pytest.importorskip("galsim")
    quiet = dataclasses.replace(HSC, electrons_per_unit=1e12)
    seen = benchmarks["twins"].make_twins(models, quiet, patches, seed=5, real_psfs=True, real_sky=True)
    light = (seen.images - patches.images)[0].double().numpy()
    row, scale = models[0], HSC.pixel_scale_arcsec
    exact = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=20000)
    parts = [
        galsim.Sersic(
            float(row[f"{part}_sersic_index"]),
            half_light_radius=float(row[f"{part}_half_light_radius_arcsec"].value * np.sqrt(row[f"{part}_axis_ratio"])),
            flux=float(row[f"{part}_flux_njy"].value) / HSC.unit_njy,
            gsparams=exact,
        ).shear(
            q=float(row[f"{part}_axis_ratio"]),
            beta=(float(row[f"{part}_position_angle_deg"].value) + 90) * galsim.degrees,
        )
        for part in ("disk", "bulge")
        if float(row[f"{part}_flux_njy"].value) > 0
    ]
    offset = [float(row[f"{axis}_px"].value) - (SIDE - 1) / 2 for axis in "xy"]
    # the effective PSF holds the pixel, so that its samples are the image of a point
    psf = galsim.Gaussian(sigma=4.0 * scale, gsparams=exact)
    image = galsim.Convolve(galsim.Sum(parts), psf, gsparams=exact).drawImage(
        nx=SIDE, ny=SIDE, scale=scale, method="no_pixel", offset=offset
    )
    assert np.abs(light - image.array).max() < 2e-3 * image.array.max()


def test_twins_without_reality_are_the_simulators(benchmarks, models, patches):
    twins = benchmarks["twins"].make_twins(models, HSC, patches, seed=5)
    galaxies = galaxies_from_table(models, HSC.pixel_scale_arcsec, HSC.unit_njy).to(dtype=torch.float32)
    model = render(galaxies, twins.psf, twins.psf_oversampling, SIDE)
    drawn = simulate(HSC, galaxies=models, noise=False, seed=1)
    assert torch.allclose(model, drawn.images, atol=1e-5 * float(model.max()))
    off = (twins.images - model) / twins.variance.sqrt()
    assert float(off.std()) == pytest.approx(HSC.kernel_factor, rel=0.1)


# ---- the realistic domain in halves --------------------------------------------------------------------------------


def squares(count):
    """Templates of real pixels alone; two of them are views of one galaxy."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:61, :61] - 30.0
    images = [
        40 * np.exp(-np.hypot(x * math.cos(a) + y * math.sin(a), 2 * (y * math.cos(a) - x * math.sin(a))) / 5)
        + 0.01 * rng.normal(size=x.shape)
        for a in rng.uniform(0, 3, count)
    ]
    survey = Survey.load("hst-acs-f814w")
    made = make_templates(images, survey, sky_rms=0.01, psf=template_psf(survey, 4.0))
    names = made.group.copy()
    names[1] = names[0]
    truth = made.truth.copy()
    truth["bulge_to_total"] = np.linspace(0.1, 0.6, count)
    return dataclasses.replace(made, group=names, truth=truth)


def test_halves_share_no_galaxy_and_views_follow_their_template():
    galaxies = squares(12)
    domain = observe_halves(galaxies, HSC, pool=5, test=15, snr=(30.0, 60.0), real_sky=False, seed=2)
    first, second = domain.groups
    assert (len(domain.pool), len(domain.test)) == (5, 15)
    assert len(set(first)) == 5
    assert not set(first) & set(second)
    counts = np.unique(list(map(str, domain.test.catalogue["template"])), return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    truth = vstack([domain.pool.truth, domain.test.truth])
    assert ((truth["snr"] > 20) & (truth["snr"] < 63)).all()
    again = observe_halves(galaxies, HSC, pool=5, test=15, snr=(30.0, 60.0), real_sky=False, seed=2)
    assert torch.equal(again.test.images, domain.test.images)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"pool": 8}, "usable templates"), ({"test": 3}, "test=3"), ({"snr": (50.0, 30.0)}, "snr=")],
)
def test_halves_that_cannot_be_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        observe_halves(squares(12), HSC, **({"pool": 5, "test": 15, "real_sky": False} | changes))


def run_study(folder, *words):
    """The exit status of a tiny study of labels, of a tiny network, on a survey whose sky is drawn."""
    network = folder.with_suffix(".safetensors")
    Network.build("foveal", width=0.34).save(network)
    small = ["--count", "4", "--test", "6", "--counts", "0,3", "--policies", "last:1", "--steps", "1", "--stamp", "48"]
    with pytest.raises(SystemExit) as left:
        main(["study", "labels", str(network), "--survey", "lsst-i", *small, "-q", "-o", str(folder), *words])
    return left.value.code


def test_the_study_of_labels_takes_the_realistic_domain(tmp_path, monkeypatch):
    monkeypatch.setattr("galstress.realism.load_templates", lambda: squares(12))
    assert not run_study(tmp_path / "study", "--target", "realistic")
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert "--target realistic" in summary["command"]
    assert summary["target"]["pool"] == 4
    assert summary["target"]["test_measured"] == {"bulge_to_total": 6, "ln_radius": 6, "ln_flux": 6}


def test_a_target_that_is_not_known_is_refused(tmp_path, capsys):
    assert run_study(tmp_path / "study", "--target", "imaginary") == 2
    assert "simulated or realistic" in capsys.readouterr().err


# ---- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_pictures_become_cutouts_once_each(benchmarks, data_dir, monkeypatch):
    monkeypatch.setenv("GALSTRESS_DATA", str(data_dir))
    linear, answers, sets = benchmarks["unlabelled"].load_pictures(0.0, ["sloan_singleband"])
    stretched, *_ = benchmarks["unlabelled"].load_pictures(4.0, ["sloan_singleband"])
    assert len(linear) == len(answers) == len(sets) == 8  # 16 files
    assert set(answers) == {0, 1, 2, 3}
    middle = slice(95, 105)
    # asinh lifts the faint: without it the centre stands out more
    contrast = [
        float(np.median(each.images[:, middle, middle].amax((1, 2)) / each.images[:, 60:140, 60:140].mean((1, 2))))
        for each in (linear, stretched)
    ]
    assert contrast[1] > 1.2 * contrast[0]
    assert (linear.sky_rms >= 1000 / 255 / math.sqrt(12)).all()


@pytest.mark.real_data
def test_visual_classes_count_a_galaxy_once(benchmarks, data_dir, monkeypatch):
    monkeypatch.setenv("GALSTRESS_DATA", str(data_dir))
    found = benchmarks["unlabelled"].visual(None, Network.load("foveal"))
    assert found["F160W"]["count"] in (11, 12)
    assert -1 <= found["F160W"]["spearman_low_95"] < found["F160W"]["spearman"] < found["F160W"]["spearman_high_95"]


@pytest.mark.real_data
def test_labels_of_real_galaxies_are_the_published_ones(benchmarks, data_dir, monkeypatch):
    from galstress import datasets

    monkeypatch.setenv("GALSTRESS_DATA", str(data_dir))
    cutouts = datasets.load("hst-candels-bd201", "F814W", stamp_px=64)
    table = benchmarks["real"].labels_of(cutouts)
    catalogue = cutouts.catalogue
    disk = catalogue["lit_disk_half_light_radius_arcsec"].value * np.sqrt(np.asarray(catalogue["lit_disk_axis_ratio"]))
    bulge = catalogue["lit_bulge_half_light_radius_arcsec"].value * np.sqrt(catalogue["lit_bulge_axis_ratio"])
    low, high = np.minimum(disk, bulge), np.maximum(disk, bulge)
    radius = np.asarray(table["half_light_radius_arcsec"])
    known = np.isfinite(radius)
    assert known.sum() > 100
    assert ((radius >= 0.999 * low) & (radius <= 1.001 * high))[known].all()
    pure = known & (np.asarray(table["bulge_to_total"]) < 0.02)
    assert np.allclose(radius[pure], disk[pure], rtol=0.05)
