"""The grammar of answers: what is stated is read back, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.answers import (
    CLASS_WORDS,
    Understood,
    format_absent,
    format_answer,
    parse_answer,
)
from whatchanged.errors import UsageError

NAMED = [name for name in CLASS_WORDS if name != "any"]
DIRECTIONS = st.sampled_from(["appeared", "disappeared", "either"])
SOME = st.lists(st.sampled_from(NAMED), min_size=1, max_size=4, unique=True).map(tuple)
UNDERSTOOD = st.one_of(
    st.builds(Understood, SOME, DIRECTIONS),
    st.builds(Understood, st.just(("any",)), DIRECTIONS),
    st.builds(Understood, SOME, st.just("appeared"), SOME),
)


@given(UNDERSTOOD)
def test_what_is_stated_is_read_back(understood: Understood) -> None:
    assert parse_answer(format_answer(understood)) == understood
    assert parse_answer(format_answer(understood, "Rain floods low fields.")) == understood
    if not understood.former or "any" not in understood.classes:
        assert parse_answer(format_absent(understood)) == understood


def test_wordings() -> None:
    new = Understood(("building",), "appeared")
    assert format_answer(new) == "It's buildings that appeared: <CHG>."
    assert format_answer() == "It's <CHG>."
    both = Understood(("building", "road", "tree"), "either")
    assert format_answer(both) == "It's buildings, roads and trees that changed: <CHG>."
    field = Understood(("building",), "appeared", ("low vegetation",))
    assert format_answer(field) == "It's buildings made from low vegetation: <CHG>."
    assert format_answer(new, "People move in. ") == (
        "People move in. It's buildings that appeared: <CHG>."
    )
    assert "no buildings" in format_absent(new) and "<CHG>" not in format_absent(new)
    flood = Understood(("water",), "appeared")
    assert format_absent(flood) == "There is no water that appeared between these images."
    assert parse_answer(format_absent(flood)) == flood
    assert "<CHG>" not in format_absent() and parse_answer(format_absent()) is None


def test_several_statements_are_joined() -> None:
    text = "It's buildings that appeared: <CHG>. It's roads that appeared: <CHG>."
    assert parse_answer(text) == Understood(("building", "road"), "appeared")
    text = "It's buildings that appeared: <CHG>. It's roads that disappeared: <CHG>."
    assert parse_answer(text) == Understood(("building", "road"), "either")
    text = "It's anything that changed: <CHG>. It's roads that changed: <CHG>."
    assert parse_answer(text) == Understood(("any",), "either")


@pytest.mark.parametrize(
    "text", ["", "It's <CHG>.", "It's dragons that appeared.", "roads", "<CHG>"]
)
def test_nothing_stated(text: str) -> None:
    assert parse_answer(text) is None


@given(st.text(max_size=80), UNDERSTOOD)
def test_no_answer_breaks_the_parser(noise: str, understood: Understood) -> None:
    parse_answer(noise)
    parse_answer(format_answer(understood)[: len(noise)] + noise)
    words = [*CLASS_WORDS.values(), "nothing"]
    for first in words:
        parse_answer(f"It's {first} and {words[len(noise) % len(words)]} made from {first}")


@pytest.mark.parametrize(
    ("classes", "direction", "former"),
    [
        ((), "either", ()),
        (("castle",), "either", ()),
        (("any", "road"), "either", ()),
        (("road",), "either", ("tree",)),
        (("any",), "appeared", ("tree",)),
    ],
)
def test_what_cannot_be_stated_is_refused(classes: Any, direction: Any, former: Any) -> None:
    with pytest.raises(UsageError):
        Understood(classes, direction, former)
