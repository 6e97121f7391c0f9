"""From words to vocabulary ids and what happens to unknown words."""

from __future__ import annotations

import pytest

from whatchanged.errors import UsageError
from whatchanged.metrics.captions import score_captions
from whatchanged.metrics.protocol import UNK, build_vocabulary, to_ids, to_words

CAPTIONS = {
    "train": [["a", "road"], ["a", "house"]],
    "test": [["a", "villa"], ["a", "pool"]],
}


def test_vocabulary_starts_with_the_special_tokens() -> None:
    vocabulary = build_vocabulary(CAPTIONS, min_count=1)
    assert list(vocabulary)[:4] == ["<NULL>", "<UNK>", "<START>", "<END>"]
    assert list(vocabulary.values()) == list(range(len(vocabulary)))
    assert list(vocabulary)[4:] == ["a", "house", "pool", "road", "villa"]


def test_training_vocabulary_knows_no_test_words() -> None:
    vocabulary = build_vocabulary(CAPTIONS, "train", min_count=1)
    assert "villa" not in vocabulary and "house" in vocabulary


def test_published_vocabulary_keeps_words_seen_more_than_five_times() -> None:
    captions = {"train": [["often"]] * 6 + [["five"]] * 5}
    vocabulary = build_vocabulary(captions)
    assert "often" in vocabulary and "five" not in vocabulary


def test_special_tokens_inside_captions_get_no_second_id() -> None:
    vocabulary = build_vocabulary({"train": [["<START>", "a", UNK, "<END>"]]}, min_count=1)
    assert list(vocabulary) == ["<NULL>", "<UNK>", "<START>", "<END>", "a"]


def test_ids_are_decimal_strings_without_silent_tokens() -> None:
    vocabulary = build_vocabulary(CAPTIONS, min_count=1)
    caption = ["<START>", "a", "road", "<END>", "<NULL>", "<NULL>"]
    assert to_ids(caption, vocabulary) == ["4", "7"]
    assert to_words(caption) == ["a", "road"]


def test_unknown_words_stay_and_match_each_other() -> None:
    vocabulary = build_vocabulary(CAPTIONS, "train", min_count=1)
    guess, truth = to_ids(["a", "villa"], vocabulary), to_ids(["a", "pool"], vocabulary)
    assert guess == truth == ["4", "1"]
    ids = score_captions([guess], [[truth]])
    words = score_captions([["a", "villa"]], [[["a", "pool"]]])
    assert ids.bleu1 == pytest.approx(100) and words.bleu1 == pytest.approx(50)


def test_missing_split_unknown_source_and_missing_unk_are_refused() -> None:
    with pytest.raises(UsageError, match="splits are test"):
        build_vocabulary({"test": []}, "train")
    with pytest.raises(UsageError, match="web"):
        build_vocabulary(CAPTIONS, "web")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no <UNK>"):
        to_ids(["a"], {"a": 0})
