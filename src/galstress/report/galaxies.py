"""One galaxy after the other: what was seen, what was measured, and how well it fits."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import astropy.units as u
import numpy as np
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_skycoord, skycoord_to_pixel

from galstress.cutouts import Flag, decode_flags
from galstress.figures import RESIDUAL_LIMIT_SIGMA, choose_stretch, radial_profile, stamp, to_pixels
from galstress.heads import CLASSES, Classes, Prediction
from galstress.report.pictures import Picture, draw_both, draw_once, embed
from galstress.report.quantities import median_and_interval, plain_column, quantiles_of, to_magnitude, with_error
from galstress.report.records import GalaxySet
from galstress.report.references import list_references, word_reference

__all__ = ["Galaxy", "crop", "describe_galaxies", "find_directions"]


@dataclasses.dataclass(frozen=True)
class Galaxy:
    """One galaxy as the page shows it."""

    object_id: str
    """Its name."""
    set_name: str
    """Where it comes from."""
    row: int
    """Its row in the set."""
    facts: tuple[tuple[str, str], ...]
    """What was measured, by label."""
    references: tuple[tuple[str, str], ...]
    """What else is known of it, by source."""
    flags: tuple[str, ...]
    """What is known to be wrong."""
    pictures: tuple[Picture, ...]
    """Image, model, residual."""
    profile: Picture | None
    """Surface brightness against radius."""
    snr: float
    """Signal-to-noise ratio of the model, unmasked pixels; NaN without a model."""
    chi_square: float
    """Chi-square a pixel within two half-light radii; NaN without a model."""
    radius_arcsec: float
    """Median half-light radius."""
    psf_fwhm_arcsec: float
    """Full width at half maximum of its PSF."""
    crowded: float
    """Share of the pixels within three half-light radii that another object dominates."""


def describe_galaxies(galaxies: GalaxySet) -> list[Galaxy]:
    """Measure and draw every galaxy of a set.

    Arguments:
        galaxies: From the records; nothing is predicted again.
    """
    quantiles = quantiles_of(galaxies.prediction, [0.16, 0.5, 0.84])
    return [_describe(galaxies, row, quantiles) for row in range(len(galaxies))]


def find_directions(
    wcs: WCS | None, centre: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Directions of north and east on an array, as (x, y); None where there is no celestial WCS.

    Arguments:
        wcs: The image's WCS.
        centre: Pixel (x, y), first pixel 0.

    Example:
        >>> wcs = WCS(naxis=2)
        >>> wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4]
        >>> [tuple(round(v) for v in d) for d in find_directions(wcs, (0.0, 0.0))]
        [(0, 1), (-1, 0)]
    """
    if wcs is None or not wcs.has_celestial:
        return None
    here = pixel_to_skycoord(centre[0], centre[1], wcs)
    directions = []
    for angle in (0, 90):
        x, y = skycoord_to_pixel(here.directional_offset_by(angle * u.deg, 1 * u.arcsec), wcs)
        step = (float(x) - centre[0], float(y) - centre[1])
        norm = math.hypot(*step)
        if not math.isfinite(norm) or norm == 0:
            return None
        directions.append((step[0] / norm, step[1] / norm))
    return directions[0], directions[1]


def crop(known: np.ndarray, radius_px: float, psf_fwhm_px: float) -> tuple[slice, slice]:
    """The part of a stamp worth looking at, about its centre.

    Arguments:
        known: (H, W) True where there is an image; padding around it is cut off.
        radius_px: Half-light radius; four and a half of them are kept, or everything where it is not finite.
        psf_fwhm_px: Width of the PSF; two of them are added.

    Example:
        >>> crop(np.ones((101, 101), bool), 5.0, 3.0)
        (slice(21, 80, None), slice(21, 80, None))
    """
    half = max(4.5 * radius_px + 2 * psf_fwhm_px, 14.0) if math.isfinite(radius_px + psf_fwhm_px) else math.inf
    offsets = [np.abs(place - (side - 1) / 2) for place, side in zip(np.nonzero(known), known.shape, strict=True)]
    half = min(half, max((float(each.max()) for each in offsets if each.size), default=math.inf))
    window = []
    for side in known.shape:
        cut = math.floor(max((side - 1) / 2 - half, 0.0))
        window.append(slice(cut, side - cut))
    return window[0], window[1]


def _describe(galaxies: GalaxySet, row: int, quantiles: np.ndarray) -> Galaxy:
    """One galaxy, measured and drawn."""
    cutouts, names = galaxies.cutouts, galaxies.prediction.names
    scale = cutouts.survey.pixel_scale_arcsec
    image, variance = (getattr(cutouts, name)[row].cpu().numpy().astype(float) for name in ("images", "variance"))
    ignored = cutouts.mask[row].cpu().numpy() | ~np.isfinite(image) | ~np.isfinite(variance) | (variance <= 0)
    beside = cutouts.neighbour_mask[row].cpu().numpy()
    model = None if galaxies.model is None else np.asarray(galaxies.model["image"][row], float)
    if model is not None and not np.isfinite(model).all():
        model = None
    radius = float(median_and_interval(quantiles, names, "half_light_radius_arcsec")[1, row])
    psf_px = float(cutouts.psf_fwhm_px[row])
    distance = _distance(image.shape, quantiles, names, row) * scale
    snr = chi_square = math.nan
    used = ~ignored & ~beside
    if model is not None:
        snr = float(np.sqrt(np.sum(model[used] ** 2 / variance[used])))
        inner = used & (distance < max(2 * radius, 2 * psf_px * scale))
        if inner.any():
            chi_square = float(np.mean((image[inner] - model[inner]) ** 2 / variance[inner]))
    around = distance < 3 * radius
    return Galaxy(
        object_id=str(cutouts.object_id[row]),
        set_name=galaxies.name,
        row=row,
        facts=_list_facts(galaxies, row, quantiles, snr, chi_square),
        references=(
            *((name, word_reference(known)) for name, known in list_references(galaxies, row).items()),
            *_word_refined(galaxies, row),
        ),
        flags=decode_flags(int(galaxies.prediction.flags[row])),
        pictures=_draw_stamps(galaxies, row, (image, variance, model), (ignored, beside), radius),
        profile=_draw_profile(galaxies, row, radius),
        snr=snr,
        chi_square=chi_square,
        radius_arcsec=radius,
        psf_fwhm_arcsec=psf_px * scale,
        crowded=float(beside[around].mean()) if around.any() else 0.0,
    )


def _distance(shape: tuple[int, ...], quantiles: np.ndarray, names: Sequence[str], row: int) -> np.ndarray:
    """Distance of every pixel from the median centre, or from the array's, in pixels."""
    centre = [float(median_and_interval(quantiles, names, name)[1, row]) for name in ("x_px", "y_px")]
    middle = [(shape[1] - 1) / 2, (shape[0] - 1) / 2]
    x0, y0 = (at if math.isfinite(at) else fallback for at, fallback in zip(centre, middle, strict=True))
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(x - x0, y - y0)


def _list_facts(
    galaxies: GalaxySet, row: int, quantiles: np.ndarray, snr: float, chi_square: float
) -> tuple[tuple[str, str], ...]:
    """What was measured on a galaxy, in words and numbers."""
    names, about = galaxies.prediction.names, _list_circumstances(galaxies, row)
    if isinstance(galaxies.prediction, Classes):
        return (about[0], *_list_classes(galaxies.prediction, row), *about[1:])

    def measured(name: str, unit: str = "") -> str:
        low, middle, high = (float(value) for value in median_and_interval(quantiles, names, name)[:, row])
        text = with_error(low, middle, high)
        return f"{text}{unit}" if math.isfinite(middle) else text

    flux = median_and_interval(quantiles, names, "flux_njy")[:, row]
    bright, middle, faint = (float(value) for value in to_magnitude(flux[::-1]))
    magnitude = "magnitude (see note)" if galaxies.zero_point_note else "AB magnitude"
    if int(galaxies.prediction.flags[row]) & Flag.ZERO_POINT_ASSUMED:
        magnitude = "magnitude (zero point assumed)"
    facts = [about[0], (magnitude, with_error(bright, middle, faint))]
    if isinstance(galaxies.prediction, Prediction):
        facts.append(("S/N", f"{snr:.0f}" if math.isfinite(snr) else "no model"))
        facts.append(("reduced χ²", f"{chi_square:.2f}" if math.isfinite(chi_square) else "no model"))
    facts += [("B/T", measured("bulge_to_total")), ("half-light radius", measured("half_light_radius_arcsec", "″"))]
    facts += [(label, measured(name)) for name, label in (("e1", "e₁"), ("e2", "e₂")) if name in names]
    return (*facts, *about[1:])


def _list_classes(prediction: Classes, row: int) -> list[tuple[str, str]]:
    """What a classifier says of a galaxy."""
    shares = prediction.probabilities[row]
    if not np.isfinite(shares).all():
        return [("class", "not measured")]
    said = [(f"p({name})", f"{share:.3f}") for name, share in zip(CLASSES, shares, strict=True)]
    return [("most probable class", str(prediction.decide()[row])), *said]


def _list_circumstances(galaxies: GalaxySet, row: int) -> list[tuple[str, str]]:
    """What is known of a galaxy before anything is measured: the band first."""
    redshift = plain_column(galaxies.cutouts.catalogue, "redshift")[row]
    facts = [
        ("band", galaxies.cutouts.survey.band),
        ("redshift", f"{redshift:.3g}" if math.isfinite(redshift) else "unknown"),
    ]
    ra, dec = (float(plain_column(galaxies.cutouts.catalogue, name)[row]) for name in ("ra", "dec"))
    if math.isfinite(ra) and math.isfinite(dec):
        facts.append(("RA, Dec (ICRS)", f"{ra:.5f}° {dec:+.5f}°".replace("-", "−")))
    return facts


def _word_refined(galaxies: GalaxySet, row: int) -> tuple[tuple[str, str], ...]:
    """What refinement says of a galaxy, with its self-checks; nothing where it was not refined."""
    refined = galaxies.refined
    if refined is None:
        return ()
    place = np.flatnonzero(refined.object_id.astype(str) == str(galaxies.cutouts.object_id[row]))
    if place.size == 0 or not refined.usable[place[0]]:
        return ()
    one = refined.select(place[:1])
    quantiles = one.quantile([0.16, 0.5, 0.84])
    share, radius, flux = (
        median_and_interval(quantiles, one.names, name)[:, 0]
        for name in ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
    )
    words = [f"B/T {with_error(*share)}", f"radius {with_error(*radius)}″"]
    words.append(f"magnitude {with_error(*to_magnitude(flux[::-1]))}")
    if one.chi_square is not None and one.effective_samples is not None:
        words.append(f"reduced χ² of the whole stamp {one.chi_square[0]:.2f}")
        words.append(f"{one.effective_samples[0]:.0f} effective samples")
    checks = decode_flags(int(one.flags[0]) & int(Flag.FEW_SAMPLES | Flag.BAD_FIT))
    words += [f"flagged {' and '.join(checks)}"] if checks else []
    return (("refined by the likelihood", ", ".join(words)),)


def _draw_stamps(
    galaxies: GalaxySet,
    row: int,
    pixels: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    masks: tuple[np.ndarray, np.ndarray],
    radius_arcsec: float,
) -> tuple[Picture, ...]:
    """Image, model and residual of one galaxy, cropped alike."""
    cutouts, name = galaxies.cutouts, str(galaxies.cutouts.object_id[row])
    (image, variance, model), (ignored, beside) = pixels, masks
    scale, psf_px = cutouts.survey.pixel_scale_arcsec, float(cutouts.psf_fwhm_px[row])
    window = crop(beside | ~ignored, radius_arcsec / scale, psf_px)
    shown = np.where(ignored & ~beside, np.nan, image)[window]
    stretch = choose_stretch(shown, float(cutouts.sky_rms[row]))
    wcs = None if cutouts.wcs is None else cutouts.wcs[row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old headers make astropy remark on dates
        directions = find_directions(wcs, ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2))
    north, east = directions or ((0.0, 1.0), (-1.0, 0.0))
    fig, _ = stamp(shown, stretch, scale, psf_fwhm_px=psf_px, north=north, east=east)
    assumed = "" if directions else ", orientation assumed"
    pictures = [
        draw_once(fig, f"Image of {name} with scale bar, north and east, and the PSF's width", f"image{assumed}")
    ]
    if model is None:
        return tuple(pictures)
    png = to_pixels(stretch(model[window]), "gray_r", (0.0, 1.0))
    pictures.append(Picture(embed(png, "image/png"), f"Median model of {name}, same stretch", caption="median model"))
    sigma = np.where(ignored | beside, np.nan, (image - model) / np.sqrt(np.where(ignored, 1.0, variance)))
    limits = (-RESIDUAL_LIMIT_SIGMA, RESIDUAL_LIMIT_SIGMA)
    png = to_pixels(sigma[window], "PuOr", limits)
    alt = f"Residual of {name} in units of sigma, from {limits[0]:g} to {limits[1]:g}"
    pictures.append(Picture(embed(png, "image/png"), alt, caption="residual, ±5σ"))
    return tuple(pictures)


def _draw_profile(galaxies: GalaxySet, row: int, radius_arcsec: float) -> Picture | None:
    """The radial profile of image and model."""
    arrays = galaxies.model
    if arrays is None or not np.isfinite(arrays["model"][row, 2]).any():
        return None
    cutouts = galaxies.cutouts
    psf_half = float(cutouts.psf_fwhm_px[row]) / 2 * cutouts.survey.pixel_scale_arcsec
    radius, data, sigma = (np.asarray(arrays[name][row], float) for name in ("radius_arcsec", "data", "data_sigma"))
    reach = 5.5 * max(radius_arcsec, 2 * psf_half)
    keep = np.isfinite(radius) & np.isfinite(sigma) & (radius < reach)
    model = np.asarray(arrays["model"][row], float)[:, keep]
    if keep.sum() < 3:
        return None
    return draw_both(
        lambda theme: radial_profile(
            radius[keep],
            data[keep],
            sigma[keep],
            model,
            cutouts.survey.zero_point_mag,
            marks={"PSF/2": psf_half, "R½": radius_arcsec},
            theme=theme,
        ),
        f"Surface brightness of {cutouts.object_id[row]} against radius, image and model",
        "radial profile",
    )
