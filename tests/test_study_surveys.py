"""The study of surveys: the named samples, and networks beside the best that the pixels allow."""

import json

import numpy as np
import pytest
import torch

from galstress.errors import InputError, UnknownNameError
from galstress.heads import CLASSES, Classes, classes_of
from galstress.networks import Network
from galstress.prediction import predict
from galstress.recipes.published import published_surveys
from galstress.studies.samples import SAMPLES, find_sample
from galstress.studies.surveys import BEST, _compare, study_surveys
from galstress.survey import Survey


def test_a_sample_does_not_depend_on_how_many_are_drawn() -> None:
    sample = find_sample("gamornet-candels")
    (few,) = sample.draw(3, seed=5)
    (more,) = sample.draw(7, seed=5)
    assert torch.equal(few.images, more.images[:3])
    assert not torch.equal(few.images, next(sample.draw(3, seed=6)).images)


def test_published_surveys_have_the_stated_noise() -> None:
    for name, zero_point, rms in (("gamornet-sdss", 25.11, 0.0185), ("gamornet-candels", 25.95, 0.0042)):
        survey = published_surveys()[name]
        assert survey.zero_point_mag == zero_point
        assert survey.sky_rms == pytest.approx(rms, rel=1e-6)
        assert survey.photon_variance * 1e4 < rms**2 * 1e-3  # ten thousand units of light add nothing
    photon, sdss = published_surveys()["gamornet-sdss-photon"], Survey.load("sdss-g")
    # electrons of one magnitude are the same in both units
    assert photon.electrons_per_unit / photon.unit_njy == pytest.approx(sdss.electrons_per_unit / sdss.unit_njy)


def test_unknown_sample_names_the_known() -> None:
    with pytest.raises(UnknownNameError, match="gampen-hsc-g"):
        find_sample("virgo")
    assert all(find_sample(name).words == words for name, words in SAMPLES.items())


class _Posterior:
    """Draws of B/T that are known."""

    names = ("flux_njy", "bulge_to_total")
    object_id, flags = np.array(["a", "b"]), np.zeros(2, np.int64)
    survey, network, prior = Survey.load("sdss-g"), "drawn", {}

    def sample(self, n: int, seed: int) -> np.ndarray:
        del seed
        share = np.stack([np.linspace(0, 1, n), np.full(n, 0.5)], 1)
        return np.stack([np.full_like(share, 7.0), share], -1)


def test_classes_of_a_posterior_are_the_shares_of_its_draws() -> None:
    said = classes_of(_Posterior(), samples=2001)
    assert said.probabilities[0] == pytest.approx([0.45, 0.10, 0.45], abs=1e-3)
    assert said.probabilities[1] == pytest.approx([0, 1, 0])
    assert isinstance(said, Classes)
    assert said.names == CLASSES


def test_comparison_is_paired_and_finds_a_worse_classifier() -> None:
    rng = np.random.default_rng(1)
    true = rng.choice([0, 2], 400)
    best = np.zeros((400, 3))
    best[np.arange(400), true] = 0.9 + 0.1 * rng.random(400)
    worse = best.copy()
    wrong = np.flatnonzero(true == 0)[:50]
    worse[wrong] = worse[wrong][:, [2, 1, 0]]  # fifty disks are called bulges
    records = [
        {"sample": "gampen-hsc-g", "method": name, "probabilities": said.tolist(), "true_class": true.tolist()}
        for name, said in ((BEST, best), ("same", best), ("worse", worse))
    ]
    rows = {
        (row["method"], row["class"], row["score"]): row for row in _compare(find_sample("gampen-hsc-g"), records, 1)
    }
    assert rows["same", "bulge", "purity"]["points"] == 0
    row = rows["worse", "bulge", "purity"]
    assert row["points"] < -10
    assert row["points_low"] < row["points"] < row["points_high"] < 0
    assert row["best"] == 1.0


def test_study_writes_its_summary_and_goes_on(tmp_path) -> None:
    torch.manual_seed(1)
    networks = {
        "classifier": Network.build("gamornet", stamp_px=48, width=0.04, pixels="sky"),
        "triple": Network.build("gampen", stamp_px=56, width=0.04, pixels="sky"),
    }
    options = {"folder": tmp_path, "counts": (24, 4), "seed": 2}
    found = study_surveys(networks, ["gamornet-candels"], **options)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sentence"] == found.sentence
    assert summary["study"] == "surveys"
    assert {row["method"] for row in summary["classes"]} == {"classifier", "triple", BEST}
    assert {row["method"] for row in summary["errors"]} == {"triple"}  # four galaxies are too few for the best's
    assert {row["quantity"] for row in summary["coverage"]} == set(predict(networks["triple"], _few()).names)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert study_surveys(networks, ["gamornet-candels"], **options).summary == found.summary
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before


def _few():
    return next(find_sample("gamornet-candels").draw(2, 1))


def test_a_network_is_not_asked_about_pixels_that_it_does_not_know(tmp_path) -> None:
    network = Network.build("gamornet", stamp_px=48, width=0.04).with_metadata(
        domain={"pixel_scale_arcsec": [0.06, 0.06]}
    )
    found = study_surveys({"hst": network}, ["gamornet-candels", "gamornet-sdss"], folder=tmp_path, counts=(20, 0))
    assert {row["sample"] for row in found.summary["classes"]} == {"gamornet-candels"}


def test_averaged_answers_are_a_method_of_their_own(tmp_path) -> None:
    torch.manual_seed(1)
    networks = {"classifier": Network.build("gamornet", stamp_px=48, width=0.04, pixels="sky")}
    options = {"folder": tmp_path, "counts": (24, 0), "seed": 2}
    study_surveys(networks, ["gamornet-candels"], **options)
    (plain,) = (tmp_path / "cells").iterdir()
    before = plain.stat().st_mtime_ns
    found = study_surveys(networks, ["gamornet-candels"], average=[8], **options)
    assert plain.stat().st_mtime_ns == before  # an average adds to what is there
    assert {row["method"] for row in found.summary["classes"]} == {"classifier", "classifier, 8 turns"}
    record = json.loads((tmp_path / "cells" / "classifier-averaged8-on-gamornet-candels.json").read_text())
    assert record["method"] == "classifier, 8 turns"


def test_nothing_to_compare_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="one network or more"):
        study_surveys({}, ["gamornet-candels"], folder=tmp_path)
