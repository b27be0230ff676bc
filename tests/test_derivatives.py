"""The images' derivatives against differences of images: the renderer's own, and GalSim's."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from galstress.galaxy import Galaxies, component_ellipticity
from galstress.rendering import PARAMETERS, from_parameters, render, render_derivatives, to_parameters
from galstress.simulation import survey_psf
from galstress.survey import Survey, available_surveys

STAMP = 32


def draw_galaxies(count: int, seed: int, least_px: float = 1.0) -> Galaxies:
    """Elongated galaxies off the centre, their components at angles of their own."""
    rng = np.random.default_rng(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.tensor(rng.uniform(low, high, (count, *shape)))

    middle = (STAMP - 1) / 2
    return Galaxies(
        flux=uniform(10, 1000),
        bulge_to_total=uniform(0.1, 0.9),
        x=uniform(middle - 3, middle + 3),
        y=uniform(middle - 3, middle + 3),
        sersic_index=uniform(0.55, 5.9, 2),
        radius=torch.exp(uniform(np.log(least_px), np.log(STAMP / 3), 2)),
        axis_ratio=uniform(0.25, 0.85, 2),
        angle=uniform(0, np.pi, 2),
    )


def lopsided_psfs(survey: str, count: int) -> tuple[torch.Tensor, int]:
    """PSFs with a second, fainter core beside the first: no symmetry, a complex transform, each image its own."""
    psf, oversampling, _ = survey_psf(Survey.load(survey), STAMP)
    psf = psf.double()
    both = [psf + 0.2 * torch.roll(psf, (place + 1, 2), (0, 1)) for place in range(count)]
    return torch.stack([one / one.sum() for one in both]), oversampling


def differences(galaxies: Galaxies, place: int, psf: torch.Tensor, oversampling: int) -> torch.Tensor:
    """Central differences of accurate images in one parameter."""
    centre = to_parameters(galaxies)
    step = 1e-4 * (centre[:, place] if PARAMETERS[place] == "flux" else torch.ones(len(galaxies)))
    images = []
    for sign in (1, -1):
        moved = centre.clone()
        moved[:, place] += sign * step
        images.append(render(from_parameters(moved), psf, oversampling, STAMP, tolerance=1e-7))
    return (images[0] - images[1]) / (2 * step[:, None, None])


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(N,) largest difference, in units of the largest value of each image."""
    return (found - expected).abs().amax((-2, -1)) / expected.abs().amax((-2, -1))


# ---- the parameters ------------------------------------------------------------------------------------------------


def test_parameters_go_there_and_back_and_mean_what_they_say() -> None:
    galaxies = draw_galaxies(20, 3)
    values = to_parameters(galaxies)
    back = from_parameters(values)
    for name in ("flux", "bulge_to_total", "x", "y", "sersic_index", "radius", "axis_ratio"):
        torch.testing.assert_close(getattr(back, name), getattr(galaxies, name), rtol=1e-12, atol=1e-12)
    apart = torch.remainder(back.angle - galaxies.angle + np.pi / 2, np.pi) - np.pi / 2
    assert float(apart.abs().max()) < 1e-12
    by_name = dict(zip(PARAMETERS, values.unbind(-1), strict=True))
    e1, e2 = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
    for part, name in enumerate(("disk", "bulge")):
        circular = galaxies.radius[:, part] * galaxies.axis_ratio[:, part].sqrt()
        torch.testing.assert_close(by_name[f"{name}_ln_radius"].exp(), circular)
        torch.testing.assert_close(by_name[f"{name}_sersic_index"], galaxies.sersic_index[:, part])
        torch.testing.assert_close(by_name[f"{name}_e1"], e1[:, part])
        torch.testing.assert_close(by_name[f"{name}_e2"], e2[:, part])


def test_impossible_ellipticities_end_inside_the_disk() -> None:
    values = to_parameters(draw_galaxies(3, 4))
    values[:, 8:] *= 50
    back = from_parameters(values)
    size = (1 - back.axis_ratio) / (1 + back.axis_ratio)
    assert float(size.max()) <= 0.97 + 1e-12
    angle = 0.5 * torch.atan2(values[:, 10:], values[:, 8:10])
    torch.testing.assert_close(back.angle, angle)


# ---- against differences of the renderer's own images --------------------------------------------------------------


@pytest.mark.parametrize("name", available_surveys())
def test_every_derivative_agrees_with_differences(name: str) -> None:
    galaxies = draw_galaxies(4, 50 + len(name))
    psf, oversampling, _ = survey_psf(Survey.load(name), STAMP)
    psf = psf.double()[None]
    sharp = render_derivatives(galaxies, psf, oversampling, STAMP, tolerance=1e-7)
    usual = render_derivatives(galaxies, psf, oversampling, STAMP)
    assert usual.shape == (4, len(PARAMETERS), STAMP, STAMP)
    assert usual.dtype == torch.float64
    peak = render(galaxies, psf, oversampling, STAMP).amax((1, 2))
    for place, parameter in enumerate(PARAMETERS):
        expected = differences(galaxies, place, psf, oversampling)
        assert float(largest_error(sharp[:, place], expected).max()) < 2e-6, parameter
        # what the usual tolerance neglects is a share of the galaxy's peak, not of a faint component's
        unit = galaxies.flux if parameter == "flux" else torch.ones(4)
        off = (usual[:, place] - expected).abs().amax((1, 2)) * unit / peak
        assert float(off.max()) < 1e-3, parameter


def test_psfs_without_symmetry_each_image_its_own() -> None:
    galaxies = draw_galaxies(3, 61)
    psf, oversampling = lopsided_psfs("euclid-vis", 3)
    found = render_derivatives(galaxies, psf, oversampling, STAMP, tolerance=1e-7)
    for place, parameter in enumerate(PARAMETERS):
        expected = differences(galaxies, place, psf, oversampling)
        assert float(largest_error(found[:, place], expected).max()) < 2e-6, parameter
    # and each galaxy alone gives the same
    for row in range(3):
        only = slice(row, row + 1)
        alone = render_derivatives(galaxies.select(only), psf[only], oversampling, STAMP, tolerance=1e-7)
        assert float(largest_error(alone[0], found[row]).max()) < 1e-3  # images agree to 2e-6 of the peak


def test_round_components_have_derivatives() -> None:
    # q = 1 is where the usual parameters (axis ratio, angle) have a cusp
    galaxies = dataclasses.replace(draw_galaxies(2, 62), axis_ratio=torch.ones(2, 2, dtype=torch.float64))
    psf, oversampling, _ = survey_psf(Survey.load("hsc-wide-i"), STAMP)
    psf = psf.double()[None]
    found = render_derivatives(galaxies, psf, oversampling, STAMP, tolerance=1e-7)
    for place in range(6, 12):
        expected = differences(galaxies, place, psf, oversampling)
        assert float(largest_error(found[:, place], expected).max()) < 2e-6, PARAMETERS[place]


def test_what_is_not_there_changes_nothing() -> None:
    galaxies = dataclasses.replace(draw_galaxies(2, 63), bulge_to_total=torch.tensor([0.0, 1.0]).double())
    psf, oversampling, _ = survey_psf(Survey.load("sdss-r"), STAMP)
    found = render_derivatives(galaxies, psf.double()[None], oversampling, STAMP)
    for place, parameter in enumerate(PARAMETERS[4:], start=4):
        absent = 0 if parameter.startswith("bulge") else 1
        assert float(found[absent, place].abs().max()) == 0, parameter
        assert float(found[1 - absent, place].abs().max()) > 0, parameter
    # B/T itself is seen: more bulge is less disk
    assert float(found[:, 1].abs().amax((1, 2)).min()) > 0


def test_no_galaxies_and_single_precision() -> None:
    psf, oversampling, _ = survey_psf(Survey.load("hsc-wide-i"), STAMP)
    galaxies = draw_galaxies(2, 64)
    nothing = render_derivatives(galaxies.select(slice(0, 0)), psf[None].double(), oversampling, STAMP)
    assert nothing.shape == (0, len(PARAMETERS), STAMP, STAMP)
    double = render_derivatives(galaxies, psf[None].double(), oversampling, STAMP)
    single = render_derivatives(galaxies.to(dtype=torch.float32), psf[None], oversampling, STAMP)
    assert single.dtype == torch.float32
    for place, parameter in enumerate(PARAMETERS):
        assert float(largest_error(single[:, place].double(), double[:, place]).max()) < 1e-3, parameter


# ---- against GalSim ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euclid-vis", "hsc-wide-i"])
def test_derivatives_agree_with_differences_of_galsim(name: str) -> None:
    pytest.importorskip("galsim")
    spec = importlib.util.spec_from_file_location(
        "renderer_benchmark", Path(__file__).parents[1] / "benchmarks" / "renderer.py"
    )
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    galaxies = dataclasses.replace(
        draw_galaxies(1, 66, least_px=4.0), sersic_index=torch.tensor([[0.9, 3.1]], dtype=torch.float64)
    )
    psf, oversampling, _ = survey_psf(Survey.load(name), STAMP)
    found = render_derivatives(galaxies, psf.double()[None], oversampling, STAMP).numpy()
    seen_through = bench.judge_psf(psf, oversampling)
    centre = to_parameters(galaxies)
    for place, parameter in enumerate(PARAMETERS):
        step = 0.01 * (float(centre[0, 0]) if parameter == "flux" else 1)
        images = []
        for sign in (1, -1):
            moved = centre.clone()
            moved[0, place] += sign * step
            images.append(bench.judge(from_parameters(moved), 0, seen_through, STAMP))
        expected = (images[0] - images[1]) / (2 * step)
        error = np.abs(found[0, place] - expected).max() / np.abs(expected).max()
        assert error < 5e-4, parameter
