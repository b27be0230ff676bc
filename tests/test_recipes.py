"""The published recipes and ours for the six cells."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from galstress.errors import InputError
from galstress.heads import ClassHead
from galstress.networks import Network
from galstress.recipes import RECIPES, load_recipe
from galstress.recipes.calibration import calibrate
from galstress.training import Lesson, Schedule, train


def small(name: str, **changes: object):
    """A recipe of few and small images."""
    recipe = load_recipe(name)
    stamps = dict.fromkeys(recipe.surveys, (64,))
    backbone = {**recipe.backbone, "stamp_px": 64, "width": 0.03}
    smaller = {"stamps": stamps, "backbone": backbone, "per_survey": 4, "block": 8, **changes}
    return dataclasses.replace(recipe, **smaller)  # type: ignore[arg-type]


def pixels(lessons: list[Lesson]) -> torch.Tensor:
    return torch.cat([lesson.cutouts.images for lesson in lessons])


def test_published_schedules_are_those_of_the_publications() -> None:
    sdss, candels = load_recipe("gamornet-sdss"), load_recipe("gamornet-candels")
    # 1407 steps of 64 an epoch: 90,000 images; checkpoints of 999 and 400 epochs were released
    assert sdss.schedule.steps == 1407 * 1000
    assert candels.schedule.steps == 1407 * 400
    for recipe in (sdss, candels):
        schedule = recipe.schedule
        assert (schedule.optimizer, schedule.momentum, schedule.learning_rate) == ("sgd", 0.9, 1e-4)
        assert schedule.rate(0) == schedule.rate(schedule.steps - 1) == 1e-4
    assert load_recipe("gampen-hsc-g").schedule.learning_rate == 5e-7
    assert load_recipe("gampen-hsc-i").backbone["dropout"] == 4e-4
    stamps = {name: load_recipe(f"gampen-hsc-{name}").backbone["stamp_px"] for name in "gri"}
    assert stamps == {"g": 239, "r": 143, "i": 96}


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "foveal"])
def test_every_recipe_draws_what_its_network_takes(name: str) -> None:
    recipe = small(name)
    lessons = recipe.draw(3, seed=2)
    network = Network.build(
        recipe.backbone["name"], recipe.head, **{k: v for k, v in recipe.backbone.items() if k != "name"}
    )
    inputs = network.backbone.inputs_of([lesson.cutouts for lesson in lessons])
    raw = network.head(network.backbone(inputs))
    assert raw.shape == (4 * len(lessons), network.backbone.features)
    assert torch.isfinite(raw).all()


def test_finite_recipe_shows_the_same_images_every_epoch() -> None:
    recipe = small("gamornet-candels", images=32)
    epoch = 32 // 4
    first, second = (
        pixels([lesson for k in range(epoch) for lesson in recipe.draw(k + start, seed=3)]) for start in (0, epoch)
    )
    sums = [each.double().sum((1, 2)).sort().values for each in (first, second)]
    assert torch.equal(*sums)
    assert len(sums[0].unique()) == 32
    later = pixels([lesson for k in range(epoch) for lesson in recipe.draw(k + 2 * epoch, seed=3)])
    assert not (torch.equal(first, second) and torch.equal(second, later))  # in another order


def test_endless_recipe_shows_other_images() -> None:
    recipe = small("gamornet-hst-improved")
    one, two = (pixels(recipe.draw(step, seed=3)).double().sum((1, 2)) for step in (0, 500))
    assert not torch.isin(one, two).any()


def test_sky_is_left_in_where_the_publication_leaves_it_in() -> None:
    left, taken = (pixels(small("gamornet-sdss", pedestal=sky).draw(0, seed=1)) for sky in ((0.01, 0.05), (0.0, 0.0)))
    sky = (left - taken).flatten(1)
    assert load_recipe("gamornet-sdss").pedestal == (0.01, 0.05)
    assert float(sky.std(1).max()) < 1e-4  # the same everywhere in an image
    assert 0.01 <= float(sky.mean(1).min()) < float(sky.mean(1).max()) <= 0.05


def test_sgd_takes_the_steps_of_its_formula() -> None:
    network = Network.build("gamornet", stamp_px=48, width=0.05, dropout=0.0)
    lessons = small("gamornet-candels", stamps={"gamornet-candels": (48,)}).draw(0, seed=1)
    before = [p.detach().clone() for p in network.parameters()]
    inputs = network.backbone.inputs_of([lesson.cutouts for lesson in lessons])
    targets = torch.cat([network.head.place(lesson.galaxies, inputs.reference) for lesson in lessons])
    network.head.loss(network.head(network.backbone(inputs)), targets).mean().backward()
    slopes = [p.grad.clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = None
    schedule = Schedule(1, 0.1, warm_up=0, cool_down=0.0, weight_decay=0.0, average=0.0, clip=math.inf, optimizer="sgd")
    trained, _ = train(network, lambda step: lessons, schedule)
    for old, slope, new in zip(before, slopes, trained.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * slope, atol=1e-6)


def test_unknown_optimiser_is_refused() -> None:
    network = Network.build("gamornet", stamp_px=48, width=0.05)
    with pytest.raises(InputError, match="adamw or sgd"):
        train(network, lambda step: small("gamornet-candels").draw(step, seed=1), Schedule(1, optimizer="lion"))


def test_dropout_does_not_depend_on_interruption(tmp_path) -> None:
    recipe = small("gamornet-hst-improved")
    schedule = Schedule(6, 1e-3, warm_up=2, cool_down=0.0)

    def run(steps: int, path) -> list[float]:
        torch.manual_seed(4)
        network = Network.build("gamornet", stamp_px=64, width=0.05, pixels="sky")
        cut = dataclasses.replace(schedule, steps=steps)
        return train(network, lambda step: recipe.draw(step, seed=1), cut, checkpoint=path, checkpoint_every=3)[1]

    whole = run(6, tmp_path / "whole.safetensors")
    run(3, tmp_path / "cut.safetensors")
    torch.manual_seed(99)
    assert run(6, tmp_path / "cut.safetensors")[3:] == pytest.approx(whole[3:], rel=1e-4)


def test_training_begins_with_the_weights_that_are_given(tmp_path) -> None:
    recipe = small("gampen-hsc-improved")
    first, _ = recipe.train(seed=1, steps=3)
    kept = {name: t.clone() for name, t in first.modules().state_dict().items()}
    still = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, learning_rate=0.0))
    second, losses = still.train(seed=2, steps=2, start=first)
    assert len(losses) == 2
    for name, tensor in second.modules().state_dict().items():
        if name != "head.widening":  # set anew on other galaxies
            assert torch.equal(tensor, kept[name]), name
    assert all(torch.equal(t, kept[name]) for name, t in first.modules().state_dict().items())
    start = second.metadata["training"]["start"]
    assert (start["recipe"], start["seed"], start["steps"]) == ("gampen-hsc-improved", 1, 3)
    assert second.metadata["training"]["seed"] == 2
    json.dumps(second.metadata)  # goes into a file
    with pytest.raises(InputError, match="weights of"):
        small("gampen-hst-improved", backbone={**recipe.backbone, "width": 0.05}).train(seed=1, steps=1, start=first)


def test_probabilities_are_heated_until_they_hold() -> None:
    """Logits that are three times too sure: the temperature that is found is three."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(20_000, 3, generator=generator)
    classes = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0]

    class Fixed:
        head = ClassHead()

        def modules(self):
            return torch.nn.Identity()

        def raw(self, cutouts):
            del cutouts
            return 3 * logits, type("Inputs", (), {"reference": None})()

    share = torch.tensor([0.2, 0.5, 0.8])[classes]
    lesson = Lesson(None, type("Galaxies", (), {"bulge_to_total": share})())  # type: ignore[arg-type]
    assert float(calibrate(Fixed(), [[lesson]])) == pytest.approx(3.0, rel=0.05)  # type: ignore[arg-type]
    assert np.isfinite(float(Fixed.head.temperature))
