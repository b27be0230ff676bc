"""The command that puts networks side by side: study surveys."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galstress.cli.drawing import save_figures
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.cli.studying import Averages, Folder, read_averages, study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from galstress.figures import Theme
    from galstress.studies.surveys import SurveysStudy

__all__ = ["surveys"]


@study.command(
    epilog="Example: galstress study surveys gamornet-sdss gampen-sdss foveal --sample gamornet-sdss "
    "--sample realistic-sdss --count 2000 --exact 200 -o study/"
)
def surveys(
    context: typer.Context,
    networks: Annotated[list[str], typer.Argument(metavar="NETWORK...", help="Shipped networks, or .safetensors.")],
    output: Folder,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample",
            show_default="gamornet-sdss, gamornet-candels, gampen-hsc-g",
            help="gamornet-sdss, gamornet-sdss-photon, gamornet-candels, gampen-hsc-g, gampen-sdss, gampen-hst, "
            "nearby-sdss, nearby-hsc, cosmos-hst, realistic-hsc, realistic-sdss; may be given several times.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=20, help="Galaxies of each sample.")] = 2000,
    exact: Annotated[int, typer.Option(min=0, help="The first of them, for which the exact posterior is found.")] = 200,
    average: Averages = "",
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Networks side by side: purity and completeness, errors and coverage, beside the best that the pixels allow.

    A network is asked only where it knows the size of the pixels. Interrupted in any way, the same command goes on
    after the last cell; more networks or samples add to what is there.
    """
    run = dataclasses.replace(begin(context), command="study surveys")
    from galstress.networks import Network
    from galstress.studies.surveys import study_surveys

    chosen = tuple(sample or ("gamornet-sdss", "gamornet-candels", "gampen-hsc-g"))
    loaded = {Path(name).stem: Network.load(name) for name in networks}
    words = ["galstress", "study", "surveys", *(Path(name).stem for name in networks)]
    words += [word for name in chosen for word in ("--sample", name)]
    words += ["--count", str(count), "--exact", str(exact), *(["--average", average] if average else [])]
    words += ["--seed", str(seed)]
    found = study_surveys(
        loaded, chosen, folder=output, counts=(count, exact), average=read_averages(average), seed=seed, device=device,
        command=shlex.join(words), progress=not quiet,
    )  # fmt: skip
    _draw(found, output)
    run.finish(output, [weights_path(name) for name in networks], count * len(chosen))
    run.say(found.sentence)


def _draw(found: SurveysStudy, folder: Path) -> None:
    """The figures."""
    from galstress.figures.surveys import class_gaps, risk_curves, survey_errors

    summary = found.summary
    note = f"{summary['galaxies']} galaxies a sample, {summary['exact']} for the best possible, seed {summary['seed']}"
    shown = list(dict.fromkeys(row["sample"] for row in summary["errors"] if row["snr_low"] is not None))

    def draw(theme: Theme) -> Mapping[str, Figure]:
        figures = {"surveys-risk": risk_curves(summary["curves"], note=note, theme=theme)[0]}
        if summary["against_best"]:
            figures["surveys-classes"] = class_gaps(summary["against_best"], note=note, theme=theme)[0]
        for sample in shown:
            words = f"{sample}: {summary['sample'][sample]}; {note}"
            figures[f"surveys-errors-{sample}"] = survey_errors(summary["errors"], sample, note=words, theme=theme)[0]
        return figures

    save_figures(draw, folder)
