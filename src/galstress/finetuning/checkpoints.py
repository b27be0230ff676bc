"""Files that an interrupted run goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from galstress.errors import InputError

__all__ = ["read_checkpoint", "write_checkpoint"]

_KEY = "finetuning"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Tensors and the record of what they belong to, as one safetensors file, aside and then renamed."""
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    aside = path.with_name(path.name + ".part")
    save_file(kept, aside, metadata={_KEY: json.dumps(record)})
    aside.replace(path)


def read_checkpoint(path: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint with this very record.

    Raises:
        InputError: Not such a file, or of other data, weights or settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            kept: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"checkpoint {path} ({str(error)[:120]})", "one of fine-tuning", "move it away") from None
    other = [name for name, value in json.loads(json.dumps(record)).items() if kept.get(name) != value]
    if other:
        raise InputError(f"checkpoint {path} with another {other[0]}", "one of this very run", "move it away")
    return tensors
