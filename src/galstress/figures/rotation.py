"""How far answers move when galaxies turn, as a distribution over galaxies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import QTable
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from galstress.figures.theme import LIGHT, Theme, drawing

__all__ = ["shift_curves"]

_PANELS: Mapping[str, str] = {
    "bulge_to_total": "B/T",
    "half_light_radius": "half-light radius",
    "flux": "flux",
    "p_disk": "p(disk)",
    "p_indeterminate": "p(indeterminate)",
    "p_bulge": "p(bulge)",
}
_LIMITS = (1, 3, 5)
_TICKS = (0.1, 1, 10, 100)
_RANGE = (0.01, 100.0)
_DASHES: tuple[Any, ...] = ("-", (0, (3, 1.5)), (0, (1, 1.2)))
"""One pass, an average over turns that move whole pixels, one over other angles, too."""


def shift_curves(
    table: QTable, *, kind: str = "redrawn", of: str = "largest", note: str = "", theme: Theme = LIGHT
) -> tuple[Figure, np.ndarray]:
    """Share of galaxies whose answers move by no more than so much, a panel a quantity, a line a network and pass.

    Arguments:
        table: A row a galaxy, as :class:`galstress.studies.rotation.RotationStudy` has it: ``network``, ``survey``,
            ``averaged``, ``kind``, ``quantity``, ``part``, and ``largest`` and ``rms`` as shares of 1.
        kind: The way to turn that is shown.
        of: ``largest`` deviation over angles, or its ``rms``.
        note: A line below the figure.
        theme: Colours.

    Returns:
        Figure and its (1, K) axes; quantities that no network answers have none.
    """
    table = table[(table["kind"] == kind) & (table["part"] == "point")]
    quantities = [name for name in _PANELS if name in set(map(str, table["quantity"]))]
    names = [str(each) for each in table["network"]]
    lines = list(dict.fromkeys(zip(names, map(str, table["survey"]), map(int, table["averaged"]), strict=True)))
    with drawing(theme):
        rows = -(-len(quantities) // 3)
        fig = Figure(figsize=(8.4, 0.75 + 2.35 * rows), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        panels = fig.subplots(rows, min(3, len(quantities)), squeeze=False, sharey=True)
        for ax, quantity in zip(panels.flat, quantities, strict=False):
            of_panel = table[table["quantity"] == quantity]
            _prepare(ax, _PANELS[quantity], theme)
            _draw_lines(ax, of_panel, lines, of, theme)
        words = "largest shift" if of == "largest" else "rms shift"
        for ax in panels[-1]:
            ax.set_xlabel(f"{words} over angles [%]")
        for row in panels:
            row[0].set_ylabel("share of galaxies [%]")
        handles = {text: line for ax in panels.flat for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        fig.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=2)
        if note:
            fig.supxlabel(note, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels


def _prepare(ax: Axes, title: str, theme: Theme) -> None:
    """Axes in per cent, and the limits that galaxies are counted within."""
    ax.set_xscale("log")
    ax.set_xlim(*_RANGE)
    ax.set_ylim(0, 101)
    ax.xaxis.set_major_locator(FixedLocator(list(_TICKS)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(True, axis="y")
    ax.axhline(95, color=theme.muted, lw=0.8, ls=(0, (1, 2)))
    for limit in _LIMITS:
        ax.axvline(limit, color=theme.muted, lw=0.8, ls=(0, (1, 2)))
        ax.annotate(f"{limit}", (limit, 2), ha="right", va="bottom", size=7, color=theme.muted, xytext=(-1.5, 0),
                    textcoords="offset points")  # fmt: skip
    ax.set_title(title, loc="left")


def _draw_lines(ax: Axes, table: QTable, lines: Sequence[tuple[str, str, int]], of: str, theme: Theme) -> None:
    """Empirical distributions: colours by network and survey, dashes where averaged."""
    colours = list(dict.fromkeys(line[:2] for line in lines))
    for network, survey, averaged in lines:
        chosen = (table["network"] == network) & (table["survey"] == survey) & (table["averaged"] == averaged)
        values = 100 * np.sort(np.asarray(table[of], float)[chosen])
        values = values[np.isfinite(values)].clip(*_RANGE)
        if not values.size:
            continue
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        name = network if network == survey else f"{network} on {survey}"
        ax.step(
            np.concatenate([[_RANGE[0]], values, [_RANGE[1]]]), np.concatenate([[0.0], share, [100.0]]), where="post",
            color=theme.series[colours.index((network, survey)) % len(theme.series)],
            ls=_DASHES[(averaged > 0) + (averaged > 8)], lw=1.5,
            label=name + (f", averaged over {averaged} turns" if averaged else ""),
        )  # fmt: skip
