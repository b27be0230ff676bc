"""refine, fit and limit against the truth, against each other, and with input that is broken."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from astropy.table import QTable
from scipy import optimize, stats

from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import Galaxies, galaxies_from_table, half_light_radius
from galstress.heads import INTERNAL_NAMES, Prediction, Reference, from_internal, to_internal
from galstress.likelihood import Likelihood
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import PopulationPrior, exact, fit, limit, refine
from galstress.refinement.coordinates import from_natural, to_natural
from galstress.refinement.fit import measure_moments
from galstress.refinement.fitting import climb, relative_to
from galstress.refinement.priors import SHARE
from galstress.simulation import simulate
from galstress.survey import Survey

SURVEY = Survey.load("hsc-wide-i")
COSMOS = PopulationPrior((("cosmos", 1.0),))
AT = {name: place for place, name in enumerate(INTERNAL_NAMES)}


# ---- climbing ------------------------------------------------------------------------------------------------------


def test_climb_reaches_the_maximum_that_scipy_finds() -> None:
    cutouts, truth, reference = bright_galaxies(2)
    likelihood = Likelihood.of(cutouts, sky_sigma=exact.SKY_SIGMA)
    normal = COSMOS.stand_ins(SURVEY)[0]
    start = to_natural(to_internal(truth, reference))
    start[:, SHARE] = start[:, SHARE].clamp(-3, 3)
    start[:, AT["ln_flux"]] += 0.2
    start[:, AT["x"]] += 0.4
    found = climb(likelihood, start.clone(), reference, normal, 40)
    centre, precision = relative_to(normal, reference)
    root = torch.linalg.cholesky(precision)
    for row in range(2):
        part, own = likelihood.select(slice(row, row + 1)), reference.select(slice(row, row + 1))
        sky = part.sky[0].flatten().numpy()
        shrink = (1 - math.sqrt(1 - float((sky**2).sum()) / float(part.sky_precision[0]))) / float((sky**2).sum())

        def misfits(point: np.ndarray, part=part, own=own, row=row, sky=sky, shrink=shrink) -> np.ndarray:
            natural = torch.as_tensor(point)[None]
            galaxies, _ = from_internal(from_natural(natural)[0], own)
            residuals = part.residuals(galaxies)[0].flatten().numpy()
            prior = ((natural - centre[row]) @ root)[0].numpy()
            return np.concatenate([residuals - shrink * (residuals @ sky) * sky, prior])

        best = optimize.least_squares(
            misfits,
            found.natural[row].numpy(),
            x_scale=1 / np.sqrt(found.precision[row].diagonal().numpy()),
            max_nfev=15,
        )
        ours = float((misfits(found.natural[row].numpy()) ** 2).sum() / 2)
        assert ours - best.cost < 0.1
        assert float((misfits(start[row].numpy()) ** 2).sum() / 2) - best.cost > 3
        # and the value is what it says: log-likelihood plus the normal prior's log-density
        galaxies, _ = from_internal(from_natural(found.natural[row : row + 1])[0], own)
        prior = stats.multivariate_normal(centre[row].numpy(), np.linalg.inv(precision.numpy()))
        expected = float(part.log_prob(galaxies)[0]) + prior.logpdf(found.natural[row].numpy())
        assert float(found.ln_prob[row]) == pytest.approx(expected, abs=1e-3)


def test_moments_start_near_the_galaxy() -> None:
    cutouts, truth, _ = bright_galaxies(12)
    mask = cutouts.mask.clone()
    mask[:, 23:26, 26:29] = True
    images = torch.where(mask, math.nan, cutouts.images)
    for seen in (cutouts, dataclasses.replace(cutouts, mask=mask, images=images)):
        reference, shape = measure_moments(seen)
        assert float((shape[:, 0] + 23.5 - truth.x).abs().max()) < 1
        assert float((shape[:, 1] + 23.5 - truth.y).abs().max()) < 1
        ratio = reference.flux * reference.sky_rms / truth.flux
        assert float(torch.log(ratio).abs().max()) < 0.8
        assert float(torch.log(reference.size_px / half_light_radius(truth)).abs().max()) < 1.2


# ---- end to end ----------------------------------------------------------------------------------------------------

WIDTHS = {"x": 0.3, "y": 0.3, "ln_flux": 0.1, "logit_bulge_to_total": 0.7, "ln_radius": 0.12, "e1": 0.08, "e2": 0.08}
WIDTHS |= {"ln_radius_ratio": 0.4, "ln_disk_index": 0.15, "ln_bulge_index": 0.3}
WIDTHS |= {"e1_difference": 0.12, "e2_difference": 0.12}
WHOLE = ("half_light_radius_arcsec", "flux_njy", "e1", "e2", "x_px", "y_px")


@functools.cache
def bright_galaxies(count: int) -> tuple[Cutouts, Galaxies, Reference]:
    """Galaxies of the population whose *measured* aperture S/N is above 40: a cut that the posterior knows of."""
    cutouts = simulate(SURVEY, 400, seed=5, stamp_px=48)
    y, x = np.mgrid[:48, :48] - 23.5
    inside = torch.as_tensor(x**2 + y**2 < 49)
    snr = (cutouts.images * inside).sum((1, 2)) / (cutouts.variance * inside).sum((1, 2)).sqrt()
    cutouts = cutouts.select(np.flatnonzero(snr.numpy() > 40)[:count])
    truth = galaxies_from_table(cutouts.truth, SURVEY.pixel_scale_arcsec, SURVEY.unit_njy)
    one = torch.ones(count, dtype=torch.float64)
    return cutouts, truth, Reference(100 * one, 4 * one, (23.5, 23.5), cutouts.sky_rms.double())


def by_hand(cutouts: Cutouts, scale: float, seed: int) -> Prediction:
    """Gaussians about the truth, off by as much as they say."""
    truth = galaxies_from_table(cutouts.truth, SURVEY.pixel_scale_arcsec, SURVEY.unit_njy)
    one = torch.ones(len(cutouts))
    reference = Reference(100 * one, 4 * one, (23.5, 23.5), cutouts.sky_rms)
    internal = to_internal(
        truth, Reference(100 * one.double(), 4 * one.double(), (23.5, 23.5), cutouts.sky_rms.double())
    )
    sigma = scale * torch.tensor([WIDTHS[name] for name in INTERNAL_NAMES], dtype=torch.float64)
    noise = torch.randn(internal.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = torch.diag(sigma**2).expand(len(cutouts), 12, 12).clone()
    return Prediction(
        internal + sigma * noise,
        covariance,
        reference,
        cutouts.object_id,
        cutouts.flags,
        SURVEY,
        "by hand",
        prior={"cosmos": 1.0},
    )


@functools.cache
def refined(count: int, scale: float, seed: int) -> Prediction:
    """The first bright galaxies refined from a proposal of some width."""
    cutouts = bright_galaxies(24)[0].select(slice(0, count))
    return refine(by_hand(cutouts, scale, seed), cutouts, seed=seed)


def truth_values(cutouts: Cutouts, names: tuple[str, ...]) -> np.ndarray:
    """(N, D) true outputs."""
    return np.stack([np.asarray(cutouts.truth[name], float) for name in names], 1)


def columns(prediction: Prediction, names: tuple[str, ...]) -> list[int]:
    """Where outputs stand."""
    return [prediction.names.index(name) for name in names]


def assert_same_posterior(first: Prediction, second: Prediction, names: tuple[str, ...] = WHOLE) -> None:
    """Means agree within Monte Carlo error, and so does the evidence."""
    at = columns(first, names)
    spread = np.sqrt(1 / first.effective_samples + 1 / second.effective_samples)[:, None]
    sigma = np.sqrt((first.std[:, at] ** 2 + second.std[:, at] ** 2) / 2)
    off = (first.mean - second.mean)[:, at] / sigma / spread
    assert np.sqrt(np.mean(off**2)) < 1.5, off
    assert np.abs(off).max() < 5.5, off
    ratio = first.std[:, at] / second.std[:, at]
    assert np.median(ratio) == pytest.approx(1, abs=0.08)
    apart = (first.ln_evidence - second.ln_evidence) / spread[:, 0]
    assert np.abs(apart).max() < 5, apart


def test_refined_posteriors_hold_the_truth_and_narrow_the_proposal() -> None:
    cutouts, proposal, found = bright_galaxies(24)[0], by_hand(bright_galaxies(24)[0], 1.0, 1), refined(24, 1.0, 1)
    assert list(found.object_id) == list(cutouts.object_id)
    assert found.draws is not None
    assert found.draws.shape[0] == 24
    at = columns(found, WHOLE)
    pulls = (found.mean[:, at] - truth_values(cutouts, WHOLE)) / found.std[:, at]
    assert 0.8 < np.sqrt(np.mean(pulls**2)) < 1.2, np.sqrt(np.mean(pulls**2, 0))
    # places of the truth among the draws, for outputs that are far from normal, too
    names = (*WHOLE, "bulge_to_total", "disk_sersic_index", "bulge_sersic_index")
    drawn = found.sample(512, 3)[..., columns(found, names)]
    chance = np.random.default_rng(1).uniform(size=drawn.shape)
    below = (drawn + 1e-9 * chance < truth_values(cutouts, names) + 5e-10).mean(0)
    assert stats.kstest(below.ravel(), "uniform").pvalue > 1e-3
    narrower = found.std[:, at] / proposal.std[:, at]
    assert np.mean(narrower < 1) > 0.95
    assert np.median(narrower) < 0.5
    # the picture is described to within its noise
    freedom = 48 * 48 - 12
    assert found.chi_square.mean() == pytest.approx(1, abs=4 * math.sqrt(2 / freedom / 24))
    assert not (found.flags & int(Flag.BAD_FIT)).any()
    few = found.effective_samples < 100
    np.testing.assert_array_equal((found.flags & int(Flag.FEW_SAMPLES)) > 0, few)
    assert few.mean() < 0.2


def test_the_answer_does_not_depend_on_the_proposal() -> None:
    first, second = refined(24, 1.0, 1).select(slice(0, 12)), refined(12, 2.0, 7)
    sure = (first.effective_samples > 80) & (second.effective_samples > 80)
    assert sure.sum() >= 8
    assert_same_posterior(first.select(sure), second.select(sure))


def test_fit_finds_what_refine_does_under_the_same_prior() -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 6))
    found, other = fit(cutouts, "cosmos", seed=2), refined(24, 1.0, 1).select(slice(0, 6))
    sure = (found.effective_samples > 80) & (other.effective_samples > 80)
    assert sure.sum() >= 4
    assert_same_posterior(found.select(sure), other.select(sure))


def test_limit_is_the_width_of_that_posterior() -> None:
    cutouts, other = bright_galaxies(24)[0].select(slice(0, 6)), refined(24, 1.0, 1).select(slice(0, 6))
    table = limit(cutouts, "bayes", seed=3)
    found = np.stack([np.asarray(table[name], float) for name in WHOLE], 1)
    ratio = found / other.std[:, columns(other, WHOLE)]
    assert np.median(ratio) == pytest.approx(1, abs=0.08)
    assert np.abs(np.log(ratio)).max() < 0.5
    assert (np.asarray(table["effective_samples"]) > 20).all()
    # a prior only helps: no output has a larger error than without one, but for what the draws scatter
    free = limit(cutouts, "cramer-rao", sky_sigma=exact.SKY_SIGMA)
    mixed = (truth_values(cutouts, ("bulge_to_total",))[:, 0] > 0.02) & (
        truth_values(cutouts, ("bulge_to_total",))[:, 0] < 0.98
    )
    for name in ("flux_njy", "half_light_radius_arcsec", "disk_sersic_index"):
        assert (np.asarray(table[name], float) < 1.3 * np.asarray(free[name], float))[mixed].all(), name


def test_one_seed_one_answer_and_blocks_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 3))
    proposal, sizes, inner = by_hand(cutouts, 1.0, 1), [], exact._sample_block

    def counted(block: Cutouts, *rest: object) -> object:
        sizes.append(len(block))
        return inner(block, *rest)

    monkeypatch.setattr(exact, "_sample_block", counted)
    monkeypatch.setattr(exact, "_BLOCK", 2)
    first, again, other = (refine(proposal, cutouts, seed=seed) for seed in (4, 4, 5))
    assert sizes == 3 * [2, 1]
    torch.testing.assert_close(first.draws, again.draws, rtol=0, atol=0)
    assert not torch.equal(first.draws, other.draws)
    together = refined(24, 1.0, 1).select(slice(0, 3))
    sure = (first.effective_samples > 80) & (together.effective_samples > 80)
    assert_same_posterior(first.select(sure), together.select(sure))


def test_more_effective_samples_for_more_time() -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 6))
    few, many = (refine(by_hand(cutouts, 1.0, 1), cutouts, seed=3, effective=number) for number in (30, 400))
    assert np.median(few.effective_samples) < 150
    assert np.mean(many.effective_samples >= 400) >= 0.5
    assert_same_posterior(few, many)


def test_one_component_of_middling_index_may_be_either() -> None:
    # what the maximum of mixed galaxies says of B/T must not leave out pure disks or pure bulges
    table = QTable(simulate("hsc-wide-i", 1, seed=2, stamp_px=64).truth)
    numbers = {"bulge_to_total": 1.0, "disk_flux_njy": 0.0, "bulge_sersic_index": 2.0, "bulge_axis_ratio": 0.7}
    numbers |= {"flux_njy": 40_000.0, "bulge_flux_njy": 40_000.0, "bulge_half_light_radius_arcsec": 0.8}
    numbers |= {"half_light_radius_arcsec": 0.67, "disk_axis_ratio": 0.7, "disk_half_light_radius_arcsec": 1.0}
    for name, value in numbers.items():
        table[name][:] = value * (table[name].unit or 1)
    cutouts = simulate("hsc-wide-i", seed=3, galaxies=table, stamp_px=64)
    proposal = predict(Network.load("foveal"), cutouts)
    share = refine(proposal, cutouts, prior="cosmos", seed=1).sample(400, 1)[:, 0, 0]
    assert (share == 1).mean() > 0.02
    assert (share == 0).mean() > 0.02


def test_bad_objects_keep_their_place_beside_good_ones() -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 4))
    mask, images, flags = cutouts.mask.clone(), cutouts.images.clone(), cutouts.flags.copy()
    mask[1], images[1], flags[1] = True, math.nan, int(Flag.ALL_MASKED)
    images[2, 30, 12] = math.nan
    catalogue = cutouts.catalogue.copy()
    catalogue["flags"] = flags
    broken = dataclasses.replace(cutouts, mask=mask, images=images, catalogue=catalogue)
    proposal = dataclasses.replace(by_hand(cutouts, 1.0, 1), flags=flags)
    proposal.internal_mean[1], proposal.internal_covariance[1] = math.nan, math.nan
    usual = refined(24, 1.0, 1).select([0, 2, 3])
    for found in (refine(proposal, broken, seed=6), fit(broken, "cosmos", seed=6)):
        assert list(found.object_id) == list(cutouts.object_id)
        assert np.isnan(found.mean[1]).all()
        assert np.isnan(found.std[1]).all()
        assert np.isnan(found.chi_square[1])
        assert found.flags[1] & int(Flag.ALL_MASKED)
        good = found.select([0, 2, 3])
        assert np.isfinite(good.mean).all()
        assert np.isfinite(good.ln_evidence).all()
        shift = (good.mean - usual.mean)[:, columns(usual, WHOLE)] / usual.std[:, columns(usual, WHOLE)]
        assert np.abs(shift).max() < 0.7


def test_refine_sees_for_itself_that_nothing_is_left() -> None:
    # the network's flags need not know of a mask that came later
    cutouts = bright_galaxies(24)[0].select(slice(0, 2))
    mask = cutouts.mask.clone()
    mask[0] = True
    found = refine(by_hand(cutouts, 1.0, 1), dataclasses.replace(cutouts, mask=mask), seed=1)
    assert np.isnan(found.mean[0]).all()
    assert found.flags[0] & int(Flag.ALL_MASKED)
    assert np.isfinite(found.mean[1]).all()


def test_what_no_model_describes_is_a_bad_fit() -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 2))
    images = cutouts.images.clone()
    images[1] += 0.5 * torch.roll(images[1], (9, -11), (0, 1))
    found = refine(by_hand(cutouts, 1.0, 1), dataclasses.replace(cutouts, images=images), seed=1)
    assert not found.flags[0] & int(Flag.BAD_FIT)
    assert found.flags[1] & int(Flag.BAD_FIT)
    assert found.chi_square[1] > 1.2


def test_a_network_with_draws_and_no_prior_named() -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 8))
    proposal = by_hand(cutouts, 1.0, 1)
    noise = torch.randn(8, 256, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    draws = (proposal.internal_mean[:, None] + noise @ proposal.internal_covariance.sqrt()).float()
    flow = refine(dataclasses.replace(proposal, draws=draws), cutouts, seed=8)
    usual = refined(24, 1.0, 1).select(slice(0, 8))
    sure = (flow.effective_samples > 80) & (usual.effective_samples > 80)
    assert sure.any()
    assert_same_posterior(flow.select(sure), usual.select(sure))
    # without a prior of its own the weak one is taken
    unnamed = refine(dataclasses.replace(proposal, prior={}), cutouts, seed=9)
    weak = refine(proposal, cutouts, prior="weak", seed=9)
    torch.testing.assert_close(unnamed.draws, weak.draws, rtol=0, atol=0)
    place = columns(weak, ("disk_sersic_index",))
    assert (weak.std[:, place] > 1.1 * usual.std[:, place]).all()  # sigma of ln n is 0.3 instead of 0.15


def test_bad_input_is_refused_in_one_line() -> None:
    cutouts = bright_galaxies(24)[0].select(slice(0, 2))
    proposal = by_hand(cutouts, 1.0, 1)
    for other in (cutouts.select([1, 0]), cutouts.select([0]), cutouts.select([0, 0])):
        with pytest.raises(InputError, match="other names"):
            refine(proposal, other)
    with pytest.raises(UnknownNameError, match="nearby, weak"):
        refine(proposal, cutouts, prior="virgo")
    with pytest.raises(UnknownNameError, match="nearby, weak"):
        fit(cutouts, {"virgo": 0.5, "cosmos": 0.5})
    oblong = dataclasses.replace(
        cutouts, **{name: getattr(cutouts, name)[:, 8:] for name in ("images", "variance", "mask", "neighbour_mask")}
    )
    with pytest.raises(InputError, match="square"):
        fit(oblong)
    with pytest.raises(InputError, match="square"):
        refine(proposal, oblong)
    for few in (19, -1, 40.0):
        with pytest.raises(InputError, match="20 or more"):
            refine(proposal, cutouts, effective=few)
        with pytest.raises(InputError, match="20 or more"):
            fit(cutouts, effective=few)
    nothing = refine(proposal.select([]), cutouts.select([]))
    assert len(nothing) == 0
