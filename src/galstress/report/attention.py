"""The parts of the page on posteriors and on what the network looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from galstress.figures import attention_map, choose_stretch, corner, to_pixels
from galstress.heads import Classes
from galstress.report.galaxies import crop
from galstress.report.pictures import Picture, draw_both, draw_once, embed
from galstress.report.quantities import describe_output, median_and_interval, quantiles_of, to_magnitude
from galstress.report.records import GalaxySet, Maps
from galstress.report.references import list_references
from galstress.report.section import Group, Section, absent

__all__ = ["report_attention", "report_corners"]

_MOST_MAPPED = 4
"""Galaxies of a set whose maps are shown."""


def report_corners(sets: Sequence[GalaxySet]) -> Section:
    """One posterior of each set, with what else is known of that galaxy."""
    key, title = "posteriors", "Posteriors, two quantities at a time"
    pictures = []
    for galaxies in sets:
        row = _choose_row(galaxies)
        if row is not None:
            pictures.append(_draw_corner(galaxies, row))
    if not pictures:
        is_class = any(isinstance(galaxies.prediction, Classes) for galaxies in sets)
        reason = ": the network gives probabilities of classes, not of quantities" if is_class else ""
        return absent(key, title, f"No posterior was recorded{reason}.")
    lead = (
        "One galaxy of each set; contours hold 68 and 95 %. Values from the literature, where a catalogue has them, "
        "are as published: their radius may be another one (an aperture's, a semi-major axis) and need not agree."
    )
    return Section(key, title, lead, (Group(tuple(pictures)),))


def report_attention(sets: Sequence[GalaxySet]) -> Section:
    """Maps of what the network used, beside what says nothing about it."""
    key, title = "maps", "What does the network look at?"
    groups = []
    for galaxies in sets:
        if galaxies.maps is None:
            continue
        for row in range(min(len(galaxies.maps.maps), _MOST_MAPPED)):
            group = _draw_maps(galaxies, galaxies.maps, row)
            if group is not None:
                groups.append(group)
    if not groups:
        return absent(key, title, "No maps were recorded: no galaxies/*/explanation.safetensors.")
    lead = (
        "Class activation, weighted by gradients: bright where the last convolutional stage used the image. White: the "
        "galaxy's own isophotes. A map means something only if it differs from what needs no network: r is its "
        "correlation with a Gaussian at the centre, and with the map of the same network with random weights."
    )
    return Section(key, title, lead, tuple(groups))


def _choose_row(galaxies: GalaxySet) -> int | None:
    """The galaxy of which most is known among those with a posterior; the first of equals."""
    if isinstance(galaxies.prediction, Classes):
        return None
    median = galaxies.prediction.quantile([0.5])[0]
    usable = [row for row in range(len(galaxies)) if np.isfinite(median[row]).all()]
    if not usable:
        return None
    known = {row: sum(len(values) for values in list_references(galaxies, row).values()) for row in usable}
    return max(usable, key=lambda row: (known[row], -row))


def _draw_corner(galaxies: GalaxySet, row: int) -> Picture:
    """The posterior of B/T, radius, magnitude and, where it is known, ellipticity."""
    names = galaxies.prediction.names
    assert not isinstance(galaxies.prediction, Classes)
    held = galaxies.prediction.draws  # no draw twice: a figure smooths by their number
    samples = galaxies.prediction.sample(4000 if held is None else held.shape[1], 0)[:, [row]]
    share, radius, flux, e1, e2 = (
        median_and_interval(samples, names, name)[:, 0]
        for name in ("bulge_to_total", "half_light_radius_arcsec", "flux_njy", "e1", "e2")
    )
    shaped = slice(None, None if "e1" in names else -1)
    draws = np.stack([share, radius, to_magnitude(flux), np.hypot(e1, e2)][shaped], -1)
    order = ("bulge_to_total", "half_light_radius_arcsec", "mag_ab", "ellipticity")[shaped]
    references = {
        source: [values.get(name, np.nan) for name in order]
        for source, values in list_references(galaxies, row).items()
    }
    labels = ("B/T", "R½ [arcsec]", "AB mag" if not galaxies.zero_point_note else "mag", "|e|")[shaped]
    name = str(galaxies.cutouts.object_id[row])
    return draw_both(
        lambda theme: corner(draws, labels, references=references, theme=theme),
        f"Posterior of {', '.join(label.partition(' [')[0] for label in labels)} of {name}",
        f"{name} ({galaxies.name})",
    )


def _draw_maps(galaxies: GalaxySet, maps: Maps, row: int) -> Group | None:
    """One galaxy's maps side by side."""
    place = np.flatnonzero(galaxies.cutouts.object_id.astype(str) == maps.object_id[row])
    if place.size == 0:
        return None
    at = int(place[0])
    cutouts = galaxies.cutouts
    image = cutouts.images[at].cpu().numpy().astype(float)
    if maps.maps.shape[2:] != image.shape or not np.isfinite(maps.maps[row]).all():
        return None
    median = quantiles_of(galaxies.prediction, [0.5])
    radius = float(median_and_interval(median, galaxies.prediction.names, "half_light_radius_arcsec")[0, at])
    known = ~cutouts.mask[at].cpu().numpy()
    window = crop(known, radius / cutouts.survey.pixel_scale_arcsec, float(cutouts.psf_fwhm_px[at]))
    stretch = choose_stretch(image, float(cutouts.sky_rms[at]))
    png = to_pixels(stretch(image[window]), "gray_r", (0.0, 1.0))
    pictures = [Picture(embed(png, "image/png"), f"Image of {maps.object_id[row]}", caption="image")]
    for k, name in enumerate(maps.names):
        fig, _ = attention_map(image[window], maps.maps[row, k][window], stretch)
        correlation = float(maps.correlations[row, k])
        caption = name if k == 0 else f"{name}, r\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{correlation:.2f}"
        pictures.append(draw_once(fig, f"{name} map of {maps.object_id[row]}", caption))
    title = f"{maps.object_id[row]}: {describe_output(maps.output).label}"
    return Group(tuple(pictures), title, small=True)
