"""Maps: against torchcam, on synthetic light, and that the network is left as it was."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.explanation import BASELINES, Explanation, explain
from galstress.explanation.grids import SCALES, Grid, hats, lay_fovea
from galstress.explanation.outputs import Question, explained
from galstress.networks import Network
from galstress.simulation import simulate


def small_network(seed: int = 5) -> Network:
    torch.manual_seed(seed)
    network = Network.build("foveal", width=0.34)
    # as after training: nothing is zero any more
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.modules().eval()
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network()


@pytest.fixture(scope="module")
def cutouts() -> Cutouts:
    return simulate("hsc-wide-i", 4, seed=2, stamp_px=96, neighbours=True)


@pytest.fixture(scope="module")
def explanation(network, cutouts) -> Explanation:
    return explain(network, cutouts)


def test_maps_are_positive_and_sum_to_one(explanation, cutouts):
    for maps in (explanation.maps, explanation.gaussian, explanation.random):
        assert maps.shape == tuple(cutouts.images.shape)
        assert (maps >= 0).all()
        np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-9)
    assert list(explanation.object_id) == list(cutouts.object_id)


def test_correlations_are_those_of_scipy(explanation):
    for row in range(len(explanation)):
        own = explanation.maps[row].ravel()
        for place, other in enumerate((explanation.gaussian, explanation.random)):
            assert explanation.pearson[row, place] == pytest.approx(pearsonr(own, other[row].ravel())[0], abs=1e-9)
            assert explanation.spearman[row, place] == pytest.approx(spearmanr(own, other[row].ravel())[0], abs=1e-9)


def test_gaussian_has_the_second_moment_of_the_map_when_the_stamp_holds_both(network):
    narrow = simulate("hsc-wide-i", 2, seed=2, stamp_px=192)
    found = explain(network, narrow)
    axis = np.arange(192) - 95.5
    squares = axis[:, None] ** 2 + axis[None] ** 2
    own, gaussian = ((maps * squares).sum((1, 2)) for maps in (found.maps, found.gaussian))
    assert (gaussian < 1.001 * own).all()  # the stamp cuts the Gaussian's wings
    assert (gaussian > 0.6 * own).all()
    x = (found.gaussian * np.arange(192)).sum((1, 2))
    np.testing.assert_allclose(x, 95.5, atol=1e-9)


@pytest.mark.parametrize("output", ["bulge_to_total", "e1", "bulge_sersic_index"])
def test_activation_agrees_with_torchcam(network, cutouts, output):
    """torchcam's Grad-CAM, which keeps only what raises the output, laid on the sky the same way."""
    torchcam = pytest.importorskip("torchcam.methods")
    one = cutouts.select([1])
    inputs = network.backbone.inputs(one)
    scalar = explained(network, one, inputs, Question(output, "mean", 0))

    class Raising(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.backbone, self.sign = network.backbone, sign

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return self.sign * scalar(views)[:, None]

    last = list(network.backbone.stages.values())[-1]
    judged = torch.zeros(6, 6, dtype=torch.float64)
    for sign in (1.0, -1.0):  # what raises the output and what lowers it, together its size
        with torchcam.GradCAM(Raising(sign), last) as cam:
            scores = cam.model(inputs.views.clone().requires_grad_())
            judged += cam(0, scores, normalized=False)[0][0].detach().double()
    views = inputs.views.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(views).sum(), views)
    on_sky = lay_fovea(judged[None], (gradient * views).detach().double(), (96, 96), Grid(0, 8))[0].numpy()
    own = explain(network, one, output).maps[0]
    np.testing.assert_allclose(own, on_sky / on_sky.sum(), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("shape", [(96, 96), (97, 97), (200, 201), (64, 130)])
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_a_pixel_of_a_view_lies_where_the_backbone_saw_its_light(network, cutouts, shape, scale):
    """A block of light put on the sky is seen by one pixel of a view; that pixel's weight returns to the block."""
    size, view = SCALES[scale], 48
    dark = Cutouts(
        **{
            **{f.name: getattr(cutouts.select([0]), f.name) for f in dataclasses.fields(Cutouts)},
            "images": torch.zeros(1, *shape),
            "variance": torch.ones(1, *shape),
            "mask": torch.zeros(1, *shape, dtype=torch.bool),
            "neighbour_mask": torch.zeros(1, *shape, dtype=torch.bool),
        }
    )
    through = torch.zeros(1, 3, view, view, dtype=torch.float64)
    through[0, scale, 20, 27] = 1.0
    activation = torch.zeros(1, view, view, dtype=torch.float64)  # as many cells as pixels: no interpolation
    activation[0, 20, 27] = 1.0
    on_sky = lay_fovea(activation, through, shape, Grid(0, 1))
    assert float(on_sky.sum()) == pytest.approx(1, abs=1e-5)
    block = on_sky[0] > 0.5 / size**2
    assert int(block.sum()) == size**2
    dark.images[0][block] = 1.0
    seen = network.backbone.inputs(dark).views[0, scale]
    assert torch.nonzero(seen > 0).tolist() == [[20, 27]]


def test_cells_lie_where_their_light_comes_from(network):
    """The middle of what a cell depends on, over many random networks, is where the cell is drawn."""
    hat = hats(48, 6, Grid(0, 8))
    places = []
    for seed in range(6):
        backbone = small_network(seed).backbone
        views = (0.1 * torch.randn(1, 3, 48, 48)).requires_grad_()
        x, condition = views, torch.zeros(1, 64)
        for stage in backbone.stages.values():
            x = stage(x, condition)
        (gradient,) = torch.autograd.grad((x[0, :, 3, 3] * torch.randn(x.shape[1])).sum(), views)
        weight = gradient[0].square().sum((0, 1))
        places.append(float((weight * torch.arange(48)).sum() / weight.sum()))
    drawn = float((hat[:, 3] * torch.arange(48)).sum() / hat[:, 3].sum())
    assert drawn == pytest.approx(24, abs=0.2)
    assert np.mean(places) == pytest.approx(drawn, abs=1.0)


def test_light_in_one_corner_pulls_the_map_there(network):
    """What the map says of a lopsided image is on the lopsided side of the sky."""
    plain = simulate("hsc-wide-i", 1, seed=4, stamp_px=192, noise=False)
    images = plain.images.clone()
    images[0, 140:170, 20:50] += 30 * plain.sky_rms[0]
    found = explain(network, dataclasses.replace(plain, images=images)).maps[0]
    before = explain(network, plain).maps[0]
    change = found - before
    quarters = {name: change[rows, columns].sum() for name, rows, columns in (
        ("upper left", slice(96, None), slice(0, 96)), ("upper right", slice(96, None), slice(96, None)),
        ("lower left", slice(0, 96), slice(0, 96)), ("lower right", slice(0, 96), slice(96, None)),
    )}  # fmt: skip
    assert max(quarters, key=quarters.get) == "upper left"


def test_another_seed_changes_only_what_is_random(network, cutouts, explanation):
    again, other = explain(network, cutouts), explain(network, cutouts, seed=1)
    np.testing.assert_array_equal(again.random, explanation.random)
    assert np.abs(other.random - explanation.random).max() > 1e-6
    np.testing.assert_allclose(other.maps, explanation.maps, rtol=0.2, atol=1e-4)


def test_batches_do_not_matter(network, cutouts, explanation):
    alone = explain(network, cutouts.select([2]))
    np.testing.assert_allclose(alone.maps[0], explanation.maps[2], rtol=1e-3, atol=1e-9)
    parts = explain(network, cutouts, batch_size=3)
    np.testing.assert_allclose(parts.maps, explanation.maps, rtol=1e-3, atol=1e-9)


def test_mean_and_sigma_rest_on_different_things(network, cutouts, explanation):
    sigma = explain(network, cutouts, statistic="sigma")
    assert sigma.output == "sigma of bulge_to_total"
    assert np.abs(sigma.maps - explanation.maps).max() > 1e-6


def test_the_network_is_left_as_it_was(cutouts):
    network = small_network()
    modules = network.modules().train()
    network.head.eval()
    frozen = network.parameters()[0].requires_grad_(False)
    before = {name: value.clone() for name, value in modules.state_dict().items()}
    modes = [module.training for module in modules.modules()]
    state = torch.random.get_rng_state()
    explain(network, cutouts.select([0]))
    assert [module.training for module in modules.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == [p is not frozen for p in network.parameters()]
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in modules.state_dict().items())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, name) for module in modules.modules() for name in hooks)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_failure_restores_the_network_too(cutouts, monkeypatch):
    network = small_network()
    modules = network.modules().train()
    monkeypatch.setattr(type(network.head), "posterior", lambda self, raw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explain(network, cutouts.select([0]))
    assert all(module.training for module in modules.modules())
    assert not any(module._forward_hooks for module in modules.modules())


def test_an_object_without_pixels_has_no_map_and_stops_nobody(network, cutouts, explanation):
    mask = cutouts.mask.clone()
    mask[1] = True
    found = explain(network, dataclasses.replace(cutouts, mask=mask))
    assert np.isnan(found.maps[1]).all()
    assert np.isnan(found.spearman[1]).all()
    np.testing.assert_allclose(found.maps[[0, 2, 3]], explanation.maps[[0, 2, 3]], rtol=1e-3, atol=1e-9)


def test_nothing_in_nothing_out(network, cutouts):
    empty = explain(network, cutouts.select([]))
    assert empty.maps.shape == (0, 96, 96)
    assert empty.spearman.shape == (0, 2)


def test_written_and_read(explanation, tmp_path):
    path = tmp_path / "explanation.safetensors"
    explanation.write(path)
    back = Explanation.read(path)
    assert back.output == explanation.output
    assert list(back.object_id) == list(explanation.object_id)
    for name in ("maps", "gaussian", "random", "pearson", "spearman"):
        np.testing.assert_allclose(getattr(back, name), getattr(explanation, name), rtol=1e-6, atol=1e-12)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_report_reads_it(explanation, tmp_path):
    from galstress.report.records import _read_maps

    explanation.write(tmp_path / "explanation.safetensors")
    maps = _read_maps(tmp_path / "explanation.safetensors")
    assert maps.names == ("class activation", *BASELINES)
    np.testing.assert_allclose(maps.correlations[:, 1:], explanation.pearson, rtol=1e-5)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="explain again"):
        Explanation.read(tmp_path / "other.safetensors")


def test_unknown_outputs_are_named(network, cutouts):
    with pytest.raises(UnknownNameError, match="bulge_to_total"):
        explain(network, cutouts, "concentration")
    with pytest.raises(InputError, match="mean or sigma"):
        explain(network, cutouts, statistic="median")


def test_a_backbone_without_stages_is_refused(network, cutouts):
    bare = dataclasses.replace(network, backbone=nn.Linear(2, 2))
    with pytest.raises(InputError, match="stages"):
        explain(bare, cutouts)
