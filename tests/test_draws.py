"""Posteriors of any shape: draws in the record, where a flow head gives them, and how predict turns and keeps them."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import zuko
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import norm

from galstress.cutouts import Flag, decode_flags
from galstress.errors import InputError
from galstress.galaxy import galaxies_from_table, half_light_radius
from galstress.heads import (
    GalaxyHead,
    Prediction,
    Reference,
    draw_points,
    flow,
    from_internal,
    moment_points,
    to_internal,
    turn_internal,
)
from galstress.networks import Network
from galstress.perturbations import PERTURBATIONS
from galstress.prediction import predict
from galstress.simulation import simulate
from galstress.survey import Survey

CHECKS = ("effective_samples", "chi_square", "ln_evidence")


def make_gaussian(count: int = 3) -> Prediction:
    """Gaussians of lopsided galaxies, all coordinates correlated; the last object is unusable."""
    generator = torch.Generator().manual_seed(3)
    sigma = torch.tensor([0.1, 0.1, 0.03, 0.3, 0.05, 0.04, 0.04, 0.15, 0.1, 0.15, 0.06, 0.06], dtype=torch.float64)
    mean = torch.tensor([0.4, -0.7, 0.3, -0.6, 0.2, 0.15, -0.1, -0.8, 0.05, 0.9, 0.05, 0.1], dtype=torch.float64)
    mixing = torch.eye(12) + 0.25 * torch.randn(count, 12, 12, generator=generator, dtype=torch.float64)
    factor = sigma[:, None] * mixing
    shift = sigma * torch.randn(count, 12, generator=generator, dtype=torch.float64)
    flags = np.zeros(count, np.int64)
    flags[-1] = int(Flag.UNREADABLE)
    one = torch.ones(count)
    return Prediction(
        mean + shift,
        factor @ factor.mT,
        Reference(500 * one, 4 * one, (31.5, 31.5), 0.02 * one),
        np.array([f"g{row}" for row in range(count)]),
        flags,
        Survey.load("hsc-wide-i"),
        "foveal",
        prior={"cosmos": 0.85, "nearby": 0.15},
    )


def with_draws(prediction: Prediction, normal: torch.Tensor) -> Prediction:
    """The same posterior as (N, S, 12) draws of its Gaussian at standard normal numbers, NaN in the unusable row."""
    factor = torch.linalg.cholesky(prediction.internal_covariance)
    draws = (prediction.internal_mean[:, None] + normal @ factor.mT).float()
    draws[~torch.as_tensor(prediction.usable)] = torch.nan
    return dataclasses.replace(prediction, draws=draws)


@pytest.fixture(scope="module")
def gaussian() -> Prediction:
    return make_gaussian()


@pytest.fixture(scope="module")
def drawn(gaussian) -> Prediction:
    generator = torch.Generator().manual_seed(5)
    return with_draws(gaussian, torch.randn(3, 4096, 12, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module")
def network() -> Network:
    """A flow far from a Gaussian: its couplings bend, and its Gaussian depends on the image."""
    torch.manual_seed(7)
    network = Network.build("foveal", head="flow", width=0.5)
    head = network.head
    torch.nn.init.normal_(head.layers[2].weight, std=0.05)
    torch.nn.init.normal_(head.summary[-1].weight, std=0.05)
    for transform in head.flow.transform.transforms:
        torch.nn.init.normal_(transform.hyper[-1].weight, std=0.2)
    shares = {"hsc-wide-i": {"cosmos": 0.85, "nearby": 0.15}, "sdss-r": {"nearby": 1.0}}
    return network.with_metadata(prior=shares)


@pytest.fixture(scope="module")
def cutouts():
    return simulate("hsc-wide-i", 5, seed=4, stamp_px=64)


# ---- points ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [32, 128])
def test_draw_points_have_the_quantiles_of_a_normal_distribution(count: int) -> None:
    points = draw_points(count).numpy()
    place = (np.arange(count) + 0.5) / count
    inner = slice(2, -2)  # the outermost strata are wide: their root mean square lies further out
    for column in np.sort(points, 0).T:
        assert np.abs(norm.cdf(column) - place)[inner].max() < 0.1 / count
        assert np.abs(norm.cdf(column) - place).max() < 0.25 / count
    assert np.allclose(points.std(0), 1, atol=1e-12)
    assert np.allclose(points[: count // 2], -points[count // 2 :])
    correlation = np.corrcoef(points.T) - np.eye(12)
    assert np.abs(correlation).max() < {32: 0.12, 128: 0.02}[count]


@pytest.mark.parametrize("count", [16, 512])
def test_moment_points_are_closed_under_turns(count: int) -> None:
    points = moment_points(count)
    rows = {tuple(row) for row in points.numpy().round(9) + 0.0}
    for element in range(8):
        assert {tuple(row) for row in (points @ turn_internal(element).T).numpy().round(9) + 0.0} == rows
    assert np.allclose(points.std(0, correction=0), 1)


def test_the_512_moment_points_have_the_identity_as_covariance() -> None:
    points = moment_points(512)
    assert (points.T @ points / 512 - torch.eye(12)).abs().max() < 1e-12
    assert points.mean(0).abs().max() < 1e-12


@pytest.mark.parametrize("count", [0, 24, -16])
def test_points_come_in_sixteens(count: int) -> None:
    for points in (draw_points, moment_points):
        with pytest.raises(InputError, match="multiple of 16"):
            points(count)


# ---- the record ------------------------------------------------------------------------------------------------------


def test_draws_of_a_gaussian_say_what_the_gaussian_says(gaussian, drawn) -> None:
    probabilities = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    sigma, count = gaussian.std[:2], drawn.draws.shape[1]
    error = (drawn.quantile(probabilities) - gaussian.quantile(probabilities, samples=20_000))[:, :2] / sigma
    expected = np.sqrt(probabilities * (1 - probabilities) / count) / norm.pdf(norm.ppf(probabilities))
    assert (np.abs(error) < 6 * expected[:, None, None]).all()
    assert error.std() > 1e-4  # they are not the same numbers
    # the Gaussian's own moments come from 512 points; a large sample knows them better
    sample = gaussian.sample(40_000, seed=8)[:, :2]
    assert (np.abs(drawn.mean[:2] - sample.mean(0)) < 6 * sigma / math.sqrt(count)).all()
    for row in range(2):
        scale = np.sqrt(np.diag(np.cov(sample[:, row].T)))
        error = (drawn.covariance[row] - np.cov(sample[:, row].T)) / np.outer(scale, scale)
        assert np.abs(error).max() < 0.15


def test_moments_and_quantiles_are_those_of_all_draws(drawn) -> None:
    few = dataclasses.replace(drawn, draws=drawn.draws[:, :37])
    every = few.sample(37, seed=9)[:, :2]
    np.testing.assert_allclose(few.mean[:2], every.mean(0), rtol=1e-12)
    offset = every - every.mean(0)
    np.testing.assert_allclose(few.covariance[:2], np.einsum("snd,sne->nde", offset, offset) / 37, atol=1e-12)
    np.testing.assert_array_equal(few.quantile([0.5], samples=2, seed=3)[0, :2], np.sort(every, 0)[18])


def test_quantiles_of_points_in_strata_are_exact(gaussian) -> None:
    diagonal = torch.diag_embed(torch.diagonal(gaussian.internal_covariance, dim1=1, dim2=2))
    plain = dataclasses.replace(gaussian, internal_covariance=diagonal)
    probabilities = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    whole = slice(0, 7)  # these outputs follow one coordinate each: the Gaussian knows their quantiles exactly
    exact = plain.quantile(probabilities)[:, :2, whole]
    ours = with_draws(plain, draw_points(128).expand(3, -1, -1)).quantile(probabilities)[:, :2, whole]
    assert (np.abs(ours - exact) / plain.std[:2, whole]).max() < 0.03


def test_a_sample_of_all_draws_is_a_permutation(drawn) -> None:
    few = dataclasses.replace(drawn, draws=drawn.draws[:, :40])
    galaxies, _ = from_internal(few.draws[:2].double().transpose(0, 1), few.reference.select(slice(0, 2)))
    flux = np.sort(np.asarray(galaxies.flux) * few.survey.unit_njy, 0)
    first, second = (few.sample(40, seed)[:, :2] for seed in (1, 2))
    np.testing.assert_allclose(np.sort(first[:, :, 2], 0), flux, rtol=1e-6)
    np.testing.assert_array_equal(np.sort(first, 0), np.sort(second, 0))
    assert not np.array_equal(first, second)
    order = [np.argsort(first[:, row, 2]) for row in range(2)]
    assert not np.array_equal(order[0], order[1])  # each object's order is its own


def test_samples_are_dealt_out_in_whole_rounds(drawn) -> None:
    few = dataclasses.replace(drawn, draws=drawn.draws[:, :40])
    for n, least, most in ((15, 1, 1), (83, 2, 3)):
        sample = few.sample(n, 3)
        assert sample.shape == (n, 3, 15)
        times = np.unique(sample[:, 0, 2], return_counts=True)[1]
        assert (times.min(), times.max()) == (least, most)
    assert few.sample(0, 3).shape == (0, 3, 15)
    np.testing.assert_allclose(few.select([0]).sample(15, 3), few.sample(15, 3)[:, :1], rtol=1e-12)


def test_unusable_rows_are_nan_and_alone(drawn) -> None:
    table = drawn.truth_like()
    answers = (drawn.mean, drawn.covariance, drawn.quantile([0.5])[0], drawn.sample(7, 1).swapaxes(0, 1))
    for values in (*answers, np.asarray(table["flux_njy"])):
        assert np.isnan(values[2]).all()
        assert np.isfinite(values[:2]).all()


def test_the_galaxy_at_the_centre_has_the_median_share_flux_and_radius(drawn) -> None:
    draws = drawn.draws[:, :301].clone()
    draws[0, :200, 3] = -6.0  # two thirds of the posterior are a pure disk
    few = dataclasses.replace(drawn, draws=draws)
    table, median = few.truth_like()[:2], few.quantile([0.5])[0, :2]
    assert table["bulge_to_total"][0] == 0
    for place, name in enumerate(("bulge_to_total", "half_light_radius_arcsec", "flux_njy")):
        np.testing.assert_allclose(np.asarray(table[name]), median[:, place], rtol=2e-4, atol=1e-9)
    galaxies = galaxies_from_table(table, few.survey.pixel_scale_arcsec, few.survey.unit_njy)
    radius = half_light_radius(galaxies) * few.survey.pixel_scale_arcsec
    np.testing.assert_allclose(radius, median[:, 1], rtol=2e-4)
    assert np.abs(few.mean[0, 0] - median[0, 0]) > 0.05  # the mean is another galaxy


def test_coordinates_of_a_posterior_far_from_the_first_pixel_survive_float32(drawn) -> None:
    exact = dataclasses.replace(drawn, draws=drawn.draws.double())
    np.testing.assert_array_equal(drawn.sample(9, 1), exact.sample(9, 1))
    far = dataclasses.replace(drawn, reference=dataclasses.replace(drawn.reference, centre_px=(2047.5, 2047.5)))
    np.testing.assert_allclose((far.mean - drawn.mean)[:2, 5:7], 2016, atol=1e-9)


def checked(prediction: Prediction) -> Prediction:
    values = np.array([120.0, 7.5, np.nan])
    return dataclasses.replace(prediction, effective_samples=values, chi_square=values / 100, ln_evidence=-values)


def test_the_file_gives_everything_back(drawn, tmp_path) -> None:
    full = checked(drawn)
    full.write(tmp_path / "p.safetensors")
    again = Prediction.read(tmp_path / "p.safetensors")
    assert torch.equal(again.draws[:2], full.draws[:2])
    assert again.draws.dtype == torch.float32
    assert again.prior == {"cosmos": 0.85, "nearby": 0.15}
    for name in CHECKS:
        np.testing.assert_array_equal(getattr(again, name), getattr(full, name))
    np.testing.assert_array_equal(again.quantile([0.16]), full.quantile([0.16]))
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_files_from_before_there_were_draws_still_read(gaussian, tmp_path) -> None:
    gaussian.write(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["prediction"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(tensors) == {
        "internal_mean", "internal_covariance", "reference_flux", "reference_size_px", "reference_sky_rms", "flags",
    }  # fmt: skip
    del record["prior"]
    save_file(tensors, tmp_path / "old.safetensors", metadata={"prediction": json.dumps(record)})
    old = Prediction.read(tmp_path / "old.safetensors")
    assert (old.draws, old.prior) == (None, {})
    assert [getattr(old, name) for name in CHECKS] == [None] * 3
    np.testing.assert_array_equal(old.mean, gaussian.mean)


def test_select_and_concatenate_carry_everything(drawn, gaussian) -> None:
    full = checked(drawn)
    parts = [full.select([2, 0]), full.select(np.array([False, True, False]))]
    whole = Prediction.concatenate(parts)
    order = [2, 0, 1]
    assert torch.equal(whole.draws[1:], full.draws[:2])
    assert torch.isnan(whole.draws[0]).all()
    assert whole.prior == full.prior
    for name in CHECKS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(full, name)[order])
    np.testing.assert_array_equal(whole.mean, full.mean[order])
    some = Prediction.concatenate([full, dataclasses.replace(drawn, prior={"cosmos": 1.0})])
    np.testing.assert_array_equal(some.chi_square, [*full.chi_square, *[np.nan] * 3])
    assert some.prior == {}
    for other in (gaussian, dataclasses.replace(drawn, draws=drawn.draws[:, :64])):
        with pytest.raises(InputError, match="draws an object"):
            Prediction.concatenate([drawn, other])


def test_the_table_says_how_good_the_posterior_is(gaussian, drawn) -> None:
    assert not set(CHECKS) & set(gaussian.table().colnames)
    table = checked(drawn).table()
    assert table.colnames[:5] == ["object_id", "flags", *CHECKS]
    for name in CHECKS:
        np.testing.assert_array_equal(table[name], getattr(checked(drawn), name))
        assert table[name].info.description
    np.testing.assert_array_equal(table["bulge_to_total_p84"], drawn.quantile([0.84])[0, :, 0])


# ---- the flow head ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(network, cutouts):
    with torch.no_grad():
        return network.raw(cutouts)[0][:3]


def flow_nll(head, raw: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The flow's part of the loss: -ln of its density in standard units, its constant included."""
    return (head.loss(raw, targets) - GalaxyHead.loss(head, raw, targets)).double()


def test_density_of_a_draw_is_the_volume_that_the_draw_stretches(network, raw) -> None:
    head = network.head
    points = torch.randn(4, 12, generator=torch.Generator().manual_seed(2))
    for row in range(3):
        for point in points:
            one = raw[row : row + 1]
            stretch = torch.autograd.functional.jacobian(lambda z, one=one: head.draw(one, z[None])[0, 0], point)
            density = norm.logpdf(point.double().numpy()).sum() - float(torch.linalg.slogdet(stretch.double())[1])
            nll = float(flow_nll(head, one, head.draw(one, point[None])[:, 0].float()).detach())
            assert density == pytest.approx(-nll, abs=0.02)


@torch.no_grad()
def test_the_flow_is_far_from_its_gaussian_and_its_density_integrates_to_one(network, raw) -> None:
    head, count = network.head, 20_000
    mean, covariance = head.posterior(raw)
    normal = torch.randn(count, 12, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    widths = torch.tensor([1.0, 1.4]).repeat(count // 2)[:, None]  # a mixture of two Gaussians holds the tails
    for row in range(len(raw)):
        factor = torch.linalg.cholesky(covariance[row])
        targets = mean[row] + (widths * normal) @ factor.T
        ln_q = [norm.logpdf(widths * normal / w).sum(1) - 12 * math.log(w) for w in (1.0, 1.4)]
        ln_q = np.logaddexp(*ln_q) - math.log(2) - float(torch.log(torch.diagonal(factor)).sum())
        ln_p = -flow_nll(head, raw[row].expand(count, -1), targets.float()).numpy()
        weight = np.exp(ln_p - ln_q)
        error = weight.std() / math.sqrt(count)
        assert error < 0.05
        assert abs(weight.mean() - 1) < 4 * error
        assert weight.std() > 0.3


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_draws_come_from_the_flow_and_the_gaussian_holds_their_moments(network, cutouts) -> None:
    prediction = predict(network, cutouts)
    assert prediction.draws.shape == (5, 128, 12)
    assert prediction.draws.dtype == torch.float32
    raw = network.raw(cutouts)[0]
    exact = network.head.draw(raw, draw_points(128)).detach()
    assert torch.allclose(prediction.draws.double(), exact, atol=1e-4)
    draws = prediction.draws.double().numpy()
    assert np.allclose(prediction.internal_mean, draws.mean(1))
    for row in range(5):
        assert np.allclose(prediction.internal_covariance[row], np.cov(draws[row].T, bias=True))


def test_without_draws_the_flow_head_is_its_gaussian(network, cutouts) -> None:
    prediction = predict(network, cutouts, draws=0)
    mean, covariance = network.head.posterior(network.raw(cutouts)[0])
    assert prediction.draws is None
    assert torch.allclose(prediction.internal_mean, mean.detach(), atol=1e-5)
    assert torch.allclose(prediction.internal_covariance, covariance.detach(), rtol=1e-3)
    plain = predict(Network.build("foveal", width=0.5), cutouts, draws=128)
    assert plain.draws is None
    assert plain.prior == {}


@pytest.mark.parametrize("draws", [100, -16])
def test_draws_come_in_sixteens(network, cutouts, draws: int) -> None:
    with pytest.raises(InputError, match="multiple of 16"):
        predict(network, cutouts, draws=draws)


@pytest.mark.parametrize("element", [1, 6])
def test_averaged_draws_turn_exactly_with_the_pixels(network, cutouts, element: int) -> None:
    # an even stamp: an odd one turns about a pixel, its field about a point half a pixel off
    turned = PERTURBATIONS["quarter-turns"](cutouts, element)
    before, after = (predict(network, c, average=True) for c in (cutouts, turned))
    assert before.draws.shape == (5, 256, 12)
    matrix = turn_internal(element).float()
    # the i-th turn of the turned image is the k-th of the image as it was
    products = [turn_internal(i) @ turn_internal(element) for i in range(8)]
    same = [next(k for k in range(8) if torch.equal(turn_internal(k), product)) for product in products]
    blocks = before.draws.reshape(5, 8, 32, 12)[:, same] @ matrix.T
    scale = before.draws.std(1)[:, None, None]
    assert ((after.draws.reshape(5, 8, 32, 12) - blocks) / scale).abs().max() < 1e-3
    assert torch.allclose(after.internal_mean, before.internal_mean @ matrix.double().T, atol=1e-4)
    first, second = (p.quantile([0.16, 0.5, 0.84])[:, :, :3] for p in (before, after))
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-4)
    single = predict(network, cutouts), predict(network, turned)
    assert not torch.allclose(single[1].internal_mean, single[0].internal_mean @ matrix.double().T, atol=1e-2)


def test_batch_of_one_draws_as_a_batch_of_many(network, cutouts) -> None:
    together, split = predict(network, cutouts), predict(network, cutouts, batch_size=2)
    alone = predict(network, cutouts.select([3]))
    scale = together.draws.std(1)[:, None]
    assert ((split.draws - together.draws) / scale).abs().max() < 1e-3
    assert ((alone.draws - together.draws[3:4]) / scale[3:4]).abs().max() < 1e-3


def test_one_bad_object_spoils_no_other(network, cutouts) -> None:
    mask, images = cutouts.mask.clone(), cutouts.images.clone()
    mask[2], images[4] = True, torch.nan
    prediction = predict(network, dataclasses.replace(cutouts, mask=mask, images=images), average=True)
    expected = predict(network, cutouts, average=True)
    bad, good = [2, 4], [0, 1, 3]
    assert all("ALL_MASKED" in decode_flags(int(prediction.flags[row])) for row in bad)
    assert torch.isnan(prediction.draws[bad]).all()
    assert np.isnan(prediction.quantile([0.5])[:, bad]).all()
    assert torch.allclose(prediction.draws[good], expected.draws[good], atol=1e-4)
    assert len(prediction.table()) == 5


def test_a_lost_draw_is_no_lost_galaxy(network, cutouts, monkeypatch) -> None:
    draw = network.head.draw

    def losing(raw, normal):
        drawn = draw(raw, normal)
        drawn[0, 3, 5] = torch.nan  # a rounding error
        drawn[1, :60, 2] = torch.inf  # a posterior that makes no sense
        return drawn

    before = predict(network, cutouts)
    monkeypatch.setattr(network.head, "draw", losing)
    after = predict(network, cutouts)
    mean = network.head.posterior(network.raw(cutouts)[0])[0].detach()
    assert torch.allclose(after.draws[0, 3].double(), mean[0], atol=1e-4)
    kept = torch.arange(128) != 3
    assert torch.equal(after.draws[0, kept], before.draws[0, kept])
    assert list(after.usable) == [True, False, True, True, True]
    assert torch.isnan(after.draws[1]).all()


def test_prior_is_that_of_the_survey_or_of_all(network, cutouts) -> None:
    assert predict(network, cutouts).prior == {"cosmos": 0.85, "nearby": 0.15}
    other = dataclasses.replace(cutouts, survey=dataclasses.replace(cutouts.survey, name="my-telescope"))
    assert predict(network, other).prior == pytest.approx({"cosmos": 0.425, "nearby": 0.575})


def test_nothing_measured_joins_what_was(network, cutouts) -> None:
    some = predict(network, cutouts)
    none = predict(network, cutouts.select([]))
    assert none.draws.shape == (0, 128, 12)
    assert len(Prediction.concatenate([none, some])) == 5
    assert none.quantile([0.5]).shape == (1, 0, 15)


def test_draws_of_the_truth_give_the_truth() -> None:
    simulated = simulate("hsc-wide-i", 3, seed=8, stamp_px=64)
    survey = simulated.survey
    galaxies = galaxies_from_table(simulated.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    one = torch.ones(3, dtype=torch.float64)
    reference = Reference(100 * one, 3 * one, (31.5, 31.5), 0.01 * one)
    internal = to_internal(galaxies, reference)
    spot = Prediction(
        internal, torch.zeros(3, 12, 12, dtype=torch.float64), reference, simulated.object_id, np.zeros(3, np.int64),
        survey, draws=internal[:, None].expand(-1, 16, -1).float(),
    )  # fmt: skip
    again = spot.truth_like()
    for name in ("flux_njy", "bulge_to_total", "x_px", "disk_half_light_radius_arcsec", "bulge_axis_ratio"):
        np.testing.assert_allclose(np.asarray(again[name]), np.asarray(simulated.truth[name]), rtol=1e-4, atol=1e-5)


def test_splines_are_those_of_zuko() -> None:
    generator = torch.Generator().manual_seed(6)
    numbers = [3 * torch.randn(40, 12, size, generator=generator, dtype=torch.float64) for size in (8, 8, 7)]
    ours, theirs = flow._Spline(*numbers), zuko.transforms.MonotonicRQSTransform(*numbers)
    x = 3 * torch.randn(40, 12, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.inv(x), theirs.inv(x), rtol=0, atol=1e-12)
    for first, second in zip(ours.call_and_ladj(x), theirs.call_and_ladj(x), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
