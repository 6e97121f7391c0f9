"""Known sets as samples: masks alone through one function, captions through LEVIR-CC's adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whatchanged.data.known_sets import CLCD, LEVIR_CD, LEVIR_MCI, SECOND_CC, WHU_CDC
from whatchanged.data.levir_cc import load_levir_cc
from whatchanged.data.pictures import UNKNOWN, PictureStore, read_classes, read_mask
from whatchanged.data.set_files import list_set, load_change_set
from whatchanged.data.set_types import KnownSet
from whatchanged.errors import DatasetError, UsageError

SIDE = 16


def picture(path: Path, value: int | tuple[int, int, int] = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", (SIDE, SIDE), value).save(path)


def annotate(path: Path, names: dict[str, str]) -> None:
    images = [
        {"filename": name, "split": split, "changeflag": 1, "sentences": [{"raw": "a road"}]}
        for name, split in names.items()
    ]
    path.write_text(json.dumps({"images": images}), encoding="utf-8")


@pytest.mark.parametrize(
    ("known", "before", "after"), [(LEVIR_CD, "A", "B"), (CLCD, "time1", "time2")]
)
def test_pairs_with_masks_become_samples(
    tmp_path: Path, known: KnownSet, before: str, after: str
) -> None:
    for split, names in (("train", ("b_2", "a_1")), ("test", ("c_3",))):
        for name in names:
            picture(tmp_path / split / before / f"{name}.png", 10)
            picture(tmp_path / split / after / f"{name}.png", 20)
            picture(tmp_path / split / "label" / f"{name}.png", 255)
    one, two = load_change_set(tmp_path, known.name, "train")
    assert (one.name, two.name) == ("a_1", "b_2")
    assert (one.split, one.source, one.gsd_m) == ("train", known.name, known.gsd_m)
    assert one.before == tmp_path / "train" / before / "a_1.png"
    assert one.after == tmp_path / "train" / after / "a_1.png"
    assert one.mask == tmp_path / "train/label/a_1.png"
    assert one.captions == () and not one.changed
    store = PictureStore.open([one, two], 8)
    assert (store.before == 10).all() and (store.after == 20).all()
    assert store.mask is not None and (store.mask == 1).all()
    assert [s.name for s in load_change_set(str(tmp_path), known.title, "test")] == ["c_3"]


def test_suffixes_may_differ_and_other_files_do_not_matter(tmp_path: Path) -> None:
    picture(tmp_path / "train/A/a.tif")
    picture(tmp_path / "train/B/a.jpg")
    picture(tmp_path / "train/label/a.png", 0)
    for noise in ("Thumbs.db", ".a.png", "list.txt"):
        (tmp_path / "train/A" / noise).write_bytes(b"x")
    (sample,) = load_change_set(tmp_path, "levir-cd", "train")
    assert [p.suffix for p in (sample.before, sample.after)] == [".tif", ".jpg"]


@pytest.mark.parametrize("folder", ["A", "B", "label"])
def test_an_incomplete_pair_is_named(tmp_path: Path, folder: str) -> None:
    for part in {"A", "B", "label"} - {folder}:
        picture(tmp_path / "val" / part / "a_1.png")
    with pytest.raises(DatasetError, match=str(tmp_path / "val" / folder / "a_1.png")) as caught:
        load_change_set(tmp_path, "levir-cd", "val")
    assert "whatchanged data" in caught.value.hint


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    for part in ("A", "B", "label"):
        picture(tmp_path / "train" / part / "a_1.png")
    with pytest.raises(DatasetError, match="no pair of split 'val' of LEVIR-CD") as caught:
        load_change_set(tmp_path, "levir-cd", "val")
    assert LEVIR_CD.source in caught.value.hint
    with pytest.raises(DatasetError, match="holds no pair of CLCD"):
        load_change_set(tmp_path, "clcd", "train")
    with pytest.raises(DatasetError, match="does not exist"):
        load_change_set(tmp_path / "nowhere", "clcd", "train")
    with pytest.raises(UsageError, match="has captions"):
        load_change_set(tmp_path, "levir-cc", "train")
    with pytest.raises(UsageError, match="no split 'dev'"):
        load_change_set(tmp_path, "clcd", "dev")
    with pytest.raises(UsageError, match="unknown"):
        load_change_set(tmp_path, "sysu", "train")


@pytest.mark.parametrize(
    ("label", "value"), [("label", 128), ("label", (128, 128, 128)), ("label_rgb", (255, 0, 0))]
)
def test_levir_mci_is_read_with_its_masks(
    tmp_path: Path, label: str, value: int | tuple[int, int, int]
) -> None:
    annotate(tmp_path / "LevirCCcaptions.json", {"train_000001.png": "train"})
    folder = tmp_path / "images/train"
    for part in ("A", "B"):
        picture(folder / part / "train_000001.png")
    picture(folder / label / "train_000001.png", value)
    (sample,) = load_levir_cc(tmp_path).samples
    assert sample.mask == folder / label / "train_000001.png"
    mask = PictureStore.open([sample], SIDE).mask
    assert mask is not None and (mask == 1).all()
    (pair,) = list_set(tmp_path, LEVIR_MCI).pairs
    assert pair.files == (sample.before, sample.after, sample.mask)


def test_whu_cdc_is_read_under_its_own_file_name(tmp_path: Path) -> None:
    annotate(tmp_path / "whuCCcaptions.json", {"test_000001.png": "test"})
    for part in ("A", "B", "label"):
        picture(tmp_path / "images/test" / part / "test_000001.png")
    (sample,) = load_levir_cc(tmp_path, "test").samples
    assert sample.mask == tmp_path / "images/test/label/test_000001.png"
    (pair,) = list_set(tmp_path, WHU_CDC).pairs
    assert pair.files == (sample.before, sample.after)  # its masks are no part of the set


def test_second_cc_is_read_in_its_own_folders(tmp_path: Path) -> None:
    annotate(tmp_path / "SECOND-CC-AUG.json", {"00003.png": "train", "00004.png": "test"})
    for split, name in (("train", "00003.png"), ("test", "00004.png")):
        for part in ("rgb/A", "rgb/B", "sem/A", "sem/B"):
            picture(tmp_path / split / part / name)
    dataset = load_levir_cc(tmp_path)
    pairs = list_set(tmp_path, SECOND_CC).pairs
    assert [s.name for s in dataset.samples] == [p.name for p in pairs] == ["00003", "00004"]
    for sample, pair in zip(dataset.samples, pairs, strict=True):
        assert sample.before == pair.before == tmp_path / sample.split / "rgb/A" / pair.before.name
        assert (sample.after, sample.captions) == (pair.after, (("a", "road"),))
    store = PictureStore.open(dataset.samples, 8)
    assert np.all(store.before == 90)
    # Augmented copies have colours of their own: nothing is known there.
    assert store.mask is not None and store.classes_after is not None
    assert np.all(store.mask == UNKNOWN) and np.all(store.classes_after == UNKNOWN)


COLOURS = {
    "unchanged": ((255, 255, 255), 0),
    "water": ((0, 0, 255), 1),
    "ground": ((128, 128, 128), 2),
    "low vegetation": ((0, 128, 0), 3),
    "tree": ((0, 255, 0), 4),
    "building": ((128, 0, 0), 5),
    "playground": ((255, 0, 0), 6),
}


@pytest.mark.parametrize("folder", ["train", "SECOND_train_set"])
def test_labels_of_second_are_land_cover(tmp_path: Path, folder: str) -> None:
    names = list(COLOURS)
    before = [COLOURS[name][0] for name in names]
    after = [before[0], *before[:0:-1]]
    for part, colours in (("label1", before), ("label2", after)):
        (tmp_path / folder / part).mkdir(parents=True)
        label = np.array([colours] * SIDE, np.uint8)
        Image.fromarray(np.resize(label, (SIDE, 7, 3))).save(tmp_path / folder / part / "00003.png")
    for part in ("im1", "im2"):
        (tmp_path / folder / part).mkdir()
        Image.new("RGB", (7, SIDE)).save(tmp_path / folder / part / "00003.png")
    (sample,) = load_change_set(tmp_path, "second", "train")
    assert sample.mask == sample.classes_before == tmp_path / folder / "label1/00003.png"
    was, became = (
        read_classes(path, sample.label_colours)[0].tolist()
        for path in (sample.classes_before, sample.classes_after)
        if path is not None
    )
    assert was == [COLOURS[name][1] for name in names] == list(range(7))
    assert became == [0, *range(6, 0, -1)]
    assert read_mask(sample.mask, sample.label_colours)[0].tolist() == [0] + [1] * 6
    with pytest.raises(UsageError, match="no split 'val'"):
        load_change_set(tmp_path, "second", "val")


def test_lists_name_the_splits_of_whu_cd(tmp_path: Path) -> None:
    lists = {"train": ["whucd_3.png", "whucd_1.png"], "val": [], "test": ["whucd_2.png"]}
    (tmp_path / "list").mkdir()
    for split, names in lists.items():
        (tmp_path / f"list/{split}.txt").write_text("\n".join(names) + "\n")
        for name in [*names, "unlisted.png"]:
            for part in ("A", "B", "label"):
                picture(tmp_path / part / name)
    samples = load_change_set(tmp_path, "whu-cd", "train")
    assert [sample.name for sample in samples] == ["whucd_3", "whucd_1"]
    assert [s.name for s in load_change_set(tmp_path, "whu-cd", "test")] == ["whucd_2"]
    with pytest.raises(DatasetError, match="no pair of split 'val'"):
        load_change_set(tmp_path, "whu-cd", "val")
    (tmp_path / "list/test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"test\.txt cannot be read"):
        load_change_set(tmp_path, "whu-cd", "test")
