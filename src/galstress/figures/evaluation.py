"""How good the measurements are: errors, coverage, the training's domain and its loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from galstress.figures.theme import LIGHT, Theme, drawing, new_axes

__all__ = [
    "Curve",
    "coverage_by_bin",
    "coverage_by_output",
    "domain_map",
    "error_curves",
    "loss_curve",
    "plain_log_ticks",
]

_MARKERS = "osD^vPX"


@dataclasses.dataclass(frozen=True)
class Curve:
    """One series of points.

    Example:
        >>> Curve("HSC-I", x=np.array([70.0]), y=np.array([0.05])).label
        'HSC-I'
    """

    label: str
    """Its name in the legend."""
    x: np.ndarray
    """(K,) where the points stand."""
    y: np.ndarray
    """(K,) values."""
    low: np.ndarray | None = None
    """(K,) lower end of each point's interval."""
    high: np.ndarray | None = None
    """(K,) upper end of each point's interval."""
    reference: np.ndarray | None = None
    """(K,) what the simplest guess gives at the same points."""


def error_curves(
    curves: Sequence[Curve], label: str, *, percent: bool = False, theme: Theme = LIGHT, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Errors against S/N, each beside the error of guessing the median.

    Arguments:
        curves: A curve a survey; ``x`` is S/N, ``y`` the 68 % error, ``reference`` that of the guess.
        label: The axis label.
        percent: Whether values are shares to be shown as percentages.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes, both axes logarithmic.
    """
    with drawing(theme):
        fig, ax = new_axes(3.5, 3.1, ax)
        scale = 100.0 if percent else 1.0
        for place, curve in enumerate(curves):
            colour, marker = theme.series[place % 7], _MARKERS[place % 7]
            interval = None
            if curve.low is not None and curve.high is not None:
                interval = scale * np.clip(np.stack([curve.y - curve.low, curve.high - curve.y]), 0, None)
            style: dict[str, Any] = {
                "marker": marker,
                "ms": 4.5,
                "color": colour,
                "elinewidth": 1.0,
                "label": curve.label,
            }
            ax.errorbar(curve.x, scale * curve.y, interval, **style)
            if curve.reference is not None:
                ax.plot(curve.x, scale * curve.reference, color=colour, lw=1.0, ls=(0, (4, 3)), alpha=0.8)
        if any(curve.reference is not None for curve in curves):
            ax.plot([], [], color=theme.muted, lw=1.0, ls=(0, (4, 3)), label="guessing the median")
        ax.set_xscale("log")
        ax.set_yscale("log")
        plain_log_ticks(ax)
        ax.grid(True, axis="y")
        ax.set_xlabel("signal-to-noise ratio")
        ax.set_ylabel(label)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
        return fig, ax


def coverage_by_output(
    labels: Sequence[str],
    levels: Mapping[float, tuple[np.ndarray, np.ndarray]],
    *,
    tolerance: float = 0.02,
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """How much more or less often intervals hold the truth than they claim, an output a row.

    Arguments:
        labels: D names of outputs.
        levels: For each nominal level (0 to 1): (D,) share covered minus the level, (D,) its standard error.
        tolerance: Half-width of the band drawn about 0.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes; error bars are two standard errors.
    """
    with drawing(theme):
        fig, ax = new_axes(3.9, 0.9 + 0.24 * len(labels), ax)
        ax.axvspan(-100 * tolerance, 100 * tolerance, color=theme.muted, alpha=0.18, lw=0)
        ax.axvline(0, color=theme.muted, lw=0.9)
        rows = np.arange(len(labels))[::-1]
        for place, (level, (deviation, error)) in enumerate(sorted(levels.items())):
            style: dict[str, Any] = _level_style(place, theme.series[place % 7], theme) | {"ls": "none"}
            lift = 0.14 * (1 - 2 * place)
            ax.errorbar(100 * deviation, rows + lift, xerr=200 * error, label=f"{100 * level:g} %", **style)
        ax.set_yticks(rows, labels)
        ax.set_ylim(-0.6, len(labels) - 0.4)
        reach = max(abs(value) for value in ax.get_xlim())
        ax.set_xlim(-reach, reach)
        ax.set_xlabel("coverage minus claim [points]")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
        return fig, ax


def coverage_by_bin(
    curves: Mapping[float, Sequence[Curve]],
    label: str,
    *,
    tolerance: float = 0.02,
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """The same in bins of a predicted quantity, a colour an output.

    Arguments:
        curves: For each nominal level (0 to 1), a curve an output: ``x`` bin centres, ``y`` share covered minus the
            level, with ``low`` and ``high``.
        label: What is binned, with its unit.
        tolerance: Half-width of the band drawn about 0.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes; markers are filled for the lowest level and open for the next.
    """
    with drawing(theme):
        fig, ax = new_axes(3.5, 2.9, ax)
        ax.axhspan(-100 * tolerance, 100 * tolerance, color=theme.muted, alpha=0.18, lw=0)
        ax.axhline(0, color=theme.muted, lw=0.9)
        for row, (level, series) in enumerate(sorted(curves.items())):
            for place, curve in enumerate(series):
                style: dict[str, Any] = _level_style(row, theme.series[place % 7], theme)
                style |= {"ls": "-" if row == 0 else (0, (4, 3)), "marker": _MARKERS[place % 7], "lw": 1.2}
                interval = None
                if curve.low is not None and curve.high is not None:
                    interval = 100 * np.clip(np.stack([curve.y - curve.low, curve.high - curve.y]), 0, None)
                ax.errorbar(curve.x, 100 * curve.y, interval, label=f"{curve.label}, {100 * level:g} %", **style)
        reach = max(abs(value) for value in ax.get_ylim())
        ax.set_ylim(-reach, reach)
        ax.set_xlabel(label)
        ax.set_ylabel("coverage minus claim [points]")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
        return fig, ax


def domain_map(
    training: tuple[np.ndarray, np.ndarray],
    galaxies: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: tuple[str, str],
    *,
    log_y: bool = False,
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """The galaxies that a network was trained on, and where the measured ones lie among them.

    Arguments:
        training: x and y of the training sample, (M,) each.
        galaxies: x and y of measured galaxies, by legend label.
        labels: Axis labels of x and y.
        log_y: Whether y is drawn on a logarithmic axis (then above 0).
        theme: Colours.
        ax: Axes to draw on.
    """
    with drawing(theme):
        fig, ax = new_axes(3.5, 3.1, ax)
        x, y = training
        height = np.log10(y) if log_y else y
        counts, x_edges, y_edges = np.histogram2d(x, height, bins=34)
        edges = 10**y_edges if log_y else y_edges
        # A grey that shows on light and dark paper alike.
        shades = LinearSegmentedColormap.from_list("density", [(0.5, 0.55, 0.6, 0.0), (0.5, 0.55, 0.6, 0.95)])
        mesh = ax.pcolormesh(x_edges, edges, np.sqrt(counts.T), cmap=shades, rasterized=True)
        mesh.set_edgecolor("none")
        ax.plot([], [], "s", color=(0.5, 0.55, 0.6), ms=6, label="trained on")
        for place, (name, (at_x, at_y)) in enumerate(galaxies.items()):
            style: dict[str, Any] = {
                "ms": 5.5,
                "mec": theme.paper,
                "mew": 0.7,
                "color": theme.series[place % 7],
                "label": name,
            }
            ax.plot(at_x, at_y, _MARKERS[place % 7], ls="none", **style)
        if log_y:
            ax.set_yscale("log")
            plain_log_ticks(ax, "y")
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
        return fig, ax


def loss_curve(
    step: np.ndarray, loss: np.ndarray, *, theme: Theme = LIGHT, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Training loss against steps: each record faint, its running median on top."""
    with drawing(theme):
        fig, ax = new_axes(3.5, 2.6, ax)
        ax.plot(step, loss, color=theme.muted, lw=0.7, alpha=0.5)
        width = max(len(loss) // 40, 1)
        starts = np.arange(0, len(loss), width)
        middle = [float(np.median(loss[at : at + width])) for at in starts]
        centre = [float(np.mean(step[at : at + width])) for at in starts]
        ax.plot(centre, middle, color=theme.series[0])
        low, high = np.nanquantile(loss, [0.0, 0.97])
        pad = 0.06 * (high - low) or 1.0
        ax.set_ylim(low - pad, high + pad)
        ax.grid(True, axis="y")
        ax.set_xlabel("training step")
        ax.set_ylabel("loss [nats per galaxy]")
        return fig, ax


def _level_style(place: int, colour: str, theme: Theme) -> dict[str, Any]:
    """Filled markers for the first level, open ones for the second."""
    face = colour if place == 0 else theme.paper
    return {"marker": _MARKERS[place], "ms": 4.5, "color": colour, "mfc": face, "mec": colour, "elinewidth": 1.0}


def plain_log_ticks(ax: Axes, which: str = "both") -> None:
    """Ticks of a logarithmic axis as plain numbers: 1, 2, 5, 10, 20, ..."""
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        if which in (name, "both"):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
