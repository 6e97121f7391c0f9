"""Answers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.answers import TARGET, Understood, format_absent, format_answer, parse_answer
from whatchanged.ask_text import answer_text, understood_text

WHY = "New roofs stand on former fields, so more people can live here."
STATED = Understood(("building",), "appeared")


@pytest.mark.parametrize(
    ("answer", "short", "long"),
    [
        ("It's <CHG>.", "It's marked in the mask.", "It's marked in the mask."),
        (
            f"{WHY} It's <CHG>.",
            "It's marked in the mask.",
            f"{WHY} It's marked in the mask.",
        ),
        (
            f"{WHY} It's buildings that appeared: <CHG>.",
            "It's buildings that appeared.",
            f"{WHY} It's buildings that appeared.",
        ),
        (
            "It's buildings made from low vegetation: <CHG>. And roads: <CHG>!",
            "It's buildings made from low vegetation. And roads!",
            "It's buildings made from low vegetation. And roads!",
        ),
        ("There are no trees that disappeared between these images.",) * 3,
        ("This is not a change that can be seen from above.",) * 3,
        ("  two \n words ", "two words", "two words"),
        (TARGET, "It's marked in the mask.", "It's marked in the mask."),
        ("", "The model gave no answer.", "The model gave no answer."),
        (" . ", "The model gave no answer.", "The model gave no answer."),
    ],
)
def test_answers_lose_their_token(answer: str, short: str, long: str) -> None:
    assert answer_text(answer, explain=False) == short
    assert answer_text(answer, explain=True) == long


def test_an_answer_without_a_mask_does_not_speak_of_one() -> None:
    assert answer_text("It's <CHG>.", explain=False, marked=False).startswith("It's not marked")
    assert answer_text(TARGET, explain=False, marked=False).startswith("It's not marked")
    stated = "It's buildings that appeared"
    assert answer_text(f"{stated}: <CHG>.", explain=False, marked=False) == f"{stated}."


@pytest.mark.parametrize(
    ("understood", "text"),
    [
        (STATED, "buildings that appeared"),
        (Understood(("road",), "appeared", ("tree", "water")), "roads made from trees and water"),
        (Understood(("any",), "either"), "anything that changed"),
        (None, "something that is not stated"),
    ],
)
def test_what_was_understood_in_words(understood: Understood | None, text: str) -> None:
    assert understood_text(understood) == text


@given(
    st.lists(st.sampled_from(["building", "road", "tree", "water"]), min_size=1, unique=True),
    st.sampled_from(["appeared", "disappeared", "either"]),
    st.sampled_from(["", WHY]),
    st.booleans(),
)
def test_what_people_read_still_states_the_same(
    classes: list[str], direction: str, why: str, explain: bool
) -> None:
    understood = Understood(tuple(classes), direction)  # type: ignore[arg-type]
    for answer in (format_answer(understood, why), format_absent(understood)):
        text = answer_text(answer, explain=explain)
        assert TARGET not in text
        assert parse_answer(text) == understood
        assert (WHY in text) is bool(explain and why and TARGET in answer)


@given(st.text(max_size=80).map(lambda text: f"{text}{TARGET}"))
def test_no_token_is_ever_left(answer: str) -> None:
    for explain in (False, True):
        text = answer_text(answer, explain=explain)
        assert TARGET not in text
        assert text.strip()
