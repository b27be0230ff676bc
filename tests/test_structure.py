"""Structure on disks: what must not change, where the light goes, and the blur against closed forms and GalSim."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from galstress.cli import main
from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import Galaxies, growth, half_light_radius
from galstress.population import load_population
from galstress.profiles import sersic_surface_brightness
from galstress.recipes import load_recipe
from galstress.rendering import render
from galstress.simulation import simulate
from galstress.structure import Structure, draw_structure, redistribute

SIDE = 257


def gaussian_psf(sigma_px: float, oversampling: int, size: int = 41) -> torch.Tensor:
    axis = (torch.arange(size, dtype=torch.float64) - size // 2) / oversampling
    psf = torch.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / sigma_px**2)
    return (psf / psf.sum())[None].float()


def one_disk(radius: float = 14.0, ratio: float = 0.6, angle: float = 0.7, share: float = 0.0) -> Galaxies:
    def pair(disk: float, bulge: float) -> torch.Tensor:
        return torch.tensor([[float(disk), float(bulge)]])

    one = torch.ones(1)
    x, y = one * (SIDE - 1) / 2 + 0.3, one * (SIDE - 1) / 2 - 0.2
    return Galaxies(one, share * one, x, y, pair(1, 3), pair(radius, radius / 4), pair(ratio, 0.8), pair(angle, angle))


def with_values(clumps: int = 0, **values: float) -> Structure:
    none = Structure.none(1, clumps=clumps)
    return dataclasses.replace(none, **{k: torch.full_like(getattr(none, k), v) for k, v in values.items()})


ARMS = {"arm_number": 3, "arm_strength": 0.8, "arm_sharpness": 2.0, "arm_phase": 0.4, "arm_pitch_deg": 22}
BAR = {"bar_strength": 0.8, "bar_length": 0.8, "bar_angle": 0.5}
KINDS = {
    "arms": ARMS,
    "arms and bar": ARMS | BAR,
    "lopsided": {"lopsidedness": 0.5, "lopsided_phase": 1.0},
    "ring": {"ring_strength": 1.2, "ring_radius": 1.3, "ring_width": 0.2},
    "truncated": {"break_radius": 1.5, "break_ratio": 2.2},
    "up-bending": {"break_radius": 2.2, "break_ratio": 0.5},
    "dust": {"dust_depth": 1.5, "dust_width": 0.12, "dust_offset": 0.1, "dust_length": 1.4},
    "clumps": {"clumps": 1, "clump_share": 0.1, "clump_size": 0.05, "clump_radius": 1.4, "clump_angle": 0.6},
}


def drawn(count: int, seed: int, radius_px: float) -> tuple[Galaxies, Structure]:
    """Galaxies of one size and of flux 1 in the middle of a stamp, and their structure."""
    generator = torch.Generator().manual_seed(seed)
    sky = load_population("cosmos").sample(count, generator)
    pixels = sky.scaled(radius_px / half_light_radius(sky), 1 / sky.flux)
    middle = torch.full((count,), (SIDE - 1) / 2)
    galaxies = dataclasses.replace(pixels, x=middle + 0.3, y=middle - 0.2)
    galaxies = galaxies.select(galaxies.radius[:, 0] < SIDE / 12)
    return galaxies, draw_structure(galaxies, generator)


def disk_radius(galaxies: Galaxies) -> np.ndarray:
    """(N, H, W) deprojected distance from the disk's centre in half-light radii, written out again."""
    y, x = np.mgrid[:SIDE, :SIDE]
    out = []
    for i in range(len(galaxies)):
        a, q, angle = (float(t[i, 0]) for t in (galaxies.radius, galaxies.axis_ratio, galaxies.angle))
        dx, dy = x - float(galaxies.x[i]), y - float(galaxies.y[i])
        u, v = math.cos(angle) * dx + math.sin(angle) * dy, -math.sin(angle) * dx + math.cos(angle) * dy
        out.append(np.hypot(u, v / q) / a)
    return np.stack(out)


@pytest.mark.parametrize("kind", KINDS)
def test_flux_is_kept(kind):
    ratio = 0.3 if kind == "dust" else 0.6
    added = redistribute(one_disk(ratio=ratio), with_values(**KINDS[kind]), gaussian_psf(1.2, 2), 2, SIDE)
    assert added.abs().sum() > 0.02  # there is something to keep
    assert abs(float(added.sum())) < 1e-4


def test_flux_of_drawn_galaxies_is_kept():
    galaxies, structure = drawn(120, 7, 8.0)
    total = redistribute(galaxies, structure, gaussian_psf(1.2, 2), 2, SIDE).sum((1, 2)).abs()
    assert total.median() < 1e-4
    assert total.max() < 1e-3


@pytest.mark.parametrize("kind", ["arms", "arms and bar", "lopsided"])
def test_mean_on_deprojected_ellipses_is_kept(kind):
    side, scale, ratio, angle = 801, 80.0, 0.6, 0.7
    middle = torch.full((1,), side / 2)
    galaxies = dataclasses.replace(one_disk(radius=scale, ratio=ratio, angle=angle), x=middle, y=middle)
    sharp = redistribute(galaxies, with_values(**KINDS[kind]), torch.ones(1, 1, 1), 1, side)[0].double().numpy()
    theta = np.arange(720) * math.pi / 360
    for radius in (0.5, 0.8, 1.0, 1.4, 1.8, 2.3):
        u, v = scale * radius * np.cos(theta), scale * ratio * radius * np.sin(theta)
        places = [math.sin(angle) * u + math.cos(angle) * v, math.cos(angle) * u - math.sin(angle) * v]
        ring = ndimage.map_coordinates(sharp, np.stack(places) + side / 2, order=3)
        smooth = float(sersic_surface_brightness(torch.tensor(radius), torch.tensor(1.0))) / (scale**2 * ratio)
        assert np.abs(ring / smooth).mean() > 0.1
        assert abs((ring / smooth).mean()) < 1e-3
        assert (ring / smooth).min() > -1 - 1e-3


def test_light_is_nowhere_negative():
    galaxies, structure = drawn(120, 8, 8.0)
    psf = gaussian_psf(1.2, 2)
    image = render(galaxies, psf, 2, SIDE) + redistribute(galaxies, structure, psf, 2, SIDE)
    assert (image.amin((1, 2)) / image.amax((1, 2))).min() > -2e-4  # the accuracy of render


def test_half_light_radius_is_that_of_the_truth():
    galaxies, structure = drawn(150, 9, 11.0)
    added = redistribute(galaxies, structure, gaussian_psf(0.6, 2), 2, SIDE).double().numpy()
    radius, ratio = galaxies.radius.numpy(), galaxies.axis_ratio.numpy()
    share = galaxies.bulge_to_total.numpy()
    places = disk_radius(galaxies)
    errors = []
    for i in range(len(galaxies)):

        def inside(R: float, i: int = i) -> float:
            circular = torch.as_tensor(R / (radius[i] * np.sqrt(ratio[i])))
            smooth = growth(circular, galaxies.sersic_index[i]).numpy()
            moved = added[i][places[i] < float(circular[0])].sum()
            return float((1 - share[i]) * smooth[0] + share[i] * smooth[1] + moved)

        truth = float(half_light_radius(galaxies.select(slice(i, i + 1)))[0])
        grid = truth * np.linspace(0.8, 1.25, 46)
        errors.append(np.interp(0.5, np.maximum.accumulate([inside(R) for R in grid]), grid) / truth - 1)
    errors = np.abs(errors)
    assert np.quantile(errors, 0.9) < 0.01
    assert errors.max() < 0.03


def test_a_clump_is_a_gaussian_wider_by_the_psf():
    galaxies, psf = one_disk(radius=12.0), gaussian_psf(1.5, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, expected = [], []
    for place in (0.9, -2.0):
        clump = with_values(1, clump_share=0.2, clump_size=0.1, clump_radius=1.2, clump_angle=place)
        images.append(redistribute(galaxies, clump, psf, 2, SIDE)[0].double().numpy())
        u, v = 12 * 1.2 * math.cos(place), 12 * 0.6 * 1.2 * math.sin(place)
        x = float(galaxies.x) + math.cos(0.7) * u - math.sin(0.7) * v
        y = float(galaxies.y) + math.sin(0.7) * u + math.cos(0.7) * v
        sigma2 = (0.1 * 12) ** 2 + 1.5**2
        light = np.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2) / sigma2) / (2 * math.pi * sigma2)
        expected.append(0.2 * light)
    # the disk gives way alike for both, so the difference is that of two Gaussians
    away = (images[0] - images[1]) - (expected[0] - expected[1])
    assert np.abs(away).max() < 1e-3 * expected[0].max()


@pytest.mark.parametrize("oversampling", [2, 3, 4])
def test_convolution_agrees_with_galsim(oversampling):
    galsim = pytest.importorskip("galsim")
    fine, stamp_px, sigma = 4, 129, 1.3
    middle = torch.full((1,), 64.25)
    galaxies = dataclasses.replace(one_disk(radius=14.0, share=0.2), x=middle, y=middle + 0.25)
    structure = with_values(**ARMS | BAR | KINDS["ring"] | {"arm_number": 2, "arm_strength": 0.5})
    # the unblurred image, four samples a pixel, is a disk four times as large behind no PSF at all
    large = dataclasses.replace(galaxies.scaled(float(fine), 1.0), x=galaxies.x * fine, y=galaxies.y * fine)
    sharp = redistribute(large, structure, torch.ones(1, 1, 1), 1, (stamp_px - 1) * fine + 1)[0].double().numpy()
    psf = gaussian_psf(sigma, oversampling, 63)
    ours = redistribute(galaxies, structure, psf, oversampling, stamp_px)[0].double().numpy()
    # GalSim needs a total above 0: the structure on a Gaussian, whose blurred image has a closed form
    rows, columns = np.mgrid[: len(sharp), : len(sharp)] / fine

    def bump(rows: np.ndarray, columns: np.ndarray, width2: float) -> np.ndarray:
        return np.exp(-0.5 * ((rows - 64) ** 2 + (columns - 64) ** 2) / width2) / (2 * math.pi * width2)

    image = galsim.Image(sharp + bump(rows, columns, 64.0) / fine**2, scale=1 / fine)  # flux a sample
    light = galsim.InterpolatedImage(image, x_interpolant="lanczos7")
    theirs = galsim.Convolve(light, galsim.Gaussian(sigma=sigma)).drawImage(
        nx=stamp_px, ny=stamp_px, scale=1, method="no_pixel"
    )
    rows, columns = np.mgrid[:stamp_px, :stamp_px].astype(float)
    theirs = theirs.array - bump(rows, columns, 64.0 + sigma**2)
    assert np.abs(theirs - ours).max() < 3e-3 * np.abs(ours).max()


def test_turns_and_mirrors_turn_the_image():
    galaxies, structure = drawn(24, 10, 9.0)
    psf = gaussian_psf(1.2, 2)
    image = redistribute(galaxies, structure, psf, 2, SIDE)
    assert image.abs().amax() > 0
    for element in range(8):
        x, y, angle = galaxies.x - SIDE // 2, galaxies.y - SIDE // 2, galaxies.angle
        if element >= 4:
            x, angle = -x, math.pi - angle
        for _ in range(element % 4):
            x, y = -y, x
        turned = dataclasses.replace(
            galaxies, x=x + SIDE // 2, y=y + SIDE // 2, angle=angle + (element % 4) * math.pi / 2
        )
        ours = redistribute(turned, structure.turned(element), psf, 2, SIDE)
        expected = torch.rot90(image.flip(2) if element >= 4 else image, element % 4, (2, 1))
        assert (ours - expected).abs().max() < 2e-4 * image.abs().max()


def test_smooth_galaxies_and_pure_bulges_are_left_alone():
    galaxies, structure = drawn(20, 11, 9.0)
    psf = gaussian_psf(1.2, 2)
    assert (redistribute(galaxies, Structure.none(len(galaxies), clumps=3), psf, 2, 64) == 0).all()
    bulges = dataclasses.replace(galaxies, bulge_to_total=torch.ones(len(galaxies)))
    assert (redistribute(bulges, structure, psf, 2, 64) == 0).all()
    assert not draw_structure(bulges, torch.Generator().manual_seed(1)).is_present.any()


def test_a_batch_equals_one_by_one():
    galaxies, structure = drawn(12, 12, 6.0)
    psf = gaussian_psf(1.2, 2).expand(len(galaxies), -1, -1)
    together = redistribute(galaxies, structure, psf.clone(), 2, 96)
    assert (together - redistribute(galaxies, structure, psf, 2, 96)).abs().max() < 1e-7
    # what is moved is a difference of two images: single precision rounds each of them, not the difference
    light = render(galaxies, psf, 2, 96).abs().max()
    for i in range(len(galaxies)):
        one = slice(i, i + 1)
        alone = redistribute(galaxies.select(one), structure.select(one), psf[one], 2, 96)
        assert (alone[0] - together[i]).abs().max() < 1e-6 * light


def test_draws_repeat_and_are_what_they_claim():
    generator = torch.Generator().manual_seed(3)
    galaxies = load_population("cosmos").sample(4000, generator)
    first, again = (draw_structure(galaxies, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(getattr(first, f.name), getattr(again, f.name)) for f in dataclasses.fields(first))
    late = (galaxies.bulge_to_total < 0.2) & (galaxies.axis_ratio[:, 0] > 0.5)
    early = (galaxies.bulge_to_total > 0.8) & (galaxies.bulge_to_total < 1)
    assert 0.5 < (first.arm_strength[late] > 0).float().mean() < 0.8
    assert (first.arm_strength[early] > 0).float().mean() < 0.1
    assert 0.2 < (first.bar_strength[late] > 0).float().mean() < 0.33
    assert (first.dust_depth[galaxies.axis_ratio[:, 0] > 0.45] == 0).all()
    assert first.clump_share.sum(1).max() < 0.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"psf": torch.ones(1, 4, 4) / 16}, "psf"),
        ({"structure": Structure.none(2)}, "structure of 2"),
        ({"structure": with_values(arm_strength=1.5)}, "arm_strength"),
        ({"structure": with_values(lopsidedness=math.nan)}, "lopsidedness"),
        ({"stamp_px": 0}, "pixels"),
    ],
)
def test_bad_input_is_named(change, named):
    arguments = {
        "galaxies": one_disk(), "structure": Structure.none(1), "psf": gaussian_psf(1, 2), "psf_oversampling": 2,
        "stamp_px": 32,
    }  # fmt: skip
    with pytest.raises(InputError, match=named):
        redistribute(**arguments | change)


def test_there_are_eight_turns():
    with pytest.raises(InputError, match="element=8"):
        Structure.none(1).turned(8)


# ---- in simulated cutouts ------------------------------------------------------------------------------------------


def columns(cutouts: Cutouts, *but: str) -> dict[str, np.ndarray]:
    return {name: np.asarray(cutouts.truth[name]) for name in cutouts.truth.colnames if name not in but}


@pytest.mark.parametrize(("survey", "population"), [("euclid-vis", "cosmos"), ("sdss-r", "nearby")])
def test_simulated_structure_moves_light_and_nothing_else(survey, population):
    asked = {"survey": survey, "count": 120, "seed": 4, "population": population, "noise": False, "stamp_px": 192}
    smooth, drawn_ = simulate(**asked), simulate(**asked, structured=True)
    before, after = columns(smooth, "snr"), columns(drawn_, "snr", "structured")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    moved = (drawn_.images - smooth.images).double().numpy()
    flux = smooth.images.double().sum((1, 2)).numpy()
    is_structured = np.asarray(drawn_.truth["structured"])
    assert is_structured.dtype == bool
    assert is_structured.mean() > 0.8
    assert (is_structured == (np.abs(moved).max((1, 2)) > 0)).all()
    assert np.median(np.abs(moved).sum((1, 2))[is_structured] / flux[is_structured]) > 0.02
    pixel = smooth.survey.pixel_scale_arcsec
    inside = is_structured & (before["disk_half_light_radius_arcsec"] < 192 / 20 * pixel)
    assert inside.sum() > 60
    error = np.abs(moved.sum((1, 2)) / flux)[inside]
    assert np.quantile(error, 0.9) < 5e-4
    assert error.max() < 5e-3
    # the noise is that of the light as drawn
    expected = smooth.survey.sky_rms**2 + drawn_.images.clamp_min(0) * smooth.survey.photon_variance
    assert torch.allclose(drawn_.variance, expected, rtol=1e-6)
    snr = (drawn_.images.double() ** 2 / expected).sum((1, 2)).sqrt().numpy()
    assert np.asarray(drawn_.truth["snr"]) == pytest.approx(snr, rel=1e-4)


def test_neighbours_and_noise_stay_those_of_the_seed():
    asked = {"survey": "hsc-wide-i", "count": 12, "seed": 6, "neighbours": True, "stamp_px": 64}
    smooth, drawn_ = simulate(**asked), simulate(**asked, structured=True)
    assert (smooth.neighbours == drawn_.neighbours).all()
    light = {noise: simulate(**asked | {"noise": noise}, structured=True) for noise in (True, False)}
    own = (light[True].images - light[False].images) / light[True].variance.sqrt()
    plain = (smooth.images - simulate(**asked, noise=False).images) / smooth.variance.sqrt()
    assert torch.allclose(own, plain, atol=1e-3)
    # a generator that has gone on draws other structure on the same galaxies; the variance holds their clean light
    generator = torch.Generator().manual_seed(6)
    given = {"survey": "hsc-wide-i", "galaxies": smooth.truth, "stamp_px": 64, "seed": generator}
    first, second = (simulate(**given, structured=1.0).variance for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("neighbours", [False, True])
def test_without_structure_nothing_changes(neighbours):
    asked = {"survey": "hsc-wide-i", "count": 6, "seed": 3, "neighbours": neighbours, "stamp_px": 64}
    left_out, *refused = (simulate(**asked, **more) for more in ({}, {"structured": False}, {"structured": 0.0}))
    for other in refused:
        assert torch.equal(left_out.images, other.images)
        assert torch.equal(left_out.variance, other.variance)
        assert left_out.truth.colnames == other.truth.colnames
        assert (left_out.truth == other.truth).all()
    assert "structured" not in left_out.truth.colnames


def test_a_share_of_the_galaxies_is_structured(tmp_path):
    asked = {"survey": "hst-acs-f814w", "count": 200, "seed": 8, "noise": False, "stamp_px": 48}
    every, some, again, none = (simulate(**asked, structured=share) for share in (1.0, 0.4, 0.4, 0.0))
    assert torch.equal(some.images, again.images)
    chosen = np.asarray(some.truth["structured"])
    # binomial: 200 x 0.4, three sigma wide; and all of them drawn as they are where all are
    assert abs(chosen.sum() / np.asarray(every.truth["structured"]).sum() - 0.4) < 3 * math.sqrt(0.4 * 0.6 / 180)
    away = (some.images - every.images)[chosen].abs().amax((1, 2)) / every.images[chosen].amax((1, 2))
    assert away.max() < 1e-5  # batches round differently
    assert torch.equal(some.images[~chosen], none.images[~chosen])
    some.write(tmp_path / "some.fits")
    assert (np.asarray(Cutouts.read(tmp_path / "some.fits").truth["structured"]) == chosen).all()
    assert len(simulate("sdss-r", 0, structured=True)) == 0


@pytest.mark.parametrize("share", [1.5, -0.1, math.nan, "yes", None])
def test_a_bad_share_is_one_line(share):
    with pytest.raises(InputError, match="structured=") as caught:
        simulate("sdss-r", 2, structured=share)
    assert "\n" not in str(caught.value)
    if isinstance(share, float):
        with pytest.raises(InputError, match="share="):
            draw_structure(one_disk(), torch.Generator(), share)


def test_a_recipe_draws_structure_on_its_share():
    smooth = dataclasses.replace(
        load_recipe("foveal"), surveys={"euclid-vis": {"cosmos": 1.0}}, stamps={"euclid-vis": (128,)}, at_once=1,
        per_survey=16, block=16, exposures=2, neighbour_share=0.0, cut_share=0.0,
    )  # fmt: skip
    recipe = dataclasses.replace(smooth, structured_share=1.0)
    assert load_recipe("foveal").structured_share == 0
    (plain,), (first,), (again,) = (r.draw(1, seed=3) for r in (smooth, recipe, recipe))
    assert torch.equal(first.cutouts.images, again.cutouts.images)
    for field in dataclasses.fields(Galaxies):
        assert torch.equal(getattr(plain.galaxies, field.name), getattr(first.galaxies, field.name))
    # the variance holds the noise-free light
    moved = (first.cutouts.variance - plain.cutouts.variance).double()
    moved = moved[moved.abs().amax((1, 2)) > 0]
    assert len(moved) > 0.7 * 16
    assert (moved.sum((1, 2)).abs() / moved.abs().sum((1, 2))).median() < 0.02


def test_the_command_takes_a_share(tmp_path, capsys):
    command = ["simulate", "hsc-wide-i", "4", "--stamp", "64", "-o", str(tmp_path / "some.fits")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--structured", "1"])
    ours = simulate("hsc-wide-i", 4, stamp_px=64, structured=True)
    assert torch.equal(Cutouts.read(tmp_path / "some.fits").images, ours.images)
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--structured", "1.5"])
    assert "structured" in capsys.readouterr().err
