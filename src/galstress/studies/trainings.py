"""Small trainings that are kept: a network as weights and a record, made once and read by the next run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from galstress.errors import InputError
from galstress.networks import Network
from galstress.recipes import RECIPES, Recipe
from galstress.studies.cells import Job, digest, round_number
from galstress.survey import Survey
from galstress.training import Lesson, Schedule, train

__all__ = ["TrainingSize", "Training", "shrink"]

_BLOCK, _EXPOSURES, _AT_ONCE = 256, 4, 6
"""Most scenes drawn at once, times that each is shown, and most surveys in a step."""
_CALIBRATION_STEPS = 4
"""Steps' worth of galaxies that widths are set by; medians, which studies compare, hardly depend on them."""


@dataclasses.dataclass(frozen=True)
class TrainingSize:
    """How large a network is and how long it learns: what all trainings of a study share."""

    width: float = 0.25
    """Of the backbone, in units of its usual channels."""
    steps: int = 300
    """Steps of the optimiser."""
    images: int = 128
    """Images a step, of all surveys together."""
    stamp_px: int = 64
    """Side of the images."""
    learning_rate: float = 1.5e-3
    """Largest rate, the recipe's."""

    def __post_init__(self) -> None:
        """Refuse what cannot learn."""
        for name, least, most in (
            ("width", 0.05, 8),
            ("steps", 1, 10**7),
            ("images", 2, _BLOCK),
            ("stamp_px", 32, 512),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name}={getattr(self, name)}", f"{least} to {most}", f"give another {name}")


def shrink(surveys: Mapping[str, Mapping[str, float]], size: TrainingSize, **changes: Any) -> Recipe:  # noqa: ANN401
    """The recipe ``foveal`` at a smaller size, on isolated galaxies.

    Arguments:
        surveys: Population shares by survey (a name, or a TOML file).
        size: Of the network and of its training.
        changes: Of further fields of the recipe.

    Returns:
        A recipe whose steps hold ``size.images`` images however many surveys there are: of up to six of them, in
        turn. No neighbours, no cut stamps, analytic PSFs; surveys vary about their numbers as in the full recipe.

    Raises:
        InputError: No survey, or fewer images a step than surveys in it.

    Example:
        >>> recipe = shrink({"sdss-r": {"nearby": 1.0}, "des-r": {"cosmos": 1.0}}, TrainingSize(images=64))
        >>> recipe.at_once, recipe.per_survey
        (2, 32)
    """
    at_once = min(len(surveys), _AT_ONCE)
    if not at_once or size.images < 2 * at_once:
        came = f"{size.images} images a step of {len(surveys)} surveys"
        raise InputError(came, "a survey and two images of each in a step", "give more images")
    settings: dict[str, Any] = {
        "surveys": dict(surveys), "stamps": dict.fromkeys(surveys, (size.stamp_px,)), "at_once": at_once,
        "per_survey": size.images // at_once, "block": min(_BLOCK, 8 * size.images), "exposures": _EXPOSURES,
        "neighbour_share": 0.0, "cut_share": 0.0, "backbone": {"name": "foveal", "width": size.width},
        "schedule": Schedule(
            size.steps, size.learning_rate, warm_up=min(500, max(1, size.steps // 10)), cool_down=0.5
        ),
    }  # fmt: skip
    return dataclasses.replace(RECIPES["foveal"], **(settings | changes))


@dataclasses.dataclass(frozen=True)
class Training:
    """A network to be trained by a recipe with a seed, and kept in a folder."""

    name: str
    """Of its files."""
    recipe: Recipe
    seed: int
    folder: Path
    device: str = "cpu"

    @property
    def path(self) -> Path:
        """The weights."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def mark(self) -> str:
        """A digest of everything that the weights depend on."""
        recipe = self.recipe
        fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
        for name in ("name", "psfs", "stamps", "surveys"):
            fields.pop(name)
        fields["schedule"] = dataclasses.asdict(recipe.schedule)
        surveys = [_numbers(name, shares, recipe.stamps[name]) for name, shares in recipe.surveys.items()]
        return digest("training", sorted(fields.items()), surveys, self.seed)

    def job(self, weight: int) -> Job:
        """The training as a piece of work; interrupted, it goes on from its last checkpoint."""
        return Job(self.name, self.mark, self.make, weight, also=self.path)

    def load(self) -> Network:
        """The trained network."""
        return Network.load(self.path).to(self.device)

    def make(self) -> dict[str, Any]:
        """Train, and write the weights.

        Returns:
            ``steps``, ``images`` in all, ``parameters``, ``loss`` (mean of the last tenth of the steps), ``seconds`` of
            this process.
        """
        began, recipe = time.perf_counter(), self.recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = self.folder / f"{self.name}.checkpoint.safetensors"
        settings = {key: value for key, value in recipe.backbone.items() if key != "name"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Network.build(recipe.backbone["name"], recipe.head, **settings).to(self.device)

        def draw(step: int) -> list[Lesson]:
            return recipe.draw(step, seed=self.seed, device=self.device)

        network, losses = train(network, draw, recipe.schedule, checkpoint=checkpoint, checkpoint_every=100)
        recipe.calibrate(network, seed=self.seed, steps=_CALIBRATION_STEPS, device=self.device)
        network = network.with_metadata(**recipe.describe(self.seed, losses))
        network.save(self.path)
        checkpoint.unlink(missing_ok=True)
        last = losses[-max(1, len(losses) // 10) :]
        return {
            "steps": len(losses), "images": len(losses) * recipe.per_survey * recipe.at_once, "seed": self.seed,
            "surveys": [Path(name).stem for name in recipe.surveys],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "loss": round_number(sum(last) / len(last)), "seconds": round(time.perf_counter() - began, 1),
        }  # fmt: skip


def _numbers(name: str, shares: Mapping[str, float], stamps: tuple[int, ...]) -> list[object]:
    """What training knows of a survey."""
    record = Survey.load(name).to_record()
    return [sorted((key, record[key]) for key in set(record) - {"sources", "published_depth"}), dict(shares), stamps]
