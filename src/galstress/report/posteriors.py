"""The part of the page that holds posteriors against the photon limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from galstress.figures import (
    Curve,
    calibration_curves,
    check_histogram,
    compare_corners,
    efficiency_curves,
    limit_curves,
    place_histogram,
)
from galstress.report.pictures import Picture, draw_both
from galstress.report.quantities import describe_output, to_magnitude
from galstress.report.records import PosteriorRecord, Table
from galstress.report.section import DataTable, Group, Section, absent

__all__ = ["report_posteriors"]

_WHO = ("network", "refined")


def report_posteriors(records: Sequence[PosteriorRecord]) -> Section:
    """Network, refined and fit beside the smallest errors that the photons allow."""
    key, title = "photon-limit", "Posteriors against the photon limit"
    if not records:
        return absent(key, title, "No posteriors were held against the limit: there is no posteriors/ folder.")
    lead = (
        "Simulated galaxies only, drawn for this page. The likelihood of their images is known, and so is the exact "
        "posterior, which no answer can beat. Network: its posterior, as it comes out in one pass. Refined: from there "
        "to the best fit and then importance sampling of the exact posterior, with the population that the galaxies "
        "were drawn from as the prior."
    )
    groups: list[Group] = []
    tables: list[DataTable] = []
    for record in records:
        groups += _describe(record)
        tables.append(_tabulate(record))
    return Section(key, title, lead, tuple(groups), tuple(tables))


def _describe(record: PosteriorRecord) -> list[Group]:
    """The figures of one sample."""
    groups = [_describe_errors(record), _describe_efficiency(record), _describe_coverage(record)]
    groups.append(_describe_places(record))
    if corners := _draw_corners(record):
        note = (
            "Of the same sample, from faint to bright. Before: the network's posterior; after: refined; beside them "
            "the fit that starts from the image's moments, without a network and under a prior that assumes little. "
            "Contours hold 68 and 95 %."
        )
        groups.append(Group(corners, "One galaxy, three answers", note))
    groups.append(Group(_draw_checks(record), "What the refined posteriors say of themselves", _say_checks(record)))
    return groups


def _describe_errors(record: PosteriorRecord) -> Group:
    """Errors against S/N, with the sample in words."""
    about = record.about
    kept = int(about.get("kept", len(record.galaxies["snr"])))
    sample = (
        f"{kept} simulated galaxies (population {about.get('population')}, as {about.get('survey')} would see them, "
        f"isolated, {about.get('stamp_px')} px, seed {about.get('seed')})"
    )
    if (left_out := int(about.get("count", kept)) - kept) > 0:
        sample += f"; {left_out} more that the network flags as faint or outside of its domain are left out"
    note = (
        f"{sample}. Root mean square error of the posterior mean, in bins of measured S/N (of the network's own "
        f"model) that hold equally many galaxies; bars: {_band(record)}, bootstrap over galaxies. Bayes limit: root "
        "mean square of the exact posterior's standard deviation, given image and population; no answer has a smaller "
        "mean square error. Cramér-Rao limit (median; both Sérsic indices free): the smallest scatter of an unbiased "
        "answer that knows no population; where it is not in the panel, it lies above."
    )
    pictures = tuple(_draw_errors(record.errors, output) for output in _outputs(record))
    return Group(pictures, "How far from the limit?", note)


def _describe_efficiency(record: PosteriorRecord) -> Group:
    """Efficiency against S/N."""
    note = (
        "Efficiency is the Bayes limit squared over the mean square error: 1 where all is used that the photons hold, "
        f"and above 1 by chance only, as where few galaxies lack the rare large errors. Bars: {_band(record)}."
    )
    return Group(tuple(_draw_efficiency(record.errors, output) for output in _outputs(record)), "Efficiency", note)


def _describe_coverage(record: PosteriorRecord) -> Group:
    """Coverage against level, and of the joint posterior."""
    pictures = [_draw_coverage(record.coverage, output) for output in _outputs(record)]
    pictures += [] if record.joint is None else [_draw_joint(record.joint)]
    note = (
        f"Share of truths inside the central interval of each level{'' if record.joint is None else _say_joint(record)}"
        f". An honest posterior lies on the diagonal. Bands: {_band(record)} at each level, bootstrap over galaxies."
    )
    return Group(tuple(pictures), "Do these posteriors hold the truth as often as they claim?", note)


def _describe_places(record: PosteriorRecord) -> Group:
    """Where truths fall in their posteriors."""
    note = (
        "Place of the truth: the share of the posterior below it (probability integral transform). Flat if honest, "
        "heaped at both ends if too narrow, in the middle if too wide. Grey: 95 % of the bars of a flat one."
    )
    pictures = tuple(_draw_places(record.galaxies, output) for output in _outputs(record))
    return Group(pictures, "Where do the truths fall in their posteriors?", note)


def _band(record: PosteriorRecord) -> str:
    """Probability that the record's intervals hold."""
    return f"{100 * float(record.about.get('band', 0.95)):g} %"


def _outputs(record: PosteriorRecord) -> list[str]:
    """The outputs that were recorded, in order."""
    return list(dict.fromkeys(str(name) for name in record.errors["output"]))


def _say_joint(record: PosteriorRecord) -> str:
    """What the joint posterior is tested by, in words and numbers."""
    names = [describe_output(str(name)).label for name in record.about.get("joint", ())]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "all outputs"
    deviations = record.about.get("joint_deviation", {})
    words = ", ".join(f"{who} {float(value):.2f}" for who, value in deviations.items())
    text = f"; last, inside regions of the joint posterior of {listed} around points that depend on the image (TARP"
    return f"{text}; largest deviation: {words})" if words else f"{text})"


def _bins(errors: Table, output: str, who: str) -> Table:
    """Rows of one output and answer in bins of S/N, rising."""
    rows = np.flatnonzero((errors["output"] == output) & (errors["who"] == who) & (errors["by"] == "snr"))
    rows = rows[np.argsort(np.asarray(errors["snr"], float)[rows])]
    return {name: column[rows] for name, column in errors.items()}


def _curve(table: Table, label: str, x: str, y: str) -> Curve:
    """A column against another, with its interval where there is one."""
    low, high = (np.asarray(table[f"{y}_{end}"], float) if f"{y}_{end}" in table else None for end in ("low", "high"))
    return Curve(label, np.asarray(table[x], float), np.asarray(table[y], float), low, high)


def _draw_errors(errors: Table, output: str) -> Picture:
    """Errors of one output against S/N."""
    quantity = describe_output(output)
    tables = {who: _bins(errors, output, who) for who in _WHO}
    curves = [_curve(table, who, "snr", "rms") for who, table in tables.items()]
    bounds = [
        _curve(tables["refined"], label, "snr", name)
        for label, name in (("Bayes limit", "bayes"), ("Cramér-Rao limit", "cramer_rao"))
    ]
    guess = _curve(tables["refined"], "guessing the median", "snr", "guess")
    return draw_both(
        lambda theme: limit_curves(
            curves, bounds, guess, f"rms error of {quantity.error_label}", percent=quantity.relative, theme=theme
        ),
        f"Error of {quantity.label} against signal-to-noise: network, refined, limits, and guessing the median",
    )


def _draw_efficiency(errors: Table, output: str) -> Picture:
    """Efficiencies of one output against S/N."""
    label = describe_output(output).label
    curves = [_curve(_bins(errors, output, who), who, "snr", "efficiency") for who in _WHO]
    return draw_both(
        lambda theme: efficiency_curves(curves, f"efficiency in {label}", theme=theme),
        f"Efficiency in {label} of network and refined against signal-to-noise; 1 is the photon limit",
    )


def _draw_coverage(coverage: Table, output: str) -> Picture:
    """Coverage against level of one output."""
    label = describe_output(output).label
    chosen = (coverage["output"] == output) & (coverage["by"] == "")
    curves = [_curve(_rows(coverage, chosen & (coverage["who"] == who)), who, "level", "coverage") for who in _WHO]
    return draw_both(
        lambda theme: calibration_curves(curves, (f"interval of {label}", "truths inside"), theme=theme),
        f"Share of truths inside intervals of {label} against their level, network and refined",
    )


def _draw_joint(joint: Table) -> Picture:
    """TARP."""
    curves = [_curve(_rows(joint, joint["who"] == who), who, "level", "coverage") for who in _WHO]
    return draw_both(
        lambda theme: calibration_curves(curves, ("credibility, all jointly", "truths inside"), theme=theme),
        "Expected coverage of the joint posterior against credibility, network and refined",
    )


def _draw_places(galaxies: Table, output: str) -> Picture:
    """Histogram of the truths' places."""
    label = describe_output(output).label
    places = {who: np.asarray(galaxies[f"{output}_{who}_pit"], float) for who in _WHO}
    return draw_both(
        lambda theme: place_histogram(places, f"place of the truth in {label}", theme=theme),
        f"Histogram of the share of the posterior of {label} that lies below the truth, network and refined",
    )


def _draw_corners(record: PosteriorRecord) -> tuple[Picture, ...]:
    """Each fitted galaxy's posteriors over each other."""
    if record.draws is None:
        return ()
    outputs = [str(name) for name in record.about.get("outputs", ())]
    pictures = []
    for place, example in enumerate(record.about.get("examples", ())):
        posteriors = {
            name: _to_shown(np.asarray(record.draws[name][place], float), outputs)
            for name in (*_WHO, "fit")
            if name in record.draws
        }
        if not all(np.isfinite(draws).all() for draws in posteriors.values()):
            continue
        truth = _to_shown(np.asarray(record.draws["truth"][place], float), outputs)
        labels = [{"flux_njy": "AB mag", "half_light_radius_arcsec": "R½ [arcsec]"}.get(
            name, describe_output(name).symbol
        ) for name in outputs]  # fmt: skip
        name = f"{example.get('object_id')}, S/N {float(example.get('snr', math.nan)):.0f}"
        pictures.append(
            draw_both(
                lambda theme, posteriors=posteriors, truth=truth, labels=labels: compare_corners(  # type: ignore[misc]
                    posteriors, labels, truth=truth.tolist(), filled="refined", theme=theme
                ),
                f"Posteriors of {', '.join(labels)} of simulated galaxy {name}: network, refined, fit, and the truth",
                f"{name} (simulated)",
            )
        )
    return tuple(pictures)


def _to_shown(values: np.ndarray, outputs: Sequence[str]) -> np.ndarray:
    """(..., D) outputs with fluxes as magnitudes."""
    shown = [to_magnitude(values[..., i]) if name == "flux_njy" else values[..., i] for i, name in enumerate(outputs)]
    return np.stack(shown, -1)


def _draw_checks(record: PosteriorRecord) -> tuple[Picture, ...]:
    """Effective samples and chi-square over all galaxies."""
    effective, chi_square = (np.asarray(record.galaxies[name], float) for name in ("effective_samples", "chi_square"))
    few = float(record.about.get("few", 100))
    degrees = float(record.about.get("degrees_of_freedom", 0)) or math.nan
    expected = (1.0, math.sqrt(2 / degrees)) if math.isfinite(degrees) else None
    return (
        draw_both(
            lambda theme: check_histogram(
                effective, "effective samples", {"flagged below": few}, log=True, theme=theme
            ),
            f"Histogram of effective samples, median {np.nanmedian(effective):.0f}",
        ),
        draw_both(
            lambda theme: check_histogram(chi_square, "reduced χ²", {}, expected=expected, theme=theme),
            f"Histogram of reduced chi-square, median {np.nanmedian(chi_square):.3f}, and what noise gives",
        ),
    )


def _say_checks(record: PosteriorRecord) -> str:
    """The self-check in words and numbers."""
    effective, chi_square = (np.asarray(record.galaxies[name], float) for name in ("effective_samples", "chi_square"))
    few = float(record.about.get("few", 100))
    number = int(np.count_nonzero(effective < few))
    text = (
        "No truth is needed for these: the effective samples are the independent draws that the weighted ones are "
        f"worth (median {np.nanmedian(effective):.0f}; {number} of {effective.size} galaxies below {few:g}, which are "
        "flagged FEW_SAMPLES), and the best point's χ² per degree of freedom is 1 where disk and bulge describe the "
        f"image (median {np.nanmedian(chi_square):.3f}; otherwise BAD_FIT)."
    )
    seconds = record.about.get("seconds_a_galaxy", {})
    shown = {"network": "network", "refined": "refinement", "bayes": "Bayes limit", "fit": "fit"}
    times = [f"{label} {float(seconds[name]):#.2g}" for name, label in shown.items() if name in seconds]
    return f"{text} Seconds a galaxy: {', '.join(times)}." if times else text


def _rows(table: Table, chosen: np.ndarray) -> Table:
    """Some rows of a table."""
    return {name: column[chosen] for name, column in table.items()}


def _tabulate(record: PosteriorRecord) -> DataTable:
    """The same as numbers."""
    errors, lines = record.errors, []
    for output in _outputs(record):
        quantity = describe_output(output)
        scale, digits = (100, 2) if quantity.relative else (1, 4)
        for row in np.flatnonzero((errors["output"] == output) & (errors["who"] == "network")):
            low, high = float(errors["bin_low"][row]), float(errors["bin_high"][row])
            span = "all" if str(errors["by"][row]) == "" else f"{low:.0f} to {high:.0f}"
            cells = [quantity.error_label, span, str(int(errors["count"][row]))]
            same = (errors["output"] == output) & (errors["bin_low"] == low) & (errors["bin_high"] == high)
            refined = int(np.flatnonzero(same & (errors["who"] == "refined"))[0])
            numbers = [errors["rms"][row], errors["rms"][refined], errors["bayes"][refined], errors["guess"][refined]]
            cells += [f"{scale * float(value):.{digits}f}" for value in numbers]
            cells += [_with_interval(errors, at) for at in (int(row), refined)]
            lines.append(tuple(cells))
    columns = ("output", "S/N", "galaxies", "network", "refined", "Bayes limit", "guess")
    caption = f"The same in numbers: root mean square errors and efficiencies ({record.name})"
    return DataTable((*columns, "efficiency, network", "efficiency, refined"), tuple(lines), caption, folded=True)


def _with_interval(errors: Table, row: int) -> str:
    """An efficiency with its interval."""
    value, low, high = (float(errors[f"efficiency{end}"][row]) for end in ("", "_low", "_high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
