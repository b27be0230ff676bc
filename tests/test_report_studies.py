"""Studies on the page: the answer first, figures in both themes, every number, and nothing that was smuggled in."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
from urllib.parse import unquote

import numpy as np
import pytest
from astropy.table import QTable

import report_records
from galstress.cli import main
from galstress.errors import InputError
from galstress.figures import DARK, LIGHT, to_png, to_svg
from galstress.figures.learning import label_curves
from galstress.report import build_report, read_records
from galstress.report.records import read_study
from galstress.report.studies import report_studies

SENTENCE = "At the error that 200 labels give from scratch (0.189), fine-tuning by head saves 93 % of the labels."
COUNTS = (0, 10, 50, 200)
QUANTITIES = ("bulge_to_total", "ln_radius", "ln_flux", "all")


def write_study(folder, **changes):
    """A study of labels as its command writes it, with its figure."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    rows = [
        {
            "method": method,
            "count": count,
            "quantity": quantity,
            "rms": rms,
            "rms_low": 0.9 * rms,
            "rms_high": 1.1 * rms,
        }
        for method in ("head", "from scratch")
        for count in COUNTS[method != "head" :]
        for quantity in QUANTITIES
        if (rms := 0.1 + 0.3 * (method != "head") / (1 + count / 40) + 0.01 * rng.uniform())
    ]
    summary = {
        "study": "labels", "command": "galstress study labels foveal --seeds 2", "sentence": SENTENCE, "counts": COUNTS,
        "target": {"survey": "hsc-wide-i", "test": 300, "test_measured": {"bulge_to_total": 299}},
        "tuning": {"steps": 60, "learning_rate": 3e-4, "side_px": None}, "errors": rows, "seeds": [1, 2],
        "saved": [{"policy": "head", "saved": 0.93, "saved_low": 0.9, "saved_high": float("nan"), "within": True}],
    }  # fmt: skip
    report_records.write_json(folder / "summary.json", summary | changes)
    for theme in (LIGHT, DARK):
        fig, _ = label_curves(QTable(rows=rows), note="300 test galaxies", theme=theme)
        stem = "labels" if theme is LIGHT else "labels-dark"
        (folder / f"{stem}.svg").write_text(to_svg(fig, theme))
        (folder / f"{stem}.png").write_bytes(to_png(fig, theme, dpi=50, transparent=False))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("studies") / "labels")


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "records").mkdir()
    return build_report(folder / "records", folder / "report.html", [study])


def part_of(page, key="study-1"):
    """The text of one part."""
    return re.search(rf'<section id="{key}">.*?</section>', page.read_text("utf-8"), re.DOTALL)[0]


def test_the_answer_stands_above_its_figure_and_its_numbers(page):
    part = part_of(page)
    places = [
        part.index(word) for word in ("How many labels", "saves 93", "<img", "<details", "galstress study labels")
    ]
    assert places == sorted(places)
    assert '<a href="#study-1">' in page.read_text("utf-8")
    words = html.unescape(re.sub("<[^>]+>", " ", part))
    for told in ("target survey hsc-wide-i", "target test measured bulge to total 299", "seeds 1, 2", "0.0003", "0.93"):
        assert told in re.sub(r"\s+", " ", words)


def test_what_is_unknown_is_a_dash_and_never_a_number(page):
    saved = re.search(r"<summary>saved</summary>.*?</details>", part_of(page), re.DOTALL)[0]
    assert re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", saved)[-5:] == ["head", "0.93", "0.9", "–", "yes"]


def test_both_themes_are_inside_as_they_were_drawn(page, study):
    part = part_of(page)
    for theme, stem in (("on-light", "labels"), ("on-dark", "labels-dark")):
        address = html.unescape(re.search(rf'class="{theme}" src="data:image/svg\+xml,([^"]*)"', part)[1])
        assert unquote(address) == " ".join((study / f"{stem}.svg").read_text().split())
    assert 'width="691"' in part  # 7.2 inches of 96 pixels


def test_png_serves_where_there_is_no_svg(study, tmp_path):
    copy = write_study(tmp_path / "labels")
    for path in copy.glob("*.svg"):
        path.unlink()
    ((light, dark),) = read_study(copy).figures
    (section,) = report_studies([read_study(copy)])
    (picture,) = section.groups[0].pictures
    assert base64.b64decode(picture.light.split(",")[1]) == light.read_bytes()
    assert base64.b64decode(picture.dark.split(",")[1]) == dark.read_bytes()


def test_studies_beside_records_are_found_and_come_first(study, tmp_path):
    write_study(tmp_path / "studies" / "transport", study="transport")
    other = write_study(tmp_path / "elsewhere" / "labels-realistic")
    found = read_records(tmp_path, [other]).studies
    titles = [section.title for section in report_studies(found)]
    assert titles == [
        "Trained on one survey, used on another",
        "How many labels does simulation save? (labels-realistic)",
    ]


def test_a_study_of_any_kind_is_shown(tmp_path):
    folder = tmp_path / "weather"
    folder.mkdir()
    rows = [{"place": f"p{row}", "rain_mm": 1.25 * row} for row in range(150)]
    report_records.write_json(folder / "summary.json", {"sentence": "It rains.", "cells": rows})
    (section,) = report_studies([read_study(folder)])
    assert (section.title, section.groups) == ("Study: weather", ())
    table = section.tables[0]
    assert table.columns == ("place", "rain mm")
    assert "120 of 150" in table.caption
    assert table.rows[4] == ("p4", "5")


def test_words_from_outside_are_words(tmp_path):
    bad = "<script>alert(1)</script>"
    folder = write_study(tmp_path / "labels", sentence=bad, command=bad, study=bad, more=[{bad: bad}])
    (folder / "labels.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="9pt">{bad}"\'</svg>')
    text = build_report(tmp_path, tmp_path / "page.html", [folder]).read_text("utf-8")
    assert "<script" not in text.lower()
    assert text.count("&lt;script&gt;alert(1)") >= 5


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("summary.json", "{", "summary.json"),
        ("summary.json", "{}", "sentence"),
        ("summary.json", None, "sentence"),
        ("labels.svg", "no figure", "labels.svg"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, name, content, named):
    folder = write_study(tmp_path / "labels")
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(InputError, match=named):
        build_report(tmp_path, tmp_path / "page.html", [folder])


def test_the_command_takes_studies(study, tmp_path, capsys):
    (tmp_path / "records").mkdir()
    page = tmp_path / "out" / "page.html"
    page.parent.mkdir()
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / "records"), "--study", str(study), "-o", str(page)])
    assert not left.value.code
    assert SENTENCE.split(" % ", maxsplit=1)[0] in page.read_text("utf-8")
    manifest = json.loads((page.parent / "manifest.json").read_text())
    assert "labels/summary.json" in manifest["checksums"]
    with pytest.raises(SystemExit) as left:
        main(["report", str(tmp_path / "records"), "--study", str(tmp_path / "none"), "-o", str(page)])
    assert left.value.code == 2
    assert "galstress study" in capsys.readouterr().err


@pytest.mark.browser
def test_a_browser_sees_one_figure_and_asks_for_nothing(browser, page, tmp_path):
    probe = tmp_path / "probe.html"
    # the page's own policy allows no script, so the probe is a copy without it
    seen = "[...document.images].filter(image => image.offsetWidth).length"
    script = f"<script>document.title = document.documentElement.scrollWidth + ' ' + {seen}</script>"
    probe.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page.read_text("utf-8")) + script, "utf-8")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
        "--enable-logging=stderr", "--v=0", "--window-size=400,900", "--force-device-scale-factor=1",
    ]  # fmt: skip
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    wide, shown = map(int, re.search(r"<title>(\d+) (\d+)</title>", done.stdout).groups())
    assert wide <= 500  # headless Chromium makes no window narrower than that
    assert shown == 1  # in one theme
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
