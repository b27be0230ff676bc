"""Which weights fine-tuning may change, and how fast each."""

from __future__ import annotations

import math

from torch import nn

from galstress.errors import InputError
from galstress.networks import Network

__all__ = ["POLICIES", "rate_factors"]

POLICIES = {
    "all": "every weight",
    "head": "the head",
    "last:K": "the head and the last K stages of the backbone",
    "norm": "gains, biases, and what scales and shifts channels (FiLM, normalisation), of backbone and head",
    "layerwise:D": "every weight, the rate falling by the factor D (0.7 if left out) with each stage towards the input",
}
"""Policies as they are written, and what they thaw."""
_DECAY = 0.7
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def rate_factors(network: Network, policy: str) -> dict[str, float]:
    """Factor on the learning rate of each parameter, 0 for frozen ones.

    Arguments:
        network: Its backbone has ``stages``. What stands before them in the backbone counts with the first, what
            stands behind them with the last.
        policy: One of :data:`POLICIES`, for example ``last:1``.

    Returns:
        Parameter names (``backbone.``, ``head.``) and their factors, in order.

    Raises:
        InputError: No such policy, or a number that it cannot have.

    Example:
        >>> factors = rate_factors(Network.build("foveal", width=0.4), "layerwise:0.5")
        >>> [factors[f"backbone.stages.stage{number}.down.weight"] for number in (1, 2, 3)]
        [0.125, 0.25, 0.5]
    """
    depth = _depths(network)
    deepest = len(network.backbone.stages)
    kind, _, number = policy.partition(":")
    if policy == "all":
        return dict.fromkeys(depth, 1.0)
    if policy == "norm":
        chosen = _norm_names(network)
        return {name: float(name in chosen) for name in depth}
    if policy == "head" or (kind == "last" and number.isdecimal() and 1 <= int(number) <= deepest):
        reach = int(number or 0)
        return {name: float(level <= reach) for name, level in depth.items()}
    if kind == "layerwise":
        decay = _number(number) if number else _DECAY
        if policy == "layerwise" or 0 < decay <= 1:
            return {name: decay**level for name, level in depth.items()}
    allowed = ", ".join(POLICIES)
    raise InputError(f"policy {policy!r}", f"{allowed} with K from 1 to {deepest}, D above 0 to 1", "choose last:1")


def _depths(network: Network) -> dict[str, int]:
    """Stages between each parameter and the head: 0 in the head, 1 in the last stage."""
    stages = list(network.backbone.stages)
    children = [name for name, _ in network.backbone.named_children()]
    before = set(children[: children.index("stages")])
    depth = {}
    for name, _ in network.modules().named_parameters():
        part, _, rest = name.partition(".")
        first, _, inner = rest.partition(".")
        if part == "head":
            depth[name] = 0
        elif first == "stages":
            depth[name] = len(stages) - stages.index(inner.partition(".")[0])
        else:  # a parameter of the backbone itself has no child's name: it counts with the last stage
            depth[name] = len(stages) if first in before else 1
    return depth


def _norm_names(network: Network) -> set[str]:
    """Parameters that shift or scale whole channels."""
    modules = network.modules()
    inside = {
        f"{name}.{own}"
        for name, module in modules.named_modules()
        if isinstance(module, _NORMS)
        for own, _ in module.named_parameters(recurse=False)
    }
    named = {n for n, _ in modules.named_parameters() if n.endswith((".gain", ".bias")) or ".film." in n}
    return inside | named


def _number(text: str) -> float:
    """A number, or NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
