"""Mask scores equal scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whatchanged.metrics.masks import MaskCounts
from whatchanged.metrics.semantic import class_confusion, semantic_scores

sklearn: Any = pytest.importorskip(
    "sklearn.metrics", reason="scikit-learn, the oracle, is not installed"
)


@pytest.mark.parametrize("seed", range(25))
def test_scores_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, size=2))
    target = rng.random(shape) < rng.random()
    prediction = np.where(rng.random(shape) < rng.random(), target, rng.random(shape) < 0.3)
    valid = rng.random(shape) < 0.8
    valid.flat[:2] = True
    y, p = target[valid], prediction[valid]
    ours = MaskCounts().add(prediction, target, valid).scores()
    nothing = float(not (y.any() or p.any()))
    kappa = sklearn.cohen_kappa_score(y, p, labels=[False, True])
    theirs = {
        "f1": sklearn.f1_score(y, p, zero_division=nothing),
        "precision": sklearn.precision_score(y, p, zero_division=nothing),
        "recall": sklearn.recall_score(y, p, zero_division=nothing),
        "iou": sklearn.jaccard_score(y, p, zero_division=nothing),
        "oa": sklearn.accuracy_score(y, p),
        "kappa": 1.0 if np.isnan(kappa) else kappa,
    }
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(100 * value, rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("seed", range(10))
def test_semantic_scores_follow_from_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 7, size=4000) * (rng.random(4000) < 0.4)
    prediction = np.where(rng.random(4000) < 0.7, target, rng.integers(0, 7, size=4000))
    ours = semantic_scores(class_confusion(prediction, target, 7))
    y, p = target > 0, prediction > 0
    separated = y | p  # all but the pixels rightly left unchanged
    changed = sklearn.jaccard_score(y, p)
    kappa = sklearn.cohen_kappa_score(target[separated], prediction[separated])
    miou = (changed + sklearn.jaccard_score(~y, ~p)) / 2
    sek = np.exp(changed - 1) * kappa
    f_scd = sklearn.f1_score(target, prediction, labels=range(1, 7), average="micro")
    assert ours.oa == pytest.approx(100 * sklearn.accuracy_score(target, prediction), rel=1e-12)
    assert ours.miou == pytest.approx(100 * miou, rel=1e-12)
    assert ours.sek == pytest.approx(100 * sek, rel=1e-12)
    assert ours.score == pytest.approx(100 * (0.3 * miou + 0.7 * sek), rel=1e-12)
    assert ours.f_scd == pytest.approx(100 * f_scd, rel=1e-12)
