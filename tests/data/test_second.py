from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from whatchanged.answers import TARGET, Direction, Understood, parse_answer
from whatchanged.data.reason_json import ReasonSample, load_reason_json, read_reason_mask
from whatchanged.data.second import CLASSES, PALETTE, decode_palette, prepare_second
from whatchanged.data.wishes import Wish
from whatchanged.errors import DatasetError, UsageError

SIDE = 32
WHITE, GREY, BUILDING, TREE = (255, 255, 255), (128, 128, 128), (128, 0, 0), (0, 255, 0)
Colour = tuple[int, int, int]


def bank(split: str) -> tuple[Wish, ...]:
    directions: tuple[Direction, ...] = ("appeared", "disappeared", "either")
    return tuple(
        Wish(f"{split} {name} {direction}", Understood((name,), direction), kind, "f", "So it is.")
        for name in CLASSES
        for direction in directions
        for kind in ("explicit", "implicit")
    )


def label(*boxes: tuple[Colour, int]) -> NDArray[np.uint8]:
    """White with full rows of colours: each box is a colour and how many rows it has."""
    pixels = np.full((SIDE, SIDE, 3), WHITE, np.uint8)
    top = 0
    for colour, rows in boxes:
        pixels[top : top + rows] = colour
        top += rows
    return pixels


def write_pair(
    root: Path, name: str, before: NDArray[np.uint8], after: NDArray[np.uint8], rgb: bool = False
) -> None:
    photo = np.full((SIDE, SIDE, 3), 90, np.uint8)
    suffix = "_rgb" if rgb else ""
    layers = {"im1": photo, "im2": photo, f"label1{suffix}": before, f"label2{suffix}": after}
    for part, pixels in layers.items():
        (root / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / part / f"{name}.png")


# Eight rows of ground became building, four of trees became ground.
BEFORE = label((GREY, 8), (TREE, 4))
AFTER = label((BUILDING, 8), (GREY, 4))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    root = tmp_path / "SECOND"
    for index in range(20):
        write_pair(root / "train", f"{index:05d}", BEFORE, AFTER)
    for index in range(3):
        write_pair(root / "test", f"{index:05d}", BEFORE, AFTER)
    return root


def met(samples: Sequence[ReasonSample]) -> dict[str, list[int]]:
    """Rows that each class's mask covers, by class."""
    found = {}
    for sample in samples:
        if TARGET in sample.answer:
            meaning = parse_answer(sample.answer)
            mask = read_reason_mask(sample.mask)
            assert meaning is not None
            found[meaning.classes[0]] = np.flatnonzero((mask == 1).all(1)).tolist()
    return found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("before", {"bare ground": range(8), "tree": range(8, 12)}),
        ("after", {"building": range(8), "bare ground": range(8, 12)}),
        ("either", {"building": range(8), "bare ground": range(12), "tree": range(8, 12)}),
    ],
)
def test_classes_are_looked_up_by_the_rule(
    tmp_path: Path, second: Path, rule: str, expected: dict[str, range]
) -> None:
    prepare_second(second, tmp_path / "out", rule=rule, bank=bank)  # type: ignore[arg-type]
    direction = {"before": "disappeared", "after": "appeared", "either": "either"}[rule]
    samples = load_reason_json(tmp_path / "out" / "test.jsonl")
    by_pair = [s for s in samples if s.before.name == "00001.png"]
    assert met(by_pair) == {name: list(rows) for name, rows in expected.items()}
    for sample in samples:
        meaning = parse_answer(sample.answer)
        assert meaning is not None and meaning.direction == direction
        assert meaning.classes[0] in sample.question
        if TARGET not in sample.answer:
            assert meaning.classes[0] not in expected
            assert not read_reason_mask(sample.mask).any()
    # Explicit, implicit and explained for each class that is met, and two absent ones.
    assert len(by_pair) == 3 * len(expected) + 2


def test_splits_and_their_wordings(tmp_path: Path, second: Path) -> None:
    record = prepare_second(second, tmp_path / "out", bank=bank).record
    assert {s: c["pairs"] for s, c in record["counts"].items()} == {
        "train": 18,
        "val": 2,
        "test": 3,
    }
    for split, wording in (("train", "train"), ("val", "validation"), ("test", "test")):
        samples = load_reason_json(tmp_path / "out" / f"{split}.jsonl")
        assert all(sample.question.startswith(f"{wording} ") for sample in samples)
        names = (tmp_path / "out" / "splits" / f"{split}.txt").read_text().split()
        assert {sample.before.stem for sample in samples} == set(names)
        part = "test" if split == "test" else "train"
        assert all(sample.after.parent == sample.before.parent.parent / "im2" for sample in samples)
        assert all(sample.before.parent.parent.name == part for sample in samples)
    assert set(record["sha256"]) == {"train", "val", "test"}


def test_one_folder_is_divided_and_rgb_labels_are_preferred(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for index in range(10):
        write_pair(root, str(index), BEFORE, AFTER, rgb=True)
    (root / "label1").mkdir()  # indices of another program
    record = prepare_second(root, tmp_path / "out", bank=bank).record
    assert [record["counts"][s]["pairs"] for s in ("train", "val", "test")] == [8, 1, 1]


def test_palettes_are_decoded() -> None:
    colours = np.array([[*PALETTE, (1, 2, 3)]], np.uint8)
    classes, n_wrong = decode_palette(colours)
    # unchanged, water, ground, low vegetation, tree, building, playground
    assert classes.tolist() == [[0, 1, 2, 3, 4, 5, 6, 255]]
    assert n_wrong == 1


def test_palette_files_are_read_by_colour(tmp_path: Path) -> None:
    write_pair(tmp_path / "S", "1", BEFORE, AFTER)
    for part in ("label1", "label2"):
        path = tmp_path / "S" / part / "1.png"
        Image.open(path).quantize(8, dither=Image.Dither.NONE).save(path)
    prepare_second(tmp_path / "S", tmp_path / "out", bank=bank)
    samples = load_reason_json(tmp_path / "out" / "test.jsonl")
    assert set(met(samples)) == {"bare ground", "tree"}


def test_a_label_that_one_date_lacks_is_unknown(tmp_path: Path) -> None:
    write_pair(tmp_path / "S", "1", label((GREY, 8)), label((BUILDING, 8), (TREE, 4)))
    prepare_second(tmp_path / "S", tmp_path / "out", rule="before", bank=bank)
    samples = load_reason_json(tmp_path / "out" / "test.jsonl")
    (mask,) = {s.mask for s in samples if TARGET in s.answer}
    # Whatever the four rows were, they may have been ground.
    assert read_reason_mask(mask)[:, 0].tolist() == [1] * 8 + [255] * 4 + [0] * 20
    assert all(TARGET in s.answer for s in samples if "water" in s.question)


def test_what_is_wrong_is_counted_and_named(tmp_path: Path, second: Path) -> None:
    train = second / "train"
    odd = AFTER.copy()
    odd[0, :3] = (127, 0, 0)
    Image.fromarray(odd).save(train / "label2" / "00003.png")
    Image.fromarray(BEFORE[:20]).save(train / "label1" / "00004.png")
    (train / "im2" / "00005.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="3 faults") as caught:
        prepare_second(second, tmp_path / "out", bank=bank)
    text = caught.value.message
    assert "00003.png has 3 pixels of other colours, such as (127, 0, 0)" in text
    assert "sizes differ" in text and f"00004.png {SIDE} x 20" in text
    assert "00005.png cannot be read" in text
    assert [path.name for path in tmp_path.iterdir()] == ["SECOND"]


def test_missing_halves_are_counted_and_named(tmp_path: Path, second: Path) -> None:
    (second / "train" / "im2" / "00003.png").unlink()
    for part in ("label1", "label2"):
        (second / "train" / part / "00004.png").unlink()
    with pytest.raises(DatasetError, match="2 faults") as caught:
        prepare_second(second, tmp_path / "out", bank=bank)
    assert "'00003' has no picture in im2" in caught.value.message
    assert "'00004' has no picture in label1, label2" in caught.value.message


def test_foreign_folders_and_rules_are_told(tmp_path: Path, second: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        prepare_second(tmp_path / "missing", tmp_path / "out", bank=bank)
    with pytest.raises(DatasetError, match="has no folder im1"):
        prepare_second(tmp_path, tmp_path / "out", bank=bank)
    with pytest.raises(UsageError, match="rule 'both'"):
        prepare_second(second, tmp_path / "out", rule="both", bank=bank)  # type: ignore[arg-type]
    (second / "train2" / "im1").mkdir(parents=True)
    with pytest.raises(DatasetError, match="both look like the train part"):
        prepare_second(second, tmp_path / "out", bank=bank)


def test_a_second_run_changes_nothing(tmp_path: Path, second: Path) -> None:
    first = prepare_second(second, tmp_path / "out", bank=bank)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert not prepare_second(second, tmp_path / "out", bank=bank).fresh
    again = prepare_second(second, tmp_path / "out", bank=bank, force=True)
    assert again.record == first.record
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before
