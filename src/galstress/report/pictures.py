"""Figures as data: addresses, so that the page needs nothing but itself."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure

from galstress.errors import InputError
from galstress.figures import LIGHT, Theme, recolour, to_svg

__all__ = ["Picture", "draw_both", "draw_once", "embed", "show_file"]

_POINTS = re.compile(r"<svg[^>]*?\bwidth=\"([0-9.]+)pt\"")
"""Width of a figure that matplotlib wrote."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure for the page, in one or two themes.

    Example:
        >>> embed(b"GIF", "image/gif")
        'data:image/gif;base64,R0lG'
    """

    light: str
    """data: address of the figure."""
    alt: str
    """What is to be seen, for those who cannot see it."""
    dark: str = ""
    """data: address for a dark page; empty where one figure serves both."""
    caption: str = ""
    """One line under the figure."""
    width_px: int = 0
    """Width at which its letters have the size of the page's; 0 where it has none."""


def embed(content: bytes, kind: str) -> str:
    """Bytes as a data: address.

    Arguments:
        content: The file.
        kind: Its media type.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def draw_both(draw: Callable[[Theme], tuple[Figure, Any]], alt: str, caption: str = "") -> Picture:
    """Draw a figure once, and show it in both themes.

    Arguments:
        draw: Called with the light theme; returns the figure first.
        alt: What is to be seen.
        caption: One line under the figure.
    """
    fig = draw(LIGHT)[0]
    light = to_svg(fig, LIGHT)
    width = round(96 * float(fig.get_size_inches()[0]))
    return Picture(_embed_svg(light), alt, dark=_embed_svg(recolour(light)), caption=caption, width_px=width)


def draw_once(fig: Figure, alt: str, caption: str = "") -> Picture:
    """A figure that is the same in both themes."""
    return Picture(light=_embed_svg(to_svg(fig)), alt=alt, caption=caption)


def show_file(light: Path, dark: Path | None, alt: str, caption: str = "") -> Picture:
    """A figure that was drawn before, from its files.

    Arguments:
        light: SVG or PNG.
        dark: The same for a dark page; None: the first serves both.
        alt: What is to be seen.
        caption: One line under the figure.

    Raises:
        InputError: A file cannot be read, or is neither.
    """
    address, width = _read_figure(light)
    return Picture(address, alt, dark="" if dark is None else _read_figure(dark)[0], caption=caption, width_px=width)


def _read_figure(path: Path) -> tuple[str, int]:
    """data: address of a figure's file, and its width in pixels of the page (0: unknown)."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x89PNG"):
            return embed(content, "image/png"), 0
        text = content.decode()
        text = text[text.index("<svg") :]
    except (OSError, ValueError) as error:
        raise InputError(f"figure {path} ({error})", "an SVG or PNG file", "draw it again") from None
    width = _POINTS.match(text)
    return _embed_svg(text), round(96 / 72 * float(width[1])) if width else 0


def _embed_svg(text: str) -> str:
    """SVG text as a data: address: percent-encoded it is shorter than in base64."""
    return "data:image/svg+xml," + quote(" ".join(text.split()), safe="/:;,=()'!*+?@&$~[]{}|^`")
