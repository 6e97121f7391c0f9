"""Scores of change masks: one pixel confusion over all pairs, positive means changed.

All scores are percent points. Where a denominator is empty the definition is stated: without
changed pixels in both prediction and target, precision, recall, F1, IoU are 100, since an empty
mask was asked for and given; with changed pixels in only one of them they are 0. Cohen's kappa
is 100 where prediction and target put every pixel into one and the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whatchanged.errors import DatasetError, UsageError

Mask = npt.NDArray[np.bool_ | np.integer]
"""A mask [H, W] or a batch of masks: bool, or integers with 0 for unchanged."""
_Values = npt.NDArray[np.float64]

_RESAMPLES_AT_ONCE = 256


@dataclass(frozen=True)
class MaskScores:
    """Scores in percent points.

    Attributes:
        f1: Harmonic mean of precision and recall of the changed class.
        precision: Share of the pixels predicted as changed that are.
        recall: Share of the changed pixels that are predicted.
        iou: Intersection over union of the changed class; f1 = 2 iou / (1 + iou) as shares.
        oa: Overall accuracy, share of the pixels of both classes that are right.
        kappa: Cohen's kappa.
        n_pixels: Valid pixels.
    """

    f1: float
    precision: float
    recall: float
    iou: float
    oa: float
    kappa: float
    n_pixels: int


@dataclass(frozen=True)
class MaskCounts:
    """Pixels by prediction and target, added pair by pair.

    Attributes:
        tp: Changed and predicted as changed.
        fp: Unchanged but predicted as changed.
        fn: Changed but predicted as unchanged.
        tn: Unchanged and predicted as unchanged.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @property
    def n_pixels(self) -> int:
        """Number of valid pixels."""
        return self.tp + self.fp + self.fn + self.tn

    def add(self, prediction: Mask, target: Mask, valid: Mask | None = None) -> MaskCounts:
        """Return the counts with one more pair or batch; the counts themselves do not change.

        Args:
            prediction: Predicted change, any shape; non-zero is changed.
            target: True change, same shape.
            valid: Pixels that count, same shape; None for all.

        Raises:
            DatasetError: The shapes differ.
            UsageError: An array of floats: probabilities must be thresholded first.
        """
        guess, truth = _binary(prediction, "prediction"), _binary(target, "target")
        _check_shape(guess, truth, "target")
        n_pixels = guess.size
        if valid is not None:
            counted = _binary(valid, "valid mask")
            _check_shape(guess, counted, "valid mask")
            guess, truth = guess & counted, truth & counted
            n_pixels = int(np.count_nonzero(counted))
        tp = int(np.count_nonzero(guess & truth))
        fp = int(np.count_nonzero(guess)) - tp
        fn = int(np.count_nonzero(truth)) - tp
        return self.merge(MaskCounts(tp, fp, fn, n_pixels - tp - fp - fn))

    def merge(self, other: MaskCounts) -> MaskCounts:
        """Return the counts of both sets of pixels together."""
        return MaskCounts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    def scores(self) -> MaskScores:
        """Return the scores of all pixels counted.

        Raises:
            DatasetError: There is no valid pixel.
        """
        if self.n_pixels == 0:
            raise DatasetError(
                "there is no valid pixel to score",
                hint="check nodata of the photographs and the label masks",
            )
        values = _ratios(np.array([[self.tp, self.fp, self.fn, self.tn]], dtype=np.float64))
        return MaskScores(
            **{name: float(value[0]) for name, value in values.items()}, n_pixels=self.n_pixels
        )


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a score, percent points."""

    low: float
    high: float


def bootstrap_intervals(
    counts: Sequence[MaskCounts],
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return percentile bootstrap intervals over pairs (Efron, 1979).

    Pairs, not pixels, are drawn with replacement: neighbouring pixels are not independent.

    Args:
        counts: One entry per pair; pairs without a valid pixel are left out.
        n_resamples: Number of resampled sets.
        level: Probability that the interval covers, in (0, 1).
        seed: Seed of the draws; equal seeds give equal intervals.

    Returns:
        For each score of :class:`MaskScores` except ``n_pixels`` its interval.

    Raises:
        DatasetError: No pair has a valid pixel.
        UsageError: ``level`` or ``n_resamples`` out of range.
    """
    if not 0 < level < 1 or n_resamples < 1:
        raise UsageError(f"cannot draw {n_resamples} resamples for a level of {level}")
    table = np.array([[c.tp, c.fp, c.fn, c.tn] for c in counts if c.n_pixels], dtype=np.float64)
    if not len(table):
        raise DatasetError("no pair has a valid pixel to score")
    n_pairs = len(table)
    rng = np.random.default_rng(seed)
    sums = np.empty((n_resamples, 4))
    for start in range(0, n_resamples, _RESAMPLES_AT_ONCE):
        part = sums[start : start + _RESAMPLES_AT_ONCE]
        times = rng.multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), size=len(part))
        part[:] = times @ table  # [R, pairs] @ [pairs, 4]
    tail = 50 * (1 - level)
    return {
        name: Interval(*(float(q) for q in np.percentile(values, [tail, 100 - tail])))
        for name, values in _ratios(sums).items()
    }


def _ratios(counts: _Values) -> dict[str, _Values]:
    """Compute each score in percent points for rows of tp, fp, fn, tn [N, 4], none all zero."""
    tp, fp, fn, tn = counts.T
    nothing = (tp + fp + fn == 0).astype(np.float64)
    # (po - pe) / (1 - pe) with both multiplied out: no difference of two numbers close to one.
    chance = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    return {
        "f1": 100 * _divide(2 * tp, 2 * tp + fp + fn, nothing),
        "precision": 100 * _divide(tp, tp + fp, nothing),
        "recall": 100 * _divide(tp, tp + fn, nothing),
        "iou": 100 * _divide(tp, tp + fp + fn, nothing),
        "oa": 100 * (tp + tn) / (tp + fp + fn + tn),
        "kappa": 100 * _divide(2 * (tp * tn - fn * fp), chance, np.ones_like(tp)),
    }


def _divide(numerator: _Values, denominator: _Values, otherwise: _Values) -> _Values:
    return np.divide(numerator, denominator, out=otherwise.copy(), where=denominator != 0)


def _binary(mask: Mask, name: str) -> npt.NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype.kind not in "biu":
        raise UsageError(
            f"the {name} holds {array.dtype} values, not a mask",
            hint="compare probabilities with a threshold first",
        )
    return array.astype(np.bool_)


def _check_shape(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], name: str) -> None:
    if first.shape != second.shape:
        raise DatasetError(f"the prediction is {first.shape} but the {name} is {second.shape}")
