"""Words in and out: special tokens, the untrusted wish and the prompt.

Special tokens enter a sequence in two ways only: as part of the program's own words, and by
id. The wish is cleaned and then encoded with special tokens switched off, so that nothing a
user writes can become one (design, 17). No torch here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from whatchanged.answers import EXPLAIN, TARGET
from whatchanged.errors import CheckpointError, UsageError
from whatchanged.models.reasoncd.config import PromptConfig

SPECIAL_TOKENS = ("<T1>", "<T2>", "<CRoI>", "</CRoI>", TARGET)
"""Before and after placeholder, wish start and end, target (Table I, rows 4 to 8)."""

IGNORED = -100
"""Label of a token that is not learned."""

# --- the wish is untrusted ------------------------------------------------------------------

# Marks of special tokens and of chat forms, and what is written in their place.
_HARMLESS = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "|": "/"})
_REQUEST = f" {EXPLAIN}"  # of the program, not of the wish: it counts against no limit


def clean_wish(text: str, max_characters: int) -> str:
    """Return a wish without anything that could pass for a special token or a chat marker.

    Compatibility forms are resolved (a full-width `＜` is a `<`), control, format and
    unassigned characters removed (zero-width ones can hide inside a token), angle and square
    brackets and bars replaced, white space joined.

    Raises:
        UsageError: Nothing is left, or more than `max_characters` before the request to explain.
    """
    if len(text) > 8 * max_characters + len(_REQUEST):  # before any work on it
        raise _too_long(len(text), max_characters)
    spaced = "".join(" " if c.isspace() else c for c in text)
    plain = unicodedata.normalize("NFKC", spaced)
    kept = (c for c in plain if unicodedata.category(c)[0] != "C")
    safe = "".join(_plain_bracket(c) for c in kept).translate(_HARMLESS)
    wish = " ".join(safe.split())
    if not any(c.isalnum() for c in wish):
        raise UsageError("the wish is empty", hint='say what to look for, such as "new buildings"')
    if len(wish.removesuffix(_REQUEST)) > max_characters:
        raise _too_long(len(wish.removesuffix(_REQUEST)), max_characters)
    return wish


def _plain_bracket(char: str) -> str:
    """Turn a composed bracket, such as `≮`, into the bracket that it decomposes to."""
    first = unicodedata.normalize("NFKD", char)[:1]
    return first if first in "<>[]|" else char


def _too_long(length: int, limit: int) -> UsageError:
    return UsageError(
        f"the wish has {length} characters; at most {limit} are allowed",
        hint="ask for one thing at a time",
    )


# --- tokens ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenIds:
    """Ids of the tokens that steer the model."""

    before: int
    after: int
    wish_start: int
    wish_end: int
    target: int
    answer_end: int

    @property
    def new(self) -> tuple[int, ...]:
        """Ids of the five new tokens, in the order of `SPECIAL_TOKENS`."""
        return (self.before, self.after, self.wish_start, self.wish_end, self.target)

    @property
    def never_said(self) -> tuple[int, ...]:
        """Tokens that have no place in an answer."""
        return self.new[:4]


@dataclass(frozen=True)
class TextSample:
    """Token ids of one prompt with its answer, placeholders not yet expanded, and labels."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def add_special_tokens(tokenizer: Any) -> None:
    """Add the five new tokens to a tokenizer of `transformers`, in place; twice adds nothing."""
    from tokenizers import AddedToken

    tokens = [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS]
    tokenizer.add_tokens(tokens, special_tokens=True)


class PromptWriter:
    """Turns wishes and answers into token ids and back.

    Args:
        tokenizer: Of `transformers`; the new tokens are added if they are missing.
        config: The words around the wish.

    Raises:
        CheckpointError: The tokenizer splits one of the tokens that steer the model.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig) -> None:
        add_special_tokens(tokenizer)
        self.tokenizer = tokenizer
        self.config = config
        self.ids = TokenIds(*(self._id(t) for t in (*SPECIAL_TOKENS, config.answer_end)))
        self._special = {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        words = f"{config.opening}{config.request} {SPECIAL_TOKENS[2]}"
        self.prefix: tuple[int, ...] = self._own(words)
        """Everything up to and including the wish start: the same for all wishes."""
        self._suffix = self._own(SPECIAL_TOKENS[3] + config.demand + config.closing)

    def wish(self, text: str) -> tuple[int, ...]:
        """Return the ids that follow `prefix`: the cleaned wish, its end, the demand.

        Raises:
            UsageError: The wish is empty or, without the request to explain, too long.
        """
        wish = clean_wish(text, self.config.max_wish_characters)
        n = len(self._foreign(" " + wish.removesuffix(_REQUEST)))
        if n > self.config.max_wish_tokens:
            raise UsageError(
                f"the wish has {n} tokens; at most {self.config.max_wish_tokens} are allowed",
                hint="say it shorter, in plain words",
            )
        return self._foreign(" " + wish) + self._suffix

    def answer(self, text: str) -> tuple[int, ...]:
        """Return the ids of an answer and its end; `<CHG>` is the one special token in it."""
        ids: list[int] = []
        for index, part in enumerate(text.split(TARGET)):
            if index:
                ids.append(self.ids.target)
            # The target's own id stands for the space before it.
            ids += self._foreign(part.rstrip()) if part.strip() else ()
        return (*ids, self.ids.answer_end)

    def sample(self, wish: str, answer: str) -> TextSample:
        """Return a training sequence; only the answer and its end are learned."""
        prompt, said = self.prefix + self.wish(wish), self.answer(answer)
        return TextSample(prompt + said, (IGNORED,) * len(prompt) + said)

    def say(self, ids: Sequence[int]) -> str:
        """Return the text of answer ids, with `<CHG>` where the target token stands."""
        text, part = "", list[int]()
        for index in [*ids, self.ids.target]:
            if index != self.ids.target:
                part.append(index)
                continue
            words = cast(str, self.tokenizer.decode(part, skip_special_tokens=True)).strip()
            text += words if not text or words[:1] in (*".,;:!?)", "") else f" {words}"
            text, part = f"{text} {TARGET}", []
        return text.removesuffix(TARGET).strip()

    def _own(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _foreign(self, text: str) -> tuple[int, ...]:
        """Encode text whose special tokens, if any, must stay letters."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(index for index in encoded.input_ids if index not in self._special)

    def _id(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or self._own(token) != (index,):
            raise CheckpointError(
                f"the tokenizer does not know {token} as one token",
                hint="use the language model that the preset names",
            )
        return int(index)
