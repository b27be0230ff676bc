"""The page: what it says, what it never does, and the numbers on it against closed forms."""

import base64
import dataclasses
import html
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from astropy.wcs import WCS
from safetensors.numpy import load_file

import report_records
from galstress.errors import InputError
from galstress.report import build_report, draw_models, read_records
from galstress.report.galaxies import crop, describe_galaxies, find_directions
from galstress.report.quantities import describe_output, with_error
from galstress.report.references import list_references
from galstress.report.stability import report_rotation
from galstress.report.worst import report_worst


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return report_records.write_records(tmp_path_factory.mktemp("records"), count=3)


@pytest.fixture(scope="module")
def page(records, tmp_path_factory):
    return build_report(records, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Tags with their attributes, and the words between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.words.append(data)

    @property
    def plain(self):
        return " ".join(" ".join(self.words).split())


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_asks_nobody_for_anything(text):
    found = Elements(text)
    (policy,) = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == rules["media-src"] == "data:"
    assert "script-src" not in rules  # falls back to 'none'
    for tag, attributes in found.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset", "href", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)
    assert "url(" not in text.partition("<body>")[0]


def test_figures_ask_nobody_for_anything(text):
    pictures = [a["src"] for tag, a in Elements(text).tags if tag == "img"]
    drawings = [unquote(p.partition(",")[2]) for p in pictures if p.startswith("data:image/svg+xml")]
    assert len(drawings) > 20
    for drawing in drawings:
        links = re.findall(r'(?:href|src)="([^"]*)"', drawing)
        assert all(link.startswith(("#", "data:image/png")) for link in links)
        assert "<script" not in drawing


def test_a_name_that_would_be_a_script_is_a_name(text):
    assert report_records.NASTY not in text
    assert html.escape(report_records.NASTY, quote=True) in text.replace("&#34;", "&quot;")
    assert report_records.NASTY in Elements(text).plain


def test_every_figure_says_what_it_shows(text):
    images = [attributes for tag, attributes in Elements(text).tags if tag == "img"]
    assert images
    assert all(len(image["alt"]) > 10 for image in images)


def test_parts_of_the_page_stand_in_the_order_an_astronomer_asks(text):
    found = Elements(text)
    anchors = [attributes["id"] for tag, attributes in found.tags if tag == "section"]
    assert anchors == [
        "set-1", "set-2", "set-3", "posteriors", "errors", "coverage", "photon-limit", "rotation", "film", "depth",
        "maps", "training", "worst", "definitions", "making",
    ]  # fmt: skip
    links = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in anchors]


def test_the_page_says_what_is_real(text):
    words = Elements(text).plain.replace("\N{NON-BREAKING HYPHEN}", "-")
    assert "6 real and 3 simulated galaxies in 3 sets (F814W, r, HSC-I)" in words
    assert "All galaxies on this page are simulated" not in words
    badges = [
        a["class"].split()[1] for tag, a in Elements(text).tags if tag == "span" and "badge" in a.get("class", "")
    ]
    assert badges == ["real", "real", "simulated"]
    for said in ("unknown", "orientation assumed", "HSC-I", "NASA/ESA Hubble & CANDELS", "4.7 ms", "ab" * 32):
        assert said in words


def test_maps_stand_beside_their_baselines_where_there_are_any(text):
    words = Elements(text).plain
    for said in ("class activation", "centred Gaussian, r = 0.81", "random weights, r = 0.40"):
        assert words.count(said) == 3  # a galaxy a set; the second of each has no map
    assert "r = nan" not in words


def test_every_film_is_shown_the_first_first(text):
    stills = [attributes["alt"] for tag, attributes in Elements(text).tags if attributes.get("class") == "still"]
    assert [still.partition(":")[2].partition(":")[0].strip() for still in stills] == ["film", "film-real"]
    assert "for $1, drawn again" in stills[0]


def test_the_page_is_small(page):
    assert page.stat().st_size < 10e6
    assert list(page.parent.iterdir()) == [page]


def test_both_themes_show_the_same_figures(text):
    images = [attributes for tag, attributes in Elements(text).tags if tag == "img"]
    pairs = [(a, b) for a, b in itertools.pairwise(images) if a.get("class") == "on-light"]
    assert len(pairs) > 15
    colour = re.compile(r"%23[0-9a-f]{6}")
    for light, dark in pairs:
        assert dark["class"] == "on-dark"
        assert light["alt"] == dark["alt"]
        assert light["src"] != dark["src"]
        assert colour.sub("", light["src"]) == colour.sub("", dark["src"])


def test_simulated_galaxies_are_called_so(records, tmp_path):
    shutil.copytree(records / "galaxies" / "simulated", tmp_path / "records" / "galaxies" / "simulated")
    words = Elements(build_report(tmp_path / "records", tmp_path / "page.html").read_text("utf-8")).plain
    assert "All galaxies on this page are simulated." in words


# ---- records that are missing, damaged or strange ------------------------------------------------------------------


def test_every_missing_record_leaves_one_sentence(tmp_path):
    (tmp_path / "records").mkdir()
    text = build_report(tmp_path / "records", tmp_path / "deep" / "page.html").read_text("utf-8")
    assert text.count('class="absent"') == 12
    words = Elements(text).plain
    for name in ("accuracy", "coverage", "stress", "domain"):
        assert f"{name}.parquet is missing" in words or f"{name}.parquet and" in words
    assert "No galaxies were recorded" in words
    assert "How things are defined" in words


def test_a_set_without_model_or_maps_is_shown(records, tmp_path):
    folder = tmp_path / "records" / "galaxies" / "sdss"
    shutil.copytree(records / "galaxies" / "sdss", folder)
    for name in ("model.safetensors", "explanation.safetensors", "set.json"):
        (folder / name).unlink()
    text = build_report(tmp_path / "records", tmp_path / "page.html").read_text("utf-8")
    words = Elements(text).plain
    assert "no model" in words
    assert "No maps were recorded" in words
    assert 'class="profile"' not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"{"),
        ("training.json", b"[1]"),
        ("stress.parquet", b"PAR1 not"),
        ("galaxies/sdss/model.safetensors", b"\x10\x00"),
        ("galaxies/sdss/prediction.safetensors", b""),
        ("galaxies/sdss/cutouts.fits", b"SIMPLE"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(records, tmp_path, name, content):
    shutil.copytree(records, tmp_path / "records")
    (tmp_path / "records" / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_records(tmp_path / "records")
    assert Path(name).name in str(error.value)
    assert "\n" not in str(error.value)
    assert "next:" in str(error.value)


def test_predictions_of_other_galaxies_are_refused(records, tmp_path):
    shutil.copytree(records / "galaxies", tmp_path / "galaxies")
    shutil.copy(tmp_path / "galaxies/sdss/prediction.safetensors", tmp_path / "galaxies/simulated")
    with pytest.raises(InputError, match="other galaxies"):
        read_records(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="galstress demo"):
        build_report(tmp_path / "nothing", tmp_path / "page.html")


def test_an_object_that_could_not_be_measured_is_shown(text):
    words = Elements(text).plain
    assert "UNREADABLE" in words
    assert "not measured" in words
    assert "The file could not be read; nothing is predicted." in words


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_chi_square_and_snr_of_a_known_model(records):
    """An image that is its model plus unit noise: chi-square 1 a pixel, and S/N as its definition says."""
    (galaxies,) = [found for found in read_records(records).sets if found.simulated]
    count, side = len(galaxies), galaxies.cutouts.images.shape[-1]
    model = np.full((count, side, side), 3.0)
    noise = np.random.default_rng(3).normal(size=model.shape)
    nothing = torch.zeros((count, side, side), dtype=torch.bool)
    cutouts = dataclasses.replace(
        galaxies.cutouts,
        images=torch.tensor(model + 2 * noise, dtype=torch.float32),
        variance=torch.full((count, side, side), 4.0),
        mask=nothing,
        neighbour_mask=nothing,
    )
    arrays = {**galaxies.model, "image": model}
    cards = describe_galaxies(dataclasses.replace(galaxies, cutouts=cutouts, model=arrays))
    for card in cards[:-1]:  # the last one could not be read
        assert card.snr == pytest.approx(np.sqrt(side**2 * 9 / 4))
        pixels = np.pi * (2 * card.radius_arcsec / cutouts.survey.pixel_scale_arcsec) ** 2
        assert card.chi_square == pytest.approx(1, abs=5 * np.sqrt(2 / pixels))
        assert dict(card.facts)["S/N"] == f"{card.snr:.0f}"


def test_masked_pixels_and_neighbours_do_not_count(records):
    (galaxies,) = [found for found in read_records(records).sets if found.name == "hst-candels"]
    spoilt = galaxies.cutouts.images.clone()
    spoilt[galaxies.cutouts.mask | galaxies.cutouts.neighbour_mask] = 1e6
    cards = describe_galaxies(galaxies)
    again = describe_galaxies(
        dataclasses.replace(galaxies, cutouts=dataclasses.replace(galaxies.cutouts, images=spoilt))
    )
    for card, other in zip(cards[:-1], again[:-1], strict=True):
        assert (card.snr, card.chi_square) == (other.snr, other.chi_square)


def test_profile_of_an_exponential_disk_is_exponential():
    """A round disk much larger than its PSF, against the closed form (b_1 = 1.67834699)."""
    cutouts, truth = report_records.make_cutouts("hst-candels-f814w", 1, 4, simulated=True)
    truth["bulge_to_total"], truth["disk_sersic_index"], truth["disk_axis_ratio"] = 0.0, 1.0, 1.0
    scale = 12 * cutouts.survey.pixel_scale_arcsec
    truth["disk_half_light_radius_arcsec"] = [scale] * truth["disk_half_light_radius_arcsec"].unit
    truth["x_px"] = [31.5] * truth["x_px"].unit
    truth["y_px"] = [31.5] * truth["y_px"].unit
    prediction = report_records.make_prediction(cutouts, truth, np.random.default_rng(1), exact=True)
    arrays = draw_models(cutouts, prediction, draws=4, rings=28)
    flux = float(truth["flux_njy"][0].value) / cutouts.survey.unit_njy
    slope = 1.67834699 / scale
    radius = arrays["radius_arcsec"][0].astype(float)
    expected = flux * slope**2 / (2 * np.pi) * np.exp(-slope * radius)
    clear = (radius > 4 * cutouts.survey.pixel_scale_arcsec) & (radius < 2.5 * scale)
    assert clear.sum() > 15
    # 2 %: rings have a width, and the PSF has wings.
    assert arrays["model"][0, 2][clear] == pytest.approx(expected[clear], rel=0.02)


def test_bands_of_the_profile_hold_the_draws(records):
    arrays = load_file(records / "galaxies/simulated/model.safetensors")
    bands = arrays["model"][:-1]
    known = np.isfinite(bands).all(1)
    assert known.sum() > 30
    assert (np.diff(bands, axis=1).transpose(0, 2, 1)[known] >= 0).all()
    assert np.isnan(arrays["image"][-1]).all()  # the one that could not be read


def test_north_and_east_follow_the_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [30.0, 60.0], [10, 10]
    for angle in (0.0, 50.0, 200.0):
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        wcs.wcs.cd = 1e-4 * np.array([[-cos, sin], [sin, cos]])
        found = find_directions(wcs, (9.0, 9.0))
        assert found is not None
        assert found[0] == pytest.approx((sin, cos), abs=1e-5)
        assert found[1] == pytest.approx((-cos, sin), abs=1e-5)
    assert find_directions(None, (0, 0)) is None
    assert find_directions(WCS(naxis=2), (0, 0)) is None


@pytest.mark.parametrize(("radius", "side"), [(4.0, 51), (100.0, 101), (np.nan, 101), (0.1, 29)])
def test_a_crop_is_centred(radius, side):
    rows, columns = crop(np.ones((101, 101), bool), radius, 3.5)
    assert rows == columns
    assert rows.start + rows.stop == 101
    assert rows.stop - rows.start == pytest.approx(side, abs=2)


def test_a_crop_leaves_padding_out():
    known = np.zeros((64, 64), bool)
    known[20:44, 12:52] = True
    assert crop(known, 50.0, 3.0) == (slice(12, 52), slice(12, 52))
    assert crop(np.zeros((64, 64), bool), 50.0, 3.0) == (slice(0, 64), slice(0, 64))


def test_rotation_of_a_known_sine_has_its_rms():
    """Answers that go as A sin(2 theta + phase) have an rms of A over the root of 2 about their mean."""
    stress = report_records.make_stress(np.random.default_rng(0), objects=5)
    chosen = (stress["kind"] == "redrawn-rotation") & (stress["output"] == "half_light_radius_arcsec")
    rows = {name: column[chosen] for name, column in stress.items()}
    angle = np.deg2rad(rows["amount"])
    rows["shift"] = 0.03 * rows["baseline_value"] * np.sin(2 * angle + 1.0) + 7.0
    section = report_rotation(rows | {"baseline_sigma": 0.06 * rows["baseline_value"]})
    ((_, kind, _, radius, _),) = section.tables[0].rows
    assert kind == "one pass"
    assert radius == "2.1 % (0.35 σ)"


def test_one_pass_and_averaged_are_kept_apart():
    stress = report_records.make_stress(np.random.default_rng(0), objects=5)
    both = {name: np.concatenate([column, column]) for name, column in stress.items()}
    both["averaged"] = np.repeat([0, 8], len(stress["amount"]))
    both["shift"] = np.concatenate([stress["shift"], 0.1 * stress["shift"]])
    rows = report_rotation(both).tables[0].rows
    assert [row[1] for row in rows[:2]] == ["one pass", "averaged over eight turns and mirrors"]
    first, second = (float(row[3].split(" %")[0]) for row in rows[:2])
    assert second == pytest.approx(first / 10, rel=0.06)
    assert len(rows) == 6


def test_the_worst_is_worst_and_says_why(records):
    sets = [found for found in read_records(records).sets if found.simulated]
    rows = report_worst(sets, [describe_galaxies(galaxies) for galaxies in sets], most=1).tables[0].rows
    ((name, _, what, reasons),) = rows
    assert name == "hsc-wide-i-01"  # its B/T is wrong by eight sigma
    assert "truth" in what
    assert "outside what the network was trained on" in reasons


def test_references_are_truth_or_literature(records):
    by_name = {found.name: found for found in read_records(records).sets}
    truth = list_references(by_name["simulated"], 0)
    assert list(truth) == ["truth"]
    table = by_name["simulated"].cutouts.truth
    assert truth["truth"]["bulge_to_total"] == pytest.approx(float(table["bulge_to_total"][0]))
    assert truth["truth"]["ellipticity"] == pytest.approx(float(np.hypot(table["e1"][0], table["e2"][0])))
    assert list(list_references(by_name["sdss"], 0)) == ["GALFIT"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.9, 1.0, 1.1), "1.00 ± 0.10"),
        ((118.0, 120.0, 126.0), "120.0 +6.0 −2.0"),
        ((1.0, 1.0, 1.0), "1.0000 ± 0.0000"),
        ((np.nan, 1.0, 2.0), "not measured"),
        ((-5e5, 1e6, 3e6), "1000000 +2000000 −1500000"),
    ],
)
def test_numbers_have_two_digits_of_their_error(numbers, said):
    assert with_error(*numbers) == said


def test_every_output_has_a_name_for_people():
    labels = [describe_output(name).label for name in report_records.NAMES]
    assert len(set(labels)) == len(labels)
    assert not [label for label in labels if "_" in label]
    assert describe_output("T-type").label == "T-type"
    assert describe_output("sigma of bulge_to_total").label == "sigma of B/T"


# ---- in a browser --------------------------------------------------------------------------------------------------

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--v=0", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom",
)  # fmt: skip


def browse(browser, folder, path, *flags):
    """The browser's idea of a page, its complaints, and what the page asked for over the network."""
    log = folder / "net.json"
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    # One event a line; the file's end may be missing.
    lines = [line.rstrip(",") for line in log.read_text("utf-8", errors="replace").splitlines() if '"url":' in line]
    asked = [json.loads(line)["params"] for line in lines if line.startswith("{") and line.endswith("}")]
    # What the browser asks for by itself has no origin.
    urls = {params["url"] for params in asked if params.get("initiator", "not an origin") != "not an origin"}
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, complaints, urls


@pytest.mark.browser
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_browser_makes_no_request_and_has_no_complaint(browser, page, tmp_path, scheme):
    found, complaints, urls = browse(browser, tmp_path, page, f"--blink-settings=preferredColorScheme={scheme}")
    assert "How this page was made" in found
    assert complaints == []
    assert urls == set()


@pytest.mark.browser
def test_a_request_and_a_complaint_would_be_seen(browser, tmp_path):
    content = "<img src='http://127.0.0.1:9/x.png'><script>console.error('seen')</script>"
    (tmp_path / "bad.html").write_text(content, encoding="utf-8")
    _, complaints, urls = browse(browser, tmp_path, tmp_path / "bad.html")
    assert urls == {"http://127.0.0.1:9/x.png"}
    assert "seen" in " ".join(complaints)


@pytest.mark.browser
def test_the_policy_stops_what_would_slip_in(browser, page, tmp_path):
    """Were something not escaped after all: neither a script nor a request would come of it."""
    slipped = "<img src='http://127.0.0.1:9/x.png' onerror='document.title=1'><script>document.title=2</script></body>"
    (tmp_path / "slipped.html").write_text(page.read_text("utf-8").replace("</body>", slipped), encoding="utf-8")
    found, complaints, urls = browse(browser, tmp_path, tmp_path / "slipped.html")
    assert "<title>galstress report</title>" in found
    assert urls == set()
    assert any("Content Security Policy" in line for line in complaints)


@pytest.mark.browser
def test_nothing_is_wider_than_a_phone(browser, page, tmp_path):
    """Measured in a window of 400 px, by a copy of the page that allows one script."""
    probe = (
        "<script>onload = () => { const page = document.documentElement; "
        "document.body.dataset.wide = page.scrollWidth + ' ' + page.clientWidth }</script></body>"
    )
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text("utf-8")).replace("</body>", probe)
    (tmp_path / "copy.html").write_text(text, encoding="utf-8")
    found, _, _ = browse(browser, tmp_path, tmp_path / "copy.html", "--window-size=400,900")
    wide, window = map(int, re.search(r'data-wide="(\d+) (\d+)"', found).groups())
    assert wide <= window <= 500  # some browsers have no window below 500


@pytest.mark.browser
def test_the_film_plays(browser, text, tmp_path):
    """The film's data, decoded by the browser at two times: it has its size, and the galaxy has turned."""
    source, _ = [attributes["src"] for tag, attributes in Elements(text).tags if tag == "video"]
    assert base64.b64decode(source.partition(",")[2])[4:8] == b"ftyp"
    script = """
    onload = () => {
      const videos = [...document.querySelectorAll('video')];
      const seen = videos.map(video => {
        const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
        context.drawImage(video, 0, 0, 64, 64);
        return context.getImageData(0, 0, 64, 64).data.join();
      });
      document.title = [...videos.map(v => v.readyState), videos[0].videoWidth, videos[0].videoHeight,
        seen[0] !== seen[1]].join(' ');
    }"""
    videos = "".join(f'<video muted preload="auto" src="{source}#t={time}"></video>' for time in (0, 0.7))
    content = f"<title>waiting</title>{videos}<script>{script}</script>"
    (tmp_path / "film.html").write_text(content, encoding="utf-8")
    found, complaints, _ = browse(browser, tmp_path, tmp_path / "film.html")
    title = re.search(r"<title>(.*?)</title>", found)[1]
    first, second, width, height, turned = title.split()
    assert int(first) >= 2  # HAVE_CURRENT_DATA
    assert int(second) >= 2
    assert int(width) % 2 == int(height) % 2 == 0
    assert min(int(width), int(height)) > 300
    assert turned == "true"
    assert complaints == []
