"""Four trainings and how far their answers move when galaxies turn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.table import QTable
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from galstress.figures.theme import LIGHT, Theme, drawing

__all__ = ["four_cells"]

_PANELS: Mapping[str, str] = {
    "bulge_to_total": "B/T",
    "ln_radius": "half-light radius [relative]",
    "ln_flux": "flux [relative]",
}
_SIMULATED: Mapping[str, str] = {"many": "simulated at many orientations", "one": "simulated at one orientation"}
_REAL: Mapping[str, str] = {
    "none": "not\nfine-tuned",
    "still": "fine-tuned,\nnot turned",
    "turned": "fine-tuned,\nturned",
}
_MARKERS = "os"
_TICKS = np.array([1, 2, 3, 5, 7])


def four_cells(
    table: QTable, *, measure: str = "redrawn", note: str = "", theme: Theme = LIGHT
) -> tuple[Figure, np.ndarray]:
    """Spread over angles, or error, of each cell with its interval, a panel a quantity.

    Arguments:
        table: A row a ``measure``, ``simulated``, ``real`` and ``quantity`` with ``rms``, ``rms_low`` and ``rms_high``,
            as a study of invariance writes it.
        measure: ``redrawn``, ``averaged`` or ``real`` for spreads, ``error`` for errors.
        note: A line below the figure.
        theme: Colours.

    Returns:
        Figure and its (1, 3) axes.
    """
    with drawing(theme):
        fig = Figure(figsize=(8.4, 3.1), layout="constrained", facecolor=theme.paper)
        FigureCanvasAgg(fig)
        panels = fig.subplots(1, 3, squeeze=False)
        for ax, (quantity, title) in zip(panels.flat, _PANELS.items(), strict=True):
            for place, (simulated, words) in enumerate(_SIMULATED.items()):
                of_line = (table["simulated"] == simulated) & (table["quantity"] == quantity)
                rows = table[of_line & (table["measure"] == measure)]
                x = np.array([list(_REAL).index(str(name)) for name in rows["real"]]) + 0.12 * (place - 0.5)
                middle, low, high = (np.asarray(rows[f"rms{end}"], float) for end in ("", "_low", "_high"))
                colour = theme.series[place]
                ax.vlines(x, low, high, color=colour, lw=1.8)
                order = np.argsort(x)
                ax.plot(x[order], middle[order], color=colour, lw=0.8, marker=_MARKERS[place], ms=5, label=words)
            ax.set_yscale("log")
            ax.set_xticks(range(len(_REAL)), list(_REAL.values()))
            ax.set_xlim(-0.4, len(_REAL) - 0.6)
            bottom, top = ax.get_ylim()
            ticks = np.concatenate([_TICKS * 10.0**power for power in range(-6, 2)])
            inside = ticks[(ticks >= bottom) & (ticks <= top)]
            ax.yaxis.set_major_locator(FixedLocator(inside[:: max(1, round(len(inside) / 5))].tolist()))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            ax.yaxis.set_minor_locator(NullLocator())
            ax.grid(True, axis="y")
            ax.set_title(title, loc="left")
        panels[0, 0].set_ylabel("rms error" if measure == "error" else "rms spread over angles")
        fig.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        if note:
            fig.supxlabel(note, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels
