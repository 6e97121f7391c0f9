"""ROUGE-L (Lin, 2004) with several references."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from whatchanged.metrics.ngrams import Caption

_BETA = 1.2


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Bit-parallel form of the dynamic programme (Crochemore et al., 2001): bit i of ``row`` is
    clear where the table grows between word i and i + 1 of ``second``.
    """
    positions: defaultdict[str, int] = defaultdict(int)
    for index, word in enumerate(second):
        positions[word] |= 1 << index
    full = (1 << len(second)) - 1
    row = full
    for word in first:
        hits = row & positions.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(second) - row.bit_count()


def rouge_l(prediction: Caption, references: Sequence[Caption]) -> float:
    """Return ROUGE-L of one pair in [0, 1].

    The best precision and the best recall are taken over the references separately and may
    come from two of them, as in the published numbers. An empty caption counts as one empty
    word: it agrees fully with an empty reference and with nothing else.
    """
    prediction = prediction or ("",)
    filled = [reference or ("",) for reference in references]
    common = [lcs_length(prediction, reference) for reference in filled]
    precision = max(common) / len(prediction)
    recall = max(c / len(reference) for c, reference in zip(common, filled, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
