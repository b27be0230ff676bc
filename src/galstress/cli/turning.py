"""The command that turns galaxies: study rotation."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galstress.cli.drawing import save_figures
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.cli.studying import Averages, Folder, read_averages, read_names, study
from galstress.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from galstress.figures import Theme
    from galstress.networks import Network
    from galstress.studies.rotation import RotationStudy
    from galstress.studies.turns import Field

__all__ = ["rotation"]


@study.command(
    epilog="Example: galstress study rotation gamornet-sdss gampen-hsc --count 500 --angles 36 --average 8,32 -o study/"
)
def rotation(
    context: typer.Context,
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK...", help="Shipped networks, or .safetensors.")],
    output: Folder,
    survey: Annotated[
        list[str] | None,
        typer.Option(
            "--survey",
            show_default="each network's first",
            help="A survey, one of a publication (gamornet-sdss, gamornet-candels), or all: every one that a network "
            "was trained on. May be given several times.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=50, help="Galaxies of each survey, a multiple of 50.")] = 500,
    angles: Annotated[int, typer.Option(min=3, help="Even ones over a circle.")] = 36,
    average: Averages = "",
    single: Annotated[bool, typer.Option(help="One pass each, too.")] = True,
    kinds: Annotated[
        str,
        typer.Option(
            help="Ways to turn: redrawn without noise, redrawn under one noise, exact quarter turns, pixels resampled."
        ),
    ] = "redrawn,noisy,quarter,resampled",
    stamp: Annotated[int | None, typer.Option(min=32, help="Side of the stamps; by default the network's.")] = None,
    snr: Annotated[float, typer.Option(min=0, help="Fainter galaxies are left out.")] = 20.0,
    film: Annotated[
        list[int] | None, typer.Option(help="Also a film of the galaxy of this row, for each network; several times.")
    ] = None,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """How far do answers move when galaxies turn? Mode and 68 % interval, or probabilities, over a circle.

    Writes summary.json and a figure for each way to turn. Interrupted in any way, the same command goes on after the
    last fifty galaxies; more galaxies, networks or --average add to what is there.
    """
    run = dataclasses.replace(begin(context), command="study rotation")
    from galstress.networks import Network
    from galstress.studies.rotation import find_fields, study_rotation

    averages = read_averages(average)
    loaded = {}
    for name in networks:
        network = Network.load(name).to(device)
        fields = find_fields(
            network, survey or [], stamp_px=stamp, least_snr=snr, seed=seed, turnable=max(averages, default=0) > 8
        )
        loaded[Path(name).name.removesuffix(".safetensors")] = (network, fields)
    if len(loaded) < len(networks):
        raise InputError(f"networks {', '.join(networks)}", "names that differ", "rename a file, or give it once")
    found = study_rotation(
        loaded, folder=output, size=(count, angles), kinds=read_names(kinds), average=averages, single=single,
        device=device, command=_write_command(networks, run.arguments), progress=not quiet,
    )  # fmt: skip
    save_figures(lambda theme: _draw(found, theme), output)
    for row in film or []:
        for name, (network, fields) in loaded.items():
            turns = max(averages, default=0 if single else 8)
            _film(network, fields[0], row, (angles, turns), output, f"film-{name}-{row}".replace(".", "-"))
    run.finish(output / "summary.json", [weights_path(name) for name in networks])
    run.say(f"{output / 'summary.json'}: {count} galaxies at {angles} angles, {len(found.summary['bar'])} rows")
    run.say(found.sentence)


def _film(network: Network, field: Field, row: int, how: tuple[int, int], folder: Path, name: str) -> None:
    """Record of a film, the film itself as .mp4, and a still; ``how``: frames, turns that answers are averaged over."""
    from galstress.figures import choose_stretch, draw_frame, write_film
    from galstress.report.records import read_film
    from galstress.report.stability import make_strip
    from galstress.studies.films import film
    from galstress.studies.turns import BLOCK

    clean, _ = field.draw(row // BLOCK)
    title = f"A simulated galaxy of {field.survey.name} without noise, row {row}, drawn again at each angle"
    one = clean.select([row % BLOCK])
    film(network, one, "redrawn-rotation", how[0], folder, name, title=title, average=how[1])
    strip = make_strip(read_film(folder / name))
    stretch = choose_stretch(strip.image[0], field.survey.sky_rms)
    write_film(strip, stretch, folder / f"{name}.mp4")
    save_figures(lambda theme: {name: draw_frame(strip, stretch, theme=theme)[0]}, folder)


def _draw(found: RotationStudy, theme: Theme) -> Mapping[str, Figure]:
    """A figure a way to turn."""
    from galstress.figures import shift_curves

    summary = found.summary
    figures = {}
    for kind, words in summary["kinds"].items():
        angles = 4 if kind == "quarter" else summary["angles"]
        note = f"{summary['galaxies']} simulated galaxies each, {words}: {angles} angles; seed {summary['seed']}"
        stem = "rotation" if kind == "redrawn" else f"rotation-{kind}"
        figures[stem] = shift_curves(found.galaxies, kind=kind, note=note, theme=theme)[0]
    return figures


def _write_command(networks: list[str], options: Mapping[str, object]) -> str:
    """The words that start this run again.

    Example:
        >>> _write_command(["foveal"], {"output": Path("a"), "film": [3], "survey": (), "average": "8"})
        'galstress study rotation foveal --output a --film 3 --average 8'
        >>> _write_command(["foveal"], {"average": "32", "single": False})
        'galstress study rotation foveal --average 32 --no-single'
    """
    words = ["galstress", "study", "rotation", *networks]
    for name, value in options.items():
        if name == "single" and value is False:
            words += ["--no-single"]
        if name in ("networks", "quiet", "single") or value is None or value is False or value == "":
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            words += [f"--{name}"] if each is True else [f"--{name}", str(each)]
    return shlex.join(words)
