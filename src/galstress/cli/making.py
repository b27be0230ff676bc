"""Commands that make things: simulated galaxies, and networks."""

# ruff: noqa: ARG001 (an option a parameter; every command takes seed, device and quiet, used or not)

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from galstress.cli.running import Device, Quiet, Seed, begin

app = typer.Typer()

_RECIPES = (
    "foveal; as published gamornet-sdss, gamornet-candels, gamornet-hsc-g, gampen-hsc-g, "
    "gampen-hsc-r, gampen-hsc-i; ours gamornet-sdss-improved, gamornet-hst-improved, "
    "gamornet-hsc-improved, gampen-hsc-improved, gampen-sdss-improved, gampen-hst-improved."
)
"""All recipes, in words: to ask for them would cost each --help the time of loading torch; a test compares."""


@app.command(epilog="Example: galstress simulate hsc-wide-i 64 --neighbours -o galaxies.fits")
def simulate(
    context: typer.Context,
    survey: Annotated[str, typer.Argument(help="A survey (galstress surveys lists them), or its TOML file.")],
    count: Annotated[int, typer.Argument(help="How many galaxies.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="FITS file of cutouts with their truth.")],
    population: Annotated[str, typer.Option(help="Where galaxies are drawn from: cosmos or nearby.")] = "cosmos",
    neighbours: Annotated[bool, typer.Option("--neighbours", help="Draw up to five beside each.")] = False,
    noise: Annotated[bool, typer.Option(help="Add photon, sky and read noise.")] = True,
    stamp: Annotated[int | None, typer.Option(help="Side of the images in pixels; by default the survey's.")] = None,
    structured: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the galaxies with arms, bars, rings, clumps or dust.")
    ] = 0.0,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Draw galaxies as a survey would see them."""
    run = begin(context)
    from galstress import simulation
    from galstress.survey import Survey

    cutouts = simulation.simulate(
        Survey.load(survey), count, seed, population, noise, neighbours, stamp, device=device, structured=structured
    )
    cutouts.to("cpu").write(output)
    run.finish(output, [Path(survey)], len(cutouts))
    run.say(f"{output}: {len(cutouts)} galaxies")


@app.command(epilog="Example: galstress train foveal --steps 200 -o mine.safetensors")
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help=_RECIPES)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights file, .safetensors.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's own number.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where training is kept on the way; by default beside the output.")
    ] = None,
    psfs: Annotated[
        str | None,
        typer.Option(help="Real PSFs beside the analytic: 'real' for those of the data sets, or a .safetensors file."),
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=4, help="Channels, in units of the network's own (1: as published); instead of the recipe's."
        ),
    ] = None,
    bfloat16: Annotated[
        bool, typer.Option("--bfloat16", help="The network computes in bfloat16, where the hardware has it.")
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(help="Begin with these weights instead of random ones: a network that ships, or a file."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint, if there is one.")] = True,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Train a network on galaxies that are drawn as it trains.

    Interrupted in any way, the same command goes on from the last checkpoint as if nothing had happened. The published
    networks' own width takes a GPU: --width 1 --bfloat16 --device cuda.
    """
    run = begin(context)
    import dataclasses

    from galstress.networks import Network
    from galstress.recipes import load_recipe

    chosen = load_recipe(recipe).with_psfs(psfs)
    made = f"{recipe}-seed{seed}"
    if width is not None:
        chosen, made = (
            dataclasses.replace(chosen, backbone={**chosen.backbone, "width": width}),
            f"{made}-width{width:g}",
        )
    if bfloat16:
        schedule = dataclasses.replace(chosen.schedule, bfloat16=True)
        chosen, made = dataclasses.replace(chosen, schedule=schedule), f"{made}-bfloat16"
    begun = None if start is None else Network.load(start)
    if start is not None:
        made = f"{made}-from-{Path(start).stem}"
    # all of it in its name: what another run left is never mistaken for this one's
    checkpoint = checkpoint or output.with_name(f"{output.stem}.{made}.checkpoint.safetensors")
    if not resume:
        checkpoint.unlink(missing_ok=True)
    network, losses = chosen.train(
        seed=seed, steps=steps, start=begun, checkpoint=checkpoint, device=device, progress=not quiet
    )
    network.to("cpu").save(output)
    run.finish(output, [output], checkpoint=checkpoint.name, steps=len(losses), loss=losses[-1])
    run.say(f"{output}: {len(losses)} steps, loss {sum(losses[-100:]) / len(losses[-100:]):.3f}")
