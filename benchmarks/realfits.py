"""Fits of real galaxies beside those of others: network, refined, and ``galstress.fit`` without a network."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable

import numpy as np

from answers import NAMES, semi_major, share
from galstress import datasets
from galstress.cutouts import Cutouts, decode_flags
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import fit, refine
from galstress.rendering import draw_truth
from galstress.scores import bias, error_68
from parts import Ledger
from real import aperture_radius, differences, filled, load_pair
from samples import OneSersic

__all__ = ["SETS", "real"]

_log = logging.getLogger("real fits")


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
    size = np.hypot(drawn[..., NAMES.index("e1")], drawn[..., NAMES.index("e2")])
    columns = {
        "index": drawn[..., NAMES.index("disk_sersic_index")],
        "radius": semi_major(drawn),
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
        ledger.measure(f"{name}, disk + bulge", "share with B/T above 0.2", who, share, false)


def _cosmos(network: Network, ledger: Ledger, count: int) -> None:
    """Ten COSMOS galaxies with GalSim's fits, whose B/T are all below 0.2."""
    _sersic(network, ledger, "hst-cosmos-galsim235", 192, count)


def _pymorph(network: Network, ledger: Ledger, count: int) -> None:
    """Five SDSS galaxies with PyMorph's single Sersic fits; that set has no decompositions."""
    _sersic(network, ledger, "sdss-pymorph10", 128, count)


def _pair(network: Network, ledger: Ledger, count: int) -> None:
    """The same galaxies in SDSS and KiDS: chi-square per degree of freedom."""
    both = [_answers(network, cutouts.select(slice(0, count)), False) for cutouts in load_pair()]
    for who in both[0]:
        difference, error = differences(both[0][who], both[1][who])
        for place, name in enumerate(("B/T", "ln radius", "magnitude")):
            pulls = difference[place] / error[place]
            freedom = (len(pulls) - (name == "magnitude")) / len(pulls)
            note = "one offset fitted, floor 0.03 mag" if name == "magnitude" else ""

            def chi_square(values: np.ndarray, freedom: float = freedom) -> np.ndarray:
                return (values**2).mean(-1) / freedom

            ledger.measure("SDSS less KiDS", f"chi-square a degree, {name}", who, chi_square, pulls, note=note)
            ledger.measure("SDSS less KiDS", f"68 % difference in {name}", who, error_68, difference[place])
            _log.info("    %s in units of its error: %s", name, np.round(pulls, 1))
        for survey, answers in zip(("SDSS", "KiDS"), both, strict=True):
            for row in range(len(answers[who])):
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
        ledger.measure(sample, "mean |error| of B/T less a constant's", who, share, better, note="paired")
        low, high = prediction.quantile([0.025, 0.975])[:, :, 0]
        covered = ((low <= published) & (published <= high)).astype(float)
        ledger.measure(sample, "labels inside 95 % of B/T", who, share, covered, note="labels have errors, too")
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.log(aperture_radius(model, inside) / radius)
        ledger.measure(sample, "68 % error of ln aperture radius", who, error_68, error, note="on the model")
        ledger.measure(sample, "bias of ln aperture radius", who, bias, error)
        if prediction.chi_square is not None and prediction.effective_samples is not None:
            ledger.measure(sample, "chi-square a degree, median", who, bias, prediction.chi_square)
            ledger.measure(sample, "effective samples, median", who, bias, prediction.effective_samples)
            few = (prediction.effective_samples < 100).astype(float)
            ledger.measure(sample, "share below 100 effective samples", who, share, few)
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


def real(network: Network, options: argparse.Namespace, ledger: Ledger) -> None:
    """All sets, or those of ``--only``; at most ``--count`` galaxies of each."""
    for name in options.only or SETS:
        _log.info("%s: %s", name, (SETS[name].__doc__ or "").splitlines()[0])
        SETS[name](network, ledger, options.count)
