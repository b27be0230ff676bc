"""Networks from elsewhere through the same tests as our own."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from galstress.adapters import Estimates, adapt
from galstress.battery import stress
from galstress.errors import InputError
from galstress.scores import accuracy_table, coverage_table
from galstress.simulation import simulate


@pytest.fixture(scope="module")
def cutouts():
    return simulate("hsc-wide-i", 6, seed=3, stamp_px=48)


class Photometry(nn.Module):
    """Sum and centroid of an image, computed by a module."""

    def __init__(self, with_errors: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.with_errors = with_errors

    def forward(self, images, variance):
        x = torch.arange(images.shape[-1], dtype=images.dtype)
        flux = images.sum((1, 2))
        places = [(images.sum(axis) * x).sum(1) / flux for axis in (1, 2)]
        mean = self.dropout(torch.stack([flux, *places], 1) * self.weight)
        one = torch.ones_like(flux)
        return (mean, torch.stack([variance.sum((1, 2)).sqrt(), one, one], 1)) if self.with_errors else mean


def photometry(with_errors: bool, module: nn.Module | None = None):
    return adapt(
        module or Photometry(with_errors), ["flux_njy", "x_px", "y_px"], ["nJy", "pix", "pix"],
        inputs=lambda cutouts: (cutouts.images, cutouts.variance),
        outputs=lambda answer, cutouts: (
            (answer[0] * torch.tensor([cutouts.survey.unit_njy, 1.0, 1.0]), answer[1]) if with_errors
            else answer * torch.tensor([cutouts.survey.unit_njy, 1.0, 1.0])
        ),
    )  # fmt: skip


def test_means_are_the_modules_own(cutouts):
    said = photometry(False)(cutouts)
    flux = cutouts.images.double().sum((1, 2)).numpy() * cutouts.survey.unit_njy
    np.testing.assert_allclose(said.mean[:, 0], flux, rtol=1e-5)
    assert list(said.object_id) == list(cutouts.object_id)


def test_stress_takes_it(cutouts):
    table = stress(photometry(True), cutouts, ["quarter-turns"])
    rows = table[(table["output"] == "x_px") & (table["amount"] == 2)]
    # half a turn takes the centre to the other side of the stamp
    np.testing.assert_allclose(rows["value"], 47 - rows["baseline_value"], atol=1e-3)
    np.testing.assert_allclose(rows["shift"], 0, atol=1e-3)


def test_scores_take_it(cutouts):
    clean = simulate("hsc-wide-i", 40, seed=3, stamp_px=64, noise=False)
    said = photometry(True)(clean)
    table = accuracy_table(said, clean.truth)
    assert table[table["output"] == "flux_njy"]["error_68"][0] < 0.3
    covered = coverage_table(said, clean.truth, by=())
    assert np.isfinite(covered["coverage"]).all()


def test_quantiles_and_samples_are_normal():
    mean, std = np.array([[1.0, -2.0]]), np.array([[0.5, 3.0]])
    said = Estimates(("a", "b"), ("", ""), np.array(["x"]), np.zeros(1, np.int64), mean, std)
    np.testing.assert_allclose(said.quantile([0.16, 0.5, 0.9])[:, 0], norm.ppf([[0.16], [0.5], [0.9]], mean, std))
    draws = said.sample(20_000, seed=1)
    np.testing.assert_allclose(draws.std(0), std, rtol=0.03)
    np.testing.assert_array_equal(draws, said.sample(20_000, seed=1))
    np.testing.assert_allclose(said.covariance[0], np.diag(std[0] ** 2))


def test_without_error_bars_only_the_median_is_known(cutouts):
    said = photometry(False)(cutouts)
    np.testing.assert_array_equal(said.quantile([0.5])[0], said.mean)
    assert np.isnan(said.quantile([0.16])).all()
    assert np.isnan(np.diagonal(said.covariance, axis1=1, axis2=2)).all()
    table = stress(photometry(False), cutouts, ["depth"], amounts={"depth": [0.5]})
    assert np.isfinite(table["shift"]).all()
    assert np.isnan(table["shift_sigma"]).all()


def test_the_module_is_left_in_its_mode(cutouts):
    module = Photometry(True).train()
    module.dropout.eval()
    photometry(True, module)(cutouts)
    assert (module.training, module.dropout.training) == (True, False)
    assert module.weight.grad is None


def test_dropout_is_off(cutouts):
    module = Photometry(False).train()
    said = [photometry(False, module)(cutouts).mean for _ in range(3)]
    np.testing.assert_array_equal(said[0], said[1])
    np.testing.assert_array_equal(said[0], said[2])


def test_one_output_may_come_without_its_axis(cutouts):
    measure = adapt(nn.Flatten(), ["peak"], [""], lambda c: c.images, lambda answer, c: answer.amax(1))
    assert measure(cutouts).mean.shape == (6, 1)
    assert measure(cutouts.select([1])).mean.shape == (1, 1)


def test_masked_objects_are_nan(cutouts):
    mask = cutouts.mask.clone()
    mask[2] = True
    said = photometry(False)(dataclasses.replace(cutouts, mask=mask))
    assert np.flatnonzero(np.isnan(said.mean).any(1)).tolist() == [2]


def test_wrong_shapes_are_told(cutouts):
    with pytest.raises(InputError, match="a row an object"):
        adapt(nn.Flatten(), ["a", "b"], ["", ""], lambda c: c.images)(cutouts)
    with pytest.raises(InputError, match="one a name"):
        adapt(nn.Flatten(), ["a"], ["", ""], lambda c: c.images, lambda a, c: a.amax(1))(cutouts)
