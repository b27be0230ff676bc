"""Fine-tuning: scores are closed forms, splits are by galaxy, runs resume exactly, and what is frozen stays so."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from astropy.table import QTable
from scipy.stats import multivariate_normal

from finetuning_cases import partial, small_network, weights
from galstress.cli import main
from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.finetuning import (
    Tuning,
    apply_lines,
    cross_validate,
    deal_folds,
    finetune,
    fit_lines,
    label_loss,
    marginal_loss,
    rate_factors,
    read_groups,
    read_labels,
    score_draws,
    split_rows,
)
from galstress.finetuning import tuning as tuning_module
from galstress.networks import Network
from galstress.prediction import predict
from galstress.simulation import simulate

SHORT = Tuning(steps=4, batch=4, check_every=2)
KNOWN = "bulge_to_total", "half_light_radius_arcsec", "mag_ab", "e1", "e2"


@pytest.fixture(scope="module")
def galaxies() -> Cutouts:
    return simulate("hsc-wide-i", 12, seed=4, stamp_px=96)


# ---- losses --------------------------------------------------------------------------------------------------------


def test_marginal_loss_is_scipys_density():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 7, 7))
    covariance, mean = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(7), rng.normal(size=(6, 7))
    label, sigma = rng.normal(size=(6, 7)), rng.uniform(0, 1, (6, 7))
    label[rng.random((6, 7)) < 0.4] = np.nan
    label[5] = np.nan
    found = marginal_loss(*(torch.as_tensor(each) for each in (mean, covariance, label, sigma)))
    for row in range(5):
        at = np.isfinite(label[row])
        wide = covariance[row][np.ix_(at, at)] + np.diag(sigma[row, at] ** 2)
        expected = -multivariate_normal(mean[row, at], wide).logpdf(label[row, at])
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)
    assert float(found[5]) == 0


def test_marginal_loss_bears_a_covariance_that_rounding_made_singular():
    covariance = torch.full((1, 3, 3), 4.0, requires_grad=True)  # all three are the same number
    along, across = (torch.tensor([each]) for each in ([2.0, 2.0, 2.0], [2.0, -2.0, 2.0]))
    mean, sigma = torch.zeros(1, 3), torch.zeros(1, 3)
    likely, unlikely = (marginal_loss(mean, covariance, label, sigma) for label in (along, across))
    likely.sum().backward()
    assert torch.isfinite(likely).all()
    assert torch.isfinite(covariance.grad).all()
    assert float((unlikely - likely).detach()) > 1e5


def test_loss_of_a_network_on_some_quantities_is_scipys_density(galaxies):
    network = small_network()
    table = partial(galaxies, "bulge_to_total", "mag_ab")
    table["bulge_to_total"][3] = np.nan
    labels = read_labels(table, galaxies)
    raw, inputs = network.raw(galaxies)
    found = label_loss(network.head, raw, labels, inputs.reference, torch.zeros(2, 24, 12)).detach()
    mean, covariance = (each.detach().numpy() for each in network.head.posterior(raw))
    target = labels.place(network.head, inputs.reference).numpy()
    for row in range(len(galaxies)):
        at = [2, 3] if row != 3 else [2]
        density = multivariate_normal(mean[row, at], covariance[row][np.ix_(at, at)])
        assert float(found[row]) == pytest.approx(-density.logpdf(target[row, at]), rel=1e-6)


def test_score_of_draws_is_that_of_all_pairs():
    rng = np.random.default_rng(2)
    draws, label, unit = rng.normal(size=(3, 9, 4)), rng.normal(size=(3, 4)), rng.uniform(1, 2, (3, 4))
    label[1, 2] = np.nan
    found = score_draws(*(torch.as_tensor(each) for each in (draws, label, unit)))
    miss = np.abs(draws - label[:, None]).mean(1)
    pairs = np.abs(draws[:, :, None] - draws[:, None]).sum((1, 2)) / (9 * 8)
    np.testing.assert_allclose(found, np.nansum((miss - pairs / 2) / unit, 1))


def test_draws_of_a_flow_learn_from_a_few_quantities(galaxies):
    network = small_network("flow")
    labels = read_labels(partial(galaxies, "bulge_to_total", "mag_ab"), galaxies)
    raw, inputs = network.raw(galaxies)
    points = torch.randn(2, 24, 12, generator=torch.Generator().manual_seed(1))
    label_loss(network.head, raw, labels, inputs.reference, points).mean().backward()
    flow = [p.grad for p in network.head.flow.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in flow)
    assert sum(float(g.abs().sum()) for g in flow) > 0
    # of a head without draws, no draws are asked for: the loss is the density alone
    head = small_network().head
    assert not hasattr(head, "draw")


def test_pure_disks_and_bulges_are_placed_as_the_flow_was_trained(galaxies):
    table = QTable({"bulge_to_total": np.tile([0.0, 1.0, 0.5], 4)})
    labels = read_labels(table, galaxies)
    reference = small_network().backbone.inputs(galaxies).reference
    flow = labels.place(small_network("flow").head, reference)[:, 3].numpy()
    gaussian = labels.place(small_network().head, reference)[:, 3].numpy()
    np.testing.assert_allclose(gaussian[::3], -np.log(99), rtol=1e-9)
    assert (flow[::3] < -np.log(99)).all()
    assert (flow[1::3] > np.log(99)).all()
    assert len(set(flow[::3])) == 4  # spread: a smooth bump instead of a spike
    np.testing.assert_allclose(flow[2::3], 0, atol=1e-12)


# ---- splits and policies -------------------------------------------------------------------------------------------


def test_no_split_shares_a_galaxy():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 12, 60)
    for seed in range(5):
        learned, validated = split_rows(groups, 0.25, seed)
        assert sorted([*learned, *validated]) == list(range(60))
        assert not set(groups[learned]) & set(groups[validated])
        assert 15 <= len(validated) <= 15 + np.bincount(groups).max()
        fold = deal_folds(groups, 4, seed)
        assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
        assert np.ptp(np.bincount(fold, minlength=4)) <= np.bincount(groups).max()
    with pytest.raises(InputError, match="both sides"):
        split_rows(np.array([0, 0, 1]), [0], 1)


def test_images_of_one_name_are_one_galaxy():
    assert read_groups(None, np.array(["b", "a", "b"])).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("policy", "thawed"),
    [
        ("all", ("backbone.embed.0.weight", "backbone.stages.stage1.down.weight", "head.layers.2.bias")),
        ("head", ("head.layers.0.weight", "head.layers.2.bias")),
        ("last:2", ("backbone.stages.stage2.down.weight", "backbone.narrow.weight", "head.layers.0.weight")),
        ("norm", ("backbone.stages.stage1.blocks.0.gain", "backbone.stages.stage1.blocks.0.film.weight")),
        ("layerwise:0.5", ("backbone.stages.stage1.down.weight", "head.layers.2.weight")),
    ],
)
@pytest.mark.parametrize("head", ["galaxy", "flow"])
def test_what_is_frozen_keeps_every_bit(galaxies, policy, thawed, head):
    network = small_network(head)
    before = weights(network)
    tuning = dataclasses.replace(SHORT, steps=2, validation=0, learning_rate=1e-2)
    table = partial(galaxies, *KNOWN, "x_px", "y_px")
    tuned = finetune(network, galaxies, table, policy=policy, tuning=tuning)
    after = weights(tuned.network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    factors = rate_factors(network, policy)
    assert changed <= {name for name, factor in factors.items() if factor}
    assert set(thawed) <= changed
    assert all(torch.equal(value, before[name]) for name, value in weights(network).items())  # the input is left alone
    assert all(parameter.requires_grad for parameter in tuned.network.parameters())
    assert tuned.manifest["thawed"] == [name for name, factor in factors.items() if factor]


def test_rates_decay_towards_the_input():
    factors = rate_factors(small_network(), "layerwise:0.5")
    assert factors["head.layers.0.weight"] == 1
    assert [factors[f"backbone.stages.stage{k}.down.bias"] for k in (3, 2, 1)] == [0.5, 0.25, 0.125]
    assert factors["backbone.embed.0.weight"] == 0.125
    assert factors["backbone.narrow.weight"] == 0.5


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["galaxy", "flow"])
def test_interrupted_is_uninterrupted(galaxies, head, tmp_path, monkeypatch):
    tuning = dataclasses.replace(SHORT, steps=6)
    arguments = (small_network(head), galaxies, partial(galaxies, "mag_ab", "e1", "e2"))
    whole = finetune(*arguments, tuning=tuning, checkpoint=tmp_path / "whole.safetensors")
    measure, calls = tuning_module._Lesson.show, []

    def killed(self, step, batch):
        calls.append(step)
        if step == 5:
            raise KeyboardInterrupt
        return measure(self, step, batch)

    monkeypatch.setattr(tuning_module._Lesson, "show", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(*arguments, tuning=tuning, checkpoint=tmp_path / "part.safetensors")
    monkeypatch.undo()
    torch.manual_seed(99)  # nothing may depend on the process that goes on
    again = finetune(*arguments, tuning=tuning, checkpoint=tmp_path / "part.safetensors")
    assert np.array_equal(whole.history["loss"], again.history["loss"], equal_nan=True)
    assert np.array_equal(whole.history["validation"], again.history["validation"], equal_nan=True)
    assert all(torch.equal(value, weights(again.network)[name]) for name, value in weights(whole.network).items())
    assert whole.manifest == again.manifest
    done = finetune(*arguments, tuning=tuning, checkpoint=tmp_path / "whole.safetensors")  # nothing is left to do
    assert (done.best_step, done.manifest["steps_done"]) == (whole.best_step, 6)
    assert all(torch.equal(value, weights(done.network)[name]) for name, value in weights(whole.network).items())
    with pytest.raises(InputError, match="policy"):
        finetune(*arguments, tuning=tuning, policy="head", checkpoint=tmp_path / "part.safetensors")


def test_every_step_shows_other_turns_and_each_galaxy_once_a_round(monkeypatch):
    cutouts = simulate("hsc-wide-i", 12, seed=9, stamp_px=128, noise=False)
    shown, show = [], tuning_module._Lesson.show

    def kept(self, step, batch):
        shown.append(show(self, step, batch))
        return shown[-1]

    monkeypatch.setattr(tuning_module._Lesson, "show", kept)
    finetune(small_network(), cutouts, tuning=dataclasses.replace(SHORT, validation=0, steps=6))
    names = np.array([cutouts.object_id for cutouts, _, _ in shown])
    assert sorted(names[:3].flat) == sorted(names[3:].flat) == sorted(cutouts.object_id)
    first, second = (np.argsort(names[part].flat) for part in (slice(3), slice(3, 6)))
    images = [torch.cat([cutouts.images for cutouts, _, _ in part]) for part in (shown[:3], shown[3:])]
    assert not any(torch.allclose(images[0][one], images[1][other]) for one, other in zip(first, second, strict=True))
    # the labels are those of the images as they are shown: their light leans as the labels say
    images, values = torch.cat(images).double(), torch.cat([labels.values for _, labels, _ in shown])
    axis = torch.arange(images.shape[-1]) - (images.shape[-1] - 1) / 2
    x, y = axis[None, :].expand(len(axis), -1), axis[:, None].expand(-1, len(axis))
    found = [(images * each).sum((1, 2)) for each in (x, y, x**2 - y**2, 2 * x * y)]
    for moment, norm, place in zip(found, (1, 1, x**2 + y**2, x**2 + y**2), (0, 1, 5, 6), strict=True):
        measured = moment / (images * norm).sum((1, 2))
        assert np.corrcoef(measured, values[:, place])[0, 1] > 0.9


def test_the_best_weights_by_validation_are_kept_and_patience_ends(galaxies):
    tuning = Tuning(steps=40, learning_rate=0.1, batch=4, check_every=1, patience=3)  # far too fast
    tuned = finetune(small_network(), galaxies, tuning=tuning)
    validation = np.array(tuned.history["validation"])
    assert tuned.best_step == int(np.nanargmin(validation))
    assert tuned.manifest["steps_done"] == tuned.best_step + 3
    if tuned.best_step == 0:
        before, after = weights(small_network()), weights(tuned.network)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_fine_tuning_learns_what_the_labels_say():
    cutouts = simulate("hsc-wide-i", 40, seed=8, stamp_px=72)
    table = partial(cutouts, "mag_ab", "half_light_radius_arcsec")
    table["mag_ab"] += 1  # as no simulation would have it
    tuned = finetune(small_network(), cutouts, table, tuning=Tuning(steps=60, learning_rate=1e-3, batch=16))
    validation = np.array(tuned.history["validation"])
    assert validation[tuned.best_step] < validation[0] - 1
    before, after = (predict(network, cutouts, draws=0) for network in (small_network(), tuned.network))
    flux = [np.median(each.mean[:, each.names.index("flux_njy")]) for each in (before, after)]
    assert flux[1] < 0.7 * flux[0]


def test_objects_without_labels_change_nothing(galaxies):
    table = partial(galaxies, "bulge_to_total", "mag_ab")
    table["bulge_to_total"][[2, 5]] = np.nan
    table["mag_ab"][[2, 5, 7]] = np.nan
    first = finetune(small_network(), galaxies, table, tuning=SHORT)
    images = galaxies.images.clone()
    images[[2, 5]] *= 100
    second = finetune(small_network(), dataclasses.replace(galaxies, images=images), table, tuning=SHORT)
    assert first.manifest["learned"] + first.manifest["validated"] == 10
    assert all(torch.equal(value, weights(second.network)[name]) for name, value in weights(first.network).items())


def test_a_tuned_network_is_saved_with_its_story(galaxies, tmp_path):
    tuned = finetune(small_network(), galaxies, policy="last:1", tuning=SHORT)
    tuned.network.save(tmp_path / "tuned.safetensors")
    loaded = Network.load(tmp_path / "tuned.safetensors")
    assert loaded.metadata["finetuning"] == json.loads(json.dumps(tuned.manifest))
    assert loaded.metadata["name"] == "foveal+last:1"
    assert tuned.manifest["loss"] == "the head's own"


# ---- against the recalibration -------------------------------------------------------------------------------------


def test_recalibration_is_numpys_least_squares():
    rng = np.random.default_rng(3)
    predicted = rng.normal(size=(30, 5))
    label = 0.4 + 0.7 * predicted + 0.1 * rng.normal(size=(30, 5))
    label[rng.random((30, 5)) < 0.2] = np.nan
    lines = fit_lines(predicted, label)
    for place in range(5):
        at = np.isfinite(label[:, place])
        design = np.stack([predicted[at, place], np.ones(at.sum())], -1)
        expected = np.linalg.lstsq(design, label[at, place], rcond=None)[0]
        np.testing.assert_allclose(lines[:, place], expected, rtol=1e-9)
    applied = apply_lines(lines, predicted)
    np.testing.assert_allclose(applied[:, 1:], (lines[0] * predicted + lines[1])[:, 1:])
    assert applied[:, 0].min() >= 0


def test_comparison_is_out_of_fold_and_says_so(galaxies, tmp_path):
    network = small_network()
    table = partial(galaxies, "mag_ab", "half_light_radius_arcsec")
    groups = [f"galaxy{row // 2}" for row in range(12)]
    tuning = dataclasses.replace(SHORT, steps=2, folds=3)
    arguments = {"policies": ("head", "norm"), "groups": groups, "tuning": tuning, "checkpoints": tmp_path}
    found = cross_validate(network, galaxies, table, **arguments)
    values, fold = found.values, np.asarray(found.values["fold"])
    assert all(fold[row] == fold[row + 1] for row in range(0, 12, 2))
    for quantity, label in (("mag", table["mag_ab"]), ("ln_radius", np.log(table["half_light_radius_arcsec"]))):
        np.testing.assert_allclose(values[f"label_{quantity}"], label, rtol=1e-9)
        for number in range(3):
            inside = fold != number
            x = np.asarray(values[f"untouched_{quantity}"])
            slope, offset = np.polyfit(x[inside], np.asarray(label)[inside], 1)
            np.testing.assert_allclose(values[f"recalibrated_{quantity}"][~inside], slope * x[~inside] + offset)
    rows = {(row["method"], row["quantity"]): row for row in found.table}
    assert {quantity for _, quantity in rows} == {"mag", "ln_radius", "all"}
    error = {name: np.asarray(values[f"{name}_mag"] - values["label_mag"]) for name in ("head", "recalibrated")}
    sizes = {name: np.sqrt(np.mean(each**2)) for name, each in error.items()}
    assert rows["head", "mag"]["rms"] == pytest.approx(sizes["head"])
    assert rows["head", "mag"]["rms_difference"] == pytest.approx(sizes["head"] - sizes["recalibrated"])
    assert rows["recalibrated", "mag"]["rms_difference_high"] == 0
    assert found.best in ("head", "norm")
    # weights of nobody, two steps: a line does better, and the sentence says it
    assert not found.beats
    assert "is beaten by a linear recalibration" in found.sentence or "does not beat a linear" in found.sentence
    again = cross_validate(network, galaxies, table, **arguments)
    assert again.sentence == found.sentence
    assert len(list(tmp_path.glob("*-fold*.safetensors"))) == 6


def test_a_tuned_network_that_is_better_is_said_to_be(galaxies, monkeypatch):
    from galstress.finetuning.quantities import Quantities

    network, table = small_network(), partial(galaxies, "mag_ab")
    truth = dict(zip(galaxies.object_id.tolist(), np.asarray(table["mag_ab"]), strict=True))

    def ideal(self, asked, cutouts):
        values = np.full((len(cutouts), 5), np.nan)
        right = np.array([truth[name] for name in cutouts.object_id])
        wrong = right + np.sin(17 * right)
        values[:, 2] = wrong if asked is network else right + 0.01
        return values

    monkeypatch.setattr(Quantities, "predict", ideal)
    tuning = dataclasses.replace(SHORT, steps=1, folds=2)
    found = cross_validate(network, galaxies, table, policies=("head",), tuning=tuning)
    assert found.beats
    assert "fine-tuning by head beats a linear recalibration" in found.sentence


# ---- bad input and the command line --------------------------------------------------------------------------------


def test_bad_input_is_one_line(galaxies):
    network = small_network()
    cases = (
        ({"labels": QTable({"bulge_to_total": [0.5]})}, "1 rows of labels"),
        ({"labels": QTable({"bulge_to_total": [1.5] * 12})}, "bulge_to_total = 1.5"),
        ({"labels": QTable({"half_light_radius_arcsec": [-1.0] * 12})}, "half_light_radius_arcsec"),
        ({"labels": QTable({"mag_ab": [20.0] * 12, "mag_ab_err": [-1.0] * 12})}, "mag_ab_err"),
        ({"labels": QTable({"e1": [0.1] * 12})}, "both or none"),
        ({"labels": QTable({"colour": [0.1] * 12})}, "bulge_to_total"),
        ({"labels": QTable({"mag_ab": ["bright"] * 12})}, "text"),
        ({"labels": QTable({"mag_ab": [np.nan] * 12})}, "mag_ab"),
        ({"policy": "last:9"}, "last:K"),
        ({"policy": "layerwise:2"}, "layerwise:D"),
        ({"policy": "nothing"}, "last:1"),
        ({"tuning": Tuning(side_px=400)}, "larger stamps"),
        ({"tuning": Tuning(validation=1.0)}, "validation"),
        ({"groups": ["one"]}, "groups"),
    )
    for changes, words in cases:
        with pytest.raises(InputError) as caught:
            finetune(network, galaxies, **changes)
        assert words in str(caught.value), changes
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no labels"):
        finetune(network, dataclasses.replace(galaxies, truth=None))
    with pytest.raises(InputError, match="folds"):
        cross_validate(network, galaxies, tuning=Tuning(folds=13))


def test_the_command_tunes_compares_and_tells(galaxies, tmp_path, capsys):
    small_network().save(tmp_path / "network.safetensors")
    galaxies.write(tmp_path / "galaxies.fits")
    names = list(galaxies.object_id)
    lines = [f"{names[row]},{galaxies.truth['mag_ab'][row].value},{'' if row < 2 else 0.4}" for row in range(11, 0, -1)]
    (tmp_path / "labels.csv").write_text("\n".join(["object_id,mag_ab,bulge_to_total", *lines]), encoding="utf-8")
    words = ["finetune", tmp_path / "network.safetensors", tmp_path / "galaxies.fits", "--labels",
             tmp_path / "labels.csv", "--policy", "head", "--steps", 2, "-o", tmp_path / "tuned.safetensors",
             "--compare", "--folds", 2]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "head, learned from 8 galaxies" in said
    assert "Out of fold (2 folds)" in said
    assert Network.load(tmp_path / "tuned.safetensors").metadata["finetuning"]["policy"] == "head"
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert about["finetuning"]["labelled"]["logit_bulge_to_total"] < about["finetuning"]["labelled"]["ln_flux"]
    assert about["comparison"] in said
    table = QTable.read(tmp_path / "tuned.out-of-fold.ecsv")
    np.testing.assert_allclose(table["label_mag"], galaxies.truth["mag_ab"][1:].value)  # by name, not by order
    for change in (["--policy", "last:9"], ["--labels", "nowhere.csv"], ["-o", str(tmp_path / "x.fits")]):
        with pytest.raises(SystemExit) as left:
            main([*(str(word) for word in words), *change])
        assert left.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.real_data
def test_real_galaxies_with_a_few_labels_can_be_learned_from(data_dir):
    from galstress import datasets

    cutouts = datasets.load("hst-candels-bd201", band="F814W", stamp_px=276, limit=12)
    published = cutouts.catalogue["lit_bulge_to_total"], cutouts.catalogue["lit_bt_consistent"]
    share = np.where(np.asarray(published[1]) == 1, np.ma.filled(np.ma.asarray(published[0], float), np.nan), np.nan)
    tuning = dataclasses.replace(SHORT, steps=2)
    tuned = finetune(small_network("flow"), cutouts, QTable({"bulge_to_total": share}), policy="head", tuning=tuning)
    assert tuned.manifest["side_px"] == 192
    assert tuned.manifest["learned"] + tuned.manifest["validated"] == np.isfinite(share).sum() < 12
    assert np.isfinite(tuned.history["loss"][1:]).all()
