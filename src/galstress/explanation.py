"""What a network looked at: gradient-weighted class activation, beside what needs no network.

The maps come from the last convolutional stage of the backbone (Selvaraju et al. 2017, arXiv:1610.02391): its
activations, weighted by the mean gradient of one output's posterior mean, summed over channels. An output is a number
that goes up or down, not a class, so what counts is the size of the sum and not its sign.

How they are laid on the sky. ``foveal`` sees three scales at once, as channels of one 48 x 48 grid: a cell of its last
stage stands for three patches of sky, 1, 2 and 4 times as wide. A cell's activation is divided among the three by
gradient times input: by the share of the output's dependence, in that cell's surroundings, which passes through each
scale. Each part then goes to its own patch of sky, spread evenly over the pixels that were binned, so that the sum is
kept. The activation has no finer resolution than a cell (8 pixels of each scale), whatever a smooth picture suggests.

What no such map shows: numbers measured on the whole image (size, curve of growth) reach the head beside the
convolutions, and so does the noise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import InputXGradient, LayerGradCam
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.stats import rankdata
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError, UnknownNameError
from galstress.heads import OUTPUTS, Prediction
from galstress.networks import Network

__all__ = ["BASELINES", "Explanation", "explain"]

BASELINES = ("centred Gaussian", "random weights")
"""What each map is compared with, in the order of ``pearson`` and ``spearman``."""

_SCALES = (1, 2, 4)
"""Pixels along one side that each view bins (a test checks it on the backbone)."""
_PAIRS = 32
"""Antithetic pairs of draws behind a posterior mean."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a network looked at in N images, on the images' own pixels.

    Every map is positive and sums to 1; NaN where nothing was predicted, or the output depends on no pixel.
    """

    output: str
    """The output that is explained, with ``sigma of`` before it where its error bar is."""
    object_id: np.ndarray
    """(N,) names."""
    maps: np.ndarray
    """(N, H, W) the network's own."""
    gaussian: np.ndarray
    """(N, H, W) a round Gaussian about the array's centre with the second moment of the network's map."""
    random: np.ndarray
    """(N, H, W) the map of the same architecture with random weights."""
    pearson: np.ndarray
    """(N, 2) correlation of the network's map, over pixels, with each of :data:`BASELINES`."""
    spearman: np.ndarray
    """(N, 2) the same of ranks."""

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.object_id)

    def write(self, path: str | Path) -> None:
        """Save as one safetensors file, aside and then renamed; a report reads it as it is.

        Arrays ``maps`` (N, 3, H, W): own, Gaussian, random; ``correlations`` and ``rank_correlations`` (N, 3) with
        the first. Metadata, JSON but for ``output``: ``names`` (3), ``object_id`` (N), ``output``.
        """
        path = Path(path)
        itself = np.ones((len(self), 1))
        arrays = {
            "maps": np.stack([self.maps, self.gaussian, self.random], 1).astype(np.float32),
            "correlations": np.concatenate([itself, self.pearson], 1).astype(np.float32),
            "rank_correlations": np.concatenate([itself, self.spearman], 1).astype(np.float32),
        }
        about = {"names": json.dumps(["class activation", *BASELINES]), "output": self.output}
        about["object_id"] = json.dumps([str(name) for name in self.object_id])
        aside = path.with_name(path.name + ".part")
        save_file(arrays, aside, metadata=about)
        aside.replace(path)

    @classmethod
    def read(cls, path: str | Path) -> Explanation:
        """The inverse of :meth:`write`.

        Raises:
            InputError: Not such a file.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = dict(file.metadata() or {})
                maps, pearson, spearman = (
                    file.get_tensor(name) for name in ("maps", "correlations", "rank_correlations")
                )
            names = np.asarray(json.loads(about["object_id"]), dtype=str)
            own, gaussian, random = maps.swapaxes(0, 1)
            return cls(about["output"], names, own, gaussian, random, pearson[:, 1:], spearman[:, 1:])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path} ({error})", "a file written by Explanation.write", "explain again") from None


def explain(
    network: Network,
    cutouts: Cutouts,
    output: str = "bulge_to_total",
    *,
    statistic: Literal["mean", "sigma"] = "mean",
    seed: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Explanation:
    """Map what one output rests on, for every object.

    Arguments:
        network: A network whose backbone lists its ``stages``; left exactly as it was.
        cutouts: N objects, stamps of any size.
        output: Any of the posterior's outputs, whole-galaxy ones included.
        statistic: Explain the posterior's ``mean`` of that output, or its ``sigma``.
        seed: Of the random weights that stand beside, and of the draws behind mean and sigma.
        batch_size: Objects at a time; does not change the answer.
        device: Where to compute.

    Returns:
        Maps on the pixels of the cutouts. A high correlation with the Gaussian says that the map holds little beyond
        the galaxy's place and size; with the random weights, that it shows the architecture and not what was learned
        (Adebayo et al. 2018, arXiv:1810.03292).

    Raises:
        UnknownNameError: No such output.
        InputError: The network has no convolutional stages.

    Example:
        >>> from galstress.simulation import simulate
        >>> network = Network.build("foveal", width=0.5)
        >>> explanation = explain(network, simulate("hsc-wide-i", 2, stamp_px=64), "half_light_radius_arcsec")
        >>> explanation.maps.shape, explanation.maps.sum((1, 2)).round(3).tolist()
        ((2, 64, 64), [1.0, 1.0])
    """
    if output not in OUTPUTS:
        raise UnknownNameError("output", output, tuple(OUTPUTS))
    if statistic not in ("mean", "sigma"):
        raise InputError(f"statistic={statistic!r}", "mean or sigma", "choose one of them")
    random = _with_random_weights(network, seed)
    own, other = (_map_all(each, cutouts, (output, statistic, seed), batch_size, device) for each in (network, random))
    gaussian = _gaussian_like(own)
    pixels = [each.reshape(len(own), own[0].size if len(own) else 0) for each in (own, gaussian, other)]
    ranks = [rankdata(each, axis=1, nan_policy="propagate") if each.size else each for each in pixels]
    pearson, spearman = (
        np.stack([_correlate(first, each) for each in others], 1) for first, *others in (pixels, ranks)
    )
    name = output if statistic == "mean" else f"sigma of {output}"
    return Explanation(name, cutouts.object_id.astype(str), own, gaussian, other, pearson, spearman)


def _map_all(
    network: Network, cutouts: Cutouts, what: tuple[str, str, int], batch_size: int, device: torch.device | str
) -> np.ndarray:
    """(N, H, W) maps of unit sum."""
    stages = list(getattr(network.backbone, "stages", {}).values())
    if not stages:
        raise InputError("a network without stages", "one whose backbone lists them", "give its backbone stages")
    parts = [np.zeros((0, *cutouts.images.shape[1:]))]
    with _evaluating(network, device):
        for batch in cutouts.split(batch_size):
            on_sky = _map_batch(network, batch.to(device), stages[-1], what)
            on_sky[batch.mask.to(device).flatten(1).all(1)] = torch.nan
            total = on_sky.sum((1, 2), keepdim=True)
            parts.append((on_sky / total.where(total > 0, torch.nan)).cpu().numpy())
    return np.concatenate(parts)


def _map_batch(network: Network, cutouts: Cutouts, stage: nn.Module, what: tuple[str, str, int]) -> Tensor:
    """(N, H, W) class activation on the sky, float64."""
    inputs = network.backbone.inputs(cutouts)
    views = inputs.views.detach().requires_grad_()
    scalar = _explained(network, cutouts, inputs, what)
    with torch.enable_grad():
        activation = LayerGradCam(scalar, stage).attribute(views)
        through = InputXGradient(scalar).attribute(views)
    assert isinstance(activation, Tensor)
    height, width = cutouts.images.shape[1:]
    return _lay_on_sky(activation[:, 0].detach().double(), through.detach().double(), (height, width))


def _explained(
    network: Network,
    cutouts: Cutouts,
    inputs: Any,  # noqa: ANN401 (the backbone's own)
    what: tuple[str, str, int],
) -> Callable[[Tensor], Tensor]:
    """Views to the (N,) numbers that are explained: posterior mean or sigma, from draws that follow the Gaussian."""
    output, statistic, seed = what
    place = list(OUTPUTS).index(output)
    rows = torch.arange(len(cutouts))

    def scalar(views: Tensor) -> Tensor:
        raw = network.head(network.backbone(dataclasses.replace(inputs, views=views)))
        mean, covariance = network.head.posterior(raw)
        # the same for every object, so that batches do not matter; both signs, so that odd errors cancel
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(_PAIRS, 1, mean.shape[-1], generator=generator, dtype=mean.dtype).to(mean.device)
        step = torch.einsum("nij,snj->sni", torch.linalg.cholesky(covariance), normal.expand(-1, len(mean), -1))
        posterior = Prediction(mean, covariance, inputs.reference, cutouts.object_id, cutouts.flags, cutouts.survey)
        values = posterior._outputs(torch.cat([mean + step, mean - step]), rows.to(mean.device))[..., place]
        return values.mean(0) if statistic == "mean" else values.std(0)

    return scalar


def _lay_on_sky(activation: Tensor, through: Tensor, shape: tuple[int, int]) -> Tensor:
    """Class activation on the pixels of the stamps.

    Arguments:
        activation: (N, C, C) cells of the last stage.
        through: (N, S, V, V) gradient times input of each view.
        shape: (H, W) of the stamps.

    Returns:
        (N, H, W): the size of the activation, the part of each view on the sky that the view saw; what fell outside
        of the stamp (padding) is lost.
    """
    view = through.shape[-1]
    hat = _hats(view, activation.shape[-1]).to(through)
    # a cell's share of each scale, from where its own signal came; the small floor is for cells without any
    cells = hat.T @ through.abs() @ hat
    cells = cells + 1e-6 * cells.mean((2, 3), keepdim=True) + torch.finfo(cells.dtype).tiny
    parts = hat @ (activation.abs()[:, None] * cells / cells.sum(1, keepdim=True)) @ hat.T
    field = view * _SCALES[-1]
    whole = torch.zeros(len(parts), field, field, dtype=parts.dtype, device=parts.device)
    for place, size in enumerate(_SCALES):
        low, span = (field - view * size) // 2, view * size
        patch = parts[:, place].repeat_interleave(size, 1).repeat_interleave(size, 2) / size**2
        whole[:, low : low + span, low : low + span] += patch
    left, top = (field - shape[1]) // 2, (field - shape[0]) // 2
    return nn.functional.pad(whole, [-left, shape[1] - field + left, -top, shape[0] - field + top])


def _hats(view: int, cells: int) -> Tensor:
    """(V, C) weight of each cell of the last stage in each pixel of a view: bilinear between the cells' centres.

    A convolution of stride 2 with padding centres its cell k on pixel 2k and not between 2k and 2k + 1, so a cell of
    the last stage lies on pixel k V / C.
    """
    at = (torch.arange(view, dtype=torch.float64) * cells / view).clamp(max=cells - 1)
    return (1 - (at[:, None] - torch.arange(cells)).abs()).clamp_min(0)


def _gaussian_like(maps: np.ndarray) -> np.ndarray:
    """Round Gaussians about the array's centre with the maps' own second moments about it, unit sum."""
    y, x = (np.arange(side) - (side - 1) / 2 for side in maps.shape[1:])
    squares = y[:, None] ** 2 + x[None, :] ** 2
    variance = np.maximum((maps * squares).sum((1, 2)) / 2, 0.25)[:, None, None]
    found = np.exp(-0.5 * squares / variance)
    return found / found.sum((1, 2), keepdims=True)


def _correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) Pearson's correlation of (N, P) numbers; NaN where either is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = ((each - each.sum(1, keepdims=True) / each.shape[1]) for each in (first, second))
        return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def _with_random_weights(network: Network, seed: int) -> Network:
    """The same architecture before any training; the head's units, which are no weights, are kept."""
    record = network.metadata
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = Network.build(record["backbone"]["name"], record["head"]["name"], **record["backbone"]["settings"])
    known = dict(network.head.named_buffers())
    for name, buffer in random.head.named_buffers():
        buffer.copy_(known[name])
    return random


@contextlib.contextmanager
def _evaluating(network: Network, device: torch.device | str) -> Iterator[None]:
    """Evaluation mode on a device, and afterwards every module's mode and the device as they were."""
    modules = network.modules()
    home = next(modules.parameters()).device
    modes = {module: module.training for module in modules.modules()}
    modules.to(device).eval()
    try:
        yield
    finally:
        modules.to(home)
        for module, mode in modes.items():
            module.training = mode
