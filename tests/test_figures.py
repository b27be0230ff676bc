"""Figures: what is drawn where, checked against closed forms; and films that others can decode."""

import io
import re
import subprocess
import sys

import imageio_ffmpeg
import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from scipy.stats import norm

from galstress import figures
from galstress.errors import InputError
from galstress.figures import DARK, LIGHT, Curve, FilmStrip, Stretch


def galaxy(side: int = 40) -> np.ndarray:
    """Light that no turn or mirror leaves alone: off the centre, with a companion at the upper right."""
    y, x = np.mgrid[:side, :side]
    main = 100 * np.exp(-np.hypot((x - 17) / 2.0, (y - 18) / 1.2) / 2)
    return main + 30 * np.exp(-((x - 33) ** 2 + (y - 35) ** 2) / 4)


STRETCH = Stretch(low=-2.0, high=100.0, softening=3.0)


def all_figures(theme):
    """One of every figure that has a theme."""
    rng = np.random.default_rng(1)
    radius = np.linspace(0.1, 3, 9)
    light = 50 * np.exp(-radius)
    model = np.stack([light * factor for factor in (0.8, 0.9, 1.0, 1.1, 1.2)])
    curve = Curve("a", np.array([30.0, 300]), np.array([0.1, 0.05]), np.array([0.09, 0.04]), np.array([0.12, 0.06]))
    shift = rng.normal(size=(4, 30))
    amount = np.array([0.0, 90, 180, 270])
    yield figures.radial_profile(radius, light, 0.1 * light, model, 27.0, marks={"R½": 1.0}, theme=theme)[0]
    yield figures.corner(rng.normal(size=(500, 2)), ["a", "b"], references={"x": [0, 0.5]}, theme=theme)[0]
    yield figures.error_curves([curve], "error", theme=theme)[0]
    yield figures.coverage_by_output(["a"], {0.68: (np.array([0.01]), np.array([0.005]))}, theme=theme)[0]
    yield figures.coverage_by_bin({0.68: [curve]}, "bin", theme=theme)[0]
    yield figures.domain_map((shift[0], shift[1]), {"real": (shift[2], shift[3])}, ("x", "y"), theme=theme)[0]
    yield figures.loss_curve(np.arange(100.0), np.exp(-np.arange(100.0) / 30), theme=theme)[0]
    yield figures.shift_bands(amount, shift, ("angle [°]", "shift"), expected_sigma=np.ones(4), theme=theme)[0]
    yield figures.shift_points(["a", "b", "c", "d"], shift, "shift", theme=theme)[0]
    yield figures.residual_key(theme)[0]


# ---- what all share ------------------------------------------------------------------------------------------------


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np; from galstress import figures; "
        "figures.to_svg(figures.loss_curve(np.arange(9.0), np.arange(9.0))[0]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_settings_of_matplotlib_are_given_back():
    before = dict(matplotlib.rcParams)
    for fig in all_figures(DARK):
        figures.to_svg(fig, DARK)
    assert dict(matplotlib.rcParams) == before


def test_a_recoloured_figure_is_the_figure_drawn_in_the_other_theme():
    # Names of parts are made from their style, so they differ and are numbered here.
    def anonymous(svg):
        names = dict.fromkeys(re.findall(r'id="([^"]+)"', svg))
        for number, name in enumerate(names):
            svg = svg.replace(f'"{name}"', f'"{number}"').replace(f"#{name}", f"#{number}")
        return svg

    for light, dark in zip(all_figures(LIGHT), all_figures(DARK), strict=True):
        drawn = figures.to_svg(light, LIGHT)
        assert figures.recolour(drawn) != drawn
        assert anonymous(figures.recolour(drawn)) == anonymous(figures.to_svg(dark, DARK))


def test_the_same_figure_gives_the_same_text():
    texts = [[figures.to_svg(fig) for fig in all_figures(LIGHT)] for _ in range(2)]
    assert texts[0] == texts[1]


def test_series_are_told_apart_by_lightness_or_hue_in_both_themes():
    for theme in (LIGHT, DARK):
        colours = [*theme.series, theme.ink, theme.paper]
        assert len(set(colours)) == len(colours)
        paper = luminance(theme.paper)
        for colour in (theme.ink, theme.muted, *theme.series):
            light, dark = sorted((luminance(colour), paper), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 3.0, (theme.name, colour)  # WCAG 2.1, 1.4.11


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_png_has_its_size_and_no_background():
    fig, _ = figures.new_axes(2.0, 1.0)
    pixels = imread(io.BytesIO(figures.to_png(fig, dpi=100)))
    assert pixels.shape == (100, 200, 4)
    assert pixels[0, 0, 3] == 0


# ---- stamps --------------------------------------------------------------------------------------------------------


def test_stretch_is_asinh_between_its_ends():
    shade = STRETCH(np.array([-50.0, -2.0, 0.0, 100.0, 1e9]))
    low, high = np.arcsinh(-2 / 3), np.arcsinh(100 / 3)
    assert shade == pytest.approx([0, 0, -low / (high - low), 1, 1])


def test_stretch_shows_sky_and_peak():
    image = galaxy() + np.random.default_rng(0).normal(0, 2, (40, 40))
    stretch = figures.choose_stretch(image, 2.0)
    assert 0.05 < stretch(0.0) < 0.35
    assert 0.9 < stretch(image.max()) <= 1
    assert figures.choose_stretch(np.full((9, 9), np.nan), np.nan)(0.0) >= 0  # nothing to see, no error


@pytest.mark.parametrize(("span", "length"), [(4.0, 1.0), (7.9, 1.0), (8.0, 2.0), (100.0, 20.0), (0.9, 0.2)])
def test_scale_bars_have_round_lengths(span, length):
    assert figures.round_length(span) == pytest.approx(length)


def test_pixels_keep_their_place_and_value():
    values = np.array([[0.0, 1.0], [np.nan, 0.5]])  # first row below
    pixels = imread(io.BytesIO(figures.to_pixels(values, "gray", (0.0, 1.0))))
    assert pixels[1, :, 0] == pytest.approx([0, 1])
    assert pixels[0, 0, 3] == 0
    assert pixels[0, 1, 0] == pytest.approx(0.5, abs=0.01)


def test_stamp_marks_scale_psf_and_the_sky_directions():
    image = galaxy()
    image[3, 4] = np.nan
    fig, ax = figures.stamp(image, STRETCH, 0.25, psf_fwhm_px=5.0, north=(0.6, 0.8), east=(-0.8, 0.6))
    bar = ax.lines[0]
    assert np.ptp(bar.get_xdata()) * 0.25 == pytest.approx(2.0)  # 40 px of 0.25 arcsec: 10 arcsec, a quarter is 2.5
    assert ax.patches[0].radius == 2.5
    texts = {text.get_text(): np.array(text.get_position()) for text in ax.texts if text.get_text()}
    assert "2″" in texts
    between = texts["N"] - texts["E"]
    assert between / np.hypot(*between) == pytest.approx(np.array([1.4, 0.2]) / np.hypot(1.4, 0.2))
    shown = ax.images[0].get_array()
    assert np.ma.getmaskarray(shown)[3, 4]
    assert ax.images[0].origin == "lower"
    assert float(shown[35, 33]) == pytest.approx(float(STRETCH(image[35, 33])), abs=1 / 126)
    assert fig.get_size_inches()[0] == pytest.approx(fig.get_size_inches()[1])


@pytest.mark.parametrize("angle", range(0, 360, 30))
def test_compass_stays_in_the_picture(angle):
    turn = np.deg2rad(angle)
    north, east = (-np.sin(turn), np.cos(turn)), (-np.cos(turn), -np.sin(turn))
    _, ax = figures.stamp(galaxy(), STRETCH, 0.25, north=north, east=east)
    for text in ax.texts:
        assert all(0 < place < 39 for place in text.get_position())


def test_attention_map_draws_isophotes_over_weights():
    weights = np.arange(1600.0).reshape(40, 40)
    _, ax = figures.attention_map(galaxy(), weights, STRETCH)
    assert ax.images[0].get_clim() == (0.0, 1599.0)
    contours = [path for collection in ax.collections for path in collection.get_paths() if len(path.vertices)]
    assert contours[-1].contains_point((17, 18))
    flat, empty = np.zeros((40, 40)), np.full((40, 40), np.nan)
    figures.attention_map(flat, empty, STRETCH)  # nothing to draw is no error


# ---- measurements --------------------------------------------------------------------------------------------------


def test_profile_is_in_magnitudes_with_limits_where_nothing_is_seen():
    radius = np.array([0.5, 1.0, 2.0, 4.0])
    data, sigma = np.array([100.0, 10.0, -1.0, 1.0]), np.ones(4)
    model = np.stack([np.array([100, 10, 1, 0.1]) * factor for factor in (0.8, 0.9, 1, 1.1, 1.2)])
    _, ax = figures.radial_profile(radius, data, sigma, model, 27.0)
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["model, 68 and 95 %"].get_ydata() == pytest.approx([22.0, 24.5, 27.0, 29.5])
    assert lines["image, 2σ limit"].get_ydata() == pytest.approx(27 - 2.5 * np.log10([2, 3]))
    points = ax.containers[0].lines[0]
    assert points.get_xdata() == pytest.approx([0.5, 1.0])
    assert points.get_ydata() == pytest.approx([22.0, 24.5])
    low, high = ax.get_ylim()
    assert low > high  # bright is up


def test_contours_of_a_corner_hold_what_they_say():
    rng = np.random.default_rng(4)
    draws = rng.multivariate_normal([1, 2], [[1.0, 0.6], [0.6, 0.8]], 40000)
    fig, axes = figures.corner(draws, ["a", "b"], references={"known": [1.5, np.nan]})
    assert axes[0, 1] is None
    inner, outer = [], []
    for path in axes[1, 0].collections[-1].get_paths():
        (inner if outer else outer).append(path)
    for path, held in ((outer[0], 0.95), (inner[0], 0.68)):
        assert path.contains_points(draws).mean() == pytest.approx(held, abs=0.015)
    median, high = (np.quantile(draws[:, 0], q) for q in (0.5, 0.84))
    assert f"{median:.2f}" in axes[0, 0].get_title()
    assert f"+{high - median:.2f}" in axes[0, 0].get_title()
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["known"]
    assert not axes[1, 0].lines  # half a reference is no point


def test_a_dollar_in_a_name_is_a_dollar():
    draws = np.random.default_rng(0).normal(size=(99, 2))
    fig, _ = figures.corner(draws, ["a", "b"], references={r"$\frac$": [0, 0]})
    assert r"$\frac$" in figures.to_svg(fig)


def test_a_corner_of_one_value_is_drawn():
    figures.corner(np.full((50, 2), 0.3), ["a", "b"])


# ---- scores and stress ---------------------------------------------------------------------------------------------


def test_errors_stand_beside_the_guess_in_per_cent():
    curve = Curve("HSC", np.array([30.0, 70.0]), np.array([0.05, 0.02]), reference=np.array([0.3, 0.2]))
    fig, ax = figures.error_curves([curve], "error", percent=True)
    assert ax.containers[0].lines[0].get_ydata() == pytest.approx([5, 2])
    assert any(np.allclose(line.get_ydata(), [30, 20]) for line in ax.lines if len(line.get_ydata()) == 2)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    again, same = figures.error_curves([curve], "error", ax=ax)
    assert again is fig
    assert same is ax


def test_coverage_is_a_difference_in_points_with_two_sigma():
    levels = {0.68: (np.array([0.013, -0.02]), np.array([0.004, 0.004])), 0.95: (np.zeros(2), np.ones(2) * 0.002)}
    _, ax = figures.coverage_by_output(["B/T", "radius"], levels)
    points = ax.containers[0].lines[0]
    assert points.get_xdata() == pytest.approx([1.3, -2.0])
    assert points.get_ydata()[0] > points.get_ydata()[1]  # the first output on top
    (bars,) = ax.containers[0].lines[2]
    assert np.ptp(bars.get_segments()[0][:, 0]) == pytest.approx(1.6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B/T", "radius"]
    assert sum(ax.get_xlim()) == pytest.approx(0)


def test_bands_hold_the_shares_they_name():
    shift = np.random.default_rng(2).normal(0, [[1.0], [3.0]], (2, 20000))
    _, ax = figures.shift_bands(np.array([0.0, 90.0]), shift, ("angle [°]", "shift"), expected_sigma=np.array([1.0, 3]))
    for band, held in zip(ax.collections, (0.95, 0.68), strict=False):
        edge = band.get_paths()[0].vertices
        top = edge[edge[:, 0] == 90][:, 1].max()
        assert top == pytest.approx(3 * norm.ppf((1 + held) / 2), rel=0.03)
    assert sum(ax.get_ylim()) == pytest.approx(0)


def test_exposures_run_from_whole_to_short():
    amount = np.array([0.25, 0.5, 1.0])
    _, ax = figures.shift_bands(amount, np.repeat([[2.0], [1.0], [0.0]], 5, 1), ("share", "shift"), halving=True)
    left, right = ax.get_xlim()
    assert (left, right) == (1.0, 0.25)


def test_shifts_under_named_changes_show_the_median():
    shift = np.array([[1.0, 2.0, 9.0], [-1.0, -3.0, np.nan]])
    _, ax = figures.shift_points(["90°", "180°"], shift, "shift", note="rms 2")
    assert ax.lines[-1].get_ydata() == pytest.approx([2.0, -2.0])
    assert "rms 2" in [text.get_text() for text in ax.texts]


def test_domain_counts_every_training_galaxy():
    rng = np.random.default_rng(3)
    x, y = rng.normal(20, 1, 3000), np.exp(rng.normal(0, 0.5, 3000))
    _, ax = figures.domain_map((x, y), {"real": (np.array([19.0]), np.array([2.0]))}, ("mag", "radius"), log_y=True)
    assert (ax.collections[0].get_array() ** 2).sum() == pytest.approx(3000)
    assert ax.get_yscale() == "log"
    assert ax.lines[-1].get_xydata().tolist() == [[19.0, 2.0]]


# ---- films ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strip():
    frames, turns = 8, np.arange(8) % 4
    images = np.stack([np.rot90(galaxy(), turn, (1, 0)) for turn in turns])  # counter-clockwise with y upwards
    spread = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])[:, None, None]
    quantiles = np.broadcast_to(0.4 + spread, (5, frames, 2))
    return FilmStrip(images, turns.cumsum() * 1.0, quantiles, ("B/T", "radius [arcsec]"), 0.2, (0.42, np.nan), "title")


@pytest.fixture(scope="module")
def film(strip, tmp_path_factory):
    return figures.write_film(strip, STRETCH, tmp_path_factory.mktemp("film") / "film.mp4", frames_per_second=8)


def test_film_plays_everywhere(film, strip):
    reader = imageio_ffmpeg.read_frames(str(film))
    about = next(reader)
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p")
    width, height = about["size"]
    assert width % 2 == height % 2 == 0
    assert about["fps"] == 8
    assert len(list(reader)) == len(strip)
    assert film.read_bytes().index(b"moov") < film.read_bytes().index(b"mdat")  # starts before it is whole
    assert list(film.parent.iterdir()) == [film]


def test_film_shows_each_frame_where_it_belongs(film, strip):
    reader = imageio_ffmpeg.read_frames(str(film), pix_fmt="gray", bits_per_pixel=8)
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width) for frame in reader]
    _, axes = figures.draw_frame(strip, STRETCH, 0)
    x0, y0, x1, y1 = (axes[0].get_position().extents * [width, height, width, height]).round().astype(int)
    for frame, image in zip(frames, strip.image, strict=True):
        shown = frame[height - y1 : height - y0, x0:x1][::-1].astype(float) / 255
        rows = (np.arange(shown.shape[0]) * 40 // shown.shape[0])[:, None]
        columns = np.arange(shown.shape[1]) * 40 // shown.shape[1]
        expected = STRETCH(image)[rows, columns]
        clear = np.s_[40:, :]  # above the scale bar
        assert np.corrcoef(shown[clear].ravel(), expected[clear].ravel())[0, 1] > 0.98


def test_arrays_of_a_film_belong_together():
    with pytest.raises(InputError, match="one number of frames"):
        FilmStrip(np.zeros((3, 8, 8)), np.arange(2.0), np.zeros((5, 3, 1)), ("a",), 0.1)
