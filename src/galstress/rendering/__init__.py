"""Parameters and a PSF make noise-free images, and the images' derivatives in every parameter."""

from galstress.rendering.derivatives import PARAMETERS, from_parameters, render_derivatives, to_parameters
from galstress.rendering.images import draw_truth, render

__all__ = ["PARAMETERS", "draw_truth", "from_parameters", "render", "render_derivatives", "to_parameters"]
