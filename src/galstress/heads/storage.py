"""The file that a Prediction lies in: tensors by name, and a JSON record of all that is no array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from galstress.errors import InputError

__all__ = ["load_tensors", "store_tensors"]

_KEY = "prediction"


def store_tensors(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write one safetensors file, aside and then renamed.

    Arguments:
        path: Where to.
        tensors: Arrays by name.
        record: What JSON can hold.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, aside, metadata={_KEY: json.dumps(record)})
    aside.replace(path)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the record that :func:`store_tensors` wrote.

    Raises:
        InputError: Not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
            return {key: file.get_tensor(key) for key in file.keys()}, record  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} ({error})", "a file written by Prediction.write", "predict again") from None
