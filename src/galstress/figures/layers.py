"""What the layers of a network do: maps, activations, patterns, and the numbers behind the words about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from galstress.figures.stamps import attention_map, choose_stretch
from galstress.figures.theme import LIGHT, Theme, drawing

__all__ = ["activation_grids", "activation_maps", "filter_patterns", "layer_sentences"]

Rows = Sequence[Mapping[str, Any]]

_PIXELS: Mapping[str, Any] = {"origin": "lower", "interpolation": "none", "aspect": "equal"}
_ARMS = {"arms": "galaxies with arms", "smooth": "the same without arms", "difference": "arms themselves"}
_TARGETS = {
    "ln_radius": "ln of the radius",
    "ellipticity": "ellipticity",
    "bulge_to_total": "B/T",
    "arms": "arms or none",
}
_SEPARATORS = {
    ("network", "best"): "network, best map",
    ("network", "median"): "network, median map",
    ("random weights", "best"): "random weights, best map",
    ("random weights", "median"): "random weights, median map",
    ("image", "best"): "image itself",
    ("image at the maps' resolution", "best"): "image at the maps' resolution",
}
_MOST = 32
"""Maps of a stage that are shown."""


def layer_sentences(summary: Mapping[str, Any], *, theme: Theme = LIGHT) -> tuple[Figure, np.ndarray]:
    """The four sentences of a study of layers as panels with intervals.

    Arguments:
        summary: As :func:`galstress.studies.study_layers` writes it.
        theme: Colours.

    Returns:
        Figure and its (2, 2) axes.
    """
    with drawing(theme):
        fig = _page(9.0, 6.2, theme)
        panels = fig.subplots(2, 2)
        is_class = summary["explained"] == "p_disk"
        _draw_arms(panels[0, 0], summary["arms"], is_class, theme)
        _draw_segments(panels[0, 1], summary["segments"], theme)
        _draw_shares(panels[1, 0], summary["neighbours"], theme)
        _draw_probes(panels[1, 1], summary["probes"], theme)
        note = f"{summary['network']}; {summary['sample']}; seed {summary['seed']}; bars hold 95 %"
        fig.supxlabel(_wrapped(note, 130), x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels


def _draw_arms(ax: Axes, rows: Rows, is_class: bool, theme: Theme) -> None:
    """Changes of the answer."""
    quantity, label = ("log_odds", "log-odds of a disk") if is_class else ("bulge_to_total", "median B/T")
    chosen = [row for kind in _ARMS for row in rows if row["quantity"] == quantity and row["kind"] == kind]
    _draw_points(ax, list(_ARMS.values()), chosen, "change", theme.series[0])
    ax.axvline(0, color=theme.muted, lw=0.8)
    ax.set_xlabel(f"change of the {label}")
    ax.set_title(f"Azimuthal mean instead of the disk ({chosen[0]['galaxies']} galaxies)")


def _draw_segments(ax: Axes, rows: Rows, theme: Theme) -> None:
    """Maps as judges of pixels."""
    found = {(row["of"], row["channel"]): row for row in rows}
    chosen = [found[key] for key in _SEPARATORS]
    _draw_points(ax, list(_SEPARATORS.values()), chosen, "auc", theme.series[0], -0.13, "area under the curve")
    _draw_points(ax, list(_SEPARATORS.values()), chosen, "iou", theme.series[1], 0.13, "intersection over union", "s")
    ax.set_xlim(0, 1.02)
    ax.set_xlabel("galaxy's pixels told from the background")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.08), ncols=2, borderaxespad=0)
    ax.set_title("First-layer maps")


def _draw_shares(ax: Axes, rows: Rows, theme: Theme) -> None:
    """Shares on neighbours."""
    _draw_points(ax, [_share_name(row["of"]) for row in rows], rows, "share", theme.series[0])
    ax.set_xlim(left=0)
    ax.set_xlabel("share on neighbours")
    ax.set_title(f"Class activation on neighbours ({rows[0]['galaxies']} galaxies)")


def _share_name(of: str) -> str:
    """For people."""
    return of if of in ("light", "area") else f"map, {of}"


def _draw_points(
    ax: Axes, names: Sequence[str], rows: Rows, name: str, colour: str, shift: float = 0.0, label: str = "",
    marker: str = "o",
) -> None:  # fmt: skip
    """Values with intervals, one a line, first on top."""
    value, low, high = (
        np.array([math.nan if row[f"{name}{end}"] is None else row[f"{name}{end}"] for row in rows])
        for end in ("", "_low", "_high")
    )
    at = np.arange(len(rows)) + shift
    ax.hlines(at, low, high, color=colour, lw=1.8)
    ax.plot(value, at, color=colour, marker=marker, ms=5, ls="none", label=label or None)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(True, axis="x")
    ax.tick_params(axis="y", length=0)


def _draw_probes(ax: Axes, rows: Rows, theme: Theme) -> None:
    """What is read, by depth."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    for place, (target, words) in enumerate(_TARGETS.items()):
        of = [row for row in rows if row["target"] == target]
        at, colour = np.arange(len(of)) + 0.06 * (place - 1.5), theme.series[place]
        own = np.array([[_scaled(row, f"own{end}") for end in ("", "_low", "_high")] for row in of])
        ax.vlines(at, own[:, 1], own[:, 2], color=colour, lw=1.6)
        ax.plot(at, own[:, 0], color=colour, marker="o", ms=4, lw=1.2, label=words)
        ax.plot(at, [_scaled(row, "random") for row in of], color=colour, lw=1.0, ls=(0, (3, 2)))
    ax.plot([], [], color=theme.muted, lw=1.0, ls=(0, (3, 2)), label="random weights")
    ax.set_xticks(range(len(stages)), stages, rotation=30, ha="right")
    ax.set_ylim(max(ax.get_ylim()[0], -0.4), 1.02)
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.grid(True, axis="y")
    ax.set_ylabel("read: R², arms 2 AUC − 1")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    ax.set_title("Ridge regression from each stage")


def _scaled(row: Mapping[str, Any], name: str) -> float:
    """From 0, nothing, to 1, all."""
    value = math.nan if row[name] is None else float(row[name])
    return 2 * value - 1 if row["measure"] == "auc" else value


def activation_maps(
    images: np.ndarray, maps: np.ndarray, sky_rms: float, *, titles: Sequence[str], theme: Theme = LIGHT
) -> tuple[Figure, np.ndarray]:
    """Galaxies above, where the network looked below.

    Arguments:
        images: (K, H, W) image units.
        maps: (K, H, W) of any scale.
        sky_rms: Of the images.
        titles: K of them.
        theme: Colours.

    Returns:
        Figure and its (2, K) axes.
    """
    with drawing(theme):
        fig = _page(1.9 * len(images), 4.2, theme)
        panels = fig.subplots(2, len(images), squeeze=False)
        for (above, below), image, weights in zip(panels.T, images, maps, strict=True):
            stretch = choose_stretch(image, sky_rms)
            above.imshow(stretch(image), cmap="gray_r", vmin=0, vmax=1, **_PIXELS)
            above.set_axis_off()
            attention_map(image, weights, stretch, ax=below)
        with drawing(theme):
            for above, title in zip(panels[0], titles, strict=True):
                above.set_title(title, size=8, loc="left", color=theme.ink)
            note = "below: class activation, from its least (blue) to its most (yellow); white: the galaxy's isophotes"
            fig.supxlabel(note, x=0.01, ha="left", size=8, color=theme.muted)
        return fig, panels


def activation_grids(
    image: np.ndarray, sky_rms: float, activations: Mapping[str, np.ndarray], *, theme: Theme = LIGHT
) -> Figure:
    """One galaxy, and what layers make of it.

    Arguments:
        image: (H, W) image units.
        sky_rms: Of the image.
        activations: (C, h, w) by name; the first 32 maps of each are drawn, each from its least (blue) to its
            largest value (yellow).
        theme: Colours.
    """
    with drawing(theme):
        fig = _page(9.0, 3.3, theme)
        axes = fig.subplots(1, 1 + len(activations), squeeze=False)[0]
        axes[0].imshow(choose_stretch(image, sky_rms)(image), cmap="gray_r", vmin=0, vmax=1, **_PIXELS)
        axes[0].set_title("image")
        for ax, (name, maps) in zip(axes[1:], activations.items(), strict=True):
            shown = maps[:_MOST]
            colours = matplotlib.colormaps["cividis"].with_extremes(bad=theme.paper)
            ax.imshow(_tile(shown), cmap=colours, vmin=0, vmax=1, **{**_PIXELS, "origin": "upper"})
            more = f"{len(maps)} maps" if len(shown) == len(maps) else f"{len(shown)} of {len(maps)} maps"
            ax.set_title(f"{name}: {more}")
        for ax in axes:
            ax.set_axis_off()
        return fig


def _tile(maps: np.ndarray) -> np.ndarray:
    """(C, h, w) maps side by side as one image, first row on top, each from 0 to 1, with NaN between them."""
    columns = math.ceil(math.sqrt(len(maps)))
    height, width = (side + max(1, side // 12) for side in maps.shape[1:])
    tiled = np.full((-(-len(maps) // columns) * height, columns * width), np.nan)
    for place, one in enumerate(maps):
        row, column = divmod(place, columns)
        low, high = float(one.min()), float(one.max())
        shade = (one[::-1] - low) / max(high - low, 1e-12)
        tiled[row * height : row * height + one.shape[0], column * width : column * width + one.shape[1]] = shade
    return tiled


def filter_patterns(patterns: Mapping[str, np.ndarray], *, note: str = "", theme: Theme = LIGHT) -> Figure:
    """What filters respond to, a column a stage, shallow left to deep right.

    Arguments:
        patterns: (K, C, V, V) by stage: one view is drawn in grey, three as red, green and blue.
        note: A line below the figure.
        theme: Colours.
    """
    with drawing(theme):
        count = max(len(each) for each in patterns.values())
        fig = _page(1.12 * len(patterns) + 0.2, 1.12 * count + 0.5, theme)
        fig.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02, hspace=0.0, wspace=0.0)
        panels = fig.subplots(count, len(patterns), squeeze=False)
        for ax in panels.flat:
            ax.set_axis_off()
        for column, (stage, images) in zip(panels.T, patterns.items(), strict=True):
            column[0].set_title(stage, size=9)
            for ax, image in zip(column, images, strict=False):
                shade = _shade(image)
                ax.imshow(
                    shade[0] if len(shade) != 3 else shade.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1, **_PIXELS
                )
        if note:
            fig.supxlabel(_wrapped(note, 14 * len(patterns) + 14), x=0.01, ha="left", size=8, color=theme.muted)
        return fig


def _shade(image: np.ndarray) -> np.ndarray:
    """0 to 1, grey where the image is 0, the same scale for all views."""
    size = max(float(np.quantile(np.abs(image), 0.995)), 1e-12)
    return np.clip(0.5 + 0.5 * image / size, 0, 1)


def _page(width_in: float, height_in: float, theme: Theme) -> Figure:
    """A fresh figure."""
    fig = Figure(figsize=(width_in, height_in), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(fig)
    return fig


def _wrapped(text: str, width: int) -> str:
    """In lines of at most so many letters."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
