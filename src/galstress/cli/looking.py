"""A command that looks inside of a network: study layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galstress.cli.drawing import save_figures
from galstress.cli.measuring import NetworkName
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.cli.studying import Folder, study, write_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from galstress.figures import Theme
    from galstress.studies.layers import LayersStudy


@study.command(epilog="Example: galstress study layers gamornet-sdss --count 512 -o study/")
def layers(
    context: typer.Context,
    network: NetworkName,
    output: Folder,
    survey: Annotated[
        str | None, typer.Option(help="One that the network was trained on, a preset or a TOML file; else the first.")
    ] = None,
    population: Annotated[
        str | None, typer.Option(help="Of the galaxies; else that of most of the training's in this survey.")
    ] = None,
    count: Annotated[int, typer.Option(min=64, help="Simulated galaxies, rounded up to blocks of 32.")] = 256,
    filters: Annotated[int, typer.Option(min=1, help="Patterns a stage.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Of gradient ascent for each pattern.")] = 96,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """What do a network's layers do? Maps, activations and filter patterns, and what is said of them as numbers.

    Do arms decide? Does the first layer tell galaxy from background? Does the map lie on the galaxy or on its
    neighbours? What can be read at which depth? Each beside random weights or another control. Writes summary.json,
    pictures.safetensors and figures. Interrupted in any way, the same command goes on after the last block.
    """
    run = dataclasses.replace(begin(context), command="study layers")
    from galstress.networks import Network
    from galstress.studies.layers import study_layers

    arguments = dict(run.arguments)
    words = write_command("layers", {name: value for name, value in arguments.items() if name != "network"})
    command = words.replace("study layers", f"study layers {arguments['network']}", 1)
    found = study_layers(
        Network.load(network).to(device), folder=output, survey=survey, population=population, count=count,
        filters=filters, steps=steps, seed=seed, device=device, command=command, progress=not quiet,
    )  # fmt: skip
    _draw(found, output)
    run.finish(output / "summary.json", [weights_path(network)], int(found.summary["galaxies"]))
    run.say(f"{output / 'summary.json'}: {found.summary['galaxies']} galaxies")
    run.say(found.sentence)


def _draw(found: LayersStudy, folder: Path) -> None:
    """The figures of a study of layers."""
    from galstress.figures.layers import activation_grids, activation_maps, filter_patterns, layer_sentences

    pictures, summary = found.pictures, found.summary
    rms = float(pictures["sky_rms"][0])
    half = len(pictures["image"]) // 2
    titles = [f"spiral {k + 1}" for k in range(half)]
    titles += [f"with neighbours {k + 1}" for k in range(len(pictures["image"]) - half)]
    parts = {
        kind: {name.removeprefix(f"{kind} "): each for name, each in pictures.items() if name.startswith(f"{kind} ")}
        for kind in ("activations", "patterns")
    }
    patterns = {stage: parts["patterns"][stage] for stage in summary["stages"]}
    channels = "red, green and blue: its three views; " if next(iter(patterns.values())).shape[1] == 3 else ""
    about = f"{channels}shallow left to deep right; gradient ascent from a blank image, {summary['patterns']['steps']} "
    about += f"steps, seed {summary['seed']}"

    def draw(theme: Theme) -> Mapping[str, Figure]:
        maps = activation_maps(pictures["image"], pictures["maps"], rms, titles=titles, theme=theme)[0]
        return {
            "layers": layer_sentences(summary, theme=theme)[0],
            "layers-maps": maps,
            "layers-activations": activation_grids(pictures["image"][0], rms, parts["activations"], theme=theme),
            "layers-patterns": filter_patterns(patterns, note=about, theme=theme),
        }

    save_figures(draw, folder)
