"""The command that goes on training a network on labelled galaxies: finetune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galstress.cli.measuring import Input, NetworkName, PsfFile, Stamp, SurveyName, ZeroPoint, load_images
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.errors import InputError

if TYPE_CHECKING:
    from astropy.table import QTable

    from galstress.cutouts import Cutouts
    from galstress.finetuning import Comparison

app = typer.Typer()

_ALL = ("head", "last:1", "norm", "layerwise", "all")
"""Policies that are compared where none is named."""


@app.command(
    epilog="Example: galstress finetune foveal galaxies/ --survey hsc-wide-i --stamp 276 --labels labels.csv "
    "--policy last:1 -o tuned.safetensors --compare"
)
def finetune(
    context: typer.Context,
    network: NetworkName,
    source: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="Weights file, .safetensors.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Table (.csv, .ecsv, .fits, .parquet) with object_id, or a row an image in order, and any of "
            "bulge_to_total, half_light_radius_arcsec, mag_ab or flux_njy, e1 and e2 or axis_ratio and "
            "position_angle_deg; NAME_err for errors; empty where unknown. By default the truth of simulated images."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="What thaws: all, head, last:K, norm, layerwise or layerwise:D; for GaMorNet also as published, "
            "gamornet-sdss, gamornet-candels or gamornet-hsc. With --compare it may be given "
            "several times; the best is kept. By default last:1, with --compare all of them."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Also cross-validate against a recalibration of the untouched network."),
    ] = False,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.")] = 5,
    group: Annotated[
        str | None, typer.Option(help="Column of the labels that names the galaxy; images of one are never split.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Most steps; validation may end the run before.")] = 300,
    learning_rate: Annotated[float, typer.Option(help="Largest rate.")] = 3e-4,
    validation: Annotated[float, typer.Option(help="Share of the galaxies that ends the run; 0: none.")] = 0.2,
    side: Annotated[
        int | None, typer.Option(help="Pixels that the network sees; by default the stamp's over 1.45.")
    ] = None,
    survey: SurveyName = None,
    zero_point: ZeroPoint = None,
    psf: PsfFile = None,
    stamp: Stamp = None,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Go on training a network on labelled galaxies, turned by any angle at each step.

    Give stamps 1.45 times as wide as the network is to see: turned ones are cut from them without empty corners.
    Interrupted in any way, the same command goes on from the last checkpoint.
    """
    run = begin(context)
    from galstress import finetuning
    from galstress.networks import Network

    if output.suffix != ".safetensors":
        raise InputError(f"--output {output.name}", "a name that ends in .safetensors", "call it tuned.safetensors")
    chosen = policy or (list(_ALL) if compare else ["last:1"])
    if len(chosen) > 1 and not compare:
        raise InputError(f"{len(chosen)} policies", "one, or several with --compare", "add --compare")
    loaded = Network.load(network).to(device)
    for each in chosen:
        finetuning.rate_factors(loaded, each)
    cutouts = load_images(source, survey, zero_point, psf, stamp)
    table = None if labels is None else match_labels(read_table(labels), cutouts)
    groups = _groups(table, cutouts, group)
    tuning = finetuning.Tuning(steps, learning_rate, validation, side_px=side, folds=folds)
    folder = output.with_name(f"{output.stem}.checkpoints")
    folder.mkdir(exist_ok=True)
    sentence, best = "", chosen[0]
    if compare:
        comparison = finetuning.cross_validate(
            loaded, cutouts, table, policies=chosen, groups=groups, tuning=tuning, seed=seed,
            checkpoints=folder, progress=not quiet,
        )  # fmt: skip
        _write_comparison(comparison, output)
        sentence, best = comparison.sentence, comparison.best
    checkpoint = folder / f"{best.replace(':', '-')}.safetensors"
    tuned = finetuning.finetune(
        loaded, cutouts, table, policy=best, tuning=tuning, groups=groups, seed=seed, checkpoint=checkpoint,
        progress=not quiet,
    )  # fmt: skip
    tuned.network.to("cpu").save(output)
    inputs = [Path(source), weights_path(network), *(each for each in (labels, psf) if each)]
    run.finish(output, inputs, finetuning=tuned.manifest, comparison=sentence)
    learned, validated = tuned.manifest["learned"], tuned.manifest["validated"]
    run.say(f"{output}: {best}, learned from {learned} galaxies, best after {tuned.best_step} steps on {validated}")
    if sentence:
        run.say(sentence)


def read_table(path: Path) -> QTable:
    """A table of labels, by its suffix; empty cells are masked.

    Raises:
        InputError: It cannot be read.
    """
    from astropy.table import QTable

    from galstress.catalogue import read_catalogue

    try:
        if path.suffix == ".csv":
            return QTable.read(path, format="ascii.csv")
        return QTable.read(path) if path.suffix == ".fits" else read_catalogue(path)
    except (OSError, ValueError) as error:
        came = f"--labels {path} ({str(error).splitlines()[0][:120]})"
        raise InputError(came, "a table: .csv, .ecsv, .fits or .parquet", "check the path") from None


def match_labels(table: QTable, cutouts: Cutouts) -> QTable:
    """A row for each of the N cutouts, in their order: by ``object_id`` where the table has it, else as it is.

    Objects that the table does not have are unknown in every column.

    Raises:
        InputError: No name is a cutout's, a name comes twice, or without names the number of rows differs.
    """
    import numpy as np
    from astropy.table import QTable

    if "object_id" not in table.colnames:
        return table
    names = [str(name) for name in table["object_id"]]
    if len(set(names)) < len(names):
        raise InputError("labels that name an object twice", "one row an object", "merge these rows")
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([row_of.get(str(name), -1) for name in cutouts.object_id])
    if (rows < 0).all():
        came = f"labels of {names[0] if names else 'nothing'} and so on"
        raise InputError(came, f"names such as {cutouts.object_id[0]}", "use the images' names in object_id")
    matched = QTable(table[np.maximum(rows, 0)], masked=True)
    for name in matched.colnames:
        if matched[name].dtype.kind in "fiu":
            values = np.ma.filled(np.ma.asarray(getattr(matched[name], "value", matched[name])).astype(float), np.nan)
            values[rows < 0] = np.nan
            unit = getattr(matched[name], "unit", None)
            matched[name] = values * unit if unit is not None else values
    return matched


def _groups(table: QTable | None, cutouts: Cutouts, column: str | None) -> list[str] | None:
    """Names of the galaxies, or None where each image is one's own."""
    if column is None:
        return None
    source = cutouts.catalogue if table is None else table
    if column not in source.colnames:
        raise InputError(f"--group {column}", f"one of {', '.join(source.colnames)}", "name a column of the labels")
    return [str(name) for name in source[column]]


def _write_comparison(comparison: Comparison, output: Path) -> None:
    """Both tables of a comparison beside the weights, as ECSV, aside and then renamed."""
    for name, table in (("comparison", comparison.table), ("out-of-fold", comparison.values)):
        path = output.with_name(f"{output.stem}.{name}.ecsv")
        aside = path.with_name(path.name + ".part")
        table.write(aside, format="ascii.ecsv", overwrite=True)
        aside.replace(path)
