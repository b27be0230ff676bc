"""Commands that use the likelihood of an image: refine, fit, limit."""

# ruff: noqa: ARG001 (every command takes seed, device and quiet, used or not)

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galstress.cli.measuring import (
    Input,
    Output,
    PsfFile,
    Stamp,
    SurveyName,
    ZeroPoint,
    check_output,
    load_images,
    save_posteriors,
)
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from galstress.cutouts import Cutouts
    from galstress.heads import Prediction

app = typer.Typer()


@app.command(epilog="Example: galstress refine foveal galaxies.fits --prior cosmos -o refined.parquet")
def refine(
    context: typer.Context,
    start: Annotated[
        str,
        typer.Argument(
            metavar="START",
            help="A shipped network, its .safetensors file, or posteriors (predict -o NAME.safetensors).",
        ),
    ],
    source: Input,
    output: Output,
    survey: SurveyName = None,
    prior: Annotated[
        str | None, typer.Option(help="A population or weak; by default what the network was trained under.")
    ] = None,
    zero_point: ZeroPoint = None,
    psf: PsfFile = None,
    stamp: Stamp = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Sample the exact posterior of each galaxy, from what a network says: about half a second a galaxy.

    The table also holds effective_samples, chi_square (per degree of freedom) and ln_evidence; galaxies with few
    effective samples, or that no disk and bulge describe, are flagged. The network runs on --device, the rest on the
    CPU.
    """
    run = begin(context)
    from galstress import refinement

    check_output(output)
    _check_prior(prior)
    ask, file = _find_start(start, device, quiet)
    cutouts = load_images(source, survey, zero_point, psf, stamp)
    began = time.perf_counter()
    refined = refinement.refine(ask(cutouts), cutouts, prior, seed=seed, progress=not quiet)
    seconds = time.perf_counter() - began
    save_posteriors(refined, cutouts.catalogue, output)
    run.finish(output, [Path(source), file, *([psf] if psf else [])], len(cutouts), seconds)
    run.say(f"{output}: {_summary(refined)}")


@app.command(epilog="Example: galstress fit my-galaxies/ --survey hsc-wide-i -o fitted.parquet")
def fit(
    context: typer.Context,
    source: Input,
    output: Output,
    survey: SurveyName = None,
    prior: Annotated[str, typer.Option(help="A population, or weak, which assumes little.")] = "weak",
    zero_point: ZeroPoint = None,
    psf: PsfFile = None,
    stamp: Stamp = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Sample the exact posterior of each galaxy without a network: some seconds a galaxy, on the CPU."""
    run = begin(context)
    from galstress import refinement

    check_output(output)
    _check_prior(prior)
    cutouts = load_images(source, survey, zero_point, psf, stamp)
    began = time.perf_counter()
    fitted = refinement.fit(cutouts, prior, seed=seed, progress=not quiet)
    seconds = time.perf_counter() - began
    save_posteriors(fitted, cutouts.catalogue, output)
    run.finish(output, [Path(source), *([psf] if psf else [])], len(cutouts), seconds)
    run.say(f"{output}: {_summary(fitted)}")


@app.command(epilog="Example: galstress limit galaxies.fits --kind cramer-rao -o limit.parquet")
def limit(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="What galstress simulate wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table: .parquet, .ecsv, .fits or .vot.")],
    kind: Annotated[
        str, typer.Option(help="bayes: given image and population; cramer-rao: of an unbiased answer.")
    ] = "bayes",
    prior: Annotated[str, typer.Option(help="The population that galaxies are drawn from, for bayes.")] = "cosmos",
    fixed_indices: Annotated[
        bool, typer.Option("--fixed-indices", help="Take both Sersic indices as known, for cramer-rao.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """The smallest error of each output that the photons allow, for simulated galaxies, on the CPU."""
    run = begin(context)
    from galstress import refinement
    from galstress.catalogue import check_format, write_catalogue

    check_format(output)
    _check_prior(prior)
    if fixed_indices and kind != "cramer-rao":
        raise InputError(f"--fixed-indices with --kind {kind}", "only --kind cramer-rao", "leave --fixed-indices out")
    cutouts = load_images(str(source), None, None, None, None)
    table = refinement.limit(cutouts, kind, free_indices=not fixed_indices, prior=prior, seed=seed, progress=not quiet)
    write_catalogue(table, output)
    run.finish(output, [source], len(cutouts))
    run.say(f"{output}: {kind} limits of {len(cutouts)} galaxies")


def _check_prior(prior: str | None) -> None:
    """Refuse an unknown prior before anything is read."""
    from galstress.refinement.priors import make_prior

    make_prior(prior, {})


def _find_start(start: str, device: str, quiet: bool) -> tuple[Callable[[Cutouts], Prediction], Path]:
    """What gives the posteriors to start from, and the file behind it: saved posteriors, or a network."""
    from galstress.heads import Prediction
    from galstress.networks import Network
    from galstress.prediction import predict

    path = Path(start)
    if path.is_file():
        try:
            saved = Prediction.read(path)
        except InputError:
            pass  # a network's, or neither: then the network says so
        else:
            return lambda _: saved, path
    network = Network.load(start)
    return lambda cutouts: predict(network, cutouts, device=device, progress=not quiet), weights_path(start)


def _summary(prediction: Prediction) -> str:
    """How many objects, and how many of them are flagged by their own posteriors."""
    from galstress.cutouts import Flag

    few, bad = (int(((prediction.flags & int(flag)) != 0).sum()) for flag in (Flag.FEW_SAMPLES, Flag.BAD_FIT))
    lost = int((~prediction.usable).sum())
    return f"{len(prediction)} objects, {lost} not measured, {few} with few effective samples, {bad} badly fitted"
