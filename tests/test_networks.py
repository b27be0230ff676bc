"""Laws that every network and head obeys, and the file that holds them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from galstress.cutouts import decode_flags
from galstress.errors import InputError, UnknownNameError
from galstress.galaxy import galaxies_from_table
from galstress.heads import INTERNAL_NAMES, Reference, from_internal, to_internal, turn_internal
from galstress.heads.flow import _marginal_root
from galstress.networks import Network, available_networks
from galstress.networks.foveal import _ellipticity
from galstress.networks.network import BACKBONES
from galstress.perturbations import PERTURBATIONS
from galstress.prediction import predict
from galstress.prediction.turns import Turn
from galstress.simulation import simulate, turn_images
from galstress.survey import Survey
from galstress.turning import crop_centre, turned_side

SMALL = {
    "foveal": {"width": 0.5},
    "gamornet": {"stamp_px": 64, "width": 0.1, "pixels": "sky"},
    "gampen": {"stamp_px": 64, "width": 0.0625, "pixels": "sky"},
}
assert set(SMALL) == set(BACKBONES), "a new backbone is tested by being listed"


@pytest.fixture(scope="module")
def cutouts():
    return simulate("hsc-wide-i", 12, seed=4, neighbours=True, stamp_px=96)


@pytest.mark.parametrize("name", BACKBONES)
def test_gradient_reaches_every_parameter(name: str, cutouts) -> None:
    torch.manual_seed(1)
    network = Network.build(name, **SMALL[name])
    for module in network.modules().modules():  # layers that start at zero pass no gradient to those behind them
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.1)
    raw, inputs = network.raw(cutouts)
    network.head.loss(raw, network.head.targets(cutouts, inputs.reference)).mean().backward()
    for label, parameter in network.modules().named_parameters():
        assert parameter.grad is not None, label
        assert float(parameter.grad.abs().max()) > 0, label


@pytest.mark.parametrize("name", BACKBONES)
def test_batch_of_one_predicts_as_a_batch_of_many(name: str, cutouts) -> None:
    network = Network.build(name, **SMALL[name])
    together = predict(network, cutouts)
    alone = [predict(network, cutouts.select([row])) for row in range(3)]
    for row, one in enumerate(alone):
        for field in ("internal_mean", "probabilities", "draws"):
            if getattr(one, field, None) is not None:
                first, second = (np.asarray(getattr(each, field)) for each in (one, together))
                assert np.allclose(first[0], second[row], rtol=1e-3, atol=1e-4), field
        assert np.allclose(one.mean[0], together.mean[row], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_file_gives_the_same_network_back(tmp_path, cutouts, half: bool) -> None:
    network = Network.build("foveal", width=0.5).with_metadata(name="mine")
    network.save(tmp_path / "n.safetensors", half=half)
    again = Network.load(tmp_path / "n.safetensors")
    assert again.metadata["name"] == "mine"
    first, second = (predict(n, cutouts).internal_mean for n in (network, again))
    assert torch.allclose(first, second, atol=0.02 if half else 1e-6)
    assert not (tmp_path / "n.safetensors.part").exists()


def test_bad_files_are_one_line(tmp_path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError):
        Network.load(tmp_path / "text.safetensors")
    with pytest.raises(UnknownNameError, match="foveal"):
        Network.load("resnet")


def test_internal_coordinates_and_back() -> None:
    drawn = simulate("euclid-vis", 50, seed=8, stamp_px=64)
    survey = drawn.survey
    galaxies = galaxies_from_table(drawn.truth, survey.pixel_scale_arcsec, survey.unit_njy)
    one = torch.ones(50, dtype=torch.float64)
    reference = Reference(100 * one, 3 * one, (31.5, 31.5), 0.01 * one)
    again, radius = from_internal(to_internal(galaxies, reference), reference)
    for field in ("flux", "bulge_to_total", "x", "y", "sersic_index", "radius", "axis_ratio"):
        assert torch.allclose(getattr(galaxies, field), getattr(again, field), rtol=1e-4, atol=1e-6), field
    scale = survey.pixel_scale_arcsec
    assert np.allclose(radius * scale, np.asarray(drawn.truth["half_light_radius_arcsec"]), rtol=1e-4)


@pytest.mark.parametrize("element", range(8))
def test_averaged_answer_turns_exactly_with_the_pixels(element: int) -> None:
    # an even stamp: an odd one turns about a pixel, its field about a point half a pixel off
    network, drawn = Network.build("foveal", width=0.5), simulate("hsc-wide-i", 4, seed=4, stamp_px=64)
    turned = PERTURBATIONS["quarter-turns"](drawn, element)
    before, after = (predict(network, c, average=True) for c in (drawn, turned))
    matrix = turn_internal(element)
    assert torch.allclose(after.internal_mean, before.internal_mean @ matrix.T, atol=1e-5)
    assert np.allclose(after.mean[:, :3], before.mean[:, :3], rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("foveal", {"width": 0.34}),
        ("gamornet", {"stamp_px": 49, "width": 0.05}),
        ("gamornet", {"stamp_px": 49, "width": 0.05, "pixels": "sky"}),
        ("gampen", {"stamp_px": 56, "width": 0.04, "pixels": "sky"}),
        ("gampen", {"stamp_px": 57, "width": 0.04, "pixels": "sky"}),
    ],
)
def test_inputs_of_several_turns_are_those_of_each_turned_image(backbone: str, settings: dict) -> None:
    network = Network.build(backbone, **settings)
    drawn = simulate("hsc-wide-i", 3, seed=2, stamp_px=65 if settings.get("stamp_px", 0) % 2 else 64)
    for element, inputs in enumerate(network.backbone.inputs_at(drawn, range(8))):
        turned = dataclasses.replace(
            drawn, images=turn_images(drawn.images, element), psf=turn_images(drawn.psf, element), truth=None
        )
        by_hand = network.backbone.inputs(turned)
        torch.testing.assert_close(inputs.views, by_hand.views, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(inputs.reference.flux, by_hand.reference.flux, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(inputs.reference.size_px, by_hand.reference.size_px, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("backbone", "stamp_px"), [("gampen", 57), ("gampen", 56), ("gamornet", 57)])
def test_averages_are_the_same_for_quarter_turns_on_odd_and_even_sides(backbone: str, stamp_px: int) -> None:
    torch.manual_seed(2)
    network = Network.build(backbone, stamp_px=stamp_px, width=0.04, pixels="sky")
    drawn = simulate("hsc-wide-i", 4, seed=2, stamp_px=stamp_px + 4)

    def ask(element: int) -> np.ndarray:
        turned = dataclasses.replace(drawn, images=turn_images(drawn.images, element), truth=None)
        answer = predict(network, turned, average=8)
        return answer.mean if backbone == "gampen" else answer.probabilities

    for element in (1, 6):
        np.testing.assert_allclose(ask(element), ask(0), rtol=1e-4)


@pytest.mark.parametrize("element", range(1, 8))
def test_what_is_told_of_the_psf_turns_with_the_image(element: int) -> None:
    survey = Survey.load("hsc-wide-i")
    survey = dataclasses.replace(survey, psf=dataclasses.replace(survey.psf, e1=0.1, e2=0.06))
    drawn = simulate(survey, 3, seed=2, stamp_px=64, noise=False)
    turned = dataclasses.replace(
        drawn, images=turn_images(drawn.images, element), psf=turn_images(drawn.psf, element), truth=None
    )
    backbone = Network.build("foveal", width=0.34).backbone
    by_argument, by_hand = backbone.inputs(drawn, element), backbone.inputs(turned)
    torch.testing.assert_close(by_argument.numbers, by_hand.numbers, atol=2e-4, rtol=2e-4)
    assert not torch.allclose(by_argument.numbers, backbone.inputs(drawn).numbers, atol=1e-2)


def test_ellipticity_told_is_that_of_the_psf() -> None:
    # a Gaussian of widths a and b under a round one of width s: 1/a'^2 = 1/a^2 + 1/s^2, a closed form
    axis = torch.arange(-20, 21, dtype=torch.float32)
    wide, narrow, fwhm = 3.0, 2.0, torch.tensor([5.9])
    psf = torch.exp(-0.5 * ((axis[None, :] / wide) ** 2 + (axis[:, None] / narrow) ** 2))[None]
    weight = (2.3548 / float(fwhm)) ** 2
    xx, yy = (1 / (1 / width**2 + weight) for width in (wide, narrow))
    found = _ellipticity(psf / psf.sum(), axis, fwhm)[0]
    assert found.tolist() == pytest.approx([(xx - yy) / (xx + yy), 0.0], abs=1e-4)


def test_marginal_root_is_that_of_the_precision() -> None:
    torch.manual_seed(4)
    factor = torch.tril(torch.randn(20, 12, 12, dtype=torch.float64))
    torch.diagonal(factor, dim1=1, dim2=2).exp_()
    order = [*range(3), *range(4, 12), 3]
    precision = (factor @ factor.mT)[:, order][:, :, order]
    root = _marginal_root(factor)
    torch.testing.assert_close(root, torch.linalg.cholesky(precision), rtol=1e-8, atol=1e-10)
    # its last number is the marginal width of B/T
    marginal = torch.linalg.inv(factor @ factor.mT)[:, 3, 3]
    torch.testing.assert_close(root[:, -1, -1], marginal.rsqrt())


def test_turn_of_coordinates_is_that_of_galaxies() -> None:
    for element in range(8):
        matrix = turn_internal(element)
        assert torch.allclose(matrix @ matrix.T, torch.eye(12, dtype=torch.float64))
    quarter = turn_internal(1)
    assert quarter[0:2, 0:2].tolist() == [[0.0, -1.0], [1.0, 0.0]]
    assert quarter[5, 5] == -1


def test_posterior_of_the_head_is_the_gaussian_it_was_trained_as() -> None:
    head = Network.build("foveal", width=0.5).head
    raw = torch.randn(3, 90, generator=torch.Generator().manual_seed(1)) * 0.3
    mean, covariance = head.posterior(raw)
    target = torch.randn(3, 12, generator=torch.Generator().manual_seed(2)).double()
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(target)
    ours = head.loss(raw, target.float()).double() + 6 * math.log(2 * math.pi)
    assert torch.allclose(-exact, ours, atol=1e-3)


def test_shipped_networks_say_how_they_were_made() -> None:
    for name in available_networks():
        metadata = Network.load(name).metadata
        assert metadata["training"]["seed"] is not None
        assert metadata["training"]["images"] > 100_000
        assert metadata["prior"]
        assert metadata["domain"]["ln_radius_px"][0] < metadata["domain"]["ln_radius_px"][1]


def test_one_object_has_quantiles_moments_and_samples(cutouts) -> None:
    prediction = predict(Network.load("foveal"), cutouts)
    one = prediction.select([3])
    assert one.quantile((0.16, 0.5, 0.84)).shape == (3, 1, 15)
    assert np.allclose(one.mean[0], prediction.mean[3])
    assert np.allclose(one.covariance[0], prediction.covariance[3])
    samples = prediction.sample(4000, 2)
    exact = prediction.quantile((0.16, 0.5, 0.84))
    width = exact[2] - exact[0]
    assert (np.abs(np.quantile(samples, (0.16, 0.5, 0.84), axis=0) - exact) < 0.12 * width + 1e-9).all()
    assert (np.abs(samples.mean(0) - prediction.mean) < 0.15 * samples.std(0) + 1e-9).all()


def test_unusable_objects_keep_their_row_and_are_not_judged(cutouts) -> None:
    mask = cutouts.mask.clone()
    mask[2] = True
    prediction = predict(Network.load("foveal"), dataclasses.replace(cutouts, mask=mask))
    assert decode_flags(int(prediction.flags[2])) == ("ALL_MASKED",)
    assert np.isnan(prediction.mean[2]).all()
    assert np.isfinite(np.delete(prediction.mean, 2, 0)).all()
    assert len(prediction.table()) == len(cutouts)


@pytest.mark.parametrize("stamp_px", [96, 97])
def test_turns_by_other_angles_come_back_to_the_galaxy(stamp_px: int, monkeypatch) -> None:
    # one angle alone, so that a turn back the wrong way cannot hide among the others
    survey = dataclasses.replace(Survey.load("hsc-wide-i"), sky_mag_arcsec2=30.0)
    drawn = simulate(survey, 24, 11, stamp_px=stamp_px)
    network = Network.load("foveal")
    plain = predict(network, crop_centre(drawn, turned_side(stamp_px)), draws=0)
    monkeypatch.setattr("galstress.prediction.predicting.list_turns", lambda _: [Turn(5, 30.0)])
    turned = predict(network, drawn, draws=0)
    apart = (turned.internal_mean - plain.internal_mean).abs().median(0).values
    names = dict(zip(INTERNAL_NAMES, apart.tolist(), strict=True))
    assert max(names["x"], names["y"]) < 0.1, names
    assert max(names["e1"], names["e2"], names["ln_flux"], names["ln_radius"]) < 0.05, names
    places = [turned.names.index(name) for name in ("x_px", "y_px")]
    truth = np.stack([np.asarray(drawn.truth["x_px"]), np.asarray(drawn.truth["y_px"])], 1)
    assert np.median(np.abs(turned.mean[:, places] - truth)) < 0.15  # in pixels of the whole stamp


def test_averages_that_cannot_be_made_say_what_can() -> None:
    network = Network.build("gamornet", stamp_px=48, width=0.05, pixels="sky")
    with pytest.raises(InputError, match=r"48 x 48 px stamps .* at least 70 px"):
        predict(network, simulate("sdss-g", 1, stamp_px=48), average=16)
    with pytest.raises(InputError, match="average=12"):
        predict(network, simulate("sdss-g", 1, stamp_px=96), average=12)
    wide = simulate("sdss-g", 3, stamp_px=70)
    whole, cut = predict(network, wide, average=8), predict(network, crop_centre(wide, 50), average=8)
    assert np.allclose(whole.probabilities, cut.probabilities)
    assert np.allclose(predict(network, wide, average=24).probabilities.sum(1), 1)
