"""Posteriors against the photon limit: the study's numbers, its figures, and its part of the page."""

import dataclasses
import html
import json
import re
import subprocess

import numpy as np
import pytest
from astropy.table import QTable, vstack
from safetensors.numpy import load_file, save_file

import report_records
from galstress import figures
from galstress.battery import read_table, write_table
from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.figures import DARK, LIGHT, Curve
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import limit, refine
from galstress.report import build_report, read_records
from galstress.report.galaxies import describe_galaxies
from galstress.report.posteriors import report_posteriors
from galstress.report.provenance import report_making
from galstress.scores import coverage_curve, probability_integral_transform, tarp
from galstress.simulation import simulate
from galstress.studies.posteriors import OUTPUTS, Sample, compare_errors, measure_snr, record_posteriors

SCALES = {"bulge_to_total": 0.1, "half_light_radius_arcsec": 0.05, "flux_njy": 0.02}
CENTRES = {"bulge_to_total": 0.4, "half_light_radius_arcsec": 0.6, "flux_njy": 2e4}


def make_galaxies(count: int, rng: np.random.Generator) -> tuple[QTable, np.ndarray, dict[str, np.ndarray]]:
    """Posteriors that are normal and honest; the network's are twice as wide as the refined ones."""
    table = QTable({"object_id": [f"simulated-{i}" for i in range(count)], "snr": 10 ** rng.uniform(1.5, 2.7, count)})
    table["effective_samples"], table["limit_effective_samples"] = rng.uniform(90, 400, count), np.full(count, 300.0)
    table["chi_square"], table["flags"] = rng.normal(1, 0.022, count), np.zeros(count, np.int64)
    true, samples = np.empty((count, 3)), {who: np.empty((200, count, 3)) for who in ("network", "refined")}
    for place, output in enumerate(OUTPUTS):
        width, logarithmic = SCALES[output], output != "bulge_to_total"
        plain = np.exp if logarithmic else np.asarray
        middle = np.log(CENTRES[output]) if logarithmic else CENTRES[output]
        terms = middle + rng.normal(0, 3 * width, count)
        true[:, place] = table[f"{output}_true"] = plain(terms)
        for who, factor in (("network", 2.0), ("refined", 1.0)):
            centre = terms + factor * width * rng.normal(size=count)
            samples[who][..., place] = plain(centre + factor * width * rng.normal(size=(200, count)))
            table[f"{output}_{who}"], table[f"{output}_{who}_std"] = centre, np.full(count, factor * width)
            place_of = probability_integral_transform(true[:, place], samples[who][..., place], 1)
            table[f"{output}_{who}_pit"] = place_of
        table[f"{output}_bayes"], table[f"{output}_cramer_rao"] = np.full(count, width), np.full(count, 30 * width)
    return table, true, samples


def write_posteriors(folder, count: int = 60, seed: int = 3):
    """A record of such galaxies, of which two were fitted."""
    rng = np.random.default_rng(seed)
    table, true, samples = make_galaxies(count, rng)
    folder.mkdir(parents=True)
    write_table(table, folder / "galaxies.parquet")
    write_table(compare_errors(table, 1), folder / "errors.parquet")
    coverage, joint, deviations = [], [], {}
    for who, drawn in samples.items():
        coverage.append(coverage_curve(true, drawn, names=OUTPUTS))
        curve = tarp(true, drawn, seed=1)
        columns = {"level": curve.levels, "coverage": curve.coverage}
        joint.append(QTable(columns | {"coverage_low": curve.low, "coverage_high": curve.high}))
        deviations[who] = curve.deviation
        for part in (coverage[-1], joint[-1]):
            part["who"] = np.full(len(part), who)
    write_table(vstack(coverage), folder / "coverage.parquet")
    write_table(vstack(joint), folder / "joint.parquet")
    draws = {who: drawn[:, :2].transpose(1, 0, 2) for who, drawn in samples.items()}
    draws |= {"fit": draws["network"] * 1.01, "truth": true[:2]}
    save_file(
        {name: np.ascontiguousarray(each, np.float32) for name, each in draws.items()}, folder / "draws.safetensors"
    )
    about = {
        "survey": "hsc-wide-i", "population": "cosmos", "count": count + 4, "kept": count, "seed": 2_000_001_600,
        "stamp_px": 64, "network": "foveal", "outputs": list(OUTPUTS), "joint": list(OUTPUTS),
        "joint_deviation": deviations, "band": 0.95, "few": 100, "degrees_of_freedom": 4084,
        "examples": [{"object_id": report_records.NASTY, "snr": 41.2}, {"object_id": "simulated-1", "snr": 230.0}],
        "seconds_a_galaxy": {"network": 0.003, "refined": 0.61, "bayes": 0.6, "fit": 2.1},
    }  # fmt: skip
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_posteriors(folder / "posteriors" / "hsc-wide-i")
    return folder


@pytest.fixture(scope="module")
def page(record, tmp_path_factory):
    return build_report(record, tmp_path_factory.mktemp("page") / "page.html")


# ---- the study's numbers -------------------------------------------------------------------------------------------


def test_efficiency_is_limit_squared_over_mean_square_error():
    table, _, _ = make_galaxies(20_000, np.random.default_rng(5))
    errors = compare_errors(table[:6000], 1)
    for row in errors[errors["by"] == ""]:
        factor = {"network": 2.0, "refined": 1.0}[row["who"]]
        assert row["count"] == 6000
        assert row["rms"] == pytest.approx(factor * SCALES[row["output"]], rel=0.03)
        assert row["efficiency"] == pytest.approx(factor**-2, rel=0.06)
        assert row["efficiency_low"] < row["efficiency"] < row["efficiency_high"]
        assert row["bayes"] == pytest.approx(SCALES[row["output"]])
        assert row["cramer_rao"] == pytest.approx(30 * SCALES[row["output"]])
        assert row["guess"] == pytest.approx(3 * SCALES[row["output"]], rel=0.03)


def test_bins_hold_equally_many_and_distrusted_limits_are_left_out():
    table, _, _ = make_galaxies(60, np.random.default_rng(6))
    table["limit_effective_samples"][:10] = 50.0
    table["bulge_to_total_refined"][:10] = 1e6  # would spoil the mean
    errors = compare_errors(table, 1)
    chosen = errors[(errors["output"] == "bulge_to_total") & (errors["who"] == "refined")]
    assert chosen["count"][0] == 50
    assert chosen["rms"][0] < 0.2
    binned = chosen[chosen["by"] == "snr"]
    assert binned["count"].sum() == 50
    assert len(binned) == 4
    assert binned["count"].min() >= 12
    assert (np.diff(binned["snr"]) > 0).all()


def test_measured_snr_of_the_true_model_is_the_true_one():
    cutouts = simulate("hsc-wide-i", 3, seed=4, stamp_px=48)
    exact = report_records.make_prediction(cutouts, cutouts.truth, np.random.default_rng(1), exact=True)
    assert measure_snr(exact, cutouts, batch_size=2) == pytest.approx(np.asarray(cutouts.truth["snr"]), rel=2e-3)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study of few galaxies, what it told, and the network."""
    folder, told, network = tmp_path_factory.mktemp("study"), [], Network.load("foveal")
    sample = Sample("hsc-wide-i", count=6, seed=21, stamp_px=48, fitted=1)
    record_posteriors(folder, network, sample, tell=told.append)
    return folder, told, network


def test_a_study_records_what_predict_refine_and_limit_give(studied):
    folder, told, network = studied
    table, about = read_table(folder / "galaxies.parquet"), json.loads((folder / "about.json").read_text())
    cutouts = simulate("hsc-wide-i", 6, seed=21, stamp_px=48)
    prediction = predict(network, cutouts, draws=512)
    kept = (prediction.flags & int(Flag.FAINT | Flag.OUT_OF_DOMAIN)) == 0
    assert list(table["object_id"]) == list(cutouts.object_id[kept])
    assert about["kept"] == kept.sum()
    some, start = cutouts.select(kept), prediction.select(kept)
    refined = refine(start, some, "cosmos", seed=21_000)
    bayes = limit(some, "bayes", prior="cosmos", seed=21_500)
    np.testing.assert_allclose(table["effective_samples"], refined.effective_samples, rtol=1e-5)
    np.testing.assert_allclose(table["bulge_to_total_bayes"], bayes["bulge_to_total"], rtol=1e-5)
    radius = refined.sample(512, 21)[..., 1]
    np.testing.assert_allclose(table["half_light_radius_arcsec_refined"], np.log(radius).mean(0), rtol=1e-5)
    # the limit of ln R of a narrow posterior is its relative width
    narrow = np.asarray(bayes["half_light_radius_arcsec"].value) / radius.mean(0)
    np.testing.assert_allclose(table["half_light_radius_arcsec_bayes"], narrow, rtol=0.1)
    assert (np.abs(np.asarray(table["flux_njy_network"]) - np.log(table["flux_njy_true"])) < 1).all()
    assert np.median(table["chi_square"]) == pytest.approx(1, abs=0.1)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_study_keeps_the_draws_of_what_it_fitted(studied):
    draws = load_file(studied[0] / "draws.safetensors")
    assert {name: each.shape for name, each in draws.items()} == {
        "network": (1, 512, 3), "refined": (1, 512, 3), "fit": (1, 512, 3), "truth": (1, 3),
    }  # fmt: skip
    (example,) = json.loads((studied[0] / "about.json").read_text())["examples"]
    table = read_table(studied[0] / "galaxies.parquet")
    row = table[list(table["object_id"]).index(example["object_id"])]
    assert draws["truth"][0] == pytest.approx([row[f"{output}_true"] for output in OUTPUTS], rel=1e-5)
    assert np.log(draws["refined"][0, :, 2]).mean() == pytest.approx(row["flux_njy_refined"], rel=1e-4)


def test_too_few_galaxies_are_refused(tmp_path):
    with pytest.raises(InputError, match="4 or more"):
        record_posteriors(tmp_path, Network.load("foveal"), Sample("hsc-wide-i", count=2, stamp_px=32))


# ---- figures -------------------------------------------------------------------------------------------------------

X = np.array([40.0, 90.0, 200.0])
NETWORK = Curve("network", X, np.array([0.2, 0.1, 0.06]), np.array([0.15, 0.08, 0.05]), np.array([0.3, 0.12, 0.08]))
REFINED = Curve("refined", X, np.array([0.1, 0.06, 0.03]), np.array([0.08, 0.05, 0.02]), np.array([0.12, 0.08, 0.04]))
BAYES = Curve("Bayes limit", X, np.array([0.09, 0.05, 0.03]))
CRAMER_RAO = Curve("Cramér-Rao limit", X, np.array([9.0, 5.0, 0.1]))
GUESS = Curve("guessing the median", X, np.array([0.4, 0.35, 0.4]))


def all_figures(theme):
    """One of every figure of this part."""
    rng = np.random.default_rng(2)
    level = np.linspace(0, 1, 9)
    curve = Curve("network", level, level**1.1, level**1.3, level**0.9)
    draws = {name: rng.normal(size=(400, 2)) for name in ("network", "refined", "fit")}
    yield figures.limit_curves([NETWORK, REFINED], [BAYES, CRAMER_RAO], GUESS, "error", theme=theme)[0]
    yield figures.efficiency_curves([NETWORK, REFINED], "efficiency", theme=theme)[0]
    yield figures.calibration_curves([curve, curve], ("level", "inside"), theme=theme)[0]
    yield figures.place_histogram({"network": rng.random(60), "refined": rng.random(60)}, "place", theme=theme)[0]
    yield figures.check_histogram(rng.normal(1, 0.1, 60), "chi", {}, expected=(1.0, 0.1), theme=theme)[0]
    yield figures.compare_corners(draws, ["a", "b"], truth=[0.0, 0.1], filled="refined", theme=theme)[0]


def test_a_recoloured_figure_is_the_figure_drawn_in_the_other_theme():
    def anonymous(svg):
        for number, name in enumerate(dict.fromkeys(re.findall(r'id="([^"]+)"', svg))):
            svg = svg.replace(f'"{name}"', f'"{number}"').replace(f"#{name}", f"#{number}")
        return svg

    for light, dark in zip(all_figures(LIGHT), all_figures(DARK), strict=True):
        drawn = figures.to_svg(light, LIGHT)
        assert anonymous(figures.recolour(drawn)) == anonymous(figures.to_svg(dark, DARK))


def test_errors_stand_beside_limit_and_guess_and_a_far_limit_leaves_the_panel():
    _, ax = figures.limit_curves([NETWORK, REFINED], [BAYES, CRAMER_RAO], GUESS, "error [%]", percent=True)
    assert ax.containers[1].lines[0].get_ydata() == pytest.approx(100 * REFINED.y)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert lines["Bayes limit"] == pytest.approx(100 * BAYES.y)
    low, high = ax.get_ylim()
    assert low < 2  # the refined interval's lower end
    assert 40 < high < 100  # the guess, but not the Cramér-Rao limit
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_efficiency_has_its_limit_at_one():
    _, ax = figures.efficiency_curves([NETWORK], "efficiency")
    assert ax.lines[0].get_ydata() == pytest.approx([1, 1])
    low, high = ax.get_ylim()
    assert low < 0.05 < 1 < high
    assert ax.get_xlim() == (20, 500)  # out to the next ticks


def test_calibration_is_in_per_cent_about_the_diagonal():
    level = np.array([0.0, 0.5, 1.0])
    curve = Curve("network", level, np.array([0.0, 0.3, 1.0]), level * 0.5, level)
    _, ax = figures.calibration_curves([curve], ("interval", "inside"))
    assert ax.lines[0].get_xydata().tolist() == [[0, 0], [100, 100]]
    assert ax.lines[1].get_ydata() == pytest.approx([0, 30, 100])
    assert (ax.get_xlabel(), ax.get_xlim()) == ("interval [%]", (0, 100))


def test_places_are_counted_and_the_band_is_binomial():
    places = np.concatenate([np.repeat(np.arange(10) / 10 + 0.05, 8), [np.nan]])
    _, ax = figures.place_histogram({"network": places}, "place")
    heights = ax.patches[-1].get_data().values
    assert heights.tolist() == [8.0] * 10
    band = next(patch for patch in ax.patches if hasattr(patch, "get_height"))
    assert (band.get_y(), band.get_y() + band.get_height()) == (3.0, 14.0)  # of 80 in 10 bins


def test_checks_are_counted_with_a_mark_and_what_noise_gives():
    values = np.array([50.0, 150.0, 160.0, 400.0, np.nan])
    _, ax = figures.check_histogram(values, "effective samples", {"flagged below": 100.0}, log=True)
    assert sum(ax.patches[0].get_data().values) == 4
    assert ax.lines[-1].get_xdata() == pytest.approx([100, 100])
    _, ax = figures.check_histogram(np.full(30, 1.0), "chi", {}, expected=(1.0, 0.02))
    assert ax.lines[0].get_xdata()[np.argmax(ax.lines[0].get_ydata())] == pytest.approx(1.0, abs=0.005)


def test_corners_of_several_hold_what_they_say_and_mark_the_truth():
    rng = np.random.default_rng(4)
    draws = {"network": rng.normal(size=(4000, 2)), "refined": 0.5 * rng.normal(size=(4000, 2))}
    fig, axes = figures.compare_corners(draws, ["a", "b"], truth=[0.2, 5.0], filled="refined")
    assert axes[0, 1] is None
    assert axes[1, 0].lines[-1].get_xydata().tolist() == [[0.2, 5.0]]
    assert axes[1, 0].get_ylim()[1] > 5.0  # a truth far away is in the panel
    outer = [contours.get_paths() for contours in axes[1, 0].collections if not contours.get_fill()]
    widest = max(outer[0], key=lambda path: np.ptp(path.vertices[:, 0]))
    assert widest.contains_points(draws["network"]).mean() == pytest.approx(0.95, abs=0.03)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["network", "refined", "truth"]


# ---- the page ------------------------------------------------------------------------------------------------------


def words_of(text: str) -> str:
    """The words of a page, without its styles and tags."""
    return html.unescape(" ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL).split()))


def test_the_part_says_what_is_shown_of_which_sample(page):
    text = page.read_text("utf-8")
    part = words_of(re.search(r'<section id="photon-limit">.*?</section>', text, re.DOTALL)[0])
    for said in (
        "Simulated galaxies only", "60 simulated galaxies (population cosmos, as hsc-wide-i would see them",
        "64 px, seed 2000001600)", "4 more that the network flags", "bootstrap over galaxies", "Bayes limit",
        "Cramér-Rao limit", "Efficiency is the Bayes limit squared over the mean square error", "(TARP", "FEW_SAMPLES",
        "Seconds a galaxy: network 0.0030, refinement 0.61",
    ):  # fmt: skip
        assert said in part, said
    assert report_records.NASTY not in text
    assert text.index('id="coverage"') < text.index('id="photon-limit"') < text.index('id="rotation"')
    assert "Efficiency:" in words_of(text)[words_of(text).index("How things are defined") :]
    images = re.findall(r'<img class="on-light"[^>]*alt="([^"]*)"', text)
    assert len(images) >= 3 + 3 + 4 + 3 + 2 + 2
    assert page.stat().st_size < 3e6


def test_the_table_holds_the_numbers(record):
    (found,) = read_records(record).posteriors
    table = report_posteriors([found]).tables[0]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    errors = read_table(record / "posteriors" / "hsc-wide-i" / "errors.parquet")
    first = errors[(errors["output"] == "bulge_to_total") & (errors["by"] == "")]
    refined = first[first["who"] == "refined"][0]
    assert (row["output"], row["S/N"], row["galaxies"]) == ("B/T", "all", "60")
    assert row["refined"] == f"{refined['rms']:.4f}"
    assert row["efficiency, refined"].startswith(f"{refined['efficiency']:.2f} (")
    assert len(table.rows) == 3 * (1 + len(np.unique(errors["bin_low"][errors["by"] == "snr"])))


def test_without_a_record_the_part_says_so():
    assert "no posteriors/ folder" in report_posteriors([]).missing


def test_parts_of_a_record_may_be_missing(record, tmp_path):
    (found,) = read_records(record).posteriors
    section = report_posteriors([dataclasses.replace(found, joint=None, draws=None)])
    assert "TARP" not in " ".join(group.note for group in section.groups)
    assert "One galaxy, three answers" not in [group.title for group in section.groups]
    (tmp_path / "posteriors" / "x").mkdir(parents=True)
    (tmp_path / "posteriors" / "x" / "about.json").write_text("{}")
    with pytest.raises(InputError, match=r"galaxies\.parquet"):
        read_records(tmp_path)


def test_a_refined_galaxy_is_told_beside_the_network(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "galaxies" / "sdss"
    report_records.write_set(folder, "sdss-r", 3, rng, simulated=False)
    prediction = Prediction.read(folder / "prediction.safetensors")
    checks = {name: np.array([value]) for name, value in (("chi_square", 1.73), ("effective_samples", 42.4))}
    flags = np.array([int(Flag.FEW_SAMPLES | Flag.BAD_FIT | Flag.PADDED)])
    dataclasses.replace(prediction.select([1]), flags=flags, **checks).write(folder / "refined.safetensors")
    records = read_records(tmp_path)
    cards = describe_galaxies(records.sets[0])
    told = [dict(card.references).get("refined by the likelihood", "") for card in cards]
    assert (told[0], told[2]) == ("", "")
    median = prediction.quantile([0.5])[0, 1]
    assert f"B/T {median[0]:.2f}"[:6] in told[1]
    assert "reduced χ² of the whole stamp 1.73, 42 effective samples, flagged FEW_SAMPLES and BAD_FIT" in told[1]
    flags = next(table for table in report_making(records).tables if table.caption == "flags")
    assert {row[0]: row[2] for row in flags.rows}["BAD_FIT"] == "1"
    assert all(row[3] for row in flags.rows)


@pytest.mark.browser
def test_nothing_is_wider_than_a_phone(browser, page, tmp_path):
    probe = "<script>onload=()=>{document.body.dataset.wide=document.documentElement.scrollWidth}</script></body>"
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text("utf-8")).replace("</body>", probe)
    frame = "<body><script>onload=()=>{document.body.dataset.wide=frames[0].document.body.dataset.wide}</script>"
    frame += f'<iframe style="width:400px;height:900px;border:0" srcdoc="{html.escape(text)}"></iframe></body>'
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--dump-dom", (tmp_path / "frame.html").as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    assert int(re.search(r'data-wide="(\d+)"', found)[1]) <= 400
