from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.data.tokens import (
    END,
    MAX_TOKENS,
    NULL,
    SPECIALS,
    START,
    UNCHANGED_CAPTION,
    UNCHANGED_SENTENCES,
    UNK,
    Vocabulary,
    tokenise,
)
from whatchanged.errors import DatasetError, UsageError

CAPTIONS = [["a", "road", "appears"]] * 6 + [["a", "lake", "dries"]] * 5


@pytest.fixture(scope="module")
def levir_images(shared_data: Path) -> list[dict[str, object]]:
    path = shared_data / "levir_cc_text" / "LevirCCcaptions.json"
    if not path.is_file():
        pytest.skip(f"the captions of LEVIR-CC are not here: {path.name}")
    images: list[dict[str, object]] = json.loads(path.read_text())["images"]
    return images


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" Some Houses appear .", ["some", "houses", "appear"]),
        ("a lake , a road;a house?", ["a", "lake", ",", "a", "road", ";", "a", "house"]),
        ("roads,houses", ["roads", ",", "houses"]),
        ("a t-junction\tand\n the road's end.", ["a", "t-junction", "and", "the", "road's", "end"]),
        ("...", []),
        ("", []),
    ],
)
def test_tokenise_follows_the_fields_rules(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


@pytest.mark.parametrize("text", ["<END>", "a <start> b", "<<NULL>>", "x<unk>y", "< END >"])
def test_text_never_becomes_a_special_token(text: str) -> None:
    words = tokenise(text)
    assert not {word.lower() for word in words} & {special.lower() for special in SPECIALS}
    assert not any("<" in word or ">" in word for word in words)


@given(st.text(max_size=60))
def test_tokenising_again_changes_nothing(text: str) -> None:
    words = tokenise(text)
    assert tokenise(" ".join(words)) == words


def test_unchanged_sentences_are_the_fields_five() -> None:
    assert len(set(UNCHANGED_SENTENCES)) == 5
    assert UNCHANGED_CAPTION in UNCHANGED_SENTENCES
    assert all(" ".join(tokenise(s)) == s for s in UNCHANGED_SENTENCES)


def test_build_keeps_words_above_the_count_in_alphabetical_order() -> None:
    vocabulary = Vocabulary.build(CAPTIONS, min_count=5)
    assert vocabulary.words == (*SPECIALS, "a", "appears", "road")
    assert len(vocabulary) == 7
    assert Vocabulary.build(CAPTIONS, min_count=4).words[4:] == (
        *("a", "appears", "dries", "lake", "road"),
    )


def test_special_ids_are_fixed() -> None:
    assert (NULL, UNK, START, END) == (0, 1, 2, 3)
    assert [SPECIALS[i] for i in (NULL, UNK, START, END)] == ["<NULL>", "<UNK>", "<START>", "<END>"]


def test_build_ignores_tokens_that_spell_specials() -> None:
    vocabulary = Vocabulary.build([["<END>", "a"]] * 9)
    assert vocabulary.words == (*SPECIALS, "a")


def test_encode_marks_start_end_and_unknown() -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    assert vocabulary.encode(["a", "lake", "appears"]) == [START, 4, UNK, 5, END]
    assert vocabulary.encode([]) == [START, END]
    assert vocabulary.encode(["<END>", "<START>", "<NULL>"]) == [START, UNK, UNK, UNK, END]


def test_encode_truncates_words_but_never_end() -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    ids = vocabulary.encode(["a", "road", "appears"], max_len=4)
    assert ids == [START, 4, 6, END]
    with pytest.raises(UsageError, match="max_len is 2"):
        vocabulary.encode(["a"], max_len=2)


@given(
    st.lists(st.sampled_from(["a", "appears", "road", "lake", "<UNK>"]), max_size=12),
    st.integers(3, 16),
)
def test_decode_undoes_encode(words: list[str], max_len: int) -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    ids = vocabulary.encode(words, max_len)
    known = [word if word in vocabulary.words[4:] else "<UNK>" for word in words]
    assert len(ids) <= max_len
    assert vocabulary.decode([*ids, NULL, NULL]) == known[: max_len - 2]


def test_decode_stops_at_the_first_end() -> None:
    vocabulary = Vocabulary.build(CAPTIONS)
    assert vocabulary.decode([START, NULL, 4, UNK, END, 6, END]) == ["a", "<UNK>"]


@pytest.mark.parametrize("index", [-1, 7, 10**9])
def test_decode_refuses_ids_it_does_not_know(index: int) -> None:
    with pytest.raises(DatasetError, match=f"word id {index} "):
        Vocabulary.build(CAPTIONS).decode([START, index])


@given(
    st.sets(
        st.text(max_size=8).map(tokenise).filter(lambda words: len(words) == 1).map(lambda w: w[0])
    )
)
def test_json_round_trip(words: set[str]) -> None:
    vocabulary = Vocabulary((*SPECIALS, *sorted(words)))
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a vocabulary in JSON"),
        ("[]", "not a vocabulary in JSON"),
        ("[" * 100_000, "not a vocabulary in JSON"),
        ('{"words": "abc"}', "not a list of words"),
        ('{"words": ["a", 1]}', "not a list of words"),
        ('{"words": ["a", "b", "c", "d", "e"]}', "must begin with <NULL>"),
        (json.dumps({"words": [*SPECIALS, "a", "a"]}), "'a' more than once"),
        (json.dumps({"words": [*SPECIALS, "two words"]}), "'two words' is not one"),
        (json.dumps({"words": [*SPECIALS, "<end>"]}), "'<end>' is not one"),
        (json.dumps({"words": [*SPECIALS, ""]}), "'' is not one"),
    ],
)
def test_damaged_vocabularies_are_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=r"vocab\.json") as caught:
        Vocabulary.from_json(text, source="vocab.json")
    assert reason in caught.value.message


def test_levir_cc_is_tokenised_as_published(levir_images: list[dict[str, object]]) -> None:
    sentences = [s for image in levir_images for s in image["sentences"]]  # type: ignore[attr-defined]
    assert len(sentences) == 50_385
    assert all(tokenise(s["raw"]) == s["tokens"] for s in sentences)
    assert len({word for s in sentences for word in s["tokens"]}) == 995
    assert max(len(s["tokens"]) for s in sentences) + 2 == MAX_TOKENS


def test_levir_cc_vocabulary_sizes(levir_images: list[dict[str, object]]) -> None:
    def captions(*splits: str) -> list[list[str]]:
        return [
            tokenise(s["raw"])
            for image in levir_images
            if image["split"] in splits
            for s in image["sentences"]  # type: ignore[attr-defined]
        ]

    assert len(Vocabulary.build(captions("train"))) == 404
    assert len(Vocabulary.build(captions("train", "val", "test"))) == 468
    assert len(Vocabulary.build(captions("train", "val", "test"), min_count=4)) == 501
