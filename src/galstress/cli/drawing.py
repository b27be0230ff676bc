"""Figures of a command, in both themes, into its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from galstress.figures import Theme

__all__ = ["save_figures"]


def save_figures(draw: Callable[[Theme], Mapping[str, Figure]], folder: Path) -> None:
    """Figures by name in both themes, as PNG and SVG, aside and then renamed."""
    from galstress.figures import DARK, LIGHT, to_png, to_svg

    for theme in (LIGHT, DARK):
        for name, fig in draw(theme).items():
            stem = name if theme is LIGHT else f"{name}-{theme.name}"
            contents = {"png": to_png(fig, theme, transparent=False), "svg": to_svg(fig, theme).encode()}
            for suffix, content in contents.items():
                aside = folder / f"{stem}.{suffix}.part"
                aside.write_bytes(content)
                aside.replace(folder / f"{stem}.{suffix}")
