"""Records as figures and films; the only module that draws.

Every function draws on matplotlib's objects (never on pyplot's global state), takes ``theme`` and,
where it draws one panel, ``ax``, and returns ``(fig, ax)``. Nothing here reads a file or measures anything.
"""

from galstress.figures.evaluation import (
    Curve,
    coverage_by_bin,
    coverage_by_output,
    domain_map,
    error_curves,
    loss_curve,
)
from galstress.figures.film import FilmStrip, draw_frame, write_film
from galstress.figures.invariance import four_cells
from galstress.figures.learning import label_curves
from galstress.figures.measurements import compare_corners, corner, radial_profile
from galstress.figures.posteriors import (
    calibration_curves,
    check_histogram,
    efficiency_curves,
    limit_curves,
    place_histogram,
)
from galstress.figures.rotation import shift_curves
from galstress.figures.sensitivity import shift_bands, shift_points
from galstress.figures.stamps import (
    RESIDUAL_LIMIT_SIGMA,
    Stretch,
    attention_map,
    choose_stretch,
    colour_key,
    residual_key,
    round_length,
    stamp,
    to_pixels,
)
from galstress.figures.theme import DARK, LIGHT, Theme, drawing, new_axes, recolour, to_png, to_svg
from galstress.figures.transport import ratio_bars, step_matrices, transport_matrix

__all__ = [
    "DARK",
    "LIGHT",
    "RESIDUAL_LIMIT_SIGMA",
    "Curve",
    "FilmStrip",
    "Stretch",
    "Theme",
    "attention_map",
    "calibration_curves",
    "check_histogram",
    "choose_stretch",
    "colour_key",
    "compare_corners",
    "corner",
    "coverage_by_bin",
    "coverage_by_output",
    "domain_map",
    "draw_frame",
    "drawing",
    "efficiency_curves",
    "error_curves",
    "four_cells",
    "label_curves",
    "limit_curves",
    "loss_curve",
    "new_axes",
    "place_histogram",
    "radial_profile",
    "ratio_bars",
    "recolour",
    "residual_key",
    "round_length",
    "shift_bands",
    "shift_curves",
    "shift_points",
    "stamp",
    "step_matrices",
    "to_pixels",
    "to_png",
    "to_svg",
    "transport_matrix",
    "write_film",
]
