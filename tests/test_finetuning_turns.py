"""Turns of images by any angle, and the labels that turn with them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from astropy.table import QTable

from finetuning_cases import partial, small_network, turn_by
from galstress.cutouts import Cutouts
from galstress.finetuning import (
    Tuning,
    choose_side,
    draw_turn,
    exact_turn,
    finetune,
    read_labels,
    trim,
    turn_cutouts,
)
from galstress.networks import Network
from galstress.perturbations.geometry import turn_table
from galstress.perturbations.rotation import rotate_pixels, turn_by_quarters
from galstress.rendering import draw_truth
from galstress.simulation import simulate
from galstress.turning import array_centre

SHORT = Tuning(steps=4, batch=4, check_every=2)


@pytest.fixture(scope="module")
def galaxies() -> Cutouts:
    return simulate("hsc-wide-i", 12, seed=4, stamp_px=96)


@pytest.fixture(scope="module")
def clean() -> Cutouts:
    """Without noise, off the centre, asymmetric."""
    return simulate("hsc-wide-i", 8, seed=3, stamp_px=128, noise=False)


# ---- turns ---------------------------------------------------------------------------------------------------------


def test_a_turn_by_90_degrees_is_rot90(galaxies):
    turned = turn_cutouts(galaxies, turn_by(90, len(galaxies)), 60)
    middle = trim(galaxies, 60)
    for name in ("images", "variance"):
        expected = torch.rot90(getattr(middle, name), 1, (-1, -2))
        torch.testing.assert_close(getattr(turned, name), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turned.psf, torch.rot90(galaxies.psf, 1, (-1, -2)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("element", range(8))
def test_exact_turns_are_those_of_the_stress_test(galaxies, element):
    turned = turn_cutouts(galaxies, exact_turn(torch.full((len(galaxies),), element)), 96)
    expected = turn_by_quarters(galaxies, element)
    assert torch.equal(turned.images, expected.images)
    assert torch.equal(turned.psf, expected.psf)


def test_each_object_is_turned_by_its_own(galaxies):
    element = torch.arange(len(galaxies)) % 8
    turned = turn_cutouts(galaxies, exact_turn(element), 96)
    for row in range(len(galaxies)):
        alone = turn_cutouts(galaxies.select([row]), exact_turn(element[row : row + 1]), 96)
        assert torch.equal(turned.images[row], alone.images[0])


@pytest.mark.parametrize(("angle", "mirrored"), [(30, False), (45, True), (200, True)])
def test_the_turned_image_is_that_of_the_turned_galaxy(clean, angle, mirrored):
    turn = turn_by(angle, len(clean), mirrored, shift=(0.3, -0.4))
    turned = turn_cutouts(clean, turn, 88)
    truth = turn_table(clean.truth, turn.matrix[0].numpy(), array_centre((128, 128)))
    truth["x_px"] += (0.3 + (88 - 128) / 2) * truth["x_px"].unit
    truth["y_px"] += (-0.4 + (88 - 128) / 2) * truth["y_px"].unit
    drawn = draw_truth(truth, turned.psf, clean.psf_oversampling, clean.survey, 88)
    error = (turned.images - drawn).abs().amax((1, 2)) / drawn.amax((1, 2))
    # the quintic kernel at a PSF of 3.6 px FWHM, by the sharpest galaxy
    assert float(error.max()) < 0.012
    assert float(error.median()) < 0.005
    np.testing.assert_allclose(turned.images.sum((1, 2)), drawn.sum((1, 2)), rtol=1e-3)


def test_the_psf_turns_with_its_image(clean):
    psf = clean.psf.clone()
    psf[:, :, psf.shape[-1] // 2 + 3] *= 2  # not round
    lopsided = dataclasses.replace(clean, psf=psf / psf.sum((1, 2), keepdim=True))
    turned = turn_cutouts(lopsided, turn_by(30, len(clean), shift=(0.2, 0.1)), 88)
    expected = rotate_pixels(lopsided, 30).psf
    torch.testing.assert_close(turned.psf, expected, rtol=0, atol=1e-5 * float(psf.max()))


@pytest.mark.parametrize("stamp", [96, 97, 276])
def test_nothing_is_empty_or_extrapolated_at_any_angle(stamp):
    side, any_angle = choose_side(stamp)
    assert any_angle
    assert side <= stamp / math.sqrt(2)
    assert (stamp - side) % 2 == 0
    flat = simulate("hsc-wide-i", 1, stamp_px=96)
    axis = torch.arange(stamp) - (stamp - 1) / 2
    plane = (1.0 + axis[None, :] + 2 * axis[:, None])[None]
    zero = torch.zeros(1, stamp, stamp, dtype=torch.bool)
    flat = dataclasses.replace(
        flat, images=plane, variance=torch.ones_like(plane), mask=zero, neighbour_mask=zero, truth=None
    )
    inner = torch.arange(side) - (side - 1) / 2
    for angle in (0, 44.9, 45, 135, 300):
        turn = turn_by(angle, 1, shift=(0.5, -0.5))
        turned = turn_cutouts(flat, turn, side)
        slope = turn.matrix[0].float() @ torch.tensor([1.0, 2.0])
        expected = 1 + slope[0] * (inner[None, :] - 0.5) + slope[1] * (inner[:, None] + 0.5)
        # a plane stays one up to the very corner: nothing came from beyond the edge
        torch.testing.assert_close(turned.images[0], expected, rtol=1e-4, atol=2e-3)
        assert not turned.mask.any()


def test_a_stamp_without_room_is_turned_by_quarters_only(galaxies):
    assert choose_side(96, 96) == (96, False)
    assert choose_side(60) == (60, False)
    turn = draw_turn(40, False, torch.Generator().manual_seed(1))
    assert set(turn.element.tolist()) == set(range(8))
    tuned = finetune(small_network(), galaxies, tuning=dataclasses.replace(SHORT, steps=1, side_px=96))
    assert tuned.manifest["augmentation"] == "eight exact turns, mirrors"


def test_drawn_turns_are_orthogonal_of_both_hands_and_all_angles():
    turn = draw_turn(4000, True, torch.Generator().manual_seed(1))
    identity = torch.eye(2, dtype=torch.float64).expand(4000, 2, 2)
    torch.testing.assert_close(turn.matrix @ turn.matrix.mT, identity)
    assert abs(float(torch.linalg.det(turn.matrix).mean())) < 0.05
    angle = torch.atan2(turn.matrix[:, 1, 1], -turn.matrix[:, 0, 1])
    assert float(torch.cos(4 * angle).mean().abs()) < 0.05  # no direction is preferred, the axes least of all
    assert 0.45 < float(turn.shift.abs().max()) <= 0.5


def test_ignored_pixels_stay_ignored_and_spoil_nothing_beside_them(clean):
    mask = clean.mask.clone()
    mask[:, 60:63, 70:73] = True
    images = torch.where(mask, 1e6, torch.ones_like(clean.images))
    turned = turn_cutouts(dataclasses.replace(clean, images=images, mask=mask), turn_by(33, len(clean)), 88)
    assert 9 <= int(turned.mask[0].sum()) <= 30
    torch.testing.assert_close(turned.images[~turned.mask], torch.ones(int((~turned.mask).sum())))
    assert torch.isinf(turned.variance[turned.mask]).all()


# ---- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
def test_labels_turn_as_the_truth_does(clean, mirrored):
    turn = turn_by(30, len(clean), mirrored, shift=(0.25, -0.5))
    found = read_labels(partial(clean, "e1", "e2", "x_px", "y_px"), clean).turn(turn).values
    e = np.array(clean.truth["e1"]) + 1j * np.array(clean.truth["e2"])
    expected = (np.conj(e) if mirrored else e) * np.exp(2j * np.deg2rad(30))  # x -> -x conjugates e
    np.testing.assert_allclose(found[:, 5], expected.real, atol=1e-12)
    np.testing.assert_allclose(found[:, 6], expected.imag, atol=1e-12)
    place = (-1 if mirrored else 1) * (clean.truth["x_px"].value - 63.5) + 1j * (clean.truth["y_px"].value - 63.5)
    place = place * np.exp(1j * np.deg2rad(30)) + 0.25 - 0.5j
    np.testing.assert_allclose(found[:, 0], place.real, atol=1e-9)
    np.testing.assert_allclose(found[:, 1], place.imag, atol=1e-9)


def test_wholly_known_galaxies_turn_as_the_truth_does(clean):
    head = small_network().head
    turn = turn_by(77, len(clean), mirrored=True)
    inputs = Network.build("foveal", width=0.4).backbone.inputs(clean)
    found = read_labels(None, clean).turn(turn).place(head, inputs.reference)
    truth = turn_table(clean.truth, turn.matrix[0].numpy(), array_centre((128, 128)))
    expected = head.targets(dataclasses.replace(clean, truth=truth), inputs.reference)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_partly_known_labels_are_the_coordinates_of_the_head(clean):
    network = small_network()
    reference = network.backbone.inputs(clean).reference
    expected = network.head.targets(clean, reference)[:, :7]
    for names in (("flux_njy",), ("mag_ab",)):
        table = partial(clean, *names, "bulge_to_total", "half_light_radius_arcsec", "e1", "e2", "x_px", "y_px")
        found = read_labels(table, clean).place(network.head, reference)
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_axis_ratio_and_position_angle_are_a_shape(clean):
    table = QTable({"axis_ratio": [0.5] * 8, "position_angle_deg": [20.0] * 8, "axis_ratio_err": [0.1] * 8})
    labels = read_labels(table, clean)
    phi = np.deg2rad(20 + 90)  # from north to +x
    np.testing.assert_allclose(labels.values[0, 5:], [np.cos(2 * phi) / 3, np.sin(2 * phi) / 3])
    # de/dq = 2 / (1 + q)^2, shared by both directions
    np.testing.assert_allclose(labels.sigma[0, 5:], 0.1 * 2 / 1.5**2 / np.sqrt(2))


def test_errors_of_labels_are_those_of_the_coordinates(clean):
    table = QTable({"mag_ab": [20.0] * 8, "mag_ab_err": [0.1] * 8, "bulge_to_total": [0.3] * 8,
                    "bulge_to_total_err": [1e-5] * 8, "half_light_radius_arcsec": [2.0] * 8,
                    "half_light_radius_arcsec_err": [0.1] * 8})  # fmt: skip
    sigma = read_labels(table, clean).sigma[0]
    step = [np.log(p / (1 - p)) for p in 0.01 + 0.98 * np.array([0.3 - 5e-6, 0.3 + 5e-6])]
    np.testing.assert_allclose(sigma[2:5], [0.1 * 0.4 * np.log(10), step[1] - step[0], 0.05], rtol=1e-4)
