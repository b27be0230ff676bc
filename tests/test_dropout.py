"""Dropout while measuring: many passes together against torch's own, one by one, and few passes against many."""

from __future__ import annotations

import dataclasses
import itertools
import math

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
    return simulate("hsc-wide-i", 3, seed=4, stamp_px=64, population="nearby")


def build_gampen(rate: float) -> Network:
    """Random weights, and outputs that differ from galaxy to galaxy."""
    torch.manual_seed(6)
    network = Network.build("gampen", stamp_px=64, width=0.0625, pixels="sky", dropout=rate)
    nn.init.normal_(network.backbone.stages["output"].weight, std=0.1)
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


@pytest.mark.parametrize("rate", [7e-4, 0.02, 0.5])
def test_passes_together_draw_as_torchs_own_one_by_one(cutouts, rate: float) -> None:
    network = build_gampen(rate)
    inputs = network.backbone.inputs(cutouts)
    one_by_one = real_passes(network, inputs, 200).numpy()
    together = draw_raw(network, inputs, 400).numpy()
    assert_same(one_by_one, together)
    # moments, averaged over galaxies and outputs; 200 passes know a width to 5 %, or to twice that with seldom drops
    assert np.log(together.std(1) / one_by_one.std(1)).mean() == pytest.approx(0, abs=0.12)
    correlations = [np.corrcoef(each[0].T) for each in (one_by_one, together)]
    assert np.abs(correlations[0] - correlations[1]).mean() < 0.15


def test_comparison_would_see_another_dropout(cutouts) -> None:
    inputs = build_gampen(0.02).backbone.inputs(cutouts)
    right, more = (draw_raw(build_gampen(rate), inputs, 300).numpy() for rate in (0.02, 0.15))
    middle = right.mean(1, keepdims=True)
    for wrong in (more, middle + 0 * right, middle + 0.4 * (right - middle)):
        with pytest.raises(AssertionError):
            assert_same(right, wrong)


def test_what_no_dropout_touches_is_computed_once(cutouts) -> None:
    network = build_gampen(7e-4)
    inputs = network.backbone.inputs(cutouts)
    convolutions = [layer for layer in network.backbone.stages.modules() if isinstance(layer, nn.Conv2d)]
    calls: list[str] = []
    watched = {"transformer": network.backbone.localization, "first": convolutions[0], "second": convolutions[1]}
    hooks = [m.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, m in watched.items()]
    draw_raw(network, inputs, 64)
    assert {name: calls.count(name) for name in watched} == {"transformer": 1, "first": 1, "second": 4}
    for hook in hooks:
        hook.remove()


def test_answer_depends_on_the_image_and_the_seed_alone(cutouts, monkeypatch) -> None:
    network = build_gampen(7e-4)
    many = draw_raw(network, network.backbone.inputs(cutouts), 20, seed=3)
    alone = draw_raw(network, network.backbone.inputs(cutouts.select([2])), 20, seed=3)
    torch.testing.assert_close(many[2:3], alone, rtol=1e-4, atol=1e-4)
    other = draw_raw(network, network.backbone.inputs(cutouts), 20, seed=4)
    assert not torch.allclose(other, many, atol=1e-3)
    monkeypatch.setattr(dropout, "_NUMBERS", 1)
    monkeypatch.setattr(dropout, "_OBJECTS", 2)
    split = draw_raw(network, network.backbone.inputs(cutouts), 20, seed=3)
    torch.testing.assert_close(split, many, rtol=1e-4, atol=1e-4)


def test_without_dropout_all_passes_are_the_network_itself(cutouts) -> None:
    network = build_gampen(0.0)
    network.modules().train()
    inputs = network.backbone.inputs(cutouts)
    drawn = draw_raw(network, inputs, 5)
    with torch.no_grad():
        torch.testing.assert_close(drawn, network.backbone(inputs)[:, None].expand(-1, 5, -1))
    assert network.backbone.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def spread_gaussian(network: Network, ln_d: float) -> None:
    """Give every Gaussian that the network says the same diagonal D and no correlations."""
    output = network.backbone.stages["output"]
    output.weight.data[3:] = 0
    output.bias.data[3:6] = ln_d
    output.bias.data[6:] = 0


def one_draw_a_pass(network: Network, cutouts, passes: int) -> np.ndarray:
    """(B, passes, 3) as published: a pass, and one draw of what it says."""
    inputs = network.backbone.inputs(cutouts)
    raw = real_passes(network, inputs, passes)
    normal = torch.randn(len(cutouts), passes, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return network.head.outputs(network.head.draw(raw, normal), inputs.reference, cutouts.survey).numpy()


def test_posterior_of_few_passes_is_that_of_a_pass_per_draw(cutouts) -> None:
    network = build_gampen(7e-4)
    inputs = network.backbone.inputs(cutouts)
    scatter = float(draw_raw(network, inputs, 200).std(1)[:, :3].mean())
    spread_gaussian(network, math.log(10 * scatter**2))  # dropout adds a tenth to the variance, as in trained ones
    found = predict(network, cutouts).draws
    assert found.shape == (3, 1024, 3)
    slow = one_draw_a_pass(network, cutouts, 250)
    assert_same(slow, found)
    logs = [np.log(each[..., 1:]) for each in (slow, found)]
    shift = (logs[0].mean(1) - logs[1].mean(1)) / logs[0].std(1)
    assert np.abs(shift).mean() < 3 * (1 / 250 + 0.1 / 32) ** 0.5


def test_prediction_holds_the_scatter_of_the_dropout(cutouts) -> None:
    """Where the Gaussian itself has no width, what is left is the dropout's."""
    network = build_gampen(0.02)
    spread_gaussian(network, -16.0)
    slow = np.log(one_draw_a_pass(network, cutouts, 200)[..., 1:])
    for average in (False, True):
        found = predict(network, cutouts, average=average).draws
        assert found.shape == (3, 1024, 3)
        clusters = np.log(found[..., 1:]).reshape(3, 32, 32, 2)
        assert clusters.std(2).max() < 0.01 * slow.std(1).min()  # the draws of one pass
        if not average:
            # 32 passes know a width to 13 %
            assert np.log(clusters.mean(2).std(1) / slow.std(1)).mean() == pytest.approx(0, abs=0.25)


def test_probabilities_under_dropout_are_those_of_real_passes(cutouts) -> None:
    torch.manual_seed(2)
    network = Network.build("gamornet", stamp_px=64, width=0.1, pixels="sky")
    for layer in itertools.islice(reversed(list(network.backbone.modules())), 8):
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
    network.head.temperature.fill_(1.4)
    network.modules().eval()
    inputs = network.backbone.inputs(cutouts)
    real = torch.softmax(real_passes(network, inputs, 300) / 1.4, -1).numpy()
    calls: list[int] = []
    hook = network.backbone.stages["conv1"][0].register_forward_hook(lambda *_: calls.append(1))
    found = draw_probabilities(network, cutouts, 1000)
    hook.remove()
    assert len(calls) == 1
    assert found.std(1).min() > 0.01
    assert_same(real, found)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    mask = cutouts.mask.clone()
    mask[1] = True
    hidden = draw_probabilities(network, dataclasses.replace(cutouts, mask=mask), 16)
    assert np.isfinite(hidden).all((1, 2)).tolist() == [True, False, True]
    assert draw_probabilities(network, cutouts.select([]), 16).shape == (0, 16, 3)
    with pytest.raises(InputError, match="classes"):
        draw_probabilities(build_gampen(7e-4), cutouts)
