"""Which weights fine-tuning may change, and how fast each."""

from __future__ import annotations

import math

import torch
from torch import nn

from galstress.errors import InputError
from galstress.networks import Network

__all__ = ["POLICIES", "list_renewed", "rate_factors", "renew_stages"]

POLICIES = {
    "all": "every weight",
    "head": "the head",
    "last:K": "the head and the last K stages of the backbone",
    "norm": "gains, biases, and what scales and shifts channels (FiLM, normalisation), of backbone and head",
    "layerwise:D": "every weight, the rate falling by the factor D (0.7 if left out) with each stage towards the input",
    "gamornet-sdss": "every weight, the three dense layers begun anew: as published for SDSS",
    "gamornet-candels": "all but the first three convolutions, dense2 and output begun anew: as published for CANDELS",
    "gamornet-hsc": "all but the first three convolutions: as published for HSC",
}
"""Policies as they are written, and what they thaw. Where a head has no weights (GaMorNet, GaMPEN), the backbone's last
stage is its output and counts as the head."""
_CONVOLUTIONS = ("conv1", "conv2", "conv3")
_PUBLISHED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gamornet-sdss": (("dense1", "dense2", "output"), ()),
    "gamornet-candels": (("dense2", "output"), _CONVOLUTIONS),
    "gamornet-hsc": ((), _CONVOLUTIONS),
}
"""Stages of GaMorNet that begin anew, and those that stay frozen.

Source: GaMorNet's tutorials (version 0.4.3) for SDSS and CANDELS; Tian et al. 2023 (arXiv:2212.09984) for HSC.
"""
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
    deepest = max(depth.values())
    if policy in _PUBLISHED:
        frozen = tuple(f"backbone.stages.{stage}." for stage in _published_stages(network, policy)[1])
        return {name: float(not name.startswith(frozen)) for name in depth}
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


def list_renewed(network: Network, policy: str) -> list[str]:
    """Stages of the backbone that a policy begins anew.

    Raises:
        InputError: A published policy of another network.
    """
    return list(_published_stages(network, policy)[0])


@torch.no_grad()
def renew_stages(network: Network, policy: str, seed: int) -> None:
    """Put fresh random weights, in place, where a policy begins anew.

    Arguments:
        network: Built from its own metadata.
        policy: One of :data:`POLICIES`.
        seed: Of the weights.
    """
    stages = list_renewed(network, policy)
    if not stages:
        return
    record = network.metadata["backbone"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Network.build(record["name"], network.metadata["head"]["name"], **record["settings"])
    for stage in stages:
        network.backbone.stages[stage].load_state_dict(fresh.backbone.stages[stage].state_dict())


def _published_stages(network: Network, policy: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Stages that begin anew and those that stay frozen; none of either for other policies."""
    renewed, frozen = _PUBLISHED.get(policy, ((), ()))
    name = network.metadata["backbone"]["name"]
    if policy in _PUBLISHED and name != "gamornet":
        raise InputError(f"policy {policy!r} of {name}", "a GaMorNet", "choose last:1")
    return renewed, frozen


def _depths(network: Network) -> dict[str, int]:
    """Stages between each parameter and the head: 0 in the head, 1 in the last stage.

    Where the head has no weights, the last stage is its output: 0 there, 1 in the stage before it.
    """
    stages = list(network.backbone.stages)
    last = 1 if any(True for _ in network.head.parameters()) else 0
    children = [name for name, _ in network.backbone.named_children()]
    before = set(children[: children.index("stages")])
    depth = {}
    for name, _ in network.modules().named_parameters():
        part, _, rest = name.partition(".")
        first, _, inner = rest.partition(".")
        if part == "head":
            depth[name] = 0
        elif first == "stages":
            depth[name] = len(stages) - 1 + last - stages.index(inner.partition(".")[0])
        else:  # a parameter of the backbone itself has no child's name: it counts with the last stage
            depth[name] = len(stages) - 1 + last if first in before else last
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
