"""Training: resumes as if nothing had happened, learns, and refuses what does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from galstress.errors import InputError
from galstress.galaxy import Galaxies, galaxies_from_table
from galstress.networks import Network
from galstress.population import load_population
from galstress.recipes import load_recipe
from galstress.recipes.drawing import turn_scenes
from galstress.rendering import render
from galstress.simulation import draw_scenes, draw_targets, simulate, turn_images
from galstress.survey import Survey
from galstress.training import Lesson, Schedule, train

TINY = dataclasses.replace(
    load_recipe("foveal"),
    surveys={"hsc-wide-i": {"cosmos": 1.0}, "sdss-r": {"nearby": 1.0}},
    stamps={"hsc-wide-i": (64,), "sdss-r": (64, 48)},
    at_once=2,
    backbone={"name": "foveal", "width": 0.34},
    per_survey=4,
    block=8,
    exposures=2,
    schedule=Schedule(steps=8, warm_up=2),
)


def test_interrupted_training_goes_on_with_the_same_losses(tmp_path) -> None:
    whole, losses = TINY.train(seed=5)
    first = tmp_path / "checkpoint.safetensors"

    class KilledError(Exception):
        pass

    def draw(step: int):
        if step == 5:
            raise KilledError
        return TINY.draw(step, seed=5)

    torch.manual_seed(5)
    network = Network.build("foveal", width=0.34)
    with pytest.raises(KilledError):
        train(network, draw, TINY.schedule, checkpoint=first, checkpoint_every=2)
    torch.manual_seed(77)  # nothing may depend on the process that goes on
    again, resumed = TINY.train(seed=5, checkpoint=first)
    assert resumed == losses
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_drawing_is_a_pure_function_of_step_and_seed() -> None:
    late, early = TINY.draw(6, seed=1), TINY.draw(0, seed=1)
    again = TINY.draw(6, seed=1)
    assert all(torch.equal(a.cutouts.images, b.cutouts.images) for a, b in zip(late, again, strict=True))
    assert not torch.equal(late[0].cutouts.images, early[0].cutouts.images)
    assert not torch.equal(late[0].cutouts.images, TINY.draw(6, seed=2)[0].cutouts.images)


def test_checkpoint_of_another_schedule_is_refused(tmp_path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    TINY.train(seed=1, steps=2, checkpoint=path)
    other = dataclasses.replace(TINY, schedule=dataclasses.replace(TINY.schedule, learning_rate=1e-4))
    with pytest.raises(InputError, match="schedule"):
        other.train(seed=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="checkpoint"):
        TINY.train(seed=1, checkpoint=path)


def test_loss_falls() -> None:
    longer = dataclasses.replace(TINY, per_survey=16, block=32)
    _, losses = longer.train(seed=3, steps=40)
    assert sum(losses[-5:]) < sum(losses[:5])


def test_rate_warms_up_and_cools_down_to_zero() -> None:
    schedule = Schedule(steps=100, learning_rate=2.0, warm_up=10, cool_down=0.5)
    assert schedule.rate(0) == pytest.approx(0.2)
    assert schedule.rate(30) == 2.0
    assert schedule.rate(75) == pytest.approx(1.0)
    assert schedule.rate(100) == 0.0


def test_turned_scene_is_the_turned_galaxy_through_the_turned_psf() -> None:
    survey = Survey.load("hsc-wide-i")
    survey = dataclasses.replace(survey, psf=dataclasses.replace(survey.psf, e1=0.08, e2=-0.05))
    generator = torch.Generator().manual_seed(3)
    targets = draw_targets(load_population("cosmos"), survey, 6, 48, generator)
    scenes = draw_scenes(targets, survey, 48, None, generator)
    seen = set()
    for seed in range(12):
        turned = turn_scenes(scenes, torch.arange(6), torch.Generator().manual_seed(seed))
        element = next(e for e in range(8) if torch.equal(turn_images(scenes.model, e), turned.model))
        seen.add(element)
        again = render(turned.targets, turned.psf.images, turned.psf.oversampling, 48)
        peak = scenes.model.amax((1, 2), keepdim=True)
        assert float(((again - turned.model) / peak).abs().max()) < 2e-5
        if element not in (0, 2):  # through the PSF as it was, it is another image
            before = render(turned.targets, scenes.psf.images, turned.psf.oversampling, 48)
            assert float(((before - turned.model) / peak).abs().max()) > 1e-3
    assert len(seen) >= 5


def test_real_psfs_are_seen_where_they_are_given(tmp_path) -> None:
    psf = torch.zeros(2, 15, 15)
    psf[:, 7, 7], psf[1, 7, 8] = 0.6, 0.4
    psf[0, 6:9, 6:9] += 0.4 / 9
    save_file({"hsc-wide-i": psf}, tmp_path / "psfs.safetensors")
    recipe = dataclasses.replace(TINY, psf_share=1.0).with_psfs(tmp_path / "psfs.safetensors")
    shown = {lesson.cutouts.survey.name: lesson.cutouts for lesson in recipe.draw(0, seed=1)}
    assert shown["hsc-wide-i"].psf.shape[-1] == 15
    assert shown["hsc-wide-i"].psf_oversampling == 1
    assert shown["sdss-r"].psf_oversampling == 2
    never = dataclasses.replace(recipe, psf_share=0.0).draw(0, seed=1)
    assert all(lesson.cutouts.psf_oversampling == 2 for lesson in never)
    with pytest.raises(InputError, match="safetensors"):
        TINY.with_psfs(tmp_path / "none.safetensors")


def test_surveys_take_turns() -> None:
    some = dataclasses.replace(TINY, at_once=1, block=4, exposures=1)
    names = [some.draw(step, seed=2)[0].cutouts.survey.name for step in range(32)]
    assert all(sorted(names[first : first + 2]) == ["hsc-wide-i", "sdss-r"] for first in range(0, 32, 2))
    assert names != names[:2] * 16  # in an order that changes


def test_lessons_teach_the_truth_of_their_cutouts() -> None:
    # the tensors that training takes and the table that everyone else reads are the same galaxies
    cutouts = simulate("hsc-wide-i", 5, seed=1, stamp_px=64)
    network = Network.build("foveal", "flow", width=0.34)
    survey = cutouts.survey
    galaxies = galaxies_from_table(cutouts.truth, survey.pixel_scale_arcsec, survey.unit_njy).to(dtype=torch.float32)
    inputs = network.backbone.inputs_of([cutouts, cutouts.select([0, 1])])
    both = network.head.place(Galaxies.concatenate([galaxies, galaxies.select(slice(0, 2))]), inputs.reference)
    alone = network.head.targets(cutouts, network.backbone.inputs(cutouts).reference)
    torch.testing.assert_close(both[:5], alone)
    torch.testing.assert_close(both[5:], alone[:2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_learns_as_the_processor_does() -> None:
    short = dataclasses.replace(TINY, schedule=dataclasses.replace(TINY.schedule, steps=3))

    def draw(step: int) -> list[Lesson]:  # the same galaxies for both
        return [Lesson(lesson.cutouts.to(device), lesson.galaxies.to(device)) for lesson in short.draw(step, seed=1)]

    losses = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(5)
        losses[device] = train(Network.build("foveal", "flow", width=0.34).to(device), draw, short.schedule)[1]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)
