"""Fine-tunes a cell (GaMorNet or GaMPEN on SDSS, HSC or HST) on the realistic domain, and measures before and after.

    python benchmarks/cells.py finetune gamornet-sdss gamornet-sdss.safetensors -o tuned

Needs the real images (``GALSTRESS_DATA``). SDSS and HSC: real Hubble galaxies re-observed in the survey's real sky
(``sdss-r``, ``hsc-wide-i``; beyond the middle 128 pixels in drawn noise), whose labels are B/T (published or fitted),
half-light radius and flux. HST: those of ``hst-candels-bd201`` (F814W) with consistent published fits. Some of the
galaxies give labels, errors are measured on the others: no galaxy is in both. Simulated galaxies of all surveys of the
cell's recipe, part of them with arms, bars, rings, clumps or dust, are mixed in, three a real one, so that what was
learned on simulations stays. Written are ``CELL.safetensors`` and ``CELL.json``: errors of posterior medians with 68 %
intervals (or log-loss and share of right classes), beside guessing the median (or the classes' shares) of the labels,
on real and on fresh simulated galaxies, and which network should ship. What was tuned is the part of the way from the
weights before to those after that costs 1 % at most on other simulated galaxies. Interrupted, the same command goes on:
cutouts and checkpoints are kept in the folder.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable, vstack

import galstress
from galstress import datasets
from galstress.cutouts import Cutouts
from galstress.finetuning import Tuning, finetune
from galstress.heads import CLASSES, ClassHead, classify
from galstress.networks import Network
from galstress.prediction import predict
from galstress.realism import load_templates, observe_halves
from galstress.recipes import Recipe, load_recipe
from galstress.simulation import simulate
from galstress.studies.records import write_json
from galstress.survey import Survey
from real import filled, labels_of

SEED = 950_000
DOMAINS = {"sdss": "sdss-r", "hsc": "hsc-wide-i", "hst": "hst-candels-f814w"}
"""Survey of the realistic domain, by the second word of a cell's name."""
LABELS = ("bulge_to_total", "half_light_radius_arcsec", "flux_njy")
WORDS = ("B/T", "ln radius", "ln flux")
OBSERVED_PX = 128
"""Side of the re-observed galaxies, beyond which there is drawn noise."""
WIDER = 1.5
"""Side of the stamps in units of what the network sees: room for turns by any angle."""
POOL, TEST, MIXED, FRESH, ASIDE = 120, 178, 3, 400, 1600
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Of the way from the weights before fine-tuning to those after."""
_LEVEL = 0.6827
_COST = 0.01
"""Mean ln ratio of errors on simulated galaxies that counts as nothing."""
_COUNT = 1000
_log = logging.getLogger("cells")


@dataclasses.dataclass(frozen=True)
class Sample:
    """Galaxies with labels."""

    cutouts: Cutouts
    labels: QTable
    """:data:`LABELS`, NaN where unknown."""
    groups: list[str]
    """The galaxy behind each image."""


def observe(cell: str, stamp_px: int, folder: Path) -> tuple[Sample, Sample]:
    """Real galaxies in two halves that share none: to learn from, and to measure on."""
    survey = DOMAINS[cell.partition("-")[2]]
    if survey.startswith("hst"):
        return observe_hubble(stamp_px)
    halves = [folder / f"{survey}-{half}.fits" for half in ("pool", "test")]
    if not all(path.exists() for path in halves):
        target = dataclasses.replace(Survey.load(survey), stamp_px=OBSERVED_PX)
        domain = observe_halves(load_templates(), target, pool=POOL, test=TEST, snr=(30.0, 200.0), seed=SEED)
        for half, path in zip((domain.pool, domain.test), halves, strict=True):
            half.write(path)
    pool, test = (
        Sample(surround(c, stamp_px, SEED + len(c)), cut_labels(c.truth), [str(name) for name in c.catalogue["group"]])
        for c in map(Cutouts.read, halves)
    )
    return pool, test


def surround(cutouts: Cutouts, stamp_px: int, seed: int) -> Cutouts:
    """Stamps made wider by white noise of their sky's rms: templates show no more than :data:`OBSERVED_PX`."""
    low = (stamp_px - OBSERVED_PX) // 2
    high = stamp_px - OBSERVED_PX - low
    if low < 0:
        raise SystemExit(f"stamps of {stamp_px} px are smaller than the templates' {OBSERVED_PX}")
    noise = torch.randn(len(cutouts), stamp_px, stamp_px, generator=torch.Generator().manual_seed(seed))
    rms = cutouts.sky_rms[:, None, None]
    images, variance = noise * rms, (rms**2).expand_as(noise).clone()
    middle = (slice(None), slice(low, stamp_px - high), slice(low, stamp_px - high))
    images[middle], variance[middle] = cutouts.images, cutouts.variance
    masks = [torch.nn.functional.pad(mask, [low, high, low, high]) for mask in (cutouts.mask, cutouts.neighbour_mask)]
    return dataclasses.replace(
        cutouts, images=images, variance=variance, mask=masks[0], neighbour_mask=masks[1], wcs=None, truth=None
    )


def observe_hubble(stamp_px: int) -> tuple[Sample, Sample]:
    """The same of Hubble's own images of the galaxies whose published B/T agrees with itself."""
    cutouts = datasets.load("hst-candels-bd201", band="F814W", stamp_px=stamp_px)
    cutouts = cutouts.select(np.flatnonzero(filled(cutouts.catalogue["lit_bt_consistent"]) == 1))
    published = labels_of(cutouts)
    flux = 10 ** (-0.4 * (np.asarray(published["mag_ab"], float) - 31.4))
    labels = QTable({"bulge_to_total": published["bulge_to_total"], "flux_njy": flux})
    labels["half_light_radius_arcsec"] = published["half_light_radius_arcsec"]
    order = np.random.default_rng(SEED).permutation(len(cutouts))
    halves = [np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])]
    pool, test = (
        Sample(cutouts.select(rows), labels[rows][list(LABELS)], [str(name) for name in cutouts.object_id[rows]])
        for rows in halves
    )
    return pool, test


def draw(recipe: Recipe, domain: str, count: int, stamp_px: int, seed: int) -> Sample:
    """Simulated galaxies of all surveys of the recipe, in its shares of populations, a quarter of them with structure.

    All are told to be of the domain's survey: the networks look at pixels in units of the sky's rms alone. A flux is
    that of as many image units there.
    """
    own = Survey.load(domain)
    parts, kept = [], []
    for each, shares in recipe.surveys.items():
        for place, (population, share) in enumerate(shares.items()):
            survey, number = recipe.see(each), max(1, round(count * share / len(recipe.surveys)))
            drawn = simulate(
                survey, number, seed + place, population, stamp_px=stamp_px, structured=recipe.structured_share
            )
            labels = cut_labels(drawn.truth)
            labels["flux_njy"] *= own.unit_njy / survey.unit_njy
            assert drawn.truth is not None
            # a network must not be asked what the recipe never showed it
            seen = np.flatnonzero(np.asarray(drawn.truth["snr"], float) > max(recipe.faintest_snr, 6.0))
            kept.append(labels[seen])
            parts.append(_strip(drawn.select(seen), own))
    whole = Cutouts.concatenate([_strip(part, own, parts[0]) for part in parts])
    return Sample(whole, vstack(kept), [f"simulated-{seed}-{row}" for row in range(len(whole))])


def _strip(cutouts: Cutouts, survey: Survey, first: Cutouts | None = None) -> Cutouts:
    """Without tables that not all cutouts have, and with the first ones' PSF, which neither network looks at."""
    first = first or cutouts
    return dataclasses.replace(
        cutouts, truth=None, neighbours=None, wcs=None, survey=survey, psf_oversampling=first.psf_oversampling,
        catalogue=cutouts.catalogue[["object_id", "ra", "dec", "redshift", "flags"]],
        psf=first.psf[:1].expand(len(cutouts), -1, -1),
    )  # fmt: skip


def cut_labels(truth: QTable | None) -> QTable:
    """:data:`LABELS` of a truth table, as plain numbers."""
    assert truth is not None
    return QTable({name: np.array(getattr(truth[name], "value", truth[name]), float) for name in LABELS})


def mix(real: Sample, simulated: Sample) -> Sample:
    """Both as one."""
    survey, first = real.cutouts.survey, real.cutouts
    cutouts = Cutouts.concatenate([_strip(each.cutouts, survey, first) for each in (real, simulated)])
    return Sample(cutouts, vstack([real.labels, simulated.labels]), real.groups + simulated.groups)


def measure(network: Network, sample: Sample) -> np.ndarray:
    """(N, Q) losses: -ln p of the true class and whether it was called; or errors of the medians and their pulls."""
    said = predict(network, sample.cutouts, batch_size=64)
    true = np.stack([np.asarray(sample.labels[name], float) for name in LABELS], -1)
    if isinstance(network.head, ClassHead):
        place = classify(torch.as_tensor(true[:, 0])).numpy()
        shares = said.probabilities
        loss = -np.log(np.take_along_axis(shares, place.clip(0)[:, None], 1)[:, 0].clip(1e-6))
        right = (np.nan_to_num(shares, nan=-1).argmax(1) == place).astype(float)
        rows = np.stack([loss, right], -1)
        rows[(place < 0) | ~np.isfinite(loss)] = np.nan
        return rows
    low, middle, high = said.quantile([0.16, 0.5, 0.84])
    inside = np.where(np.isfinite(true), (true >= low) & (true <= high), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.stack([middle[:, 0] - true[:, 0], *np.log(middle[:, 1:] / true[:, 1:]).T], -1)
    return np.concatenate([errors, inside], 1)


def guess(network: Network, sample: Sample, pool: Sample) -> np.ndarray:
    """(N, Q) the same of who always answers the pool's classes' shares, or its medians."""
    own, other = (np.stack([np.asarray(s.labels[n], float) for n in LABELS], -1) for s in (sample, pool))
    if isinstance(network.head, ClassHead):
        counts = np.array([(classify(torch.as_tensor(other[:, 0])).numpy() == c).sum() for c in range(len(CLASSES))])
        place = classify(torch.as_tensor(own[:, 0])).numpy()
        rows = np.stack([-np.log((counts[place.clip(0)] + 1) / (counts.sum() + 3)), place == counts.argmax()], -1)
        rows[place < 0] = np.nan
        return rows
    middle = np.nanmedian(other, 0)
    return np.concatenate([middle[:1] - own[:, :1], np.log(middle[1:] / own[:, 1:]), np.full_like(own, np.nan)], 1)


def statistics(is_class: bool) -> dict[str, Callable[[np.ndarray], float]]:
    """What is told of the rows of :func:`measure`."""

    def spread(place: int) -> Callable[[np.ndarray], float]:
        return lambda rows: float(np.nanquantile(np.abs(rows[:, place]), 0.6827))

    def mean(place: int) -> Callable[[np.ndarray], float]:
        return lambda rows: float(np.nanmean(rows[:, place]))

    if is_class:
        return {"log_loss": mean(0), "right": mean(1)}
    found = {f"error_68 {word}": spread(place) for place, word in enumerate(WORDS)}
    return found | {f"within_68 {word}": mean(3 + place) for place, word in enumerate(WORDS)}


def judge(rows: dict[str, np.ndarray], groups: list[str], is_class: bool) -> dict[str, Any]:
    """Each statistic of each method with its 68 % interval over galaxies, and after less before, paired, with 95 %."""
    names, member = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(member == place) for place in range(len(names))]
    drawn = np.random.default_rng(SEED).integers(0, len(names), (_COUNT, len(names)))
    resampled = [np.concatenate([members[place] for place in each]) for each in drawn]
    found: dict[str, Any] = {"images": len(groups), "galaxies": len(names)}
    values: dict[tuple[str, str], np.ndarray] = {}
    for method, each in rows.items():
        if not np.isfinite(each).any():
            continue
        found[method] = {}
        for name, statistic in statistics(is_class).items():
            if method == "guess" and name.startswith("within"):
                continue
            values[method, name] = np.array([statistic(each), *(statistic(each[r]) for r in resampled)])
            found[method][name] = interval(values[method, name], 0.68)
    main = ["log_loss"] if is_class else [f"error_68 {word}" for word in WORDS]
    ratio = np.mean([np.log(values["after", n] / values["before", n]) for n in main], 0)
    change = {n: interval(values["after", n] - values["before", n], 0.95) for n in main}
    found |= {"difference": change, "mean_ln_ratio": interval(ratio, 0.95)}
    if not is_class:
        missed = [
            np.mean([np.abs(values[method, f"within_68 {word}"] - _LEVEL) for word in WORDS], 0)
            for method in ("after", "before")
        ]
        found["interval_miss"] = interval(missed[0] - missed[1], 0.95)
    return found


def interval(values: np.ndarray, level: float) -> list[float]:
    """Value, low and high end."""
    low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return [round(float(each), 4) for each in (values[0], low, high)]


def run(options: argparse.Namespace) -> None:
    """Fine-tune, measure, write."""
    cell, folder = options.cell, options.out
    folder.mkdir(parents=True, exist_ok=True)
    network = Network.load(options.weights)
    recipe = load_recipe(f"{cell}-improved")
    wide = 2 * round(WIDER * network.backbone.stamp_px / 2) + network.backbone.stamp_px % 2  # one centre
    survey = DOMAINS[cell.partition("-")[2]]
    pool, test = observe(cell, wide, folder)
    beside = draw(recipe, survey, MIXED * len(pool.cutouts), wide, SEED + 1)
    fresh = draw(recipe, survey, FRESH, wide, SEED + 20)
    mixed = mix(pool, beside)
    _log.info("%d real and %d simulated to learn, %d real to test", len(pool.groups), len(beside.groups),
              len(test.groups))  # fmt: skip
    rng = np.random.default_rng(SEED)
    kept = rng.permutation(np.unique(pool.groups))[: max(4, len(set(pool.groups)) // 4)]
    validation = np.flatnonzero(np.isin(mixed.groups, kept))
    # as many simulated ones: the weights kept are those that are good at both
    validation = np.append(validation, len(pool.groups) + np.arange(len(validation)))
    tuning = Tuning(options.steps, options.rate, validation, batch=options.batch, check_every=15, patience=8,
                    side_px=network.backbone.stamp_px)  # fmt: skip
    tuned = finetune(
        network, mixed.cutouts, mixed.labels, policy=options.policy, tuning=tuning, groups=mixed.groups, seed=1,
        checkpoint=folder / f"{cell}-{options.policy.replace(':', '-')}.checkpoint.safetensors",
        progress=options.progress,
    )  # fmt: skip
    record: dict[str, Any] = {
        "cell": cell, "version": galstress.__version__, "seed": SEED, "network": network.metadata.get("name", ""),
        "command": f"python benchmarks/cells.py finetune {cell} {Path(options.weights).name} --policy {options.policy} "
        f"--steps {options.steps} --rate {options.rate:g} --batch {options.batch}",
        "survey": survey, "stamp_px": wide, "side_px": network.backbone.stamp_px, "snr_wanted": [30, 200],
        "learned_real": len(pool.groups), "learned_simulated": len(beside.groups), "best_step": tuned.best_step,
        "steps_done": tuned.manifest["steps_done"], "augmentation": tuned.manifest["augmentation"],
        "intervals": "68 % of statistics, 95 % of differences and ln ratios; bootstrap over galaxies",
    }  # fmt: skip
    aside = draw(recipe, survey, ASIDE if isinstance(network.head, ClassHead) else FRESH, wide, SEED + 40)
    record["share"], after = blend(network, tuned.network, aside)
    for name, sample in (("real", test), ("simulated", fresh)):
        rows = {"before": measure(network, sample), "after": measure(after, sample)}
        rows["guess"] = guess(network, sample, pool if name == "real" else beside)
        record[name] = judge(rows, sample.groups, isinstance(network.head, ClassHead))
        _log.info("%s: %s", name, record[name])
    told = {"fine_tuning": {key: record[key] for key in ("command", "seed", "learned_real", "share")}}
    training = {**after.metadata.get("training", {}), **told}
    after.with_metadata(name=cell, training=training).save(folder / f"{cell}.safetensors", half=True)
    write_json(folder / f"{cell}.json", record | choose(record))
    _log.info(choose(record)["sentence"])


def blend(before: Network, after: Network, simulated: Sample) -> tuple[float, Network]:
    """The largest share of the way from the weights before to those after that costs 1 % at most on simulations.

    Source: weights between two networks are good at both's domains (Wortsman et al. 2022, arXiv:2109.01903).
    """
    is_class = isinstance(before.head, ClassHead)
    rows = {"before": measure(before, simulated)}
    start = dict(before.modules().named_parameters())
    for share in SHARES:
        blended = copy.deepcopy(after)
        with torch.no_grad():
            for name, parameter in blended.modules().named_parameters():
                parameter.copy_(torch.lerp(start[name], parameter, share))
        found = judge(rows | {"after": measure(blended, simulated)}, simulated.groups, is_class)["mean_ln_ratio"]
        _log.info("%g of the way: simulated %s", share, found)
        if found[0] <= _COST:
            break
    return share, blended


def choose(record: dict[str, Any]) -> dict[str, str]:
    """Which network should ship: fine-tuned only if it is better on real galaxies, and not worse on simulated.

    Better are smaller errors, or errors that are not larger for sure with intervals that hold better what they say.
    """
    real, simulated = (record[name]["mean_ln_ratio"] for name in ("real", "simulated"))
    holds = record["real"].get("interval_miss", (0, 0, 0))[2] < 0
    better = real[2] < 0 or (real[1] <= 0 and holds)
    ship = "after" if better and simulated[1] <= 0 else "before"
    helps = "lowers errors" if real[2] < 0 else "raises errors" if real[1] > 0 else "changes no error for sure"
    helps += " and makes intervals hold better" if holds else ""
    costs = "costs" if simulated[1] > 0 else "gains" if simulated[2] < 0 else "changes nothing for sure"
    words = f"On {record['real']['galaxies']} real galaxies fine-tuning {helps}, on simulated ones it {costs}"
    return {"ship": ship, "sentence": f"{words}: ship the network as it was {ship} fine-tuning."}


def main() -> None:
    """Parse and run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("finetune",))
    parser.add_argument("cell")
    parser.add_argument("weights")
    parser.add_argument("--out", "-o", type=Path, default=Path("tuned"))
    parser.add_argument("--policy", default="last:1")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--progress", action="store_true")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
