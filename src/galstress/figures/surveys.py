"""Networks side by side: classes beside the best possible, how sure they are, and errors by signal-to-noise."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from galstress.figures.theme import LIGHT, Theme, drawing

__all__ = ["class_gaps", "risk_curves", "survey_errors"]

Rows = Sequence[Mapping[str, Any]]

_QUANTITIES: Mapping[str, str] = {
    "bulge_to_total": "68 % error in B/T",
    "half_light_radius_arcsec": "68 % error in ln radius",
    "flux_njy": "68 % error in ln flux",
}
_MARKERS = "osD^vPX"


def class_gaps(rows: Rows, *, bar_points: float = 2.0, note: str = "", theme: Theme = LIGHT) -> tuple[Figure, Axes]:
    """Purity minus that of the best possible classifier, in points, a line a network and sample.

    Arguments:
        rows: ``against_best`` of a study of surveys.
        bar_points: How far below the best is still good enough.
        note: A line below the figure.
        theme: Colours.
    """
    purity = [row for row in rows if row["score"] == "purity"]
    lines = list(dict.fromkeys((row["sample"], row["method"]) for row in purity))
    with drawing(theme):
        fig = Figure(figsize=(6.2, 1.3 + 0.26 * len(lines)), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        ax = fig.add_subplot()
        ax.axvspan(-bar_points, bar_points, color=theme.grid, lw=0, zorder=0)
        for number, name in enumerate(("disk", "bulge")):
            chosen = [row for row in purity if row["class"] == name]
            y = [lines.index((row["sample"], row["method"])) + 0.16 * (2 * number - 1) for row in chosen]
            x = np.array([row["points"] for row in chosen], float)
            ends = np.array([[row["points_low"], row["points_high"]] for row in chosen], float).reshape(-1, 2)
            bars = np.abs(np.stack([x - ends[:, 0], ends[:, 1] - x]))
            ax.errorbar(
                x, y, xerr=bars, fmt=_MARKERS[number], ms=4, color=theme.series[number], lw=1, ls="none",
                label=f"called a {name}",
            )  # fmt: skip
        ax.set_yticks(range(len(lines)), [f"{method} on {sample}" for sample, method in lines])
        ax.invert_yaxis()
        ax.set_xlabel("purity minus the best possible classifier's, points")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        _sign(fig, note, theme)
        return fig, ax


def risk_curves(rows: Rows, *, note: str = "", theme: Theme = LIGHT) -> tuple[Figure, np.ndarray]:
    """Share of wrong calls among those that a classifier is surest of, a panel a sample.

    Arguments:
        rows: ``curves`` of a study of surveys: ``sample``, ``method``, ``coverage``, ``accuracy``.
        note: A line below the figure.
        theme: Colours.
    """
    with drawing(theme):
        fig, axes, methods = _panels(rows, "sample", theme)
        for ax, sample in zip(axes.flat, dict.fromkeys(row["sample"] for row in rows), strict=False):
            for method, colour in methods.items():
                own = [row for row in rows if row["sample"] == sample and row["method"] == method]
                if own:
                    x, right = (np.array([row[name] for row in own], float) for name in ("coverage", "accuracy"))
                    ax.plot(x, 1 - right, color=colour, lw=1.4, label=method)
            ax.set_title(sample)
            ax.set_xlabel("share called, the surest first")
            ax.set_xlim(0, 1)
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            ax.yaxis.set_major_formatter(PercentFormatter(1))
        fig.supylabel("called wrongly", size=9)
        _explain(fig, methods, note, theme)
        return fig, axes


def survey_errors(rows: Rows, sample: str, *, note: str = "", theme: Theme = LIGHT) -> tuple[Figure, np.ndarray]:
    """Errors of all networks by signal-to-noise, on one sample: B/T, ln radius, ln flux.

    Arguments:
        rows: ``errors`` of a study of surveys.
        sample: Which one.
        note: A line below the figure.
        theme: Colours.
    """
    own = [row for row in rows if row["sample"] == sample]
    binned = [row for row in own if row["snr_low"] is not None]
    edges = list(dict.fromkeys((row["snr_low"], row["snr_high"]) for row in sorted(binned, key=_lower)))
    with drawing(theme):
        fig = Figure(figsize=(8.4, 3.2), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        axes = np.array(fig.subplots(1, 3))
        methods = _colours(own, theme)
        for ax, (name, words) in zip(axes, _QUANTITIES.items(), strict=True):
            for number, (method, colour) in enumerate(methods.items()):
                chosen = sorted((r for r in binned if r["quantity"] == name and r["method"] == method), key=_lower)
                at = [
                    edges.index((row["snr_low"], row["snr_high"])) + 0.09 * (number - len(methods) / 2)
                    for row in chosen
                ]
                value = np.array([row["error_68"] for row in chosen], float)
                low, high = (np.array([row[f"error_68_{end}"] for row in chosen], float) for end in ("low", "high"))
                ax.errorbar(
                    at, value, yerr=np.abs([value - low, high - value]), fmt=_MARKERS[number % 7], ms=4, color=colour,
                    lw=1, label=method,
                )  # fmt: skip
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_ylabel(words)
            ax.set_xticks(range(len(edges)), [_name_bin(low, high) for low, high in edges])
            ax.set_xlim(-0.6, len(edges) - 0.4)
            ax.set_xlabel("signal-to-noise")
        _explain(fig, methods, note, theme)
        return fig, axes


def _panels(rows: Rows, by: str, theme: Theme) -> tuple[Figure, np.ndarray, dict[str, str]]:
    """A figure with a panel for each value of a column, three in a row."""
    count = len(dict.fromkeys(row[by] for row in rows))
    columns = min(3, max(count, 1))
    lines = -(-max(count, 1) // columns)
    fig = Figure(figsize=(2.8 * columns, 0.8 + 2.2 * lines), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(fig)
    axes = np.array(fig.subplots(lines, columns, squeeze=False))
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, axes, _colours(rows, theme)


def _colours(rows: Rows, theme: Theme) -> dict[str, str]:
    """A colour a method, ink for the best possible."""
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    others = [method for method in methods if not method.startswith("best")]
    found = {method: theme.series[place % len(theme.series)] for place, method in enumerate(others)}
    return found | {method: theme.ink for method in methods if method not in found}


def _explain(fig: Figure, methods: Mapping[str, str], note: str, theme: Theme) -> None:
    """One legend above all panels, one line below them."""
    handles: dict[str, Any] = {}
    for ax in fig.axes:
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(
        [handles[name] for name in methods if name in handles], [name for name in methods if name in handles],
        loc="outside upper left", ncols=4,
    )  # fmt: skip
    _sign(fig, note, theme)


def _sign(fig: Figure, note: str, theme: Theme) -> None:
    """A line below the figure."""
    if note:
        fig.supxlabel(textwrap.fill(note, int(16 * fig.get_figwidth())), x=0.01, ha="left", size=8, color=theme.muted)


def _lower(row: Mapping[str, Any]) -> float:
    """Lower edge of a row's bin."""
    return float(row["snr_low"])


def _name_bin(low: float, high: float | None) -> str:
    """Edges of a bin, as a tick says them."""
    return f">{low:.0f}" if high is None else f"{low:.0f}–{high:.0f}"
