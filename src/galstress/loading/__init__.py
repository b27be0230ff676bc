"""Real images: files, folders and arrays -> Frames -> Cutouts.

``load`` is what callers need. A reader of another format makes :class:`Frame` records and hands them to
:func:`assemble`, which does the rest in the same way for all: units, masks, sky, neighbours, variance, stamps,
PSFs and the catalogue.
"""

from galstress.loading.assembly import assemble
from galstress.loading.fitsfiles import read_fits
from galstress.loading.frames import Frame, failed_frame
from galstress.loading.galsimfiles import read_galsim
from galstress.loading.loader import load

__all__ = ["Frame", "assemble", "failed_frame", "load", "read_fits", "read_galsim"]
