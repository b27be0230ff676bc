"""How far simulated galaxies are from real ones: HST templates as other surveys would have seen them.

    python benchmarks/realism.py check --out results
    python benchmarks/realism.py errors --survey hsc-wide-i --out results
    python benchmarks/realism.py gap --survey hsc-wide-i --out results

Needs the real images (``GALSTRESS_DATA``). ``check``: chi-square of degraded templates against their originals.
``errors``: the network on templates in the survey's real sky (drawn noise where none is at hand) against their summed
flux and radius and B/T of a fit; untouched, recalibrated and fine-tuned, out of fold, split by template. ``gap``: how
well a classifier tells templates (in drawn noise) from simulated twins, each the median model that the network gives
for a template, smooth or with structure, through the same PSF and in the same noise: area under the curve of a
logistic regression on four numbers, out of fold by template; 0.5: not at all. Each writes a
``realism-WHAT[-SURVEY].json``.
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
from galstress.simulation import simulate
from galstress.survey import Survey

SEED = 970_000
REAL_SKY = ("hsc-wide-i", "hsc-udeep-i", "hst-acs-f814w", "hst-candels-f814w", "sdss-r")
NUMBERS = ("asymmetry", "chi_square", "residual_share", "clumpiness")
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
    """Mean chi-square a pixel of all templates, into HSC and SDSS."""
    del options, network
    templates, found = load_templates(), {}
    for name in ("hsc-wide-i", "sdss-r"):
        survey = Survey.load(name)
        usable = templates.select(np.flatnonzero(find_usable(templates, survey, 10.0)))
        values = np.asarray(check_degraded(usable, survey, seed=SEED)["chi_square"])
        found[name] = {"mean": values.mean(), "least": values.min(), "most": values.max(), "templates": len(values)}
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


def gap(options: argparse.Namespace, network: Network) -> dict[str, object]:
    """Areas under the curve, for smooth and for structured twins, with intervals over templates."""
    real = observe(options.survey, options.stamp, options.snr, with_sky=False)
    models = predict(network, real, average=True).truth_like()
    seen, found = measure(real, network), {}
    for label, structured in (("smooth", False), ("structured", True)):
        twins = simulate(real.survey, seed=SEED + 1, galaxies=models, structured=structured, stamp_px=options.stamp)
        numbers = np.concatenate([seen, measure(twins, network)])
        is_real = np.repeat([1, 0], len(real))
        groups = np.tile(np.unique(real.catalogue["group"], return_inverse=True)[1], 2)
        classifier = make_pipeline(StandardScaler(), LogisticRegression())
        score = cross_val_predict(
            classifier, numbers, is_real, groups=groups, cv=GroupKFold(10), method="decision_function"
        )
        rng, draws = np.random.default_rng(SEED), []
        for _ in range(500):
            pairs = rng.integers(len(real), size=len(real))
            rows = np.concatenate([pairs, pairs + len(real)])
            draws.append(roc_auc_score(is_real[rows], score[rows]))
        low, high = np.quantile(draws, [0.16, 0.84])
        found[label] = {"auroc": roc_auc_score(is_real, score), "low": low, "high": high}
        found[label] |= {f"median_{n}": v for n, v in zip(NUMBERS, np.median(numbers[len(real) :], 0), strict=True)}
        _log.info("%s twins: area %.3f (%.3f to %.3f)", label, found[label]["auroc"], low, high)
    found["templates"] = len(real)
    found["real"] = {f"median_{n}": v for n, v in zip(NUMBERS, np.median(seen, 0), strict=True)}
    return found


def plain(value: object) -> object:
    """A cell as JSON has it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value if isinstance(value, int | bool) else str(value)


def write(record: dict[str, object], path: Path) -> None:
    """Aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(record, indent=1, default=plain) + "\n", encoding="utf-8")
    aside.replace(path)
    _log.info("written: %s", path)


def main() -> None:
    """Parse, measure, write."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "errors", "gap"))
    parser.add_argument("--survey", default="hsc-wide-i")
    parser.add_argument("--network", default="foveal")
    parser.add_argument("--stamp", type=int, default=128)
    parser.add_argument("--snr", type=float, nargs=2, default=(30.0, 200.0))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--policies", nargs="+", default=["last:1"])
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    found = {"check": check, "errors": errors, "gap": gap}[options.what](options, Network.load(options.network))
    words = f" --survey {options.survey}" if options.what != "check" else ""
    words += f" --steps {options.steps} --policies {' '.join(options.policies)}" if options.what == "errors" else ""
    record = {"command": f"python benchmarks/realism.py {options.what}{words}", "version": galstress.__version__}
    settings = {"seed": SEED, "stamp_px": options.stamp, "snr": list(options.snr), "steps": options.steps}
    name = f"realism-{options.what}" + (f"-{options.survey}" if words else "")
    write({**record, **settings, **found}, options.out / f"{name}.json")


if __name__ == "__main__":
    main()
