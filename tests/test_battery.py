"""The stress table with networks whose answers are known in closed form."""

import dataclasses
import json
import logging
import math

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import MaskedColumn, QTable

import galstress.battery as battery
from galstress.cutouts import Cutouts, empty_catalogue
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import Galaxies, table_from_galaxies
from galstress.networks.network import Network
from galstress.optics import make_psf, measure_fwhm
from galstress.perturbations import PERTURBATIONS
from galstress.prediction import predict
from galstress.rendering import draw_truth
from galstress.scores import truth_values
from galstress.survey import Survey

SURVEY = Survey.load("hsc-wide-i")
NAMES = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy", "e1", "e2", "x_px", "y_px", "disk_e1", "disk_e2")
UNITS = ("", "arcsec", "nJy", "", "", "pix", "pix", "", "")
SIZE = 32


@dataclasses.dataclass
class Answer:
    """As much of a Prediction as the battery reads."""

    mean: np.ndarray
    sigma: np.ndarray
    object_id: np.ndarray
    flags: np.ndarray
    names: tuple[str, ...] = NAMES
    units: tuple[str, ...] = UNITS

    @property
    def covariance(self):
        return self.sigma[:, :, None] ** 2 * np.eye(self.mean.shape[1])


def oracle(cutouts):
    """Reads the truth that comes with the images."""
    mean = truth_values(cutouts.truth, NAMES, UNITS)
    return Answer(mean, np.full_like(mean, 0.1), cutouts.object_id, cutouts.flags)


def partial_to_horizontal(cutouts):
    """An oracle that sees more flux, and a bigger bulge, in galaxies that lie along x."""
    answer = oracle(cutouts)
    answer.mean[:, 2] *= np.exp(0.3 * answer.mean[:, 3])
    answer.mean[:, 0] += 0.2 * answer.mean[:, 3]
    return answer


def moments(cutouts):
    """Gaussian-weighted moments of the pixels: turns with the image, and knows nothing of truth."""
    images = cutouts.images.double()
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in images.shape[1:]), indexing="ij")
    cx, cy = (torch.full((len(images), 1, 1), (n - 1) / 2, dtype=torch.float64) for n in images.shape[:0:-1])
    for _ in range(20):
        weighted = images * torch.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 16)
        total = weighted.sum((1, 2), keepdim=True)
        cx, cy = ((weighted * axis).sum((1, 2), keepdim=True) / total for axis in (x, y))
    dx, dy = x - cx, y - cy
    xx, yy, xy = ((weighted * part).sum((1, 2)) / total[:, 0, 0] for part in (dx**2, dy**2, dx * dy))
    e1, e2 = (xx - yy) / (xx + yy), 2 * xy / (xx + yy)
    columns = [0 * e1, (xx + yy).sqrt(), images.sum((1, 2)), e1, e2, cx[:, 0, 0], cy[:, 0, 0], e1, e2]
    mean = torch.stack(columns, 1).numpy()
    return Answer(mean, np.full_like(mean, 0.1), cutouts.object_id, cutouts.flags)


def scene(count=5, noise=False):
    """Off-centre galaxies with two components at different angles."""
    rng = np.random.default_rng(4)
    pair = lambda low, high: torch.as_tensor(rng.uniform(low, high, (count, 2)))  # noqa: E731
    one = lambda low, high: torch.as_tensor(rng.uniform(low, high, count))  # noqa: E731
    middle = (SIZE - 1) / 2
    galaxies = Galaxies(
        one(50, 90), one(0.2, 0.7), one(middle - 2, middle + 2), one(middle - 2, middle + 2),
        pair(0.8, 2.5), pair(1.5, 3.0), pair(0.3, 0.8), pair(0, 3.14),
    )  # fmt: skip
    truth = table_from_galaxies(galaxies, SURVEY.pixel_scale_arcsec, SURVEY.unit_njy)
    psf = make_psf(SURVEY.psf, SURVEY.pixel_scale_arcsec, 2, 31).float().expand(count, -1, -1)
    images = draw_truth(truth, psf, 2, SURVEY, SIZE)
    variance = SURVEY.sky_rms**2 + images.clamp_min(0) / SURVEY.electrons_per_unit
    if noise:
        images = images + variance.sqrt() * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    blank = torch.zeros(images.shape, dtype=torch.bool)
    return Cutouts(
        images, variance, blank, blank, psf, 2, measure_fwhm(psf, 2), torch.full((count,), SURVEY.sky_rms), SURVEY,
        empty_catalogue([f"galaxy-{i}" for i in range(count)]), truth=truth,
    )  # fmt: skip


def part(table, **values):
    """Rows in which columns have these values."""
    chosen = np.ones(len(table), bool)
    for name, value in values.items():
        chosen &= np.asarray(table[name]) == value
    return table[chosen]


# --- the table ------------------------------------------------------------------------------


def test_one_row_for_each_object_kind_amount_and_output():
    table = battery.stress(oracle, scene(3), tuple(PERTURBATIONS))
    kinds = {name: len(entry.amounts) for name, entry in PERTURBATIONS.items()}
    assert len(table) == 3 * len(NAMES) * sum(kinds.values())
    for name, amounts in kinds.items():
        assert len(part(table, kind=name)) == 3 * len(NAMES) * amounts
    keys = {tuple(row) for row in zip(*(table[n].tolist() for n in ("row", "kind", "amount", "output")), strict=True)}
    assert len(keys) == len(table)
    assert set(part(table, kind="interpolated-rotation")["unit"]) == {"deg"}
    assert set(part(table, output="flux_njy")["output_unit"]) == {"nJy"}
    assert all(table[name].info.description for name in table.colnames)
    assert part(table, row=2)["object_id"].tolist() == ["galaxy-2"] * (len(table) // 3)


def test_nothing_shifts_at_the_identity():
    few = {name: entry.amounts[:2] for name, entry in PERTURBATIONS.items()}
    table = battery.stress(moments, scene(3, noise=True), tuple(PERTURBATIONS), amounts=few)
    for name, entry in PERTURBATIONS.items():
        rows = part(table, kind=name, amount=entry.identity)
        assert len(rows) == 3 * len(NAMES)
        assert (rows["shift"] == 0).all()
        assert (rows["value"] == rows["baseline_value"]).all()


def test_an_oracle_never_shifts_and_is_never_wrong():
    """The rule for expected values and the perturbed truth say the same, for every perturbation."""
    few = {"interpolated-rotation": (0, 200), "redrawn-rotation": (0, 90, 130), "psf-width": (1.5,)}
    few |= {"pixel-redshift": (0.3,), "redrawn-redshift": (0, 0.9)}
    table = battery.stress(oracle, scene(), tuple(PERTURBATIONS), amounts=few)
    assert table["shift"] == pytest.approx(0, abs=1e-9)
    assert table["value"] == pytest.approx(table["truth"])
    moved = part(table, kind="redrawn-rotation", amount=90.0, output="e1")
    assert moved["expected"] == pytest.approx(-moved["baseline_value"])


def test_moments_of_the_pixels_shift_as_the_truth_does():
    """Expected values come from the baseline; here the answers come from the turned pixels."""
    table = battery.stress(moments, scene(), amounts={"interpolated-rotation": (35.0,), "depth": (1.0,)})
    exact = part(table, kind="quarter-turns")
    assert exact["shift"] / np.maximum(np.abs(exact["baseline_value"]), 1) == pytest.approx(0, abs=1e-5)
    assert np.ptp(part(exact, row=0, output="e1")["value"]) > 0.05
    assert np.ptp(part(exact, row=0, output="x_px")["value"]) > 1
    for name in ("e1", "e2", "x_px", "y_px"):
        for kind in ("interpolated-rotation", "redrawn-rotation"):
            assert part(table, kind=kind, output=name)["shift"] == pytest.approx(0, abs=4e-3)


def test_the_batch_does_not_matter_and_the_seed_does():
    cutouts = scene(noise=True)
    few = {"redrawn-rotation": (0, 50), "interpolated-rotation": (20,), "depth": (0.25,)}
    tables = [battery.stress(moments, cutouts, batch_size=size, seed=3, amounts=few) for size in (1, 2, 256)]
    for table in tables[1:]:
        assert table["value"] == pytest.approx(np.asarray(tables[0]["value"]), rel=1e-5, abs=1e-5)
    alone = battery.stress(moments, cutouts.select([3]), ("depth",), seed=3, amounts=few)
    assert alone["value"] == pytest.approx(np.asarray(part(tables[0], row=3, kind="depth")["value"]), rel=1e-5)
    other = battery.stress(moments, cutouts, ("depth",), seed=4)
    changed = part(other, amount=0.25)["value"] != part(tables[2], kind="depth", amount=0.25)["value"]
    assert np.asarray(changed).mean() > 0.8


def test_images_without_truth_are_turned_in_two_ways():
    real = dataclasses.replace(scene(), truth=None)
    table = battery.stress(moments, real)
    assert set(table["kind"]) == {"quarter-turns", "interpolated-rotation", "depth"}
    assert np.isnan(table["truth"]).all()
    with pytest.raises(InputError, match="without truth"):
        battery.stress(moments, real, ("redrawn-rotation",))


def test_what_is_asked_for_is_checked():
    with pytest.raises(UnknownNameError):
        battery.stress(oracle, scene(), ("blur",))
    with pytest.raises(UnknownNameError):
        battery.stress(oracle, scene(), amounts={"deepth": (1.0,)})
    with pytest.raises(InputError, match="nothing to do"):
        battery.stress(oracle, scene(), ())
    with pytest.raises(InputError, match="at most 1"):
        battery.stress(oracle, scene(), ("depth",), amounts={"depth": (4.0,)})


def test_one_bad_object_stops_nobody(caplog):
    def picky(cutouts):
        if "galaxy-3" in cutouts.object_id and float(cutouts.survey.electrons_per_unit) < SURVEY.electrons_per_unit:
            raise RuntimeError("too faint for me")
        return oracle(cutouts)

    with caplog.at_level(logging.WARNING):
        table = battery.stress(picky, scene(), ("depth",), amounts={"depth": (1.0, 0.5)})
    assert "galaxy-3" in caplog.text
    bad = (np.asarray(table["row"]) == 3) & (np.asarray(table["amount"]) == 0.5)
    assert (np.isnan(table["value"]) == bad).all()
    assert (np.isnan(table["shift_sigma"]) == bad).all()
    assert np.isfinite(table["baseline_value"]).all()
    assert set(battery.summarise(table)["failed"][-len(NAMES) :]) == {1}


def test_a_network_that_takes_nothing_is_an_error():
    def broken(cutouts):
        raise RuntimeError("expected 3 channels")

    with pytest.raises(InputError, match="expected 3 channels"):
        battery.stress(broken, scene(2))
    with pytest.raises(InputError, match="means of shape"):
        battery.stress(lambda c: dataclasses.replace(oracle(c), mean=np.zeros((len(c), 2))), scene(2))


def test_progress_goes_to_stderr_and_only_if_asked(capfd):
    battery.stress(oracle, scene(2), ("depth",))
    assert capfd.readouterr() == ("", "")
    battery.stress(oracle, scene(2), ("depth",), progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "stress" in captured.err


# --- what it says ---------------------------------------------------------------------------


def test_spread_of_a_partial_network_has_its_closed_form():
    """ln flux moves by 0.3 e1, and e1 runs through |e| cos(2 theta + ...): its rms over angles is |e| / sqrt(2)."""
    cutouts = scene()
    table = battery.stress(partial_to_horizontal, cutouts, ("rotation",))
    size = np.hypot(cutouts.truth["e1"], cutouts.truth["e2"])
    spread = battery.rotation_spread(table)
    for kind, angles in (("redrawn-rotation", 36), ("interpolated-rotation", 12)):
        flux = part(spread, kind=kind, output="flux_njy")
        assert flux["spread"] == pytest.approx(0.3 * size / math.sqrt(2))
        assert set(flux["measure"]) == {"relative"}
        assert (flux["angles"] == angles).all()
        bulge = part(spread, kind=kind, output="bulge_to_total")
        assert bulge["spread"] == pytest.approx(0.2 * size / math.sqrt(2))
        assert set(bulge["measure"]) == {"absolute"}
        assert bulge["spread_sigma"] == pytest.approx(0.2 * size / math.sqrt(2) / 0.1)
        assert part(spread, kind=kind, output="e1")["spread"] == pytest.approx(0, abs=1e-9)
    whole = part(battery.summarise_spread(spread), kind="redrawn-rotation", output="flux_njy")
    assert whole["rms_spread"] == pytest.approx(0.3 * np.sqrt((size**2).mean() / 2))
    assert whole["rms_spread_low"] < whole["rms_spread"] < whole["rms_spread_high"]
    assert part(battery.summarise_spread(spread[np.asarray(spread["row"]) == 1]), output="e1")["count"][0] == 1


def test_summary_of_shifts_has_its_closed_form():
    cutouts = scene()
    table = battery.stress(partial_to_horizontal, cutouts, ("quarter-turns", "depth"))
    summary = battery.summarise(table)
    assert len(summary) == (8 + 5) * len(NAMES)
    e1 = np.asarray(cutouts.truth["e1"])
    turned = part(summary, kind="quarter-turns", amount=1.0)
    flux, bulge = (part(turned, output=name)[0] for name in ("flux_njy", "bulge_to_total"))
    # a quarter turn takes e1 to -e1
    assert flux["rms_shift"] == pytest.approx(0.6 * np.sqrt((e1**2).mean()))
    assert flux["median_shift"] == pytest.approx(np.median(-0.6 * e1))
    assert bulge["rms_shift"] == pytest.approx(0.4 * np.sqrt((e1**2).mean()))
    assert bulge["rms_shift_sigma"] == pytest.approx(4 * np.sqrt((e1**2).mean()))
    assert bulge["rms_shift_low"] < bulge["rms_shift"] < bulge["rms_shift_high"]
    assert bulge["count"] == 5
    # the bulge is wrong by 0.2 e1, told as +- 0.1
    assert bulge["within_sigma"] == np.mean(0.2 * np.abs(e1) <= 0.1)
    assert bulge["error_68"] == pytest.approx(np.quantile(0.2 * np.abs(e1), 0.682689))
    assert part(summary, kind="depth")["rms_shift"] == pytest.approx(0)
    assert summary["median_sigma_growth"] == pytest.approx(1)


def test_summary_counts_only_what_was_measured():
    table = part(battery.stress(oracle, scene(), ("depth",)), output="e1", amount=0.5)
    table["value"][:2] = np.nan
    table["truth"][:] = np.nan
    row = battery.summarise(table)[0]
    assert (row["count"], row["failed"]) == (3, 2)
    assert np.isnan(row["error_68"])
    table["value"][:] = np.nan
    assert np.isnan(battery.summarise(table)["rms_shift"][0])
    assert len(battery.rotation_spread(table)) == 0


# --- on disk --------------------------------------------------------------------------------


def test_tables_come_back_from_parquet_and_json(tmp_path):
    table = battery.stress(oracle, scene(2), ("depth",), seed=8)
    table["value"][3] = np.nan
    parquet, plain = battery.write_table(table, tmp_path / "stress")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stress.json", "stress.parquet"]
    again = battery.read_table(parquet)
    assert again.colnames == table.colnames
    for name in table.colnames:
        assert again[name].dtype.kind == table[name].dtype.kind
        assert again[name].info.description == table[name].info.description
        if table[name].dtype.kind == "f":
            assert np.array_equal(again[name], table[name], equal_nan=True)
        else:
            assert again[name].tolist() == table[name].tolist()
    assert again.meta == table.meta
    record = json.loads(plain.read_text())
    assert record["rows"] == len(table)
    assert record["meta"]["survey"] == "hsc-wide-i"
    values = {column["name"]: column["values"] for column in record["columns"]}
    assert values["value"][3] is None
    assert values["value"][:3] == pytest.approx(table["value"][:3].tolist(), rel=1e-8)
    assert values["object_id"] == table["object_id"].tolist()


def test_units_and_masks_come_back(tmp_path):
    table = QTable({"radius": [1.5, 2.5] * u.arcsec, "known": [True, False]})
    table["redshift"] = MaskedColumn([0.3, 0.4], mask=[False, True])
    again = battery.read_table(battery.write_table(table, tmp_path / "one.parquet")[0])
    assert again["radius"].unit == u.arcsec
    assert again["radius"].value.tolist() == [1.5, 2.5]
    assert again["known"].tolist() == [True, False]
    assert again["redshift"].mask.tolist() == [False, True]
    record = json.loads((tmp_path / "one.json").read_text())
    assert record["columns"][2]["values"] == [0.3, None]
    assert record["columns"][0]["unit"] == "arcsec"


def test_a_write_that_fails_leaves_the_old_files(tmp_path):
    battery.write_table(QTable({"value": [1.0, 2.0]}), tmp_path / "shifts.parquet")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        battery.write_table(QTable({"value": [3.0]}, meta={"what": object()}), tmp_path / "shifts.parquet")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match="write_table"):
        battery.read_table(tmp_path / "shifts.json")


def test_a_network_is_measured_as_the_callable_that_predicts_with_it():
    torch.manual_seed(1)
    network = Network.build("foveal", width=0.25)
    cutouts = scene(3, noise=True)
    few = {"quarter-turns": (1,), "depth": (0.5,)}
    chosen = ("quarter-turns", "depth")
    table = battery.stress(network, cutouts, chosen, amounts=few, batch_size=2)
    by_hand = battery.stress(lambda c: predict(network, c), cutouts, chosen, amounts=few, batch_size=2)
    assert len(table) == 2 * 3 * 15
    assert table["value"].tolist() == by_hand["value"].tolist()
    assert np.isfinite(table["shift_sigma"]).all()
    assert part(table, output="flux_njy")["truth"] == pytest.approx(cutouts.truth["flux_njy"].value.tolist() * 2)
