"""Commands that make the page: of saved records, or of a whole demonstration."""

# ruff: noqa: ARG001 (every command takes seed, device and quiet, used or not)

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from galstress.cli.running import Device, Quiet, Seed, begin, weights_path

app = typer.Typer()


@app.command(epilog="Example: galstress report demo/records --study study/ -o report.html")
def report(
    context: typer.Context,
    records: Annotated[Path, typer.Argument(help="Folder that galstress demo, or predict --records, has written.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    study: Annotated[
        list[Path] | None, typer.Option(help="Folder that galstress study has written; may be given several times.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Make one self-contained page from saved records; nothing is measured again."""
    run = begin(context, computes=False)
    from galstress.report import build_report

    studies = study or []
    build_report(records, output, studies)
    if output.parent.resolve() != records.resolve():  # the records' own manifest tells how they were made
        run.finish(output, [records, *studies])
    run.say(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")


@app.command(epilog="Example: galstress demo --output demo")
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and its records.")] = Path("demo"),
    network: Annotated[str, typer.Option(help="A shipped network or a .safetensors file.")] = "foveal",
    count: Annotated[int, typer.Option(min=20, help="Fresh galaxies of each survey for errors and coverage.")] = 300,
    shown: Annotated[int, typer.Option(min=1, max=12, help="Galaxies of each set on the page.")] = 5,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure galaxies, turn and dim them, look inside the network, and put it all on one page.

    With GALSTRESS_DATA set to a folder of real images, real galaxies of HST, SDSS and HSC; without, simulated ones.
    """
    run = begin(context)
    import torch

    from galstress.networks import Network
    from galstress.report import build_report, draw_models
    from galstress.studies import Size, run_demo

    # its tensors are small: on an idle machine more threads save little, and on a busy one they wait for each other
    torch.set_num_threads(1)
    records, page = output / "records", output / "report.html"
    loaded = Network.load(network)
    records.mkdir(parents=True, exist_ok=True)
    found = run_demo(
        records, loaded, draw_models=draw_models, seed=seed, size=Size(shown=shown, evaluated=count),
        device=device, progress=not quiet,
    )  # fmt: skip
    origin = "real" if found.real else "simulated; set GALSTRESS_DATA to a folder of real images to see those"
    told: dict[str, object] = {"galaxies shown": f"{', '.join(found.sets)} ({origin})"}
    told |= {f"left out: {name}": reason for name, reason in found.left_out.items()}
    told["seeds of what was drawn"] = (
        f"{found.seeds[0]} to {found.seeds[1]}; the network's training drew from streams of its own, seeded apart"
    )
    told["answers"] = "galaxies and films: averaged over eight turns and mirrors; errors and coverage: one pass"
    run = dataclasses.replace(run, arguments={**run.arguments, **told})
    run.finish(records, [weights_path(network)], found.galaxies, found.seconds)  # the page tells what it says
    build_report(records, page)
    run.finish(page, [weights_path(network)], found.galaxies, found.seconds)
    run.say(f"{page}: {len(found.sets)} sets of galaxies, {'real' if found.real else 'simulated'}")
    for name, reason in found.left_out.items():
        run.say(f"left out: {name}: {reason}")
