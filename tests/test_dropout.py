"""Draws of the dropout without a pass each, against real passes, one by one, and against the closed form."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import nn

from galstress.errors import InputError
from galstress.networks import Network
from galstress.prediction import draw_probabilities, dropout, predict
from galstress.prediction.dropout import draw_raw
from galstress.simulation import simulate

ALPHA = 0.01  # of each test as a whole, whatever the number of comparisons in it


@pytest.fixture(scope="module")
def cutouts():
    return simulate("hsc-wide-i", 4, seed=4, stamp_px=64, population="nearby")


def build_gampen(rate: float, width: float = 0.0625) -> Network:
    """Random weights, outputs that differ from galaxy to galaxy, and mostly open rectifiers, as trained ones have."""
    torch.manual_seed(6)
    network = Network.build("gampen", stamp_px=64, width=width, pixels="sky", dropout=rate)
    for layer in network.backbone.stages.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.constant_(layer.bias, 0.3)
    output = network.backbone.stages["output"]
    nn.init.normal_(output.weight, std=0.2)
    network.modules().eval()
    return network


def real_passes(network: Network, inputs, count: int, seed: int = 0) -> torch.Tensor:
    """(B, count, features) by torch's own dropout, a pass of the whole network each."""
    for layer in network.backbone.modules():
        if isinstance(layer, nn.Dropout):
            layer.train()
    torch.manual_seed(seed)
    with torch.no_grad():
        passes = torch.stack([network.backbone(inputs) for _ in range(count)], 1)
    network.modules().eval()
    return passes


def assert_same(first: np.ndarray, second: np.ndarray) -> None:
    """(B, S, F) and (B, T, F): no pair of marginals that differs, all comparisons together."""
    rows, outputs = first.shape[0], first.shape[2]
    chances = [ks_2samp(first[b, :, k], second[b, :, k]).pvalue for b in range(rows) for k in range(outputs)]
    assert min(chances) * len(chances) > ALPHA, (min(chances), len(chances))


def test_covariance_of_the_first_order_is_the_closed_form(cutouts) -> None:
    """Sum over the layers of p / (1 - p) J J^T, J by torch's own Jacobian of factors on the activations."""
    rate, count = 0.02, 6000
    network = build_gampen(rate)
    inputs = network.backbone.inputs(cutouts.select([0]))
    layers = [layer for layer in network.backbone.modules() if isinstance(layer, nn.Dropout)]
    assert len(layers) == 14
    wanted, sizes = np.zeros((9, 9)), []
    for layer in layers:
        size: list[torch.Size] = []
        hook = layer.register_forward_hook(lambda _, __, out, size=size: size.append(out.shape))
        network.backbone(inputs)
        hook.remove()

        def factors(extra: torch.Tensor, layer: nn.Module = layer) -> torch.Tensor:
            hook = layer.register_forward_hook(lambda _, __, out: out * (1 + extra))
            raw = network.backbone(inputs)[0]
            hook.remove()
            return raw

        slopes = torch.autograd.functional.jacobian(factors, torch.zeros(size[0])).reshape(9, -1).numpy()
        wanted += rate / (1 - rate) * slopes @ slopes.T
        sizes.append(slopes.shape[1])
    drawn = draw_raw(network, inputs, count, exact=False)[0].double().numpy()
    root = np.linalg.inv(np.linalg.cholesky(wanted))
    ratios = np.linalg.eigvalsh(root @ np.cov(drawn.T) @ root.T)
    # nine ratios of variances, each to sqrt(2 / 6000) = 1.8 % and a little more for tails
    assert ratios == pytest.approx(np.ones(9), abs=0.12)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(drawn.mean(0)).float(), network.backbone(inputs)[0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("rate", [7e-4, 2e-4])
def test_first_order_draws_as_real_passes_do(cutouts, rate: float) -> None:
    network = build_gampen(rate, 0.125)
    inputs = network.backbone.inputs(cutouts)
    real = real_passes(network, inputs, 250).numpy()
    fast = draw_raw(network, inputs, 1000).numpy()
    assert_same(real, fast)
    # the widths, averaged over galaxies and outputs: tails make single ones of 250 passes uncertain
    ratio = np.exp(np.log(fast.std(1) / real.std(1)).mean())
    shift = (fast.mean(1) - real.mean(1)) / real.std(1)
    assert ratio == pytest.approx(1, abs=0.15)
    assert np.abs(shift).mean() < 0.2
    correlation = [np.corrcoef(each.transpose(0, 2, 1)[0]) for each in (real, fast)]
    assert np.abs(correlation[0] - correlation[1]).mean() < 0.12


def test_comparison_would_see_a_posterior_without_dropout(cutouts) -> None:
    network = build_gampen(7e-4)
    inputs = network.backbone.inputs(cutouts)
    real = real_passes(network, inputs, 100).numpy()
    with pytest.raises(AssertionError):
        assert_same(real, real.mean(1, keepdims=True) + 0 * draw_raw(network, inputs, 100).numpy())
    with pytest.raises(AssertionError):  # nor one of half the width
        fast = draw_raw(network, inputs, 1000).numpy()
        assert_same(np.tile(real, (1, 3, 1)), fast.mean(1, keepdims=True) + (fast - fast.mean(1, keepdims=True)) / 2)


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_batched_passes_draw_as_single_ones_do(cutouts, rate: float) -> None:
    network = build_gampen(rate)
    inputs = network.backbone.inputs(cutouts)
    assert rate > dropout.LARGEST_RATE
    batched = draw_raw(network, inputs, 250).numpy()
    assert_same(real_passes(network, inputs, 250).numpy(), batched)


def test_what_no_dropout_touches_is_computed_once(cutouts) -> None:
    network = build_gampen(7e-4)
    inputs = network.backbone.inputs(cutouts)
    convolutions = [layer for layer in network.backbone.stages.modules() if isinstance(layer, nn.Conv2d)]
    calls: list[str] = []
    watched = {"transformer": network.backbone.localization, "first": convolutions[0], "second": convolutions[1]}
    hooks = [m.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, m in watched.items()]
    draw_raw(network, inputs, 64, exact=False)
    assert sorted(calls) == ["first", "second", "transformer"]
    calls.clear()
    draw_raw(network, inputs, 64, exact=True)
    assert {name: calls.count(name) for name in watched} == {"transformer": 1, "first": 1, "second": 4}
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("exact", [False, True])
def test_answer_depends_on_the_image_and_the_seed_alone(cutouts, exact: bool, monkeypatch) -> None:
    network = build_gampen(7e-4)
    many = draw_raw(network, network.backbone.inputs(cutouts), 20, seed=3, exact=exact)
    alone = draw_raw(network, network.backbone.inputs(cutouts.select([2])), 20, seed=3, exact=exact)
    torch.testing.assert_close(many[2:3], alone, rtol=1e-4, atol=1e-4)
    other = draw_raw(network, network.backbone.inputs(cutouts), 20, seed=4, exact=exact)
    assert not torch.allclose(other, many, atol=1e-3)
    monkeypatch.setattr(dropout, "_NUMBERS", 1)
    monkeypatch.setattr(dropout, "_OBJECTS", 3)
    split = draw_raw(network, network.backbone.inputs(cutouts), 20, seed=3, exact=exact)
    torch.testing.assert_close(split, many, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exact", [None, False, True])
def test_without_dropout_all_draws_are_the_network_itself(cutouts, exact: bool | None) -> None:
    network = build_gampen(0.0)
    network.modules().train()
    inputs = network.backbone.inputs(cutouts)
    drawn = draw_raw(network, inputs, 5, exact=exact)
    with torch.no_grad():
        torch.testing.assert_close(drawn, network.backbone(inputs)[:, None].expand(-1, 5, -1))
    assert network.backbone.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_prediction_holds_the_scatter_of_the_dropout(cutouts) -> None:
    """Where the Gaussian itself has no width, what is left is the dropout's."""
    network = build_gampen(7e-4, 0.125)
    output = network.backbone.stages["output"]
    output.weight.data[3:] = 0
    output.bias.data[3:6] = -15.0
    inputs = network.backbone.inputs(cutouts)
    passes = real_passes(network, inputs, 250)
    coordinates = network.head.draw(passes, torch.zeros(250, 3, dtype=torch.float64))
    real = network.head.outputs(coordinates, inputs.reference, cutouts.survey).numpy()
    found = predict(network, cutouts).draws
    assert found.shape == (4, 1024, 3)
    assert_same(real[:, :, 1:], found[:, :, 1:])
    assert_same(real[:, :, :1], found[:, :, :1])
    averaged = predict(network, cutouts, average=True).draws
    assert averaged.shape == (4, 1024, 3)
    assert (averaged.std(1) > 0).all()


def test_probabilities_under_dropout_are_those_of_real_passes(cutouts) -> None:
    torch.manual_seed(2)
    network = Network.build("gamornet", stamp_px=64, width=0.1, pixels="sky")
    for layer in itertools.islice(reversed(list(network.backbone.modules())), 8):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
    network.head.temperature.fill_(1.4)
    network.modules().eval()
    inputs = network.backbone.inputs(cutouts)
    real = torch.softmax(real_passes(network, inputs, 400) / 1.4, -1).numpy()
    calls: list[int] = []
    hook = network.backbone.stages["conv1"].register_forward_hook(lambda *_: calls.append(1))
    found = draw_probabilities(network, cutouts, 1000)
    hook.remove()
    assert len(calls) == 1
    assert found.std(1).min() > 0.01
    assert_same(real, found)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    mask = cutouts.mask.clone()
    mask[1] = True
    hidden = draw_probabilities(network, dataclasses.replace(cutouts, mask=mask), 16)
    assert np.isfinite(hidden).all((1, 2)).tolist() == [True, False, True, True]
    assert draw_probabilities(network, cutouts.select([]), 16).shape == (0, 16, 3)
    with pytest.raises(InputError, match="classes"):
        draw_probabilities(build_gampen(7e-4), cutouts)
