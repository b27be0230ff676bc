"""The records of what networks say: Classes and Samples, against closed forms and scipy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.galaxy import galaxies_from_table
from galstress.heads import CLASS_EDGES, TRIPLE, Classes, ClassHead, Samples, classify
from galstress.simulation import simulate
from galstress.survey import Survey

PROBABILITIES = np.array(
    [[0.75, 0.15, 0.10], [0.40, 0.25, 0.35], [0.10, 0.60, 0.30], [0.10, 0.35, 0.55], [0.05, 0.0, 0.95], [np.nan] * 3]
)


def describe(count: int, survey: str = "sdss-g") -> dict:
    flags = np.zeros(count, np.int64)
    flags[-1] = int(Flag.UNREADABLE)
    return {
        "object_id": np.array([f"object <{place}>" for place in range(count)]),
        "flags": flags,
        "survey": Survey.load(survey),
        "network": "mine",
        "prior": {"cosmos": 0.25, "nearby": 0.75},
    }


@pytest.fixture
def classes() -> Classes:
    return Classes(probabilities=PROBABILITIES, **describe(6))


@pytest.fixture
def samples() -> Samples:
    rng = np.random.default_rng(5)
    mixed = rng.normal(size=(4, 800, 3)) @ np.array([[0.05, 0, 0], [0.02, 0.3, 0], [-100.0, 200.0, 400.0]]).T
    draws = mixed + np.array([0.4, 1.5, 9000.0])
    draws[-1] = np.nan
    return Samples(draws=draws, **describe(4, "hsc-wide-g"))


# ---- classes -------------------------------------------------------------------------------------------------------


def test_published_cuts_decide(classes: Classes) -> None:
    """The table of the published code: SDSS 0.70 and 0.70 (Keras), CANDELS the largest and 0.60, 0.36 and 0.55."""
    no, disk, bulge = "indeterminate", "disk", "bulge"
    assert classes.decide().tolist() == [disk, disk, no, bulge, bulge, ""]
    assert classes.decide(0.7, 0.7).tolist() == [disk, no, no, no, bulge, ""]
    assert classes.decide(0.8, 0.8).tolist() == [no, no, no, no, bulge, ""]
    assert classes.decide(0.0, 0.6).tolist() == [disk, disk, no, no, bulge, ""]
    assert classes.decide(0.36, 0.55).tolist() == [disk, disk, no, bulge, bulge, ""]
    assert classes.decide(0.41, 0.55).tolist() == [disk, no, no, bulge, bulge, ""]


def test_truth_is_classified_at_the_published_edges() -> None:
    share = torch.tensor([0.0, 0.4499, 0.45, 0.5, 0.55, 0.5501, 1.0, torch.nan])
    assert classify(share).tolist() == [0, 0, 1, 1, 1, 2, 2, -1]
    assert CLASS_EDGES == (0.45, 0.55)
    drawn = simulate("sdss-g", 20, seed=3, stamp_px=64)
    survey = drawn.survey
    galaxies = galaxies_from_table(drawn.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    wanted = np.digitize(np.asarray(drawn.truth["bulge_to_total"]), [0.45, 0.55])
    assert ClassHead().place(galaxies, None).tolist() == wanted.tolist()
    assert len(set(wanted.tolist())) > 1


def test_loss_and_temperature_are_cross_entropy_and_softmax() -> None:
    raw = np.random.default_rng(2).normal(0, 2, (6, 3))
    head = ClassHead()
    truth = np.array([0, 1, 2, 2, 1, 0])
    logs = raw - np.log(np.exp(raw).sum(1, keepdims=True))
    found = head.loss(torch.tensor(raw), torch.tensor(truth)).numpy()
    np.testing.assert_allclose(found, -logs[np.arange(6), truth], rtol=1e-9)
    head.temperature.fill_(2.0)
    soft = np.exp(raw / 2)
    np.testing.assert_allclose(head.probabilities(torch.tensor(raw)), soft / soft.sum(1, keepdims=True), rtol=1e-6)
    with pytest.raises(ValueError, match="4 features"):
        ClassHead(4)


def test_classes_as_a_table(classes: Classes) -> None:
    table = classes.table()
    assert list(table["class"])[:2] == ["disk", "disk"]
    assert table["class"][5] == ""
    np.testing.assert_allclose(table["p_bulge"][:5], PROBABILITIES[:5, 2])
    assert all(table[column].info.description for column in table.colnames[1:])
    assert (classes.names, classes.units) == (("disk", "indeterminate", "bulge"), ("", "", ""))
    assert np.isnan(classes.covariance[0].diagonal()).all()
    assert classes.covariance[0, 0, 1] == 0


# ---- what both have ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "samples"])
def test_file_gives_the_record_back(tmp_path, request, kind: str) -> None:
    said = request.getfixturevalue(kind)
    said.write(tmp_path / "a.safetensors")
    again = type(said).read(tmp_path / "a.safetensors")
    for field in dataclasses.fields(said):
        first, second = getattr(said, field.name), getattr(again, field.name)
        if isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second)
        else:
            assert first == second, field.name
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    other = Samples if kind == "classes" else Classes
    with pytest.raises(InputError, match="another kind"):
        other.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["classes", "samples"])
def test_rows_are_selected_and_joined_in_order(request, kind: str) -> None:
    said = request.getfixturevalue(kind)
    parts = [said.select(slice(0, 1)), said.select([]), said.select(np.arange(len(said)) > 0)]
    assert [len(part) for part in parts] == [1, 0, len(said) - 1]
    joined = type(said).concatenate(parts)
    np.testing.assert_array_equal(joined.mean, said.mean)
    assert joined.object_id.tolist() == said.object_id.tolist()
    assert said.usable.tolist() == [True] * (len(said) - 1) + [False]
    assert said.select([2, 0]).object_id.tolist() == ["object <2>", "object <0>"]
    assert len(said.select([]).table()) == 0


# ---- samples -------------------------------------------------------------------------------------------------------


def test_moments_and_quantiles_are_those_of_the_draws(samples: Samples) -> None:
    for row in range(3):
        draws = samples.draws[row]
        np.testing.assert_allclose(samples.mean[row], draws.mean(0))
        np.testing.assert_allclose(samples.covariance[row], np.cov(draws.T, ddof=0))
        np.testing.assert_allclose(samples.std[row], draws.std(0))
        ordered = np.sort(draws, 0)
        np.testing.assert_allclose(samples.quantile((0.5,))[0, row], (ordered[399] + ordered[400]) / 2)
        inside = (draws >= samples.quantile(0.16)[row]).mean(0)
        np.testing.assert_allclose(inside, 0.84, atol=1.5 / 800)
    assert np.isnan(samples.mean[3]).all()
    assert (samples.names, samples.units) == (TRIPLE, ("", "arcsec", "nJy"))


def test_samples_are_joint_and_none_comes_twice_too_early(samples: Samples) -> None:
    drawn = samples.sample(800, 4)
    assert drawn.shape == (800, 4, 3)
    np.testing.assert_array_equal(np.sort(drawn[:, 1], 0), np.sort(samples.draws[1], 0))
    correlation = np.corrcoef(drawn[:, 1].T)
    np.testing.assert_allclose(correlation, np.corrcoef(samples.draws[1].T), atol=1e-9)
    assert abs(correlation[1, 2]) > 0.3
    assert samples.sample(1700, 4).shape == (1700, 4, 3)
    np.testing.assert_array_equal(samples.sample(50, 4), samples.sample(50, 4))
    assert not np.array_equal(samples.sample(50, 4), samples.sample(50, 5), equal_nan=True)


def test_mode_is_where_scipys_density_is_largest(samples: Samples) -> None:
    rng = np.random.default_rng(1)
    skewed = np.stack([rng.beta(3, 9, 1500), rng.lognormal(0.5, 0.5, 1500), rng.gamma(4, 2000, 1500)], 1)
    said = dataclasses.replace(samples, draws=np.stack([skewed] * 4))
    for place in range(3):
        values = skewed[:, place]
        grid = np.linspace(values.min(), values.max(), 4000)
        wanted = grid[gaussian_kde(values)(grid).argmax()]
        assert said.mode()[0, place] == pytest.approx(wanted, abs=0.02 * values.std())
    assert np.isnan(said.mode()[3]).all()


def test_mode_of_bulge_to_total_does_not_leak_past_its_edges(samples: Samples) -> None:
    rng = np.random.default_rng(2)
    draws = np.tile(samples.draws[:1], (4, 1, 1))
    draws[0, :, 0] = rng.exponential(0.05, 800).clip(0, 1)  # densest at 0, where a plain kernel loses half
    draws[1, :, 0] = np.where(rng.random(800) < 0.2, 1.0, rng.uniform(0, 1, 800))
    draws[2, :, 0] = 0.3
    mode = dataclasses.replace(samples, draws=draws).mode()
    plain = np.linspace(0, 0.2, 2001)
    assert mode[0, 0] < 0.006 < plain[gaussian_kde(draws[0, :, 0])(plain).argmax()]
    assert mode[1, 0] == 1.0
    assert mode[2, 0] == 0.3


def test_samples_as_a_table(samples: Samples) -> None:
    table = samples.table()
    assert str(table["flux_njy_p84"].unit) == "nJy"
    assert str(table["half_light_radius_arcsec_mode"].unit) == "arcsec"
    assert table["bulge_to_total_mean"].unit is None
    np.testing.assert_allclose(table["flux_njy_p97_5"].value, samples.quantile(0.975)[:, 2])
    assert "97.5 % quantile" in table["flux_njy_p97_5"].info.description
    assert table.meta["network"] == "mine"
