"""The one training loop: fed by ``draw(step)``, stopped and resumed anywhere."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.galaxy import Galaxies
from galstress.networks.network import Network

__all__ = ["Draw", "Lesson", "Schedule", "train"]


@dataclasses.dataclass(frozen=True)
class Lesson:
    """Cutouts of one survey and what they show."""

    cutouts: Cutouts
    """N images; their own ``truth`` is not looked at."""
    galaxies: Galaxies
    """(N,) in pixels and image units."""


Draw = Callable[[int], Sequence[Lesson]]
"""Step to what is learned in it, of one or more surveys. A pure function of the step, so that training can resume."""


Inputs = Any
"""A backbone's dataclass: tensors of N rows, and the ``reference`` of the head's coordinates."""


_LOOK_EVERY = 20
"""Steps between looks at the loss."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn: warm up, stay, and cool down to zero."""

    steps: int
    """Optimiser steps in all."""
    learning_rate: float = 1e-3
    """Largest rate of AdamW."""
    warm_up: int = 300
    """Steps from zero to the largest rate."""
    cool_down: float = 0.4
    """Share of the steps, at the end, over which the rate falls to zero."""
    weight_decay: float = 1e-3
    """Of AdamW."""
    average: float = 0.998
    """Decay of the moving average of the weights, which is what is kept."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    optimizer: str = "adamw"
    """``adamw`` or ``sgd``."""
    momentum: float = 0.9
    """Of SGD."""
    bfloat16: bool = False
    """The backbone computes in bfloat16 where it can: on GPUs, and on CPUs that have it."""

    def rate(self, step: int) -> float:
        """Learning rate at a step (0-based).

        Example:
            >>> Schedule(steps=1000, warm_up=10).rate(500)
            0.001
        """
        start = self.steps * (1 - self.cool_down)
        falling = 1 - (step - start) / max(self.steps - start, 1) if step > start else 1.0
        return self.learning_rate * min((step + 1) / max(self.warm_up, 1), 1.0) * max(falling, 0.0)


def train(
    network: Network,
    draw: Draw,
    schedule: Schedule,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    progress: bool = False,
) -> tuple[Network, list[float]]:
    """Train a network on what ``draw`` gives.

    Arguments:
        network: Trained in place, on the device where it lies.
        draw: Cutouts with truth for each step; a pure function of the step.
        schedule: Steps and rates.
        checkpoint: File to write every ``checkpoint_every`` steps, and to go on from where it exists: the loss at
            each later step is the same as without the interruption.
        checkpoint_every: Steps between checkpoints.
        progress: Show steps, loss and time left.

    Returns:
        The network with the averaged weights, in evaluation mode, and the mean loss of each step.

    Raises:
        InputError: The checkpoint is of another network or schedule, or the loss is not finite.
    """
    modules = network.modules().train()
    parameters = list(modules.parameters())
    optimizer = _make_optimizer(parameters, schedule)
    averaged = [p.detach().clone() for p in parameters]
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        losses = _restore(checkpoint, modules, optimizer, averaged, schedule)
    elif isinstance(network.head.centre, Tensor) and not bool((network.head.scale != 1).any()):
        network.head.set_scale(_first_targets(network, draw))
    measure_loss = _make_loss(network, draw, schedule.bfloat16)
    pending: list[Tensor] = []
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with torch.random.fork_rng(devices=[]), Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("training", total=schedule.steps, completed=len(losses), loss=math.nan)
        for step in range(len(losses), schedule.steps):
            torch.manual_seed(step)  # what is dropped is the same however often a run was interrupted
            pending.append(_step(network, draw(step), measure_loss, optimizer, schedule.rate(step), schedule.clip))
            decay = min(schedule.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
            is_kept = checkpoint is not None and (step + 1) % checkpoint_every == 0
            if not (is_kept or len(pending) == _LOOK_EVERY or step + 1 == schedule.steps):
                continue
            losses += _read(pending, len(losses))
            pending.clear()
            bar.update(task, completed=step + 1, loss=sum(losses[-100:]) / len(losses[-100:]))
            if checkpoint is not None and (is_kept or step + 1 == schedule.steps):
                _store(checkpoint, modules, optimizer, averaged, losses, schedule)
    with torch.no_grad():
        for parameter, value in zip(parameters, averaged, strict=True):
            parameter.copy_(value)
    modules.eval()
    return network, losses


def _make_optimizer(parameters: list[nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    """As the schedule says; fused on a GPU."""
    rate, decay, fused = schedule.learning_rate, schedule.weight_decay, parameters[0].is_cuda
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=schedule.momentum, weight_decay=decay, fused=fused)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)
    raise InputError(f"optimizer={schedule.optimizer!r}", "adamw or sgd", "choose one of them")


class _Loss(nn.Module):
    """Mean loss as a function of tensors alone, so that a GPU can take forward and backward pass as one graph."""

    def __init__(self, network: Network, inputs: Inputs, is_half: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.is_half = network.backbone, network.head, is_half
        self.inputs = inputs
        self.names = [f.name for f in dataclasses.fields(inputs) if isinstance(getattr(inputs, f.name), Tensor)]

    def tensors(self, inputs: Inputs) -> list[Tensor]:
        """What the backbone takes of its inputs, in order."""
        return [getattr(inputs, name) for name in self.names]

    def forward(self, *tensors: Tensor) -> Tensor:
        """Of the inputs' tensors and, last, the targets."""
        inputs = dataclasses.replace(self.inputs, **dict(zip(self.names, tensors[:-1], strict=True)))
        with torch.autocast(tensors[0].device.type, torch.bfloat16, enabled=self.is_half):
            features = self.backbone(inputs)
        loss: Tensor = self.head.loss(self.head(features.float()), tensors[-1]).mean()
        return loss


def _make_loss(network: Network, draw: Draw, is_half: bool) -> Callable[[Inputs, Tensor], Tensor]:
    """Inputs and targets to the mean loss; on a GPU captured once, for batches as large as those of step 0."""
    inputs, targets = _look(network, draw(0))
    loss = _Loss(network, inputs, is_half)
    graphed: Callable[..., Tensor] = loss
    if targets.is_cuda:
        graphed = _capture(loss, (*loss.tensors(inputs), targets))
    return lambda inputs, targets: graphed(*loss.tensors(inputs), targets)


def _capture(loss: nn.Module, tensors: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """A module's passes as CUDA graphs, for tensors of these shapes."""
    was_checked = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)  # a check waits for the GPU: no graph has that
    try:
        return cast(Callable[..., Tensor], torch.cuda.make_graphed_callables(loss, tensors))
    finally:
        torch.distributions.Distribution.set_default_validate_args(was_checked)


def _look(network: Network, lessons: Sequence[Lesson]) -> tuple[Inputs, Tensor]:
    """The backbone's inputs and the head's targets of all surveys together."""
    inputs = network.backbone.inputs_of([lesson.cutouts for lesson in lessons])
    galaxies = [lesson.galaxies for lesson in lessons]
    return inputs, network.head.place(Galaxies.concatenate(galaxies), inputs.reference)


def _step(
    network: Network,
    lessons: Sequence[Lesson],
    measure_loss: Callable[[Inputs, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    rate: float,
    clip: float,
) -> Tensor:
    """One step of the optimiser; the loss, still where it was made: to read it would be to wait for it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss = measure_loss(*_look(network, lessons))
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
    return loss.detach().clone()


def _read(pending: list[Tensor], first: int) -> list[float]:
    """Losses of steps from ``first`` on, as numbers."""
    losses: list[float] = torch.stack(pending).tolist()
    for step, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise InputError(f"a loss of {loss} at step {step}", "a finite loss", "lower the learning rate")
    return losses


def _first_targets(network: Network, draw: Draw, steps: int = 8) -> Tensor:
    """Targets of the first steps, from which the head takes its centre and scale."""
    with torch.no_grad():
        return torch.cat([_look(network, draw(step))[1] for step in range(steps)])


def _store(
    path: Path,
    modules: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: list[Tensor],
    losses: list[float],
    schedule: Schedule,
) -> None:
    """Everything needed to go on, as one safetensors file, aside and then renamed."""
    tensors = {f"module.{name}": t.detach().cpu().contiguous().clone() for name, t in modules.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": t.detach().cpu().contiguous().clone() for name, t in state.items()}
    tensors |= {f"average.{place}": t.cpu().contiguous() for place, t in enumerate(averaged)}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    record = {"schedule": dataclasses.asdict(schedule), "time": time.time()}
    aside = path.with_name(path.name + ".part")
    save_file(tensors, aside, metadata={"checkpoint": json.dumps(record)})
    aside.replace(path)
    _log.info("checkpoint at step %d: %s", len(losses), path)


def _restore(
    path: Path, modules: nn.Module, optimizer: torch.optim.Optimizer, averaged: list[Tensor], schedule: Schedule
) -> list[float]:
    """Put back what :func:`_store` kept; the losses so far tell the step."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["checkpoint"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        modules.load_state_dict({k[7:]: t for k, t in tensors.items() if k.startswith("module.")})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(f"checkpoint {path} ({str(error)[:120]})", "one of this network", "move it away") from None
    kept = {k: v for k, v in record["schedule"].items() if k != "steps"}
    if kept != {k: v for k, v in dataclasses.asdict(schedule).items() if k != "steps"}:
        raise InputError(f"checkpoint {path} of another schedule", f"{record['schedule']}", "use it, or move it away")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, place, name = key.split(".")
            state.setdefault(int(place), {})[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, entries in state.items():  # in the parameters' own memory format, which a fused optimiser insists on
        moments = {name: torch.empty_like(parameters[place]).copy_(t) for name, t in entries.items() if t.ndim}
        state[place] = {**entries, **moments}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for place, value in enumerate(averaged):
        value.copy_(tensors[f"average.{place}"])
    losses = [float(loss) for loss in tensors["losses"]]
    _log.info("going on from step %d of %s", len(losses), path)
    return losses
