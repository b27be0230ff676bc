"""The parts of the page on rotation, the film, depth, redshift, and the width of the PSF."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from galstress.errors import InputError
from galstress.figures import FilmStrip, choose_stretch, draw_frame, shift_bands, shift_points, to_png, write_film
from galstress.figures.theme import DARK
from galstress.perturbations import PERTURBATIONS
from galstress.report.decisions import collect_decisions, say_share, tabulate_decisions
from galstress.report.pictures import Picture, draw_both, embed
from galstress.report.quantities import HEADLINE_OUTPUTS, describe_output, headline
from galstress.report.records import FilmRecord, Table
from galstress.report.section import DataTable, Film, Group, Section, absent

__all__ = ["make_strip", "report_changes", "report_depth", "report_film", "report_rotation", "summarise_rotation"]

_KINDS = {
    "quarter-turns": (
        "Quarter turns and mirrors of the pixels",
        "Exact: noise and PSF turn along, so what moves here is the network's own doing. M: mirrored first.",
    ),
    "interpolated-rotation": (
        "Pixels turned by interpolation",
        "Interpolation smooths and correlates the noise, so part of what moves here is the interpolation's doing.",
    ),
    "redrawn-rotation": (
        "The same galaxy drawn again at another angle",
        "Simulated galaxies only: the sky turns and telescope, pixels and noise do not, as in a real survey.",
    ),
}
_CHANGES = {
    "redshift": (
        "What happens when the galaxy is farther away?",
        "added redshift",
        {
            "redrawn-redshift": (
                "The same galaxy drawn again farther away",
                "Simulated galaxies only: smaller and fainter, under the same PSF, sky and read noise.",
            ),
            "pixel-redshift": (
                "The pixels shrunk and dimmed",
                "The PSF is made what it was, and the noise is topped up to the survey's.",
            ),
        },
        "The same galaxies from farther away, in the same rest-frame band: radius and flux must fall as distance says.",
    ),
    "psf-width": (
        "What happens in worse seeing?",
        "width of the PSF [times what it was]",
        {"psf-width": ("The pixels convolved to a wider PSF", "The noise is topped up to the survey's.")},
        "The same galaxies through a wider PSF, in the same noise: the galaxy stays what it is.",
    ),
}
"""Key of a section: its title, the label of amounts, the kinds, and what is done."""
_BANDS = "Line and bands: median, 68 and 95 % of the galaxies"
_READING = (
    f"Shown is how far answers lie from where they should; per cent are of the expected value. {_BANDS}; dashed: the "
    "typical ±1σ that is quoted at each amount."
)
_READING_CLASSES = f"Shown is how far the probability of each class moves. {_BANDS}."
_QUARTERS = ("0°", "90°", "180°", "270°", "0°\nM", "90°\nM", "180°\nM", "270°\nM")


@dataclasses.dataclass(frozen=True)
class _Shifts:
    """What one perturbation does to one output."""

    amount: np.ndarray
    """(A,) rising."""
    shift: np.ndarray
    """(A, N) value minus where it should be, in per cent for radius and flux."""
    in_sigma: np.ndarray
    """(A, N) the same in units of the unperturbed error bar."""
    sigma: np.ndarray
    """(A, N) error bar at each amount, in the unit of ``shift``."""


def report_rotation(stress: Table | None) -> Section:
    """Rotation, its three kinds apart."""
    key, title = "rotation", "Does the answer turn with the galaxy?"
    if stress is None:
        return absent(key, title, "No stress test was recorded: stress.parquet is missing.")
    passes, outputs = _split_passes(stress), headline(stress["output"])
    groups, lines = [], []
    for kind, (heading, note) in _KINDS.items():
        found = [_collect(passes[0][1], kind, output) for output in outputs]
        pictures = []
        for output, shifts in zip(outputs, found, strict=True):
            if shifts is not None:
                pictures.append(_draw_rotation(kind, output, shifts))
        if pictures:
            groups.append(Group(tuple(pictures), heading, note))
        for name, rows in passes:
            cells = [_summarise(_collect(rows, kind, output), output) for output in outputs]
            if any(cells):
                lines.append((heading, name, *(cell or "" for cell in cells)))
    if not groups:
        return absent(key, title, "No rotation was recorded in stress.parquet.")
    measures = outputs == HEADLINE_OUTPUTS
    what = "B/T, radius and flux" if measures else "the probability of a class"
    sigma = ", also in units of the posterior's own sigma" if measures else ""
    lead = (
        f"A galaxy has no up or down, so {what} must not change when it is turned. Shown is how far each "
        "answer lies from the same galaxy's mean over all angles; bands hold 68 and 95 % of the galaxies, and rms is "
        f"over galaxies and angles{sigma}."
    )
    columns = ("rotation", "prediction", *(describe_output(output).label for output in outputs))
    tables = [DataTable(columns, tuple(lines), "rms shift under rotation")]
    if not measures:
        headings = {kind: heading for kind, (heading, _) in _KINDS.items()}
        tables.insert(0, tabulate_decisions(passes, headings, turns=True))
    return Section(key, title, lead, tuple(groups), tuple(tables))


def summarise_rotation(stress: Table | None) -> list[tuple[str, str]]:
    """The radius under rotation, drawn again if that was done, as a line for the head of the page."""
    for kind, words in (("redrawn-rotation", "drawn again"), ("quarter-turns", "quarter turns")):
        if stress is not None:
            name, rows = _split_passes(stress)[-1]
            decisions = collect_decisions(rows, kind)
            if decisions is not None and decisions.tally()[0]:
                count, changed, _ = decisions.tally()
                return [(f"class changes under rotation ({words}, {name})", say_share(changed, count))]
            if text := _summarise(_collect(rows, kind, HEADLINE_OUTPUTS[1]), HEADLINE_OUTPUTS[1]):
                return [(f"radius under rotation ({words}, {name})", f"{text} rms")]
    return []


def report_depth(stress: Table | None) -> Section:
    """The same sky in less exposure time."""
    key, title = "depth", "What happens in shorter exposures?"
    if stress is None:
        return absent(key, title, "No stress test was recorded: stress.parquet is missing.")
    label, passes = "exposure time left [share]", _split_passes(stress)
    pictures = _draw_amounts(passes[0][1], "depth", label, halving=True)
    if not pictures:
        return absent(key, title, "No depth was recorded in stress.parquet.")
    lead = (
        "The same galaxies with a part of the exposure time: same light, more noise; images never get deeper. Answers "
        "may scatter, but must stay centred on zero and within the error bars that the network itself quotes. "
        f"{_BANDS}; dashed: the typical ±1σ that is quoted at each depth."
    )
    changed = _list_changed(passes, {"depth": "exposure time left"})
    if changed:
        lead = f"The same galaxies with a part of the exposure time: same light, more noise. {_READING_CLASSES}"
    return Section(key, title, lead, (Group(pictures),), changed)


def report_changes(stress: Table | None) -> tuple[Section, ...]:
    """Redshift and the width of the PSF, each where it was recorded."""
    if stress is None:
        return ()
    passes, found = _split_passes(stress), []
    rows = passes[0][1]
    for key, (title, label, kinds, lead) in _CHANGES.items():
        groups = []
        for kind, (heading, note) in kinds.items():
            if pictures := _draw_amounts(rows, kind, label):
                groups.append(Group(pictures, heading, f"{note} {_count_assumed(rows, kind)}".strip()))
        if groups:
            changed = _list_changed(passes, {kind: heading for kind, (heading, _) in kinds.items()})
            reading = _READING_CLASSES if changed else _READING
            found.append(Section(key, title, f"{lead} {reading}", tuple(groups), changed))
    return tuple(found)


def _list_changed(passes: Sequence[tuple[str, Table]], kinds: Mapping[str, str]) -> tuple[DataTable, ...]:
    """Changed decisions at each amount; nothing of networks that do not classify."""
    table = tabulate_decisions(passes, kinds, turns=False)
    return (table,) if table.rows else ()


def _draw_amounts(rows: Table, kind: str, label: str, *, halving: bool = False) -> tuple[Picture, ...]:
    """Shifts of each headline output against the amount; none where fewer than two amounts were recorded."""
    pictures = []
    for output in headline(rows["output"]):
        shifts = _collect(rows, kind, output)
        if shifts is None or shifts.amount.size < 2:
            continue
        quantity = describe_output(output)
        labels = (label, f"shift in {quantity.error_label}")
        expected = np.nanmedian(shifts.sigma, axis=1) if np.isfinite(shifts.sigma).any(1).all() else None
        pictures.append(
            draw_both(
                lambda theme, shifts=shifts, labels=labels, expected=expected: shift_bands(  # type: ignore[misc]
                    shifts.amount, shifts.shift, labels, expected_sigma=expected, halving=halving, theme=theme
                ),
                f"Shift in {quantity.label} against the {label.split(' [', maxsplit=1)[0]}",
            )
        )
    return tuple(pictures)


def _count_assumed(rows: Table, kind: str) -> str:
    """Of how many galaxies the redshift was assumed, in words."""
    if "assumed" not in rows:
        return ""
    here = np.asarray(rows["kind"]) == kind
    names = np.asarray(rows["object_id"])[here]
    count, total = len(set(names[np.asarray(rows["assumed"])[here].astype(bool)])), len(set(names))
    return f"{PERTURBATIONS[kind].assumption}, assumed for {count} of {total} galaxies." if count else ""


def report_film(films: Sequence[FilmRecord]) -> Section:
    """Galaxies that turn, and posteriors that should stay put."""
    key, title = "film", "A galaxy turns, its posterior stays"
    if not films:
        return absent(key, title, "No film was recorded: film.json or film.safetensors is missing.")
    lead = (
        "Above what the network sees; below its posterior at every angle (bands: 68 and 95 %), with a mark at the "
        "angle on show. The axes are as wide as the posterior, so a wobble can be judged against it."
    )
    return Section(key, title, lead, films=tuple(_draw_film(film) for film in films))


def _draw_film(film: FilmRecord) -> Film:
    """A record as H.264 and a still."""
    strip = make_strip(film)
    sky_rms = float(film.about.get("sky_rms") or np.nanstd(strip.image))
    stretch = choose_stretch(strip.image[0], sky_rms)
    with tempfile.TemporaryDirectory() as folder:
        path = write_film(strip, stretch, Path(folder) / "film.mp4", frames_per_second=int(film.about.get("fps") or 12))
        address = embed(path.read_bytes(), "video/mp4")
    fig, _ = draw_frame(strip, stretch, len(strip) // 8)
    alt = f"A frame of the film: {strip.title}, with the posteriors of {', '.join(strip.labels)} at every angle"
    still = Picture(embed(to_png(fig, DARK, dpi=100, transparent=False), "image/png"), alt)
    return Film(address, still, strip.title)


def _split_passes(stress: Table) -> list[tuple[str, Table]]:
    """One pass and averaged predictions apart, one pass first; all rows as one where there is no such column."""
    if "averaged" not in stress:
        return [("one pass", stress)]
    averaged = np.asarray(stress["averaged"]).astype(int)
    averaged[averaged == 1] = 8  # tables of version 0.1 say true
    parts = [(_name_pass(turns), averaged == turns) for turns in np.unique(averaged)]
    return [(name, {key: column[rows] for key, column in stress.items()}) for name, rows in parts]


def _name_pass(turns: int) -> str:
    """In words."""
    return f"averaged over {'eight' if turns == 8 else turns} turns and mirrors" if turns else "one pass"


def _collect(stress: Table, kind: str, output: str) -> _Shifts | None:
    """Shifts of one output as a matrix of amounts and galaxies, or None where there are none."""
    named = [stress[column] == kind for column in ("perturbation", "kind") if column in stress]
    chosen = np.flatnonzero(np.logical_or.reduce(named) & (stress["output"] == output)) if named else np.zeros(0, int)
    if chosen.size == 0:
        return None
    amount, at_amount = np.unique(np.asarray(stress["amount"], float)[chosen], return_inverse=True)
    # One name may stand in several sets, and one row in several surveys.
    keys = [stress[column][chosen].astype(str) for column in ("survey", "row", "object_id") if column in stress]
    _, at_object = np.unique(np.stack(keys, -1), axis=0, return_inverse=True)
    matrices = {}
    for column in ("shift", "sigma", "expected", "baseline_sigma"):
        matrix = np.full((amount.size, int(at_object.max()) + 1), np.nan)
        matrix[at_amount, at_object] = np.asarray(stress[column], float)[chosen]
        matrices[column] = matrix
    scale = 100 / matrices["expected"] if describe_output(output).relative else np.ones_like(matrices["shift"])
    with np.errstate(divide="ignore", invalid="ignore"):
        in_sigma = matrices["shift"] / matrices["baseline_sigma"]
    return _Shifts(amount, matrices["shift"] * scale, in_sigma, matrices["sigma"] * scale)


def _rms(values: np.ndarray) -> float:
    """Root of the mean square of what is finite."""
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else math.nan


def _about_mean(values: np.ndarray) -> np.ndarray:
    """Deviations (A, N) from each galaxy's own mean over amounts; NaN where fewer than two are known."""
    known = np.isfinite(values).sum(0)
    mean = np.where(known > 1, np.nansum(values, 0) / np.maximum(known, 1), np.nan)
    return values - mean


def _summarise(shifts: _Shifts | None, output: str) -> str:
    """The rms over angles and galaxies, also in sigma."""
    if shifts is None:
        return ""
    size, in_sigma = _rms(_about_mean(shifts.shift)), _rms(_about_mean(shifts.in_sigma))
    text = f"{f'{size:#.2g}'.rstrip('.')}{' %' if describe_output(output).relative else ''}"
    return f"{text} ({in_sigma:.2f} σ)" if math.isfinite(in_sigma) else text


def _draw_rotation(kind: str, output: str, shifts: _Shifts) -> Picture:
    """One kind of rotation, one output."""
    quantity, values = describe_output(output), _about_mean(shifts.shift)
    label, note = f"deviation in {quantity.error_label}", f"rms {_summarise(shifts, output)}"
    alt = f"{_KINDS[kind][0]}: {label}, {note}"
    if kind == "quarter-turns":
        names = [_QUARTERS[int(amount) % 8] for amount in shifts.amount]
        return draw_both(lambda theme: shift_points(names, values, label, note=note, theme=theme), alt)
    labels = ("angle [°]", label)
    return draw_both(lambda theme: shift_bands(shifts.amount, values, labels, note=note, theme=theme), alt)


def make_strip(film: FilmRecord) -> FilmStrip:
    """The film's record in the units of the page: per cent never, microjansky where nanojansky are many."""
    about, arrays = film.about, film.arrays
    outputs: Sequence[str] = about.get("outputs") or ()
    try:
        image, angle, quantiles = (np.asarray(arrays[name], float) for name in ("image", "angle_deg", "quantiles"))
        truth = about.get("truth") or {}
        known = [float(truth[name]) if truth.get(name) is not None else math.nan for name in outputs]
        labels, factors = [], np.ones(len(outputs))
        for place, name in enumerate(outputs):
            quantity = describe_output(name)
            many = quantity.unit == "nJy" and float(np.nanmedian(quantiles[2, :, place])) > 1000
            factors[place] = 1e-3 if many else 1.0
            unit = "µJy" if many else quantity.unit
            labels.append(f"{quantity.label} [{unit}]" if unit else quantity.label)
        return FilmStrip(
            image=image,
            angle_deg=angle,
            quantiles=quantiles * factors,
            labels=tuple(labels),
            pixel_scale_arcsec=float(about["pixel_scale_arcsec"]),
            truth=tuple(np.asarray(known) * factors) if truth else (),
            title=str(about.get("title") or about.get("object_id") or "a galaxy"),
        )
    except (KeyError, TypeError, ValueError) as error:
        came = f"a film record ({type(error).__name__}: {error})"
        raise InputError(came, "film.json and film.safetensors as galstress.report says", "make it again") from None
