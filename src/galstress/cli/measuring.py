"""Commands that ask a network: predict, stress, explain."""

# ruff: noqa: ARG001 (an option a parameter; every command takes seed, device and quiet, used or not)

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.errors import InputError

if TYPE_CHECKING:
    from astropy.table import QTable

    from galstress.cutouts import Cutouts
    from galstress.heads import Said

app = typer.Typer()

NetworkName = Annotated[str, typer.Argument(metavar="NETWORK", help="A shipped network, or a .safetensors file.")]
Input = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="A file or folder of images; or the name of a data set, without --survey."),
]
SurveyName = Annotated[
    str | None,
    typer.Option(help="The survey that took them, or its TOML file; not needed for what galstress simulate wrote."),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Table: .parquet (an .ecsv is put beside it), .ecsv, .fits or .vot; or the posteriors themselves: "
        ".safetensors.",
    ),
]
ZeroPoint = Annotated[float | None, typer.Option(help="AB magnitude of one unit of the files.")]
PsfFile = Annotated[Path | None, typer.Option(help="FITS file with the effective PSF.")]
Average = Annotated[
    int,
    typer.Option(
        help="Over so many turns and mirrors: 8 move whole pixels; 16, 24, ... 64 also turn by other angles, and need "
        "stamps 1.41 times as wide as what the network looks at. So many times slower."
    ),
]
Stamp = Annotated[int | None, typer.Option(help="Side of the stamps in pixels; by default the survey's.")]


@app.command(epilog="Example: galstress predict foveal my-galaxies/ --survey hsc-wide-i -o measured.parquet")
def predict(
    context: typer.Context,
    network: NetworkName,
    source: Input,
    output: Output,
    survey: SurveyName = None,
    average: Average = 0,
    zero_point: ZeroPoint = None,
    psf: PsfFile = None,
    stamp: Stamp = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder for images, answers and models of the first dozen, for a report.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure galaxies: a row for every object, readable or not, with error bars or probabilities, and flags."""
    run = begin(context)
    from galstress import prediction as predictor
    from galstress.networks import Network

    check_output(output)
    loaded = Network.load(network)
    cutouts = load_images(source, survey, zero_point, psf, stamp)
    began = time.perf_counter()
    prediction = predictor.predict(loaded, cutouts, average=average, device=device, progress=not quiet)
    seconds = time.perf_counter() - began
    save_posteriors(prediction, cutouts.catalogue, output)
    inputs = [Path(source), weights_path(network), *([psf] if psf else [])]
    run.finish(output, inputs, len(cutouts), seconds)
    if records is not None:
        _record(records, Path(source).stem or "galaxies", cutouts, prediction)
        run.finish(records, inputs, len(cutouts), seconds)
    run.say(f"{output}: {len(cutouts)} objects, {int((~prediction.usable).sum())} of them not measured")


@app.command(epilog="Example: galstress stress foveal galaxies.fits -p rotation -p depth -o stress.parquet")
def stress(
    context: typer.Context,
    network: NetworkName,
    source: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="Tidy table, .parquet; a .json is put beside it.")],
    survey: SurveyName = None,
    perturbation: Annotated[
        list[str] | None,
        typer.Option(
            "--perturbation",
            "-p",
            show_default="rotation, depth",
            help="rotation, depth, redshift, psf-width, or the name of one kind; may be given several times.",
        ),
    ] = None,
    average: Annotated[int, typer.Option(help="Also averaged over so many turns and mirrors: 8, or up to 64.")] = 0,
    zero_point: ZeroPoint = None,
    psf: PsfFile = None,
    stamp: Stamp = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Change the images in known ways and measure again: rotation, depth, redshift, width of the PSF."""
    run = begin(context)
    from galstress.battery import write_table
    from galstress.networks import Network
    from galstress.studies import stress_passes

    if output.suffix != ".parquet":
        raise InputError(f"--output {output.name}", "a name that ends in .parquet", "call it stress.parquet")
    loaded = Network.load(network)
    cutouts = load_images(source, survey, zero_point, psf, stamp)
    table = stress_passes(
        loaded, cutouts.to(device), tuple(perturbation or ("rotation", "depth")), seed,
        averaged=(0, average) if average else (0,), progress=not quiet,
    )  # fmt: skip
    write_table(table, output)
    run.finish(output, [Path(source), weights_path(network)], len(cutouts))
    for assumption in table.meta["assumptions"]:
        run.say(assumption)
    run.say(f"{output}: {len(table)} rows")


@app.command(epilog="Example: galstress explain foveal galaxies.fits --of bulge_to_total -o maps.safetensors")
def explain(
    context: typer.Context,
    network: NetworkName,
    source: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="Maps, .safetensors.")],
    survey: SurveyName = None,
    of: Annotated[
        str | None, typer.Option(help="The output that is explained; by default disk of a classifier, else B/T.")
    ] = None,
    sigma: Annotated[bool, typer.Option("--sigma", help="Explain its error bar instead of its mean.")] = False,
    zero_point: ZeroPoint = None,
    psf: PsfFile = None,
    stamp: Stamp = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Map what an output rests on, beside a centred Gaussian and the same network with random weights."""
    run = begin(context)
    from galstress import explanation
    from galstress.networks import Network

    loaded = Network.load(network)
    cutouts = load_images(source, survey, zero_point, psf, stamp)
    maps = explanation.explain(loaded, cutouts, of, statistic="sigma" if sigma else "mean", seed=seed, device=device)
    maps.write(output)
    run.finish(output, [Path(source), weights_path(network)], len(cutouts))
    run.say(f"{output}: maps of {len(maps)} objects")


def check_output(output: Path) -> None:
    """Refuse a suffix in which posteriors are not saved, before anything is measured.

    Raises:
        InputError: It is none of the tables' formats, nor .safetensors.
    """
    from galstress.catalogue import FORMATS, check_format

    if output.suffix == ".safetensors":
        return
    try:
        check_format(output)
    except InputError:
        allowed = f"a name that ends in {', '.join(FORMATS)} or .safetensors"
        raise InputError(output.name, allowed, "choose one of these suffixes") from None


def save_posteriors(prediction: Said, catalogue: QTable, output: Path) -> None:
    """Answers as a table with what is known of the objects besides, or as they are.

    Arguments:
        prediction: N objects.
        catalogue: ``Cutouts.catalogue`` of the same.
        output: Its suffix names the format; beside Parquet an ECSV is put.
    """
    from galstress.catalogue import tabulate, write_catalogue

    if output.suffix == ".safetensors":
        prediction.write(output)
        return
    table = tabulate(prediction, catalogue)
    write_catalogue(table, output)
    if output.suffix == ".parquet":
        write_catalogue(table, output.with_suffix(".ecsv"))


def load_images(
    source: str, survey: str | None, zero_point: float | None, psf: Path | None, stamp: int | None
) -> Cutouts:
    """Images of a file or a folder, what galstress simulate wrote, or a named data set."""
    path = Path(source)
    if survey is not None:
        from galstress.loading import load

        return load(path, survey, stamp, psf=psf, zero_point_mag=zero_point)
    if not path.exists():
        from galstress import datasets

        if source in datasets.available():
            return datasets.load(source, stamp_px=stamp)
        raise InputError(f"INPUT {source}", "a file, a folder, or a name of galstress datasets", "check the path")
    from galstress.cutouts import Cutouts

    try:
        return Cutouts.read(path)
    except (InputError, OSError):
        came = f"INPUT {source} without --survey"
        step = "give --survey NAME; galstress surveys lists them"
        raise InputError(came, "--survey for images that galstress did not simulate", step) from None


def _record(folder: Path, name: str, cutouts: Cutouts, prediction: Said, most: int = 12) -> None:
    """The first galaxies with what was measured on them, as a report wants them."""
    from galstress.report import draw_models
    from galstress.studies import record_set

    about: dict[str, Any] = {"title": name, "simulated": cutouts.truth is not None}
    first = slice(0, most)
    record_set(
        folder / "galaxies" / name, cutouts.select(first), prediction.select(first), about, draw_models=draw_models
    )
