"""What a perturbation does to the answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullFormatter

from galstress.figures.theme import LIGHT, Theme, drawing, new_axes

__all__ = ["shift_bands", "shift_points"]


def shift_bands(
    amount: np.ndarray,
    shift: np.ndarray,
    labels: tuple[str, str],
    *,
    expected_sigma: np.ndarray | None = None,
    halving: bool = False,
    note: str = "",
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """How far answers move with the amount of a perturbation, over all galaxies.

    Arguments:
        amount: (A,) amounts, rising.
        shift: (A, N) change of the answer for each galaxy; NaN is left out.
        labels: Labels of both axes, with units.
        expected_sigma: (A,) typical error bar of the network at each amount; drawn as dashed lines about 0.
        halving: Whether amounts are shares from 1 down, drawn a half a step, 1 at the left.
        note: A short remark in the corner, for example the rms.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes: the median, and bands that hold 68 and 95 % of the galaxies.
    """
    with drawing(theme):
        fig, ax = new_axes(3.4, 2.5, ax)
        colour = theme.series[0]
        low95, low68, middle, high68, high95 = np.nanquantile(shift, [0.025, 0.16, 0.5, 0.84, 0.975], axis=1)
        ax.axhline(0, color=theme.muted, lw=0.8)
        ax.fill_between(amount, low95, high95, color=colour, alpha=0.18, lw=0, label="95 % of galaxies")
        ax.fill_between(amount, low68, high68, color=colour, alpha=0.35, lw=0, label="68 %")
        ax.plot(amount, middle, color=colour, label="median")
        if expected_sigma is not None:
            dashes: dict[str, Any] = {"color": theme.series[1], "lw": 1.1, "ls": (0, (4, 3))}
            ax.plot(amount, expected_sigma, **dashes, label="±1σ quoted")
            ax.plot(amount, -expected_sigma, **dashes)
        _finish(ax, labels, note)
        ax.set_xlim(float(amount.min()), float(amount.max()))
        if halving:
            ax.set_xscale("log", base=2)
            ax.invert_xaxis()
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xticks(amount, [f"{share:.3g}" for share in amount])
        if labels[0].endswith("[°]"):
            ax.xaxis.set_major_locator(MultipleLocator(90))
        return fig, ax


def shift_points(
    names: list[str],
    shift: np.ndarray,
    label: str,
    *,
    note: str = "",
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """How far answers move under a few named changes, such as quarter turns and mirrors.

    Arguments:
        names: A names of the changes.
        shift: (A, N) change of the answer for each galaxy; NaN is left out.
        label: Label of the y axis, with its unit.
        note: A short remark in the corner.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes: for each change the median, a thick line that holds 68 % and a thin one that holds 95 %.
    """
    with drawing(theme):
        fig, ax = new_axes(3.4, 2.5, ax)
        place = np.arange(len(names))
        low95, low68, middle, high68, high95 = np.nanquantile(shift, [0.025, 0.16, 0.5, 0.84, 0.975], axis=1)
        ax.axhline(0, color=theme.muted, lw=0.8)
        ax.vlines(place, low95, high95, color=theme.series[0], lw=1.2)
        ax.vlines(place, low68, high68, color=theme.series[0], lw=5, alpha=0.45)
        ax.plot(place, middle, "o", ms=4.5, color=theme.series[0])
        ax.set_xticks(place, names)
        ax.set_xlim(-0.6, len(names) - 0.4)
        _finish(ax, ("", label), note)
        return fig, ax


def _finish(ax: Axes, labels: tuple[str, str], note: str) -> None:
    """Labels, an axis with zero in its middle, and the remark above it."""
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    reach = max(abs(end) for end in ax.get_ylim())
    ax.set_ylim(-reach, reach)
    if note:
        ax.annotate(note, (0.0, 1.02), xycoords="axes fraction", va="bottom", size=8)
