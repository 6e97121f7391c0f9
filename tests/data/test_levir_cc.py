from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whatchanged.data.levir_cc import find_captions_file, load_levir_cc
from whatchanged.data.tokens import UNCHANGED_SENTENCES
from whatchanged.errors import DatasetError, UsageError

Entry = dict[str, Any]


def entry(name: str, split: str = "train", **more: Any) -> Entry:
    captions = more.pop("captions", ["A house appears on the left ."])
    sentences = [{"raw": raw, "tokens": raw.split()} for raw in captions]
    return {"filename": name, "filepath": split, "split": split, "sentences": sentences, **more}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set whose pictures are empty files: the adapter looks at names alone."""

    def write(entries: list[Any], *, file: str = "captions.json", **top: Any) -> Path:
        for one in entries:
            if isinstance(one, dict) and isinstance(one.get("filename"), str):
                for date in "AB":
                    folder = tmp_path / "images" / str(one.get("filepath", "train")) / date
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / Path(one["filename"]).name).touch()
        (tmp_path / file).write_text(json.dumps({"images": entries, **top}))
        return tmp_path

    return write


def test_reads_every_field(make: Callable[..., Path]) -> None:
    root = make(
        [
            entry("a.png", changeflag=1, gsd_m="0.5", source="city"),
            entry("b.png", "val", changeflag=0, captions=list(UNCHANGED_SENTENCES)),
        ],
        dataset="Tiny-CC",
    )
    for path in ("label/train/a.png", "sem/train/A/a.png", "sem/train/B/a.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    first, second = load_levir_cc(root).samples

    assert (first.name, first.split, first.changed, first.source) == ("a", "train", True, "city")
    assert first.before == root / "images/train/A/a.png"
    assert first.after == root / "images/train/B/a.png"
    assert first.captions == (("a", "house", "appears", "on", "the", "left"),)
    assert first.gsd_m == 0.5
    assert first.mask == root / "label/train/a.png"
    assert first.classes_before == root / "sem/train/A/a.png"
    assert first.classes_after == root / "sem/train/B/a.png"
    assert first.targets == first.captions

    assert (second.changed, second.gsd_m, second.source) == (False, None, "Tiny-CC")
    assert second.mask is second.classes_before is second.classes_after is None
    assert len(second.captions) == 5
    assert second.targets == (("the", "scene", "is", "the", "same", "as", "before"),)


def test_a_folder_whose_path_holds_capital_letters_is_read(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    """Replacing "A" by "B" in a whole path, as earlier code did, would miss the after picture."""
    root = make([entry("A_AB.png")])
    moved = root.parent / "DATA_A"
    root.rename(moved)
    sample = load_levir_cc(moved).samples[0]
    assert sample.after == moved / "images/train/B/A_AB.png"


def test_split_picks_and_needs_no_other_pictures(make: Callable[..., Path]) -> None:
    root = make([entry("a.png"), entry("b.png", "test"), entry("c.png", "val")])
    (root / "images/train/A/a.png").unlink()
    assert [s.name for s in load_levir_cc(root, "test").samples] == ["b"]
    dataset = load_levir_cc(root, skip_broken=True)
    assert [s.name for s in dataset.of_split("val")] == ["c"]
    assert len(dataset) == 2


def test_split_may_stand_in_filepath_alone(make: Callable[..., Path]) -> None:
    one = entry("a.png", "val")
    del one["split"]
    assert load_levir_cc(make([one])).samples[0].split == "val"


def test_filepath_names_the_folder(make: Callable[..., Path]) -> None:
    root = make([entry("a.png") | {"filepath": "city/train"}])
    assert load_levir_cc(root).samples[0].before == root / "images/city/train/A/a.png"


def test_masks_of_levir_mci_are_found(make: Callable[..., Path]) -> None:
    root = make([entry("a.png")])
    (root / "images/train/label").mkdir()
    (root / "images/train/label/a.png").touch()
    assert load_levir_cc(root).samples[0].mask == root / "images/train/label/a.png"


def test_tokens_serve_where_raw_is_missing(make: Callable[..., Path]) -> None:
    one = entry("a.png") | {"sentences": [{"tokens": ["A", "road", "."]}]}
    assert load_levir_cc(make([one])).samples[0].captions == (("a", "road"),)


def test_without_changeflag_the_fixed_sentence_decides(make: Callable[..., Path]) -> None:
    root = make(
        [
            entry("a.png", captions=["a road is built", "The scene is the same as before ."]),
            entry("b.png", captions=["there is no difference"]),
        ]
    )
    assert [s.changed for s in load_levir_cc(root).samples] == [False, True]


def test_changeflag_wins_over_the_captions(make: Callable[..., Path]) -> None:
    root = make([entry("a.png", changeflag=1, captions=["the scene is the same as before"])])
    assert load_levir_cc(root).samples[0].changed


@pytest.mark.parametrize(
    ("value", "metres"),
    [(0.5, 0.5), ("0.3", 0.3), ("0.5-2", 1.0), ("1-4", 2.0), ("", None), (None, None)],
)
def test_ground_sampling_distance(make: Callable[..., Path], value: Any, metres: Any) -> None:
    assert load_levir_cc(make([entry("a.png", gsd_m=value)])).samples[0].gsd_m == metres


BROKEN = [
    (entry("bad.png", captions=[]), "has no captions"),
    (entry("bad.png", captions=["fine", " . "]), r"no words in sentences\[1\]"),
    (entry("bad.png") | {"sentences": "text"}, "has no captions"),
    (entry("bad.png") | {"sentences": [3]}, r"no words in sentences\[0\]"),
    (entry("bad.png") | {"sentences": [{"tokens": [1]}]}, r"no words in sentences\[0\]"),
    (entry("bad.png", split="holdout"), "unknown split 'holdout'"),
    (entry("bad.png", split="train") | {"split": None}, "unknown split None"),
    (entry("bad.png", changeflag="yes"), "'changeflag' 'yes'"),
    (entry("bad.png", gsd_m="half a metre"), "'gsd_m' 'half a metre'"),
    (entry("bad.png", gsd_m="-1"), "'gsd_m' '-1'"),
    (entry("bad.png", gsd_m="nan"), "'gsd_m' 'nan'"),
    (entry("good.png"), r"repeats the name of images\[0\]"),
    (entry("good.jpg"), r"repeats the name of images\[0\]"),
    (entry("bad.png") | {"filepath": "../../etc"}, "not a folder below images"),
    (entry("bad.png") | {"filepath": "/etc"}, "not a folder below images"),
    (entry("bad.png") | {"filename": "../secret.png"}, "not a plain file name"),
    (entry("bad.png") | {"filename": "..\\secret.png"}, "not a plain file name"),
    (entry("bad.png") | {"filename": ""}, "not a plain file name"),
    (entry("bad.png") | {"filename": 7}, "not a plain file name"),
    ("text", "is not an object"),
    (None, "is not an object"),
]


@pytest.mark.parametrize(("bad", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_broken_entries_are_named_or_listed(
    make: Callable[..., Path], bad: Any, reason: str
) -> None:
    root = make([entry("good.png"), bad, entry("last.png")])
    with pytest.raises(DatasetError, match=reason) as caught:
        load_levir_cc(root)
    assert str(root / "captions.json") in caught.value.message
    assert "images[1]" in caught.value.message
    assert "skip-broken" in caught.value.hint

    dataset = load_levir_cc(root, skip_broken=True)
    assert [s.name for s in dataset.samples] == ["good", "last"]
    assert len(dataset.broken) == 1
    assert "images[1]" in dataset.broken[0]


@pytest.mark.parametrize("date", ["A", "B"])
def test_a_missing_picture_is_named(make: Callable[..., Path], date: str) -> None:
    root = make([entry("a.png"), entry("b.png")])
    path = root / "images/train" / date / "b.png"
    path.unlink()
    with pytest.raises(DatasetError) as caught:
        load_levir_cc(root)
    assert str(path) in caught.value.message
    assert "images[1] (b.png)" in caught.value.message
    assert "b.png" in load_levir_cc(root, skip_broken=True).broken[0]


def test_one_name_may_stand_in_two_splits(make: Callable[..., Path]) -> None:
    assert len(load_levir_cc(make([entry("a.png"), entry("a.png", "val")]))) == 2


def test_nothing_usable_is_an_error(make: Callable[..., Path]) -> None:
    root = make([entry("a.png", captions=[])])
    with pytest.raises(DatasetError, match="no usable entry") as caught:
        load_levir_cc(root, skip_broken=True)
    assert "a.png" in caught.value.hint
    with pytest.raises(DatasetError, match="split 'test' has no usable entry"):
        load_levir_cc(make([entry("a.png")]), "test")


def test_unknown_split_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split 'dev'"):
        load_levir_cc(tmp_path, "dev")


def test_a_missing_data_set_says_what_is_expected(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetError, match=str(root)) as caught:
            load_levir_cc(root)
        assert "captions.json" in caught.value.hint
        assert "images/{train,val,test}/{A,B}/" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"images": 3}', b"[]", b"\xff\xfe\x00", b"[" * 100_000]
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=str(path)):
        load_levir_cc(tmp_path)


@pytest.mark.parametrize("name", ["captions.json", "LevirCCcaptions.json", "WHU_CDC.json"])
def test_the_annotation_file_is_found(make: Callable[..., Path], name: str) -> None:
    root = make([entry("a.png")], file=name)
    (root / "package.json").write_text('{"name": "something else"}')
    (root / "broken.json").write_text("{")
    assert find_captions_file(root) == root / name


def test_two_annotation_files_are_ambiguous(make: Callable[..., Path]) -> None:
    make([entry("a.png")], file="one.json")
    root = make([entry("b.png")], file="two.json")
    with pytest.raises(DatasetError, match=r"one\.json, two\.json") as caught:
        load_levir_cc(root)
    assert "captions_file" in caught.value.hint
    assert load_levir_cc(root, captions_file=root / "two.json").samples[0].name == "b"


def test_a_named_file_that_is_missing(make: Callable[..., Path]) -> None:
    root = make([entry("a.png")])
    with pytest.raises(DatasetError, match=r"other\.json cannot be read"):
        load_levir_cc(root, captions_file=root / "other.json")


def test_the_annotated_set(shared_data: Path) -> None:
    dataset = load_levir_cc(shared_data / "captioned")
    train, val = dataset.of_split("train"), dataset.of_split("val")
    assert (len(train), len(val), dataset.broken) == (2032, 204, ())
    assert (sum(s.changed for s in train), sum(s.changed for s in val)) == (1555, 159)
    assert sum(len(s.captions) for s in dataset.samples) == 7638
    assert {s.gsd_m for s in dataset.samples} == {0.5, 1.0}
    assert all((s.classes_before is None) == (s.classes_after is None) for s in dataset.samples)
    assert sum(s.mask is None for s in dataset.samples) == 327
