"""Commands that answer a question with many runs, a folder a study: study labels."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galstress.cli.measuring import NetworkName
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from galstress.studies.labels import LabelsStudy

app = typer.Typer()
study = typer.Typer(help="Questions that take many runs, a folder a study, each resumable.", no_args_is_help=True)
app.add_typer(study, name="study")


@study.command(
    epilog="Example: galstress study labels foveal --survey hsc-wide-i --structured 1.0 --count 3000 --test 1000 "
    "--counts 0,10,25,50,100,200 --policies head,last:1,all --seeds 3 --steps 200 -o study/"
)
def labels(
    context: typer.Context,
    network: NetworkName,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; what is there already is not made again.")],
    survey: Annotated[str, typer.Option(help="The target: a survey, or its TOML file.")] = "hsc-wide-i",
    structured: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the target's galaxies with arms, bars, rings, clumps or dust.")
    ] = 1.0,
    population: Annotated[str, typer.Option(help="Where the target's galaxies are drawn from.")] = "cosmos",
    count: Annotated[int, typer.Option(min=1, help="Galaxies that labels are taken of.")] = 100,
    test: Annotated[int, typer.Option(min=5, help="Others, that errors are measured on.")] = 200,
    counts: Annotated[str, typer.Option(help="Numbers of labels.")] = "0,10,50",
    policies: Annotated[str, typer.Option(help="What thaws: all, head, last:K, norm, layerwise:D.")] = "head,last:1",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind, the first from --seed.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of a training.")] = 40,
    learning_rate: Annotated[float, typer.Option(help="Largest rate of fine-tuning.")] = 3e-4,
    scratch_rate: Annotated[float, typer.Option(help="Largest rate from scratch.")] = 1.5e-3,
    scratch_steps: Annotated[int | None, typer.Option(min=1, help="From scratch, if not --steps.")] = None,
    stamp: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 96,
    side: Annotated[
        int | None,
        typer.Option(help="Pixels that the network sees; by default the stamp's over 1.45, for turns by any angle."),
    ] = None,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """How many labels does simulation save? Fine-tuned on few galaxies of a target, and from scratch on the same few.

    Writes summary.json, study.ecsv and a figure. Interrupted in any way, the same command goes on after the last
    cell; more counts, policies or seeds add to what is there.
    """
    run = dataclasses.replace(begin(context), command="study labels")
    from galstress.finetuning import Tuning
    from galstress.networks import Network
    from galstress.simulation import simulate
    from galstress.studies.labels import study_labels

    numbers, chosen = read_counts(counts), [each.strip() for each in policies.split(",") if each.strip()]
    loaded = Network.load(network).to(device)
    # far from the seeds of training and of the other studies; one draw, so that no name comes twice
    drawn = simulate(
        survey, count + test, 1_900_000_000 + seed, population, stamp_px=stamp, structured=structured, device=device
    )
    tuning = Tuning(steps, learning_rate, side_px=side)
    found = study_labels(
        loaded, drawn.select(slice(0, count)), drawn.select(slice(count, None)), folder=output, counts=numbers,
        policies=chosen, seeds=[seed + each for each in range(seeds)], tuning=tuning,
        scratch=dataclasses.replace(tuning, steps=scratch_steps or steps, learning_rate=scratch_rate),
        command=write_command(run.arguments), progress=not quiet,
    )  # fmt: skip
    _draw(found, output)
    run.finish(output / "summary.json", [weights_path(network), Path(survey)])
    run.say(f"{output / 'summary.json'}: {len(found.summary['cells'])} cells")
    run.say(found.sentence)


def read_counts(text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        InputError: Something else.

    Example:
        >>> read_counts("0, 10,25")
        [0, 10, 25]
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise InputError(f"--counts {text}", "whole numbers with commas between them", "give 0,10,50")
    return [int(word) for word in words]


def write_command(arguments: Mapping[str, Any]) -> str:
    """The words that start this run again.

    Example:
        >>> write_command({"network": "foveal", "output": Path("study"), "seeds": 2, "scratch_steps": None})
        'galstress study labels foveal --output study --seeds 2'
    """
    words = ["galstress", "study", "labels", str(arguments["network"])]
    for name, value in arguments.items():
        if name not in ("network", "quiet") and value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _draw(found: LabelsStudy, folder: Path) -> None:
    """The figure in both themes, as PNG and SVG, aside and then renamed."""
    from galstress.figures import DARK, LIGHT, to_png, to_svg
    from galstress.figures.learning import label_curves

    target, times = found.summary["target"], len(found.summary["seeds"])
    trained = f"trained {times} times each" if times > 1 else "trained once each"
    note = f"{target['test']} test galaxies of {target['survey']}, {trained}; bands hold 68 %"
    for theme in (LIGHT, DARK):
        fig, _ = label_curves(found.table, note=note, theme=theme)
        stem = "labels" if theme is LIGHT else f"labels-{theme.name}"
        for name, content in (
            (f"{stem}.png", to_png(fig, theme, transparent=False)),
            (f"{stem}.svg", to_svg(fig, theme).encode()),
        ):
            aside = folder / f"{name}.part"
            aside.write_bytes(content)
            aside.replace(folder / name)
