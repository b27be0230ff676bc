"""The parts of the page on errors, coverage, and what the network was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from galstress.figures import Curve, coverage_by_bin, coverage_by_output, domain_map, error_curves, loss_curve
from galstress.heads import Classes
from galstress.report.pictures import Picture, draw_both
from galstress.report.quantities import HEADLINE_OUTPUTS, describe_output, median_and_interval, to_magnitude
from galstress.report.records import GalaxySet, Records, Table
from galstress.report.section import DataTable, Group, Section, absent

__all__ = ["report_accuracy", "report_coverage", "report_domain", "summarise_coverage"]


def report_accuracy(accuracy: Table | None) -> Section:
    """Errors against S/N, beside those of whoever always guesses the median."""
    key, title = "errors", "Errors against signal-to-noise"
    if accuracy is None:
        return absent(key, title, "No errors were recorded: accuracy.parquet is missing.")
    groups, tables = [], []
    for name, rows in _split(accuracy, ("population", "neighbours")):
        pictures = [_draw_errors(rows, output) for output in HEADLINE_OUTPUTS]
        found = tuple(picture for picture in pictures if picture is not None)
        if found:
            groups.append(Group(found, title=name))
            tables.append(_tabulate_errors(rows, name))
    if not groups:
        return absent(key, title, "No errors in bins of S/N were recorded.")
    lead = (
        "Fresh simulated galaxies that the network has never seen. The 68 % error holds 68 % of the galaxies; radius "
        "and flux as a share of the true value. Dashed: the error of always answering the median of the training "
        "population, without looking at the image."
    )
    return Section(key, title, lead, tuple(groups), tuple(tables))


def report_coverage(coverage: Table | None) -> Section:
    """How often intervals hold the truth."""
    key, title = "coverage", "Do the error bars hold?"
    if coverage is None:
        return absent(key, title, "No coverage was recorded: coverage.parquet is missing.")
    lead = (
        "An honest 68 % interval holds the truth 68 % of the time. Shown is what is missing or too much, on fresh "
        "simulated galaxies; the grey band is ±2 percentage points. Bins are cut on predicted quantities, never on "
        "the truth."
    )
    groups = []
    for name, rows in _split(coverage, ("survey", "population", "neighbours")):
        pictures = [_draw_coverage(rows)]
        quantities = dict.fromkeys(str(value) for value in rows["by"] if value)
        pictures += [_draw_coverage_in_bins(rows, by) for by in quantities]
        groups.append(Group(tuple(picture for picture in pictures if picture is not None), title=name))
    number = coverage["passes"].size if "passes" in coverage else 0
    failed = int(number - np.count_nonzero(coverage["passes"])) if number else 0
    note = f" {number - failed} of {number} coverages lie within 2 points plus two binomial sigma." if number else ""
    return Section(key, title, lead + note, tuple(groups))


def summarise_coverage(coverage: Table | None) -> list[tuple[str, str]]:
    """How often 68 % intervals hold the truth, over the headline outputs, as a line for the head of the page."""
    if coverage is None:
        return []
    chosen = (coverage["by"] == "") & (np.asarray(coverage["level"], float) == 0.68)
    chosen &= np.isin(coverage["output"].astype(str), HEADLINE_OUTPUTS)
    shares = 100 * np.asarray(coverage["coverage"], float)[chosen]
    shares = shares[np.isfinite(shares)]
    return [("68 % intervals hold", f"{shares.min():.1f} to {shares.max():.1f} %")] if shares.size else []


def report_domain(records: Records) -> Section:
    """What the network was trained on, with the measured galaxies among it."""
    key, title = "training", "What the network was trained on"
    domain, training = records.domain, records.training
    if domain is None and training is None:
        return absent(key, title, "Nothing of the training was recorded: domain.parquet and training.json are missing.")
    pictures = []
    if domain is not None:
        pictures += _draw_domain(domain, records.sets)
    facts: list[tuple[str, str]] = []
    if training is not None:
        step, loss = (np.asarray(training.get(name, ()), float) for name in ("loss_step", "loss"))
        if step.size == loss.size and step.size > 1:
            alt = f"Training loss against step, from {loss[0]:.2f} to {loss[-1]:.2f}"
            pictures.append(draw_both(lambda theme: loss_curve(step, loss, theme=theme), alt, "training loss"))
        shown = {"steps": "steps", "galaxies": "galaxies drawn", "time_s": "time", "population": "population"}
        shown |= {"seed": "seed", "parameters": "parameters of the network"}
        facts = [(label, _show(name, training[name])) for name, label in shown.items() if name in training]
    lead = (
        "Grey: the training population, drawn anew from its own distribution; the posterior's prior. Markers: the "
        "galaxies measured on this page, at their posterior medians. Outside the grey, a posterior is an extrapolation."
    )
    tables = (DataTable(("training", "value"), tuple(facts)),) if facts else ()
    return Section(key, title, lead if domain is not None else "", (Group(tuple(pictures)),), tables)


def _split(table: Table, names: Sequence[str]) -> list[tuple[str, Table]]:
    """Rows that share the values of some columns, with a heading; columns that are not there are passed over."""
    present = [name for name in names if name in table]
    keys = [tuple(_name_value(name, table[name][row]) for name in present) for row in range(len(table["output"]))]
    parts: list[tuple[str, Table]] = []
    for key in dict.fromkeys(keys):
        rows = np.array([other == key for other in keys])
        heading = ", ".join(word for word in key if word)
        parts.append((heading, {name: column[rows] for name, column in table.items()}))
    return parts


def _name_value(name: str, value: object) -> str:
    """A value as part of a heading."""
    if name == "neighbours":
        return "with neighbours" if value else "isolated"
    return f"population {value}" if name == "population" and value else str(value or "")


def _bin_centres(rows: Table) -> np.ndarray:
    """Where to draw each bin; open bins stand half a width beyond their closed edge, on a logarithmic axis."""
    low, high = np.asarray(rows["bin_low"], float), np.asarray(rows["bin_high"], float)
    low, high = np.where(np.isfinite(low), low, high / 2), np.where(np.isfinite(high), high, low * 2)
    return np.sqrt(np.maximum(low, 1e-12) * np.maximum(high, 1e-12))


def _errors_by_survey(accuracy: Table, output: str) -> list[tuple[str, Table]]:
    """Rows of one output in bins of S/N, a part a survey, bins rising."""
    chosen = (accuracy["output"] == output) & (accuracy["by"] == "snr") & (np.asarray(accuracy["count"]) > 0)
    parts = _split({name: column[chosen] for name, column in accuracy.items()}, ("survey",))
    ordered: list[tuple[str, Table]] = []
    for name, rows in parts:
        order = np.argsort(np.asarray(rows["bin_low"], float))
        ordered.append((name or "all", {key: column[order] for key, column in rows.items()}))
    return ordered


def _draw_errors(accuracy: Table, output: str) -> Picture | None:
    """One output's errors, a curve a survey."""
    curves = []
    for name, rows in _errors_by_survey(accuracy, output):
        unknown = np.full(len(rows["output"]), np.nan)
        low, high = (np.asarray(rows.get(f"error_68_{end}", unknown), float) for end in ("low", "high"))
        guess = np.asarray(rows["guess_error_68"], float) if "guess_error_68" in rows else None
        curves.append(Curve(name, _bin_centres(rows), np.asarray(rows["error_68"], float), low, high, guess))
    if not curves:
        return None
    quantity = describe_output(output)
    label = f"68 % error of {quantity.error_label}"
    return draw_both(
        lambda theme: error_curves(curves, label, percent=quantity.relative, theme=theme),
        f"{label} against signal-to-noise, for {', '.join(curve.label for curve in curves)}",
    )


def _tabulate_errors(accuracy: Table, title: str) -> DataTable:
    """The same as numbers: error, and in brackets that of the guess."""
    cells: dict[tuple[str, float, float], dict[str, str]] = {}
    counts: dict[tuple[str, float, float], int] = {}
    for output in HEADLINE_OUTPUTS:
        scale, unit = (100, " %") if describe_output(output).relative else (1, "")
        digits = 1 if scale == 100 else 3
        for survey, rows in _errors_by_survey(accuracy, output):
            for place in range(len(rows["output"])):
                key = (survey, float(rows["bin_low"][place]), float(rows["bin_high"][place]))
                error = scale * float(rows["error_68"][place])
                guess = scale * float(rows["guess_error_68"][place]) if "guess_error_68" in rows else math.nan
                cells.setdefault(key, {})[output] = f"{error:.{digits}f}{unit} ({guess:.{digits}f}{unit})"
                counts[key] = int(rows["count"][place])
    columns = ("survey", "S/N", "galaxies", *(describe_output(output).label for output in HEADLINE_OUTPUTS))
    lines = []
    for key, found in cells.items():
        upper = f"{key[2]:g}" if math.isfinite(key[2]) else "above"
        span = f"{key[1]:g} to {upper}" if upper != "above" else f"above {key[1]:g}"
        lines.append((key[0], span, str(counts[key]), *(found.get(output, "") for output in HEADLINE_OUTPUTS)))
    caption = "The same in numbers, in brackets guessing the median" + (f": {title}" if title else "")
    return DataTable(columns, tuple(lines), caption, folded=True)


def _draw_coverage(coverage: Table) -> Picture | None:
    """Coverage over all galaxies, an output a row."""
    whole = coverage["by"] == ""
    outputs = list(dict.fromkeys(str(name) for name in coverage["output"][whole]))
    if not outputs:
        return None
    levels = {}
    for level in np.unique(np.asarray(coverage["level"], float)[whole]):
        rows = [_find(coverage, whole, output, level) for output in outputs]
        deviation = np.array([float(coverage["coverage"][row]) - level if row >= 0 else np.nan for row in rows])
        sigma = np.array([float(coverage["sigma"][row]) if row >= 0 else np.nan for row in rows])
        levels[float(level)] = (deviation, sigma)
    labels = [describe_output(output).label for output in outputs]
    worst = max((float(np.nanmax(np.abs(deviation))) for deviation, _ in levels.values()), default=0.0)
    alt = f"Coverage minus claim for {len(outputs)} outputs; the largest difference is {100 * worst:.1f} points"
    return draw_both(lambda theme: coverage_by_output(labels, levels, theme=theme), alt, "all galaxies")


def _find(table: Table, chosen: np.ndarray, output: str, level: float) -> int:
    """Row of one output and level among the chosen ones, or -1."""
    rows = np.flatnonzero(chosen & (table["output"] == output) & (np.asarray(table["level"], float) == level))
    return int(rows[0]) if rows.size else -1


def _draw_coverage_in_bins(coverage: Table, by: str) -> Picture | None:
    """Coverage of the headline outputs in bins of one predicted quantity."""
    curves: dict[float, list[Curve]] = {}
    inside = coverage["by"] == by
    with np.errstate(invalid="ignore"):  # the bin of all galaxies is open at both ends
        centre = (np.asarray(coverage["bin_low"], float) + np.asarray(coverage["bin_high"], float)) / 2
    for level in np.unique(np.asarray(coverage["level"], float)[inside]):
        for output in HEADLINE_OUTPUTS:
            rows = np.flatnonzero(inside & (coverage["output"] == output) & (coverage["level"] == level))
            rows = rows[np.argsort(centre[rows])]
            if rows.size == 0:
                continue
            deviation = np.asarray(coverage["coverage"], float)[rows] - level
            sigma = 2 * np.asarray(coverage["sigma"], float)[rows]
            curve = Curve(describe_output(output).label, centre[rows], deviation, deviation - sigma, deviation + sigma)
            curves.setdefault(float(level), []).append(curve)
    if not curves:
        return None
    unit = str(coverage["by_unit"][inside][0] or "") if "by_unit" in coverage else ""
    name = by.removeprefix("predicted ")
    shown = "AB magnitude" if name == "mag_ab" else describe_output(name).label
    label = f"{'predicted ' if by != name else ''}{shown}" + (f" [{unit}]" if unit else "")
    return draw_both(
        lambda theme: coverage_by_bin(curves, label, theme=theme),
        f"Coverage minus claim of B/T, radius and flux in bins of {label}",
    )


def _draw_domain(domain: Table, sets: Sequence[GalaxySet]) -> list[Picture]:
    """The training population in two planes, with the measured galaxies on it."""
    columns = {"mag": "AB magnitude", "radius_arcsec": "half-light radius [arcsec]", "bulge_to_total": "B/T"}
    trained = {name: np.asarray(domain[name], float) for name in columns if name in domain}
    measured: dict[str, dict[str, np.ndarray]] = {}
    for galaxies in sets:
        if isinstance(galaxies.prediction, Classes):
            continue  # measures nothing that has a place here
        names, median = galaxies.prediction.names, galaxies.prediction.quantile([0.5])
        flux, radius, share = (median_and_interval(median, names, name)[0] for name in (
            "flux_njy", "half_light_radius_arcsec", "bulge_to_total"
        ))  # fmt: skip
        label = f"{galaxies.name} ({'simulated' if galaxies.simulated else 'real'})"
        measured[label] = {"mag": to_magnitude(flux), "radius_arcsec": radius, "bulge_to_total": share}
    pictures: list[Picture] = []
    for x, y in (("mag", "radius_arcsec"), ("radius_arcsec", "bulge_to_total"), ("mag", "bulge_to_total")):
        if x not in trained or y not in trained or len(pictures) == 2:
            continue
        sample, points, shown = _log_radius(trained, x, y), {}, (columns[x], columns[y])
        for label, values in measured.items():
            points[label] = _log_radius(values, x, y)
        if x == "radius_arcsec":
            shown = ("log₁₀ half-light radius [arcsec]", shown[1])
        alt = f"{shown[1]} against {shown[0]}: the training population and {len(points)} sets of measured galaxies"
        log_y = y == "radius_arcsec"
        pictures.append(
            draw_both(
                lambda theme, sample=sample, points=points, shown=shown, log_y=log_y: domain_map(  # type: ignore[misc]
                    sample, points, shown, log_y=log_y, theme=theme
                ),
                alt,
            )
        )
    return pictures


def _log_radius(values: Table, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Two columns where both are known; a radius on the x axis as its logarithm."""
    first, second = np.asarray(values[x], float), np.asarray(values[y], float)
    known = np.isfinite(first) & np.isfinite(second)
    if x == "radius_arcsec":
        known &= first > 0
    first, second = first[known], second[known]
    return (np.log10(first) if x == "radius_arcsec" else first), second


def _show(name: str, value: object) -> str:
    """A number of the training record, readable."""
    if name == "time_s" and isinstance(value, int | float):
        return f"{value / 3600:.1f} hours" if value > 5400 else f"{value / 60:.1f} minutes"
    if isinstance(value, int) and not isinstance(value, bool) and name != "seed":
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
