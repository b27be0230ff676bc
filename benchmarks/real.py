"""What the shipped network says of real galaxies that others have measured.

    GALSTRESS_DATA=... python benchmarks/real.py --network foveal
    GALSTRESS_DATA=... python benchmarks/real.py labels --out docs/results/hst-labels

Three comparisons, each printed with its sample and a 68 % bootstrap interval:
ten COSMOS galaxies with Sersic fits (radius, like for like: circularised, to infinity);
``hst-candels-bd201`` (the aperture radius measured on the posterior's model inside the same
segment, against the catalogue's; B/T against the published decomposition and against always
guessing its median); the same galaxies in SDSS and KiDS (differences in units of their errors).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from astropy.table import QTable

import galstress
from galstress import datasets
from galstress.cutouts import Cutouts
from galstress.finetuning import Tuning, cross_validate
from galstress.galaxy import Galaxies, half_light_radius
from galstress.heads import Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.rendering import draw_truth
from galstress.scores import bootstrap, error_68

SEED = 990_000
_log = logging.getLogger("real")


def say(name: str, errors: np.ndarray, unit: str = "") -> None:
    """One line: 68 % error with its interval, bias and sample."""
    errors = errors[np.isfinite(errors)]
    value, low, high = bootstrap(error_68, errors, seed=0)
    line = "%s: 68 %% error %.3f (%.3f to %.3f) %s, median %+.3f, N = %d"
    _log.info(line, name, value, low, high, unit, float(np.median(errors)), len(errors))


def column(prediction: Prediction, name: str) -> np.ndarray:
    """Posterior medians of one output."""
    return prediction.quantile([0.5])[0][:, prediction.names.index(name)]


def filled(values: object) -> np.ndarray:
    """A catalogue column as floats, NaN where masked."""
    return np.ma.filled(np.ma.asarray(np.ma.masked_invalid(getattr(values, "value", values))).astype(float), np.nan)


def cosmos(network: Network, average: bool) -> None:
    """Radius of ten COSMOS galaxies against their Sersic fits."""
    cutouts = datasets.load("hst-cosmos-galsim235", stamp_px=192)
    prediction = predict(network, cutouts, average=average)
    catalogue = cutouts.catalogue
    circular = filled(catalogue["lit_half_light_radius_arcsec"]) * np.sqrt(filled(catalogue["lit_axis_ratio"]))
    radius = column(prediction, "half_light_radius_arcsec")
    say("hst-cosmos-galsim235 ln radius", np.log(radius / circular))
    magnitude = 31.4 - 2.5 * np.log10(column(prediction, "flux_njy"))
    for row in range(len(cutouts)):
        line = "  %s: radius %.3f against %.3f arcsec, B/T %.2f against %.2f, mag %.2f against %.2f"
        published = [filled(catalogue[f"lit_{name}"])[row] for name in ("bulge_to_total", "mag_ab")]
        share = column(prediction, "bulge_to_total")[row]
        name = cutouts.object_id[row]
        _log.info(line, name, radius[row], circular[row], share, published[0], magnitude[row], published[1])


def aperture_radius(images: torch.Tensor, inside: torch.Tensor) -> np.ndarray:
    """Radius in pixels of the circle about the light's centre that holds half of the light inside the segment."""
    light = torch.where(inside, images, 0.0).clamp_min(0)
    axis = torch.arange(images.shape[-1], dtype=images.dtype)
    total = light.sum((1, 2))
    x, y = (light.sum(1) @ axis) / total, (light.sum(2) @ axis) / total
    distance = torch.hypot(axis[None, None, :] - x[:, None, None], axis[None, :, None] - y[:, None, None])
    result = []
    for row in range(len(images)):
        order = torch.argsort(distance[row].flatten())
        growth = torch.cumsum(light[row].flatten()[order], 0) / total[row]
        result.append(float(np.interp(0.5, growth.numpy(), distance[row].flatten()[order].numpy())))
    return np.asarray(result)


def candels(network: Network, average: bool) -> None:
    """Aperture radius on the posterior's model, and B/T, of the CANDELS stamps."""
    cutouts = datasets.load("hst-candels-bd201", band="F814W", stamp_px=192)
    prediction = predict(network, cutouts, average=average)
    usable = prediction.usable
    cutouts, prediction = cutouts.select(usable), prediction.select(usable)
    truth = prediction.truth_like()
    model = draw_truth(truth, cutouts.psf, cutouts.psf_oversampling, cutouts.survey, cutouts.images.shape[-1])
    inside = ~cutouts.mask
    catalogue = cutouts.catalogue
    label = filled(catalogue["lit_half_light_radius_arcsec"]) / cutouts.survey.pixel_scale_arcsec
    say("hst-candels-bd201 ln aperture radius of the model", np.log(aperture_radius(model, inside) / label))
    say("  the same measured on the image itself", np.log(aperture_radius(cutouts.images, inside) / label))
    good = filled(catalogue["lit_bt_consistent"]) == 1
    published = filled(catalogue["lit_bulge_to_total"])
    share = column(prediction, "bulge_to_total")
    good &= np.isfinite(published) & np.isfinite(share)
    say("hst-candels-bd201 B/T", (share - published)[good])
    say("  always the published median", (np.median(published[good]) - published)[good])
    better = np.abs(share - published)[good] - np.abs(np.median(published[good]) - published)[good]
    value, low, high = bootstrap(lambda x: x.mean(-1), better, seed=0)
    _log.info("  paired: mean |error| less the constant's %+.3f (%.3f to %.3f)", value, low, high)


def pair(network: Network, average: bool) -> None:
    """The same galaxies in SDSS and KiDS."""
    both: list[tuple[Cutouts, Prediction]] = []
    for band in ("sdss-r", "kids-r"):
        cutouts = datasets.load("pair-sdss-kids-profit10", band=band, stamp_px=192)
        both.append((cutouts, predict(network, cutouts, average=average)))
    first, second = (prediction for _, prediction in both)
    values, sigmas = [], []
    for prediction in (first, second):
        low, middle, high = prediction.quantile([0.16, 0.5, 0.84])
        values.append(np.stack([middle[:, 0], np.log(middle[:, 1]), -2.5 * np.log10(middle[:, 2])]))
        width = [high[:, 0] - low[:, 0], np.log(high[:, 1] / low[:, 1]), 2.5 * np.log10(high[:, 2] / low[:, 2])]
        sigmas.append(np.stack(width) / 2)
    difference = values[0] - values[1]
    difference[2] -= np.nanmedian(difference[2])
    error = np.sqrt(sigmas[0] ** 2 + sigmas[1] ** 2)
    error[2] = np.hypot(error[2], 0.03)
    for place, name in enumerate(("B/T", "ln radius", "magnitude (one offset fitted)")):
        say(f"SDSS less KiDS, {name}", difference[place])
        pulls = difference[place] / error[place]
        _log.info("  in units of its error: %s, rms %.2f", np.round(pulls, 1), float(np.sqrt(np.nanmean(pulls**2))))


def labels_of(cutouts: Cutouts) -> QTable:
    """B/T, radius of the whole galaxy (circularised, before the PSF) and magnitude of the published models.

    Where a component has shrunk to less than 0.01 arcsec, the fit has failed and there is no radius.
    """
    catalogue = cutouts.catalogue
    share = filled(catalogue["lit_bulge_to_total"])
    sizes, ratios = (
        torch.as_tensor(np.stack([filled(catalogue[f"lit_{part}_{name}"]) for part in ("disk", "bulge")], -1))
        for name in ("half_light_radius_arcsec", "axis_ratio")
    )
    whole = torch.as_tensor(share)
    index = torch.tensor([1.0, 4.0], dtype=whole.dtype).expand_as(sizes)
    model = Galaxies(
        x=0 * whole, y=0 * whole, flux=1 + 0 * whole, bulge_to_total=whole, sersic_index=index, radius=sizes,
        axis_ratio=ratios, angle=0 * sizes,
    )  # fmt: skip
    broken = ~(sizes * ratios.sqrt() > 0.01).all(-1)
    return QTable(
        {
            "bulge_to_total": share,
            "half_light_radius_arcsec": torch.where(broken, torch.nan, half_light_radius(model)).numpy(),
            "mag_ab": filled(catalogue["lit_fit_mag_ab"]),
        }
    )


def labels(network: Network, options: argparse.Namespace) -> None:
    """Out-of-fold errors on both samples, and on the physical ones within the larger, into ``summary.json``."""
    from realism import plain, write

    cutouts = datasets.load("hst-candels-bd201", band="F814W", stamp_px=128)
    sizes = [filled(cutouts.catalogue[f"lit_{part}_half_light_radius_arcsec"]) for part in ("bulge", "disk")]
    consistent = filled(cutouts.catalogue["lit_bt_consistent"]) == 1
    tuning = Tuning(steps=options.steps)
    for name, chosen in (("physical", consistent & (sizes[0] < sizes[1])), ("consistent", consistent)):
        sample = cutouts.select(np.flatnonzero(chosen))
        found = cross_validate(
            network, sample, labels_of(sample), policies=options.policies, tuning=tuning, seed=SEED, progress=True
        )
        _log.info("%s, %d galaxies: %s", name, len(sample), found.sentence)
        guess = np.asarray(found.values["label_bulge_to_total"])
        words = f"--steps {options.steps} --policies {' '.join(options.policies)}"
        record = {
            "command": f"python benchmarks/real.py labels {words}",
            "version": galstress.__version__, "network": options.network, "seed": SEED, "galaxies": len(sample),
            "steps": tuning.steps, "folds": tuning.folds, "stamp_px": 128, "sentence": found.sentence,
            "rms_bulge_to_total_of_the_mean": float(guess[np.isfinite(guess)].std()),
            "table": [{key: plain(row[key]) for key in found.table.colnames} for row in found.table],
        }  # fmt: skip
        write(record, options.out / "summary.json", name)


def main() -> None:
    """Parse and run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="compare", choices=("compare", "labels"))
    parser.add_argument("--network", default="foveal")
    parser.add_argument("--average", action="store_true", help="average over the eight turns and mirrors")
    parser.add_argument("--steps", type=int, default=80, help="of fine-tuning")
    parser.add_argument("--policies", nargs="+", default=["head", "last:1"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    network = Network.load(options.network)
    if options.what == "labels":
        labels(network, options)
        return
    for compare in (cosmos, candels, pair):
        compare(network, options.average)


if __name__ == "__main__":
    main()
