"""The stress table: a network measures the same objects again and again, each time perturbed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from galstress.cutouts import Cutouts
from galstress.errors import GalstressError, InputError, UnknownNameError
from galstress.networks.network import Network
from galstress.perturbations import PERTURBATIONS, Perturbation, choose_perturbations
from galstress.prediction import predict
from galstress.scores import truth_values

__all__ = ["stress"]

Array = NDArray[np.float64]


class Answer(Protocol):
    """What the battery needs of a Prediction."""

    @property
    def names(self) -> Sequence[str]:
        """D outputs."""

    @property
    def units(self) -> Sequence[str]:
        """Unit of each output, empty for none."""

    @property
    def flags(self) -> NDArray[np.int64]:
        """(N,) bits of :class:`galstress.cutouts.Flag`."""

    @property
    def mean(self) -> Array:
        """(N, D) posterior means."""

    @property
    def covariance(self) -> Array:
        """(N, D, D) posterior covariances."""


Measure = Callable[[Cutouts], Answer]

logger = logging.getLogger(__name__)

_FAILURES = (GalstressError, ValueError, RuntimeError, ArithmeticError, IndexError)
"""What one bad object may raise; anything else is a bug and passes."""

_DESCRIPTIONS = {
    "row": "place of the object in the input",
    "object_id": "name of the object",
    "perturbation": "what is tested",
    "kind": "name of the perturbation",
    "amount": "how much, in the next column's unit",
    "unit": "unit of the amount",
    "output": "what is measured",
    "output_unit": "unit of the output",
    "value": "posterior mean on the perturbed image",
    "sigma": "posterior standard deviation on the perturbed image",
    "baseline_value": "posterior mean on the image as it came",
    "baseline_sigma": "posterior standard deviation on the image as it came",
    "expected": "the baseline value moved as the truth moves",
    "shift": "value - expected",
    "shift_sigma": "shift over the baseline's standard deviation",
    "truth": "true value after the perturbation, NaN where unknown",
    "flags": "bits of galstress.cutouts.Flag after the perturbation",
    "assumed": "something that the perturbation needs was assumed of this object; see assumptions in the table's meta",
}


class _Measured(NamedTuple):
    """Moments of N objects and D outputs."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    value: Array
    sigma: Array
    flags: NDArray[np.int64]


def stress(
    network: Network | Measure,
    cutouts: Cutouts,
    perturbations: Sequence[str] = ("rotation", "depth"),
    seed: int = 0,
    amounts: Mapping[str, Sequence[float]] | None = None,
    *,
    progress: bool = False,
    batch_size: int = 256,
) -> QTable:
    """How a network's answers move when an image is changed in ways whose effect on the truth is known.

    Arguments:
        network: A Network, or any callable ``(cutouts) -> Prediction``.
        cutouts: N objects, real or simulated.
        perturbations: Names or axes of :data:`galstress.perturbations.PERTURBATIONS`; an axis (``rotation``) stands
            for all its kinds, of which those that need truth are left out where there is none.
        seed: An object's noise depends on seed, kind, amount and ``object_id`` alone, not on the batch.
        amounts: Amounts by the perturbation's name, in its unit; by default the perturbation's own.
        progress: Whether to show a bar with the time left (on stderr).
        batch_size: Objects measured at once.

    Returns:
        QTable with a row per kind, amount, object and output: ``row``, ``object_id``, ``perturbation`` (the axis),
        ``kind``, ``amount``, ``unit``, ``output``, ``output_unit``, ``value`` and ``sigma`` (posterior mean and
        standard deviation), ``baseline_value``, ``baseline_sigma``, ``expected``, ``shift``, ``shift_sigma``,
        ``truth``, ``flags``, ``assumed`` (whether something was assumed of the object, for example the redshift that it
        starts from; ``meta["assumptions"]`` says what, and of how many). An object that cannot be measured has NaN and
        never stops the others.

    Raises:
        UnknownNameError: No such perturbation.
        InputError: A perturbation asked for by its own name needs truth and there is none, an amount is out of
            range, or not one object can be measured as it came.

    Example:
        >>> from galstress.simulation import simulate
        >>> network, cutouts = Network.build("foveal", width=0.25), simulate("hsc-wide-i", 2, stamp_px=64)
        >>> table = stress(network, cutouts, ("depth",), amounts={"depth": (1, 0.5)})
        >>> len(table), float(abs(table["shift"][table["amount"] == 1]).max())
        (60, 0.0)
    """
    plan = _plan(cutouts, perturbations, amounts or {})
    measure = network if not isinstance(network, Network) else _measure_with(network, cutouts, batch_size)
    steps = 1 + sum(amount != entry.identity for entry, amount in plan)
    with _bar(steps * -(-len(cutouts) // batch_size), progress) as advance:
        baseline = _measure_all(measure, cutouts, lambda batch: batch, batch_size, advance)
        if isinstance(baseline, Exception):
            came = f"cutouts of which none could be measured ({baseline})"
            raise InputError(came, "a network that takes them", "try it on one object") from baseline
        shape = (int(cutouts.images.shape[1]), int(cutouts.images.shape[2]))
        true = np.full_like(baseline.value, np.nan)
        if cutouts.truth is not None:
            true = truth_values(cutouts.truth, baseline.names, baseline.units)
        blocks = []
        for entry, amount in plan:
            measured: _Measured | Exception = baseline
            if amount != entry.identity:
                measured = _measure_all(measure, cutouts, _changer(entry, amount, seed), batch_size, advance)
            expected, moved = (entry.rule(baseline.names, v, amount, cutouts) for v in (baseline.value, true))
            blocks.append(_block(cutouts, (entry, amount), baseline, measured, (expected, moved)))
    table = QTable({name: np.concatenate([block[name] for block in blocks]) for name in _DESCRIPTIONS})
    for name, description in _DESCRIPTIONS.items():
        table[name].info.description = description
    table.meta = {"seed": seed, "survey": cutouts.survey.name, "stamp_px": shape[0], "objects": len(cutouts)}
    table.meta["assumptions"] = _list_assumptions(cutouts, [entry for entry, _ in plan])
    return table


def _list_assumptions(cutouts: Cutouts, entries: Sequence[Perturbation]) -> list[str]:
    """What is assumed of how many objects, each once."""
    found = {}
    for entry in entries:
        if count := int(entry.assumed(cutouts).sum()):
            found[f"{entry.axis}: {entry.assumption}, assumed for {count} of {len(cutouts)} objects"] = True
    return list(found)


def _plan(
    cutouts: Cutouts, names: Sequence[str], amounts: Mapping[str, Sequence[float]]
) -> list[tuple[Perturbation, float]]:
    """Every kind with each of its amounts."""
    for name in amounts:
        if name not in PERTURBATIONS:
            raise UnknownNameError("perturbation", name, tuple(PERTURBATIONS))
    plan = []
    names = (names,) if isinstance(names, str) else tuple(names)
    for entry in choose_perturbations(names):
        if entry.needs_truth and cutouts.truth is None and entry.name not in names:
            continue
        for amount in amounts.get(entry.name, entry.amounts):
            entry.check(cutouts, float(amount))
            plan.append((entry, float(amount)))
    if not plan:
        raise InputError("nothing to do", "at least one perturbation and amount", f"name one of {list(PERTURBATIONS)}")
    return plan


def _measure_with(network: Network, cutouts: Cutouts, batch_size: int) -> Measure:
    """A network as a callable."""
    device = str(cutouts.images.device)
    return lambda batch: predict(network, batch, batch_size=batch_size, device=device)


def _changer(entry: Perturbation, amount: float, seed: int) -> Callable[[Cutouts], Cutouts]:
    """The perturbation with randomness of its own, the same for every batch."""
    digest = hashlib.blake2b(f"{seed}:{entry.name}:{amount!r}".encode(), digest_size=7).digest()
    own = int.from_bytes(digest)
    return lambda batch: entry(batch, amount, torch.Generator().manual_seed(own))


def _measure_all(
    measure: Measure,
    cutouts: Cutouts,
    change: Callable[[Cutouts], Cutouts],
    batch_size: int,
    advance: Callable[[], None],
) -> _Measured | Exception:
    """Moments for all objects, NaN where one fails; the error where all fail."""
    parts: list[_Measured | Exception] = []
    for batch in cutouts.split(batch_size):
        parts += _measure_batch(measure, batch, change)
        advance()
    first = next((part for part in parts if isinstance(part, _Measured)), None)
    if first is None:
        return parts[-1] if parts else InputError("no objects", "at least one", "give cutouts with a row")
    # whatever failed was a single object; its flags are those that it came with
    flags, blank = cutouts.flags, np.full((1, len(first.names)), np.nan)
    whole: list[_Measured] = []
    for part in parts:
        place = sum(len(done.flags) for done in whole)
        lost = _Measured(first.names, first.units, blank, blank, flags[place : place + 1])
        whole.append(part if isinstance(part, _Measured) else lost)
    value, sigma = (np.concatenate([getattr(part, name) for part in whole]) for name in ("value", "sigma"))
    return _Measured(first.names, first.units, value, sigma, np.concatenate([part.flags for part in whole]))


def _measure_batch(
    measure: Measure, batch: Cutouts, change: Callable[[Cutouts], Cutouts]
) -> list[_Measured | Exception]:
    """Moments of a batch; of its halves if the whole fails, and so on down to the objects at fault."""
    try:
        prediction = measure(change(batch))
        names, units = tuple(prediction.names), tuple(prediction.units)
        value = np.asarray(prediction.mean, np.float64)
        if value.shape != (len(batch), len(names)):
            raise InputError(f"means of shape {value.shape}", f"{(len(batch), len(names))}", "predict a row an object")
        sigma = np.sqrt(np.diagonal(np.asarray(prediction.covariance, np.float64), axis1=1, axis2=2))
        return [_Measured(names, units, value, sigma, np.asarray(prediction.flags, np.int64))]
    except _FAILURES as error:
        if len(batch) == 1:
            logger.warning("object %s could not be measured: %s", batch.object_id[0], error)
            return [error]
    middle = len(batch) // 2
    halves = (batch.select(slice(None, middle)), batch.select(slice(middle, None)))
    return [part for half in halves for part in _measure_batch(measure, half, change)]


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar with the time left on stderr; yields what moves it on by one batch."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("stress", total=total)
        yield lambda: bar.advance(task)


def _block(
    cutouts: Cutouts,
    what: tuple[Perturbation, float],
    baseline: _Measured,
    measured: _Measured | Exception,
    moved: tuple[Array, Array],
) -> dict[str, NDArray[Any]]:
    """The rows of one kind and amount, objects first, outputs inside."""
    entry, amount = what
    expected, true = moved
    objects, outputs = baseline.value.shape
    blank = np.full_like(baseline.value, np.nan)
    lost = _Measured(baseline.names, baseline.units, blank, blank, cutouts.flags)
    value, sigma, flags = (lost if isinstance(measured, Exception) else measured)[2:]
    size = objects * outputs
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = value - expected
        shift_sigma = shift / baseline.sigma
    return {
        "row": np.repeat(np.arange(objects), outputs),
        "object_id": np.repeat(cutouts.object_id, outputs),
        "perturbation": np.full(size, entry.axis),
        "kind": np.full(size, entry.name),
        "amount": np.full(size, amount),
        "unit": np.full(size, entry.unit),
        "output": np.tile(np.asarray(baseline.names), objects),
        "output_unit": np.tile(np.asarray(baseline.units), objects),
        "value": value.ravel(),
        "sigma": sigma.ravel(),
        "baseline_value": baseline.value.ravel(),
        "baseline_sigma": baseline.sigma.ravel(),
        "expected": expected.ravel(),
        "shift": shift.ravel(),
        "shift_sigma": shift_sigma.ravel(),
        "truth": true.ravel(),
        "flags": np.repeat(flags, outputs),
        "assumed": np.repeat(entry.assumed(cutouts), outputs),
    }
