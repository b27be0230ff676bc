"""Errors against the number of labelled galaxies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.table import QTable
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from galstress.figures.theme import LIGHT, Theme, drawing

__all__ = ["label_curves"]

_PANELS: Mapping[str, str] = {
    "bulge_to_total": "B/T",
    "ln_radius": "half-light radius [relative]",
    "ln_flux": "flux [relative]",
    "all": "geometric mean of the three",
}
_MARKERS = "osD^vPX"
_TICKS = np.array([1, 1.5, 2, 3, 4, 5, 7])


def label_curves(
    table: QTable, *, scratch: str = "from scratch", statistic: str = "rms", note: str = "", theme: Theme = LIGHT
) -> tuple[Figure, np.ndarray]:
    """Errors against the number of labels, a panel a quantity, both axes logarithmic.

    Arguments:
        table: A row a ``method``, ``count`` and ``quantity`` with the statistic and its ``_low`` and ``_high``, as a
            study of labels writes it; a count of 0 is the untouched network.
        scratch: The method that is dashed.
        statistic: ``rms`` or ``error_68``.
        note: A line below the figure.
        theme: Colours.

    Returns:
        Figure and its (2, 2) axes. The dotted horizontal line with a star is the error without any label; bands are
        the intervals of the table.
    """
    methods = list(dict.fromkeys(str(name) for name in table["method"]))
    with drawing(theme):
        fig = Figure(figsize=(7.2, 5.6), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        panels = fig.subplots(2, 2)
        for ax, (quantity, title) in zip(panels.flat, _PANELS.items(), strict=True):
            for place, method in enumerate(methods):
                rows = table[(table["method"] == method) & (table["quantity"] == quantity)]
                dashes: dict[str, Any] = {"ls": (0, (4, 3))} if method == scratch else {}
                _draw_curve(ax, rows, statistic, method, place, theme, dashes)
            _draw_zero(ax, table[(table["quantity"] == quantity) & (table["count"] == 0)], statistic, theme)
            _finish(ax, sorted({int(n) for n in table["count"] if n > 0}), title)
        for ax in panels[1]:
            ax.set_xlabel("labelled galaxies")
        for ax in panels[:, 0]:
            ax.set_ylabel("rms error" if statistic == "rms" else "68 % error")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.4)
        if note:
            fig.supxlabel(note, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels


def _draw_curve(
    ax: Axes, rows: QTable, statistic: str, method: str, place: int, theme: Theme, dashes: Mapping[str, Any]
) -> None:
    """One method's line and band over its positive counts."""
    rows = rows[rows["count"] > 0]
    if not len(rows):
        return
    rows = rows[np.argsort(rows["count"])]
    count, middle, low, high = (
        np.asarray(rows[name], float) for name in ("count", statistic, f"{statistic}_low", f"{statistic}_high")
    )
    colour = theme.series[place % 7]
    ax.fill_between(count, low, high, color=colour, alpha=0.15, lw=0)
    ax.plot(count, middle, color=colour, marker=_MARKERS[place % 7], ms=4.5, label=method, **dashes)


def _draw_zero(ax: Axes, rows: QTable, statistic: str, theme: Theme) -> None:
    """The error without any label, left of the first count."""
    if not len(rows):
        return
    low, middle, high = (float(rows[f"{statistic}{end}"][0]) for end in ("_low", "", "_high"))
    ax.axhspan(low, high, color=theme.muted, alpha=0.12, lw=0)
    ax.axhline(middle, color=theme.muted, lw=1.1, ls=(0, (1, 2)), marker="*", markevery=[0], ms=9, label="no label",
               clip_on=False)  # fmt: skip


def _finish(ax: Axes, counts: list[int], title: str) -> None:
    """Both axes logarithmic with plain numbers, a tick a count."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    ax.xaxis.set_minor_locator(FixedLocator([]))
    ax.set_xticks(counts, [str(count) for count in counts])
    low, high = ax.get_ylim()
    steps = np.concatenate([_TICKS * 10.0**power for power in range(-5, 3)])
    inside = steps[(steps >= low) & (steps <= high)]
    ax.yaxis.set_major_locator(FixedLocator(inside[:: max(1, round(len(inside) / 5))].tolist()))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_minor_locator(FixedLocator([]))
    ax.grid(True, axis="y")
    ax.set_title(title)
