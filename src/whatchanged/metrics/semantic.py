"""Scores of semantic change on SECOND: from a class confusion to SeK, Score and Fscd.

Class 0 is "unchanged", 1 to C - 1 are land-cover classes at changed pixels. The maps of both
dates are added into one confusion. All scores are percent points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whatchanged.errors import DatasetError, UsageError

Confusion = npt.NDArray[np.int64]
"""Pixels by predicted class (rows) and true class (columns), [C, C]."""


@dataclass(frozen=True)
class SemanticScores:
    """Scores in percent points (Yang et al., 2022; Fscd: Ding et al., 2022).

    Attributes:
        oa: Overall accuracy over all classes, unchanged among them.
        miou: Mean IoU of unchanged and changed, whatever the land cover.
        sek: Separated kappa: kappa without the pixels rightly left unchanged, scaled by
            exp(IoU of changed - 1).
        score: 0.3 miou + 0.7 sek.
        f_scd: Harmonic mean of the precision and recall of the land cover of changed pixels.
    """

    oa: float
    miou: float
    sek: float
    score: float
    f_scd: float


def class_confusion(
    prediction: npt.NDArray[np.integer],
    target: npt.NDArray[np.integer],
    n_classes: int,
    valid: npt.NDArray[np.bool_] | None = None,
) -> Confusion:
    """Count pixels by predicted and true class; confusions of several maps may be summed.

    Args:
        prediction: Class index per pixel, any shape.
        target: Class index per pixel, same shape.
        n_classes: C, with class 0 for unchanged.
        valid: Pixels that count, same shape; None for all.

    Raises:
        DatasetError: Shapes differ, or a valid pixel has a class outside [0, C).
        UsageError: A map of floats.
    """
    guess, truth = np.asarray(prediction), np.asarray(target)
    for name, array in (("prediction", guess), ("target", truth)):
        if array.dtype.kind not in "biu":
            raise UsageError(f"the {name} holds {array.dtype} values, not class indices")
    counted = np.ones(guess.shape, bool) if valid is None else np.asarray(valid, bool)
    if not guess.shape == truth.shape == counted.shape:
        raise DatasetError(
            f"prediction {guess.shape}, target {truth.shape} and valid mask {counted.shape} differ"
        )
    guess, truth = guess[counted].astype(np.int64), truth[counted].astype(np.int64)
    for name, array in (("prediction", guess), ("target", truth)):
        if array.size and (array.min() < 0 or array.max() >= n_classes):
            raise DatasetError(
                f"the {name} has classes {array.min()} to {array.max()}, not 0 to {n_classes - 1}",
                hint="mark pixels without a label as not valid",
            )
    flat = np.bincount(guess * n_classes + truth, minlength=n_classes**2)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def semantic_scores(confusion: Confusion) -> SemanticScores:
    """Return the scores of a class confusion.

    A class or a change that neither prediction nor target has counts as right: its IoU, SeK and
    Fscd are 100.

    Raises:
        DatasetError: There is no valid pixel.
    """
    # Python integers: products of pixel counts of a large set do not fit into 64 bits.
    rows = [[int(value) for value in row] for row in confusion]
    total = sum(map(sum, rows))
    if total == 0:
        raise DatasetError("there is no valid pixel to score")
    unchanged = rows[0][0]
    predicted = [sum(row) for row in rows]
    true = [sum(column) for column in zip(*rows, strict=True)]
    right = sum(rows[c][c] for c in range(len(rows)))
    iou_unchanged = _share(unchanged, predicted[0] + true[0] - unchanged)
    iou_changed = _share(total - predicted[0] - true[0] + unchanged, total - unchanged)
    miou = (iou_unchanged + iou_changed) / 2

    # Separated: the pixels rightly left unchanged are taken out of the confusion.
    rest = total - unchanged
    by_chance = (predicted[0] - unchanged) * (true[0] - unchanged)
    by_chance += sum(p * t for p, t in zip(predicted[1:], true[1:], strict=True))
    kappa = _share((right - unchanged) * rest - by_chance, rest * rest - by_chance)
    sek = math.exp(iou_changed - 1) * kappa

    f_scd = _share(2 * (right - unchanged), 2 * total - predicted[0] - true[0])
    scores = (right / total, miou, sek, 0.3 * miou + 0.7 * sek, f_scd)
    return SemanticScores(*(100 * score for score in scores))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
