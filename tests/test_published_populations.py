"""Populations of GaMorNet and GaMPEN: the recipe's ranges and shares, densities, and exact posteriors under them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from galstress.galaxy import Galaxies, half_light_radius
from galstress.population import load_population

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
