"""How far simulated galaxies are from real ones: HST templates as other surveys would have seen them.

    python benchmarks/realism.py check --out results
    python benchmarks/realism.py errors --survey hsc-wide-i --out results
    python benchmarks/realism.py gap --survey hsc-wide-i --out results
    python benchmarks/realism.py steps --survey hsc-wide-i --out results

Needs the real images (``GALSTRESS_DATA``). ``check``: chi-square of degraded templates against their originals.
``errors``: the network on templates in the survey's real sky (drawn noise where none is at hand) against their summed
flux and radius and B/T of a fit; untouched, recalibrated and fine-tuned, out of fold, split by template. ``gap``: how
well a classifier tells templates (in drawn noise) from simulated twins, each the median model that the network gives
for a template, smooth or with structure, through the same PSF and in the same noise: area under the curve of a
logistic regression on four numbers, out of fold by template; 0.5: not at all. ``steps``: the same of templates seen
through real PSFs in real sky, beside twins that get structure, real PSFs and real sky one after the other; two more
numbers, of the pixels around the galaxy, can tell the skies apart. Each adds an entry to ``summary.json`` in ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import galstress
from galstress.cutouts import Cutouts
from galstress.finetuning import Tuning, cross_validate
from galstress.networks import Network
from galstress.prediction import predict
from galstress.realism import check_degraded, find_usable, load_skies, load_templates, reobserve
from galstress.rendering import draw_truth
from galstress.scores import bootstrap
from galstress.simulation import simulate
from galstress.survey import Survey
from twins import make_twins

SEED = 970_000
REAL_SKY = ("hsc-wide-i", "hsc-udeep-i", "hst-acs-f814w", "hst-candels-f814w", "sdss-r")
NUMBERS = ("asymmetry", "chi_square", "residual_share", "clumpiness")
OUTSIDE = ("outer_chi_square", "outer_skewness")
STEPS = (
    ("smooth", {}),
    ("+ structure", {"structured": True}),
    ("+ real PSFs", {"structured": True, "real_psfs": True}),
    ("+ real sky", {"structured": True, "real_psfs": True, "real_sky": True}),
)
"""What twins get, one after the other."""
_log = logging.getLogger("realism")


def observe(name: str, stamp_px: int, snr: tuple[float, float], *, with_sky: bool) -> Cutouts:
    """Every usable template once, S/N drawn evenly in its logarithm."""
    survey = dataclasses.replace(Survey.load(name), stamp_px=stamp_px)
    templates = load_templates()
    templates = templates.select(np.flatnonzero(find_usable(templates, survey, snr[0])))
    wanted = np.exp(np.random.default_rng(SEED).uniform(*np.log(snr), len(templates)))
    sky = load_skies(survey, len(templates), seed=SEED) if with_sky else None
    return reobserve(templates, survey, snr=wanted, seed=SEED, sky=sky)


def check(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Chi-square a pixel of each template, into HSC and SDSS, as bright as half of its own S/N allows."""
    del options, network
    templates, found = load_templates(), {}
    for place, name in enumerate(("hsc-wide-i", "sdss-r")):
        survey = Survey.load(name)
        usable = templates.select(np.flatnonzero(find_usable(templates, survey, 10.0)))
        table = check_degraded(usable, survey, snr=1e5, seed=SEED + place)
        record: dict[str, object] = {"templates": len(table), "median_snr": float(np.median(table["snr"]))}
        for column in ("chi_square", "chi_square_bright"):
            values = np.asarray(table[column])
            values = values[np.isfinite(values)]
            mean, low, high = bootstrap(lambda x: x.mean(-1), values, seed=SEED)
            inside = float(np.mean((values >= 0.95) & (values <= 1.05)))
            record[column] = {
                "count": len(values), "mean": mean, "low": low, "high": high, "least": values.min(),
                "most": values.max(), "share_0.95_to_1.05": inside,
            }  # fmt: skip
        found[name] = record | {"scatter_of_white_noise": math.sqrt(2) / survey.stamp_px}
        _log.info("%s: %s", name, found[name])
    return found


def errors(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Untouched, recalibrated and fine-tuned."""
    cutouts = observe(options.survey, options.stamp, options.snr, with_sky=options.survey in REAL_SKY)
    tuning = Tuning(steps=options.steps)
    groups = [str(group) for group in cutouts.catalogue["group"]]
    compared = cross_validate(
        network, cutouts, policies=options.policies, groups=groups, tuning=tuning, seed=SEED, progress=True
    )
    compared.table.pprint_all()
    _log.info(compared.sentence)
    rows = [{name: plain(row[name]) for name in compared.table.colnames} for row in compared.table]
    return {"table": rows, "sentence": compared.sentence, "galaxies": len(cutouts), "groups": len(set(groups))}


def measure(cutouts: Cutouts, network: Network) -> np.ndarray:
    """(N, 4) numbers that a smooth model does not have: asymmetry, and what the network's median model leaves over."""
    stamp_px = cutouts.images.shape[-1]
    model = draw_truth(
        predict(network, cutouts).truth_like(), cutouts.psf, cutouts.psf_oversampling, cutouts.survey, stamp_px
    )
    residual, rms = cutouts.images - model, cutouts.variance.sqrt()
    bright = model > 2 * rms
    bright[:, stamp_px // 2, stamp_px // 2] = True
    smooth = torch.nn.functional.avg_pool2d(residual[:, None], 5, 1, 2)[:, 0]

    def total(image: torch.Tensor) -> torch.Tensor:
        return torch.where(bright, image, 0.0).sum((1, 2))

    flux = total(cutouts.images).clamp_min(1e-9)
    turned = torch.rot90(cutouts.images, 2, (1, 2))
    # the noise's own part, sqrt(2 / pi) sigma a pixel, is taken off
    noise = total(rms) * math.sqrt(2 / math.pi)
    numbers = [
        (total((cutouts.images - turned).abs()) - math.sqrt(2) * noise) / flux,
        torch.log(total((residual / rms) ** 2) / bright.sum((1, 2))),
        (total(residual.abs()) - noise) / flux,
        total(smooth.abs()) / flux,
    ]
    return torch.stack(numbers, 1).double().numpy()


def measure_outside(cutouts: Cutouts, network: Network) -> np.ndarray:
    """(N, 2) ln chi-square and skewness of the pixels that show neither the galaxy nor a neighbour."""
    stamp_px = cutouts.images.shape[-1]
    truth = predict(network, cutouts).truth_like()
    model = draw_truth(truth, cutouts.psf, cutouts.psf_oversampling, cutouts.survey, stamp_px)
    rms = cutouts.variance.sqrt()
    empty = (model < 0.3 * rms) & ~cutouts.mask & ~cutouts.neighbour_mask
    off = torch.where(empty, (cutouts.images - model) / rms, 0.0).double()
    count = empty.sum((1, 2)).clamp_min(1)
    second, third = ((off**power).sum((1, 2)) / count for power in (2, 3))
    return torch.stack([second.clamp_min(1e-9).log(), third / second.clamp_min(1e-9) ** 1.5], 1).numpy()


def tell_apart(real: np.ndarray, twins: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Area under the curve of a logistic regression, out of fold by template, with its interval over templates."""
    numbers, is_real = np.concatenate([real, twins]), np.repeat([1, 0], len(real))
    classifier = make_pipeline(StandardScaler(), LogisticRegression())
    score = cross_val_predict(
        classifier, numbers, is_real, groups=np.tile(groups, 2), cv=GroupKFold(10), method="decision_function"
    )
    rng, draws = np.random.default_rng(SEED), []
    for _ in range(500):
        pairs = rng.integers(len(real), size=len(real))
        rows = np.concatenate([pairs, pairs + len(real)])
        draws.append(roc_auc_score(is_real[rows], score[rows]))
    low, high = np.quantile(draws, [0.16, 0.84])
    return {"auroc": roc_auc_score(is_real, score), "low": low, "high": high}


def gap(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Areas under the curve, for smooth and for structured twins, with intervals over templates."""
    real = observe(options.survey, options.stamp, options.snr, with_sky=False)
    models = predict(network, real, average=True).truth_like()
    groups = np.unique(real.catalogue["group"], return_inverse=True)[1]
    seen, found = measure(real, network), {}
    for label, structured in (("smooth", False), ("structured", True)):
        twins = simulate(real.survey, seed=SEED + 1, galaxies=models, structured=structured, stamp_px=options.stamp)
        numbers = measure(twins, network)
        found[label] = tell_apart(seen, numbers, groups)
        found[label] |= {f"median_{n}": v for n, v in zip(NUMBERS, np.median(numbers, 0), strict=True)}
        _log.info("%s twins: area %.3f (%.3f to %.3f)", label, *list(found[label].values())[:3])
    found["templates"] = len(real)
    found["real"] = {f"median_{n}": v for n, v in zip(NUMBERS, np.median(seen, 0), strict=True)}
    return found


def steps(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Areas under the curve as twins become more real, against templates in real sky behind real PSFs."""
    real = observe(options.survey, options.stamp, options.snr, with_sky=True)
    models = predict(network, real, average=True).truth_like()
    groups = np.unique(real.catalogue["group"], return_inverse=True)[1]
    patches = load_skies(real.survey, len(real), seed=SEED + 2)

    def look(cutouts: Cutouts) -> np.ndarray:
        return np.concatenate([measure(cutouts, network), measure_outside(cutouts, network)], 1)

    seen, found = look(real), {}
    for label, changes in STEPS:
        numbers = look(make_twins(models, real.survey, patches, seed=SEED + 1, **changes))
        found[label] = tell_apart(seen, numbers, groups)
        found[label]["auroc_four_numbers"] = tell_apart(seen[:, :4], numbers[:, :4], groups)["auroc"]
        found[label] |= {f"median_{n}": v for n, v in zip(NUMBERS + OUTSIDE, np.median(numbers, 0), strict=True)}
        _log.info("%s: area %.3f (%.3f to %.3f), four numbers %.3f", label, *list(found[label].values())[:4])
    found["real"] = {f"median_{n}": v for n, v in zip(NUMBERS + OUTSIDE, np.median(seen, 0), strict=True)}
    fields = len(set(map(str, patches.catalogue["object_id"])))
    return found | {"templates": len(real), "fields_of_sky": fields}


def plain(value: object) -> object:
    """A cell as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value if isinstance(value, int | bool) else str(value)


def write(record: dict[str, object], path: Path, key: str) -> None:
    """One entry of a summary; the others stay. Aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps({**whole, key: record}, indent=1, default=plain) + "\n", encoding="utf-8")
    aside.replace(path)
    _log.info("written: %s", path)


def main() -> None:
    """Parse, measure, write."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "errors", "gap", "steps"))
    parser.add_argument("--survey", default="hsc-wide-i")
    parser.add_argument("--network", default="foveal")
    parser.add_argument("--stamp", type=int, default=128)
    parser.add_argument("--snr", type=float, nargs=2, default=(30.0, 200.0))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--policies", nargs="+", default=["last:1"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    runs = {"check": check, "errors": errors, "gap": gap, "steps": steps}
    found = runs[options.what](options, Network.load(options.network))
    words = f" --survey {options.survey}" if options.what != "check" else ""
    words += f" --steps {options.steps} --policies {' '.join(options.policies)}" if options.what == "errors" else ""
    record = {"command": f"python benchmarks/realism.py {options.what}{words}", "version": galstress.__version__}
    settings = {"seed": SEED, "stamp_px": options.stamp, "snr": list(options.snr), "steps": options.steps}
    name = options.what + (f"-{options.survey}" if words else "")
    write({**record, **settings, **found}, options.out / "summary.json", name)


if __name__ == "__main__":
    main()
