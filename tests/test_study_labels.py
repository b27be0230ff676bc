"""The study of labels: savings are closed forms, cells are made once, and the summary holds everything."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from galstress.cli import main
from galstress.errors import InputError
from galstress.figures import DARK, to_svg
from galstress.figures.learning import label_curves
from galstress.finetuning import Tuning
from galstress.networks import Network
from galstress.simulation import simulate
from galstress.studies.labels import RECALIBRATED, SCRATCH, UNTOUCHED, fresh_network, study_labels
from galstress.studies.savings import ALL, QUANTITIES, Errors, judge, labels_saved

SHORT = Tuning(steps=3, batch=4, check_every=3)
COUNTS = [0, 10, 100]


def tiny_network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Network.build("foveal", width=0.34)


@pytest.fixture(scope="module")
def sample():
    drawn = simulate("hsc-wide-i", 20, seed=6, stamp_px=48)
    return drawn.select(slice(0, 12)), drawn.select(slice(12, None))


@pytest.fixture(scope="module")
def study(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    found = run(sample, folder)
    return folder, found


def run(sample, folder, **changes):
    settings = {"counts": (0, 8), "policies": ("head", "all"), "seeds": (1,), "tuning": SHORT, "folder": folder}
    return study_labels(tiny_network(), *sample, **(settings | changes))


# ---- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "wanted", "expected"),
    [
        ([0.5, 0.4, 0.2], 0.3, (1 - 10**-0.5, 10 * 10**0.5, "")),  # half way in error is half way in ln of the number
        ([0.5, 0.4, 0.2], 0.25, (1 - 10**-0.25, 10 * 10**0.75, "")),
        ([0.5, 0.4, 0.2], 0.2, (0.0, 100.0, "")),
        ([0.5, 0.4, 0.2], 0.4, (0.9, 10.0, "at least")),
        ([0.5, 0.4, 0.2], 0.45, (0.9, 10.0, "at least")),
        ([0.5, 0.4, 0.2], 0.6, (1.0, 0.0, "all")),
        ([0.5, 0.4, 0.2], 0.1, (0.0, 100.0, "at most")),
        ([0.5, 0.2, 0.4], 0.3, (0.9, 10.0, "at least")),  # the first crossing counts
    ],
)
def test_labels_saved_is_the_closed_form(errors, wanted, expected):
    saved = labels_saved(COUNTS, np.array(errors), 100, wanted)
    assert saved.saved == pytest.approx(expected[0], abs=1e-9)
    assert saved.labels == pytest.approx(expected[1], rel=1e-9)
    assert saved.kind == expected[2]


def test_labels_saved_is_a_bound_where_no_label_was_not_tried():
    assert labels_saved([10, 100], np.array([0.2, 0.1]), 100, 0.3) == (0.9, 10.0, "at least")


def scaled_errors(sizes: dict[str, list[float]], galaxies: int = 400, seeds: int = 2) -> Errors:
    """Normal errors of every method, the same but for their size at each count: all ratios are exact."""
    normal = np.random.default_rng(2).normal(size=(seeds, 3, galaxies))
    values = np.stack([np.stack([size * normal for size in each]) for each in sizes.values()])
    return Errors(list(sizes), COUNTS, values, np.arange(galaxies))


def test_savings_of_known_curves_have_no_width_and_the_best_is_named():
    sizes = {"head": [0.5, 0.4, 0.2], "all": [0.5, 0.45, 0.25], SCRATCH: [np.nan, 0.9, 0.3]}
    verdict = judge(scaled_errors(sizes), ["head", "all"], SCRATCH, seed=1)
    assert verdict.best == "head"
    # errors scale together, so every resampling crosses at the same number
    for row in verdict.saved:
        size = sizes[row["policy"]]
        labels = 10 * 10 ** ((size[1] - 0.3) / (size[1] - size[2]))
        assert row["labels"] == pytest.approx(labels, rel=1e-6)
        assert [row[f"saved{end}"] for end in ("", "_low", "_high")] == pytest.approx([1 - labels / 100] * 3)
    other = verdict.comparison[verdict.comparison["method"] == "all"][0]
    expected = (np.log(0.45 / 0.4) + np.log(0.25 / 0.2)) / 2
    assert [other[f"difference{end}"] for end in ("", "_low", "_high")] == pytest.approx([expected] * 3)
    assert not other["within"]
    untouched = verdict.comparison[verdict.comparison["method"] == "untouched"][0]
    assert untouched["difference"] == pytest.approx(np.log(0.5) - (np.log(0.4) + np.log(0.2)) / 2)
    assert np.isfinite(np.asarray(verdict.table["rms"])).all()


def test_intervals_of_errors_are_those_of_normal_errors():
    verdict = judge(scaled_errors({"head": [1, 1, 1], SCRATCH: [np.nan, 1, 1]}, seeds=1), ["head"], SCRATCH, seed=1)
    row = verdict.table[(verdict.table["count"] == 10) & (verdict.table["quantity"] == "ln_flux")][0]
    # N rms^2 / sigma^2 follows chi-square
    low, high = np.sqrt(stats.chi2(400).ppf([0.16, 0.84]) / 400)
    assert row["rms_high"] - row["rms_low"] == pytest.approx(high - low, rel=0.15)
    assert row["error_68"] == pytest.approx(1, abs=0.12)
    # the density of |error| at sigma is 2 phi(1); that of a quantile's error sqrt(p (1 - p) / N) over it
    width = 2 * 0.9945 * np.sqrt(0.6827 * 0.3173 / 400) / (2 * stats.norm.pdf(1))
    assert row["error_68_high"] - row["error_68_low"] == pytest.approx(width, rel=0.4)


def test_images_of_one_galaxy_are_drawn_together():
    errors = scaled_errors({"head": [1, 1, 1], SCRATCH: [np.nan, 1, 1]}, galaxies=100, seeds=1)
    fourfold = dataclasses.replace(errors, values=np.repeat(errors.values, 4, -1), groups=np.repeat(errors.groups, 4))
    widths = []
    for each in (errors, fourfold):
        row = judge(each, ["head"], SCRATCH, seed=1).table[0]
        widths.append(row["rms_high"] - row["rms_low"])
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)


# ---- a study -------------------------------------------------------------------------------------------------------


def test_the_summary_holds_everything(study, sample):
    folder, found = study
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["counts"], summary["policies"], summary["seeds"]) == ([0, 8], ["head", "all"], [1])
    assert (summary["target"]["pool"], summary["target"]["test"]) == (12, 8)
    assert summary["target"]["test_measured"] == dict.fromkeys(QUANTITIES, 8)
    assert summary["versions"]["torch"]
    assert summary["best"] in summary["policies"]
    assert summary["sentence"] == found.sentence
    assert "untouched" in found.sentence
    assert "recalibrated" in found.sentence
    made = {(cell["method"], cell["count"]) for cell in summary["cells"]}
    assert made == {(UNTOUCHED, 0), *((method, 8) for method in ("head", "all", SCRATCH, RECALIBRATED))}
    # the table's errors are those of the cells' own lists
    cell = json.loads((folder / "cells" / "head-n8-seed1.json").read_text(encoding="utf-8"))
    for name in QUANTITIES:
        row = next(r for r in summary["errors"] if (r["method"], r["count"], r["quantity"]) == ("head", 8, name))
        errors = np.array(cell["errors"][name], float)
        assert row["rms"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-4)
        assert row["rms_low"] <= row["rms"] <= row["rms_high"]
    assert cell["learned"] + cell["validated"] == 8
    assert len(found.table.read(folder / "study.ecsv")) == len(found.table)


def test_cells_are_made_once_and_more_may_follow(study, sample, tmp_path):
    folder, found = tmp_path / "copy", study[1]
    shutil.copytree(study[0], folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    again = run(sample, folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == before
    assert again.summary == found.summary
    next(path for path in before if path.name.startswith("head")).unlink()
    more = run(sample, folder, counts=(8, 4))
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(kept) == len(before) - 1
    assert len(more.summary["cells"]) == len(before) + 4
    same = [each for each in more.summary["errors"] if (each["method"], each["count"]) == ("head", 8)]
    first = [each for each in found.summary["errors"] if (each["method"], each["count"]) == ("head", 8)]
    assert [each["rms"] for each in same] == pytest.approx([each["rms"] for each in first], rel=1e-4)


def test_a_fresh_network_shares_units_and_nothing_else():
    network = tiny_network()
    network.head.centre.fill_(0.25)
    network.head.scale.fill_(2.0)
    fresh, again = fresh_network(network, 1), fresh_network(network, 1)
    assert bool((fresh.head.centre == 0.25).all() and (fresh.head.scale == 2).all())
    pairs = list(zip(fresh.parameters(), network.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(one, other) for one, other, _ in pairs)
    assert all(torch.equal(one, same) for one, _, same in pairs)


def test_the_figure_tells_methods_apart_in_both_themes(study):
    _, found = study
    fig, panels = label_curves(found.table, note="a note", theme=DARK)
    assert panels.shape == (2, 2)
    lines = {line.get_label(): line for line in panels[0, 0].get_lines()}
    assert set(lines) == {"head", "all", SCRATCH, RECALIBRATED, "no label"}
    assert lines[SCRATCH].get_linestyle() == "--"
    rows = found.table[(found.table["method"] == "all") & (found.table["quantity"] == ALL) & (found.table["count"] > 0)]
    curve = next(line for line in panels[1, 1].get_lines() if line.get_label() == "all")
    assert np.asarray(curve.get_ydata()) == pytest.approx(np.asarray(rows["rms"]))
    assert "a note" in to_svg(fig, DARK)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": (0, 13)}, "numbers up to 12"),
        ({"counts": (0,)}, "one above 0"),
        ({"policies": ("heads",)}, "heads"),
        ({"policies": ()}, "one or more"),
        ({"seeds": (1, 1)}, "each once"),
        ({"tuning": Tuning(steps=4)}, "of other data or settings"),
        ({"groups": (["a"] * 12, ["a"] * 8)}, "no galaxy in both"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(study, sample, changes, words):
    with pytest.raises(InputError, match=words) as found:
        run(sample, study[0], **changes)
    assert "\n" not in str(found.value)


def test_pool_and_test_may_share_no_galaxy(sample, tmp_path):
    with pytest.raises(InputError, match="pool and test"):
        run((sample[0], sample[0]), tmp_path)


def test_a_broken_cell_is_named(study, sample, tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "untouched-n0-seed0.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="untouched-n0-seed0"):
        run(sample, tmp_path)


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_a_study(tmp_path, capsys):
    weights, output = tmp_path / "tiny.safetensors", tmp_path / "study"
    tiny_network().save(weights)
    words = f"study labels {weights} --count 6 --test 6 --counts 0,5 --policies head --steps 2 --stamp 48 -o {output}"
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "4 cells" in told
    assert "from scratch" in told
    names = {path.name for path in output.iterdir()}
    figures = {f"labels{theme}.{kind}" for theme in ("", "-dark") for kind in ("png", "svg")}
    assert names == {"cells", "summary.json", "study.ecsv", "manifest.json", *figures}
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["command"], manifest["arguments"]["structured"]) == ("galstress study labels", 1.0)
    assert json.loads((output / "summary.json").read_text())["command"].startswith("galstress study labels")


def test_the_command_refuses_words_for_numbers(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["study", "labels", "foveal", "--counts", "0,many", "-o", str(tmp_path / "study")])
    assert left.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "0,many" in lines[0]
