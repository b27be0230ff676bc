"""What each change of our recipe bought: GaMorNet on CANDELS, from the published recipe to ours, a step at a time.

    python benchmarks/recipes.py run --steps 1500 --width 0.125 --out docs/results/recipes

The sky that the published recipe leaves in its images is taken off in all. Every training sees as many images and is
tested on the same fresh galaxies of the published population; each has the changes of those before it. A training is
kept in the folder and not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch

from galstress.heads import Classes
from galstress.networks import Network
from galstress.prediction import predict
from galstress.recipes import Recipe, load_recipe
from galstress.scores import bootstrap
from galstress.studies.records import write_json
from galstress.studies.samples import find_sample
from galstress.training import Schedule

SEED = 61
_log = logging.getLogger("recipes")


def list_changes(steps: int, width: float) -> dict[str, Recipe]:
    """Recipes by the change that each makes, the published one first."""
    recipe = load_recipe("gamornet-candels")
    backbone = {**recipe.backbone, "width": width}
    schedule = dataclasses.replace(recipe.schedule, steps=steps)
    found = {"as published: SGD, raw pixels, 90,000 images": dataclasses.replace(
        recipe, backbone=backbone, schedule=schedule, per_survey=128, block=512, pedestal=(0.0, 0.0),
    )}  # fmt: skip

    def change(words: str, **fields: object) -> None:
        found[words] = dataclasses.replace(list(found.values())[-1], **fields)  # type: ignore[arg-type]

    ours = Schedule(steps=steps, learning_rate=1e-3, warm_up=steps // 20, cool_down=0.6, weight_decay=1e-3)
    change("AdamW, warm-up and cool-down, averaged weights", schedule=ours)
    change("pixels in units of the sky's rms, asinh", backbone={**backbone, "pixels": "sky"})
    change("galaxies drawn anew, 16 exposures each, turned and mirrored", images=0, exposures=16)
    change("PSF, sky and gain vary", varied=True)
    return found


def test(network: Network, count: int) -> dict[str, float]:
    """Log-loss and share of right classes, with 68 % intervals, on fresh galaxies."""
    parts: list[Classes] = []
    true: list[np.ndarray] = []
    for cutouts in find_sample("gamornet-candels").draw(count, SEED):
        parts.append(predict(network, cutouts))
        share = np.asarray(cutouts.truth["bulge_to_total"], float)
        true.append((share >= 0.45).astype(int) + (share > 0.55).astype(int))
    said, place = Classes.concatenate(parts).probabilities, np.concatenate(true)
    loss = -np.log(np.maximum(said[np.arange(len(place)), place], 1e-9))
    right = (said.argmax(1) == place).astype(float)
    record: dict[str, float] = {"count": len(place)}
    for name, values in (("log_loss", loss), ("right", right)):
        ends = bootstrap(lambda each: each.mean(-1), values, seed=SEED)
        record |= {f"{name}{end}": round(float(v), 5) for end, v in zip(("", "_low", "_high"), ends, strict=True)}
    return record


def run(out: Path, steps: int, width: float, count: int) -> None:
    """Train and test each recipe; write the summary."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "summary.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for words, recipe in list_changes(steps, width).items():
        if any(row["change"] == words for row in rows):
            continue
        network, losses = recipe.train(seed=SEED)
        rows.append({"change": words, **test(network, count), "last_loss": round(float(np.mean(losses[-100:])), 5)})
        _log.info("%s: %s", words, rows[-1])
        summary = {
            "study": "recipes", "seed": SEED, "steps": steps, "width": width, "images": steps * 128,
            "sample": "gamornet-candels, simulated, fresh", "intervals": "68 % over galaxies, one training each",
            "guess_log_loss": round(-sum(p * math.log(p) for p in (0.466, 0.068, 0.466)), 4),
            "command": f"python benchmarks/recipes.py run --steps {steps} --width {width} --count {count}",
            "rows": rows,
        }  # fmt: skip
        write_json(path, summary)


def main() -> None:
    """Words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--out", type=Path, default=Path("docs/results/recipes"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--count", type=int, default=4000)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    run(given.out, given.steps, given.width, given.count)


if __name__ == "__main__":
    main()
