"""Reads whatever a network said: the file itself names the kind of answer."""

from __future__ import annotations

from pathlib import Path

from galstress.errors import InputError
from galstress.heads.classes import Classes
from galstress.heads.record import Prediction
from galstress.heads.storage import load_tensors
from galstress.heads.triple import Samples

__all__ = ["Said", "read_prediction"]

Said = Prediction | Classes | Samples
"""What :func:`galstress.predict` returns."""

_KINDS: dict[str, type[Classes] | type[Samples]] = {each.KIND: each for each in (Classes, Samples)}


def read_prediction(path: str | Path) -> Said:
    """What :func:`galstress.predict` gave, from the file that its ``write`` made.

    Arguments:
        path: A .safetensors file. One that names no kind holds a :class:`galstress.heads.Prediction`.

    Raises:
        InputError: Not such a file, or of a kind that this version does not know.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from galstress.survey import Survey
        >>> said = Classes(probabilities=np.array([[0.7, 0.2, 0.1]]), object_id=np.array(["a"]),
        ...     flags=np.zeros(1, int), survey=Survey.load("sdss-g"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     said.write(f"{folder}/a.safetensors")
        ...     read_prediction(f"{folder}/a.safetensors").decide().tolist()
        ['disk']
    """
    kind = load_tensors(path)[1].get("kind")
    if kind is None:
        return Prediction.read(path)
    if kind not in _KINDS:
        raise InputError(f"{path} of kind {kind!r}", " or ".join(_KINDS), "read it with a newer galstress")
    return _KINDS[kind].read(path)
