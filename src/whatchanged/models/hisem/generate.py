"""Greedy and beam search over a caption decoder, batched, with cached keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from whatchanged.errors import UsageError
from whatchanged.models.hisem.decoder import CaptionDecoder
from whatchanged.models.outputs import Hypothesis

NULL, UNKNOWN, START, END = 0, 1, 2, 3
"""Ids of the special words; NULL fills up shorter captions."""

_NEVER_SAID = [NULL, UNKNOWN, START]


@torch.no_grad()
def greedy_search(decoder: CaptionDecoder, memory: Tensor, max_len: int) -> list[Hypothesis]:
    """Say the likeliest word until END, for a whole batch.

    Args:
        decoder: In evaluation mode.
        memory: [B, L, D].
        max_len: Longest caption, START and END included; one that reaches it has no END.

    Returns:
        One hypothesis a pair, its score the plain `log_probability`.
    """
    n_pairs = memory.shape[0]
    known = decoder.remember(memory)
    past = decoder.room(known, n_pairs, max_len)
    ids = torch.full((n_pairs, max_len), NULL, device=memory.device)
    ids[:, 0] = START
    total = torch.zeros(n_pairs, dtype=torch.float64, device=memory.device)
    finished = torch.zeros(n_pairs, dtype=torch.bool, device=memory.device)
    for t in range(max_len - 1):
        scores = _word_scores(decoder.step(ids[:, t : t + 1], t, known, past)).squeeze(1)  # [B, V]
        best, word = scores.max(dim=1)
        total += best.masked_fill(finished, 0.0)
        ids[:, t + 1] = word.masked_fill(finished, NULL)
        finished |= word == END
        if finished.all():
            break
    sums = total.tolist()
    return [Hypothesis(_said(row), sums[i], sums[i]) for i, row in enumerate(ids.tolist())]


@torch.no_grad()
def beam_search(
    decoder: CaptionDecoder,
    memory: Tensor,
    beam: int,
    max_len: int,
    *,
    normalise_length: bool = True,
) -> list[list[Hypothesis]]:
    """Keep the `beam` best captions while they grow, for a whole batch.

    Finished captions keep their place in the beam and compete by score with those that still
    grow; the search of a batch ends when every place holds a finished one. Width 1 is greedy
    search. Word t costs O(beam (t D + L D + D^2)) a pair and layer, plus moving the kept keys
    and values of earlier words; those of the memory exist once a pair.

    Args:
        decoder: In evaluation mode.
        memory: [B, L, D].
        beam: Captions kept a pair.
        max_len: Longest caption, START and END included; one that reaches it has no END.
        normalise_length: Rank by log probability per word instead of its sum, which
            favours short captions.

    Returns:
        Up to `beam` different hypotheses a pair, best first.
    """
    if beam < 1:
        raise UsageError(f"a beam of {beam} keeps no caption; it must be at least 1")
    n_pairs, device = memory.shape[0], memory.device
    known = decoder.remember(memory)
    past = decoder.room(known, n_pairs * beam, max_len)
    ids = torch.full((n_pairs, beam, max_len), NULL, device=device)
    ids[:, :, 0] = START
    # All places start from the same START: only the first may be extended.
    total = torch.full((n_pairs, beam), -torch.inf, dtype=torch.float64, device=device)
    total[:, 0] = 0.0
    length = torch.zeros(n_pairs, beam, dtype=torch.long, device=device)
    finished = torch.zeros(n_pairs, beam, dtype=torch.bool, device=device)
    offset = torch.arange(n_pairs, device=device).unsqueeze(1) * beam
    for t in range(max_len - 1):
        scores = _word_scores(decoder.step(ids[:, :, t], t, known, past))  # [B, K, V]
        # A finished caption has one continuation, NULL, which costs nothing.
        scores.masked_fill_(finished.unsqueeze(2), -torch.inf)
        scores[:, :, NULL].masked_fill_(finished, 0.0)
        sums = total.unsqueeze(2) + scores
        words = length + ~finished
        ranked = sums / words.unsqueeze(2) if normalise_length else sums
        chosen = ranked.flatten(1).topk(beam, dim=1).indices  # [B, K]
        parent, word = chosen // scores.shape[2], chosen % scores.shape[2]
        total = sums.flatten(1).gather(1, chosen)
        ids = ids.gather(1, parent.unsqueeze(2).expand_as(ids))
        ids[:, :, t + 1] = word
        length, finished = words.gather(1, parent), finished.gather(1, parent) | (word == END)
        if finished.all():
            break
        rows = (offset + parent).flatten()
        past = [kept.take(rows) for kept in past]
    ranks = total / length if normalise_length else total
    return [
        [
            Hypothesis(_said(row), log_probability, score)
            for row, log_probability, score in zip(rows_, sums_, scores_, strict=True)
            if log_probability > -torch.inf  # fewer captions than places exist
        ]
        for rows_, sums_, scores_ in zip(ids.tolist(), total.tolist(), ranks.tolist(), strict=True)
    ]


@torch.no_grad()
def sample(
    decoder: CaptionDecoder, memory: Tensor, n: int, max_len: int, generator: torch.Generator
) -> Tensor:
    """Draw `n` captions a pair from the decoder's own distribution.

    Args:
        decoder: In evaluation mode.
        memory: [B, L, D].
        n: Captions a pair.
        max_len: Longest caption, START and END included.
        generator: Source of the draws, on the CPU.

    Returns:
        Word ids from START to END, then NULL, [B, n, T].
    """
    n_pairs = memory.shape[0]
    known = decoder.remember(memory)
    past = decoder.room(known, n_pairs * n, max_len)
    ids = torch.full((n_pairs, n, max_len), NULL, device=memory.device)
    ids[:, :, 0] = START
    finished = torch.zeros(n_pairs, n, dtype=torch.bool, device=memory.device)
    for t in range(max_len - 1):
        chances = _word_scores(decoder.step(ids[:, :, t], t, known, past)).exp()  # [B, n, V]
        drawn = torch.multinomial(chances.flatten(0, 1).cpu(), 1, generator=generator)
        word = drawn.view(n_pairs, n).to(ids.device)
        ids[:, :, t + 1] = word.masked_fill(finished, NULL)
        finished |= word == END
        if finished.all():
            break
    return ids[:, :, : t + 2]


def _word_scores(logits: Tensor) -> Tensor:
    """Return log probabilities, [..., V] float64, of the words a caption may hold."""
    scores = logits.double().log_softmax(dim=-1)
    scores[..., _NEVER_SAID] = -torch.inf
    return scores


def _said(row: list[int]) -> tuple[int, ...]:
    words = row[1:]
    for stop in (END, NULL):
        if stop in words:
            words = words[: words.index(stop)]
    return tuple(words)
