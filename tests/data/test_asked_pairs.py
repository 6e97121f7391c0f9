"""Pairs as they are asked about: their names, what is refused, and where a split comes from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whatchanged.data.asked_pairs import SplitOrigin, open_pairs, split_origin
from whatchanged.data.prepared import write_record, write_splits
from whatchanged.data.reason_json import ReasonSample, write_reason_json
from whatchanged.errors import DatasetError

SIDE = 8


def picture(path: Path, width: int = SIDE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, SIDE), (90, 90, 90)).save(path)
    return path


def write_samples(file: Path, pairs: list[tuple[str, str]], width: int = SIDE) -> Path:
    """Write pairs beside a file of two samples each."""
    mask = file.parent / "mask.png"
    mask.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((SIDE, width), np.uint8)).save(mask)
    samples = [
        ReasonSample(*(picture(file.parent / p, width) for p in pair), mask, question, "None.")
        for pair in pairs
        for question in ("new houses", "new roads")
    ]
    write_reason_json(file, samples)
    return file


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("A/1.png", "B/1.png"), ("A/2.png", "B/2.png")], ["1.png", "2.png"]),
        (
            [("p1/before.png", "p1/after.png"), ("p2/before.png", "p2/after.png")],
            ["p1/before.png", "p2/before.png"],
        ),
        (
            [("t1.png", "t2.png"), ("t1.png", "t3.png")],
            ["t1.png, t2.png", "t1.png, t3.png"],
        ),
    ],
)
def test_names_tell_pairs_apart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pairs: list[tuple[str, str]],
    expected: list[str],
) -> None:
    file = write_samples(tmp_path / "set" / "test.jsonl", pairs)
    monkeypatch.chdir(tmp_path)
    for data in (file, file.parent, Path("set/test.jsonl")):
        found, _ = open_pairs(data, "test", SIDE)
        assert [pair.name for pair in found] == expected
        assert [len(pair.wishes) for pair in found] == [2, 2]


@pytest.mark.parametrize("size", [SIDE, None])
def test_pictures_that_are_not_square_are_refused(tmp_path: Path, size: int | None) -> None:
    file = write_samples(tmp_path / "test.jsonl", [("a.png", "b.png")], width=12)
    found, _ = open_pairs(file, "test", size)
    with pytest.raises(DatasetError, match=r"a\.png is 12 x 8 pixels, not square"):
        found[0]


def prepared(folder: Path, kind: str, divided: str = "", **options: object) -> dict[str, str]:
    """Make a folder as `prepare` does; return the sums of its lists."""
    write_samples(folder / "test.jsonl", [("a.png", "b.png")])
    sums = write_splits(folder, divided, {"test": ["a"]}) if divided else {}
    write_record(folder, kind, options, **({"sha256": sums} if sums else {}))
    return sums


def test_prepared_sets_know_recipe_and_list(tmp_path: Path) -> None:
    sums = prepared(tmp_path / "b", "bcdd", "random-0", recipe="random-0")
    assert sums["test"] == hashlib.sha256(b"a\n").hexdigest()
    expected = SplitOrigin("bcdd", "random-0", sums["test"])
    assert split_origin(tmp_path / "b", "test") == expected
    assert split_origin(tmp_path / "b" / "test.jsonl", "val") == expected
    sums = prepared(tmp_path / "s", "second", "second-3", seed=3)
    assert split_origin(str(tmp_path / "s"), "test") == SplitOrigin(
        "second", "second-3", sums["test"]
    )
    prepared(tmp_path / "p", "pairs", source="/data/LEVIR-MCI", seed=0, limit=None)
    assert split_origin(tmp_path / "p", "test") == SplitOrigin("pairs of LEVIR-MCI")


def test_samples_of_unknown_origin_have_none(tmp_path: Path) -> None:
    file = write_samples(tmp_path / "test.jsonl", [("a.png", "b.png")])
    assert split_origin(file, "test") == split_origin(tmp_path, "test") == SplitOrigin()
    (tmp_path / "prepared.json").write_text("[1]")
    assert split_origin(tmp_path, "test") == SplitOrigin()


def tiles(root: Path, lists: str, **counts: int) -> Path:
    """Write one tile of 256 pixels and lists of so many names by split; return the test list."""
    for part in ("A", "B", "label"):
        Image.new("RGB", (256, 256)).save(picture(root / part / "t0.png"))
    for split, n in counts.items():
        (root / lists).mkdir(exist_ok=True)
        (root / lists / f"{split}.txt").write_text("".join(f"t{i}.png\n" for i in range(n)))
    return root / lists / "test.txt"


def test_lists_that_come_with_tiles_are_summed(tmp_path: Path) -> None:
    for root, counts, recipe in (
        (tmp_path / "bit", {"test": 762}, "bit-7620"),
        (tmp_path / "other", {"train": 7000, "test": 620}, None),  # 7,620, otherwise divided
    ):
        digest = hashlib.sha256(tiles(root, "list", **counts).read_bytes()).hexdigest()
        assert split_origin(root, "test") == SplitOrigin("whu-cd", recipe, digest)
        assert split_origin(root, "val") == SplitOrigin("whu-cd")
    root = tmp_path / "bcdd"
    tiles(root, "splits", train=7433, test=1)
    sums = write_splits(root, "blocks-2", {"test": ["t0"]})
    assert split_origin(root, "test") == SplitOrigin("bcdd", "blocks-2", sums["test"])


def test_sets_with_folders_for_splits_have_a_name(tmp_path: Path) -> None:
    for part in ("A", "B", "label"):
        Image.new("RGB", (1024, 1024)).save(picture(tmp_path / "cd" / "test" / part / "a.png"))
    assert split_origin(tmp_path / "cd", "test") == SplitOrigin("levir-cd")
    entry = {"filename": "a.png", "split": "test", "sentences": [{"raw": "a road"}]}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "captions.json").write_text(json.dumps({"images": [entry]}))
    assert split_origin(tmp_path / "own", "test") == SplitOrigin("captioned")
    assert split_origin(tmp_path / "nowhere", "test") == SplitOrigin()
