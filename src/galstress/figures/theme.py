"""What every figure has in common: colours of a light and a dark page, type, and how a figure is saved."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Theme", "drawing", "new_axes", "recolour", "to_png", "to_svg"]


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of one page: Okabe and Ito's palette, told apart by people of every colour vision.

    Example:
        >>> LIGHT.series[0], DARK.series[0]
        ('#0072b2', '#56b4e9')
    """

    name: str
    """``light`` or ``dark``."""
    paper: str
    """Colour of the page under a figure (figures themselves are transparent)."""
    ink: str
    """Text, axes and the main line."""
    muted: str
    """Ticks, notes and reference lines."""
    grid: str
    """Hairlines."""
    series: tuple[str, ...]
    """Colours of series in order; the order is the same in both themes, so that a legend carries over."""


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1b2026",
    muted="#5a6570",
    grid="#dfe3e8",
    series=("#0072b2", "#d55e00", "#009e73", "#b5790a", "#b0528a", "#3c8fc4", "#5a6570"),
)
DARK = Theme(
    name="dark",
    paper="#14181d",
    ink="#e9ecef",
    muted="#a3aeb9",
    grid="#323a43",
    series=("#56b4e9", "#ff8f4a", "#2cc79b", "#f0b429", "#e19bc6", "#9ecbea", "#a3aeb9"),
)

_FONT_PT = 9.0
_DECIMALS = re.compile(r"(\.\d\d)\d+")


def _settings(theme: Theme) -> dict[str, Any]:
    """Matplotlib's settings for one theme."""
    return {
        "font.family": "DejaVu Sans",
        "font.size": _FONT_PT,
        "axes.titlesize": _FONT_PT,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.labelsize": _FONT_PT,
        "xtick.labelsize": _FONT_PT - 1,
        "ytick.labelsize": _FONT_PT - 1,
        "legend.fontsize": _FONT_PT - 1,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.facecolor": "none",
        "axes.unicode_minus": True,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.direction": "out",
        "ytick.direction": "out",
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        # Names come from outside, and a dollar in one is a dollar.
        "text.parse_math": False,
        "mathtext.fontset": "dejavusans",
        # Letters stay letters: a third of the size of outlines. Verdana has DejaVu's widths where that is missing.
        "svg.fonttype": "none",
        # One salt, so that the same records give the same page, byte for byte.
        "svg.hashsalt": "galstress",
    }


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Draw in one theme; matplotlib's settings are given back on leaving.

    Example:
        >>> with drawing(DARK):
        ...     fig, ax = new_axes(3.0, 2.0)
        >>> fig.get_size_inches().tolist()
        [3.0, 2.0]
    """
    with matplotlib.rc_context(_settings(theme)):
        yield


def new_axes(width_in: float, height_in: float, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """The given axes, or fresh ones on a figure of their own.

    Arguments:
        width_in: Width of a fresh figure, inches (at 96 px an inch on the page).
        height_in: Height of a fresh figure, inches.
        ax: Axes to draw on instead.

    Returns:
        The figure and its axes.
    """
    if ax is not None:
        figure = ax.get_figure(root=True)
        assert figure is not None  # axes that are drawn on belong to a figure
        return figure, ax
    fig = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.add_subplot()


def to_svg(fig: Figure, theme: Theme = LIGHT) -> str:
    """A figure as SVG text: sharp at any size, and the same text for the same figure.

    Example:
        >>> fig, ax = new_axes(2.0, 1.0)
        >>> to_svg(fig).startswith("<svg")
        True
    """
    out = io.StringIO()
    with drawing(theme):
        fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    # A hundredth of a point is finer than any screen; contours get a good deal shorter.
    text = re.sub(r' d="[^"]*"', lambda path: _DECIMALS.sub(r"\1", path[0]), text)
    return text[text.index("<svg") :].strip()


def recolour(svg: str, old: Theme = LIGHT, new: Theme = DARK) -> str:
    """The same SVG in another theme, without drawing it again.

    Arguments:
        svg: From :func:`to_svg`.
        old: The theme it was drawn in.
        new: The theme it should have.

    Example:
        >>> recolour('<path style="stroke: #0072b2"/>')
        '<path style="stroke: #56b4e9"/>'
    """
    names = ("paper", "ink", "muted", "grid")
    colours = {getattr(old, name): getattr(new, name) for name in names}
    colours |= dict(zip(old.series, new.series, strict=True))
    return re.sub("|".join(colours), lambda found: colours[found[0]], svg)


def to_png(fig: Figure, theme: Theme = LIGHT, dpi: int = 200, *, transparent: bool = True) -> bytes:
    """A figure as a PNG, by default with a transparent background."""
    out = io.BytesIO()
    background = "none" if transparent else fig.get_facecolor()
    with drawing(theme):
        fig.savefig(out, format="png", dpi=dpi, metadata={"Software": None}, facecolor=background)
    return out.getvalue()
