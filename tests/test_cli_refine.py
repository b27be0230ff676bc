"""Commands that use the likelihood: what they write is what the functions give, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from astropy.io.votable import parse_single_table
from astropy.io.votable.ucd import check_ucd

from galstress.catalogue import read_catalogue
from galstress.cli import main
from galstress.cutouts import Cutouts, Flag
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import fit, limit, refine
from galstress.simulation import simulate


def run(*words: object, status: int = 0) -> None:
    """Run a command of the program and check its exit status."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert (stop.value.code or 0) == status


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    """Two simulated galaxies, of which the second cannot be measured."""
    path = tmp_path_factory.mktemp("galaxies") / "galaxies.fits"
    cutouts = simulate("hsc-wide-i", 2, seed=11, stamp_px=32)
    cutouts.images[1] = torch.nan
    cutouts.mask[1] = True
    cutouts.catalogue["flags"][1] = int(Flag.ALL_MASKED)
    cutouts.write(path)
    return path


@pytest.fixture(scope="module")
def start(galaxies, tmp_path_factory):
    """Posteriors of the shipped network, as ``predict`` saves them."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    run("predict", "foveal", galaxies, "-o", path, "-q")
    return path


# ---- what the commands make ----------------------------------------------------------------------------------------


def test_predict_saves_the_posteriors_themselves(galaxies, start):
    saved = Prediction.read(start)
    expected = predict(Network.load("foveal"), Cutouts.read(galaxies))
    np.testing.assert_allclose(saved.mean[0], expected.mean[0], rtol=1e-5)
    assert np.isnan(saved.mean[1]).all()


def test_refine_is_refine_from_posteriors_and_from_a_network(galaxies, start, tmp_path, capsys):
    run("refine", start, galaxies, "--prior", "cosmos", "--seed", 3, "-o", tmp_path / "a.parquet")
    assert "2 objects, 1 not measured" in capsys.readouterr().out
    expected = refine(Prediction.read(start), Cutouts.read(galaxies), "cosmos", seed=3).table()
    for suffix in (".parquet", ".ecsv"):
        table = read_catalogue(tmp_path / f"a{suffix}")
        for name in ("flux_njy_p50", "effective_samples", "chi_square", "ln_evidence"):
            np.testing.assert_allclose(np.asarray(table[name]), np.asarray(expected[name]), rtol=1e-6)
        assert table["flux_njy_p50"].unit == "nJy"
        assert np.isnan(table["chi_square"][1])
        assert table["flags"][1] & int(Flag.ALL_MASKED)
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert (about["command"], about["seed"], about["arguments"]["prior"]) == ("galstress refine", 3, "cosmos")
    assert set(about["checksums"]) == {"start.safetensors", "galaxies.fits"}
    run("refine", "foveal", galaxies, "--prior", "cosmos", "--seed", 3, "-o", tmp_path / "b.safetensors", "-q")
    again = Prediction.read(tmp_path / "b.safetensors")
    np.testing.assert_allclose(again.effective_samples[0], expected["effective_samples"][0], rtol=1e-3)
    assert again.draws.shape == (2, 512, 12)
    assert set(json.loads((tmp_path / "manifest.json").read_text())["checksums"]) == {
        "foveal.safetensors",
        "galaxies.fits",
    }


def test_fit_is_fit_with_ucds(galaxies, tmp_path, capsys):
    run("fit", galaxies, "--seed", 2, "-o", tmp_path / "f.vot", "-q")
    assert capsys.readouterr().out == ""
    table = read_catalogue(tmp_path / "f.vot")
    expected = fit(Cutouts.read(galaxies), seed=2).table()
    np.testing.assert_allclose(np.asarray(table["bulge_to_total_p50"])[0], expected["bulge_to_total_p50"][0], rtol=1e-6)
    ucds = {field.name: field.ucd for field in parse_single_table(tmp_path / "f.vot").fields}
    known = {"effective_samples": "meta.number", "chi_square": "stat.fit.chi2", "ln_evidence": "stat.likelihood"}
    assert {name: ucds[name] for name in known} == known
    assert all(check_ucd(ucd, check_controlled_vocabulary=True) for ucd in known.values())


@pytest.mark.parametrize("words", [(), ("--fixed-indices",)], ids=["free", "fixed"])
def test_limit_is_limit_with_units_and_ucds(galaxies, tmp_path, words):
    run("limit", galaxies, "--kind", "cramer-rao", *words, "-o", tmp_path / "l.vot", "-q")
    table = read_catalogue(tmp_path / "l.vot")
    expected = limit(Cutouts.read(galaxies), "cramer-rao", free_indices=not words)
    for name in ("bulge_to_total", "half_light_radius_arcsec", "flux_njy"):
        values = (np.asarray(getattr(each[name], "value", each[name]), float) for each in (table, expected))
        np.testing.assert_allclose(*values, rtol=1e-6)
    assert table["half_light_radius_arcsec"].unit == "arcsec"
    ucds = {field.name: field.ucd for field in parse_single_table(tmp_path / "l.vot").fields}
    assert all(check_ucd(ucd, check_controlled_vocabulary=True) for ucd in ucds.values())
    assert ucds["half_light_radius_arcsec"] == "stat.error;phys.angSize"


def test_limit_of_bayes_has_its_own_samples(galaxies, tmp_path):
    run("limit", galaxies, "--seed", 4, "-o", tmp_path / "l.ecsv", "-q")
    table = read_catalogue(tmp_path / "l.ecsv")
    expected = limit(Cutouts.read(galaxies), "bayes", seed=4)
    np.testing.assert_allclose(table["effective_samples"], expected["effective_samples"], rtol=1e-6)
    np.testing.assert_allclose(table["flux_njy"].value[0], expected["flux_njy"].value[0], rtol=1e-6)


# ---- help, and what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["refine", "fit", "limit"])
def test_the_command_shows_an_example_and_takes_the_same_three(command, capsys):
    run(command, "--help")
    text = capsys.readouterr().out
    assert f"galstress {command}" in text.partition("Example:")[2]
    assert all(option in text for option in ("--seed", "--device", "--quiet", "--prior"))


def test_unusable_input_is_one_line_and_status_2(galaxies, start, tmp_path, capsys):
    other, real = tmp_path / "other.fits", tmp_path / "real.fits"
    simulate("hsc-wide-i", 3, seed=12, stamp_px=32).write(other)
    plain = simulate("hsc-wide-i", 1, seed=12, stamp_px=32)
    object.__setattr__(plain, "truth", None)
    plain.write(real)
    (tmp_path / "text.safetensors").write_text("no")
    out = ("-o", tmp_path / "x.parquet")
    cases = (
        (("refine", start, galaxies, "--prior", "moon", *out), "nearby, weak"),
        (("refine", start, other, *out), "predict these cutouts first"),
        (("refine", tmp_path / "text.safetensors", galaxies, *out), "text.safetensors"),
        (("refine", "unknown", galaxies, *out), "foveal"),
        (("refine", start, tmp_path / "nowhere", *out), "nowhere"),
        (("refine", start, galaxies, "-o", tmp_path / "x.csv"), ".safetensors"),
        (("fit", galaxies, "--prior", "moon", *out), "nearby, weak"),
        (("fit", tmp_path / "text.safetensors", *out), "--survey"),
        (("fit", galaxies, "--device", "abacus", *out), "--device cpu"),
        (("limit", galaxies, "--kind", "best", *out), "bayes, cramer-rao"),
        (("limit", galaxies, "--prior", "moon", *out), "nearby, weak"),
        (("limit", galaxies, "--fixed-indices", *out), "cramer-rao"),
        (("limit", real, *out), "galstress.simulate"),
        (("limit", galaxies, "-o", tmp_path / "x.csv"), ".parquet"),
    )
    for words, hint in cases:
        run(*words, status=2)
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, (words, lines)
        assert lines[0].startswith("error: "), words
        assert hint in lines[0], (words, lines)
    assert not (tmp_path / "x.parquet").exists()
