"""The command line: every command, its manifest, and bad input as one line."""

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from safetensors import safe_open

from galstress import recipes
from galstress.battery import read_table
from galstress.catalogue import read_catalogue
from galstress.cli import main
from galstress.cli.running import write_manifest
from galstress.cutouts import Cutouts, Flag
from galstress.explanation import Explanation
from galstress.networks import Network
from galstress.prediction import predict
from galstress.simulation import simulate

COMMANDS = ("surveys", "simulate", "train", "predict", "stress", "explain", "report", "demo", "datasets")


def run(*words: object, status: int = 0) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert (stop.value.code or 0) == status


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    torch.manual_seed(3)
    Network.build("foveal", width=0.34).with_metadata(name="small").save(path)
    return path


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("galaxies") / "galaxies.fits"
    simulate("hsc-wide-i", 3, seed=7, stamp_px=48).write(path)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of plain FITS images: two good ones, NaNs, a truncated file, a cube, one pixel, all NaN."""
    images = simulate("hsc-wide-i", 3, seed=9, stamp_px=64).images.numpy()
    inside = tmp_path / "images"
    inside.mkdir()
    for name, pixels in (
        ("a-good", images[0]),
        ("b-good", images[1]),
        ("c-some-nan", np.where(np.random.default_rng(1).random((64, 64)) < 0.02, np.nan, images[2])),
        ("e-cube", np.zeros((2, 2, 8, 8), np.float32)),
        ("f-pixel", np.zeros((1, 1), np.float32)),
        ("g-all-nan", np.full((64, 64), np.nan, np.float32)),
    ):
        fits.writeto(inside / f"{name}.fits", pixels.astype(np.float32))
    whole = (inside / "a-good.fits").read_bytes()
    (inside / "d-truncated.fits").write_bytes(whole[: len(whole) // 3])
    return inside


def manifest(path: Path) -> dict:
    return json.loads((path / "manifest.json").read_text())


# ---- help ----------------------------------------------------------------------------------------------------------


def test_every_command_shows_an_example_and_takes_the_same_three(capsys):
    for command in COMMANDS:
        run(command, "--help")
        text = capsys.readouterr().out
        assert f"galstress {command}" in text.partition("Example:")[2], command
        assert all(option in text for option in ("--seed", "--device", "--quiet")), command


def test_help_of_a_command_imports_nothing_heavy():
    code = """
        import sys
        from galstress.cli import main
        try: main(["predict", "--help"])
        except SystemExit: pass
        print([m for m in ("torch", "astropy", "matplotlib", "scipy", "numpy") if m in sys.modules])
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


# ---- what the commands make ----------------------------------------------------------------------------------------


def test_surveys_and_datasets_are_listed_with_their_sources(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GALSTRESS_DATA", str(tmp_path))
    (tmp_path / "hsc_misc").mkdir()
    run("surveys")
    assert "euclid-vis" in capsys.readouterr().out
    run("surveys", "sdss-r")
    assert "zero_point_mag = 22.5   [" in capsys.readouterr().out
    run("datasets")
    listed = capsys.readouterr().out.splitlines()
    assert next(line for line in listed if line.startswith("hsc-misc")).split()[1] == "here"
    run("datasets", "hst-cosmos-btk100")
    assert "licence: MIT" in capsys.readouterr().out


def test_simulate_writes_what_simulate_draws(tmp_path):
    run("simulate", "hsc-wide-i", 2, "-o", tmp_path / "g.fits", "--seed", 5, "--stamp", 32, "--no-noise", "--quiet")
    cutouts = Cutouts.read(tmp_path / "g.fits")
    drawn = simulate("hsc-wide-i", 2, seed=5, stamp_px=32, noise=False)
    assert torch.equal(cutouts.images, drawn.images)
    about = manifest(tmp_path)
    assert about["command"] == "galstress simulate"
    assert (about["seed"], about["arguments"]["stamp"], about["arguments"]["noise"]) == (5, 32, False)
    assert set(about["versions"]) >= {"galstress", "torch", "numpy", "astropy"}
    assert about["galaxies_per_second"] > 0


def test_predict_is_predict(network, galaxies, tmp_path, capsys):
    run("predict", network, galaxies, "-o", tmp_path / "m.parquet", "--average", 8)
    assert "3 objects, 0 of them not measured" in capsys.readouterr().out
    cutouts = Cutouts.read(galaxies)
    expected = predict(Network.load(network), cutouts, average=True).table()
    for suffix in (".parquet", ".ecsv"):
        table = read_catalogue(tmp_path / f"m{suffix}")
        np.testing.assert_allclose(table["flux_njy_p50"], expected["flux_njy_p50"], rtol=1e-6)
        assert table["flux_njy_p50"].unit == "nJy"
    sums = manifest(tmp_path)["checksums"]
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (galaxies, network)}


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".vot"])
def test_predict_writes_the_format_of_the_suffix(network, galaxies, tmp_path, suffix):
    run("predict", network, galaxies, "-o", tmp_path / f"m{suffix}", "-q")
    assert len(read_catalogue(tmp_path / f"m{suffix}")) == 3


def test_a_folder_with_bad_files_gets_a_row_for_every_file(network, folder, tmp_path, capsys):
    run("predict", network, folder, "--survey", "hsc-wide-i", "--stamp", 64, "-o", tmp_path / "m.parquet", "-q")
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    table = read_catalogue(tmp_path / "m.parquet")
    assert [name.partition("-")[0] for name in table["object_id"]] == list("abcdefg")
    measured = np.isfinite(table["flux_njy_p50"].value)
    assert measured.tolist() == [True, True, True, False, False, False, False]
    assert (np.asarray(table["flags"])[~measured] != 0).all()
    assert table["flags"][2] & Flag.NON_FINITE
    assert len([name for name in manifest(tmp_path)["checksums"] if name.startswith("images/")]) == 7


def test_one_file_one_row(network, folder, tmp_path):
    run("predict", network, folder / "a-good.fits", "--survey", "hsc-wide-i", "-o", tmp_path / "m.parquet", "-q")
    assert len(read_catalogue(tmp_path / "m.parquet")) == 1


def test_zero_point_and_psf_are_passed_on(network, folder, tmp_path):
    psf = np.zeros((15, 15), np.float32)
    psf[7, 7] = psf[7, 8] = 0.5
    fits.writeto(tmp_path / "psf.fits", psf)
    words = ("predict", network, folder / "a-good.fits", "--survey", "hsc-wide-i", "-q", "-o")
    run(*words, tmp_path / "one.parquet")
    run(*words, tmp_path / "two.parquet", "--zero-point", 24.5, "--psf", tmp_path / "psf.fits")
    one, two = (read_catalogue(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one["flags"][0] & Flag.PSF_ASSUMED
    assert not two["flags"][0] & Flag.PSF_ASSUMED
    # 2.5 magnitudes: ten times the flux, up to what another PSF does
    assert two["flux_njy_p50"].value[0] / one["flux_njy_p50"].value[0] == pytest.approx(10, rel=0.3)
    assert "psf.fits" in manifest(tmp_path)["checksums"]


def test_stress_and_explain_write_their_records(network, galaxies, tmp_path):
    run("stress", network, galaxies, "-p", "depth", "-p", "quarter-turns", "--average", 8, "-o", tmp_path / "s.parquet",
        "-q")  # fmt: skip
    table = read_table(tmp_path / "s.parquet")
    assert set(table["kind"]) == {"depth", "quarter-turns"}
    assert set(table["averaged"]) == {0, 8}
    turned = table[(table["kind"] == "quarter-turns") & (table["output"] == "half_light_radius_arcsec")]
    shift = np.abs(turned["shift"] / turned["baseline_value"])
    averaged = np.asarray(turned["averaged"]) > 0
    assert 20 * np.max(shift[averaged]) < np.max(shift[~averaged])  # averaged, a quarter turn changes nothing
    run("explain", network, galaxies, "--of", "e1", "--sigma", "-o", tmp_path / "m.safetensors", "-q")
    assert Explanation.read(tmp_path / "m.safetensors").output == "sigma of e1"
    about = manifest(tmp_path)
    assert about["result"] == "m.safetensors"
    assert [entry["result"] for entry in about["earlier"]] == ["s.parquet"]


def test_records_of_commands_make_a_page(network, galaxies, tmp_path):
    records = tmp_path / "records"
    run("predict", network, galaxies, "-o", tmp_path / "m.parquet", "--records", records, "-q")
    run("report", records, "-o", tmp_path / "page.html", "-q")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "simulated-0" in page
    assert "default-src 'none'" in page
    assert manifest(records)["command"] == "galstress predict"  # the page tells how its records were made


def test_an_earlier_run_of_the_same_result_is_replaced(tmp_path):
    for number in range(3):
        write_manifest(tmp_path, {"result": "a", "number": number})
    write_manifest(tmp_path, {"result": "b", "number": 9})
    found = manifest(tmp_path)
    assert found["number"] == 9
    assert [(entry["result"], entry["number"]) for entry in found["earlier"]] == [("a", 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_memory_is_kept_only_where_the_library_can():
    code = """
        import platform
        from galstress.cli.running import keep_memory
        print(keep_memory() == (platform.libc_ver()[0] == "glibc"))
        platform.libc_ver = lambda: ("", "")
        print(keep_memory())
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False"]


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_unusable_input_is_one_line_and_status_2(network, galaxies, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.fits").write_text("no")
    out = ("-o", tmp_path / "x.parquet")
    survey = ("--survey", "hsc-wide-i")
    cases = (
        (("predict", network, tmp_path / "empty", *survey, *out), "empty"),
        (("predict", network, tmp_path / "nowhere", *survey, *out), "nowhere"),
        (("predict", network, tmp_path / "text.fits", *survey, *out), "text.fits"),
        (("predict", network, folder / "d-truncated.fits", *survey, *out), "d-truncated"),
        (("predict", network, folder, "--survey", "vera", *out), "hsc-wide-i"),
        (("predict", network, folder, *out), "--survey"),
        (("predict", "unknown", galaxies, *out), "unknown"),
        (("predict", tmp_path / "text.fits", galaxies, *out), "text.fits"),
        (("predict", network, galaxies, "-o", tmp_path / "x.csv"), ".parquet"),
        (("predict", network, galaxies, "-o", tmp_path / "nowhere" / "x.parquet"), "make the folder"),
        (("predict", network, folder, *survey, "--stamp", 3, *out), "stamp_px"),
        (("predict", network, galaxies, "--device", "abacus", *out), "--device cpu"),
        (("stress", network, galaxies, "-p", "shear", *out), "rotation"),
        (("stress", network, galaxies, "-o", tmp_path / "x.json"), ".parquet"),
        (("explain", network, galaxies, "--of", "colour", *out), "bulge_to_total"),
        (("simulate", "vera", 3, "-o", tmp_path / "x.fits"), "hsc-wide-i"),
        (("train", "nothing", "-o", tmp_path / "x.safetensors"), "foveal"),
        (("report", tmp_path / "nowhere"), "galstress demo"),
        (("demo", "-o", tmp_path / "demo", "--network", "unknown"), "unknown"),
        (("surveys", "vera"), "hsc-wide-i"),
        (("datasets", "vera"), "hsc-misc"),
    )
    for words, hint in cases:
        run(*words, status=2)
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, (words, lines)
        assert lines[0].startswith("error: "), words
        assert hint in lines[0], (words, lines)
    assert not (tmp_path / "x.parquet").exists()


def test_a_word_that_is_missing_is_told_without_a_traceback(capsys):
    run("predict", "foveal", status=2)
    said = capsys.readouterr().err
    assert "Missing argument 'INPUT'" in said
    assert "Traceback" not in said


def test_a_bug_is_one_line_with_advice_and_debug_shows_it(network, galaxies, tmp_path, capsys, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise TypeError("first\nsecond")

    monkeypatch.setattr("galstress.prediction.predict", broken)
    words = ("predict", network, galaxies, "-o", tmp_path / "x.parquet")
    run(*words, status=1)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "--debug" in lines[0]
    assert "first second" in lines[0]
    with pytest.raises(TypeError, match="second"):
        main([str(word) for word in (*words, "--debug")])


# ---- training ------------------------------------------------------------------------------------------------------

TINY = """
    import dataclasses, os, signal
    from galstress.recipes import RECIPES, Recipe, load_recipe
    from galstress.training import Schedule

    class Mortal(Recipe):
        def draw(self, step, **options):
            if step == int(os.environ.get("DIES_AT", "-1")):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().draw(step, **options)

        def calibrate(self, network, **options):
            pass  # takes longer than this training

    whole = load_recipe("foveal")
    fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    RECIPES["tiny"] = Mortal(**fields | dict(
        name="tiny", surveys={"hsc-wide-i": {"cosmos": 1.0}}, stamps={"hsc-wide-i": (48,)}, block=8, exposures=2,
        per_survey=4, backbone={"name": "foveal", "width": 0.34}, schedule=Schedule(steps=11, warm_up=3),
    ))
"""


@pytest.fixture
def tiny(monkeypatch) -> None:
    """A recipe of seconds under the name ``tiny``, with a checkpoint every third step."""
    monkeypatch.setattr(recipes, "RECIPES", dict(recipes.RECIPES))
    monkeypatch.setattr(recipes.recipe, "train", functools.partial(recipes.recipe.train, checkpoint_every=3))
    exec(textwrap.dedent(TINY), {})


def losses(checkpoint: Path) -> list[float]:
    with safe_open(checkpoint, framework="numpy") as file:
        return file.get_tensor("losses").tolist()


def test_training_killed_goes_on_as_if_nothing_had_happened(tiny, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    words = ["train", "tiny", "--seed", "4", "-q", "-o"]
    code = (
        TINY
        + """
    import functools, sys
    import galstress.recipes as recipes
    from galstress.cli import main
    recipes.recipe.train = functools.partial(recipes.recipe.train, checkpoint_every=3)
    main(sys.argv[1:])
    """
    )
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words, str(cut / "tiny.safetensors")],
        env={**os.environ, "DIES_AT": "8", "OMP_NUM_THREADS": str(torch.get_num_threads())}, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert not (cut / "tiny.safetensors").exists()
    name = "tiny.tiny-seed4.checkpoint.safetensors"
    before = losses(cut / name)
    assert len(before) == 6
    for folder in (cut, whole):
        run(*words, folder / "tiny.safetensors")
    assert len(losses(whole / name)) == 11
    assert losses(whole / name)[:6] == before
    assert losses(cut / name) == losses(whole / name)
    one, two = (Network.load(folder / "tiny.safetensors") for folder in (whole, cut))
    states = (network.modules().state_dict() for network in (one, two))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    about = manifest(cut)
    assert (about["steps"], about["loss"]) == (11, losses(cut / name)[-1])
    assert one.metadata["training"]["seed"] == 4


def test_no_resume_starts_again(tiny, tmp_path):
    checkpoint = tmp_path / "kept.safetensors"
    words = ("train", "tiny", "-o", tmp_path / "t.safetensors", "--checkpoint", checkpoint, "-q", "--steps")
    run(*words, 1)
    first = losses(checkpoint)
    run(*words, 2)
    assert losses(checkpoint)[:1] == first
    assert len(losses(checkpoint)) == 2
    run(*words, 1, "--no-resume")
    assert losses(checkpoint) == first
