"""Generated sets in the exact layouts: recognised, counted, and told what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whatchanged.data.integrity import SAMPLED, SHOWN, check, identify
from whatchanged.data.known_sets import (
    BCDD,
    CAPTIONED,
    CLCD,
    KNOWN_SETS,
    LEVIR_CC,
    LEVIR_CD,
    LEVIR_MCI,
    SECOND,
    SECOND_CC,
    WHU_CD,
    WHU_CDC,
)
from whatchanged.data.set_types import KnownSet
from whatchanged.errors import DatasetError

Counts = Mapping[str, int]
FEW = {"train": 3, "test": 1, "val": 2}
LABEL_GREYS = {"levir-mci": (0, 128, 255), "clcd": (0, 1)}


def write_set(root: Path, known: KnownSet, counts: Counts, *, side: int | None = None) -> Path:
    """Write a set in its layout: one picture and one label, linked under every name."""
    root.mkdir(parents=True, exist_ok=True)
    side = side or known.size or 16
    picture, label = root / "picture.png", root / "label.png"
    shades = np.linspace(0, 255, side).astype(np.uint8)
    Image.fromarray(np.dstack([np.tile(shades, (side, 1))] * 3)).save(picture)
    colours = np.array(list(known.colours.colours), np.uint8) if known.colours else None
    values = np.array(LABEL_GREYS.get(known.name, (0, 255)), np.uint8)
    pixels = values if colours is None else colours
    Image.fromarray(np.resize(pixels, (side, side, *pixels.shape[1:]))).save(label)
    entries = []
    for split, count in counts.items():
        names = [f"{split}_{number:06d}.png" for number in range(count)]
        folders = [known.before, known.after, *(label.folder for label in known.labels)]
        for place, template in enumerate(folders):
            folder = root / template.format(folder=split, split=split)
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.link(picture if place < 2 else label, folder / name)
        entries += [entry(name, split) for name in names]
        if known.lists:
            path = root / known.lists.format(split=split)
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    picture.unlink(), label.unlink()
    if known.kind == "captions":
        (root / known.annotation).write_text(json.dumps({"images": entries}), encoding="utf-8")
    return root


def entry(name: str, split: str) -> dict[str, object]:
    sentences = [{"raw": f" a road is built in place {number} ."} for number in range(5)]
    common = {"filename": name, "filepath": split, "split": split, "changeflag": 1}
    return {**common, "sentences": sentences}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def write(known: KnownSet, counts: Counts = FEW, *, side: int | None = None) -> Path:
        return write_set(tmp_path / "set", known, counts, side=side)

    return write


PUBLISHED = [known for known in KNOWN_SETS if all(known.counts.values())]


@pytest.fixture(scope="module")
def whole_levir_cc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("whole") / "set", LEVIR_CC, LEVIR_CC.counts)


@pytest.mark.parametrize("known", [LEVIR_CC, CLCD], ids=lambda known: known.name)
def test_a_whole_set_is_intact(
    make: Callable[..., Path], request: pytest.FixtureRequest, known: KnownSet
) -> None:
    if known is LEVIR_CC:
        root = request.getfixturevalue("whole_levir_cc")
    else:
        root = make(known, known.counts)
    assert identify(root) is known
    report = check(root, known)
    assert report.intact
    assert {s.split: (s.found, s.listed, s.published) for s in report.splits} == {
        split: (count, count, count) for split, count in known.counts.items()
    }
    assert report.opened == SAMPLED * len(known.splits)
    assert report.missing.count == report.broken.count == 0
    if report.captions is not None:
        assert report.captions.captions == known.captions
        assert report.captions.per_pair == {5: known.total}
        assert report.captions.changed == known.total


@pytest.mark.parametrize("known", KNOWN_SETS, ids=lambda known: known.name)
def test_part_of_a_set_is_counted_against_the_published(
    make: Callable[..., Path], known: KnownSet
) -> None:
    root = make(known, {split: FEW[split] for split in known.splits})
    assert identify(root) is (None if known.lists else known)  # the lists are too short
    report = check(root, known)
    found = {split.split: (split.found, split.published) for split in report.splits}
    assert found == {split: (FEW[split], known.counts[split]) for split in found}
    assert set(found) == set(known.splits)
    assert report.intact is (known not in PUBLISHED)
    assert report.missing.count == report.broken.count == 0


def test_counts_name_a_set_whatever_its_annotation_file(make: Callable[..., Path]) -> None:
    """WHU-CDC is also passed on with LEVIR-CC's file name; three words decide nothing."""
    root = make(WHU_CDC, {"train": 2})
    lines = [entry(f"{s}_{n}.png", s) for s, count in WHU_CDC.counts.items() for n in range(count)]
    (root / WHU_CDC.annotation).unlink()
    (root / "LevirCCcaptions.json").write_text(json.dumps({"images": lines}), encoding="utf-8")
    assert identify(root) is WHU_CDC


def test_the_lengths_of_lists_name_a_set(make: Callable[..., Path]) -> None:
    """Many sets are passed on in BIT's layout, LEVIR-CD in tiles for one."""
    root = make(WHU_CD)
    names = [f"whucd_{number}.png" for number in range(762)]
    (root / "list/val.txt").write_text("\n".join(names[1:]))
    assert identify(root) is None
    (root / "list/val.txt").write_text("\n".join(names))
    assert identify(root) is WHU_CD
    (root / "splits").mkdir()
    whole = [f"r{number // 126:02d}_c{number % 126:03d}" for number in range(7434)]
    (root / "list/val.txt").rename(root / "splits/val.txt")
    (root / "splits/train.txt").write_text("\n".join(whole[:6000]))
    (root / "splits/test.txt").write_text("\n".join(whole[6762:]))
    assert identify(root) is BCDD
    (root / "splits/val.txt").rename(root / "list/val.txt")
    report = check(root, WHU_CD)
    assert [(s.found, s.listed) for s in report.splits] == [(3, 3), (0, 762), (1, 1)]
    assert report.missing.count == 3 * 762 and report.missing.left_out == 3 * 762 - SHOWN


def test_what_is_no_known_set(tmp_path: Path, make: Callable[..., Path]) -> None:
    assert identify(tmp_path / "nowhere") is None
    assert identify(tmp_path) is None
    (tmp_path / "notes.json").write_text("{}")
    assert identify(tmp_path) is None
    assert identify(make(LEVIR_CD, side=256)) is None  # cut into tiles, it is another set
    for name in ("captions.json", "LevirCCcaptions.json"):
        (tmp_path / name).write_text('{"images": []}')
    with pytest.raises(DatasetError, match="several annotation files"):
        identify(tmp_path)


def test_a_missing_set_is_told_where_to_get_it(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        for known in (LEVIR_CC, CLCD):
            with pytest.raises(DatasetError, match=str(root)) as caught:
                check(root, known)
            assert known.source in caught.value.hint
            assert known.licence in caught.value.hint
            assert known.tree.splitlines()[-1].strip() in caught.value.hint


@pytest.mark.parametrize("known", [LEVIR_CC, LEVIR_CD, SECOND_CC], ids=lambda known: known.name)
def test_a_missing_half_is_one_line(make: Callable[..., Path], known: KnownSet) -> None:
    root = make(known)
    folder = root / known.after.format(folder="train", split="train")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    report = check(root, known)
    assert not report.intact
    assert (report.splits[0].found, report.splits[0].listed) == (0, 3)
    assert report.missing.count == 3
    assert report.missing.shown == (f"{folder.relative_to(root).as_posix()}/ with 3 files",)


@pytest.mark.parametrize("known", [LEVIR_MCI, CLCD], ids=lambda known: known.name)
def test_missing_files_are_counted_and_ten_are_named(
    make: Callable[..., Path], known: KnownSet
) -> None:
    root = make(known, {"train": 20, "val": 1, "test": 1})
    label = root / known.labels[0].folder.format(folder="train")
    for path in sorted(label.iterdir())[:12]:
        path.unlink()
    (root / known.before.format(folder="test") / "test_000000.png").unlink()
    report = check(root, known)
    assert [split.found for split in report.splits] == [8, 1, 0]
    assert report.missing.count == 13
    assert len(report.missing.shown) == SHOWN and report.missing.left_out == 3
    first = label.relative_to(root) / "train_000000.png"
    assert report.missing.shown[0] == first.as_posix()


def test_a_whole_split_may_be_missing(make: Callable[..., Path]) -> None:
    report = check(make(CLCD, {"train": 2}), CLCD)
    assert [(s.split, s.found, s.published) for s in report.splits] == [
        ("train", 2, 360),
        ("val", 0, 120),
        ("test", 0, 120),
    ]
    assert not report.intact


def test_captions_that_are_missing_are_noticed(whole_levir_cc: Path) -> None:
    path = whole_levir_cc / LEVIR_CC.annotation
    whole = path.read_text("utf-8")
    images = json.loads(whole)["images"]
    images[7]["sentences"].pop()
    path.write_text(json.dumps({"images": images}), encoding="utf-8")
    try:
        report = check(whole_levir_cc, LEVIR_CC)
    finally:
        path.write_text(whole, encoding="utf-8")
    assert report.captions is not None
    assert report.captions.per_pair == {4: 1, 5: 10076}
    assert not report.intact and all(split.complete for split in report.splits)


def test_broken_entries_are_named(make: Callable[..., Path]) -> None:
    root = make(CAPTIONED)
    images = json.loads((root / "captions.json").read_text("utf-8"))["images"]
    images[1]["sentences"] = []
    (root / "captions.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    report = check(root, CAPTIONED)
    assert not report.intact and report.broken.count == 1
    assert "images[1] (train_000001.png) has no captions" in report.broken.shown[0]


WRONG_LABELS = [
    (LEVIR_CD, (0, 128), "holds 128; a label of this set holds 0 unchanged and 255"),
    (LEVIR_CD, (0, 1, 255), "holds 1; a label"),
    (LEVIR_MCI, (0, 64, 255), "holds 64; a label of this set holds 0 unchanged, 128 road"),
    (CLCD, tuple(range(200)), "holds 2, 3, 4, 5 and others"),
    (SECOND, (0, 1, 2, 3, 4, 5, 6), "holds 0, 1, 2, 3 and others; a label of this set holds the"),
]


@pytest.mark.parametrize(("known", "values", "words"), WRONG_LABELS)
def test_labels_of_another_palette_are_noticed(
    make: Callable[..., Path], known: KnownSet, values: tuple[int, ...], words: str
) -> None:
    root = make(known, {split: FEW[split] for split in known.splits})
    path = root / known.labels[0].folder.format(folder="train") / "train_000001.png"
    path.unlink()
    side = known.size or 16
    Image.fromarray(np.resize(np.array(values, np.uint8), (side, side))).save(path)
    report = check(root, known)
    assert not report.intact and report.broken.count == 1
    assert str(path) in report.broken.shown[0] and words in report.broken.shown[0]


def test_masks_of_zero_and_one_or_of_one_value_are_fine(make: Callable[..., Path]) -> None:
    root = make(LEVIR_CD, {"train": 2}, side=1024)
    for number, value in enumerate((0, 1)):
        path = root / f"train/label/train_00000{number}.png"
        path.unlink()
        Image.new("L", (1024, 1024), value).save(path)
    assert check(root, LEVIR_CD).broken.count == 0


def test_coloured_labels_of_levir_mci_serve(make: Callable[..., Path]) -> None:
    root = make(LEVIR_MCI)
    for split in FEW:
        folder = root / "images" / split / "label"
        folder.rename(folder.with_name("label_rgb"))
        for path in sorted(folder.with_name("label_rgb").iterdir()):
            path.unlink()
            colours = np.zeros((256, 256, 3), np.uint8)
            colours[:9], colours[9:20] = (255, 0, 0), (255, 255, 0)
            Image.fromarray(colours).save(path)
    assert identify(root) is LEVIR_MCI
    report = check(root, LEVIR_MCI)
    assert report.missing.count == report.broken.count == 0
    colours[30:40] = (0, 0, 255)
    path.unlink()
    Image.fromarray(colours).save(path)
    assert "at most three colours" in check(root, LEVIR_MCI).broken.shown[0]


def test_pictures_of_another_size_and_damaged_ones_are_noticed(make: Callable[..., Path]) -> None:
    root = make(LEVIR_CC)
    small, short = (root / f"images/train/{date}/train_000001.png" for date in "AB")
    damaged = short.read_bytes()[:300]
    small.unlink(), short.unlink()
    Image.new("RGB", (128, 128)).save(small)
    short.write_bytes(damaged)
    report = check(root, LEVIR_CC)
    assert report.broken.count == 2
    assert f"{short} cannot be read" in report.broken.shown[0]
    assert report.broken.shown[1] == f"{small} is 128 x 128 pixels, not 256 x 256"


def test_two_dates_of_different_size_are_noticed_where_no_size_is_known(
    make: Callable[..., Path],
) -> None:
    root = make(CAPTIONED)
    path = root / "images/test/B/test_000000.png"
    path.unlink()
    Image.new("RGB", (16, 8)).save(path)
    assert check(root, CAPTIONED).broken.shown == (f"{path} is 16 x 8 pixels, not 16 x 16",)


def test_every_pair_is_opened_on_request(make: Callable[..., Path]) -> None:
    root = make(CAPTIONED, {"train": SAMPLED + 20})
    hidden = root / "images/train/A/train_000001.png"
    hidden.unlink()
    hidden.write_bytes(b"no picture")
    assert check(root, CAPTIONED).intact  # the spread sample passes it by
    report = check(root, CAPTIONED, every=True)
    assert report.opened == SAMPLED + 20 and report.broken.count == 1
