"""The page itself: records in, one HTML file out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from galstress import __version__
from galstress.figures import residual_key
from galstress.heads import Prediction
from galstress.report.attention import report_attention, report_corners
from galstress.report.evaluation import report_accuracy, report_coverage, report_domain, summarise_coverage
from galstress.report.galaxies import describe_galaxies
from galstress.report.pictures import draw_both
from galstress.report.posteriors import report_posteriors
from galstress.report.provenance import report_making, summarise
from galstress.report.records import read_records
from galstress.report.stability import report_changes, report_depth, report_film, report_rotation, summarise_rotation
from galstress.report.studies import report_studies
from galstress.report.worst import report_worst

__all__ = ["build_report"]

_log = logging.getLogger(__name__)


def build_report(records: str | Path, output: str | Path, studies: Sequence[str | Path] = ()) -> Path:
    """Make the page of a folder of records.

    The page needs nothing but itself: figures and film are inside, there is no script, and its content-security
    policy forbids every request. Whatever comes from outside (names of galaxies, credits, arguments) is escaped.

    Arguments:
        records: The folder; :mod:`galstress.report` says what it holds.
        output: The HTML file to write; written aside and then renamed.
        studies: Folders of ``galstress study`` to be shown, too.

    Returns:
        The file.

    Raises:
        InputError: There is no such folder, or a record is damaged.
    """
    found = read_records(records, studies)
    described = [describe_galaxies(galaxies) for galaxies in found.sets]
    sections = [
        report_corners(found.sets),
        report_accuracy(found.accuracy),
        report_coverage(found.coverage),
        report_posteriors(found.posteriors),
        report_rotation(found.stress),
        report_film(found.films),
        report_depth(found.stress),
        *report_changes(found.stress),
        report_attention(found.sets),
        *report_studies(found.studies),
        report_domain(found),
        report_worst(found.sets, described),
    ]
    summary = summarise(found, described)
    summary["facts"] += summarise_coverage(found.coverage) + summarise_rotation(found.stress)
    folder = resources.files("galstress") / "report_template"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    text = template.render(
        style=(folder / "page.css").read_text(encoding="utf-8"),
        version=__version__,
        summary=summary,
        galleries=list(zip(found.sets, described, strict=True)),
        has_models=any(isinstance(galaxies.prediction, Prediction) for galaxies in found.sets),
        residual_key=draw_both(residual_key, "Colours of residuals, from -5 to +5 sigma"),
        sections=sections,
        making=report_making(found),
    )
    text = text.strip().replace(" %", "\N{NO-BREAK SPACE}%")  # a number and its unit stay on one line
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(output.name + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(output)
    _log.info("wrote %s, %.1f MB", output, output.stat().st_size / 1e6)
    return output
