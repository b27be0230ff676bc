"""The study of rotation: shifts are closed forms, turns are what they say, and blocks are made once."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from astropy.table import QTable

from galstress.cli import main
from galstress.errors import InputError, UnknownNameError
from galstress.figures import DARK, LIGHT, shift_curves, to_svg
from galstress.networks import Network
from galstress.report.records import read_film, read_study
from galstress.report.stability import make_strip
from galstress.report.studies import report_studies
from galstress.studies import turns
from galstress.studies.films import film
from galstress.studies.rotation import _share, find_fields, study_rotation
from galstress.studies.turns import Field, _turns_evenly, ask, list_quantities, measure_decisions, measure_shifts, turn
from galstress.survey import Survey

FEW = 6
WAYS = ("redrawn", "noisy", "quarter")


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch):
    for module in ("turns", "rotation"):
        monkeypatch.setattr(f"galstress.studies.{module}.BLOCK", FEW)


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        built = {
            "classes": Network.build("gamornet", stamp_px=48, width=0.05, pixels="sky"),
            "modes": Network.build("gampen", stamp_px=56, width=0.05, pixels="sky"),
        }
    return {
        name: network.with_metadata(name=name, prior={"sdss-g": {"nearby": 0.6, "gamornet-sdss": 0.4}})
        for name, network in built.items()
    }


def small_field(**changes) -> Field:
    settings = {"survey": Survey.load("sdss-g"), "shares": {"nearby": 1.0}, "stamp_px": 48, "seed": 3}
    return Field(**(settings | changes))


# ---- closed forms --------------------------------------------------------------------------------------------------


def test_shifts_of_a_sine_are_its_amplitude_and_that_over_root_two():
    angle = 2 * np.pi * np.arange(36) / 36
    answers = np.zeros((36, 3, 2, 3))
    answers[..., 0] = 0.4 + 0.02 * np.sin(angle)[:, None, None]
    answers[..., 1] = 2.0 * (1 + 0.03 * np.sin(angle)[:, None, None])
    answers[..., 2] = 1e4 * (1 + 0.01 * np.sin(angle)[:, None, None])
    answers[:, 2, 1, 1] = 3.0 * (1 + 0.05 * np.cos(angle))  # one end of one galaxy's interval moves more
    answers[:, :, 1, 0] -= 0.35  # and its B/T is below 0.1
    found = measure_shifts("samples", answers)
    for name, size in (("bulge_to_total", 0.02), ("half_light_radius", 0.03), ("flux", 0.01), ("all", 0.03)):
        assert found[name]["point"] == pytest.approx(np.array([[size] * 2, [size / math.sqrt(2)] * 2]), rel=1e-9), name
    assert found["half_light_radius"]["interval"][0] == pytest.approx([0.03, 0.05])
    assert found["all"]["interval"][0] == pytest.approx([0.03, 0.05])
    relative = found["bulge_to_total_relative"]["point"][0]
    assert relative[0] == pytest.approx(0.05)
    assert math.isnan(relative[1])
    assert tuple(found) == list_quantities("samples")


def test_shifts_of_probabilities_and_decisions_made_by_hand():
    turned = [
        [(0.9, 0.06, 0.04), (0.55, 0.25, 0.2), (0.6, 0.1, 0.3)],
        [(0.8, 0.16, 0.04), (0.45, 0.3, 0.25), (0.3, 0.1, 0.6)],
    ]
    answers = np.array(turned)[:, None]
    found = measure_shifts("classes", answers)
    assert found["p_disk"]["point"][0] == pytest.approx([0.05, 0.05, 0.15])
    assert found["all"]["point"][1] == pytest.approx([0.05, 0.05, 0.15])
    decided = measure_decisions(answers)
    assert decided["most probable"]["changed"].tolist() == [0, 0, 1]
    assert decided["most probable"]["flipped"].tolist() == [0, 0, 1]
    assert decided["sdss"]["changed"].tolist() == [0, 0, 0]  # below 0.7 both are indeterminate
    assert decided["candels"]["flipped"].tolist() == [0, 0, 1]
    answers[0, 0, 0] = np.nan
    assert math.isnan(measure_decisions(answers)["sdss"]["changed"][0])
    assert math.isnan(measure_shifts("classes", answers)["all"]["point"][0, 0])


def test_wilson_interval():
    # 95 of 100: Wilson's is 0.8882 to 0.9785 (Brown, Cai & DasGupta 2001, with z = 1.96)
    found = _share("s", np.arange(100) < 95)
    assert [found["s"], found["s_low"], found["s_high"]] == pytest.approx([0.95, 0.8882, 0.9785], abs=2e-4)
    assert _share("s", np.ones(100, bool))["s_low"] == pytest.approx(100 / (100 + 1.96**2), abs=1e-4)
    assert _share("s", np.zeros(0, bool))["s"] is None


# ---- galaxies and turns --------------------------------------------------------------------------------------------


def test_blocks_have_their_shares_and_limits():
    field = small_field(shares={"nearby": 0.6, "gamornet-sdss": 0.4})
    clean, noise = field.draw(2)
    assert (len(clean), tuple(noise.shape)) == (FEW, (FEW, 48, 48))
    assert field._numbers() == {"nearby": 4, "gamornet-sdss": 2}
    assert (np.asarray(clean.truth["snr"]) > 20).all()
    assert (clean.truth["half_light_radius_arcsec"].value < 0.35 * 48 * 0.396).all()
    index = np.asarray(clean.truth["bulge_sersic_index"])
    assert np.abs(index[4:] - 4).max() < 0.2
    assert np.abs(index[:4] - 4).max() > 0.2  # the others are none of GaMorNet's
    again, other = field.draw(2)[0], field.draw(3)[0]
    assert torch.equal(again.images, clean.images)
    assert not torch.equal(other.images, clean.images)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    with pytest.raises(InputError, match="of nearby above S/N 1e"):
        small_field(least_snr=1e8).draw(0)


def test_galaxies_turn_as_their_names_say():
    clean, noise = small_field().draw(0)
    turned = {kind: [] for kind in turns.KINDS}
    for kind, cutouts in turn(clean, noise, tuple(turns.KINDS), 4):
        turned[kind].append(cutouts)
    assert {kind: len(each) for kind, each in turned.items()} == dict.fromkeys(turns.KINDS, 4)
    peak = float(clean.images.amax())
    # a quarter turn of the sky under a round PSF is one of the pixels
    expected = torch.rot90(clean.images, 1, (2, 1))
    assert float((turned["redrawn"][1].images - expected).abs().max()) < 2e-4 * peak
    noisy = turned["noisy"][1]
    assert float((noisy.images - turned["redrawn"][1].images - noisy.variance.sqrt() * noise).abs().max()) < 1e-4 * peak
    first = turned["noisy"][0].images
    assert torch.equal(turned["quarter"][1].images, torch.rot90(first, 1, (2, 1)))
    assert float((turned["resampled"][1].images - torch.rot90(first, 1, (2, 1))).abs().max()) < 1e-4 * peak
    assert not torch.allclose(turned["redrawn"][1].images, clean.images, atol=0.01 * peak)


def test_answers_have_one_shape_and_know_their_kind(networks):
    clean, _ = small_field().draw(0)
    kind, values = ask(networks["classes"], clean, average=False)
    assert (kind, values.shape) == ("classes", (1, FEW, 3))
    kind, values = ask(networks["modes"], clean, average=False)
    assert (kind, values.shape) == ("samples", (3, FEW, 3))
    assert ((values[1] <= values[0]) & (values[0] <= values[2])).mean() > 0.9
    kind, values = ask(Network.build("foveal", width=0.25), clean, average=False)
    assert (kind, values.shape) == ("parameters", (3, FEW, 3))
    assert ((values[1] <= values[0]) & (values[0] <= values[2])).all()


# ---- the study -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(networks, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for module in ("turns", "rotation"):
            patch.setattr(f"galstress.studies.{module}.BLOCK", FEW)
        folder = tmp_path_factory.mktemp("rotation")
        asked = {name: (network, find_fields(network)) for name, network in networks.items()}
        found = study_rotation(asked, folder=folder, size=(2 * FEW, 3), kinds=WAYS, average=(8,), command="the command")
    return folder, found


def test_the_summary_holds_everything(study):
    folder, found = study
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["study"], summary["command"], summary["galaxies"], summary["angles"]) == (
        "rotation", "the command", 12, 3,
    )  # fmt: skip
    assert summary["sentence"] == found.sentence
    assert "The bar of 95% of the galaxies is met by" in found.sentence
    assert summary["surveys"][0]["populations"] == "0.6 nearby, 0.4 gamornet-sdss"
    rows = {
        (r["network"], r["averaged"], r["kind"], r["quantity"], r["part"], r["of"]) for r in summary["shifts"]
    }  # fmt: skip
    assert len(rows) == len(summary["shifts"]) == 2 * 3 * 2 * (4 + 5 + 4)
    assert {r["part"] for r in summary["shifts"]} == {"probability", "mode of the marginal", "interval"}
    assert {r["kind"] for r in summary["bar"]} == set(WAYS)
    assert {r["network"] for r in summary["decisions"]} == {"classes"}
    assert len(summary["worst"]) == 2 * 2 * 3
    assert len(list((folder / "cells").iterdir())) == 2 * 2 * 2


def test_figures_of_the_summary_are_those_of_the_galaxies(study):
    _, found = study
    table = found.galaxies
    for row in found.summary["shifts"]:
        part = "interval" if row["part"] == "interval" else "point"
        own = (table["network"] == row["network"]) & (table["averaged"] == row["averaged"]) & (table["part"] == part)
        values = table[row["of"]][own & (table["kind"] == row["kind"]) & (table["quantity"] == row["quantity"])]
        values = 100 * np.asarray(values)[np.isfinite(values)]
        assert row["count"] == len(values)
        if len(values):
            assert row["p95"] == pytest.approx(np.quantile(values, 0.95), rel=1e-4)
            assert row["within_3"] == pytest.approx(np.mean(values <= 3), abs=1e-5)
            assert row["within_3_low"] <= row["within_3"] <= row["within_3_high"]


def test_averaged_over_the_eight_turns_a_quarter_turn_moves_nothing(study):
    table = study[1].galaxies
    exact = table[(table["kind"] == "quarter") & (table["averaged"] == 8) & (table["part"] == "point")]
    assert len(exact) == 12 * (4 + 5)
    # of classes; a mode is found on a grid over draws that come in another order
    assert np.asarray(exact["largest"])[exact["network"] == "classes"].max() < 1e-5
    assert np.nanmax(np.asarray(exact["largest"])[exact["network"] == "modes"]) < 1e-4
    single = table[(table["kind"] == "quarter") & (table["averaged"] == 0) & (table["network"] == "classes")]
    assert np.asarray(single["largest"]).max() > 1e-5


@pytest.mark.parametrize("name", ["classes", "modes"])
def test_averages_are_asked_at_angles_of_one_quarter_since_the_others_answer_the_same(networks, name):
    clean, noise = small_field(stamp_px=58).draw(0)
    network = networks[name]
    every = [ask(network, cutouts, 8)[1] for _, cutouts in turn(clean, noise, ["redrawn"], 8)]
    quarter = [ask(network, cutouts, 8)[1] for _, cutouts in turn(clean, noise, ["redrawn"], 8, is_even=True)]
    assert (len(every), len(quarter)) == (8, 2)
    for place, answer in enumerate(every):
        np.testing.assert_allclose(answer, quarter[place % 2], rtol=2e-3, atol=1e-4)
    assert not np.allclose(every[0], every[1], rtol=1e-3)
    assert _turns_evenly(network, small_field(stamp_px=58))
    assert not _turns_evenly(network, small_field(stamp_px=57))  # its square lies half a pixel off
    # where noise stays behind, or angles are no multiple of four, every angle is asked
    kinds = [kind for kind, _ in turn(clean, noise, ["redrawn", "noisy"], 8, is_even=True)]
    assert (kinds.count("redrawn"), kinds.count("noisy")) == (2, 8)
    assert len(list(turn(clean, noise, ["redrawn"], 9, is_even=True))) == 9


def test_what_is_there_is_not_made_again_and_more_adds_to_it(study, networks, monkeypatch):
    folder, found = study
    asked = {"modes": (networks["modes"], find_fields(networks["modes"]))}
    made = []
    monkeypatch.setattr(Field, "draw", lambda self, block: made.append(block))
    again = study_rotation(asked, folder=folder, size=(2 * FEW, 3), kinds=WAYS)
    assert made == []
    mine = [r for r in found.summary["bar"] if r["network"] == "modes" and not r["averaged"]]
    assert [r["share"] for r in again.summary["bar"]] == [r["share"] for r in mine]
    with pytest.raises(TypeError):  # the third block is drawn, by what stands in for it
        study_rotation(asked, folder=folder, size=(3 * FEW, 3), kinds=WAYS)
    assert made == [2]
    with pytest.raises(InputError, match="other data or settings"):
        study_rotation(asked, folder=folder, size=(2 * FEW, 4), kinds=WAYS)


def test_averages_alone_leave_out_the_single_pass(networks, tmp_path):
    field = small_field(stamp_px=56)
    options = {"folder": tmp_path, "size": (FEW, 4), "kinds": ["redrawn"]}
    found = study_rotation({"classes": (networks["classes"], [field])}, average=[8], single=False, **options)
    assert {row["averaged"] for row in found.summary["bar"]} == {8}
    with pytest.raises(InputError, match="0 answers"):
        study_rotation({"classes": (networks["classes"], [field])}, single=False, **options)


def test_what_cannot_be_done_is_said(networks, tmp_path):
    network = networks["modes"]
    fields = find_fields(network)
    with pytest.raises(InputError, match="7 galaxies at 3 angles"):
        study_rotation({"a": (network, fields)}, folder=tmp_path, size=(7, 3))
    with pytest.raises(UnknownNameError, match="way to turn"):
        study_rotation({"a": (network, fields)}, folder=tmp_path, size=(FEW, 3), kinds=["tumbled"])
    with pytest.raises(UnknownNameError, match="gamornet-candels"):
        find_fields(network, ["nowhere"])
    bare = dataclasses.replace(network, metadata={"backbone": network.metadata["backbone"]})
    with pytest.raises(InputError, match="names no survey"):
        find_fields(bare)


def test_fields_are_those_that_the_network_names(networks):
    network = networks["classes"].with_metadata(
        prior={"gamornet-sdss": {"gamornet-sdss": 1.0}, "sdss-r": {"cosmos": 1}}
    )
    (first,) = find_fields(network)
    assert (first.survey.zero_point_mag, dict(first.shares), first.stamp_px) == (25.11, {"gamornet-sdss": 1.0}, 48)
    assert [field.survey.name for field in find_fields(network, ["all"])] == ["gamornet-sdss", "sdss-r"]
    (other,) = find_fields(network, ["hsc-wide-i"], stamp_px=64)
    assert dict(other.shares) == {"gamornet-sdss": 0.5, "cosmos": 0.5}
    assert other.stamp_px == 64


# ---- figures, films, the page and the command ----------------------------------------------------------------------


def test_curve_is_the_share_of_galaxies():
    rows = [
        {"network": "n", "survey": "s", "averaged": averaged, "kind": "redrawn", "quantity": quantity, "part": "point",
         "largest": (0.1 if averaged else 1.0) * (row + 1) / 1000, "rms": 0.001}
        for averaged in (0, 8) for quantity in ("flux", "bulge_to_total") for row in range(10)
    ]  # fmt: skip
    fig, axes = shift_curves(QTable(rows=rows), note="ten galaxies", theme=DARK)
    assert axes.shape == (1, 2)
    single, averaged = axes[0, 0].get_lines()[-2:]
    x, y = single.get_data()
    assert x[1:-1].tolist() == pytest.approx(np.arange(0.1, 1.05, 0.1).tolist())
    assert y[1:-1].tolist() == pytest.approx(np.arange(10, 101, 10).tolist())
    assert averaged.get_data()[0][1] == pytest.approx(0.01)
    text = to_svg(fig, DARK)
    assert "ten galaxies" in text
    assert "n on s, averaged over 8 turns" in text
    assert to_svg(shift_curves(QTable(rows=rows), of="rms", theme=LIGHT)[0]).count("rms shift over angles [%]") == 2


@pytest.mark.parametrize("name", ["classes", "modes"])
def test_a_film_of_every_kind_of_answer(networks, tmp_path, name):
    clean, _ = small_field().draw(0)
    film(networks[name], clean.select([1]), "redrawn-rotation", 4, tmp_path, "film", title="one")
    strip = make_strip(read_film(tmp_path / "film"))
    assert len(strip) == 4
    assert strip.labels[0] == {"classes": "p(disk)", "modes": "B/T"}[name]
    if name == "classes":
        assert (strip.quantiles == strip.quantiles[:1]).all()
        assert strip.quantiles[0].sum(-1) == pytest.approx(1)
        assert sorted(strip.truth) == [0, 0, 1]
    else:
        assert (np.diff(strip.quantiles, axis=0) >= 0).all()


def test_command_and_page(networks, tmp_path):
    networks["classes"].save(tmp_path / "one.safetensors")
    words = ["study", "rotation", str(tmp_path / "one.safetensors"), "--count", "54", "--angles", "3", "--kinds",
             "quarter", "--film", "2", "-q", "-o", str(tmp_path / "out")]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = {"rotation-quarter.png", "rotation-quarter-dark.svg", "film-one-2.mp4", "film-one-2.json", "manifest.json"}
    assert wanted <= names
    (section,) = report_studies([read_study(tmp_path / "out")])
    assert section.title.startswith("How far do answers move when galaxies turn?")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    for words in ("--kinds quarter", "--snr 20.0", "--film 2", "--count 54"):
        assert words in summary["command"]
    assert "--average" not in summary["command"]
    assert "--survey" not in summary["command"]
