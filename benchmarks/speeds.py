"""Seconds a galaxy of network, refinement, statmorph and pysersic, in turn on the same galaxies."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from galstress.cutouts import Cutouts
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import refine
from galstress.survey import Survey
from parts import Ledger, mix, ratio_of_means
from samples import draw_block

__all__ = ["speed"]

_log = logging.getLogger("speeds")

PUBLISHED = {
    "pysersic, maximum": (2.3, 3.2),
    "pysersic, Laplace errors more": (3.5, 4.5),
    "SourceXtractor++": (2.2, 2.2),
}
"""Seconds a galaxy, measured elsewhere (two cores) or published."""


def statmorph_once(cutouts: Cutouts, row: int) -> bool:
    """One galaxy through statmorph, its single source found by a threshold; whether there was one to measure."""
    import statmorph
    from photutils.segmentation import detect_sources

    image, sigma = (t[row].double().numpy() for t in (cutouts.images, cutouts.variance.sqrt()))
    smooth = torch.nn.functional.avg_pool2d(cutouts.images[row][None, None], 3, 1, 1)[0, 0].double().numpy()
    found = detect_sources(smooth, 0.5 * float(cutouts.sky_rms[row]), 5)
    if found is None:
        return False
    middle = image.shape[0] // 2
    label = found.data[middle, middle] or found.labels[np.argmax(found.areas)]
    step, side = cutouts.psf_oversampling, cutouts.psf.shape[-1]
    psf = cutouts.psf[row, side // 2 % step :: step, side // 2 % step :: step].double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        statmorph.SourceMorphology(image, (found.data == label).astype(int), 1, weightmap=sigma, psf=psf / psf.sum())
    return True


def pysersic_once(cutouts: Cutouts, row: int, laplace: bool) -> None:
    """One galaxy through pysersic: its maximum, or (``laplace``) the maximum with Laplace errors."""
    import jax
    import pysersic
    from pysersic.loss import gaussian_loss
    from pysersic.priors import autoprior

    image, sigma = (t[row].double().numpy() for t in (cutouts.images, cutouts.variance.sqrt()))
    step, side = cutouts.psf_oversampling, cutouts.psf.shape[-1]
    psf = cutouts.psf[row, side // 2 % step :: step, side // 2 % step :: step].double().numpy()
    prior = autoprior(image=image, profile_type="sersic", mask=np.zeros(image.shape, bool))
    fitter = pysersic.FitSingle(data=image, rms=sigma, psf=psf / psf.sum(), prior=prior, loss_func=gaussian_loss)
    if laplace:
        fitter.estimate_posterior(rkey=jax.random.PRNGKey(1), method="laplace")
    else:
        fitter.find_MAP(rkey=jax.random.PRNGKey(1))


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed(network: Network, options: argparse.Namespace, ledger: Ledger) -> None:
    """Seconds a galaxy, in turn on the same blocks, on ``--threads`` threads; ratios by blocks."""
    size = min(16, options.count)
    draw = {"stamp_px": 64, "least_snr": 20.0}
    warm = draw_block(network, Survey.load("hsc-wide-i"), {"cosmos": 1.0}, 4, mix(options.seed, 1), **draw)
    refine(warm[1], warm[0], "cosmos")
    statmorph_once(warm[0], 0)
    installed = importlib.util.find_spec("pysersic") is not None
    if installed:
        pysersic_once(warm[0], 0)
    times: dict[str, list[float]] = {}
    measured, effective = [], []
    for number in range(-(-options.count // size)):
        seed = mix(options.seed, 2, number)
        cutouts, found, _ = draw_block(network, Survey.load("hsc-wide-i"), {"cosmos": 1.0}, size, seed, **draw)
        many = Cutouts.concatenate([cutouts] * 8).select(slice(0, 128))  # a network is fed in batches
        many = dataclasses.replace(many, psf=cutouts.psf[:1].expand(len(many), -1, -1))

        def all_of(once: Callable[[Cutouts, int], object], cutouts: Cutouts = cutouts) -> Callable[[], None]:
            return lambda: [once(cutouts, row) for row in range(len(cutouts))] and None

        jobs: dict[str, tuple[Callable[[], object], int]] = {
            "network, Gaussian": (lambda many=many: predict(network, many, draws=0), len(many)),
            "network": (lambda many=many: predict(network, many), len(many)),
            "refined": (
                lambda found=found, cutouts=cutouts: effective.extend(
                    refine(found, cutouts, "cosmos").effective_samples
                ),
                size,
            ),
            "statmorph": (all_of(lambda c, row: measured.append(statmorph_once(c, row))), size),
        }
        if installed:
            jobs["pysersic"] = (all_of(pysersic_once), size)
        for name, (work, galaxies) in jobs.items():
            times.setdefault(name, []).append(seconds_of(work) / galaxies)
        _log.info("block %d of %d", number + 1, -(-options.count // size))
    sample = f"hsc-wide-i, cosmos, 64 px, S/N above 20, {options.threads} thread(s)"
    for name, values in times.items():
        ledger.measure(sample, "seconds a galaxy", name, lambda x: x.mean(-1), np.asarray(values))
    for slow, fast, bar in (
        ("statmorph", "network, Gaussian", 100.0),
        ("statmorph", "network", 100.0),
        ("statmorph", "refined", 2.0),
        ("pysersic", "refined", 25.0),
    ):
        if slow in times:
            pair = np.asarray(times[slow]), np.asarray(times[fast])
            ledger.measure(sample, f"times as fast as {slow}", fast, ratio_of_means, *pair, note=f"bar {bar:g}, blocks")
    ledger.measure(sample, "effective samples, median", "refined", lambda x: np.median(x, -1), np.asarray(effective))
    ledger.add(sample, "galaxies that it found and measured", "statmorph", float(np.mean(measured)), len(measured))
    if not installed:
        for name, (low, high) in PUBLISHED.items():
            note = "not measured here: two cores elsewhere, or published; range"
            ledger.add("other machines", "seconds a galaxy", name, ((low + high) / 2, low, high), 0, note)
