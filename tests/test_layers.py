"""Layers of networks: where cells lie, what wakes filters, and what the sentences about them measure."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import nn

from galstress.cli import main
from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.explanation import ascend, explain, list_layers, pool_activations, record_activations
from galstress.explanation.grids import Grid, lay_on_views, mapping_layers
from galstress.explanation.outputs import Question, explained
from galstress.networks import Network
from galstress.report.records import read_study
from galstress.simulation import simulate
from galstress.studies.azimuth import average_azimuth
from galstress.studies.depths import judge_arms, judge_focus, judge_probes, judge_segments
from galstress.studies.layers import choose_place
from galstress.studies.looks import _overlap
from galstress.studies.probes import fit_probe, measure_auc


def make_network(backbone: str, seed: int = 3, **settings) -> Network:
    torch.manual_seed(seed)
    network = Network.build(backbone, **settings)
    with torch.no_grad():  # as after training: nothing is zero any more
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network.modules().eval()
    return network


@pytest.fixture(scope="module")
def gamornet() -> Network:
    return make_network("gamornet", stamp_px=64, width=0.06, pixels="sky")


@pytest.fixture(scope="module")
def gampen() -> Network:
    return make_network("gampen", stamp_px=64, width=0.04, pixels="sky")


@pytest.fixture(scope="module")
def cutouts() -> Cutouts:
    return simulate("hsc-wide-i", 3, seed=2, stamp_px=64, neighbours=True)


@pytest.mark.parametrize("output", ["disk", "indeterminate", "bulge"])
def test_class_activation_of_gamornet_agrees_with_torchcam(gamornet, cutouts, output):
    torchcam = pytest.importorskip("torchcam.methods")
    one = cutouts.select([1])
    inputs = gamornet.backbone.inputs(one)
    scalar = explained(gamornet, one, inputs, Question(output, "mean", 0))

    class Raising(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.backbone, self.sign = gamornet.backbone, sign

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return self.sign * scalar(views)[:, None]

    judged = 0.0
    for sign in (1.0, -1.0):  # what raises the output and what lowers it, together its size
        with torchcam.GradCAM(Raising(sign), gamornet.backbone.stages["conv5"][1]) as cam:
            judged = judged + cam(0, cam.model(inputs.views.clone().requires_grad_()), normalized=False)[0][0].detach()
    # 64 px: paddings of conv1 and of both pools put cell k on pixel 2 + 4 (2 (2 k + 1/2 + 1/2) + ...), half a cell in
    grid = Grid.trace(gamornet, inputs, gamornet.backbone.stages["conv5"][1])
    assert grid == Grid(14.0, 16.0)
    own = torch.as_tensor(explain(gamornet, one, output).maps[0])
    at = torch.arange(4) * 16 + 14
    found = own[at][:, at]
    np.testing.assert_allclose(found / found.sum(), judged / judged.sum(), rtol=1e-4)


def test_log_odds_are_those_of_the_probability(gamornet, cutouts):
    inputs = gamornet.backbone.inputs(cutouts)
    p = gamornet.head.probabilities(gamornet.head(gamornet.backbone(inputs))).double()
    for place, name in enumerate(("disk", "indeterminate", "bulge")):
        odds = explained(gamornet, cutouts, inputs, Question(name, "mean", 0))(inputs.views)
        np.testing.assert_allclose(odds.detach(), torch.logit(p[:, place]).detach(), atol=1e-4)


@pytest.mark.parametrize(("stamp_px", "layer"), [(160, "conv2"), (167, "conv3"), (90, "conv1"), (64, "conv1")])
def test_cells_lie_amid_the_pixels_that_they_depend_on(stamp_px, layer):
    """By what moves a cell at all: the middle of its pixels, found without any arithmetic of paddings."""
    network = make_network("gamornet", stamp_px=stamp_px, width=0.04, pixels="sky")
    module = network.backbone.stages[layer]
    inputs = network.backbone.inputs(simulate("hsc-wide-i", 1, seed=1, stamp_px=stamp_px))
    grid = Grid.trace(network, inputs, module)
    cell = round((stamp_px / 2 - grid.first) / grid.step)
    felt = torch.zeros(stamp_px, stamp_px, dtype=torch.bool)
    for seed in range(30):
        torch.manual_seed(seed)
        views = torch.randn(4, 1, stamp_px, stamp_px).requires_grad_()
        heard = []
        handle = module.register_forward_hook(lambda m, given, out, heard=heard: heard.append(out))
        network.backbone(dataclasses.replace(inputs, views=views))
        handle.remove()
        (gradient,) = torch.autograd.grad(heard[0][:, :, cell, cell].sum(), views)
        felt |= (gradient != 0).any(0)[0]
    for axis in (0, 1):
        places = torch.nonzero(felt.any(axis))[:, 0]
        assert places.min() > 0
        assert places.max() < stamp_px - 1  # whole, else its middle is another
        assert float(places.min() + places.max()) / 2 == pytest.approx(grid.first + grid.step * cell, abs=0.51)


@pytest.mark.parametrize("zoom", [0.5, 1.6])
def test_maps_of_gampen_come_back_through_the_zoom(gampen, cutouts, zoom):
    network = make_network("gampen", stamp_px=64, width=0.04, pixels="sky", bounded_zoom=False)
    with torch.no_grad():
        network.backbone.zooming[2].weight.zero_()
        network.backbone.zooming[2].bias.fill_(zoom)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    light = torch.exp(-((x - 40) ** 2 + (y - 27) ** 2) / 40) + 0.4 * torch.exp(-((x - 60) ** 2 + (y - 5) ** 2) / 30)
    inputs = network.backbone.inputs(cutouts.select([0]))
    inputs = dataclasses.replace(inputs, views=light.expand(1, 3, 64, 64).contiguous())
    seen = network.backbone.transform(inputs.views).detach()  # as a layer of one cell a pixel would see it
    back = lay_on_views(network, inputs, Grid(0.0, 1.0), seen)[0, 0]
    looked = (x - 31.5).abs().maximum((y - 31.5).abs()) < min(zoom, 1) * 31.5 - 1
    assert float((back - light).abs()[looked].max()) < 0.05
    if zoom < 1:
        assert float(back[(x - 31.5).abs() > zoom * 31.5 + 1].abs().max()) == 0


@pytest.mark.parametrize("side", [64, 51, 90])
def test_stamps_of_other_sizes_get_maps_of_their_own(gamornet, gampen, side):
    """Light off to one side pulls the map there, on stamps that the network crops and on those that it pads."""
    plain = simulate("hsc-wide-i", 1, seed=4, stamp_px=side, noise=False)
    for network, output in ((gamornet, "disk"), (gampen, "flux_njy"), (gampen, None)):
        found = explain(network, plain, output)
        assert found.maps.shape == (1, side, side)
        assert found.maps.sum() == pytest.approx(1)
    assert found.output == "bulge_to_total"


def test_what_a_head_does_not_say_is_refused(gamornet, gampen, cutouts):
    with pytest.raises(UnknownNameError, match="indeterminate"):
        explain(gamornet, cutouts, "bulge_to_total")
    with pytest.raises(UnknownNameError, match="flux_njy"):
        explain(gampen, cutouts, "e1")
    with pytest.raises(InputError, match="no error bar"):
        explain(gamornet, cutouts, statistic="sigma")
    sigma = explain(gampen, cutouts, "half_light_radius_arcsec", statistic="sigma")
    assert np.abs(sigma.maps - explain(gampen, cutouts, "half_light_radius_arcsec").maps).max() > 1e-6


def test_activations_are_the_convolution_that_scipy_does(gamornet, cutouts):
    found = record_activations(gamornet, cutouts, "conv1.0")
    convolution = gamornet.backbone.stages["conv1"][0]
    image = np.pad(gamornet.backbone.inputs(cutouts).views[2, 0].numpy(), (3, 4))  # 7 in all at 64 px, more behind
    kernel, shift = convolution.weight[4, 0].detach().numpy(), float(convolution.bias[4].detach())
    np.testing.assert_allclose(found[2, 4], correlate2d(image, kernel, "valid")[::4, ::4] + shift, atol=1e-4)
    pooled = pool_activations(gamornet, cutouts, ["conv1.0", "dense1"])
    np.testing.assert_allclose(pooled["conv1.0"], found.mean((2, 3)), rtol=1e-5)
    assert pooled["dense1"].shape == (3, 246)
    assert record_activations(gamornet, cutouts, "dense1").shape == (3, 246, 1, 1)
    assert list(pool_activations(gamornet, cutouts)) == list(gamornet.backbone.stages)


def test_layers_are_listed_and_others_refused(gamornet, gampen, cutouts):
    assert {"conv5", "conv5.0", "output"} < set(list_layers(gamornet))
    assert "stage2.blocks.0.first" in list_layers(Network.build("foveal", width=0.34))
    assert [type(layer) for layer in mapping_layers(gampen)] == [nn.ReLU] * 5
    with pytest.raises(UnknownNameError, match="conv9"):
        record_activations(gamornet, cutouts, "conv9")
    with pytest.raises(InputError, match="stages"):
        list_layers(dataclasses.replace(gamornet, backbone=nn.Linear(2, 2)))


def test_a_pattern_wakes_its_filter_more_than_its_own_spectrum_does(gamornet, cutouts):
    """A local maximum: near the best plane wave, above any of itself with random phases; of one contrast, shifted."""
    channel, rng = 2, np.random.default_rng(1)
    found = ascend(gamornet, cutouts.select([0]), "conv1.1", [channel], steps=80, contrast=1.5, seed=1)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    size = 1.5 * math.sqrt(2)
    waves = [size * torch.cos(2 * math.pi * (k * x + m * y) / 64) for k in range(13) for m in range(-12, 13) if k or m]
    power = np.abs(np.fft.rfft2(found.images[0, 0]))
    noise = [np.fft.irfft2(power * np.exp(1j * np.angle(np.fft.rfft2(rng.normal(size=(64, 64)))))) for _ in range(20)]
    convolution = gamornet.backbone.stages["conv1"][:2]

    def answer(images: torch.Tensor) -> torch.Tensor:
        shifts = [(i, j) for i in range(0, 4, 2) for j in range(0, 4, 2)]
        with torch.no_grad():
            each = [
                convolution(torch.roll(images[:, None], shift, (2, 3)))[:, channel].mean((1, 2)) for shift in shifts
            ]
        return torch.stack(each).mean(0)

    own = float(answer(torch.as_tensor(found.images[0])))
    assert own > float(answer(torch.as_tensor(np.stack(noise), dtype=torch.float32)).max())
    assert own > 0.9 * float(answer(torch.stack(waves)).max())
    assert own > 1.5 * float(answer(torch.as_tensor(1.5 * rng.normal(size=(20, 64, 64)), dtype=torch.float32)).max())
    assert found.images[0].std() == pytest.approx(1.5, rel=1e-4)
    assert abs(found.images[0].mean()) < 1e-5
    assert found.response[0] > 10 * found.blank[0]


@pytest.mark.parametrize("name", ["gamornet", "gampen", "foveal"])
def test_patterns_follow_the_seed_alone(name, gamornet, gampen, cutouts):
    network = {"gamornet": gamornet, "gampen": gampen}.get(name) or make_network("foveal", width=0.34)
    layer = list(network.backbone.stages)[1]
    settings = {"steps": 3, "contrast": 0.5}
    first, again, other = (ascend(network, cutouts, layer, [0, 3], seed=seed, **settings) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    assert np.abs(first.images - other.images).max() > 0.01 * np.abs(first.images).max()
    assert first.images.shape[:2] == (2, 1 if name == "gamornet" else 3)
    with pytest.raises(InputError, match="channels 99"):
        ascend(network, cutouts, layer, [99], steps=1)
    with pytest.raises(InputError, match="contrast 0"):
        ascend(network, cutouts, layer, [0], contrast=0)


def test_azimuthal_mean_takes_arms_and_leaves_ellipses():
    y, x = torch.meshgrid(torch.arange(81.0), torch.arange(81.0), indexing="ij")
    one, angle, q = torch.ones(1), 0.7, 0.55
    right, up = x - 38.3, y - 41.6
    along = right * math.cos(angle) + up * math.sin(angle)
    across = (up * math.cos(angle) - right * math.sin(angle)) / q
    radius, theta = torch.hypot(along, across), torch.atan2(across, along)
    smooth = torch.exp(-(radius**2) / 200)
    arms = smooth * (1 + 0.6 * torch.cos(2 * theta - 0.3 * radius))
    shape = (38.3 * one, 41.6 * one, q * one, angle * one)
    mean = average_azimuth(arms[None], *shape)[0]
    assert float(mean.sum()) == pytest.approx(float(arms.sum()), rel=1e-6)
    # rings near the centre hold few pixels, and an odd remainder of the arms
    assert float((mean - smooth)[radius > 8].abs().mean()) < 0.05 * float((arms - smooth)[radius > 8].abs().mean())
    assert float((average_azimuth(smooth[None], *shape)[0] - smooth).abs().max()) < 4e-3
    wrong = average_azimuth(smooth[None], *shape[:3], (angle + 0.8) * one)[0]
    assert float((wrong - smooth).abs().max()) > 0.1


def test_ridge_leaves_out_as_refitting_does():
    rng = np.random.default_rng(4)
    known, unknown = rng.normal(size=(30, 45)), rng.normal(size=(7, 45))
    target = known[:, 0] - 2 * known[:, 1] + 0.5 * rng.normal(size=30)
    middle, scale = known.mean(0), known.std(0)

    def ridge(x, y, new, strength):
        mean = y.mean()
        return mean + new @ np.linalg.solve(x.T @ x + strength * np.eye(45), x.T @ (y - mean))

    x, new = (known - middle) / scale, (unknown.clip(known.min(0), known.max(0)) - middle) / scale
    errors = {}
    for strength in 10.0 ** np.arange(-4, 4.01, 0.5) * 30:
        missed = []
        for row in range(30):
            rest = np.arange(30) != row
            # the mean of the columns is left out, too
            centre = x[rest].mean(0)
            missed.append(ridge(x[rest] - centre, target[rest], (x[row] - centre)[None], strength)[0] - target[row])
        errors[strength] = np.mean(np.square(missed))
    best = min(errors, key=errors.get)
    np.testing.assert_allclose(fit_probe(known, target, unknown), ridge(x, target, new, best), rtol=1e-6)


def test_auc_counts_pairs():
    rng = np.random.default_rng(2)
    score, yes = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[yes] for b in score[~yes]]
    assert float(measure_auc(score, yes)) == pytest.approx(np.mean(pairs))


def test_overlap_of_a_map_that_is_the_segment():
    segment = torch.zeros(2, 1, 20, 20, dtype=torch.bool)
    segment[0, 0, 3:9, 5:15] = True
    own = segment[:, :, None].double()
    shifted = own.roll(5, -1)
    found = _overlap(torch.cat([own, -own, shifted], 1), segment)
    np.testing.assert_allclose(found["auc"][0, :2, 0], [1, 0])
    np.testing.assert_allclose(found["iou"][0, [0, 1], 0, [0, 1]], 1)
    assert found["iou"][0, 2, 0, 0] == pytest.approx(1 / 3)
    assert np.isnan(found["auc"][1]).all()  # no galaxy, no answer


def test_arms_are_judged_against_the_smooth_galaxy():
    rng = np.random.default_rng(1)
    before = rng.uniform(0.6, 0.9, 200)
    answer = np.stack([before, before - 0.2, before, before - 0.05], 1)
    found = {"bulge_to_total": np.full(200, 0.2), "arms": np.full(200, 2.0), "answer": answer}
    found["arms"][:50], found["answer"][:50] = 0, 0.5  # others do not count
    rows = {(row["quantity"], row["kind"]): row for row in judge_arms(found, is_class=True, seed=1)}
    own = rows["p_disk", "difference"]
    assert own["change"] == pytest.approx(-0.15)
    assert own["galaxies"] == 150
    assert rows["no longer a disk", "arms"]["change"] == pytest.approx(np.mean(before[50:] < 0.7), rel=1e-4)
    assert judge_arms(found, is_class=False, seed=1)[0]["quantity"] == "bulge_to_total"


def test_the_best_map_is_chosen_on_other_galaxies():
    rng = np.random.default_rng(3)
    auc = 0.5 + 0.01 * rng.normal(size=(40, 5, 2))
    auc[:, 2, 1] = 0.1  # dark where the galaxy is, in the second view
    auc[1::2, 4, 0] = 0.99  # only on those that choose nothing
    iou = np.full((40, 5, 2, 2), 0.2)
    iou[:, 2, 1, 1] = 0.7
    kinds = {
        f"{name} {of}": values for of in ("own", "random", "image") for name, values in (("auc", auc), ("iou", iou))
    }
    best, median = judge_segments(kinds, seed=1)[:2]
    assert best["auc"] == pytest.approx(0.9)
    assert best["iou"] == pytest.approx(0.7)
    assert median["auc"] == pytest.approx(0.5, abs=0.02)


def test_shares_and_probes_find_what_was_planted():
    rng = np.random.default_rng(5)
    shares = rng.uniform(0.2, 0.4, (50, 5))
    shares[:, 0] = shares[:, 3] / 4
    shares[7] = np.nan
    own = judge_focus({"beside": shares}, seed=1)[0]
    assert own["over_light"] == pytest.approx(0.25)
    assert own["galaxies"] == 49
    truth = rng.normal(size=(400, 4))
    found = dict(zip(("ln_radius", "ellipticity", "arms", "bulge_to_total"), truth.T, strict=True))
    found["bulge_to_total"] = np.full(400, 0.1) + 0.01 * truth[:, 3]
    found["pooled own first"], found["pooled own last"] = truth[:, :1], truth[:, :3]
    found["pooled random first"] = found["pooled random last"] = rng.normal(size=(400, 3))
    rows = {(row["target"], row["stage"]): row for row in judge_probes(found, ["first", "last"], seed=1)}
    assert rows["ln_radius", "first"]["own"] > 0.99
    assert rows["arms", "first"]["own"] == pytest.approx(0.5, abs=0.1)
    assert rows["arms", "last"]["own"] > 0.95
    assert rows["ellipticity", "last"]["random"] < 0.05


def test_the_place_is_that_of_the_training():
    network = Network.build("gamornet", stamp_px=32, width=0.1)
    trained = network.with_metadata(
        prior={"gamornet-sdss-photon": {"cosmos": 0.3, "nearby": 0.7}, "sdss-r": {"a": 1.0}}
    )
    survey, population = choose_place(trained)
    assert (survey.name, population) == ("gamornet-sdss-photon", "nearby")
    assert choose_place(trained, "sdss-r")[1] == "a"
    assert choose_place(trained, "hsc-wide-g", "nearby")[0].name == "hsc-wide-g"


def test_a_study_by_command_goes_on_and_reaches_the_report(gamornet, tmp_path):
    weights, folder = tmp_path / "small.safetensors", tmp_path / "study"
    make_network("gamornet", stamp_px=32, width=0.06, pixels="sky").save(weights)
    words = ["study", "layers", str(weights), "--survey", "hsc-wide-i", "--count", "64", "--filters", "1"]
    words += ["--steps", "1", "-o", str(folder), "--quiet"]
    _run(words)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["galaxies"] == 64
    assert summary["command"].startswith(f"galstress study layers {weights} --survey hsc-wide-i")
    for name in ("layers", "layers-maps", "layers-activations", "layers-patterns"):
        for suffix in (".png", ".svg", "-dark.png", "-dark.svg"):
            assert (folder / f"{name}{suffix}").stat().st_size > 1000
    assert len(read_study(folder).figures) == 4
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    (folder / "cells" / "block-1.json").unlink()
    _run(words)
    again = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert {name for name in times if times[name] != again[name]} == {"block-1.json", "block-1.safetensors"}
    assert json.loads((folder / "summary.json").read_text())["sentence"] == summary["sentence"]


def _run(words: list[str]) -> None:
    """A command that leaves without a status, as it should."""
    try:
        main(words)
    except SystemExit as end:
        assert not end.code  # noqa: PT017
