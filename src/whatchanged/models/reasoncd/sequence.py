"""Sequences for the language model: placeholders expanded to image tokens, batches padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whatchanged.errors import UsageError
from whatchanged.models.reasoncd.config import StateKind
from whatchanged.models.reasoncd.prompt import IGNORED, TextSample, TokenIds

TEXT, BEFORE, AFTER = 0, 1, 2
"""What a place of a sequence holds: a word, an image token of the earlier or the later date."""


@dataclass(frozen=True)
class TextBatch:
    """Expanded sequences, padded on the right; all [B, L].

    Attributes:
        ids: Token ids; the placeholder's at every image token.
        labels: What each place should have been predicted as; `IGNORED` where nothing is.
        attention: 1 at places that exist, 0 at padding.
        kind: `TEXT`, `BEFORE` or `AFTER`.
    """

    ids: Tensor
    labels: Tensor
    attention: Tensor
    kind: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch on a device."""
        return TextBatch(*(getattr(self, name).to(device) for name in self.__annotations__))


def expand(sample: TextSample, n_tokens: int, ids: TokenIds) -> TextBatch:
    """Widen each placeholder to its image tokens; labels and mask stay aligned (design, 3).

    Args:
        sample: One sequence with each placeholder once.
        n_tokens: Image tokens a date, such as 256.
        ids: Which tokens are placeholders.

    Returns:
        A batch of one, [1, L + 2 (n_tokens - 1)].
    """
    row = torch.tensor(sample.ids)
    kind = torch.full_like(row, TEXT)
    kind[row == ids.before] = BEFORE
    kind[row == ids.after] = AFTER
    if [int((kind == k).sum()) for k in (BEFORE, AFTER)] != [1, 1]:
        raise UsageError("a sequence must hold each image placeholder exactly once")
    counts = torch.where(kind == TEXT, 1, n_tokens)
    labels = torch.tensor(sample.labels).masked_fill(kind != TEXT, IGNORED)
    wide = [x.repeat_interleave(counts).unsqueeze(0) for x in (row, labels, kind)]
    return TextBatch(wide[0], wide[1], torch.ones_like(wide[0]), wide[2])


def collate(
    samples: Sequence[TextSample], n_tokens: int, ids: TokenIds, max_length: int
) -> TextBatch:
    """Expand samples and pad them on the right to one batch.

    Raises:
        UsageError: A sequence is longer than `max_length`.
    """
    rows = [expand(sample, n_tokens, ids) for sample in samples]
    longest = max(row.ids.shape[1] for row in rows)
    if longest > max_length:
        raise UsageError(
            f"a sequence has {longest} tokens with its image tokens; the limit is {max_length}",
            hint="shorten the answer, or raise prompt.max_length",
        )

    def pad(name: str, value: int) -> Tensor:
        out = torch.full((len(rows), longest), value)
        for target, row in zip(out, rows, strict=True):
            tensor: Tensor = getattr(row, name)[0]
            target[: len(tensor)] = tensor
        return out

    return TextBatch(
        pad("ids", ids.answer_end), pad("labels", IGNORED), pad("attention", 0), pad("kind", TEXT)
    )


def target_places(batch: TextBatch, target: int, state: StateKind) -> tuple[Tensor, Tensor]:
    """Find the states that masks are made of, from the real expansion (design, 5).

    Returns:
        Rows [n] and places [n] of the states: those of the target tokens that are to be
        said, or those one place earlier that predict them.
    """
    rows, places = (batch.labels == target).nonzero(as_tuple=True)
    return rows, places - int(state == "predicting")
