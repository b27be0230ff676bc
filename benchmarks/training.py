"""How much of a training step goes into drawing galaxies.

    python benchmarks/training.py --blocks 1

Runs the steps of whole blocks of the recipe ``foveal`` (rendering included), with five surveys and batches that suit
two cores, and prints seconds a step for drawing and for the rest, and their ratio.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time

import torch

from foveal import TURNED
from galstress.networks import Network
from galstress.recipes import load_recipe
from galstress.training import Lesson, train

_log = logging.getLogger("training")


def main() -> None:
    """Parse, train, print."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    options = parser.parse_args()
    recipe = load_recipe("foveal")
    surveys = {name: recipe.surveys[name] for name in TURNED}
    recipe = dataclasses.replace(recipe, surveys=surveys, at_once=len(surveys), per_survey=32, block=256)
    torch.manual_seed(1)
    network = Network.build("foveal", width=recipe.backbone["width"])
    network.head.scale.fill_(2.0)  # not 1: the loop need not look at the first targets
    steps = options.blocks * recipe.block * recipe.exposures // recipe.per_survey
    spent = 0.0

    def draw(step: int) -> list[Lesson]:
        nonlocal spent
        start = time.perf_counter()
        batches = recipe.draw(step, seed=3)
        spent += time.perf_counter() - start
        return batches

    start = time.perf_counter()
    train(network, draw, dataclasses.replace(recipe.schedule, steps=steps))
    rest = time.perf_counter() - start - spent
    line = "%d steps of %d galaxies: drawing %.3f s, the rest %.3f s a step, ratio %.2f"
    _log.info(line, steps, recipe.per_survey * len(recipe.surveys), spent / steps, rest / steps, spent / rest)


if __name__ == "__main__":
    main()
