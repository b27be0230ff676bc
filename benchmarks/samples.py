"""Galaxies and priors of other people's samples, and galaxies as a population draws them with a cut that was measured.

Every stamp has its sky off by 0.02 of its rms, as the training's have it and as the likelihood assumes; a sky
subtracted exactly would make exact posteriors look too wide.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Cutouts
from galstress.galaxy import Galaxies, component_ellipticity, half_light_radius, table_from_galaxies
from galstress.heads import INTERNAL_NAMES, Prediction, Reference, from_internal
from galstress.networks import Network
from galstress.population import load_population
from galstress.prediction import predict
from galstress.refinement import WeakPrior
from galstress.refinement.exact import SKY_SIGMA
from galstress.refinement.priors import EDGE, SHARE, Normal, kind_of
from galstress.rendering import draw_truth
from galstress.simulation import draw_targets, simulate
from galstress.survey import Survey

__all__ = [
    "FITTING",
    "STAMPS",
    "SURVEYS",
    "OneSersic",
    "draw_block",
    "draw_euclid",
    "draw_gampen",
    "euclid_prior",
    "expose_table",
    "hsc_wide_g",
    "join",
    "measure_snr",
]

SURVEYS = {
    "sdss-r": "nearby",
    "hsc-wide-i": "cosmos",
    "hst-acs-f814w": "cosmos",
    "hst-candels-f814w": "cosmos",
    "euclid-vis": "cosmos",
}
"""The population of each survey."""
STAMPS = {
    "sdss-r": 128,
    "hsc-wide-i": 64,
    "hst-acs-f814w": 192,
    "hst-candels-f814w": 128,
    "euclid-vis": 64,
}
"""Pixels: 64 where nearly all galaxies fit, else the survey's own stamp, of which a network sees 192."""
FITTING = 0.25
"""Largest predicted half-light radius, in widths of the stamp, of a galaxy that fits it."""
_INDEX = (0.5, 6.0)


# ---- galaxies as a population draws them ---------------------------------------------------------------------------


def expose_table(
    table: QTable, survey: Survey, generator: torch.Generator, stamp_px: int, sky: float = SKY_SIGMA
) -> Cutouts:
    """Isolated galaxies of a truth table with noise, the sky off by ``sky`` of its rms (normal)."""
    cutouts = simulate(survey, seed=generator, galaxies=table, stamp_px=stamp_px)
    offset = sky * cutouts.sky_rms * torch.randn(len(cutouts), generator=generator)
    return dataclasses.replace(cutouts, images=cutouts.images + offset[:, None, None])


def draw_block(
    network: Network,
    survey: Survey,
    shares: Mapping[str, float],
    size: int,
    seed: int,
    *,
    stamp_px: int,
    least_snr: float,
    draws: int = 128,
) -> tuple[Cutouts, Prediction, np.ndarray]:
    """Galaxies of populations whose *measured* S/N is large enough and that fit the stamp.

    Arguments:
        network: Whose model of the galaxy tells S/N and size: cuts and bins are made on these, never on the truth.
        survey: Who sees them.
        shares: Share of each population.
        size: How many galaxies are kept.
        seed: Of everything.
        stamp_px: Side of the stamps.
        least_snr: Smallest measured S/N.
        draws: Of a posterior that is no Gaussian.

    Returns:
        Cutouts, what the network says of them, and the measured S/N of each.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, found = [], 0
    while found < size:
        table = _draw_table(survey, shares, max(size, 32), stamp_px, generator)
        cutouts = expose_table(table, survey, generator, stamp_px)
        prediction = predict(network, cutouts, draws=draws)
        snr = measure_snr(prediction, cutouts)
        radius = prediction.quantile([0.5])[0][:, prediction.names.index("half_light_radius_arcsec")]
        fits = radius < FITTING * stamp_px * survey.pixel_scale_arcsec
        rows = np.flatnonzero(prediction.usable & (snr >= least_snr) & fits)[: size - found]
        kept.append((cutouts.select(rows), prediction.select(rows), snr[rows]))
        found += len(rows)
    cutouts, predictions, snr = (list(column) for column in zip(*kept, strict=True))
    return join(cutouts), Prediction.concatenate(predictions), np.concatenate(snr)


def join(parts: list[Cutouts]) -> Cutouts:
    """Batches as one that still shares one PSF (a copy for each galaxy would cost time at every look)."""
    whole = Cutouts.concatenate(parts)
    return dataclasses.replace(whole, psf=whole.psf[:1].expand(len(whole), -1, -1))


def measure_snr(prediction: Prediction, cutouts: Cutouts) -> np.ndarray:
    """(N,) S/N of the posterior's median model: sqrt(sum(model^2 / variance)) over the pixels that count."""
    model = draw_truth(
        prediction.truth_like(), cutouts.psf, cutouts.psf_oversampling, cutouts.survey, cutouts.images.shape[-1]
    )
    ignored = cutouts.mask | cutouts.neighbour_mask
    return torch.where(ignored, 0.0, model**2 / cutouts.variance).sum((1, 2)).sqrt().double().numpy()


def _draw_table(
    survey: Survey, shares: Mapping[str, float], count: int, stamp_px: int, generator: torch.Generator
) -> QTable:
    """Truth table of galaxies drawn from populations in random order."""
    names = list(shares)
    weights = torch.tensor([shares[name] for name in names], dtype=torch.float64)
    which = torch.multinomial(weights, count, replacement=True, generator=generator)
    drawn = [draw_targets(load_population(name), survey, count, stamp_px, generator) for name in names]
    rows = torch.arange(count)
    chosen = {
        f.name: torch.stack([getattr(part, f.name) for part in drawn])[which, rows]
        for f in dataclasses.fields(Galaxies)
    }
    return table_from_galaxies(Galaxies(**chosen), survey.pixel_scale_arcsec, survey.unit_njy)


# ---- Euclid Morphology Challenge -----------------------------------------------------------------------------------


def draw_euclid(survey: Survey, magnitude: float, count: int, stamp_px: int, generator: torch.Generator) -> QTable:
    """Single Sersic galaxies as SourceXtractor++'s priors of the challenge have them, all of one magnitude.

    ln((n - 0.25) / (30 - n)) is normal about -3.9 (0.6), e1 and e2 about 0 (0.3), log10 of the semi-major radius in
    arcsec about -0.45 - 0.12 (I - 23) (0.2). Indices beyond 0.5 to 6 and |e| above 0.9 are drawn again. A single
    Sersic profile is a disk with B/T = 0; its bulge is never seen.
    """

    def normal() -> Tensor:
        return torch.randn(4 * count + 64, generator=generator, dtype=torch.float64)

    odds = torch.exp(-3.9 + 0.6 * normal())
    index, e1, e2 = (0.25 + 30 * odds) / (1 + odds), 0.3 * normal(), 0.3 * normal()
    size = torch.hypot(e1, e2)
    rows = torch.nonzero((index > _INDEX[0]) & (index < _INDEX[1]) & (size < 0.9))[:count, 0]
    index, e1, e2, size = (values[rows] for values in (index, e1, e2, size))
    radius = 10 ** (-0.45 - 0.12 * (magnitude - 23) + 0.2 * normal()[:count]) / survey.pixel_scale_arcsec
    x, y = (stamp_px - 1) / 2 + torch.rand(2, count, generator=generator, dtype=torch.float64) * 2 - 1
    ratio, angle = (1 - size) / (1 + size), 0.5 * torch.atan2(e2, e1)
    one = torch.ones(count, dtype=torch.float64)
    galaxies = Galaxies(
        flux=10 ** (0.4 * (31.4 - magnitude)) / survey.unit_njy * one,
        bulge_to_total=0 * one,
        x=x,
        y=y,
        sersic_index=torch.stack([index, 3.5 * one], -1),
        radius=torch.stack([radius, 0.4 * radius], -1),
        axis_ratio=torch.stack([ratio, ratio.sqrt()], -1),
        angle=torch.stack([angle, angle], -1),
    )
    return table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)


class OneSersic:
    """A single Sersic profile: the pure disks of the weak prior, nothing else.

    ln n is even from 0.5 to 6, the axis ratio from 0 to 1; flux and radius are even in their logarithms.
    """

    def __init__(self, more: Callable[[Galaxies, Survey], Tensor] | None = None) -> None:
        """``more``: logarithm of a density over the weak one's, of galaxies in pixels and image units."""
        self.more = more
        self.weak = WeakPrior()

    def stand_ins(self, survey: Survey) -> tuple[Normal, ...]:
        """Those of the weak prior, the mixed galaxies' drawn to B/T = 0: a climb there stays near pure disks."""
        mixed, disk, bulge = self.weak.stand_ins(survey)
        centre, precision = mixed.centre.clone(), mixed.precision.clone()
        centre[SHARE], precision[SHARE, SHARE] = 0.05 - EDGE, 0.05**-2
        at = INTERNAL_NAMES.index("ln_disk_index")
        precision[at, at] = disk.precision[at, at]
        return Normal(centre, precision, mixed.ln_share), disk, bulge

    def log_prob(self, internal: Tensor, reference: Reference, survey: Survey) -> Tensor:
        """(n, N) log-density; minus infinity for whatever has a bulge."""
        value = self.weak.log_prob(internal, reference, survey)
        value = torch.where(kind_of(internal) == 1, value, -math.inf)
        return value if self.more is None else value + self.more(from_internal(internal, reference)[0], survey)


def euclid_prior() -> OneSersic:
    """The population of :func:`draw_euclid`, the magnitude left free."""

    def more(galaxies: Galaxies, survey: Survey) -> Tensor:
        index, ratio, angle = (getattr(galaxies, name)[..., 0] for name in ("sersic_index", "axis_ratio", "angle"))
        away = (torch.log((index - 0.25) / (30 - index)) + 3.9) / 0.6
        value = -0.5 * away**2 + torch.log(index * (1 / (index - 0.25) + 1 / (30 - index)))
        e1, e2 = component_ellipticity(ratio, angle)
        square = e1**2 + e2**2
        # d^2 e = 4 |e| / (1 + q)^2 dq dphi, and the weak prior is even in q and phi
        value = value - 0.5 * square / 0.3**2 + 0.5 * torch.log(square.clamp_min(1e-18)) - 2 * torch.log(1 + ratio)
        magnitude = 31.4 - 2.5 * torch.log10(galaxies.flux * survey.unit_njy)
        centre = -0.45 - 0.12 * (magnitude - 23)
        return value - 0.5 * ((torch.log10(galaxies.radius[..., 0] * survey.pixel_scale_arcsec) - centre) / 0.2) ** 2

    return OneSersic(more)


# ---- GaMPEN --------------------------------------------------------------------------------------------------------


def hsc_wide_g() -> Survey:
    """Hyper Suprime-Cam Wide in g: ten minutes, 28.90 mag for 1 e/s, sky 21.4, seeing 0.79 arcsec (pixel included).

    Four readouts of 4.5 e are assumed (the i band has six of 200 s); the rest is the i band's.
    """
    survey = Survey.load("hsc-wide-i")
    return dataclasses.replace(
        survey,
        name="hsc-wide-g",
        band="HSC-G",
        electrons_per_unit=600 * 10 ** (0.4 * (28.90 - 27.0)),
        sky_mag_arcsec2=21.4,
        read_noise_e=4.5 * math.sqrt(4),
        # as for the i band: 0.61 arcsec with the pixel are 0.594 without
        psf=dataclasses.replace(survey.psf, fwhm_arcsec=math.sqrt(0.79**2 - (0.61**2 - 0.594**2))),
    )


def draw_gampen(survey: Survey, count: int, stamp_px: int, generator: torch.Generator) -> QTable:
    """GaMPEN's low-redshift sample: B/T, radius (0.2 to 4.3 arcsec) and flux (1,405 to 131,388 at 27.0) all even.

    So far its public demonstration set tells. Indices (0.8 to 1.2 and 3.5 to 5, even) and axis ratios of disks (0.25
    to 1) are as remembered of its simulator, unverified; ln of the bulge's over the disk's radius is normal about
    ln 0.4 (0.6), the bulge's axis ratio q^s, s even from 0 to 1, the angle between them within 15 degrees.
    """

    def even(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    disk_ratio, angle = even(0.25, 1), even(0, math.pi)
    turn = torch.deg2rad(even(-15, 15))
    sizes = torch.exp(math.log(0.4) + 0.6 * torch.randn(count, generator=generator, dtype=torch.float64))
    unscaled = Galaxies(
        flux=even(1405, 131_388) * 10 ** (0.4 * (survey.zero_point_mag - 27.0)),
        bulge_to_total=even(0, 1),
        x=(stamp_px - 1) / 2 + even(-1, 1),
        y=(stamp_px - 1) / 2 + even(-1, 1),
        sersic_index=torch.stack([even(0.8, 1.2), even(3.5, 5)], -1),
        radius=torch.stack([torch.ones_like(sizes), sizes], -1),
        axis_ratio=torch.stack([disk_ratio, disk_ratio ** even(0, 1)], -1),
        angle=torch.stack([angle, angle + turn], -1),
    )
    scale = even(0.2, 4.3) / survey.pixel_scale_arcsec / half_light_radius(unscaled)
    galaxies = dataclasses.replace(unscaled, radius=unscaled.radius * scale[:, None])
    return table_from_galaxies(galaxies, survey.pixel_scale_arcsec, survey.unit_njy)
