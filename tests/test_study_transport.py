"""The study of transport: ratios and steps are closed forms, places are what they say, and cells are made once."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from galstress.cli import main
from galstress.errors import InputError, UnknownNameError
from galstress.figures import DARK, ratio_bars, step_matrices, to_svg, transport_matrix
from galstress.galaxy import galaxies_from_table, table_from_galaxies
from galstress.networks import Network
from galstress.simulation import simulate
from galstress.studies.penalties import list_costs, list_errors, list_ratios, measure_sizes
from galstress.studies.places import STEPS, find_place, name_survey, step_surveys
from galstress.studies.savings import ALL, QUANTITIES
from galstress.studies.trainings import Training, TrainingSize, shrink
from galstress.studies.transport import LEFT_OUT, ONE_FILE, study_transport
from galstress.survey import Survey

TINY = TrainingSize(width=0.25, steps=2, images=8, stamp_px=48)
SURVEYS = ["sdss-r", "hsc-wide-i@0.3"]


# ---- closed forms --------------------------------------------------------------------------------------------------


def scaled(factors: dict[str, float], galaxies: int = 400, seed: int = 2) -> dict[str, np.ndarray]:
    """Normal errors of every network, the same but for their size: all ratios are exact."""
    normal = np.random.default_rng(seed).normal(size=(3, galaxies))
    return {name: factor * normal for name, factor in factors.items()}


def test_ratios_of_known_errors_have_no_width_and_meet_their_bars():
    sizes = {
        "a": measure_sizes(scaled({"a": 1, "b": 2.0, "one": 1.2}), seed=1),
        "b": measure_sizes(scaled({"a": 3, "b": 1.0, "one": 1.5}, seed=3), seed=2),
    }
    rows = {
        r["place"]: r for r in list_ratios(sizes, {"a": "a", "b": "b"}, "one", ["a", "b"], 1.25) if r["quantity"] == ALL
    }
    assert [rows["a"][f"rms_ratio{end}"] for end in ("", "_low", "_high")] == pytest.approx([1.2] * 3)
    assert rows["a"]["mse_ratio"] == pytest.approx(1.44)
    assert rows["a"]["error_68_ratio"] == pytest.approx(1.2)
    assert (rows["a"]["within_bar"], rows["a"]["sure"]) == (True, True)
    assert (rows["b"]["within_bar"], rows["b"]["sure"]) == (False, False)
    assert rows[ALL]["rms_ratio"] == pytest.approx(math.sqrt(1.2 * 1.5))
    table = list_errors(sizes, {"a": "a", "b": "b"})
    cell = table[(table["place"] == "b") & (table["network"] == "a") & (table["quantity"] == "ln_flux")][0]
    assert [cell[f"rms_ratio{end}"] for end in ("", "_low", "_high")] == pytest.approx([3] * 3)


def test_intervals_are_those_of_normal_errors():
    sizes = {"a": measure_sizes(scaled({"a": 0.1}), seed=1)}
    row = list_errors(sizes, {"a": "a"})[0]
    low, high = 0.1 * np.sqrt(stats.chi2(400).ppf([0.025, 0.975]) / 400)  # N rms^2 / sigma^2 follows chi-square
    assert row["rms_high"] - row["rms_low"] == pytest.approx(high - low, rel=0.15)
    assert row["rms"] == pytest.approx(0.1, rel=0.1)


def test_galaxies_that_one_network_lost_count_for_none():
    errors = scaled({"a": 1, "b": 2}, galaxies=50)
    errors["b"][1, 7] = np.nan
    whole = measure_sizes({name: np.delete(each, 7, 1) for name, each in errors.items()}, seed=1)
    assert np.array_equal(measure_sizes(errors, seed=1)["a"], whole["a"])
    with pytest.raises(InputError, match="4 galaxies"):
        measure_sizes({name: each[:, :4] for name, each in scaled({"a": 1}).items()}, seed=1)


def test_steps_sum_to_the_whole_way_and_the_penalty_is_the_ratio_to_the_other_expert():
    factors = [1.0, 1.5, 1.8, 3.6, 3.0]
    walk = [measure_sizes(scaled({"x": factor}), seed=1)["x"] for factor in factors]
    own = {"a": walk[0], "b": measure_sizes(scaled({"x": 2.0}), seed=1)["x"]}
    row = list_costs({("a", "b"): walk}, own)[-1]
    assert row["quantity"] == ALL
    expected = np.diff(np.log(factors))
    assert [row[step] for step in STEPS] == pytest.approx(list(expected))
    assert row["total"] == pytest.approx(sum(row[step] for step in STEPS))
    assert row["total"] == pytest.approx(math.log(3))
    assert row["own"] == pytest.approx(math.log(2))
    assert [row[f"penalty{end}"] for end in ("", "_low", "_high")] == pytest.approx([math.log(3 / 2)] * 3)


# ---- places --------------------------------------------------------------------------------------------------------


def test_galaxies_are_moved_as_distances_say():
    def comoving(z):  # flat, matter 0.3
        return integrate.quad(lambda t: 1 / math.sqrt(0.3 * (1 + t) ** 3 + 0.7), 0, z)[0]

    near, far = 0.1, 0.6
    place = find_place("hst-candels-f814w@0.6")
    ratio = comoving(near) * (1 + near) / (comoving(far) * (1 + far))  # of luminosity distances
    assert place.size == pytest.approx(ratio * (1 + far) ** 2 / (1 + near) ** 2, rel=1e-6)
    assert place.brightness == pytest.approx(ratio**2 * (1 + far) / (1 + near), rel=1e-6)


@pytest.mark.parametrize("name", ["hsc-wide-i@0.4", "hst-candels-f814w@1.0"])
def test_moved_galaxies_have_the_images_of_near_ones_in_the_equivalent_survey(name):
    place = find_place(name)
    moved = place.draw(4, seed=5, stamp_px=48)
    pixels = galaxies_from_table(moved.truth, place.survey.pixel_scale_arcsec, place.survey.unit_njy)
    near = place.near
    table = table_from_galaxies(pixels, near.pixel_scale_arcsec, near.unit_njy)
    same = simulate(near, seed=6, galaxies=table, stamp_px=48)
    assert (same.images - moved.images).abs().max() < 1e-5 * moved.images.abs().max()
    assert same.sky_rms.numpy() == pytest.approx(moved.sky_rms.numpy())
    radius = moved.truth["half_light_radius_arcsec"] / table["half_light_radius_arcsec"]
    assert np.asarray(radius) == pytest.approx(place.size, rel=1e-6)


def test_what_is_drawn_can_be_measured_and_one_seed_gives_one_answer():
    place = find_place("des-r")
    drawn, again = place.draw(30, 3, 48), place.draw(30, 3, 48)
    assert torch.equal(drawn.images, again.images)
    assert np.all(np.asarray(drawn.truth["snr"]) > 20)
    assert np.all(drawn.truth["half_light_radius_arcsec"].value < 0.35 * 48 * place.survey.pixel_scale_arcsec)
    assert not torch.equal(drawn.images, place.draw(30, 4, 48).images)


def test_a_survey_that_sees_nothing_is_named():
    blind = dataclasses.replace(find_place("sdss-r"), brightness=1e-4)
    with pytest.raises(InputError, match="S/N above 20"):
        blind.draw(20, 1, 48)


def test_each_step_changes_one_thing():
    start, end = Survey.load("sdss-r"), Survey.load("hst-acs-f814w")
    way = step_surveys(start, end)

    def noise_njy_per_arcsec(survey: Survey) -> float:  # of sky in one square arcsecond, before the kernel
        return survey.sky_rms / survey.kernel_factor * survey.unit_njy / survey.pixel_scale_arcsec

    assert noise_njy_per_arcsec(way["depth"]) == pytest.approx(noise_njy_per_arcsec(end))
    assert (way["depth"].psf, way["depth"].pixel_scale_arcsec) == (start.psf, start.pixel_scale_arcsec)
    assert (way["psf"].psf, way["psf"].pixel_scale_arcsec) == (end.psf, start.pixel_scale_arcsec)
    assert dataclasses.replace(way["psf"], psf=start.psf) == way["depth"]
    assert way["pixels"] == end


def test_a_place_is_trained_on_by_name_or_by_a_file_that_reads_back(tmp_path):
    assert name_survey(find_place("sdss-r"), tmp_path) == "sdss-r"
    place = find_place("jwst-nircam-f200w@0.5")
    assert Survey.load(name_survey(place, tmp_path)) == place.near


@pytest.mark.parametrize("name", ["hsc-wide-i@0.05", "hsc-wide-i@far", "hsc-wide-i@9"])
def test_no_galaxy_is_moved_closer_or_nowhere(name):
    with pytest.raises(InputError, match="redshift from"):
        find_place(name)


# ---- trainings -----------------------------------------------------------------------------------------------------


def test_every_training_sees_as_many_images():
    one = shrink({"sdss-r": {"nearby": 1.0}}, TINY)
    two = shrink({"sdss-r": {"nearby": 1.0}, "des-r": {"cosmos": 1.0}}, TINY)
    for recipe in (one, two):
        lessons = recipe.draw(0, seed=1)
        assert sum(len(lesson.galaxies) for lesson in lessons) == TINY.images
        assert {lesson.cutouts.images.shape[-1] for lesson in lessons} == {48}
        assert not any(bool(lesson.cutouts.neighbour_mask.any()) for lesson in lessons)


def test_a_training_depends_on_numbers_and_seed_not_on_its_place(tmp_path):
    recipe = shrink({"sdss-r": {"nearby": 1.0}}, TINY)
    first = Training("a", recipe, 1, tmp_path)
    assert first.mark == Training("b", shrink({"sdss-r": {"nearby": 1.0}}, TINY), 1, tmp_path / "other").mark
    longer = shrink({"sdss-r": {"nearby": 1.0}}, dataclasses.replace(TINY, steps=3))
    others = [dataclasses.replace(first, seed=2), dataclasses.replace(first, recipe=longer)]
    others.append(dataclasses.replace(first, recipe=dataclasses.replace(recipe, turned=False)))
    assert len({each.mark for each in (first, *others)}) == 4


# ---- a study -------------------------------------------------------------------------------------------------------


def run(folder, **changes):
    settings = {"left_out": SURVEYS[1:], "folder": folder, "size": TINY, "sample": (20, 6)} | changes
    return study_transport(settings.pop("surveys", SURVEYS), **settings)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transport")
    return folder, run(folder)


def test_the_summary_holds_everything(study):
    folder, found = study
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["surveys"] == SURVEYS
    assert summary["left_out"] == SURVEYS[1:]
    assert set(summary["trainings"]) == {*SURVEYS, ONE_FILE, LEFT_OUT}
    assert {each["images"] for each in summary["trainings"].values()} == {16}
    assert summary["trainings"][LEFT_OUT]["surveys"] == ["sdss-r"]
    assert summary["sentence"] == found.sentence
    assert "1.25" in found.sentence
    assert "mean square" in found.sentence
    assert all(snr > 20 for snr in summary["test"]["median_snr"].values())
    # the table's errors are those of the cells' own lists
    cell = json.loads((folder / "cells" / "sdss-r-on-hsc-wide-i-0.3.json").read_text(encoding="utf-8"))
    rows = found.table[(found.table["network"] == "sdss-r") & (found.table["place"] == SURVEYS[1])]
    for name in QUANTITIES:
        errors = np.array(cell["errors"][name], float)
        assert rows[rows["quantity"] == name]["rms"][0] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-4)
    diagonal = [row for row in summary["matrix"] if row["network"] == row["place"]]
    assert [row["rms_ratio"] for row in diagonal] == [1, 1]
    assert len(found.table.read(folder / "study.ecsv")) == len(found.table) == 2 * 4 * 4


def test_steps_of_the_study_lead_from_the_expert_at_home_to_the_expert_elsewhere(study):
    found = study[1]
    for row in found.costs:
        table = found.table[found.table["quantity"] == row["quantity"]]

        def size(network, place, table=table):
            return float(table["rms"][(table["network"] == network) & (table["place"] == place)][0])

        start, end = row["start"], row["end"]
        assert sum(row[step] for step in STEPS) == pytest.approx(math.log(size(start, end) / size(start, start)))
        assert row["penalty"] == pytest.approx(math.log(size(start, end) / size(end, end)))


def test_cells_are_made_once_and_a_lost_one_again(study, tmp_path):
    folder, found = tmp_path / "copy", study[1]
    shutil.copytree(study[0], folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = run(folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    assert again.summary == found.summary
    lost = next(path for path in before if path.name == "one-file-on-sdss-r.json")
    lost.unlink()
    third = run(folder)
    assert {path for path, when in before.items() if path.stat().st_mtime_ns != when} == {lost}
    assert third.summary["matrix"] == found.summary["matrix"]


def test_a_training_that_was_cut_off_gives_the_same_weights(study, tmp_path):
    recipe = shrink({"sdss-r": find_place("sdss-r").shares}, TINY)
    training = Training("again", recipe, 1, tmp_path)
    training.make()
    kept = Network.load(study[0] / "cells" / "sdss-r.safetensors")
    pairs = zip(training.load().parameters(), kept.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_figures_hold_their_numbers_in_both_themes(study):
    found = study[1]
    fig, ax = transport_matrix(found.table, note="a note", theme=DARK)
    words = [text.get_text() for text in ax.texts]
    assert len(words) == 8
    assert words.count("1.00") >= 2
    assert "a note" in to_svg(fig, DARK)
    _, panels = ratio_bars(found.table, found.summary["bars"], places={ONE_FILE: SURVEYS, LEFT_OUT: SURVEYS[1:]})
    points = {line.get_label(): line.get_xdata() for line in panels[0, 3].get_lines() if line.get_marker() in "os"}
    rows = found.table[(found.table["network"] == ONE_FILE) & (found.table["quantity"] == ALL)]
    assert points[ONE_FILE] == pytest.approx(np.asarray(rows["rms_ratio"]))
    assert len(points[LEFT_OUT]) == 1
    assert step_matrices(found.costs)[1].shape == (2, 3)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"surveys": ["sdss-r"], "left_out": ()}, "two or more"),
        ({"surveys": ["sdss-r", "sdss-r"], "left_out": ()}, "each once"),
        ({"left_out": ["des-r"]}, "some of"),
        ({"left_out": SURVEYS}, "not all"),
        ({"sample": (10, 0)}, "20 or more"),
        ({"size": dataclasses.replace(TINY, steps=3)}, "of other data or settings"),
        ({"seed": 2}, "of other data or settings"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(study, changes, words):
    with pytest.raises(InputError, match=words) as found:
        run(study[0], **changes)
    assert "\n" not in str(found.value)


def test_unknown_surveys_and_sizes_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="sdss-x"):
        run(tmp_path, surveys=["sdss-r", "sdss-x"], left_out=())
    with pytest.raises(InputError, match="width=0"):
        TrainingSize(width=0)
    with pytest.raises(InputError, match="two images of each"):
        shrink({"sdss-r": {"nearby": 1.0}, "des-r": {"nearby": 1.0}}, dataclasses.replace(TINY, images=3))


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_a_study(tmp_path, capsys):
    weights, output = tmp_path / "given.safetensors", tmp_path / "study"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        Network.build("foveal", width=0.25).save(weights)
    words = f"study transport --surveys sdss-r,des-r --steps 1 --images 4 --stamp 48 --test 20 --walk 5 -o {output}"
    with pytest.raises(SystemExit) as left:
        main([*words.split(), "--network", str(weights)])
    assert left.value.code == 0
    assert "One weights file errs" in capsys.readouterr().out
    figures = {
        f"{name}{theme}.{kind}"
        for name in ("transport", "transport-ratios", "transport-steps")
        for theme in ("", "-dark")
        for kind in ("png", "svg")
    }
    names = {path.name for path in output.iterdir()}
    assert names == {"cells", "summary.json", "study.ecsv", "costs.ecsv", "manifest.json", *figures}
    summary = json.loads((output / "summary.json").read_text())
    assert summary["command"].startswith("galstress study transport --surveys sdss-r,des-r --steps 1")
    assert {row["network"] for row in summary["matrix"]} == {"sdss-r", "des-r", ONE_FILE, "given, as it is"}


def test_the_command_refuses_one_survey(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["study", "transport", "--surveys", "sdss-r", "-o", str(tmp_path / "study")])
    assert left.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "two or more" in lines[0]
