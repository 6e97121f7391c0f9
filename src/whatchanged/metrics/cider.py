"""CIDEr-D (Vedantam et al., 2015) with document frequencies of the evaluated references."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from whatchanged.metrics.ngrams import MAX_ORDER, Caption, ngram_counts

_SIGMA = 6.0
_SCALE = 10.0


@dataclass(frozen=True)
class _Vector:
    """TF-IDF weights of one caption, one vector for each n-gram order."""

    weights: tuple[dict[Caption, float], ...]
    norms: tuple[float, ...]
    n_bigrams: int


def cider_d(predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> list[float]:
    """Return CIDEr-D of each pair, in [0, 10]; the score of a set is their mean.

    The weight of an n-gram is its count times log(n_pairs / pairs whose references have it),
    so the same pair scores differently in another set, and a set whose pairs all have the same
    references (unchanged pairs alone, or one single pair) scores 0 whatever is predicted.
    """
    vectors = _Vectoriser(references)
    return [
        _pair_score(vectors.of(prediction), [vectors.of(reference) for reference in alternatives])
        for prediction, alternatives in zip(predictions, references, strict=True)
    ]


def can_score(references: Sequence[Sequence[Caption]]) -> bool:
    """Tell whether CIDEr-D of a set can be above 0: some n-gram is not in every pair's references.

    Otherwise every n-gram of the references weighs log(1) = 0.
    """
    groups = {frozenset(alternatives) for alternatives in references}
    ngrams = (set().union(*(ngram_counts(r) for r in group)) for group in groups)
    first = next(ngrams, set())
    return any(found != first for found in ngrams)


class CiderScorer:
    """CIDEr-D of single captions with the document frequencies of a fixed set.

    What a caption is rewarded by while training: its score then does not depend on the batch.

    Args:
        references: For each pair of the set its reference captions.
    """

    def __init__(self, references: Sequence[Sequence[Caption]]) -> None:
        self._vectors = _Vectoriser(references)

    def score(self, prediction: Caption, references: Sequence[Caption]) -> float:
        """Return CIDEr-D of one caption against the references of its pair, in [0, 10]."""
        known = [self._vectors.of(reference) for reference in references]
        return _pair_score(self._vectors.compute(prediction), known)


class _Vectoriser:
    """TF-IDF vectors of captions, each distinct caption computed once."""

    def __init__(self, references: Sequence[Sequence[Caption]]) -> None:
        self._log_pairs = math.log(len(references)) if references else 0.0
        self._frequency: Counter[Caption] = Counter()
        self._known: dict[Caption, _Vector] = {}
        repeated = Counter(frozenset(alternatives) for alternatives in references)
        for alternatives, times in repeated.items():
            present = set().union(*(ngram_counts(reference) for reference in alternatives))
            for ngram in present:
                self._frequency[ngram] += times

    def of(self, caption: Caption) -> _Vector:
        if caption not in self._known:
            self._known[caption] = self.compute(caption)
        return self._known[caption]

    def compute(self, caption: Caption) -> _Vector:
        weights: tuple[dict[Caption, float], ...] = tuple({} for _ in range(MAX_ORDER))
        for ngram, count in ngram_counts(caption).items():
            idf = self._log_pairs - math.log(max(1, self._frequency[ngram]))
            weights[len(ngram) - 1][ngram] = count * idf
        norms = tuple(math.sqrt(sum(w * w for w in order.values())) for order in weights)
        return _Vector(weights, norms, max(0, len(caption) - 1))


def _pair_score(prediction: _Vector, references: Sequence[_Vector]) -> float:
    total = sum(_similarity(prediction, reference) for reference in references)
    return _SCALE * total / (MAX_ORDER * len(references))


def _similarity(prediction: _Vector, reference: _Vector) -> float:
    """Sum over n of the clipped cosine, times the Gaussian penalty of the length."""
    total = 0.0
    for order in range(MAX_ORDER):
        norm = prediction.norms[order] * reference.norms[order]
        if norm == 0:
            continue
        theirs = reference.weights[order]
        dot = sum(
            min(weight, theirs[ngram]) * theirs[ngram]
            for ngram, weight in prediction.weights[order].items()
            if ngram in theirs
        )
        total += dot / norm
    # The published code measures length in bigrams: a word and an empty caption are as long.
    delta = prediction.n_bigrams - reference.n_bigrams
    return total * math.exp(-(delta**2) / (2 * _SIGMA**2))
