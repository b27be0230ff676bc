"""A film of a galaxy that turns while its posterior should stay put."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from galstress.errors import InputError
from galstress.figures.stamps import Stretch, round_length
from galstress.figures.theme import DARK, Theme, drawing

__all__ = ["FilmStrip", "draw_frame", "write_film"]


@dataclasses.dataclass(frozen=True)
class FilmStrip:
    """The frames of a film, and what was measured on each.

    Example:
        >>> strip = FilmStrip(np.zeros((4, 32, 32)), np.arange(0.0, 360, 90), np.zeros((5, 4, 1)), ("B/T",), 0.2)
        >>> len(strip)
        4
    """

    image: np.ndarray
    """(T, H, W) image units."""
    angle_deg: np.ndarray
    """(T,) angle of each frame, rising."""
    quantiles: np.ndarray
    """(5, T, K) of each output at 2.5, 16, 50, 84 and 97.5 %."""
    labels: tuple[str, ...]
    """(K,) names of the outputs with units."""
    pixel_scale_arcsec: float
    """Side of a pixel."""
    truth: tuple[float, ...] = ()
    """(K,) true values where the galaxy is simulated, else empty."""
    title: str = ""
    """What is shown: galaxy, survey, how it was turned."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        frames = (len(self.image), len(self.angle_deg), self.quantiles.shape[1])
        if len(set(frames)) != 1 or self.quantiles.shape[0] != 5 or self.quantiles.shape[2] != len(self.labels):
            came = f"{frames} frames and quantiles of shape {self.quantiles.shape}"
            raise InputError(came, f"one number of frames T and (5, T, {len(self.labels)})", "make the film again")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.image)


def draw_frame(strip: FilmStrip, stretch: Stretch, frame: int = 0, *, theme: Theme = DARK) -> tuple[Figure, np.ndarray]:
    """One frame of the film as a still: the galaxy, and the posterior at every angle with a mark at this one.

    Arguments:
        strip: What to show.
        stretch: From :func:`galstress.figures.stamps.choose_stretch`.
        frame: Which frame, from 0.
        theme: Colours.

    Returns:
        Figure and (1 + K,) axes: the image, then one an output.
    """
    with drawing(theme):
        fig, axes = _draw_background(strip, theme)
        for artist in _draw_moving(axes, strip, stretch, frame, theme):
            artist.set_animated(False)
        return fig, axes


def write_film(
    strip: FilmStrip, stretch: Stretch, path: str | Path, *, frames_per_second: int = 12, theme: Theme = DARK
) -> Path:
    """Save the film as H.264 (yuv420p, even sides), which every browser plays from a data: address.

    Arguments:
        strip: What to show.
        stretch: From :func:`galstress.figures.stamps.choose_stretch`.
        path: Where to; ends in ``.mp4``. Written aside and then renamed.
        frames_per_second: How fast it turns.
        theme: Colours.

    Returns:
        The path.
    """
    path = Path(path)
    aside = path.with_name(path.stem + ".part.mp4")
    with drawing(theme):
        fig, axes = _draw_background(strip, theme)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        # The background is drawn once; only what moves is drawn again, thirty times faster.
        background = canvas.copy_from_bbox(fig.bbox)
        width, height = canvas.get_width_height()
        options = ["-preset", "slow", "-crf", "24", "-movflags", "+faststart", "-g", "24", "-tune", "animation"]
        writer = imageio_ffmpeg.write_frames(
            str(aside),
            (width, height),
            pix_fmt_in="rgba",
            pix_fmt_out="yuv420p",
            fps=frames_per_second,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            output_params=options,
        )
        writer.send(None)
        for frame in range(len(strip)):
            canvas.restore_region(background)
            moving = _draw_moving(axes, strip, stretch, frame, theme)
            for artist in moving:
                fig.draw_artist(artist)
            writer.send(np.ascontiguousarray(canvas.buffer_rgba()))
            for artist in moving:
                artist.remove()
        writer.close()
    return aside.replace(path)


_WIDTH_IN = 6.0
_IMAGE_IN = 3.2
_PANEL_IN = 1.0
_MARGIN_IN = 0.12
_DPI = 100


def _draw_background(strip: FilmStrip, theme: Theme) -> tuple[Figure, np.ndarray]:
    """Everything that stands still: axes, bands over all angles, truth, names.

    The galaxy stands at the upper left, its numbers to the right, one panel an output below: legible on a phone.
    """
    count, title = len(strip.labels), textwrap.fill(strip.title, 72)
    top = 0.22 + 0.18 * (title.count("\n") + 1)
    # Whole hundredths of two inches, since H.264 wants even sides.
    height = round((top + _IMAGE_IN + count * _PANEL_IN + 0.62) * 50) / 50
    fig = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI, facecolor=theme.paper)
    FigureCanvasAgg(fig)

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        return fig.add_axes((left / _WIDTH_IN, 1 - (top + high) / height, wide / _WIDTH_IN, high / height))

    first = place(_MARGIN_IN, top, _IMAGE_IN, _IMAGE_IN)
    first.set(xlim=(-0.5, strip.image.shape[2] - 0.5), ylim=(-0.5, strip.image.shape[1] - 0.5), xticks=[], yticks=[])
    for spine in first.spines.values():
        spine.set_visible(False)
    axes = [first]
    for row, label in enumerate(strip.labels):
        ax = place(0.85, top + _IMAGE_IN + 0.2 + row * _PANEL_IN, _WIDTH_IN - 1.0, _PANEL_IN - 0.16)
        _draw_quantiles(ax, strip, row, theme)
        ax.annotate(label, (0.01, 0.94), xycoords="axes fraction", va="top", size=10)
        if row < count - 1:
            ax.set_xticklabels([])
        axes.append(ax)
    axes[-1].set_xlabel("angle [°]")
    fig.text(_MARGIN_IN / _WIDTH_IN, 1 - 0.12 / height, title, va="top", size=10, color=theme.ink)
    return fig, np.array(axes)


def _draw_quantiles(ax: Axes, strip: FilmStrip, row: int, theme: Theme) -> None:
    """The posterior of one output at every angle, faint, on an axis as wide as the posterior."""
    low95, low68, middle, high68, high95 = strip.quantiles[:, :, row]
    angle = strip.angle_deg
    colour = theme.series[0]
    ax.fill_between(angle, low95, high95, color=colour, alpha=0.14, lw=0)
    ax.fill_between(angle, low68, high68, color=colour, alpha=0.22, lw=0)
    ax.plot(angle, middle, color=colour, lw=1.0, alpha=0.8)
    values = [float(low95.min()), float(high95.max())]
    if strip.truth and math.isfinite(strip.truth[row]):
        ax.axhline(strip.truth[row], color=theme.series[1], lw=1.2, ls=(0, (4, 3)))
        ax.annotate(
            "truth", (0.99, strip.truth[row]), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            color=theme.series[1], size=8,
        )  # fmt: skip
        values.append(strip.truth[row])
    pad = 0.2 * (max(values) - min(values)) or 1.0
    ax.set_ylim(min(values) - pad, max(values) + 2.5 * pad)  # room for the name above the bands
    ax.set_xlim(float(angle.min()), float(angle.max()))
    ax.locator_params(axis="y", nbins=3)
    ax.xaxis.set_major_locator(MultipleLocator(90))


def _draw_moving(axes: np.ndarray, strip: FilmStrip, stretch: Stretch, frame: int, theme: Theme) -> list[Artist]:
    """What changes from frame to frame: the galaxy, its angle, the numbers, and the mark on each output."""
    first = axes[0]
    shade = np.ma.masked_invalid(stretch(strip.image[frame]))
    moving: list[Artist] = [
        first.imshow(shade, cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest", aspect="equal")
    ]
    inside: dict[str, Any] = {"transform": first.transAxes, "color": "white"}
    length = round_length(strip.image.shape[2] * strip.pixel_scale_arcsec)
    share = length / (strip.image.shape[2] * strip.pixel_scale_arcsec)
    moving += first.plot([0.04, 0.04 + share], [0.05, 0.05], lw=2.5, solid_capstyle="butt", **inside)
    moving.append(first.text(0.04 + share / 2, 0.065, f"{length:g}″", size=11, ha="center", **inside))
    beside: dict[str, Any] = {"transform": first.transAxes, "color": theme.ink, "va": "top"}
    moving.append(first.text(1.05, 0.97, f"{strip.angle_deg[frame]:.0f}°", size=24, **beside))
    for row, ax in enumerate(axes[1:]):
        low95, low68, middle, high68, high95 = strip.quantiles[:, frame, row]
        x = float(strip.angle_deg[frame])
        moving.append(ax.vlines(x, low95, high95, color=theme.ink, lw=1.4))
        moving.append(ax.vlines(x, low68, high68, color=theme.ink, lw=4.5))
        moving += ax.plot(x, middle, "o", ms=7, color=theme.ink, mec=theme.paper)
        half = (high68 - low68) / 2
        digits = int(np.clip(1 - math.floor(math.log10(max(half, 1e-9))), 0, 4))
        text = f"{strip.labels[row]}\n{middle:.{digits}f} ± {half:.{digits}f}"
        moving.append(first.text(1.05, 0.72 - 0.24 * row, text, size=12, linespacing=1.4, **beside))
    return moving
