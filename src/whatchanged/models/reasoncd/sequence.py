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


PADDING = -1
"""Segment of a place that does not exist."""


@dataclass(frozen=True)
class TextBatch:
    """Expanded sequences, padded on the right; all [B, L].

    A row is one pair. Its samples share the places up to the wish start, which are computed
    once, and do not see each other: training on K wishes about a pair costs one prompt with
    its image tokens instead of K.

    Attributes:
        ids: Token ids; the placeholder's at every image token.
        labels: What each place should have been predicted as; `IGNORED` where nothing is.
        kind: `TEXT`, `BEFORE` or `AFTER`.
        segment: 0 at what the samples of a row share, 1 to K at the K-th sample's own places,
            `PADDING` where there is nothing.
        positions: Of each place in its own sample, counted from 0.
    """

    ids: Tensor
    labels: Tensor
    kind: Tensor
    segment: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch on a device."""
        return TextBatch(*(getattr(self, name).to(device) for name in self.__annotations__))

    def attention(self) -> Tensor:
        """Return what each place may see.

        [B, L], 1 at places that exist, where every row is one sample (then the language model
        is causal by itself); else [B, 1, L, L] bool: earlier places of the shared part and of
        the own sample. That costs O(L^2) bits a row.
        """
        if int(self.segment.amax()) <= 1:
            return (self.segment != PADDING).long()
        own, seen = self.segment.unsqueeze(2), self.segment.unsqueeze(1)
        length = self.segment.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=own.device).tril()
        visible = causal & ((seen == 0) | (seen == own)) & (seen != PADDING)
        return visible.unsqueeze(1)

    def samples(self) -> tuple[Tensor, Tensor]:
        """Return row and segment of every sample, [n] each, row by row in the order given."""
        rows: list[int] = []
        segments: list[int] = []
        for row, last in enumerate(self.segment.amax(dim=1).tolist()):
            rows += [row] * last
            segments += range(1, last + 1)
        device = self.segment.device
        return torch.tensor(rows, device=device), torch.tensor(segments, device=device)


def expand(groups: Sequence[TextSample], n_tokens: int, ids: TokenIds) -> TextBatch:
    """Join the samples about one pair and widen each placeholder to its image tokens.

    Labels stay aligned (design, 3).

    Args:
        groups: Samples with the same prompt up to the wish start, each placeholder once in it.
        n_tokens: Image tokens a date, such as 256.
        ids: Which tokens are placeholders.

    Returns:
        A batch of one row.
    """
    first = groups[0]
    shared = first.ids.index(ids.wish_start) + 1 if ids.wish_start in first.ids else len(first.ids)
    if any(sample.ids[:shared] != first.ids[:shared] for sample in groups):
        raise UsageError("samples of one row must share their prompt up to the wish")
    row, labels = list(first.ids[:shared]), list(first.labels[:shared])
    segment, places = [0] * shared, list(range(shared))
    for number, sample in enumerate(groups, start=1):
        own = len(sample.ids) - shared
        row += sample.ids[shared:]
        labels += sample.labels[shared:]
        segment += [number] * own
        places += range(shared, shared + own)
    narrow = torch.tensor(row)
    kind = torch.full_like(narrow, TEXT)
    kind[narrow == ids.before] = BEFORE
    kind[narrow == ids.after] = AFTER
    if [int((kind == k).sum()) for k in (BEFORE, AFTER)] != [1, 1]:
        raise UsageError("a sequence must hold each image placeholder exactly once")
    counts = torch.where(kind == TEXT, 1, n_tokens)
    # A place moves by the image tokens before it; the placeholders lie in the shared part.
    offset = (counts[:shared] - 1).cumsum(0)
    start = torch.tensor(places) + torch.cat(
        [offset - (counts[:shared] - 1), offset[-1:].expand(len(row) - shared)]
    )
    within = torch.cat([torch.arange(int(count)) for count in counts])
    wide = [
        x.repeat_interleave(counts)
        for x in (narrow, torch.tensor(labels), kind, torch.tensor(segment), start)
    ]
    wide[1] = wide[1].masked_fill(wide[2] != TEXT, IGNORED)
    wide[4] = wide[4] + within
    return TextBatch(*(x.unsqueeze(0) for x in wide))


def collate(
    groups: Sequence[Sequence[TextSample]], n_tokens: int, ids: TokenIds, max_length: int
) -> TextBatch:
    """Expand the samples of each pair and pad the rows on the right to one batch.

    Raises:
        UsageError: A sample is longer than `max_length`.
    """
    rows = [expand(group, n_tokens, ids) for group in groups]
    longest = max(int(row.positions.amax()) + 1 for row in rows)
    if longest > max_length:
        raise UsageError(
            f"a sequence has {longest} tokens with its image tokens; the limit is {max_length}",
            hint="shorten the answer, or raise prompt.max_length",
        )
    width = max(row.ids.shape[1] for row in rows)

    def pad(name: str, value: int) -> Tensor:
        out = torch.full((len(rows), width), value)
        for target, row in zip(out, rows, strict=True):
            tensor: Tensor = getattr(row, name)[0]
            target[: len(tensor)] = tensor
        return out

    return TextBatch(
        pad("ids", ids.answer_end),
        pad("labels", IGNORED),
        pad("kind", TEXT),
        pad("segment", PADDING),
        pad("positions", 0),
    )


def target_places(batch: TextBatch, target: int, state: StateKind) -> tuple[Tensor, Tensor]:
    """Find the states that masks are made of, from the real expansion (design, 5).

    Returns:
        Rows [n] and places [n] of the states: those of the target tokens that are to be
        said, or those one place earlier that predict them.
    """
    rows, places = (batch.labels == target).nonzero(as_tuple=True)
    return rows, places - int(state == "predicting")
