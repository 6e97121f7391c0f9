"""Mask scores: counting, definitions of empty denominators, laws, intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.masks import Interval, MaskCounts, bootstrap_intervals

number = st.integers(0, 10**10)
tables = st.builds(MaskCounts, number, number, number, number).filter(lambda c: c.n_pixels > 0)


def test_counts_by_hand() -> None:
    prediction = np.array([[1, 1, 0], [0, 1, 0]], dtype=np.uint8)
    target = np.array([[255, 0, 255], [0, 255, 0]], dtype=np.uint8)
    counts = MaskCounts().add(prediction, target)
    assert counts == MaskCounts(tp=2, fp=1, fn=1, tn=2)
    scores = counts.scores()
    assert scores.precision == scores.recall == scores.f1 == pytest.approx(100 * 2 / 3)
    assert scores.iou == pytest.approx(50)
    assert scores.oa == pytest.approx(100 * 4 / 6)
    assert scores.kappa == pytest.approx(100 / 3)
    assert scores.n_pixels == 6


def test_invalid_pixels_are_skipped() -> None:
    prediction = np.array([True, True, False, False])
    target = np.array([True, False, True, False])
    valid = np.array([1, 0, 0, 255], dtype=np.uint8)
    assert MaskCounts().add(prediction, target, valid) == MaskCounts(tp=1, tn=1)
    assert MaskCounts().add(prediction, target, valid).scores().f1 == 100


def test_adding_leaves_the_counts_as_they_are() -> None:
    counts = MaskCounts(1, 2, 3, 4)
    more = counts.add(np.array([True]), np.array([True]))
    assert counts == MaskCounts(1, 2, 3, 4) and more == MaskCounts(2, 2, 3, 4)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_streaming_equals_counting_at_once(seed: int, n_parts: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, target, valid = rng.random((3, 30, 20)) < 0.5
    streamed = MaskCounts()
    for rows in np.array_split(np.arange(30), n_parts):
        streamed = streamed.merge(MaskCounts().add(prediction[rows], target[rows], valid[rows]))
    assert streamed == MaskCounts().add(prediction, target, valid)
    assert streamed.n_pixels == valid.sum()


@given(tables)
def test_f1_follows_from_iou_and_all_stay_in_range(counts: MaskCounts) -> None:
    scores = counts.scores()
    iou = scores.iou / 100
    assert scores.f1 / 100 == pytest.approx(2 * iou / (1 + iou), rel=1e-12, abs=1e-12)
    for name in ("f1", "precision", "recall", "iou", "oa"):
        assert 0 <= getattr(scores, name) <= 100, name
    assert -100 - 1e-9 <= scores.kappa <= 100 + 1e-9


@given(tables)
def test_swapping_prediction_and_target_swaps_precision_and_recall(counts: MaskCounts) -> None:
    scores = counts.scores()
    swapped = MaskCounts(counts.tp, counts.fn, counts.fp, counts.tn).scores()
    assert (scores.precision, scores.recall) == (swapped.recall, swapped.precision)
    assert (scores.f1, scores.iou) == (swapped.f1, swapped.iou)
    assert scores.kappa == pytest.approx(swapped.kappa, abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "f1", "precision", "recall", "iou", "oa", "kappa"),
    [
        (MaskCounts(tn=9), 100, 100, 100, 100, 100, 100),
        (MaskCounts(tp=9), 100, 100, 100, 100, 100, 100),
        (MaskCounts(fp=9), 0, 0, 0, 0, 0, 0),
        (MaskCounts(fn=9), 0, 0, 0, 0, 0, 0),
        (MaskCounts(fn=1, tn=9), 0, 0, 0, 0, 90, 0),
        (MaskCounts(fp=1, tn=9), 0, 0, 0, 0, 90, 0),
    ],
)
def test_empty_denominators_have_the_stated_values(
    counts: MaskCounts,
    f1: float,
    precision: float,
    recall: float,
    iou: float,
    oa: float,
    kappa: float,
) -> None:
    scores = counts.scores()
    assert (scores.f1, scores.precision, scores.recall) == (f1, precision, recall)
    assert (scores.iou, scores.oa, scores.kappa) == (iou, oa, kappa)


def test_nothing_valid_has_no_scores() -> None:
    nothing = MaskCounts().add(np.ones(3, bool), np.ones(3, bool), np.zeros(3, bool))
    with pytest.raises(DatasetError, match="no valid pixel"):
        nothing.scores()
    with pytest.raises(DatasetError, match="no pair"):
        bootstrap_intervals([nothing])


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ((np.ones((2, 2), bool), np.ones((2, 3), bool)), DatasetError, "target"),
        ((np.ones(2, bool), np.ones(2, bool), np.ones(3, bool)), DatasetError, "valid mask"),
        ((np.full(2, 0.4), np.ones(2, bool)), UsageError, "prediction holds float64"),
        ((np.ones(2, bool), np.full(2, 0.4)), UsageError, "target holds float64"),
    ],
)
def test_what_is_no_mask_is_refused(
    arrays: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        MaskCounts().add(*arrays)


def pairs(n_pairs: int, seed: int = 0) -> list[MaskCounts]:
    rng = np.random.default_rng(seed)
    drawn = (rng.random((n_pairs, 4)) * [900, 100, 100, 5000]).astype(int)
    return [MaskCounts(*(int(value) for value in row)) for row in drawn]


def test_intervals_hold_the_score_and_depend_on_the_seed_alone() -> None:
    counts = pairs(60)
    intervals = bootstrap_intervals(counts, seed=3)
    total = MaskCounts()
    for each in counts:
        total = total.merge(each)
    scores = total.scores()
    assert set(intervals) == {"f1", "precision", "recall", "iou", "oa", "kappa"}
    for name, interval in intervals.items():
        assert interval.low < getattr(scores, name) < interval.high, name
    assert bootstrap_intervals(counts, seed=3) == intervals
    assert bootstrap_intervals(counts, seed=4) != intervals


def test_intervals_narrow_with_more_pairs_and_widen_with_the_level() -> None:
    few, many = bootstrap_intervals(pairs(20))["f1"], bootstrap_intervals(pairs(2000))["f1"]
    assert many.high - many.low < (few.high - few.low) / 3
    wide = bootstrap_intervals(pairs(20), level=0.99)["f1"]
    assert wide.low < few.low and few.high < wide.high


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = MaskCounts(450, 50, 50, 2500).scores().f1
    hits = 0
    for seed in range(100):
        interval = bootstrap_intervals(pairs(50, seed), n_resamples=300, seed=seed)["f1"]
        hits += interval.low <= truth <= interval.high
    assert 85 <= hits <= 100


def test_one_pair_has_an_interval_of_one_point() -> None:
    counts = MaskCounts(3, 1, 1, 5)
    f1 = counts.scores().f1
    assert bootstrap_intervals([counts, MaskCounts()], n_resamples=5)["f1"] == Interval(f1, f1)


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"n_resamples": 0}])
def test_intervals_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="resamples"):
        bootstrap_intervals(pairs(3), **options)
