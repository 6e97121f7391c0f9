"""SeK, Score and Fscd of semantic change maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.semantic import class_confusion, semantic_scores


def test_confusion_has_predictions_in_rows() -> None:
    confusion = class_confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 0]), 3)
    assert confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_invalid_pixels_are_skipped_whatever_they_hold() -> None:
    target = np.array([0, 1, 255], dtype=np.uint8)
    valid = target != 255
    confusion = class_confusion(np.array([0, 1, 1], dtype=np.uint8), target, 2, valid)
    assert confusion.tolist() == [[1, 0], [0, 1]]


def test_scores_by_hand() -> None:
    """Rows predicted, columns true; the separated kappa sees no pixel of the corner."""
    confusion = np.array([[50, 2, 3], [4, 10, 1], [6, 0, 24]])
    scores = semantic_scores(confusion)
    iou_changed = 35 / 50
    iou_unchanged = 50 / (55 + 60 - 50)
    agree, rest = 34 / 50, 50.0
    chance = (5 * 10 + 15 * 12 + 30 * 28) / rest**2
    sek = math.exp(iou_changed - 1) * (agree - chance) / (1 - chance)
    miou = (iou_changed + iou_unchanged) / 2
    precision, recall = 34 / 45, 34 / 40
    assert scores.oa == pytest.approx(84)
    assert scores.miou == pytest.approx(100 * miou)
    assert scores.sek == pytest.approx(100 * sek)
    assert scores.score == pytest.approx(100 * (0.3 * miou + 0.7 * sek))
    assert scores.f_scd == pytest.approx(100 * 2 * precision * recall / (precision + recall))


def test_perfect_maps_score_100() -> None:
    scores = semantic_scores(np.diag([10, 3, 4]))
    assert set(vars(scores).values()) == {100.0}


def test_rightly_unchanged_pixels_do_not_lift_sek_or_f_scd() -> None:
    few = np.array([[0, 2, 3], [4, 10, 1], [6, 0, 24]])
    many = few + np.diag([10**9, 0, 0])
    assert semantic_scores(many).sek == pytest.approx(semantic_scores(few).sek)
    assert semantic_scores(many).f_scd == semantic_scores(few).f_scd
    assert semantic_scores(many).oa > 99.99


def test_nothing_changed_and_nothing_predicted_is_right() -> None:
    assert set(vars(semantic_scores(np.diag([7, 0, 0]))).values()) == {100.0}


def test_products_of_large_counts_do_not_overflow() -> None:
    small = np.array([[50, 2, 3], [4, 10, 1], [6, 0, 24]])
    large = semantic_scores(small * 10**12)
    for name, value in vars(semantic_scores(small)).items():
        assert getattr(large, name) == pytest.approx(value), name


@pytest.mark.parametrize(
    ("prediction", "target", "error", "message"),
    [
        ([0, 7], [0, 1], DatasetError, "prediction has classes 0 to 7"),
        ([0, 1], [0, -1], DatasetError, "target has classes -1 to 0"),
        ([0, 1], [0, 1, 1], DatasetError, "differ"),
        ([0.2, 0.8], [0, 1], UsageError, "float64"),
    ],
)
def test_what_is_no_class_map_is_refused(
    prediction: list[Any], target: list[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        class_confusion(np.array(prediction), np.array(target), 7)


def test_nothing_valid_has_no_scores() -> None:
    with pytest.raises(DatasetError, match="no valid pixel"):
        semantic_scores(np.zeros((3, 3), dtype=np.int64))
