"""Scores of classifiers against tables made by hand and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from galstress.errors import InputError
from galstress.heads import CLASSES, Classes
from galstress.scores import (
    CUTS,
    brier_score,
    call_classes,
    class_table,
    confusion_table,
    cut_for_share,
    log_loss,
    reliability_table,
    risk_area,
    risk_curve,
)
from galstress.survey import Survey

SURE = {0: (0.9, 0.06, 0.04), 1: (0.3, 0.4, 0.3), 2: (0.03, 0.07, 0.9)}


def galaxies_of(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and true classes that give a table of (actual, called) numbers at any cut up to 0.9."""
    pairs = [(actual, called) for actual in range(3) for called in range(3) for _ in range(table[actual, called])]
    actual, called = np.array(pairs).T
    return np.array([SURE[each] for each in called]), actual


TABLE = np.array([[50, 20, 6], [3, 9, 1], [4, 15, 30]])


def test_table_made_by_hand():
    chances, true = galaxies_of(TABLE)
    disk, between, bulge = class_table(chances, true, disk=0.7, bulge=0.7, seed=1)
    assert [row["class"] for row in (disk, between, bulge)] == list(CLASSES)
    assert (disk["actual"], disk["called"], bulge["actual"], bulge["called"]) == (76, 57, 49, 37)
    assert (disk["purity"], bulge["purity"]) == (50 / 57, 30 / 37)
    assert (disk["completeness"], bulge["completeness"], between["completeness"]) == (50 / 76, 30 / 49, 9 / 13)
    assert {row["indeterminate_share"] for row in (disk, between, bulge)} == {44 / 138}
    shares = confusion_table(chances, true, disk=0.7, bulge=0.7)
    assert [row["count"] for row in shares] == [76, 13, 49]
    assert [row["bulge"] for row in shares] == [6 / 37, 1 / 37, 30 / 37]
    assert sum(row["disk"] for row in shares) == pytest.approx(1)
    assert [row["disk_count"] for row in shares] == [50, 3, 4]


def test_published_table_is_read_off_its_columns():
    # Keras SDSS: of those called disks 99.72 % are, of those called bulges 95.25 %, at 31 % indeterminate
    called = np.array([6900, 3100, 2000])
    columns = np.array([[0.9972, 0.4, 0.0337], [0.0013, 0.2, 0.0138], [0.0015, 0.4, 0.9525]])
    chances, true = galaxies_of(np.round(columns * called).astype(int))
    rows = class_table(chances, true, disk=CUTS["sdss"].disk, bulge=CUTS["sdss"].bulge, count=50)
    assert rows[0]["purity"] == pytest.approx(0.9972, abs=2e-4)
    assert rows[2]["purity"] == pytest.approx(0.9525, abs=3e-4)
    assert rows[0]["indeterminate_share"] == pytest.approx(3100 / 12000, abs=1e-3)


def test_intervals_are_those_of_a_binomial():
    chances, true = galaxies_of(10 * TABLE)
    row = class_table(chances, true, seed=3, count=4000)[0]
    sigma = math.sqrt(50 / 57 * 7 / 57 / 570)  # of a ratio over a random denominator, to first order
    width = stats.norm.ppf(0.84) * 2 * sigma
    assert row["purity_high"] - row["purity_low"] == pytest.approx(width, rel=0.08)
    passed = 44 / 138
    sigma = math.sqrt(passed * (1 - passed) / 1380)
    assert row["indeterminate_share_high"] - row["indeterminate_share_low"] == pytest.approx(2 * sigma, rel=0.08)


def test_cuts_are_the_published_and_decide_as_the_record_does():
    assert {name: (cut.disk, cut.bulge) for name, cut in CUTS.items()} == {
        "sdss": (0.7, 0.7), "candels": (0.0, 0.6), "sdss-paper": (0.8, 0.8), "candels-paper": (0.36, 0.55),
    }  # fmt: skip
    chances = np.random.default_rng(1).dirichlet((1, 0.5, 1), 300)
    chances[7] = np.nan
    names = Classes(
        probabilities=chances, object_id=np.arange(300).astype(str), flags=np.zeros(300, int),
        survey=Survey.load("sdss-g"),
    )  # fmt: skip
    for cut in CUTS.values():
        called = call_classes(chances, disk=cut.disk, bulge=cut.bulge)
        assert [CLASSES[each] if each >= 0 else "" for each in called] == names.decide(cut.disk, cut.bulge).tolist()


def test_unknown_galaxies_count_nowhere():
    chances, true = galaxies_of(TABLE)
    more = np.concatenate([chances, [[np.nan] * 3, [0.9, 0.1, 0.0]]])
    kinds = np.concatenate([true, [0, -1]])
    assert class_table(more, kinds, seed=1) == class_table(chances, true, seed=1)
    assert log_loss(more, kinds).value == log_loss(chances, true).value
    with pytest.raises(InputError, match="true classes of shape"):
        class_table(chances, true[:-1])
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        call_classes(chances[:, :2])


def test_nothing_called_has_no_purity():
    rows = class_table(np.array([SURE[0]] * 4), np.zeros(4, int), count=20)
    assert math.isnan(rows[2]["purity"])
    assert math.isnan(rows[2]["completeness"])
    assert (rows[0]["purity"], rows[0]["purity_low"], rows[0]["completeness"]) == (1, 1, 1)


@pytest.mark.parametrize("share", [0.0, 0.31, 0.46, 0.9, 1.0])
def test_cut_gives_the_share(share: float):
    rng = np.random.default_rng(2)
    larger = rng.uniform(0.5, 1, 2000)
    chances = np.stack([larger, (1 - larger) / 2, (1 - larger) / 2], 1)
    chances[::2] = chances[::2, ::-1]
    cut = cut_for_share(chances, share)
    passed = (call_classes(chances, disk=cut, bulge=cut) == 1).mean()
    assert passed == pytest.approx(share, abs=6e-4)
    # sureness is even from 0.5 to 1, so the cut is its quantile
    if 0 < share < 1:
        assert cut == pytest.approx(0.5 + share / 2, abs=0.02)


def test_cut_knows_ties_and_those_passed_on_anyway():
    chances = np.array([SURE[0]] * 6 + [SURE[1]] * 4)
    assert cut_for_share(chances, 0.2) == 0.0  # four of ten go at any cut, and the next step is all
    assert cut_for_share(chances, 0.95) > 0.9
    with pytest.raises(InputError, match="from 0 to 1"):
        cut_for_share(chances, 31)


def even_classifier(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated: p of disk even from 0 to 1, the rest a bulge's."""
    rng = np.random.default_rng(seed)
    disk = rng.random(count)
    return np.stack([disk, np.zeros(count), 1 - disk], 1), np.where(rng.random(count) < disk, 0, 2)


def test_closed_forms_of_an_even_classifier():
    # sureness s = max(p, 1 - p) is even from 1/2 to 1 and right with probability s: of the surest share c,
    # 1 - c / 4 are right, so the area of mistakes is 1 / 8
    chances, true = even_classifier(100_000, 4)
    for row in risk_curve(chances, true, [0.1, 0.5, 1.0]):
        assert row["accuracy"] == pytest.approx(1 - row["coverage"] / 4, abs=4 * row["sigma"])
        assert row["least"] == pytest.approx(1 - row["coverage"] / 2, abs=5e-3)
    area = risk_area(chances[:20_000], true[:20_000], count=60)
    assert area.value == pytest.approx(1 / 8, abs=5e-3)
    assert area.low < area.value < area.high
    assert (area.high - area.low) / 2 < 4e-3
    # -integral of p ln p + (1 - p) ln(1 - p) is 1/2; of p (1 - p)^2 2 + (1 - p) p^2 2 it is 1/3
    loss, brier = log_loss(chances, true), brier_score(chances, true)
    assert loss.value == pytest.approx(0.5, abs=5e-3)
    assert brier.value == pytest.approx(1 / 3, abs=5e-3)
    assert loss.low < loss.value < loss.high


def test_area_of_sureness_without_meaning_is_the_error():
    rng = np.random.default_rng(5)
    true = np.where(rng.random(4000) < 0.2, 2, 0)
    assert risk_area(np.tile([0.6, 0.1, 0.3], (4000, 1)), true, count=5).value == pytest.approx((true == 2).mean())


def test_the_most_probable_indeterminates_come_last():
    chances = np.array([SURE[1], SURE[0], [0.4, 0.35, 0.25]])
    rows = risk_curve(chances, [0, 0, 2], [1 / 3, 2 / 3, 1])
    assert [row["least"] for row in rows] == pytest.approx([0.9, 0.4, 0.3])
    assert [row["accuracy"] for row in rows] == pytest.approx([1, 1 / 2, 2 / 3])
    sure = risk_curve(np.array([[1.0, 0, 0]]), [0], [1])[0]
    assert (sure["least"], sure["accuracy"]) == (1, 1)
    with pytest.raises(InputError, match="above 0"):
        risk_curve(chances, [0, 0, 2], [0.0])


def test_probabilities_never_given_are_bounded():
    assert log_loss([[0.0, 0.0, 1.0]], [0]).value == pytest.approx(-math.log(1e-6))
    assert brier_score([[0.0, 0.0, 1.0]], [0]).value == 2


def test_reliability_of_a_calibrated_and_of_an_overconfident_classifier():
    chances, true = even_classifier(20_000, 6)
    rows = reliability_table(chances, true)
    scores = [row["deviation"] / row["sigma"] for row in rows if row["sigma"] > 0]
    assert len(scores) == 20
    assert stats.kstest(scores[:10], "norm").pvalue > 1e-3  # bulges are the disks' mirror: half of them say all
    assert sum(row["count"] for row in rows if row["class"] == "bulge") == 20_000
    # twice as sure: logit(said) = 2 logit(right)
    odds = (chances[:, 0] / chances[:, 2]) ** 2
    bold = np.stack([odds / (1 + odds), np.zeros(len(odds)), 1 / (1 + odds)], 1)
    for row in reliability_table(bold, true):
        if row["class"] == "disk":
            said = row["probability"]
            right = 1 / (1 + math.sqrt((1 - said) / said))
            assert row["share"] == pytest.approx(right, abs=5 * row["sigma"] + 0.03)
            if 0.7 < said < 0.9:
                assert row["deviation"] < -5 * row["sigma"]
