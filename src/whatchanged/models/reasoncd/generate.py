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
        """Read tokens [B, T], of which some places are empty, and return the last states.

        An empty place is masked for all that follow and moves no position.
        """
        self.attention = torch.cat([self.attention, present.long()], dim=1)
        ahead = present.long().cumsum(dim=1)  # [B, T]
        positions = self.next.unsqueeze(1) + (ahead - 1).clamp(min=0)
        self.next = self.next + ahead[:, -1]
        embedded = self.language.embed(ids)
        return self.language.states(embedded, self.attention, positions, self.cache)[:, -1]


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
) -> list[Generated]:
    """Say the likeliest token until the answer ends, for all wishes together.

    Wishes of different length are padded between prefix and wish; masked places and positions
    counted per row make every row the same as if it were asked alone.

    Args:
        language: In evaluation mode.
        prefix: Of `remember`, for the pairs.
        rows: Which pair each wish is about.
        wishes: Token ids from the wish to the start of the answer.
        ids: Tokens that steer.
        max_tokens: Longest answer.
        state: Whose state stands for a target token.
        force_target: Append the target token to answers without one.
    """
    device = language.rows.device
    n = len(wishes)
    reader = _Reader(language, prefix, torch.tensor(list(rows), device=device))
    current = reader.read(*_pad_left(wishes, ids.answer_end, device))  # [n, D]
    said: list[list[int]] = [[] for _ in wishes]
    states: list[list[Tensor]] = [[] for _ in wishes]
    forced = [False] * n

    def append(words: Tensor, active: Tensor) -> Tensor:
        """Write one token to the active rows and keep the states of target tokens."""
        words = words.masked_fill(~active, ids.answer_end)
        after = reader.read(words.unsqueeze(1), active.unsqueeze(1))
        kept = current if state == "predicting" else after
        for i in active.nonzero().flatten().tolist():
            said[i].append(int(words[i]))
            if words[i] == ids.target:
                states[i].append(kept[i])
        return torch.where(active.unsqueeze(1), after, current)

    active = torch.ones(n, dtype=torch.bool, device=device)
    for _ in range(max_tokens):
        logits = language.logits(current)
        logits[:, list(ids.never_said)] = -torch.inf
        words = logits.argmax(dim=1)
        active = active & (words != ids.answer_end)
        if not bool(active.any()):
            break
        current = append(words, active)
    if force_target:
        lacking = torch.tensor([not found for found in states], device=device)
        forced = lacking.tolist()
        if any(forced):
            append(torch.full((n,), ids.target, device=device), lacking)
    complete = (~active).tolist()
    nothing = current.new_zeros(0, current.shape[1])
    return [
        Generated(tuple(said[i]), torch.stack([*states[i]]) if states[i] else nothing, forced[i],
                  complete[i])
        for i in range(n)
    ]  # fmt: skip


def _pad_left(
    rows: Sequence[Sequence[int]], filler: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), filler, device=device)
    present = torch.zeros(len(rows), longest, dtype=torch.bool, device=device)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(list(row), device=device)
        present[i, longest - len(row) :] = True
    return ids, present
