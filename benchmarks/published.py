"""Samples that others have published figures of, and real galaxies that others have measured (see ``fits.py``).

GaMPEN's and the Euclid Morphology Challenge's simulated samples, a prior of single Sersic profiles; ten COSMOS galaxies
with GalSim's fits, five SDSS galaxies with PyMorph's, seven galaxies in SDSS and KiDS, and CANDELS galaxies with a
published decomposition.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress import datasets
from galstress.cutouts import Cutouts, decode_flags
from galstress.galaxy import Galaxies, component_ellipticity, half_light_radius, table_from_galaxies
from galstress.heads import INTERNAL_NAMES, OUTPUTS, Prediction, Reference, from_internal
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import WeakPrior, fit, refine
from galstress.refinement.priors import EDGE, SHARE, Normal, kind_of
from galstress.rendering import draw_truth
from galstress.scores import bias, error_68
from galstress.survey import Survey
from posteriors import Ledger, mean
from real import aperture_radius, filled

_INDEX = (0.5, 6.0)
_NAMES = tuple(OUTPUTS)
_log = logging.getLogger("published")


def semi_major(e1: np.ndarray, e2: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Semi-major half-light radius of the whole, R / sqrt(q)."""
    size = np.hypot(e1, e2)
    return radius * np.sqrt((1 + size) / (1 - size))


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


# ---- real galaxies -------------------------------------------------------------------------------------------------


def _answers(network: Network, cutouts: Cutouts, sersic: bool) -> dict[str, Prediction]:
    """What network, refinement and fit say; ``sersic``: of a single Sersic profile, else of disk + bulge."""
    found = predict(network, cutouts)
    prior = OneSersic() if sersic else None
    answers, seconds = {"network": found}, {}
    for name, work in (
        ("refined", lambda: refine(found, cutouts, prior)),
        ("fit", lambda: fit(cutouts, prior)),
    ):
        start = time.perf_counter()
        answers[name] = work()
        seconds[name] = (time.perf_counter() - start) / max(len(cutouts), 1)
    _log.info("  seconds a galaxy: %s", ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    return answers


def _checks(prediction: Prediction, row: int) -> str:
    """Effective samples, chi-square and flags of one galaxy."""
    if prediction.effective_samples is None or prediction.chi_square is None:
        return ""
    flags = ", ".join(decode_flags(int(prediction.flags[row])))
    return f"effective {prediction.effective_samples[row]:.0f}, chi2 {prediction.chi_square[row]:.2f} {flags}"


def _medians(prediction: Prediction) -> dict[str, np.ndarray]:
    """Index, semi-major radius of the whole, axis ratio and B/T: medians of the draws."""
    drawn = prediction.sample(512, 0)
    size = np.hypot(drawn[..., _NAMES.index("e1")], drawn[..., _NAMES.index("e2")])
    columns = {
        "index": drawn[..., _NAMES.index("disk_sersic_index")],
        "radius": semi_major(drawn[..., 3], drawn[..., 4], drawn[..., 1]),
        "axis ratio": (1 - size) / (1 + size),
        "B/T": drawn[..., 0],
    }
    return {name: np.median(values, 0) for name, values in columns.items()}


def _sersic(network: Network, ledger: Ledger, name: str, stamp_px: int, count: int) -> None:
    """Galaxies with single Sersic fits: index, radius, axis ratio one by one; B/T of disk + bulge."""
    cutouts = datasets.load(name, stamp_px=stamp_px, limit=count)
    catalogue = cutouts.catalogue
    label = {
        "index": filled(catalogue["lit_sersic_index"]),
        "radius": filled(catalogue["lit_half_light_radius_arcsec"]),
        "axis ratio": filled(catalogue["lit_axis_ratio"]),
    }
    single, double = (_answers(network, cutouts, sersic) for sersic in (True, False))
    one = {who: _medians(single[who]) for who in ("refined", "fit")}
    two = {who: _medians(prediction) for who, prediction in double.items()}
    for row, title in enumerate(cutouts.object_id):
        _log.info("%s  n %.2f, R %.3f arcsec, q %.2f by others", title, *(label[key][row] for key in label))
        for who, values in one.items():
            line = "    %-8s one Sersic: n %.2f, R %.3f arcsec, q %.2f; %s"
            _log.info(line, who, *(values[key][row] for key in label), _checks(single[who], row))
        for who, values in two.items():
            line = "    %-8s disk + bulge: B/T %.2f, R %.3f arcsec, q %.2f; %s"
            figures = (values[key][row] for key in ("B/T", "radius", "axis ratio"))
            _log.info(line, who, *figures, _checks(double[who], row))
    samples = {f"{name}, one Sersic": one, f"{name}, disk + bulge": two}
    for sample, answers in samples.items():
        for who, values in answers.items():
            for key, published in label.items():
                if key == "index" and answers is two:
                    continue
                ratio = key != "axis ratio"
                error = np.log(values[key] / published) if ratio else values[key] - published
                what = f"ln {key}" if ratio else key
                ledger.measure(sample, f"68 % error of {what}", who, error_68, error)
                ledger.measure(sample, f"bias of {what}", who, bias, error)
    for who, values in two.items():
        false = (values["B/T"] > 0.2).astype(float)
        ledger.measure(f"{name}, disk + bulge", "share with B/T above 0.2", who, mean, false)


def _cosmos(network: Network, ledger: Ledger, count: int) -> None:
    """Ten COSMOS galaxies with GalSim's fits, whose B/T are all below 0.2."""
    _sersic(network, ledger, "hst-cosmos-galsim235", 192, count)


def _pymorph(network: Network, ledger: Ledger, count: int) -> None:
    """Five SDSS galaxies with PyMorph's single Sersic fits; that set has no decompositions."""
    _sersic(network, ledger, "sdss-pymorph10", 128, count)


def _pair(network: Network, ledger: Ledger, count: int) -> None:
    """The same galaxies in SDSS and KiDS: chi-square per degree of freedom."""
    both = []
    for band in ("sdss-r", "kids-r"):
        cutouts = datasets.load("pair-sdss-kids-profit10", band=band, stamp_px=128, limit=count)
        both.append(_answers(network, cutouts, False))
    for who in both[0]:
        values, sigmas = [], []
        for answers in both:
            low, middle, high = answers[who].quantile([0.16, 0.5, 0.84])
            values.append(np.stack([middle[:, 0], np.log(middle[:, 1]), -2.5 * np.log10(middle[:, 2])]))
            widths = [high[:, 0] - low[:, 0], np.log(high[:, 1] / low[:, 1]), 2.5 * np.log10(high[:, 2] / low[:, 2])]
            sigmas.append(np.stack(widths) / 2)
        difference, error = values[0] - values[1], np.hypot(*sigmas)
        difference[2] -= np.nanmedian(difference[2])
        error[2] = np.hypot(error[2], 0.03)
        for place, name in enumerate(("B/T", "ln radius", "magnitude")):
            pulls = difference[place] / error[place]
            freedom = 1 - (name == "magnitude") / len(pulls)
            note = "one offset fitted, floor 0.03 mag" if name == "magnitude" else ""

            def chi_square(values: np.ndarray, freedom: float = freedom) -> np.ndarray:
                return (values**2).mean(-1) / freedom

            ledger.measure("SDSS less KiDS", f"chi-square a degree, {name}", who, chi_square, pulls, note=note)
            ledger.measure("SDSS less KiDS", f"68 % difference in {name}", who, error_68, difference[place])
            _log.info("    %s in units of its error: %s", name, np.round(pulls, 1))
        for survey, answers in zip(("SDSS", "KiDS"), both, strict=True):
            for row in range(len(answers[who]) if who != "network" else 0):
                _log.info("    %s %s %s", survey, answers[who].object_id[row], _checks(answers[who], row))


def _candels(network: Network, ledger: Ledger, count: int) -> None:
    """CANDELS galaxies with a trusted decomposition and a bulge smaller than the disk, fitted inside their segments."""
    cutouts = datasets.load("hst-candels-bd201", band="F814W", stamp_px=128)
    catalogue = cutouts.catalogue
    sizes = [filled(catalogue[f"lit_{part}_half_light_radius_arcsec"]) for part in ("bulge", "disk")]
    rows = np.flatnonzero((filled(catalogue["lit_bt_consistent"]) == 1) & (sizes[0] < sizes[1]))[:count]
    cutouts = cutouts.select(rows)
    catalogue = cutouts.catalogue
    published = filled(catalogue["lit_bulge_to_total"])
    radius = filled(catalogue["lit_half_light_radius_arcsec"]) / cutouts.survey.pixel_scale_arcsec
    sample, inside = "hst-candels-bd201, bulge below disk", ~cutouts.mask
    for who, prediction in _answers(network, cutouts, False).items():
        model = draw_truth(
            prediction.truth_like(), cutouts.psf, cutouts.psf_oversampling, cutouts.survey, cutouts.images.shape[-1]
        )
        found = _medians(prediction)["B/T"]
        error = found - published
        ledger.measure(sample, "68 % error of B/T", who, error_68, error)
        ledger.measure(sample, "bias of B/T", who, bias, error)
        better = np.abs(error) - np.abs(np.median(published) - published)
        ledger.measure(sample, "mean |error| of B/T less a constant's", who, mean, better, note="paired")
        low, high = prediction.quantile([0.025, 0.975])[:, :, 0]
        covered = ((low <= published) & (published <= high)).astype(float)
        ledger.measure(sample, "labels inside 95 % of B/T", who, mean, covered, note="labels have errors, too")
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.log(aperture_radius(model, inside) / radius)
        ledger.measure(sample, "68 % error of ln aperture radius", who, error_68, error, note="on the model")
        ledger.measure(sample, "bias of ln aperture radius", who, bias, error)
        if prediction.chi_square is not None and prediction.effective_samples is not None:
            ledger.measure(sample, "chi-square a degree, median", who, bias, prediction.chi_square)
            ledger.measure(sample, "effective samples, median", who, bias, prediction.effective_samples)
            few = (prediction.effective_samples < 100).astype(float)
            ledger.measure(sample, "share below 100 effective samples", who, mean, few)
        if who == "fit":
            for row, title in enumerate(cutouts.object_id):
                figures = found[row], low[row], high[row], published[row]
                _log.info("    %s B/T %.2f (%.2f to %.2f) against %.2f; %s", title, *figures, _checks(prediction, row))
    guess = np.median(published) - published
    ledger.measure(sample, "68 % error of B/T", "constant", error_68, guess)
    on_image = np.log(aperture_radius(cutouts.images, inside) / radius)
    ledger.measure(sample, "68 % error of ln aperture radius", "image", error_68, on_image, note="measured on pixels")


SETS: dict[str, Callable[[Network, Ledger, int], None]] = {
    "cosmos": _cosmos,
    "pymorph": _pymorph,
    "pair": _pair,
    "candels": _candels,
}
"""What is compared, by name."""


def compare_real(options: argparse.Namespace, ledger: Ledger) -> None:
    """All sets, or those of ``--only``; at most ``--count`` galaxies of each."""
    network = Network.load(options.network)
    for name in options.only or SETS:
        _log.info("%s: %s", name, (SETS[name].__doc__ or "").splitlines()[0])
        SETS[name](network, ledger, options.count)
