"""Weights of the published GaMorNet (Keras, HDF5) and GaMPEN (PyTorch, .pt) as networks of this package.

The names inside such files follow the version that wrote them, so layers are told by their order and shape, and every
shape is checked. No code of a file is run. What the files do not hold (side of the stamps, the labels' scaling, the
rate of the dropout) comes from the published settings or from the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from astropy.table import Table
from torch import Tensor

from galstress.errors import InputError, UnknownNameError
from galstress.networks.gampen import localized_side
from galstress.networks.network import Network

__all__ = ["SURVEYS", "import_gamornet", "import_gampen", "read_scaling"]

SURVEYS: Mapping[str, tuple[int, float, float]] = {
    "sdss": (167, 25.11, 0.396),
    "candels": (83, 25.95, 0.06),
    "hsc": (239, 27.0, 0.168),
}
"""Of each published GaMorNet: side of the stamps, AB magnitude of one unit, arcsec a pixel."""
_GAMPEN = {239: 4e-4, 143: 2e-4, 96: 2e-4}
"""Rate of the dropout of each published GaMPEN (fine-tuned on real galaxies), by side of the stamps."""
_GAMPEN_ZERO_POINT = 27.0
_LABELS = (
    ("custom_logit_bt", "bt", "bulge_to_total"),
    ("ln_R_e_asec", "R_e_asec", "half_light_radius_arcsec"),
    ("ln_total_flux_adus", "total_flux_adus", "flux_adus"),
)
"""Columns of a table of labels: as trained on, or before their logit or logarithm."""
Pair = tuple[np.ndarray, np.ndarray]


def import_gamornet(path: str | Path, survey: str = "sdss", *, stamp_px: int | None = None) -> Network:
    """GaMorNet from the Keras weights file of its release, or of any training of the same layers.

    Arguments:
        path: HDF5 as Keras 2 writes it: weights alone or a whole model.
        survey: One of :data:`SURVEYS`; says side, zero point and pixel scale of the images that it was trained on.
        stamp_px: Side of the stamps, where it is another than the survey's.

    Returns:
        A network that takes raw pixels and normalises responses as the Keras version does.

    Raises:
        UnknownNameError: No such survey.
        InputError: Not such a file, other layers, or shapes that do not fit; the message says which.

    Source: layers and order of Ghosh et al. 2020 (arXiv:2006.14639), version 0.4.3. Kernels are stored (height, width,
    before, after), dense ones (before, after), and the first dense layer counts its inputs channels last.

    Example:
        >>> import_gamornet("nowhere.hdf5")
        Traceback (most recent call last):
        galstress.errors.InputError: got nowhere.hdf5 (no such file); allowed: Keras weights (HDF5); next: check ...
    """
    if survey not in SURVEYS:
        raise UnknownNameError("survey", survey, tuple(SURVEYS))
    side, zero_point, scale = SURVEYS[survey]
    pairs = _read_keras(Path(path))
    ranks = [kernel.ndim for kernel, _ in pairs]
    if ranks != [4] * 5 + [2] * 3:
        raise InputError(
            f"{path} with layers of ranks {ranks}", "five convolutions, then three dense layers", "import GaMorNet's"
        )
    stamp_px = stamp_px or side
    settings = {
        "stamp_px": stamp_px, "width": pairs[0][0].shape[3] / 96, "response": "keras", "pixels": "raw",
        "zero_point_mag": zero_point,
    }  # fmt: skip
    channels = pairs[4][0].shape[3]
    # a stamp's side is only known up to the strides: 161 to 192 pixels all end in 6 x 6
    left = math.isqrt(pairs[5][0].shape[0] // channels)
    if left**2 * channels != pairs[5][0].shape[0] or left != math.ceil(stamp_px / 32):
        raise InputError(
            f"{path}, whose first dense layer has {pairs[5][0].shape[0]} inputs, for stamps of {stamp_px} pixels",
            f"{channels * math.ceil(stamp_px / 32) ** 2} inputs; these are of {32 * left - 31} to {32 * left} pixels",
            "name the survey that it was trained on, or stamp_px",
        )
    dense = pairs[5][0].reshape(left, left, channels, -1).transpose(2, 0, 1, 3).reshape(left**2 * channels, -1)
    pairs[5] = (dense, pairs[5][1])
    turned = [(k.transpose(3, 2, 0, 1) if k.ndim == 4 else k.T, b) for k, b in pairs]
    origin = {"file": Path(path).name, "layout": "Keras", "survey": survey}
    network = _fill(path, "gamornet", "classes", settings, turned, {"temperature": torch.ones(())})
    return network.with_metadata(
        name=f"gamornet-{survey}-imported", imported=origin, domain={"pixel_scale_arcsec": [scale, scale]}
    )


def import_gampen(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    centre: Sequence[float] | None = None,
    scale: Sequence[float] | None = None,
    stamp_px: int | None = None,
    dropout: float | None = None,
    pixel_scale_arcsec: float = 0.168,
) -> Network:
    """GaMPEN from the weights file of its release (``vgg16_w_stn_oc_drp``), or of any training of the same layers.

    Arguments:
        path: PyTorch's state dict, alone or inside of a dictionary; read without running code of the file.
        labels: CSV of the labels that it was trained on, from which centre and scale are computed as its own code
            does (:func:`read_scaling`). Instead of both:
        centre: Means of logit B/T, ln radius in arcsec and ln flux in units of zero point 27 over those labels.
        scale: Their standard deviations.
        stamp_px: Side of the stamps, where it is none of the published 239, 143 and 96.
        dropout: Rate; by default the published one of that side.
        pixel_scale_arcsec: Of the images that it was trained on; HSC's by default.

    Returns:
        A network that takes raw pixels, with the free zoom and the plain logit of the original.

    Raises:
        InputError: Not such a file, one that would have to run code, other layers, shapes that do not fit, or no
            scaling; the message says which.

    Source: Ghosh et al. 2022 (arXiv:2207.05107) and 2023 (arXiv:2212.00051).

    Example:
        >>> import_gampen("nowhere.pt", centre=(0, 1, 9), scale=(1, 1, 1))
        Traceback (most recent call last):
        galstress.errors.InputError: got nowhere.pt (no such file); allowed: PyTorch weights (.pt); next: check ...
    """
    middle, spread = _scaling(labels, centre, scale)
    middle[1] -= math.log(pixel_scale_arcsec)
    pairs = _ordered(path, _read_torch(Path(path)))
    inputs, channels = pairs[2][0].shape[1], pairs[1][0].shape[0]
    left = math.isqrt(inputs // channels)
    if left**2 * channels != inputs:
        raise InputError(f"{path}: {inputs} inputs of the transformer", f"{channels} maps", "import GaMPEN's weights")
    fitting = [side for side in range(57, 1200) if localized_side(side) == left]
    stamp_px = stamp_px or next((side for side in _GAMPEN if side in fitting), None)
    if stamp_px not in fitting:
        raise InputError(f"{path} for stamps of {stamp_px or 'unknown'} pixels", f"one of {fitting}", "give stamp_px")
    if dropout is None and stamp_px not in _GAMPEN:
        raise InputError("no rate of the dropout", "a number: only those of 239, 143, 96 px are known", "give dropout")
    settings = {
        "stamp_px": stamp_px, "width": pairs[4][0].shape[0] / 64, "pixels": "raw", "bounded_zoom": False,
        "zero_point_mag": _GAMPEN_ZERO_POINT, "dropout": _GAMPEN[stamp_px] if dropout is None else dropout,
    }  # fmt: skip
    head = {"centre": middle.float(), "scale": spread.float(), "widening": torch.ones(3)}
    network = _fill(path, "gampen", "triple-published", settings, pairs, head)
    origin = {"file": Path(path).name, "layout": "PyTorch", "labels": Path(labels).name if labels else "given"}
    domain = {"pixel_scale_arcsec": [pixel_scale_arcsec] * 2}
    return network.with_metadata(name=f"gampen-{stamp_px}px-imported", imported=origin, domain=domain)


def read_scaling(labels: str | Path) -> tuple[Tensor, Tensor]:
    """(3,) mean and (3,) standard deviation of logit B/T, ln radius in arcsec and ln flux of a CSV of labels.

    Arguments:
        labels: The *training* part of the labels, with columns ``custom_logit_bt``, ``ln_R_e_asec`` and
            ``ln_total_flux_adus``, or, instead of each, ``bt``, ``R_e_asec`` and ``total_flux_adus``.

    Raises:
        InputError: No such file, or columns, or numbers that are not finite.

    B/T of 0 is replaced by half of the smallest other one, 1 likewise, as the published labels were made.
    """
    if not Path(labels).is_file():
        raise InputError(f"{labels} (no such file)", "a CSV of the labels of the training", "check the path")
    try:
        table = Table.read(labels, format="ascii.csv")
        columns = [_column(table, names, place == 0) for place, names in enumerate(_LABELS)]
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        wanted = "; ".join(" or ".join(names) for names in _LABELS)
        raise InputError(f"{labels} ({error})", f"columns {wanted}", "take the table of the training") from None
    values = torch.as_tensor(np.stack(columns))
    if not bool(torch.isfinite(values).all()) or values.shape[1] < 2:
        raise InputError(f"{labels} with empty or impossible labels", "finite ones, B/T from 0 to 1", "remove the rows")
    return values.mean(1), values.std(1, correction=0)


def _column(table: Table, names: Sequence[str], share: bool) -> np.ndarray:
    """(N,) one label as trained on."""
    if names[0] in table.colnames:
        return np.asarray(table[names[0]], np.float64)
    found = next((name for name in names if name in table.colnames), None)
    if found is None:
        raise KeyError(f"no column {' or '.join(names)}")
    values = np.asarray(table[found], np.float64)
    with np.errstate(all="ignore"):
        if not share:
            return np.log(values)
        inside = values[(values > 0) & (values < 1)]
        values = np.where(values == 0, inside.min() / 2, np.where(values == 1, (1 + inside.max()) / 2, values))
        return np.log(values / (1 - values))


def _scaling(
    labels: str | Path | None, centre: Sequence[float] | None, scale: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """Centre and scale from whatever of them was given."""
    if labels is not None and centre is None and scale is None:
        return read_scaling(labels)
    if labels is not None or centre is None or scale is None:
        raise InputError(
            "no scaling of the labels, or two", "labels, or centre and scale: the file holds none", "give one of them"
        )
    middle, spread = (torch.tensor([float(x) for x in each], dtype=torch.float64) for each in (centre, scale))
    if middle.shape != (3,) or spread.shape != (3,) or not bool((spread > 0).all() & torch.isfinite(middle).all()):
        raise InputError(f"centre={centre}, scale={scale}", "three numbers each, scales above 0", "correct them")
    return middle, spread


def _read_keras(path: Path) -> list[Pair]:
    """Kernel and bias of each layer that has them, in order."""
    if not path.is_file():
        raise InputError(f"{path} (no such file)", "Keras weights (HDF5)", "check the path")
    try:
        with h5py.File(path, "r") as file:
            top = file.get("model_weights", file)
            if "layer_names" not in top.attrs:
                raise KeyError("it does not say the order of its layers")
            found = []
            for layer in top.attrs["layer_names"]:
                group = top[_text(layer)]
                arrays = [np.asarray(group[_text(name)], np.float32) for name in group.attrs["weight_names"]]
                if arrays and (len(arrays) != 2 or arrays[0].shape[-1:] != arrays[1].shape):
                    raise KeyError(f"{_text(layer)} has {[a.shape for a in arrays]}, not a kernel and its bias")
                found += [(arrays[0], arrays[1])] if arrays else []
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = str(error).strip("'\"")[:160]
        raise InputError(f"{path} ({reason})", "weights as Keras 2 writes them", "download it again") from None
    return found


def _text(name: object) -> str:
    """A name, which old files hold as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)


def _read_torch(path: Path) -> list[Pair]:
    """Weight and bias of each layer, in order, of a state dict however it is wrapped."""
    if not path.is_file():
        raise InputError(f"{path} (no such file)", "PyTorch weights (.pt)", "check the path")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (whatever a file of any kind makes the reader stumble over)
        if "weights_only" in str(error):
            raise InputError(
                f"{path}, which runs code when read", "weights alone", "save model.state_dict() where you trust it"
            ) from None
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"{path} ({reason})", "PyTorch weights (.pt)", "download it again") from None
    while isinstance(state, Mapping) and not any(isinstance(each, Tensor) for each in state.values()):
        state = next((each for each in state.values() if isinstance(each, Mapping)), None)
    tensors = [each for each in (state or {}).values() if isinstance(each, Tensor)] if state else []
    weights, biases = tensors[::2], tensors[1::2]
    if not tensors or [w.shape[:1] for w in weights] != [b.shape for b in biases]:
        raise InputError(f"{path} with {len(tensors)} tensors", "a weight and its bias by turns", "import GaMPEN's")
    return [(w.float().numpy(), b.float().numpy()) for w, b in zip(weights, biases, strict=True)]


def _ordered(path: str | Path, pairs: list[Pair]) -> list[Pair]:
    """The layers in our order (localisation, zoom, trunk), wherever the file has the transformer."""
    kernels = {side: [p for p in pairs if p[0].ndim == 4 and p[0].shape[2] == side] for side in (11, 9, 3)}
    dense = [p for p in pairs if p[0].ndim == 2]
    last = [p for p in dense if p[0].shape[0] == 1]
    first = [p for p in dense if last and p is not last[0] and p[0].shape[0] == last[0][0].shape[1]][:1]
    trunk = [p for p in dense if not any(p is each for each in (*first, *last))]
    parts = [*kernels.values(), first, last, trunk]
    if [len(part) for part in parts] != [1, 1, 13, 1, 1, 3]:
        shapes = ", ".join("x".join(map(str, p[0].shape)) for p in pairs)
        raise InputError(
            f"{path} with layers {shapes}",
            "a transformer of one zoom (kernels 11, 9, two dense layers), 13 kernels of 3, three dense layers",
            "import weights of vgg16_w_stn_oc_drp",
        )
    return [*kernels[11], *kernels[9], *first, *last, *kernels[3], *trunk]


def _fill(
    path: str | Path,
    backbone: str,
    head: str,
    settings: dict[str, Any],
    pairs: Sequence[Pair],
    buffers: dict[str, Tensor],
) -> Network:
    """A network with these weights, every shape checked."""
    with torch.device("meta"):  # no memory, and no random numbers that nobody needs
        network = Network.build(backbone, head, **settings)
    arrays = [array for pair in pairs for array in pair]
    state = {}
    for (name, wanted), array in zip(network.backbone.named_parameters(), arrays, strict=True):
        if tuple(wanted.shape) != array.shape:
            raise InputError(
                f"{path}: {name} of shape {array.shape}", f"{tuple(wanted.shape)}", f"import weights of {backbone}"
            )
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {name} with numbers that are not finite", "finite ones", "download it again")
        state[name] = torch.as_tensor(np.ascontiguousarray(array))
    network.backbone.load_state_dict(state, assign=True)
    network.head.load_state_dict(buffers, assign=True)
    network.backbone.to(memory_format=torch.channels_last)
    network.modules().eval()
    return network
