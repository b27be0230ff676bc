"""Posteriors against the photon limit: errors, efficiency, calibration and self-checks.

Colours mean the same in all of them: the network is the first of the theme's series, the refined posterior the second,
the fit without a network the third; the limit is ink, and what needs no image is muted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator
from scipy.stats import binom

from galstress.figures.evaluation import Curve, plain_log_ticks
from galstress.figures.theme import LIGHT, Theme, drawing, new_axes

__all__ = ["calibration_curves", "check_histogram", "efficiency_curves", "limit_curves", "place_histogram"]

_MARKERS = "os"
_DASHES = (0, (4, 3))
_DOTS = (0, (1, 1.8))


def limit_curves(
    curves: Sequence[Curve],
    limits: Sequence[Curve],
    guess: Curve,
    label: str,
    *,
    percent: bool = False,
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Errors against S/N, beside the smallest that are possible and those of a guess.

    Arguments:
        curves: Network and refined; ``x`` is S/N, ``y`` the error, with its interval.
        limits: One or two limits: the first is drawn as a line, the second dotted; that one may leave the panel.
        guess: What answering the median gives; dashed.
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
        _draw_points(ax, curves, scale, theme)
        for curve, style in zip(limits, ("-", _DOTS), strict=False):
            ax.plot(curve.x, scale * curve.y, color=theme.ink, lw=1.4, ls=style, label=curve.label)
        ax.plot(guess.x, scale * guess.y, color=theme.muted, lw=1.0, ls=_DASHES, label=guess.label)
        shown = [*(curve.y for curve in curves), limits[0].y, guess.y]
        shown += [end for curve in curves for end in (curve.low, curve.high) if end is not None]
        values = np.concatenate(shown)
        values = scale * values[np.isfinite(values) & (values > 0)]
        ax.set_yscale("log")
        if values.size:
            ax.set_ylim(0.75 * values.min(), 1.3 * values.max())
        _finish(ax, label)
        return fig, ax


def efficiency_curves(
    curves: Sequence[Curve], label: str, *, theme: Theme = LIGHT, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Efficiency against S/N; 1 is the limit.

    Arguments:
        curves: Network and refined; ``x`` is S/N, ``y`` limit squared over mean square error, with its interval.
        label: The axis label.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes, both axes logarithmic.
    """
    with drawing(theme):
        fig, ax = new_axes(3.5, 2.7, ax)
        ax.axhline(1.0, color=theme.ink, lw=1.4, label="photon limit")
        _draw_points(ax, curves, 1.0, theme)
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.set_ylim(min(low, 0.4), max(high, 1.6))
        _finish(ax, label)
        return fig, ax


def calibration_curves(
    curves: Sequence[Curve], labels: tuple[str, str], *, theme: Theme = LIGHT, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Share of truths that lie inside, against the share that is claimed; an honest posterior lies on the diagonal.

    Arguments:
        curves: Network and refined; ``x`` is the level, ``y`` the share covered, both 0 to 1, with its band.
        labels: Labels of both axes, without the unit.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and square axes in per cent.
    """
    with drawing(theme):
        fig, ax = new_axes(2.7, 2.9, ax)
        ax.plot([0, 100], [0, 100], color=theme.muted, lw=0.9)
        for place, curve in enumerate(curves):
            colour = theme.series[place % 7]
            if curve.low is not None and curve.high is not None:
                ax.fill_between(100 * curve.x, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.2, lw=0)
            ax.plot(100 * curve.x, 100 * curve.y, color=colour, ls="-" if place == 0 else _DASHES, label=curve.label)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MultipleLocator(25))
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 100)
        ax.set_aspect("equal")
        ax.set_xlabel(f"{labels[0]} [%]")
        ax.set_ylabel(f"{labels[1]} [%]")
        _name_above(ax)
        return fig, ax


def place_histogram(
    places: Mapping[str, np.ndarray], label: str, *, theme: Theme = LIGHT, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Where truths fall in their posteriors; a flat histogram is an honest one.

    Arguments:
        places: By legend label, (N,) share of the posterior below each truth; NaN is left out.
        label: Label of the x axis.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes; the grey band holds 95 % of the bars of a flat histogram.
    """
    with drawing(theme):
        fig, ax = new_axes(2.7, 2.4, ax)
        count = max((int(np.isfinite(each).sum()) for each in places.values()), default=0)
        bins = int(np.clip(count // 8, 4, 20))
        low, high = binom.ppf([0.025, 0.975], count, 1 / bins)
        ax.axhspan(low, high, color=theme.muted, alpha=0.18, lw=0)
        ax.axhline(count / bins, color=theme.muted, lw=0.9)
        top = high
        for place, (name, values) in enumerate(places.items()):
            number, edges = np.histogram(values[np.isfinite(values)], bins, (0.0, 1.0))
            style: dict[str, Any] = {"color": theme.series[place % 7], "lw": 1.6, "ls": "-" if place == 0 else _DASHES}
            ax.stairs(number, 100 * edges, baseline=None, label=name, **style)
            top = max(top, float(number.max()))
        ax.set_xlim(0, 100)
        ax.set_ylim(0, 1.12 * top)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.xaxis.set_major_locator(MultipleLocator(25))
        ax.set_xlabel(f"{label} [%]")
        ax.set_ylabel("galaxies")
        _name_above(ax)
        return fig, ax


def check_histogram(
    values: np.ndarray,
    label: str,
    marks: Mapping[str, float],
    *,
    expected: tuple[float, float] | None = None,
    log: bool = False,
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """What refined posteriors say of themselves, over all galaxies.

    Arguments:
        values: (N,) a self-check; NaN is left out.
        label: The axis label.
        marks: Values to mark, by legend label: where a galaxy is flagged.
        expected: Mean and standard deviation of a normal distribution to draw over it.
        log: Whether the x axis is logarithmic (then values are above 0).
        theme: Colours.
        ax: Axes to draw on.
    """
    with drawing(theme):
        fig, ax = new_axes(3.5, 2.6, ax)
        finite = values[np.isfinite(values)]
        ends = np.array([*finite, *marks.values()])
        if expected is not None:
            ends = np.append(ends, [expected[0] - 3.5 * expected[1], expected[0] + 3.5 * expected[1]])
        low, high = float(ends.min()), float(ends.max())
        if low == high:
            low, high = low - 0.5 * abs(low) - 1e-3, high + 0.5 * abs(high) + 1e-3
        bins = int(np.clip(2 * np.sqrt(finite.size), 8, 40))
        edges = np.geomspace(max(low, 1.0), max(high, 2.0), bins + 1) if log else np.linspace(low, high, bins + 1)
        number, _ = np.histogram(finite, edges)
        ax.stairs(number, edges, fill=True, color=theme.series[1], alpha=0.3)
        ax.stairs(number, edges, color=theme.series[1], lw=1.4, label="refined")
        top = float(number.max()) if number.size else 1.0
        if expected is not None:
            x = np.linspace(low, high, 300)
            height = np.exp(-0.5 * ((x - expected[0]) / expected[1]) ** 2) / (expected[1] * np.sqrt(2 * np.pi))
            height *= finite.size * (edges[1] - edges[0])
            ax.plot(x, height, color=theme.ink, lw=1.2, label="expected from noise")
            top = max(top, float(height.max()))
        for place, (name, value) in enumerate(marks.items()):
            ax.axvline(value, color=theme.muted, lw=1.1, ls=_DASHES, label=name if place == 0 else None)
        if log:
            ax.set_xscale("log")
            plain_log_ticks(ax, "x")
        ax.set_ylim(0, 1.1 * top)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_xlabel(label)
        ax.set_ylabel("galaxies")
        _name_above(ax)
        return fig, ax


def _draw_points(ax: Axes, curves: Sequence[Curve], scale: float, theme: Theme) -> None:
    """Points with their intervals, a little apart from each other."""
    for place, curve in enumerate(curves):
        interval = None
        if curve.low is not None and curve.high is not None:
            interval = scale * np.clip(np.stack([curve.y - curve.low, curve.high - curve.y]), 0, None)
        style: dict[str, Any] = {"marker": _MARKERS[place % 2], "ms": 4.5, "elinewidth": 1.0}
        apart = 1.02 ** (2 * place - len(curves) + 1)
        ax.errorbar(
            apart * curve.x, scale * curve.y, interval, color=theme.series[place % 7], label=curve.label, **style
        )


def _finish(ax: Axes, label: str) -> None:
    """The axis of S/N, plain numbers, and the legend."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    steps = [step * 10.0**power for power in range(-3, 9) for step in (1, 2, 5)]
    # out to the next ticks: a narrow range would have one or none
    ax.set_xlim(max(step for step in steps if step <= low), min(step for step in steps if step >= high))
    plain_log_ticks(ax)
    ax.grid(True, axis="y")
    ax.set_xlabel("signal-to-noise ratio, measured")
    ax.set_ylabel(label)
    _name_above(ax)


def _name_above(ax: Axes) -> None:
    """The legend, above the panel."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
