"""Populations: the written rule, the density against a histogram, and the catalogue they came from."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from galstress.errors import UnknownNameError
from galstress.galaxy import half_light_radius
from galstress.population import available_populations, load_population


def draw(name: str, count: int, seed: int = 3):
    return load_population(name).sample(count, torch.Generator().manual_seed(seed))


def test_rule_holds_15_percent_pure_disks_and_5_percent_pure_bulges() -> None:
    share = draw("cosmos", 40_000).bulge_to_total
    for value, expected in ((0.0, 0.15), (1.0, 0.05)):
        found = float((share == value).float().mean())
        assert abs(found - expected) < 0.01 + 3 * math.sqrt(expected * (1 - expected) / 40_000)


def test_whole_radius_and_magnitude_follow_the_table() -> None:
    population, galaxies = load_population("cosmos"), draw("cosmos", 20_000)
    radius, magnitude = torch.log(half_light_radius(galaxies)), 31.4 - 2.5 * torch.log10(galaxies.flux)
    for drawn, column, kernel in ((magnitude, 0, 0.15), (radius, 1, 0.1)):
        table = population.table[:, column]
        assert abs(float(drawn.mean() - table.mean())) < 4 * float(drawn.std()) / math.sqrt(20_000) + 0.02
        assert float(drawn.var()) == pytest.approx(float(table.var()) + kernel**2, rel=0.05)


@pytest.mark.parametrize("name", available_populations())
def test_one_seed_one_answer(name: str) -> None:
    first, second, other = draw(name, 50), draw(name, 50), draw(name, 50, seed=4)
    assert torch.equal(first.radius, second.radius)
    assert not torch.equal(first.radius, other.radius)


def test_nearby_is_cosmos_brought_closer() -> None:
    # surface brightness inside the half-light radius does not change with distance
    brightness = []
    for name in ("cosmos", "nearby"):
        galaxies = draw(name, 20_000)
        brightness.append(torch.log(galaxies.flux / half_light_radius(galaxies) ** 2))
    assert abs(float(brightness[0].median() - brightness[1].median())) < 0.05
    ratio = (
        torch.log(half_light_radius(draw("nearby", 20_000))).mean()
        - torch.log(half_light_radius(draw("cosmos", 20_000))).mean()
    )
    assert float(ratio) == pytest.approx(math.log(15) / 2, abs=0.05)


@pytest.mark.parametrize("name", available_populations())
def test_what_is_drawn_has_a_density(name: str) -> None:
    assert bool(torch.isfinite(load_population(name).log_prob(draw(name, 400))).all())


@pytest.mark.parametrize("name", ["cosmos", "nearby"])
def test_density_is_that_of_the_samples(name: str) -> None:
    galaxies = draw(name, 400)
    log_prob = load_population(name).log_prob(galaxies)
    # moved in one coordinate alone, the density must change by that coordinate's closed form
    moved = galaxies.to(dtype=torch.float64)
    step = 0.02 * torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    index = moved.sersic_index.clone()
    mixed = (moved.bulge_to_total > 0) & (moved.bulge_to_total < 1)
    index[:, 0] = (index[:, 0].log() + step).exp().clamp(0.5, 6.0)
    changed = dataclasses.replace(moved, sersic_index=index)
    # the half-light radius moves with the index too: bring it back, so that only the index has changed
    scale = half_light_radius(moved) / half_light_radius(changed)
    changed = dataclasses.replace(changed, radius=changed.radius * scale[:, None])
    shifted = load_population(name).log_prob(changed)
    before = -0.5 * (moved.sersic_index[:, 0].log() / 0.15) ** 2
    after = -0.5 * (index[:, 0].log() / 0.15) ** 2
    difference = (shifted - log_prob - (after - before))[mixed]
    assert float(difference.abs().max()) < 1e-3


def test_outside_the_support_there_is_nothing() -> None:
    galaxies = draw("cosmos", 4)
    flipped = dataclasses.replace(galaxies, axis_ratio=galaxies.axis_ratio.flip(-1) * torch.tensor([1.0, 0.5]))
    assert bool((load_population("cosmos").log_prob(flipped) == -math.inf).all())


def test_unknown_population_names_the_known() -> None:
    with pytest.raises(UnknownNameError, match=", ".join(sorted(available_populations()))):
        load_population("virgo")


def test_table_is_small_and_derived() -> None:
    table = np.asarray(load_population("cosmos").table)
    assert table.shape == (4000, 4)
    assert np.isfinite(table).all()
