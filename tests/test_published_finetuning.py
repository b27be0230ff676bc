"""Fine-tuning of networks that classify, and of those that know B/T, radius and flux alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from astropy.table import QTable
from scipy.stats import multivariate_normal, norm

from finetuning_cases import partial, weights
from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.finetuning import (
    Tuning,
    cross_validate,
    finetune,
    heat_classes,
    label_loss,
    rate_factors,
    read_labels,
)
from galstress.heads import ClassHead, Reference, TripleHead
from galstress.networks import Network
from galstress.simulation import simulate

POINTS = torch.zeros(2, 4, 12, dtype=torch.float64)


@pytest.fixture(scope="module")
def galaxies() -> Cutouts:
    return simulate("sdss-r", 20, seed=4, population="nearby", stamp_px=56)


def build(backbone: str, **settings: object) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        size = {"stamp_px": 32, "width": 0.03} if backbone == "gamornet" else {"stamp_px": 56, "width": 0.07}
        network = Network.build(backbone, pixels="sky", **{**size, **settings})
    network.modules().eval()
    return network


def reference(count: int) -> Reference:
    flux, size = torch.linspace(40.0, 90.0, count), torch.linspace(2.0, 5.0, count)
    return Reference(flux, size, (27.5, 27.5), torch.full((count,), 0.3))


# ---- losses --------------------------------------------------------------------------------------------------------


def test_classes_are_scored_by_their_cross_entropy(galaxies):
    table = QTable({"bulge_to_total": [0.1, 0.5, 0.9, np.nan]})
    raw = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    head = ClassHead()
    head.temperature.fill_(1.7)
    loss = label_loss(head, raw, read_labels(table, galaxies.select(slice(0, 4))), reference(4), POINTS)
    probabilities = np.exp(raw.numpy() / 1.7)
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = [-np.log(probabilities[row, row]) for row in range(3)]
    np.testing.assert_allclose(loss.numpy(), [*expected, 0.0], rtol=1e-5)


def test_an_uncertain_label_counts_for_the_classes_that_it_may_be(galaxies):
    table = QTable({"bulge_to_total": [0.5], "bulge_to_total_err": [0.1]})
    labels = read_labels(table, galaxies.select([0]))
    # the loss of logits that rule out all but one class is the share that the label gives to the others
    shares = [
        1 - float(label_loss(ClassHead(), torch.full((1, 3), -50.0).index_fill(1, torch.tensor([k]), 0.0), labels,
                             reference(1), POINTS)) / 50
        for k in range(3)
    ]  # fmt: skip
    low, high = (math.log(odds / (1 - odds)) for odds in (0.01 + 0.98 * 0.45, 0.01 + 0.98 * 0.55))
    cut = norm.cdf([low, high], 0.0, 0.98 * 0.1 / 0.25)
    np.testing.assert_allclose(shares, [cut[0], cut[1] - cut[0], 1 - cut[1]], atol=1e-6)


@pytest.mark.parametrize("margin", [0.01, 0.0])
def test_partial_labels_are_scored_by_the_marginal_of_the_heads_own_gaussian(galaxies, margin):
    head = TripleHead(margin=margin)
    head.centre.copy_(torch.tensor([-0.5, 0.2, 1.0]))
    head.scale.copy_(torch.tensor([1.5, 0.4, 0.7]))
    head.widening.fill_(1.2)
    raw = 0.5 * torch.randn(1, 9, generator=torch.Generator().manual_seed(5))
    share, share_err, radius, mag = 0.3, 0.05, 1.9, 18.3
    one = galaxies.select([0])
    table = QTable({"bulge_to_total": [share], "bulge_to_total_err": [share_err], "mag_ab": [mag]})
    own = reference(1)
    loss = float(label_loss(head, raw, read_labels(table, one), own, POINTS))
    mean, covariance = (moment[0].numpy() for moment in head.posterior(raw))
    inside = margin + (1 - 2 * margin) * share
    flux = 10 ** (-0.4 * (mag - one.survey.zero_point_mag))
    known = np.array([math.log(inside / (1 - inside)), math.log(flux / (40.0 * 0.3))])
    wide = covariance[np.ix_([0, 2], [0, 2])]
    step = 1e-6
    slope = (np.diff(np.log((inside + step * np.array([-1, 1])) / (1 - inside - step * np.array([-1, 1])))) / 2 / step)[
        0
    ]
    wide[0, 0] += ((1 - 2 * margin) * slope * share_err) ** 2
    expected = -multivariate_normal(mean[[0, 2]], wide).logpdf(known)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # and of the radius alone
    table = QTable({"half_light_radius_arcsec": [radius]})
    loss = float(label_loss(head, raw, read_labels(table, one), own, POINTS))
    ln_radius = math.log(radius / one.survey.pixel_scale_arcsec / 2.0)
    np.testing.assert_allclose(loss, -norm(mean[1], math.sqrt(covariance[1, 1])).logpdf(ln_radius), rtol=1e-5)


def test_the_whole_truth_gives_the_coordinates_that_training_has(galaxies):
    head = TripleHead()
    raw = torch.zeros(20, 9)
    network = build("gampen")
    own = network.backbone.inputs(galaxies).reference
    loss = label_loss(head, raw, read_labels(None, galaxies), own, POINTS)
    residual = head.targets(galaxies, own).numpy()
    np.testing.assert_allclose(loss.numpy(), 0.5 * (residual**2).sum(1) + 1.5 * math.log(2 * math.pi), rtol=1e-3)


# ---- policies ------------------------------------------------------------------------------------------------------


def test_where_the_head_has_no_weights_the_last_stage_is_the_head():
    for backbone in ("gamornet", "gampen"):
        network = build(backbone)
        thawed = {name for name, factor in rate_factors(network, "head").items() if factor}
        assert thawed == {"backbone.stages.output.weight", "backbone.stages.output.bias"}
        deeper = {name.split(".")[2] for name, factor in rate_factors(network, "last:2").items() if factor}
        assert deeper == {"output", "dense2", "dense1"}
    decay = rate_factors(build("gampen"), "layerwise:0.5")
    assert decay["backbone.stages.output.weight"] == 1
    assert decay["backbone.stages.block1.0.weight"] == decay["backbone.localization.0.weight"] == 0.5**7


@pytest.mark.parametrize(
    ("policy", "renewed", "frozen"),
    [
        ("gamornet-sdss", {"dense1", "dense2", "output"}, set()),
        ("gamornet-candels", {"dense2", "output"}, {"conv1", "conv2", "conv3"}),
        ("gamornet-hsc", set(), {"conv1", "conv2", "conv3"}),
    ],
)
def test_published_policies_renew_and_freeze_what_the_reference_says(galaxies, policy, renewed, frozen):
    network = build("gamornet")
    before = weights(network)
    tuned = finetune(network, galaxies, policy=policy, tuning=Tuning(steps=2, learning_rate=1e-9, validation=0))
    after = weights(tuned.network)
    stages = network.backbone.stages
    moved = {s: float((after[f"{k}"] - before[f"{k}"]).abs().max()) for s in stages for k in before
             if k.startswith(f"backbone.stages.{s}.") and k.endswith("weight")}  # fmt: skip
    assert {stage for stage, change in moved.items() if change > 1e-3} == renewed
    assert {stage for stage, change in moved.items() if change == 0} == frozen
    assert set(tuned.manifest["renewed"]) == renewed
    for name, value in weights(network).items():
        assert torch.equal(value, before[name])


def test_published_policies_are_of_gamornet():
    with pytest.raises(InputError, match="a GaMorNet"):
        rate_factors(build("gampen"), "gamornet-sdss")


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backbone", "names"), [("gamornet", ("bulge_to_total",)), ("gampen", ("mag_ab",))])
def test_partial_labels_are_learned_and_a_run_goes_on_where_it_stopped(galaxies, tmp_path, backbone, names):
    network, table = build(backbone), partial(galaxies, *names)
    table[names[0]][3] = np.nan
    tuning = Tuning(steps=8, learning_rate=3e-4, validation=0, check_every=4, batch=16)
    whole = finetune(network, galaxies, table, policy="all", tuning=tuning)
    losses = np.asarray(whole.history["loss"][1:])
    assert losses[-3:].mean() < losses[:3].mean()
    assert whole.manifest["learned"] == 19
    path = tmp_path / "run.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("galstress.finetuning.tuning._Run._is_over", lambda self: len(self.losses) >= 4)
        finetune(network, galaxies, table, policy="all", tuning=tuning, checkpoint=path)
    resumed = finetune(network, galaxies, table, policy="all", tuning=tuning, checkpoint=path)
    np.testing.assert_array_equal(np.asarray(resumed.history["loss"][1:]), losses)
    for name, value in weights(whole.network).items():
        assert torch.equal(weights(resumed.network)[name], value)


def test_labels_that_a_head_cannot_learn_are_refused(galaxies):
    with pytest.raises(InputError, match="label"):
        finetune(build("gamornet"), galaxies, partial(galaxies, "half_light_radius_arcsec"))
    shapes = QTable({"e1": np.full(20, 0.1), "e2": np.full(20, 0.2)})
    with pytest.raises(InputError, match="label"):
        finetune(build("gampen"), galaxies, shapes)


@pytest.mark.parametrize(
    ("backbone", "quantities"),
    [
        ("gamornet", ["disk", "indeterminate", "bulge", "all"]),
        ("gampen", ["bulge_to_total", "ln_radius", "mag", "all"]),
    ],
)
def test_comparison_out_of_fold(galaxies, backbone, quantities):
    tuning = Tuning(steps=1, validation=0, folds=2)
    found = cross_validate(build(backbone), galaxies, policies=("head",), tuning=tuning)
    rows = found.table[found.table["method"] == "recalibrated"]
    assert list(rows["quantity"]) == quantities
    assert "recalibration" in found.sentence
    if backbone == "gamornet":
        truth = np.asarray(galaxies.truth["bulge_to_total"], float)
        np.testing.assert_array_equal(found.values["label_disk"], truth < 0.45)
        total = sum(np.asarray(found.values[f"recalibrated_{name}"]) for name in quantities[:3])
        np.testing.assert_allclose(total, 1.0)


def test_what_was_bent_by_a_temperature_and_offsets_is_bent_back():
    rng = np.random.default_rng(3)
    p = rng.dirichlet([1.0, 0.5, 1.0], 4000)
    true = np.array([rng.choice(3, p=each) for each in p])
    bent = p**2.0 * [3.0, 1.0, 0.5]
    bent /= bent.sum(1, keepdims=True)
    corrected = heat_classes(bent, np.eye(3)[true], bent)
    # the error of four thousand labels
    assert np.abs(corrected - p).max() < 0.06
    assert np.abs(bent - p).max() > 0.3
