"""The list of fresh wishes can be read, and counts what an answer states."""

from __future__ import annotations

import pytest

from fresh_wishes import KINDS, FreshWish, meaning, read_list, table
from whatchanged.answers import Understood, format_absent, format_answer, parse_answer
from whatchanged.data.wishes import plain_wording
from whatchanged.errors import UsageError


def test_every_wish_of_the_list_stands_once_and_can_be_answered() -> None:
    wishes = read_list()
    assert {wish.kind for wish in wishes} == set(KINDS)
    texts = [plain_wording(wish.text) for wish in wishes]
    assert len(texts) == len(set(texts)) == 250
    for wish in wishes:
        assert bool(wish.readings) == (wish.kind != "off the subject"), wish.text
        for reading in wish.readings:  # an answer can state it, so that it can be met
            assert parse_answer(format_answer(reading)) == reading
            assert parse_answer(format_absent(reading)) == reading


def test_meanings_are_read_in_the_order_of_answers() -> None:
    assert meaning("road, building appeared") == Understood(("building", "road"), "appeared")
    assert meaning("low vegetation disappeared") == Understood(("low vegetation",), "disappeared")
    both = Understood(("building",), "appeared", ("low vegetation", "tree"))
    assert meaning("building appeared from tree, low vegetation") == both
    with pytest.raises(UsageError):
        meaning("castle appeared")


def test_an_answer_meets_any_fair_reading_and_the_off_subject_none() -> None:
    one, other = meaning("tree disappeared"), meaning("bare ground appeared")
    wish = FreshWish("erosion", "implicit", (one, other))
    assert wish.is_met_by(one) and wish.is_met_by(other)
    assert not wish.is_met_by(None)
    assert not wish.is_met_by(meaning("tree appeared"))
    poem = FreshWish("a poem, please", "off the subject", ())
    assert poem.is_met_by(None) and not poem.is_met_by(one)


def test_the_table_tells_what_the_bank_trains_apart() -> None:
    wishes = [
        FreshWish("New buildings.", "explicit", (meaning("building appeared"),)),
        FreshWish("zeppelin hangars, fresh ones", "explicit", (meaning("building appeared"),)),
        *(FreshWish(f"{kind} xyzzy", kind, ()) for kind in KINDS[1:]),
    ]
    lines = table(wishes, [[True, True], [False, True], *([[False, False]] * 3)]).splitlines()
    assert lines[2] == "| explicit | 75.0 % | 2 | 1 | 50.0 % |"
    assert lines[3] == "| implicit | 0.0 % | 1 | 1 | 0.0 % |"
