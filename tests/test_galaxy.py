"""Curves of growth, half-light radii, shapes and transforms against scipy, closed forms and numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, special

from galstress.galaxy import (
    Galaxies,
    component_ellipticity,
    galaxies_from_table,
    growth,
    half_light_radius,
    sersic_b,
    shape_from_ellipticity,
    table_from_galaxies,
)
from galstress.optics import add_correlated_noise, make_psf, measure_fwhm, normalise_psf
from galstress.profiles import sersic_coefficients, sersic_surface_brightness, sersic_transform
from galstress.survey import Psf

INDEX = torch.tensor([0.5, 0.8, 1.0, 2.3, 4.0, 6.0], dtype=torch.float64)


def test_b_is_the_inverse_incomplete_gamma() -> None:
    expected = special.gammaincinv(2 * INDEX.numpy(), 0.5)
    assert np.abs(sersic_b(INDEX).numpy() / expected - 1).max() < 1e-6


def test_growth_is_the_integral_of_the_profile() -> None:
    radius = torch.linspace(1e-4, 8, 40_001, dtype=torch.float64)
    for n in INDEX[:4]:
        ring = 2 * np.pi * radius * sersic_surface_brightness(radius, n)
        inside = torch.cumulative_trapezoid(ring, radius)
        assert float((inside - growth(radius[1:], n)).abs().max()) < 2e-4


def test_half_light_radius_solves_its_equation() -> None:
    rng = np.random.default_rng(2)

    def two(low: float, high: float) -> torch.Tensor:
        return torch.tensor(rng.uniform(low, high, (60, 2)))

    share = torch.tensor(np.clip(rng.uniform(-0.2, 1.2, 60), 0, 1))
    one = torch.ones(60, dtype=torch.float64)
    galaxies = Galaxies(one, share, one, one, two(0.5, 6), torch.exp(two(-1, 2)), two(0.1, 1), two(0, 3))
    found = half_light_radius(galaxies).numpy()
    for row in range(60):
        circular = (galaxies.radius[row] * galaxies.axis_ratio[row].sqrt()).numpy()
        n, weight = galaxies.sersic_index[row].numpy(), np.array([1 - share[row], share[row]])

        def excess(radius: float, circular=circular, n=n, weight=weight) -> float:
            b = special.gammaincinv(2 * n, 0.5)
            return float((weight * special.gammainc(2 * n, b * (radius / circular) ** (1 / n))).sum() - 0.5)

        assert found[row] == pytest.approx(optimize.brentq(excess, 1e-4, 1e3, xtol=1e-12), rel=1e-5)


def test_half_light_radius_is_differentiable() -> None:
    def value(ratio: torch.Tensor) -> torch.Tensor:
        one, two = torch.ones(1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        radius = torch.stack([one, ratio], -1)
        index = torch.tensor([[1.0, 4.0]], dtype=torch.float64)
        return half_light_radius(Galaxies(one, 0.4 * one, one, one, index, radius, 0.7 * two, 0 * two))

    ratio = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(ratio).sum(), ratio)
    with torch.no_grad():
        expected = (value(ratio + 1e-4) - value(ratio - 1e-4)) / 2e-4
    assert float(gradient) == pytest.approx(float(expected), rel=1e-4)


def test_transforms_of_gaussian_and_exponential() -> None:
    k2 = torch.logspace(-3, 3, 200, dtype=torch.float64)[None]
    exact = {0.5: torch.exp(-k2 / (4 * np.log(2))), 1.0: (1 + k2 / 1.6783469900166605**2) ** -1.5}
    for n, expected in exact.items():
        found = sersic_transform(k2, sersic_coefficients(torch.tensor([n], dtype=torch.float64)))
        assert float((found - expected).abs().max()) < 2e-5


def test_ellipticity_and_back() -> None:
    ratio, angle = torch.tensor([0.2, 0.7, 0.95]), torch.tensor([-1.2, 0.3, 1.4])
    again = shape_from_ellipticity(*component_ellipticity(ratio, angle))
    assert torch.allclose(again[0], ratio, atol=1e-5)
    assert torch.allclose(again[1], angle, atol=1e-4)


def test_table_and_back() -> None:
    rng = np.random.default_rng(1)
    one = torch.tensor(rng.uniform(0.2, 0.9, 5))
    two = torch.tensor(rng.uniform(0.3, 0.9, (5, 2)))
    galaxies = Galaxies(10 * one, one, 30 * one, 31 * one, 4 * two, 6 * two, two, 3 * two)
    again = galaxies_from_table(table_from_galaxies(galaxies, 0.2, 3.5), 0.2, 3.5)
    for name in ("flux", "bulge_to_total", "x", "y", "sersic_index", "radius", "axis_ratio"):
        assert torch.allclose(getattr(galaxies, name), getattr(again, name)), name
    turn = (galaxies.angle - again.angle) / np.pi
    assert torch.allclose(turn, turn.round(), atol=1e-9)


@pytest.mark.parametrize(
    "psf",
    [
        Psf("moffat", 0.7, beta=3.0, e1=0.05, e2=-0.03),
        Psf("kolmogorov", 0.7),
        Psf("airy", 0.08, diameter_m=2.4, wavelength_nm=814, obscuration=0.33, jitter_arcsec=0.02),
    ],
    ids=lambda psf: psf.kind,
)
def test_psfs_agree_with_galsim(psf: Psf) -> None:
    galsim = pytest.importorskip("galsim")
    scale, oversampling, size = (0.2, 2, 121) if psf.kind != "airy" else (0.03, 2, 161)
    ours = make_psf(psf, scale, oversampling, size).numpy()
    settings = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5)
    if psf.kind == "moffat":
        profile = galsim.Moffat(beta=psf.beta, fwhm=psf.fwhm_arcsec, gsparams=settings).shear(g1=psf.e1, g2=psf.e2)
    elif psf.kind == "kolmogorov":
        profile = galsim.Kolmogorov(fwhm=psf.fwhm_arcsec, gsparams=settings)
    else:
        airy = galsim.Airy(
            lam=psf.wavelength_nm, diam=psf.diameter_m, obscuration=psf.obscuration, scale_unit="arcsec",
            gsparams=settings,
        )  # fmt: skip
        profile = galsim.Convolve(airy, galsim.Gaussian(sigma=psf.jitter_arcsec))
    whole = galsim.Convolve(profile, galsim.Pixel(scale), gsparams=settings)
    theirs = whole.drawImage(nx=size, ny=size, scale=scale / oversampling, method="no_pixel").array
    # ours is cut at the edge and sums to 1: compare the shapes
    core = slice(size // 2 - 12, size // 2 + 13)
    ours, theirs = (a[core, core] / a[core, core].sum() for a in (ours, theirs))
    assert np.abs(ours - theirs).max() < 3e-4 * theirs.max()


def test_width_of_a_gaussian_image() -> None:
    axis = torch.arange(61) - 30.0
    image = torch.exp(-0.5 * (axis[:, None] ** 2 + axis[None] ** 2) / 4.0**2)[None]
    assert float(measure_fwhm(image, 2)[0]) == pytest.approx(4 * 2.3548 / 2, rel=0.02)


def test_normalised_psf_is_odd_centred_and_sums_to_one() -> None:
    image = torch.zeros(2, 20, 24)
    image[:, 9, 12], image[:, 9, 13] = 3.0, 1.0
    psf = normalise_psf(image)
    assert psf.shape[-1] == psf.shape[-2] == 19
    assert torch.allclose(psf.sum((1, 2)), torch.ones(2))
    assert int(psf[0].argmax()) == 9 * 19 + 9
    with pytest.raises(ValueError, match="finite"):
        normalise_psf(torch.full((5, 5), float("nan")))


def test_correlated_noise_keeps_its_rms() -> None:
    white = torch.randn(20, 64, 64, generator=torch.Generator().manual_seed(1))
    noise = add_correlated_noise(white, 1.5)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / (1.5 / 2.3548)) ** 2)
    expected = (kernel[1:] * kernel[:-1]).sum() / (kernel**2).sum()
    assert float((noise[..., 1:] * noise[..., :-1]).mean()) == pytest.approx(expected, abs=0.02)
