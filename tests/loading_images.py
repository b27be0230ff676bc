"""Images that the tests of the loader read: lopsided galaxies in white noise, PSFs, headers."""

import dataclasses

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from galstress.cutouts import decode_flags
from galstress.survey import Survey

SURVEY = dataclasses.replace(Survey.load("hsc-wide-i"), stamp_px=64)
RMS = 0.05


def galaxy(shape=(80, 80), centre=None, flux=200.0, rms=RMS, seed=1):
    """A lopsided galaxy (an ellipse with a knot on one side) in white noise."""
    height, width = shape
    x0, y0 = ((width - 1) / 2, (height - 1) / 2) if centre is None else centre
    y, x = np.indices(shape)
    radius = np.hypot((x - x0) + 0.4 * (y - y0), 1.6 * (y - y0))
    light = np.exp(-radius / 3.0) + 0.3 * np.exp(-((x - x0 - 4) ** 2 + (y - y0 - 2) ** 2) / 4.0)
    return light * flux / light.sum() + np.random.default_rng(seed).normal(0, rms, shape)


def psf_image(side=21, sigma=1.5):
    y, x = np.indices((side, side)) - side // 2
    return np.exp(-(x**2 + y**2) / (2 * sigma**2))


def wcs_header(scale=0.168, crpix=(40.5, 40.5), position=(150.0, 2.0)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = position, crpix
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs.to_header()


def write(path, data, header=None, **kwargs):
    fits.PrimaryHDU(data, header).writeto(path, **kwargs)
    return path


def flags_of(cutouts, row=0):
    return set(decode_flags(cutouts.flags[row]))
