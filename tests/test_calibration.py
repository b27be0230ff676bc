"""Calibration and recalibration against closed forms, scipy and sbi."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from galstress import scores
from galstress.errors import InputError
from galstress.scores.calibration import LEVELS, resampled_means

NORMAL = scipy.stats.norm
NAMES = ("e1", "e2", "bulge_to_total")


@dataclasses.dataclass
class World:
    """Prior N(0, 1), data = parameter + N(0, noise): the posterior is N(mean, sigma), and all three are independent."""

    true: np.ndarray
    data: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    rng: np.random.Generator

    def samples(self, number=200, width=1.0, bias=0.0):
        """Posteriors that claim ``width`` times the sigma, moved by ``bias`` sigma."""
        normal = self.rng.normal(size=(number, *self.true.shape))
        return self.mean + self.sigma * (bias + width * normal)


def world(count=4000, outputs=3, seed=1):
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(count, outputs))
    noise = 10 ** rng.uniform(-1.5, 0.3, (count, 1)) * np.linspace(0.3, 2, outputs)
    data = true + noise * rng.normal(size=true.shape)
    share = 1 / (1 + noise**2)
    return World(true, data, share * data, noise * np.sqrt(share), rng)


def mass_world(count=4000, number=300, seed=2):
    """B/T that is 0 for a third of all objects; the exact posterior is a mass at 0 beside a Gaussian part above."""
    rng = np.random.default_rng(seed)
    centre, sigma = rng.uniform(-0.1, 0.5, count), rng.uniform(0.05, 0.3, count)
    true, samples = (np.maximum(centre + sigma * rng.normal(size=(n, count)), 0) for n in (1, number))
    return true[0], samples


class Sbi:
    """A posterior of sbi's kind that returns given samples, so that sbi's public functions run on them."""

    def __init__(self, samples):
        self.kept = torch.tensor(samples)

    def sample_batched(self, shape, x, show_progress_bars=False):
        assert tuple(shape) == self.kept.shape[:1]
        assert len(x) == self.kept.shape[1]
        return self.kept


# --- ranks --------------------------------------------------------------------------------


def test_the_transform_of_an_exact_posterior_is_uniform_for_any_number_of_samples():
    toy = world(8000)
    for number in (1, 3, 200):
        place = scores.probability_integral_transform(toy.true, toy.samples(number), seed=4)
        assert place.shape == toy.true.shape
        assert scipy.stats.kstest(place.ravel(), "uniform").pvalue > 0.01


def test_ties_are_spread_over_their_bracket_and_one_end_of_it_would_not_be_uniform():
    true, samples = mass_world()
    assert 0.2 < np.mean(true == 0) < 0.5
    place = scores.probability_integral_transform(true, samples, seed=1)
    assert place.shape == true.shape
    assert scipy.stats.kstest(place, "uniform").pvalue > 0.01
    for end in scores.place_among_samples(true, samples):
        assert scipy.stats.kstest(np.clip(end, 0, 1), "uniform").pvalue < 1e-20
    row = scores.rank_uniformity(true, samples)[0]
    assert min(row["ks_p"], row["chi_square_p"]) > 0.01


def test_one_seed_gives_one_answer_and_objects_without_numbers_have_none():
    toy = world(50)
    samples = toy.samples(9)
    samples[3, 0, 1], toy.true[7, 2] = np.nan, np.nan
    place = [scores.probability_integral_transform(toy.true, samples, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(place[0], place[1], equal_nan=True)
    assert (place[0] != place[2]).sum() > 100
    assert np.argwhere(np.isnan(place[0])).tolist() == [[0, 1], [7, 2]]


def test_an_exact_posterior_has_uniform_ranks_also_in_bins_of_predicted_quantities():
    toy = world(6000)
    by = scores.equal_bins("predicted e1", toy.mean[:, 0], most=3, minimum=2000)
    table = scores.rank_uniformity(toy.true, toy.samples(), NAMES, [by])
    assert table["output"].tolist() == [name for name in NAMES for _ in range(4)]
    assert table["count"].tolist() == [6000, 2000, 2000, 2000] * 3
    assert (table["histogram"].sum(1) == table["count"]).all()
    assert table["ks_p"].min() > 0.002
    assert table["chi_square_p"].min() > 0.002
    edge = scores.Bins("true e1", toy.true[:, 0], (1.0, np.inf))
    assert scores.rank_uniformity(toy.true, toy.samples(), NAMES, [edge])["ks_p"][1] < 1e-6  # why not on the truth


@pytest.mark.parametrize("width", [0.7, 1.4])
def test_wrong_widths_fail_by_their_closed_form(width):
    toy = world()
    for row in scores.rank_uniformity(toy.true, toy.samples(999, width=width)):
        assert max(row["ks_p"], row["chi_square_p"]) < 1e-4
        # Var of Phi(z / width) = arcsin(1 / (1 + width^2)) / 2 pi
        expected = np.sqrt(12 * np.arcsin(1 / (1 + width**2)) / (2 * np.pi))
        assert (expected > 1) == (width < 1)
        assert row["spread"] == pytest.approx(expected, abs=0.025)
        assert row["mean"] == pytest.approx(0.5, abs=0.025)


@pytest.mark.parametrize("bias", [-0.3, 0.3])
def test_bias_fails_with_its_sign(bias):
    toy = world()
    for row in scores.rank_uniformity(toy.true, toy.samples(999, bias=bias)):
        assert max(row["ks_p"], row["chi_square_p"]) < 1e-4
        assert row["mean"] == pytest.approx(NORMAL.cdf(-bias / np.sqrt(2)), abs=0.02)  # predicted too high: low ranks


def test_chi_square_is_scipy_s_and_needs_five_objects_a_bin():
    toy = world(150, outputs=1)
    samples = toy.samples()
    row = scores.rank_uniformity(toy.true, samples, bins=10)[0]
    judge = scipy.stats.chisquare(row["histogram"])
    assert (row["chi_square"], row["chi_square_p"]) == pytest.approx(tuple(judge))
    few = scores.rank_uniformity(toy.true, samples, bins=31)[0]
    assert np.isnan(few["chi_square_p"])
    assert np.isfinite(few["chi_square"])
    assert few["ks_p"] == row["ks_p"]
    empty = scores.rank_uniformity(np.full((4, 1), np.nan), samples[:, :4])[0]
    assert empty["count"] == 0
    assert np.isnan(empty["ks_p"])


def test_ranks_and_their_uniformity_agree_with_sbi():
    diagnostics = pytest.importorskip("sbi.diagnostics")
    from sbi.diagnostics.sbc import check_uniformity_frequentist

    toy = world(400, seed=5)
    for width in (1.0, 0.8):
        samples = toy.samples(999, width=width)
        ranks, _ = diagnostics.run_sbc(
            torch.tensor(toy.true), torch.tensor(toy.data), Sbi(samples), 999, show_progress_bar=False
        )
        ours = np.floor(scores.probability_integral_transform(toy.true, samples) * 1000)
        assert np.array_equal(ours, ranks.numpy())
        table = scores.rank_uniformity(toy.true, samples)
        judge = check_uniformity_frequentist(ranks, 999).numpy()
        assert np.asarray(table["ks_p"]) == pytest.approx(judge, rel=0.1, abs=1e-3)


# --- coverage -----------------------------------------------------------------------------


def test_an_exact_posterior_covers_every_level_and_the_band_is_binomial():
    toy = world(6000)
    by = scores.equal_bins("predicted e1", toy.mean[:, 0], most=2, minimum=3000)
    table = scores.coverage_curve(toy.true, toy.samples(), names=NAMES, by=[by], count=400)
    assert {0.68, 0.95, 0.997} < set(LEVELS)
    assert list(LEVELS) == sorted(set(LEVELS))
    assert len(table) == 3 * 3 * len(LEVELS)
    assert np.abs(table["deviation"] / table["sigma"]).max() < 4
    width = (table["coverage_high"] - table["coverage_low"]) / (2 * 1.96 * table["sigma"])
    assert np.median(width) == pytest.approx(1, abs=0.05)
    within = (table["coverage_low"] <= table["level"]) & (table["level"] <= table["coverage_high"])
    assert within.mean() > 0.8


@pytest.mark.parametrize(("width", "bias"), [(0.7, 0.0), (1.4, 0.0), (1.0, 0.8)])
def test_wrong_posteriors_cover_what_the_closed_form_says(width, bias):
    toy = world(6000)
    table = scores.coverage_curve(toy.true, toy.samples(999, width, bias), (0.68, 0.95, 0.997))
    z = NORMAL.ppf((1 + np.asarray(table["level"])) / 2)
    expected = NORMAL.cdf(bias + width * z) - NORMAL.cdf(bias - width * z)
    assert np.asarray(table["coverage"]) == pytest.approx(expected, abs=0.02)
    first = table[table["level"] == 0.68]
    assert ((first["coverage_low"] > 0.68) if width > 1 else (first["coverage_high"] < 0.68)).all()


def test_rare_levels_are_unbiased_from_few_samples_and_ties_are_shared():
    toy = world(20_000, outputs=1)
    table = scores.coverage_curve(toy.true, toy.samples(20), (0.68, 0.997), count=20)
    assert np.abs(table["deviation"] / table["sigma"]).max() < 3.5
    true, samples = mass_world(8000)
    table = scores.coverage_curve(true, samples, (0.5, 0.68, 0.95), count=20)
    assert np.abs(table["deviation"] / table["sigma"]).max() < 3.5


def test_objects_without_numbers_are_left_out_and_none_gives_no_number():
    toy = world(500)
    toy.true[:40, 1] = np.nan
    table = scores.coverage_curve(toy.true, toy.samples(50), (0.68,), count=50)
    assert table["count"].tolist() == [500, 460, 500]
    assert np.isfinite(table["coverage_low"]).all()
    toy.true[:, 1] = np.nan
    assert np.isnan(scores.coverage_curve(toy.true, toy.samples(50), (0.68,), count=50)["coverage"][1])


def test_the_band_is_the_bootstrap_of_the_mean():
    values = np.random.default_rng(3).gamma(1.0, size=(300, 2))
    ours = np.array(resampled_means(values, 1, 4000, 0.95))
    for column in range(2):
        judge = scores.bootstrap(lambda x: x.mean(-1), values[:, column], seed=2, count=4000, level=0.95)
        assert ours[:, column] == pytest.approx([judge.low, judge.high], rel=0.01)


# --- TARP ---------------------------------------------------------------------------------


def test_tarp_is_sbi_s_on_the_same_references():
    diagnostics = pytest.importorskip("sbi.diagnostics")
    toy = world(900, seed=6)
    number = 120
    for width in (1.0, 0.7, 1.4):
        samples = toy.samples(number, width)
        references = toy.data + toy.rng.normal(size=toy.data.shape)
        as_tensors = [torch.tensor(array) for array in (toy.true, toy.data, references)]
        ecp, alpha = (
            tensor.numpy().astype(float)
            for tensor in diagnostics.run_tarp(
                as_tensors[0], as_tensors[1], Sbi(samples), as_tensors[2], number, show_progress_bar=False, num_bins=37
            )
        )
        # sbi counts k / n < alpha, we (k + U) / (n + 1) < level: the same objects at level = (number of k) / (n + 1).
        levels = np.searchsorted(np.arange(number + 1) / number, alpha[1:-1] - 1e-6) / (number + 1)
        ours = scores.tarp(toy.true, samples, references, scale=np.ptp(toy.true, axis=0) + 1e-10, levels=levels)
        assert ours.coverage == pytest.approx(ecp[1:-1], abs=1e-6)
        area, _ = diagnostics.check_tarp(torch.tensor(ecp), torch.tensor(alpha))
        assert ours.area == pytest.approx(area, abs=0.004)
        assert np.sign(ours.area) == np.sign(1 - 1 / width) or width == 1
        assert (ours.ks_p > 0.01) == (width == 1)


def test_the_area_is_the_integral_of_the_curve_and_the_band_holds_the_curve():
    toy = world(1500, seed=7)
    curve = scores.tarp(toy.true, toy.samples(), levels=np.linspace(0, 1, 2001))
    upper = curve.levels >= 0.5
    integral = np.trapezoid((curve.coverage - curve.levels)[upper], curve.levels[upper])
    assert curve.area == pytest.approx(integral, abs=1e-4)
    assert ((curve.low <= curve.coverage) & (curve.coverage <= curve.high)).all()
    half = np.argmin(np.abs(curve.levels - 0.5))
    assert curve.high[half] - curve.low[half] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(1500), rel=0.15)
    assert curve.deviation == np.abs(curve.coverage - curve.levels).max()


@pytest.mark.parametrize("width", [0.8, 1.0, 1.25])
def test_regions_about_the_centre_cover_what_the_chi_square_distribution_says(width):
    toy = world(4000, outputs=5)
    curve = scores.tarp(toy.true, toy.samples(500, width), toy.mean, scale=toy.sigma)
    expected = scipy.stats.chi2.cdf(width**2 * scipy.stats.chi2.ppf(curve.levels, 5), 5)
    assert curve.coverage == pytest.approx(expected, abs=0.027)
    assert (curve.deviation < 0.027) == (width == 1)


def test_default_references_pass_the_exact_posterior_also_from_few_samples_of_many_outputs():
    """References from the ranked samples themselves would be nearer to these than to the truth."""
    toy = world(20_000, outputs=10)
    samples = toy.samples(25)
    assert scores.tarp(toy.true, samples).deviation < 1.63 / np.sqrt(20_000)
    median = np.median(samples, 0)
    assert scores.tarp(toy.true, samples, median, scale=toy.sigma).deviation > 0.03


@pytest.mark.parametrize(("width", "bias"), [(0.85, 0.0), (1.15, 0.0), (1.0, 0.5)])
def test_default_references_fail_wrong_posteriors_with_the_right_sign(width, bias):
    toy = world(5000, outputs=5)
    curve = scores.tarp(toy.true, toy.samples(150, width, bias))
    assert curve.ks_p < 1e-3
    assert curve.deviation > 0.02
    assert np.sign(curve.area) == (1 if width > 1 else -1)
    upper = (curve.levels > 0.55) & (curve.levels < 0.9)
    assert ((curve.low > curve.levels) if width > 1 else (curve.high < curve.levels))[upper].all()


def test_default_references_see_posteriors_drawn_to_the_prior_where_the_centre_alone_does_not():
    toy = world(4000, outputs=5)
    shift = 0.12 * toy.sigma * np.sign(toy.mean)
    samples = toy.samples(150) - shift
    assert scores.tarp(toy.true, samples).ks_p < 1e-6
    assert scores.tarp(toy.true, samples, toy.mean - shift, scale=toy.sigma).ks_p > 0.01


def test_own_widths_see_one_narrow_output_that_the_spread_over_objects_hides():
    toy = world(4000, outputs=5)
    samples = toy.samples(150, width=np.array([0.6, 1, 1, 1, 1]))
    assert scores.tarp(toy.true, samples).ks_p < 1e-6
    assert scores.tarp(toy.true, samples, scale=toy.true.std(0)).ks_p > 1e-3


def test_only_references_from_the_data_see_a_posterior_that_ignores_the_data():
    toy = world(4000)
    prior = toy.rng.normal(size=(150, *toy.true.shape))
    assert scores.tarp(toy.true, prior).ks_p > 0.01
    measured = toy.data + 0.3 * toy.rng.normal(size=toy.data.shape)
    assert scores.tarp(toy.true, prior, measured).ks_p < 1e-20
    assert scores.tarp(toy.true, toy.samples(150), measured).ks_p > 0.01


def test_tarp_spreads_ties_and_leaves_out_objects_without_numbers():
    true, samples = mass_world()
    curve = scores.tarp(true, samples, np.zeros_like(true), scale=1.0)
    assert curve.ks_p > 0.01
    assert scores.tarp(true, samples).ks_p > 0.01  # where all held-out samples are 0 there is no width
    true[:5], samples[0, 5:9] = np.nan, np.inf
    assert scores.tarp(true, samples).count == len(true) - 9


def test_input_that_does_not_fit_is_refused():
    toy = world(30)
    samples = toy.samples(40)
    for score in (scores.probability_integral_transform, scores.rank_uniformity, scores.coverage_curve, scores.tarp):
        with pytest.raises(InputError, match=r"samples \(40, 29, 3\)"):
            score(toy.true, samples[:, :29])
    with pytest.raises(InputError, match="2 names"):
        scores.coverage_curve(toy.true, samples, names=("a", "b"))
    with pytest.raises(InputError, match="bins=1"):
        scores.rank_uniformity(toy.true, samples, bins=1)
    with pytest.raises(InputError, match="values of snr"):
        scores.rank_uniformity(toy.true, samples, by=[scores.Bins("snr", np.ones(3), (0, 2))])
    with pytest.raises(InputError, match="one point an object"):
        scores.tarp(toy.true, samples, toy.true[:5])
    with pytest.raises(InputError, match="19 samples"):
        scores.tarp(toy.true, samples[:19])
    with pytest.raises(InputError, match="scale from 0"):
        scores.tarp(toy.true, samples, toy.data, scale=[1, 0, 1])
    with pytest.raises(InputError, match="no object"):
        scores.tarp(toy.true * np.nan, samples)


# --- temperature --------------------------------------------------------------------------


def test_the_temperature_of_gaussians_is_the_ratio_of_widths_and_restores_every_level():
    toy = world()
    widths = np.array([0.5, 1.0, 1.6])
    factors = scores.fit_temperature(toy.true, toy.samples(width=widths))
    assert factors == pytest.approx(1 / widths, rel=0.06)
    fresh = world(seed=8)
    stretched = scores.apply_temperature(fresh.samples(width=widths), factors)
    table = scores.coverage_curve(fresh.true, stretched, (0.68, 0.95))
    assert np.abs(table["deviation"]).max() < 0.03
    assert scores.rank_uniformity(fresh.true, stretched)["ks_p"].min() > 1e-3
    assert scores.fit_temperature(toy.true, scores.apply_temperature(toy.samples(width=widths), factors)) == (
        pytest.approx(np.ones(3), rel=0.05)
    )


def test_labels_with_errors_widen_the_posterior_by_those_errors():
    """What fitting to labels means: the stretched posterior holds the labels and is too wide for the truth."""
    toy = world()
    samples = toy.samples()
    labels = toy.true + toy.sigma * toy.rng.normal(size=toy.true.shape)
    factors = scores.fit_temperature(labels, samples)
    assert factors == pytest.approx(np.full(3, np.sqrt(2)), rel=0.05)
    stretched = scores.apply_temperature(samples, factors)
    assert scores.coverage_curve(toy.true, stretched, (0.68,))["coverage_low"].min() > 0.8


def test_stretching_keeps_medians_edges_and_ranks():
    _, samples = mass_world(200, 301)
    for factor in (0.5, 3.0):
        stretched = scores.apply_temperature(samples[..., None], factor, low=0.0, high=1.0)[..., 0]
        assert np.median(stretched, 0) == pytest.approx(np.median(samples, 0))
        assert (stretched[samples == 0] == 0).all()
        assert stretched.min() >= 0
        assert (np.diff(np.take_along_axis(stretched, samples.argsort(0), 0), axis=0) >= 0).all()


def test_a_calibrated_posterior_with_a_mass_at_the_edge_is_left_alone():
    true, samples = mass_world()
    factor = scores.fit_temperature(true[:, None], samples[..., None], low=0.0, high=1.0)
    assert factor == pytest.approx(1, abs=0.06)
    narrow = scores.apply_temperature(samples[..., None], 0.6, low=0.0, high=1.0)
    factor = scores.fit_temperature(true[:, None], narrow, low=0.0, high=1.0)
    stretched = scores.apply_temperature(narrow, factor, low=0.0, high=1.0)
    assert factor > 1.2
    assert scores.coverage_curve(true[:, None], stretched, (0.68,))["coverage"][0] == pytest.approx(0.68, abs=0.002)


def test_outputs_without_labels_have_no_factor_and_hopeless_labels_are_refused():
    toy = world(300)
    samples = toy.samples(50)
    toy.true[:, 1] = np.nan
    factors = scores.fit_temperature(toy.true, samples)
    assert np.isfinite(factors).tolist() == [True, False, True]
    toy.true[:19, 1] = 0.0
    with pytest.raises(InputError, match="19 labels of output 1"):
        scores.fit_temperature(toy.true, samples)
    with pytest.raises(InputError, match="look at the bias"):
        scores.fit_temperature(toy.mean + 1e4, samples)


# --- conformal ----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "level"), [(40, 0.68), (57, 0.9)])
def test_conformal_coverage_over_300_splits_follows_its_exact_beta_distribution(number, level):
    """Labels N(0, 1) and intervals of no width: a margin m holds a new label with probability 2 Phi(m) - 1."""
    rng = np.random.default_rng(4)
    margins = [scores.fit_conformal(label, 0 * label, 0 * label, level) for label in rng.normal(size=(300, number))]
    coverage = 2 * NORMAL.cdf(margins) - 1
    k = int(np.ceil((number + 1) * level))
    judge = scipy.stats.beta(k, number + 1 - k)
    assert scipy.stats.kstest(coverage, judge.cdf).pvalue > 0.01
    assert coverage.mean() == pytest.approx(k / (number + 1), abs=3.5 * judge.std() / np.sqrt(300))
    assert k / (number + 1) >= level


def test_conformal_intervals_hold_new_labels_whatever_the_posterior():
    toy = world(4000, seed=9)
    truth = toy.true + 0.5 * toy.sigma**2  # biased by an amount that differs from object to object
    low, high = np.quantile(toy.samples(width=0.5), [0.16, 0.84], axis=0)
    covered = []
    for seed in range(300):
        order = np.random.default_rng(seed).permutation(4000)
        fit, new = order[:200], order[200:]
        margin = scores.fit_conformal(truth[fit], low[fit], high[fit], 0.68)
        bottom, top = scores.conformal_interval(low[new], high[new], margin)
        covered.append(((bottom <= truth[new]) & (truth[new] <= top)).mean(0))
    assert margin.shape == (3,)
    judge = scipy.stats.beta(137, 64)  # ceil(201 x 0.68) = 137
    assert np.mean(covered, axis=0) == pytest.approx(np.full(3, 137 / 201), abs=4 * judge.std() / np.sqrt(300))
    inside = (judge.ppf(0.025) - 0.01 < covered) & (covered < judge.ppf(0.975) + 0.01)
    assert inside.mean() > 0.93


@pytest.mark.parametrize(("level", "needed"), [(0.68, 3), (0.9, 9), (0.95, 19), (0.997, 333)])
def test_too_few_objects_for_the_level_are_refused(level, needed):
    label = np.arange(needed, dtype=float)
    assert scores.fit_conformal(label, 0 * label, 0 * label, level) == label[int(np.ceil((needed + 1) * level)) - 1]
    with pytest.raises(InputError, match=f"{needed} or more"):
        scores.fit_conformal(label[1:], 0 * label[1:], 0 * label[1:], level)
    label[0] = np.nan
    with pytest.raises(InputError, match=f"{needed - 1} labelled"):
        scores.fit_conformal(label, np.zeros(needed), np.zeros(needed), level)


def test_the_conformal_place_is_not_off_by_rounding():
    label = np.arange(1.0, 100)
    assert 100 * 0.55 > 55
    assert scores.fit_conformal(label, 0 * label, 0 * label, 0.55) == 55


def test_intervals_that_were_too_wide_shrink_and_never_cross():
    toy = world(2000, outputs=1)
    low, high = toy.mean - 4 * toy.sigma, toy.mean + 4 * toy.sigma
    margin = scores.fit_conformal(toy.true, low, high, 0.68)
    bottom, top = scores.conformal_interval(low, high, margin)
    assert margin < 0
    assert (bottom <= top).all()
    assert ((bottom <= toy.true) & (toy.true <= top)).mean() == pytest.approx(0.68, abs=0.002)


def test_margins_by_bins_hold_in_every_bin_and_one_margin_does_not():
    toy, fresh = world(6000, outputs=2, seed=10), world(6000, outputs=2, seed=11)
    edges = np.quantile(toy.sigma[:, 0], [0, 0.5, 1])
    edges[[0, -1]] = 0, np.inf

    def held(margins):
        bottom, top = scores.conformal_interval(fresh.mean, fresh.mean, margins)
        inside = (bottom <= fresh.true) & (fresh.true <= top)
        return np.array([inside[rows].mean(0) for _, _, rows in scores.Bins("sigma", fresh.sigma[:, 0], edges)])

    bins = scores.Bins("sigma", toy.sigma[:, 0], edges)
    margins = scores.fit_conformal_bins(toy.true, toy.mean, toy.mean, 0.68, bins)
    assert margins.shape == (2, 2)
    assert held(scores.margins_in_bins(margins, scores.Bins("sigma", fresh.sigma[:, 0], edges))) == pytest.approx(
        np.full((2, 2), 0.68), abs=0.035
    )
    assert np.ptp(held(scores.fit_conformal(toy.true, toy.mean, toy.mean, 0.68)), axis=0).min() > 0.3


def test_conformal_input_that_does_not_fit_is_refused():
    ones = np.ones(30)
    with pytest.raises(InputError, match="level=1"):
        scores.fit_conformal(ones, ones, ones, 1.0)
    with pytest.raises(InputError, match="one shape"):
        scores.fit_conformal(ones, ones, ones[1:], 0.68)
    with pytest.raises(InputError, match="values of size"):
        scores.fit_conformal_bins(ones, ones, ones, 0.68, scores.Bins("size", ones[1:], (0, 2)))
