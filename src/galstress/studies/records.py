"""Writes what a report is made from; :mod:`galstress.report` describes the folder.

Everything is written aside and then renamed, so that a folder never holds half a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from galstress.cutouts import Cutouts
from galstress.explanation import Explanation
from galstress.heads import Prediction, Said

__all__ = ["FILM_QUANTILES", "DrawModels", "record_film", "record_set", "write_arrays", "write_json"]

DrawModels = Callable[[Cutouts, Prediction], Mapping[str, np.ndarray]]
"""Posterior models of galaxies as arrays: :func:`galstress.report.draw_models`."""
FILM_QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
"""Quantiles of each output that a film keeps."""


def record_set(
    folder: Path,
    cutouts: Cutouts,
    prediction: Said,
    about: Mapping[str, Any],
    *,
    draw_models: DrawModels,
    explanation: Explanation | None = None,
) -> None:
    """Write a few galaxies of one survey with what was measured on them.

    Arguments:
        folder: ``galaxies/<set>`` of the records; made if missing.
        cutouts: At most a dozen, since each gets its own pictures.
        prediction: Same galaxies, same order. Models are drawn of a posterior of all parameters alone.
        about: ``title``, ``simulated``, ``credit``, ``licence``, ``zero_point_note``.
        draw_models: Draws the posterior's models.
        explanation: Maps of some or all of the galaxies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cutouts.write(folder / "cutouts.fits")
    prediction.write(folder / "prediction.safetensors")
    models = folder / "model.safetensors"
    if isinstance(prediction, Prediction):
        write_arrays(models, draw_models(cutouts, prediction))
    else:
        models.unlink(missing_ok=True)  # of another network's answers, if there are any
    if explanation is not None:
        explanation.write(folder / "explanation.safetensors")
    literature = {
        name: cutouts.catalogue[name].info.description or ""
        for name in cutouts.catalogue.colnames
        if name.startswith("lit_")
    }
    write_json(folder / "set.json", {**about, "literature": {name: text for name, text in literature.items() if text}})


def record_film(
    folder: Path,
    name: str,
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
    about: Mapping[str, Any],
) -> None:
    """Write a film: ``<name>.json`` and ``<name>.safetensors``.

    Arguments:
        folder: The records.
        name: ``film`` for the one that the page begins with.
        frames: Images (T, H, W), angles in degrees (T,), quantiles (5, T, K) at :data:`FILM_QUANTILES`.
        about: ``title``, ``object_id``, ``outputs`` (K), ``pixel_scale_arcsec``, ``sky_rms``, ``truth``, ``fps``.
    """
    arrays = dict(zip(("image", "angle_deg", "quantiles"), frames, strict=True))
    write_arrays(folder / f"{name}.safetensors", arrays)
    write_json(folder / f"{name}.json", about)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays as float32 in one safetensors file."""
    aside = path.with_name(path.name + ".part")
    save_file({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, aside)
    aside.replace(path)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """A JSON object; what JSON does not know is written as text."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
    aside.replace(path)
