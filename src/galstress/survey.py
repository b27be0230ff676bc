"""The Survey record: one survey in one band, every number with its source.

A survey is a TOML file in ``surveys/`` or anywhere else; ``dataclasses.replace(survey, ...)``
is a survey too. The record is pure data: what is made from it lives in ``optics`` and
``simulation``.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from galstress.errors import InputError, UnknownNameError

__all__ = ["AB_ZERO_POINT_NJY", "Psf", "Survey", "available_surveys"]

AB_ZERO_POINT_NJY = 31.4
"""AB magnitude of 1 nJy: -48.6 in erg/s/cm2/Hz is 3,630.78 Jy at magnitude 0."""

_PSF_FIELDS: Mapping[str, tuple[str, ...]] = {
    "moffat": ("fwhm_arcsec", "beta"),
    "kolmogorov": ("fwhm_arcsec",),
    "airy": ("fwhm_arcsec", "diameter_m", "wavelength_nm", "obscuration", "jitter_arcsec"),
}
"""The numbers that each kind of point-spread function needs."""


@dataclasses.dataclass(frozen=True)
class Psf:
    """The shape of a survey's point-spread function, before the pixel.

    Example:
        >>> Psf("moffat", fwhm_arcsec=0.6, beta=3.0).fwhm_arcsec
        0.6
    """

    kind: str
    """``moffat``, ``kolmogorov`` or ``airy`` (obscured, with Gaussian jitter)."""
    fwhm_arcsec: float
    """Full width at half maximum, before the pixel."""
    beta: float = math.nan
    """Moffat's exponent."""
    diameter_m: float = math.nan
    """Airy: the primary mirror's diameter."""
    wavelength_nm: float = math.nan
    """Airy: the band's effective wavelength."""
    obscuration: float = 0.0
    """Airy: linear central obscuration, as a share of the diameter."""
    jitter_arcsec: float = 0.0
    """Airy: sigma of a Gaussian for jitter and charge diffusion."""
    e1: float = 0.0
    """Ellipticity (1-q)/(1+q) cos 2phi of a shear applied to the shape."""
    e2: float = 0.0
    """Ellipticity (1-q)/(1+q) sin 2phi of a shear applied to the shape."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy through the constructor: a NaN that is copied would not equal itself."""
        return _make_psf, ({key: value for key, value in vars(self).items() if value == value},)

    def __post_init__(self) -> None:
        """Refuse a kind that is not known, or numbers that it lacks."""
        if self.kind not in _PSF_FIELDS:
            raise UnknownNameError("PSF kind", self.kind, tuple(_PSF_FIELDS))
        for name in _PSF_FIELDS[self.kind]:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise InputError(
                    f"psf.{name}={value} for a {self.kind} PSF", "a finite, positive number", f"give psf.{name}"
                )


@dataclasses.dataclass(frozen=True)
class Survey:
    """One survey in one band.

    Example:
        >>> survey = Survey.load("hsc-wide-i")
        >>> survey.pixel_scale_arcsec
        0.168
        >>> deeper = dataclasses.replace(survey, electrons_per_unit=4 * survey.electrons_per_unit)
        >>> round(deeper.depth_5sigma_mag - survey.depth_5sigma_mag, 1)
        0.8
    """

    name: str
    """As on the command line, for example ``hsc-wide-i``."""
    band: str
    """The band as the observatory names it, for example ``HSC-I``."""
    pixel_scale_arcsec: float
    """Side of a pixel."""
    zero_point_mag: float
    """AB magnitude of one unit of the calibrated image (not of one electron per second)."""
    electrons_per_unit: float
    """Detected electrons that make one unit of the image: sets the photon noise."""
    sky_mag_arcsec2: float
    """Surface brightness of the sky, AB."""
    read_noise_e: float
    """Read noise of a pixel of the finished image, electrons (all exposures added)."""
    psf: Psf
    """The point-spread function before the pixel."""
    stamp_px: int
    """Side of a cutout, pixels."""
    noise_correlation_fwhm_px: float = 0.0
    """FWHM of the Gaussian that correlates the noise of neighbouring pixels; 0 is white."""
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, hash=False)
    """Where each number comes from, by field name."""
    published_depth: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, hash=False)
    """``mag``, ``kind`` (``point-5sigma`` or ``aperture-10sigma-...``) and ``source``."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot describe an image."""
        for name in ("pixel_scale_arcsec", "electrons_per_unit", "stamp_px"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name}={value} in survey {self.name!r}", "a positive number", f"correct {name}")
        for name in ("zero_point_mag", "sky_mag_arcsec2", "read_noise_e", "noise_correlation_fwhm_px"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name[0] in "rn" and value < 0):
                raise InputError(f"{name}={value} in survey {self.name!r}", "a finite number", f"correct {name}")
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))
        object.__setattr__(self, "published_depth", MappingProxyType(dict(self.published_depth)))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy through plain values (mapping proxies do not pickle)."""
        return _from_record, (self.to_record(),)

    @classmethod
    def load(cls, name: str | Path) -> Survey:
        """Read a survey by its name, or from a TOML file.

        Arguments:
            name: A name that :func:`available_surveys` lists, or a path that ends in ``.toml``.

        Raises:
            UnknownNameError: No such survey.
            InputError: The file cannot be read or lacks a number.
        """
        path = Path(name)
        if path.suffix == ".toml":
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "no UTF-8"
                raise InputError(f"survey file {path}", "a readable TOML file", f"check it ({reason})") from None
        else:
            if str(name) not in available_surveys():
                raise UnknownNameError("survey", str(name), available_surveys(), "choose one, or give a .toml file")
            text = (resources.files("galstress") / "surveys" / f"{name}.toml").read_text(encoding="utf-8")
        try:
            return _from_record(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"survey file {path}", "valid TOML", f"correct it ({error})") from None

    def to_record(self) -> dict[str, Any]:
        """Plain values, as in the TOML file: what a manifest or a weights file stores."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        psf = {key: value for key, value in dataclasses.asdict(self.psf).items() if value == value}
        return values | {"psf": psf, "sources": dict(self.sources), "published_depth": dict(self.published_depth)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Survey:
        """The inverse of :meth:`to_record`."""
        return _from_record(record)

    @property
    def unit_njy(self) -> float:
        """Flux of one image unit, nJy."""
        return 10 ** (0.4 * (AB_ZERO_POINT_NJY - self.zero_point_mag))

    @property
    def sky_electrons(self) -> float:
        """Electrons from the sky in one pixel of the finished image."""
        sky_units = 10 ** (-0.4 * (self.sky_mag_arcsec2 - self.zero_point_mag)) * self.pixel_scale_arcsec**2
        return sky_units * self.electrons_per_unit

    @property
    def kernel_factor(self) -> float:
        """Rms of one pixel's noise behind the correlating kernel (sum 1), in units of the white noise before it.

        A drizzled pixel shares its electrons' noise with its neighbours: each has less of it, an aperture has all.
        """
        if self.noise_correlation_fwhm_px <= 0:
            return 1.0
        sigma = self.noise_correlation_fwhm_px / 2.354820045
        reach = max(1, math.ceil(4 * sigma))
        kernel = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)]
        return sum(value**2 for value in kernel) / sum(kernel) ** 2

    @property
    def sky_rms(self) -> float:
        """Standard deviation of a pixel of empty sky (sky and read noise, behind the kernel), image units."""
        return self.kernel_factor * self._white_rms

    @property
    def _white_rms(self) -> float:
        """The same before the kernel: the noise an aperture collects, per square root of its pixels."""
        return math.sqrt(self.sky_electrons + self.read_noise_e**2) / self.electrons_per_unit

    @property
    def photon_variance(self) -> float:
        """Variance that one image unit of light adds to its pixel (behind the kernel), image units squared."""
        return self.kernel_factor**2 / self.electrons_per_unit

    @property
    def psf_fwhm_px(self) -> float:
        """Width of the point-spread function before the pixel, in pixels."""
        return self.psf.fwhm_arcsec / self.pixel_scale_arcsec

    @property
    def depth_5sigma_mag(self) -> float:
        """AB magnitude of a point source measured at 5 sigma, sky-limited.

        The PSF is taken as a Gaussian that covers ``4 pi sigma^2`` (2.266 FWHM^2); the pixel
        widens it by ``1/12`` of a pixel squared per axis.
        """
        sigma2 = (self.psf_fwhm_px / 2.3548) ** 2 + 1 / 12
        return self.zero_point_mag - 2.5 * math.log10(5 * self._white_rms * math.sqrt(4 * math.pi * sigma2))

    def aperture_depth_mag(self, diameter_arcsec: float, sigma: float = 10.0) -> float:
        """AB magnitude whose flux is ``sigma`` times the sky noise in a circular aperture."""
        pixels = math.pi * (diameter_arcsec / 2 / self.pixel_scale_arcsec) ** 2
        return self.zero_point_mag - 2.5 * math.log10(sigma * self._white_rms * math.sqrt(pixels))


def available_surveys() -> tuple[str, ...]:
    """Names of the surveys that ship with the package, sorted."""
    folder = resources.files("galstress") / "surveys"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def _make_psf(numbers: Mapping[str, Any]) -> Psf:
    """A PSF from the numbers that are set."""
    return Psf(**numbers)


def _from_record(record: Mapping[str, Any]) -> Survey:
    """Build a survey from plain values, naming what is missing or not known."""
    known = {field.name for field in dataclasses.fields(Survey)}
    required = {f.name for f in dataclasses.fields(Survey) if f.default is dataclasses.MISSING} - {
        "sources",
        "published_depth",
    }
    missing, extra = required - set(record), set(record) - known
    if missing or extra:
        came = f"a survey record that lacks {sorted(missing)}" if missing else f"survey fields {sorted(extra)}"
        raise InputError(came, ", ".join(sorted(known)), "complete or correct the TOML file")
    try:
        return Survey(**{**record, "psf": Psf(**record["psf"])})
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a survey record ({error})", "numbers, strings and a [psf] table", "correct it") from None
