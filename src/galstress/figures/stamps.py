"""Galaxies as pictures: image, model and residual at one stretch, and maps over a galaxy."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from galstress.figures.theme import LIGHT, Theme, drawing, new_axes

__all__ = [
    "RESIDUAL_LIMIT_SIGMA",
    "Stretch",
    "attention_map",
    "choose_stretch",
    "colour_key",
    "residual_key",
    "round_length",
    "stamp",
    "to_pixels",
]

RESIDUAL_LIMIT_SIGMA = 5.0
"""Residuals are drawn from -5 to +5 sigma on every galaxy, so that they can be compared."""

_RESIDUAL_COLOURS = "PuOr"
_MAP_COLOURS = "cividis"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """An asinh stretch: linear around the sky, logarithmic on the galaxy.

    ``shade = asinh((value - sky) / softening)``, scaled so that ``low`` is 0 and ``high`` is 1.
    Lupton et al. 2004, PASP 116, 133.

    Example:
        >>> Stretch(low=-2.0, high=100.0, softening=1.0)(100.0).item()
        1.0
    """

    low: float
    """Value drawn as the sky's colour, image units."""
    high: float
    """Value drawn at the other end, image units."""
    softening: float
    """Where linear turns into logarithmic, image units; above 0."""

    def __call__(self, image: np.ndarray | float) -> np.ndarray:
        """Shades from 0 to 1; NaN stays NaN."""
        low, high = math.asinh(self.low / self.softening), math.asinh(self.high / self.softening)
        shade = (np.arcsinh(np.asarray(image, float) / self.softening) - low) / max(high - low, 1e-12)
        return np.clip(shade, 0.0, 1.0)


def choose_stretch(image: np.ndarray, sky_rms: float) -> Stretch:
    """The stretch that shows a galaxy from its sky noise to its peak.

    Arguments:
        image: (H, W) image units; may hold NaN.
        sky_rms: Standard deviation of the empty sky, image units.

    Returns:
        From 2 sigma below the sky to the brightest pixels, linear within 3 sigma.
    """
    values = image[np.isfinite(image)]
    spread = float(np.std(values)) if values.size else 1.0
    softening = 3.0 * (sky_rms if math.isfinite(sky_rms) and sky_rms > 0 else spread or 1.0)
    peak = float(np.quantile(values, 0.9995)) if values.size else 1.0
    return Stretch(low=-2.0 / 3.0 * softening, high=max(peak, 2.0 * softening), softening=softening)


def round_length(span_arcsec: float) -> float:
    """The longest of 1, 2, 5 times a power of ten that fits in a quarter of the span.

    Example:
        >>> round_length(10.7), round_length(3.0)
        (2.0, 0.5)
    """
    target = span_arcsec / 4.0
    power = 10.0 ** math.floor(math.log10(target))
    return float(max(step * power for step in (1.0, 2.0, 5.0) if step * power <= target * (1 + 1e-9)))


def to_pixels(values: np.ndarray, colours: str | Colormap, limits: tuple[float, float]) -> bytes:
    """An array as a PNG, one pixel a pixel, first row at the bottom.

    Arguments:
        values: (H, W); NaN is transparent.
        colours: A matplotlib colour map or its name.
        limits: Values at both ends of the map.
    """
    colour_map = matplotlib.colormaps[colours] if isinstance(colours, str) else colours
    low, high = limits
    shade = np.clip((np.asarray(values, float) - low) / (high - low), 0.0, 1.0)
    rgba = colour_map(_step(shade), bytes=True)
    rgba[~np.isfinite(shade)] = 0
    out = io.BytesIO()
    imsave(out, rgba, format="png", origin="lower", metadata={"Software": None})
    return out.getvalue()


def stamp(
    image: np.ndarray,
    stretch: Stretch,
    pixel_scale_arcsec: float,
    *,
    psf_fwhm_px: float = math.nan,
    north: tuple[float, float] = (0.0, 1.0),
    east: tuple[float, float] = (-1.0, 0.0),
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """A galaxy with what an astronomer needs to read it: scale bar, north and east, the PSF's width.

    Arguments:
        image: (H, W) image units; masked pixels NaN (drawn hatched grey).
        stretch: From :func:`choose_stretch`.
        pixel_scale_arcsec: Side of a pixel.
        psf_fwhm_px: Diameter of the circle at the lower right; none is drawn for NaN.
        north: Direction of north on the array, as (x, y).
        east: Direction of east on the array, as (x, y).
        ax: Axes to draw on; by default a fresh square figure without margins.

    Returns:
        Figure and axes. The picture is the same in both themes: its background is the sky.
    """
    with drawing(LIGHT):
        fig, ax = _bare_axes(image.shape, ax)
        side_y, side_x = image.shape
        colours = matplotlib.colormaps["gray_r"].with_extremes(bad="#b9c7d4")
        ax.imshow(_step(stretch(image)), cmap=colours, vmin=0, vmax=1, **_PIXELS)
        small = min(side_x, side_y)
        margin = 0.055 * small
        _draw_scale_bar(ax, side_x * pixel_scale_arcsec, pixel_scale_arcsec, margin)
        _draw_compass(ax, (side_x - 0.5 - margin, side_y - 0.5 - margin), 0.11 * small, north, east)
        if math.isfinite(psf_fwhm_px) and psf_fwhm_px > 0:
            radius = psf_fwhm_px / 2
            centre = (side_x - 0.5 - margin - radius, margin - 0.5 + radius)
            ax.add_patch(Circle(centre, radius, fill=False, lw=1.5, ec="black", path_effects=_HALO))
        return fig, ax


def attention_map(
    image: np.ndarray, weights: np.ndarray, stretch: Stretch, *, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Where a network looks, with the galaxy's own isophotes over it.

    Arguments:
        image: (H, W) image units.
        weights: (H, W) of any scale; drawn from its smallest to its largest value.
        stretch: The stretch of the image; isophotes are drawn at 30, 55 and 80 % of its range.
        ax: Axes to draw on; by default a fresh square figure without margins.

    Returns:
        Figure and axes; the same in both themes.
    """
    with drawing(LIGHT):
        fig, ax = _bare_axes(image.shape, ax)
        finite = weights[np.isfinite(weights)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        ax.imshow(weights, cmap=_MAP_COLOURS, vmin=low, vmax=max(high, low + 1e-12), **_PIXELS)
        # Smoothed by a pixel, or the outer isophote would be a string of noise.
        shade = stretch(gaussian_filter(np.nan_to_num(image), 1.0))
        levels = [level for level in (0.3, 0.55, 0.8) if shade.min() < level < shade.max()]
        if levels:
            ax.contour(shade, levels=levels, colors="white", linewidths=0.9, alpha=0.85)
        return fig, ax


def residual_key(theme: Theme = LIGHT, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """The colours of residuals, in sigma."""
    return colour_key(
        _RESIDUAL_COLOURS, (-RESIDUAL_LIMIT_SIGMA, RESIDUAL_LIMIT_SIGMA), "(image − model) / σ", theme, ax
    )


def colour_key(
    colours: str, limits: tuple[float, float], label: str, theme: Theme = LIGHT, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """A bar of colours with its scale.

    Arguments:
        colours: Name of a matplotlib colour map.
        limits: Values at both ends.
        label: What is shown, with its unit.
        theme: Colours of the text.
        ax: Axes to draw on.
    """
    with drawing(theme):
        fig, ax = new_axes(3.4, 0.62, ax)
        ramp = np.linspace(limits[0], limits[1], 256)[None, :]
        extent = (limits[0], limits[1], 0.0, 1.0)
        ax.imshow(ramp, cmap=colours, aspect="auto", extent=extent, interpolation="bilinear")
        ax.set_yticks([])
        ax.set_xlabel(label)
        for spine in ax.spines.values():
            spine.set_visible(False)
        return fig, ax


_HALO = [withStroke(linewidth=3.0, foreground="white")]
_PIXELS: dict[str, Any] = {"origin": "lower", "interpolation": "none", "aspect": "equal"}


def _step(shade: np.ndarray) -> np.ma.MaskedArray:
    """Shades in 64 steps, which no eye tells apart and which halve the size of a noisy picture."""
    return np.ma.masked_invalid(np.round(shade * 63) / 63)


def _bare_axes(shape: tuple[int, ...], ax: Axes | None) -> tuple[Figure, Axes]:
    """Axes that fill a fresh figure, without ticks or margins."""
    if ax is None:
        fig, _ = new_axes(3.0, 3.0 * shape[0] / shape[1])
        fig.clear()
        fig.set_layout_engine("none")
        ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
    else:
        fig, ax = new_axes(3.0, 3.0, ax)
    ax.set_axis_off()
    return fig, ax


def _draw_scale_bar(ax: Axes, span_arcsec: float, pixel_scale_arcsec: float, margin: float) -> None:
    """A bar of a round length at the lower left, its length in arcsec above it."""
    length = round_length(span_arcsec)
    pixels = length / pixel_scale_arcsec
    x, y = margin - 0.5, margin - 0.5
    ax.plot([x, x + pixels], [y, y], color="black", lw=2.5, solid_capstyle="butt", path_effects=_HALO)
    text = f"{length:g}″"
    ax.text(x + pixels / 2, y + 0.5 * margin, text, color="black", size=13, ha="center", path_effects=_HALO)


def _draw_compass(
    ax: Axes, corner: tuple[float, float], length: float, north: tuple[float, float], east: tuple[float, float]
) -> None:
    """Arrows to north and east from one origin, with their letters below and left of a corner."""
    steps = []
    for x, y in (north, east):
        norm = math.hypot(x, y) or 1.0
        steps.append((length * x / norm, length * y / norm))
    # 1.6: the letters reach beyond the arrows.
    origin = [corner[axis] - 1.6 * max(0.0, *(step[axis] for step in steps)) for axis in (0, 1)]
    style: dict[str, Any] = {"arrowstyle": "-|>", "lw": 1.5, "color": "black", "shrinkA": 0, "shrinkB": 0}
    for name, step in zip("NE", steps, strict=True):
        tip = (origin[0] + step[0], origin[1] + step[1])
        ax.annotate("", tip, (origin[0], origin[1]), arrowprops=style | {"path_effects": _HALO})
        at = (origin[0] + 1.4 * step[0], origin[1] + 1.4 * step[1])
        ax.text(*at, name, color="black", size=12, ha="center", va="center", path_effects=_HALO)
