"""Composed wishes say what they mean and leave the held-out words alone."""

import re

import numpy as np
import pytest

from whatchanged.answers import Understood, format_absent, format_answer, parse_answer
from whatchanged.data.wish_phrases import can_compose, compose_wish, load_phrases
from whatchanged.data.wishes import MAX_CHARACTERS, load_wishes
from whatchanged.train.wish_data import meanings

MEANINGS = [m for m in meanings() if can_compose(m)]


def stems(text: str) -> set[str]:
    """Return the words of a text, plurals as singulars."""
    words = re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())
    return {re.sub(r"(?<=..)(?:es|s)$", "", re.sub(r"ies$", "y", word)) for word in words}


def test_what_can_be_composed() -> None:
    assert not can_compose(None)
    assert not can_compose(Understood(("any",), "appeared"))
    assert can_compose(Understood(("water",), "either"))
    assert can_compose(Understood(("building", "water"), "appeared"))  # named one by one


@pytest.mark.parametrize("meaning", MEANINGS, ids=str)
def test_wishes_mean_what_was_asked(meaning: Understood) -> None:
    rng = np.random.default_rng(0)
    names = load_phrases()["names"]
    for _ in range(100):
        wish = compose_wish(meaning, rng)
        assert wish.understood == meaning
        assert wish.kind == "explicit"
        assert 0 < len(wish.text) <= MAX_CHARACTERS
        assert "{" not in wish.text
        assert parse_answer(format_answer(meaning, wish.why)) == meaning
        assert parse_answer(f"{wish.why} {format_absent(meaning)}") == meaning
        for classes in (meaning.classes, meaning.former):
            options = [n for c in (*classes, "+".join(classes)) if c for n in names.get(c, ())]
            assert not classes or any(name in wish.text for name in options)


def test_there_are_many() -> None:
    rng = np.random.default_rng(0)
    texts = {compose_wish(Understood(("building",), "appeared"), rng).text for _ in range(500)}
    assert len(texts) > 450


def test_held_out_wordings_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of which one in two makes a validation wish, whatever its case and full stop."""
    assert "buildings on former pasture" in {wish.text for wish in load_wishes("validation")}
    phrases = ["{new} on former {old}", "{new} on former {old}.", "{new} on Former {old}?"]
    words = {
        "names": {"building": ["buildings"], "low vegetation": ["pasture", "lawn"]},
        "replaced": {"phrases": phrases, "sentences": phrases},
        "requests": ["{w}"],
    }
    monkeypatch.setattr("whatchanged.data.wish_phrases.load_phrases", lambda: words)
    rng = np.random.default_rng(0)
    meaning = Understood(("building",), "appeared", ("low vegetation",))
    wishes = [compose_wish(meaning, rng) for _ in range(50)]
    assert {wish.text for wish in wishes} == {
        p.format(new="buildings", old="lawn") for p in phrases
    }
    assert all('"lawn" means' in wish.why for wish in wishes)


def test_directions_do_not_share_phrases() -> None:
    words = load_phrases()
    said = [
        {p for group in words[verb].values() for p in group}
        for verb in ("appeared", "disappeared", "either")
    ]
    assert not (said[0] & said[1] or said[0] & said[2] or said[1] & said[2])


def test_names_stand_for_one_class() -> None:
    names = [name for group in load_phrases()["names"].values() for name in group]
    assert len(names) == len(set(names))


def test_words_held_out_are_not_named() -> None:
    """Words that only validation and test name things with would no longer measure anything."""
    explicit = {
        split: {
            word
            for w in load_wishes(split)
            if w.kind == "explicit" and w.understood
            for word in stems(w.text)
        }
        for split in ("train", "validation", "test")
    }
    held_out = (explicit["validation"] | explicit["test"]) - explicit["train"]
    for group in load_phrases()["names"].values():
        for name in group:
            assert not stems(name) & held_out, name
