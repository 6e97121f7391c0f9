"""METEOR 1.5 (Denkowski and Lavie, 2014) with exact matches, without Java and its tables.

On vocabulary ids only the exact matcher of METEOR can fire (stems and synonyms of "417" do not
exist), so this is METEOR 1.5 with the English parameters of the published numbers. On words it
counts neither stems, synonyms nor paraphrases, and every word as a content word: use the
``java`` back-end there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from whatchanged.metrics.ngrams import Caption

# English parameters, tuned to rank translations (Denkowski and Lavie, 2014, Table 3).
ALPHA = 0.85
"""Weight of recall against precision in their harmonic mean."""
BETA = 0.20
"""Exponent of the fragmentation."""
GAMMA = 0.60
"""Largest penalty for fragmentation."""
DELTA = 0.75
"""Weight of a content word; a function word weighs 1 - DELTA."""

_BEAM = 40


@dataclass(frozen=True)
class MeteorCounts:
    """Statistics of one pair and its best reference, or summed over pairs.

    Attributes:
        prediction_weight: Words of the prediction, weighted by DELTA.
        reference_weight: Words of the reference, weighted by DELTA.
        prediction_matched: Matched words of the prediction, weighted by DELTA and matcher.
        reference_matched: Matched words of the reference, weighted by DELTA and matcher.
        matched_words: Matched words, mean of both sides, not weighted.
        chunks: Runs of matches that are contiguous on both sides; 0 where prediction and
            reference agree word by word, so that a perfect caption has no penalty.
    """

    prediction_weight: float = 0.0
    reference_weight: float = 0.0
    prediction_matched: float = 0.0
    reference_matched: float = 0.0
    matched_words: float = 0.0
    chunks: float = 0.0


def meteor_score(counts: MeteorCounts) -> float:
    """Return METEOR in [0, 1]; 0 where nothing matches."""
    if counts.prediction_matched == 0 or counts.reference_matched == 0:
        return 0.0
    precision = counts.prediction_matched / counts.prediction_weight
    recall = counts.reference_matched / counts.reference_weight
    f_mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    fragmentation = counts.chunks / counts.matched_words
    return float(max(0.0, f_mean * (1 - GAMMA * fragmentation**BETA)))


def sum_meteor_counts(counts: Sequence[MeteorCounts]) -> MeteorCounts:
    """Sum statistics over pairs; METEOR of the sum is METEOR of the set, not a mean."""
    return MeteorCounts(
        sum(c.prediction_weight for c in counts),
        sum(c.reference_weight for c in counts),
        sum(c.prediction_matched for c in counts),
        sum(c.reference_matched for c in counts),
        sum(c.matched_words for c in counts),
        sum(c.chunks for c in counts),
    )


def meteor_counts(
    predictions: Sequence[Caption], references: Sequence[Sequence[Caption]]
) -> list[MeteorCounts]:
    """Count exact matches of each pair against its best reference, the first of equal ones."""
    known: dict[tuple[Caption, Caption], tuple[float, MeteorCounts]] = {}
    chosen = []
    for prediction, alternatives in zip(predictions, references, strict=True):
        scored = []
        for reference in alternatives:
            key = (prediction, reference)
            if key not in known:
                counts = _exact_counts(prediction, reference)
                known[key] = (meteor_score(counts), counts)
            scored.append(known[key])
        chosen.append(max(scored, key=itemgetter(0))[1])
    return chosen


def _exact_counts(prediction: Caption, reference: Caption) -> MeteorCounts:
    if prediction == reference:
        n_matches, chunks = len(prediction), 0
    else:
        n_matches, chunks = align(prediction, reference)
    return MeteorCounts(
        DELTA * len(prediction),
        DELTA * len(reference),
        DELTA * n_matches,
        DELTA * n_matches,
        n_matches,
        chunks,
    )


def align(prediction: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    """Match equal words one to one and return the number of matches and of chunks.

    Most matches first, then fewest chunks, then smallest distance between the positions, found
    by a beam search along the reference (Denkowski and Lavie, 2014, Section 2).
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for position, word in enumerate(prediction):
        places[word].append(position)
    times = Counter(reference)
    search = _Search()
    for position, word in enumerate(reference):
        candidates = places.get(word, [])
        if len(candidates) == 1 and times[word] == 1:
            search.take(candidates[0])
        elif candidates:
            search.branch(position, candidates)
        else:
            search.skip()
    return search.finish()


_Key = tuple[int, int, int]
_Path = tuple[_Key, int, int]


class _Search:
    """Beam of partial alignments.

    A path is its key (minus matches, closed chunks, distance), the position after the match in
    the word before (-1 if that word is unmatched) and the prediction's used words as bits.
    A chunk counts when it closes. Sorting is stable, so equal paths keep their order: the beam
    drops the same ones as METEOR's own program.
    """

    def __init__(self) -> None:
        self._paths: list[_Path] = [((0, 0, 0), -1, 0)]

    def take(self, candidate: int) -> None:
        """Match the next word of the reference to the only word it can match."""
        # The distance of such a match is the same for all paths and would not order them.
        self._prune()
        self._paths = [
            ((key[0] - 1, key[1] + (end != -1 and end != candidate), key[2]), candidate + 1, used)
            for key, end, used in self._paths
        ]

    def skip(self) -> None:
        """Leave the next word of the reference unmatched."""
        self._prune()
        self._paths = [_close(path) for path in self._paths]

    def branch(self, position: int, candidates: Sequence[int]) -> None:
        """Match the word at ``position`` to each unused candidate, or leave it unmatched."""
        self._prune()
        grown: list[_Path] = []
        for key, end, used in self._paths:
            matches, chunks, distance = key
            for candidate in candidates:
                if used >> candidate & 1:
                    continue
                closed = chunks + (end != -1 and end != candidate)
                grown.append(
                    ((matches - 1, closed, distance), candidate + 1, used | 1 << candidate)
                )
                # METEOR's program adds the distance of a match to the path it branches from,
                # not to the new one; the published numbers contain this.
                distance += abs(position - candidate)
            grown.append(_close(((matches, chunks, distance), end, used)))
        self._paths = grown

    def finish(self) -> tuple[int, int]:
        """Return matches and chunks of the best path."""
        self._prune()
        key = min(_close(path)[0] for path in self._paths)
        return -key[0], key[1]

    def _prune(self) -> None:
        """Sort and cut the beam; at every word, since the order of equal paths depends on it."""
        if len(self._paths) > 1:
            self._paths.sort(key=itemgetter(0))
            del self._paths[_BEAM:]


def _close(path: _Path) -> _Path:
    (matches, chunks, distance), end, used = path
    return (matches, chunks + (end != -1), distance), -1, used
