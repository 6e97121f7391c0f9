"""Sequences: placeholders widened, labels and mask aligned, targets found where they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import UsageError
from whatchanged.models.reasoncd.prompt import IGNORED, TextSample, TokenIds
from whatchanged.models.reasoncd.sequence import (
    AFTER,
    BEFORE,
    PADDING,
    TEXT,
    collate,
    expand,
    target_places,
)

IDS = TokenIds(before=90, after=91, wish_start=92, wish_end=93, target=94, answer_end=95)


def sample(answer: tuple[int, ...] = (6, 94, 95), extra: int = 0) -> TextSample:
    prompt = (1, 90, 2, 91, 3, 92, *range(10, 10 + extra), 93)
    return TextSample(prompt + answer, (IGNORED,) * len(prompt) + answer)


def test_one_becomes_256() -> None:
    wide = expand([sample()], 256, IDS)
    assert wide.ids.shape == wide.labels.shape == wide.segment.shape == (1, 10 + 2 * 255)
    assert wide.ids[0, 1:257].tolist() == [90] * 256 and wide.ids[0, 257] == 2
    assert wide.ids[0, 258:514].tolist() == [91] * 256 and wide.ids[0, 514] == 3
    assert (wide.kind == BEFORE).nonzero()[:, 1].tolist() == list(range(1, 257))
    assert (wide.kind == AFTER).nonzero()[:, 1].tolist() == list(range(258, 514))
    assert wide.labels[0].tolist() == [IGNORED] * 517 + [6, 94, 95]
    assert wide.positions[0].tolist() == list(range(520))
    assert bool(wide.attention().all())


@given(st.integers(1, 9), st.integers(0, 5), st.lists(st.sampled_from([6, 7, 94]), max_size=6))
def test_expansion_keeps_words_and_labels(n: int, extra: int, answer: list[int]) -> None:
    narrow = sample((*answer, 95), extra)
    wide = expand([narrow], n, IDS)
    words = wide.kind[0] == TEXT
    kept = [i for i in narrow.ids if i not in (90, 91)]
    assert wide.ids[0][words].tolist() == kept
    learned = wide.labels[0] != IGNORED
    assert torch.equal(wide.labels[0][learned], wide.ids[0][learned])
    assert wide.ids[0][learned].tolist() == [*answer, 95]


def test_samples_of_a_row_share_their_prompt_and_nothing_else() -> None:
    asked = [sample(), sample((7, 95), extra=2), sample((94, 95), extra=1)]
    n = 3
    row = expand(asked, n, IDS)
    alone = [expand([one], n, IDS) for one in asked]
    shared = 6 + 2 * (n - 1)
    visible = row.attention()[0, 0]
    assert row.samples()[0].tolist() == [0, 0, 0] and row.samples()[1].tolist() == [1, 2, 3]
    for number, single in enumerate(alone, start=1):
        own = (row.segment[0] == number).nonzero().flatten()
        places = torch.cat([torch.arange(shared), own])
        for name in ("ids", "labels", "kind", "positions"):
            assert torch.equal(getattr(row, name)[0, places], getattr(single, name)[0]), name
        for place in own.tolist():  # a loop over the rule, in words
            expected = [p for p in places.tolist() if p <= place]
            assert visible[place].nonzero().flatten().tolist() == expected
    assert torch.equal(visible[:shared, :shared], torch.ones(shared, shared).tril().bool())


def test_nothing_sees_padding_and_no_place_sees_nothing() -> None:
    batch = collate([[sample(), sample()], [sample()]], 2, IDS, 100)
    visible = batch.attention()[:, 0]
    empty = batch.segment == PADDING
    assert empty.sum(dim=1).tolist() == [0, 4]
    assert not visible[1][:, empty[1]].any()
    assert bool(visible.any(dim=2).all())


def test_a_row_has_one_prompt() -> None:
    other = TextSample((8, *sample().ids[1:]), sample().labels)
    with pytest.raises(UsageError, match="share their prompt"):
        expand([sample(), other], 2, IDS)


@pytest.mark.parametrize("ids", [(1, 2), (90, 1), (90, 91, 91), (90, 90, 91)])
def test_each_placeholder_once(ids: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="exactly once"):
        expand([TextSample(ids, ids)], 4, IDS)


def test_batches_are_padded_on_the_right() -> None:
    batch = collate([[sample()], [sample(extra=3)]], 4, IDS, 100)
    assert batch.ids.shape == (2, 19)
    attention = batch.attention()
    assert attention[0].tolist() == [1] * 16 + [0] * 3 and bool(attention[1].all())
    assert batch.labels[0, 16:].tolist() == [IGNORED] * 3
    assert batch.kind[0, 16:].tolist() == [TEXT] * 3


def test_too_long_is_refused() -> None:
    assert collate([[sample()]], 4, IDS, 16).ids.shape == (1, 16)
    with pytest.raises(UsageError, match="16 tokens"):
        collate([[sample()]], 4, IDS, 15)


@pytest.mark.parametrize("n", [1, 4, 256])
def test_target_places_follow_the_expansion(n: int) -> None:
    batch = collate([[sample()], [sample((95,))], [sample((94, 7, 94, 95), extra=2)]], n, IDS, 600)
    rows, places = target_places(batch, 94, "own")
    assert rows.tolist() == [0, 2, 2]
    assert batch.ids[rows, places].tolist() == [94] * 3
    before = target_places(batch, 94, "predicting")
    assert before[0].tolist() == [0, 2, 2] and (places - before[1]).tolist() == [1] * 3


def test_a_target_in_the_prompt_is_not_said() -> None:
    """Only what is to be learned counts, so a stray token makes no mask."""
    stray = TextSample((90, 91, 94, 6, 95), (IGNORED, IGNORED, IGNORED, 6, 95))
    rows, _ = target_places(collate([[stray]], 2, IDS, 50), 94, "own")
    assert rows.tolist() == []
