"""The study of invariance: effects are closed forms, orientations are what they say, and cells are made once."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from galstress.cli import main
from galstress.errors import InputError
from galstress.figures import DARK, four_cells, to_svg
from galstress.finetuning import Tuning, finetune
from galstress.galaxy import Galaxies
from galstress.networks import Network
from galstress.optics import make_psf
from galstress.realism import make_templates
from galstress.studies.effects import EFFECTS, REAL, SIMULATED, judge_effects
from galstress.studies.invariance import study_invariance
from galstress.studies.medians import measure_medians
from galstress.studies.savings import ALL, QUANTITIES
from galstress.studies.targets import observe_target, simulate_target
from galstress.studies.trainings import TrainingSize, shrink
from galstress.survey import Survey

TINY = TrainingSize(width=0.25, steps=2, images=8, stamp_px=48)
SHORT = Tuning(steps=2, batch=4, check_every=2)


# ---- closed forms --------------------------------------------------------------------------------------------------


def sizes_of(cells: np.ndarray, seeds: np.ndarray, galaxies: int = 60) -> np.ndarray:
    """Absolute normal numbers, the same in each cell and seed but for a factor of each."""
    normal = np.abs(np.random.default_rng(3).normal(size=(3, galaxies)))
    return cells[:, :, None, None, None] * seeds[:, None, None] * normal


def test_effects_of_known_factors_have_no_width():
    cells = np.array([[0.01, 0.03, 0.04], [0.02, 0.3, 0.5]])
    table, effects = judge_effects(sizes_of(cells, np.ones(2)), np.arange(60), seed=1)
    expected = {
        "many orientations": (math.log(0.02 / 0.01) + math.log(0.3 / 0.03)) / 2,
        "turned": (math.log(0.03 / 0.01) + math.log(0.3 / 0.02)) / 2,
        "interaction": math.log(0.3 / 0.02) - math.log(0.03 / 0.01),
    }
    for row in effects:
        assert [row[f"gain{end}"] for end in ("", "_low", "_high")] == pytest.approx([expected[row["effect"]]] * 3)
    assert len(effects) == len(EFFECTS) * (len(QUANTITIES) + 1)
    rms = {(r["simulated"], r["real"]): r["rms"] for r in table if r["quantity"] == ALL}
    assert rms["one", "none"] / rms["many", "turned"] == pytest.approx(50)
    assert table["rms_seed_spread"].max() == pytest.approx(0, abs=1e-12)


def test_trainings_that_differ_widen_the_interval_of_a_cell():
    cells = np.ones((2, 3))
    same = judge_effects(sizes_of(cells, np.ones(3)), np.arange(60), seed=1)[0][0]
    unlike = judge_effects(sizes_of(cells, np.array([0.25, 1.0, 4.0])), np.arange(60), seed=1)[0][0]
    assert unlike["rms"] == pytest.approx(same["rms"])  # the geometric mean
    assert unlike["rms_high"] / unlike["rms_low"] > 3 * same["rms_high"] / same["rms_low"]
    assert unlike["rms_seed_spread"] == pytest.approx(np.std([0.25, 1, 4], ddof=1) * same["rms"])


def test_the_interval_of_a_cell_is_that_of_normal_numbers():
    row = judge_effects(sizes_of(np.ones((2, 3)), np.ones(1), 400), np.arange(400), seed=1)[0][0]
    low, high = np.sqrt(stats.chi2(400).ppf([0.025, 0.975]) / 400)
    assert row["rms_high"] - row["rms_low"] == pytest.approx(high - low, rel=0.15)


def test_images_of_one_galaxy_are_drawn_together():
    sizes = sizes_of(np.ones((2, 3)), np.ones(1))
    once = judge_effects(sizes, np.arange(60), seed=1)[0]
    often = judge_effects(np.repeat(sizes, 3, -1), np.repeat(np.arange(60), 3), seed=1)[0]
    assert list(often["rms_low"]) == pytest.approx(list(once["rms_low"]))


def test_too_few_galaxies_are_refused():
    sizes = sizes_of(np.ones((2, 3)), np.ones(1))
    sizes[..., 4:] = np.nan
    with pytest.raises(InputError, match="4 galaxies"):
        judge_effects(sizes, np.arange(60), seed=1)


# ---- orientations --------------------------------------------------------------------------------------------------


def position_angles(galaxies: Galaxies) -> np.ndarray:
    return np.degrees(galaxies.angle.numpy() - math.pi / 2) % 180


def test_at_one_orientation_position_angles_are_0_within_ten_degrees():
    many, one = (shrink({"hsc-wide-i": {"cosmos": 1.0}}, TINY, turned=turned) for turned in (True, False))
    lessons = {recipe.turned: [recipe.draw(step, seed=1)[0] for step in (0, 1, 40)] for recipe in (many, one)}
    still = np.concatenate([position_angles(lesson.galaxies)[:, 0] for lesson in lessons[False]])
    still = (still + 90) % 180 - 90
    assert 5 < np.std(still) < 20
    assert abs(np.mean(still)) < 3 * 10 / np.sqrt(len(still))
    for lesson in lessons[False]:  # and the light lies along +y
        light = lesson.cutouts.images.double().sum(0) / lesson.cutouts.sky_rms[0]
        place = torch.arange(48.0, dtype=torch.float64) - 23.5
        middle = light[12:36, 12:36].clamp_min(0)
        spread = place[12:36] ** 2
        assert float((middle.sum(1) * spread).sum()) > 1.1 * float((middle.sum(0) * spread).sum())
    angles = np.concatenate([position_angles(lesson.galaxies)[:, 0] for lesson in lessons[True]])
    assert np.std(angles) > 30


def test_fine_tuning_without_turns_shows_galaxies_as_they_came():
    drawn = simulate_target("hsc-wide-i", (6, 5, 5), 48, 3).pool
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Network.build("foveal", width=0.25)
    losses = {}
    for turned in (True, False):
        # all galaxies in one step: their order is all that the seed changes
        tuning = Tuning(steps=1, batch=6, validation=0, side_px=48, turned=turned)
        tuned = [finetune(network, drawn, tuning=tuning, seed=seed) for seed in (1, 2)]
        losses[turned] = [float(each.history["loss"][1]) for each in tuned]
        assert (tuned[0].manifest["augmentation"] == "none") != turned
    assert losses[False][0] == pytest.approx(losses[False][1], abs=1e-4)
    assert abs(losses[True][0] - losses[True][1]) > 1e-3


def blobs(count: int):
    """Templates: ellipses of two lumps, wide for their PSF, without noise."""
    survey = dataclasses.replace(Survey.load("hst-acs-f814w"), electrons_per_unit=1e9)
    psf = make_psf(survey.psf, 0.03, 2, 41).float()
    y, x = np.mgrid[:101, :101] - 50.0
    images = []
    for row in range(count):
        angle = 0.4 * row
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        lump = 0.3 * np.exp(-((u - 6) ** 2 + v**2) / 30)
        images.append(0.5 * (np.exp(-(u**2 / 150 + v**2 / 50)) + lump))
    templates = make_templates(images, survey, sky_rms=1e-3, psf=(psf, 2))
    templates.truth["bulge_to_total"] = np.linspace(0.1, 0.9, count)  # they have no model that it could be of
    return templates


def test_real_galaxies_are_split_and_turned_under_one_noise():
    target = observe_target("hsc-wide-i", (3, 5, 5), 48, 2, angles=4, templates=blobs(9))
    assert not target.simulated
    assert not set(target.groups[0]) & set(target.groups[1])
    assert (target.pool.images.shape[-1], target.turned[0].images.shape[-1], len(target.turned)) == (72, 48, 4)
    first, half = target.turned[0].truth, target.turned[2].truth
    for name in ("flux_njy", "bulge_to_total", "x_px", "y_px"):
        assert np.asarray(first[name], float) == pytest.approx(np.asarray(half[name], float), nan_ok=True)
    assert np.asarray(target.turned[1].truth["e1"]) == pytest.approx(-np.asarray(first["e1"]), abs=1e-3)
    with pytest.raises(InputError, match="9 in all"):
        observe_target("hsc-wide-i", (5, 5, 5), 48, 2, templates=blobs(9))


# ---- a study -------------------------------------------------------------------------------------------------------


def run(target, folder, **changes):
    settings = {"folder": folder, "size": TINY, "tuning": SHORT, "seeds": (1,), "angles": 3} | changes
    return study_invariance(target, **settings)


@pytest.fixture(scope="module")
def target():
    return simulate_target("hsc-wide-i", (8, 6, 6), 48, 5)


@pytest.fixture(scope="module")
def study(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("invariance")
    return folder, run(target, folder)


def test_the_summary_holds_everything(study):
    folder, found = study
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["seeds"], summary["angles"]) == ([1], 3)
    assert (summary["target"]["labelled"], summary["target"]["test"], summary["target"]["redrawn"]) == (8, 6, 6)
    assert summary["target"]["simulated"]
    assert summary["sentence"] == found.sentence
    assert "interaction" in found.sentence
    cells = {(row["measure"], row["simulated"], row["real"], row["quantity"]) for row in summary["cells"]}
    wanted = {(m, s, r, q) for m in ("redrawn", "error") for s in SIMULATED for r in REAL for q in (*QUANTITIES, ALL)}
    assert cells == wanted
    # the table's spreads are those of the cells' own lists
    cell = json.loads((folder / "cells" / "one-still-seed1.json").read_text(encoding="utf-8"))
    assert cell["augmentation"] == "none"
    rows = found.table[(found.table["simulated"] == "one") & (found.table["real"] == "still")]
    for name in QUANTITIES:
        spreads = np.array(cell["redrawn"][name])
        row = rows[(rows["measure"] == "redrawn") & (rows["quantity"] == name)][0]
        assert row["rms"] == pytest.approx(np.sqrt(np.mean(spreads**2)), rel=1e-4)
    assert len(found.effects.read(folder / "effects.ecsv")) == len(found.effects) == 2 * 3 * 4


def test_real_galaxies_are_measured_at_every_angle(tmp_path):
    target = observe_target("hsc-wide-i", (5, 5, 5), 48, 2, angles=3, templates=blobs(10))
    found = run(target, tmp_path, averaged=True)
    assert {str(name) for name in found.table["measure"]} == {"redrawn", "averaged", "real", "error"}
    assert "Of the real galaxies" in found.sentence
    assert not found.summary["target"]["simulated"]
    cell = json.loads((tmp_path / "cells" / "many-none-seed1.json").read_text(encoding="utf-8"))
    network = Network.load(tmp_path / "cells" / "many-seed1.safetensors")
    medians = np.stack([measure_medians(network, each) for each in target.turned])
    for k, name in enumerate(QUANTITIES):
        assert cell["real_spread"][name] == pytest.approx(medians[:, :, k].std(0), rel=1e-4, abs=1e-9)


def test_cells_are_made_once_and_a_lost_one_again(study, target, tmp_path):
    folder, found = tmp_path / "copy", study[1]
    shutil.copytree(study[0], folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = run(target, folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    assert again.summary == found.summary
    lost = folder / "cells" / "one-turned-seed1.json"
    lost.unlink()
    third = run(target, folder)
    assert {path for path, when in before.items() if path.stat().st_mtime_ns != when} == {lost}
    assert third.summary["effects"] == found.summary["effects"]


def test_the_figure_holds_its_cells_in_both_themes(study):
    fig, panels = four_cells(study[1].table, note="a note", theme=DARK)
    assert panels.shape == (1, 3)
    lines = panels[0, 1].get_lines()
    assert [line.get_label() for line in lines] == ["simulated at many orientations", "simulated at one orientation"]
    assert all(len(line.get_xdata()) == 3 for line in lines)
    assert "a note" in to_svg(fig, DARK)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"angles": 2}, "three angles"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": ()}, "none"),
        ({"tuning": Tuning(steps=3)}, "of other data or settings"),
        ({"angles": 4}, "of other data or settings"),
        ({"size": dataclasses.replace(TINY, stamp_px=64)}, "any angle"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(study, target, changes, words):
    with pytest.raises(InputError, match=words) as found:
        run(target, study[0], **changes)
    assert "\n" not in str(found.value)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_a_study(tmp_path, capsys):
    output = tmp_path / "study"
    words = (
        f"study invariance --target simulated --labels 6 --test 5 --redrawn 5 --angles 3 --steps 1 --images 4 "
        f"--stamp 48 --tuning-steps 1 --seeds 1 -o {output}"
    )
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 0
    assert "Of redrawn simulated galaxies" in capsys.readouterr().out
    names = {path.name for path in output.iterdir()}
    stems = [f"invariance{measure}{theme}" for measure in ("", "-error") for theme in ("", "-dark")]
    figures = {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert names == {"cells", "summary.json", "study.ecsv", "effects.ecsv", "manifest.json", *figures}
    summary = json.loads((output / "summary.json").read_text())
    assert summary["command"].startswith("galstress study invariance --target simulated")
    measures = {row["measure"] for row in summary["cells"]}
    assert measures == {"redrawn", "error"}


def test_the_command_refuses_another_target(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["study", "invariance", "--target", "imagined", "-o", str(tmp_path / "study")])
    assert left.value.code == 2
    assert "imagined" in capsys.readouterr().err
