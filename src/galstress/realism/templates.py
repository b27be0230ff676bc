"""Masked Hubble galaxies as templates: read, fitted once, completed, measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
import pooch
import torch
from astropy.table import QTable, vstack
from scipy import ndimage
from torch import Tensor

from galstress import datasets
from galstress.datasets.finding import find_folder
from galstress.errors import InputError
from galstress.galaxy import Galaxies, galaxies_from_table
from galstress.loading import Frame
from galstress.optics import measure_fwhm
from galstress.realism.completion import extend_residual, find_footprint, fit_models, measure_truth
from galstress.realism.records import Templates, no_model, template_psf
from galstress.rendering import render
from galstress.survey import Survey

__all__ = ["SETS", "load_templates", "make_templates"]

SETS = ("hst-candels-bd201", "hst-jedisim126-templates")
"""Data sets whose galaxies are templates."""

_BLOCK = 24
"""Galaxies fitted between two writes of the cache."""
_VERSION = 3
"""Of the fits: a cache of another version is made again."""


def load_templates(
    names: Sequence[str] = SETS, band: str = "F814W", limit: int | None = None, cache: Path | None = None
) -> Templates:
    """The masked Hubble templates, completed beyond their masks.

    Arguments:
        names: Data sets, of :data:`SETS`.
        band: The band; ``hst-jedisim126-templates`` has F814W alone and is left out of others.
        limit: At most so many of each set, from the first.
        cache: Folder of the fits' results, a small table a set; by default the user's cache. The first call fits the
            models (1.5 s a galaxy) and can be interrupted: the next one goes on.

    Returns:
        Templates whose ``group`` is the galaxy's name in its set, the same in every band. Fluxes are in the unit of
        the set's survey. ``truth``: ``flux_njy`` and ``mag_ab`` (summed: pixels inside, model outside),
        ``half_light_radius_arcsec`` (from growth curves, see :func:`galstress.realism.completion.measure_truth`),
        ``circular_half_light_radius_arcsec`` (circle, PSF included), ``bulge_to_total`` and its
        ``bulge_to_total_source`` (``galfit``: bd201's where consistent; ``fit``: the model's), ``e1``, ``e2``,
        ``x_px``, ``y_px`` (the model's), ``snr`` (in white noise), ``outside_share`` of the flux that is model alone.

    Raises:
        InputError: A set is not here; the message says where it comes from.
        UnknownNameError: No such set or band.
    """
    parts = []
    for name in names:
        dataset = datasets.describe(name)
        if name not in SETS:
            raise InputError(f"templates from {name}", ", ".join(SETS), "name sets of masked galaxies")
        if band.upper() not in dataset.bands and len(names) > 1:
            continue
        own = dataset.choose_band(band)
        frames = [frame for frame in dataset.read(find_folder(dataset), own)[:limit] if frame.image is not None]
        if not frames:
            raise InputError(f"data set {name} without its files", f"the files of {dataset.folder}", "get them again")
        folder = Path(pooch.os_cache("galstress")) if cache is None else cache
        parts.append(_complete(frames, dataset.surveys[own], folder / f"templates-{name}-{own.lower()}.ecsv", name))
    if not parts:
        raise InputError(f"band={band!r}", "a band that one of the sets has", "give band='F814W'")
    return _joined(parts)


def make_templates(
    images: Sequence[np.ndarray],
    survey: Survey,
    *,
    footprints: Sequence[np.ndarray] | None = None,
    sky_rms: Sequence[float] | float = 0.0,
    psf: tuple[Tensor, int] | None = None,
    model: Galaxies | None = None,
    object_id: Sequence[str] | None = None,
) -> Templates:
    """Templates of images at hand.

    Arguments:
        images: N of (H, W), any sizes, in the survey's pixels and units, sky subtracted.
        survey: Pixel scale, zero point, noise correlation and, without ``psf``, PSF.
        footprints: N of (H, W) bool, True: real pixels; None: all of them.
        sky_rms: Noise of a pixel of each, image units.
        psf: (P, P) effective PSF and its samples a pixel, of all of them.
        model: (N,) smooth galaxies in template pixels and units that continue the light outside; None: nothing does.
        object_id: Names, which are the groups too.

    Returns:
        Templates with ``truth`` measured on the completed images; ``bulge_to_total`` is the model's, or NaN.
    """
    count = len(images)
    kernel, oversampling = psf if psf is not None else template_psf(survey)
    smooth = no_model(count) if model is None else model
    insides = [np.ones(image.shape, bool) for image in images] if footprints is None else footprints
    rms = np.broadcast_to(np.asarray(sky_rms, float), (count,)).copy()
    names = np.asarray([f"template-{row}" for row in range(count)] if object_id is None else object_id, str)
    residuals, variance = [], []
    for row, (image, inside) in enumerate(zip(images, insides, strict=True)):
        residuals.append(_residual(image, inside, smooth, row, kernel, oversampling))
        light = ndimage.gaussian_filter(np.where(inside, np.maximum(image, 0), 0.0), 1.0)
        variance.append(np.where(inside, rms[row] ** 2 + light * survey.photon_variance * (rms[row] > 0), 0.0))
    templates = Templates(
        object_id=names,
        group=names,
        images=_tensors([np.where(inside, image, 0.0) for image, inside in zip(images, insides, strict=True)]),
        footprint=tuple(torch.as_tensor(np.asarray(inside, bool)) for inside in insides),
        residuals=_tensors(residuals),
        variance=_tensors(variance),
        model=smooth,
        psf=(kernel,) * count,
        psf_oversampling=(oversampling,) * count,
        psf_fwhm_px=np.full(count, float(measure_fwhm(kernel[None], oversampling)[0])),
        pixel_scale_arcsec=np.full(count, survey.pixel_scale_arcsec),
        zero_point_mag=np.full(count, survey.zero_point_mag),
        sky_rms=rms,
        noise_correlation_fwhm_px=np.full(count, survey.noise_correlation_fwhm_px),
        truth=QTable({"snr": np.full(count, np.nan)}),
    )
    rows = [measure_truth(templates, row) for row in range(count)]
    return dataclasses.replace(templates, truth=_truth(templates, rows, survey))


def _residual(
    image: np.ndarray, inside: np.ndarray, model: Galaxies, row: int, psf: Tensor, oversampling: int
) -> np.ndarray:
    """What the model lacks, on the template's pixels."""
    if not float(model.flux[row]) > 0:
        return np.where(inside, image, 0.0)
    side = max(image.shape)
    one = model.select(slice(row, row + 1)).to(dtype=torch.float32)
    drawn = render(one, psf[None], oversampling, side)[0].double().numpy()
    return extend_residual(image, inside, drawn[: image.shape[0], : image.shape[1]])


def _truth(templates: Templates, rows: list[dict[str, float]], survey: Survey) -> QTable:
    """The measured numbers in physical units."""
    column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    flux = column["flux"] * survey.unit_njy
    scale = survey.pixel_scale_arcsec
    inside = np.array([float(image.sum()) for image in templates.images])
    snr = []
    for image, variance in zip(templates.images, templates.variance, strict=True):
        real = variance > 0
        excess = float(((image[real] ** 2 - variance[real]) / variance[real]).sum()) if real.any() else np.inf
        snr.append(survey.kernel_factor * np.sqrt(max(excess, 0.0)))
    has_model = templates.model.flux.numpy() > 0
    return QTable(
        {
            "mag_ab": (31.4 - 2.5 * np.log10(np.maximum(flux, 1e-30))) * u.mag,
            "flux_njy": flux * u.nJy,
            "half_light_radius_arcsec": column["radius"] * scale * u.arcsec,
            "circular_half_light_radius_arcsec": column["circular_radius"] * scale * u.arcsec,
            "bulge_to_total": np.where(has_model, templates.model.bulge_to_total.numpy(), np.nan),
            "bulge_to_total_source": np.where(has_model, "fit", "none").astype("U8"),
            "e1": column["e1"],
            "e2": column["e2"],
            "x_px": column["x"] * u.pix,
            "y_px": column["y"] * u.pix,
            "snr": np.array(snr),
            "outside_share": 1 - inside / np.maximum(column["flux"], 1e-30),
        }
    )


def _tensors(planes: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """Planes of different shapes, float32."""
    return tuple(torch.as_tensor(np.ascontiguousarray(plane, np.float32)) for plane in planes)


def _complete(frames: list[Frame], survey: Survey, cache: Path, name: str) -> Templates:
    """Templates of one set, in the unit of its survey."""
    images, insides, rms = [], [], []
    for frame in frames:
        assert frame.image is not None
        zero_point = survey.zero_point_mag if frame.zero_point_mag is None else frame.zero_point_mag
        unit = 10 ** (-0.4 * (zero_point - survey.zero_point_mag))
        images.append(frame.image.astype(np.float64) * unit)
        insides.append(find_footprint(frame.image))
        rms.append(float(frame.sky_rms or 0.0) * unit)
    table = _fitted(frames, images, insides, rms, survey, cache)
    own = frames[0].psf
    psf = None if own is None else (torch.as_tensor(own, dtype=torch.float32), frames[0].psf_oversampling)
    templates = make_templates(
        images,
        survey,
        footprints=insides,
        sky_rms=rms,
        psf=psf,
        model=galaxies_from_table(table, survey.pixel_scale_arcsec, survey.unit_njy),
        object_id=[frame.object_id for frame in frames],
    )
    truth = templates.truth.copy()
    for row, frame in enumerate(frames):
        if frame.columns.get("lit_bt_consistent"):
            truth["bulge_to_total"][row] = frame.columns["lit_bulge_to_total"]
            truth["bulge_to_total_source"][row] = "galfit"
    group = np.asarray([f"{name}/{frame.object_id}" for frame in frames], str)
    return dataclasses.replace(templates, truth=truth, group=group)


def _fitted(
    frames: list[Frame],
    images: list[np.ndarray],
    insides: list[np.ndarray],
    rms: list[float],
    survey: Survey,
    cache: Path,
) -> QTable:
    """Models of a set: from the cache where they are in it, else fitted and added to it."""
    names = [frame.object_id for frame in frames]
    table = _read_cache(cache)
    missing = [row for row, name in enumerate(names) if table is None or name not in table["object_id"]]
    for start in range(0, len(missing), _BLOCK):
        rows = missing[start : start + _BLOCK]
        fresh = fit_models([images[r] for r in rows], [insides[r] for r in rows], [rms[r] for r in rows], survey)
        fresh.add_column(np.asarray([names[r] for r in rows], "U40"), index=0, name="object_id")
        table = fresh if table is None else vstack([table, fresh], metadata_conflicts="silent")
        table.meta = {"version": _VERSION, "survey": survey.name, "made_by": "galstress.realism.load_templates"}
        cache.parent.mkdir(parents=True, exist_ok=True)
        aside = cache.with_name(cache.name + ".part")
        table.write(aside, format="ascii.ecsv", overwrite=True)
        aside.replace(cache)
    assert table is not None
    place = {str(name): row for row, name in enumerate(table["object_id"])}
    return table[[place[name] for name in names]]


def _read_cache(cache: Path) -> QTable | None:
    """The table of an earlier call, or None where there is none of this version."""
    try:
        table = QTable.read(cache, format="ascii.ecsv")
    except (OSError, ValueError):
        return None
    return table if table.meta.get("version") == _VERSION and "object_id" in table.colnames else None


def _joined(parts: list[Templates]) -> Templates:
    """Templates of several sets as one."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, object] = {}
    for field in dataclasses.fields(Templates):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "model":
            joined[field.name] = Galaxies(
                **{f.name: torch.cat([getattr(v, f.name) for v in values]) for f in dataclasses.fields(Galaxies)}
            )
        elif field.name == "truth":
            joined[field.name] = vstack(values, metadata_conflicts="silent")
        else:
            joined[field.name] = (
                tuple(item for value in values for item in value)
                if isinstance(values[0], tuple)
                else np.concatenate(values)
            )
    return Templates(**joined)  # type: ignore[arg-type]
