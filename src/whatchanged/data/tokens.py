"""Words of captions: tokenisation, the unchanged sentences, and the vocabulary.

The rules are those of the change-captioning field (LEVIR-CC and everything scored on it),
so that token ids, and with them the published scores, can be reproduced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from whatchanged.errors import DatasetError, UsageError

NULL, UNK, START, END = 0, 1, 2, 3
SPECIALS = ("<NULL>", "<UNK>", "<START>", "<END>")

UNCHANGED_CAPTION = "the scene is the same as before"
UNCHANGED_SENTENCES = (
    "there is no difference",
    "the two scenes seem identical",
    UNCHANGED_CAPTION,
    "no change has occurred",
    "almost nothing has changed",
)

MAX_TOKENS = 41  # with START and END: the longest caption of LEVIR-CC has 39 words

# Angle brackets go, so that no text can spell a special token.
_PUNCTUATION = str.maketrans({";": " ; ", ",": " , ", "?": "", ".": "", "<": " ", ">": " "})


def tokenise(text: str) -> list[str]:
    """Split a caption into words as LEVIR-CC's own tokens are split.

    Lower case, split at white space; ``;`` and ``,`` are words of their own, ``?`` and ``.``
    are dropped, and so are angle brackets, so that text never becomes a special token.
    """
    return text.translate(_PUNCTUATION).lower().split()


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids: NULL 0, UNK 1, START 2, END 3, then the words of the captions.

    Args:
        words: All words in order of their ids, the four specials first.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a list that would give two words one id or a word the id of a special."""
        if self.words[: len(SPECIALS)] != SPECIALS:
            raise DatasetError(f"a vocabulary must begin with {', '.join(SPECIALS)}")
        if len(self._ids) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise DatasetError(f"vocabulary has '{twice[0]}' more than once")
        for word in self.words[len(SPECIALS) :]:
            if tokenise(word) != [word]:
                raise DatasetError(f"vocabulary entry {word!r} is not one lower-case word")

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], min_count: int = 5) -> Vocabulary:
        """Collect the words that occur more than ``min_count`` times, in alphabetical order.

        Args:
            captions: Tokenised captions, of the training split alone unless a published
                protocol that counts all splits is to be reproduced.
            min_count: The count a word must exceed; rarer words become UNK.
        """
        counts = Counter(word for caption in captions for word in caption)
        kept = sorted(
            word for word, count in counts.items() if count > min_count and word not in SPECIALS
        )
        return cls(SPECIALS + tuple(kept))

    def __len__(self) -> int:
        """Return the number of ids, specials included."""
        return len(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def encode(self, tokens: Sequence[str], max_len: int = MAX_TOKENS) -> list[int]:
        """Return START, the words' ids and END, at most ``max_len`` ids in all.

        A longer caption loses its last words and keeps END. A word that is not in the
        vocabulary is UNK, and so is a token that spells a special.

        Raises:
            UsageError: ``max_len`` has no room for START, one word and END.
        """
        if max_len < 3:
            raise UsageError(f"max_len is {max_len}; START, one word and END need 3")
        inner = [self._ids.get(word, UNK) for word in tokens[: max_len - 2]]
        return [START, *(index if index >= len(SPECIALS) else UNK for index in inner), END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words up to the first END, without START and NULL; UNK stays ``<UNK>``.

        Raises:
            DatasetError: An id that is not in the vocabulary.
        """
        words = []
        for index in ids:
            if not 0 <= index < len(self.words):
                raise DatasetError(f"word id {index} is outside the {len(self.words)} known words")
            if index == END:
                break
            if index not in (NULL, START):
                words.append(self.words[index])
        return words

    def to_json(self) -> str:
        """Return the vocabulary as JSON text: ``{"words": [...]}`` in order of the ids."""
        return json.dumps({"words": self.words}, ensure_ascii=False, indent=0)

    @classmethod
    def from_json(cls, text: str, source: str = "vocabulary") -> Vocabulary:
        """Read what :meth:`to_json` wrote.

        Args:
            text: JSON text.
            source: What to call the text in errors, such as its file name.

        Raises:
            DatasetError: Not JSON, not a list of words, or words that clash.
        """
        try:
            words = json.loads(text)["words"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise DatasetError(f"{source} is not a vocabulary in JSON: {error!r}") from error
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DatasetError(f"{source}: 'words' is not a list of words")
        try:
            return cls(tuple(words))
        except DatasetError as error:
            raise DatasetError(f"{source}: {error.message}") from error
