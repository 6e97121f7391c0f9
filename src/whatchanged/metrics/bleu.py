"""BLEU-1 to BLEU-4 (Papineni et al., 2002) as the captioning field computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whatchanged.metrics.ngrams import MAX_ORDER, Caption, ngram_counts

# The two guards of the coco-caption code: they decide what an empty caption scores,
# so they belong to the definition of the published numbers.
_TINY = 1e-15
_SMALL = 1e-9


@dataclass(frozen=True)
class BleuCounts:
    """Counts of one pair, or summed over pairs.

    Attributes:
        correct: Clipped n-gram matches for n = 1 to 4.
        guessed: N-grams of the prediction for n = 1 to 4.
        length: Words of the prediction.
        reference_length: Words of the reference closest in length; of two equally close
            ones the shorter.
    """

    correct: tuple[int, ...]
    guessed: tuple[int, ...]
    length: int
    reference_length: int


def bleu_counts(
    predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]
) -> list[BleuCounts]:
    """Count n-gram matches pair by pair; every pair needs at least one reference."""
    most: dict[tuple[Caption, ...], Counter[Caption]] = {}
    counts = []
    for prediction, alternatives in zip(predictions, references, strict=True):
        key = tuple(alternatives)
        if key not in most:
            most[key] = _most_frequent(alternatives)
        counts.append(_pair_counts(prediction, alternatives, most[key]))
    return counts


def _most_frequent(references: Iterable[Caption]) -> Counter[Caption]:
    """Return for each n-gram its largest count in any one reference."""
    most: Counter[Caption] = Counter()
    for reference in references:
        most |= ngram_counts(reference)
    return most


def _pair_counts(
    prediction: Caption, references: Iterable[Caption], most: Counter[Caption]
) -> BleuCounts:
    correct = [0] * MAX_ORDER
    for ngram, count in ngram_counts(prediction).items():
        correct[len(ngram) - 1] += min(count, most[ngram])
    length = len(prediction)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)
    guessed = tuple(max(0, length - order) for order in range(MAX_ORDER))
    return BleuCounts(tuple(correct), guessed, length, closest[1])


def sum_counts(counts: Sequence[BleuCounts]) -> BleuCounts:
    """Sum counts over pairs; BLEU of the sum is corpus BLEU."""
    return BleuCounts(
        tuple(sum(c.correct[k] for c in counts) for k in range(MAX_ORDER)),
        tuple(sum(c.guessed[k] for c in counts) for k in range(MAX_ORDER)),
        sum(c.length for c in counts),
        sum(c.reference_length for c in counts),
    )


def bleu(counts: BleuCounts) -> tuple[float, ...]:
    """Return BLEU-1 to BLEU-4 in [0, 1]: geometric means of precisions, brevity penalty."""
    ratio = (counts.length + _TINY) / (counts.reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = []
    product = 1.0
    for order, (correct, guessed) in enumerate(
        zip(counts.correct, counts.guessed, strict=True), start=1
    ):
        product *= (correct + _TINY) / (guessed + _SMALL)
        scores.append(brevity * product ** (1 / order))
    return tuple(scores)
