"""Scores of captions against references: BLEU, METEOR, ROUGE-L, CIDEr-D and their mean S*m.

Captions are sequences of tokens. Which tokens, words or vocabulary ids, is the protocol:
see :mod:`whatchanged.metrics.protocol`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.bleu import BleuCounts, bleu, bleu_counts, sum_counts
from whatchanged.metrics.cider import can_score, cider_d
from whatchanged.metrics.meteor import (
    MeteorCounts,
    meteor_counts,
    meteor_score,
    sum_meteor_counts,
)
from whatchanged.metrics.meteor_java import java_meteor_counts
from whatchanged.metrics.ngrams import Caption
from whatchanged.metrics.rouge import rouge_l

MeteorBackend = Literal["exact", "java", "none"]
"""``exact``: no Java, exact matches alone. ``java``: the METEOR 1.5 jar. ``none``: left out."""


@dataclass(frozen=True)
class CaptionScores:
    """Scores of captions in percent points, as the field prints them.

    Attributes:
        bleu1: BLEU with unigrams; ``bleu2`` to ``bleu4`` likewise, corpus level.
        meteor: METEOR 1.5, None where it was left out.
        rouge_l: ROUGE-L, mean over pairs.
        cider_d: CIDEr-D times 100, so 138.86 for the 1.3886 of the coco-caption code; None in a
            breakdown where it is 0 by construction.
        s_m: Mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D; None where one of them is.
        n: Number of pairs.
    """

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    meteor: float | None
    rouge_l: float
    cider_d: float | None
    s_m: float | None
    n: int

    def row(self) -> dict[str, str]:
        """Return the scores as a table prints them: two decimals, ``-`` where undefined."""
        scores = {name: value for name, value in vars(self).items() if name != "n"}
        printed = {k: "-" if value is None else f"{value:.2f}" for k, value in scores.items()}
        return printed | {"n": str(self.n)}


@dataclass(frozen=True)
class CaptionBreakdown:
    """Scores of all pairs, of changed and unchanged pairs alone, and of every pair.

    Attributes:
        overall: All pairs.
        changed: Changed pairs alone, CIDEr-D with their own document frequencies; None if none.
        unchanged: Unchanged pairs alone, without CIDEr-D; None if there are none.
        pairs: One entry per pair in the order given, CIDEr-D with the frequencies of all.

    Where all pairs of `overall` or `changed` have the same references (one pair alone, unchanged
    pairs alone), CIDEr-D is 0 whatever is predicted: it and `s_m` are None there.
    """

    overall: CaptionScores
    changed: CaptionScores | None
    unchanged: CaptionScores | None
    pairs: tuple[CaptionScores, ...]


def score_captions(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    meteor: MeteorBackend = "exact",
) -> CaptionScores:
    """Score a set of captions.

    Args:
        predictions: Tokens of one caption per pair; an empty caption is allowed.
        references: For each pair its reference captions, at least one.
        meteor: Back-end of METEOR.

    Returns:
        Scores of the set; ``cider_d`` is always a number here.

    Raises:
        DatasetError: No pairs, numbers of pairs that differ, a pair without references.
        UsageError: A caption given as one string, or a token that is empty or has a blank.
        MissingExtraError: ``java`` without pycocoevalcap or without a Java runtime.
    """
    guesses, truths = _checked(predictions, references)
    return _corpus_scores(_measure(guesses, truths, meteor))


def score_pairs(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    *,
    meteor: MeteorBackend = "exact",
) -> tuple[CaptionScores, ...]:
    """Score each pair of a set by itself, with document frequencies of the whole set.

    Arguments and errors are those of :func:`score_captions`. The means of ``rouge_l`` and
    ``cider_d`` are the scores of the set; BLEU and METEOR of a set are not means.
    """
    guesses, truths = _checked(predictions, references)
    return _scores_of_pairs(_measure(guesses, truths, meteor))


def score_breakdown(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    changed: Sequence[bool],
    *,
    meteor: MeteorBackend = "exact",
) -> CaptionBreakdown:
    """Score a set, its changed and its unchanged pairs, and every pair, aligning words once.

    Args:
        predictions: As in :func:`score_captions`.
        references: As in :func:`score_captions`.
        changed: Whether each pair is labelled as changed.
        meteor: As in :func:`score_captions`.

    Raises:
        DatasetError: As in :func:`score_captions`, or one label per pair is not given.
    """
    guesses, truths = _checked(predictions, references)
    if len(changed) != len(guesses):
        raise DatasetError(f"{len(guesses)} captions but {len(changed)} change labels")
    measured = _measure(guesses, truths, meteor)
    if not can_score(truths):
        measured = replace(measured, cider_d=None)
    parts: dict[bool, CaptionScores | None] = {}
    for label in (True, False):
        chosen = [index for index, value in enumerate(changed) if bool(value) is label]
        parts[label] = _subset_scores(measured, guesses, truths, chosen, with_cider=label)
    return CaptionBreakdown(
        _corpus_scores(measured), parts[True], parts[False], _scores_of_pairs(measured)
    )


@dataclass(frozen=True)
class _Measured:
    """What every pair contributes; sums and means over pairs are the scores of a set."""

    bleu: list[BleuCounts]
    meteor: list[MeteorCounts] | None
    rouge_l: list[float]
    cider_d: list[float] | None


def _measure(
    predictions: list[Caption], references: list[tuple[Caption, ...]], meteor: MeteorBackend
) -> _Measured:
    counts: list[MeteorCounts] | None = None
    if meteor == "exact":
        counts = meteor_counts(predictions, references)
    elif meteor == "java":
        counts = java_meteor_counts(predictions, references)
    elif meteor != "none":
        raise UsageError(f"unknown METEOR back-end {meteor!r}", hint="use exact, java or none")
    return _Measured(
        bleu_counts(predictions, references),
        counts,
        [rouge_l(p, r) for p, r in zip(predictions, references, strict=True)],
        cider_d(predictions, references),
    )


def _corpus_scores(measured: _Measured) -> CaptionScores:
    return _scores(
        sum_counts(measured.bleu),
        sum_meteor_counts(measured.meteor) if measured.meteor is not None else None,
        _mean(measured.rouge_l),
        _mean(measured.cider_d) if measured.cider_d is not None else None,
        len(measured.bleu),
    )


def _scores_of_pairs(measured: _Measured) -> tuple[CaptionScores, ...]:
    return tuple(
        _scores(
            counts,
            measured.meteor[index] if measured.meteor is not None else None,
            measured.rouge_l[index],
            measured.cider_d[index] if measured.cider_d is not None else None,
            1,
        )
        for index, counts in enumerate(measured.bleu)
    )


def _subset_scores(
    measured: _Measured,
    predictions: list[Caption],
    references: list[tuple[Caption, ...]],
    chosen: list[int],
    *,
    with_cider: bool,
) -> CaptionScores | None:
    """Score some of the pairs; CIDEr-D alone depends on the set and is computed anew."""
    if not chosen:
        return None
    cider = None
    truths = [references[i] for i in chosen]
    if with_cider and can_score(truths):
        cider = cider_d([predictions[i] for i in chosen], truths)
    return _corpus_scores(
        _Measured(
            [measured.bleu[i] for i in chosen],
            [measured.meteor[i] for i in chosen] if measured.meteor is not None else None,
            [measured.rouge_l[i] for i in chosen],
            cider,
        )
    )


def _scores(
    bleu_sum: BleuCounts,
    meteor_sum: MeteorCounts | None,
    rouge: float,
    cider: float | None,
    n: int,
) -> CaptionScores:
    bleu1, bleu2, bleu3, bleu4 = (100 * score for score in bleu(bleu_sum))
    meteor = 100 * meteor_score(meteor_sum) if meteor_sum is not None else None
    rouge *= 100
    s_m = None
    if cider is not None:
        cider *= 100
        s_m = (bleu4 + meteor + rouge + cider) / 4 if meteor is not None else None
    return CaptionScores(bleu1, bleu2, bleu3, bleu4, meteor, rouge, cider, s_m, n)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _checked(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[list[Caption], list[tuple[Caption, ...]]]:
    """Check captions once and make them hashable."""
    if len(predictions) != len(references):
        raise DatasetError(
            f"{len(predictions)} captions but references for {len(references)} pairs",
            hint="give one caption for every pair, in the same order",
        )
    if not predictions:
        raise DatasetError("there are no captions to score")
    known: dict[Caption, Caption] = {}
    guesses = [_tokens(caption, known) for caption in predictions]
    truths = [tuple(_tokens(caption, known) for caption in group) for group in references]
    for index, group in enumerate(truths):
        if not group:
            raise DatasetError(f"pair {index} has no reference caption")
    return guesses, truths


def _tokens(caption: Sequence[str], known: dict[Caption, Caption]) -> Caption:
    if isinstance(caption, str):
        raise UsageError(
            f"a caption must be a list of tokens, not the string {caption[:40]!r}",
            hint="split it into tokens first",
        )
    tokens = tuple(caption)
    if tokens not in known:
        for token in tokens:
            if not isinstance(token, str) or token.split() != [token]:
                raise UsageError(
                    f"the token {token!r} is not one word",
                    hint="tokens are strings without blanks; ids are decimal strings",
                )
        known[tokens] = tokens
    return known[tokens]
