"""Templates as another survey would have seen them: magnified, turned, fainter, in its noise or its real sky."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import astropy.units as u
import numpy as np
import torch
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import Galaxies
from galstress.optics import add_correlated_noise, measure_fwhm
from galstress.realism.brightness import Light, choose_scale
from galstress.realism.labels import make_catalogue, make_truth
from galstress.realism.matching import Lens, View, match, place, widen
from galstress.realism.records import Templates
from galstress.rendering import render
from galstress.simulation import survey_psf
from galstress.survey import Survey

__all__ = ["draw_light", "draw_views", "find_usable", "largest_magnification", "reobserve"]

_BLOCK = 32
"""Galaxies drawn together."""
_SAME_OPTICS, _SHRUNK, _LEAST_RADIUS = 1.2, 0.5, 0.5 * u.arcsec
_BLUR_SHARE = 0.7
"""Of the target's PSF, that the template's magnified one may be as wide as."""


def largest_magnification(templates: Templates, survey: Survey, fwhm_arcsec: float | None = None) -> np.ndarray:
    """How far each template may be magnified: its PSF stays at 0.7 of the target's width or less.

    Arguments:
        templates: N of them.
        survey: The target.
        fwhm_arcsec: Of the target's effective PSF; None: the survey's own.

    Returns:
        (N,) about 9 for ACS templates and SDSS, 4 for HSC; 0.5 where both PSFs are alike (within 20 %).
    """
    own = survey_psf(survey, survey.stamp_px)[2] * survey.pixel_scale_arcsec if fwhm_arcsec is None else fwhm_arcsec
    ratio = own / (templates.psf_fwhm_px * templates.pixel_scale_arcsec)
    return np.where(ratio < _SAME_OPTICS, _SHRUNK * ratio.clip(max=1), _BLUR_SHARE * ratio)


def find_usable(templates: Templates, survey: Survey, least_snr: float = 20.0) -> np.ndarray:
    """(N,) bool: templates that show more than the survey would.

    Where the survey's PSF is like the template's, galaxies shrink by half and only those with radii above 0.5 arcsec
    keep a structure. Templates whose half S/N is below ``least_snr`` are left out too.
    """
    radius = templates.truth["half_light_radius_arcsec"]
    wide = largest_magnification(templates, survey) > _SHRUNK
    return (wide | (radius >= _LEAST_RADIUS)) & (np.asarray(templates.truth["snr"]) >= 2 * least_snr)


def reobserve(
    templates: Templates,
    survey: Survey | str,
    *,
    magnification: float | np.ndarray | None = None,
    turn: float | np.ndarray | None = None,
    snr: float | np.ndarray | None = None,
    mag_ab: float | np.ndarray | None = None,
    seed: int | torch.Generator = 1,
    psf: tuple[Tensor, int] | None = None,
    sky: Cutouts | None = None,
) -> Cutouts:
    """Each template once, as a survey sees it; to see one more often, select it more often.

    Arguments:
        templates: N of them (:meth:`Templates.select` repeats).
        survey: The survey or its name; its ``stamp_px`` is the side of the images.
        magnification: By how much galaxies appear larger, one number or N; None: drawn evenly in its logarithm between
            half of the largest allowed and that.
        turn: Degrees from +x towards +y, no mirror; None: any angle, and half of the galaxies mirrored.
        snr: S/N that is wanted, one number or N.
        mag_ab: Total magnitude that is wanted instead; neither: the surface brightness is kept.
        seed: Of everything random, or a generator (then its device is used).
        psf: (P, P) or (N, P, P) effective PSF and its samples a pixel; None: the sky's, or the survey's own.
        sky: N patches of real sky (:func:`galstress.realism.load_skies`) instead of drawn noise.

    Returns:
        Cutouts with ``truth``: the columns of :func:`galstress.simulate`, those of the components NaN (a real galaxy
        has none). ``catalogue`` adds ``group`` (never split a group), ``template``, ``magnification``, ``turn_deg``,
        ``mirrored``, ``is_dimmed`` (fainter than asked for), ``template_variance_share`` (largest of any pixel) and
        ``sky_source``.

    Raises:
        InputError: A magnification beyond :func:`largest_magnification`, templates too small for the survey, numbers
            out of range, or a sky of another size.

    No galaxy is drawn brighter than half of its template's S/N, nor so bright that the template's own noise makes up
    more than a quarter of any pixel's variance; what it makes up is in ``variance``. Flux scales as the target
    asks; kept surface brightness is flux times the magnification squared.
    """
    survey = Survey.load(survey) if isinstance(survey, str) else survey
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    device, count, stamp_px = generator.device, len(templates), survey.stamp_px
    kernel, oversampling = _choose_psf(survey, psf, sky, count)
    kernel = kernel.to(device)
    fwhm = (
        measure_fwhm(kernel[:1], oversampling).expand(count)
        if _is_shared(kernel)
        else measure_fwhm(kernel, oversampling)
    )
    _check(templates, survey, sky)
    factor = _choose_magnification(templates, survey, magnification, fwhm, generator)
    views = draw_views(templates, survey, factor, turn, generator)
    light = draw_light(templates, views, kernel, oversampling, stamp_px)
    base = (
        torch.full_like(light.images, survey.sky_rms**2)
        if sky is None
        else torch.where(torch.isfinite(sky.variance), sky.variance, 1e30).to(device)
    )
    scale, dimmed = choose_scale(templates, survey, light, base, factor, (snr, mag_ab))
    model = scale[:, None, None] * light.images
    photons = model.clamp_min(0) * survey.photon_variance
    own = scale[:, None, None] ** 2 * light.variance
    white = torch.randn(model.shape, generator=generator, device=device)
    noise = add_correlated_noise(white, survey.noise_correlation_fwhm_px)
    variance = base + photons + own
    images = model + ((base + photons) if sky is None else photons).sqrt() * noise
    nothing = torch.zeros_like(model, dtype=torch.bool)
    mask, beside, rms = nothing, nothing, torch.full((count,), survey.sky_rms, device=device)
    if sky is not None:
        images, mask, rms = images + sky.images.to(device), sky.mask.to(device), sky.sky_rms.to(device)
        around = torch.nn.functional.avg_pool2d(sky.images.to(device)[:, None], 3, 1, 1)[:, 0]
        beside = sky.neighbour_mask.to(device) & (around > model)
        variance = torch.where(torch.isfinite(sky.variance.to(device)), variance, math.inf)
    snr_truth = (torch.where(mask, 0.0, model) ** 2 / variance).sum((1, 2)).sqrt()
    share = (own / variance).amax((1, 2))
    return Cutouts(
        images=images,
        variance=variance,
        mask=mask,
        neighbour_mask=beside,
        psf=kernel,
        psf_oversampling=oversampling,
        psf_fwhm_px=fwhm,
        sky_rms=rms,
        survey=survey,
        catalogue=make_catalogue(templates, views, factor, dimmed, share, sky),
        truth=make_truth(templates, views, survey, factor, scale, snr_truth),
    )


def draw_views(
    templates: Templates,
    survey: Survey,
    magnification: np.ndarray,
    turn: float | np.ndarray | None,
    generator: torch.Generator,
) -> list[View]:
    """How each template lies in its stamp: centres even within a pixel of the array's, as simulated galaxies'."""
    count, middle = len(templates), (survey.stamp_px - 1) / 2
    draws = torch.rand(4, count, generator=generator, device=generator.device).cpu().double().numpy()
    angles = 360 * draws[0] if turn is None else np.broadcast_to(np.asarray(turn, float), (count,))
    scale = magnification * templates.pixel_scale_arcsec / survey.pixel_scale_arcsec
    return [
        View(
            scale=float(scale[row]),
            turn=math.radians(float(angles[row])),
            mirror=bool(turn is None and draws[1, row] < 0.5),
            centre=(middle + 2 * float(draws[2, row]) - 1, middle + 2 * float(draws[3, row]) - 1),
            origin=tuple(float(templates.truth[name][row].value) for name in ("x_px", "y_px")),  # type: ignore[arg-type]
        )
        for row in range(count)
    ]


def draw_light(templates: Templates, views: list[View], psf: Tensor, oversampling: int, stamp_px: int) -> Light:
    """Light and propagated noise of each view, without photon noise.

    Arguments:
        templates: N templates.
        views: N views of them.
        psf: (N, P, P) effective PSF of the target; one that is expanded is transformed once.
        oversampling: Samples of it a pixel.
        stamp_px: Side S of the images.
    """
    device, shared = psf.device, _is_shared(psf)
    images = torch.zeros(len(views), stamp_px, stamp_px, device=device)
    variance = torch.zeros_like(images)
    periods = [_period(templates, views[row], row, psf, oversampling, stamp_px) for row in range(len(views))]
    lenses: dict[tuple[int, int], Lens] = {}
    for period in sorted(set(periods)):
        rows = [row for row, own in enumerate(periods) if own == period]
        for start in range(0, len(rows), _BLOCK):
            waves: dict[int, list[Tensor]] = {}
            for row in rows[start : start + _BLOCK]:
                key = (period, 0 if shared else row)
                if key not in lenses:
                    lenses = {key: Lens.of(psf[row], oversampling, period)}
                waves[row] = _waves(templates, row, views[row], lenses[key])
                if not shared:
                    images[row], variance[row] = lenses[key].draw(torch.stack(waves[row]), stamp_px)
            if shared:
                block = list(waves)
                both = torch.stack([torch.stack(waves[row]) for row in block], 1)
                images[block], variance[block] = (lenses[period, 0].draw(part, stamp_px) for part in both)
    if bool((templates.model.flux > 0).any()):
        images += render(_turned(templates.model, views).to(device, torch.float32), psf, oversampling, stamp_px)
    return Light(images, variance.clamp_min(0))


def _waves(templates: Templates, row: int, view: View, lens: Lens) -> list[Tensor]:
    """Transforms of one template's residual and of its variance, as they arrive."""
    device = lens.kx.device
    kernel, qx, qy = match(lens, view, templates.psf[row].to(device), templates.psf_oversampling[row])
    light = place(lens, view, templates.residuals[row].to(device), qx, qy) * kernel
    noise = templates.variance[row].to(device)
    if not bool((noise > 0).any()):
        return [light, torch.zeros_like(light)]
    blur = widen(lens, kernel, qx, qy, float(templates.noise_correlation_fwhm_px[row]))
    return [light, place(lens, view, noise, qx, qy) * blur]


def _period(templates: Templates, view: View, row: int, psf: Tensor, oversampling: int, stamp_px: int) -> int:
    """Pixels of a grid so wide that no copy of the galaxy touches the stamp, rounded up to a multiple of 32."""
    height, width = templates.residuals[row].shape
    reach = view.scale * math.hypot(
        max(view.origin[0], width - view.origin[0]), max(view.origin[1], height - view.origin[1])
    )
    return 32 * math.ceil((stamp_px / 2 + reach + psf.shape[-1] / 2 / oversampling + 2) / 32)


def _turned(model: Galaxies, views: list[View]) -> Galaxies:
    """The smooth models in target pixels; total fluxes are kept."""
    matrix = _doubles([view.matrix for view in views])
    offset = torch.stack([model.x, model.y], 1).double() - _doubles([view.origin for view in views])
    place_at = (matrix @ offset[..., None])[..., 0] + _doubles([view.centre for view in views])
    sign = _doubles([-1.0 if view.mirror else 1.0 for view in views])[:, None]
    turn = _doubles([view.turn for view in views])[:, None]
    scale = _doubles([view.scale for view in views])[:, None]
    return dataclasses.replace(
        model,
        x=place_at[:, 0],
        y=place_at[:, 1],
        radius=model.radius * scale,
        angle=sign * model.angle + turn,  # an axis mirrored in x has the angle pi - phi, which is -phi
    )


def _doubles(values: Sequence[object]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _is_shared(psf: Tensor) -> bool:
    return len(psf) == 0 or psf.stride(0) == 0


def _choose_psf(survey: Survey, psf: tuple[Tensor, int] | None, sky: Cutouts | None, count: int) -> tuple[Tensor, int]:
    """(N, P, P) and its samples a pixel."""
    if psf is None and sky is not None:
        return sky.psf, sky.psf_oversampling
    kernel, oversampling = survey_psf(survey, survey.stamp_px)[:2] if psf is None else psf
    kernel = kernel if kernel.ndim == 3 else kernel[None]
    if kernel.ndim != 3 or kernel.shape[-1] % 2 == 0 or len(kernel) not in (1, count):
        raise InputError(f"psf of shape {tuple(kernel.shape)}", f"(P, P) or ({count}, P, P), P odd", "crop the PSF")
    return kernel.float().expand(count, -1, -1) if len(kernel) != count or count == 1 else kernel.float(), oversampling


def _check(templates: Templates, survey: Survey, sky: Cutouts | None) -> None:
    """Refuse a sky that does not fit, and templates without pixels."""
    if len(templates) == 0:
        raise InputError("no templates", "at least one", "load some")
    wanted = (len(templates), survey.stamp_px, survey.stamp_px)
    if sky is None:
        return
    if tuple(sky.images.shape) != wanted:
        raise InputError(f"a sky of shape {tuple(sky.images.shape)}", f"{wanted}", "select a patch for each template")
    if not math.isclose(sky.survey.zero_point_mag, survey.zero_point_mag, abs_tol=1e-6):
        came = f"a sky in units of magnitude {sky.survey.zero_point_mag}"
        raise InputError(came, f"{survey.zero_point_mag}", "load the sky for this survey")


def _choose_magnification(
    templates: Templates,
    survey: Survey,
    magnification: float | np.ndarray | None,
    fwhm_px: Tensor,
    generator: torch.Generator,
) -> np.ndarray:
    """(N,) within what each template allows."""
    scale = survey.pixel_scale_arcsec
    largest = np.array(
        [
            largest_magnification(templates.select([row]), survey, float(fwhm_px[row]) * scale)[0]
            for row in range(len(templates))
        ]
    )
    uniform = torch.rand(len(templates), generator=generator, device=generator.device).cpu().numpy()
    if magnification is None:
        return largest * 2.0 ** (uniform - 1)
    chosen = np.broadcast_to(np.asarray(magnification, float), (len(templates),)).copy()
    if not (np.isfinite(chosen) & (chosen > 0)).all():
        raise InputError(f"magnification={magnification!r}", "positive numbers", "give magnification=2")
    over = chosen > largest * 1.001
    if over.any():
        came = f"magnification {chosen[over][0]:.3g} for {over.sum()} of {len(over)} templates"
        raise InputError(came, f"at most {largest[over][0]:.3g} for the first", "see largest_magnification")
    small = (largest <= _SHRUNK) & (templates.truth["half_light_radius_arcsec"] < _LEAST_RADIUS)
    if small.any():
        came = f"{small.sum()} templates with radii below 0.5 arcsec for {survey.name}"
        raise InputError(came, "larger ones, whose PSF is small beside them", "select find_usable(templates, survey)")
    return chosen
