"""The Cutouts record: what is written comes back bit by bit, and rows stay together."""

import dataclasses

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from galstress.cutouts import Cutouts, Flag, decode_flags, empty_catalogue
from galstress.errors import InputError
from galstress.survey import Survey

TENSORS = ("images", "variance", "mask", "neighbour_mask", "psf", "psf_fwhm_px", "sky_rms")
SHAPE = (9, 12)  # not square: a swap of x and y shows


def make_wcs(row: int) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0 + 0.01 * row, 2.2]
    wcs.wcs.crpix = [6.5, 5.0]
    wcs.wcs.cd = np.array([[-4.6e-5, 1e-6 * row], [2e-6, 4.7e-5]])
    return wcs


def make_cutouts(count: int = 5, seed: int = 1, name: str = "g") -> Cutouts:
    """Asymmetric noise everywhere, some of everything that may be missing."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = torch.randn(count, *SHAPE, generator=generator)
    variance = torch.rand(count, *SHAPE, generator=generator)
    variance[:, 0, 3] = torch.inf
    psf = torch.rand(count, 7, 7, generator=generator)
    catalogue = empty_catalogue([f"{name}-{row}" for row in range(count)])
    catalogue["redshift"][: count // 2] = rng.uniform(0.1, 1, count // 2)
    catalogue["ra"][1:2] = 150.125 * u.deg
    catalogue["flags"] = rng.integers(0, 2**14, count)
    truth = QTable({"flux_njy": rng.lognormal(5, 1, count), "disk_half_light_radius_arcsec": rng.random(count)})
    truth["flux_njy"].unit = u.nJy
    truth = QTable(truth)
    neighbours = QTable({"row": np.sort(rng.integers(0, count, 2 * count)), "mag_ab": rng.uniform(20, 26, 2 * count)})
    return Cutouts(
        images=images,
        variance=variance,
        mask=torch.rand(count, *SHAPE, generator=generator) < 0.2,
        neighbour_mask=torch.rand(count, *SHAPE, generator=generator) < 0.3,
        psf=psf / psf.sum((1, 2), keepdim=True),
        psf_oversampling=3,
        psf_fwhm_px=2 + torch.rand(count, generator=generator),
        sky_rms=0.1 + torch.rand(count, generator=generator),
        survey=Survey.load("hsc-wide-i"),
        catalogue=catalogue,
        wcs=tuple(make_wcs(row) if row % 2 == 0 else None for row in range(count)),
        truth=truth,
        neighbours=neighbours,
    )


@pytest.fixture
def cutouts():
    return make_cutouts()


@pytest.fixture
def written(cutouts, tmp_path):
    cutouts.write(tmp_path / "some.fits")
    return tmp_path / "some.fits"


def assert_same_tensors(ours: Cutouts, theirs: Cutouts) -> None:
    for name in TENSORS:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def assert_same_column(ours, theirs) -> None:
    """Equal values, masks and units (values under a mask do not count)."""
    assert getattr(ours, "unit", None) == getattr(theirs, "unit", None)
    mask = [np.asarray(getattr(column, "mask", np.zeros(len(column), bool))) for column in (ours, theirs)]
    np.testing.assert_array_equal(np.broadcast_to(mask[0], len(ours)), np.broadcast_to(mask[1], len(theirs)))
    bare = [np.asarray(getattr(column, "unmasked", column)) for column in (ours, theirs)]
    known = ~np.broadcast_to(mask[0], len(ours))
    np.testing.assert_array_equal(bare[0][known], bare[1][known])


# -- writing and reading -----------------------------------------------------------------


def test_tensors_come_back_bit_by_bit(cutouts, written):
    again = Cutouts.read(written)
    assert_same_tensors(again, cutouts)
    assert again.psf_oversampling == 3
    assert again.survey == cutouts.survey
    assert dict(again.survey.sources) == dict(cutouts.survey.sources)


@pytest.mark.parametrize("table", ["catalogue", "truth", "neighbours"])
def test_tables_come_back_with_units_and_masks(cutouts, written, table):
    ours, again = getattr(cutouts, table), getattr(Cutouts.read(written), table)
    assert type(again) is QTable
    assert again.colnames == ours.colnames
    for name in ours.colnames:
        assert_same_column(again[name], ours[name])


def test_names_and_flags_keep_their_types(written, cutouts):
    again = Cutouts.read(written)
    assert again.object_id.dtype.kind == "U"
    assert list(again.object_id) == [f"g-{row}" for row in range(5)]
    assert again.flags.dtype == np.int64
    np.testing.assert_array_equal(again.flags, cutouts.flags)


def test_what_is_unknown_stays_unknown(written):
    catalogue = Cutouts.read(written).catalogue
    assert list(catalogue["redshift"].mask) == [False, False, True, True, True]
    assert list(catalogue["ra"].mask) == [True, False, True, True, True]
    assert catalogue["ra"].unit == u.deg
    assert catalogue["dec"].mask.all()


def test_nothing_known_comes_back(cutouts, tmp_path):
    plain = dataclasses.replace(cutouts, catalogue=empty_catalogue(["a"] * 5), wcs=None, truth=None, neighbours=None)
    plain.write(tmp_path / "plain.fits")
    again = Cutouts.read(tmp_path / "plain.fits")
    assert again.wcs is None
    assert again.truth is None
    assert again.neighbours is None
    assert again.catalogue["redshift"].mask.all()
    assert_same_tensors(again, plain)


def test_wcs_comes_back_and_gaps_stay(cutouts, written):
    again = Cutouts.read(written)
    assert [w is None for w in again.wcs] == [False, True, False, True, False]
    x, y = np.array([0.0, 11.0, 3.5]), np.array([0.0, 2.0, 8.0])
    for ours, theirs in zip(cutouts.wcs, again.wcs, strict=True):
        if ours is not None:
            apart = ours.pixel_to_world(x, y).separation(theirs.pixel_to_world(x, y))
            assert apart.max() < 1e-6 * u.arcsec


def test_an_empty_batch_comes_back(cutouts, tmp_path):
    nobody = cutouts.select(slice(0, 0))
    nobody.write(tmp_path / "nobody.fits")
    again = Cutouts.read(tmp_path / "nobody.fits")
    assert len(again) == 0
    assert again.images.shape == (0, *SHAPE)
    assert again.psf.shape == (0, 7, 7)


def test_one_psf_for_all_stays_one(cutouts, tmp_path):
    """A PSF that is expanded without copying takes the memory, and the bytes on disk, of one."""
    shared = dataclasses.replace(cutouts, psf=cutouts.psf[2:3].expand(5, -1, -1))
    shared.write(tmp_path / "shared.fits")
    with fits.open(tmp_path / "shared.fits") as hdus:
        assert hdus["PSF"].data.shape == (1, 7, 7)
    for again in (Cutouts.read(tmp_path / "shared.fits"), shared.to("cpu"), shared.select([4, 1, 1, 0, 2])):
        assert torch.equal(again.psf, shared.psf)
        assert again.psf.stride(0) == 0


def test_writing_replaces_whole_files_only(cutouts, written):
    cutouts.select([3, 1]).write(written)
    assert list(Cutouts.read(written).object_id) == ["g-3", "g-1"]
    assert [path.name for path in written.parent.iterdir()] == ["some.fits"]


def test_a_failed_write_leaves_the_old_file(cutouts, written, monkeypatch):
    before = written.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(fits.HDUList, "writeto", full_disk)
    with pytest.raises(OSError, match="no space"):
        cutouts.write(written)
    assert written.read_bytes() == before


# -- files that cannot be read -----------------------------------------------------------


def assert_refused(path) -> None:
    with pytest.raises(InputError) as caught:
        Cutouts.read(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.8, 0.99])
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_a_truncated_file_is_an_input_error(written, share):
    content = written.read_bytes()
    # Cut inside a data block: the file's padding is no loss.
    written.write_bytes(content[: int(len(content) * share)])
    assert_refused(written)


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_every_missing_block_is_an_input_error(written):
    content = written.read_bytes()
    for end in range(2880, len(content), 2880):
        written.write_bytes(content[:end])
        assert_refused(written)


def test_a_file_of_others_is_an_input_error(tmp_path):
    fits.PrimaryHDU(np.arange(12.0).reshape(3, 4)).writeto(tmp_path / "image.fits")
    (tmp_path / "text.fits").write_text("this is no FITS file\n" * 300)
    (tmp_path / "empty.fits").write_bytes(b"")
    for name in ("image.fits", "text.fits", "empty.fits", "missing.fits"):
        assert_refused(tmp_path / name)


def test_a_damaged_record_is_an_input_error(written):
    with fits.open(written, mode="update") as hdus:
        hdus["RECORD"].data[:5] = 255
    assert_refused(written)


# -- shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("images", torch.zeros(5, 1, *SHAPE), "images"),
        ("images", torch.zeros(SHAPE), "images"),
        ("variance", torch.zeros(5, 12, 9), "variance"),
        ("mask", torch.zeros(4, *SHAPE, dtype=torch.bool), "mask"),
        ("psf", torch.zeros(5, 8, 8), "psf"),
        ("psf", torch.zeros(5, 7, 9), "psf"),
        ("psf", torch.zeros(4, 7, 7), "psf"),
        ("sky_rms", torch.zeros(6), "sky_rms"),
        ("catalogue", empty_catalogue(["a"]), "catalogue"),
    ],
)
def test_shapes_that_do_not_match_are_refused(cutouts, field, value, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(cutouts, **{field: value})


# -- selecting ---------------------------------------------------------------------------

ROWS = {
    "slice": (slice(1, 4), [1, 2, 3]),
    "every other, backwards": (slice(None, None, -2), [4, 2, 0]),
    "list": ([3, 0], [3, 0]),
    "array": (np.array([4, 4 - 5, 2]), [4, 4, 2]),
    "boolean": (np.array([True, False, False, True, True]), [0, 3, 4]),
    "list of booleans": ([False, True, False, False, True], [1, 4]),
    "nobody, slice": (slice(2, 2), []),
    "nobody, list": ([], []),
    "nobody, boolean": (np.zeros(5, bool), []),
}


@pytest.mark.parametrize(("rows", "index"), ROWS.values(), ids=ROWS.keys())
def test_select_keeps_rows_together(cutouts, rows, index):
    some = cutouts.select(rows)
    assert len(some) == len(index)
    for name in TENSORS:
        assert torch.equal(getattr(some, name), getattr(cutouts, name)[torch.tensor(index, dtype=torch.long)])
    assert list(some.object_id) == [f"g-{row}" for row in index]
    assert list(some.flags) == list(cutouts.flags[index])
    assert list(some.truth["flux_njy"].value) == list(cutouts.truth["flux_njy"].value[index])
    assert some.wcs == tuple(cutouts.wcs[row] for row in index)
    assert (some.survey, some.psf_oversampling) == (cutouts.survey, 3)


def neighbours_by_object(cutouts: Cutouts) -> list[list[float]]:
    """Magnitudes of the neighbours of each object, sorted."""
    table = cutouts.neighbours
    return [sorted(np.asarray(table["mag_ab"])[np.asarray(table["row"]) == row]) for row in range(len(cutouts))]


@pytest.mark.parametrize(("rows", "index"), ROWS.values(), ids=ROWS.keys())
def test_select_takes_the_neighbours_along(cutouts, rows, index):
    before = neighbours_by_object(cutouts)
    assert any(before), "the test would show nothing"
    some = cutouts.select(rows)
    assert neighbours_by_object(some) == [before[row] for row in index]
    assert some.neighbours.colnames == cutouts.neighbours.colnames
    assert len(some.neighbours) == sum(len(before[row]) for row in index)


def test_select_leaves_the_original_alone(cutouts):
    rows = np.array(cutouts.neighbours["row"])
    some = cutouts.select([2, 1])
    some.catalogue["flags"] = 0
    some.images[:] = 0
    np.testing.assert_array_equal(cutouts.neighbours["row"], rows)
    assert cutouts.flags.any()
    assert cutouts.images.abs().min() > 0


def test_select_without_neighbours(cutouts):
    none = dataclasses.replace(cutouts, neighbours=cutouts.neighbours[:0])
    assert len(none.select([1, 2]).neighbours) == 0
    assert dataclasses.replace(cutouts, neighbours=None).select([1]).neighbours is None


def test_rows_that_are_not_there(cutouts):
    with pytest.raises(IndexError):
        cutouts.select([5])


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (5, [5]), (9, [5]), (1, [1] * 5)])
def test_split_and_concatenate_are_inverse(cutouts, size, lengths):
    parts = cutouts.split(size)
    assert [len(part) for part in parts] == lengths
    whole = Cutouts.concatenate(parts)
    assert_same_tensors(whole, cutouts)
    assert list(whole.object_id) == list(cutouts.object_id)
    assert whole.wcs == cutouts.wcs
    for table in ("catalogue", "truth"):
        for name in getattr(cutouts, table).colnames:
            assert_same_column(getattr(whole, table)[name], getattr(cutouts, table)[name])
    assert neighbours_by_object(whole) == neighbours_by_object(cutouts)


def test_concatenate_counts_neighbours_onwards():
    a, b = make_cutouts(3, seed=2, name="a"), make_cutouts(4, seed=3, name="b")
    both = Cutouts.concatenate([a, b])
    assert list(both.object_id) == ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "b-3"]
    assert torch.equal(both.images[3:], b.images)
    assert neighbours_by_object(both) == neighbours_by_object(a) + neighbours_by_object(b)
    assert neighbours_by_object(both.select(slice(3, None))) == neighbours_by_object(b)
    assert list(b.neighbours["row"]) == list(make_cutouts(4, seed=3).neighbours["row"])  # the parts stay as they were


def test_concatenate_keeps_what_only_one_part_knows():
    a, b = make_cutouts(3, seed=2), make_cutouts(4, seed=3)
    assert Cutouts.concatenate([a, dataclasses.replace(b, wcs=None)]).wcs == (*a.wcs, None, None, None, None)
    assert Cutouts.concatenate([dataclasses.replace(a, wcs=None), b]).wcs == (None, None, None, *b.wcs)
    assert Cutouts.concatenate([a, dataclasses.replace(b, truth=None)]).truth is None


def test_concatenate_refuses_what_does_not_fit(cutouts):
    with pytest.raises(InputError, match="at least one"):
        Cutouts.concatenate([])
    narrow = {name: getattr(cutouts, name)[..., :-1] for name in ("images", "variance", "mask", "neighbour_mask")}
    for other in (
        dataclasses.replace(cutouts, survey=Survey.load("sdss-r")),
        dataclasses.replace(cutouts, **narrow),
        dataclasses.replace(cutouts, psf=cutouts.psf[:, 1:-1, 1:-1]),
        dataclasses.replace(cutouts, psf_oversampling=2),
    ):
        with pytest.raises(InputError, match="different surveys or stamps"):
            Cutouts.concatenate([cutouts, other])


def test_to_a_device(cutouts):
    moved = cutouts.to("cpu")
    assert_same_tensors(moved, cutouts)
    assert {getattr(cutouts.to("meta"), name).device.type for name in TENSORS} == {"meta"}


# -- flags and catalogue -----------------------------------------------------------------


def test_flags_decode_to_their_names():
    assert decode_flags(0) == ()
    assert decode_flags(Flag.UNREADABLE | Flag.PADDED | Flag.OFF_CENTRE) == ("UNREADABLE", "PADDED", "OFF_CENTRE")
    assert decode_flags(np.int64(4)) == ("NON_FINITE",)
    assert decode_flags(sum(Flag)) == tuple(flag.name for flag in Flag)


def test_flags_are_single_bits_that_never_move():
    """Numbers on disk: a new flag goes to the end."""
    assert [int(flag) for flag in Flag] == [1 << bit for bit in range(len(Flag))]
    assert (Flag.UNREADABLE, Flag.ZERO_POINT_ASSUMED) == (1, 8192)


@pytest.mark.parametrize("names", [[], ["a"], ["long name", "b", 17]])
def test_empty_catalogue(names):
    table = empty_catalogue(names)
    assert table.colnames == ["object_id", "ra", "dec", "redshift", "flags"]
    assert list(table["object_id"]) == [str(name) for name in names]
    assert all(table[name].mask.all() for name in ("ra", "dec", "redshift"))
    assert table["flags"].dtype == np.int64
