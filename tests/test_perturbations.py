"""Laws that every perturbation obeys, and each one against a closed form or GalSim's adaptive moments.

Scenes are asymmetric (off-centre, two components at different angles, neighbours on one side,
a lopsided PSF): an ellipse turned by 180 degrees is itself, so a test on one proves nothing.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from galstress.cutouts import Cutouts, empty_catalogue
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import Galaxies, table_from_galaxies
from galstress.optics import make_psf, measure_fwhm
from galstress.perturbations import PERTURBATIONS, choose_perturbations
from galstress.perturbations.geometry import quarter_matrix, turn_table, turn_wcs
from galstress.rendering import draw_truth
from galstress.simulation import simulate
from galstress.survey import Survey, available_surveys
from galstress.turning import array_centre, crop_centre, rotation_matrix, turn_pixels

SURVEY = Survey.load("hsc-wide-i")
TENSORS = ("images", "variance", "mask", "neighbour_mask", "psf", "psf_fwhm_px", "sky_rms")
AMOUNTS = {"quarter-turns": (1, 2, 6), "interpolated-rotation": (25.0, 90.0), "redrawn-rotation": (40.0, 270.0)}
ROTATIONS = [(name, amount) for name, amounts in AMOUNTS.items() for amount in amounts]


def some_galaxies(count, size, flux, spread, seed):
    """Two components at different angles, away from the centre of the stamp."""
    rng = np.random.default_rng(seed)
    as_tensor = torch.as_tensor
    return Galaxies(
        flux=as_tensor(rng.uniform(0.7, 1.3, count) * flux),
        bulge_to_total=as_tensor(rng.uniform(0.2, 0.6, count)),
        x=as_tensor((size - 1) / 2 + rng.uniform(-1, 1, count) * spread),
        y=as_tensor((size - 1) / 2 + rng.uniform(-1, 1, count) * spread),
        sersic_index=as_tensor(np.stack([rng.uniform(0.8, 1.4, count), rng.uniform(2, 4, count)], 1)),
        radius=as_tensor(np.stack([rng.uniform(3, 4, count), rng.uniform(1.5, 2, count)], 1)),
        axis_ratio=as_tensor(np.stack([rng.uniform(0.3, 0.5, count), rng.uniform(0.6, 0.8, count)], 1)),
        angle=as_tensor(rng.uniform(0, math.pi, (count, 2))),
    )


def lopsided_psf(oversampling):
    """A PSF with a shape of its own and more light on one side."""
    numbers = dataclasses.replace(SURVEY.psf, e1=0.06, e2=-0.04)
    psf = make_psf(numbers, SURVEY.pixel_scale_arcsec, oversampling, 41)
    psf = psf + 0.08 * torch.roll(psf, (2, 4), (0, 1))
    return (psf / psf.sum()).float()


def some_wcs():
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 3.0, "CRPIX2": 40.5}
    header |= {"CRVAL1": 150.1, "CRVAL2": 2.2, "CD1_1": -4.6e-5, "CD1_2": 3e-6, "CD2_1": 2e-6, "CD2_2": 4.7e-5}
    return WCS(fits.Header(header))


def draw(cutouts):
    """What truth, neighbours and PSF of a record say that its images show."""
    size = cutouts.images.shape[-1]
    images = draw_truth(cutouts.truth, cutouts.psf, cutouts.psf_oversampling, cutouts.survey, size)
    if not cutouts.neighbours:
        return images
    rows = torch.as_tensor(np.asarray(cutouts.neighbours["row"]))
    light = draw_truth(cutouts.neighbours, cutouts.psf[rows], cutouts.psf_oversampling, cutouts.survey, size)
    return images.index_add(0, rows, light)


def numbers(table, names):
    """(N, len(names)) columns without units."""
    return np.stack([np.asarray(getattr(table[name], "value", table[name])) for name in names], 1)


def scene(size=40, count=3, noise=True, neighbours=True, psf=None, oversampling=2):
    """Simulated cutouts made by hand."""
    psf = lopsided_psf(oversampling) if psf is None else psf
    psf = psf.expand(count, -1, -1).clone()
    truth = table_from_galaxies(some_galaxies(count, size, 60.0, 2.5, 1), SURVEY.pixel_scale_arcsec, SURVEY.unit_njy)
    images = draw_truth(truth, psf, oversampling, SURVEY, size)
    beside = None
    if neighbours:
        beside = some_galaxies(2 * count, size, 20.0, 0.0, 2)
        beside = dataclasses.replace(beside, x=beside.x + 8 + torch.arange(2 * count), y=beside.y - 4)
        beside = table_from_galaxies(beside, SURVEY.pixel_scale_arcsec, SURVEY.unit_njy)
        beside["row"] = np.repeat(np.arange(count), 2)
        light = draw_truth(beside, psf.repeat_interleave(2, 0), oversampling, SURVEY, size)
        images = images + light.view(count, 2, size, size).sum(1)
    sky_rms = torch.full((count,), SURVEY.sky_rms)
    variance = SURVEY.sky_rms**2 + images.clamp_min(0) / SURVEY.electrons_per_unit
    truth["snr"] = (images**2 / variance).sum((1, 2)).sqrt().numpy()
    if noise:
        images = images + variance.sqrt() * torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(images.shape, dtype=torch.bool)
    mask[:, 3:5, 7] = True
    neighbour_mask = torch.zeros_like(mask)
    neighbour_mask[:, size // 2 - 7 : size // 2 - 2, size // 2 + 5 : size // 2 + 11] = neighbours
    return Cutouts(
        images, variance, mask, neighbour_mask, psf, oversampling, measure_fwhm(psf, oversampling), sky_rms, SURVEY,
        empty_catalogue([f"object-{i}" for i in range(count)]), (some_wcs(), None, some_wcs())[:count], truth, beside,
    )  # fmt: skip


def columns(cutouts):
    """Every number of a record's tables."""
    tables = [table for table in (cutouts.catalogue, cutouts.truth, cutouts.neighbours) if table is not None]
    return [np.asarray(getattr(t[name], "value", t[name])).tobytes() for t in tables for name in t.colnames]


def same(first, second):
    """Whether two records are equal bit for bit."""
    pixels = all(torch.equal(getattr(first, name), getattr(second, name)) for name in TENSORS)
    headers = [[w and w.to_header_string() for w in record.wcs or ()] for record in (first, second)]
    return pixels and columns(first) == columns(second) and headers[0] == headers[1] and first.survey == second.survey


# --- laws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize("perturbation", PERTURBATIONS.values(), ids=lambda p: p.name)
def test_laws(perturbation, size):
    cutouts = scene(size)
    untouched = scene(size)
    assert perturbation.amounts[0] == perturbation.identity
    assert same(perturbation(cutouts, perturbation.identity, 7), untouched), "the identity changes something"
    amount = perturbation.amounts[1]
    changed = perturbation(cutouts, amount, 7)
    assert same(cutouts, untouched), "the input was changed"
    assert same(changed, perturbation(cutouts, amount, 7)), "one seed gave two answers"
    assert same(changed, perturbation(cutouts, amount, torch.Generator().manual_seed(7)))
    assert not torch.equal(changed.images, cutouts.images)
    for name in TENSORS:
        old, new = getattr(cutouts, name), getattr(changed, name)
        assert (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device), name
    assert torch.isfinite(changed.images).all()
    assert (torch.isfinite(changed.variance) | changed.mask).all()
    assert (changed.variance > 0).all()
    assert changed.psf.sum((1, 2)) == pytest.approx(1, abs=1e-5)
    assert changed.object_id.tolist() == cutouts.object_id.tolist()
    # an object's change does not depend on who else is in the batch
    alone = perturbation(cutouts.select([2]), amount, 7)
    assert torch.allclose(alone.images[0], changed.images[2], atol=1e-5 * float(cutouts.images.max()))
    # the change function itself is the identity there too
    direct = perturbation.change(cutouts, perturbation.identity, torch.Generator())
    difference = (direct.images - cutouts.images).abs()[~cutouts.mask]
    assert difference.max() < 1e-5 * float(cutouts.images.max())


@pytest.mark.parametrize("perturbation", PERTURBATIONS.values(), ids=lambda p: p.name)
def test_tables_move_by_the_rule(perturbation):
    cutouts = scene()
    names = ["x_px", "e2", "bulge_to_total", "e1", "y_px"]
    before = numbers(cutouts.truth, names)
    for amount in perturbation.amounts[1:4]:
        after = numbers(perturbation(cutouts, amount, 1).truth, names)
        assert perturbation.rule(names, before, amount, cutouts) == pytest.approx(after)
        assert (perturbation.axis in ("rotation", "redshift")) == (np.abs(after - before).max() > 0.1)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_amounts_and_truth_are_checked(name):
    with pytest.raises(InputError, match=f"{name} by nan"):
        PERTURBATIONS[name](scene(), math.nan)
    real = dataclasses.replace(scene(), truth=None, neighbours=None)
    if PERTURBATIONS[name].needs_truth:
        with pytest.raises(InputError, match="without truth"):
            PERTURBATIONS[name](real, PERTURBATIONS[name].amounts[1])
    else:
        assert PERTURBATIONS[name](real, PERTURBATIONS[name].amounts[1]).truth is None


def test_names_stand_for_one_or_for_an_axis():
    assert [p.name for p in choose_perturbations("depth")] == ["depth"]
    assert [p.name for p in choose_perturbations(("rotation", "quarter-turns", "depth"))] == list(PERTURBATIONS)[:4]
    assert [p.name for p in choose_perturbations("redshift")] == ["redrawn-redshift", "pixel-redshift"]
    with pytest.raises(UnknownNameError, match="depth, interpolated-rotation"):
        choose_perturbations(["blur"])
    with pytest.raises(InputError, match="0 to 7"):
        PERTURBATIONS["quarter-turns"](scene(), 1.5)
    with pytest.raises(InputError, match="at most 1"):
        PERTURBATIONS["depth"](scene(), 2.0)


# --- how the truth moves --------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize(("name", "amount"), ROTATIONS)
def test_the_moved_truth_draws_the_turned_image(name, amount, size):
    """Truth, neighbours and PSF of the result are those of its pixels: any half turned with them would show."""
    cutouts = scene(size, noise=False)
    turned = PERTURBATIONS[name](cutouts, amount)
    drawn = draw(turned)
    usable = ~turned.mask if name == "interpolated-rotation" else torch.ones_like(turned.mask)
    difference = ((turned.images - drawn) * usable).abs().amax((1, 2)) / drawn.amax((1, 2))
    assert difference.max() < (4e-3 if name == "interpolated-rotation" else 2e-5)
    # and the image did turn
    assert ((turned.images - cutouts.images).abs().amax((1, 2)) / drawn.amax((1, 2))).min() > 0.1


@pytest.mark.parametrize(("name", "amount"), ROTATIONS)
def test_adaptive_moments_turn_with_the_truth(name, amount):
    galsim = pytest.importorskip("galsim")
    round_psf = make_psf(SURVEY.psf, SURVEY.pixel_scale_arcsec, 2, 41).float()
    cutouts = scene(64, noise=False, neighbours=False, psf=round_psf)
    turned = PERTURBATIONS[name](cutouts, amount)
    mirrored, angle = (amount >= 4, 90.0 * (amount % 4)) if name == "quarter-turns" else (False, amount)
    cos, sin, centre = math.cos(math.radians(angle)), math.sin(math.radians(angle)), 31.5
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1 if mirrored else 1, 1])

    def turned_shape(e):
        return (e.conjugate() if mirrored else e) * np.exp(2j * math.radians(angle))

    for row in range(len(cutouts)):
        before, after = (
            galsim.hsm.FindAdaptiveMom(galsim.Image(record.images[row].numpy().astype(float), xmin=0, ymin=0))
            for record in (cutouts, turned)
        )
        old, new = (moments.observed_shape.e1 + 1j * moments.observed_shape.e2 for moments in (before, after))
        assert abs(old) > 0.05
        assert abs(new - turned_shape(old)) < 2e-3
        true, moved = (record.truth["e1"][row] + 1j * record.truth["e2"][row] for record in (cutouts, turned))
        assert abs(moved - turned_shape(true)) < 1e-9
        place = matrix @ (np.array([before.moments_centroid.x, before.moments_centroid.y]) - centre) + centre
        assert [after.moments_centroid.x, after.moments_centroid.y] == pytest.approx(place, abs=3e-3)


@pytest.mark.parametrize("name", ["quarter-turns", "interpolated-rotation", "redrawn-rotation"])
def test_turning_there_and_back_is_nothing(name):
    cutouts = scene(41)
    there, back = {"quarter-turns": (1, 3), "interpolated-rotation": (90.0, 270.0)}.get(name, (130.0, 230.0))
    again = PERTURBATIONS[name](PERTURBATIONS[name](cutouts, there), back)
    usable = ~(again.mask | cutouts.mask)
    difference = ((again.images - cutouts.images) * usable).abs().max()
    assert difference < 1e-4 * float(cutouts.images.max())
    names = ("x_px", "e1", "disk_position_angle_deg", "bulge_position_angle_deg")
    assert numbers(again.truth, names) == pytest.approx(numbers(cutouts.truth, names), abs=1e-9)


def test_mirrors_are_their_own_inverse_and_eight_turns_differ():
    cutouts = scene(40)
    images = [PERTURBATIONS["quarter-turns"](cutouts, k).images for k in range(8)]
    for first in range(8):
        for second in range(first):
            assert not torch.equal(images[first], images[second])
    for k in range(4, 8):
        twice = PERTURBATIONS["quarter-turns"](PERTURBATIONS["quarter-turns"](cutouts, k), k)
        assert torch.equal(twice.images, cutouts.images)


def test_quarter_turn_moves_a_single_pixel_where_the_definition_says():
    """From +x towards +y about the array's centre, on an even array: (x, y) = (5, 2) goes to (H - 1 - 2, 5)."""
    cutouts = dataclasses.replace(scene(40), images=torch.zeros(3, 40, 40))
    cutouts.images[0, 2, 5] = 1.0
    assert torch.nonzero(PERTURBATIONS["quarter-turns"](cutouts, 1).images).tolist() == [[0, 5, 37]]
    assert torch.nonzero(PERTURBATIONS["quarter-turns"](cutouts, 4).images).tolist() == [[0, 2, 34]]
    assert torch.nonzero(PERTURBATIONS["interpolated-rotation"](cutouts, 90.0).images).tolist() == [[0, 5, 37]]


def test_oblong_stamps_are_refused():
    cutouts = scene()
    parts = {name: getattr(cutouts, name)[:, :30] for name in ("images", "variance", "mask", "neighbour_mask")}
    oblong = dataclasses.replace(cutouts, **parts)
    for name in ("quarter-turns", "redrawn-rotation"):
        with pytest.raises(InputError, match="30 x 40"):
            PERTURBATIONS[name](oblong, 2)
    assert PERTURBATIONS["interpolated-rotation"](oblong, 10.0).images.shape == (3, 30, 40)


def test_unit_and_dtype_of_columns_are_kept():
    truth = scene().truth
    truth["disk_position_angle_deg"] = truth["disk_position_angle_deg"].astype(np.float32)
    turned = turn_table(truth, rotation_matrix(33), array_centre((40, 40)))
    assert [turned[n].unit for n in turned.colnames if hasattr(turned[n], "unit")] == [
        truth[n].unit for n in truth.colnames if hasattr(truth[n], "unit")
    ]
    assert turned["disk_position_angle_deg"].dtype == np.float32
    difference = turned["disk_position_angle_deg"].value - truth["disk_position_angle_deg"].value - 33
    assert (difference + 90) % 180 == pytest.approx(90, abs=1e-3)


# --- WCS ------------------------------------------------------------------------------------


def wcs_of(kind):
    header = dict(some_wcs().to_header())  # PC and CDELT
    if kind == "crota":
        header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 8.0, "CRPIX2": 40.5}
        header |= {"CRVAL1": 10.1, "CRVAL2": 62.2, "CDELT1": -4.6e-5, "CDELT2": 4.6e-5, "CROTA2": 31.0}
    if kind == "cd":
        return some_wcs()
    if kind == "sip":
        header |= {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-5}
        header |= {"A_1_1": -1e-5, "B_0_2": 3e-5, "B_1_1": 1e-5}
    return WCS(fits.Header(header))


@pytest.mark.parametrize("kind", ["pc", "cd", "crota", "sip"])
@pytest.mark.parametrize("matrix", [quarter_matrix(1), quarter_matrix(6), rotation_matrix(33.0)], ids=str)
def test_every_pixel_keeps_its_place_on_the_sky(kind, matrix):
    wcs, centre = wcs_of(kind), array_centre((40, 47))
    turned = turn_wcs(wcs, matrix, centre)
    pixels = np.random.default_rng(1).uniform(0, 40, (50, 2))
    old = wcs.all_pix2world(pixels, 0)
    new = turned.all_pix2world((pixels - centre) @ matrix.T + centre, 0)
    pixel = abs(wcs.pixel_scale_matrix).max()
    tolerance = 0.03 if kind == "sip" else 1e-6  # of a pixel; SIP is made linear
    assert np.abs((new - old) * [np.cos(np.deg2rad(old[0, 1])), 1]).max() < tolerance * pixel
    assert WCS(turned.to_header()).wcs_pix2world(pixels, 0) == pytest.approx(turned.wcs_pix2world(pixels, 0), abs=1e-10)


def test_rotations_carry_the_wcs_and_keep_missing_ones():
    turned = PERTURBATIONS["quarter-turns"](scene(), 1)
    assert turned.wcs[1] is None
    assert turned.wcs[0].wcs_pix2world([[37, 5]], 0) == pytest.approx(some_wcs().wcs_pix2world([[5, 2]], 0))
    assert PERTURBATIONS["depth"](scene(), 0.5).wcs[0].wcs.crpix == pytest.approx([3.0, 40.5])


# --- interpolation --------------------------------------------------------------------------


def blobs(size, angle_deg):
    """An asymmetric sum of elliptical Gaussians, turned analytically about the array's centre."""
    matrix, centre = rotation_matrix(angle_deg), array_centre((size, size))
    y, x = np.mgrid[:size, :size]
    old = np.stack([x - centre[0], y - centre[1]], -1) @ matrix  # back to the frame in which they are written
    image = np.zeros((size, size))
    for x0, y0, sx, sy, flux in ((0, 1, 3, 2, 1.0), (6, -2, 1.7, 2.2, 0.4), (-3, -7, 2, 1.6, 0.3)):
        image += flux * np.exp(-0.5 * (((old[..., 0] - x0) / sx) ** 2 + ((old[..., 1] - y0) / sy) ** 2))
    return torch.as_tensor(image, dtype=torch.float32)


@pytest.mark.parametrize("size", [48, 49])
@pytest.mark.parametrize("angle", [7.0, 45.0, 200.0])
def test_interpolation_turns_gaussians_as_the_closed_form(size, angle):
    cutouts = dataclasses.replace(scene(size), images=blobs(size, 0).expand(3, -1, -1))
    cutouts = dataclasses.replace(cutouts, mask=torch.zeros_like(cutouts.mask))
    turned = PERTURBATIONS["interpolated-rotation"](cutouts, angle)
    difference = (turned.images - blobs(size, angle)).abs()[~turned.mask]
    assert difference.max() < 3e-3  # the kernel's error for a Gaussian of sigma 1.6 pixels
    assert turned.images[0].sum() == pytest.approx(float(blobs(size, 0).sum()), rel=1e-3)
    # a disk inside the stamp is never masked, the corners are
    radius = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
    assert not turned.mask[0].numpy()[radius < size / 2 - 3].any()
    if angle == 45.0:
        assert turned.mask[0, 0, 0]
        assert turned.variance[0, 0, 0] == torch.inf


def test_interpolated_noise_has_the_variance_that_is_given_and_is_correlated():
    count, size = 3000, 21
    rng = torch.Generator().manual_seed(2)
    sigma = torch.linspace(1, 2, size).expand(size, size)
    one = scene(size, count=1, neighbours=False)
    noise = sigma * torch.randn(count, size, size, generator=rng)
    cutouts = dataclasses.replace(
        Cutouts.concatenate([one]),
        images=noise,
        variance=(sigma**2).expand_as(noise),
        mask=(torch.arange(size**2).view(size, size) % 6 == 4).expand_as(noise),
        neighbour_mask=torch.zeros(noise.shape, dtype=torch.bool),
        psf=one.psf.expand(count, -1, -1),
        psf_fwhm_px=one.psf_fwhm_px.expand(count),
        sky_rms=torch.full((count,), 1.5),
        catalogue=empty_catalogue([str(i) for i in range(count)]),
        wcs=None,
        truth=None,
    )
    turned = PERTURBATIONS["interpolated-rotation"](cutouts, 28.0)
    usable = ~turned.mask[0]
    ratio = turned.images.var(0)[usable] / turned.variance[0][usable]
    assert ratio.mean() == pytest.approx(1, abs=0.005)
    assert ratio.std() == pytest.approx(math.sqrt(2 / count), rel=0.25)
    assert (turned.variance[0][usable] / sigma[0].max() ** 2).min() < 0.6
    assert turned.sky_rms[0] / 1.5 == pytest.approx(
        float((turned.variance[0][usable].mean() / (sigma**2).mean()).sqrt()), rel=0.05
    )
    scaled = turned.images / turned.variance.sqrt().where(usable, 1)
    correlation = (scaled[:, :, 1:] * scaled[:, :, :-1]).mean(0)[usable[:, 1:] & usable[:, :-1]]
    assert correlation.square().mean().sqrt() > 3 / math.sqrt(count)  # of independent noise: one


def test_ignored_pixels_do_not_leak_into_the_turned_image():
    clean = scene(neighbours=False)
    dirty = scene(neighbours=False)
    dirty.mask[:, 20, 24] = True
    dirty.images[:, 20, 24] = torch.nan
    dirty.variance[:, 20, 24] = torch.inf
    dirty.images[:, 10, 10] = torch.inf  # not even masked
    turned, reference = (PERTURBATIONS["interpolated-rotation"](c, 15.0) for c in (dirty, clean))
    assert torch.isfinite(turned.images).all()
    assert not torch.isnan(turned.variance).any()
    new = turned.mask & ~reference.mask
    assert 2 <= int(new[0].sum()) <= 80
    difference = ((turned.images - reference.images) / reference.variance.sqrt())[~turned.mask]
    assert difference.abs().max() < 1.5


# --- drawing again --------------------------------------------------------------------------


def test_redrawing_keeps_psf_and_noise_and_turns_the_rest():
    cutouts = scene(noise=True)
    clean = scene(noise=False)
    turned, model = (PERTURBATIONS["redrawn-rotation"](c, 70.0) for c in (cutouts, clean))
    assert torch.equal(turned.psf, cutouts.psf)
    assert torch.allclose(model.images, draw(model), atol=1e-6 * float(model.images.max()), rtol=0)
    pulls = [(a.images - b.images) / b.variance.sqrt() for a, b in ((turned, model), (cutouts, clean))]
    assert torch.allclose(*pulls, atol=5e-3)
    assert pulls[1].std() == pytest.approx(1, abs=0.05)
    # photon noise follows the light
    expected = SURVEY.sky_rms**2 + model.images.clamp_min(0) / SURVEY.electrons_per_unit
    assert torch.allclose(model.variance, expected, rtol=1e-4)
    assert torch.equal(turned.mask, cutouts.mask)
    moved = turned.neighbour_mask[0].nonzero().float().mean(0) - 19.5
    old = cutouts.neighbour_mask[0].nonzero().float().mean(0) - 19.5
    expected = rotation_matrix(70.0) @ np.array([old[1], old[0]])
    assert [moved[1], moved[0]] == pytest.approx(expected, abs=0.5)


def test_pixels_masked_for_a_neighbour_turn_with_it():
    cutouts = scene()
    cutouts.mask.logical_or_(cutouts.neighbour_mask)
    turned = PERTURBATIONS["redrawn-rotation"](cutouts, 180.0)
    assert torch.equal(turned.mask & turned.neighbour_mask, turned.neighbour_mask)
    assert turned.mask[0, 3, 7]
    assert not turned.mask[0, 20 - 5, 20 + 6]


@pytest.mark.parametrize("name", available_surveys())
def test_simulated_cutouts_of_every_survey_can_be_redrawn(name):
    """Against the simulation itself, asked for the turned galaxies; noise of its own making is recognised."""
    clean, noisy = (simulate(name, 4, seed=3, noise=noise, neighbours=True, stamp_px=48) for noise in (False, True))
    picked = clean.select([3, 0, 2])  # neighbours come out of order
    turned = PERTURBATIONS["redrawn-rotation"](picked, 110.0)
    again = simulate(name, galaxies=turned.truth, noise=False, stamp_px=48)
    peak = float(again.images.max())
    assert torch.allclose(draw(dataclasses.replace(turned, neighbours=None)), again.images, atol=5e-5 * peak, rtol=0)
    # what else is in the batch changes an image by up to the renderer's tolerance, 5e-5 of the galaxy's peak
    assert torch.allclose(turned.images, draw(turned), atol=5e-5 * peak, rtol=0)
    assert torch.equal(turned.psf, again.psf)
    kept = PERTURBATIONS["redrawn-rotation"](noisy.select([3, 0, 2]), 110.0)
    pull = (kept.images - turned.images) / turned.variance.sqrt()
    assert pull.std() == pytest.approx(1, abs=0.15)
    assert torch.allclose(kept.variance, turned.variance, rtol=1e-5)


# --- depth ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_depth_adds_the_noise_of_a_shorter_exposure(share):
    """Against Poisson counts of that exposure: sky and object electrons, read noise of fewer frames."""
    clean = scene(40, count=2, noise=False)
    deep = scene(40, count=2, noise=True)
    shallow = PERTURBATIONS["depth"](deep, share, 3)
    rng = np.random.default_rng(1)
    electrons = clean.images.numpy().clip(0) * SURVEY.electrons_per_unit + SURVEY.sky_electrons
    counts = rng.poisson(share * electrons, (4000, *electrons.shape)).astype(np.float32)
    read = SURVEY.read_noise_e * math.sqrt(share)
    variance = (counts.var(0) + read**2) / (share * SURVEY.electrons_per_unit) ** 2
    ratio = shallow.variance.numpy() / variance
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert ratio.std() == pytest.approx(math.sqrt(2 / 4000), rel=0.1)
    pull = (shallow.images - clean.images) / shallow.variance.sqrt()
    assert pull.std() == pytest.approx(1, abs=0.04)
    assert pull.mean() == pytest.approx(0, abs=0.06)
    assert shallow.survey.sky_rms == pytest.approx(float(shallow.sky_rms[0]), rel=1e-5)
    assert shallow.truth["snr"] == pytest.approx(np.asarray(deep.truth["snr"]) * math.sqrt(share))
    snr = (clean.images**2 / shallow.variance).sum((1, 2)).sqrt().numpy()
    assert shallow.truth["snr"] == pytest.approx(snr, rel=1e-4)


def test_depth_noise_is_an_object_s_own():
    cutouts = scene()
    whole = PERTURBATIONS["depth"](cutouts, 0.25, 3).images
    assert torch.equal(PERTURBATIONS["depth"](cutouts.select([2, 0]), 0.25, 3).images, whole[[2, 0]])
    assert not torch.equal(PERTURBATIONS["depth"](cutouts, 0.25, 4).images, whole)
    added = whole - cutouts.images
    assert abs(np.corrcoef(added[0].flatten(), added[1].flatten())[0, 1]) < 0.1


def test_depth_noise_is_correlated_where_the_survey_s_is():
    survey = dataclasses.replace(SURVEY, noise_correlation_fwhm_px=2.0)
    cutouts = dataclasses.replace(scene(64, neighbours=False), survey=survey)
    added = PERTURBATIONS["depth"](cutouts, 0.25, 3).images - cutouts.images
    added = added / (3 * cutouts.variance).sqrt()
    assert added.std() == pytest.approx(1, abs=0.05)
    # a Gaussian kernel of sigma s correlates neighbours by exp(-1 / (4 s^2))
    expected = math.exp(-1 / (4 * (2.0 / 2.3548) ** 2))
    assert (added[:, 1:] * added[:, :-1]).mean() == pytest.approx(expected, abs=0.05)


def test_depth_leaves_pixels_alone_of_which_nothing_is_known():
    cutouts = scene()
    cutouts.variance[:, 5, 5] = torch.inf
    shallow = PERTURBATIONS["depth"](cutouts, 0.25, 3)
    assert torch.equal(shallow.images[:, 5, 5], cutouts.images[:, 5, 5])
    assert (shallow.variance[:, 5, 5] == torch.inf).all()


def test_truth_is_a_table_of_plain_columns_too():
    table = QTable({"x_px": [3.0], "y_px": [4.0], "e1": [0.1], "e2": [0.2], "disk_position_angle_deg": [10.0]})
    turned = turn_table(table, rotation_matrix(90), array_centre((11, 11)))
    assert [float(turned[n][0]) for n in turned.colnames] == pytest.approx([6.0, 3.0, -0.1, -0.2, 100.0])


@pytest.mark.parametrize(("stamp_px", "side_px"), [(40, 24), (41, 25)])
def test_turned_squares_are_the_middle_of_turned_stamps(stamp_px, side_px):
    drawn = simulate("hsc-wide-i", 3, seed=4, stamp_px=stamp_px, neighbours=True)
    mask = drawn.mask.clone()
    mask[0, 11:14, 17] = True
    drawn = dataclasses.replace(drawn, mask=mask)
    whole, square = crop_centre(turn_pixels(drawn, 25.0), side_px), turn_pixels(drawn, 25.0, side_px)
    for name in ("images", "variance", "mask", "neighbour_mask", "psf"):
        torch.testing.assert_close(getattr(square, name), getattr(whole, name), msg=name)
    torch.testing.assert_close(square.sky_rms, whole.sky_rms, rtol=0.02, atol=0)  # a mean over other pixels
    assert square.images.shape == (3, side_px, side_px)
    assert square.truth is None
