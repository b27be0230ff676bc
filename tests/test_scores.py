"""Scores against closed forms, scipy and sbi."""

import dataclasses

import astropy.units as u
import numpy as np
import pytest
import scipy.stats
import torch
from astropy.table import MaskedColumn, QTable

from galstress import scores
from galstress.errors import InputError
from galstress.galaxy import Galaxies, component_ellipticity, table_from_galaxies

LEVELS = (0.682689, 0.954500)


@dataclasses.dataclass
class GaussianToy:
    """Prior N(0, 1), data = parameter + N(0, noise): the posterior is known. ``claimed`` scales its width."""

    mean: np.ndarray
    sigma: np.ndarray
    names: tuple[str, ...] = ("e1",)
    units: tuple[str, ...] = ("",)

    def quantile(self, p):
        z = scipy.stats.norm.ppf(np.atleast_1d(p))[:, None, None]
        return self.mean + z * self.sigma


def gaussian_toy(count=20000, noise=0.7, claimed=1.0, seed=3):
    rng = np.random.default_rng(seed)
    parameter = rng.normal(size=count)
    data = parameter + noise * rng.normal(size=count)
    share = 1 / (1 + noise**2)
    mean, sigma = share * data, np.full(count, claimed * noise * np.sqrt(share))
    return GaussianToy(mean[:, None], sigma[:, None]), QTable({"e1": parameter})


# --- statistics ---------------------------------------------------------------------------


def test_statistics_have_the_values_of_a_gaussian():
    error = np.random.default_rng(1).normal(0.3, 2.0, 400_000)
    assert scores.bias(error) == pytest.approx(0.3, abs=0.015)
    assert scores.scatter(error) == pytest.approx(2.0, abs=0.015)
    centred = error - 0.3
    assert scores.error_68(centred) == pytest.approx(2.0, abs=0.015)
    assert scores.rms(error) == pytest.approx(np.hypot(0.3, 2.0), abs=0.015)
    folded = scipy.stats.norm.sf(0.5, 0.3, 2) + scipy.stats.norm.cdf(-0.5, 0.3, 2)
    assert scores.outlier_fraction(error) == pytest.approx(folded, abs=0.003)


def test_the_68th_percentile_holds_the_bias_and_the_scatter_does_not():
    error = np.random.default_rng(2).normal(5.0, 1.0, 50_000)
    assert scores.scatter(error) == pytest.approx(1, abs=0.03)
    assert scores.error_68(error) == pytest.approx(5 + scipy.stats.norm.ppf(0.682689), abs=0.03)


def test_bootstrap_agrees_with_scipy():
    error = np.random.default_rng(5).gamma(2.0, 1.0, 300)
    ours = scores.bootstrap(scores.error_68, error, seed=1, count=4000, level=0.95)
    judge = scipy.stats.bootstrap(
        (error,), scores.error_68, n_resamples=4000, confidence_level=0.95, method="percentile", rng=2
    ).confidence_interval
    assert ours.value == pytest.approx(float(scores.error_68(error)))
    assert (ours.low, ours.high) == pytest.approx((judge.low, judge.high), rel=0.03)


def test_bootstrap_width_is_that_of_the_mean():
    data = np.random.default_rng(6).normal(size=1000)
    value, low, high = scores.bootstrap(lambda x: x.mean(-1), data, seed=1, level=0.6827)
    assert (high - low) / 2 == pytest.approx(data.std() / np.sqrt(1000), rel=0.08)
    assert value == pytest.approx(data.mean())


def test_bootstrap_resamples_pairs_together_and_one_seed_gives_one_answer():
    first = np.random.default_rng(7).normal(size=200)
    paired = scores.bootstrap(lambda a, b: (a - b).mean(-1), first, first - 1, seed=1)
    assert (paired.low, paired.high) == pytest.approx((1, 1))
    again = [scores.bootstrap(scores.bias, first, seed=seed) for seed in (4, 4, 5)]
    assert again[0] == again[1] != again[2]


def test_bootstrap_streams_large_samples_and_admits_extra_axes():
    data = np.random.default_rng(8).normal(size=9000)
    both = scores.bootstrap(lambda x: np.stack([x.mean(-1), x.std(-1)], -1), data, seed=1, count=1000)
    assert both.low.shape == (2,)
    assert np.all(both.low < both.value)
    assert np.all(both.value < both.high)
    assert np.isnan(scores.bootstrap(scores.bias, np.zeros(0), seed=1)).all()


# --- errors and truth ------------------------------------------------------------------------


def test_errors_are_ratios_for_radius_and_flux_and_differences_for_the_rest():
    for name in ("half_light_radius_arcsec", "disk_half_light_radius_arcsec", "flux_njy", "bulge_sersic_index"):
        assert scores.errors(name, [np.e], [1.0]) == pytest.approx([1.0])
    for name in ("bulge_to_total", "e1", "disk_e2", "x_px"):
        assert scores.errors(name, [0.7], [0.4]) == pytest.approx([0.3])
    assert scores.guess_the_median("bulge_to_total", [0.1, 0.9], 0.3) == pytest.approx([0.2, -0.6])


def test_truth_of_component_shapes_follows_the_galaxy_module():
    ratio, angle = torch.tensor([[0.3, 0.8], [0.6, 0.5]]).double(), torch.tensor([[0.4, 1.9], [-0.7, 0.1]]).double()
    ones = torch.ones(2).double()
    galaxies = Galaxies(
        ones, 0.4 * ones, ones, ones, torch.ones(2, 2).double(), torch.ones(2, 2).double(), ratio, angle
    )
    truth = table_from_galaxies(galaxies, 1.0, 1.0)
    values = scores.truth_values(truth, ["disk_e1", "disk_e2", "bulge_e1", "bulge_e2", "colour"])
    e1, e2 = component_ellipticity(ratio, angle)
    assert values[:, :4] == pytest.approx(torch.stack([e1[:, 0], e2[:, 0], e1[:, 1], e2[:, 1]], 1).numpy())
    assert np.isnan(values[:, 4]).all()


def test_truth_is_converted_to_the_prediction_s_unit_and_masked_values_are_not_known():
    truth = QTable({"half_light_radius_arcsec": [1.0, 2.0] * u.arcmin})
    truth["bulge_to_total"] = MaskedColumn([0.5, 0.5], mask=[True, False])
    values = scores.truth_values(truth, ["half_light_radius_arcsec", "bulge_to_total"], ["arcsec", ""])
    assert values[:, 0] == pytest.approx([60, 120])
    assert np.isnan(values[0, 1])
    assert values[1, 1] == 0.5


def test_accuracy_of_the_toy_is_the_posterior_s_sigma_and_beats_the_guess():
    toy, truth = gaussian_toy()
    bins = scores.Bins("signal", toy.mean[:, 0], (-np.inf, 0, np.inf))
    table = scores.accuracy_table(toy, truth, [bins], count=100)
    assert table["count"].tolist() == [20000, (toy.mean[:, 0] < 0).sum(), (toy.mean[:, 0] >= 0).sum()]
    sigma = toy.sigma[0, 0]
    for row in table:
        assert row["error_68"] == pytest.approx(sigma, rel=0.03)
        assert row["scatter"] == pytest.approx(sigma, rel=0.03)
        assert row["median_sigma"] == pytest.approx(sigma, rel=1e-3)
        assert row["bias_low"] < row["bias"] < row["bias_high"]
        assert row["error_68_low"] < row["error_68"] < row["error_68_high"]
        assert row["guess_error_68"] == pytest.approx(1.0, abs=0.05)
        assert row["guess_in_bin_error_68"] > 1.2 * row["error_68"]
        assert row["beyond_5_sigma"] == 0
    # within half of the data the bin's own median is a better guess than the prior's
    assert table["guess_in_bin_error_68"][1] < table["guess_error_68"][1] - 0.1


def test_accuracy_takes_the_prior_s_median_if_given_and_skips_what_is_not_known():
    toy, truth = gaussian_toy(count=1000)
    toy.mean[:10] = np.nan
    truth["e1"][10:20] = np.nan
    row = scores.accuracy_table(toy, truth, prior_median={"e1": 50.0}, count=10)[0]
    assert row["count"] == 980
    assert row["guess_error_68"] == pytest.approx(50, abs=1)


def test_accuracy_of_ratios_is_fractional():
    true = np.random.default_rng(3).uniform(1, 100, 5000)
    wrong = true * np.exp(np.random.default_rng(4).normal(0.02, 0.05, 5000))
    toy = GaussianToy(wrong[:, None], 1e-9 * wrong[:, None], ("flux_njy",), ("nJy",))
    row = scores.accuracy_table(toy, QTable({"flux_njy": true * u.nJy}), count=50)[0]
    assert row["error_kind"] == "ln ratio"
    assert row["bias"] == pytest.approx(0.02, abs=0.003)
    assert row["scatter"] == pytest.approx(0.05, abs=0.003)
    assert row["beyond_5_sigma"] == 1


def test_empty_bins_and_unequal_lengths():
    toy, truth = gaussian_toy(count=50)
    table = scores.accuracy_table(toy, truth, [scores.Bins("snr", np.ones(50), (2, 3))], count=10)
    assert table["count"][1] == 0
    assert np.isnan(table["error_68"][1])
    with pytest.raises(InputError, match="49 true objects"):
        scores.accuracy_table(toy, truth[:49])
    with pytest.raises(InputError, match="values of snr"):
        scores.coverage_table(toy, truth, [scores.Bins("snr", np.ones(3), (2, 3))])


# --- bins ---------------------------------------------------------------------------------


def test_equal_bins_hold_every_object_once():
    values = np.random.default_rng(1).lognormal(size=23_000)
    values[:7] = np.nan
    bins = scores.equal_bins("radius", values, "arcsec", most=6, minimum=5000)
    members = np.array([inside for _, _, inside in bins])
    assert len(members) == 4
    assert (members.sum(0) == np.isfinite(values)).all()
    assert members.sum(1).min() >= 5000


def test_equal_bins_keep_equal_values_together():
    values = np.concatenate([np.zeros(600), np.linspace(0.1, 1, 400)])
    sizes = [int(inside.sum()) for _, _, inside in scores.equal_bins("B/T", values, most=4, minimum=10)]
    assert sum(sizes) == 1000
    assert sizes[0] >= 600
    assert [int(inside.sum()) for _, _, inside in scores.equal_bins("B/T", np.zeros(9), minimum=2)] == [9]


def test_predicted_bins_are_of_magnitude_radius_and_bulge():
    rng = np.random.default_rng(2)
    mean = np.stack([rng.uniform(0, 1, 300), rng.uniform(0.1, 2, 300), rng.uniform(1e3, 1e5, 300)], 1)
    names = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
    bins = scores.predicted_bins(names, mean, minimum=100)
    assert [b.name for b in bins] == [f"predicted {n}" for n in ("mag_ab", names[1], names[0])]
    expected = (mean[:, 2] * u.nJy).to_value(u.ABmag)
    assert bins[0].values == pytest.approx(expected, abs=1e-3)


# --- coverage -----------------------------------------------------------------------------


def test_an_exact_posterior_covers_what_it_claims():
    toy, truth = gaussian_toy()
    bins = scores.equal_bins("predicted e1", toy.mean[:, 0], most=3, minimum=5000)
    table = scores.coverage_table(toy, truth, [bins], levels=LEVELS)
    assert len(table) == 8
    assert table["passes"].all()
    assert np.abs(table["deviation"] / table["sigma"]).max() < 3.5
    overall = table[table["by"] == ""]
    assert overall["coverage"] == pytest.approx(LEVELS, abs=0.012)
    assert overall["sigma"][0] == pytest.approx(np.sqrt(0.682689 * 0.317311 / 20000))
    assert (table["coverage"] == table["coverage_closed"]).all()


@pytest.mark.parametrize("claimed", [0.8, 1.25])
def test_wrong_widths_fail_by_the_closed_form(claimed):
    toy, truth = gaussian_toy(claimed=claimed)
    table = scores.coverage_table(toy, truth, (), levels=LEVELS)
    expected = [1 - 2 * scipy.stats.norm.sf(claimed * scipy.stats.norm.ppf((1 + level) / 2)) for level in LEVELS]
    assert table["coverage"] == pytest.approx(expected, abs=0.012)
    assert not table["passes"][0]


def test_bins_of_the_truth_are_not_calibrated_even_for_an_exact_posterior():
    """Why bins are cut on predictions: the edge bins of the truth are covered too rarely."""
    toy, truth = gaussian_toy()
    true = np.asarray(truth["e1"])
    edge = scores.Bins("true e1", true, (np.quantile(true, 0.9), np.inf))
    row = scores.coverage_table(toy, truth, [edge], levels=LEVELS)[1]
    assert row["coverage"] < 0.6
    assert not row["passes"]


def point_mass_toy(count=8000, number=401, seed=9):
    """B/T that is 0 for a third of all objects; the exact posterior is a mass at 0 beside a uniform part."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(0, 0.7, count)
    true = np.where(rng.uniform(size=count) < mass, 0.0, rng.uniform(size=count))
    samples = np.where(rng.uniform(size=(number, count)) < mass, 0.0, rng.uniform(size=(number, count)))
    return true, samples, mass


@dataclasses.dataclass
class SampleToy:
    samples: np.ndarray
    names: tuple[str, ...] = ("bulge_to_total",)
    units: tuple[str, ...] = ("",)

    def quantile(self, p):
        return np.quantile(self.samples, p, axis=0)[:, :, None]


def test_ties_at_an_edge_are_shared_and_whole_closed_intervals_cover_more():
    true, samples, mass = point_mass_toy()
    table = scores.coverage_table(SampleToy(samples), QTable({"bulge_to_total": true}), (), levels=(0.68, 0.95))
    assert np.abs(table["deviation"] / table["sigma"]).max() < 3.5
    # in closed form a 68 % interval that starts inside the mass holds all of the mass
    closed = 0.84 - np.where(mass > 0.16, 0.0, 0.16)
    closed = np.where(mass > 0.84, mass, closed)
    assert table["coverage_closed"][0] == pytest.approx(closed.mean(), abs=0.015)
    assert table["coverage_closed"][0] > table["coverage"][0] + 0.1


def test_ties_are_shared_alike_from_samples_and_quantiles():
    true, samples, _ = point_mass_toy(count=2000)
    grid = np.linspace(0.005, 0.995, 199)
    from_samples = scores.place_among_samples(true, samples)
    from_quantiles = scores.place_among_quantiles(true, grid, np.quantile(samples, grid, axis=0))
    assert np.abs(from_samples - from_quantiles).max() < 0.01
    assert from_samples.mean() == pytest.approx(0.5, abs=0.02)


def test_coverage_from_few_samples_is_unbiased():
    """Five samples a posterior: quantiles of them would cover too little, exchangeable ranks do not."""
    rng = np.random.default_rng(11)
    centre = rng.normal(size=60_000)
    true, samples = centre + rng.normal(size=60_000), centre + rng.normal(size=(5, 60_000))
    place = scores.place_among_samples(true, samples)
    for level in LEVELS:
        assert scores.count_covered(place, level).mean() == pytest.approx(level, abs=0.006)


def test_ranks_agree_with_sbi():
    sbc = pytest.importorskip("sbi.diagnostics.sbc")
    rng = np.random.default_rng(12)
    true = rng.normal(size=(60, 2))
    samples = true + rng.normal(size=(60, 2)) + rng.normal(size=(200, 60, 2))
    samples[::7, :, 0] = true[:, 0]
    ranks = sbc._run_sbc(torch.tensor(true), torch.zeros(60, 1), torch.tensor(samples), show_progress_bar=False).numpy()
    for axis in range(2):
        below = scores.place_among_samples(true[:, axis], samples[:, :, axis])[0] * 201
        assert below == pytest.approx(ranks[:, axis])


def test_objects_without_numbers_are_left_out():
    toy, truth = gaussian_toy(count=5000)
    toy.mean[:100] = np.nan
    toy.names, truth = ("bulge_to_total",), QTable({"bulge_to_total": truth["e1"]})
    table = scores.coverage_table(toy, truth, levels=LEVELS)  # too few for more than one bin of 5,000
    assert table["by"].tolist() == ["", "predicted bulge_to_total"] * 2
    assert (table["count"] == 4900).all()
    assert np.isfinite(table["coverage"]).all()
    assert np.isnan(scores.place_among_samples([np.nan], [[0.0]])).all()
