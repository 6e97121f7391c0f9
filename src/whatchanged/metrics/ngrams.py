"""Word n-grams, shared by BLEU and CIDEr-D."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MAX_ORDER = 4
"""Longest n-gram that BLEU-4 and CIDEr-D look at."""

Caption = tuple[str, ...]
"""The tokens of one caption."""


def ngram_counts(tokens: Sequence[str]) -> Counter[Caption]:
    """Count every n-gram of ``tokens`` with 1 to ``MAX_ORDER`` words."""
    counts: Counter[Caption] = Counter()
    for order in range(1, MAX_ORDER + 1):
        counts.update(zip(*(tokens[start:] for start in range(order)), strict=False))
    return counts
