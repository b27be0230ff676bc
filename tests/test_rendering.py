"""The renderer against GalSim, its own derivatives, and its memory."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from galstress.galaxy import Galaxies
from galstress.rendering import draw_truth, render
from galstress.simulation import simulate, survey_psf
from galstress.survey import Survey, available_surveys

pytest.importorskip("galsim")
_spec = importlib.util.spec_from_file_location(
    "renderer_benchmark", Path(__file__).parents[1] / "benchmarks" / "renderer.py"
)
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


@pytest.mark.parametrize("name", available_surveys())
def test_agrees_with_galsim(name: str) -> None:
    # benchmarks/renderer.py accuracy --count 200 is the whole of it
    peaks, fluxes, refused = bench.compare(Survey.load(name), 3, seed=41)
    assert refused == 0
    assert peaks.max() < 2e-4
    assert np.abs(fluxes).max() < 1e-3


def test_every_derivative_agrees_with_finite_differences() -> None:
    psf, oversampling, _ = survey_psf(Survey.load("euclid-vis"), 32)
    galaxies = bench.draw_galaxies(3, 32, 5, least_px=2.0)
    weights = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(changed: Galaxies) -> torch.Tensor:
        return (render(changed, psf.double()[None], oversampling, 32) * weights).sum((1, 2))

    for field in dataclasses.fields(galaxies):
        leaf = getattr(galaxies, field.name).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(dataclasses.replace(galaxies, **{field.name: leaf})).sum(), leaf)
        step = 1e-4 * leaf.detach().abs().clamp_min(0.1)
        for place in range(leaf[0].numel()):
            moved = []
            for sign in (1, -1):
                at = leaf.detach().clone().view(3, -1)
                at[:, place] += sign * step.view(3, -1)[:, place]
                moved.append(value(dataclasses.replace(galaxies, **{field.name: at.view(leaf.shape)})).detach())
            expected = (moved[0] - moved[1]) / (2 * step.view(3, -1)[:, place])
            found = gradient.view(3, -1)[:, place]
            scale = expected.abs().clamp_min(1e-3 * float(expected.abs().max()))
            assert float(((found - expected) / scale).abs().max()) < 1e-4, (field.name, place)


def test_neighbours_add_up() -> None:
    psf, oversampling, _ = survey_psf(Survey.load("hsc-wide-i"), 48)
    galaxies = bench.draw_galaxies(5, 48, 7).to(dtype=torch.float32)
    owner = torch.tensor([0, 0, 2, 2, 2])
    together = render(galaxies, psf[None].expand(3, -1, -1), oversampling, 48, owner=owner, count=3)
    apart = render(galaxies, psf[None].expand(5, -1, -1), oversampling, 48)
    peak = float(apart.max())
    assert float((together[0] - apart[:2].sum(0)).abs().max()) < 1e-4 * peak
    assert float((together[2] - apart[2:].sum(0)).abs().max()) < 1e-4 * peak
    assert float(together[1].abs().max()) == 0


def test_shared_and_copied_psfs_give_the_same() -> None:
    psf, oversampling, _ = survey_psf(Survey.load("hst-candels-f814w"), 48)
    galaxies = bench.draw_galaxies(4, 48, 8).to(dtype=torch.float32)
    shared = render(galaxies, psf[None].expand(4, -1, -1), oversampling, 48)
    copied = render(galaxies, psf[None].repeat(4, 1, 1), oversampling, 48)
    assert float((shared - copied).abs().max() / shared.max()) < 1e-5


def test_a_quarter_turn_of_the_galaxy_is_one_of_the_image() -> None:
    drawn = simulate("hsc-wide-i", 3, seed=3, stamp_px=48, noise=False)
    turned = drawn.truth.copy()
    x, y = np.asarray(drawn.truth["x_px"]), np.asarray(drawn.truth["y_px"])
    turned["x_px"], turned["y_px"] = 47 - y, x
    for part in ("disk", "bulge"):
        name = f"{part}_position_angle_deg"
        turned[name] = np.asarray(drawn.truth[name]) + 90
    image = draw_truth(turned, drawn.psf, drawn.psf_oversampling, drawn.survey, 48)
    assert float((image - torch.rot90(drawn.images, 1, (2, 1))).abs().max() / image.max()) < 1e-4


def test_a_thousand_galaxies_fit_into_two_gibibytes() -> None:
    code = (
        "import resource, torch\n"
        "from galstress.simulation import survey_psf\n"
        "from galstress.survey import Survey\n"
        "from galstress.rendering import render\n"
        "from galstress.galaxy import Galaxies\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "psf, oversampling, _ = survey_psf(Survey.load('hsc-wide-i'), 64)\n"
        "one, two = torch.ones(1024), torch.ones(1024, 2)\n"
        "g = Galaxies(one, 0.4 * one, 31 * one, 33 * one, 2 * two, 5 * two, 0.6 * two, 0.3 * two)\n"
        "render(g, psf[None].expand(1024, -1, -1), oversampling, 64)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024**2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0
