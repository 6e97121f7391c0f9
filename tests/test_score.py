"""Captions made elsewhere: what a file may hold, how it is compared, and beside which floors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatchanged.data.levir_cc import load_references
from whatchanged.data.samples import CaptionReferences
from whatchanged.errors import DatasetError, UsageError
from whatchanged.metrics.captions import score_captions
from whatchanged.score import (
    CONSTANT,
    MODAL,
    PARTS,
    SCORES,
    Ruler,
    floor_captions,
    load_predictions,
    score_file,
)
from whatchanged.score_table import score_table, table

SAME = "the scene is the same as before"
TRAIN = [["a road is built", "a house appears"], ["a road is built", "trees are removed"], [SAME]]
TEST = [["a villa is built", "a road is built"], ["a pool appears"], [SAME, "no change"]]


def entry(split: str, number: int, captions: list[str]) -> dict[str, Any]:
    return {
        "filename": f"{split}_{number}.png",
        "split": split,
        "changeflag": int(SAME not in captions),
        "sentences": [{"raw": caption} for caption in captions],
    }


@pytest.fixture
def references(tmp_path: Path) -> Path:
    images = [entry("train", i, captions) for i, captions in enumerate(TRAIN)]
    images += [entry("test", i, captions) for i, captions in enumerate(TEST)]
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    return path


@pytest.fixture
def say(tmp_path: Path) -> Any:
    """Function that writes predictions of the test pairs, values laid over them."""

    def write(**captions: Any) -> Path:
        said = {f"test_{i}.png": captions[0] for i, captions in enumerate(TEST)}
        said |= {name.replace("__", "."): caption for name, caption in captions.items()}
        path = tmp_path / "predictions.json"
        kept = {name: caption for name, caption in said.items() if caption is not None}
        path.write_text(json.dumps(kept), encoding="utf-8")
        return path

    return write


def test_the_scores_are_those_of_the_metrics(references: Path, say: Any) -> None:
    predictions = say(test_0__png="a road appears", test_1__png="a pool")
    scored = score_file(predictions, references, ruler=Ruler("words"))
    said = ["a road appears", "a pool", SAME]
    expected = score_captions(
        [caption.split() for caption in said], [[c.split() for c in group] for group in TEST]
    )
    assert scored.scores.overall == expected
    assert scored.scores.changed is not None and scored.scores.changed.n == 2
    assert scored.scores.unchanged is not None and scored.scores.unchanged.n == 1


def test_order_of_the_file_does_not_matter(references: Path, say: Any, tmp_path: Path) -> None:
    said = json.loads(say(test_1__png="a pool").read_text("utf-8"))
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(dict(reversed(said.items()))), encoding="utf-8")
    first = score_file(say(test_1__png="a pool"), references)
    assert score_file(turned, references).to_json() == first.to_json()


def test_captions_are_split_as_those_of_the_data_set(references: Path, say: Any) -> None:
    plain = score_file(say(), references, ruler=Ruler("words"))
    dressed = say(
        test_0__png="<START> A villa is built . <END> <NULL>", test_1__png="A Pool appears?"
    )
    assert score_file(dressed, references, ruler=Ruler("words")).scores == plain.scores


def test_an_empty_caption_scores_nothing(references: Path, say: Any) -> None:
    scored = score_file(say(test_0__png="", test_1__png="", test_2__png=""), references)
    assert scored.scores.overall.bleu1 == pytest.approx(0)
    assert scored.scores.overall.rouge_l == 0


def test_unknown_words_match_in_ids_alone(references: Path, say: Any) -> None:
    """Only "a" occurs more than five times in this small set; all other words are UNK."""
    predictions = say(test_1__png="a castle burns")
    ids = score_file(predictions, references, ruler=Ruler("ids"))
    words = score_file(predictions, references, ruler=Ruler("words"))
    assert ids.scores.pairs[1].bleu1 == pytest.approx(100)
    assert words.scores.pairs[1].bleu1 == pytest.approx(100 / 3)
    marked = score_file(say(test_1__png="a <UNK> <UNK>"), references, ruler=Ruler("ids"))
    assert marked.scores.pairs[1].bleu1 == pytest.approx(100)


def test_the_vocabulary_of_the_training_split_knows_less() -> None:
    often = (("villa",) * 6,)
    pairs = [
        CaptionReferences("a.png", "train", (("house",) * 6,), True),
        CaptionReferences("b.png", "test", often, True),
    ]
    said = {"": [("pool",) * 6]}
    train = Ruler("ids", "train").measure(said, pairs[1:], pairs)[""]
    every = Ruler("ids", "all-splits").measure(said, pairs[1:], pairs)[""]
    assert train.overall.bleu4 == pytest.approx(100)
    assert every.overall.bleu4 == pytest.approx(0)


def test_the_keys_of_json(references: Path, say: Any) -> None:
    record = score_file(say(), references).to_json()
    keys = {"protocol", "vocabulary", "meteor_backend", "n", *SCORES}
    assert set(record) == keys | {"split", "changed", "unchanged", "floors"}
    assert set(record["changed"]) == set(record["unchanged"]) == keys
    assert (record["protocol"], record["vocabulary"]) == ("ids", "all-splits")
    assert (record["n"], record["changed"]["n"], record["unchanged"]["n"]) == (3, 2, 1)
    assert record["unchanged"]["cider_d"] is None and record["unchanged"]["s_m"] is None
    assert list(record["floors"]) == [CONSTANT, MODAL]
    assert set(record["floors"][MODAL]) == keys | {"changed", "unchanged"}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_parts_without_pairs_keep_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    path.write_text(json.dumps({"images": [entry("test", 0, [SAME])]}), encoding="utf-8")
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"test_0.png": SAME}), encoding="utf-8")
    scored = score_file(said, path, ruler=Ruler("words", meteor="none"))
    record = scored.to_json()
    assert record["changed"]["n"] == 0
    assert all(record["changed"][score] is None for score in SCORES)
    assert record["vocabulary"] is None and record["meteor"] is None
    assert list(record["floors"]) == [CONSTANT]
    assert "no changed training pairs" in score_table(scored)


def test_one_pair_has_no_cider(tmp_path: Path) -> None:
    images = [entry("train", 0, TRAIN[0]), entry("test", 0, TEST[0])]
    path, said = tmp_path / "references.json", tmp_path / "said.json"
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    said.write_text(json.dumps({"test_0.png": TEST[0][0]}), encoding="utf-8")
    scored = score_file(said, path)
    record = scored.to_json()
    for part in (record, record["changed"], record["floors"][CONSTANT]):
        assert part["cider_d"] is part["s_m"] is None
        assert part["meteor"] is not None
    rows = [line.split() for line in score_table(scored).splitlines()]
    assert [row[-2:] for row in rows if row[:1] == ["predictions"]] == [["-", "-"]] * 3


def test_the_table_says_how_it_was_scored(references: Path, say: Any) -> None:
    text = score_table(score_file(say(), references, ruler=Ruler("ids", "train")))
    assert "protocol ids, vocabulary of the training split" in text
    assert text.count(f"floor: {CONSTANT}") == text.count(f"floor: {MODAL}") == len(PARTS)
    assert "published" in text and "within 0.05" in text
    words = score_table(score_file(say(), references, ruler=Ruler("words")))
    assert "protocol words;" in words and "another number than the jar's on words" in words


def test_a_table_is_aligned() -> None:
    lines = table(("name", "n"), [["a", "10"], ["longer", "-"]]).splitlines()
    assert lines == ["name     n", "a       10", "longer   -"]


def test_missing_and_additional_names_are_counted_and_named(references: Path, say: Any) -> None:
    with pytest.raises(DatasetError, match=r"lack 1 of the 3 pairs of 'test': test_1\.png\n"):
        score_file(say(test_1__png=None), references)
    with pytest.raises(DatasetError, match=r"have 1 that are not among them: test_1\n") as caught:
        score_file(say(test_1="a pool"), references)
    assert "with suffix" in caught.value.hint
    with pytest.raises(DatasetError, match=r"lack 1 .* and have 1 ") as caught:
        score_file(say(test_1__png=None, train_1__png="a road"), references)
    assert "belong to train" in caught.value.hint
    with pytest.raises(DatasetError, match=r"have 9 .* and 4 more\n"):
        score_file(say(**{f"x{i}": "a" for i in range(9)}), references)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "not a JSON object"),
        ("[[]]", "not a JSON object"),
        ('"a"', "not a JSON object"),
        ("{", "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a.png": 3}', r"caption of a\.png is not a text"),
        ('{"a.png": {}}', r"caption of a\.png is not a text"),
        ('{"a.png": ["a", "road"]}', r"caption of a\.png is not a text"),
        ('{"a.png": "a", "a.png": "b"}', r"more than one caption of a\.png"),
    ],
)
def test_broken_predictions_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "predictions.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=complaint):
        load_predictions(path)


def test_missing_files_are_named(tmp_path: Path, references: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        score_file(tmp_path / "nowhere.json", references)
    with pytest.raises(DatasetError, match="nowhere"):
        score_file(references, tmp_path / "nowhere.json")


def test_unknown_choices_are_refused(references: Path, say: Any) -> None:
    with pytest.raises(UsageError, match="split 'dev'"):
        score_file(say(), references, split="dev")
    with pytest.raises(DatasetError, match="no pairs of split 'val'"):
        score_file(say(), references, split="val")
    for choice in ({"protocol": "id"}, {"vocabulary": "all"}, {"meteor": "nltk"}):
        with pytest.raises(UsageError, match=f"{next(iter(choice))} '"):
            Ruler(**choice)  # type: ignore[arg-type]


def test_references_need_no_pictures_and_no_flag(tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    images = [entry("test", 0, [SAME]), entry("val", 0, ["A road , and a house ."])]
    for image in images:
        del image["changeflag"]
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    same, road = load_references(path)
    assert (same.changed, road.changed) == (False, True)
    assert road.captions == (("a", "road", ",", "and", "a", "house"),)
    images.append(entry("val", 0, [SAME]))
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"images\[2\] \(val_0\.png\) repeats"):
        load_references(path)


captions = st.lists(st.sampled_from(["a road", "a house", "two trees"]), min_size=1, max_size=4)


@given(st.lists(st.tuples(captions, st.booleans()), max_size=6), st.lists(st.booleans()))
def test_the_modal_floor_is_a_most_frequent_changed_caption(
    train: list[tuple[list[str], bool]], labels: list[bool]
) -> None:
    pairs = [
        CaptionReferences(f"{i}.png", "train", tuple(tuple(c.split()) for c in said), changed)
        for i, (said, changed) in enumerate(train)
    ]
    other = CaptionReferences("x.png", "test", (("of", "another", "split"),) * 99, True)
    floors = floor_captions([*pairs, other], labels)
    assert floors[CONSTANT] == [tuple(SAME.split())] * len(labels)
    counted = [caption for pair in pairs if pair.changed for caption in pair.captions]
    assert (MODAL in floors) == bool(counted)
    for label, caption in zip(labels, floors.get(MODAL, []), strict=False):
        if label:
            assert counted.count(caption) == max(map(counted.count, counted))
        else:
            assert caption == tuple(SAME.split())


def test_scoring_loads_no_torch() -> None:
    code = (
        "import sys, whatchanged.score_table; print({'torch', 'rasterio', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
