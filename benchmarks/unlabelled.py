"""Checks on real galaxies that need no measured label.

    python benchmarks/unlabelled.py bands --out docs/results/realism
    python benchmarks/unlabelled.py pair --out docs/results/realism
    python benchmarks/unlabelled.py visual --out docs/results/realism
    python benchmarks/unlabelled.py zoo --out docs/results/realism
    python benchmarks/unlabelled.py fits --out docs/results/realism

Needs the real images (``GALSTRESS_DATA``). ``bands``: B/T of one galaxy in F606W, F814W and F125W, which should rise
with wavelength in the median, since bulges are redder than disks; the sky of these stamps is zero, so that noise is
what the set's reader says and only pixels inside the segment count, and their zero points are not AB, which B/T does
not need. ``pair``: two crowded fields that HSC and HST both saw, their central galaxies one by one; fluxes of these
files are arbitrary, so B/T, radius and shape are compared. ``visual``: B/T beside shares of visual votes. ``zoo``: B/T
from 8-bit pictures beside the bulge that Galaxy Zoo's experts saw. ``fits``: chi-square a degree of freedom of the best
disk + bulge on every real stamp (or the first ``--count`` of a set, evenly spread), beside simulated galaxies with the
same models, smooth and structured.

Each adds an entry to ``summary.json``; intervals hold 68 % where not said otherwise, over galaxies.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import image as pictures
from scipy import stats

import galstress
from galstress import datasets
from galstress.cutouts import Cutouts, Flag
from galstress.loading import Frame, assemble
from galstress.networks import Network
from galstress.prediction import predict
from galstress.realism import load_skies
from galstress.refinement import refine
from galstress.scores import bootstrap
from galstress.survey import Psf, Survey
from real import column, filled
from realism import write
from twins import make_twins

SEED = 980_000
BANDS = ("F606W", "F814W", "F125W")
SETS = (
    ("hst-candels-bd201", "F814W"), ("hst-candels-gds17", "F160W"), ("hst-candels-gds17", "F125W"),
    ("hst-cosmos-btk100", "F814W"), ("hst-cosmos-galsim235", "F814W"), ("hsc-cosmos-udeep147", "i"),
    ("pair-sdss-kids-profit10", "sdss-r"), ("pair-sdss-kids-profit10", "kids-r"), ("sdss-pymorph10", "r"),
)  # fmt: skip
"""Real stamps that are fitted."""
BULGE = {"No bulge": 0, "Just noticeable": 1, "Obvious": 2, "Dominant": 3}
SOFTENINGS = (0.0, 2.0, 4.0)
"""Of the asinh that pictures are taken to be stretched by; 0: they are taken to be linear."""
PICTURE_FWHM_PX = 3.0
_log = logging.getLogger("unlabelled")

# ---- one galaxy in three bands -------------------------------------------------------------------------------------


def bands(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Paired differences of B/T between bands: of the network, and refined on every sixth galaxy."""
    sets = [datasets.load("hst-candels-bd201", band, stamp_px=128) for band in BANDS]
    answers = {"network": [predict(network, cutouts, average=True) for cutouts in sets]}
    rows = np.arange(0, len(sets[0]), 6)
    few = [cutouts.select(rows) for cutouts in sets]
    answers["refined"] = [
        refine(predict(network, cutouts), cutouts, seed=SEED, effective=options.effective) for cutouts in few
    ]
    found: dict[str, object] = {"stamp_px": 128}
    for who, predictions in answers.items():
        shares = [np.where(each.usable, column(each, "bulge_to_total"), np.nan) for each in predictions]
        medians = {band: float(np.nanmedian(share)) for band, share in zip(BANDS, shares, strict=True)}
        record: dict[str, object] = {"galaxies": len(shares[0]), "median": medians}
        for first, second in ((0, 1), (1, 2), (0, 2)):
            record[f"{BANDS[second]} less {BANDS[first]}"] = compare_pairs(shares[second] - shares[first])
        if who == "refined":
            fitted = {band: each.chi_square for band, each in zip(BANDS, predictions, strict=True)}
            record["median_chi_square"] = {band: np.nanmedian(value) for band, value in fitted.items()}
            record["rule"] = "every sixth galaxy, from the first"
        found[who] = record
        _log.info("%s: %s", who, record)
    return found


def compare_pairs(difference: np.ndarray) -> dict[str, float]:
    """Median, share above 0 and a sign test (two-sided) of paired differences."""
    kept = difference[np.isfinite(difference)]
    middle, rising = (
        bootstrap(statistic, kept, seed=SEED) for statistic in (lambda x: np.median(x, -1), lambda x: (x > 0).mean(-1))
    )
    test = stats.binomtest(int((kept > 0).sum()), int((kept != 0).sum()))
    return {
        "count": len(kept), "median": middle[0], "median_low": middle[1], "median_high": middle[2],
        "share_rising": rising[0], "share_rising_low": rising[1], "share_rising_high": rising[2],
        "sign_test_p": test.pvalue,
    }  # fmt: skip


# ---- ranks ---------------------------------------------------------------------------------------------------------


def pair(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """B/T, radius and shape of the same galaxies by HSC and by HST, and their difference in stated errors."""
    del options
    seen = [
        predict(network, datasets.load("pair-hsc-hst-cosmos", band), average=True) for band in ("hsc-i", "hst-f814w")
    ]
    found: dict[str, object] = {"galaxies": len(seen[0])}
    for name in ("bulge_to_total", "half_light_radius_arcsec", "e1", "e2"):
        values = np.stack([column(each, name) for each in seen])
        sigma = np.stack([each.std[:, each.names.index(name)] for each in seen])
        difference = (values[0] - values[1]) / np.hypot(*sigma)
        found[name] = {"hsc": values[0].tolist(), "hst": values[1].tolist(), "in_sigma": difference.tolist()}
        _log.info("%s: %s", name, found[name])
    return found


def rank(values: np.ndarray, answers: np.ndarray) -> dict[str, float]:
    """Spearman's coefficient with its 95 % bootstrap interval, Kendall's tau-b, and Spearman's p."""
    good = np.isfinite(values) & np.isfinite(answers)
    x, y = values[good], answers[good]
    if len(x) < 5 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"count": len(x)}
    rng, draws = np.random.default_rng(SEED), []
    for _ in range(1000):
        rows = rng.integers(len(x), size=len(x))
        if np.ptp(x[rows]) > 0 and np.ptp(y[rows]) > 0:
            draws.append(stats.spearmanr(x[rows], y[rows])[0])
    low, high = np.quantile(draws, [0.025, 0.975])
    spearman = stats.spearmanr(x, y)
    return {
        "count": len(x), "spearman": spearman[0], "spearman_low_95": low, "spearman_high_95": high,
        "p": spearman[1], "kendall": stats.kendalltau(x, y)[0],
    }  # fmt: skip


def visual(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """B/T beside the share of votes for a spheroid less that for a disk, a galaxy once."""
    del options
    found: dict[str, object] = {}
    for band in ("F160W", "F125W"):
        cutouts = datasets.load("hst-candels-gds17", band)
        # one object lies in two mosaics
        numbers = [str(name).rsplit("_", 1)[-1] for name in cutouts.object_id]
        cutouts = cutouts.select(np.sort(np.unique(numbers, return_index=True)[1]))
        prediction = predict(network, cutouts, average=True)
        share = np.where(prediction.usable, column(prediction, "bulge_to_total"), np.nan)
        smooth, disk = (filled(cutouts.catalogue[f"lit_{vote}"]) for vote in ("p_smooth", "p_features"))
        flagged = float(np.mean((prediction.flags & int(Flag.OUT_OF_DOMAIN | Flag.FAINT)) > 0))
        found[band] = rank(share, smooth - disk) | {"flagged_share": flagged, "median": np.nanmedian(share)}
        _log.info("%s: %s", band, found[band])
    return found


# ---- pictures ------------------------------------------------------------------------------------------------------


def load_pictures(softening: float, trees: Sequence[str] | None = None) -> tuple[Cutouts, np.ndarray, np.ndarray]:
    """Pictures with an answer on the bulge's prominence, of all imaging sets or some: Cutouts, answers (0 to 3), sets.

    The mean of the three colours v (0 to 1) is taken to be asinh(Q x) / asinh(Q) of the light x; nobody says what Q
    is, nor the pixel scale, which differs from picture to picture. So all lengths are in pixels, the PSF is 3 pixels
    wide, sky and noise are measured around the galaxy, and a step of 1/255 adds its own noise. The same picture under
    two names counts once.
    """
    folder = Path(os.environ["GALSTRESS_DATA"]) / "jpg_galaxyzoo_examples"
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["question"].startswith("How prominent")]
        lines = [line for line in lines if trees is None or line["tree"] in trees]
    frames, answers, sets, seen = [], [], [], set()
    for line in lines:
        digest = hashlib.sha256((folder / line["file"]).read_bytes()).hexdigest()
        if digest in seen:
            continue
        seen.add(digest)
        value = np.asarray(pictures.imread(folder / line["file"]), float)[..., :3].mean(-1) / 255
        light = np.sinh(softening * value) / np.sinh(softening) if softening else value
        name = Path(line["file"]).stem
        frames.append(Frame(name, image=1000 * light, flags=Flag.ZERO_POINT_ASSUMED, pixel_scale_arcsec=0.4))
        answers.append(BULGE[line["answer"]])
        sets.append(line["tree"])
    survey = dataclasses.replace(
        Survey.load("sdss-r"), name="pictures", psf=Psf("moffat", 0.4 * PICTURE_FWHM_PX, beta=3.0),
        pixel_scale_arcsec=0.4, electrons_per_unit=1e6, stamp_px=200, published_depth={},
    )  # fmt: skip
    cutouts = assemble(frames, survey, subtract_sky=True)
    rounding = (1000 / 255) ** 2 / 12
    variance = cutouts.variance + rounding
    rms = (cutouts.sky_rms**2 + rounding).sqrt()
    return dataclasses.replace(cutouts, variance=variance, sky_rms=rms), np.array(answers), np.array(sets)


def zoo(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Rank correlation with the answers, over all sets (ranks within each) and set by set, for each softening."""
    del options
    found: dict[str, object] = {}
    for softening in SOFTENINGS:
        cutouts, answers, sets = load_pictures(softening)
        prediction = predict(network, cutouts, average=True)
        share = np.where(prediction.usable, column(prediction, "bulge_to_total"), np.nan)
        record: dict[str, object] = {"all": rank(share, answers)}
        record["flagged_share"] = np.mean((prediction.flags & int(Flag.OUT_OF_DOMAIN | Flag.OFF_CENTRE)) > 0)
        within = np.full(len(share), np.nan)
        for name in np.unique(sets):
            rows = np.flatnonzero((sets == name) & np.isfinite(share))
            if len(rows) >= 5:
                record[str(name)] = rank(share[rows], answers[rows])
                within[rows] = (stats.rankdata(share[rows]) - 0.5) / len(rows)
        record["ranks_within_sets"] = rank(within, answers)
        record["median_by_answer"] = {word: np.nanmedian(share[answers == n]) for word, n in BULGE.items()}
        found[f"softening {softening:g}"] = record
        _log.info("softening %g: %s", softening, record)
    return found | {"fwhm_px": PICTURE_FWHM_PX}


# ---- chi-square ----------------------------------------------------------------------------------------------------


def fits(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Chi-square a degree of the best model on real stamps and on simulated ones of the same models."""
    found: dict[str, object] = {
        "rule": f"at most {options.count} of a set, evenly spread; central {options.stamp} pixels"
    }
    for name, band in SETS:
        cutouts = datasets.load(name, band, stamp_px=options.stamp)
        cutouts = cutouts.select(np.unique(np.linspace(0, len(cutouts) - 1, options.count).astype(int)))
        cutouts = cutouts.select(np.flatnonzero(predict(network, cutouts).usable))
        record: dict[str, object] = {"real": fit_well(network, cutouts, options.effective)}
        models = predict(network, cutouts, average=True).truth_like()
        survey = dataclasses.replace(cutouts.survey, stamp_px=options.stamp)
        for label, structured in (("smooth", False), ("structured", True)):
            twins = make_twins(models, survey, drawn_patches(cutouts), seed=SEED, structured=structured)
            twins = dataclasses.replace(twins, mask=cutouts.mask, neighbour_mask=cutouts.neighbour_mask)
            record[label] = fit_well(network, twins, options.effective)
        found[f"{name} {band}"] = record
        _log.info("%s %s: %s", name, band, {who: figures["median"] for who, figures in record.items()})
    return found


def drawn_patches(cutouts: Cutouts) -> Cutouts:
    """Patches that twins take shapes and names from; they look through the survey's PSF in drawn noise."""
    survey = dataclasses.replace(cutouts.survey, name=f"drawn {cutouts.survey.name}", stamp_px=cutouts.images.shape[-1])
    return load_skies(survey, len(cutouts), seed=SEED)


def fit_well(network: Network, cutouts: Cutouts, effective: int) -> dict[str, float]:
    """Median chi-square a degree of freedom, and shares above 1.1 and flagged as badly described."""
    refined = refine(predict(network, cutouts), cutouts, seed=SEED, effective=effective)
    assert refined.chi_square is not None
    kept = refined.chi_square[np.isfinite(refined.chi_square)]
    middle, above = (
        bootstrap(statistic, kept, seed=SEED)
        for statistic in (lambda x: np.median(x, -1), lambda x: (x > 1.1).mean(-1))
    )
    return {
        "count": len(kept), "median": middle[0], "median_low": middle[1], "median_high": middle[2],
        "share_above_1.1": above[0], "share_above_1.1_low": above[1], "share_above_1.1_high": above[2],
        "bad_fit_share": float(np.mean((refined.flags & int(Flag.BAD_FIT)) > 0)),
    }  # fmt: skip


RUNS: dict[str, Callable[[argparse.Namespace, Network], dict[str, object]]] = {
    "bands": bands,
    "pair": pair,
    "visual": visual,
    "zoo": zoo,
    "fits": fits,
}


def main() -> None:
    """Parse, measure, write."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--network", default="foveal")
    parser.add_argument("--count", type=int, default=20, help="galaxies of a set that fits takes")
    parser.add_argument("--stamp", type=int, default=64, help="pixels that fits takes")
    parser.add_argument("--effective", type=int, default=50, help="effective samples of a refinement")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    found = RUNS[options.what](options, Network.load(options.network))
    words = f" --count {options.count} --stamp {options.stamp}" if options.what == "fits" else ""
    words += f" --effective {options.effective}" if options.what in ("fits", "bands") else ""
    record = {"command": f"python benchmarks/unlabelled.py {options.what}{words}", "version": galstress.__version__}
    write({**record, "network": options.network, "seed": SEED, **found}, options.out / "summary.json", options.what)


if __name__ == "__main__":
    main()
