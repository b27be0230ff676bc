"""GaMorNet and GaMPEN: counts, paddings, normalisations, transformer and loss against closed forms and other codes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from galstress.cutouts import decode_flags
from galstress.errors import InputError
from galstress.heads import TripleHead
from galstress.networks import GaMorNet, GaMPEN, Network
from galstress.networks.gampen import _SeldomDropout, has_collapsed
from galstress.networks.pixels import PixelInputs
from galstress.prediction import predict
from galstress.simulation import simulate

SMALL = {
    "gamornet": {"stamp_px": 64, "width": 0.1, "pixels": "sky"},
    "gampen": {"stamp_px": 64, "width": 0.0625, "pixels": "sky"},
}
# what the published code's own summaries say
LAYERS_167 = [11_712, 614_656, 885_120, 1_327_488, 884_992, 37_752_832, 16_781_312, 12_291]
LOCALIZATION, ZOOMING_239, FEATURES, CLASSIFIER = 521_056, 8_306_753, 14_714_688, 119_582_729


@pytest.fixture(scope="module")
def cutouts():
    return simulate("hsc-wide-i", 8, seed=4, neighbours=True, stamp_px=64)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def answer(prediction) -> np.ndarray:
    """(N, numbers) of either kind of answer."""
    numbers = prediction.probabilities if hasattr(prediction, "probabilities") else prediction.draws
    return numbers.reshape(len(prediction), numbers[:1].size if len(prediction) else 3)


# ---- counts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stamp_px", "published"),
    [
        (GaMorNet, 167, 58_270_403),
        (GaMorNet, 83, 29_958_851),
        (GaMorNet, 239, 87_630_531),
        (GaMPEN, 239, 143_125_226),
        (GaMPEN, 143, 137_226_986),
        (GaMPEN, 96, 135_604_970),
    ],
)
def test_number_of_weights_is_the_published_one(kind, stamp_px: int, published: int) -> None:
    with torch.device("meta"):
        assert count(kind(stamp_px=stamp_px)) == published


def test_number_of_weights_of_each_layer_is_the_published_one() -> None:
    with torch.device("meta"):
        classifier, posterior = GaMorNet(167), GaMPEN(239)
    assert [count(stage) for stage in classifier.stages.values()] == LAYERS_167
    assert count(posterior.localization) == LOCALIZATION
    assert count(posterior.zooming) == ZOOMING_239
    assert sum(count(stage) for name, stage in posterior.stages.items() if name.startswith("block")) == FEATURES
    assert sum(count(posterior.stages[name]) for name in ("dense1", "dense2", "output")) == CLASSIFIER


def test_dropout_stands_in_front_of_every_convolution_but_the_first_and_behind_two_dense_layers() -> None:
    with torch.device("meta"):
        network = GaMPEN(96, dropout=0.25)
    trunk = [layer for layer in network.stages.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.Dropout)]
    letters = {nn.Conv2d: "c", nn.Linear: "l", nn.Dropout: "d"}
    kinds = "".join(letter for layer in trunk for kind, letter in letters.items() if isinstance(layer, kind))
    assert kinds == "c" + "dc" * 12 + "ldldl"
    assert {layer.p for layer in trunk if isinstance(layer, nn.Dropout)} == {0.25}
    assert not any(isinstance(m, nn.Dropout) for m in (*network.localization.modules(), *network.zooming.modules()))


@pytest.mark.parametrize("rate", [7e-4, 0.01])
def test_seldom_dropout_drops_each_unit_independently_at_its_rate(rate: float) -> None:
    torch.manual_seed(6)
    layer = _SeldomDropout(rate).train()
    units = 2000
    dropped = torch.stack([(layer(torch.ones(1, units)) == 0)[0] for _ in range(4000)]).double()
    # of independent units the number dropped is binomial, in every place alike, next to another as often as far from it
    count = dropped.sum(1)
    mean, sigma = units * rate, math.sqrt(units * rate * (1 - rate))
    assert count.mean().item() == pytest.approx(mean, abs=4 * sigma / math.sqrt(4000))
    assert count.var().item() == pytest.approx(sigma**2, rel=0.12)
    thirds = dropped.mean(0)[: units // 3 * 3].view(3, -1).mean(1)
    assert thirds.tolist() == pytest.approx([rate] * 3, rel=0.06)
    beside = (dropped[:, 1:] * dropped[:, :-1]).mean().item()
    assert beside == pytest.approx(rate**2, rel=0.5 if rate < 1e-3 else 0.1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_seldom_dropout_has_the_gradient_of_what_it_did(memory_format: torch.memory_format) -> None:
    torch.manual_seed(6)
    layer = _SeldomDropout(0.015).train()
    x = torch.randn(3, 5, 17, 19).to(memory_format=memory_format).requires_grad_()
    y = layer(x)
    slope = torch.randn(y.shape)  # another order in memory than channels-last
    (y * slope).sum().backward()
    kept = y != 0
    assert 0 < (~kept).sum() < 0.05 * y.numel()
    torch.testing.assert_close(y, torch.where(kept, x / 0.985, 0))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(kept, slope / 0.985, 0))
    torch.testing.assert_close(layer.eval()(x), x)


# ---- GaMorNet's layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [167, 83, 239, 42, 21, 11])
@pytest.mark.parametrize("kind", ["convolution", "pool"])
def test_padding_is_tensorflows(side: int, kind: str) -> None:
    """Output o sees inputs o * stride - front + tap, front = half of the missing, rounded down (TensorFlow's docs)."""
    kernel, stride = (11, 4) if kind == "convolution" else (3, 2)
    stages = GaMorNet(stamp_px=64, width=0.01).stages["conv1"]
    out = math.ceil(side / stride)
    front = max((out - 1) * stride + kernel - side, 0) // 2
    layer = stages[2] if kind == "pool" else stages[0]
    taps = torch.rand(kernel, kernel) + 0.5 if kind == "convolution" else torch.ones(kernel, kernel)
    if kind == "convolution":
        layer.weight.data[:] = taps
    for bright in ((0, side - 1), (side // 3, side // 2 + 1), (side - 2, 1)):
        image = torch.zeros(1, 1, side, side)
        image[0, 0, bright[0], bright[1]] = 1.0
        wanted = np.zeros((out, out))
        for row in range(out):
            for column in range(out):
                tap = (bright[0] - row * stride + front, bright[1] - column * stride + front)
                if min(tap) >= 0 and max(tap) < kernel:
                    wanted[row, column] = taps[tap]
        assert wanted.max() > 0
        with torch.no_grad():
            np.testing.assert_allclose(layer(image)[0, 0].numpy(), wanted, atol=1e-6)


def test_pool_pads_with_nothing_that_could_be_the_largest() -> None:
    pool = GaMorNet(stamp_px=64, width=0.01).stages["conv1"][2]
    assert float(pool(-torch.ones(1, 1, 11, 11)).max()) == -1.0


def test_tflearns_normalisation_is_over_eleven_channels() -> None:
    x = np.random.default_rng(1).normal(0, 60, (2, 24, 3, 4))
    wanted = np.empty_like(x)
    for channel in range(24):
        near = x[:, max(0, channel - 5) : channel + 6]
        wanted[:, channel] = x[:, channel] / (1 + 1e-4 * (near**2).sum(1)) ** 0.75
    layer = GaMorNet(stamp_px=64, width=0.01, response="tflearn").stages["conv1"][3]
    np.testing.assert_allclose(layer(torch.tensor(x)).numpy(), wanted, rtol=1e-5)
    assert np.abs(wanted / x).min() < 0.8  # it does something at this brightness


def test_keras_normalisation_is_a_spatial_mean_summed_over_all_channels() -> None:
    x = np.random.default_rng(2).normal(0, 60, (2, 24, 7, 9))
    wanted = np.empty_like(x)
    for row in range(7):
        for column in range(9):
            near = x[:, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            squares = (near**2).mean((2, 3)).sum(1)  # TensorFlow's mean counts pixels that exist
            wanted[:, :, row, column] = x[:, :, row, column] / (1 + 1e-4 * squares[:, None]) ** 0.75
    layer = GaMorNet(stamp_px=64, width=0.01, response="keras").stages["conv1"][3]
    np.testing.assert_allclose(layer(torch.tensor(x)).numpy(), wanted, rtol=1e-5)


# ---- GaMPEN's transformer ------------------------------------------------------------------------------------------


def asymmetric(side: int) -> np.ndarray:
    """A bright spiral of blobs that no turn or mirror maps onto itself, up to the edge."""
    y, x = np.mgrid[:side, :side]
    image = np.zeros((side, side))
    for place, (row, column, width) in enumerate(((0.5, 0.55, 4), (0.3, 0.6, 3), (0.7, 0.2, 5), (0.05, 0.9, 3))):
        image += (4 - place) * np.exp(-((y - row * side) ** 2 + 2 * (x - column * side) ** 2) / (2 * width**2))
    return image


def zoomed(network: GaMPEN, factor: float, image: np.ndarray) -> np.ndarray:
    last = network.zooming[2]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, factor)
    views = torch.tensor(image, dtype=torch.float32).expand(1, 3, *image.shape)
    with torch.no_grad():
        return network.transform(views)[0, 1].numpy()


@pytest.mark.parametrize("side", [64, 71])
@pytest.mark.parametrize("factor", [1.0, 0.6, 1.7, -0.8])
def test_transformer_zooms_about_the_centre_as_scipy_does(side: int, factor: float) -> None:
    image = asymmetric(side)
    centre = (side - 1) / 2
    place = (np.mgrid[:side, :side] - centre) * factor + centre
    wanted = map_coordinates(image, place, order=1, mode="grid-constant")
    found = zoomed(GaMPEN(side, 0.0625, bounded_zoom=False), factor, image)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("bounded", [True, False])
def test_transformer_starts_as_the_identity(bounded: bool, cutouts) -> None:
    network = GaMPEN(64, 0.0625, pixels="sky", bounded_zoom=bounded)
    views = network.inputs(cutouts).views
    with torch.no_grad():
        assert (network.zoom(views) == 1).all()
        torch.testing.assert_close(network.transform(views), views, atol=1e-4, rtol=1e-4)


def test_bounded_zoom_cannot_lose_the_galaxy_and_the_published_one_can() -> None:
    views = torch.rand(6, 3, 64, 64)
    for factor in (0.0, -0.02, 60.0):
        zooms = {}
        for bounded in (True, False):
            network = GaMPEN(64, 0.0625, bounded_zoom=bounded)
            nn.init.constant_(network.zooming[2].bias, factor)
            zooms[bounded] = network.zoom(views).detach()
        assert has_collapsed(zooms[False])
        assert bool(((zooms[True] >= 1 / 3 - 1e-6) & (zooms[True] <= 3 + 1e-6)).all())
        assert has_collapsed(zooms[True]) == (factor == 60.0)  # there it stands at the bound, and no gradient moves it
    image = asymmetric(64)
    assert np.ptp(zoomed(GaMPEN(64, 0.0625, bounded_zoom=False), 0.0, image)) < 1e-4  # one pixel everywhere
    assert np.ptp(zoomed(GaMPEN(64, 0.0625, bounded_zoom=True), 0.0, image)) > 1
    assert has_collapsed(torch.full((3,), math.nan))
    assert not has_collapsed(torch.tensor([0.4, 1.0, 0.0]))


def test_transformer_has_not_collapsed_after_training() -> None:
    """Steps at twice the recipes' rate, on galaxies of many sizes: the zooms still see them."""
    torch.manual_seed(3)
    network = Network.build("gampen", **SMALL["gampen"])
    drawn = simulate("hsc-wide-i", 16, seed=5, stamp_px=64, population="nearby")
    inputs = network.backbone.inputs(drawn)
    targets = network.head.targets(drawn, inputs.reference)
    network.head.set_scale(targets)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = network.head.loss(network.head(network.backbone(inputs)), targets).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    zooms = network.backbone.zoom(inputs.views).detach()
    assert losses[-1] < losses[0]
    assert bool((zooms != 1).any())  # it was trained
    assert not has_collapsed(zooms), zooms


# ---- the head ------------------------------------------------------------------------------------------------------


def test_loss_is_that_of_a_multivariate_normal_of_covariance_ldl() -> None:
    rng = np.random.default_rng(7)
    raw, target = rng.normal(0, 0.7, (5, 9)), rng.normal(0, 1, (5, 3))
    head = TripleHead()
    head.centre.copy_(torch.tensor([0.5, -1.0, 2.0]))
    head.scale.copy_(torch.tensor([2.0, 0.5, 1.5]))
    found = head.loss(torch.tensor(raw, dtype=torch.float32), torch.tensor(target, dtype=torch.float32))
    means, covariances = head.posterior(torch.tensor(raw))
    scale = np.array([2.0, 0.5, 1.5])
    for row in range(5):
        lower = np.array([[1, 0, 0], [raw[row, 6], 1, 0], [raw[row, 7], raw[row, 8], 1]])
        covariance = scale[:, None] * (lower @ np.diag(np.exp(raw[row, 3:6])) @ lower.T) * scale
        mean = raw[row, :3] * scale + [0.5, -1.0, 2.0]
        np.testing.assert_allclose(covariances[row].numpy(), covariance, rtol=1e-9)
        np.testing.assert_allclose(means[row].numpy(), mean, rtol=1e-9)
        normal = torch.distributions.MultivariateNormal(torch.tensor(mean), torch.tensor(covariance))
        wanted = -normal.log_prob(torch.tensor(target[row])) - 1.5 * math.log(2 * math.pi) - math.log(scale.prod())
        assert float(found[row]) == pytest.approx(float(wanted), abs=2e-4)


def test_draws_of_the_head_have_its_moments() -> None:
    raw = torch.tensor([0.3, -1.0, 0.5, -1.0, 0.2, -2.0, 0.8, -0.5, 0.4], dtype=torch.float64)
    head = TripleHead()
    head.widening.copy_(torch.tensor([1.5, 1.0, 0.8]))
    normal = torch.randn(200_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = head.draw(raw.expand(len(normal), 9), normal)
    mean, covariance = head.posterior(raw[None])
    sigma = covariance[0].diagonal().sqrt()
    torch.testing.assert_close((drawn.mean(0) - mean[0]) / sigma, torch.zeros(3).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), covariance[0], rtol=0.02, atol=0.005)


@pytest.mark.parametrize(("margin", "edge"), [(0.0, math.log(0.0005 / 0.9995)), (0.01, math.log(0.01 / 0.99))])
def test_margin_gives_pure_disks_and_bulges_a_place(margin: float, edge: float, cutouts) -> None:
    head, survey = TripleHead(margin=margin), cutouts.survey
    shares = np.linspace(0, 1, len(cutouts))
    truth = cutouts.truth.copy()
    truth["bulge_to_total"] = shares
    drawn = dataclasses.replace(cutouts, truth=truth)
    reference = GaMPEN(64, 0.0625, pixels="sky").inputs(drawn).reference
    placed = head.targets(drawn, reference)
    assert placed[[0, -1], 0].tolist() == pytest.approx([edge, -edge], rel=1e-4)
    back = head.outputs(placed[:, None], reference, survey)[:, 0]
    np.testing.assert_allclose(back[:, 0], shares, atol=6e-4 if margin == 0 else 1e-6)
    np.testing.assert_allclose(back[:, 2], np.asarray(truth["flux_njy"]), rtol=1e-4)


# ---- laws and hostile images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("half", [False, True])
def test_file_gives_the_same_network_back(tmp_path, cutouts, name: str, half: bool) -> None:
    network = Network.build(name, **SMALL[name]).with_metadata(name="mine")
    if name == "gampen":
        network.head.widening.fill_(1.25)
    network.save(tmp_path / "n.safetensors", half=half)
    again = Network.load(tmp_path / "n.safetensors")
    assert again.metadata == network.metadata
    first, second = (predict(n, cutouts, draws=16) for n in (network, again))
    scale = first.std if name == "gampen" else 1.0
    assert (np.abs(first.mean - second.mean) <= (0.02 if half else 1e-5) * scale).all()


@pytest.mark.parametrize("name", SMALL)
def test_what_cannot_be_measured_is_flagged_and_the_rest_is_as_ever(cutouts, name: str) -> None:
    network = Network.build(name, **SMALL[name])
    images, mask, rms = cutouts.images.clone(), cutouts.mask.clone(), cutouts.sky_rms.clone()
    images[0, 30, 33] = math.nan
    images[1] = math.inf
    images[2] = 0.0
    mask[3] = True
    rms[4] = 0.0
    mask[5, 28:36, 28:36] = True
    hostile = dataclasses.replace(cutouts, images=images, mask=mask, sky_rms=rms)
    found, fine = predict(network, hostile, draws=16), predict(network, cutouts, draws=16)
    assert np.isfinite(answer(found)).all(1).tolist() == [False] * 5 + [True] * 3
    words = [set(decode_flags(int(each))) for each in found.flags]
    assert all("ALL_MASKED" in each for each in words[:5])
    assert "NON_FINITE" in words[0] & words[1]
    assert "CENTRE_MASKED" in words[5]
    assert found.usable.tolist() == [False] * 5 + [True] * 3
    np.testing.assert_allclose(answer(found)[6:], answer(fine)[6:], rtol=1e-4)
    assert len(found.table()) == len(cutouts)


@pytest.mark.parametrize("name", SMALL)
def test_cutouts_of_any_size_and_none_at_all(cutouts, name: str) -> None:
    network = Network.build(name, **SMALL[name])
    fields = ("images", "variance", "mask", "neighbour_mask")
    tiny = dataclasses.replace(cutouts, **{field: getattr(cutouts, field)[:, 26:38, 26:38] for field in fields})
    found = predict(network, tiny, draws=16)
    assert {decode_flags(int(each)) for each in found.flags} == {("TOO_SMALL",)}
    assert np.isnan(answer(found)).all()
    assert len(predict(network, cutouts.select([]), draws=16)) == 0
    flat = dataclasses.replace(cutouts, **{field: getattr(cutouts, field)[:, :, 8:57] for field in fields})
    assert np.isfinite(answer(predict(network, flat, draws=16))).all()


@pytest.mark.parametrize("name", SMALL)
def test_pixels_of_another_size_than_trained_on_are_flagged(cutouts, name: str) -> None:
    network = Network.build(name, **SMALL[name])
    scale = cutouts.survey.pixel_scale_arcsec
    for trained, outside in ((scale, False), (0.396, True)):
        told = network.with_metadata(domain={"pixel_scale_arcsec": [trained, trained]})
        flags = predict(told, cutouts, draws=16).flags
        assert [("OUT_OF_DOMAIN" in decode_flags(int(f))) for f in flags] == [outside] * len(cutouts)


@pytest.mark.parametrize("settings", [{"stamp_px": 12}, {"stamp_px": 64.0}, {"pixels": "adu"}])
@pytest.mark.parametrize("kind", [GaMorNet, GaMPEN])
def test_impossible_settings_are_one_line(kind, settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        kind(**settings)
    with pytest.raises(InputError, match="response"):
        GaMorNet(response="batch")


@pytest.mark.parametrize("kind", [GaMorNet, GaMPEN])
def test_smallest_stamp_goes_through_every_layer(kind) -> None:
    channels = 1 if kind is GaMorNet else 3
    network = kind(kind.SMALLEST_PX, width=0.02).eval()
    views = torch.rand(2, channels, kind.SMALLEST_PX, kind.SMALLEST_PX)
    assert torch.isfinite(network(PixelInputs(views, None))).all()
