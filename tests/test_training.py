"""Training: resumes as if nothing had happened, learns, and refuses what does not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from galstress.errors import InputError
from galstress.networks import Network
from galstress.recipes import load_recipe
from galstress.training import Schedule, train

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
