"""The one training loop: fed by ``draw(step)``, stopped and resumed anywhere."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from galstress.cutouts import Cutouts
from galstress.errors import InputError
from galstress.networks.network import Network

__all__ = ["Draw", "Schedule", "train"]

Draw = Callable[[int], Sequence[Cutouts]]
"""Step to the cutouts of that step: one or more surveys. A pure function of the step, so that training can resume."""

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
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    averaged = [p.detach().clone() for p in parameters]
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        losses = _restore(checkpoint, modules, optimizer, averaged, schedule)
    elif isinstance(network.head.centre, Tensor) and not bool((network.head.scale != 1).any()):
        network.head.set_scale(_first_targets(network, draw))
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("training", total=schedule.steps, completed=len(losses), loss=math.nan)
        for step in range(len(losses), schedule.steps):
            losses.append(_step(network, draw(step), optimizer, schedule, step))
            decay = min(schedule.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - decay)
            bar.update(task, advance=1, loss=sum(losses[-100:]) / len(losses[-100:]))
            if checkpoint is not None and ((step + 1) % checkpoint_every == 0 or step + 1 == schedule.steps):
                _store(checkpoint, modules, optimizer, averaged, losses, schedule)
    with torch.no_grad():
        for parameter, value in zip(parameters, averaged, strict=True):
            parameter.copy_(value)
    modules.eval()
    return network, losses


def _step(
    network: Network, batches: Sequence[Cutouts], optimizer: torch.optim.Optimizer, schedule: Schedule, step: int
) -> float:
    """One step of the optimiser on the batches of all surveys together."""
    inputs = [network.backbone.inputs(cutouts) for cutouts in batches]
    targets = torch.cat(
        [network.head.targets(cutouts, part.reference) for cutouts, part in zip(batches, inputs, strict=True)]
    )
    raw = network.head(network.backbone(type(inputs[0]).concatenate(inputs)))
    loss = network.head.loss(raw, targets).mean()
    if not math.isfinite(float(loss.detach())):
        raise InputError(f"a loss of {float(loss.detach())} at step {step}", "a finite loss", "lower the learning rate")
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(step)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], schedule.clip)
    optimizer.step()
    return float(loss.detach())


def _first_targets(network: Network, draw: Draw, batches: int = 8) -> Tensor:
    """Targets of the first steps, from which the head takes its centre and scale."""
    with torch.no_grad():
        return torch.cat(
            [
                network.head.targets(cutouts, network.backbone.inputs(cutouts).reference)
                for step in range(batches)
                for cutouts in draw(step)
            ]
        )


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
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for place, value in enumerate(averaged):
        value.copy_(tensors[f"average.{place}"])
    losses = [float(loss) for loss in tensors["losses"]]
    _log.info("going on from step %d of %s", len(losses), path)
    return losses
