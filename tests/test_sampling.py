"""Coordinates, priors and importance sampling against closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from galstress.cutouts import Flag
from galstress.galaxy import half_light_radius
from galstress.heads import INTERNAL_NAMES, Reference, to_internal
from galstress.likelihood import Likelihood
from galstress.population import load_population
from galstress.refinement import PopulationPrior, WeakPrior, exact
from galstress.refinement.coordinates import from_natural, to_natural
from galstress.refinement.fitting import Maximum
from galstress.refinement.priors import EDGE, SHARE, Prior, kind_of
from galstress.refinement.proposals import Density, Proposal, propose
from galstress.refinement.sampling import Samples, add_round, sample_posterior
from galstress.simulation import simulate
from galstress.survey import Survey

SURVEY = Survey.load("hsc-wide-i")
COSMOS, NEARBY = (PopulationPrior(((name, 1.0),)) for name in ("cosmos", "nearby"))
AT = {name: place for place, name in enumerate(INTERNAL_NAMES)}


def unit_reference(count: int) -> Reference:
    """Coordinates relative to one image unit and one pixel."""
    one = torch.ones(count, dtype=torch.float64)
    return Reference(one, one, (0.0, 0.0), one)


def drawn_internal(name: str, count: int, seed: int) -> Tensor:
    """(count, 12) internal coordinates of galaxies of a population."""
    sky = load_population(name).sample(count, torch.Generator().manual_seed(seed)).to(dtype=torch.float64)
    return to_internal(sky.scaled(1 / SURVEY.pixel_scale_arcsec, 1 / SURVEY.unit_njy), unit_reference(count))


def draw_t(count: int, dim: int, freedom: int, generator: torch.Generator) -> Tensor:
    """(count, dim) draws of a standard multivariate Student-t."""
    normal = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    chi_square = torch.randn(count, freedom, generator=generator, dtype=torch.float64).square().sum(-1)
    return normal * torch.sqrt(freedom / chi_square)[:, None]


# ---- coordinates ---------------------------------------------------------------------------------------------------


def test_natural_coordinates_go_there_and_back() -> None:
    internal = drawn_internal("cosmos", 2000, 3)
    natural = to_natural(internal)
    back, _ = from_natural(natural)
    torch.testing.assert_close(back, internal, rtol=0, atol=1e-10)
    again = to_natural(back)
    torch.testing.assert_close(again, natural, rtol=0, atol=1e-8)


def test_volume_is_the_determinant_of_the_derivatives() -> None:
    natural = to_natural(drawn_internal("nearby", 40, 4))
    _, ln_volume = from_natural(natural)
    for row, expected in zip(natural, ln_volume, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda point: from_natural(point[None])[0][0], row)
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(expected), abs=1e-9)
        # and by differences, which know nothing of how the root was found
        steps = 1e-5 * torch.eye(12, dtype=torch.float64)
        columns = (from_natural(row + steps)[0] - from_natural(row - steps)[0]) / 2e-5
        assert float(torch.linalg.slogdet(columns)[1]) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("name", ["cosmos", "nearby"])
def test_relative_shape_is_standard_normal_under_a_population(name: str) -> None:
    natural = to_natural(drawn_internal(name, 6000, 5)).numpy()
    for place in (10, 11):
        assert stats.kstest(natural[:, place], "norm").pvalue > 1e-3
    # whatever the rest but for |E|, which they share in: no rank correlation with any other coordinate
    for place in (10, 11):
        for other in natural[:, 2:10].T:
            assert abs(stats.spearmanr(natural[:, place], other).statistic) < 4 / math.sqrt(6000)


def test_each_galaxy_has_one_place_in_natural_coordinates() -> None:
    # the angle between the components repeats every 18 units: a second turn must not count again
    cutouts = simulate(SURVEY, 1, seed=1, stamp_px=20)
    cutouts = dataclasses.replace(cutouts, mask=torch.ones_like(cutouts.mask))
    target = exact._Target(Likelihood.of(cutouts), unit_reference(1), COSMOS, SURVEY)
    line = to_natural(drawn_internal("cosmos", 200, 6))[2].expand(2001, 1, 12).clone()
    line[:, 0, 11] = torch.linspace(-27, 27, 2001, dtype=torch.float64)
    density = target(line)[:, 0].exp()
    assert float(density.max()) > 0
    assert float(density[line[:, 0, 11].abs() > 9].sum() / density.sum()) < 1e-6


# ---- priors --------------------------------------------------------------------------------------------------------


def test_nearby_is_the_average_of_cosmos_over_distance() -> None:
    # what the closed form over s says, against the sum over a fine grid of s
    galaxies = load_population("nearby").sample(12, torch.Generator().manual_seed(8)).to(dtype=torch.float64)
    found = load_population("nearby").log_prob(galaxies)
    grid = torch.linspace(0, math.log(15.0), 1201, dtype=torch.float64)
    expected = []
    for row in range(len(galaxies)):
        one = galaxies.select(torch.full((len(grid),), row))
        each = load_population("cosmos").log_prob(one.scaled(torch.exp(-grid), torch.exp(-2 * grid)))
        expected.append(torch.logsumexp(each, 0) - math.log(len(grid) - 1))  # the ends hold next to nothing
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=0.02)
    # a galaxy far outside is as unlikely as the grid says
    bright = galaxies.select([0]).scaled(1.0, 1e4)
    assert float(load_population("nearby").log_prob(bright)[0]) < float(found[0]) - 50


def test_population_density_is_the_sum_of_its_kernels() -> None:
    population = load_population("cosmos")
    drawn = population.sample(300, torch.Generator().manual_seed(9)).to(dtype=torch.float64)
    share = drawn.bulge_to_total.numpy()
    rows = np.concatenate([np.flatnonzero(kind)[:5] for kind in (share == 0, share == 1, (share > 0) & (share < 1))])
    galaxies = drawn.select(rows.tolist())
    found = population.log_prob(galaxies).numpy()
    magnitude, ln_radius, fitted, logit_q = population.table.double().numpy().T
    disk_share, bulge_share = 0.345 / (1 + (fitted / 1.1) ** 4), 0.49 / (1 + (4 / fitted) ** 4)

    def index_law(value: float, centre: np.ndarray | float, sigma: float) -> np.ndarray:
        low, high = ((math.log(edge) - centre) / sigma for edge in (0.5, 6.0))
        return stats.truncnorm.pdf(math.log(value), low, high, centre, sigma)

    for place in range(len(rows)):
        b, q = float(galaxies.bulge_to_total[place]), galaxies.axis_ratio[place].numpy()
        n, radius = galaxies.sersic_index[place].numpy(), galaxies.radius[place].numpy()
        unit = (q[0] - 0.06) / 0.94
        each = stats.norm.pdf(31.4 - 2.5 * np.log10(float(galaxies.flux[place])), magnitude, 0.15)
        each = each * stats.norm.pdf(math.log(float(half_light_radius(galaxies)[place])), ln_radius, 0.1)
        each = each * stats.norm.pdf(np.log(unit / (1 - unit)), logit_q, 0.25) / (unit * (1 - unit) * 0.94)
        ln_fitted = np.log(np.clip(fitted, 0.5, 6))
        if b == 0:
            each = each * disk_share * index_law(n[0], ln_fitted, 0.05) * index_law(n[1], math.log(3.5), 0.3)
        elif b == 1:
            each = each * bulge_share * index_law(n[0], 0.0, 0.15) * index_law(n[1], ln_fitted, 0.05)
        else:
            logit = stats.norm.pdf(math.log(b / (1 - b)), 2 * np.log(fitted / 2.2), 1.0) / (b * (1 - b))
            each = each * (1 - disk_share - bulge_share) * logit
            each = each * index_law(n[0], 0.0, 0.15) * index_law(n[1], math.log(3.5), 0.3)
        turn = float(
            torch.remainder(galaxies.angle[place, 1] - galaxies.angle[place, 0] + np.pi / 2, np.pi) - np.pi / 2
        )
        shared = stats.norm.pdf(math.log(radius[1] / radius[0]), math.log(0.35), 0.4)
        shared *= stats.norm.pdf(turn, 0, math.radians(10)) / math.pi / (q[1] * -math.log(q[0]))
        assert found[place] == pytest.approx(math.log(each.mean() * shared), abs=2e-3)


def integrate(prior: Prior, free: list[int], count: int, seed: int) -> list[tuple[float, float]]:
    """The integral of a prior over each kind of galaxy, and its standard error, by importance sampling.

    Ellipticities come from a disk, evenly in |E|; the other ``free`` coordinates from a Student-t about the stand-in.
    """
    generator, found, dim, freedom = torch.Generator().manual_seed(seed), [], len(free), 8
    for kind, normal in enumerate(prior.stand_ins(SURVEY)):
        root = 1.2 * torch.linalg.cholesky(torch.linalg.inv(normal.precision)[free][:, free])
        unit = draw_t(count, dim, freedom, generator)
        natural = torch.zeros(count, 12, dtype=torch.float64)
        natural[:, free] = normal.centre[free] + unit @ root.T
        size, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
        size = 0.95 * size
        natural[:, AT["e1"]] = size * torch.cos(2 * math.pi * angle)
        natural[:, AT["e2"]] = size * torch.sin(2 * math.pi * angle)
        ln_q = torch.as_tensor(stats.multivariate_t.logpdf(unit.numpy(), shape=np.eye(dim), df=freedom))
        ln_q = ln_q - torch.log(root.diagonal()).sum() - torch.log(2 * math.pi * 0.95 * size)
        internal, ln_volume = from_natural(natural)
        ln_p = prior.log_prob(internal[:, None], unit_reference(1), SURVEY)[:, 0] + ln_volume
        once = (natural[:, 11].abs() < 9) & (natural[:, 10].abs() < 5) & (kind_of(natural) == kind)
        weight = torch.where(once & torch.isfinite(ln_p), (ln_p - ln_q).exp(), 0.0)
        found.append((float(weight.mean()), float(weight.std()) / math.sqrt(count)))
    return found


@pytest.mark.parametrize("prior", [COSMOS, NEARBY], ids=["cosmos", "nearby"])
def test_population_priors_integrate_to_the_shares_of_each_kind(prior: PopulationPrior) -> None:
    drawn = kind_of(drawn_internal(prior.shares[0][0], 40_000, 7) * (1 + 1e-9))
    for kind, (value, error) in enumerate(integrate(prior, [2, 3, 4, 7, 8, 9, 10, 11], 10_000, 1)):
        share = float((drawn == kind).double().mean())
        assert error < 0.12 * share  # the sum says something
        assert value == pytest.approx(share, abs=3.5 * math.hypot(error, math.sqrt(share / 40_000)))


def test_weak_prior_integrates_to_its_shares() -> None:
    # of flux and radius it has one per magnitude and per unit of ln radius; shapes end at |e| = 0.93
    unit = 2.5 / math.log(10) * (1 - (1 - 0.93) / (1 + 0.93))
    for share, (value, error) in zip(
        (0.8, 0.1, 0.1), integrate(WeakPrior(), [3, 7, 8, 9, 10, 11], 40_000, 2), strict=True
    ):
        assert error / unit < 0.03 * share
        assert value / unit == pytest.approx(share, abs=3.5 * error / unit)


def test_populations_mix_by_their_shares() -> None:
    internal, reference = drawn_internal("nearby", 50, 10)[:, None], unit_reference(1)
    each = [prior.log_prob(internal, reference, SURVEY) for prior in (COSMOS, NEARBY)]
    both = PopulationPrior((("cosmos", 0.3), ("nearby", 0.7))).log_prob(internal, reference, SURVEY)
    torch.testing.assert_close(both, torch.logaddexp(each[0] + math.log(0.3), each[1] + math.log(0.7)))
    # the reference only moves the coordinates
    scaled = Reference(
        torch.full((1,), 40.0).double(), torch.full((1,), 3.0).double(), (5.0, 6.0), torch.ones(1).double() / 8
    )
    there = internal.clone()
    there[..., AT["ln_flux"]] -= math.log(5.0)
    there[..., AT["ln_radius"]] -= math.log(3.0)
    torch.testing.assert_close(COSMOS.log_prob(there, scaled, SURVEY), each[0])


# ---- sampling ------------------------------------------------------------------------------------------------------

CENTRE = torch.linspace(-0.5, 0.6, 12, dtype=torch.float64)
LN_TOTAL = -37.5
PIXELS = torch.full((20,), 2000.0)


def dense_covariance(seed: int) -> Tensor:
    """(12, 12) of a strongly correlated normal; the coordinate of B/T stays inside its edges."""
    factor = torch.randn(12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = factor @ factor.T / 12 + 0.1 * torch.eye(12, dtype=torch.float64)
    scale = torch.logspace(-1, 1, 12, dtype=torch.float64)
    scale[SHARE] = 0.3
    return covariance * scale[:, None] * scale


COVARIANCE = dense_covariance(1)


def normal_target(points: Tensor) -> Tensor:
    """A normal distribution whose integral is exp(LN_TOTAL)."""
    law = torch.distributions.MultivariateNormal(CENTRE, COVARIANCE)
    return law.log_prob(points) + LN_TOTAL


def maximum_at(centre: Tensor, precision: Tensor, ln_prob: float, count: int) -> Maximum:
    """The same climb for ``count`` galaxies."""
    return Maximum(
        centre.expand(count, 12).clone(),
        precision.expand(count, 12, 12).clone(),
        torch.full((count,), ln_prob, dtype=torch.float64),
        torch.ones(count, dtype=torch.long),
        slope=torch.zeros(count, 12, dtype=torch.float64),
        centre=centre.expand(count, 12).clone(),
        prior=precision.expand(count, 12, 12).clone(),
    )


def normal_at(maxima: list[Maximum]) -> Density:
    """A prior that is the first maximum's own normal one."""
    return maxima[0].ln_prior


def one_student_t(centre: Tensor, covariance: Tensor, count: int, draws: Tensor | None = None) -> Proposal:
    """A proposal of one component."""
    root = torch.linalg.cholesky(covariance).expand(count, 1, 12, 12)
    kernels = None if draws is None else 0.6 * torch.linalg.cholesky(torch.cov(draws[0].T, correction=0))[None]
    return Proposal(centre.expand(count, 1, 12), root, torch.zeros(count, 1, dtype=torch.float64), draws, kernels)


ROUNDS = (300, 400)


def two_rounds(target: Density, proposal: Proposal, seed: int) -> Samples:
    """A first round, and one from the proposal adapted to it."""
    generator = torch.Generator().manual_seed(seed)
    return add_round(sample_posterior(target, proposal, ROUNDS[0], generator), target, generator, ROUNDS[1])


def test_proposal_density_is_a_mixture_of_student_t_and_kernels() -> None:
    other = CENTRE + 0.7
    maxima = [
        maximum_at(CENTRE, torch.linalg.inv(COVARIANCE), -1.0, 2),
        maximum_at(other, torch.linalg.inv(COVARIANCE) / 2, -2.0, 2),
    ]
    draws = (
        CENTRE
        + draw_t(2 * 40, 12, 50, torch.Generator().manual_seed(2)).view(2, 40, 12) @ torch.linalg.cholesky(COVARIANCE).T
    )
    points = (
        CENTRE
        + draw_t(2 * 30, 12, 5, torch.Generator().manual_seed(3)).view(30, 2, 12) @ torch.linalg.cholesky(COVARIANCE).T
    )
    for own in (None, draws):
        proposal = propose(maxima, own, normal_at(maxima))
        share = proposal.ln_weight.exp().numpy()
        # the second is off by what its normal prior and the prior differ at its maximum
        shift = float((maxima[0].ln_prior(other) - maxima[1].ln_prior(other))[0])
        evidence = np.array([-1.0, -2.0 + shift]) + 0.5 * np.array([0, 12 * math.log(2)])
        whole = np.exp(evidence) / np.exp(evidence).sum()
        # mixed galaxies first (at the maximum, and in slices), the other kind between, at the end both once more
        assert share[:, 1] + share[:, -1] == pytest.approx(whole[1], rel=1e-3)
        assert share.sum(1) == pytest.approx(1)
        found = proposal.log_prob(points).numpy()
        for row in range(2):
            at = points[:, row].numpy()
            expected = sum(
                weight * stats.multivariate_t(centre.numpy(), (root @ root.T).numpy(), 12).pdf(at)
                for weight, centre, root in zip(share[row], proposal.centre[row], proposal.root[row], strict=True)
            )
            if own is not None:
                kernel = 0.36 * np.cov(draws[row].T.numpy(), bias=True)
                near = np.mean(
                    [stats.multivariate_normal(x, kernel, allow_singular=True).pdf(at) for x in draws[row].numpy()], 0
                )
                expected = 0.92 * expected + 0.08 * near
            np.testing.assert_allclose(found[:, row], np.log(expected), atol=1e-3)


def test_slices_follow_a_funnel() -> None:
    # a bulge whose information falls with the square of its light, under a normal prior: a closed form at each B/T
    at = CENTRE.clone()
    at[SHARE] = -1.0
    share_at = float((torch.sigmoid(at[SHARE]) - 0.01) / 0.98)
    prior = torch.eye(12, dtype=torch.float64)
    prior[SHARE, SHARE] = 0.5
    bulge = AT["ln_bulge_index"]
    fisher = torch.zeros(12, 12, dtype=torch.float64)
    fisher[bulge, bulge] = 30.0
    here = dataclasses.replace(maximum_at(at, fisher + prior, 0.0, 1), prior=prior[None])
    proposal = propose([here], None, normal_at([here]))
    slices = slice(1, -1)
    logit = proposal.centre[0, slices, SHARE]
    assert float(logit.diff().min()) > 0.1  # one after the other along B/T
    light = ((torch.sigmoid(logit) - 0.01) / 0.98 / share_at).clamp_max(1)
    expected = 1 / (1 + 30 * light**2)
    covariance = proposal.root @ proposal.root.mT
    found = covariance[0, slices, bulge, bulge]
    assert (found / expected).numpy() == pytest.approx(1, abs=0.25)
    assert float(found[0]) > 3 * float(found[-1])
    # and what no component's light informs on keeps the prior's width
    assert covariance[0, slices, AT["e1"], AT["e1"]].numpy() == pytest.approx(1, abs=1e-6)


def test_proposal_reaches_along_the_ridge_of_large_radii() -> None:
    # of a normal posterior with flux, radius and index tied together: the last component knows the regression line
    radius, flux = AT["ln_radius"], AT["ln_flux"]
    shear = torch.eye(12, dtype=torch.float64)
    shear[flux, radius] = 0.8
    tied = shear @ COVARIANCE @ shear.T
    maximum = maximum_at(CENTRE, torch.linalg.inv(tied), 0.0, 1)
    proposal = propose([maximum], None, normal_at([maximum]))
    sigma = float(tied[radius, radius].sqrt())
    assert float(proposal.centre[0, -1, radius] - CENTRE[radius]) == pytest.approx(1.5 * sigma, rel=1e-3)
    covariance = (proposal.root @ proposal.root.mT)[0, -1]
    assert float(covariance[radius, radius]) == pytest.approx(9 * sigma**2, rel=1e-3)
    along = float(tied[flux, radius]) / sigma**2
    assert float(covariance[flux, radius] / covariance[radius, radius]) == pytest.approx(along, rel=1e-3)
    # across the ridge it is no wider than before
    across = float(covariance[flux, flux] - along**2 * covariance[radius, radius])
    assert across == pytest.approx(float(tied[flux, flux]) - along**2 * sigma**2, rel=1e-3)


def test_proposal_draws_from_its_density() -> None:
    draws = (CENTRE + draw_t(64, 12, 50, torch.Generator().manual_seed(4)) @ torch.linalg.cholesky(COVARIANCE).T)[None]
    points = one_student_t(CENTRE, COVARIANCE, 1).sample(4000, torch.Generator().manual_seed(5))
    unit = torch.linalg.solve_triangular(torch.linalg.cholesky(COVARIANCE), (points[:, 0] - CENTRE).T, upper=False)
    assert stats.kstest((unit**2).sum(0).numpy() / 12, stats.f(12, 12).cdf).pvalue > 1e-3
    assert stats.kstest(unit[5].numpy(), stats.t(12).cdf).pvalue > 1e-3
    # with slices and a network's draws: the mean of (another density / this one) is 1
    maxima = [maximum_at(CENTRE, torch.linalg.inv(COVARIANCE), 0.0, 1)]
    mixed = propose(maxima, draws, normal_at(maxima))
    points = mixed.sample(4000, torch.Generator().manual_seed(6))
    ratio = (normal_target(points) - LN_TOTAL - mixed.log_prob(points)).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * float(ratio.std()) / math.sqrt(4000))


def test_first_round_is_as_effective_as_its_integral_says() -> None:
    count = 5000
    samples = sample_posterior(
        normal_target, one_student_t(CENTRE, COVARIANCE, 1), count, torch.Generator().manual_seed(7)
    )
    # share of effective samples: 1 over the integral of target^2 / proposal, along the radius
    radius = np.linspace(1e-6, 30, 20_001)
    ln_shell = 11 * np.log(radius) + math.log(2 * math.pi**6 / math.gamma(6))
    ln_normal = -(radius**2) / 2 - 6 * math.log(2 * math.pi)
    ln_t = math.lgamma(12) - math.lgamma(6) - 6 * math.log(12 * math.pi) - 12 * np.log1p(radius**2 / 12)
    expected = 1 / np.trapezoid(np.exp(ln_shell + 2 * ln_normal - ln_t), radius)
    assert float(samples.effective[0]) / count == pytest.approx(expected, rel=0.05)
    assert float(samples.ln_evidence[0]) == pytest.approx(LN_TOTAL, abs=4 / math.sqrt(count * expected))


@pytest.mark.parametrize("quality", ["fair", "network only"])
def test_evidence_moments_and_draws_of_a_known_normal(quality: str) -> None:
    count = 300
    off = 0.5 if quality == "fair" else 2.5
    root = torch.linalg.cholesky(COVARIANCE)
    direction = root @ torch.full((12,), off / math.sqrt(12), dtype=torch.float64)
    precision = torch.linalg.inv(COVARIANCE) * (1.3 if quality == "fair" else 0.7)
    draws = CENTRE + draw_t(count * 128, 12, 200, torch.Generator().manual_seed(8)).view(count, 128, 12) @ root.T
    maxima = [maximum_at(CENTRE + direction, precision, 0.0, count)]
    proposal = propose(maxima, None if quality == "fair" else draws, normal_at(maxima))
    samples = two_rounds(normal_target, proposal, 9)
    assert samples.points.shape == (sum(ROUNDS), count, 12)
    evidence = (samples.ln_evidence - LN_TOTAL).exp()
    assert float(evidence.mean()) == pytest.approx(1, abs=0.01 + 4 * float(evidence.std()) / math.sqrt(count))
    assert float(samples.effective.median()) > (200 if quality == "fair" else 60)
    # its own count of effective samples says how much the evidence scatters
    predicted = (1 / samples.effective - 1 / ROUNDS[-1]).mean().sqrt()
    assert float(evidence.std() / predicted) == pytest.approx(1, abs=0.2)
    weight = samples.weight
    mean = (weight[..., None] * samples.points).sum(0)
    unit = torch.linalg.solve_triangular(root, (mean - CENTRE).T, upper=False)
    assert float(unit.mean(1).abs().max()) < 4.5 * float(unit.std(1).max()) / math.sqrt(count) + 0.01
    spread = torch.linalg.solve_triangular(root, (samples.points - CENTRE).flatten(0, 1).T, upper=False)
    second = (weight[..., None] * spread.T.view(*samples.points.shape) ** 2).sum(0).mean(1)
    assert float(second.mean()) == pytest.approx(1, abs=0.004 + 4 * float(second.std()) / math.sqrt(count))
    chosen = samples.resample(64, torch.Generator().manual_seed(10))
    assert chosen.shape == (count, 64, 12)
    unit = torch.linalg.solve_triangular(root, (chosen.flatten(0, 1) - CENTRE).T, upper=False)
    covariance = torch.cov(unit)
    assert float((covariance - torch.eye(12, dtype=torch.float64)).abs().max()) < 0.06


def test_each_kind_gets_its_share() -> None:
    # 30 % of the integral lies beyond the edge of pure disks; the climbs have it the wrong way round
    count, beyond = 200, CENTRE.clone()
    beyond[SHARE] = -(EDGE + 1.0)
    narrow = COVARIANCE.clone()
    narrow[SHARE], narrow[:, SHARE] = 0, 0
    narrow[SHARE, SHARE] = 0.09
    laws = [
        torch.distributions.MultivariateNormal(CENTRE, COVARIANCE),
        torch.distributions.MultivariateNormal(beyond, narrow),
    ]

    def target(points: Tensor) -> Tensor:
        return torch.logaddexp(laws[0].log_prob(points) + math.log(0.7), laws[1].log_prob(points) + math.log(0.3))

    maxima = [
        maximum_at(CENTRE, torch.linalg.inv(COVARIANCE), 0.0, count),
        maximum_at(beyond, torch.linalg.inv(narrow), 3.0, count),
        maximum_at(-beyond, torch.linalg.inv(narrow), -math.inf, count),
    ]
    samples = two_rounds(target, propose(maxima, None, lambda points: target(points) + 0.5), 11)
    chosen = samples.resample(128, torch.Generator().manual_seed(12))
    pure = (kind_of(chosen) == 1).double().mean(1)
    assert float(pure.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(samples.ln_evidence.exp().mean()) == pytest.approx(1, abs=0.02)


def test_resampling_is_fair() -> None:
    points = torch.arange(7, dtype=torch.float64)[:, None, None].expand(7, 400, 12).clone()
    weight = torch.tensor([0.31, 0.0, 0.17, 0.02, 0.25, 0.2, 0.05], dtype=torch.float64)
    proposal = one_student_t(CENTRE, COVARIANCE, 400)
    drawn_with = proposal.log_prob(points)
    samples = Samples(points, weight.log()[:, None] + drawn_with, drawn_with, (proposal,), (7,))
    torch.testing.assert_close(samples.weight, weight[:, None].expand(7, 400), rtol=1e-9, atol=1e-12)
    drawn = samples.resample(50, torch.Generator().manual_seed(13))[..., 0]
    counts = torch.stack([(drawn == value).sum(1) for value in range(7)], 1).double()
    # as little added noise as can be: each point floor or ceil of its share
    assert float((counts - 50 * weight).abs().max()) < 1
    assert float((counts.mean(0) - 50 * weight).abs().max()) < 0.15
    # and the first ten are fair draws, too
    first = torch.stack([(drawn[:, :10] == value).double().mean(1) for value in range(7)], 1).mean(0)
    assert float((first - weight).abs().max()) < 5 * math.sqrt(0.25 / 4000)
    # an effective number: a closed form
    assert float(samples.effective[0]) == pytest.approx(1 / float((weight**2).sum()))


def test_a_proposal_that_is_far_off_says_so() -> None:
    root = torch.linalg.cholesky(COVARIANCE)
    away = root @ torch.full((12,), 4.0, dtype=torch.float64)
    samples = two_rounds(normal_target, one_student_t(CENTRE + away, COVARIANCE / 25, 20), 14)
    assert float(samples.effective.median()) < 20
    found = exact._Found(torch.zeros(20, 1, 12), samples.effective, torch.ones(20), samples.ln_evidence, PIXELS)
    assert (exact._judged(found) & int(Flag.FEW_SAMPLES)).astype(bool).mean() > 0.9
    # a good one does not
    good = two_rounds(normal_target, one_student_t(CENTRE, COVARIANCE, 20), 15)
    found = exact._Found(torch.zeros(20, 1, 12), good.effective, torch.ones(20), good.ln_evidence, PIXELS)
    assert (exact._judged(found) == 0).all()
