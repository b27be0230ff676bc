"""Redshift and the width of the PSF: against closed forms, GalSim, and the noise that the survey has."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from astropy.table import MaskedColumn
from scipy.integrate import quad

from galstress import battery
from galstress.cutouts import Cutouts, empty_catalogue
from galstress.errors import InputError
from galstress.galaxy import Galaxies, table_from_galaxies
from galstress.optics import add_correlated_noise, measure_fwhm
from galstress.perturbations import PERTURBATIONS, Redshift
from galstress.perturbations.redshift import is_redshift_assumed, move_by_redshift
from galstress.perturbations.shrinking import shrink_pixels
from galstress.rendering import draw_truth
from galstress.report.stability import report_changes
from galstress.simulation import simulate, survey_psf
from galstress.survey import Survey

SURVEY = Survey.load("hsc-wide-i")
PIXELS = PERTURBATIONS["pixel-redshift"]
REDRAWN = PERTURBATIONS["redrawn-redshift"]
WIDTH = PERTURBATIONS["psf-width"]


def some_galaxies(count, size, radius_px, seed=3):
    """Two components at different angles, off the centre."""
    rng = np.random.default_rng(seed)

    def uniform(low, high, *shape):
        return torch.as_tensor(rng.uniform(low, high, (count, *shape)))

    middle = (size - 1) / 2
    return Galaxies(
        uniform(500, 900), uniform(0.2, 0.6), uniform(middle - 2, middle + 2), uniform(middle - 2, middle + 2),
        uniform(0.7, 2.5, 2), uniform(0.6, 1.2, 2) * radius_px, uniform(0.3, 0.9, 2), uniform(0, math.pi, 2),
    )  # fmt: skip


def cutouts_of(images, survey=SURVEY, rms=None, **fields):
    """Images as a record with the survey's PSF; without ``rms`` with next to no noise."""
    count, size = len(images), images.shape[-1]
    psf, oversampling, fwhm = survey_psf(survey, size)
    rms = 1e-6 if rms is None else rms
    blank = torch.zeros(images.shape, dtype=torch.bool)
    return Cutouts(
        images, torch.full_like(images, rms**2), blank, blank.clone(), psf.expand(count, -1, -1), oversampling,
        torch.full((count,), fwhm), torch.full((count,), rms), survey,
        empty_catalogue([f"object-{i}" for i in range(count)]), **fields,
    )  # fmt: skip


def scene(count=3, size=96, radius_px=6.0, survey=SURVEY):
    """Galaxies without noise, and their truth."""
    galaxies = some_galaxies(count, size, radius_px)
    truth = table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)
    psf, oversampling, _ = survey_psf(survey, size)
    images = draw_truth(truth, psf[None], oversampling, survey, size)
    return cutouts_of(images, survey, truth=truth)


def plain(column):
    return np.asarray(getattr(column, "value", column))


# --- the record -----------------------------------------------------------------------------


def comoving_mpc(z):
    """Line-of-sight distance in the flat universe of H0 = 70, matter 0.3, with no astropy in it."""
    return 299_792.458 / 70 * quad(lambda x: (0.3 * (1 + x) ** 3 + 0.7) ** -0.5, 0, z)[0]


@pytest.mark.parametrize(("near", "far"), [(0.01, 0.1), (0.1, 0.5), (0.1, 1.0), (0.5, 2.0)])
def test_ratios_are_those_of_the_closed_forms(near, far):
    move = Redshift(near, far)
    luminous = [comoving_mpc(z) * (1 + z) for z in (near, far)]
    # FERENGI's magnification without the pixels' scale
    size = luminous[0] / luminous[1] * (1 + far) ** 2 / (1 + near) ** 2
    assert move.size_ratio == pytest.approx(size, rel=1e-6)
    assert move.flux_ratio == pytest.approx((luminous[0] / luminous[1]) ** 2 * (1 + far) / (1 + near), rel=1e-6)
    # AB magnitudes in the same rest-frame band: the cube. A factor that is overwritten by the distances' gives 1
    assert move.surface_brightness_ratio == pytest.approx(((1 + near) / (1 + far)) ** 3, rel=1e-9)


def test_k_correction_evolution_and_cosmology_are_arguments():
    from astropy.cosmology import FlatLambdaCDM

    plain_move = Redshift(0.1, 0.6)
    brighter = Redshift(0.1, 0.6, evolution_mag_per_z=-1.0)
    assert brighter.flux_ratio / plain_move.flux_ratio == pytest.approx(10 ** (0.4 * 0.5))
    fainter = Redshift(0.1, np.array([0.6, 0.6]), k_correction_mag=np.array([0.0, 0.75]))
    assert -2.5 * np.log10(fainter.flux_ratio / plain_move.flux_ratio) == pytest.approx([0, 0.75])
    assert fainter.size_ratio == pytest.approx(plain_move.size_ratio)
    # Einstein-de Sitter: d_A = 2c/H0 (1 - (1+z)^-1/2) / (1 + z)
    eds = Redshift(0.1, 0.6, cosmology=FlatLambdaCDM(70, 1.0))
    distance = [(1 - (1 + z) ** -0.5) / (1 + z) for z in (0.1, 0.6)]
    assert eds.size_ratio == pytest.approx(distance[0] / distance[1], rel=1e-6)


@pytest.mark.parametrize(("near", "far"), [(0.3, 0.2), (0.0, 0.5), (-0.1, 0.5), (0.1, math.nan)])
def test_galaxies_never_come_nearer(near, far):
    with pytest.raises(InputError, match="0 < z_from <= z_to"):
        Redshift(near, far)
    for perturbation in (PIXELS, REDRAWN):
        with pytest.raises(InputError, match="never nearer"):
            perturbation(scene(1, 32, 3.0), -0.1)


# --- the operator on pixels -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["hsc-wide-i", "hst-acs-f814w"])
def test_shrunk_pixels_are_what_galsim_draws_farther_away(name):
    galsim = pytest.importorskip("galsim")
    survey = Survey.load(name)
    size, middle = 128, 63.5
    settings = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7)
    psf, oversampling, _ = survey_psf(survey, size)
    seen = galsim.InterpolatedImage(
        galsim.Image(psf.double().numpy(), scale=1 / oversampling), x_interpolant="lanczos15", normalization="flux",
        gsparams=settings,
    )  # fmt: skip

    def draw(index, radius, flux):
        profile = galsim.Sersic(n=index, half_light_radius=radius, flux=flux, gsparams=settings).shear(
            q=0.6, beta=0.7 * galsim.radians
        )
        image = galsim.Convolve(profile, seen, gsparams=settings).drawImage(
            nx=size, ny=size, scale=1, method="no_pixel"
        )
        return image.array.astype(float)

    indices = (1.0, 2.5)
    near = torch.tensor(np.stack([draw(n, 7.0, 1000.0) for n in indices])).float()
    y, x = np.mgrid[:size, :size] - middle
    for added in (0.1, 0.6):
        move = Redshift(0.1, 0.1 + added)
        ours = PIXELS(cutouts_of(near, survey), added).images.double().numpy()
        theirs = np.stack([draw(n, 7.0 * move.size_ratio, 1000.0 * move.flux_ratio) for n in indices])
        inside = np.hypot(x, y) < 0.45 * size * move.size_ratio
        for ring in (inside, np.hypot(x, y) < 8 * move.size_ratio):
            assert (ours * ring).sum((1, 2)) == pytest.approx((theirs * ring).sum((1, 2)), rel=1e-3)
        assert (np.abs(ours - theirs) * inside).max() < 1e-3 * theirs.max()
        assert ours.sum((1, 2)) == pytest.approx(near.double().numpy().sum((1, 2)) * move.flux_ratio, rel=1e-4)


def test_both_ways_draw_the_same_galaxy():
    cutouts = scene()
    for added in (0.1, 0.9):
        shrunk, redrawn = PIXELS(cutouts, added), REDRAWN(cutouts, added)
        peak = redrawn.images.amax((1, 2))
        assert ((shrunk.images - redrawn.images).abs().amax((1, 2)) / peak).max() < 1e-3
        for name in shrunk.truth.colnames:
            assert plain(shrunk.truth[name]) == pytest.approx(plain(redrawn.truth[name])), name
        ratios = plain(redrawn.truth["half_light_radius_arcsec"]) / plain(cutouts.truth["half_light_radius_arcsec"])
        assert ratios == pytest.approx(float(Redshift(0.1, 0.1 + added).size_ratio))
        fainter = plain(redrawn.truth["mag_ab"]) - plain(cutouts.truth["mag_ab"])
        assert fainter == pytest.approx(-2.5 * math.log10(Redshift(0.1, 0.1 + added).flux_ratio))


def test_a_star_keeps_the_width_of_the_psf():
    """Shrinking narrows the PSF, the kernel widens it again: the star's image is the PSF's."""
    psf, oversampling, fwhm = survey_psf(SURVEY, 65)
    star = psf[::oversampling, ::oversampling]
    star = torch.nn.functional.pad(star, ((65 - len(star)) // 2,) * 4)[None] * 1000
    moved = PIXELS(cutouts_of(star), 0.4)
    assert measure_fwhm(moved.images, 1)[0] == pytest.approx(float(measure_fwhm(star, 1)[0]), rel=5e-3)
    assert moved.psf_fwhm_px[0] == fwhm
    expected = star * float(Redshift(0.1, 0.5).flux_ratio)
    assert (moved.images - expected).abs().max() < 1e-3 * expected.max()


def test_known_redshifts_are_used_and_others_assumed():
    cutouts = scene(3)
    cutouts.catalogue["redshift"] = MaskedColumn([0.3, 0.0, -9.0], mask=[False, True, False])
    assert is_redshift_assumed(cutouts).tolist() == [False, True, True]
    for perturbation in (PIXELS, REDRAWN):
        moved = perturbation(cutouts, 0.2)
        wanted = [Redshift(z, z + 0.2).flux_ratio for z in (0.3, 0.1, 0.1)]
        assert plain(moved.truth["flux_njy"]) / plain(cutouts.truth["flux_njy"]) == pytest.approx(wanted)
        assert moved.images.sum((1, 2)) / cutouts.images.sum((1, 2)) == pytest.approx(wanted, rel=5e-3)
        assert float(moved.catalogue["redshift"][0]) == pytest.approx(0.5)
        assert moved.catalogue["redshift"].mask.tolist() == [False, True, True]
    other = shrink_pixels(cutouts, 0.2, torch.Generator(), assumed_redshift=0.4, evolution_mag_per_z=-0.5)
    wanted = Redshift(0.4, 0.6, evolution_mag_per_z=-0.5).flux_ratio
    assert plain(other.truth["flux_njy"])[1] / plain(cutouts.truth["flux_njy"])[1] == pytest.approx(float(wanted))


def test_outputs_move_by_name():
    cutouts = scene(1)
    names = ["flux_njy", "bulge_flux_njy", "mag_ab", "half_light_radius_arcsec", "disk_half_light_radius_arcsec"]
    names += ["x_px", "bulge_to_total", "e1", "bulge_sersic_index"]
    values = np.array([[10.0, 4.0, 20.0, 2.0, 3.0, 50.0, 0.4, 0.1, 3.0]])
    move, moved = Redshift(0.1, 0.5), move_by_redshift(names, values, 0.4, cutouts)[0]
    size, flux = float(move.size_ratio), float(move.flux_ratio)
    expected = [10 * flux, 4 * flux, 20 - 2.5 * math.log10(flux), 2 * size, 3 * size, 47.5 + 2.5 * size, 0.4, 0.1, 3.0]
    assert moved == pytest.approx(expected)


def test_pixels_refuse_what_they_cannot_give():
    cutouts = scene(1)
    cutouts.catalogue["redshift"] = MaskedColumn([1.7])
    with pytest.raises(InputError, match="times as large"):
        PIXELS(cutouts, 0.6)
    assert plain(REDRAWN(cutouts, 0.6).truth["half_light_radius_arcsec"]) > plain(
        cutouts.truth["half_light_radius_arcsec"]
    )
    with pytest.raises(InputError, match="noise"):
        shrink_pixels(scene(1), 0.2, torch.Generator(), evolution_mag_per_z=-20.0)
    structured = simulate("hsc-wide-i", 3, stamp_px=48, structured=True)
    if structured.truth["structured"].any():
        with pytest.raises(InputError, match="pixel-redshift"):
            REDRAWN(structured, 0.1)


# --- noise ----------------------------------------------------------------------------------


def lag_correlations(noise):
    """Correlation with the next pixel along x, along y, and with the one after."""
    power = (noise**2).mean()
    pairs = [(noise[:, :, 1:], noise[:, :, :-1]), (noise[:, 1:], noise[:, :-1]), (noise[:, :, 2:], noise[:, :, :-2])]
    return [float((first * second).mean() / power) for first, second in pairs]


@pytest.mark.parametrize(("perturbation", "amount"), [(PIXELS, 0.05), (PIXELS, 0.4), (WIDTH, 1.25), (WIDTH, 2.0)])
@pytest.mark.parametrize("correlation", [0.0, 1.8])
def test_the_sky_s_noise_stays_the_survey_s(perturbation, amount, correlation):
    survey = dataclasses.replace(SURVEY, noise_correlation_fwhm_px=correlation)
    white = torch.randn(250, 41, 41, generator=torch.Generator().manual_seed(1))
    noise = 0.7 * add_correlated_noise(white, correlation)
    changed = perturbation(cutouts_of(noise, survey, rms=0.7), amount, 5)
    variance = changed.images.var(0)
    # in the middle, where old noise is left, at the edge, where none is, and on the seam between
    spread = math.sqrt(2 / 250)
    assert variance.mean() == pytest.approx(0.49, rel=0.01)
    assert (variance / 0.49).std() == pytest.approx(spread, rel=0.25)
    assert (variance / 0.49 - 1).abs().max() < 5.5 * spread
    before, after = lag_correlations(noise), lag_correlations(changed.images)
    # a little less correlated where little was shrunk: old noise has short waves there that the survey's lacks
    assert after == pytest.approx(before, abs=0.015 if correlation == 0 else 0.03)
    assert changed.variance[~changed.mask] == pytest.approx(0.49, rel=2e-3)
    edge = 9 if perturbation is WIDTH else 0  # a blurred border leans on what lies beyond
    assert not changed.mask[:, edge : 41 - edge, edge : 41 - edge].any()
    assert torch.equal(changed.sky_rms, torch.full((250,), 0.7))


@pytest.mark.parametrize(("perturbation", "amount"), [(PIXELS, 0.2), (WIDTH, 1.5), (REDRAWN, 0.2)])
def test_noise_on_galaxies_is_that_of_sky_and_light(perturbation, amount):
    clean, size = scene(40, 48, 3.0), 48
    light = clean.images.clamp_min(0) * 30
    clean.truth["flux_njy"] *= 30
    for part in ("disk", "bulge"):
        clean.truth[f"{part}_flux_njy"] *= 30
    clean = dataclasses.replace(
        clean, images=clean.images * 30, variance=SURVEY.sky_rms**2 + light * SURVEY.photon_variance,
        sky_rms=torch.full((40,), SURVEY.sky_rms),
    )  # fmt: skip
    clean.truth["snr"] = np.ones(40)
    white = torch.randn(40, size, size, generator=torch.Generator().manual_seed(2))
    noisy = dataclasses.replace(clean, images=clean.images + clean.variance.sqrt() * white)
    changed = perturbation(noisy, amount, 4)
    model = draw_truth(changed.truth, changed.psf, changed.psf_oversampling, SURVEY, size)
    expected = SURVEY.sky_rms**2 + model.clamp_min(0) * SURVEY.photon_variance
    assert (expected / SURVEY.sky_rms**2).max() > 2  # photons of the galaxies do count
    good = ~changed.mask
    assert good.float().mean() > 0.4
    assert (changed.variance / expected - 1)[good].abs().max() < 0.03
    pull = (changed.images - model) / changed.variance.sqrt()
    assert pull[good].std() == pytest.approx(1, abs=0.02)
    assert pull[good & (model > SURVEY.sky_rms)].std() == pytest.approx(1, abs=0.05)
    assert changed.truth["snr"] == pytest.approx((model**2 / expected * good).sum((1, 2)).sqrt().numpy(), rel=0.02)


def test_what_lies_beyond_a_lit_edge_is_masked():
    cutouts = scene(2, 64, 4.0)
    loud = dataclasses.replace(cutouts, sky_rms=torch.ones(2), variance=torch.ones_like(cutouts.variance))
    lit = dataclasses.replace(loud, images=loud.images.clone())
    lit.images[1] += 5.0
    mask = PIXELS(lit, 0.1).mask
    assert not mask[0].any()
    y, x = torch.meshgrid(*(torch.arange(64) - 31.5 for _ in range(2)), indexing="ij")
    reach = torch.maximum(x.abs(), y.abs()) / float(Redshift(0.1, 0.2).size_ratio)
    assert mask[1][reach > 34].all()
    assert not mask[1][reach < 27].any()


def test_noise_is_an_object_s_own():
    cutouts = scene(3, 48, 3.0)
    for perturbation, amount in ((PIXELS, 0.3), (WIDTH, 1.5)):
        loud = dataclasses.replace(cutouts, variance=cutouts.variance + 1, sky_rms=torch.ones(3))
        whole = perturbation(loud, amount, 3).images
        assert torch.allclose(perturbation(loud.select([2, 0]), amount, 3).images, whole[[2, 0]], atol=1e-3)
        assert not torch.allclose(perturbation(loud, amount, 4).images, whole, atol=0.1)


def test_masks_shrink_and_ignored_pixels_do_not_leak():
    cutouts = scene(1, 64, 4.0)
    cutouts.neighbour_mask[0, 40:52, 8:20] = True
    cutouts.mask[0, 40:52, 8:20] = True
    dirty = dataclasses.replace(cutouts, images=cutouts.images.clone(), mask=cutouts.mask.clone())
    dirty.images[0, 44, 12] = torch.nan
    dirty.images[0, 30, 34] = torch.inf  # one dead pixel beside the centre, not even masked
    moved, clean = PIXELS(dirty, 0.1), PIXELS(cutouts, 0.1)
    assert torch.isfinite(moved.images).all()
    place = clean.neighbour_mask[0].nonzero().double().mean(0) - 31.5
    old = cutouts.neighbour_mask[0].nonzero().double().mean(0) - 31.5
    size = float(Redshift(0.1, 0.2).size_ratio)
    assert place.tolist() == pytest.approx((old * size).tolist(), abs=0.5)
    assert clean.neighbour_mask.sum() == pytest.approx(144 * size**2, rel=0.15)
    assert (clean.mask & clean.neighbour_mask).sum() == clean.neighbour_mask.sum()
    assert (clean.variance[clean.mask & (clean.variance == torch.inf)] > 0).all()
    apart = (moved.images - clean.images).abs() * ~moved.mask
    assert apart.max() < 0.02 * clean.images.max()


# --- the width of the PSF -------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.0])
@pytest.mark.parametrize("name", ["hsc-wide-i", "hst-acs-f814w"])
def test_a_wider_psf_is_that_of_the_pixels(name, factor):
    cutouts = scene(2, 128, 5.0, Survey.load(name))
    wide = WIDTH(cutouts, factor)
    ratio = measure_fwhm(wide.psf, wide.psf_oversampling) / measure_fwhm(cutouts.psf, cutouts.psf_oversampling)
    assert ratio == pytest.approx(factor, rel=5e-3)
    assert wide.psf_fwhm_px == pytest.approx(cutouts.psf_fwhm_px * factor)
    drawn = draw_truth(wide.truth, wide.psf, wide.psf_oversampling, wide.survey, 128)
    inner = slice(24, -24)
    apart = (wide.images - drawn)[:, inner, inner].abs().amax((1, 2)) / drawn.amax((1, 2))
    assert apart.max() < 1e-3
    assert wide.images.sum() == pytest.approx(float(cutouts.images.sum()), rel=2e-3)


def test_a_gaussian_psf_widens_in_squares():
    """Where the PSF is Gaussian its convolution is, too: a star's second moments grow by sigma^2 (f^2 - 1)."""
    y, x = torch.meshgrid(*(torch.arange(61.0) - 30 for _ in range(2)), indexing="ij")

    def gauss(sigma):
        image = torch.exp(-0.5 * (x**2 + y**2) / sigma**2)
        return (image / image.sum())[None]

    star = cutouts_of(gauss(2.0) * 100)
    star = dataclasses.replace(
        star, psf=gauss(2.0), psf_oversampling=1, psf_fwhm_px=torch.tensor([2.0 * math.sqrt(8 * math.log(2))])
    )
    wide = WIDTH(star, 1.5)
    assert (wide.images / 100 - gauss(3.0)).abs().max() < 6e-3 * gauss(3.0).max()
    assert (wide.psf - gauss(3.0)).abs().max() < 6e-3 * gauss(3.0).max()


def test_sharper_is_refused():
    with pytest.raises(InputError, match="never sharper"):
        WIDTH(scene(1, 32, 3.0), 0.9)


# --- in the battery and on the page ---------------------------------------------------------


class Answer:
    """Sums and radii of the pixels, with a sigma of a tenth."""

    names, units = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy"), ("", "arcsec", "nJy")

    def __init__(self, cutouts):
        truth = [plain(cutouts.truth[name]) for name in self.names]
        truth[2] = cutouts.images.sum((1, 2)).double().numpy() * cutouts.survey.unit_njy
        self.mean = np.stack(truth, 1)
        self.covariance = np.eye(3) * (0.1 * self.mean[:, None]) ** 2
        self.flags = cutouts.flags


def test_the_battery_follows_and_says_what_was_assumed(tmp_path):
    cutouts = scene(4)
    cutouts.catalogue["redshift"] = MaskedColumn([0.3, 0.2, 0, 0], mask=[False, False, True, True])
    amounts = {"pixel-redshift": (0, 0.1, 0.4), "redrawn-redshift": (0, 0.4), "psf-width": (1, 1.5)}
    table = battery.stress(Answer, cutouts, ("redshift", "psf-width"), amounts=amounts)
    assert (np.abs(table["shift"]) / table["expected"]).max() < 5e-3  # the pixels' flux goes where the rule says
    assert table.meta["assumptions"] == ["redshift: z = 0.1 before the move, assumed for 2 of 4 objects"]
    assumed = table["assumed"] & (table["perturbation"] == "redshift")
    assert set(table["object_id"][assumed]) == {"object-2", "object-3"}
    assert not table["assumed"][table["kind"] == "psf-width"].any()
    stored = battery.read_table(battery.write_table(table, tmp_path / "stress.parquet")[0])
    assert stored.meta["assumptions"] == table.meta["assumptions"]
    sections = report_changes({name: np.asarray(stored[name]) for name in stored.colnames})
    assert [section.key for section in sections] == ["redshift", "psf-width"]
    assert "assumed for 2 of 4 galaxies" in sections[0].groups[0].note
    assert len(sections[0].groups) == 2
    assert report_changes(None) == ()
