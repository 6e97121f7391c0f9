"""What is compared: words, or vocabulary ids as in the published numbers.

The change captioning papers since RSICCformer turn tokens into the decimal strings of their
vocabulary ids before they score, with START, END and NULL taken away and UNK kept on both
sides. A word outside the vocabulary is then UNK in the prediction and in the reference, and
the two match. Which captions the vocabulary was built from is therefore part of a number's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from whatchanged.errors import UsageError

Protocol = Literal["ids", "words"]
"""``ids``: decimal strings of vocabulary ids, as published. ``words``: the words themselves."""
VocabularySource = Literal["train", "all-splits"]
"""Captions the vocabulary of ``ids`` is built from; the published code reads all splits."""

PUBLISHED_MIN_COUNT = 6
"""The published code keeps words that occur more than five times."""

NULL, UNK, START, END = "<NULL>", "<UNK>", "<START>", "<END>"
_SILENT = frozenset({NULL, START, END})


def build_vocabulary(
    captions: Mapping[str, Iterable[Sequence[str]]],
    source: VocabularySource = "all-splits",
    *,
    min_count: int = PUBLISHED_MIN_COUNT,
) -> dict[str, int]:
    """Number the words of data set captions.

    Args:
        captions: For each split name its captions as token lists.
        source: ``train`` reads the split of that name alone.
        min_count: Rarer words are left out and score as UNK.

    Returns:
        NULL, UNK, START, END as 0 to 3, then the words in alphabetical order.

    Raises:
        UsageError: ``train`` without a split of that name, or an unknown source.
    """
    if source == "all-splits":
        chosen = list(captions.values())
    elif source == "train" and "train" in captions:
        chosen = [captions["train"]]
    else:
        splits = ", ".join(captions) or "none"
        raise UsageError(
            f"no captions for the vocabulary {source!r}: splits are {splits}",
            hint="use train (needs a split of that name) or all-splits",
        )
    counts = Counter(word for group in chosen for caption in group for word in caption)
    special = (NULL, UNK, START, END)
    words = sorted(w for w, count in counts.items() if count >= min_count and w not in special)
    ordered = [*special, *words]
    return {word: index for index, word in enumerate(ordered)}


def to_ids(caption: Sequence[str], vocabulary: Mapping[str, int]) -> list[str]:
    """Turn words into decimal id strings; unknown words become UNK and stay.

    Raises:
        UsageError: The vocabulary has no UNK.
    """
    if UNK not in vocabulary:
        raise UsageError(f"the vocabulary has no {UNK}", hint="build it with build_vocabulary")
    unknown = vocabulary[UNK]
    return [str(vocabulary.get(word, unknown)) for word in to_words(caption)]


def to_words(caption: Sequence[str]) -> list[str]:
    """Return the caption without NULL, START and END."""
    return [word for word in caption if word not in _SILENT]
