"""Structure on smooth galaxies: spiral arms, bars, rings, clumps, dust lanes, lopsided and broken disks.

The truth stays what it was: the light of the smooth disk and bulge. :func:`redistribute` gives what a
:class:`Structure` adds to the smooth image (:func:`galstress.rendering.render`): the disk's light moved about, blurred
by the PSF, with total flux zero.

At r half-light radii and angle theta in the plane of the disk (deprojected, theta from the major axis) its smooth
surface brightness is multiplied by 1 + c(r) [N(r) R(r) A(r, theta) T - 1], and clumps are added:

- A: arms, bar and lopsidedness, with a mean of 1 on every ellipse of the disk, and nowhere negative;
- R: ring and break; T: transmission of a dust lane;
- c: 0 in the core and far outside, where nothing changes; so a cusp of the disk is never sampled;
- N = (alpha k^4 + beta r^4) / (k^4 + r^4): alpha and beta put back what R, T and the clumps took, so that the disk
  keeps its flux inside r = k and outside. k is the half-light radius of the whole galaxy in those of the disk (both
  circularised; kept between 0.4 and 2), so the definition of that radius holds as it did; for a pure disk k = 1.

The forms are choices, made so that these laws hold exactly; the ranges of :func:`draw_structure` name their sources.
"""

from galstress.structure.draws import draw_structure
from galstress.structure.light import redistribute
from galstress.structure.record import Structure

__all__ = ["Structure", "draw_structure", "redistribute"]
