"""The command that takes over published weights."""

# ruff: noqa: ARG001 (every command takes seed, device and quiet, used or not)

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from galstress.cli.running import Device, Quiet, Seed, begin
from galstress.errors import InputError, UnknownNameError

app = typer.Typer()


@app.command(
    "import",
    epilog="Example: galstress import gamornet trained_model.hdf5 --survey sdss -o published-sdss.safetensors",
)
def import_weights(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="NETWORK", help="gamornet (Keras HDF5) or gampen (PyTorch .pt).")],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Weights as published; no code of theirs is run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights file, .safetensors.")],
    survey: Annotated[
        str | None, typer.Option(help="gamornet: what it was trained on: sdss (default), candels or hsc.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="gampen: CSV of its training's labels, whose scaling the file does not hold.")
    ] = None,
    centre: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="gampen, instead: means of logit B/T, ln radius in arcsec, ln flux at zero point 27."),
    ] = None,
    scale: Annotated[
        tuple[float, float, float] | None, typer.Option(help="gampen, instead: their standard deviations.")
    ] = None,
    stamp: Annotated[int | None, typer.Option(help="Side of the stamps in pixels, where not as published.")] = None,
    dropout: Annotated[float | None, typer.Option(help="gampen: its rate; by default the published one.")] = None,
    pixel_scale: Annotated[float, typer.Option(help="gampen: arcsec a pixel of the training's images.")] = 0.168,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Take over published weights of GaMorNet or GaMPEN as a network that every other command reads."""
    run = begin(context)
    if kind not in ("gamornet", "gampen"):
        raise UnknownNameError("network", kind, ("gamornet", "gampen"))
    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}", "a file that ends in .safetensors", f"use {output.stem}.safetensors")
    from galstress.networks.importing import import_gamornet, import_gampen

    if kind == "gamornet":
        if not (labels is None and centre is None and scale is None and dropout is None):
            raise InputError("a scaling of labels or a dropout", "--survey and --stamp with gamornet", "leave it out")
        network = import_gamornet(source, survey or "sdss", stamp_px=stamp)
    else:
        if survey is not None:
            raise InputError(f"--survey {survey}", "--pixel-scale and --stamp with gampen", "leave it out")
        network = import_gampen(
            source, labels=labels, centre=centre, scale=scale, stamp_px=stamp, dropout=dropout,
            pixel_scale_arcsec=pixel_scale,
        )  # fmt: skip
    network.save(output)
    inputs = [source] if labels is None else [source, labels]
    count = sum(parameter.numel() for parameter in network.parameters())
    run.finish(output, inputs, weights=count)
    run.say(f"{output}: {count:,} weights for stamps of {network.backbone.stamp_px} pixels")
