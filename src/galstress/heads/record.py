"""The Prediction record: joint posteriors of many objects, with names and units."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.galaxy import component_ellipticity, table_from_galaxies, whole_ellipticity
from galstress.heads.galaxy import INTERNAL_NAMES, Reference, from_internal, turn_internal
from galstress.survey import Survey

__all__ = ["OUTPUTS", "Prediction"]

OUTPUTS: dict[str, tuple[str, str]] = {
    "bulge_to_total": ("", "share of the total light, to infinity, that is the bulge's"),
    "half_light_radius_arcsec": ("arcsec", "radius that holds half of the total light before the PSF, circularised"),
    "flux_njy": ("nJy", "total flux, to infinity"),
    "e1": ("", "(1-q)/(1+q) cos 2phi of the whole galaxy, phi from +x towards +y"),
    "e2": ("", "(1-q)/(1+q) sin 2phi of the whole galaxy, phi from +x towards +y"),
    "x_px": ("pix", "centre along x, 0 at the centre of the first pixel of the cutout"),
    "y_px": ("pix", "centre along y, 0 at the centre of the first pixel of the cutout"),
    "disk_sersic_index": ("", "Sersic index of the disk"),
    "disk_half_light_radius_arcsec": ("arcsec", "semi-major half-light radius of the disk"),
    "disk_e1": ("", "(1-q)/(1+q) cos 2phi of the disk"),
    "disk_e2": ("", "(1-q)/(1+q) sin 2phi of the disk"),
    "bulge_sersic_index": ("", "Sersic index of the bulge"),
    "bulge_half_light_radius_arcsec": ("arcsec", "semi-major half-light radius of the bulge"),
    "bulge_e1": ("", "(1-q)/(1+q) cos 2phi of the bulge"),
    "bulge_e2": ("", "(1-q)/(1+q) sin 2phi of the bulge"),
}
"""Names of the outputs, in order, with their unit and definition; the first five are of the whole galaxy."""

_QUANTILES = {"p2_5": 0.025, "p16": 0.16, "p50": 0.5, "p84": 0.84, "p97_5": 0.975}
_MOMENT_SAMPLES = 512
"""A multiple of 16: the points of the moments are closed under the eight turns and under change of sign."""
_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL


_MONOTONE = {0, 1, 2, 3, 4, 5, 6, 7, 11}
"""Places of the outputs that rise with one internal coordinate alone."""


@functools.lru_cache(maxsize=1)
def _moment_points() -> Tensor:
    """(512, 12) standard normal points, closed under the eight turns and mirrors and under change of sign."""
    generator = torch.Generator().manual_seed(512)
    seeds = torch.randn(_MOMENT_SAMPLES // 16, len(INTERNAL_NAMES), generator=generator, dtype=torch.float64)
    turned = torch.cat([seeds @ turn_internal(element).T for element in range(8)])
    points = torch.cat([turned, -turned])
    return points / points.std(0, correction=0)  # each coordinate has unit variance exactly


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says of N galaxies: a Gaussian over the internal coordinates of each.

    Objects that could not be measured keep their row; all their numbers are NaN.
    """

    internal_mean: Tensor
    """(N, 12) float64, in the order of ``INTERNAL_NAMES``."""
    internal_covariance: Tensor
    """(N, 12, 12) float64."""
    reference: Reference
    """What the internal coordinates are relative to."""
    object_id: np.ndarray
    """(N,) names."""
    flags: np.ndarray
    """(N,) int64, bits of :class:`galstress.cutouts.Flag`."""
    survey: Survey
    """Gives units and pixel scale."""
    network: str = ""
    """Name of the network that said so."""

    @property
    def names(self) -> tuple[str, ...]:
        """The D outputs, whole-galaxy ones first."""
        return tuple(OUTPUTS)

    @property
    def units(self) -> tuple[str, ...]:
        """Unit of each output, as astropy spells it; empty where there is none."""
        return tuple(unit for unit, _ in OUTPUTS.values())

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.object_id)

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: rows that hold a posterior."""
        return (self.flags & int(_UNUSABLE)) == 0

    def select(self, rows: slice | Sequence[int] | np.ndarray) -> Prediction:
        """The predictions at ``rows`` (a slice, indices or a boolean array)."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        at = torch.as_tensor(index)
        return dataclasses.replace(
            self,
            internal_mean=self.internal_mean[at],
            internal_covariance=self.internal_covariance[at],
            reference=self.reference.select(at),
            object_id=self.object_id[index],
            flags=self.flags[index],
        )

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Draw from the joint posterior.

        Arguments:
            n: Samples per object.
            seed: One seed, one answer; an object's samples do not depend on the others' presence behind it.

        Returns:
            (n, N, D) float64 in ``units``; NaN for unusable objects. Samples outside the model are at its edge, so
            B/T can be exactly 0 or 1.
        """
        result = np.full((n, len(self), len(OUTPUTS)), np.nan)
        generator = torch.Generator().manual_seed(seed)
        for rows in self._usable_rows(max(1, 400_000 // max(n, 1))):
            factor = torch.linalg.cholesky(self.internal_covariance[rows])
            normal = torch.randn(len(rows), n, factor.shape[-1], generator=generator, dtype=torch.float64)
            internal = self.internal_mean[rows, None] + normal @ factor.transpose(-1, -2)
            result[:, rows.numpy()] = self._outputs(internal.transpose(0, 1), rows).numpy()
        return result

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (N, D) and covariance (N, D, D) of the outputs.

        Over 512 fixed points of a standard normal distribution, the same for every object and closed under turns,
        mirrors and change of sign, through the symmetric root of the covariance: so a posterior that turns with its
        image has moments that do, too, to rounding.
        """
        count, dim = len(self), len(OUTPUTS)
        mean, covariance = np.full((count, dim), np.nan), np.full((count, dim, dim), np.nan)
        for rows in self._usable_rows(256):
            values, vectors = torch.linalg.eigh(self.internal_covariance[rows])
            root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.transpose(-1, -2)
            internal = self.internal_mean[rows] + torch.einsum("sd,nde->sne", _moment_points(), root)
            samples = self._outputs(internal, rows)
            centre = samples.mean(0)
            offset = samples - centre
            mean[rows.numpy()] = centre.numpy()
            covariance[rows.numpy()] = (torch.einsum("snd,sne->nde", offset, offset) / len(samples)).numpy()
        return mean, covariance

    @property
    def mean(self) -> np.ndarray:
        """(N, D) posterior means of the outputs."""
        return self._moments[0]

    @property
    def covariance(self) -> np.ndarray:
        """(N, D, D) posterior covariances of the outputs."""
        return self._moments[1]

    @property
    def std(self) -> np.ndarray:
        """(N, D) posterior standard deviations of the outputs."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))

    def quantile(self, probabilities: Sequence[float], samples: int = 1000, seed: int = 0) -> np.ndarray:
        """Marginal quantiles of the outputs.

        Arguments:
            probabilities: P numbers between 0 and 1.
            samples: Draws for those outputs that depend on several internal coordinates (shape and radius of disk
                and bulge); the others' quantiles are exact.
            seed: Of the draws.

        Returns:
            (P, N, D) in ``units``; NaN for unusable objects.
        """
        result = np.full((len(probabilities), len(self), len(OUTPUTS)), np.nan)
        normal = torch.special.ndtri(torch.as_tensor(probabilities, dtype=torch.float64).clamp(1e-300, 1 - 1e-16))
        mixed = [place for place in range(len(OUTPUTS)) if place not in _MONOTONE]
        for rows in self._usable_rows(512):
            sigma = torch.diagonal(self.internal_covariance[rows], dim1=-2, dim2=-1).sqrt()
            internal = self.internal_mean[rows] + normal[:, None, None] * sigma
            result[:, rows.numpy()] = self._outputs(internal, rows).numpy()
            drawn = self.select(rows.numpy()).sample(samples, seed + int(rows[0]))[..., mixed]
            result[:, rows.numpy()[:, None], mixed] = np.quantile(drawn, probabilities, axis=0)
        return result

    def table(self) -> QTable:
        """A row per object: mean, standard deviation and quantiles of every output, with units and descriptions."""
        quantiles = self.quantile(tuple(_QUANTILES.values()))
        columns = {"mean": self.mean, "std": self.std, **dict(zip(_QUANTILES, quantiles, strict=True))}
        words = {"mean": "posterior mean", "std": "posterior standard deviation"}
        table = QTable()
        table["object_id"] = self.object_id.astype(str)
        table["flags"] = self.flags
        table["flags"].info.description = "bits of galstress.Flag; galstress.decode_flags names them"
        for place, (name, (unit, meaning)) in enumerate(OUTPUTS.items()):
            for statistic, values in columns.items():
                column = f"{name}_{statistic}"
                table[column] = values[:, place]
                if unit:
                    table[column].unit = unit
                kind = words.get(statistic, f"{statistic[1:].replace('_', '.')} % quantile of the posterior")
                table[column].info.description = f"{meaning}: {kind}"
        table.meta.update(survey=self.survey.name, band=self.survey.band, network=self.network)
        return table

    def truth_like(self) -> QTable:
        """The galaxy at the posterior's centre as a table with the truth columns (``snr`` left out).

        Rows of unusable objects hold NaN. The centre is that of the Gaussian, which is also its median.
        """
        galaxies, _ = from_internal(self.internal_mean, self._reference64())
        table = table_from_galaxies(galaxies, self.survey.pixel_scale_arcsec, self.survey.unit_njy)
        for name in table.colnames:
            table[name][~self.usable] = np.nan
        return table

    def write(self, path: str | Path) -> None:
        """Save as one safetensors file, aside and then renamed."""
        path = Path(path)
        record = {
            "object_id": [str(name) for name in self.object_id],
            "centre_px": self.reference.centre_px,
            "survey": self.survey.to_record(),
            "network": self.network,
        }
        tensors = {
            "internal_mean": self.internal_mean,
            "internal_covariance": self.internal_covariance,
            "reference_flux": self.reference.flux,
            "reference_size_px": self.reference.size_px,
            "reference_sky_rms": self.reference.sky_rms,
            "flags": torch.as_tensor(self.flags),
        }
        aside = path.with_name(path.name + ".part")
        save_file({k: v.contiguous() for k, v in tensors.items()}, aside, metadata={"prediction": json.dumps(record)})
        aside.replace(path)

    @classmethod
    def read(cls, path: str | Path) -> Prediction:
        """The inverse of :meth:`write`.

        Raises:
            InputError: Not such a file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                record: dict[str, Any] = json.loads((file.metadata() or {})["prediction"])
                t = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"{path} ({error})", "a file written by Prediction.write", "predict again") from None
        centre = (float(record["centre_px"][0]), float(record["centre_px"][1]))
        return cls(
            t["internal_mean"],
            t["internal_covariance"],
            Reference(t["reference_flux"], t["reference_size_px"], centre, t["reference_sky_rms"]),
            np.asarray(record["object_id"], dtype=str),
            t["flags"].numpy(),
            Survey.from_record(record["survey"]),
            record["network"],
        )

    @staticmethod
    def concatenate(parts: Sequence[Prediction]) -> Prediction:
        """Batches of one survey and one stamp size as one, in order."""
        first = parts[0]

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part.reference, name) for part in parts])

        reference = dataclasses.replace(
            first.reference, flux=joined("flux"), size_px=joined("size_px"), sky_rms=joined("sky_rms")
        )
        return dataclasses.replace(
            first,
            internal_mean=torch.cat([part.internal_mean for part in parts]),
            internal_covariance=torch.cat([part.internal_covariance for part in parts]),
            reference=reference,
            object_id=np.concatenate([part.object_id for part in parts]),
            flags=np.concatenate([part.flags for part in parts]),
        )

    def _usable_rows(self, size: int) -> list[torch.Tensor]:
        """Indices of the objects that hold a posterior, in chunks."""
        good = torch.as_tensor(np.flatnonzero(self.usable))
        return list(good.split(size)) if len(good) else []

    def _reference64(self) -> Reference:
        """The reference in the precision of the posterior."""
        r = self.reference
        return dataclasses.replace(r, flux=r.flux.double(), size_px=r.size_px.double(), sky_rms=r.sky_rms.double())

    def _outputs(self, internal: Tensor, rows: Tensor) -> Tensor:
        """(n, N, D) outputs of (n, N, 12) internal coordinates of the objects at ``rows``."""
        galaxies, radius = from_internal(internal, self._reference64().select(rows))
        sky = galaxies.scaled(self.survey.pixel_scale_arcsec, self.survey.unit_njy)
        e1, e2 = whole_ellipticity(galaxies)
        component = component_ellipticity(galaxies.axis_ratio, galaxies.angle)
        values = [
            galaxies.bulge_to_total,
            radius * self.survey.pixel_scale_arcsec,
            sky.flux,
            e1,
            e2,
            galaxies.x,
            galaxies.y,
        ]
        for place in range(2):
            values += [
                galaxies.sersic_index[..., place],
                sky.radius[..., place],
                component[0][..., place],
                component[1][..., place],
            ]
        return torch.stack(values, -1)
