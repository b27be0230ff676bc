"""Populations of GaMorNet and GaMPEN: the recipe's ranges and shares, densities, and exact posteriors under them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from galstress.cutouts import Flag
from galstress.galaxy import Galaxies, half_light_radius
from galstress.heads import INTERNAL_NAMES, Reference, to_internal
from galstress.population import load_population
from galstress.refinement import fit
from galstress.refinement.coordinates import from_natural, to_natural
from galstress.refinement.priors import SHARE, make_prior
from galstress.scores import truth_values
from galstress.simulation import simulate
from galstress.survey import Survey

GAMORNET = ("gamornet-sdss", "gamornet-candels")
GAMPEN = ("gampen-hsc-g", "gampen-hsc-r", "gampen-hsc-i", "gampen-sdss", "gampen-hst")
PX = {"gamornet-sdss": 0.396, "gamornet-candels": 0.06}
# GALFIT's: magnitudes and radii (pixels) of disks, radii of bulges, least axis ratio
RECIPE = {"gamornet-sdss": ((15, 22), (10, 30), (4, 17), 0.3), "gamornet-candels": ((19, 30), (1, 20), (1, 14), 0.25)}
TURN = math.radians(15)


def draw(name: str, count: int, seed: int = 3) -> Galaxies:
    return load_population(name).sample(count, torch.Generator().manual_seed(seed)).to(dtype=torch.float64)


def mag_of(flux: torch.Tensor) -> torch.Tensor:
    return 31.4 - 2.5 * torch.log10(flux)


def evenness(values: torch.Tensor, low: float = 0.0, high: float = 1.0) -> float:
    """P-value of an even distribution between two numbers."""
    assert low - 1e-4 * (high - low) <= float(values.min()) < float(values.max()) <= high + 1e-4 * (high - low)
    return stats.kstest(values.numpy(), "uniform", (low, high - low)).pvalue


def relative_turn(galaxies: Galaxies) -> torch.Tensor:
    turn = galaxies.angle[:, 1] - galaxies.angle[:, 0]
    return torch.remainder(turn + math.pi / 2, math.pi) - math.pi / 2


# ---- GaMorNet's ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"), [("gamornet-sdss", (0.455, 0.090, 0.455)), ("gamornet-candels", (0.466, 0.068, 0.466))]
)
def test_shares_of_the_classes_are_the_recipes(name, expected):
    share = draw(name, 200_000).bulge_to_total
    found = [(share < 0.45), (share >= 0.45) & (share <= 0.55), (share > 0.55)]
    for inside, wanted in zip(found, expected, strict=True):
        sigma = math.sqrt(wanted * (1 - wanted) / 200_000)
        assert float(inside.double().mean()) == pytest.approx(wanted, abs=3 * sigma + 5e-4)  # it is rounded to 0.1 %
    # 3.2 magnitudes either way
    faint = 1 / (1 + 10**1.28)
    assert float(share.min()) == pytest.approx(faint, abs=2e-4)
    assert float(share.max()) == pytest.approx(1 - faint, abs=2e-4)


@pytest.mark.parametrize("name", GAMORNET)
def test_components_are_even_as_the_recipe_has_them(name):
    (bright, faint), disk_px, bulge_px, least = RECIPE[name]
    galaxies = draw(name, 20_000)
    disk_mag = mag_of(galaxies.flux * (1 - galaxies.bulge_to_total))
    bulge_mag = mag_of(galaxies.flux * galaxies.bulge_to_total)
    assert evenness(disk_mag, bright, faint) > 1e-3
    if name == "gamornet-sdss":  # as its three cases say, in words of the released code
        low = torch.where(disk_mag < 18.2, 15 - disk_mag, -3.2)
        high = torch.where(disk_mag > 18.8, 22 - disk_mag, 3.2)
        assert evenness((bulge_mag - disk_mag - low) / (high - low)) > 1e-3
    else:
        assert evenness(bulge_mag - disk_mag, -3.2, 3.2) > 1e-3
    for place, limits in enumerate((disk_px, bulge_px)):
        assert evenness(galaxies.radius[:, place] / PX[name], *limits) > 1e-3
        assert evenness(galaxies.axis_ratio[:, place], least, 1) > 1e-3
    assert evenness(relative_turn(galaxies), -TURN, TURN) > 1e-3
    assert evenness(galaxies.angle[:, 0], 0, math.pi) > 1e-3
    assert float((galaxies.sersic_index.log() - torch.tensor([1.0, 4.0]).log()).std(0).max()) < 0.011


def gamornet_density(name: str, galaxies: Galaxies) -> np.ndarray:
    """Ln density by scipy: of both magnitudes, carried over to total magnitude and B/T by finite differences."""
    (bright, faint), disk_px, bulge_px, least = RECIPE[name]
    flux, share, radius, ratio = (
        getattr(galaxies, n).numpy() for n in ("flux", "bulge_to_total", "radius", "axis_ratio")
    )

    def both(mag: np.ndarray, share: np.ndarray) -> np.ndarray:
        return np.stack([mag - 2.5 * np.log10(1 - share), mag - 2.5 * np.log10(share)])

    mag = 31.4 - 2.5 * np.log10(flux)
    disk, bulge = both(mag, share)
    step = 1e-5
    columns = [(both(mag + step, share) - both(mag - step, share)) / (2 * step)]
    columns += [(both(mag, share + step) - both(mag, share - step)) / (2 * step)]
    volume = np.abs(columns[0][0] * columns[1][1] - columns[0][1] * columns[1][0])
    low, high = (disk - 3.2, disk + 3.2)
    if name == "gamornet-sdss":
        low, high = np.maximum(low, bright), np.minimum(high, faint)
    value = stats.uniform.logpdf(disk, bright, faint - bright) + stats.uniform.logpdf(bulge, low, high - low)
    value += np.log(volume)
    for k, limits in enumerate((disk_px, bulge_px)):
        size = np.array(limits) * PX[name]
        value += stats.uniform.logpdf(radius[:, k], size[0], size[1] - size[0]) + np.log(radius[:, k])
        value += stats.uniform.logpdf(ratio[:, k], least, 1 - least)
        value += stats.norm.logpdf(np.log(galaxies.sersic_index[:, k].numpy()), math.log((1, 4)[k]), 0.01)
    return value + stats.uniform.logpdf(relative_turn(galaxies).numpy(), -TURN, 2 * TURN) - math.log(math.pi)


@pytest.mark.parametrize("name", GAMORNET)
def test_density_of_gamornets_by_scipy(name):
    galaxies = draw(name, 300)
    moved = dataclasses.replace(galaxies, bulge_to_total=(galaxies.bulge_to_total * 1.02).clamp(0.06, 0.94))
    for each in (galaxies, moved):
        expected, found = gamornet_density(name, each), load_population(name).log_prob(each).numpy()
        assert np.isfinite(found).mean() > 0.9
        assert found == pytest.approx(expected, abs=1e-5)


# ---- GaMPEN's ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GAMPEN)
def test_gampens_are_even_in_bulge_radius_and_flux(name):
    population, galaxies = load_population(name), draw(name, 4000)
    values = [half_light_radius(galaxies), galaxies.flux]
    limits = [population.radius_arcsec, population.flux_njy]
    if population.logarithmic:
        values = [torch.log(each) for each in values]
        limits = [tuple(map(math.log, each)) for each in limits]
    for value, ends in zip(values, limits, strict=True):
        assert evenness(value, *ends) > 1e-3
    assert evenness(galaxies.bulge_to_total) > 1e-3
    disk, bulge = galaxies.axis_ratio.unbind(-1)
    assert evenness(disk, 0.25, 1) > 1e-3
    assert evenness((torch.log(bulge) / torch.log(disk))[disk < 0.99]) > 1e-3
    ratio = torch.log(galaxies.radius[:, 1] / galaxies.radius[:, 0]).numpy()
    assert stats.kstest(ratio, "norm", (math.log(0.35), 0.4)).pvalue > 1e-3
    assert stats.kstest(relative_turn(galaxies).numpy(), "norm", (0, math.radians(10))).pvalue > 1e-3


def test_the_demonstration_sets_ranges_are_the_populations():
    population = load_population("gampen-hsc-g")
    unit = 10 ** (-0.4 * (27 - 31.4))  # nJy of one ADU at HSC's zero point
    assert population.radius_arcsec == (0.193, 4.317)
    assert population.flux_njy == pytest.approx((1405 * unit, 131388 * unit))
    assert mag_of(torch.tensor(population.flux_njy)).tolist() == pytest.approx([19.13, 14.20], abs=0.006)


# ---- all -----------------------------------------------------------------------------------------------------------

WINDOWS = {
    # magnitude, half-light radius in arcsec, B/T, ratio of the radii, disk's axis ratio
    "gamornet-sdss": ((15.4, 20.4), (3.6, 4.4), (0.25, 0.75), (0.41, 0.57), (0.62, 1.0)),
    "gamornet-candels": ((19.4, 28.4), (0.2, 0.4), (0.25, 0.75), (0.35, 0.75), (0.6, 1.0)),
    "gampen-hsc-g": ((14.3, 16.5), (0.5, 4.0), (0.1, 0.9), (0.2, 0.6), (0.3, 0.95)),
    "gampen-hst": ((19.0, 24.0), (0.1, 1.2), (0.1, 0.9), (0.2, 0.6), (0.3, 0.95)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_known_distribution_inside_the_support_has_the_mean_ratio_one(name):
    # the mean over the population's samples of q / p is the integral of q, whatever q is, if p is their density
    windows, count = WINDOWS[name], 400_000 if name in GAMORNET else 60_000
    galaxies = draw(name, count, seed=11)
    coordinates = [mag_of(galaxies.flux), None, galaxies.bulge_to_total]
    coordinates += [galaxies.radius[:, 1] / galaxies.radius[:, 0], galaxies.axis_ratio[:, 0]]
    inside = torch.ones(count, dtype=torch.bool)
    for value, (low, high) in zip(coordinates, windows, strict=True):
        if value is not None:
            inside &= (value > low) & (value < high)
    chosen = galaxies.select(torch.nonzero(inside)[:, 0])
    radius = half_light_radius(chosen)
    chosen = chosen.select(torch.nonzero((radius > windows[1][0]) & (radius < windows[1][1]))[:, 0])
    ln_radius = torch.log(half_light_radius(chosen))
    # q: even in magnitude, radius, ln of the ratio, disk's axis ratio and angle; a bump in B/T; normal indices
    mag, size, share, ratio, disk = windows
    ln_q = -sum(math.log(high - low) for low, high in (mag, size, disk)) - math.log(math.log(ratio[1] / ratio[0]))
    ln_q = ln_q + ln_radius - math.log(math.pi)
    place = (chosen.bulge_to_total - share[0]) / (share[1] - share[0])
    ln_q = ln_q + torch.log(6 * place * (1 - place) / (share[1] - share[0]))
    for k in range(2):
        ln_index = torch.log(chosen.sersic_index[:, k] / (1, 4)[k]).numpy()
        ln_q = ln_q + torch.as_tensor(stats.norm.logpdf(ln_index, 0, 0.009))
    turn, least = relative_turn(chosen).numpy(), 0.3 if name == "gamornet-sdss" else 0.25
    if name in GAMORNET:
        ln_q = ln_q + torch.as_tensor(stats.uniform.logpdf(turn, -0.9 * TURN, 1.8 * TURN)) - math.log(1 - least)
    else:  # the bulge's shape halfway: even in q_b between q_d and 1
        ln_q = ln_q + torch.as_tensor(stats.norm.logpdf(turn, 0, 0.15)) - torch.log(1 - chosen.axis_ratio[:, 0])
    weight = torch.zeros(count, dtype=torch.float64)
    weight[: len(chosen)] = (ln_q - load_population(name).log_prob(chosen)).exp()
    error = float(weight.std()) / math.sqrt(count)
    assert error < 0.05
    assert float(weight.mean()) == pytest.approx(1, abs=3.5 * error)


@pytest.mark.parametrize("name", [*GAMORNET, *GAMPEN])
def test_outside_of_the_ranges_there_is_nothing(name):
    population, galaxies = load_population(name), draw(name, 40)
    assert bool(torch.isfinite(population.log_prob(galaxies)).all())
    far = (
        {"flux": galaxies.flux * 1e5},
        {"radius": galaxies.radius * 100},
        {"radius": galaxies.radius / 100},
        {"bulge_to_total": torch.zeros(40, dtype=torch.float64)},
        {"bulge_to_total": torch.ones(40, dtype=torch.float64)},
        {"axis_ratio": galaxies.axis_ratio * 0.2},
    )
    for changes in far:
        assert bool((population.log_prob(dataclasses.replace(galaxies, **changes)) == -math.inf).all()), changes
    # given the half-light radius, it is not computed again
    known = torch.log(half_light_radius(galaxies))
    assert population.log_prob(galaxies, known) == pytest.approx(population.log_prob(galaxies).numpy())


# ---- exact posteriors under them -----------------------------------------------------------------------------------


def internal_of(name: str, count: int, seed: int = 5) -> torch.Tensor:
    galaxies, one = draw(name, count, seed), torch.ones(count, dtype=torch.float64)
    return to_internal(galaxies, Reference(one, one, (0.0, 0.0), one))


def test_natural_coordinates_hold_bulges_flatter_than_their_disks():
    internal = internal_of("gamornet-sdss", 500)
    flatter = draw("gamornet-sdss", 500, 5).axis_ratio
    assert 0.4 < float((flatter[:, 1] < flatter[:, 0]).double().mean()) < 0.6
    back, ln_volume = from_natural(to_natural(internal, any_shape=True), any_shape=True)
    assert float((back - internal).abs().max()) < 1e-4
    # without them, half of the galaxies could not be told
    lost, _ = from_natural(to_natural(internal))
    assert 0.3 < float(((lost - internal).abs().amax(-1) > 1e-3).double().mean()) < 0.7
    # the volume element by finite differences
    natural, steps = to_natural(internal[:20], any_shape=True), 1e-5 * torch.eye(12, dtype=torch.float64)
    for row in range(20):
        ahead, behind = (from_natural(natural[row] + sign * steps, any_shape=True)[0] for sign in (1, -1))
        expected = torch.linalg.slogdet((ahead - behind) / 2e-5)[1]
        assert float(ln_volume[row]) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("name", [*GAMORNET, *GAMPEN])
def test_empty_kinds_borrow_a_stand_in(name):
    mixed, *pure = make_prior(name, {}).stand_ins(Survey.load("sdss-g"))
    assert mixed.ln_share == pytest.approx(0, abs=1e-3)
    assert mixed.any_shape == (name in GAMORNET)
    for normal, edge in zip(pure, (-1, 1), strict=True):
        assert normal.ln_share < -9
        assert edge * float(normal.centre[SHARE]) > math.log(99)
        assert bool(torch.linalg.eigvalsh(normal.precision).min() > 0)
    both = make_prior({name: 0.5, "cosmos": 0.5}, {}).stand_ins(Survey.load("sdss-g"))
    assert [math.exp(each.ln_share) for each in both[1:]] == pytest.approx([0.075, 0.025], abs=0.01)


@pytest.mark.parametrize(("name", "survey"), [("gamornet-sdss", "sdss-g"), ("gampen-hsc-g", "hsc-wide-g")])
def test_prior_in_natural_coordinates_integrates_to_one(name, survey):
    # drawn from a normal distribution about the stand-in, but for ellipticities: even in a disk
    prior, seen, count = make_prior(name, {}), Survey.load(survey), 60_000
    normal, generator = prior.stand_ins(seen)[0], torch.Generator().manual_seed(4)
    free = [place for place in range(12) if INTERNAL_NAMES[place] not in ("x", "y", "e1", "e2")]
    covariance = torch.linalg.inv(normal.precision)[free][:, free]
    law = stats.multivariate_t(normal.centre[free].numpy(), 1.3 * covariance.numpy(), df=8)
    natural = torch.zeros(count, 12, dtype=torch.float64)
    natural[:, free] = torch.as_tensor(law.rvs(count, random_state=1))
    size, angle = torch.rand(2, count, generator=generator, dtype=torch.float64)
    for place, part in (("e1", torch.cos(2 * math.pi * angle)), ("e2", torch.sin(2 * math.pi * angle))):
        natural[:, INTERNAL_NAMES.index(place)] = 0.7 * size * part
    internal, ln_volume = from_natural(natural, any_shape=normal.any_shape)
    one = torch.ones(count, dtype=torch.float64)
    ln_p = prior.log_prob(internal[None], Reference(one, one, (0.0, 0.0), one), seen)[0] + ln_volume
    ln_q = torch.as_tensor(law.logpdf(natural[:, free].numpy())) - torch.log(2 * math.pi * 0.7 * 0.7 * size)
    weight = torch.where(torch.isfinite(ln_p), (ln_p - ln_q).exp(), 0.0)
    error = float(weight.std()) / math.sqrt(count)
    assert error < 0.06
    assert float(weight.mean()) == pytest.approx(1, abs=3.5 * error)


@pytest.mark.parametrize(
    ("prior", "survey"), [("gamornet-sdss", "sdss-g"), ({"gampen-hsc-g": 1}, "hsc-wide-g")], ids=["gamornet", "gampen"]
)
def test_exact_posterior_of_well_exposed_galaxies_holds_the_truth(prior, survey):
    name = prior if isinstance(prior, str) else next(iter(prior))
    drawn = simulate(dataclasses.replace(Survey.load(survey), electrons_per_unit=20.0), 120, 8, name, stamp_px=56)
    truth, side = drawn.truth, 56 * drawn.survey.pixel_scale_arcsec
    fits = (np.asarray(truth["snr"]) > 60) & (truth["half_light_radius_arcsec"].value < 0.18 * side)
    chosen = drawn.select(np.flatnonzero(fits)[:6])
    assert len(chosen) == 6
    found = fit(chosen, prior, seed=1, effective=60)
    names = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
    true = truth_values(chosen.truth, names, ("", "arcsec", "nJy"))
    places = [found.names.index(each) for each in names]
    low, low68, middle, high68, high = found.quantile([0.005, 0.16, 0.5, 0.84, 0.995])[:, :, places]
    assert float(np.median(found.effective_samples)) > 45
    assert float(found.effective_samples.min()) > 10
    assert float((np.abs(found.chi_square - 1)).max()) < 0.15
    assert ((true >= low) & (true <= high)).sum() >= 17  # of 18, at 99 %
    pull = (true - middle) / ((high68 - low68) / 2)
    assert 0.4 < np.sqrt(np.mean(pull**2)) < 1.7
    assert (high68 - low68)[:, 0].max() < 0.4  # the image has told something


def test_galaxies_that_nothing_is_seen_of_are_flagged_and_stop_nothing():
    drawn = simulate("hst-wfc3-f160w", 60, 5, "gamornet-candels", stamp_px=32)
    snr = np.asarray(drawn.truth["snr"])
    found = fit(drawn.select([int(snr.argmin()), int(snr.argmax())]), "gamornet-candels", seed=1, effective=20)
    assert ((found.flags & int(Flag.FEW_SAMPLES)) != 0).tolist()[0]
    assert np.isfinite(found.mean).all()
