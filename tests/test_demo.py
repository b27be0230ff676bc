"""The demonstration: its records, what goes wrong with one set, and the page that comes of it."""

import functools
import json

import numpy as np
import pytest
import torch

from galstress.battery import read_table
from galstress.cli import main
from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.networks import Network
from galstress.perturbations import PERTURBATIONS
from galstress.prediction import predict
from galstress.report import draw_models, read_records
from galstress.simulation import simulate
from galstress.studies import Size, run_demo
from galstress.studies.evaluation import evaluate
from galstress.studies.films import choose_star, film
from galstress.studies.galleries import REAL, load_gallery, simulate_gallery

SMALL = Size(shown=2, evaluated=24, turned=2, frames=6, angle_step=45, refined=5, fitted=1, refined_shown=1)
PRIOR = {"sdss-r": {"nearby": 1.0}, "hsc-wide-i": {"cosmos": 0.85, "nearby": 0.15}}
QUICKLY = functools.partial(draw_models, draws=4)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(3)
    about = {"recipe": "foveal", "seed": 1, "images": 640, "loss_step": [0, 50], "losses": [1.0, -2.0]}
    small = Network.build("foveal", width=0.34).with_metadata(name="small", prior=PRIOR, training=about)
    small.modules().eval()
    return small


@pytest.fixture(scope="module")
def simulated(network, tmp_path_factory):
    """A run without real images, and its folder."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GALSTRESS_DATA", raising=False)
        return run_demo(folder, network, draw_models=QUICKLY, size=SMALL, seed=2), folder


# ---- records -------------------------------------------------------------------------------------------------------


def test_without_real_images_the_galaxies_are_simulated(simulated):
    done, folder = simulated
    records = read_records(folder)
    assert done.left_out == {}
    assert not done.real
    assert set(done.sets) == set(PRIOR)
    assert [part.simulated for part in records.sets] == [True, True]
    assert all(1 <= len(part) <= 2 and part.maps is not None and part.model is not None for part in records.sets)
    assert (done.galaxies, done.seeds) == (4 * 24, (2_000_002_000, 2_000_002_999))


def test_rotations_stand_apart_and_redrawing_is_averaged_too(simulated):
    table = read_table(simulated[1] / "stress.parquet")
    passes = {kind: set(table["averaged"][table["kind"] == kind]) for kind in set(table["kind"])}
    # turns that an answer is averaged over; 0: one pass
    assert passes == {"quarter-turns": {0}, "interpolated-rotation": {0}, "redrawn-rotation": {0, 8}, "depth": {0}}
    assert set(table["survey"]) == set(PRIOR)


def test_errors_and_coverage_with_and_without_neighbours(simulated):
    accuracy, coverage = (read_table(simulated[1] / f"{name}.parquet") for name in ("accuracy", "coverage"))
    assert {(row["survey"], row["population"], bool(row["neighbours"])) for row in accuracy} == {
        (survey, population, beside)
        for survey, population in (("sdss-r", "nearby"), ("hsc-wide-i", "cosmos"))
        for beside in (False, True)
    }
    assert set(accuracy["by"]) == {"", "snr"}
    assert {"", "predicted mag_ab", "predicted bulge_to_total"} <= set(coverage["by"])


def test_film_domain_and_training_are_there(simulated):
    records = read_records(simulated[1])
    (strip,) = records.films
    assert strip.arrays["image"].shape[0] == strip.arrays["quantiles"].shape[1] == 6
    assert set(strip.about["truth"]) == set(strip.about["outputs"])
    assert 15 < np.median(records.domain["mag"]) < 25
    assert len(records.domain["mag"]) > 1000
    assert (records.training["galaxies"], records.training["loss"]) == (640, [1.0, -2.0])


def test_posteriors_are_held_against_the_limit_and_galaxies_refined(simulated):
    records = read_records(simulated[1])
    (found,) = records.posteriors
    assert (found.name, found.about["population"], found.about["seed"]) == ("hsc-wide-i", "cosmos", 2_000_002_600)
    assert np.isfinite(found.galaxies["bulge_to_total_bayes"]).all()
    for part in records.sets:
        large = part.cutouts.images.shape[-1] > 128
        assert (part.refined is None) == large
        assert large or list(part.refined.object_id) == list(part.cutouts.object_id[:1])


def test_one_seed_one_answer_and_what_an_earlier_run_left_is_gone(simulated, network, tmp_path, monkeypatch):
    monkeypatch.delenv("GALSTRESS_DATA", raising=False)
    stale, kept = tmp_path / "galaxies" / "old", tmp_path / "notes.txt"
    stale.mkdir(parents=True)
    for file in (stale / "set.json", stale / "cutouts.fits", kept, tmp_path / "film-real.json"):
        file.write_text("{}")
    run_demo(tmp_path, network, draw_models=QUICKLY, size=SMALL, seed=2)
    assert not stale.exists()
    assert not (tmp_path / "film-real.json").exists()
    assert kept.exists()
    for name in ("accuracy", "stress"):
        one, two = (read_table(folder / f"{name}.parquet") for folder in (simulated[1], tmp_path))
        numbers = [column for column in one.colnames if one[column].dtype.kind == "f"]
        assert all(np.array_equal(one[column], two[column], equal_nan=True) for column in numbers)


def test_sets_that_are_missing_are_told_and_stop_nothing(network, tmp_path, monkeypatch):
    monkeypatch.setenv("GALSTRESS_DATA", str(tmp_path))
    records = tmp_path / "records"
    for part in ("evaluate", "redraw", "film_simulated", "refine", "compare_with_limit"):  # tested above
        monkeypatch.setattr(f"galstress.studies.demo._Run.{part}", lambda *_: None)
    monkeypatch.setattr("galstress.studies.galleries.datasets.load", _missing)
    done = run_demo(records, network, draw_models=QUICKLY, size=SMALL)
    assert set(done.left_out) == set(REAL)
    assert all("set GALSTRESS_DATA" in reason for reason in done.left_out.values())
    assert set(done.sets) == set(PRIOR)  # simulated ones instead
    assert set(read_table(records / "stress.parquet")["survey"]) == set(PRIOR)


def _missing(name, *_):
    raise InputError(f"data set {name}", "a folder", "set GALSTRESS_DATA")


def test_a_step_that_breaks_is_told(network, tmp_path, monkeypatch):
    monkeypatch.delenv("GALSTRESS_DATA", raising=False)
    for part in ("evaluate", "redraw", "disturb", "refine", "compare_with_limit"):
        monkeypatch.setattr(f"galstress.studies.demo._Run.{part}", lambda *_: None)
    monkeypatch.setattr("galstress.studies.demo.choose_star", lambda *_: 1 / 0)
    done = run_demo(tmp_path, network, draw_models=QUICKLY, size=SMALL)
    assert done.left_out == {"film": "division by zero"}
    assert (tmp_path / "domain.parquet").exists()


def test_seeds_out_of_range_are_refused(network, tmp_path):
    with pytest.raises(InputError, match="0 to 9999"):
        run_demo(tmp_path, network, draw_models=QUICKLY, seed=10_000)


# ---- its parts -----------------------------------------------------------------------------------------------------


def test_errors_are_those_of_unflagged_galaxies(network):
    found = evaluate(network, {"hsc-wide-i": "cosmos"}, 40, 77, neighbours=False)
    cutouts = simulate("hsc-wide-i", 40, seed=77, population="cosmos")
    prediction = predict(network, cutouts)
    kept = (prediction.flags & int(Flag.FAINT | Flag.OUT_OF_DOMAIN)) == 0
    place = prediction.names.index("flux_njy")
    error = np.log(prediction.quantile([0.5])[0, kept, place] / cutouts.truth["flux_njy"].value[kept])
    row = found.accuracy[(found.accuracy["output"] == "flux_njy") & (found.accuracy["by"] == "")][0]
    assert row["count"] == kept.sum()
    assert row["error_68"] == pytest.approx(np.quantile(np.abs(error), 0.6827), rel=0.05)
    assert (found.galaxies, found.seconds > 0) == (40, True)


def test_the_star_of_the_film_is_inclined_large_and_bright():
    star = choose_star("hsc-wide-i", "nearby", 5)
    assert len(star) == 1
    assert star.truth["disk_axis_ratio"][0] < 0.5
    assert star.truth["snr"][0] > 100


def test_a_film_shows_the_galaxy_at_each_angle(network, tmp_path):
    star = choose_star("hsc-wide-i", "nearby", 5)
    film(network, star, "redrawn-rotation", 4, tmp_path, "film", title="a galaxy")
    strip = read_records(tmp_path).films[0]
    np.testing.assert_array_equal(strip.arrays["angle_deg"], [0, 90, 180, 270])
    quarter = PERTURBATIONS["redrawn-rotation"](star, 90.0)
    side = strip.arrays["image"].shape[-1]
    cut = (star.images.shape[-1] - side) // 2
    shown = quarter.images[0, cut : cut + side, cut : cut + side].numpy()
    np.testing.assert_allclose(strip.arrays["image"][1], shown, atol=1e-5 * shown.max())
    expected = predict(network, quarter, average=True).quantile([0.5])[0, 0, :3]
    assert strip.about["outputs"][2] == "flux_njy"
    np.testing.assert_allclose(strip.arrays["quantiles"][2, 1], expected, rtol=1e-4)


def test_simulated_galleries_hold_bright_galaxies():
    gallery = simulate_gallery("hsc-wide-i", "cosmos", 3, 4)
    assert len(gallery.cutouts) == 3
    assert (np.asarray(gallery.cutouts.truth["snr"]) > 30).all()
    assert gallery.about["simulated"]


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_page_that_says_it_is_simulated(network, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GALSTRESS_DATA", raising=False)
    monkeypatch.setattr(
        "galstress.studies.Size", functools.partial(Size, turned=2, frames=6, angle_step=45, refined=0, refined_shown=0)
    )
    network.save(tmp_path / "small.safetensors")
    words = ["demo", "-o", tmp_path / "demo", "--network", tmp_path / "small.safetensors", "--count", 24, "--shown", 1]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code
    assert "simulated" in capsys.readouterr().out
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "video/mp4" in page
    assert "set GALSTRESS_DATA to a folder of real images" in page
    about = json.loads((tmp_path / "demo" / "records" / "manifest.json").read_text())
    assert about["galaxies_per_second"] > 0
    assert list(about["checksums"]) == ["small.safetensors"]
    assert about["arguments"]["seeds of what was drawn"].startswith("2000001000")


# ---- real galaxies -------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_galleries_hold_what_they_say(data_dir, name):
    gallery = load_gallery(name, 4)
    assert 3 <= len(gallery.cutouts) <= 4
    assert not gallery.about["simulated"]
    assert gallery.about["credit"]
    assert gallery.has_noise == (name != "hst-candels-bd201")
    assert bool(gallery.about["zero_point_note"]) == bool((gallery.cutouts.flags & Flag.ZERO_POINT_ASSUMED).any())
    # galaxies, no stars: light is spread wider than the PSF
    prediction = predict(Network.load("foveal"), gallery.cutouts)
    radius_px = prediction.quantile([0.5])[0, :, 1] / gallery.cutouts.survey.pixel_scale_arcsec
    assert (radius_px > 0.25 * gallery.cutouts.psf_fwhm_px.numpy()).all()


@pytest.mark.real_data
def test_real_galaxies_are_measured_turned_and_filmed(data_dir, network, tmp_path, monkeypatch):
    for part in ("evaluate", "redraw", "film_simulated"):  # tested above
        monkeypatch.setattr(f"galstress.studies.demo._Run.{part}", lambda *_: None)
    size = Size(shown=1, frames=6, angle_step=45, refined=0, refined_shown=1)
    done = run_demo(tmp_path, network, draw_models=QUICKLY, size=size)
    assert (done.left_out, done.real, set(done.sets)) == ({}, True, set(REAL))
    records = read_records(tmp_path)
    assert {part.cutouts.survey.band for part in records.sets} == {"F814W", "r", "HSC-I"}
    assert all(np.isfinite(part.prediction.mean).all() for part in records.sets)
    assert len(records.films) == 1
    table = read_table(tmp_path / "stress.parquet")
    zeroed = table["survey"] == "hst-candels-f814w-bd201"
    assert set(table["kind"][zeroed]) == {"quarter-turns", "interpolated-rotation"}
    assert "depth" in set(table["kind"][~zeroed])
