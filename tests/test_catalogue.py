"""Predictions as tables on disk: units, descriptions and UCDs survive."""

import dataclasses

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from astropy.io.votable import parse_single_table
from astropy.io.votable.ucd import check_ucd
from astropy.table import MaskedColumn, QTable, Table

from galstress.catalogue import FORMATS, read_catalogue, tabulate, write_catalogue
from galstress.errors import InputError
from galstress.networks import Network
from galstress.prediction import predict
from galstress.simulation import simulate


@pytest.fixture(scope="module")
def table() -> QTable:
    torch.manual_seed(1)
    cutouts = simulate("hsc-wide-i", 3, seed=1, stamp_px=48)
    catalogue = cutouts.catalogue.copy()
    catalogue["object_id"] = ["M 31", "größe", "c"]
    catalogue["ra"] = MaskedColumn([10.5, 11.0, 0.0], mask=[False, False, True], unit="deg")
    catalogue["note"] = ["", "PSF assumed", ""]
    mask = cutouts.mask.clone()
    mask[2] = True
    cutouts = dataclasses.replace(cutouts, catalogue=catalogue, mask=mask)
    return tabulate(predict(Network.build("foveal", width=0.34), cutouts), cutouts.catalogue)


def test_a_row_per_object_and_what_is_known_of_it(table):
    assert table.colnames[:5] == ["object_id", "ra", "dec", "redshift", "flags"]
    assert table["ra"].unit == u.deg
    np.testing.assert_array_equal(np.isnan(table["ra"].value), [False, False, True])
    assert np.isnan(table["dec"].value).all()
    assert list(table["note"]) == ["", "PSF assumed", ""]
    assert np.isnan(table["bulge_to_total_p50"][2])


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_back_numbers_units_and_descriptions(table, tmp_path, suffix):
    if suffix == ".fits":
        table = table.copy()
        table["object_id"] = ["M 31", "gross", "c"]  # FITS knows ASCII only
    path = write_catalogue(table, tmp_path / f"measured{suffix}")
    back = read_catalogue(path)
    assert back.colnames == table.colnames
    assert [str(name) for name in back["object_id"]] == list(table["object_id"])
    for name in table.colnames[1:-1]:
        ours, theirs = (np.asarray(getattr(t[name], "value", t[name])) for t in (table, back))
        np.testing.assert_array_equal(np.ma.filled(theirs, np.nan) if theirs.dtype.kind == "f" else theirs, ours)
        assert (back[name].unit or "") == (table[name].unit or ""), name
        assert back[name].info.description == table[name].info.description, name
    assert isinstance(back["flux_njy_p50"], u.Quantity)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_parquet_is_plain_for_other_programs(table, tmp_path):
    stored = pq.read_table(write_catalogue(table, tmp_path / "t.parquet"))
    assert stored.num_rows == 3
    assert stored["object_id"].to_pylist()[1] == "größe"
    assert b"nJy" in stored.schema.metadata[b"table_meta_yaml"]  # as astropy writes and reads it


def test_meta_names_survey_and_network(table, tmp_path):
    back = read_catalogue(write_catalogue(table, tmp_path / "t.parquet"))
    assert back.meta["survey"] == "hsc-wide-i"
    assert back.meta["network"] == "foveal"


def test_ucds_are_of_the_controlled_vocabulary(table, tmp_path):
    fields = parse_single_table(str(write_catalogue(table, tmp_path / "t.vot"))).fields
    ucds = {field.name: field.ucd for field in fields}
    assert ucds.pop("note") is None
    assert all(check_ucd(ucd, check_controlled_vocabulary=True) for ucd in ucds.values())
    assert ucds["flux_njy_std"] == "stat.stdev;phot.flux.density"
    assert ucds["half_light_radius_arcsec_p2_5"] == "phys.angSize;stat.param"


def test_other_suffixes_and_broken_files_are_refused(table, tmp_path):
    with pytest.raises(InputError, match="parquet"):
        write_catalogue(table, tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="make it again"):
        read_catalogue(tmp_path / "t.parquet")


def test_nothing_measured_is_a_table_too(table, tmp_path):
    assert len(read_catalogue(write_catalogue(table[:0], tmp_path / "t.parquet"))) == 0


def test_a_table_without_units_stays_without(tmp_path):
    path = write_catalogue(QTable(Table({"object_id": ["a"], "e1_mean": [0.5]})), tmp_path / "t.parquet")
    assert not isinstance(read_catalogue(path)["e1_mean"], u.Quantity)
