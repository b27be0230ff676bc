"""Commands that list and show: surveys and data sets."""

# ruff: noqa: ARG001 (every command takes seed, device and quiet, used or not)

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from galstress.cli.running import Device, Quiet, Seed, begin

app = typer.Typer()


@app.command(epilog="Example: galstress surveys hsc-wide-i")
def surveys(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A survey, for all of its numbers and where each is from.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """List the surveys, or show one with the source of each number."""
    from galstress.survey import Survey, available_surveys

    run = begin(context, computes=False)
    if name is None:
        run.say(f"{'survey':20}{'band':14}{'pixel':>8}{'PSF FWHM':>10}{'5 sigma':>9}")
        for each in available_surveys():
            survey = Survey.load(each)
            run.say(
                f"{survey.name:20}{survey.band:14}{survey.pixel_scale_arcsec:>7g}″"
                f"{survey.psf.fwhm_arcsec:>9.2f}″{survey.depth_5sigma_mag:>9.2f}"
            )
        return
    survey = Survey.load(name)
    record = survey.to_record()
    sources = record.pop("sources")
    record |= {f"psf.{key}": value for key, value in record.pop("psf").items()}
    record |= {f"published_depth.{key}": value for key, value in record.pop("published_depth").items()}
    for key, value in record.items():
        run.say(f"{key} = {value}" + (f"   [{sources[key]}]" if key in sources else ""))
    known = set(record)
    for key, source in sources.items():
        if key not in known:
            run.say(f"source of {key}: {source}")


@app.command(epilog="Example: GALSTRESS_DATA=my-images galstress datasets")
def datasets(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A data set, for everything that is known of it.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """List the public sets of real galaxies that galstress knows by name, with licence and credit."""
    from galstress import datasets as sets

    run = begin(context, computes=False)
    folder = Path(os.environ.get("GALSTRESS_DATA") or "nowhere")
    if name is None:
        for each in sets.available():
            dataset = sets.describe(each)
            here = (folder / dataset.folder).is_dir()
            where = "here" if here else "by download" if dataset.downloads else "not here"
            run.say(f"{each:28}{where:13}{'/'.join(dataset.bands):20}{dataset.title}")
        return
    dataset = sets.describe(name)
    for key in ("title", "folder", "bands", "licence", "credit", "source", "changes", "zero_point_note"):
        value = getattr(dataset, key)
        run.say(f"{key}: {', '.join(value) if isinstance(value, tuple) else value}")
    for column, (unit, text) in dataset.columns.items():
        run.say(f"{column}{f' [{unit}]' if unit else ''}: {text}")
