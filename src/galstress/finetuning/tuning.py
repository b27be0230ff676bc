"""The fine-tuning run: few galaxies, turned anew at every step, stopped by others, resumed anywhere."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from galstress.cutouts import Cutouts, Flag
from galstress.errors import InputError
from galstress.finetuning.answers import told_by
from galstress.finetuning.checkpoints import read_checkpoint, write_checkpoint
from galstress.finetuning.labels import COORDINATES, Labels, read_labels
from galstress.finetuning.losses import label_loss, name_loss
from galstress.finetuning.policies import list_renewed, rate_factors, renew_stages
from galstress.finetuning.splitting import Share, read_groups, split_rows
from galstress.finetuning.turning import choose_side, draw_turn, exact_turn, turn_cutouts
from galstress.networks import Network
from galstress.training import Schedule

__all__ = ["FineTuned", "Tuning", "finetune", "find_usable"]

_POINTS = 24
"""Draws whose scores teach a flow."""
_VALIDATION_TURNS = (0, 1, 4, 5)
"""Exact turns and mirrors that the validation loss is the mean over."""
_VALIDATION_BATCH = 128
_UNUSABLE = int(Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How long, how fast, on which part of the images to learn, and how that is checked."""

    steps: int = 300
    """Most steps of the optimiser."""
    learning_rate: float = 3e-4
    """Largest rate of Adam, times the policy's factors; it warms up and falls to zero towards the last step."""
    validation: Share = 0.2
    """Share of the objects that stop the run, split by group, or their rows; 0: it runs to its end."""
    batch: int = 32
    """Objects a step."""
    check_every: int = 10
    """Steps between looks at the validation loss."""
    patience: int = 10
    """Looks without a better one after which the run ends."""
    side_px: int | None = None
    """Side of what the network is shown (:func:`galstress.finetuning.choose_side`)."""
    turned: bool = True
    """Show each object mirrored and turned anew at every step; else always as it came."""
    folds: int = 5
    """Parts of a cross-validation, each predicted from the others."""


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """What :func:`finetune` made."""

    network: Network
    """The best weights by validation; the last ones where nothing was validated. ``metadata`` holds the manifest."""
    history: QTable
    """``step`` (weights after so many), ``loss`` of the step, ``validation`` loss, NaN where it was not looked at."""
    best_step: int
    """Steps after which these weights were; 0: none was better than the network as it came."""
    manifest: dict[str, Any]
    """Policy, what thawed, data, splits, augmentation and rates, as JSON takes them."""


def finetune(
    network: Network,
    cutouts: Cutouts,
    labels: QTable | None = None,
    *,
    policy: str = "all",
    tuning: Tuning | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 1,
    checkpoint: Path | None = None,
    progress: bool = False,
) -> FineTuned:
    """Go on training a network on labelled galaxies, of which there may be few.

    Arguments:
        network: Left as it is; the copy that learns computes where it lies.
        cutouts: N objects in square stamps, 1.45 times as wide as what the network is to see: each step shows them
            mirrored, turned by any angle and shifted by up to half a pixel, cut from the larger stamp without empty
            corners. Where ``tuning.side_px`` leaves no room for that, by the eight exact turns and mirrors alone; the
            manifest says which.
        labels: As :func:`galstress.finetuning.read_labels` takes them; by default the truth of simulated cutouts.
            Known wholly, the loss is the head's own; in part, a proper score of the known quantities alone.
        policy: Which weights thaw, as in :data:`galstress.finetuning.POLICIES`. Frozen ones keep every bit.
        tuning: Steps, rates, validation.
        groups: Name of the galaxy behind each cutout: images of one are never split. By default ``object_id``.
        seed: Of splits, turns and draws.
        checkpoint: File to write at each look, and to go on from where it exists, as if nothing had happened.
        progress: Show steps, loss and time left.

    Raises:
        InputError: No usable label, an unknown policy, a side or split that cannot be, a checkpoint of another run,
            or a loss that is not finite.

    Example:
        >>> from galstress.simulation import simulate
        >>> galaxies = simulate("hsc-wide-i", 6, stamp_px=72)
        >>> network = Network.build("foveal", width=0.34)
        >>> finetune(network, galaxies, policy="last:1", tuning=Tuning(steps=2)).manifest["augmentation"]
        'mirror, any angle, shift of up to half a pixel'
    """
    tuning = tuning or Tuning()
    known = read_labels(labels, cutouts)
    factors = rate_factors(network, policy)
    side, any_angle = choose_side(_stamp(cutouts), tuning.side_px)
    numbers = read_groups(groups, cutouts.object_id)
    usable = told_by(network.head, known).numpy() & find_usable(cutouts)
    learned, validated = _split(usable, numbers, tuning.validation, seed)
    manifest = _describe(network, policy, factors, tuning, seed) | {
        "loss": name_loss(network.head, known),
        "labelled": dict(zip(COORDINATES, torch.isfinite(known.values[learned]).sum(0).tolist(), strict=True)),
        "learned": len(learned), "validated": len(validated),
        "groups": [len(np.unique(numbers[rows])) for rows in (learned, validated)],
        "side_px": side, "stamp_px": _stamp(cutouts),
        "augmentation": _name_augmentation(tuning, any_angle),
    }  # fmt: skip
    lesson = _Lesson(cutouts, known, learned, validated, side, any_angle, seed, tuning.turned)
    run = _Run(network, factors, tuning, manifest | {"data": _fingerprint(lesson, network)})
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    run.go(lesson, checkpoint, progress)
    tuned = run.finish()
    manifest |= {"best_step": run.best_step, "steps_done": len(run.losses), "steps_skipped": run.skipped}
    name = str(network.metadata.get("name", network.metadata["backbone"]["name"]))
    return FineTuned(
        tuned.with_metadata(name=f"{name}+{policy}", finetuning=manifest), run.history(), run.best_step, manifest
    )


def find_usable(cutouts: Cutouts) -> NDArray[np.bool_]:
    """(N,) objects with an image."""
    return ((cutouts.flags & _UNUSABLE) == 0) & ~cutouts.mask.flatten(1).all(1).cpu().numpy()


@dataclasses.dataclass(frozen=True)
class _Lesson:
    """What there is to learn from, and what is shown of it when."""

    cutouts: Cutouts
    labels: Labels
    learned: NDArray[np.int64]
    validated: NDArray[np.int64]
    side: int
    any_angle: bool
    seed: int
    turned: bool

    def show(self, step: int, batch: int) -> tuple[Cutouts, Labels, Tensor]:
        """Turned cutouts and labels of a step, and normal points: a pure function of the step."""
        size = min(batch, len(self.learned))
        epoch, place = divmod(step, len(self.learned) // size)
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(self.learned)
        rows = order[place * size : (place + 1) * size]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        turn = draw_turn(size, self.any_angle, generator) if self.turned else exact_turn(torch.zeros(size).long())
        shown = turn_cutouts(self.cutouts.select(rows), turn, self.side)
        return shown, self.labels.select(rows).turn(turn), _normal(generator)

    def losses(self, network: Network) -> Tensor:
        """(V,) validation loss of each object, the mean over a few exact turns."""
        device = network.parameters()[0].device
        points = _normal(torch.Generator().manual_seed(self.seed))
        found = []
        turns = _VALIDATION_TURNS if self.turned else _VALIDATION_TURNS[:1]
        for element in turns:
            for start in range(0, len(self.validated), _VALIDATION_BATCH):
                rows = self.validated[start : start + _VALIDATION_BATCH]
                turn = exact_turn(torch.full((len(rows),), element))
                shown = turn_cutouts(self.cutouts.select(rows).to(device), turn, self.side)
                found.append(_measure(network, shown, self.labels.select(rows).turn(turn), points))
        return torch.cat(found).view(len(turns), -1).mean(0)


class _Run:
    """Weights, optimiser and records of a run, which a checkpoint holds."""

    def __init__(self, network: Network, factors: Mapping[str, float], tuning: Tuning, record: dict[str, Any]) -> None:
        self.network = dataclasses.replace(
            network, backbone=copy.deepcopy(network.backbone), head=copy.deepcopy(network.head)
        )
        renew_stages(self.network, record["policy"], record["seed"])
        self.tuning, self.record = tuning, record
        self.schedule = Schedule(tuning.steps, tuning.learning_rate, warm_up=min(20, tuning.steps // 10))
        # in evaluation mode: no running statistics may move, nothing is dropped
        named = dict(self.network.modules().eval().named_parameters())
        for name, parameter in named.items():
            parameter.requires_grad_(factors[name] > 0)
        self.thawed = {name: parameter for name, parameter in named.items() if factors[name] > 0}
        self.factors = [factors[name] for name in self.thawed]
        groups = [{"params": [parameter]} for parameter in self.thawed.values()]
        self.optimizer = torch.optim.Adam(groups, lr=tuning.learning_rate)
        self.best = [parameter.detach().clone() for parameter in self.thawed.values()]
        self.best_step, self.skipped = 0, 0
        self.losses: list[float] = []
        self.checks: list[tuple[int, float]] = []

    def go(self, lesson: _Lesson, checkpoint: Path | None, progress: bool) -> None:
        """All steps that are left, until the last or until patience ends."""
        columns = (
            TextColumn("fine-tuning"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("validation {task.fields[validation]:.3f}, best after {task.fields[best]}"),
            TimeRemainingColumn(),
        )
        steps = self.tuning.steps
        with Progress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task("", total=steps, completed=len(self.losses), validation=math.nan, best=self.best_step)
            if not self.checks:
                self._look(lesson)
            while len(self.losses) < steps and not self._is_over():
                self._step(*lesson.show(len(self.losses), self.tuning.batch))
                done = len(self.losses)
                if done % self.tuning.check_every == 0 or done == steps:
                    self._look(lesson)
                    if checkpoint is not None:
                        self.store(checkpoint)
                bar.update(task, completed=done, validation=self.checks[-1][1], best=self.best_step)

    def _step(self, cutouts: Cutouts, labels: Labels, points: Tensor) -> None:
        """One step of the optimiser; skipped where the gradient is not finite, as a spline's root may have it."""
        parameters = list(self.thawed.values())
        loss = _measure(self.network, cutouts.to(parameters[0].device), labels, points).mean()
        value, step = float(loss.detach()), len(self.losses)
        if not math.isfinite(value):
            raise InputError(f"a loss of {value} at step {step}", "a finite loss", "lower the learning rate")
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.schedule.clip)
        self.losses.append(value)
        if not bool(torch.isfinite(norm)):
            self.skipped += 1
            return
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = factor * self.schedule.rate(step)
        self.optimizer.step()

    @torch.no_grad()
    def _look(self, lesson: _Lesson) -> None:
        """Measure the validation loss, and keep the weights if none were better."""
        value = float(lesson.losses(self.network).mean()) if len(lesson.validated) else math.nan
        best = min((loss for _, loss in self.checks), default=math.inf)
        self.checks.append((len(self.losses), value))
        if not len(lesson.validated) or value < best:
            self.best_step = len(self.losses)
            self.best = [parameter.detach().clone() for parameter in self.thawed.values()]

    def _is_over(self) -> bool:
        """Whether patience has ended."""
        since = sum(step > self.best_step for step, _ in self.checks)
        return since >= self.tuning.patience

    def history(self) -> QTable:
        """Losses by step."""
        table = QTable({"step": np.arange(len(self.losses) + 1)})
        table["loss"] = np.array([math.nan, *self.losses])
        table["validation"] = np.full(len(table), math.nan)
        for step, value in self.checks:
            table["validation"][step] = value
        return table

    @torch.no_grad()
    def finish(self) -> Network:
        """The network with its best weights, everything thawed."""
        for parameter, value in zip(self.thawed.values(), self.best, strict=True):
            parameter.copy_(value)
        for parameter in self.network.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        return self.network

    def store(self, path: Path) -> None:
        """Everything needed to go on."""
        tensors: dict[str, Tensor] = {f"now.{name}": parameter for name, parameter in self.thawed.items()}
        tensors |= {f"best.{name}": value for name, value in zip(self.thawed, self.best, strict=True)}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["checks"] = torch.tensor(self.checks, dtype=torch.float64)
        tensors["counts"] = torch.tensor([self.best_step, self.skipped])
        write_checkpoint(path, tensors, self.record)

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Put back what :meth:`store` kept."""
        tensors = read_checkpoint(path, self.record)
        for place, (name, parameter) in enumerate(self.thawed.items()):
            parameter.copy_(tensors[f"now.{name}"])
            self.best[place].copy_(tensors[f"best.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.losses = tensors["losses"].tolist()
        self.checks = [(int(step), value) for step, value in tensors["checks"].tolist()]
        self.best_step, self.skipped = (int(count) for count in tensors["counts"])


def _name_augmentation(tuning: Tuning, any_angle: bool) -> str:
    """As the manifest has it."""
    if not tuning.turned:
        return "none"
    return "mirror, any angle, shift of up to half a pixel" if any_angle else "eight exact turns, mirrors"


def _measure(network: Network, cutouts: Cutouts, labels: Labels, points: Tensor) -> Tensor:
    """(B,) loss of each object."""
    raw, inputs = network.raw(cutouts)
    return label_loss(network.head, raw, labels, inputs.reference, points)


def _normal(generator: torch.Generator) -> Tensor:
    """(2, S, 12) standard normal numbers."""
    return torch.randn(2, _POINTS, 12, generator=generator, dtype=torch.float64)


def _stamp(cutouts: Cutouts) -> int:
    """Side of the stamps; the shorter one, which :func:`turn_cutouts` refuses where they are not square."""
    return int(min(cutouts.images.shape[1:]))


def _split(
    usable: NDArray[np.bool_], numbers: NDArray[np.int64], validation: Share, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and to validate on, of those that are usable at all."""
    rows = np.flatnonzero(usable)
    if not len(rows):
        raise InputError("no image with a label", "one or more", "look at flags and labels")
    if isinstance(validation, int | float):
        learned, validated = split_rows(numbers[rows], validation, seed)
        return rows[learned], rows[validated]
    learned, validated = split_rows(numbers, validation, seed)
    if not usable[learned].any():
        raise InputError("no label to learn from", "one or more outside of the validation rows", "leave some out")
    return learned[usable[learned]], validated[usable[validated]]


def _describe(network: Network, policy: str, factors: Mapping[str, float], tuning: Tuning, seed: int) -> dict[str, Any]:
    """What does not depend on the data."""
    sizes = {name: parameter.numel() for name, parameter in network.modules().named_parameters()}
    settings = dataclasses.asdict(tuning)
    del settings["folds"]  # no run knows of others
    if not isinstance(tuning.validation, int | float):
        settings["validation"] = np.asarray(tuning.validation).tolist()
    return {
        "policy": policy,
        "from": network.metadata.get("name", network.metadata["backbone"]["name"]),
        "seed": seed,
        **settings,
        "renewed": list_renewed(network, policy),
        "thawed": [name for name, factor in factors.items() if factor > 0],
        "thawed_numbers": sum(sizes[name] for name, factor in factors.items() if factor > 0),
        "frozen_numbers": sum(sizes[name] for name, factor in factors.items() if factor == 0),
        "rate_factors": sorted({round(factor, 6) for factor in factors.values()}, reverse=True),
    }


def _fingerprint(lesson: _Lesson, network: Network) -> str:
    """A digest of data, split and first weights: a checkpoint of others is refused."""
    digest = hashlib.sha256()
    for rows in (lesson.learned, lesson.validated):
        digest.update(rows.tobytes())
    tensors = (
        lesson.cutouts.images,
        lesson.labels.values,
        lesson.labels.sigma,
        *network.modules().state_dict().values(),
    )
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
