"""The renderer beside GalSim: speed and accuracy, in one run on one thread.

    python benchmarks/renderer.py speed
    python benchmarks/renderer.py accuracy --count 200

GalSim draws with converged settings (folding 1e-4, maxk 1e-5, kvalue 1e-7) through the same
effective PSF image. ``speed``: 64-pixel HSC stamps, free indices, and indices rounded to 0.05 so that
GalSim's caches hit. ``accuracy``: random galaxies on every survey, indices 0.5 to 6, radii up to a
third of the stamp; the largest difference in units of the peak, and of the flux in the stamp.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import time

import galsim
import numpy as np
import torch

from galstress.galaxy import Galaxies
from galstress.rendering import render
from galstress.simulation import survey_psf
from galstress.survey import Survey, available_surveys

CONVERGED = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=12_288)
_log = logging.getLogger("renderer")


def draw_galaxies(count: int, stamp_px: int, seed: int, least_px: float = 1.0) -> Galaxies:
    """Random galaxies with free indices, centres within a tenth of the stamp of the middle."""
    rng = np.random.default_rng(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.tensor(rng.uniform(low, high, (count, *shape)))

    middle, room = (stamp_px - 1) / 2, stamp_px / 10
    return Galaxies(
        flux=uniform(10, 1000),
        bulge_to_total=uniform(0, 1),
        x=uniform(middle - room, middle + room),
        y=uniform(middle - room, middle + room),
        sersic_index=uniform(0.5, 6, 2),
        radius=torch.exp(uniform(math.log(least_px), math.log(stamp_px / 3), 2)),
        axis_ratio=uniform(0.2, 1, 2),
        angle=uniform(0, math.pi, 2),
    )


def judge_psf(psf: torch.Tensor, oversampling: int, settings: galsim.GSParams = CONVERGED) -> galsim.InterpolatedImage:
    """The effective PSF image as GalSim takes it."""
    image = galsim.Image(psf.double().numpy(), scale=1 / oversampling)
    return galsim.InterpolatedImage(image, x_interpolant="lanczos15", normalization="flux", gsparams=settings)


def judge(galaxies: Galaxies, row: int, psf: galsim.GSObject, stamp_px: int) -> np.ndarray:
    """One galaxy as GalSim draws it, each component on its own (their transforms need different grids)."""
    total = np.zeros((stamp_px, stamp_px))
    middle = (stamp_px - 1) / 2
    for part in range(2):
        q = float(galaxies.axis_ratio[row, part])
        profile = galsim.Sersic(
            n=float(galaxies.sersic_index[row, part]),
            half_light_radius=float(galaxies.radius[row, part]) * math.sqrt(q),
            flux=float(galaxies.component_flux[row, part]),
            gsparams=psf.gsparams,
        ).shear(q=q, beta=float(galaxies.angle[row, part]) * galsim.radians)
        offset = (float(galaxies.x[row]) - middle, float(galaxies.y[row]) - middle)
        image = galsim.Convolve(profile, psf, gsparams=psf.gsparams).drawImage(
            nx=stamp_px, ny=stamp_px, scale=1, method="no_pixel", offset=offset
        )
        total += image.array
    return total


def compare(survey: Survey, count: int, seed: int, stamp_px: int = 64) -> tuple[np.ndarray, np.ndarray, int]:
    """Largest differences in units of the peak, flux ratios less 1, and galaxies that GalSim could not draw."""
    psf, oversampling, _ = survey_psf(survey, stamp_px)
    galaxies = draw_galaxies(count, stamp_px, seed)
    images = render(galaxies.to(dtype=torch.float32), psf[None], oversampling, stamp_px).double().numpy()
    seen_through = judge_psf(psf, oversampling)
    peaks, fluxes, refused = [], [], 0
    for row in range(count):
        try:
            expected = judge(galaxies, row, seen_through, stamp_px)
        except galsim.GalSimFFTSizeError:
            refused += 1
            continue
        peaks.append(np.abs(images[row] - expected).max() / expected.max())
        fluxes.append(images[row].sum() / expected.sum() - 1)
    return np.asarray(peaks), np.asarray(fluxes), refused


def accuracy(count: int) -> None:
    """Every survey in turn."""
    for place, name in enumerate(available_surveys()):
        peaks, fluxes, refused = compare(Survey.load(name), count, seed=100 + place)
        worst, flux = peaks.max(), np.abs(fluxes).max()
        line = "%s: %d galaxies, largest difference %.1e of the peak (99 %%: %.1e), flux %.1e, %d refused by GalSim"
        _log.info(line, name, len(peaks), worst, np.quantile(peaks, 0.99), flux, refused)


def speed(count: int) -> None:
    """Milliseconds a galaxy, ours and GalSim's, in turn, with GalSim's converged and its own settings."""
    torch.set_num_threads(1)
    stamp_px, survey = 64, Survey.load("hsc-wide-i")
    psf, oversampling, _ = survey_psf(survey, stamp_px)
    ours = draw_galaxies(1024, stamp_px, 1).to(dtype=torch.float32)
    shared = psf[None].expand(1024, -1, -1)
    render(ours, shared, oversampling, stamp_px)
    for settings, label in ((CONVERGED, "converged"), (galsim.GSParams(), "GalSim's defaults")):
        seen_through = judge_psf(psf, oversampling, settings)
        for rounded in (False, True):
            theirs = draw_galaxies(3 * count, stamp_px, 2 + rounded, least_px=2.5)
            if rounded:
                theirs = dataclasses.replace(theirs, sersic_index=(theirs.sersic_index * 20).round() / 20)
                for row in range(3 * count):  # fill the caches
                    judge(theirs, row, seen_through, stamp_px)
            mine, other = [], []
            for turn in range(3):
                start = time.perf_counter()
                render(ours, shared, oversampling, stamp_px)
                mine.append((time.perf_counter() - start) / len(ours))
                start = time.perf_counter()
                for row in range(turn * count, (turn + 1) * count):
                    judge(theirs, row, seen_through, stamp_px)
                other.append((time.perf_counter() - start) / count)
            ratios = np.asarray(other) / np.asarray(mine)
            kind = "indices rounded to 0.05" if rounded else "a fresh index per galaxy"
            line = "%s, %s: ours %.3f ms, GalSim %.1f ms, ratio %.0f (%.0f to %.0f)"
            times = [1e3 * float(np.median(values)) for values in (mine, other)]
            _log.info(line, label, kind, *times, float(np.median(ratios)), ratios.min(), ratios.max())


def main() -> None:
    """Parse and run."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy"))
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    {"speed": speed, "accuracy": accuracy}[options.what](options.count)


if __name__ == "__main__":
    main()
