from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whatchanged.answers import CLASS_WORDS, TARGET, Direction, Understood, parse_answer
from whatchanged.data.pairs import prepare_pairs
from whatchanged.data.reason_json import load_reason_json, read_reason_mask
from whatchanged.data.tokens import UNCHANGED_SENTENCES
from whatchanged.data.wishes import Wish
from whatchanged.errors import DatasetError, UsageError

SIDE = 32
BUILT = Understood(("building",), "appeared")
MADE = Understood(("building",), "appeared", ("low vegetation",))
HOUSES = ["some houses are built on the grass", "houses appear"]


def bank(split: str) -> tuple[Wish, ...]:
    directions: tuple[Direction, ...] = ("appeared", "disappeared", "either")
    meanings = [Understood((n,), d) for n in CLASS_WORDS for d in directions]
    meanings += [MADE, Understood(("building",), "appeared", ("tree",))]
    return tuple(
        Wish(f"{split} wish {index}", meaning, kind, "f", "So it is.")
        for index, meaning in enumerate(meanings)
        for kind in ("explicit", "implicit")
    )


def write_set(root: Path, names: dict[str, list[str]]) -> Path:
    """Pairs by split; `new` ones change eight rows of grass into building."""
    images = []
    for split, stems in names.items():
        for stem in stems:
            changed = stem.startswith("new")
            for date in ("A", "B"):
                path = root / "images" / split / date / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (SIDE, SIDE), (90, 90, 90)).save(path)
            maps = {f"label/{split}": 255, f"sem/{split}/A": 3, f"sem/{split}/B": 5}
            for folder, value in maps.items() if "bare" not in stem else ():
                pixels = np.zeros((SIDE, SIDE), np.uint8)
                pixels[:8] = value * changed
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / folder / f"{stem}.png")
            texts = HOUSES if changed else UNCHANGED_SENTENCES
            sentences = [{"raw": text, "tokens": text.split()} for text in texts]
            entry = {"filename": f"{stem}.png", "split": split, "sentences": sentences}
            images.append(entry | {"changeflag": int(changed)})
    (root / "captions.json").write_text(json.dumps({"images": images}))
    return root


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    names = {"train": ["new_1", "same_1", "new_bare"], "val": ["new_2", "same_2"]}
    return write_set(tmp_path / "set", names)


def test_a_pair_is_asked_for_what_it_meets(tmp_path: Path, pairs: Path) -> None:
    record = prepare_pairs(pairs, tmp_path / "out", bank=bank).record
    samples = load_reason_json(tmp_path / "out" / "train.jsonl")
    assert record["counts"]["train"] == {"pairs": 3, "samples": len(samples)}
    asked = [s for s in samples if s.before.stem == "new_1"]
    counts = Counter(parse_answer(s.answer) for s in asked if TARGET in s.answer)
    met = {
        BUILT,
        MADE,
        Understood(("building",), "either"),
        Understood(("low vegetation",), "disappeared"),
        Understood(("low vegetation",), "either"),
        *(Understood(("any",), d) for d in ("appeared", "disappeared", "either")),
    }
    assert counts == dict.fromkeys(met, 3)  # explicit, implicit, explained
    explained = [s for s in asked if s.answer.startswith("So it is.")]
    assert len(explained) == len(met)
    assert all(s.question.endswith("Please explain.") for s in explained)
    for sample in asked:
        rows = np.flatnonzero(read_reason_mask(sample.mask).all(1)).tolist()
        assert rows == (list(range(8)) if TARGET in sample.answer else [])


def test_absent_is_what_no_caption_names(tmp_path: Path, pairs: Path) -> None:
    seen = set()
    for seed in range(6):
        prepare_pairs(pairs, tmp_path / str(seed), seed=seed, bank=bank)
        samples = load_reason_json(tmp_path / str(seed) / "train.jsonl")
        absent = [s for s in samples if s.before.stem == "new_1" and TARGET not in s.answer]
        assert len(absent) == 2
        seen |= {parse_answer(sample.answer) for sample in absent}
    named = {"any", "low vegetation"}
    # Buildings only appear, so they did not disappear; of grass captions do not say so.
    assert all(meaning and not named & {*meaning.classes} for meaning in seen)
    about = {m for m in seen if m and "building" in m.classes}
    assert about <= {Understood(("building",), "disappeared")}


def test_unchanged_pairs_meet_nothing(tmp_path: Path, pairs: Path) -> None:
    prepare_pairs(pairs, tmp_path / "out", bank=bank)
    samples = load_reason_json(tmp_path / "out" / "val.jsonl")
    same = [s for s in samples if s.before.stem == "same_2"]
    assert len(same) == 2 and not any(TARGET in s.answer for s in same)
    assert all(sample.question.startswith("validation ") for sample in samples)


def test_pairs_without_maps_are_not_asked(tmp_path: Path, pairs: Path) -> None:
    prepare_pairs(pairs, tmp_path / "out", bank=bank)
    samples = load_reason_json(tmp_path / "out" / "train.jsonl")
    assert not [s for s in samples if s.before.stem == "new_bare"]


def test_runs_are_the_same_for_one_seed(tmp_path: Path, pairs: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare_pairs(pairs, tmp_path / name, seed=seed, bank=bank)
    texts = [(tmp_path / name / "train.jsonl").read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    assert not prepare_pairs(pairs, tmp_path / "a", bank=bank).fresh


def test_a_limit_takes_the_first_pairs(tmp_path: Path, pairs: Path) -> None:
    record = prepare_pairs(pairs, tmp_path / "out", limit=1, bank=bank).record
    assert [count["pairs"] for count in record["counts"].values()] == [1, 1]
    with pytest.raises(UsageError, match="leaves no pair"):
        prepare_pairs(pairs, tmp_path / "other", limit=0, bank=bank)


def test_broken_maps_are_counted_and_named(tmp_path: Path, pairs: Path) -> None:
    Image.new("L", (SIDE, 8)).save(pairs / "sem" / "train" / "A" / "new_1.png")
    (pairs / "label" / "val" / "same_2.png").write_bytes(b"")
    Image.new("RGB", (8, SIDE)).save(pairs / "images" / "val" / "B" / "new_2.png")
    with pytest.raises(DatasetError, match="3 faults") as caught:
        prepare_pairs(pairs, tmp_path / "out", bank=bank)
    assert f"new_1.png is {SIDE} x 8 pixels, its pictures {SIDE} x {SIDE}" in caught.value.message
    assert "same_2.png cannot be read" in caught.value.message
    assert f"new_2.png is 8 x {SIDE} pixels, its before picture" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_values_that_are_no_land_cover_are_counted_and_named(tmp_path: Path, pairs: Path) -> None:
    odd = np.full((SIDE, SIDE), 3, np.uint8)
    odd[:2] = 42
    Image.fromarray(odd).save(pairs / "sem" / "train" / "A" / "new_1.png")
    odd[:2], odd[2:4] = 128, 255
    Image.fromarray(odd).save(pairs / "sem" / "train" / "B" / "new_1.png")
    with pytest.raises(DatasetError, match="2 faults") as caught:
        prepare_pairs(pairs, tmp_path / "out", bank=bank)
    assert f"A/new_1.png has the value 42 at {2 * SIDE} pixels" in caught.value.message
    assert f"B/new_1.png has the value 128 at {2 * SIDE} pixels" in caught.value.message


def write_colours(path: Path, top: tuple[int, int, int], rest: tuple[int, int, int]) -> None:
    """A label whose first eight rows have one colour and the others another."""
    pixels = np.full((SIDE, SIDE, 3), rest, np.uint8)
    pixels[:8] = top
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_second_cc_is_asked_by_its_colours(tmp_path: Path) -> None:
    """Low vegetation into building in eight rows; another colour is unknown."""
    root = tmp_path / "SECOND-CC"
    for name, before, rest in (
        ("known", (0, 128, 0), (255, 255, 255)),
        ("augmented", (7, 7, 7), (7, 7, 7)),
    ):
        for part, top in (("rgb/A", before), ("rgb/B", before), ("sem/A", before)):
            write_colours(root / "train" / part / f"{name}.png", top, rest)
        top = (128, 0, 0) if name == "known" else before
        write_colours(root / "train" / "sem/B" / f"{name}.png", top, rest)
    images = [
        {"filename": f"{name}.png", "split": "train", "changeflag": 1,
         "sentences": [{"raw": text} for text in HOUSES]}
        for name in ("known", "augmented")
    ]  # fmt: skip
    (root / "SECOND-CC-AUG.json").write_text(json.dumps({"images": images}))
    prepare_pairs(root, tmp_path / "out", bank=bank)
    samples = load_reason_json(tmp_path / "out" / "train.jsonl")
    met = [s for s in samples if TARGET in s.answer]
    assert {s.before.stem for s in met} == {"known"}
    assert {BUILT, MADE} <= {parse_answer(s.answer) for s in met}
    for sample in met:
        rows = np.flatnonzero(read_reason_mask(sample.mask).all(1)).tolist()
        assert rows == list(range(8))


def test_coloured_masks_of_levir_mci_are_read(tmp_path: Path, pairs: Path) -> None:
    (pairs / "label" / "train" / "new_1.png").unlink()
    for folder in ("A", "B"):
        (pairs / "sem" / "train" / folder / "new_1.png").unlink()
    write_colours(pairs / "images/train/label_rgb/new_1.png", (255, 0, 0), (0, 0, 0))
    prepare_pairs(pairs, tmp_path / "out", bank=bank)
    samples = load_reason_json(tmp_path / "out" / "train.jsonl")
    met = [s for s in samples if s.before.stem == "new_1" and TARGET in s.answer]
    assert {parse_answer(s.answer) for s in met} == {
        Understood(("any",), d) for d in ("appeared", "disappeared", "either")
    }


def test_the_real_pairs(tmp_path: Path, shared_data: Path) -> None:
    record = prepare_pairs(shared_data / "captioned", tmp_path / "out", limit=6, bank=bank).record
    assert record["counts"]["train"]["pairs"] == record["counts"]["val"]["pairs"] == 6
    for split in ("train", "val"):
        samples = load_reason_json(tmp_path / "out" / f"{split}.jsonl")
        assert len(samples) == record["counts"][split]["samples"] > 30
        present = [s for s in samples if TARGET in s.answer]
        assert 0.5 < len(present) / len(samples) < 1
        for sample in samples:
            assert (read_reason_mask(sample.mask) == 1).any() == (TARGET in sample.answer)
