"""The first lines of the page, and its last part: flags, time, credits, versions, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from galstress.cutouts import Flag
from galstress.report.galaxies import Galaxy
from galstress.report.records import GalaxySet, Records
from galstress.report.section import DataTable, Section

__all__ = ["report_making", "summarise"]

_FLAG_MEANINGS = {
    Flag.UNREADABLE: "The file could not be read; nothing is predicted.",
    Flag.ALL_MASKED: "No usable pixel is left; nothing is predicted.",
    Flag.NON_FINITE: "Some pixels were NaN or infinite and are masked.",
    Flag.TOO_SMALL: "The image is smaller than 16 pixels; nothing is predicted.",
    Flag.PADDED: "The image is smaller than the stamp; the rest is masked.",
    Flag.VARIANCE_ESTIMATED: "No variance came with the image; it was estimated from the sky.",
    Flag.PSF_ASSUMED: "No PSF came with the image; the survey's own was taken.",
    Flag.SKY_ZEROED: "The sky had been set to zero; those pixels are masked.",
    Flag.CENTRE_MASKED: "The central pixel is masked.",
    Flag.SKY_UNCERTAIN: "Too little empty sky to measure its noise well.",
    Flag.FAINT: "The network sees less than S/N 10.",
    Flag.OUT_OF_DOMAIN: "Brighter, larger or smaller than anything the network was trained on.",
    Flag.OFF_CENTRE: "The light's centre lies far from the stamp's.",
    Flag.ZERO_POINT_ASSUMED: "The photometric zero point is assumed: relative fluxes only.",
    Flag.FEW_SAMPLES: "Refinement found fewer than 100 effective samples: its posterior is a rough one.",
    Flag.BAD_FIT: "No disk and bulge describe the image to within its noise: refined error bars hold for the model.",
}

_MOST_BANDS = 6
"""Bands that are named in the first line; more are counted."""


def summarise(records: Records, described: Sequence[Sequence[Galaxy]]) -> dict[str, Any]:
    """The first lines: what was measured, with what, and whether any of it is real.

    Returns:
        ``line``, ``origin`` (``real``, ``simulated``, ``both`` or ``none``) and ``facts`` (label and text).
    """
    real = sum(len(galaxies) for galaxies in records.sets if not galaxies.simulated)
    simulated = sum(len(galaxies) for galaxies in records.sets if galaxies.simulated)
    origin = {(True, True): "both", (True, False): "real", (False, True): "simulated"}.get(
        (bool(real), bool(simulated)), "none"
    )
    names = dict.fromkeys(galaxies.prediction.network for galaxies in records.sets)
    network = " and ".join(name for name in names if name) or "a network"
    bands = dict.fromkeys(galaxies.cutouts.survey.band for galaxies in records.sets)
    named = ", ".join(bands) if len(bands) <= _MOST_BANDS else f"{len(bands)} bands"
    counts = [f"{real} real"] if real else []
    counts += [f"{simulated} simulated"] if simulated else []
    sets = f"{len(records.sets)} {'sets' if len(records.sets) > 1 else 'set'}"
    line = (
        f"{' and '.join(counts)} galaxies in {sets} ({named}), measured with {network}."
        if counts
        else "No galaxies were recorded."
    )
    line = line.replace("-", "\N{NON-BREAKING HYPHEN}")  # names of bands stay whole
    return {"line": line, "origin": origin, "facts": _first_facts(records, described)}


def report_making(records: Records) -> Section:
    """How this page came about: time, versions, seeds, checksums, credits, flags."""
    manifest = records.manifest
    tables = []
    rows = [("command", str(manifest["command"]))] if manifest.get("command") else []
    rows += [(f"argument {name}", str(value)) for name, value in _mapping(manifest, "arguments").items()]
    rows += [(name, str(manifest[name])) for name in ("seed", "device", "created") if manifest.get(name) is not None]
    rows += [("time per galaxy", text)] if (text := _time_per_galaxy(manifest)) else []
    if isinstance(manifest.get("elapsed_s"), int | float):
        rows.append(("time in all", f"{manifest['elapsed_s']:.1f} s"))
    rows += [(f"{name}", str(version)) for name, version in _mapping(manifest, "versions").items()]
    if rows:
        tables.append(DataTable(("run", "value"), tuple(rows), prose=True))
    if sums := _mapping(manifest, "checksums"):
        lines = tuple((str(name), str(value)) for name, value in sums.items())
        tables.append(DataTable(("input", "SHA-256"), lines, "checksums", prose=True))
    if records.sets:
        thanks = tuple(_credit(galaxies) for galaxies in records.sets)
        tables.append(DataTable(("set", "real?", "credit", "licence", "zero point"), thanks, "credits", prose=True))
    known = [
        (f"{part.name}: {name.removeprefix('lit_')}", text)
        for part in records.sets
        for name, text in part.literature.items()
    ]
    if known:
        tables.append(DataTable(("literature value", "meaning"), tuple(known), "literature values", prose=True))
    if flags := _list_flags(records.sets):
        tables.append(DataTable(("flag", "bit", "galaxies", "meaning"), flags, "flags", prose=True))
    missing = "" if manifest else "How the records were made is not known: manifest.json is missing."
    return Section("making", "How this page was made", tables=tuple(tables), missing=missing)


def _first_facts(records: Records, described: Sequence[Sequence[Galaxy]]) -> list[tuple[str, str]]:
    """A few numbers for the head of the page."""
    facts = []
    cards = [card for cards in described for card in cards]
    snr = [card.snr for card in cards if np.isfinite(card.snr)]
    if snr:
        facts.append(("signal-to-noise", f"{min(snr):.0f} to {max(snr):.0f}"))
    fit = [card.chi_square for card in cards if np.isfinite(card.chi_square)]
    if fit:
        facts.append(("median reduced χ²", f"{np.median(fit):.2f}"))
    if text := _time_per_galaxy(records.manifest):
        facts.append(("time per galaxy", text))
    flagged = sum(bool(card.flags) for card in cards)
    if cards:
        facts.append(("galaxies with a flag", f"{flagged} of {len(cards)}"))
    return facts


def _time_per_galaxy(manifest: Mapping[str, Any]) -> str:
    """Time per galaxy and its inverse, or nothing."""
    rate = manifest.get("galaxies_per_second")
    if not isinstance(rate, int | float) or rate <= 0:
        return ""
    milliseconds = 1000 / rate
    time = f"{milliseconds:.2g} ms" if milliseconds < 100 else f"{milliseconds / 1000:.3g} s"
    return f"{time} ({rate:,.0f} galaxies a second)" if rate >= 1 else time


def _mapping(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the manifest; empty where it is missing or is no mapping."""
    part = manifest.get(name)
    return part if isinstance(part, dict) else {}


def _credit(galaxies: GalaxySet) -> tuple[str, str, str, str, str]:
    """Whom to thank for a set."""
    origin = "simulated" if galaxies.simulated else "real"
    return (galaxies.name, origin, galaxies.credit, galaxies.licence, galaxies.zero_point_note or "AB, from the image")


def _list_flags(sets: Sequence[GalaxySet]) -> tuple[tuple[str, ...], ...]:
    """Every flag that was set, how often, and what it means."""
    bits = np.concatenate([np.zeros(0, np.int64), *(_all_flags(part) for part in sets)])
    rows = []
    for flag in Flag:
        number = int(np.count_nonzero(bits & int(flag)))
        if number:
            rows.append((flag.name or "", str(int(flag)), str(number), _FLAG_MEANINGS.get(flag, "")))
    return tuple(rows)


def _all_flags(galaxies: GalaxySet) -> np.ndarray:
    """(N,) flags of a set's galaxies, those of their refined posteriors included."""
    flags = np.array(galaxies.prediction.flags, np.int64)
    if galaxies.refined is not None:
        found = dict(zip(galaxies.refined.object_id.astype(str), galaxies.refined.flags, strict=True))
        flags |= np.array([int(found.get(str(name), 0)) for name in galaxies.cutouts.object_id], np.int64)
    return flags
