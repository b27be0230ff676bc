"""Patches of real sky, with their own noise and their own neighbours, to put galaxies into."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from galstress import datasets
from galstress.cutouts import Cutouts, Flag, empty_catalogue
from galstress.errors import InputError
from galstress.loading.sky import label_sources
from galstress.optics import add_correlated_noise, measure_fwhm
from galstress.simulation import survey_psf
from galstress.survey import Survey

__all__ = ["FIELDS", "load_skies"]

FIELDS: Mapping[str, tuple[tuple[str, int], ...]] = MappingProxyType(
    {
        "hsc": (("hsc-misc", 301), ("hsc-cosmos-udeep147", 340)),
        "hst-acs": (("pair-hsc-hst-cosmos", 250), ("hst-cosmos-btk100", 190)),
        "hst-candels": (("hst-candels-gds17", 84),),
        "hst-wfc3": (("hst-candels-gds17", 84),),
        "sdss": (("sdss-frames-misc", 222), ("sdss-pymorph10", 310)),
    }
)
"""By the beginning of a survey's name: data sets that hold its sky, and the largest side of their images."""

_BANDS = MappingProxyType({("pair-hsc-hst-cosmos", "F814W"): "hst-f814w", ("hst-candels-gds17", "F814W"): "F850LP"})
"""Where a set names a survey's band otherwise; GOODS-S has no F814W, and F850LP's sky is its neighbour's."""

_HALO = 0.35
"""Mean level, in rms, down to which light around an object counts as its own."""
_LEVEL = 0.15
"""Largest mean of a patch's empty pixels, in rms."""

DRAWN = "drawn noise"


@dataclasses.dataclass(frozen=True)
class _Field:
    """One image with sky in it, in the target's units."""

    name: str
    image: np.ndarray
    variance: np.ndarray
    real: np.ndarray
    """(H, W) bool: sky and neighbours; not the object that the image was cut for, nor bad pixels."""
    sources: np.ndarray
    rms: float
    psf: Tensor
    oversampling: int


def load_skies(survey: Survey | str, count: int, seed: int | torch.Generator = 1, least_real: float = 0.4) -> Cutouts:
    """Patches of a survey's real sky.

    Arguments:
        survey: The survey or its name; its ``stamp_px`` is the side of the patches.
        count: How many; patches of one field overlap.
        seed: Of the choice, or a generator.
        least_real: Least share of a patch that is real.

    Returns:
        Cutouts whose middle is free of sources: sky noise and neighbours as they were seen, mirrored and in quarter
        turns, in the survey's units, with the field's PSF. The galaxy that a field was cut for and whatever lies
        beyond its edge are replaced by drawn noise of the field's own rms. ``catalogue``: ``object_id`` names the
        field (``drawn noise``: there is none for this survey, or none large enough), ``real_share`` says how much of
        the patch is real.

    Raises:
        InputError: A survey with real sky whose files are not here, or numbers out of range.

    Fields: HSC in COSMOS (hsc_cosmos_udeep147) and, for small patches, HSC Wide beside its large spiral (hsc_misc);
    COSMOS (hst_cosmos_btk100 and its pair with HSC), GOODS-S (hst_candels_gds17), SDSS frames and cutouts; only those
    of the survey's band and pixel scale. A patch's empty pixels have a mean within 0.15 rms of zero.
    """
    survey = Survey.load(survey) if isinstance(survey, str) else survey
    if count < 1 or not 0 < least_real <= 1:
        raise InputError(f"count={count}, least_real={least_real}", "1 or more, and a share above 0", "correct them")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    places = [(field, *spot) for field in _load_fields(survey) for spot in _find_places(field, survey, least_real)]
    if not places:
        return _draw_sky(survey, count, generator)
    by_field: dict[str, list[int]] = {}
    for row, (field, *_) in enumerate(places):
        by_field.setdefault(field.name, []).append(row)
    names = sorted(by_field)
    uniform = torch.rand(3, count, generator=generator, device=generator.device).cpu().numpy()
    # a field as often as it has independent patches, at least once
    weight = np.sqrt([len(by_field[name]) for name in names])
    which = np.searchsorted(np.cumsum(weight / weight.sum()), uniform[0].clip(max=1 - 1e-9))
    chosen = [by_field[names[w]][int(v * len(by_field[names[w]]))] for w, v in zip(which, uniform[1], strict=True)]
    picked = [places[row] for row in chosen]
    return _cut(picked, (8 * uniform[2]).astype(int), survey, generator)


def _load_fields(survey: Survey) -> list[_Field]:
    """All images that hold the survey's sky."""
    sets = next((sets for start, sets in FIELDS.items() if survey.name.startswith(start)), ())
    fields = []
    for name, side in sets:
        dataset = datasets.describe(name)
        band = _BANDS.get((name, survey.band), survey.band.lower().removeprefix("hsc-"))
        if band.lower() not in [known.lower() for known in dataset.bands]:
            continue
        cutouts = datasets.load(name, band, stamp_px=side)
        if abs(cutouts.survey.pixel_scale_arcsec / survey.pixel_scale_arcsec - 1) > 0.02:
            continue
        unusable = int(Flag.UNREADABLE | Flag.ALL_MASKED | Flag.SKY_ZEROED | Flag.TOO_SMALL)
        rows = np.flatnonzero((cutouts.flags & unusable) == 0)
        fields += [_field(cutouts, int(row), survey, f"{name}/{cutouts.object_id[row]}") for row in rows]
    return fields


def _field(cutouts: Cutouts, row: int, survey: Survey, name: str) -> _Field:
    """One image with its object told from its sky."""
    unit = 10 ** (0.4 * (survey.zero_point_mag - cutouts.survey.zero_point_mag))
    image, variance = cutouts.images[row].double().numpy() * unit, cutouts.variance[row].double().numpy() * unit**2
    bad = cutouts.mask[row].numpy() | ~np.isfinite(variance) | ~np.isfinite(image)
    rms, fwhm = float(cutouts.sky_rms[row]) * unit, float(cutouts.psf_fwhm_px[row])
    image = np.where(bad, 0.0, image)
    middle = (image.shape[-1] - 1) / 2
    target, neighbours = label_sources(image, bad, rms, fwhm, (middle, middle))
    # a target that a neighbour touches is not cut out of it: both go
    target = _with_touching(target, neighbours)
    near = _find_halo(image, target, neighbours & ~target, bad, rms, fwhm)
    return _Field(
        name, image, variance, ~bad & ~near, neighbours & ~near, rms, cutouts.psf[row], cutouts.psf_oversampling
    )


def _with_touching(target: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """The object and every neighbour whose light runs into its own."""
    labels, _ = ndimage.label(neighbours)
    touching = np.unique(labels[ndimage.binary_dilation(target, iterations=2)])
    return target | np.isin(labels, touching[touching > 0])


def _find_halo(
    image: np.ndarray, target: np.ndarray, others: np.ndarray, bad: np.ndarray, rms: float, fwhm: float
) -> np.ndarray:
    """(H, W) bool: the object with its wings, which reach farther than its detection."""
    if not target.any():
        return target
    near = ndimage.binary_dilation(target, iterations=max(3, round(fwhm), round(0.1 * math.sqrt(target.sum()))))
    empty = (~(target | others | bad)).astype(float)
    width = 2 * fwhm
    level = ndimage.gaussian_filter(image * empty, width) / ndimage.gaussian_filter(empty, width).clip(min=0.05)
    labels, _ = ndimage.label((level > _HALO * rms) | near)
    wings = np.isin(labels, np.unique(labels[near]))
    return ndimage.binary_dilation(wings, iterations=2) & ~others | near & ~others


def _find_places(field: _Field, survey: Survey, least_real: float) -> list[tuple[int, int, float]]:
    """(x, y) of patches' first pixels, which may lie outside, and the share that is real."""
    side = survey.stamp_px
    core = max(4.0, 1.5 * survey.psf_fwhm_px)
    clear = field.real & (ndimage.distance_transform_edt(~field.sources) > core)
    clear &= ndimage.distance_transform_edt(np.pad(field.real, 1))[1:-1, 1:-1] > core
    y, x = np.nonzero(clear)
    empty = field.real & ~field.sources
    share = _boxes(field.real.astype(float), x, y, side) / side**2
    # a field's own galaxy leaves light that no detection finds: no patch on it
    level = _boxes(np.where(empty, field.image, 0.0), x, y, side) / _boxes(empty.astype(float), x, y, side).clip(min=1)
    good = (share >= least_real) & (np.abs(level) < _LEVEL * field.rms)
    top, left = y - side // 2, x - side // 2
    corners = zip(left[good], top[good], share[good], strict=True)
    return [(int(a), int(b), float(c)) for a, b, c in corners]


def _boxes(plane: np.ndarray, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """Sums of a plane over the squares that begin half a side before each place; nothing lies beyond its edge."""
    summed = np.pad(np.pad(plane, side).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top, left = y - side // 2 + side, x - side // 2 + side
    return summed[top + side, left + side] - summed[top, left + side] - summed[top + side, left] + summed[top, left]


def _cut(
    picked: list[tuple[_Field, int, int, float]], turns: np.ndarray, survey: Survey, generator: torch.Generator
) -> Cutouts:
    """The patches themselves."""
    side, count = survey.stamp_px, len(picked)
    white = torch.randn(count, side, side, generator=generator, device=generator.device)
    drawn = add_correlated_noise(white, survey.noise_correlation_fwhm_px).cpu().numpy()
    planes: dict[str, list[np.ndarray]] = {"image": [], "variance": [], "sources": []}
    for row, (field, left, top, _) in enumerate(picked):
        real = _window(field.real, left, top, side)
        sky = np.where(real, _window(field.image, left, top, side), drawn[row] * field.rms)
        noise = np.where(real, _window(field.variance, left, top, side), field.rms**2)
        for name, plane in (
            ("image", sky),
            ("variance", noise),
            ("sources", _window(field.sources, left, top, side) & real),
        ):
            planes[name].append(_turn(plane, int(turns[row])))
    psf, oversampling = _stack_psfs(picked, turns)
    catalogue = empty_catalogue([field.name for field, *_ in picked])
    catalogue["real_share"] = [share for *_, share in picked]
    device = generator.device
    images, variance = (
        torch.as_tensor(np.stack(planes[name]), dtype=torch.float32, device=device) for name in ("image", "variance")
    )
    return Cutouts(
        images=images,
        variance=variance,
        mask=torch.zeros_like(images, dtype=torch.bool),
        neighbour_mask=torch.as_tensor(np.stack(planes["sources"]), device=device),
        psf=psf.to(device),
        psf_oversampling=oversampling,
        psf_fwhm_px=measure_fwhm(psf, oversampling).float().to(device),
        sky_rms=torch.tensor([field.rms for field, *_ in picked], dtype=torch.float32, device=device),
        survey=survey,
        catalogue=catalogue,
    )


def _window(plane: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """A square of a plane; 0 or False where it reaches beyond."""
    result = np.zeros((side, side), plane.dtype)
    y0, x0 = max(top, 0), max(left, 0)
    part = plane[y0 : max(top + side, 0), x0 : max(left + side, 0)]
    result[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
    return result


def _turn(plane: np.ndarray, which: int) -> np.ndarray:
    """One of the eight ways to lay a square."""
    turned = np.rot90(plane, which % 4)
    return np.ascontiguousarray(turned[:, ::-1] if which >= 4 else turned)


def _stack_psfs(picked: list[tuple[_Field, int, int, float]], turns: np.ndarray) -> tuple[Tensor, int]:
    """(N, P, P) turned as their patches, at the coarsest sampling among them."""
    least = min(field.oversampling for field, *_ in picked)
    kernels = []
    for (field, *_), turn in zip(picked, turns, strict=True):
        psf = field.psf.double().numpy()
        if field.oversampling % least:
            raise InputError("PSFs whose samplings do not divide", "multiples of one", "use one field's sky")
        step, middle = field.oversampling // least, psf.shape[-1] // 2
        first = middle % step
        psf = psf[first::step, first::step]
        kernels.append(_turn(psf / psf.sum(), int(turn)))
    size = max(len(kernel) for kernel in kernels)
    padded = [np.pad(kernel, (size - len(kernel)) // 2) for kernel in kernels]
    return torch.as_tensor(np.stack(padded), dtype=torch.float32), least


def _draw_sky(survey: Survey, count: int, generator: torch.Generator) -> Cutouts:
    """Drawn noise, where no real sky is known."""
    side, device = survey.stamp_px, generator.device
    white = torch.randn(count, side, side, generator=generator, device=device)
    images = survey.sky_rms * add_correlated_noise(white, survey.noise_correlation_fwhm_px)
    psf, oversampling, fwhm = survey_psf(survey, side)
    catalogue = empty_catalogue([DRAWN] * count)
    catalogue["real_share"] = np.zeros(count)
    nothing = torch.zeros_like(images, dtype=torch.bool)
    return Cutouts(
        images=images,
        variance=torch.full_like(images, survey.sky_rms**2),
        mask=nothing,
        neighbour_mask=nothing,
        psf=psf.to(device)[None].expand(count, -1, -1),
        psf_oversampling=oversampling,
        psf_fwhm_px=torch.full((count,), fwhm, device=device),
        sky_rms=torch.full((count,), survey.sky_rms, device=device),
        survey=survey,
        catalogue=catalogue,
    )
