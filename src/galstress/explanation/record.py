"""The record of what a network looked at."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from galstress.errors import InputError

__all__ = ["BASELINES", "Explanation"]

BASELINES = ("centred Gaussian", "random weights")
"""What each map is compared with, in the order of ``pearson`` and ``spearman``."""


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
