"""GaMorNet and GaMPEN through the commands: tables, files, stress, the page, training at another width."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io.votable import parse_single_table
from astropy.io.votable.ucd import check_ucd
from safetensors import safe_open
from typer.testing import CliRunner

from galstress.catalogue import read_catalogue
from galstress.cli.commands import app, main
from galstress.errors import InputError
from galstress.heads import Classes, Prediction, Samples, read_prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.recipes import RECIPES
from galstress.report import build_report
from galstress.report.decisions import collect_decisions, say_share
from galstress.simulation import simulate

KINDS = {"gamornet": Classes, "gampen": Samples}
COLUMNS = {"gamornet": "p_bulge", "gampen": "flux_njy_mode"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of four galaxies, one of them all masked, and an untrained network of each kind."""
    place = tmp_path_factory.mktemp("published")
    cutouts = simulate("sdss-g", 4, seed=7, population="nearby", stamp_px=56)
    mask = cutouts.mask.clone()
    mask[3] = True
    dataclasses.replace(cutouts, mask=mask).write(place / "g.fits")
    for name, side in (("gamornet", 32), ("gampen", 56)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = Network.build(name, stamp_px=side, width=0.07, pixels="sky")
        network.save(place / f"{name}.safetensors")
    return place


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "-q"])
    assert not stop.value.code


@pytest.mark.parametrize("name", KINDS)
def test_predict_writes_every_format_and_the_answer_itself(folder, tmp_path, name):
    weights = folder / f"{name}.safetensors"
    run("predict", weights, folder / "g.fits", "-o", tmp_path / "t.safetensors")
    said = read_prediction(tmp_path / "t.safetensors")
    assert type(said) is KINDS[name]
    expected = said.table()[COLUMNS[name]]
    for suffix in ("parquet", "fits", "vot"):
        run("predict", weights, folder / "g.fits", "-o", tmp_path / f"t.{suffix}")
        table = read_catalogue(tmp_path / f"t.{suffix}")
        values = np.ma.filled(np.ma.asarray(getattr(table[COLUMNS[name]], "value", table[COLUMNS[name]])), np.nan)
        np.testing.assert_array_equal(values, np.asarray(expected, float))
        assert np.isnan(values[3])
        assert np.isfinite(values[:3]).all()
    assert (tmp_path / "t.ecsv").exists()
    ucds = {field.name: field.ucd for field in parse_single_table(str(tmp_path / "t.vot")).fields}
    assert all(check_ucd(ucd, check_controlled_vocabulary=True) for key, ucd in ucds.items() if key != "note")
    assert ucds[COLUMNS[name]] == {"gamornet": "stat.probability;src.class"}.get(name, "phot.flux.density;stat.param")


def test_a_file_is_read_as_what_it_is(folder, tmp_path):
    cutouts = simulate("sdss-g", 2, seed=1, stamp_px=56)
    said = predict(Network.build("foveal", width=0.34), cutouts)
    said.write(tmp_path / "p.safetensors")
    assert type(read_prediction(tmp_path / "p.safetensors")) is Prediction
    run("predict", folder / "gamornet.safetensors", folder / "g.fits", "-o", tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="read_prediction"):
        Prediction.read(tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="written by"):
        read_prediction(folder / "gamornet.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_records_stress_and_page(folder, tmp_path, name):
    weights, records = folder / f"{name}.safetensors", tmp_path / "rec"
    run("predict", weights, folder / "g.fits", "-o", tmp_path / "t.parquet", "--records", records)
    run("stress", weights, folder / "g.fits", "-p", "quarter-turns", "-p", "depth", "-o", records / "stress.parquet")
    build_report(records, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not (records / "galaxies" / "g" / "model.safetensors").exists()
    assert "There is no model, residual or radial profile" in page
    assert "e₁" not in re.sub(r'<section id="definitions">.*?</section>', "", page, flags=re.DOTALL)
    said = read_prediction(records / "galaxies" / "g" / "prediction.safetensors")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    if name == "gamornet":
        assert f"p(bulge) {said.probabilities[0, 2]:.3f}" in text
        assert "probabilities of classes, not of quantities" in text
        assert "Changed decisions at any angle" in text
        assert "exposure time left: 0.5" in text
        assert "class not measured" in text
    else:
        assert "half-light radius" in text
        assert "Changed decisions" not in text
        assert "AB magnitude" in text


def test_records_of_another_network_leave_no_models_behind(folder, tmp_path):
    records = tmp_path / "rec"
    Network.build("foveal", width=0.34).save(tmp_path / "f.safetensors")
    model = records / "galaxies" / "g" / "model.safetensors"
    for weights, there in ((tmp_path / "f.safetensors", True), (folder / "gamornet.safetensors", False)):
        run("predict", weights, folder / "g.fits", "-o", tmp_path / "t.parquet", "--records", records)
        assert model.exists() is there


def test_finetune_takes_labels_of_bt_alone_and_a_published_policy(folder, tmp_path):
    (tmp_path / "labels.csv").write_text(
        "object_id,bulge_to_total\nsimulated-0,0.2\nsimulated-1,0.9\nsimulated-2,\nsimulated-3,0.5\n"
    )
    run(
        "finetune", folder / "gamornet.safetensors", folder / "g.fits", "--labels", tmp_path / "labels.csv",
        "--policy", "gamornet-candels", "--steps", 1, "--validation", 0, "-o", tmp_path / "tuned.safetensors",
    )  # fmt: skip
    record = json.loads((tmp_path / "manifest.json").read_text())["finetuning"]
    assert record["learned"] == 2  # one has no label, one no pixel
    assert record["renewed"] == ["dense2", "output"]
    assert record["loss"] == "the cross-entropy of the labelled classes"
    first = Network.load(folder / "gamornet.safetensors").backbone.stages["conv1"][0].weight
    assert torch.equal(Network.load(tmp_path / "tuned.safetensors").backbone.stages["conv1"][0].weight, first)


def test_decisions_are_counted_by_object():
    before = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]])
    turned = np.array([[0.7, 0.1, 0.2], [0.6, 0.1, 0.3], [0.2, 0.5, 0.3]])
    stress = {
        "kind": np.full(18, "quarter-turns"),
        "amount": np.repeat([0, 1], 9),
        "output": np.tile(["disk", "indeterminate", "bulge"], 6),
        "baseline_value": np.tile(before.ravel(), 2),
        "value": np.concatenate([before.ravel(), turned.ravel()]),
    }
    decisions = collect_decisions(stress, "quarter-turns")
    assert decisions.tally() == (3, 2, 1)  # two change, one of them from bulge to disk
    stress["value"][stress["amount"] == 1] = np.nan
    assert collect_decisions(stress, "quarter-turns").tally() == (0, 0, 0)
    assert collect_decisions(stress, "depth") is None
    assert say_share(2, 3) == "66.7 % (39 to 86)"


def test_width_and_bfloat16_are_recorded(tmp_path, monkeypatch):
    recipe = RECIPES["gamornet-hst-improved"]
    survey = "hst-candels-f814w"
    tiny = dataclasses.replace(
        recipe, surveys={survey: {"nearby": 1.0}}, stamps={survey: (32,)}, block=8, per_survey=4, exposures=2,
        faintest_snr=0.0, neighbour_share=0.0, structured_share=0.0, backbone={**recipe.backbone, "stamp_px": 32},
    )  # fmt: skip
    monkeypatch.setitem(RECIPES, "gamornet-hst-improved", tiny)
    words = ["train", "gamornet-hst-improved", "--steps", "1", "--width", "0.02", "--bfloat16", "-o"]
    run(*words, tmp_path / "n.safetensors")
    with safe_open(tmp_path / "n.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["galstress"])
    assert record["backbone"]["settings"]["width"] == 0.02
    assert record["training"]["schedule"]["bfloat16"] is True
    assert record["training"]["recipe"] == "gamornet-hst-improved"
    network = Network.load(tmp_path / "n.safetensors")
    assert network.backbone.stages["conv1"][0].out_channels == 4  # never fewer
    assert [path.name for path in tmp_path.glob("*.checkpoint.safetensors")] == [
        "n.gamornet-hst-improved-seed1-width0.02-bfloat16.checkpoint.safetensors"
    ]


def test_the_help_names_every_recipe():
    text = re.sub(r"-\n\s+", "-", CliRunner().invoke(app, ["train", "--help"]).output)  # lines break at hyphens
    named = set(re.findall(r"[\w-]+", text))
    assert not set(RECIPES) - named
