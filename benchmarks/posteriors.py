"""Posteriors beside the photon limit: network alone and refined, on simulated galaxies that no training has seen.

    python benchmarks/posteriors.py run --survey hsc-wide-i --survey sdss-r --count 2500 --start 0 --out results
    python benchmarks/posteriors.py summary --out results
    python benchmarks/posteriors.py speed --count 32 --out results

``run``: fresh isolated galaxies of the survey's own population (``nearby`` on SDSS, ``cosmos`` elsewhere), measured
S/N above 5, predicted and refined with that population as the prior; a table for each block of 50 goes into
``--out/SURVEY``, one survey after the other, and blocks that are there are not made again, so that it can be
interrupted, and shared out by ``--start``. ``summary``: efficiency, coverage, TARP, pulls, effective samples and
memory of all blocks found; the most is printed, all is written. ``speed``: CPU seconds a galaxy on one thread beside
statmorph (and pysersic where it is installed).

*Measured S/N* is sqrt(sum(model^2 / variance)) of the network's median model: a function of the image. The simulated
sky is off by 0.02 of its rms (normal), as the model assumes. Radius and flux are kept as natural logarithms, so that
their errors are fractional. *Limit*: root of the mean variance of the refined posterior, which is the exact posterior
under the population that drew the galaxies; so an efficiency (limit squared over mean square error of the posterior
mean) of the refined near 1 says that its widths are right, not that it beats another. Seeds start at 700,000.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import logging
import math
import resource
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table, vstack

import galstress
from foveal import SURVEYS
from galstress.cutouts import Cutouts, Flag
from galstress.heads import OUTPUTS, Prediction
from galstress.networks import Network
from galstress.prediction import predict
from galstress.refinement import refine
from galstress.refinement.exact import SKY_SIGMA
from galstress.rendering import draw_truth
from galstress.scores import bias, bootstrap, count_covered, place_among_samples, rms, scatter, truth_values
from galstress.simulation import simulate

NAMES = ("bulge_to_total", "ln_radius", "ln_flux", "e1", "e2")
"""The whole-galaxy outputs in the terms of their errors."""
WHO = ("network", "refined")
QUANTILES = (0.0015, 0.025, 0.16, 0.5, 0.84, 0.975, 0.9985)
LEVELS = (0.68, 0.95, 0.997)
SNR_EDGES = (5.0, 10.0, 30.0, 100.0, 300.0, math.inf)
BLOCK = 50
_log = logging.getLogger("posteriors")


class Ledger:
    """Figures, each with sample, size and interval; printed as they come, written as one table."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.level = logging.INFO
        """Of what is printed; at DEBUG it is only written."""

    def add(self, sample: str, what: str, who: str, value: Sequence[float] | float, count: int, note: str = "") -> None:
        """One figure; ``value`` alone, or with the ends of its 68 % interval."""
        ends = (value, math.nan, math.nan) if isinstance(value, float | int) else value
        middle, low, high = (float(end) for end in ends)
        row = {"sample": sample, "what": what, "who": who, "value": middle, "low": low, "high": high}
        self.rows.append(row | {"count": int(count), "note": note})
        between = "" if math.isnan(low) else f"({low:.4g} to {high:.4g})"
        line = "%-28s %-34s %-8s %9.4g %-22s N=%d  %s"
        _log.log(self.level, line, sample, what, who, middle, between, count, note)

    def measure(
        self,
        sample: str,
        what: str,
        who: str,
        statistic: Callable[..., np.ndarray],
        *arrays: np.ndarray,
        note: str = "",
    ) -> None:
        """A statistic over objects with its bootstrap interval; objects that are not finite are left out."""
        good = np.isfinite(np.stack(arrays)).all(0)
        kept = [np.asarray(array, float)[good] for array in arrays]
        with np.errstate(divide="ignore", invalid="ignore"):
            interval = bootstrap(statistic, *kept, seed=0, count=200)
        self.add(sample, what, who, interval, int(good.sum()), note)

    def write(self, path: Path) -> None:
        """The table."""
        write_table(Table(rows=self.rows), path)
        _log.info("written: %s (%d figures)", path, len(self.rows))


def write_table(table: Table, path: Path) -> None:
    """A table as ECSV, written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.meta["version"] = galstress.__version__
    table.meta["command"] = shlex.join(["python", *sys.argv])
    aside = path.with_name(path.name + ".part")
    table.write(aside, format="ascii.ecsv", overwrite=True)
    aside.replace(path)


def mean(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis: of zeros and ones, the share of ones."""
    return values.mean(-1)


def efficiency(variance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Limit squared over mean square error."""
    return variance.mean(-1) / np.square(error).mean(-1)


def rms_over_limit(variance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The inverse of its root."""
    return efficiency(variance, error) ** -0.5


# ---- run -----------------------------------------------------------------------------------------------------------


def to_terms(values: np.ndarray) -> np.ndarray:
    """(..., 5) whole-galaxy outputs in the terms of their errors, of (..., D) outputs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([values[..., :1], np.log(values[..., 1:3]), values[..., 3:5]], -1)


def true_terms(cutouts: Cutouts) -> np.ndarray:
    """(N, 5) of the truth."""
    return to_terms(truth_values(cutouts.truth, tuple(OUTPUTS), [unit for unit, _ in OUTPUTS.values()]))


def offset_sky(cutouts: Cutouts, generator: torch.Generator) -> Cutouts:
    """The sky off by a normal 0.02 of its rms."""
    offset = SKY_SIGMA * cutouts.sky_rms * torch.randn(len(cutouts), generator=generator)
    return dataclasses.replace(cutouts, images=cutouts.images + offset[:, None, None])


def measure_snr(prediction: Prediction, cutouts: Cutouts) -> np.ndarray:
    """(N,) S/N of the posterior's median model over the pixels that count."""
    stamp_px = cutouts.images.shape[-1]
    model = draw_truth(prediction.truth_like(), cutouts.psf, cutouts.psf_oversampling, cutouts.survey, stamp_px)
    ignored = cutouts.mask | cutouts.neighbour_mask
    return torch.where(ignored, 0.0, model**2 / cutouts.variance).sum((1, 2)).sqrt().double().numpy()


def draw_block(
    network: Network, survey: str, size: int, seed: int, stamp_px: int
) -> tuple[Cutouts, Prediction, np.ndarray]:
    """Galaxies whose measured S/N is above 5, what the network says of them, and that S/N."""
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[Cutouts, Prediction, np.ndarray]] = []
    found = 0
    while found < size:
        cutouts = simulate(survey, max(size, 16), seed=generator, population=SURVEYS[survey], stamp_px=stamp_px)
        cutouts = offset_sky(cutouts, generator)
        prediction = predict(network, cutouts)
        snr = measure_snr(prediction, cutouts)
        rows = np.flatnonzero(prediction.usable & (snr > SNR_EDGES[0]))[: size - found]
        kept.append((cutouts.select(rows), prediction.select(rows), snr[rows]))
        found += len(rows)
    parts = list(zip(*kept, strict=True))
    whole = Cutouts.concatenate(list(parts[0]))
    # one PSF for all: a copy for each galaxy would cost time at every look
    whole = dataclasses.replace(whole, psf=whole.psf[:1].expand(size, -1, -1))
    return whole, Prediction.concatenate(list(parts[1])), np.concatenate(parts[2])


def credibility(true: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) share of draws (n, N, 5) that are nearer to a reference point than the truth, ties and steps spread.

    The references of :func:`galstress.scores.tarp`, but for the objects' median, which is that of the block: each
    posterior's median, moved by a half-width towards it, with noise; the first fifth of the draws gives median and
    half-widths, the others are ranked.
    """
    held = len(draws) // 5
    centre, width = np.median(draws[:held], 0), scatter(np.moveaxis(draws[:held], 0, -1))
    for fallback in (draws[:held].std(0), np.broadcast_to(centre.std(0), centre.shape), np.ones(centre.shape)):
        width = np.where(width > 0, width, fallback)
    step = np.sign(np.nanmedian(centre, 0) - centre) + 0.5 * rng.normal(size=centre.shape)
    point = centre + step * width
    first, last = place_among_samples(*(np.square((values - point) / width).sum(-1) for values in (true, draws[held:])))
    first = np.where(np.isfinite(draws).all((0, 2)), first, np.nan)
    return first + rng.uniform(size=first.shape) * (last - first)


def summarise(who: str, prediction: Prediction, true: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Columns: moments, quantiles and the truth's place among the draws, of each output; TARP's credibility."""
    drawn = prediction.draws
    draws = to_terms(prediction.sample(512 if drawn is None else drawn.shape[1], seed))
    rng = np.random.default_rng(seed)
    quantiles = np.quantile(draws, QUANTILES, axis=0, method="hazen")
    first, last = place_among_samples(true, draws)
    columns = {f"{who}_tarp": credibility(true, draws, rng)}
    for at, name in enumerate(NAMES):
        columns |= {f"{who}_{name}_mean": draws[..., at].mean(0), f"{who}_{name}_std": draws[..., at].std(0)}
        columns |= {f"{who}_{name}_q{100 * p:g}": quantiles[row, :, at] for row, p in enumerate(QUANTILES)}
        columns |= {f"{who}_{name}_rank_low": first[:, at], f"{who}_{name}_rank_high": last[:, at]}
    return columns


def measure_block(network: Network, survey: str, seed: int, stamp_px: int, size: int = BLOCK) -> Table:
    """One block's table."""
    cutouts, found, snr = draw_block(network, survey, size, seed, stamp_px)
    start = time.process_time()
    refined = refine(found, cutouts, prior=SURVEYS[survey], seed=seed)
    seconds = (time.process_time() - start) / size
    true = true_terms(cutouts)
    table = Table({f"true_{name}": true[:, at] for at, name in enumerate(NAMES)})
    table["snr"], table["true_snr"] = snr, np.asarray(cutouts.truth["snr"], float)
    for who, prediction in zip(WHO, (found, refined), strict=True):
        for name, values in summarise(who, prediction, true, seed).items():
            table[name] = values
        table[f"{who}_flags"] = prediction.flags
    table["effective_samples"], table["chi_square"] = refined.effective_samples, refined.chi_square
    table["ln_evidence"], table["seconds"], table["seed"] = refined.ln_evidence, seconds, seed
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".7g"
    table.meta.update(survey=survey, population=SURVEYS[survey], stamp_px=stamp_px, network=found.network, draws=128)
    return table


def run(network: Network, options: argparse.Namespace) -> None:
    """Blocks of each survey in turn, those that are missing."""
    first, last = options.start // BLOCK, -(-(options.start + options.count) // BLOCK)
    refined = 0
    for block, survey in itertools.product(range(first, last), options.survey):
        size = min(BLOCK, options.start + options.count - block * BLOCK)
        # less than a block is a trial: not to be taken for the block itself
        name = f"block-{block:05d}.ecsv" if size == BLOCK else f"trial-{block:05d}-{size}.ecsv"
        path = options.out / survey / name
        if path.exists():
            continue
        seed = 700_000 + 10_000 * list(SURVEYS).index(survey) + block
        table = measure_block(network, survey, seed, options.stamp_px, size)
        refined += size
        table["streamed"], table["peak_mib"] = refined, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        write_table(table, path)
        few = np.mean(table["effective_samples"] < 100)
        line = "%s block %d (to %d): %.2f s a galaxy, %.0f effective samples (median), %.0f %% below 100, %.0f MiB"
        middle = np.median(table["effective_samples"])
        _log.info(line, survey, block, last - 1, table["seconds"][0], middle, 100 * few, table["peak_mib"][0])


# ---- summary -------------------------------------------------------------------------------------------------------


def read_blocks(out: Path) -> dict[str, Table]:
    """All blocks by survey, and all together; without whole blocks, the trials."""
    tables = {}
    for survey in SURVEYS:
        paths = sorted((out / survey).glob("block-*.ecsv")) or sorted((out / survey).glob("trial-*.ecsv"))
        if paths:
            each = [Table.read(path, format="ascii.ecsv") for path in paths]
            tables[survey] = vstack(each, metadata_conflicts="silent")
    if len(tables) > 1:
        tables["all"] = vstack(list(tables.values()), metadata_conflicts="silent")
    return tables


def errors_of(table: Table, who: str, name: str) -> np.ndarray:
    """Posterior mean less truth."""
    return np.asarray(table[f"{who}_{name}_mean"] - table[f"true_{name}"])


def say_efficiency(ledger: Ledger, sample: str, table: Table) -> None:
    """Efficiencies, rms over limit and the limit itself, by measured S/N."""
    snr = np.asarray(table["snr"])
    bins = [(SNR_EDGES[0], math.inf), (30.0, math.inf), *itertools.pairwise(SNR_EDGES)]
    for low, high in bins:
        rows = table[(snr > low) & (snr <= high)]
        if len(rows) < 3:
            continue
        title = f"{sample}, S/N {low:.0f}-{high:.0f}" if high < math.inf else f"{sample}, S/N > {low:.0f}"
        ledger.level = logging.INFO if sample == "all" or (low, high) == bins[1] else logging.DEBUG
        for name in NAMES[:3]:
            variance = np.asarray(rows[f"refined_{name}_std"]) ** 2
            ledger.measure(title, f"limit of {name}", "refined", lambda v: np.sqrt(v.mean(-1)), variance)
            for who, bar in (("network", 0.4), ("refined", 0.8)):
                error, note = errors_of(rows, who, name), f"bar {bar}" if low >= 30 else ""
                ledger.measure(title, f"efficiency of {name}", who, efficiency, variance, error, note=note)
                ledger.measure(title, f"rms / limit of {name}", who, rms_over_limit, variance, error)
    ledger.level = logging.INFO


def say_covered(ledger: Ledger, sample: str, who: str, name: str, rows: Table, bar: float) -> None:
    """Coverage of one output at three levels against a bar."""
    place = np.stack([np.asarray(rows[f"{who}_{name}_rank_{end}"]) for end in ("low", "high")])
    for level in LEVELS:
        covered = count_covered(place, level)
        number = int(np.isfinite(covered).sum())
        sigma = math.sqrt(level * (1 - level) / max(number, 1))
        off = float(np.nanmean(covered)) - level
        verdict = "pass" if abs(off) <= bar + 2 * sigma else "FAIL"
        note = f"{100 * off:+.2f} points, binomial sigma {100 * sigma:.2f}, bar {100 * bar:g} + 2 sigma: {verdict}"
        ledger.measure(sample, f"coverage {level} of {name}", who, mean, covered, note=note)


def say_calibration(ledger: Ledger, sample: str, table: Table, binned: bool) -> None:
    """Coverage overall and (``binned``) in bins of predicted quantities, pulls and TARP."""
    size = 5000 if len(table) >= 10_000 else max(len(table) // 4, 1)
    for who in WHO:
        for name in NAMES:
            say_covered(ledger, sample, who, name, table, 0.01)
            with np.errstate(divide="ignore", invalid="ignore"):
                pulls = errors_of(table, who, name) / np.asarray(table[f"{who}_{name}_std"])
            ledger.measure(sample, f"rms of pulls of {name}", who, rms, pulls)
        ledger.level = logging.DEBUG
        for by in NAMES[:3] if binned else ():
            order = np.argsort(table[f"{who}_{by}_q50"])
            for number, rows in enumerate(np.array_split(order, max(1, len(table) // size))):
                title = f"{sample}, {by} bin {number + 1} ({len(rows)} galaxies)"
                for name in NAMES[:3]:
                    say_covered(ledger, title, who, name, table[rows], 0.02)
        ledger.level = logging.INFO
        level = np.linspace(0, 1, 101)
        share = np.asarray(table[f"{who}_tarp"])
        share = share[np.isfinite(share)]

        def deviation(values: np.ndarray, level: np.ndarray = level) -> np.ndarray:
            return np.abs([(values < at).mean(-1) - at for at in level]).max(0)

        note = f"bar 0.02; by chance below {1.36 / math.sqrt(len(share)):.3f} in 95 of 100; interval lies high"
        ledger.measure(sample, "TARP, largest deviation", who, deviation, share, note=note)


def say_samples(ledger: Ledger, sample: str, table: Table) -> None:
    """Effective samples, flags, chi-square, seconds."""
    effective = np.asarray(table["effective_samples"])
    few, bad = ((np.asarray(table["refined_flags"]) & int(flag)) != 0 for flag in (Flag.FEW_SAMPLES, Flag.BAD_FIT))
    note = "number; the points differ from galaxy to galaxy"
    ledger.measure(sample, "effective samples, median", "refined", bias, effective, note=note)
    ledger.measure(sample, "share with 100 or more of them", "refined", mean, effective >= 100, note="bar 0.95")
    ledger.measure(sample, "share flagged FEW_SAMPLES", "refined", mean, few)
    ledger.measure(sample, "share below 100 and not flagged", "refined", mean, (effective < 100) & ~few, note="bar 0")
    ledger.measure(sample, "share flagged BAD_FIT", "refined", mean, bad, note="0 expected")
    ledger.measure(sample, "chi-square a degree, median", "refined", bias, np.asarray(table["chi_square"]))
    ledger.measure(sample, "CPU seconds a galaxy", "refined", mean, np.asarray(table["seconds"]))


def say_memory(ledger: Ledger, sample: str, table: Table) -> None:
    """Peak resident memory of the process along its stream, where one process made all blocks."""
    streamed, peak = (np.asarray(table[name]) for name in ("streamed", "peak_mib"))
    if len(np.unique(streamed)) < len(streamed) // BLOCK:
        _log.info("%s: several processes made these blocks; memory is told of one", sample)
        return
    for mark in sorted({4 * BLOCK, len(streamed) // 2, len(streamed)}):
        held = float(peak[streamed <= max(mark, BLOCK)].max())
        ledger.add(sample, "peak resident memory, MiB", "refined", held, min(mark, len(streamed)), "of one process")


def summary(options: argparse.Namespace) -> None:
    """All figures of all blocks."""
    ledger, tables = Ledger(), read_blocks(options.out)
    for sample, table in tables.items():
        say_efficiency(ledger, sample, table)
        say_calibration(ledger, sample, table, binned=sample == list(tables)[-1])
        say_samples(ledger, sample, table)
        if sample == list(tables)[-1]:
            say_memory(ledger, sample, table)
    if ledger.rows:
        for who in WHO:
            notes = [str(row["note"]) for row in ledger.rows if row["who"] == who]
            failed, passed = (sum(note.endswith(end) for note in notes) for end in ("FAIL", "pass"))
            _log.info("%s: %d of %d coverages fail (with bins of predicted quantities)", who, failed, failed + passed)
        ledger.write(options.out / "summary.ecsv")
    else:
        _log.info("no blocks under %s", options.out)


# ---- speed ----------------------------------------------------------------------------------------------


def statmorph_inputs(cutouts: Cutouts) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Image, segment of the central source, sigma and PSF of each galaxy that a threshold finds."""
    from photutils.segmentation import detect_sources

    step, side = cutouts.psf_oversampling, cutouts.psf.shape[-1]
    psf = cutouts.psf[0, side // 2 % step :: step, side // 2 % step :: step].double().numpy()
    for image, variance, rms_sky in zip(cutouts.images, cutouts.variance, cutouts.sky_rms, strict=True):
        smooth = torch.nn.functional.avg_pool2d(image[None, None], 3, 1, 1)[0, 0].double().numpy()
        found = detect_sources(smooth, 0.5 * float(rms_sky), 5)
        middle = image.shape[0] // 2
        if found is not None and found.data[middle, middle]:
            segment = (found.data == found.data[middle, middle]).astype(int)
            yield image.double().numpy(), segment, variance.double().sqrt().numpy(), psf / psf.sum()


def statmorph_all(inputs: Sequence[tuple[np.ndarray, ...]]) -> None:
    """Each galaxy through statmorph (its single Sersic fit included)."""
    import statmorph

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for image, segment, sigma, psf in inputs:
            statmorph.SourceMorphology(image, segment, 1, weightmap=sigma, psf=psf)


def pysersic_all(inputs: Sequence[tuple[np.ndarray, ...]]) -> None:
    """Each galaxy through pysersic: maximum and Laplace errors."""
    import jax
    import pysersic
    from pysersic.loss import gaussian_loss
    from pysersic.priors import autoprior

    for image, _, sigma, psf in inputs:
        edge = max(0, (len(psf) - len(image) // 2) // 2)  # it takes no PSF as large as the image
        inner = psf[edge : len(psf) - edge, edge : len(psf) - edge]
        prior = autoprior(image=image, profile_type="sersic", mask=np.zeros(image.shape, bool))
        fitter = pysersic.FitSingle(data=image, rms=sigma, psf=inner, prior=prior, loss_func=gaussian_loss)
        fitter.estimate_posterior(rkey=jax.random.PRNGKey(1), method="laplace")


def speed(network: Network, options: argparse.Namespace) -> None:
    """CPU seconds a galaxy of each, in three turns on the same galaxies."""
    ledger, installed = Ledger(), importlib.util.find_spec("pysersic") is not None
    if not installed:
        _log.info("pysersic is not installed: not run")
    for place, survey in enumerate(("hsc-wide-i", "sdss-r", "hst-candels-f814w")):
        cutouts, found, _ = draw_block(network, survey, options.count, 760_000 + place, options.stamp_px)
        many = cutouts.select(np.arange(max(128, options.count)) % options.count)  # a network is fed in batches
        many = dataclasses.replace(many, psf=cutouts.psf[:1].expand(len(many), -1, -1))
        inputs = list(statmorph_inputs(cutouts))
        jobs: dict[str, tuple[Callable[[], object], int]] = {
            "network, no draws": (lambda many=many: predict(network, many, draws=0), len(many)),
            "network, 128 draws": (lambda many=many: predict(network, many), len(many)),
            "refined": (lambda f=found, c=cutouts, s=survey: refine(f, c, SURVEYS[s]), options.count),
            "statmorph": (lambda inputs=inputs: statmorph_all(inputs), len(inputs)),
        }
        if installed:
            jobs["pysersic, Laplace"] = (lambda inputs=inputs: pysersic_all(inputs), len(inputs))
        refine(found.select(slice(0, 2)), cutouts.select(slice(0, 2)), SURVEYS[survey])  # fills caches
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _turn in range(3):
            for name, (work, number) in jobs.items():
                start = time.process_time()
                work()
                times[name].append((time.process_time() - start) / max(number, 1))
        sample = f"{survey}, {options.stamp_px} px"
        for name, values in times.items():
            ends = (float(np.median(values)), min(values), max(values))
            ledger.add(sample, "CPU seconds a galaxy", name, ends, jobs[name][1], "range over 3 turns")
        for slow, fast, bar in (
            ("statmorph", "network, no draws", 100),
            ("statmorph", "network, 128 draws", 100),
            ("statmorph", "refined", 2),
            ("pysersic, Laplace", "refined", 25),
        ):
            if slow in times:
                ratios = np.asarray(times[slow]) / np.asarray(times[fast])
                ends = (float(np.median(ratios)), float(ratios.min()), float(ratios.max()))
                ledger.add(sample, f"times as fast as {slow}", fast, ends, options.count, f"bar {bar}; 3 turns")
    ledger.write(options.out / "speed.ecsv")


def main() -> None:
    """Parse, run, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "summary", "speed"))
    parser.add_argument("--survey", action="append", choices=tuple(SURVEYS), help="once or more; by default hsc-wide-i")
    parser.add_argument("--count", type=int, help="galaxies of a survey; by default 5000 (run), 32 (speed)")
    parser.add_argument("--start", type=int, default=0, help="first galaxy; a multiple of 50")
    parser.add_argument("--stamp-px", type=int, default=64)
    parser.add_argument("--network", default="foveal", help="a shipped name, or a path")
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    options.survey = options.survey or ["hsc-wide-i"]
    options.count = options.count or {"speed": 32}.get(options.what, 5000)
    if options.start % BLOCK:
        parser.error(f"--start {options.start}: a multiple of {BLOCK} is needed")
    torch.set_num_threads(1)
    if options.what == "summary":
        summary(options)
        return
    network = Network.load(options.network)
    {"run": run, "speed": speed}[options.what](network, options)


if __name__ == "__main__":
    main()
