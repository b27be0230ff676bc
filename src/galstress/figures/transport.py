"""Networks away from home: errors beside an expert's as a matrix and as bars, and what each step on the way costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import QTable
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from galstress.figures.theme import LIGHT, Theme, drawing

__all__ = ["ratio_bars", "step_matrices", "transport_matrix"]

_PANELS: Mapping[str, str] = {
    "bulge_to_total": "B/T",
    "ln_radius": "half-light radius",
    "ln_flux": "flux",
    "all": "all three",
}
_STEPS: Mapping[str, str] = {
    "depth": "depth",
    "psf": "PSF",
    "pixels": "pixels",
    "population": "galaxies",
    "own": "own expert",
    "penalty": "penalty",
}
_MARKERS = "osD^vPX"
_MOST = 2.5
"""Largest |ln ratio| with a colour of its own."""


def transport_matrix(
    table: QTable, *, quantity: str = "all", statistic: str = "rms", note: str = "", theme: Theme = LIGHT
) -> tuple[Figure, Axes]:
    """Errors of every network in every place, over those of the place's expert, as a heat map with numbers.

    Arguments:
        table: A row a ``network``, ``place`` and ``quantity`` with ``<statistic>_ratio``, as a study of transport
            writes it; networks with a place's name are its experts.
        quantity: Which to show.
        statistic: ``rms`` or ``error_68``.
        note: A line below the figure.
        theme: Colours.
    """
    rows = table[table["quantity"] == quantity]
    networks, places = (list(dict.fromkeys(map(str, rows[name]))) for name in ("network", "place"))
    ratio = np.full((len(networks), len(places)), np.nan)
    for row in rows:
        ratio[networks.index(str(row["network"])), places.index(str(row["place"]))] = row[f"{statistic}_ratio"]
    with drawing(theme):
        width, height = max(4.8, 2.4 + 0.52 * len(places)), 1.9 + 0.34 * len(networks)
        fig = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        ax = fig.add_subplot()
        _draw_heat(ax, np.log(ratio), networks, places, theme, [[_say(value) for value in line] for line in ratio])
        ax.axhline(sum(name in places for name in networks) - 0.5, color=theme.paper, lw=3)
        words = "rms" if statistic == "rms" else "68 %"
        title = f"{words} error over that of the place's own expert: {_PANELS[quantity]}"
        fig.suptitle(title, x=0.01, ha="left", size=9, weight="bold")
        ax.set_xlabel("tested on")
        ax.set_ylabel("trained on")
        if note:
            fig.supxlabel(note, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, ax


def step_matrices(
    table: QTable, *, quantity: str = "all", note: str = "", theme: Theme = LIGHT
) -> tuple[Figure, np.ndarray]:
    """What each step from one place to another adds to ln of an expert's error, a heat map a step.

    Arguments:
        table: A row a ``start``, ``end`` and ``quantity`` with the steps, as a study of transport writes its costs.
        quantity: Which to show.
        note: A line below the figure.
        theme: Colours.

    Returns:
        Figure and its (2, 3) axes.
    """
    rows = table[table["quantity"] == quantity]
    places = list(dict.fromkeys([*map(str, rows["start"]), *map(str, rows["end"])]))
    with drawing(theme):
        side = 0.36 * len(places)
        fig = Figure(figsize=(2.4 + 3 * side, 1.9 + 2 * side), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        panels = fig.subplots(2, 3, sharex=True, sharey=True)
        for ax, (step, title) in zip(panels.flat, _STEPS.items(), strict=True):
            change = np.full((len(places), len(places)), np.nan)
            for row in rows:
                change[places.index(str(row["start"])), places.index(str(row["end"]))] = row[step]
            words = [["" if np.isnan(value) else f"{round(value, 1) + 0.0:+.1f}" for value in line] for line in change]
            _draw_heat(ax, change, places, places, theme, words)
            ax.set_title(title, loc="left")
        for ax in panels[1]:
            ax.set_xlabel("to")
        for ax in panels[:, 0]:
            ax.set_ylabel("from")
        text = "penalty = depth + PSF + pixels (with field and correlated noise) + galaxies - own expert"
        fig.supxlabel(f"{text}\n{note}" if note else text, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels


def ratio_bars(
    table: QTable,
    bars: Mapping[str, float],
    *,
    places: Mapping[str, Sequence[str]] | None = None,
    statistic: str = "rms",
    note: str = "",
    theme: Theme = LIGHT,
) -> tuple[Figure, np.ndarray]:
    """Networks for several places beside the experts, with intervals, a panel a quantity.

    Arguments:
        table: As :func:`transport_matrix` takes it, with ``_low`` and ``_high``.
        bars: The ratio that each network should stay below.
        places: Where each network is shown; by default everywhere.
        statistic: ``rms`` or ``error_68``.
        note: A line below the figure.
        theme: Colours.

    Returns:
        Figure and its (1, 4) axes.
    """
    names = list(dict.fromkeys(map(str, table["place"])))
    with drawing(theme):
        size = (9.6, 1.6 + 0.3 * len(names))
        fig = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        panels = fig.subplots(1, 4, sharex=True, sharey=True, squeeze=False)
        for ax, (quantity, title) in zip(panels.flat, _PANELS.items(), strict=True):
            for place, (network, bar) in enumerate(bars.items()):
                rows = table[(table["quantity"] == quantity) & (table["network"] == network)]
                shown = names if places is None else places[network]
                rows = rows[np.isin(rows["place"], list(shown))]
                offset = 0.3 * (place - (len(bars) - 1) / 2)
                colour, marker = theme.series[place], _MARKERS[place]
                y = np.array([names.index(str(name)) for name in rows["place"]]) + offset
                middle, low, high = (
                    np.asarray(rows[f"{statistic}_ratio{end}"], float) for end in ("", "_low", "_high")
                )
                ax.hlines(y, low, high, color=colour, lw=1.6)
                ax.plot(middle, y, ls="", marker=marker, ms=4.5, color=colour, label=network)
                ax.axvline(bar, color=colour, lw=1, ls=(0, (4, 3)))
            ax.axvline(1, color=theme.muted, lw=0.8)
            ax.set_title(title, loc="left")
            _finish_ratios(ax)
        panels[0, 0].set_yticks(range(len(names)), names)
        panels[0, 0].set_ylim(len(names) - 0.4, -0.6)
        fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        words = "rms" if statistic == "rms" else "68 %"
        note = f"{words} error over that of the place's own expert (1); dashed: the bar" + (f". {note}" if note else "")
        fig.supxlabel(note, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels


def _finish_ratios(ax: Axes) -> None:
    """A logarithmic axis of ratios with plain numbers."""
    ax.set_xscale("log")
    ticks = [0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20]
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(True, axis="x")


def _draw_heat(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    theme: Theme,
    words: Sequence[Sequence[str]],
) -> None:
    """Values about 0 as colours, blue below and orange above, with a word in each cell."""
    colours = LinearSegmentedColormap.from_list("about-zero", [theme.series[0], theme.paper, theme.series[1]])
    ax.imshow(values.clip(-_MOST, _MOST), cmap=colours, vmin=-_MOST, vmax=_MOST, aspect="auto")
    for y, line in enumerate(words):
        for x, word in enumerate(line):
            strong = abs(values[y, x]) > 0.6 * _MOST
            ax.text(x, y, word, ha="center", va="center", size=7, color=theme.paper if strong else theme.ink)
    ax.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _say(ratio: float) -> str:
    """Two or three digits."""
    return "" if np.isnan(ratio) else f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"
