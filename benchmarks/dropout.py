"""A thousand draws of GaMPEN's posterior: few passes with many draws each, against a pass of the network per draw.

    python benchmarks/dropout.py --network gampen-hsc --classifier gamornet-sdss -o results/dropout.json

Three tables: time of a galaxy by either way, at the width that ships and at full width (96 px, random weights, time
only); whether both posteriors are the same; galaxies an hour and core. The slow way keeps the network loaded and runs
nothing but passes, which flatters it: the published code builds and reads the network anew for every pass. Its time is
that of a few passes, scaled to as many as there are draws. Both ways run in turns, a galaxy at a time, on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.networks import Network
from galstress.prediction import draw_probabilities, predict
from galstress.simulation import simulate

DRAWS = 1024
ALPHA = 0.05


def pass_with_dropout(network: Network, inputs: Any) -> Tensor:  # noqa: ANN401 (a backbone's own inputs)
    """(B, features) of one pass of the whole network with torch's own dropout."""
    network.backbone.eval()
    for layer in network.backbone.modules():
        if isinstance(layer, nn.Dropout):
            layer.train()
    with torch.no_grad():
        raw = network.head(network.backbone(inputs))
    network.backbone.eval()
    return raw


def seconds(work: Callable[[], object]) -> float:
    """Of a piece of work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare_times(network: Network, cutouts: Cutouts, passes: int) -> dict[str, Any]:
    """Seconds a galaxy of both ways, alternating, and their ratio's median with its 68 % range over the galaxies."""
    predict(network, cutouts.select([0]))
    pairs = []
    for row in range(len(cutouts)):
        one = cutouts.select([row])
        inputs = network.backbone.inputs(one)
        slow = seconds(lambda inputs=inputs: [pass_with_dropout(network, inputs) for _ in range(passes)])
        fast = seconds(lambda one=one: predict(network, one))
        pairs.append((slow * DRAWS / passes, fast))
    ratios = [slow / fast for slow, fast in pairs]
    return {
        "stamp_px": network.backbone.stamp_px,
        "width": network.backbone.width,
        "galaxies": len(cutouts),
        "draws": DRAWS,
        "passes_timed": passes,
        "slow_s": statistics.median(slow for slow, _ in pairs),
        "fast_s": statistics.median(fast for _, fast in pairs),
        "ratio": statistics.median(ratios),
        "ratio_68": np.quantile(ratios, (0.16, 0.84)).tolist(),
    }


def draw_slowly(network: Network, cutouts: Cutouts, passes: int, seed: int) -> np.ndarray:
    """(N, passes, 3): a pass and one draw of its Gaussian, as published."""
    torch.manual_seed(seed)
    inputs = network.backbone.inputs(cutouts)
    raw = torch.stack([pass_with_dropout(network, inputs) for _ in range(passes)], 1)
    normal = torch.randn(len(cutouts), passes, 3, dtype=torch.float64)
    return network.head.outputs(network.head.draw(raw, normal), inputs.reference, cutouts.survey).cpu().numpy()


def compare_posteriors(slow: np.ndarray, fast: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Kolmogorov-Smirnov with Holm's correction over all galaxies and outputs, and moments in units of the slow's."""
    rows, outputs = slow.shape[0], slow.shape[2]
    chances = np.array([[ks_2samp(slow[b, :, k], fast[b, :, k]).pvalue for k in range(outputs)] for b in range(rows)])
    ordered = np.sort(chances.ravel())
    held = ordered * (len(ordered) - np.arange(len(ordered)))
    shift = (fast.mean(1) - slow.mean(1)) / slow.std(1)
    ratio = fast.std(1) / slow.std(1)
    one = [np.corrcoef(each[b].T)[np.triu_indices(3, 1)] for each in (slow, fast) for b in range(rows)]
    correlation = np.array(one[rows:]) - np.array(one[:rows])
    return {
        "galaxies": rows,
        "slow_passes": slow.shape[1],
        "comparisons": len(ordered),
        "smallest_p": float(ordered[0]),
        "smallest_p_holm": float(min(1.0, held[0])),
        "rejected_at_5_percent": int((np.cumprod(held < ALPHA)).sum()),
        "expected_scatter_of_shift": float((1 / slow.shape[1] + 1 / fast.shape[1]) ** 0.5),
        "shift_in_sigma": {n: [float(shift[:, k].mean()), float(shift[:, k].std())] for k, n in enumerate(names)},
        "ratio_of_sigma": {n: [float(ratio[:, k].mean()), float(ratio[:, k].std())] for k, n in enumerate(names)},
        "change_of_correlation": [float(correlation.mean()), float(correlation.std())],
    }


def dropout_share(network: Network, cutouts: Cutouts, passes: int) -> list[float]:
    """Of the variance of logit B/T, ln radius and ln flux: what the dropout adds, the median over galaxies."""
    inputs = network.backbone.inputs(cutouts)
    raw = torch.stack([pass_with_dropout(network, inputs) for _ in range(passes)], 1)
    means, covariances = network.head.posterior(raw.flatten(0, 1))
    between = means.unflatten(0, raw.shape[:2]).var(1)
    within = covariances.diagonal(dim1=1, dim2=2).unflatten(0, raw.shape[:2]).mean(1)
    return (between / (between + within)).median(0).values.tolist()


def measure_rates(networks: dict[str, Network], cutouts: dict[str, Cutouts]) -> dict[str, float]:
    """Galaxies an hour and core by :func:`galstress.predict`, and for a classifier with a thousand dropout draws."""
    rates = {}
    for name, network in networks.items():
        drawn = cutouts[name]
        predict(network, drawn.select([0]))
        rates[name] = len(drawn) * 3600 / seconds(lambda n=network, c=drawn: predict(n, c, batch_size=64))
        if name.startswith("gamornet"):
            elapsed = seconds(lambda n=network, c=drawn: draw_probabilities(n, c, 1000))
            rates[f"{name}, 1000 draws"] = len(drawn) * 3600 / elapsed
        else:
            elapsed = seconds(lambda n=network, c=drawn: predict(n, c, draws=16, batch_size=64))
            rates[f"{name}, 128 draws"] = len(drawn) * 3600 / elapsed
    return rates


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="gampen-hsc", help="a GaMPEN")
    parser.add_argument("--classifier", default="gamornet-sdss", help="a GaMorNet")
    parser.add_argument("--galaxies", type=int, default=12)
    parser.add_argument("--passes", type=int, default=32, help="of the slow way that are timed, a galaxy")
    parser.add_argument("--reference", type=int, default=1000, help="passes of the posterior that is compared with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/dropout.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, classifier = Network.load(options.network), Network.load(options.classifier)
    side = network.backbone.stamp_px
    drawn = simulate("hsc-wide-g", options.galaxies, options.seed, "nearby", neighbours=True, stamp_px=side)
    record: dict[str, Any] = {"seed": options.seed, "galaxies_are": "simulated, hsc-wide-g, nearby"}
    record |= {"network": network.metadata.get("name"), "classifier": classifier.metadata.get("name")}
    record["dropout_rate"] = network.backbone.dropout
    record["time"] = [compare_times(network, drawn, options.passes)]
    full = Network.build("gampen", stamp_px=96, width=1.0, pixels="sky", dropout=network.backbone.dropout)
    stamps = simulate("hsc-wide-g", 2, options.seed, "nearby", stamp_px=96)
    record["time"].append(compare_times(full, stamps, max(2, options.passes // 8)))
    del full
    slow = draw_slowly(network, drawn, options.reference, options.seed + 1000)
    fast = predict(network, drawn)
    record["posterior"] = compare_posteriors(slow, fast.draws, fast.names)
    record["posterior"]["share_of_the_variance"] = dropout_share(network, drawn, 64)
    survey = classifier.metadata.get("domain", {}).get("pixel_scale_arcsec", [0.396])[0]
    kind = "hst-wfc3-f160w" if survey < 0.1 else "hsc-wide-g" if survey < 0.2 else "sdss-g"
    seen = simulate(kind, 64, options.seed, "nearby", stamp_px=classifier.backbone.stamp_px)
    many = drawn.select(np.arange(64) % len(drawn))
    names = {f"gampen {side} px": network, f"gamornet {classifier.backbone.stamp_px} px": classifier}
    record["galaxies_per_hour_and_core"] = measure_rates(names, dict(zip(names, (many, seen), strict=True)))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    aside = options.output.with_name(options.output.name + ".part")
    aside.write_text(json.dumps(record, indent=1))
    aside.replace(options.output)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
