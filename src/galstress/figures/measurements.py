"""One galaxy measured: its radial profile beside the model, and its posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter

from galstress.figures.theme import LIGHT, Theme, drawing, new_axes

__all__ = ["compare_corners", "corner", "radial_profile"]


def radial_profile(
    radius_arcsec: np.ndarray,
    data: np.ndarray,
    data_sigma: np.ndarray,
    model: np.ndarray,
    zero_point_mag: float,
    *,
    marks: Mapping[str, float] | None = None,
    theme: Theme = LIGHT,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Surface brightness against radius: the image's rings, and the posterior's band.

    Arguments:
        radius_arcsec: (R,) mean radius of each ring.
        data: (R,) mean surface brightness of the image, image units per square arcsec; may be negative.
        data_sigma: (R,) its standard deviation.
        model: (5, R) quantiles of the model at 2.5, 16, 50, 84 and 97.5 %, PSF included.
        zero_point_mag: AB magnitude of one image unit.
        marks: Radii to mark, arcsec, by label.
        theme: Colours.
        ax: Axes to draw on.

    Returns:
        Figure and axes; rings below twice their noise are drawn as 2-sigma upper limits.
    """
    with drawing(theme):
        fig, ax = new_axes(3.4, 2.9, ax)
        colour = theme.series[0]
        low95, low68, middle, high68, high95 = (_magnitude(row, zero_point_mag) for row in model)
        floor = _magnitude(np.nanmin(2 * data_sigma), zero_point_mag) + 1.5
        fainter = [np.where(np.isfinite(row), row, floor + 5) for row in (low95, low68)]
        ax.fill_between(radius_arcsec, fainter[0], high95, color=colour, alpha=0.18, lw=0)
        ax.fill_between(radius_arcsec, fainter[1], high68, color=colour, alpha=0.35, lw=0)
        ax.plot(radius_arcsec, middle, color=colour, label="model, 68 and 95 %")
        seen = data > 2 * data_sigma
        error = 2.5 / np.log(10) * data_sigma / np.where(seen, data, np.nan)
        points: dict[str, Any] = {"fmt": "o", "ms": 3.2, "color": theme.ink, "elinewidth": 1, "lw": 0}
        ax.errorbar(radius_arcsec[seen], _magnitude(data[seen], zero_point_mag), error[seen], label="image", **points)
        unseen = ~seen & np.isfinite(data_sigma)
        if unseen.any():
            limit = _magnitude(np.maximum(data[unseen], 0) + 2 * data_sigma[unseen], zero_point_mag)
            ax.plot(radius_arcsec[unseen], limit, "v", ms=4, color=theme.muted, label="image, 2σ limit")
        values = np.concatenate([middle[np.isfinite(middle)], _magnitude(data[seen], zero_point_mag)])
        bright = float(values.min()) if values.size else float(floor) - 5
        ax.set_ylim(max(float(floor), bright + 2), bright - 0.4)
        ax.set_xlim(0, float(radius_arcsec.max()) * 1.03)
        for place, (label, radius) in enumerate((marks or {}).items()):
            ax.axvline(radius, color=theme.muted, lw=0.9, ls=(0, (4, 3)), zorder=0)
            at = (radius, 0.02 + 0.07 * place)  # one above the other, since they may be close
            ax.annotate(f" {label}", at, xycoords=("data", "axes fraction"), color=theme.muted, size=8)
        ax.set_xlabel("radius [arcsec]")
        ax.set_ylabel("surface brightness [AB mag arcsec⁻²]")
        ax.legend(loc="upper right")
        return fig, ax


def corner(
    samples: np.ndarray,
    labels: Sequence[str],
    *,
    references: Mapping[str, Sequence[float]] | None = None,
    theme: Theme = LIGHT,
) -> tuple[Figure, np.ndarray]:
    """A posterior, two quantities at a time.

    Arguments:
        samples: (n, D) draws; D at least 1.
        labels: D axis labels with units.
        references: Values to mark, D an entry (NaN where there is none), by legend label.
        theme: Colours.

    Returns:
        Figure and (D, D) array of axes (None above the diagonal). Contours hold 68 and 95 % of the draws;
        titles give the median and the 68 % interval.
    """
    count = samples.shape[1]
    with drawing(theme):
        fig, first = new_axes(1.3 * count + 0.3, 1.3 * count + 0.3)
        first.remove()
        grid = fig.subplots(count, count, squeeze=False)
        ranges = [_range(samples[:, i], [r[i] for r in (references or {}).values()]) for i in range(count)]
        for row in range(count):
            for column in range(count):
                ax = grid[row, column]
                if column > row:
                    ax.remove()
                    grid[row, column] = None
                elif column == row:
                    _draw_marginal(ax, samples[:, row], ranges[row], theme)
                else:
                    _draw_pair(ax, samples[:, column], samples[:, row], (ranges[column], ranges[row]), theme)
                if column <= row:
                    _mark_references(ax, references or {}, column, row, theme)
                    _trim_ticks(ax, labels, column, row, count)
        if references:
            handles, names = grid[0, 0].get_legend_handles_labels()
            fig.legend(handles, names, loc="upper right")
        return fig, grid


def compare_corners(
    posteriors: Mapping[str, np.ndarray],
    labels: Sequence[str],
    *,
    truth: Sequence[float] | None = None,
    filled: str = "",
    title: str = "",
    theme: Theme = LIGHT,
) -> tuple[Figure, np.ndarray]:
    """Several posteriors of one galaxy over each other.

    Arguments:
        posteriors: (n, D) draws by legend label; in the order of the theme's series.
        labels: D axis labels with units.
        truth: D true values, marked in ink.
        filled: The posterior whose contours are filled; the others are drawn as lines.
        title: One line above the legend.
        theme: Colours.

    Returns:
        Figure and (D, D) array of axes (None above the diagonal). Contours hold 68 and 95 % of the draws.
    """
    count = len(labels)
    known = np.full(count, np.nan) if truth is None else np.asarray(truth, float)
    ranges = [_range(np.concatenate([draws[:, i] for draws in posteriors.values()]), [known[i]]) for i in range(count)]
    with drawing(theme):
        fig, first = new_axes(1.4 * count + 0.4, 1.4 * count + 0.3)
        first.remove()
        grid = fig.subplots(count, count, squeeze=False)
        for row, column in np.ndindex(count, count):
            ax = grid[row, column]
            if column > row:
                ax.remove()
                grid[row, column] = None
                continue
            for place, (name, draws) in enumerate(posteriors.items()):
                colour = theme.series[place % 7]
                if column == row:
                    _draw_outline(ax, draws[:, row], ranges[row], colour, name)
                else:
                    limits = (ranges[column], ranges[row])
                    _draw_contours(ax, draws[:, column], draws[:, row], limits, colour, filled=name == filled)
            _mark_truth(ax, float(known[column]), float(known[row]), theme, alone=column == row)
            ax.set_xlim(ranges[column])
            _trim_ticks(ax, labels, column, row, count)
        handles, names = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, names, loc="upper right", title=title or None, alignment="left", title_fontsize=8)
        return fig, grid


def _magnitude(brightness: np.ndarray | float, zero_point_mag: float) -> np.ndarray:
    """AB magnitude; NaN where there is no positive light."""
    brightness = np.asarray(brightness, float)
    return zero_point_mag - 2.5 * np.log10(np.where(brightness > 0, brightness, np.nan))


def _range(values: np.ndarray, references: Sequence[float]) -> tuple[float, float]:
    """Limits that hold nearly all draws, and every reference value."""
    low, high = np.nanquantile(values, [0.002, 0.998])
    known = [r for r in references if np.isfinite(r)]
    low, high = min([low, *known]), max([high, *known])
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


def _draw_marginal(ax: Axes, values: np.ndarray, limits: tuple[float, float], theme: Theme) -> None:
    """A smooth histogram, its 68 % interval filled, median and interval as the title."""
    density, edges = np.histogram(values, bins=80, range=limits, density=True)
    density = gaussian_filter(density.astype(float), _width(values, edges, 5), mode="constant")
    middle = 0.5 * (edges[1:] + edges[:-1])
    low, centre, high = np.nanquantile(values, [0.16, 0.5, 0.84])
    ax.fill_between(middle, density, where=((middle >= low) & (middle <= high)), color=theme.series[0], alpha=0.3, lw=0)
    ax.plot(middle, density, color=theme.series[0], lw=1.3)
    ax.axvline(centre, color=theme.series[0], lw=0.9, ls=(0, (3, 2)))
    digits = int(np.clip(1 - np.floor(np.log10(max(high - low, 1e-9) / 2)), 0, 6))
    title = f"${centre:.{digits}f}_{{-{centre - low:.{digits}f}}}^{{+{high - centre:.{digits}f}}}$"
    ax.set_title(title, loc="center", pad=5, parse_math=True)
    ax.set_ylim(0, float(density.max()) * 1.08 or 1.0)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _draw_pair(
    ax: Axes, x: np.ndarray, y: np.ndarray, limits: tuple[tuple[float, float], tuple[float, float]], theme: Theme
) -> None:
    """Filled contours that hold 68 and 95 % of the draws."""
    _draw_contours(ax, x, y, limits, theme.series[0], filled=True)


def _draw_contours(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    limits: tuple[tuple[float, float], tuple[float, float]],
    colour: str,
    *,
    filled: bool,
) -> None:
    """Contours that hold 68 and 95 % of the draws."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=60, range=limits)
    smooth = gaussian_filter(counts, (_width(x, x_edges, 6), _width(y, y_edges, 6)), mode="constant")
    # A contour holds 68 % if that share of the draws lies where the density is higher.
    x_bin, y_bin = (np.clip(np.digitize(each, edges) - 1, 0, 59) for each, edges in ((x, x_edges), (y, y_edges)))
    levels = [float(np.quantile(smooth[x_bin, y_bin], 1 - held)) for held in (0.95, 0.68)]
    if levels[1] <= levels[0]:
        levels[1] = float(np.nextafter(levels[0], np.inf))
    x_mid, y_mid = 0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1])
    if filled:
        top = max(float(smooth.max()), levels[1]) * 1.001
        shades = [(*_rgb(colour), alpha) for alpha in (0.2, 0.5)]
        ax.contourf(x_mid, y_mid, smooth.T, levels=[*levels, top], colors=shades)
    ax.contour(x_mid, y_mid, smooth.T, levels=levels, colors=colour, linewidths=0.9)
    ax.set_ylim(limits[1])


def _width(values: np.ndarray, edges: np.ndarray, root: int) -> float:
    """Width of the smoothing in bins: Scott's rule (root 5 for one dimension, 6 for two), 1.6 to 6."""
    spread = float(np.diff(np.quantile(values, [0.16, 0.84]))[0]) / 2
    return float(np.clip(0.8 * spread / (edges[1] - edges[0]) * len(values) ** (-1 / root), 1.6, 6.0))


def _draw_outline(ax: Axes, values: np.ndarray, limits: tuple[float, float], colour: str, name: str) -> None:
    """A smooth histogram as a line, its peak at 1."""
    density, edges = np.histogram(values, bins=80, range=limits)
    density = gaussian_filter(density.astype(float), _width(values, edges, 5), mode="constant")
    ax.plot(0.5 * (edges[1:] + edges[:-1]), density / (density.max() or 1.0), color=colour, lw=1.3, label=name)


def _mark_truth(ax: Axes, x: float, y: float, theme: Theme, *, alone: bool) -> None:
    """A line on the diagonal, where there is no vertical axis, and a cross off it."""
    if alone:
        ax.axvline(x, color=theme.ink, lw=1.2)
        ax.plot([], [], "X", color=theme.ink, ls="-", lw=1.2, label="truth")
        ax.set_ylim(0, 1.1)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    else:
        ax.plot(x, y, "X", color=theme.ink, ms=7, mec=theme.paper, mew=0.8)


def _rgb(colour: str) -> tuple[float, float, float]:
    """A hexadecimal colour as three numbers from 0 to 1."""
    return int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255


def _mark_references(ax: Axes, references: Mapping[str, Sequence[float]], column: int, row: int, theme: Theme) -> None:
    """Lines on the diagonal and crosses off it, a colour and a shape a source."""
    for place, (label, values) in enumerate(references.items()):
        colour, marker = theme.series[1 + place % 4], "X*DP"[place % 4]
        if column == row:
            # Drawn even where the value is unknown, so that the legend names every source.
            ax.axvline(values[row], color=colour, lw=1.6)
            ax.plot([], [], marker, color=colour, ls="-", lw=1.6, label=label)
        elif np.isfinite(values[column]) and np.isfinite(values[row]):
            ax.plot(values[column], values[row], marker, color=colour, ms=8, mec=theme.paper, mew=0.8)


def _trim_ticks(ax: Axes, labels: Sequence[str], column: int, row: int, count: int) -> None:
    """Few ticks, and labels at the left and the bottom only."""
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    if row < count - 1:
        ax.set_xticklabels([])
    else:
        ax.set_xlabel(labels[column])
        ax.tick_params(axis="x", rotation=45)
    if row != column:
        ax.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
        if column > 0:
            ax.set_yticklabels([])
        else:
            ax.set_ylabel(labels[row])
    elif row == 0:
        ax.set_ylabel("")
