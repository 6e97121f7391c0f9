"""Caption scores: values of the field, laws, and inputs that are refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.captions import (
    CaptionScores,
    score_breakdown,
    score_captions,
    score_pairs,
)
from whatchanged.metrics.protocol import build_vocabulary, to_ids

SAME = ["the", "scene", "is", "the", "same", "as", "before"]
MODAL = ["some", "roads", "and", "houses", "are", "built", "on", "bareland"]

words = st.lists(st.sampled_from("abcd"), max_size=7)
pair = st.tuples(words, st.lists(words.filter(bool), min_size=1, max_size=4))
corpora = st.lists(pair, min_size=1, max_size=6)


@pytest.fixture(scope="module")
def levir(shared_data: Path) -> dict[str, Any]:
    """Test references of LEVIR-CC as ids of the published vocabulary, and its change flags."""
    path = shared_data / "levir_cc_text" / "LevirCCcaptions.json"
    if not path.is_file():
        pytest.skip("the captions of LEVIR-CC are not here: levir_cc_text/LevirCCcaptions.json")
    images = json.loads(path.read_text())["images"]
    splits: dict[str, list[list[str]]] = {}
    for image in images:
        splits.setdefault(image["split"], []).extend(s["tokens"] for s in image["sentences"])
    vocabulary = build_vocabulary(splits)
    test = [image for image in images if image["split"] == "test"]
    return {
        "vocabulary": vocabulary,
        "references": [[to_ids(s["tokens"], vocabulary) for s in i["sentences"]] for i in test],
        "changed": [bool(image["changeflag"]) for image in test],
    }


def test_constant_caption_on_levir_cc(levir: dict[str, Any]) -> None:
    caption = to_ids(SAME, levir["vocabulary"])
    scores = score_captions([caption] * len(levir["references"]), levir["references"])
    assert scores.n == 1929
    assert scores.bleu1 == pytest.approx(64.56, abs=0.01)
    assert scores.bleu4 == pytest.approx(51.49, abs=0.01)
    assert scores.rouge_l == pytest.approx(60.60, abs=0.01)
    assert scores.cider_d == pytest.approx(101.93, abs=0.01)
    assert scores.meteor == pytest.approx(29.33, abs=0.05)
    assert scores.s_m == pytest.approx(60.84, abs=0.02)


def test_true_flag_with_one_caption_on_levir_cc(levir: dict[str, Any]) -> None:
    modal, same = (to_ids(caption, levir["vocabulary"]) for caption in (MODAL, SAME))
    guesses = [modal if changed else same for changed in levir["changed"]]
    parts = score_breakdown(guesses, levir["references"], levir["changed"])
    scores = parts.overall
    assert scores.bleu4 == pytest.approx(59.83, abs=0.01)
    assert scores.rouge_l == pytest.approx(70.41, abs=0.01)
    assert scores.cider_d == pytest.approx(126.71, abs=0.01)
    assert scores.meteor == pytest.approx(36.77, abs=0.05)
    assert scores.s_m == pytest.approx(73.43, abs=0.02)
    assert parts.changed is not None and parts.changed.n == 964
    assert parts.unchanged is not None and parts.unchanged.n == 965
    assert parts.unchanged.bleu4 == pytest.approx(100)
    assert parts.unchanged.meteor == pytest.approx(100)
    assert parts.unchanged.cider_d is None and parts.unchanged.s_m is None


def test_unchanged_pairs_of_levir_cc_have_no_cider(levir: dict[str, Any]) -> None:
    """The reason for the dash: five sentences that every pair has weigh nothing."""
    same = to_ids(SAME, levir["vocabulary"])
    zipped = zip(levir["references"], levir["changed"], strict=True)
    groups = [group for group, changed in zipped if not changed]
    assert score_captions([same] * len(groups), groups, meteor="none").cider_d == 0


def test_perfect_captions_are_perfect() -> None:
    captions = [
        ["a", "new", "road", "is", "built"],
        ["two", "villas", "appear", "by", "the", "lake"],
    ]
    scores = score_captions(captions, [[caption] for caption in captions])
    assert scores.bleu4 == pytest.approx(100)
    assert scores.meteor == pytest.approx(100)
    assert scores.rouge_l == pytest.approx(100)
    assert scores.cider_d == pytest.approx(1000)
    assert scores.s_m == pytest.approx((100 + 100 + 100 + 1000) / 4)


def test_bleu_by_hand() -> None:
    """Clipping, closest length and brevity penalty of Papineni's example."""
    guess = ["the", "the", "the", "the", "the", "the", "the"]
    references = [
        ["the", "cat", "is", "on", "the", "mat"],
        ["there", "is", "a", "cat", "on", "the", "mat"],
    ]
    scores = score_captions([guess], [references], meteor="none")
    assert scores.bleu1 == pytest.approx(100 * 2 / 7)
    assert scores.bleu2 == pytest.approx(0, abs=1e-4)


def test_rouge_takes_best_precision_and_recall_apart() -> None:
    guess = ["a", "b", "c", "d"]
    references = [["a", "b", "c", "d", "e", "f", "g", "h"], ["a", "b"]]
    precision, recall, beta = 1.0, 1.0, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert score_captions([guess], [references]).rouge_l == pytest.approx(100 * expected)


def test_rare_words_weigh_more_in_cider() -> None:
    references = [[["a", "house"]], [["a", "lake"]], [["a", "road"]]]
    rare = score_captions([["house"], ["lake"], ["road"]], references, meteor="none")
    common = score_captions([["a"], ["a"], ["a"]], references, meteor="none")
    assert rare.cider_d is not None and rare.cider_d > 100
    assert common.cider_d == 0


def test_without_meteor_there_is_no_mean() -> None:
    scores = score_captions([["a"]], [[["a"]]], meteor="none")
    assert scores.meteor is None and scores.s_m is None
    assert scores.row()["meteor"] == "-" and scores.row()["n"] == "1"


def test_row_prints_two_decimals() -> None:
    row = score_captions([["a", "b"]], [[["a", "c"]]]).row()
    assert list(row) == [
        *("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider_d", "s_m", "n"),
    ]
    assert row["bleu1"] == "50.00"


def test_breakdown_without_one_of_the_classes() -> None:
    parts = score_breakdown([["a"]], [[["a"]]], [True])
    assert parts.unchanged is None
    assert parts.changed == parts.overall


def test_breakdown_leaves_out_cider_where_it_is_0_by_construction() -> None:
    """All pairs have the same references: no n-gram has a weight, whatever is said."""
    same, other = [["a", "b"], ["c"]], [["d"]]
    for labels in ([True], [True, True], [False, False], [True, False]):
        parts = score_breakdown([["a", "b"]] * len(labels), [same] * len(labels), labels)
        for part in (parts.overall, parts.changed, parts.unchanged, *parts.pairs):
            assert part is None or (part.cider_d is part.s_m is None and part.meteor == 100)
    alone = score_captions([["a", "b"]], [same])
    assert alone.cider_d == 0 and alone.s_m is not None  # as the field's own code
    mixed = score_breakdown([["a", "b"]] * 3, [same, same, other], [True, True, False])
    assert mixed.changed is not None and mixed.changed.cider_d is mixed.changed.s_m is None
    assert mixed.overall.cider_d is not None and mixed.overall.cider_d > 0
    assert all(pair.cider_d is not None for pair in mixed.pairs)


@given(corpora, st.data())
def test_breakdown_agrees_with_separate_scores(corpus: list[Any], data: st.DataObject) -> None:
    guesses, references = ([list(part) for part in column] for column in zip(*corpus, strict=True))
    flag = st.lists(st.booleans(), min_size=len(guesses), max_size=len(guesses))
    changed = data.draw(flag)
    parts = score_breakdown(guesses, references, changed)
    assert agrees(parts.overall, score_captions(guesses, references))
    for each, pair in zip(parts.pairs, score_pairs(guesses, references), strict=True):
        assert agrees(each, pair)
    chosen = [i for i, label in enumerate(changed) if label]
    if chosen:
        alone = score_captions([guesses[i] for i in chosen], [references[i] for i in chosen])
        assert parts.changed is not None and agrees(parts.changed, alone)
    else:
        assert parts.changed is None


def agrees(part: CaptionScores, alone: CaptionScores) -> bool:
    """Whether scores are the same, CIDEr-D apart where it is left out because it is 0."""
    if part.cider_d is None:
        return alone.cider_d == 0 and part == replace(alone, cider_d=None, s_m=None)
    return part == alone


@given(corpora)
def test_order_and_names_of_words_do_not_matter(corpus: list[Any]) -> None:
    guesses, references = ([list(part) for part in column] for column in zip(*corpus, strict=True))
    name = {"a": "7", "b": "412", "c": "道", "d": "é"}
    renamed = [[name[w] for w in guess] for guess in guesses]
    renamed_references = [[[name[w] for w in r] for r in group] for group in references]
    order = list(range(len(guesses)))
    random.Random(0).shuffle(order)
    first = score_captions(guesses, references)
    second = score_captions([renamed[i] for i in order], [renamed_references[i] for i in order])
    for field, value in vars(first).items():
        assert getattr(second, field) == pytest.approx(value, abs=1e-9), field


@given(corpora)
def test_scores_stay_in_range_and_pairs_average(corpus: list[Any]) -> None:
    guesses, references = ([list(part) for part in column] for column in zip(*corpus, strict=True))
    scores, pairs = score_captions(guesses, references), score_pairs(guesses, references)
    for each in (scores, *pairs):
        for field in ("bleu1", "bleu4", "meteor", "rouge_l"):
            assert 0 <= getattr(each, field) <= 100 + 1e-6, field
        assert each.cider_d is not None and 0 <= each.cider_d <= 1000 + 1e-6
    assert scores.rouge_l == pytest.approx(sum(p.rouge_l for p in pairs) / len(pairs))
    ciders = [p.cider_d for p in pairs if p.cider_d is not None]
    assert scores.cider_d == pytest.approx(sum(ciders) / len(pairs))


@pytest.mark.parametrize(
    ("guesses", "references", "error", "message"),
    [
        ([], [], DatasetError, "no captions"),
        ([["a"]], [], DatasetError, "1 captions but references for 0"),
        ([["a"]], [[]], DatasetError, "pair 0 has no reference"),
        (["a b"], [[["a"]]], UsageError, "not the string"),
        ([["a"]], [["a b"]], UsageError, "not the string"),
        ([["a b"]], [[["a"]]], UsageError, "not one word"),
        ([[""]], [[["a"]]], UsageError, "not one word"),
        ([[7]], [[["a"]]], UsageError, "not one word"),
    ],
)
def test_what_is_no_caption_is_refused(
    guesses: Any, references: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        score_captions(guesses, references)


def test_unknown_backend_and_missing_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="nltk"):
        score_captions([["a"]], [[["a"]]], meteor="nltk")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="1 captions but 2 change labels"):
        score_breakdown([["a"]], [[["a"]]], [True, False])
