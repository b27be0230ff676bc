"""Commands that answer a question with many runs, a folder a study: study labels, transport, invariance."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galstress.cli.drawing import save_figures
from galstress.cli.measuring import NetworkName
from galstress.cli.running import Device, Quiet, Seed, begin, weights_path
from galstress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from galstress.figures import Theme
    from galstress.realism import Domain
    from galstress.studies.invariance import InvarianceStudy
    from galstress.studies.labels import LabelsStudy
    from galstress.studies.transport import TransportStudy

Folder = Annotated[Path, typer.Option("--output", "-o", help="Folder; what is there already is not made again.")]
Width = Annotated[float, typer.Option(help="Of the backbone, in units of its usual channels.")]
Images = Annotated[int, typer.Option(min=2, help="Images a step.")]
Stamp = Annotated[int, typer.Option(min=32, help="Side of the images that networks see, in pixels.")]
Averages = Annotated[
    str, typer.Option(help="Also averaged over so many turns and mirrors: 8, 32, or 8,32. So many times the work.")
]

app = typer.Typer()
study = typer.Typer(help="Questions that take many runs, a folder a study, each resumable.", no_args_is_help=True)
app.add_typer(study, name="study")


@study.command(
    epilog="Example: galstress study labels foveal --survey hsc-wide-i --structured 1.0 --count 3000 --test 1000 "
    "--counts 0,10,25,50,100,200 --policies head,last:1,all --seeds 3 --steps 200 -o study/"
)
def labels(
    context: typer.Context,
    network: NetworkName,
    output: Folder,
    survey: Annotated[str, typer.Option(help="The target: a survey, or its TOML file.")] = "hsc-wide-i",
    structured: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the target's galaxies with arms, bars, rings, clumps or dust.")
    ] = 1.0,
    population: Annotated[str, typer.Option(help="Where the target's galaxies are drawn from.")] = "cosmos",
    target: Annotated[
        str,
        typer.Option(
            help="simulated: drawn from the population; realistic: real Hubble galaxies (of GALSTRESS_DATA) observed "
            "again in the survey's real sky, split by galaxy."
        ),
    ] = "simulated",
    count: Annotated[int, typer.Option(min=1, help="Galaxies that labels are taken of.")] = 100,
    test: Annotated[int, typer.Option(min=5, help="Others, that errors are measured on.")] = 200,
    counts: Annotated[str, typer.Option(help="Numbers of labels.")] = "0,10,50",
    policies: Annotated[str, typer.Option(help="What thaws: all, head, last:K, norm, layerwise:D.")] = "head,last:1",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind, the first from --seed.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Most steps of a training.")] = 40,
    learning_rate: Annotated[float, typer.Option(help="Largest rate of fine-tuning.")] = 3e-4,
    scratch_rate: Annotated[float, typer.Option(help="Largest rate from scratch.")] = 1.5e-3,
    scratch_steps: Annotated[int | None, typer.Option(min=1, help="From scratch, if not --steps.")] = None,
    stamp: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 96,
    side: Annotated[
        int | None,
        typer.Option(help="Pixels that the network sees; by default the stamp's over 1.45, for turns by any angle."),
    ] = None,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """How many labels does simulation save? Fine-tuned on few galaxies of a target, and from scratch on the same few.

    Writes summary.json, study.ecsv and a figure. Interrupted in any way, the same command goes on after the last
    cell; more counts, policies or seeds add to what is there.
    """
    run = dataclasses.replace(begin(context), command="study labels")
    from galstress.finetuning import Tuning
    from galstress.networks import Network
    from galstress.studies.labels import study_labels

    numbers, chosen = read_counts(counts), read_names(policies)
    loaded = Network.load(network).to(device)
    drawn = _draw_target(target, (survey, population, structured), (count, test), (stamp, seed, device))
    tuning = Tuning(steps, learning_rate, side_px=side)
    found = study_labels(
        loaded, drawn.pool, drawn.test, groups=drawn.groups, folder=output, counts=numbers, policies=chosen,
        seeds=[seed + each for each in range(seeds)], tuning=tuning,
        scratch=dataclasses.replace(tuning, steps=scratch_steps or steps, learning_rate=scratch_rate),
        command=write_command("labels", run.arguments), progress=not quiet,
    )  # fmt: skip
    _draw(found, output)
    run.finish(output / "summary.json", [weights_path(network), Path(survey)])
    run.say(f"{output / 'summary.json'}: {len(found.summary['cells'])} cells")
    run.say(found.sentence)


def _draw_target(
    target: str, what: tuple[str, str, float], counts: tuple[int, int], how: tuple[int, int, str]
) -> Domain:
    """Galaxies for labels and others for the test: survey, population and structure; numbers; stamp, seed, device."""
    from galstress.realism import Domain, load_templates, observe_halves

    (survey, population, structured), (stamp, seed, device) = what, how
    check_target(target)
    if target == "realistic":
        from galstress.survey import Survey

        seen = dataclasses.replace(Survey.load(survey), stamp_px=stamp)
        return observe_halves(load_templates(), seen, pool=counts[0], test=counts[1], seed=seed)
    from galstress.simulation import simulate

    # far from the seeds of training and of the other studies; one draw, so that no name comes twice
    drawn = simulate(
        survey, sum(counts), 1_900_000_000 + seed, population, stamp_px=stamp, structured=structured, device=device
    )
    return Domain(drawn.select(slice(0, counts[0])), drawn.select(slice(counts[0], None)))


@study.command(
    epilog="Example: galstress study transport --surveys sdss-r,hsc-wide-i,euclid-vis,hst-acs-f814w "
    "--left-out euclid-vis --width 0.35 --steps 400 --images 96 --test 400 -o study/"
)
def transport(
    context: typer.Context,
    output: Folder,
    surveys: Annotated[
        str, typer.Option(help="Names with commas between them; survey@z for galaxies moved from redshift 0.1 to z.")
    ] = "sdss-r,hsc-wide-i,hst-candels-f814w",
    left_out: Annotated[str, typer.Option(help="Those that a second network for all does not see.")] = "",
    width: Width = 0.25,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 300,
    images: Images = 128,
    stamp: Stamp = 64,
    test: Annotated[int, typer.Option(min=20, help="Test galaxies of each survey.")] = 500,
    walk: Annotated[int, typer.Option(min=0, help="How many of them go from survey to survey; 0: none.")] = 100,
    one_steps: Annotated[float, typer.Option(help="Steps of networks for several surveys, over an expert's.")] = 1.0,
    network: Annotated[str | None, typer.Option(help="A trained network, measured beside the others.")] = None,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """What does it cost to use a network elsewhere? An expert a survey, one network for all, and surveys left out.

    Writes summary.json, study.ecsv, costs.ecsv and figures. Interrupted in any way, the same command goes on after the
    last cell.
    """
    run = dataclasses.replace(begin(context), command="study transport")
    from galstress.networks import Network
    from galstress.studies.trainings import TrainingSize
    from galstress.studies.transport import study_transport

    extra = {f"{Path(network).stem}, as it is": Network.load(network).to(device)} if network else {}
    found = study_transport(
        read_names(surveys), read_names(left_out), folder=output, size=TrainingSize(width, steps, images, stamp),
        sample=(test, min(walk, test)), one_steps=one_steps, seed=seed, extra=extra, device=device,
        command=write_command("transport", run.arguments), progress=not quiet,
    )  # fmt: skip
    _draw_transport(found, output)
    run.finish(output / "summary.json", [weights_path(network)] if network else [])
    run.say(f"{output / 'summary.json'}: {len(found.summary['trainings'])} networks")
    run.say(found.sentence)


@study.command(
    epilog="Example: galstress study invariance --survey hsc-wide-i --target simulated --labels 100 --test 200 "
    "--width 0.35 --steps 400 --seeds 3 -o study/"
)
def invariance(
    context: typer.Context,
    output: Folder,
    survey: Annotated[str, typer.Option(help="The target: a survey, or its TOML file.")] = "hsc-wide-i",
    target: Annotated[
        str,
        typer.Option(
            help="simulated: structured galaxies; realistic: real Hubble galaxies (of GALSTRESS_DATA) observed again."
        ),
    ] = "simulated",
    labels: Annotated[int, typer.Option(min=1, help="Galaxies that fine-tuning learns from.")] = 80,
    test: Annotated[int, typer.Option(min=5, help="Others, that errors are measured on.")] = 80,
    redrawn: Annotated[int, typer.Option(min=5, help="Simulated galaxies that are drawn again at every angle.")] = 60,
    angles: Annotated[int, typer.Option(min=3, help="How many.")] = 12,
    averaged: Annotated[bool, typer.Option(help="Measure the average over eight turns and mirrors, too.")] = False,
    width: Width = 0.25,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training on simulations.")] = 200,
    images: Images = 96,
    stamp: Stamp = 64,
    tuning_steps: Annotated[int, typer.Option(min=1, help="Most steps of each fine-tuning.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind, the first from --seed.")] = 2,
    seed: Seed = 1,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """What makes a network blind to rotation? Simulated at many orientations or one, real galaxies turned or not.

    Writes summary.json, study.ecsv, effects.ecsv and figures. Interrupted in any way, the same command goes on after
    the last cell; more seeds add to what is there.
    """
    run = dataclasses.replace(begin(context), command="study invariance")
    from galstress.finetuning import Tuning
    from galstress.studies.invariance import study_invariance
    from galstress.studies.targets import observe_target, simulate_target
    from galstress.studies.trainings import TrainingSize

    check_target(target)
    counts, first = (labels, test, redrawn), 1_930_000_000 + 100 * seed
    if target == "realistic":
        galaxies = observe_target(survey, counts, stamp, first, angles=angles)
    else:
        galaxies = simulate_target(survey, counts, stamp, first, device)
    found = study_invariance(
        galaxies, folder=output, size=TrainingSize(width, steps, images, stamp), tuning=Tuning(tuning_steps),
        seeds=[seed + each for each in range(seeds)], angles=angles, averaged=averaged, device=device,
        command=write_command("invariance", run.arguments), progress=not quiet,
    )  # fmt: skip
    _draw_invariance(found, output)
    run.finish(output / "summary.json", [Path(survey)])
    run.say(f"{output / 'summary.json'}: {len(found.summary['trainings'])} networks")
    run.say(found.sentence)


def check_target(target: str) -> None:
    """Refuse what is no kind of target.

    Raises:
        InputError: It is neither.
    """
    if target not in ("simulated", "realistic"):
        raise InputError(f"--target {target}", "simulated or realistic", "give one of them")


def read_names(text: str) -> list[str]:
    """Words with commas between them.

    Example:
        >>> read_names("sdss-r, hsc-wide-i")
        ['sdss-r', 'hsc-wide-i']
    """
    return [word.strip() for word in text.split(",") if word.strip()]


def read_counts(text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        InputError: Something else.

    Example:
        >>> read_counts("0, 10,25")
        [0, 10, 25]
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise InputError(f"--counts {text}", "whole numbers with commas between them", "give 0,10,50")
    return [int(word) for word in words]


def read_averages(text: str) -> list[int]:
    """Numbers of turns, with commas between them.

    Example:
        >>> read_averages("8,32"), read_averages("")
        ([8, 32], [])
    """
    from galstress.prediction import count_turns

    try:
        numbers = [int(each) for each in text.split(",") if each.strip()]
    except ValueError:
        raise InputError(f"--average {text}", "numbers with commas between them", "give 8,32") from None
    return [count_turns(number) for number in dict.fromkeys(numbers) if number]


def write_command(name: str, arguments: Mapping[str, Any]) -> str:
    """The words that start this run again.

    Example:
        >>> write_command("labels", {"network": "foveal", "output": Path("study"), "seeds": 2, "scratch_steps": None})
        'galstress study labels foveal --output study --seeds 2'
        >>> write_command("invariance", {"averaged": True, "seeds": 2})
        'galstress study invariance --averaged --seeds 2'
    """
    words, options = ["galstress", "study", name], dict(arguments)
    if name == "labels":
        words.append(str(options.pop("network")))
    for option, value in options.items():
        if isinstance(value, bool):
            words += [f"--{option.replace('_', '-')}"] if value and option != "quiet" else []
        elif value is not None and value != "":
            words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _draw(found: LabelsStudy, folder: Path) -> None:
    """The figure of a study of labels."""
    from galstress.figures import label_curves

    target, times = found.summary["target"], len(found.summary["seeds"])
    trained = f"trained {times} times each" if times > 1 else "trained once each"
    images, galaxies = target["test"], target["test_galaxies"]
    tested = f"{galaxies} test galaxies" if images == galaxies else f"{images} images of {galaxies} test galaxies"
    note = f"{tested} of {target['survey']}, {trained}; bands hold 68 %"

    def draw(theme: Theme) -> Mapping[str, Figure]:
        return {"labels": label_curves(found.table, note=note, theme=theme)[0]}

    save_figures(draw, folder)


def _draw_transport(found: TransportStudy, folder: Path) -> None:
    """The figures of a study of transport."""
    from galstress.figures import ratio_bars, step_matrices, transport_matrix

    summary = found.summary
    note = f"{summary['test']['galaxies']} simulated test galaxies each, one training each"
    bars = {name: bar for name, bar in summary["bars"].items() if name in summary["trainings"]}
    places: dict[str, Sequence[str]] = dict.fromkeys(bars, summary["surveys"])
    places |= dict.fromkeys(list(bars)[1:], summary["left_out"])

    def draw(theme: Theme) -> Mapping[str, Figure]:
        figures = {
            "transport": transport_matrix(found.table, note=note, theme=theme)[0],
            "transport-ratios": ratio_bars(found.table, bars, places=places, note=note, theme=theme)[0],
        }
        if len(found.costs):
            figures["transport-steps"] = step_matrices(found.costs, note=note, theme=theme)[0]
        return figures

    save_figures(draw, folder)


def _draw_invariance(found: InvarianceStudy, folder: Path) -> None:
    """The figures of a study of invariance, one a measure."""
    from galstress.figures import four_cells

    target, times = found.summary["target"], len(found.summary["seeds"])
    what = {
        "redrawn": f"{target['redrawn']} simulated galaxies of {target['survey']} drawn at {{}} angles, one pass",
        "averaged": f"{target['redrawn']} simulated galaxies of {target['survey']} drawn at {{}} angles, eight turns",
        "real": f"{target['test']} real galaxies as {target['survey']} sees them at {{}} angles",
        "error": f"{target['test']} test galaxies of {target['survey']}",
    }
    shown = [measure for measure in what if measure in set(map(str, found.table["measure"]))]

    def draw(theme: Theme) -> Mapping[str, Figure]:
        figures = {}
        for measure in shown:
            words = what[measure].format(found.summary["angles"])
            note = f"{words}; {times} trainings each, bars hold 95 %"
            name = "invariance" if measure == "redrawn" else f"invariance-{measure}"
            figures[name] = four_cells(found.table, measure=measure, note=note, theme=theme)[0]
        return figures

    save_figures(draw, folder)
