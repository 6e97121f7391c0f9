"""Greedy answers over a cached prefix, for a batch of wishes at once (III-F; design, 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whatchanged.models.reasoncd.config import StateKind
from whatchanged.models.reasoncd.language import LanguageModel
from whatchanged.models.reasoncd.outputs import Generated
from whatchanged.models.reasoncd.prompt import TokenIds

Prefix = tuple[tuple[Tensor, Tensor], ...]

_AHEAD = 8  # tokens that are read ahead at the most


@torch.no_grad()
def remember(language: LanguageModel, embedded: Tensor) -> Prefix:
    """Run the prompt up to the wish once and return its keys and values.

    Args:
        language: In evaluation mode.
        embedded: The prefix with its image tokens, the same length for all, [B, L, D].
    """
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    language.states(embedded, torch.ones(embedded.shape[:2], device=embedded.device), cache=cache)
    return tuple((layer.keys, layer.values) for layer in cache.layers)


class _Reader:
    """A batch being read and written: cache, attention mask and next position of each row."""

    def __init__(self, language: LanguageModel, prefix: Prefix, rows: Tensor) -> None:
        from transformers import DynamicCache

        self.language = language
        self.cache: Any = DynamicCache([(keys[rows], values[rows]) for keys, values in prefix])
        length = prefix[0][0].shape[2]
        self.attention = torch.ones(len(rows), length, device=rows.device, dtype=torch.long)
        self.next = torch.full((len(rows),), length, device=rows.device)

    def read(self, ids: Tensor, present: Tensor) -> Tensor:
        """Read tokens [B, T], of which some places are empty, and return their states [B, T, D].

        An empty place is masked for all that follow and moves no position.
        """
        self.attention = torch.cat([self.attention, present.long()], dim=1)
        ahead = present.long().cumsum(dim=1)  # [B, T]
        positions = self.next.unsqueeze(1) + (ahead - 1).clamp(min=0)
        self.next = self.next + ahead[:, -1]
        embedded = self.language.embed(ids)
        return self.language.states(embedded, self.attention, positions, self.cache)

    def keep(self, counts: Tensor, length: int) -> None:
        """Make empty what each row read last, `length` places, but for its first `counts`."""
        last = self.attention[:, -length:]
        kept = last * (torch.arange(length, device=last.device) < counts.unsqueeze(1))
        self.next = self.next - (last - kept).sum(dim=1)
        self.attention = torch.cat([self.attention[:, :-length], kept], dim=1)


@torch.no_grad()
def greedy_answers(
    language: LanguageModel,
    prefix: Prefix,
    rows: Sequence[int],
    wishes: Sequence[Sequence[int]],
    ids: TokenIds,
    *,
    max_tokens: int,
    state: StateKind = "own",
    force_target: bool = False,
    usual: Sequence[tuple[int, ...]] = (),
) -> list[Generated]:
    """Say the likeliest token until the answer ends, for all wishes together.

    Wishes of different length are padded between prefix and wish; masked places and positions
    counted per row make every row the same as if it were asked alone.

    A pass costs the reading of all weights, be it for one token or for ten. So where what was
    said so far begins a usual answer, the rest of that is read ahead, and kept as far as every
    token is what the model says anyway: the same answer in fewer passes.

    Args:
        language: In evaluation mode.
        prefix: Of `remember`, for the pairs.
        rows: Which pair each wish is about.
        wishes: Token ids from the wish to the start of the answer.
        ids: Tokens that steer.
        max_tokens: Longest answer.
        state: Whose state stands for a target token.
        force_target: Append the target token to answers without one.
        usual: Token ids of answers that are likely, without their end, the likeliest first.
    """
    device = language.rows.device
    n = len(wishes)
    reader = _Reader(language, prefix, torch.tensor(list(rows), device=device))
    said: list[list[int]] = [[] for _ in wishes]
    states: list[list[Tensor]] = [[] for _ in wishes]
    before = reader.read(*_pad(wishes, ids.answer_end, device, left=True))[:, -1]  # [n, D]

    def likeliest(at: Tensor) -> Tensor:
        logits = language.logits(at)
        logits[..., list(ids.never_said)] = -torch.inf
        return logits.argmax(dim=-1)

    def write(tokens: list[list[int]]) -> list[int]:
        """Read tokens of each row and keep what it says anyway; return what it says next."""
        ahead, present = _pad(tokens, ids.answer_end, device)
        after = reader.read(ahead, present)  # [n, T, D]
        says = likeliest(after).tolist()
        kept = [_agreed(row, next_) for row, next_ in zip(tokens, says, strict=True)]
        reader.keep(torch.tensor(kept, device=device), ahead.shape[1])
        for i, count in enumerate(kept):
            for place, token in enumerate(tokens[i][:count]):
                if token == ids.target:
                    predicting = after[i, place - 1] if place else before[i].clone()
                    states[i].append(predicting if state == "predicting" else after[i, place])
            said[i] += tokens[i][:count]
            if count:
                before[i] = after[i, count - 1]
        return [row[count - 1] for row, count in zip(says, kept, strict=True)]

    words = likeliest(before).tolist()
    complete = [False] * n
    while True:
        tokens: list[list[int]] = [[] for _ in wishes]
        for i, word in enumerate(words):
            room = max_tokens - len(said[i])
            if room and not complete[i]:
                complete[i] = word == ids.answer_end
                tokens[i] = [] if complete[i] else [word, *_rest(usual, [*said[i], word])][:room]
        if not any(tokens):
            break
        words = write(tokens)
    lacking = [force_target and not found for found in states]
    if any(lacking):
        write([[ids.target] if lacks else [] for lacks in lacking])
    nothing = before.new_zeros(0, before.shape[1])
    return [
        Generated(tuple(said[i]), torch.stack([*states[i]]) if states[i] else nothing, lacking[i],
                  complete[i])
        for i in range(n)
    ]  # fmt: skip


def _rest(usual: Sequence[tuple[int, ...]], said: Sequence[int]) -> tuple[int, ...]:
    """Return how a usual answer that begins with what was said goes on, `_AHEAD` tokens of it."""
    begun = tuple(said)
    fitting = (answer for answer in usual if answer[: len(begun)] == begun)
    return next(fitting, begun)[len(begun) : len(begun) + _AHEAD]


def _agreed(tokens: Sequence[int], says: Sequence[int]) -> int:
    """Return how many tokens from the first on each follow from the one before."""
    for place in range(1, len(tokens)):
        if tokens[place] != says[place - 1]:
            return place
    return len(tokens)


def _pad(
    rows: Sequence[Sequence[int]], filler: int, device: torch.device, *, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Return rows of tokens as one, [n, T], and which places exist; padded on the right or left."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), filler, device=device)
    present = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
    for i, row in enumerate(rows):
        start = longest - len(row) if left else 0
        ids[i, start : start + len(row)] = torch.tensor(list(row), device=device)
        present[i, start : start + len(row)] = True
    return ids, present
