"""The Prediction record: joint posteriors of many objects, with names and units."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from galstress.cutouts import Flag
from galstress.errors import InputError
from galstress.galaxy import table_from_galaxies
from galstress.heads.galaxy import Reference, from_internal
from galstress.heads.outputs import MONOTONE, OUTPUTS, derive_outputs
from galstress.heads.points import moment_points
from galstress.heads.storage import load_tensors, store_tensors
from galstress.survey import Survey

__all__ = ["Prediction"]

_QUANTILES = {"p2_5": 0.025, "p16": 0.16, "p50": 0.5, "p84": 0.84, "p97_5": 0.975}
_UNUSABLE = Flag.UNREADABLE | Flag.ALL_MASKED | Flag.TOO_SMALL
_CHECKS = {
    "effective_samples": "number of independent draws that the weighted ones behind the posterior are worth",
    "chi_square": "chi-square per degree of freedom of the model at the posterior's best point, NaN where unusable",
    "ln_evidence": "natural logarithm of the image's probability under model and prior",
}
"""What a posterior may say of itself: names of fields and columns."""
_AT_ONCE = 131_072
"""Draws whose outputs are derived together; bounds the memory."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network says of N galaxies: a posterior over the internal coordinates of each.

    It is a Gaussian or, where ``draws`` are given, has the shape of these: then all that is asked of it comes from the
    draws, and the Gaussian holds their moments. Objects that could not be measured keep their row; all their numbers
    are NaN.
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
    draws: Tensor | None = None
    """(N, S, 12) float32 draws of equal weight in internal coordinates, or None: a Gaussian."""
    effective_samples: np.ndarray | None = None
    """(N,) number of independent draws that the weighted ones behind ``draws`` are worth."""
    chi_square: np.ndarray | None = None
    """(N,) chi-square per degree of freedom of the model at the posterior's best point; NaN where unusable."""
    ln_evidence: np.ndarray | None = None
    """(N,) ln of the image's probability under model and prior."""
    prior: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Shares of the populations that the posterior was trained under; empty where unknown."""

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
        index = np.arange(len(self))[rows if isinstance(rows, slice) or len(rows) else slice(0, 0)]
        at = torch.as_tensor(index)
        return dataclasses.replace(
            self,
            internal_mean=self.internal_mean[at],
            internal_covariance=self.internal_covariance[at],
            reference=self.reference.select(at),
            object_id=self.object_id[index],
            flags=self.flags[index],
            draws=None if self.draws is None else self.draws[at],
            **{name: values[index] for name, values in self._checks().items()},
        )

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Draw from the joint posterior.

        Arguments:
            n: Samples per object.
            seed: One seed, one answer; an object's samples do not depend on the others' presence behind it.

        Returns:
            (n, N, D) float64 in ``units``; NaN for unusable objects. Samples outside the model are at its edge, so
            B/T can be exactly 0 or 1. Where there are S draws, these are handed out in a random order of each
            object's own, none twice before all were: ``n`` = S gives every draw once.
        """
        result = np.full((n, len(self), len(OUTPUTS)), np.nan)
        generator = torch.Generator().manual_seed(seed)
        if self.draws is not None:
            count, dim = self.draws.shape[1:]
            rounds = -(-n // count)
            for rows in self._usable_rows(max(1, _AT_ONCE // max(rounds * count, 1))):
                order = torch.rand(len(rows), rounds, count, generator=generator, dtype=torch.float64).argsort(-1)
                picked = order.flatten(1)[:, :n, None].expand(-1, -1, dim)
                internal = self.draws[rows].double().gather(1, picked)
                result[:, rows.numpy()] = self._outputs(internal.transpose(0, 1), rows).numpy()
            return result
        for rows in self._usable_rows(max(1, 400_000 // max(n, 1))):
            factor = torch.linalg.cholesky(self.internal_covariance[rows])
            normal = torch.randn(len(rows), n, factor.shape[-1], generator=generator, dtype=torch.float64)
            internal = self.internal_mean[rows, None] + normal @ factor.transpose(-1, -2)
            result[:, rows.numpy()] = self._outputs(internal.transpose(0, 1), rows).numpy()
        return result

    @functools.cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (N, D) and covariance (N, D, D) of the outputs.

        Over all draws; of a Gaussian over 512 fixed points of a standard normal distribution, the same for every
        object and closed under turns, mirrors and change of sign, through the symmetric root of the covariance. So a
        posterior that turns with its image has moments that do, too, to rounding.
        """
        count, dim = len(self), len(OUTPUTS)
        mean, covariance = np.full((count, dim), np.nan), np.full((count, dim, dim), np.nan)
        for rows in self._usable_rows(self._chunk(256)):
            samples = self._outputs(self._cloud(rows), rows)
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
            samples: Of a Gaussian, draws for those outputs that depend on several internal coordinates (shape and
                radius of disk and bulge); the others' quantiles are exact. Where the posterior has draws of its own,
                all of these are taken, for every output.
            seed: Of a Gaussian's draws.

        Returns:
            (P, N, D) in ``units``; NaN for unusable objects.
        """
        result = np.full((len(probabilities), len(self), len(OUTPUTS)), np.nan)
        if self.draws is not None:
            for rows in self._usable_rows(self._chunk(512)):
                drawn = self._outputs(self._cloud(rows), rows).numpy()
                # the k-th of S draws lies at (k - 1/2) / S, as the strata do that a flow's draws come from
                result[:, rows.numpy()] = np.quantile(drawn, probabilities, axis=0, method="hazen")
            return result
        normal = torch.special.ndtri(torch.as_tensor(probabilities, dtype=torch.float64).clamp(1e-300, 1 - 1e-16))
        mixed = [place for place in range(len(OUTPUTS)) if place not in MONOTONE]
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
        for name, values in self._checks().items():
            table[name] = values
            table[name].info.description = _CHECKS[name]
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

        Rows of unusable objects hold NaN. The centre is the median of each internal coordinate, over all draws where
        there are any: so B/T, total flux and whole radius have medians of their own.
        """
        centre = self.internal_mean
        if self.draws is not None:
            centre = torch.as_tensor(np.median(self.draws.numpy(), axis=1)).double()
        galaxies, _ = from_internal(centre, self._reference64())
        table = table_from_galaxies(galaxies, self.survey.pixel_scale_arcsec, self.survey.unit_njy)
        for name in table.colnames:
            table[name][~self.usable] = np.nan
        return table

    def write(self, path: str | Path) -> None:
        """Save as one safetensors file, aside and then renamed."""
        record = {
            "object_id": [str(name) for name in self.object_id],
            "centre_px": self.reference.centre_px,
            "survey": self.survey.to_record(),
            "network": self.network,
            "prior": dict(self.prior),
        }
        tensors = {
            "internal_mean": self.internal_mean,
            "internal_covariance": self.internal_covariance,
            "reference_flux": self.reference.flux,
            "reference_size_px": self.reference.size_px,
            "reference_sky_rms": self.reference.sky_rms,
            "flags": torch.as_tensor(self.flags),
            **({} if self.draws is None else {"draws": self.draws}),
            **{name: torch.as_tensor(values) for name, values in self._checks().items()},
        }
        store_tensors(path, tensors, record)

    @classmethod
    def read(cls, path: str | Path) -> Prediction:
        """The inverse of :meth:`write`; what a file of an earlier version does not hold stays at its default.

        Raises:
            InputError: Not such a file.
        """
        t, record = load_tensors(path)
        if "kind" in record:
            raise InputError(f"{path} of {record['kind']}", "a posterior of all parameters", "use read_prediction")
        centre = (float(record["centre_px"][0]), float(record["centre_px"][1]))
        return cls(
            t["internal_mean"],
            t["internal_covariance"],
            Reference(t["reference_flux"], t["reference_size_px"], centre, t["reference_sky_rms"]),
            np.asarray(record["object_id"], dtype=str),
            t["flags"].numpy(),
            Survey.from_record(record["survey"]),
            record["network"],
            draws=t.get("draws"),
            prior=record.get("prior", {}),
            **{name: t[name].numpy() for name in _CHECKS if name in t},
        )

    @staticmethod
    def concatenate(parts: Sequence[Prediction]) -> Prediction:
        """Batches of one survey and one stamp size as one, in order.

        Raises:
            InputError: Only some of them have draws, or not equally many.

        What one batch says of its own quality and another does not is NaN there; a prior that is not the same in all
        is unknown.
        """
        first = parts[0]
        counts = {0 if part.draws is None else part.draws.shape[1] for part in parts}
        if len(counts) > 1:
            came = f"predictions with {', '.join(map(str, sorted(counts)))} draws an object"
            raise InputError(came, "the same number in all, or none", "predict all with the same draws")
        checks: dict[str, Any] = {
            name: np.concatenate([part._checks().get(name, np.full(len(part), np.nan)) for part in parts])
            for name in dict.fromkeys(name for part in parts for name in part._checks())
        }

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
            draws=None if first.draws is None else torch.cat([part.draws for part in parts if part.draws is not None]),
            prior=first.prior if all(part.prior == first.prior for part in parts) else {},
            **checks,
        )

    def _checks(self) -> dict[str, Any]:
        """What the posterior says of its own quality, by name, as far as it does."""
        return {name: values for name in _CHECKS if (values := getattr(self, name)) is not None}

    def _chunk(self, size: int) -> int:
        """Objects at a time: ``size``, or as many as have :data:`_AT_ONCE` draws."""
        return size if self.draws is None else max(1, _AT_ONCE // max(self.draws.shape[1], 1))

    def _cloud(self, rows: Tensor) -> Tensor:
        """(S, n, 12) points of equal weight that have the posterior's moments, of the objects at ``rows``."""
        if self.draws is not None:
            return self.draws[rows].double().transpose(0, 1)
        values, vectors = torch.linalg.eigh(self.internal_covariance[rows])
        root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.transpose(-1, -2)
        return self.internal_mean[rows] + torch.einsum("sd,nde->sne", moment_points(), root)

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
        return derive_outputs(internal, self._reference64().select(rows), self.survey)
